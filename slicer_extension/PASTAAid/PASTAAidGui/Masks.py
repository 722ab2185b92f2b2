"""Masks: labelmaps of the server to segments and back, lesion by lesion, voxel by voxel."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from scipy import ndimage
from slicer.i18n import tr as _
from vtk.util.numpy_support import vtk_to_numpy

from pasta.errors import LabelError
from pasta.labels import LABELS, LESIONS, ORGANS, Label, label_named

from . import Terminology
from .FileGrid import (
    Box,
    Turn,
    affineOf,
    sameAffine,
    shapeOf,
    turnBetween,
    turnToFile,
)
from .Views import MASKS_ATTRIBUTE

LABEL_TAG = "PASTAAid.label"
LESION_TAG = "PASTAAid.lesion"
ORIGIN_TAG = "PASTAAid.origin"
ORIGINS = ("ai", "accepted", "reader")
SPECK = 0  # number of the segment that keeps components too small for the report
MIN_VOXELS = 3  # of a lesion in the report; the same as pasta.inference.reporting
MIN_MM3 = 10.0
COARSE_FROM = 4_000_000  # voxels of a lesion zone from which components are sought coarsely first
COARSE = 4
SURROUNDED = 0.5  # share of a lesion's shell that is its organ, from which it lies in that organ
EFFECTS = ("Paint", "Erase", "Threshold", "Scissors", "Islands", "Grow from seeds", "Smoothing")
UNDO_STATES = 10  # each is a copy of the layers
BINARY = "Binary labelmap"


@dataclass(frozen=True)
class LesionSegment:
    """One lesion of a segmentation.

    Attributes:
        segmentId: in the segmentation.
        label: name of the lesion label, such as "liver_tumor".
        number: as in the report.
        voxels: of the segment; 0 for one that was added and not yet painted.
        volumeMl: of those voxels.
        centreRas: centre of mass, RAS mm; None without voxels.
        sizeMm: extent along (z, x, y) as in the report; None without voxels.
        origin: "ai", "accepted" or "reader".
    """

    segmentId: str
    label: str
    number: int
    voxels: int
    volumeMl: float
    centreRas: tuple[float, float, float] | None
    sizeMm: tuple[float, float, float] | None
    origin: str


@dataclass(frozen=True)
class Flattened:
    """What became of the segments in the one-value-a-voxel labelmap.

    Attributes:
        values: label value that each exported segment was written as, by segment id.
        overlapVoxels: voxels that more than one exported segment claims.
        lostVoxels: by segment id, its voxels that carry another value or lie off the CT.
        foreign: names of segments that are none of the 25 labels and were left out.
        merged: ids of lesions of one label that touch, so that the labelmap shows them as one.
        boxes: half-open bounds of each lesion in the labelmap, by number, in the voxel order of the
            file: what a report must say for its lesions to be found again.
    """

    values: dict[str, int]
    overlapVoxels: int
    lostVoxels: dict[str, int]
    foreign: tuple[str, ...] = ()
    merged: tuple[tuple[str, str], ...] = ()
    boxes: dict[int, tuple[tuple[int, int], ...]] = field(default_factory=dict)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences for the reader; empty where nothing was lost."""
        sentences = []
        if self.foreign:
            names = ", ".join(self.foreign)
            sentences.append(_("Not one of the 25 labels, left out: {names}.").format(names=names))
        sentences += [
            _("{segment}: {count} voxels lie under another segment or off the CT.").format(
                segment=segment, count=count
            )
            for segment, count in self.lostVoxels.items()
        ]
        sentences += [
            _("{first} and {second} touch; the labelmap shows them as one lesion.").format(
                first=first, second=second
            )
            for first, second in self.merged
        ]
        return tuple(sentences)


@dataclass
class _Component:
    """One connected part of a lesion label, in voxels of the CT."""

    label: Label
    box: Box
    fileBox: Box  # the same in the voxel order of the file, as in the report
    mask: np.ndarray
    voxels: int
    rank: int  # place of its first voxel when the CT is turned to L, P, S, as the report counts
    number: int = -1


@dataclass
class _Piece:
    """The voxels of one segment on the grid of the CT, cropped."""

    segmentId: str
    label: Label
    box: Box
    mask: np.ndarray
    voxels: int
    off: int  # voxels beyond the CT


class Masks:
    """Reads and writes segmentations; knows labels by the tags of segments, never by names."""

    # ---------------------------------------------------------------- in

    def fromLabelmap(
        self,
        path: Path | str,
        volumeNode: Any,
        report: Mapping[str, Any] | None = None,
        origin: str | None = None,
    ) -> Any:
        """Load a labelmap as a segmentation: a segment per organ and per lesion.

        Args:
            path: NIfTI with label values 0-25 on the grid of the CT; its axes may be turned.
            volumeNode: the CT.
            report: document of the report or of a reader's report; gives lesions their numbers.
                Without it they are numbered by the rule of the report.
            origin: of organs and of lesions the report says nothing of; "accepted" by default for
                a reader's report, "ai" otherwise.

        Returns:
            The segmentation node. Components too small for the report stay in one segment per
            label, without a number, so that no voxel is lost.

        Raises:
            LabelError: if the file cannot be read, is not on the grid or holds other values.
        """
        path = Path(path)
        voxels = _onGrid(path, volumeNode)
        report = report or {}
        byReader = "reader-report" in str(report.get("schema", ""))
        origin = origin or ("accepted" if byReader else "ai")
        highest = int(voxels.max()) if voxels.size else 0
        if highest > LABELS[-1].value or voxels.min() < 0:
            msg = f"{path.name}: found label value {highest}, expected 0-{LABELS[-1].value}."
            raise LabelError(msg)
        zones = _boxesOf(voxels, LABELS[-1].value)
        known = [dict(lesion) for lesion in report.get("lesions", ())]
        components = self._components(voxels, zones, volumeNode)
        _number(components, known, _voxelMm3(volumeNode))

        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", _("Masks"))
        node.SetAttribute(MASKS_ATTRIBUTE, "1")
        node.CreateDefaultDisplayNodes()
        node.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)
        node.SetSourceRepresentationToBinaryLabelmap()
        with slicer.util.NodeModify(node):
            organs = [(organ, zones[organ.value - 1]) for organ in ORGANS if zones[organ.value - 1]]
            if organs:
                self._addOrgans(node, voxels, organs, volumeNode, origin)
            self._addLesions(node, components, volumeNode, known, origin)
        return node

    def _components(
        self, voxels: np.ndarray, zones: Sequence[Box | None], volumeNode: Any
    ) -> list[_Component]:
        toLps, toFile = _turnToLps(volumeNode), turnToFile(volumeNode)
        found = []
        for label in LESIONS:
            zone = zones[label.value - 1]
            if zone is None:
                continue
            for box, mask in _parts(voxels[zone] == label.value):
                whole = _within(zone, box)
                corner = [part.start for part in toLps.box(whole, voxels.shape)]
                first = np.argwhere(toLps.array(mask))[0] + corner
                shape = [voxels.shape[axis] for axis in toLps.axes]
                rank = int(np.ravel_multi_index(tuple(first), shape))
                fileBox = toFile.box(whole, voxels.shape)
                found.append(_Component(label, whole, fileBox, mask, int(mask.sum()), rank))
        return found

    def _addOrgans(
        self,
        node: Any,
        voxels: np.ndarray,
        organs: Sequence[tuple[Label, Box]],
        volumeNode: Any,
        origin: str,
    ) -> None:
        box = _union(zone for _organ, zone in organs)
        image, layer = _image(volumeNode, box, np.uint8)
        part = voxels[box]
        np.multiply(part, part <= ORGANS[-1].value, out=layer, casting="unsafe")
        for organ, _zone in organs:
            _addSegment(node, organ.name, organ, None, origin, image, organ.value)

    def _addLesions(
        self,
        node: Any,
        components: Sequence[_Component],
        volumeNode: Any,
        known: Sequence[Mapping[str, Any]],
        origin: str,
    ) -> None:
        groups: dict[tuple[str, int], list[_Component]] = {}
        for part in sorted(components, key=lambda part: (part.number == SPECK, part.number)):
            groups.setdefault((part.label.name, part.number), []).append(part)
        if not groups:
            return
        # Lesions are a layer of their own: a stroke then need not copy the organs apart.
        box = _union(part.box for part in components)
        kind = np.uint8 if len(groups) < 256 else np.uint16
        image, layer = _image(volumeNode, box, kind)
        layer[:] = 0
        for value, parts in enumerate(groups.values(), start=1):
            for part in parts:
                layer[_inside(part.box, box)][part.mask] = value
        origins = {int(lesion["number"]): _originOf(lesion, origin) for lesion in known}
        for value, (name, number) in enumerate(groups, start=1):
            segmentId = f"{name}_{number}" if number != SPECK else f"{name}_specks"
            _addSegment(
                node,
                segmentId,
                label_named(name),
                number,
                origins.get(number, origin),
                image,
                value,
            )

    # ---------------------------------------------------------------- lesions

    def lesions(self, segmentationNode: Any) -> list[LesionSegment]:
        """List the lesions by number, with what is left of them after editing."""
        segmentation = segmentationNode.GetSegmentation()
        wanted = []
        for segmentId in segmentation.GetSegmentIDs():
            label = _labelOf(segmentation.GetSegment(segmentId))
            number = _numberOf(segmentation.GetSegment(segmentId))
            if label is not None and label.kind == "lesion" and number != SPECK:
                wanted.append((number, segmentId, label))
        places = dict(_cropped(segmentation, [segmentId for _n, segmentId, _l in wanted]))
        found = []
        for number, segmentId, label in sorted(wanted, key=lambda item: item[0]):
            origin = _tag(segmentation.GetSegment(segmentId), ORIGIN_TAG) or "reader"
            place = places.get(segmentId)
            if place is None:
                found.append(
                    LesionSegment(segmentId, label.name, number, 0, 0.0, None, None, origin)
                )
                continue
            mask, start, affine = place
            count = int(mask.sum())
            centre = affine[:3, :3] @ (np.argwhere(mask).mean(axis=0) + start) + affine[:3, 3]
            millilitres = count * abs(float(np.linalg.det(affine[:3, :3]))) / 1000
            ras = tuple(float(value) for value in centre)
            size = _sizeMm(mask.shape, affine)
            found.append(
                LesionSegment(segmentId, label.name, number, count, millilitres, ras, size, origin)
            )
        return found

    def addLesion(self, segmentationNode: Any, label: str, number: int) -> str:
        """Add an empty lesion of the reader's; return its segment id."""
        lesion = label_named(label)
        segmentation = segmentationNode.GetSegmentation()
        segmentId = segmentation.GenerateUniqueSegmentID(f"{lesion.name}_{number}")
        return _addSegment(segmentationNode, segmentId, lesion, number, "reader")

    def deleteLesion(self, segmentationNode: Any, segmentId: str) -> Label | None:
        """Take a lesion out; where its organ surrounds it, its voxels become that organ.

        Returns:
            The organ; None where the organ is not drawn or surrounds less than half of the
            lesion, as with an exophytic one: what lies there then, nobody has said.
        """
        segmentation = segmentationNode.GetSegmentation()
        lesion = _labelOf(_segment(segmentation, segmentId))
        organId = _organOf(segmentation, lesion)
        filled = organId and _filled(segmentation, organId, segmentId)
        segmentation.RemoveSegment(segmentId)
        if not filled:
            return None
        _fill(segmentationNode, organId, filled)
        return label_named(lesion.organ)

    def splitLesion(
        self, segmentationNode: Any, segmentId: str, numbers: Callable[[], int]
    ) -> list[str]:
        """Make every island of a lesion a lesion of its own.

        Args:
            segmentationNode: holds the lesion.
            segmentId: of the lesion; it keeps its number and its largest island.
            numbers: gives a new number each time it is called.

        Returns:
            The ids of all islands, the largest first; one id where there is nothing to split.
        """
        segmentation = segmentationNode.GetSegmentation()
        segment = _segment(segmentation, segmentId)
        label = _labelOf(segment)
        if label is None:
            msg = f"segment {segment.GetName()} is none of the 25 labels; it cannot be split."
            raise LabelError(msg)
        place = dict(_cropped(segmentation, [segmentId])).get(segmentId)
        if place is None:
            return [segmentId]
        mask, start, affine = place
        islands = sorted(_parts(mask), key=lambda part: -int(part[1].sum()))
        if len(islands) < 2:
            return [segmentId]
        matrix = slicer.util.vtkMatrixFromArray(affine)
        ids = [segmentId]
        for box, island in islands[1:]:
            corner = [int(first + part.start) for first, part in zip(start, box, strict=True)]
            image = _placed(island, corner, matrix)
            newId = self.addLesion(segmentationNode, label.name, numbers())
            _fill(segmentationNode, newId, image)
            ids.append(newId)
        box, island = islands[0]
        corner = [int(first + part.start) for first, part in zip(start, box, strict=True)]
        _fill(segmentationNode, segmentId, _placed(island, corner, matrix))
        self.touched(segmentationNode, segmentId)
        return ids

    def accept(self, segmentationNode: Any, segmentId: str) -> None:
        """Note that a reader agrees with a segment of the AI; what a reader drew stays theirs."""
        segment = _segment(segmentationNode.GetSegmentation(), segmentId)
        if _tag(segment, ORIGIN_TAG) == "ai":
            _setOrigin(segment, "accepted")

    def touched(self, segmentationNode: Any, segmentId: str) -> None:
        """Note that a reader changed a segment: it is theirs from now on."""
        segment = _segment(segmentationNode.GetSegmentation(), segmentId)
        if _tag(segment, ORIGIN_TAG) != "reader":
            _setOrigin(segment, "reader")

    # ---------------------------------------------------------------- out

    def toLabelmap(self, segmentationNode: Any, volumeNode: Any, path: Path | str) -> Flattened:
        """Write all organs and lesions, shown or hidden, as one labelmap on the grid of the CT.

        Lesions lie above organs, and the smaller of two lesions (or organs) above the larger, so
        that none disappears below another. The file is read again and compared.

        Raises:
            LabelError: if the segmentation was moved off the CT or the file does not read back.
        """
        path = Path(path)
        segmentation = segmentationNode.GetSegmentation()
        if segmentationNode.GetTransformNodeID() != volumeNode.GetTransformNodeID():
            msg = "masks and CT have different transforms; harden both in the Transforms module."
            raise LabelError(msg)
        ids, foreign = [], []
        for segmentId in segmentation.GetSegmentIDs():
            segment = segmentation.GetSegment(segmentId)
            if _labelOf(segment) is None:
                foreign.append(segment.GetName())
            else:
                ids.append(segmentId)
        shape = shapeOf(volumeNode)
        pieces = list(_piecesOn(segmentation, ids, volumeNode))
        pieces.sort(key=lambda piece: (piece.label.kind == "lesion", -piece.voxels))
        flat = np.zeros(shape, np.uint8, order="F")
        overlap = np.zeros(shape, bool, order="F") if len(pieces) > 1 else None
        for piece in pieces:
            view = flat[piece.box]
            if overlap is not None:
                overlap[piece.box] |= piece.mask & (view != 0)
            view[piece.mask] = piece.label.value
        lost = {}
        for piece in pieces:
            gone = int((flat[piece.box][piece.mask] != piece.label.value).sum()) + piece.off
            if gone:
                lost[piece.segmentId] = gone
        _write(flat, volumeNode, path)
        toFile = turnToFile(volumeNode)
        boxes = {}
        for piece in pieces:
            number = _numberOf(segmentation.GetSegment(piece.segmentId))
            mine = piece.mask & (flat[piece.box] == piece.label.value)
            if piece.label.kind == "lesion" and number > SPECK and mine.any():
                (inner,) = ndimage.find_objects(mine.astype(np.uint8))
                box = toFile.box(_within(piece.box, inner), shape)
                boxes[number] = tuple((int(part.start), int(part.stop)) for part in box)
        values = {
            segmentId: _labelOf(segmentation.GetSegment(segmentId)).value for segmentId in ids
        }
        return Flattened(
            values,
            0 if overlap is None else int(np.count_nonzero(overlap)),
            lost,
            tuple(foreign),
            _touching(pieces),
            boxes,
        )

    def saveDraft(self, segmentationNode: Any, path: Path | str) -> None:
        """Write segments as they are, overlaps, names, tags and colours, to a .seg.nrrd.

        Raises:
            OSError: if the file cannot be written.
        """
        storage = slicer.vtkMRMLSegmentationStorageNode()
        storage.SetFileName(str(path))
        storage.SetUseCompression(True)
        storage.SetCropToMinimumExtent(True)  # the whole CT once a layer took 3 s, this 0.15 s
        if not storage.WriteData(segmentationNode):
            msg = f"{Path(path).name}: the draft could not be written; is the disk full?"
            raise OSError(msg)

    def loadDraft(self, path: Path | str, volumeNode: Any) -> Any:
        """Read a draft again, ready to edit on the CT.

        Raises:
            LabelError: if the file cannot be read.
        """
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", _("Masks"))
        storage = slicer.vtkMRMLSegmentationStorageNode()
        storage.SetFileName(str(path))
        if not Path(path).is_file() or not storage.ReadData(node):
            slicer.mrmlScene.RemoveNode(node)
            msg = f"{Path(path).name}: this draft cannot be read; take an older one."
            raise LabelError(msg)
        node.SetName(_("Masks"))
        node.SetAttribute(MASKS_ATTRIBUTE, "1")
        node.CreateDefaultDisplayNodes()
        node.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)
        return node

    # ---------------------------------------------------------------- editor

    def setUpEditor(self, editorWidget: Any, segmentationNode: Any, volumeNode: Any) -> None:
        """Prepare an embedded segment editor: all others are protected, overlaps are allowed."""
        scene = slicer.mrmlScene
        tag = "PASTAAid"
        editorNode = scene.GetSingletonNode(tag, "vtkMRMLSegmentEditorNode")
        if editorNode is None:
            editorNode = scene.CreateNodeByClass("vtkMRMLSegmentEditorNode")
            editorNode.UnRegister(None)
            editorNode.SetSingletonTag(tag)
            editorNode = scene.AddNode(editorNode)
        # A stroke over a neighbour leaves the neighbour whole: nothing is overwritten, both have it.
        editorNode.SetOverwriteMode(slicer.vtkMRMLSegmentEditorNode.OverwriteNone)
        editorNode.SetMaskMode(slicer.vtkMRMLSegmentationNode.EditAllowedEverywhere)
        editorWidget.setMRMLSegmentEditorNode(editorNode)  # before the scene: else Slicer makes one
        if editorWidget.mrmlScene() is not scene:
            editorWidget.setMRMLScene(scene)
        editorWidget.setSegmentationNodeSelectorVisible(False)
        editorWidget.setSourceVolumeNodeSelectorVisible(False)
        editorWidget.setSwitchToSegmentationsButtonVisible(False)
        editorWidget.setAddRemoveSegmentButtonsVisible(False)
        editorWidget.setMaximumNumberOfUndoStates(UNDO_STATES)
        editorWidget.setEffectNameOrder(list(EFFECTS))
        editorWidget.unorderedEffectsVisible = False
        editorWidget.setSegmentationNode(segmentationNode)
        editorWidget.setSourceVolumeNode(volumeNode)


# -------------------------------------------------------------------- segments


def _addSegment(
    node: Any,
    segmentId: str,
    label: Label,
    number: int | None,
    origin: str,
    image: Any = None,
    value: int = 1,
) -> str:
    segment = slicer.vtkSegment()
    segment.SetColor(*(channel / 255 for channel in label.color))
    segment.SetTag(LABEL_TAG, label.name)
    if number is not None:
        segment.SetTag(LESION_TAG, str(number))
    segment.SetTag(segment.GetTerminologyEntryTagName(), Terminology.entryOf(label))
    segment.NameAutoGeneratedOff()
    segment.ColorAutoGeneratedOff()
    segment.SetTag(ORIGIN_TAG, origin)
    segment.SetName(_titleOf(label, number, origin))
    if image is not None:
        segment.AddRepresentation(BINARY, image)  # the same image for all: one shared layer
        segment.SetLabelValue(value)
    if not node.GetSegmentation().AddSegment(segment, segmentId):
        msg = f"segment {segmentId} could not be added; is there one with this name already?"
        raise LabelError(msg)
    return segmentId


def _titleOf(label: Label, number: int | None, origin: str) -> str:
    title = label.title
    if number == SPECK:
        title = _("{title}, specks").format(title=title)
    elif number is not None:
        title = f"{title} {number}"
    return _marked(title) if origin == "ai" else title


def _marked(title: str) -> str:
    return _("{title} (AI)").format(title=title)


def _setOrigin(segment: Any, origin: str) -> None:
    segment.SetTag(ORIGIN_TAG, origin)
    name, mark = segment.GetName(), _marked("")
    if origin != "ai" and name.endswith(mark):  # renamed ones carry no mark
        segment.SetName(name.removesuffix(mark))


def _segment(segmentation: Any, segmentId: str) -> Any:
    segment = segmentation.GetSegment(segmentId)
    if segment is None:
        msg = f"there is no segment {segmentId!r}; it may have been deleted."
        raise LabelError(msg)
    return segment


def _tag(segment: Any, name: str) -> str:
    text = vtk.reference("")
    return str(text) if segment.GetTag(name, text) else ""


def _labelOf(segment: Any) -> Label | None:
    """Tell a segment's label by our tag, else by its codes (one that was split off by the editor)."""
    name = _tag(segment, LABEL_TAG)
    if name:
        return next((label for label in LABELS if label.name == name), None)
    return Terminology.labelOf(_tag(segment, segment.GetTerminologyEntryTagName()))


def _numberOf(segment: Any) -> int:
    text = _tag(segment, LESION_TAG)
    return int(text) if text.isdigit() else -1


def _organOf(segmentation: Any, lesion: Label | None) -> str:
    """Find the segment of the organ that a lesion belongs to; empty if none is drawn."""
    for segmentId in segmentation.GetSegmentIDs():
        label = _labelOf(segmentation.GetSegment(segmentId))
        if lesion and label and label.kind == "organ" and label.name == lesion.organ:
            return segmentId
    return ""


def _filled(segmentation: Any, organId: str, lesionId: str) -> Any:
    """Make the image of an organ with a lesion that it surrounds; None if it does not."""
    places = dict(_cropped(segmentation, [organId, lesionId]))
    if len(places) < 2:
        return None
    (organ, start, affine), (lesion, corner, other) = places[organId], places[lesionId]
    if not sameAffine(affine, other, lesion.shape):
        return None
    boxes = [
        tuple(slice(int(first), int(first) + n) for first, n in zip(place, mask.shape, strict=True))
        for place, mask in ((start, organ), (corner, lesion))
    ]
    wide = tuple(slice(part.start - 1, part.stop + 1) for part in boxes[1])
    box = _union((boxes[0], wide))
    both = np.zeros([part.stop - part.start for part in box], bool)
    both[_inside(boxes[0], box)] = organ
    near = both[_inside(wide, box)]
    padded = np.pad(lesion, 1)
    shell = ndimage.binary_dilation(padded) & ~padded
    if near[shell].mean() < SURROUNDED:
        return None
    near |= padded
    return _placed(both, [part.start for part in box], slicer.util.vtkMatrixFromArray(affine))


def _fill(node: Any, segmentId: str, image: Any) -> None:
    slicer.vtkSlicerSegmentationsModuleLogic.SetBinaryLabelmapToSegment(image, node, segmentId)


# -------------------------------------------------------------------- numbering


def _number(
    components: Sequence[_Component], known: Sequence[Mapping[str, Any]], voxelMm3: float
) -> None:
    """Number lesions as the report does: by label, largest first; its own numbers where known."""
    for component in components:
        component.number = _reportedAs(component, known)
    least = max(MIN_VOXELS, MIN_MM3 / voxelMm3)
    following = 1 + max((int(lesion["number"]) for lesion in known), default=0)
    rest = [component for component in components if component.number < 0]
    for component in sorted(rest, key=lambda part: (part.label.value, -part.voxels, part.rank)):
        if component.voxels < least:
            component.number = SPECK
        else:
            component.number = following
            following += 1


def _reportedAs(component: _Component, known: Sequence[Mapping[str, Any]]) -> int:
    own = [[part.start, part.stop] for part in component.fileBox]
    around = []
    for lesion in known:
        if lesion.get("label") != component.label.name or not lesion.get("box"):
            continue
        box = [list(bounds) for bounds in lesion["box"]]
        if box == own:
            return int(lesion["number"])
        if all(a[0] <= b[0] and b[1] <= a[1] for a, b in zip(box, own, strict=True)):
            volume = np.prod([stop - start for start, stop in box])
            around.append((int(volume), int(lesion["number"])))
    # An island inside the box of a larger lesion: the report's rule makes it a lesion of its own,
    # unless a reader's report, which has no rule, holds it as part of that lesion.
    if around and any("entries" in lesion or "origin" in lesion for lesion in known):
        return min(around)[1]
    return -1


def _originOf(lesion: Mapping[str, Any], default: str) -> str:
    return "reader" if lesion.get("origin") == "reader" else default


# -------------------------------------------------------------------- voxels


def _parts(mask: np.ndarray) -> list[tuple[Box, np.ndarray]]:
    """Separate connected parts (26 neighbours); each with its box and its mask in that box.

    Far-flung specks make the zone of a label as large as the CT, so large zones are first
    separated on blocks of 4 x 4 x 4 voxels: parts in blocks that do not touch cannot touch.
    """
    cube = np.ones((3, 3, 3))
    if mask.size < COARSE_FROM:
        parts, _count = ndimage.label(mask, structure=cube)
        boxes = ndimage.find_objects(parts)
        return [(box, parts[box] == number) for number, box in enumerate(boxes, start=1)]
    blocks = mask
    for axis in range(3):
        blocks = np.logical_or.reduceat(blocks, np.arange(0, mask.shape[axis], COARSE), axis=axis)
    groups, _count = ndimage.label(blocks, structure=cube)
    found = []
    for group, coarse in enumerate(ndimage.find_objects(groups), start=1):
        zone = tuple(
            slice(part.start * COARSE, min(part.stop * COARSE, n))
            for part, n in zip(coarse, mask.shape, strict=True)
        )
        own = groups[coarse] == group
        for axis in range(3):
            own = own.repeat(COARSE, axis=axis)
        inner = mask[zone]
        inner = inner & own[tuple(slice(n) for n in inner.shape)]
        parts, _count = ndimage.label(inner, structure=cube)
        for number, box in enumerate(ndimage.find_objects(parts), start=1):
            found.append((_within(zone, box), parts[box] == number))
    return found


def _cropped(
    segmentation: Any, ids: Sequence[str]
) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray, np.ndarray]]]:
    """Crop segments to their voxels: mask, first voxel and affine; empty ones are left out."""
    layers: dict[int, tuple[Any, dict[int, str]]] = {}
    for segmentId in ids:
        segment = segmentation.GetSegment(segmentId)
        image = segment.GetRepresentation(BINARY)
        if image is None or image.IsEmpty():
            continue
        layers.setdefault(id(image), (image, {}))[1][segment.GetLabelValue()] = segmentId
    for image, owners in layers.values():
        voxels = _voxelsOf(image)
        start = np.array(image.GetExtent()[::2])
        matrix = vtk.vtkMatrix4x4()
        image.GetImageToWorldMatrix(matrix)
        affine = slicer.util.arrayFromVTKMatrix(matrix)
        boxes = _boxesOf(voxels, max(owners))
        for value, segmentId in owners.items():
            box = boxes[value - 1] if value <= len(boxes) else None
            if box is not None:
                corner = start + [part.start for part in box]
                yield segmentId, (voxels[box] == value, corner, affine)


def _boxesOf(voxels: np.ndarray, highest: int) -> list[Box | None]:
    if voxels.dtype.kind == "f":
        voxels = voxels.astype(np.int32)
    # Voxels lie with i fastest; against that order the same search takes 1 s of a large CT.
    boxes = ndimage.find_objects(voxels.T, max_label=highest)
    return [box and box[::-1] for box in boxes]


def _piecesOn(segmentation: Any, ids: Sequence[str], volumeNode: Any) -> Iterator[_Piece]:
    """Bring segments to the grid of the CT, exactly where they are on it already."""
    grid = affineOf(volumeNode)
    shape = shapeOf(volumeNode)
    for segmentId, (mask, start, affine) in _cropped(segmentation, ids):
        label = _labelOf(segmentation.GetSegment(segmentId))
        if not sameAffine(affine, grid, shape):
            mask, start = _resampled(segmentation, segmentId, volumeNode)
        count = int(mask.sum())
        low = np.maximum(start, 0)
        high = np.minimum(start + mask.shape, shape)
        if count == 0 or (high <= low).any():
            box = (slice(0, 0),) * 3
            yield _Piece(segmentId, label, box, np.zeros((0, 0, 0), bool), 0, count)
            continue
        inner = mask[tuple(slice(a - s, b - s) for a, b, s in zip(low, high, start, strict=True))]
        box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        kept = int(inner.sum())
        yield _Piece(segmentId, label, box, inner, kept, count - kept)


def _resampled(segmentation: Any, segmentId: str, volumeNode: Any) -> tuple[np.ndarray, np.ndarray]:
    """Bring one segment that was drawn on another grid to that of the CT, nearest voxel."""
    reference, _voxels = _image(
        volumeNode, tuple(slice(0, n) for n in shapeOf(volumeNode)), np.uint8
    )
    segment = segmentation.GetSegment(segmentId)
    single = slicer.vtkOrientedImageData()
    single.DeepCopy(segment.GetRepresentation(BINARY))
    own = _voxelsOf(single)
    own[:] = own == segment.GetLabelValue()
    out = slicer.vtkOrientedImageData()
    slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(
        single, reference, out, False, True
    )
    return _voxelsOf(out) > 0, np.array(out.GetExtent()[::2])


def _touching(pieces: Sequence[_Piece]) -> tuple[tuple[str, str], ...]:
    """Find pairs of lesions of one label with neighbouring voxels (26)."""
    lesions = [piece for piece in pieces if piece.label.kind == "lesion" and piece.voxels]
    pairs = []
    for index, one in enumerate(lesions):
        for other in lesions[index + 1 :]:
            if one.label != other.label or not _near(one.box, other.box):
                continue
            box = _union((one.box, other.box))
            both = np.zeros([part.stop - part.start for part in box], np.uint8)
            both[_inside(one.box, box)] += one.mask
            wide = ndimage.binary_dilation(both, structure=np.ones((3, 3, 3)))
            if (wide[_inside(other.box, box)] & other.mask).any():
                pairs.append((one.segmentId, other.segmentId))
    return tuple(pairs)


def _near(one: Box, other: Box) -> bool:
    return all(a.start <= b.stop and b.start <= a.stop for a, b in zip(one, other, strict=True))


def _union(boxes: Iterable[Box]) -> Box:
    boxes = list(boxes)
    return tuple(
        slice(min(box[axis].start for box in boxes), max(box[axis].stop for box in boxes))
        for axis in range(3)
    )


def _within(outer: Box, inner: Box) -> Box:
    return tuple(
        slice(a.start + b.start, a.start + b.stop) for a, b in zip(outer, inner, strict=True)
    )


def _inside(inner: Box, outer: Box) -> Box:
    return tuple(
        slice(a.start - b.start, a.stop - b.start) for a, b in zip(inner, outer, strict=True)
    )


def _turnToLps(volumeNode: Any) -> Turn:
    """Find the voxel axes nearest to L, P, S with their directions; the report counts in these."""
    directions = affineOf(volumeNode)[:3, :3]
    directions = directions / np.linalg.norm(directions, axis=0)
    free = np.abs(directions).copy()
    axes, signs = [0, 0, 0], [1, 1, 1]
    for _step in range(3):
        world, axis = np.unravel_index(int(np.argmax(free)), free.shape)
        axes[world] = int(axis)
        towards = 1 if directions[world, axis] > 0 else -1
        signs[world] = towards if world == 2 else -towards
        free[world, :] = -1
        free[:, axis] = -1
    return Turn(tuple(axes), tuple(signs))


def _sizeMm(shape: Sequence[int], affine: np.ndarray) -> tuple[float, float, float]:
    """Extent of a box along z, x, y, each by the voxel axis nearest to it, as the report does."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    free = np.abs(affine[:3, :3] / spacing)
    extent = [0.0, 0.0, 0.0]
    for _step in range(3):
        world, axis = np.unravel_index(int(np.argmax(free)), free.shape)
        extent[world] = float(shape[axis] * spacing[axis])
        free[world, :] = -1
        free[:, axis] = -1
    return extent[2], extent[0], extent[1]


# -------------------------------------------------------------------- images and files


def _voxelMm3(volumeNode: Any) -> float:
    return abs(float(np.linalg.det(affineOf(volumeNode)[:3, :3])))


def _voxelsOf(image: Any) -> np.ndarray:
    """View the voxels of an image along i, j, k."""
    scalars = vtk_to_numpy(image.GetPointData().GetScalars())
    return scalars.reshape(image.GetDimensions(), order="F")


def _image(volumeNode: Any, box: Box, kind: Any) -> tuple[Any, np.ndarray]:
    """Make an image over a box of the CT; return it with a view of its voxels, not yet set."""
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    return _empty(box, matrix, kind)


def _empty(box: Box, matrix: Any, kind: Any) -> tuple[Any, np.ndarray]:
    image = slicer.vtkOrientedImageData()
    image.SetExtent([bound for part in box for bound in (part.start, part.stop - 1)])
    image.SetImageToWorldMatrix(matrix)
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR if kind == np.uint8 else vtk.VTK_UNSIGNED_SHORT, 1)
    return image, _voxelsOf(image)


def _placed(mask: np.ndarray, corner: Sequence[int], matrix: Any) -> Any:
    box = tuple(slice(first, first + n) for first, n in zip(corner, mask.shape, strict=True))
    image, voxels = _empty(box, matrix, np.uint8)
    voxels[:] = mask
    return image


def _read(path: Path) -> Any:
    """Read a labelmap into a volume node outside the scene: no events, nothing to clean up."""
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetFileName(str(path))
    storage.SetSingleFile(True)
    node = slicer.vtkMRMLLabelMapVolumeNode()
    if not _isWhole(path) or not storage.ReadData(node) or node.GetImageData() is None:
        msg = f"{path.name}: this labelmap cannot be read; fetch it again."
        raise LabelError(msg)
    if node.GetImageData().GetNumberOfScalarComponents() != 1:
        msg = f"{path.name}: expected one value a voxel; save one labelmap per file."
        raise LabelError(msg)
    return node


def _isWhole(path: Path) -> bool:
    """Tell whether a file is there to its end; Slicer's reader takes a torn .gz for empty slices."""
    if not path.is_file():
        return False
    if path.suffix.lower() != ".gz":
        return True
    try:
        with gzip.open(path, "rb") as file:
            while file.read(1 << 24):
                pass
    except (OSError, EOFError, zlib.error):
        return False
    return True


def _onGrid(path: Path, volumeNode: Any) -> np.ndarray:
    """Read a labelmap in the voxel order of the CT; it may be stored with turned axes."""
    node = _read(path)
    voxels = _voxelsOf(node.GetImageData())
    if voxels.dtype.kind == "f":
        whole = voxels.astype(np.int32)
        if (whole != voxels).any():
            msg = f"{path.name}: expected whole label values, found fractions."
            raise LabelError(msg)
        voxels = whole
    affine, shape = affineOf(volumeNode), shapeOf(volumeNode)
    if voxels.shape == shape and sameAffine(affineOf(node), affine, shape):
        return voxels
    turn = turnBetween(affineOf(node), voxels.shape, affine, shape)
    if turn is not None:
        return turn.array(voxels)
    msg = (
        f"{path.name}: has {voxels.shape} voxels elsewhere than the CT with {shape}; "
        "resample it to the CT first."
    )
    raise LabelError(msg)


def _write(voxels: np.ndarray, volumeNode: Any, path: Path) -> None:
    """Write a labelmap in the voxel order of the CT's file and read it back."""
    toFile = turnToFile(volumeNode)
    turned = toFile.array(voxels)
    matrix = slicer.util.vtkMatrixFromArray(toFile.affine(affineOf(volumeNode), voxels.shape))
    image = vtk.vtkImageData()
    image.SetDimensions(turned.shape)
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    _voxelsOf(image)[:] = turned
    node = slicer.vtkMRMLLabelMapVolumeNode()
    node.SetAndObserveImageData(image)
    node.SetIJKToRASMatrix(matrix)
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetFileName(str(path))
    storage.SetUseCompression(True)
    if not storage.WriteData(node):
        msg = f"{path.name}: the labelmap could not be written; is the disk full?"
        raise LabelError(msg)
    try:
        again = _onGrid(path, volumeNode)
    except LabelError as error:
        msg = f"{path.name}: the geometry changed on writing; this format cannot hold the CT's."
        raise LabelError(msg) from error
    if not np.array_equal(again, voxels):
        msg = f"{path.name}: the labelmap reads back differently; the disk may be at fault."
        raise LabelError(msg)
