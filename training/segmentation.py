"""Stage 1: train the 25-class segmentation network on partly labelled cases and drawn lesions."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from training.loop import Fitted, fit
from training.losses import NUM_CLASSES, NUM_TARGETS, partial_label_loss

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy as np

    from pasta.networks.unet import PastaUNet
    from training.loop import Schedule

Patch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
# finest first; half of the weight of the level above, as nnU-Net, the two coarsest left out: below
# 12 mm voxels few lesions are left
LEVELS = (1.0, 0.5, 0.25)


def class_weights(
    organ: float = 2.0, small_organ: float = 4.0, lesion: float = 8.0
) -> torch.Tensor:
    """Weigh targets in the cross-entropy; background, lung, liver and bone are seen most."""
    weight = torch.ones(NUM_TARGETS)
    weight[1:11] = small_organ
    weight[[1, 2, 10]] = organ
    weight[11:NUM_CLASSES] = lesion
    return weight


def segmentation_loss(
    network: torch.nn.Module, patches: Sequence[Patch], weight: torch.Tensor
) -> torch.Tensor:
    """Compute Dice plus cross-entropy over three levels of the decoder.

    Args:
        network: `PastaUNet` with `deep_supervision` set.
        patches: (1, I, J, K) inputs, (I, J, K) targets, (27, 26) allowed classes of each.
        weight: (27,) of the targets.
    """
    device = next(network.parameters()).device
    x = torch.stack([patch[0] for patch in patches]).to(device)
    outputs = network(x.contiguous(memory_format=torch.channels_last_3d))
    total = torch.zeros((), device=device)
    for level, share in enumerate(LEVELS):
        step = 2**level
        for logits, (_, target, allowed) in zip(outputs[level].unbind(), patches, strict=True):
            truth = target.to(device)[::step, ::step, ::step]
            total = total + share * partial_label_loss(
                logits.float(), truth, allowed.to(device), weight.to(device)
            )
    return total / (len(patches) * sum(LEVELS))


def train_segmentation(
    network: PastaUNet,
    draw: Callable[[np.random.Generator], Patch],
    schedule: Schedule,
    folder: Path,
    *,
    seed: int,
    weight: torch.Tensor | None = None,
    **options: Any,
) -> Fitted:
    """Train a network in place, or go on from the folder's checkpoint.

    Args:
        network: of 26 classes; random or of other weights.
        draw: one patch.
        schedule: of `training.loop`.
        folder: of the run.
        seed: of the patches.
        weight: of the targets, `class_weights` by default.
        options: passed on to `training.loop.fit`.
    """
    network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    network.deep_supervision = True
    loss = partial(segmentation_loss, weight=class_weights() if weight is None else weight)
    ended = fit(network, draw, loss, schedule, folder, seed=seed, title="segmentation", **options)
    network.deep_supervision = False
    network.eval()
    return ended
