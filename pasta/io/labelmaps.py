"""Labelmaps and float maps in files: NIfTI, NRRD and Slicer's .seg.nrrd."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pasta.errors import LabelError, OutputError
from pasta.geometry import Volume
from pasta.io.checks import slabs
from pasta.io.files import require_file
from pasta.io.itk import read_nrrd, write_nrrd
from pasta.io.nifti import write_nifti
from pasta.io.stored import read_stored
from pasta.labels import LABELS, Code, Label

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from pasta.geometry import Grid
    from pasta.io.checks import StoredImage

SEGMENTATION_SUFFIX = ".seg.nrrd"
_SEGMENT_KEY = re.compile(r"Segment(\d+)_")
_GRID_TOLERANCE_MM = 0.05  # NIfTI stores affines in single precision
_OFF_VOXELS = 0.02
_CONTEXT = "Segmentation category and type - 3D Slicer General Anatomy list"
_REGION_CONTEXT = "Anatomic codes - DICOM master list"
_LABELS = {label.value: label for label in LABELS}


def read_labelmap(
    path: Path, reference: Grid | None = None, *, highest: int = len(LABELS)
) -> Volume:
    """Read a labelmap with the label values of `pasta.labels`.

    The segments of a .seg.nrrd (from Slicer or from here) are known by their name, ID or terminology,
    whatever their label values and layers; lesions lie over organs, and among equals the higher label
    value wins. A .seg.nrrd that was cropped to its segments is put back into the reference grid.

    Args:
        path: .nii, .nii.gz, .nrrd, .seg.nrrd, .mha or .mhd.
        reference: grid that the labelmap must lie on.
        highest: label value allowed in files that name no segments.

    Returns:
        uint8 labelmap (uint16 if `highest` is above 255).

    Raises:
        VolumeError: if the file cannot be read as one 3-D image.
        LabelError: if a value or a segment is unknown, or the grid is not that of the reference.
    """
    path = Path(path)
    if path.name.lower().endswith(".nrrd"):
        require_file(path)
        image = read_nrrd(path, layers=True)
        segments = _segments(image.header)
        if segments:
            voxels: NDArray[Any] = _merged(path.name, image, segments)
        else:
            if len(image.voxels) != 1:
                msg = f"{path.name}: {len(image.voxels)} layers without segment names. Export one."
                raise LabelError(msg)
            voxels = _checked_values(path.name, image.voxels[0], highest)
    else:
        image = read_stored(path)
        segments = []
        scaled = image.slope != 1 or image.intercept != 0
        stored = image.voxels * image.slope + image.intercept if scaled else image.voxels
        voxels = _checked_values(path.name, stored, highest)
    labelmap = Volume(voxels, image.affine, warnings=image.warnings, sha256=image.sha256)
    if reference is None or labelmap.grid.matches(reference, _GRID_TOLERANCE_MM):
        return labelmap
    placed = _placed(labelmap, reference) if segments else None
    if placed is None:
        msg = (
            f"{path.name}: {_difference(labelmap.grid, reference)} Export it on the grid of the CT."
        )
        raise LabelError(msg)
    return placed


def _checked_values(name: str, voxels: NDArray[Any], highest: int) -> NDArray[Any]:
    if voxels.dtype.kind not in "iufb":
        msg = f"{name}: expected one label value per voxel, found {voxels.dtype}."
        raise LabelError(msg)
    low, high = float(voxels.min()), float(voxels.max())
    whole = voxels.dtype.kind in "iub" or (
        np.isfinite(low) and np.isfinite(high) and np.array_equal(voxels, np.rint(voxels))
    )
    if not whole:
        msg = (
            f"{name}: a labelmap holds whole numbers; this one has fractions or NaN. Export labels."
        )
        raise LabelError(msg)
    if low < 0 or high > highest:
        msg = f"{name}: label values go from {low:g} to {high:g}, expected 0 to {highest}."
        raise LabelError(msg)
    return voxels.astype(np.uint8 if highest < 256 else np.uint16, order="K", copy=False)


@dataclass(frozen=True, slots=True)
class _Segment:
    """One segment of a .seg.nrrd header."""

    name: str
    identifier: str
    layer: int
    value: int
    terminology: str


def _segments(header: Mapping[str, str]) -> list[_Segment]:
    numbers = {int(found[1]) for key in header if (found := _SEGMENT_KEY.match(key))}
    segments = []
    for number in sorted(numbers):
        field = {
            key: header.get(f"Segment{number}_{key}", "")
            for key in ("Name", "ID", "Layer", "LabelValue", "Tags")
        }
        if not field["ID"] and not field["Name"]:
            continue
        tags = dict(tag.split(":", 1) for tag in field["Tags"].split("|") if ":" in tag)
        # before 4.11, Slicer wrote one layer for each segment and no numbers
        segments.append(
            _Segment(
                name=field["Name"],
                identifier=field["ID"],
                layer=int(field["Layer"] or number),
                value=int(field["LabelValue"] or 1),
                terminology=tags.get("TerminologyEntry", ""),
            )
        )
    return segments


def _merged(name: str, image: StoredImage, segments: list[_Segment]) -> NDArray[np.uint8]:
    """Bring the segments of all layers into one labelmap of our label values."""
    merged = np.zeros_like(image.voxels[0], dtype=np.uint8)
    found: list[tuple[Label, _Segment]] = []
    unknown = []
    for segment in segments:
        if segment.layer >= len(image.voxels):
            msg = (
                f"{name}: a segment names layer {segment.layer}, which is not there. Save it again."
            )
            raise LabelError(msg)
        label = _label_of_segment(segment)
        if label is not None:
            found.append((label, segment))
        elif np.any(image.voxels[segment.layer] == segment.value):
            unknown.append((segment.name or segment.identifier)[:40])
    if unknown:
        msg = (
            f"{name}: unknown segments: {', '.join(map(repr, unknown))}. Name them as PASTA's labels, "
            f"such as {LABELS[1].title!r} or {LABELS[11].name!r}."
        )
        raise LabelError(msg)
    for label, segment in sorted(found, key=lambda item: item[0].value):
        merged[image.voxels[segment.layer] == segment.value] = label.value
    return merged


def _label_of_segment(segment: _Segment) -> Label | None:
    for text in (segment.name, segment.identifier):
        label = _BY_WORDS.get(_words(text))
        if label is not None:
            return label
    parts = [part.split("^") for part in segment.terminology.split("~")]
    if len(parts) < 6 or len(parts[2]) < 2:
        return None
    region = parts[5][1] if len(parts[5]) > 1 else ""
    for label in LABELS:
        wanted = label.region.value if label.region else ""
        if parts[2][:2] == [label.type.scheme, label.type.value] and region == wanted:
            return label
    return None


def _words(text: str) -> str:
    plain = re.sub(r"[^a-z0-9]+", " ", text.lower()).strip()
    return plain.replace("tumour", "tumor").replace("oesophag", "esophag")


_BY_WORDS = {_words(text): label for label in LABELS for text in (label.name, label.title)}


def _difference(found: Grid, wanted: Grid) -> str:
    """Say in a sentence how two grids differ."""
    if found.shape != wanted.shape:
        return f"the labelmap has {found.shape} voxels, its CT {wanted.shape}."
    if found.axcodes != wanted.axcodes:
        return f"the axes of the labelmap point {found.axcodes}, those of its CT {wanted.axcodes}."
    spacing, expected = np.asarray(found.spacing_mm), np.asarray(wanted.spacing_mm)
    if not np.allclose(spacing, expected, rtol=1e-3):
        return f"the labelmap has a spacing of {spacing.round(4)} mm, its CT {expected.round(4)}."
    shift = np.linalg.norm(found.affine[:3, 3] - wanted.affine[:3, 3])
    if shift > _GRID_TOLERANCE_MM:
        return f"the first voxel of the labelmap lies {shift:.2f} mm from that of its CT."
    return "the axes of the labelmap are turned against those of its CT."


def _placed(labelmap: Volume, reference: Grid) -> Volume | None:
    """Put a cropped labelmap into its reference grid; None if it does not lie on its voxels."""
    if not np.allclose(labelmap.affine[:3, :3], reference.affine[:3, :3], atol=1e-4):
        return None
    offset = np.linalg.inv(reference.affine) @ labelmap.affine[:, 3]
    start = np.rint(offset[:3]).astype(int)
    if np.abs(offset[:3] - start).max() > _OFF_VOXELS:
        return None
    shape = np.asarray(labelmap.voxels.shape)
    low = np.maximum(start, 0)
    high = np.minimum(start + shape, reference.shape)
    if np.any(low >= high):
        return None
    inside = tuple(slice(a, b) for a, b in zip(low - start, high - start, strict=True))
    if np.count_nonzero(labelmap.voxels) != np.count_nonzero(labelmap.voxels[inside]):
        return None
    voxels = np.zeros(reference.shape, labelmap.voxels.dtype, order="F")
    voxels[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = labelmap.voxels[inside]
    return replace(labelmap, voxels=voxels, affine=reference.affine.copy())


def write_labelmap(labelmap: Volume, path: Path, names: Mapping[int, str] | None = None) -> None:
    """Write a labelmap as uint8: .nii.gz, .nii, .nrrd, or .seg.nrrd with a segment for each label.

    Args:
        labelmap: integers 0-255.
        path: replaced only by a complete file; gzip level 1.
        names: segment names for label values, those of `pasta.labels` by default; a value named here
            becomes a segment even where no voxel has it.

    Raises:
        LabelError: if a value is not a whole number of 0-255.
        OutputError: if the file cannot be written or the suffix is unknown.
    """
    voxels = _as_uint8(labelmap.voxels)
    volume = replace(labelmap, voxels=voxels)
    if not path.name.endswith(SEGMENTATION_SUFFIX):
        _write(volume, path)
        return
    present: set[int] = set()
    for slab in slabs(voxels):
        present.update(np.flatnonzero(np.bincount(slab[slab != 0])).tolist())
    write_nrrd(
        volume, path, _segment_fields(volume, sorted(present | set(names or ())), names or {})
    )


def write_image(volume: Volume, path: Path) -> None:
    """Write a float map, such as an evidence map, as float32: .nrrd, .nii.gz or .nii.

    Raises:
        OutputError: if the file cannot be written or the suffix is unknown.
    """
    _write(replace(volume, voxels=np.asarray(volume.voxels, dtype=np.float32)), path)


def _write(volume: Volume, path: Path) -> None:
    if path.name.endswith((".nii", ".nii.gz")):
        write_nifti(volume, path)
    elif path.name.endswith(".nrrd"):
        write_nrrd(volume, path)
    else:
        msg = f"{path}: cannot be written as {path.suffix!r}. Choose .nii.gz, .nrrd or .seg.nrrd."
        raise OutputError(msg)


def _as_uint8(voxels: NDArray[Any]) -> NDArray[np.uint8]:
    if voxels.dtype == np.uint8:
        return voxels
    if voxels.dtype.kind not in "iub" or (
        voxels.size and not 0 <= voxels.min() <= voxels.max() < 256
    ):
        msg = f"a labelmap holds whole numbers of 0-255; this one is {voxels.dtype}."
        raise LabelError(msg)
    return voxels.astype(np.uint8, order="K")


def _segment_fields(volume: Volume, values: list[int], names: Mapping[int, str]) -> dict[str, str]:
    """Header fields of Slicer's vtkMRMLSegmentationStorageNode, one layer."""
    i, j, k = volume.voxels.shape
    extent = f"0 {i - 1} 0 {j - 1} 0 {k - 1}"
    matrix = ";".join(repr(float(x)) for x in volume.affine.ravel())
    geometry = f"{matrix};{extent.replace(' ', ';')};"
    fields: dict[str, str] = {}
    for index, value in enumerate(values):
        label = _LABELS.get(value)
        title = names.get(value) or (label.title if label else f"Segment_{value}")
        color = label.color if label else (128, 174, 128)
        prefix = f"Segment{index}_"
        fields[prefix + "ID"] = label.name if label else f"Segment_{value}"
        fields[prefix + "Name"] = title
        fields[prefix + "NameAutoGenerated"] = "0"
        fields[prefix + "Color"] = " ".join(f"{channel / 255:.6g}" for channel in color)
        fields[prefix + "ColorAutoGenerated"] = "0"
        fields[prefix + "LabelValue"] = str(value)
        fields[prefix + "Layer"] = "0"
        # the whole grid: Slicer crops a layer, all its segments, to the extent of the first of them
        fields[prefix + "Extent"] = extent
        fields[prefix + "Tags"] = f"TerminologyEntry:{_terminology(label)}|" if label else "|"
    fields["Segmentation_MasterRepresentation"] = "Binary labelmap"
    fields["Segmentation_ContainedRepresentationNames"] = "Binary labelmap|"
    fields["Segmentation_ReferenceImageExtentOffset"] = "0 0 0"
    fields["Segmentation_ConversionParameters"] = (
        f"Reference image geometry|{geometry}|Image geometry description string determining the "
        "geometry of the labelmap that is created in course of conversion.&"
    )
    return fields


def _terminology(label: Label) -> str:
    """Slicer's TerminologyEntry: context~category~type~modifier~context~region~modifier."""

    def coded(code: Code | None) -> str:
        return f"{code.scheme}^{code.value}^{code.meaning}" if code else "^^"

    parts = (_CONTEXT, coded(label.category), coded(label.type), coded(None), _REGION_CONTEXT)
    return "~".join((*parts, coded(label.region), coded(None)))
