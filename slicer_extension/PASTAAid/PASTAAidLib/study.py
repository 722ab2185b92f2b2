"""A reader's seat in a study: log in, next case, answer, event log; what cannot be sent is kept.

`StudyConnection` stands in for `Connection`: the module reads a study's cases as it reads those of
the worklist, and asks nothing else of the server.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import threading
import time
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pasta.client import LONGEST_ANSWER_SECONDS, Answer, Client, ServerError
from pasta.errors import OutputError
from PASTAAidLib.connection import Check, Problem, Receipt, progress_of, sound_image, told
from PASTAAidLib.drafts import write_private

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from PASTAAidLib.background import Task
    from PASTAAidLib.cases import Cache, Case

LINES_AT_ONCE = 500
PREPARING_SECONDS = 600.0
_ROOT = "/pasta/study"
AI_TASKS = {f"pasta_{name}": name for name in ("screening", "segmentation", "report", "diagnosis")}


@dataclass(frozen=True, slots=True)
class StudyQuestion:
    """What a reader is asked of each case.

    Attributes:
        id: in the protocol.
        text: as it is asked.
        type: yes_no, score, choice, likert, attributes, mask or text.
        required: whether the case may not be submitted without it.
        options: of a choice.
        minimum: of a score or Likert scale.
        maximum: of a score or Likert scale.
    """

    id: str
    text: str
    type: str
    required: bool = True
    options: tuple[str, ...] = ()
    minimum: int | None = None
    maximum: int | None = None


@dataclass(frozen=True, slots=True)
class Seat:
    """One session of a reader, as the server opened it.

    Attributes:
        token: bearer token, good on this computer alone.
        session_id: names the event log.
        study_id: of the study.
        reader: pseudonym.
        level: "junior" or "senior".
        arm: "solo" or "assisted".
        part: of the protocol.
        task: as in the event log.
        organ: of the block.
        block: id of the block.
        budget_seconds: of the block; None without a budget.
        left_seconds: of the budget, at login.
        training_left: training cases still to come.
        cases_left: cases still to come.
        cases_total: of the block.
        questions: of each case.
        layout: of the views, "" for the reader's own.
        window: preset, "" for the reader's own.
        hide: what is not shown.
        idle_seconds: without input before the time is flagged as idle.
        clock_visible: whether the reader sees the time run.
        ai: tasks whose results are shown.
    """

    token: str = field(repr=False)
    session_id: str
    study_id: str
    reader: str
    level: str
    arm: str
    part: str
    task: str
    organ: str
    block: str
    budget_seconds: float | None
    left_seconds: float | None
    training_left: int
    cases_left: int
    cases_total: int
    questions: tuple[StudyQuestion, ...]
    layout: str
    window: str
    hide: tuple[str, ...]
    idle_seconds: float
    clock_visible: bool
    ai: tuple[str, ...]

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Seat:
        """Read the server's answer to a login.

        Raises:
            KeyError, TypeError, ValueError: if it is none.
        """
        known = {each.name: document[each.name] for each in fields(cls)}
        names = [each.name for each in fields(StudyQuestion)]
        questions = tuple(
            StudyQuestion(
                **{name: given[name] for name in names if name != "options"},
                options=tuple(given["options"] or ()),
            )
            for given in known["questions"]
        )
        lists = {name: tuple(known[name] or ()) for name in ("hide", "ai")}
        return cls(**{**known, **lists, "questions": questions})

    def needs(self, kind: str) -> bool:
        """Tell whether a question of this type is asked."""
        return any(question.type == kind for question in self.questions)


@dataclass(frozen=True, slots=True)
class StudyCase:
    """A case that was handed out.

    Attributes:
        code: of the case.
        position: in its list, from 1.
        total: length of that list.
        training: never analysed.
        left_seconds: of the budget; None without one.
        upcoming: code of the case after it, "" if there is none.
    """

    code: str
    position: int
    total: int
    training: bool
    left_seconds: float | None
    upcoming: str = ""


@dataclass(frozen=True, slots=True)
class Done:
    """No case is left.

    Attributes:
        why: "block", "budget" or "study".
        next_block: whether another block follows.
    """

    why: str
    next_block: bool


class _SeatClient(Client):
    """The server, asked with the token of a seat and the computer that it was given to."""

    def __init__(self, url: str, machine_session: str, token: str = "") -> None:
        super().__init__(url, token or None)
        self._headers["X-Machine-Session"] = machine_session


def machine_session(folder: Path) -> str:
    """Read, or make, the random text that binds sessions to this computer.

    Raises:
        OutputError: if it cannot be kept: a session could then not be taken up after a crash.
    """
    path = folder / "machine"
    with contextlib.suppress(OSError):
        text = path.read_text(encoding="ascii").strip()
        if len(text) == 32:
            return text
    text = secrets.token_hex(16)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_private(path, text)
    except OSError as error:
        raise _unwritable(folder, error) from error
    return text


def studies(url: str) -> list[tuple[str, str]]:
    """List the studies of a server that one can read in: id and title.

    Raises:
        Problem: if it does not answer, or holds none.
    """
    with told():
        found = Client(url).get(_ROOT)["studies"]
        listed = [(str(study["id"]), str(study["title"])) for study in found if study["locked"]]
    if not listed:
        sentence = "This server has no study to read."
        raise Problem(sentence, "Ask the coordinator for the address.", "missing")
    return listed


def log_in(url: str, study: str, code: str, machine: str, *, take_over: bool = False) -> Seat:
    """Begin a session, or take up the one of this computer.

    Args:
        url: of the server.
        study: id.
        code: that the coordinator gave to the reader.
        machine: see `machine_session`.
        take_over: end a session of the same reader elsewhere.

    Raises:
        Problem: kind "live" if the reader is logged in elsewhere; else as always.
    """
    document = {"study": study, "code": code, "machine_session": machine, "take_over": take_over}
    with told():
        try:
            return Seat.from_document(Client(url).ask("POST", f"{_ROOT}/login", document=document))
        except ServerError as error:
            if error.status == 401:
                raise Problem(
                    error.detail, "Type it as the coordinator gave it to you.", "token"
                ) from error
            if error.status == 409 and "elsewhere" in error.detail:
                raise Problem(error.detail, "End it there, or take it over.", "live") from error
            raise


class StudyConnection:
    """One seat; threads may share it.

    Args:
        url: of the server.
        seat: from `log_in`.
        machine: that it was made for.
        folder: of this computer's part of studies; answers wait there until the server has them.
    """

    def __init__(self, url: str, seat: Seat, machine: str, folder: Path) -> None:
        self.seat = seat
        self.outbox = Outbox(folder / "outbox" / f"{seat.study_id}-{seat.block}")
        self._client = _SeatClient(url, machine, seat.token)
        self._guard = threading.Lock()
        self._answers: dict[str, tuple[dict[str, Any], str]] = {}

    # --- as `Connection`

    def check(self) -> Check:
        """Say which AI results the seat shows; never raises."""
        models = {model: "" for model, task in AI_TASKS.items() if task in self.seat.ai}
        return Check(True, f"Logged in as {self.seat.reader}.", models=models)

    def worklist(self) -> list[Case]:
        """List nothing: the study hands its cases out one by one."""
        return []

    def begin(self, _case_id: str) -> bool:
        """Do nothing: the server knows whose case it is."""
        return True

    release = begin

    def fetch_label(self, *_arguments: object, **_keywords: object) -> None:
        """Find nothing: an answer that was given is not opened again."""

    def fetch_image(self, case_id: str, cache: Cache, task: Task | None = None) -> Path:
        """Get the CT of a case, from the cache if it is there.

        Raises:
            Problem: if it cannot be had.
            CancelledError: if the task was cancelled.
        """
        with _seated():
            here = cache.path(case_id)
            if here is not None:
                return here

            def write(path: Path) -> None:
                sha256 = self._client.download(
                    f"{_ROOT}/case/{case_id}/image", {}, path, progress=progress_of(task)
                )
                sound_image(path, sha256)

            return cache.store(case_id, ".nii.gz", write)

    def run(
        self,
        model: str,
        case_id: str,
        _parameters: Mapping[str, Any] | None = None,
        _mask: Path | None = None,
        task: Task | None = None,
    ) -> Answer:
        """Get the AI result that was made ahead.

        Raises:
            Problem: if it cannot be had.
            CancelledError: if the task was cancelled.
        """
        route = f"{_ROOT}/case/{case_id}/ai/{AI_TASKS[model]}"
        tell = progress_of(task)
        with _seated():
            document = self._client.get(route, read_seconds=LONGEST_ANSWER_SECONDS)
            if tell:
                tell(0.3, "receiving")
            image = None
            with contextlib.suppress(ServerError):  # not every result has one
                image = self._client.fetch(route, {"part": "mask"})
            return Answer(document, image)

    def submit(
        self,
        case_id: str,
        mask: Path,
        report: Mapping[str, Any],
        timing: Mapping[str, Any],
        _expected_version: int,
        task: Task | None = None,
    ) -> Receipt:
        """Keep the answer on this computer, then send it; it goes once the server has it.

        Raises:
            Problem: if the server does not have it; it is kept here, and sent with the next try.
        """
        with self._guard:
            answers, status = self._answers.get(case_id, ({}, "complete"))
        document = {
            "answers": answers,
            "report": dict(report) if self.seat.needs("attributes") else None,
            "timing": dict(timing),
            "status": status,
        }
        self.outbox.put(case_id, document, mask if self.seat.needs("mask") else None)
        tell = progress_of(task)
        if tell:
            tell(0.2, "sending")
        return self.send_kept()[case_id]

    # --- of the study

    def answer(self, case_id: str, answers: Mapping[str, Any], status: str = "complete") -> None:
        """Set what `submit` sends of a case besides mask and report."""
        with self._guard:
            self._answers[case_id] = dict(answers), status

    def send_kept(self) -> dict[str, Receipt]:
        """Send all answers that wait here; tell what the server says of each.

        Raises:
            Problem: at the first that it does not take; the others wait.
        """
        receipts = {}
        with _seated():
            for code, document, mask in self.outbox.waiting():
                text = json.dumps(document, sort_keys=True, allow_nan=False)
                said = self._client.post_form(
                    f"{_ROOT}/case/{code}/answer", {"answer": text}, "mask", mask
                )
                digest = hashlib.sha256(text.encode()).hexdigest()
                same_mask = mask is None or said["mask_sha256"] == _sha256(mask)
                if said["sha256"] != digest or not same_mask:
                    sentence = "The server tells of another answer than was sent."
                    raise Problem(
                        sentence,
                        "Submit again; if it happens again, tell the coordinator.",
                        "damaged",
                    )
                self.outbox.drop(code)
                receipts[code] = Receipt(int(said["version"]), str(said["sha256"]))
        return receipts

    def next(self, task: Task | None = None) -> StudyCase | Done:
        """Ask for the case to read now, until it is prepared; the same one until it is answered.

        Raises:
            Problem: if the server does not answer well, or takes too long to prepare.
            CancelledError: if the task was cancelled.
        """
        end = time.monotonic() + PREPARING_SECONDS
        wait = 0.05
        tell = progress_of(task)
        with _seated():
            while True:
                try:
                    given = self._client.ask("POST", f"{_ROOT}/next")
                    break
                except ServerError as error:
                    if error.status != 503 or time.monotonic() > end:
                        raise
                if tell:
                    tell(0.0, "the server prepares the case")
                time.sleep(wait)
                wait = min(2 * wait, 1.0)
            if "done" in given:
                return Done(str(given["done"]), bool(given.get("next_block")))
            following = self._client.get(f"{_ROOT}/upcoming")["case"]
            return StudyCase(
                str(given["case"]),
                int(given["position"]),
                int(given["total"]),
                bool(given["training"]),
                None if given["left_seconds"] is None else float(given["left_seconds"]),
                str(following or ""),
            )

    def pause(self, reason: str) -> None:
        """Tell the server of a pause."""
        with _seated():
            self._client.ask("POST", f"{_ROOT}/pause", document={"reason": reason})

    def resume(self) -> None:
        """Tell the server that the pause is over."""
        with _seated():
            self._client.ask("POST", f"{_ROOT}/resume")

    def accepted(self, session_id: str, lines: Sequence[str] = ()) -> int:
        """Send lines of a session's log; tell the number of the last event that the server has.

        Raises:
            Problem: if it does not take them.
        """
        document = {"session_id": session_id, "lines": list(lines)}
        with _seated():
            said = self._client.ask("POST", f"{_ROOT}/events", document=document)
            return int(said["accepted_seq"])

    def end(self, head: str, seq: int) -> None:
        """End the session; its whole log must be on the server.

        Raises:
            Problem: if events are missing there.
        """
        with _seated():
            self._client.ask("POST", f"{_ROOT}/end", document={"head": head, "seq": seq})


@contextlib.contextmanager
def _seated() -> Iterator[None]:
    """Tell what went wrong as `told`; a session that has ended has a mend of its own."""
    with told():
        try:
            yield
        except ServerError as error:
            if error.status == 403:
                raise Problem(error.detail, "Go on without it.", "forbidden") from error
            if error.status != 401:
                raise
            sentence = error.detail or "The session has ended."
            raise Problem(sentence, "Log in again; your answers are kept here.", "token") from error


class LogUploader:
    """Sends a session's log as it grows; goes on from where the server is, however often.

    Args:
        connection: of a seat of the same reader.
        path: of the log.
        session_id: that it is of.
    """

    def __init__(self, connection: StudyConnection, path: Path, session_id: str) -> None:
        self.path = path
        self.session_id = session_id
        self._connection = connection
        self._accepted: int | None = None  # unknown: ask

    def send(self) -> int:
        """Send what the server does not have; return how many events it has then.

        Raises:
            Problem: if it does not take them; the next call goes on.
            OSError: if the log cannot be read.
        """
        connection = self._connection
        lines = _whole_lines(self.path)
        try:
            if self._accepted is None:
                self._accepted = connection.accepted(self.session_id)
            while self._accepted < len(lines):
                batch = lines[self._accepted : self._accepted + LINES_AT_ONCE]
                self._accepted = connection.accepted(self.session_id, batch)
        except Problem:
            self._accepted = None
            raise
        return self._accepted


class Outbox:
    """Answers that the server does not have yet, on the disk before anything is sent.

    Args:
        folder: of these answers alone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, code: str, document: Mapping[str, Any], mask: Path | None) -> None:
        """Keep an answer; one that waits already is replaced.

        Raises:
            OutputError: if there is no space or no permission.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            name = ""
            if mask is not None:
                name = f"{code}-{secrets.token_hex(4)}.nii.gz"
                shutil.copyfile(mask, self.folder / name)
                with (self.folder / name).open("rb+") as file:
                    os.fsync(file.fileno())
            text = json.dumps({"answer": dict(document), "mask": name}, allow_nan=False)
            write_private(self.folder / f"{code}.json", text)
        except OSError as error:
            raise _unwritable(self.folder, error) from error

    def waiting(self) -> Iterator[tuple[str, dict[str, Any], Path | None]]:
        """List what waits: code of the case, answer, mask."""
        for path in sorted(self.folder.glob("c-*.json")):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                kept = json.loads(path.read_bytes())
                yield (
                    path.stem,
                    kept["answer"],
                    self.folder / kept["mask"] if kept["mask"] else None,
                )

    def drop(self, code: str) -> None:
        """Forget an answer that the server has."""
        (self.folder / f"{code}.json").unlink(missing_ok=True)
        for mask in self.folder.glob(f"{code}-*.nii.gz"):
            mask.unlink(missing_ok=True)


def _whole_lines(path: Path) -> list[str]:
    data = path.read_bytes()
    return data[: data.rfind(b"\n") + 1].decode().splitlines()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unwritable(folder: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{folder}: answers cannot be kept there ({error.strerror or error}). Free space on the "
        "disk or choose another folder in the settings."
    )
