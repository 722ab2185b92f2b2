"""Masks: labelmaps of the server to segments and back, lesion by lesion, voxel by voxel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import slicer
from scipy import ndimage
from slicer.i18n import tr as _

from pasta.errors import LabelError
from pasta.labels import LABELS, LESIONS, ORGANS, Label, label_named

from .FileGrid import Box, shapeOf, turnToFile
from .Segments import (
    ORIGIN_TAG,
    SPECK,
    addSegment,
    croppedSegments,
    filledOrgan,
    fillSegment,
    labelOf,
    numberOf,
    organOf,
    piecesOn,
    segmentOf,
    setOrigin,
    tagOf,
    touchingPairs,
)
from .Views import MASKS_ATTRIBUTE
from .Voxels import (
    boxesOf,
    connectedParts,
    imageOver,
    insideOf,
    placedImage,
    readOnGrid,
    sizeMm,
    turnToLps,
    unionOf,
    voxelMm3,
    withinBox,
    writeLabelmap,
)

ORIGINS = ("ai", "accepted", "reader")
MIN_VOXELS = 3  # of a lesion in the report; the same as pasta.inference.reporting
MIN_MM3 = 10.0
EFFECTS = ("Paint", "Erase", "Threshold", "Scissors", "Islands", "Grow from seeds", "Smoothing")
UNDO_STATES = 10  # each is a copy of the layers


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
        voxels = readOnGrid(path, volumeNode)
        report = report or {}
        byReader = "reader-report" in str(report.get("schema", ""))
        origin = origin or ("accepted" if byReader else "ai")
        highest = int(voxels.max()) if voxels.size else 0
        if highest > LABELS[-1].value or voxels.min() < 0:
            msg = f"{path.name}: found label value {highest}, expected 0-{LABELS[-1].value}."
            raise LabelError(msg)
        zones = boxesOf(voxels, LABELS[-1].value)
        known = [dict(lesion) for lesion in report.get("lesions", ())]
        components = self._components(voxels, zones, volumeNode)
        _number(components, known, voxelMm3(volumeNode))

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
        toLps, toFile = turnToLps(volumeNode), turnToFile(volumeNode)
        found = []
        for label in LESIONS:
            zone = zones[label.value - 1]
            if zone is None:
                continue
            for box, mask in connectedParts(voxels[zone] == label.value):
                whole = withinBox(zone, box)
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
        box = unionOf(zone for _organ, zone in organs)
        image, layer = imageOver(volumeNode, box, np.uint8)
        part = voxels[box]
        np.multiply(part, part <= ORGANS[-1].value, out=layer, casting="unsafe")
        for organ, _zone in organs:
            addSegment(node, organ.name, organ, None, origin, image, organ.value)

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
        box = unionOf(part.box for part in components)
        kind = np.uint8 if len(groups) < 256 else np.uint16
        image, layer = imageOver(volumeNode, box, kind)
        layer[:] = 0
        for value, parts in enumerate(groups.values(), start=1):
            for part in parts:
                layer[insideOf(part.box, box)][part.mask] = value
        origins = {int(lesion["number"]): _originOf(lesion, origin) for lesion in known}
        for value, (name, number) in enumerate(groups, start=1):
            segmentId = f"{name}_{number}" if number != SPECK else f"{name}_specks"
            addSegment(
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
            label = labelOf(segmentation.GetSegment(segmentId))
            number = numberOf(segmentation.GetSegment(segmentId))
            if label is not None and label.kind == "lesion" and number != SPECK:
                wanted.append((number, segmentId, label))
        places = dict(croppedSegments(segmentation, [segmentId for _n, segmentId, _l in wanted]))
        found = []
        for number, segmentId, label in sorted(wanted, key=lambda item: item[0]):
            origin = tagOf(segmentation.GetSegment(segmentId), ORIGIN_TAG) or "reader"
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
            size = sizeMm(mask.shape, affine)
            found.append(
                LesionSegment(segmentId, label.name, number, count, millilitres, ras, size, origin)
            )
        return found

    def addLesion(self, segmentationNode: Any, label: str, number: int) -> str:
        """Add an empty lesion of the reader's; return its segment id."""
        lesion = label_named(label)
        segmentation = segmentationNode.GetSegmentation()
        segmentId = segmentation.GenerateUniqueSegmentID(f"{lesion.name}_{number}")
        return addSegment(segmentationNode, segmentId, lesion, number, "reader")

    def deleteLesion(self, segmentationNode: Any, segmentId: str) -> Label | None:
        """Take a lesion out; where its organ surrounds it, its voxels become that organ.

        Returns:
            The organ; None where the organ is not drawn or surrounds less than half of the
            lesion, as with an exophytic one: what lies there then, nobody has said.
        """
        segmentation = segmentationNode.GetSegmentation()
        lesion = labelOf(segmentOf(segmentation, segmentId))
        organId = organOf(segmentation, lesion)
        filled = organId and filledOrgan(segmentation, organId, segmentId)
        segmentation.RemoveSegment(segmentId)
        if not filled:
            return None
        fillSegment(segmentationNode, organId, filled)
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
        segment = segmentOf(segmentation, segmentId)
        label = labelOf(segment)
        if label is None:
            msg = f"segment {segment.GetName()} is none of the 25 labels; it cannot be split."
            raise LabelError(msg)
        place = dict(croppedSegments(segmentation, [segmentId])).get(segmentId)
        if place is None:
            return [segmentId]
        mask, start, affine = place
        islands = sorted(connectedParts(mask), key=lambda part: -int(part[1].sum()))
        if len(islands) < 2:
            return [segmentId]
        matrix = slicer.util.vtkMatrixFromArray(affine)
        ids = [segmentId]
        for box, island in islands[1:]:
            corner = [int(first + part.start) for first, part in zip(start, box, strict=True)]
            image = placedImage(island, corner, matrix)
            newId = self.addLesion(segmentationNode, label.name, numbers())
            fillSegment(segmentationNode, newId, image)
            ids.append(newId)
        box, island = islands[0]
        corner = [int(first + part.start) for first, part in zip(start, box, strict=True)]
        fillSegment(segmentationNode, segmentId, placedImage(island, corner, matrix))
        self.touched(segmentationNode, segmentId)
        return ids

    def accept(self, segmentationNode: Any, segmentId: str) -> None:
        """Note that a reader agrees with a segment of the AI; what a reader drew stays theirs."""
        segment = segmentOf(segmentationNode.GetSegmentation(), segmentId)
        if tagOf(segment, ORIGIN_TAG) == "ai":
            setOrigin(segment, "accepted")

    def touched(self, segmentationNode: Any, segmentId: str) -> None:
        """Note that a reader changed a segment: it is theirs from now on."""
        segment = segmentOf(segmentationNode.GetSegmentation(), segmentId)
        if tagOf(segment, ORIGIN_TAG) != "reader":
            setOrigin(segment, "reader")

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
            if labelOf(segment) is None:
                foreign.append(segment.GetName())
            else:
                ids.append(segmentId)
        shape = shapeOf(volumeNode)
        pieces = list(piecesOn(segmentation, ids, volumeNode))
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
        writeLabelmap(flat, volumeNode, path)
        toFile = turnToFile(volumeNode)
        boxes = {}
        for piece in pieces:
            number = numberOf(segmentation.GetSegment(piece.segmentId))
            mine = piece.mask & (flat[piece.box] == piece.label.value)
            if piece.label.kind == "lesion" and number > SPECK and mine.any():
                (inner,) = ndimage.find_objects(mine.astype(np.uint8))
                box = toFile.box(withinBox(piece.box, inner), shape)
                boxes[number] = tuple((int(part.start), int(part.stop)) for part in box)
        values = {segmentId: labelOf(segmentation.GetSegment(segmentId)).value for segmentId in ids}
        return Flattened(
            values,
            0 if overlap is None else int(np.count_nonzero(overlap)),
            lost,
            tuple(foreign),
            touchingPairs(pieces),
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
