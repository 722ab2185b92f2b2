"""Cases: connect, list, open, prefetch, go on, send a CT of this computer."""

import gzip
import logging
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import qt
import slicer
import vtk
from PASTAAidLib.cases import Worklist
from PASTAAidLib.volumefile import VolumeFile, read_volume_file
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk

from pasta.errors import CancelledError

if TYPE_CHECKING:
    from PASTAAidGui.Flow import Flow

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ready:
    """A CT on this computer.

    Attributes:
        path: of its file.
        volume: its voxels, read already; None where only Slicer's own reader can.
    """

    path: Path
    volume: VolumeFile | None = None


class Cases:
    """The worklist's side of the flow."""

    def __init__(self, flow: "Flow") -> None:
        self.flow = flow
        self._next: tuple[str, Ready] | None = None  # prefetched: its voxels are in memory

    # connect

    def connect(self) -> None:
        """Check the server and fetch the worklist, in the background."""
        flow = self.flow
        connection = flow.connection

        def work(_task):
            check = connection.check()
            if not check.ok:
                return check, [], []
            return check, connection.worklist(), connection.strategies()

        def done(result) -> None:
            check, cases, strategies = result
            flow.check, flow.connected = check, check.ok
            if check.ok:
                flow.worklist = Worklist(cases)
                flow.strategies = strategies
                flow.say(
                    _("Connected: {count} cases, {open} open for you.").format(
                        count=len(cases), open=sum(not case.mine for case in cases)
                    ),
                    kind="good",
                )
            else:
                flow.say(check.sentence, check.mend, "error")
            flow.changed("connection")
            flow.changed("worklist")

        flow.say(_("Connecting ..."))
        flow.background.start("connect", work, done=done, failed=self._failed("connect"))

    def test(self) -> None:
        """Check the server and say why it does or does not work; nothing else changes."""
        flow = self.flow
        connection = flow.connection

        def done(check) -> None:
            flow.check = check
            flow.say(check.sentence, check.mend, "good" if check.ok else "error")
            flow.changed("connection")

        flow.say(_("Testing the connection ..."))
        flow.background.start(
            "connect", lambda _task: connection.check(), done=done, failed=self._failed("connect")
        )

    def refresh(self, quietly: bool = False) -> None:
        """Fetch the worklist again."""
        flow = self.flow
        if flow.study.active:
            return
        if not flow.connected:
            if not quietly:
                self.connect()
            return
        connection = flow.connection

        def done(cases) -> None:
            flow.worklist = Worklist(cases)
            flow.changed("worklist")

        flow.background.start(
            "worklist",
            lambda _task: connection.worklist(),
            done=done,
            failed=None if quietly else self._failed("worklist"),
        )

    def _failed(self, name: str):
        def failed(error: BaseException) -> None:
            self.flow.setProgress(name, None)
            self.flow.tell(error)

        return failed

    # open

    def open(self, caseId: str) -> None:
        """Open a case; what was open is put away first, its edits on the disk."""
        flow = self.flow
        reading = flow.reading
        if reading is not None and reading.caseId == caseId and reading.receipt is None:
            return
        if not self.leave():
            return
        from PASTAAidGui.Flow import Reading  # Flow imports this module

        clock = flow.newClock()
        case = flow.worklist.get(caseId)
        reading = Reading(caseId, clock, flow.newReport(), version=case.my_version if case else 0)
        flow.reading = reading
        clock.case_requested(caseId, **flow.study.where(caseId))
        flow.changed("case")
        if self._next is not None and self._next[0] == caseId:
            self._show(reading, self._next[1])
            self._next = None
            return
        flow.say(_("Fetching {case} ...").format(case=flow.study.title(caseId)))
        flow.setProgress("fetch", _("Fetching the CT"))
        connection, cache = flow.connection, flow.cache

        def done(ready: Ready) -> None:
            flow.setProgress("fetch", None)
            if flow.reading is reading:
                self._show(reading, ready)

        def failed(error: BaseException) -> None:
            flow.setProgress("fetch", None)
            if flow.reading is not reading:
                return
            kept = cache.path(caseId)
            if kept is not None and not isinstance(error, CancelledError):
                flow.tell(error)
                self._show(reading, Ready(kept))  # the server is away, the CT is here: read on
                return
            clock.abandon("not fetched")
            flow.reading = None
            flow.changed("case")
            flow.tell(error)
            flow.study.notSaved(error)

        def work(task) -> Ready:
            path = connection.fetch_image(caseId, cache, task)
            return Ready(path, read_volume_file(path))

        flow.background.start(
            "fetch",
            work,
            done=done,
            failed=failed,
            progress=lambda fraction, stage: flow.setProgress("fetch", stage, fraction),
        )

    def _show(self, reading, ready: Ready) -> None:
        flow = self.flow
        reading.clock.load_start()
        try:
            node = loadedVolume(ready, flow.study.title(reading.caseId))
        except RuntimeError as error:
            reading.clock.abandon("not readable")
            flow.reading = None
            flow.changed("case")
            flow.say(
                _("The CT of {case} cannot be read: {error}").format(
                    case=flow.study.title(reading.caseId), error=error
                ),
                _("Open it again; if it stays so, tell who runs the server."),
                "error",
            )
            return
        reading.volumeNode = node
        flow.editing.newMask(reading)
        flow.views.showVolume(node)
        flow.prepareView()
        bounds = [0.0] * 6
        node.GetRASBounds(bounds)
        flow.views.jumpTo([(bounds[axis] + bounds[axis + 1]) / 2 for axis in (0, 2, 4)])
        # the render event is no place to open a case from: go on in the event loop
        flow.views.whenDisplayed(lambda: qt.QTimer.singleShot(0, lambda: self._displayed(reading)))

    def _displayed(self, reading) -> None:
        """All views show the CT: the clock starts here."""
        flow = self.flow
        if flow.reading is not reading or reading.displayed:
            return
        reading.clock.displayed()
        reading.displayed = True
        flow.say(_("{case} is open.").format(case=flow.study.title(reading.caseId)))
        flow.changed("shown")
        self._begin(reading)
        if not flow.saving.restore(reading):
            case = flow.worklist.get(reading.caseId)
            if case is not None and case.mine:
                self._fetchMine(reading)
            elif flow.assisted and flow.settings.run_ai_on_open:
                flow.assistant.run("pasta_diagnosis")
        flow.study.shown(reading)
        self.prefetch()

    def _begin(self, reading) -> None:
        connection = self.flow.connection
        if not self.flow.connected:
            return
        self.flow.background.start(
            f"begin {reading.caseId}", lambda _task: connection.begin(reading.caseId)
        )

    def _fetchMine(self, reading) -> None:
        """Fetch my last version of this case."""
        flow = self.flow
        connection, settings = flow.connection, flow.settings
        folder = settings.folder / "labels"
        folder.mkdir(parents=True, exist_ok=True)

        def done(saved) -> None:
            flow.setProgress("label", None)
            if flow.reading is not reading or saved is None or reading.edited:
                return
            if not flow.assisted and madeWithAI(saved.report):
                flow.say(
                    _("Your saved version was made with AI, so it stays hidden in this reading.")
                )
                return
            reading.version = saved.version
            flow.editing.takeMask(reading, saved.path, saved.report)
            if saved.report:
                reading.report = type(reading.report).from_document(saved.report)
            else:  # saved by another program, as a mask alone
                flow.editing.listLesions(reading)
            flow.say(
                _("Your version {version} of {case} is open again.").format(
                    version=saved.version, case=reading.caseId
                )
            )
            flow.changed("report")

        flow.setProgress("label", _("Fetching your version"))
        flow.background.start(
            "label",
            lambda _task: connection.fetch_label(
                reading.caseId, settings.tag, settings.reader, folder
            ),
            done=done,
            failed=self._failed("label"),
        )

    # go on

    def nextId(self) -> str | None:
        """Name the case that comes next."""
        if self.flow.study.active:
            return self.flow.study.upcoming
        current = self.flow.reading.caseId if self.flow.reading else None
        case = self.flow.worklist.next_after(current)
        return case.id if case is not None else None

    def next(self) -> None:
        """Open the next case that I have not read."""
        if self.flow.study.active:
            self.flow.say(_("Submit this case; the next one then comes by itself."))
            return
        caseId = self.nextId()
        if caseId is None:
            self.flow.say(_("That was the last open case of the list."), kind="good")
            return
        self.open(caseId)

    def previous(self) -> None:
        """Open the case before this one, read or not."""
        flow = self.flow
        if flow.reading is None or flow.study.active:
            return
        case = flow.worklist.previous_before(flow.reading.caseId)
        if case is None:
            flow.say(_("This is the first case of the list."))
            return
        self.open(case.id)

    def nextByLearning(self, strategy: str) -> None:
        """Open the case that the server's strategy wants labelled next."""
        flow = self.flow
        connection = flow.connection

        def done(caseId: str | None) -> None:
            if caseId is None:
                flow.say(_("The server has no case left to label."), kind="good")
            else:
                self.open(caseId)

        flow.background.start(
            "strategy",
            lambda _task: connection.next_case(strategy),
            done=done,
            failed=self._failed("strategy"),
        )

    def prefetch(self) -> None:
        """Fetch and read the next case while this one is on the screen."""
        flow = self.flow
        caseId = self.nextId()
        if caseId is None or flow.background.busy("prefetch") or not flow.connected:
            return
        connection, cache = flow.connection, flow.cache

        def work(task) -> Ready:
            path = connection.fetch_image(caseId, cache, task)
            return Ready(path, read_volume_file(path))

        def done(ready: Ready) -> None:
            self._next = (caseId, ready)
            flow.changed("prefetch")

        flow.background.start(
            "prefetch", work, done=done, failed=lambda error: _log.info("not prefetched: %s", error)
        )

    def leave(self, quietly: bool = False) -> bool:
        """Put the open case away: edits to the disk, mark off, nodes out of the scene.

        Returns:
            False where edits could not be kept: the case then stays open, unless `quietly`, when
            the scene itself goes away.
        """
        flow = self.flow
        reading = flow.reading
        if reading is None:
            return True
        flow.editing.lookNow(reading)
        if not flow.saving.putAway(reading) and not quietly:
            return False
        flow.assistant.cancel()
        flow.background.cancel("fetch")
        flow.background.cancel("label")
        if flow.paused:
            flow.cover.off()
        if reading.timing is None:
            reading.clock.abandon("left")
        connection, caseId = flow.connection, reading.caseId
        if reading.displayed and flow.connected:
            flow.background.start(f"end {caseId}", lambda _task: connection.release(caseId))
        flow.reading = None
        flow.views.hideEvidence()
        flow.editing.release()
        for node in (reading.segmentationNode, reading.evidenceNode, reading.volumeNode):
            if node is not None and slicer.mrmlScene.IsNodePresent(node):
                slicer.mrmlScene.RemoveNode(node)
        flow.progresses.clear()
        flow.dropQuestion("replace")
        if not quietly:
            flow.changed("case")
        return True

    # a CT of this computer

    def offer(self, volumeNode) -> None:
        """Ask for consent before anything of this computer leaves it."""
        flow = self.flow
        if volumeNode is None:
            flow.say(_("Choose a volume first."), _("Load one, or take it from DICOM."), "warning")
            return
        if volumeNode.GetParentTransformNode() is not None:
            flow.say(
                _("This volume is moved by a transform."),
                _("Harden the transform first, so that voxels and geometry agree."),
                "warning",
            )
            return
        from PASTAAidGui.Flow import Question  # Flow imports this module

        flow.ask(
            Question(
                "consent",
                _(
                    "Send this CT to {url}? Only voxels and geometry leave this computer, under a "
                    "neutral name: no patient name, number, date or other DICOM field."
                ).format(url=flow.settings.url),
                _("Send"),
                _("Do not send"),
                lambda: self._send(volumeNode),
                lambda: flow.say(_("Nothing was sent.")),
            )
        )

    def _send(self, volumeNode) -> None:
        flow = self.flow
        folder = Path(tempfile.mkdtemp(prefix="pasta-send-"))
        path = folder / "image.nii"
        if not slicer.mrmlScene.IsNodePresent(volumeNode) or not writeVoxels(volumeNode, path):
            shutil.rmtree(folder, ignore_errors=True)
            flow.say(_("The volume could not be written."), _("Is the disk full?"), "error")
            return
        connection = flow.connection

        def work(task):
            try:
                packed = path.with_name("image.nii.gz")
                with path.open("rb") as source, gzip.open(packed, "wb", 1) as target:
                    shutil.copyfileobj(source, target, 1 << 20)
                return connection.send_image(packed, task)
            finally:
                shutil.rmtree(folder, ignore_errors=True)

        def done(caseId: str) -> None:
            flow.setProgress("send", None)
            flow.say(_("Sent as case {case}.").format(case=caseId), kind="good")
            self.refresh(quietly=True)
            self.open(caseId)

        flow.setProgress("send", _("Sending the CT"))
        flow.background.start(
            "send",
            work,
            done=done,
            failed=self._failed("send"),
            progress=lambda fraction, stage: flow.setProgress("send", stage, fraction),
        )


def loadedVolume(ready: Ready, name: str):
    """Bring a CT into the scene without showing it yet."""
    if ready.volume is None:
        properties = {"name": name, "show": False, "singleFile": True}
        return slicer.util.loadVolume(str(ready.path), properties)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().AutoWindowLevelOff()  # looking for a window takes longer than the rest
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(ready.volume.affine))
    voxels = ready.volume.voxels
    image = vtk.vtkImageData()
    image.SetDimensions(voxels.shape[::-1])
    # no copy: 150 MB take a quarter of a second; the VTK array keeps the NumPy array alive
    image.GetPointData().SetScalars(numpy_to_vtk(voxels.ravel()))
    node.SetAndObserveImageData(image)
    return node


def writeVoxels(volumeNode, path: Path) -> bool:
    """Write voxels and geometry of a volume, nothing else: no names, attributes or DICOM fields."""
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    bare = slicer.vtkMRMLScalarVolumeNode()
    bare.SetName("image")
    bare.SetAndObserveImageData(volumeNode.GetImageData())
    bare.SetIJKToRASMatrix(matrix)
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetFileName(str(path))
    storage.SetUseCompression(0)
    return bool(storage.WriteData(bare))


def madeWithAI(report: dict[str, Any] | None) -> bool:
    """Say whether a saved report holds anything of the AI."""
    if not report:
        return False
    return bool(report.get("ai")) or any(
        lesion.get("origin") == "ai" for lesion in report.get("lesions", ())
    )
