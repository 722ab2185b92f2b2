"""Classic DICOM CT series in a folder. Neither names nor UIDs leave this module."""

from __future__ import annotations

import hashlib
import os
import re
import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
import SimpleITK as sitk  # noqa: N813
from pydicom.errors import BytesLengthException, InvalidDicomError

from pasta.errors import VolumeError
from pasta.geometry import Acquisition, Grid
from pasta.io.checks import StoredImage, checked_affine, checked_shape
from pasta.io.files import sha256_of_files
from pasta.io.itk import LPS_TO_RAS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from pasta.geometry import FloatArray

_TAGS = [
    "SOPClassUID", "Modality", "ImageType", "SeriesInstanceUID", "NumberOfFrames",
    "Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "PixelRepresentation",
    "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient",
    "RescaleSlope", "RescaleIntercept",
    "ContrastBolusAgent", "ContrastBolusAgentSequence", "ContrastBolusRoute",
    "ContrastBolusIngredient", "SliceThickness", "ConvolutionKernel",
]  # fmt: skip
_SERIES_UID = (0x0020, 0x000E)
_ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
# pydicom 2 knows no newer syntax and raises when asked whether one is compressed
_PLAIN = {
    pydicom.uid.ImplicitVRLittleEndian,
    pydicom.uid.ExplicitVRLittleEndian,
    pydicom.uid.DeflatedExplicitVRLittleEndian,
    pydicom.uid.ExplicitVRBigEndian,
}
_NOT_GIVEN = re.compile(
    r"^\W*(none|no|non|nc|ncct|n/?a|without|w/o|wo|unenhanced|non[- ]?contrast|native?|plain|0|-)\b",
    re.IGNORECASE,
)
_UNKNOWN = re.compile(r"^\W*(unknown|unspecified|n/?a)?\W*$", re.IGNORECASE)
_INTRAVENOUS = re.compile(
    r"\b(iv|i\.v\.?|intra-?ven\w*|ven\w*|intra-?art\w*|ia)(\b|$)", re.IGNORECASE
)
_ENTERAL = re.compile(r"\b(oral\w*|per os|po|rectal\w*|enteral\w*)\b", re.IGNORECASE)
# positions in files are rounded, often to 0.1 mm or 0.01 mm
# what pydicom raises while it decodes damaged bytes
_DAMAGED = (
    BytesLengthException,
    struct.error,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    OverflowError,
    NotImplementedError,
)
_SAME_MM = 0.01
_OFF_GRID_SLICES = 0.15
_TILT_DEGREES = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class _Slice:
    """Header of one CT image, as far as the volume needs it."""

    path: Path
    header: pydicom.Dataset
    syntax: pydicom.uid.UID
    size: tuple[int, int]
    spacing_mm: tuple[float, float]
    position_lps: FloatArray
    orientation: FloatArray
    rescale: tuple[float, float] | None


def is_dicom_folder(folder: Path) -> bool:
    """Tell whether a folder directly holds at least one DICOM CT image."""
    try:
        return any(_is_ct_image(header) for _, header in _headers(_files(folder)))
    except OSError:  # no folder, or not ours to read
        return False


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """Files of one CT series in the order of the volume that `read_dicom` makes of them.

    Attributes:
        paths: one file per slice, along the third axis of the grid; their names may hold an ID.
        grid: of the volume.
    """

    paths: tuple[Path, ...]
    grid: Grid


def find_series(folder: Path) -> Series:
    """Find the one CT series of a folder as `read_dicom` does, reading headers only.

    Raises:
        VolumeError: as `read_dicom`, pixels aside.
    """
    slices = _one_series(folder.name, folder)
    _refuse_mixed(folder.name, slices)
    slices, affine = _stacked(folder.name, slices)
    shape = (slices[0].size[1], slices[0].size[0], len(slices))
    grid = Grid(checked_affine(folder.name, affine), shape)
    return Series(tuple(item.path for item in slices), grid)


def read_dicom(folder: Path) -> tuple[StoredImage, Acquisition]:
    """Read the one CT series of a folder, slices sorted along their normal.

    Images directly inside count; if there are none, those of the folders below. Localisers,
    structure sets, segmentations and images of other modalities are passed over.

    Raises:
        VolumeError: if there is no CT series or more than one, or its slices do not form a regular
            volume; the message numbers slices along the normal, from 1.
    """
    try:
        return _read(folder)
    except VolumeError:
        raise
    except _DAMAGED as error:  # pydicom decodes an element where it is first looked at
        msg = f"{folder.name}: the header of a slice is damaged. Export the series again."
        raise VolumeError(msg) from error


def _read(folder: Path) -> tuple[StoredImage, Acquisition]:
    name = folder.name
    slices = _one_series(name, folder)
    _refuse_mixed(name, slices)
    slices, affine = _stacked(name, slices)
    checked_shape(name, (slices[0].size[1], slices[0].size[0], len(slices)))
    warnings: tuple[str, ...] = ()
    if slices[0].rescale is None:
        warnings = ("The DICOM series has no rescale slope and intercept; 1 and 0 were taken.",)
    voxels, (slope, intercept) = _pixels(name, slices)
    digests = sorted(sha256_of_files([item.path]) for item in slices)
    image = StoredImage(
        voxels.T,
        checked_affine(name, affine),
        slope=slope,
        intercept=intercept,
        warnings=warnings,
        sha256=hashlib.sha256("".join(digests).encode()).hexdigest(),
    )
    return image, _acquisition(slices[0].header)


def _files(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return sorted(
            Path(entry.path)
            for entry in entries
            if entry.is_file() and not entry.name.startswith(".")
        )


def _headers(paths: Sequence[Path]) -> Iterator[tuple[Path, pydicom.Dataset]]:
    """Read the headers of those files that are DICOM; others are passed over."""
    for path in paths:
        try:
            with path.open("rb") as file:
                start = file.read(132)
                # some archives leave the preamble out; then the first tag is of group 0002 or 0008
                bare = start[:4] in {b"\x08\x00\x05\x00", b"\x08\x00\x08\x00", b"\x02\x00\x00\x00"}
                if start[128:] != b"DICM" and not bare:
                    continue
                file.seek(0)
                header = pydicom.dcmread(
                    file, stop_before_pixels=True, force=bare, specific_tags=[*_TAGS]
                )
        except (InvalidDicomError, OSError, EOFError, *_DAMAGED):
            continue
        yield path, header


def _is_ct_image(header: pydicom.Dataset) -> bool:
    return (
        str(header.get("Modality", "")) == "CT"
        and bool(header.get("Rows"))
        and not str(header.get("SOPClassUID", "")).startswith(_SECONDARY_CAPTURE)
        and "LOCALIZER" not in [str(part).upper() for part in header.get("ImageType") or ()]
    )


def _one_series(name: str, folder: Path) -> list[_Slice]:
    """Find the only CT series, or refuse."""
    try:
        found = list(_headers(_files(folder)))
        if not found:
            below = sorted(Path(root) for root, _, _ in os.walk(folder) if Path(root) != folder)
            found = [item for sub in below for item in _headers(_files(sub))]
    except OSError as error:
        msg = f"{name}: cannot be read ({error.strerror}). Check its permissions."
        raise VolumeError(msg) from error
    if not found:
        msg = f"{name}: no DICOM file inside. Give a folder of one CT series, or a .nii.gz file."
        raise VolumeError(msg)
    series: dict[bytes, list[tuple[Path, pydicom.Dataset]]] = {}
    for path, header in found:
        if _is_ct_image(header):
            series.setdefault(_series_key(header), []).append((path, header))
    if not series:
        kinds = Counter(re.sub(r"\W", "", str(h.get("Modality", "")))[:8] or "?" for _, h in found)
        text = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        msg = f"{name}: no CT image inside, found {text} (localisers not counted as images). "
        raise VolumeError(msg + "Give a folder of one CT series.")
    for images in series.values():
        if any(_is_multi_frame(header) for _, header in images):
            msg = (
                f"{name}: multi-frame (enhanced) CT is not read. Export it as classic CT images, "
                "one file per slice."
            )
            raise VolumeError(msg)
    # an image alone is no volume: a dose report or a single reference slice beside the series
    volumes = [images for images in series.values() if len(images) > 1]
    if not volumes:
        msg = f"{name}: expected a CT series, found a single slice. Export the whole series."
        raise VolumeError(msg)
    if len(volumes) > 1:
        sizes = ", ".join(str(n) for n in sorted((len(v) for v in volumes), reverse=True))
        msg = (
            f"{name}: holds {len(volumes)} CT series (of {sizes} images). "
            "Give one folder with the one series that is meant."
        )
        raise VolumeError(msg)
    return [_slice(name, path, header) for path, header in volumes[0]]


def _series_key(header: pydicom.Dataset) -> bytes:
    """UID as raw bytes: pydicom then has no value to complain of in a log."""
    if _SERIES_UID not in header:
        return b""
    raw = header.get_item(_SERIES_UID)
    return raw.value if isinstance(raw.value, bytes) else str(raw.value).encode()


def _is_multi_frame(header: pydicom.Dataset) -> bool:
    return (
        str(header.get("SOPClassUID", "")) == _ENHANCED_CT
        or int(header.get("NumberOfFrames") or 1) > 1
    )


def _slice(name: str, path: Path, header: pydicom.Dataset) -> _Slice:
    try:
        slope, intercept = header.get("RescaleSlope"), header.get("RescaleIntercept")
        rescale = None
        if slope is not None or intercept is not None:
            rescale = (float(1 if slope is None else slope), float(intercept or 0))
        item = _Slice(
            path=path,
            header=header,
            syntax=getattr(
                getattr(header, "file_meta", None),
                "TransferSyntaxUID",
                pydicom.uid.ImplicitVRLittleEndian,
            ),
            size=(int(header.Rows), int(header.Columns)),
            spacing_mm=(float(header.PixelSpacing[0]), float(header.PixelSpacing[1])),
            position_lps=np.array([float(x) for x in header.ImagePositionPatient]),
            orientation=np.array([float(x) for x in header.ImageOrientationPatient]),
            rescale=rescale,
        )
    except (AttributeError, TypeError, ValueError, IndexError) as error:
        msg = (
            f"{name}: a slice has no position, orientation or pixel spacing. "
            "Export the original CT series."
        )
        raise VolumeError(msg) from error
    unit = item.position_lps.shape == (3,) and item.orientation.shape == (6,)
    if unit:
        row, column = item.orientation[:3], item.orientation[3:]
        unit = np.allclose([row @ row, column @ column, row @ column], [1, 1, 0], atol=1e-3)
    if not unit:
        msg = f"{name}: a slice has no valid position or orientation. Export the series again."
        raise VolumeError(msg)
    if int(header.get("SamplesPerPixel", 1)) != 1:
        msg = f"{name}: colour images are not CT values. Export the original CT series."
        raise VolumeError(msg)
    return item


def _refuse_mixed(name: str, slices: Sequence[_Slice]) -> None:
    """Refuse slices that do not belong to one volume."""
    first = slices[0]
    sizes = Counter(item.size for item in slices)
    if len(sizes) > 1:
        text = ", ".join(f"{n} of {c} x {r}" for (r, c), n in sizes.most_common())
        msg = f"{name}: slices of several sizes in one series ({text}). Give one of them alone."
        raise VolumeError(msg)
    turned = sum(not np.allclose(item.orientation, first.orientation, atol=1e-3) for item in slices)
    if turned:
        msg = (
            f"{name}: slices of several orientations in one series ({turned} of {len(slices)} "
            "differ from the first). Give one orientation alone."
        )
        raise VolumeError(msg)
    if not np.allclose([item.spacing_mm for item in slices], first.spacing_mm, rtol=1e-3):
        msg = f"{name}: slices of several pixel spacings in one series. Give one of them alone."
        raise VolumeError(msg)
    rescales = Counter(item.rescale for item in slices)
    if len(rescales) > 1:
        msg = (
            f"{name}: {len(rescales)} different rescale slopes and intercepts in one series. "
            "Export one reconstruction alone."
        )
        raise VolumeError(msg)


def _stacked(name: str, slices: Sequence[_Slice]) -> tuple[list[_Slice], FloatArray]:
    """Sort slices along their normal; refuse what is no regular stack; compute the affine."""
    row, column = slices[0].orientation[:3], slices[0].orientation[3:]
    normal = np.cross(row, column)
    normal = normal / np.linalg.norm(normal)
    ordered = sorted(slices, key=lambda item: float(item.position_lps @ normal))
    positions = np.array([item.position_lps for item in ordered])
    along = positions @ normal
    steps = np.diff(along)
    _refuse_duplicates(name, steps, len(ordered))
    _refuse_tilt(name, positions, normal)
    _refuse_gaps(name, along, steps)
    step = float((along[-1] - along[0]) / (len(ordered) - 1))
    affine = np.eye(4)
    affine[:3, 0] = row * ordered[0].spacing_mm[1]  # along a row the column index grows
    affine[:3, 1] = column * ordered[0].spacing_mm[0]
    affine[:3, 2] = normal * step
    affine[:3, 3] = positions[0]
    return ordered, LPS_TO_RAS @ affine


def _refuse_duplicates(name: str, steps: FloatArray, count: int) -> None:
    twice = np.flatnonzero(steps < _SAME_MM)
    if len(twice):
        msg = (
            f"{name}: {len(twice)} of {count} slices lie where another one lies (first: slice "
            f"{twice[0] + 2}); several phases or a copied file? Give each slice once."
        )
        raise VolumeError(msg)


def _refuse_tilt(name: str, positions: FloatArray, normal: FloatArray) -> None:
    way = positions[-1] - positions[0]
    angle = float(np.rad2deg(np.arccos(np.clip(way @ normal / np.linalg.norm(way), -1, 1))))
    if angle > _TILT_DEGREES:
        msg = (
            f"{name}: the slices are tilted by {angle:.1f} degrees against the direction in which "
            "they are stacked (gantry tilt). Correct the tilt by resampling first."
        )
        raise VolumeError(msg)


def _refuse_gaps(name: str, along: FloatArray, steps: FloatArray) -> None:
    regular = np.linspace(along[0], along[-1], len(along))
    usual = float(np.sort(steps)[(len(steps) - 1) // 2])
    ratios = steps / usual
    off_grid = float(np.abs(along - regular).max()) / usual
    if off_grid <= _OFF_GRID_SLICES and ratios.max() < 1.5:
        return
    wide = np.flatnonzero(ratios > 1.5)
    missing = np.rint(ratios[wide]).astype(int) - 1
    # gaps of whole slices in an otherwise regular stack
    whole = np.all(np.abs(ratios - np.rint(ratios)) < 0.2)
    if len(wide) and whole and len(wide) <= max(1, len(steps) // 3):
        msg = (
            f"{name}: {missing.sum()} slice(s) missing: a gap of {steps[wide[0]]:.2f} mm between "
            f"slices {wide[0] + 1} and {wide[0] + 2} where the spacing is {usual:.2f} mm. "
            "Export the whole series."
        )
        raise VolumeError(msg)
    msg = (
        f"{name}: irregular slice spacing, from {steps.min():.2f} to {steps.max():.2f} mm. "
        "Resample the series to a regular spacing first."
    )
    raise VolumeError(msg)


def _pixels(name: str, slices: Sequence[_Slice]) -> tuple[NDArray[Any], tuple[float, float]]:
    """Decode all slices: (K, J, I) stored values, and the rescaling that is still to be applied."""
    rescale = slices[0].rescale or (1.0, 0.0)
    if all(item.syntax in _PLAIN for item in slices):
        voxels = None
        for number, item in enumerate(slices, 1):
            plane = _plain(name, number, item)
            if voxels is None:
                voxels = np.empty((len(slices), *item.size), plane.dtype.newbyteorder("="))
            elif plane.dtype.newbyteorder("=") != voxels.dtype:
                msg = f"{name}: slices with several pixel types in one series. Export it again."
                raise VolumeError(msg)
            voxels[number - 1] = plane
        if voxels is not None:
            return voxels, rescale
    planes = [_decompressed(name, number, item) for number, item in enumerate(slices, 1)]
    return np.stack(planes), (1.0, 0.0)  # GDCM has applied the rescaling


def _plain(name: str, number: int, item: _Slice) -> NDArray[Any]:
    try:
        data = pydicom.dcmread(item.path, force=True, specific_tags=["PixelData"]).PixelData
        bits = int(item.header.BitsAllocated)
        kind = "iu"[int(item.header.get("PixelRepresentation", 0)) == 0]
        order = ">" if item.syntax == pydicom.uid.ExplicitVRBigEndian else "<"
        dtype = np.dtype(f"{order}{kind}{bits // 8}")
        return np.frombuffer(data, dtype, count=item.size[0] * item.size[1]).reshape(item.size)
    except (AttributeError, EOFError, OSError, TypeError, ValueError):
        # not chained: the text of the cause may hold the path of the slice, and that an ID
        msg = (
            f"{name}: the pixels of slice {number} are missing or truncated. "
            "Copy or export the series again."
        )
        raise VolumeError(msg) from None


def _decompressed(name: str, number: int, item: _Slice) -> NDArray[Any]:
    try:
        reader = sitk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(str(item.path))
        plane: NDArray[Any] = sitk.GetArrayFromImage(reader.Execute())
        return plane.reshape(item.size)
    except (RuntimeError, ValueError):
        # the cause is not chained: its text holds the path of the slice, which may hold an ID
        syntax = item.syntax.name if item.syntax.is_transfer_syntax else "unknown"
        msg = (
            f"{name}: slice {number} cannot be decoded (transfer syntax {syntax}). "
            "Export the series uncompressed."
        )
        raise VolumeError(msg) from None


def _acquisition(header: pydicom.Dataset) -> Acquisition:
    contrast, source = _contrast(header)
    try:
        thickness = float(header.get("SliceThickness") or 0) or None
    except (TypeError, ValueError):
        thickness = None
    kernel = header.get("ConvolutionKernel") or ""
    text = kernel if isinstance(kernel, str) else "/".join(str(part) for part in kernel)
    return Acquisition(contrast, source, thickness, re.sub(r"[^\w+./-]", "", text)[:16])


def _contrast(header: pydicom.Dataset) -> tuple[bool | None, str]:
    """Read from the tags whether contrast agent was given into the vessels."""
    agent = str(header.get("ContrastBolusAgent") or "").strip()
    route = str(header.get("ContrastBolusRoute") or "").strip()
    if _ENTERAL.search(route) and not _INTRAVENOUS.search(route):
        return None, ""  # by mouth only: says nothing of enhancement
    if agent and _NOT_GIVEN.match(agent):
        return False, "ContrastBolusAgent (0018,0010)"
    if not _UNKNOWN.match(agent):
        return True, "ContrastBolusAgent (0018,0010)"
    if route and _NOT_GIVEN.match(route):
        return False, "ContrastBolusRoute (0018,1040)"
    if not _UNKNOWN.match(route):
        return True, "ContrastBolusRoute (0018,1040)"
    if header.get("ContrastBolusAgentSequence"):
        return True, "ContrastBolusAgentSequence (0018,0012)"
    ingredient = str(header.get("ContrastBolusIngredient") or "").strip()
    if not _UNKNOWN.match(ingredient):
        return True, "ContrastBolusIngredient (0018,1048)"
    return None, ""
