"""Twice the width, the same function: trained narrow weights at the cost of a wider network."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch

from pasta.networks.checkpoint import load_model, save_model
from pasta.networks.unet import PastaUNet

if TYPE_CHECKING:
    from pathlib import Path

    from pasta.networks.checkpoint import Model


def widened(network: PastaUNet, num_classes: int, width: int) -> PastaUNet:
    """Double every hidden channel (Net2Net, Chen et al. 2016, arXiv:1511.05641).

    Each channel appears twice and counts half in the next layer, so the logits stay the same up to
    rounding; instance norm acts on each copy alone.

    Args:
        network: trained.
        num_classes: its output channels, which are not doubled.
        width: its width.

    Returns:
        Network of twice the width.
    """
    wide = PastaUNet(num_classes, 2 * width)
    state = {}
    for name, target in wide.state_dict().items():
        tensor = network.state_dict()[name]
        for axis in range(min(2, tensor.ndim)):
            if target.shape[axis] == 2 * tensor.shape[axis]:
                tensor = tensor.repeat_interleave(2, dim=axis)
                # the axis that is summed over: 0 for transposed convolutions, else 1
                if tensor.ndim == 5 and axis == (0 if name.startswith("tu.") else 1):
                    tensor = tensor / 2
        state[name] = tensor
    wide.load_state_dict(state)
    return wide.eval()


def save_widened(source: Path, folder: Path, **changes: object) -> Model:
    """Write a model of twice the width beside other changes to its specification."""
    model = load_model(source)
    spec = dataclasses.replace(
        model.spec,
        name="benchmark",
        width=2 * model.spec.width,
        weights=(),
        **changes,  # type: ignore[arg-type]
    )
    (network,) = model.networks(torch.device("cpu"))
    wide = widened(network, spec.num_outputs, model.spec.width)  # type: ignore[arg-type]
    return save_model([wide], spec, folder, half=False)
