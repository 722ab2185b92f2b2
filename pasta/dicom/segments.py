"""A labelmap parted into segments: one for each organ, and one for each lesion that a report describes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from pasta.errors import LabelError
from pasta.geometry import Volume, reoriented
from pasta.labels import LABELS, Label, label_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from pasta.dicom.statements import Lesion
    from pasta.geometry import Grid
    from pasta.report.findings import Box

_GRID_TOLERANCE_MM = 0.05  # NIfTI stores affines in single precision


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment.

    Attributes:
        number: in the SEG, from 1.
        label: what it is.
        lesion: number of the lesion in the report; None for organs and for what no report describes.
        slices: half-open bounds along the third axis of the grid.
    """

    number: int
    label: Label
    lesion: int | None
    slices: tuple[int, int]

    @property
    def title(self) -> str:
        """Name shown to people."""
        return self.label.title if self.lesion is None else f"{self.label.title} {self.lesion}"


def on_grid(labelmap: Volume, grid: Grid) -> Volume:
    """Turn a labelmap to the axes of a grid; voxels are moved, never resampled.

    Raises:
        LabelError: if it is not a labelmap of this grid.
    """
    turned = reoriented(labelmap, grid.axcodes)
    if not turned.grid.matches(grid, _GRID_TOLERANCE_MM):
        msg = (
            f"the labelmap has {turned.voxels.shape} voxels and the CT series {grid.shape}, or they "
            "lie at different places. Give the series that the labelmap was made from."
        )
        raise LabelError(msg)
    return Volume(turned.voxels, grid.affine)


def parted(
    labelmap: Volume, lesions: Sequence[Lesion] = ()
) -> tuple[NDArray[np.uint16], list[Segment]]:
    """Number the segments of a labelmap.

    A lesion of the report is the connected part (26 neighbours, as where reports are made) of its
    label that has its box. What no box fits, such as specks too small to describe, becomes one more
    segment of the label: every voxel of the labelmap is in exactly one segment.

    Args:
        labelmap: label values of `pasta.labels`, on the grid whose axes the boxes count along.
        lesions: of the report.

    Returns:
        (I, J, K) segment number of every voxel, 0 for background; and the segments.

    Raises:
        LabelError: if a value is unknown, or no voxel is labelled.
    """
    voxels = labelmap.voxels
    zones = ndimage.find_objects(voxels.astype(np.uint8, copy=False))
    if len(zones) > len(LABELS):
        label_of(len(zones))  # says which values there are
    wanted: dict[tuple[int, Box], Lesion] = {
        (lesion.label.value, lesion.box): lesion for lesion in lesions if lesion.box
    }
    numbers = np.zeros(voxels.shape, np.uint16, order="F")
    segments: list[Segment] = []

    def add(
        label: Label, lesion: int | None, zone: tuple[slice, ...], mask: NDArray[np.bool_]
    ) -> None:
        number = len(segments) + 1
        numbers[zone][mask] = number
        filled = np.flatnonzero(mask.any(axis=(0, 1))) + zone[2].start
        segments.append(Segment(number, label, lesion, (int(filled[0]), int(filled[-1]) + 1)))

    for value, zone in enumerate(zones, 1):
        if zone is None:
            continue
        label = label_of(value)
        left = voxels[zone] == value
        if any(key[0] == value for key in wanted):
            _part(zone, left, label, wanted, add)
        if left.any():
            add(label, None, zone, left)
    if not segments:
        msg = "the labelmap is empty: a DICOM segmentation needs one labelled voxel or more."
        raise LabelError(msg)
    return numbers, segments


def _part(
    zone: tuple[slice, ...],
    left: NDArray[np.bool_],
    label: Label,
    wanted: Mapping[tuple[int, Box], Lesion],
    add: Callable[[Label, int | None, tuple[slice, ...], NDArray[np.bool_]], None],
) -> None:
    """Take the lesions of a label out of what is left of it."""
    parts, _ = ndimage.label(left, structure=np.ones((3, 3, 3)))
    for number, part in enumerate(ndimage.find_objects(parts), 1):
        box = tuple((o.start + i.start, o.start + i.stop) for o, i in zip(zone, part, strict=True))
        lesion = wanted.get((label.value, box))  # type: ignore[arg-type]
        if lesion is None:
            continue
        mask = parts[part] == number
        left[part][mask] = False
        inner = tuple(slice(start, stop) for start, stop in box)
        add(label, lesion.number, inner, mask)
