"""NIfTI-1 and NIfTI-2 single files, plain or gzip."""

from __future__ import annotations

import gzip
import io
import math
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError

from pasta.errors import VolumeError
from pasta.io.checks import StoredImage, checked_affine, checked_shape
from pasta.io.files import GZIP_MAGIC, HashedStream, atomic_file

if TYPE_CHECKING:
    from pathlib import Path

    from pasta.geometry import FloatArray, Volume

SUFFIXES = (".nii", ".nii.gz")
_NIFTI1_BYTES, _NIFTI2_BYTES = 348, 540
_DISAGREE_MM = 0.5
_LONGEST_GAP = 1 << 26  # bytes of extensions between header and voxels


def read_nifti(path: Path) -> StoredImage:
    """Read the stored voxels, the scaling and the affine of a NIfTI file.

    The sform is used where its code is set (as nibabel and nnU-Net do), else the qform; where both
    are set and place the voxels differently a warning says so.

    Raises:
        VolumeError: if the file is damaged, truncated, not NIfTI or not one 3-D volume.
    """
    stream = HashedStream(path)
    if stream.starts_with(GZIP_MAGIC):
        stream.inflate()
    start = bytearray(_NIFTI1_BYTES)
    got = stream.read_into(memoryview(start))
    sizes = {int.from_bytes(start[:4], order) for order in ("little", "big")}
    if not sizes & {_NIFTI1_BYTES, _NIFTI2_BYTES}:
        msg = f"{path.name}: not a NIfTI image. Export the CT as .nii.gz, .nrrd or DICOM."
        raise VolumeError(msg)
    kind = nib.Nifti1Header if _NIFTI1_BYTES in sizes else nib.Nifti2Header
    more = bytearray(kind.sizeof_hdr - _NIFTI1_BYTES)
    got += stream.read_into(memoryview(more))
    if got < kind.sizeof_hdr:
        msg = f"{path.name}: truncated inside the header. Copy or export the file again."
        raise VolumeError(msg)
    header = kind.from_fileobj(io.BytesIO(bytes(start + more)), check=False)
    if bytes(header["magic"]).rstrip(b"\0")[:2] == b"ni":
        msg = f"{path.name}: half of a .hdr/.img pair. Save it as one .nii.gz file."
        raise VolumeError(msg)
    try:
        dtype = header.get_data_dtype()
        shape = checked_shape(path.name, tuple(int(n) for n in header.get_data_shape()))
        slope, intercept = header.get_slope_inter()
    except VolumeError:
        raise
    except (HeaderDataError, ValueError, KeyError) as error:
        msg = f"{path.name}: the NIfTI header is damaged. Export the image again."
        raise VolumeError(msg) from error
    affine, warnings = _affine(path.name, header, shape)
    voxels = _voxels(path.name, stream, header, shape, dtype)
    return StoredImage(
        voxels,
        affine,
        slope=1.0 if slope is None else float(slope),
        intercept=0.0 if intercept is None else float(intercept),
        warnings=warnings,
        sha256=stream.close(),
    )


def is_eight_bit_nifti(path: Path) -> bool:
    """Tell from the header whether a NIfTI file holds bytes, as labelmaps do and CT never does."""
    if not path.name.lower().endswith(SUFFIXES):
        return False
    start = bytearray(_NIFTI1_BYTES)
    try:
        stream = HashedStream(path)
        if stream.starts_with(GZIP_MAGIC):
            stream.inflate()
        stream.read_into(memoryview(start))
    except (OSError, VolumeError):
        return False
    # datatype lies at byte 70 (NIfTI-1) or 12 (NIfTI-2); 2 is uint8, 256 is int8
    for order in ("little", "big"):
        size = int.from_bytes(start[:4], order)
        at = {_NIFTI1_BYTES: 70, _NIFTI2_BYTES: 12}.get(size)
        if at is not None:
            return int.from_bytes(start[at : at + 2], order) in {2, 256}
    return False


def _voxels(
    name: str, stream: HashedStream, header: Any, shape: tuple[int, int, int], dtype: np.dtype[Any]
) -> np.ndarray[Any, Any]:
    if dtype.kind not in "iufb":
        msg = f"{name}: expected one number per voxel, found {dtype}. Export CT values (HU)."
        raise VolumeError(msg)
    offset = float(header["vox_offset"])  # NIfTI-1 has it as a float: it may be NaN
    if not 0 <= offset <= header.sizeof_hdr + _LONGEST_GAP:
        msg = f"{name}: the NIfTI header is damaged (vox_offset). Export the image again."
        raise VolumeError(msg)
    gap = int(offset) - header.sizeof_hdr
    count = math.prod(shape)
    try:
        skipped = bytearray(max(gap, 0))
        voxels = np.empty(count, dtype)
    except (MemoryError, ValueError, OverflowError) as error:
        msg = f"{name}: shape {shape} does not fit into memory; the header seems damaged."
        raise VolumeError(msg) from error
    stream.read_into(memoryview(skipped))
    got = stream.read_into(voxels.view(np.uint8).data)
    if got < voxels.nbytes:
        msg = (
            f"{name}: truncated: {got} of {voxels.nbytes} bytes of voxels are there. "
            "Copy or export the file again."
        )
        raise VolumeError(msg)
    return voxels.reshape(shape, order="F")


def _affine(
    name: str, header: Any, shape: tuple[int, int, int]
) -> tuple[FloatArray, tuple[str, ...]]:
    """Choose between sform, qform and neither."""
    sform = header.get_sform(coded=True)[0]
    try:
        qform = header.get_qform(coded=True)[0]
    except (HeaderDataError, ValueError):  # quaternions longer than 1
        qform = None
    chosen = sform
    warnings: tuple[str, ...] = ()
    if sform is None and qform is None:
        spacing = np.asarray(header["pixdim"][1:4], dtype=np.float64)
        chosen = np.diag([*np.where(spacing == 0, np.nan, spacing), 1.0])
        if np.isfinite(chosen).all():
            chosen = np.asarray(header.get_base_affine(), dtype=np.float64)
        warnings = (
            "The NIfTI header gives no orientation (sform and qform codes are 0); left and right "
            "may be exchanged.",
        )
    elif sform is None:
        chosen = qform
    elif qform is not None and np.isfinite(sform).all() and np.isfinite(qform).all():
        if abs(np.linalg.det(sform[:3, :3])) < 1e-9:
            chosen = qform
            warnings = ("The sform of the NIfTI header is singular; the qform was used.",)
        else:
            corners = np.array([(i, j, k, 1.0) for i in (0, 1) for j in (0, 1) for k in (0, 1)])
            corners[:, :3] *= np.asarray(shape) - 1
            apart = float(np.abs((sform - qform) @ corners.T).max())
            if apart > _DISAGREE_MM:
                warnings = (
                    f"sform and qform of the NIfTI header differ by {apart:.1f} mm; the sform was "
                    "used.",
                )
    return checked_affine(name, np.asarray(chosen, dtype=np.float64)), warnings


def write_nifti(volume: Volume, path: Path) -> None:
    """Write a volume with its own type, gzip level 1 for .nii.gz; sform and qform are both set.

    Raises:
        OutputError: if the file cannot be written.
    """
    header = nib.Nifti1Header()
    header.set_data_dtype(volume.voxels.dtype)
    header.set_data_shape(volume.voxels.shape)
    header.set_sform(volume.affine, code="scanner")
    header.set_qform(volume.affine, code="scanner", strip_shears=True)
    header.set_xyzt_units("mm")
    header["magic"] = b"n+1"
    header["vox_offset"] = 352
    header["scl_slope"], header["scl_inter"] = 1, 0
    with atomic_file(path) as file:
        if not path.name.endswith(".gz"):
            _put(file, header, volume)
            return
        # no file name and no time inside: equal masks are equal files
        with gzip.GzipFile(
            filename="", mode="wb", compresslevel=1, fileobj=file, mtime=0
        ) as packed:
            _put(packed, header, volume)


def _put(file: Any, header: Any, volume: Volume) -> None:
    file.write(header.binaryblock + b"\0\0\0\0")
    file.write(np.ascontiguousarray(volume.voxels.T).data.cast("B"))
