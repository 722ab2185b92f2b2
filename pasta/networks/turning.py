"""Networks with turned axes: the same function, fed with arrays in another axis order."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from pasta.spec import ModelSpec

UPRIGHT = ("SI", "PA", "LR")  # slices first, as files lie in memory and bodies lie in the scanner


def upright(networks: Sequence[nn.Module], spec: ModelSpec) -> ModelSpec:
    """Turn networks, in place, so that the first array axis runs along the body.

    Convolution kernels are permuted; what the network computes at a point of space stays the same.
    Directions are not flipped ("LPS" becomes "SPL").

    Args:
        networks: of one model; afterwards they take (B, C, S, P, L)-like arrays.
        spec: of the model.

    Returns:
        Specification with axcodes, spacing and patch shape in the new order.
    """
    order = [
        next(axis for axis, code in enumerate(spec.axcodes) if code in directions)
        for directions in UPRIGHT
    ]
    with torch.no_grad():
        for network in networks:
            for parameter in network.parameters():
                if parameter.ndim == 5:  # convolution kernels: (out, in, i, j, k)
                    turned = parameter.permute(0, 1, *(2 + axis for axis in order))
                    parameter.data = turned.contiguous()
    i, j, k = order
    return dataclasses.replace(
        spec,
        axcodes="".join(spec.axcodes[axis] for axis in order),
        spacing_mm=(spec.spacing_mm[i], spec.spacing_mm[j], spec.spacing_mm[k]),
        patch_shape=(spec.patch_shape[i], spec.patch_shape[j], spec.patch_shape[k]),
    )
