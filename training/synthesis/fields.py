"""Smooth random fields: the raw material of textures, shapes and deformations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

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
        field = ndimage.zoom(field, shrink, order=1, mode="nearest", grid_mode=False)
    out = field[tuple(slice(n) for n in shape)]
    out = out - out.mean()
    deviation = float(out.std())
    return np.asarray(out / deviation if deviation > 0 else out, dtype=np.float32)
