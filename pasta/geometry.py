"""Voxel grids: affines, spacings, orientations, and the Volume that carries one.

Affines map voxel (i, j, k) *centres* to RAS+ mm, as in nifti1.h (method 3).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import (
    apply_orientation,
    axcodes2ornt,
    inv_ornt_aff,
    io_orientation,
    ornt_transform,
)
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Shape = tuple[int, int, int]
Spacing = tuple[float, float, float]
_PATIENT_AXES = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Where the voxels of a volume lie.

    Attributes:
        affine: (4, 4) float64, voxel (i, j, k) to RAS+ mm.
        shape: voxels along i, j, k.
    """

    affine: FloatArray
    shape: Shape

    @property
    def spacing_mm(self) -> Spacing:
        """Distance of neighbouring voxel centres along i, j, k."""
        i, j, k = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(i), float(j), float(k)

    @property
    def axcodes(self) -> str:
        """Nearest patient direction of each axis, such as "LPS"."""
        return "".join(nib.aff2axcodes(self.affine))

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    def matches(self, other: Grid, tolerance_mm: float = 0.01) -> bool:
        """Tell whether two grids have the same shape and corners within a tolerance."""
        if self.shape != other.shape:
            return False
        corners = np.array(
            [(i, j, k, 1) for i in (0, 1) for j in (0, 1) for k in (0, 1)], dtype=float
        )
        corners[:, :3] *= np.array(self.shape) - 1
        distance = np.linalg.norm(((self.affine - other.affine) @ corners.T)[:3], axis=0)
        return bool(distance.max() <= tolerance_mm)


@dataclass(frozen=True, slots=True)
class Acquisition:
    """What the source file says of the scan beyond its voxels; no patient identity.

    Attributes:
        contrast: True or False where a DICOM series says whether contrast agent was given,
            None where nothing is known (NIfTI).
        contrast_source: the tag that says so, such as "ContrastBolusAgent (0018,0010)".
        slice_thickness_mm: nominal, None if unknown.
        kernel: convolution kernel, empty if unknown.
    """

    contrast: bool | None = None
    contrast_source: str = ""
    slice_thickness_mm: float | None = None
    kernel: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """An array of voxels with its grid.

    Attributes:
        voxels: (I, J, K); HU for a CT, label values for a labelmap.
        affine: (4, 4) float64, voxel (i, j, k) to RAS+ mm.
        acquisition: what the source says of the scan.
        warnings: sentences on doubtful input, carried into every result.
        sha256: of the source file's bytes (of the sorted slice files for a DICOM series), or "".
    """

    voxels: NDArray[Any]
    affine: FloatArray
    acquisition: Acquisition = field(default_factory=Acquisition)
    warnings: tuple[str, ...] = ()
    sha256: str = ""

    @property
    def grid(self) -> Grid:
        """Grid of the voxels."""
        i, j, k = self.voxels.shape
        return Grid(self.affine, (i, j, k))


def resampled_grid(grid: Grid, spacing_mm: Spacing) -> Grid:
    """Compute the voxel grid that covers the same field of view at another spacing.

    The corner of the field of view stays; the centre of voxel (0, 0, 0) moves with the spacing.

    Args:
        grid: any grid.
        spacing_mm: wanted along i, j, k.

    Returns:
        Grid with the same axes; its far edge moves by at most half a new voxel, and every axis
        keeps one voxel or more.

    Raises:
        ValueError: if a spacing is not finite and positive.
    """
    wanted = np.asarray(spacing_mm, dtype=float)
    if wanted.shape != (3,) or not np.all(np.isfinite(wanted)) or np.any(wanted <= 0):
        msg = f"spacing_mm is {spacing_mm}, expected three finite positive numbers."
        raise ValueError(msg)
    present = np.asarray(grid.spacing_mm)
    extent = np.asarray(grid.shape) * present
    i, j, k = (max(1, int(n)) for n in np.round(extent / wanted))
    affine = grid.affine.copy()
    affine[:3, :3] = grid.affine[:3, :3] * (wanted / present)
    corner = grid.affine[:3, :3] @ np.full(3, -0.5) + grid.affine[:3, 3]
    affine[:3, 3] = corner - affine[:3, :3] @ np.full(3, -0.5)
    return Grid(affine, (i, j, k))


def reoriented(volume: Volume, axcodes: str) -> Volume:
    """Permute and flip the axes so that they point along `axcodes`; a view, voxels are not copied.

    Oblique volumes keep their obliqueness: each axis takes its nearest patient direction.

    Raises:
        ValueError: if `axcodes` does not name three patient axes, such as "LPS".
    """
    if sorted(_PATIENT_AXES.get(code, 3) for code in axcodes) != [0, 1, 2]:
        msg = f"axcodes is {axcodes!r}, expected one each of R/L, A/P and S/I, such as 'LPS'."
        raise ValueError(msg)
    transform = ornt_transform(io_orientation(volume.affine), axcodes2ornt(tuple(axcodes)))
    affine = volume.affine @ inv_ornt_aff(transform, volume.voxels.shape)
    return replace(volume, voxels=apply_orientation(volume.voxels, transform), affine=affine)
