"""DICOM SEG: a labelmap as coded binary segments on the frames of its CT series, and back."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import highdicom as hd
import numpy as np
import pydicom
from highdicom.seg import Segmentation, SegmentDescription
from skimage.color import rgb2lab

from pasta import __version__
from pasta.dicom.segments import Segment, on_grid, parted
from pasta.dicom.source import (
    AI_FAMILY,
    MANUFACTURER,
    SEGMENTATION_SERIES,
    coded,
    model_text,
    uid_of,
    utf8,
)
from pasta.errors import DicomError
from pasta.geometry import Volume
from pasta.labels import LABELS, Label

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from pasta.dicom.source import Source
    from pasta.dicom.statements import Lesion
    from pasta.geometry import FloatArray, Grid

_SEG = "1.2.840.10008.5.1.4.1.1.66.4"
_SAME_MM = 0.05
_LPS_TO_RAS = np.diag([-1.0, -1, 1, 1])


@dataclass(frozen=True, slots=True, eq=False)
class SegObject:
    """A SEG with what a report needs to refer to its segments.

    Attributes:
        dataset: to be saved or sent; names the patient.
        segments: in the order of their numbers.
    """

    dataset: pydicom.Dataset
    segments: Sequence[Segment]

    def of_lesion(self, lesion: Lesion) -> Segment | None:
        """Find the segment of a lesion, else one of its label; None where the mask has neither."""
        same = [segment for segment in self.segments if segment.label == lesion.label]
        own = [segment for segment in same if segment.lesion == lesion.number]
        rest = [segment for segment in same if segment.lesion is None]
        return next(iter(own or rest), None)


def segmentation(
    labelmap: Volume,
    source: Source,
    *,
    lesions: Sequence[Lesion] = (),
    models: Sequence[Mapping[str, Any]] = (),
    reader: str = "",
) -> SegObject:
    """Make a DICOM SEG (BINARY) of a labelmap.

    Segments lie on the frames of the source series, empty frames are left out. Organs and lesion types
    are coded as in `pasta.labels`; each lesion of the report is a segment with a tracking ID and UID.

    Args:
        labelmap: (I, J, K) label values of `pasta.labels`, on the grid of the series in any order of
            axes.
        source: the series; the object takes over its patient and study.
        lesions: of the report, if there is one.
        models: that made it, as in `Model.provenance`; none for a mask drawn by hand.
        reader: pseudonym of who drew or corrected it; "" for output of the AI alone.

    Raises:
        LabelError: if the labelmap is empty, has unknown values or another grid.
        DicomError: if the series lacks what a SEG needs.
    """
    placed = on_grid(labelmap, source.grid)
    numbers, segments = parted(placed, lesions)
    small = np.uint8 if len(segments) < 256 else np.uint16  # highdicom makes several copies
    digest = hashlib.sha256(np.asfortranarray(placed.voxels).tobytes(order="F")).hexdigest()
    name, serial = model_text(models)
    key = (source.series_uid, digest, name, serial, reader)
    by = "AI" if models and not reader else "reader"
    try:
        dataset = Segmentation(
            source_images=list(source.images),
            # (frames, rows, columns): the reverse of our axes
            pixel_array=np.ascontiguousarray(numbers.T, dtype=small),
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[
                _description(segment, key, models, reader=bool(reader)) for segment in segments
            ],
            series_instance_uid=uid_of("seg-series", *key),
            series_number=SEGMENTATION_SERIES,
            sop_instance_uid=uid_of(
                "seg", *key, *[(lesion.number, lesion.box) for lesion in lesions]
            ),
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=name[:64],
            software_versions=f"pasta-aid {__version__}",
            device_serial_number=serial,
            content_description=f"{by} segmentation, research use only"[:64],
            content_creator_name=f"{reader}^Reader" if reader else None,
            content_label="PASTA_AID",
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # not chained: values of the series may be in the text
        kind = type(error).__name__
        msg = f"the CT series does not allow a DICOM segmentation ({kind}). Export it again."
        raise DicomError(msg) from None
    dataset.SeriesDescription = f"PASTA-AID segmentation ({by}, research use only)"
    _set_step(dataset, source.grid)
    utf8(dataset)
    return SegObject(dataset, segments)


def _set_step(dataset: pydicom.Dataset, grid: Grid) -> None:
    """Give the true distance of slices; given to highdicom, it would refer to no source image."""
    measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    # as thickness too: readers that know no spacing between slices take that; DS holds 16 characters
    measures.SliceThickness = measures.SpacingBetweenSlices = round(grid.spacing_mm[2], 6)


def _description(
    segment: Segment, key: tuple[str, ...], models: Sequence[Mapping[str, Any]], *, reader: bool
) -> SegmentDescription:
    label = segment.label
    kind = hd.seg.SegmentAlgorithmTypeValues
    algorithm = None
    if models:
        name, serial = model_text(models)
        algorithm = hd.AlgorithmIdentificationSequence(
            name=name[:64],
            family=AI_FAMILY,
            version=serial,
            source=f"pasta-aid {__version__}",
        )
    description = SegmentDescription(
        segment_number=segment.number,
        segment_label=segment.title,
        segmented_property_category=coded(label.category),
        segmented_property_type=coded(label.type),
        algorithm_type=(kind.SEMIAUTOMATIC if reader else kind.AUTOMATIC)
        if models
        else kind.MANUAL,
        algorithm_identification=algorithm,
        tracking_uid=tracking_uid(key[0], segment.lesion) if segment.lesion else None,
        tracking_id=tracking_id(segment.lesion) if segment.lesion else None,
        anatomic_regions=[coded(label.region)] if label.region else None,
    )
    description.RecommendedDisplayCIELabValue = _cielab(label.color)
    return description


def tracking_id(lesion: int) -> str:
    """Name a lesion in SEG and SR alike."""
    return f"PASTA-AID lesion {lesion}"


def tracking_uid(series_uid: str, lesion: int) -> pydicom.uid.UID:
    """UID of a lesion of a series, the same in SEG and SR and in every version of the report."""
    return uid_of("lesion", series_uid, lesion)


def _cielab(color: tuple[int, int, int]) -> list[int]:
    """Colour as DICOM writes it (PS3.3 C.10.7.1.1)."""
    lightness, a, b = rgb2lab(np.array([[color]]) / 255.0)[0, 0]
    return [
        round(x)
        for x in (lightness / 100 * 65535, (a + 128) / 255 * 65535, (b + 128) / 255 * 65535)
    ]


def read_segmentation(path: Path, grid: Grid) -> Volume:
    """Read a DICOM SEG back into a labelmap on the grid of its CT.

    Segments are known by their coded type and region, or by their label, as in `pasta.labels`; where
    they overlap, lesions lie over organs. Works for BINARY segments of other makers too.

    Args:
        path: of the SEG.
        grid: of the CT; the frames must be slices of it, along any of its axes' directions.

    Returns:
        uint8 labelmap.

    Raises:
        DicomError: if the file is no BINARY SEG, a segment is unknown, or a frame lies off the grid.
    """
    try:
        dataset = pydicom.dcmread(path)
        return _labelmap(path.name, dataset, grid)
    except (AttributeError, IndexError, OSError, TypeError, ValueError) as error:
        if isinstance(error, DicomError):
            raise
        kind = type(error).__name__
        msg = f"{path.name}: not a complete DICOM segmentation ({kind}). Export it again."
        raise DicomError(msg) from None


def _labelmap(name: str, dataset: pydicom.Dataset, grid: Grid) -> Volume:
    if dataset.SOPClassUID != _SEG or dataset.SegmentationType != "BINARY":
        msg = f"{name}: no BINARY DICOM segmentation. Export the segments as one."
        raise DicomError(msg)
    labels = {item.SegmentNumber: _label(item) for item in dataset.SegmentSequence}
    unknown = [
        str(item.SegmentLabel)[:40]
        for item in dataset.SegmentSequence
        if labels[item.SegmentNumber] is None
    ]
    if unknown:
        msg = f"{name}: unknown segments: {', '.join(map(repr, unknown))}. Code them as PASTA's labels."
        raise DicomError(msg)
    pixels = _frames(dataset)
    voxels = np.zeros(grid.shape, np.uint8, order="F")
    shared = dataset.SharedFunctionalGroupsSequence[0]
    inverse = np.linalg.inv(grid.affine)
    for frame, group in zip(pixels, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        number = _group(group, shared, "SegmentIdentificationSequence").ReferencedSegmentNumber
        label = labels[number]
        if label is None or not frame.any():
            continue
        rows, columns = np.nonzero(frame)
        at = (
            inverse
            @ _frame_affine(group, shared)
            @ np.array([columns, rows, np.zeros_like(rows), np.ones_like(rows)])
        )
        index = np.rint(at[:3]).astype(int)
        off = np.abs(at[:3] - index).max() * min(grid.spacing_mm)
        if off > _SAME_MM or np.any(index < 0) or np.any(np.array(grid.shape) <= index.T):
            msg = (
                f"{name}: a segment does not lie on the voxels of the CT. Give the series it is of."
            )
            raise DicomError(msg)
        i, j, k = index
        voxels[i, j, k] = np.maximum(voxels[i, j, k], label.value)
    return Volume(voxels, grid.affine)


def _frames(dataset: pydicom.Dataset) -> NDArray[np.uint8]:
    shape = (int(dataset.get("NumberOfFrames") or 1), int(dataset.Rows), int(dataset.Columns))
    bits = np.unpackbits(np.frombuffer(dataset.PixelData, np.uint8), bitorder="little")
    return bits[: int(np.prod(shape))].reshape(shape)


def _group(group: pydicom.Dataset, shared: pydicom.Dataset, name: str) -> pydicom.Dataset:
    item: pydicom.Dataset = (group if name in group else shared)[name].value[0]
    return item


def _frame_affine(group: pydicom.Dataset, shared: pydicom.Dataset) -> FloatArray:
    """(column, row, 0) of a frame to RAS+ mm."""
    turn = np.array(
        _group(group, shared, "PlaneOrientationSequence").ImageOrientationPatient, dtype=float
    )
    spacing = _group(group, shared, "PixelMeasuresSequence").PixelSpacing
    affine = np.eye(4)
    affine[:3, 0] = turn[:3] * float(spacing[1])
    affine[:3, 1] = turn[3:] * float(spacing[0])
    affine[:3, 3] = np.array(
        _group(group, shared, "PlanePositionSequence").ImagePositionPatient, dtype=float
    )
    return _LPS_TO_RAS @ affine


def _label(segment: pydicom.Dataset) -> Label | None:
    kind = segment.SegmentedPropertyTypeCodeSequence[0]
    regions = segment.get("AnatomicRegionSequence")
    region = str(regions[0].CodeValue) if regions else ""
    words = str(segment.get("SegmentLabel", "")).lower()
    for label in LABELS:
        same = (str(kind.CodingSchemeDesignator), str(kind.CodeValue)) == (
            label.type.scheme,
            label.type.value,
        )
        if same and region == (label.region.value if label.region else ""):
            return label
    return next((label for label in LABELS if words in (label.name, label.title.lower())), None)
