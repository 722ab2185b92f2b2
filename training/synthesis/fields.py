"""Smooth random fields: the raw material of textures, shapes and deformations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import ndimage

from pasta.preprocessing.resampling import resampled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pasta.geometry import Shape


def smooth_field(
    shape: Shape, sigma_voxels: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Draw a Gaussian random field with zero mean and unit standard deviation.

    Args:
        shape: of the field.
        sigma_voxels: of the Gaussian that smooths white noise; large ones are drawn on a coarser
            lattice and interpolated, so that the cost does not grow with them.
        rng: source of randomness.

    Returns:
        float32 of the shape.
    """
    shrink = max(1, int(sigma_voxels // 1.5))
    coarse = tuple(-(-n // shrink) + 3 for n in shape)
    field = ndimage.gaussian_filter(
        rng.standard_normal(coarse).astype(np.float32), sigma_voxels / shrink, mode="wrap"
    )
    if shrink > 1:
        i, j, k = (_interpolation(n, m, shrink) for n, m in zip(shape, coarse, strict=True))
        field = resampled(torch.from_numpy(field), (i, j, k)).numpy()
    out = field[tuple(slice(n) for n in shape)]
    out = out - out.mean()
    deviation = float(out.std())
    return np.asarray(out / deviation if deviation > 0 else out, dtype=np.float32)


def _interpolation(length: int, coarse: int, shrink: int) -> torch.Tensor:
    """Matrix of linear interpolation from every `shrink`-th position to all of them."""
    position = torch.arange(length, dtype=torch.float32) / shrink
    distance = (torch.arange(coarse, dtype=torch.float32)[None] - position[:, None]).abs()
    return (1 - distance).clamp_(min=0)
