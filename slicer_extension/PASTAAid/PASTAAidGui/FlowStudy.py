"""A session of a reader study: the server hands out one case after the other, here it is read."""

import dataclasses
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PASTAAidLib.cases import Worklist
from PASTAAidLib.connection import Problem
from PASTAAidLib.study import (
    AI_TASKS,
    Done,
    LogUploader,
    Seat,
    StudyCase,
    StudyConnection,
    StudyQuestion,
    log_in,
    machine_session,
    studies,
)
from slicer.i18n import tr as _

from pasta.errors import OutputError, PastaError
from pasta.study.events import EventLog

if TYPE_CHECKING:
    from PASTAAidGui.Flow import Flow

SEND_SECONDS = 5.0  # between two tries, of the log and of what could not be sent
DEGREES = (0, 20, 40, 60, 80, 100)  # of suspicion, one key each; from 60 on the answer is yes


class Study:
    """The study's side of the flow.

    Attributes:
        seat: of the session; None outside of a study.
        case: that was handed out last.
        answers: to the questions of this case, by id.
        listed: studies of the server: id and title.
        over: sentence at the end of a session, "" before.
    """

    def __init__(self, flow: "Flow") -> None:
        self.flow = flow
        self.seat: Seat | None = None
        self.case: StudyCase | None = None
        self.answers: dict[str, Any] = {}
        self.listed: list[tuple[str, str]] = []
        self.over = ""
        self._before: Any = None  # settings outside of the study
        self._uploader: LogUploader | None = None
        self._ai: list[str] = []
        self._expired = False
        self._sentAt = self._retryAt = self._aiAt = 0.0

    @property
    def active(self) -> bool:
        """Whether a session runs."""
        return self.seat is not None

    def hides(self, what: str) -> bool:
        """Whether the protocol hides something: case_id, position, clock, time_left, organ."""
        return self.seat is not None and what in self.seat.hide

    @property
    def folder(self) -> Path:
        """Where this computer keeps what belongs to studies."""
        return (self._before or self.flow.settings).folder / "study"

    # begin

    def find(self) -> None:
        """List the studies of the server."""
        flow = self.flow
        url = flow.settings.url

        def done(found) -> None:
            self.listed = found
            flow.changed("study")

        flow.background.start("study", lambda _task: studies(url), done=done, failed=flow.tell)

    def logIn(self, study: str, code: str, takeOver: bool = False) -> None:
        """Begin a session, or go on with the one that this computer has."""
        flow = self.flow
        if self.active or not study or not code:
            flow.say(_("Choose a study and type your reader code."), kind="warning")
            return
        if not flow.cases.leave():
            return
        url, folder = flow.settings.url, self.folder

        def work(_task):
            machine = machine_session(folder)
            seat = log_in(url, study, code, machine, take_over=takeOver)
            connection = StudyConnection(url, seat, machine, folder)
            untold = sendEarlier(connection, folder)
            return seat, connection, untold

        def failed(error: BaseException) -> None:
            if isinstance(error, OutputError):
                flow.say(str(error), kind="error")
            elif not isinstance(error, Problem) or error.kind != "live":
                flow.tell(error)
            else:
                self._offerTakeOver(error, study, code)

        flow.say(_("Logging in ..."))
        flow.background.start("study", work, done=lambda found: self._sit(*found), failed=failed)

    def _offerTakeOver(self, problem: Problem, study: str, code: str) -> None:
        from PASTAAidGui.Flow import Question  # Flow imports this module

        self.flow.ask(
            Question(
                "takeover",
                problem.sentence,
                _("Take it over"),
                _("Leave it"),
                lambda: self.logIn(study, code, takeOver=True),
                lambda: None,
            )
        )

    def _sit(self, seat: Seat, connection: StudyConnection, untold: list[str]) -> None:
        flow = self.flow
        path = self.folder / seat.study_id / f"{seat.session_id}.jsonl"
        fields = {name: getattr(seat, name) for name in ("reader", "study_id", "level", "arm")}
        try:
            log = EventLog(path, session_id=seat.session_id, **fields)
        except (PastaError, OSError) as error:
            flow.say(str(error), kind="error")
            return
        if log.path != path:
            log.close()
            flow.say(_("This session is open in another Slicer. Go on there."), kind="error")
            return
        flow.cases.leave()
        self._before = flow.settings
        self.seat, self.over = seat, ""
        settings = dataclasses.replace(
            flow.settings,
            folder=self.folder,  # drafts and cached CTs of a study stay apart
            reader=seat.reader,
            level=seat.level,
            arm=seat.arm,
            tag=f"study-{seat.study_id}",
            idle_seconds=float(seat.idle_seconds),
            clock_visible=seat.clock_visible and not self.hides("clock"),
            run_ai_on_open=False,
        )
        flow.use(settings, connection, log)
        flow.connected, flow.check, flow.worklist = True, connection.check(), Worklist([])
        self._uploader = LogUploader(connection, path, seat.session_id)
        if log.seq == 0:
            log.append("session_start", {"block": seat.block, "part": seat.part})
        flow.changed("settings")
        flow.changed("study")
        if untold:
            flow.say(
                " ".join(untold), _("Tell the coordinator; nothing here is deleted."), "warning"
            )
        self.next()

    # cases

    def next(self) -> None:
        """Ask for the case to read now, and show it."""
        flow = self.flow
        if not self.active or flow.background.busy("study"):
            return
        connection = flow.connection
        self._retryAt = 0.0

        def done(found) -> None:
            flow.setProgress("study", None)
            if isinstance(found, Done):
                self._finished(found)
                return
            self.case, self.answers, self._expired = found, {}, False
            flow.cases.open(found.code)
            flow.changed("study")

        def failed(error: BaseException) -> None:
            flow.setProgress("study", None)
            flow.tell(error)
            self._tryLater(error)

        flow.setProgress("study", _("Asking for the next case"))
        flow.background.start(
            "study",
            connection.next,
            done=done,
            failed=failed,
            progress=lambda fraction, stage: flow.setProgress("study", stage, fraction),
        )

    def where(self, caseId: str) -> dict[str, Any]:
        """Say for the log where a case stands in the study."""
        if self.seat is None or self.case is None or self.case.code != caseId:
            return {}
        return {"task": self.seat.task, "organ": self.seat.organ, "position": self.case.position}

    @property
    def upcoming(self) -> str | None:
        """Code of the case that is loaded ahead, in both arms alike."""
        return (self.case.upcoming or None) if self.case else None

    def title(self, caseId: str) -> str:
        """Name a case for the reader."""
        case = self.case
        if case is None or case.code != caseId:
            return caseId
        if self.hides("position"):
            return _("Training case") if case.training else _("Case")
        words = (
            _("Training {position} of {total}")
            if case.training
            else _("Case {position} of {total}")
        )
        return words.format(position=case.position, total=case.total)

    def shown(self, reading) -> None:
        """The case is on the screen: bring what the AI said, if this arm shows it."""
        if self.seat is None:
            return
        if self.case is not None and self.case.training:
            self.flow.note("training_start")
        self._ai = [
            model
            for model, task in AI_TASKS.items()
            if task in self.seat.ai and model not in reading.documents
        ]
        self._aiAt = 0.0
        self.runAI()
        self.flow.changed("study")

    def runAI(self) -> None:
        """Bring the next AI result."""
        due = self.active and time.monotonic() >= self._aiAt
        if self._ai and due and not self.flow.assistant.running:
            self.flow.assistant.run(self._ai.pop(0))

    def notBrought(self, model: str, error: BaseException) -> None:
        """Try again: a reader of this arm reads with what the AI said."""
        if self.active and _passes(error):
            self._ai.insert(0, model)
            self._aiAt = time.monotonic() + SEND_SECONDS
            self._tellAgain()

    # answers

    def setAnswer(self, question: StudyQuestion, value: Any) -> None:
        """Keep an answer, and log it."""
        if not self.flow.canRead or self.answers.get(question.id) == value:
            return
        if value in (None, ""):
            self.answers.pop(question.id, None)
        else:
            self.answers[question.id] = value
        logged = len(value) if question.type == "text" else value  # a text may hold anything
        self.flow.note("decision", **{question.id: logged})
        self.flow.reading.reportDirty = True  # a draft keeps the answers too
        self.flow.active()
        self.flow.changed("study")

    def restore(self, answers: dict[str, Any]) -> None:
        """Take answers that a draft kept; those to no question of this session are left."""
        if self.seat is not None:
            known = {question.id for question in self.seat.questions}
            self.answers = {name: value for name, value in answers.items() if name in known}

    def grade(self, place: int) -> None:
        """Answer with one key: degree of suspicion with its yes or no, or a step of a scale."""
        if self.seat is None or not self.flow.canRead:
            return
        for question in self.seat.questions:
            if question.type == "score":
                self.setAnswer(question, DEGREES[place])
            elif question.type == "yes_no":
                self.setAnswer(question, int(DEGREES[place] >= 60))
        scales = [question for question in self.seat.questions if question.type == "likert"]
        open_ = [question for question in scales if question.id not in self.answers]
        for question in (open_ or scales)[:1]:
            low = question.minimum if question.minimum is not None else 1
            high = question.maximum if question.maximum is not None else 5
            if low + place <= high:
                self.setAnswer(question, low + place)

    def refusal(self) -> str:
        """Say what is not answered yet; empty if all is."""
        if self.seat is None or self._expired:
            return ""
        for question in self.seat.questions:
            inReport = question.type in ("attributes", "mask")
            if question.required and not inReport and question.id not in self.answers:
                return _("Not answered yet: {question}").format(question=question.text)
        return ""

    def submitted(self, reading) -> None:
        """Hand the answers to the connection, which sends them with mask and report."""
        if self.case is None or self.case.code != reading.caseId:
            return
        if self.case.training:
            self.flow.log.append("training_end", case=reading.caseId)
        status = "budget" if self._expired else "complete"
        self.flow.connection.answer(reading.caseId, self.answers, status)

    def saved(self) -> None:
        """Go on: the server has the answer."""
        if self.active:
            self.next()

    def notSaved(self, error: BaseException) -> None:
        """Try again by itself: the answer is kept here meanwhile."""
        if self.active:
            self._tryLater(error)

    def _tryLater(self, error: BaseException) -> None:
        if _passes(error):
            self._retryAt = time.monotonic() + SEND_SECONDS
            self._tellAgain()

    def _tellAgain(self) -> None:
        self.flow.status.mend += " " + _("It is tried again by itself.")
        self.flow.changed("status")

    # time

    @property
    def leftSeconds(self) -> float | None:
        """What is left of the budget; None without one, or in a training case."""
        case, reading = self.case, self.flow.reading
        if case is None or case.left_seconds is None or case.training:
            return None
        spent = 0.0
        if reading is not None and reading.caseId == case.code:
            timing = reading.timing or reading.clock.timing()
            spent = timing.reading_seconds + timing.load_seconds
        return max(0.0, case.left_seconds - spent)

    def tick(self) -> None:
        """Send the log, try again what failed, watch the budget; called a few times a second."""
        if not self.active:
            return
        flow, now = self.flow, time.monotonic()
        if now - self._sentAt > SEND_SECONDS and not flow.background.busy("studylog"):
            self._sentAt = now
            uploader = self._uploader
            flow.background.start("studylog", lambda _task: uploader.send(), failed=lambda _e: None)
        self.runAI()
        reading = flow.reading
        if self._retryAt and now > self._retryAt:
            self._retryAt = 0.0
            if reading is None or reading.receipt is not None:
                self.next()
            elif reading.timing is not None:
                flow.saving.submit()
        running = reading is not None and reading.displayed and reading.timing is None
        if running and self.leftSeconds == 0.0 and not self._expired and not flow.paused:
            self._expired = True
            flow.note("budget_expired")
            flow.say(
                _("The time of this block is over; the case is kept as it is."), kind="warning"
            )
            flow.saving.submit()
        flow.changed("studytime")

    def paused(self, reason: str) -> None:
        """Tell the server of a pause; the clock here has stopped already."""
        if self.active:
            self._tellServer(partial(self.flow.connection.pause, reason))

    def resumed(self) -> None:
        """Tell the server that the pause is over."""
        if self.active:
            self._tellServer(self.flow.connection.resume)

    def _tellServer(self, call: Callable[[], None]) -> None:
        self.flow.background.start("studypause", lambda _task: call(), failed=lambda _e: None)

    # end

    def _finished(self, done: Done) -> None:
        words = {
            "block": _("This block is finished."),
            "budget": _("The time of this block is over."),
            "study": _("You have read the whole study. Thank you."),
        }
        text = words[done.why]
        if done.next_block:
            text += " " + _("Log in again for the next block.")
        self.end(text)

    def end(self, text: str = "") -> None:
        """End the session; a case in progress comes again with the next one."""
        flow = self.flow
        if not self.active or not flow.cases.leave():
            return
        log, connection, uploader = flow.log, flow.connection, self._uploader
        log.append("session_end")
        head, seq = log.head, log.seq
        text = text or _("The session has ended.")
        text += " " + _("Log: {seq} events, head {head}").format(seq=seq, head=head)
        self.seat = self.case = self._uploader = None
        self.answers, self._ai, self._retryAt = {}, [], 0.0
        before, self._before = self._before, None
        flow.use(before)
        flow.connected, flow.check = False, None
        self.over = text

        def work(_task) -> None:
            connection.send_kept()
            uploader.send()
            connection.end(head, seq)

        def failed(error: BaseException) -> None:
            flow.tell(error)
            flow.status.mend += " " + _("The log is kept here and sent when you log in again.")
            flow.changed("status")

        flow.say(text, kind="good")
        flow.background.start("studyend", work, failed=failed)
        flow.changed("settings")
        flow.changed("study")

    def retry(self) -> None:
        """Ask again for the case after a failure, now."""
        if self.active and self.flow.reading is None:
            self.next()


def _passes(error: BaseException) -> bool:
    """Tell whether waiting may mend what went wrong."""
    passing = ("away", "timeout", "busy", "memory", "damaged")  # damaged: cut off on the way
    return isinstance(error, Problem) and error.kind in passing


def sendEarlier(connection: StudyConnection, folder: Path) -> list[str]:
    """Send answers and logs that earlier sessions of this reader could not send.

    Returns:
        What the server refused, a sentence each; none of it keeps the reader from going on.
    """
    seat, refused = connection.seat, []
    try:
        connection.send_kept()
    except Problem as problem:
        refused.append(problem.sentence)
    for path in sorted((folder / seat.study_id).glob("s-*.jsonl")):
        if path.stem == seat.session_id or path.with_suffix(".sent").exists():
            continue
        try:
            LogUploader(connection, path, path.stem).send()
            path.with_suffix(".sent").touch()
        except Problem as problem:
            if problem.kind != "forbidden":  # that is the log of another reader of this computer
                refused.append(problem.sentence)
        except OSError as error:
            refused.append(str(error))
    return refused
