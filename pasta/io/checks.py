"""What an image must be to be taken for a CT volume: its grid and its values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pasta.errors import VolumeError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from pasta.geometry import FloatArray

AIR_HU = -1024
LOWEST_HU = -1100  # noise and metal streaks go below -1024, no tissue does
HIGHEST_HU = 1e5
MIN_SPACING_MM, MAX_SPACING_MM = 0.05, 50.0
THICK_SLICE_MM = 6.0
FEW_SLICES = 8
# cosine of the angle between two axes; 0.5 degrees move the far slice of a 300 mm stack by 2.6 mm
MAX_SHEAR = float(np.sin(np.deg2rad(0.5)))


@dataclass(frozen=True, slots=True, eq=False)
class StoredImage:
    """Voxels as they lie in a file; HU are `voxels * slope + intercept`.

    Attributes:
        voxels: (I, J, K), any real type; memory order as in the file.
        affine: (4, 4), voxel (i, j, k) to RAS+ mm, not checked yet.
        slope: factor of the stored values.
        intercept: added to the scaled values.
        warnings: sentences on what is doubtful.
        sha256: of the file's bytes.
        header: text fields of the file (NRRD), else empty.
    """

    voxels: NDArray[Any]
    affine: FloatArray
    slope: float = 1.0
    intercept: float = 0.0
    warnings: tuple[str, ...] = ()
    sha256: str = ""
    header: dict[str, str] = field(default_factory=dict)


def checked_shape(name: str, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Take trailing axes of length 1 off a shape and refuse what is not three-dimensional.

    Raises:
        VolumeError: if the image is 2-D, one slice, or a series of volumes.
    """
    if len(shape) > 3 and any(n != 1 for n in shape[3:]):
        msg = f"{name}: expected one 3-D volume, found shape {shape}. Save one phase per file."
        raise VolumeError(msg)
    if len(shape) < 3 or min(shape[:3]) < 2:
        msg = (
            f"{name}: expected a 3-D volume of at least 2 voxels along each axis, found shape "
            f"{shape}. Export the whole series, not one slice."
        )
        raise VolumeError(msg)
    i, j, k = shape[:3]
    return i, j, k


def checked_affine(name: str, affine: FloatArray) -> FloatArray:
    """Refuse a geometry that no scanner makes.

    Raises:
        VolumeError: if the affine is not finite, singular, sheared, or the spacing is absurd.
    """
    if affine.shape != (4, 4) or not np.all(np.isfinite(affine)):
        msg = f"{name}: the affine holds values that are not finite. Export the image again."
        raise VolumeError(msg)
    axes = affine[:3, :3]
    spacing = np.linalg.norm(axes, axis=0)
    if not spacing.all():
        msg = f"{name}: the affine is singular (an axis has length 0). Export the image again."
        raise VolumeError(msg)
    text = " x ".join(f"{s:.4g}" for s in spacing)
    if spacing.min() < MIN_SPACING_MM or spacing.max() > MAX_SPACING_MM:
        msg = (
            f"{name}: the voxel spacing is {text} mm, expected {MIN_SPACING_MM} to "
            f"{MAX_SPACING_MM:g} mm. Check the unit (mm) of the header."
        )
        raise VolumeError(msg)
    cosines = (axes / spacing).T @ (axes / spacing)
    if abs(np.linalg.det(axes / spacing)) < 1e-3:
        msg = f"{name}: the affine is singular (two axes coincide). Export the image again."
        raise VolumeError(msg)
    shear = float(np.abs(cosines - np.eye(3)).max())
    if shear > MAX_SHEAR:
        angle = float(np.rad2deg(np.arcsin(min(shear, 1.0))))
        msg = (
            f"{name}: the axes are {angle:.1f} degrees off a right angle (gantry tilt?). "
            "Resample the series to a regular grid first."
        )
        raise VolumeError(msg)
    return affine


def grid_warnings(shape: tuple[int, int, int], affine: FloatArray) -> tuple[str, ...]:
    """Say where a grid is coarser or smaller than what the models were made for."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    found = []
    if spacing.max() > THICK_SLICE_MM:
        found.append(
            f"Slice spacing is {spacing.max():.1f} mm; small lesions are missed above "
            f"{THICK_SLICE_MM:g} mm."
        )
    if min(shape) < FEW_SLICES:
        found.append(f"The volume has only {min(shape)} slices along one axis.")
    return tuple(found)


def hounsfield(name: str, image: StoredImage) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Turn stored values into HU and refuse those that cannot be HU.

    Args:
        name: of the file, for messages.
        image: as stored.

    Returns:
        (I, J, K) int16 where every value is whole, else float32; and warnings. Padding far below air
        becomes -1024 HU.

    Raises:
        VolumeError: if a voxel is not finite, or the values cannot be HU.
    """
    voxels = image.voxels
    if voxels.dtype.kind not in "iuf":
        msg = f"{name}: expected one number per voxel, found {voxels.dtype}. Export CT values (HU)."
        raise VolumeError(msg)
    if voxels.dtype.kind == "f":
        _refuse_not_finite(name, voxels)
    low, high = _extremes_hu(image)
    _refuse_impossible(name, low, high)
    hu = _scaled(image, low, high)
    found = list(_without_padding(name, hu)) if low < LOWEST_HU else []
    if hu.dtype != np.int16:
        hu = _whole(hu)
    if low > -200:
        found.append(
            f"No voxel is below {low:.0f} HU although a CT holds air: values may be clipped or "
            "shifted."
        )
    if high < 200:
        found.append(
            f"No voxel is above {high:.0f} HU although a CT of the body holds bone: values may be "
            "clipped or shifted."
        )
    return hu, tuple(found)


def slabs(voxels: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Cut an array along its slowest axis; views small enough for temporary copies."""
    axis = int(np.argmax(np.abs(voxels.strides)))
    turned = np.moveaxis(voxels, axis, 0)
    step = max(1, (1 << 22) // max(1, turned[0].size))
    for start in range(0, len(turned), step):
        yield turned[start : start + step]


def _extremes_hu(image: StoredImage) -> tuple[float, float]:
    ends = [
        float(end) * image.slope + image.intercept
        for end in (image.voxels.min(), image.voxels.max())
    ]
    return min(ends), max(ends)


def _refuse_not_finite(name: str, voxels: NDArray[Any]) -> None:
    # a sum is not finite if a value is not; one pass without a temporary array
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(voxels.sum(dtype=np.float64)):
            return
    count = sum(int(np.count_nonzero(~np.isfinite(slab))) for slab in slabs(voxels))
    if count:
        msg = (
            f"{name}: {count} of {voxels.size} voxels are NaN or infinite, expected HU. "
            "Export the image again, or fill them with -1024."
        )
        raise VolumeError(msg)


def _refuse_impossible(name: str, low: float, high: float) -> None:
    span = f"the values span {low:.6g} to {high:.6g}"
    if low == high:
        msg = f"{name}: every voxel has the value {low:.6g}. Export the image again."
    elif high > HIGHEST_HU or low < -HIGHEST_HU:
        msg = f"{name}: {span}, which cannot be HU. Export the CT with its original values."
    elif low >= 0 and high <= 1:
        msg = f"{name}: {span}: normalised to 0..1, not HU. Use the CT before normalisation."
    elif low >= 0 and high <= 255:
        msg = (
            f"{name}: {span}: an 8-bit picture or a labelmap, not HU. "
            "Use the CT with its original values."
        )
    elif high - low < 50:
        msg = f"{name}: {span}: normalised, not HU. Use the CT before normalisation."
    elif low >= 0:
        msg = (
            f"{name}: {span} and none is negative, so they are not HU; the rescale intercept "
            "(often -1024) seems not to be applied. Export the image with HU values."
        )
    else:
        return
    raise VolumeError(msg)


def _scaled(image: StoredImage, low: float, high: float) -> NDArray[Any]:
    """Scale to HU: int16 where integers stay integers and fit, else float32; in place if it can."""
    stored, slope, intercept = image.voxels, image.slope, image.intercept
    if not stored.dtype.isnative:
        stored = stored.byteswap(inplace=True).view(stored.dtype.newbyteorder("="))
    limits = np.iinfo(np.int16)
    fits = limits.min <= low and high <= limits.max
    if fits and stored.dtype.kind in "iu" and slope.is_integer() and intercept.is_integer():
        if stored.dtype.itemsize == 2 and slope == 1:
            hu = stored.view(np.int16)  # 16-bit sums wrap, so that what fits comes out right
            if intercept:
                hu += np.int16(int(intercept))
            return hu
        return _cast(stored, slope, intercept, np.int16, np.int64)
    if stored.dtype == np.float32 and slope == 1 and intercept == 0:
        return stored
    wide = np.float32 if stored.dtype.itemsize <= 4 else np.float64
    return _cast(stored, slope, intercept, np.float32, wide)


def _cast(
    stored: NDArray[Any], slope: float, intercept: float, dtype: type[Any], wide: type[Any]
) -> NDArray[Any]:
    out = np.empty_like(stored, dtype=dtype)
    for source, target in zip(slabs(stored), slabs(out), strict=True):
        block = source.astype(wide)
        if slope != 1:
            block *= wide(slope)
        if intercept != 0:
            block += wide(intercept)
        target[...] = block
    return out


def _whole(hu: NDArray[Any]) -> NDArray[Any]:
    """Turn floats into int16 if all are whole and fit."""
    limits = np.iinfo(np.int16)
    for slab in slabs(hu):
        if not np.array_equal(slab, np.rint(slab)) or slab.max() > limits.max:
            return hu
    return hu.astype(np.int16, order="K")


def _without_padding(name: str, hu: NDArray[Any]) -> tuple[str, ...]:
    """Set what lies below air to -1024 HU, in place; say so where it was padding."""
    below: dict[float, int] = {}
    for slab in slabs(hu):
        values, counts = np.unique(slab[slab < LOWEST_HU], return_counts=True)
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            below[value] = below.get(value, 0) + count
    padding = max(below, key=lambda value: below[value])
    stray = sum(below.values()) - below[padding]
    if stray > 0.01 * hu.size:
        msg = (
            f"{name}: {100 * stray / hu.size:.0f} % of the voxels lie below {LOWEST_HU} HU, "
            f"down to {min(below):.6g}, which cannot be HU. Check rescale slope and intercept."
        )
        raise VolumeError(msg)
    for slab in slabs(hu):
        slab[slab < LOWEST_HU] = AIR_HU
    share = 100 * sum(below.values()) / hu.size
    return (
        f"{share:.2g} % of the voxels lay below {LOWEST_HU} HU (padding value {padding:g}); "
        f"they were set to {AIR_HU} HU.",
    )
