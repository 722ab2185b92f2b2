"""The course of a reading: what is open, what is unsaved, what the reader is told. No widget here.

Panels read the fields of `Flow` and are told by topic what changed; they call its methods back.
"""

import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import qt
import slicer
from PASTAAidLib.background import Background
from PASTAAidLib.cases import Cache, Worklist
from PASTAAidLib.connection import Check, Connection, Problem
from PASTAAidLib.drafts import Drafts
from PASTAAidLib.settings import Settings
from slicer.i18n import tr as _

from pasta.errors import PastaError
from pasta.report.reader import ReaderReport
from pasta.study.clock import ReadingClock
from pasta.study.events import EventLog
from PASTAAidGui.Cover import Cover
from PASTAAidGui.FlowAssistant import Assistant
from PASTAAidGui.FlowCases import Cases
from PASTAAidGui.FlowEditing import Editing
from PASTAAidGui.FlowSaving import Saving
from PASTAAidGui.FlowStudy import Study

POLL_MS = 50
TICK_MS = 250
_log = logging.getLogger(__name__)


@dataclass
class Status:
    """One sentence for the reader, with the mend; kind is "info", "good", "warning" or "error"."""

    text: str = ""
    mend: str = ""
    kind: str = "info"


@dataclass
class Question:
    """What the reader is asked inside the panel: nothing modal, work goes on meanwhile."""

    key: str
    text: str
    yes: str
    no: str
    onYes: Callable[[], None]
    onNo: Callable[[], None]


@dataclass
class Progress:
    """How far a background work is that the reader waits for."""

    name: str
    text: str
    fraction: float = 0.0


@dataclass
class Reading:
    """The case that is open.

    Attributes:
        caseId: of the server's store.
        volumeNode: the CT, None while it loads.
        segmentationNode: what the reader edits.
        report: the reader's version.
        documents: what the AI answered, by task.
        evidenceNode: map of the screening.
        clock: of this case.
        version: the version of mine that this reading started from; 0 for none.
        maskDirty: whether the mask has changes that no draft holds.
        reportDirty: the same of the report.
        edited: whether the reader changed anything at all.
        displayed: whether all views have shown the CT.
        receipt: of the verified submission.
        timing: of the reading that was submitted.
        selected: number of the lesion in focus.
        sizes: voxels of each lesion segment when last looked at, by segment id.
        changes: sentences of the last re-measurement.
    """

    caseId: str
    clock: Any
    report: Any
    volumeNode: Any = None
    segmentationNode: Any = None
    documents: dict[str, dict] = field(default_factory=dict)
    evidenceNode: Any = None
    version: int = 0
    maskDirty: bool = False
    reportDirty: bool = False
    edited: bool = False
    displayed: bool = False
    receipt: Any = None
    timing: Any = None
    selected: int | None = None
    sizes: dict[str, int] = field(default_factory=dict)
    changes: list[str] = field(default_factory=list)
    draftSaved: bool = False

    @property
    def isDirty(self) -> bool:
        """Whether a draft is due."""
        return self.maskDirty or self.reportDirty


class Flow:
    """Everything between the panels and the world; all methods are called in the GUI's thread.

    Args:
        settings: of this computer.
        views: slice views (`PASTAAidGui.Views`).
        masks: segmentations (`PASTAAidGui.Masks`).
        changed: called with the topic that changed, such as "case" or "status".
    """

    def __init__(self, settings: Settings, views, masks, changed: Callable[[str], None]) -> None:
        self.settings = settings
        self.views = views
        self.masks = masks
        self.cover = Cover()
        self.changed = changed
        self.prepareView = lambda: None  # set by the panel: window and crosshair of a new CT
        self.status = Status(_("Connect to a server to begin."))
        self.questions: list[Question] = []
        self.progresses: dict[str, Progress] = {}
        self.check: Check | None = None
        self.worklist = Worklist([])
        self.strategies: list[str] = []
        self.reading: Reading | None = None
        self.connected = False
        self.background = Background()
        self.use(settings)
        self.cases = Cases(self)
        self.assistant = Assistant(self)
        self.editing = Editing(self)
        self.saving = Saving(self)
        self.study = Study(self)
        self._timers = [
            self._timer(POLL_MS, self._poll),
            self._timer(TICK_MS, self._tick),
        ]
        self._lastSeen: Any = None
        self._toldProblem = ""

    # settings and time

    def _timer(self, interval: int, work: Callable[[], None]):
        timer = qt.QTimer()
        timer.setInterval(interval)
        timer.connect("timeout()", work)
        timer.start()
        return timer

    def _openedLog(self, settings: Settings) -> EventLog:
        """Open the log of this reader; where that fails, the reader hears it and reads on."""
        name = f"{settings.reader or 'reader'}-{settings.arm}.jsonl"
        fields = {"reader": settings.reader, "level": settings.level, "arm": settings.arm}
        try:
            return EventLog(settings.folder / "log" / name, **fields)
        except (PastaError, OSError) as error:
            self.say(
                _("The reading log cannot be written: {error}").format(error=error),
                _("Times of this session are kept in a temporary folder only."),
                "error",
            )
            return EventLog(Path(tempfile.mkdtemp(prefix="pasta-log-")) / name, **fields)

    def use(self, settings: Settings, connection: Any = None, log: EventLog | None = None) -> None:
        """Work with settings; a study brings its own connection and log."""
        former = getattr(self, "log", None)
        if former is not None:
            former.close()
        self.settings = settings
        settings.folder.mkdir(parents=True, exist_ok=True)
        self.connection = connection or Connection(settings)
        self.cache = Cache.from_settings(settings)
        self.drafts = Drafts.from_settings(settings)
        self.log = log or self._openedLog(settings)

    def applySettings(self, settings: Settings) -> None:
        """Work with other settings from now on; a case that is open is put away first."""
        if self.study.active:
            self.say(_("A study is on; settings change after it."), kind="warning")
            return
        if settings == self.settings or not self.cases.leave():
            return
        self.use(settings)
        self.connected = False
        self.changed("settings")

    @property
    def assisted(self) -> bool:
        """Whether the reader may see AI output at all."""
        return self.settings.arm == "assisted"

    def newClock(self) -> ReadingClock:
        """Make the clock of one case."""
        return ReadingClock(self.log, idle_seconds=self.settings.idle_seconds)

    def newReport(self, document: dict | None = None) -> ReaderReport:
        """Start the reader's report, from an AI report if there is one."""
        return ReaderReport.from_ai(document) if document else ReaderReport.empty()

    def _poll(self) -> None:
        self.background.poll()

    def _tick(self) -> None:
        """Watch for input and focus: the cursor, the views and the mask tell that somebody reads."""
        self.study.tick()
        reading = self.reading
        if reading is None or not reading.displayed or reading.timing is not None:
            return
        seen = self._trace()
        if seen != self._lastSeen:
            self._lastSeen = seen
            reading.clock.activity()
        reading.clock.focus(qt.QApplication.activeWindow() is not None)
        reading.clock.tick()
        if reading.clock.problem and reading.clock.problem != self._toldProblem:
            self._toldProblem = reading.clock.problem
            self.say(reading.clock.problem, _("You can read on; times may be incomplete."), "error")
        self.changed("clock")

    def _trace(self) -> tuple:
        """Collect what changes under a reader's hands; cheap, so no event filter slows the views."""
        position = qt.QCursor.pos()
        nodes = slicer.util.getNodesByClass("vtkMRMLSliceNode")
        offsets = tuple(round(node.GetSliceOffset(), 2) for node in nodes)
        volume = self.reading.volumeNode
        display = volume.GetDisplayNode() if volume is not None else None
        window = (display.GetWindow(), display.GetLevel()) if display is not None else ()
        return (position.x(), position.y(), offsets, window)

    def active(self) -> None:
        """Note that the reader did something."""
        if self.reading is not None and self.reading.displayed and self.reading.timing is None:
            self.reading.clock.activity()

    def note(self, kind: str, **payload: Any) -> None:
        """Write an event of the reading into the log, while its clock runs."""
        if self.reading is not None and self.reading.displayed and self.reading.timing is None:
            self.reading.clock.note(kind, **payload)

    # what the reader is told

    def say(self, text: str, mend: str = "", kind: str = "info") -> None:
        """Show one sentence in the status line."""
        self.status = Status(text, mend, kind)
        self.changed("status")

    def tell(self, error: BaseException) -> None:
        """Show what went wrong and its mend; unforeseen errors also go to Slicer's log."""
        if isinstance(error, Problem):
            self.say(error.sentence, error.mend, "error")
            return
        _log.error("unforeseen error", exc_info=error)
        self.say(
            _("Something went wrong that was not foreseen: {error}").format(
                error=str(error) or type(error).__name__
            ),
            _("Your work is kept; the application log has the details."),
            "error",
        )

    def ask(self, question: Question) -> None:
        """Ask inside the panel; a question of the same key is replaced."""
        self.questions = [item for item in self.questions if item.key != question.key]
        self.questions.append(question)
        self.changed("question")

    def answer(self, yes: bool) -> None:
        """Answer the oldest question."""
        if not self.questions:
            return
        question = self.questions.pop(0)
        self.changed("question")
        (question.onYes if yes else question.onNo)()

    def dropQuestion(self, key: str) -> None:
        """Take back a question that makes no sense any more."""
        self.questions = [item for item in self.questions if item.key != key]
        self.changed("question")

    def setProgress(self, name: str, text: str | None, fraction: float = 0.0) -> None:
        """Show how far something is; None ends it."""
        if text is None:
            self.progresses.pop(name, None)
        else:
            self.progresses[name] = Progress(name, text, fraction)
        self.changed("progress")

    # pauses

    def pause(self, reason: str) -> None:
        """Stop the clock and cover the images: who pauses does not read."""
        reading = self.reading
        if reading is None or reading.clock.state != "running":
            return
        reading.clock.pause(reason)
        self.study.paused(reason)
        self.cover.on()
        self.say(
            _("Paused ({reason}); the images are covered.").format(reason=reason),
            _("Ctrl+Shift+B goes on."),
            "warning",
        )
        self.changed("pause")

    def resume(self) -> None:
        """Go on reading."""
        reading = self.reading
        if reading is None or reading.clock.state != "paused":
            return
        self.cover.off()
        reading.clock.resume()
        self.study.resumed()
        self.say(_("Reading {case} again.").format(case=self.study.title(reading.caseId)))
        self.changed("pause")

    @property
    def paused(self) -> bool:
        """Whether the reader paused."""
        return self.reading is not None and self.reading.clock.state == "paused"

    @property
    def canRead(self) -> bool:
        """Whether a case is shown and may be worked on."""
        return self.reading is not None and self.reading.displayed and not self.paused

    def close(self) -> None:
        """Put the case away in order and stop all threads and timers."""
        for timer in self._timers:
            timer.stop()
        self.saving.stop()
        self.cases.leave(quietly=True)
        self.background.close()
        self.log.close()
