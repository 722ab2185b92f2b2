"""HU to network input: the two normalisations of PASTA."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch

from pasta.spec import Segmental, ZScore

if TYPE_CHECKING:
    from collections.abc import Sequence

AIR_HU = -1000.0


def normalized(hu: torch.Tensor, intensity: ZScore | Segmental) -> torch.Tensor:
    """Turn HU into network input.

    Args:
        hu: any shape and dtype.
        intensity: `ZScore` as in nnU-Net's CTNormalization (segmentation), or `Segmental`, the
            piecewise linear map of PASTA's classification code.

    Returns:
        float32, same shape.
    """
    x = hu.to(torch.float32, copy=True)
    if isinstance(intensity, ZScore):
        low, high = intensity.clip_hu
        return x.clamp_(low, high).sub_(intensity.mean_hu).div_(intensity.std_hu)
    return _piecewise_linear(x, intensity.points_hu, intensity.values)


def _piecewise_linear(
    x: torch.Tensor, points: Sequence[float], values: Sequence[float]
) -> torch.Tensor:
    out = torch.full_like(x, values[0])
    for (left, right), (low, high) in zip(pairwise(points), pairwise(values), strict=True):
        out += ((x - left) / (right - left)).clamp_(0, 1) * (high - low)
    return out
