"""Read the voxels and the place of a labelmap file: what is needed to compare two of them exactly.

NIfTI-1 and NRRD with attached data, as Slicer and the server write them; NumPy and the standard
library only, as Slicer has no nibabel.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pasta.errors import LabelError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_NIFTI_TYPES = {2: "u1", 256: "i1", 4: "i2", 512: "u2", 8: "i4", 768: "u4", 16: "f4", 64: "f8"}
_NRRD_TYPES = {
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i1": ("char", "signed char", "int8", "int8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
}
_NIFTI_HEADER = 348
TOLERANCE_MM = 0.05  # NIfTI stores affines in single precision


@dataclass(frozen=True, slots=True, eq=False)
class LabelFile:
    """A labelmap.

    Attributes:
        voxels: along i, j, k.
        affine: (4, 4), voxel (i, j, k) to RAS+ mm.
    """

    voxels: NDArray[Any]
    affine: NDArray[np.float64]

    @property
    def values(self) -> tuple[int, ...]:
        """Label values that occur, without background."""
        return tuple(int(value) for value in np.unique(self.voxels) if value)

    def lies_on(self, affine: Any, shape: Any) -> bool:
        """Tell whether the shape is the same and all corners are where they should be."""
        if tuple(shape) != self.voxels.shape:
            return False
        corners = np.array([(i, j, k, 1) for i in (0, 1) for j in (0, 1) for k in (0, 1)], float)
        corners[:, :3] *= np.array(self.voxels.shape) - 1
        away = ((self.affine - np.asarray(affine, dtype=float)) @ corners.T)[:3]
        return bool(np.linalg.norm(away, axis=0).max() <= TOLERANCE_MM)


def read_label_file(path: Path) -> LabelFile:
    """Read a labelmap.

    Args:
        path: .nii, .nii.gz or .nrrd.

    Raises:
        LabelError: if it is none of these, damaged, or not one 3-D labelmap.
        OSError: if it cannot be read.
    """
    data = path.read_bytes()
    try:
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        if data[:4] == b"NRRD":
            return _nrrd(data)
        return _nifti(data)
    except (ValueError, KeyError, IndexError, struct.error, EOFError, zlib.error, OSError) as error:
        msg = f"{path.name}: not a labelmap that can be read ({error}); export it as .nii.gz."
        raise LabelError(msg) from error


@dataclass(frozen=True, slots=True, eq=False)
class NiftiHeader:
    """What a NIfTI-1 header says.

    Attributes:
        kind: of a voxel, with its byte order.
        shape: voxels along i, j, k.
        offset: of the voxels in the file.
        slope: that stored numbers are multiplied by.
        intercept: that is added then.
        sform: (4, 4), voxel to RAS+ mm; None if there is none.
        qform: the same from the quaternion.
    """

    kind: np.dtype[Any]
    shape: tuple[int, int, int]
    offset: int
    slope: float
    intercept: float
    sform: NDArray[np.float64] | None
    qform: NDArray[np.float64] | None

    @property
    def scaled(self) -> bool:
        """Whether stored numbers are not the values themselves."""
        return self.slope not in (0.0, 1.0) or bool(self.slope and self.intercept)


def nifti_header(data: bytes) -> NiftiHeader:
    """Read the header of a NIfTI-1 file that was unpacked.

    Raises:
        ValueError, KeyError, struct.error: if it is none of one 3-D image.
    """
    order = next((o for o in "<>" if struct.unpack(f"{o}i", data[:4])[0] == _NIFTI_HEADER), None)
    if order is None or data[344:348] not in (b"n+1\0", b"n+2\0"):
        msg = "no NIfTI-1 header"
        raise ValueError(msg)
    dimensions = struct.unpack(f"{order}8h", data[40:56])
    if dimensions[0] < 3 or any(n > 1 for n in dimensions[4 : dimensions[0] + 1]):
        msg = f"{dimensions[0]} dimensions"
        raise ValueError(msg)
    kind = np.dtype(order + _NIFTI_TYPES[struct.unpack(f"{order}h", data[70:72])[0]])
    spacing = struct.unpack(f"{order}8f", data[76:108])
    offset, slope, intercept = struct.unpack(f"{order}3f", data[108:120])
    q_code, s_code = struct.unpack(f"{order}2h", data[252:256])
    sform = qform = None
    if s_code > 0:
        sform = np.eye(4)
        sform[:3] = np.reshape(struct.unpack(f"{order}12f", data[280:328]), (3, 4))
    if q_code > 0:
        qform = _quaternion(struct.unpack(f"{order}6f", data[256:280]), spacing)
    i, j, k = dimensions[1:4]
    return NiftiHeader(kind, (i, j, k), int(offset), slope, intercept, sform, qform)


def _nifti(data: bytes) -> LabelFile:
    header = nifti_header(data)
    count = int(np.prod(header.shape))
    voxels = np.frombuffer(data, header.kind, count, header.offset)
    voxels = voxels.reshape(header.shape, order="F")
    if header.scaled:
        voxels = voxels * header.slope + header.intercept
    affine = header.sform if header.sform is not None else header.qform
    if affine is None:
        msg = "no orientation"
        raise ValueError(msg)
    return LabelFile(_whole(voxels), affine)


def _quaternion(numbers: tuple[float, ...], spacing: tuple[float, ...]) -> NDArray[np.float64]:
    """Build the affine of qform (nifti1.h, method 2)."""
    b, c, d = numbers[:3]
    a = np.sqrt(max(0.0, 1 - b * b - c * c - d * d))
    turn = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    steps = np.array(spacing[1:4])
    steps[2] *= -1 if spacing[0] < 0 else 1
    affine = np.eye(4)
    affine[:3, :3] = turn * steps
    affine[:3, 3] = numbers[3:]
    return affine


def _nrrd(data: bytes) -> LabelFile:
    head, gap, body = data.partition(b"\n\n")
    if not gap:
        head, _, body = data.partition(b"\r\n\r\n")
    fields = {}
    for line in head.decode("ascii", "replace").splitlines()[1:]:
        name, colon, value = line.partition(": ")
        if colon and not line.startswith("#"):
            fields[name.strip().lower()] = value.strip()
    if fields.get("dimension") != "3" or "data file" in fields:
        msg = "not one 3-D image in one file"
        raise ValueError(msg)
    code = next(code for code, names in _NRRD_TYPES.items() if fields["type"].lower() in names)
    kind = np.dtype((">" if fields.get("endian") == "big" else "<") + code)
    if fields["encoding"].lower() in ("gzip", "gz"):
        body = zlib.decompress(body, 47)  # 47: gzip or zlib
    elif fields["encoding"].lower() != "raw":
        msg = f"encoding {fields['encoding']}"
        raise ValueError(msg)
    shape = tuple(int(n) for n in fields["sizes"].split())
    voxels = np.frombuffer(body, kind, int(np.prod(shape))).reshape(shape, order="F")
    vectors = fields["space directions"].replace("(", " ").replace(")", " ").split()
    affine = np.eye(4)
    affine[:3, :3] = np.array([_triple(text) for text in vectors]).T
    affine[:3, 3] = _triple(fields["space origin"].strip("()"))
    space = fields["space"].lower()
    if space in ("left-posterior-superior", "lps"):
        affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    elif space not in ("right-anterior-superior", "ras"):
        msg = f"space {space}"
        raise ValueError(msg)
    return LabelFile(_whole(voxels), affine)


def _triple(text: str) -> tuple[float, float, float]:
    x, y, z = (float(number) for number in text.split(","))
    return x, y, z


def _whole(voxels: NDArray[Any]) -> NDArray[Any]:
    """Turn into the smallest integers; a labelmap holds whole numbers from 0."""
    if voxels.dtype.kind == "f" and not np.array_equal(voxels, np.rint(voxels)):
        msg = "voxels are not whole numbers"
        raise ValueError(msg)
    if voxels.size and (voxels.min() < 0 or voxels.max() > 255):
        msg = "voxels are not from 0 to 255"
        raise ValueError(msg)
    return voxels.astype(np.uint8)
