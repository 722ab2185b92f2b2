"""The two text-headed formats of ITK and Slicer: NRRD (.nrrd) and MetaImage (.mha, .mhd).

Read here rather than by SimpleITK: ITK does not verify the checksum of compressed voxels (damaged
files come back as other HU without a word), and follows a header to any file on the disk.
"""

from __future__ import annotations

import gzip
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pasta.errors import VolumeError
from pasta.io.checks import StoredImage, checked_affine, checked_shape
from pasta.io.files import HashedStream, atomic_file, require_file

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pasta.geometry import FloatArray, Volume

NRRD_SUFFIXES = (".nrrd",)
META_SUFFIXES = (".mha", ".mhd")
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_NO_ORIENTATION = "The {} header gives no patient orientation; left and right may be exchanged."

_NRRD_TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
_NRRD_DTYPES = {name: code for code, names in _NRRD_TYPES.items() for name in names}
_NRRD_NAMES = {
    "i1": "int8", "u1": "uint8", "i2": "int16", "u2": "uint16", "i4": "int32", "u4": "uint32",
    "f4": "float", "f8": "double",
}  # fmt: skip
_NRRD_SPACES = {
    "left-posterior-superior": LPS_TO_RAS,
    "lps": LPS_TO_RAS,
    "right-anterior-superior": np.eye(4),
    "ras": np.eye(4),
    "left-anterior-superior": np.diag([-1.0, 1.0, 1.0, 1.0]),
    "las": np.diag([-1.0, 1.0, 1.0, 1.0]),
}
_META_DTYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4",
    "MET_UINT": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}  # fmt: skip


def read_nrrd(path: Path, *, layers: bool = False) -> StoredImage:
    """Read an NRRD file, voxels behind the header, raw or gzip.

    Args:
        path: of the file.
        layers: keep a leading axis of segmentation layers (.seg.nrrd): voxels are then (L, I, J, K).

    Raises:
        VolumeError: if the file is damaged, truncated, not NRRD or not one 3-D volume.
    """
    stream = HashedStream(path)
    if not stream.starts_with(b"NRRD000"):
        msg = f"{path.name}: not an NRRD image. Export the CT as .nii.gz, .nrrd or DICOM."
        raise VolumeError(msg)
    fields, texts = _nrrd_header(path.name, stream)
    if "data file" in fields or "datafile" in fields:
        msg = f"{path.name}: the voxels lie in another file. Save it as one .nrrd file."
        raise VolumeError(msg)
    try:
        shape = tuple(int(n) for n in fields["sizes"].split())
        code = _NRRD_DTYPES[fields["type"].lower()]
        order = {"little": "<", "big": ">"}[fields.get("endian", "little").lower()]
        encoding = fields["encoding"].lower()
        lead, affine, warnings = _nrrd_geometry(fields, len(shape))
    except (KeyError, ValueError, IndexError) as error:
        msg = f"{path.name}: the NRRD header is damaged ({error}). Export the image again."
        raise VolumeError(msg) from error
    if encoding in {"gzip", "gz"}:
        stream.inflate()
    elif encoding != "raw":
        msg = f"{path.name}: NRRD encoding {encoding!r} is not read. Save it with gzip or raw."
        raise VolumeError(msg)
    if lead and not layers:
        msg = f"{path.name}: expected one number per voxel, found {shape[0]}. Export one volume."
        raise VolumeError(msg)
    spatial = checked_shape(path.name, shape[1:] if lead else shape)
    full = (shape[0], *spatial) if lead else spatial
    voxels = _voxels(path.name, stream, full, np.dtype(order + code))
    return StoredImage(
        voxels if lead or not layers else voxels[None],
        checked_affine(path.name, affine),
        warnings=warnings,
        sha256=stream.close(),
        header=texts,
    )


def _nrrd_header(name: str, stream: HashedStream) -> tuple[dict[str, str], dict[str, str]]:
    """Split the header into its fields (`a: b`) and its key/value pairs (`a:=b`)."""
    fields: dict[str, str] = {}
    texts: dict[str, str] = {}
    stream.read_line()
    while line := stream.read_line():
        text = line.decode("utf-8", "replace").rstrip("\r\n")
        if not text:
            return fields, texts
        if text.startswith("#"):
            continue
        key, separator, value = text.partition(":=")
        if separator:
            texts[_unescaped(key)] = _unescaped(value)
            continue
        key, separator, value = text.partition(":")
        fields[key.strip().lower()] = value.strip()
    msg = f"{name}: truncated inside the header. Copy or export the file again."
    raise VolumeError(msg)


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", lambda found: "\n" if found[1] == "n" else found[1], text)


def _nrrd_geometry(
    fields: Mapping[str, str], dimension: int
) -> tuple[bool, FloatArray, tuple[str, ...]]:
    """Tell whether the first axis is no spatial one, and compute the affine."""
    vector = r"none|\([^)]*\)"
    kinds = fields.get("kinds", "").lower().split()
    if "space directions" not in fields:
        lead = dimension == 4 and bool(kinds) and kinds[0] not in {"domain", "space"}
        spacings = [float(s) for s in fields.get("spacings", "").split()][int(lead) :]
        affine = np.diag([*(spacings + [1.0] * 3)[:3], 1.0])
        return lead, LPS_TO_RAS @ affine, (_NO_ORIENTATION.format("NRRD"),)
    directions = re.findall(vector, fields["space directions"].lower())
    lead = directions[0] == "none"
    axes = [_numbers(text) for text in directions if text != "none"][:3]
    affine = np.eye(4)
    affine[:3, :3] = np.transpose([axis[:3] for axis in axes])
    if "space origin" in fields:
        affine[:3, 3] = _numbers(fields["space origin"])[:3]
    to_ras = _NRRD_SPACES.get(fields.get("space", "").lower())
    if to_ras is None:
        return lead, LPS_TO_RAS @ affine, (_NO_ORIENTATION.format("NRRD"),)
    return lead, to_ras @ affine, ()


def _numbers(text: str) -> list[float]:
    return [float(number) for number in text.strip("() ").split(",")]


def read_meta(path: Path) -> StoredImage:
    """Read a MetaImage: .mha, or .mhd with its voxels in one file of the same folder.

    Raises:
        VolumeError: if the file is damaged, truncated, not MetaImage or not one 3-D volume.
    """
    stream = HashedStream(path)
    fields: dict[str, str] = {}
    while "ElementDataFile" not in fields:
        line = stream.read_line()
        key, separator, value = line.decode("utf-8", "replace").partition("=")
        if not separator:
            msg = f"{path.name}: not a MetaImage. Export the CT as .nii.gz, .nrrd or DICOM."
            raise VolumeError(msg)
        fields[key.strip()] = value.strip()
    try:
        shape = tuple(int(n) for n in fields["DimSize"].split())
        channels = int(fields.get("ElementNumberOfChannels", "1"))
        big = fields.get("BinaryDataByteOrderMSB", fields.get("ElementByteOrderMSB", "False"))
        dtype = np.dtype((">" if _true(big) else "<") + _META_DTYPES[fields["ElementType"]])
        affine, warnings = _meta_geometry(fields, len(shape))
        skip = int(fields.get("HeaderSize", "0"))
    except (KeyError, ValueError) as error:
        msg = f"{path.name}: the MetaImage header is damaged ({error}). Export the image again."
        raise VolumeError(msg) from error
    if channels != 1:
        msg = f"{path.name}: expected one number per voxel, found {channels}. Export one volume."
        raise VolumeError(msg)
    if not _true(fields.get("BinaryData", "True")) or skip:
        msg = f"{path.name}: a MetaImage of text or with a foreign header. Save it as .mha again."
        raise VolumeError(msg)
    shape = checked_shape(path.name, shape)
    target = fields["ElementDataFile"]
    if target != "LOCAL":
        stream = _beside(path, target, stream)
    if _true(fields.get("CompressedData", "False")):
        stream.inflate()
    voxels = _voxels(path.name, stream, shape, dtype)
    return StoredImage(
        voxels, checked_affine(path.name, affine), warnings=warnings, sha256=stream.close()
    )


def _beside(path: Path, target: str, header: HashedStream) -> HashedStream:
    """Open the voxel file of a .mhd; a plain name in the same folder and nothing else."""
    first = target.split()[0] if target.isprintable() and target.split() else "LIST"
    if first == "LIST" or "%" in target or Path(target).name != target:
        msg = (
            f"{path.name}: its voxels must lie in one file of the same folder. "
            "Save it as one .mha file."
        )
        raise VolumeError(msg)
    require_file(path.with_name(target))
    header.close()
    return HashedStream(path.with_name(target), header.sha256)


def _true(text: str) -> bool:
    return text.strip().lower() in {"true", "1", "t"}


def _meta_geometry(fields: Mapping[str, str], dimension: int) -> tuple[FloatArray, tuple[str, ...]]:
    def numbers(*names: str) -> list[float] | None:
        for name in names:
            if name in fields:
                return [float(number) for number in fields[name].split()]
        return None

    spacing = numbers("ElementSpacing", "ElementSize") or [1.0] * dimension
    directions = numbers("TransformMatrix", "Orientation", "Rotation")
    origin = numbers("Offset", "Position", "Origin") or [0.0] * dimension
    # rows of the text are the axes: (axis, component)
    matrix = np.reshape(directions or np.eye(dimension).ravel().tolist(), (dimension, dimension))
    affine = np.eye(4)
    affine[:3, :3] = matrix[:3, :3].T * np.asarray(spacing[:3])
    affine[:3, 3] = origin[:3]
    known = directions is not None
    return LPS_TO_RAS @ affine, () if known else (_NO_ORIENTATION.format("MetaImage"),)


def _voxels(
    name: str, stream: HashedStream, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> np.ndarray[Any, Any]:
    try:
        voxels = np.empty(math.prod(shape), dtype)
    except (MemoryError, ValueError, OverflowError) as error:
        msg = f"{name}: shape {shape} does not fit into memory; the header seems damaged."
        raise VolumeError(msg) from error
    got = stream.read_into(voxels.view(np.uint8).data)
    if got < voxels.nbytes:
        msg = (
            f"{name}: truncated: {got} of {voxels.nbytes} bytes of voxels are there. "
            "Copy or export the file again."
        )
        raise VolumeError(msg)
    return voxels.reshape(shape, order="F")


def write_nrrd(volume: Volume, path: Path, texts: Mapping[str, str] | None = None) -> None:
    """Write a volume with its own type as NRRD, gzip level 1.

    Args:
        volume: any integers of up to 32 bits, or floats.
        path: replaced only by a complete file.
        texts: key/value pairs of the header, such as those of Slicer's segmentations.

    Raises:
        OutputError: if the file cannot be written.
    """
    affine = LPS_TO_RAS @ volume.affine
    vectors = [f"({','.join(repr(float(x)) for x in column)})" for column in affine[:3].T]
    lines = [
        "NRRD0004",
        f"type: {_NRRD_NAMES[volume.voxels.dtype.str[1:]]}",
        "dimension: 3",
        "space: left-posterior-superior",
        f"sizes: {' '.join(str(n) for n in volume.voxels.shape)}",
        f"space directions: {' '.join(vectors[:3])}",
        "kinds: domain domain domain",
        "endian: little",
        "encoding: gzip",
        f"space origin: {vectors[3]}",
        *(f"{_escaped(key)}:={_escaped(value)}" for key, value in (texts or {}).items()),
    ]
    little = volume.voxels.dtype.newbyteorder("<")
    with atomic_file(path) as file:
        file.write(("\n".join(lines) + "\n\n").encode())
        with gzip.GzipFile(
            filename="", mode="wb", compresslevel=1, fileobj=file, mtime=0
        ) as packed:
            packed.write(np.ascontiguousarray(volume.voxels.T, dtype=little).data.cast("B"))


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")
