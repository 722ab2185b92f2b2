"""The reader's hands: masks, lesions and attributes; what was touched is the reader's own."""

from pathlib import Path
from typing import TYPE_CHECKING

import qt
import slicer
from slicer.i18n import tr as _

from pasta.labels import Label, label_named
from pasta.report.attributes import attribute_named
from PASTAAidGui.Segments import ORIGIN_TAG, tagOf
from PASTAAidGui.Views import MASKS_ATTRIBUTE

if TYPE_CHECKING:
    from PASTAAidGui.Flow import Flow, Reading

SETTLE_MS = 400


class Editing:
    """Edits of mask and report; each is logged and makes a draft due."""

    def __init__(self, flow: "Flow") -> None:
        self.flow = flow
        self.attachEditor = lambda _reading: None  # set by the panel that owns the editor
        self._observed: list[tuple] = []
        self._busy = 0
        self._settle = qt.QTimer()
        self._settle.setSingleShot(True)
        self._settle.setInterval(SETTLE_MS)
        self._settle.connect("timeout()", self._look)

    # masks

    def newMask(self, reading: "Reading") -> None:
        """Start with an empty segmentation on the grid of the CT."""
        node = slicer.mrmlScene.AddNewNodeByClass(
            "vtkMRMLSegmentationNode", self.flow.study.title(reading.caseId)
        )
        node.SetAttribute(MASKS_ATTRIBUTE, "1")
        node.CreateDefaultDisplayNodes()
        node.SetReferenceImageGeometryParameterFromVolumeNode(reading.volumeNode)
        self._use(reading, node)

    def takeMask(self, reading: "Reading", path: Path, report: dict | None) -> None:
        """Replace the mask by that of a file, lesions numbered as in the report."""
        self._use(reading, self.flow.masks.fromLabelmap(path, reading.volumeNode, report))

    def takeDraft(self, reading: "Reading", path: Path) -> None:
        """Replace the mask by that of a draft, overlaps and marks kept."""
        self._use(reading, self.flow.masks.loadDraft(path, reading.volumeNode))

    def _use(self, reading: "Reading", node) -> None:
        self.release()
        old = reading.segmentationNode
        reading.segmentationNode = node
        self.flow.views.showMasks(node)
        self.attachEditor(reading)
        if old is not None and slicer.mrmlScene.IsNodePresent(old):
            slicer.mrmlScene.RemoveNode(old)
        reading.sizes = self._sizes(reading)
        segmentation = node.GetSegmentation()
        for event in (
            slicer.vtkSegmentation.SourceRepresentationModified,
            slicer.vtkSegmentation.SegmentAdded,
            slicer.vtkSegmentation.SegmentRemoved,
        ):
            self._observed.append((segmentation, segmentation.AddObserver(event, self._onMask)))

    def release(self) -> None:
        """Let go of the mask before it goes."""
        self._settle.stop()
        for owner, tag in self._observed:
            owner.RemoveObserver(tag)
        self._observed.clear()

    def _sizes(self, reading: "Reading") -> dict[str, int]:
        return {
            lesion.segmentId: lesion.voxels
            for lesion in self.flow.masks.lesions(reading.segmentationNode)
        }

    def _onMask(self, _caller=None, _event=None, _data=None) -> None:
        """Note a stroke; what exactly changed is looked at when the hand rests."""
        reading = self.flow.reading
        if reading is None or self._busy:
            return
        reading.maskDirty = True
        self._touched(reading)
        self._settle.start()

    def _look(self) -> None:
        if self.flow.reading is not None:
            self.lookNow(self.flow.reading)
            self.flow.changed("report")

    def lookNow(self, reading: "Reading") -> None:
        """Mark lesions whose voxels changed as the reader's, and list those that were drawn."""
        if reading.segmentationNode is None or not reading.edited:
            return
        self._settle.stop()
        flow = self.flow
        lesions = flow.masks.lesions(reading.segmentationNode)
        self._busy += 1
        try:
            for lesion in lesions:
                before = reading.sizes.get(lesion.segmentId)
                if before == lesion.voxels:
                    continue
                if before is not None or lesion.origin != "reader":
                    flow.masks.touched(reading.segmentationNode, lesion.segmentId)
                flow.note(
                    "mask_edit",
                    number=lesion.number,
                    voxels_before=before or 0,
                    voxels_after=lesion.voxels,
                )
        finally:
            self._busy -= 1
        reading.sizes = {lesion.segmentId: lesion.voxels for lesion in lesions}

    def segments(self) -> dict[int, object]:
        """Find the segment of each lesion by its number."""
        reading = self.flow.reading
        if reading is None or reading.segmentationNode is None:
            return {}
        return {
            lesion.number: lesion for lesion in self.flow.masks.lesions(reading.segmentationNode)
        }

    def pending(self) -> bool:
        """Whether something of the AI, in report or mask, waits for a person."""
        reading = self.flow.reading
        if reading is None or reading.segmentationNode is None:
            return False
        segmentation = reading.segmentationNode.GetSegmentation()
        return bool(reading.report.unreviewed()) or any(
            tagOf(segmentation.GetSegment(segmentId), ORIGIN_TAG) == "ai"
            for segmentId in segmentation.GetSegmentIDs()
        )

    # lesions

    def select(self, number: int | None) -> None:
        """Bring a lesion into focus: its report, all views and the editor."""
        flow = self.flow
        reading = flow.reading
        if reading is None:
            return
        reading.selected = number
        segment = self.segments().get(number)
        if segment is not None and segment.centreRas is not None:
            flow.views.jumpTo(segment.centreRas)
        flow.changed("lesion")

    def step(self, by: int) -> None:
        """Go to the next or previous lesion."""
        reading = self.flow.reading
        if reading is None or not reading.report.lesions:
            return
        numbers = [lesion.number for lesion in reading.report.lesions]
        place = numbers.index(reading.selected) + by if reading.selected in numbers else 0
        self.select(numbers[place % len(numbers)])

    def addLesion(self, label: str) -> None:
        """Add a lesion to report and mask; it is drawn next."""
        flow = self.flow
        reading = flow.reading
        if reading is None or not flow.canRead:
            return
        lesion = reading.report.add_lesion(label)
        self._change(reading)
        flow.masks.addLesion(reading.segmentationNode, label, lesion.number)
        flow.note("lesion_added", number=lesion.number, label=label)
        self.select(lesion.number)
        flow.say(
            _("Lesion {number} ({title}) is ready to be drawn.").format(
                number=lesion.number, title=label_named(label).title
            )
        )
        flow.changed("report")

    def deleteLesion(self, number: int | None) -> None:
        """Take a lesion out of report and mask."""
        flow = self.flow
        reading = flow.reading
        if reading is None or number is None or not flow.canRead:
            return
        segment = self.segments().get(number)
        if segment is not None:
            organ = flow.masks.deleteLesion(reading.segmentationNode, segment.segmentId)
            if segment.voxels:
                flow.say(_deleted(number, organ))
        if any(lesion.number == number for lesion in reading.report.lesions):
            reading.report.delete_lesion(number)
        flow.note("lesion_deleted", number=number)
        self._change(reading)
        lesions = reading.report.lesions
        self.select(lesions[0].number if lesions else None)
        flow.changed("report")

    def splitLesion(self, number: int | None) -> None:
        """Make every separate part of a lesion a lesion of its own."""
        flow = self.flow
        reading = flow.reading
        segment = self.segments().get(number)
        if reading is None or segment is None or not flow.canRead:
            return
        added = []

        def number_() -> int:
            lesion = reading.report.add_lesion(segment.label)
            added.append(lesion.number)
            return lesion.number

        flow.masks.splitLesion(reading.segmentationNode, segment.segmentId, number_)
        self._change(reading)
        flow.note("lesion_split", number=number, added=added)
        if added:
            flow.say(
                _("Lesion {number} was split; new: {added}.").format(
                    number=number, added=", ".join(str(item) for item in added)
                )
            )
            self.remeasure()
        else:
            flow.say(_("Lesion {number} is one piece; nothing to split.").format(number=number))
        flow.changed("report")

    def listLesions(self, reading: "Reading", origin: str = "reader") -> None:
        """List in the report the lesions that only the mask has."""
        known = {lesion.number for lesion in reading.report.lesions}
        for segment in self.flow.masks.lesions(reading.segmentationNode):
            if segment.number not in known:
                lesion = reading.report.add_lesion(segment.label, segment.centreRas)
                lesion.origin = origin
                lesion.size_mm, lesion.volume_ml = segment.sizeMm, segment.volumeMl

    # report

    def setValue(self, number: int, attribute: str, option: str | None) -> None:
        """Set an attribute as the reader sees it."""
        flow = self.flow
        reading = flow.reading
        if reading is None or not flow.canRead:
            return
        entry = self.entry(number, attribute)
        old, suggestion = (entry.value, entry.suggestion) if entry else (None, None)
        if old == option:
            return
        reading.report.set_value(number, attribute, option)
        payload = {"ai_value": suggestion} if flow.assisted else {}
        flow.note(
            "attribute_set", number=number, attribute=attribute, old=old, new=option, **payload
        )
        self._change(reading)
        flow.changed("report")

    def entry(self, number: int, attribute: str):
        """Find one entry of the report."""
        for lesion in self.flow.reading.report.lesions:
            if lesion.number == number:
                return lesion.entries[attribute]
        return None

    def accept(self, number: int | None) -> None:
        """Accept a lesion's mask and attributes as the AI gave them."""
        flow = self.flow
        reading = flow.reading
        if reading is None or number is None or not flow.canRead:
            return
        reading.report.accept(number)
        segment = self.segments().get(number)
        if segment is not None:
            flow.masks.accept(reading.segmentationNode, segment.segmentId)
        flow.note("mask_accept", number=number)
        self._change(reading)
        flow.changed("report")

    def acceptAll(self) -> None:
        """Accept everything of the AI that nobody has looked through yet."""
        flow = self.flow
        reading = flow.reading
        if reading is None or not flow.canRead:
            return
        reading.report.accept_all()
        self._busy += 1
        try:
            segmentation = reading.segmentationNode.GetSegmentation()
            for segmentId in segmentation.GetSegmentIDs():
                flow.masks.accept(reading.segmentationNode, segmentId)
        finally:
            self._busy -= 1
        flow.note("mask_accept", number=None)
        self._change(reading)
        flow.say(_("All AI items are accepted."))
        flow.changed("report")

    def setImpression(self, text: str) -> None:
        """Take the free text."""
        reading = self.flow.reading
        if reading is None or reading.report.impression == text:
            return
        reading.report.impression = text
        self._change(reading)
        self.flow.changed("preview")

    def remeasure(self) -> None:
        """Measure sizes again from the mask as it is now, and say what changed."""
        flow = self.flow
        reading = flow.reading
        if reading is None or not flow.canRead:
            return
        self.lookNow(reading)
        segments = self.segments()
        reading.changes = []
        for lesion in reading.report.lesions:
            segment = segments.get(lesion.number)
            if segment is None or not segment.voxels:
                continue
            change = reading.report.set_size(lesion.number, segment.sizeMm, segment.volumeMl)
            if change is not None:
                reading.changes.append(self.changeText(change))
            lesion.centre_mm = segment.centreRas
        flow.note("remeasured", changes=len(reading.changes))
        self._change(reading)
        if not reading.changes:
            flow.say(_("Measured again: no size changed."))
        else:
            flow.say(
                _("Measured again; sizes changed: {count}.").format(count=len(reading.changes))
            )
        flow.changed("report")

    def place(self, reading: "Reading", boxes: dict) -> None:
        """Tell the report where its lesions lie in the mask that is saved with it."""
        segments = self.segments()
        for lesion in reading.report.lesions:
            if lesion.number in boxes:
                lesion.box = boxes[lesion.number]
                lesion.centre_mm = segments[lesion.number].centreRas

    def changeText(self, change) -> str:
        """Say in words what a new measurement changed."""
        return _("lesion {number}, {attribute}: {old} to {new}").format(
            number=change.number,
            attribute=attribute_named(change.attribute).title.lower(),
            old=change.old or _("none"),
            new=change.new or _("none"),
        )

    def _change(self, reading: "Reading") -> None:
        reading.reportDirty = True
        self._touched(reading)

    def _touched(self, reading: "Reading") -> None:
        """Note a change; one after the submission goes on with the reading, and with its clock."""
        reading.edited = True
        if reading.timing is not None:
            reading.clock.reopen("edited")
            reading.timing = None
            self.flow.changed("clock")
        self.flow.active()


def _deleted(number: int, organ: Label | None) -> str:
    if organ is not None:
        return _("Lesion {number} is deleted; its voxels are {organ} now.").format(
            number=number, organ=organ.title
        )
    return _("Lesion {number} is deleted; its voxels belong to nothing now.").format(number=number)
