"""Distances between the surfaces of masks. Pure functions on arrays.

The surface of a mask is those of its voxels that touch the outside by a face, as in MONAI; distances
are in mm, from centre to centre.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Mask = NDArray[np.bool_]
    Distances = NDArray[np.float64]


def surface_distances(
    one: Mask, other: Mask, spacing_mm: Sequence[float]
) -> tuple[Distances, Distances]:
    """Measure how far each surface voxel of one mask lies from the other's surface.

    Args:
        one: (I, J, K).
        other: of the same shape.
        spacing_mm: (3,), along i, j, k.

    Returns:
        Distances in mm from `one` to `other` and back; empty where a mask is empty.

    Raises:
        ValueError: if the shapes differ or an array is not boolean.
    """
    for name, mask in (("one", one), ("other", other)):
        if mask.dtype != np.bool_:
            msg = f"{name} is {mask.dtype}, expected a boolean mask such as labelmap == 2."
            raise ValueError(msg)
    if one.shape != other.shape:
        msg = f"one has shape {one.shape}, other {other.shape}."
        raise ValueError(msg)
    if not one.any() or not other.any():
        return np.empty(0), np.empty(0)
    box = tuple(_bounds(np.any(one | other, axis=_others(axis))) for axis in range(3))
    edges = [_surface(np.pad(mask[box], 1)) for mask in (one, other)]
    maps = [ndimage.distance_transform_edt(~edge, sampling=tuple(spacing_mm)) for edge in edges]
    return np.asarray(maps[1][edges[0]]), np.asarray(maps[0][edges[1]])


def surface_dice(
    one: Mask, other: Mask, spacing_mm: Sequence[float], tolerance_mm: float = 2.0
) -> float:
    """Compute the normalised surface Dice: the share of both surfaces that agrees within a tolerance.

    Source: Nikolov et al., 2021, doi:10.2196/26151, on surface voxels.

    Args:
        one: mask.
        other: mask of the same shape.
        spacing_mm: (3,), along i, j, k.
        tolerance_mm: farthest distance that agrees.

    Returns:
        In [0, 1]; 0 where just one mask is empty, NaN where both are.
    """
    if not one.any() and not other.any():
        return math.nan
    there, back = surface_distances(one, other, spacing_mm)
    total = there.size + back.size
    if total == 0:
        return 0.0
    agreeing = np.count_nonzero(there <= tolerance_mm) + np.count_nonzero(back <= tolerance_mm)
    return float(agreeing) / total


def hausdorff95(one: Mask, other: Mask, spacing_mm: Sequence[float]) -> float:
    """Compute the 95th percentile of the Hausdorff distance: the greater one of both directions.

    Returns:
        In mm; NaN where a mask is empty, as then there is no distance.
    """
    there, back = surface_distances(one, other, spacing_mm)
    if there.size == 0:
        return math.nan
    return float(max(np.percentile(there, 95), np.percentile(back, 95)))


def _others(axis: int) -> tuple[int, ...]:
    return tuple(each for each in range(3) if each != axis)


def _bounds(line: Mask) -> slice:
    found = np.flatnonzero(line)
    return slice(int(found[0]), int(found[-1]) + 1)


def _surface(mask: Mask) -> Mask:
    return np.asarray(mask & ~ndimage.binary_erosion(mask))
