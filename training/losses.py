"""Segmentation loss for partially labelled cases.

A case says of each target value which classes may be right there: an organ that nobody drew may be
hidden in what is called background, a liver whose tumours nobody drew may hold tumour. The
probability of a target is the sum over its allowed classes, so classes merged in this way take no
blame and get no gradient against one another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from pasta.labels import LABELS, lesions_of

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

NUM_CLASSES = len(LABELS) + 1
CERTAIN = NUM_CLASSES  # target value of background that cannot be an organ nobody drew
NUM_TARGETS = NUM_CLASSES + 1
IGNORE = 255


def allowed_classes(
    labelled: Collection[str], hidden_lesions: Collection[str] = ()
) -> NDArray[np.bool_]:
    """Say which classes each target value allows.

    Args:
        labelled: organs and lesions of which every voxel in the field of view is labelled. A
            lesion is not in doubt where its organ is labelled, unless it is hidden.
        hidden_lesions: lesions that may be there undrawn, under the label of their organ.

    Returns:
        (27, 26) bool, row = target value (26: background for certain), column = class.
    """
    allowed = np.eye(NUM_TARGETS, NUM_CLASSES, dtype=bool)
    allowed[CERTAIN, 0] = True
    for label in LABELS:
        organ_labelled = label.organ in labelled
        known = (
            organ_labelled if label.kind == "organ" else organ_labelled or label.name in labelled
        )
        if not known:
            allowed[0, label.value] = True
    for label in LABELS:
        if label.kind == "organ":
            for lesion in lesions_of(label.name):
                if lesion.name in hidden_lesions:
                    allowed[label.value, lesion.value] = True
    return allowed


def partial_label_loss(
    logits: torch.Tensor,
    target: torch.Tensor,
    allowed: torch.Tensor,
    class_weight: torch.Tensor | None = None,
) -> torch.Tensor:
    """Compute cross-entropy plus soft Dice of one patch over sets of allowed classes.

    Args:
        logits: (C, I, J, K).
        target: (I, J, K) integers, target values up to C (26: certain background), or 255 where
            nothing is known.
        allowed: (C + 1, C) bool, see `allowed_classes`.
        class_weight: (C + 1,) weight of each target in the cross-entropy.

    Returns:
        Scalar; 0 where every voxel is ignored.
    """
    classes = logits.shape[0]
    flat = logits.movedim(0, -1).reshape(-1, classes)  # a view where the network runs channels-last
    labels = target.reshape(-1).long()
    known = labels != IGNORE
    if not bool(known.all()):
        flat, labels = flat[known], labels[known]
    if labels.numel() == 0:
        return logits.sum() * 0
    present, index = torch.unique(labels, return_inverse=True)
    groups = allowed[present].to(flat.dtype)  # (P, C)
    probabilities = torch.softmax(flat, dim=1)  # (V, C)
    picked = (probabilities * groups[index]).sum(dim=1)
    cross_entropy = -torch.log(picked.clamp(min=1e-6))
    if class_weight is not None:
        weight = class_weight[labels]
        cross_entropy = (cross_entropy * weight).sum() / weight.sum()
    else:
        cross_entropy = cross_entropy.mean()
    foreground = [
        place for place, value in enumerate(present.tolist()) if value not in {0, CERTAIN}
    ]
    if not foreground:
        return cross_entropy
    # a target counts as inside a set when all it allows is in that set (tumour in liver-or-tumour)
    inside = ((groups[foreground] @ groups.T) >= groups.sum(dim=1)[None]).to(flat.dtype)  # (F, P)
    one_hot = functional.one_hot(index, len(present)).to(flat.dtype)  # (V, P)
    mass = groups[foreground] @ (probabilities.T @ one_hot)  # (F, P): of each set, by true target
    overlap = (mass * inside).sum(dim=1)
    total = mass.sum(dim=1) + inside @ one_hot.sum(dim=0)
    dice = (2 * overlap + 1) / (total + 1)
    return cross_entropy + (1 - dice).mean()
