"""One study on this server: who is logged in, which case is whose, what was acknowledged.

Everything that decides is an event of the server's log first, on the disk, and changes the state
only then; so after a restart the log alone brings the state back.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from lib.study.answers import read_answer
from lib.study.tokens import SessionTokens, session_of
from pasta.errors import PastaError
from pasta.study.archive import SERVER_LOG, Archive, ArchiveError
from pasta.study.conduct import Conduct, ConductError, Session, case_seconds, timing_seconds
from pasta.study.events import EventLog, case_code, read_events, verify
from pasta.study.lock import LOCK_FILE, check_lock

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from pasta.study.conduct import BlockState, Slot
    from pasta.study.folder import StudyFolder

_log = logging.getLogger(__name__)
_OWNER = ".server.lock"
_STEP_SECONDS = 1.0
_MOST_REFUSALS = 50  # noted in the log, of one session


class RefusedError(PastaError):
    """A reader may not do this now.

    Attributes:
        status: of HTTP.
        code: for programs.
        retry_seconds: when to ask again, 0 for never.
    """

    def __init__(self, text: str, status: int, code: str, retry_seconds: int = 0) -> None:
        super().__init__(text)
        self.status, self.code, self.retry_seconds = status, code, retry_seconds


class RunningStudy:
    """One study, served.

    Args:
        folder: of the study.
        weights: SHA-256 of the models on this server now, by name.
        check_mask: raises a PastaError if a mask does not fit the image.
        own_seconds: to wait for another server to let the study go.

    Raises:
        PastaError: if another server has the study, or its log was changed.
    """

    def __init__(
        self,
        folder: StudyFolder,
        weights: Callable[[], Mapping[str, str]],
        check_mask: Callable[[str, bytes], None],
        own_seconds: float,
    ) -> None:
        self.folder = folder
        self.id = folder.protocol.id
        self.ready: Callable[[BlockState, Slot], bool] = lambda _state, _slot: True
        self._weights, self._check_mask = weights, check_mask
        self._guard = threading.RLock()
        self._owner = _own(folder, own_seconds)
        try:
            self._begin(folder)
        except BaseException:
            os.close(self._owner)
            raise

    def _begin(self, folder: StudyFolder) -> None:
        self.archive = Archive(folder.path)
        self.tokens = SessionTokens(self.id, folder.key)
        self.conduct = Conduct(folder.protocol, folder.allocation, self.code_of)
        path = self.archive.logs / SERVER_LOG
        self._replay(path)
        self.log = EventLog(path, study_id=self.id, session_id="server", study_key=folder.key)
        self._checked: tuple[Any, list[str]] = (None, [])
        self._handed: dict[tuple[str, str], float] = {}  # monotonic, of this start only
        self._called: dict[str, str] = {}
        self._refusals: dict[str, int] = {}
        self._utc_mark, self._mono_mark = datetime.now(UTC), time.monotonic()
        for where in self.archive.put_aside(self._received):
            self._note("crash_recovered", {"unacknowledged": where})
        if self.conduct.last_utc and _utc() < datetime.fromisoformat(self.conduct.last_utc):
            self._note("clock_check", {"what": "the server's clock was set back"})

    def close(self) -> None:
        """Let the study go."""
        self.log.close()
        os.close(self._owner)

    def code_of(self, image: str) -> str:
        """Name a case without its id."""
        return case_code(self.folder.key, image)

    @property
    def locked(self) -> bool:
        """Tell whether the study is locked, so that readers may begin."""
        return self.folder.lock is not None

    def problems(self) -> list[str]:
        """Say what keeps readers from reading; none if nothing does."""
        lock = self.folder.lock
        paths = (self.folder.path / name for name in (LOCK_FILE, *(lock.files if lock else ())))
        weights = self._weights()
        signature = (tuple(map(_signature, paths)), tuple(sorted(weights.items())))
        if signature != self._checked[0]:  # hashing all reference masks takes seconds
            self._checked = signature, check_lock(self.folder.path, weights)
        return self._checked[1]

    # --- sessions

    def login(self, reader: str, machine_session: str, *, take_over: bool) -> dict[str, Any]:
        """Begin or take up a session.

        Args:
            reader: pseudonym, whose code was right.
            machine_session: random id of the reader's machine.
            take_over: end a live session elsewhere.

        Returns:
            Token and all that the reader's machine must know of the block.

        Raises:
            RefusedError: if the study is not locked or was changed, another session is live, it is
                too early, or all is read.
        """
        with self._guard:
            problems = self.problems()
            if problems:
                code = "changed" if self.locked else "unlocked"
                raise self._refused(RefusedError(problems[0], 409, code), reader)
            machine = self.tokens.machine(machine_session)
            live = self.conduct.live_session(reader)
            if live is not None and self._machines.get(live.id) == machine:
                if not self.conduct.blocks[live.block].finished:
                    return self._welcome(live, machine_session)
            elif live is not None and not take_over:
                msg = (
                    f"reader {reader} is logged in elsewhere; end that session, or take it over: "
                    "what it has not sent yet is sent when it logs in again."
                )
                raise self._refused(RefusedError(msg, 409, "live"), reader)
            try:
                state = self.conduct.begin(reader, _utc())
            except ConductError as error:
                refusal = RefusedError(str(error), 409, error.code)
                raise self._refused(refusal, reader) from error
            session = f"s-{secrets.token_hex(6)}"
            if live is not None:
                taken = self._machines.get(live.id) != machine
                payload = {"session": live.id, "by": session, "reader": reader}
                reason = "taken over" if taken else "next block"
                self._note("takeover" if taken else "logout", {**payload, "reason": reason})
            self._note(
                "login",
                {
                    "session": session,
                    "reader": reader,
                    "block": state.block.id,
                    "arm": state.block.arm,
                    "machine": machine,
                },
            )
            self._machines[session] = machine
            return self._welcome(self.conduct.sessions[session], machine_session)

    def session(self, token: str, machine_session: str, *, ended: bool = False) -> Session:
        """Find the session of a token.

        Args:
            token: as the login gave it.
            machine_session: of the machine that logged in.
            ended: take one that has ended, too.

        Raises:
            RefusedError: 401 if there is none, it has ended, or the token was carried off.
        """
        name = session_of(token) or ""
        with self._guard:
            session = self.conduct.sessions.get(name)
            if session is None or not self.tokens.fits(token, machine_session):
                if session is not None:
                    self._refused_token(name, "another machine session")
                msg = "the session token is not known, or belongs to another machine; log in again."
                raise RefusedError(msg, 401, "token")
            if not session.live and not ended:
                self._refused_token(name, "the session has ended")
                msg = f"the session has ended ({session.reason}); log in again."
                raise RefusedError(msg, 401, "ended")
            self._called[name] = _utc().isoformat(timespec="seconds")
            return session

    def pause(self, session: Session, reason: str) -> dict[str, Any]:
        """Note that the reader takes a pause; the reader's machine times it."""
        with self._guard:
            if not session.paused:
                self._note("pause_start", {"session": session.id, "reason": reason[:80]})
            return self._state(session)

    def resume(self, session: Session) -> dict[str, Any]:
        """Note the end of the pause."""
        with self._guard:
            if session.paused:
                self._note("pause_end", {"session": session.id})
            return self._state(session)

    def end(self, session: Session, head: str, seq: int) -> dict[str, Any]:
        """End a session whose whole log is here; once more changes nothing.

        Raises:
            RefusedError: 409 if events are missing here.
        """
        with self._guard:
            here, here_head = self.archive.head(session.id)
            if session.live and (here < seq or (here == seq and here_head != head)):
                msg = f"the log is here up to event {here}, not {seq}; send the rest, then end."
                raise RefusedError(msg, 409, "events")
            if session.live:
                payload = {"session": session.id, "reader": session.reader, "reason": "end"}
                self._note("logout", {**payload, "head": here_head, "seq": here})
            return self._state(session)

    # --- cases

    def next(self, session: Session) -> dict[str, Any]:
        """Hand out the reader's next case; the same one until it is answered.

        Raises:
            RefusedError: 503 while its image or AI is being prepared, before any clock runs.
        """
        with self._guard:
            step = self.conduct.step(session)
            state = self.conduct.blocks[session.block]
            if step.slot is None:
                if step.expires:
                    self._note("budget_expired", {"session": session.id, "block": session.block})
                following = self.conduct.block_of(session.reader)
                return {
                    "done": step.end,
                    "left_seconds": state.left_seconds,
                    "next_block": _block(following) if following else None,
                }
            slot = step.slot
            self._await(state, slot)
            if state.open != slot.code or state.open_session != session.id:
                self._note(
                    "case_assigned",
                    {
                        "session": session.id,
                        "reader": session.reader,
                        "block": session.block,
                        "training": slot.training,
                        "resumed": step.resumed,
                    },
                    case=slot.code,
                    position=slot.position,
                )
                self._handed[session.block, slot.code] = time.monotonic()
            return {
                "case": slot.code,
                "position": slot.position,
                "total": slot.total,
                "training": slot.training,
                "resumed": step.resumed,
                "url": f"/pasta/study/case/{slot.code}/image",
                "left_seconds": state.left_seconds,
            }

    def upcoming(self, session: Session) -> Slot | None:
        """The case after the one in progress, for loading it ahead; in both arms alike."""
        with self._guard:
            return self.conduct.blocks[session.block].upcoming()

    def visible(self, session: Session, code: str) -> tuple[BlockState, Slot]:
        """Find a case whose image the session may have: the one in progress and the one after it.

        Raises:
            RefusedError: 404 for every other, whether there is such a case or not.
        """
        with self._guard:
            state = self.conduct.blocks[session.block]
            following = state.upcoming()
            slot = state.slot(code)
            if slot is None or code not in (state.open, following.code if following else ""):
                msg = f"case {code[:20]!r} is not your case now; ask for the next one."
                raise RefusedError(msg, 404, "case")
            return state, slot

    def assisted(self, session: Session, code: str, task: str) -> tuple[BlockState, Slot]:
        """Find a case whose AI result the session may have.

        Raises:
            RefusedError: 403 in the solo arm, whatever the case; 404 for another case or task.
        """
        if session.arm != "assisted":
            self._refused_use(session, "ai")
            msg = "there is no AI in this arm."
            raise RefusedError(msg, 403, "arm")
        state, slot = self.visible(session, code)
        if task not in state.part.ai:
            msg = f"this part shows no AI result {task[:40]!r}."
            raise RefusedError(msg, 404, "task")
        return state, slot

    def answer(
        self, session: Session, code: str, sent: bytes, mask: bytes | None
    ) -> dict[str, Any]:
        """Keep the answer to a case; on return it is on the disk.

        Raises:
            RefusedError: 409 if the case was never handed out in this block.
            RequestError: if the answer does not fit the questions.
            PastaError: if the mask does not fit the image, or there is no space.
        """
        state = self.conduct.blocks[session.block]
        slot = state.slot(code)
        if slot is None or code not in state.handed:
            self._refused_use(session, "answer")
            msg = f"case {code[:20]!r} was not handed out to you; answer the case in progress."
            raise RefusedError(msg, 409, "order")
        given = read_answer(sent, state.part, with_mask=mask is not None)
        if mask is not None:
            self._check_mask(slot.image, mask)
        with self._guard:
            seconds = self._seconds(session, state, code, given["timing"])
            if seconds is None and given["status"] in ("complete", "budget"):
                msg = "answer.timing is missing: send reading_seconds and load_seconds."
                raise RefusedError(msg, 422, "timing")
            seconds = seconds or 0.0
            status = self.conduct.status_of(state, code, given["status"], seconds)
            block = state.block
            handed = self._handed.get((block.id, code))
            level = self.folder.protocol.reader(session.reader).level
            record = {
                "study_id": self.id,
                "block": block.id,
                "reader": session.reader,
                "level": level,
                "arm": block.arm,
                "part": block.part,
                "task": state.part.task,
                "organ": block.organ,
                "case": code,
                "position": slot.position,
                "training": slot.training,
                "session_id": session.id,
                "status": status,
                "client_status": given["status"],
                "answers": given["answers"],
                "report": given["report"],
                "timing": given["timing"],
                "seconds": round(seconds, 6),
                "resumed": code in state.resumed,
                "received_utc": _utc().isoformat(timespec="milliseconds"),
            }
            saved = self.archive.save_answer(record, sent, mask)
            again = (block.id, code, saved.version) in self._received
            if not again:
                self._note(
                    "answer_received",
                    {
                        "session": session.id,
                        "reader": session.reader,
                        "block": block.id,
                        "status": saved.record["status"],
                        "training": slot.training,
                        "seconds": saved.record["seconds"],
                        "server_seconds": round(time.monotonic() - handed, 3) if handed else None,
                        "version": saved.version,
                        "sha256": saved.record["sha256"],
                        "mask_sha256": saved.record["mask_sha256"],
                        "record_sha256": saved.record_sha256,
                    },
                    case=code,
                    position=slot.position,
                )
                self._received.add((block.id, code, saved.version))
            return {
                "sha256": saved.record["sha256"],
                "mask_sha256": saved.record["mask_sha256"],
                "version": saved.version,
                "changed": saved.version > 1,
                "repeated": again,
                "status": saved.record["status"],
                "left_seconds": state.left_seconds,
            }

    def upload(self, session: Session, log: str, lines: Sequence[str]) -> dict[str, Any]:
        """Append events to the log of this session, or of an earlier one of the same reader.

        Raises:
            RefusedError: 403 if it is the log of another reader or of no session.
            ForkError: if they do not continue the log that is here.
            ArchiveError: if they are not events of that session.
        """
        with self._guard:
            owner = self.conduct.sessions.get(log)
            if owner is None or owner.reader != session.reader:
                self._refused_use(session, "log")
                msg = f"log {log[:40]!r} is not one of your sessions."
                raise RefusedError(msg, 403, "log")
        expected = {
            "study_id": self.id,
            "session_id": log,
            "reader": owner.reader,
            "level": self.folder.protocol.reader(owner.reader).level,
            "arm": owner.arm,
        }
        seq, head = self.archive.append(log, lines, expected)
        return {"accepted_seq": seq, "head": head}

    # --- the coordinator

    def allow_early(self, block: str, reason: str) -> None:
        """Let a block begin before its washout is over, with a reason, which is logged.

        Raises:
            RefusedError: 404 if there is no such block, 422 without a reason.
        """
        with self._guard:
            state = self.conduct.blocks.get(block)
            if state is None:
                msg = f"there is no block {block[:60]!r}; the study's page lists them."
                raise RefusedError(msg, 404, "block")
            if len(reason.strip()) < 5:
                msg = "say in a few words why the block may begin early."
                raise RefusedError(msg, 422, "reason")
            self._note(
                "override",
                {
                    "what": "washout",
                    "block": block,
                    "reader": state.block.reader,
                    "reason": reason.strip()[:200],
                },
            )

    def note_ai(self, payload: Mapping[str, Any], code: str, organ: str, *, failed: bool) -> None:
        """Note that an AI result was made ahead, or could not be."""
        with self._guard:
            self._note("ai_failed" if failed else "ai_precomputed", payload, code, None, organ)

    def last_call(self, session: str) -> str:
        """When a session last called, since the server started; "" if it has not."""
        return self._called.get(session, "")

    def events(self) -> list[dict[str, Any]]:
        """Events of the server's log."""
        return list(read_events(self.log.path))

    # --- inside

    def _replay(self, path: Path) -> None:
        self._machines: dict[str, str] = {}
        self._received: set[tuple[str, str, int]] = set()
        if not path.exists():
            return
        found = verify(path)
        if not found.ok and found.reason != "the last line is torn":
            msg = (
                f"study {self.id}: the server's log was changed (event {found.first_bad_seq}: "
                f"{found.reason}); restore it from a backup. Nothing is handed out until then."
            )
            raise PastaError(msg)
        for event in read_events(path):
            payload = event.get("payload") or {}
            self.conduct.apply(event)
            if event["type"] == "login":
                self._machines[payload["session"]] = payload["machine"]
            elif event["type"] == "answer_received":
                self._received.add((payload["block"], event["case"], payload["version"]))

    def _note(
        self,
        kind: str,
        payload: Mapping[str, Any],
        case: str = "",
        position: int | None = None,
        organ: str = "",
    ) -> None:
        """Write an event, then change the state as it says; on an error nothing has changed."""
        self._look_at_clock()
        event = self.log.append(kind, payload, case=case, position=position, organ=organ)
        self.conduct.apply(event)
        with contextlib.suppress(PastaError):  # the event is kept; the note follows with the next
            self.archive.keep_head(self.log.seq, self.log.head)

    def _look_at_clock(self) -> None:
        """Note that somebody set the server's clock, or that it slept."""
        utc, mono = datetime.now(UTC), time.monotonic()
        step = (utc - self._utc_mark).total_seconds() - (mono - self._mono_mark)
        self._utc_mark, self._mono_mark = utc, mono
        if abs(step) > _STEP_SECONDS:
            self.log.append("clock_check", {"step_seconds": step})

    def _await(self, state: BlockState, slot: Slot) -> None:
        if not self.ready(state, slot):
            msg = "the next case is being prepared; no time runs meanwhile."
            raise RefusedError(msg, 503, "preparing", retry_seconds=2)

    def _seconds(
        self, session: Session, state: BlockState, code: str, timing: Mapping[str, Any]
    ) -> float | None:
        """Time of a case: by the logs where they tell its end, else as the answer says."""
        earlier = 0.0
        if code in state.resumed:
            for other in self.conduct.sessions.values():
                if other.block == state.block.id and other.id != session.id:
                    earlier += case_seconds(self.archive.events(other.id), code) or 0.0
        events = self.archive.events(session.id)
        logged = case_seconds(events, code)
        ended = any(
            event["case"] == code and event["type"] in ("case_complete", "case_skip")
            for event in events
        )
        told = timing_seconds(timing)
        own = logged if ended or told is None else told
        return None if own is None and not earlier else (own or 0.0) + earlier

    def _welcome(self, session: Session, machine_session: str) -> dict[str, Any]:
        state = self.conduct.blocks[session.block]
        protocol, part = self.folder.protocol, state.part
        self._called[session.id] = _utc().isoformat(timespec="seconds")
        return {
            "token": self.tokens.token(session.id, machine_session),
            "session_id": session.id,
            "study_id": self.id,
            "reader": session.reader,
            "level": protocol.reader(session.reader).level,
            **_block(state),
            "budget_seconds": part.budget_seconds,
            "left_seconds": state.left_seconds,
            "training_left": state.cases_left(training=True),
            "cases_left": state.cases_left(training=False),
            "cases_total": len(state.block.images),
            "questions": [_question(question) for question in part.questions],
            "layout": part.layout,
            "window": part.window,
            "hide": list(part.hide),
            "idle_seconds": protocol.idle_seconds,
            "clock_visible": protocol.clock_visible,
            "ai": list(part.ai) if session.arm == "assisted" else [],
        }

    def _state(self, session: Session) -> dict[str, Any]:
        state = self.conduct.blocks[session.block]
        return {
            "session_id": session.id,
            "live": session.live,
            "paused": session.paused,
            "block": session.block,
            "block_finished": state.finished,
            "left_seconds": state.left_seconds,
            "cases_left": state.cases_left(training=False),
        }

    def _refused(self, refusal: RefusedError, reader: str) -> RefusedError:
        if self._refusals.get(reader, 0) < _MOST_REFUSALS:
            self._refusals[reader] = self._refusals.get(reader, 0) + 1
            self._note("session_refused", {"reader": reader, "reason": refusal.code})
        return refusal

    def _refused_use(self, session: Session, what: str) -> None:
        with self._guard:
            if self._refusals.get(session.id, 0) < _MOST_REFUSALS:
                self._refusals[session.id] = self._refusals.get(session.id, 0) + 1
                payload = {"session": session.id, "reader": session.reader, "what": what}
                self._note("session_refused", payload)

    def _refused_token(self, session: str, reason: str) -> None:
        if self._refusals.get(session, 0) < _MOST_REFUSALS:
            self._refusals[session] = self._refusals.get(session, 0) + 1
            with contextlib.suppress(PastaError):  # a full disk does not open the door
                self._note("token_refused", {"session": session, "reason": reason})


def _own(folder: StudyFolder, seconds: float) -> int:
    """Keep other servers out of a study; the system lets go when this one dies."""
    descriptor = os.open(folder.path / _OWNER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    until = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() > until:
                os.close(descriptor)
                msg = f"study {folder.protocol.id}: another server serves it; stop that one first."
                raise PastaError(msg) from None
            time.sleep(0.2)
        else:
            return descriptor


def _signature(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError:
        return 0, 0
    return stat.st_mtime_ns, stat.st_size


def _block(state: BlockState) -> dict[str, Any]:
    return {
        "arm": state.block.arm,
        "part": state.block.part,
        "task": state.part.task,
        "organ": state.block.organ,
        "block": state.block.id,
    }


def _question(question: Any) -> dict[str, Any]:
    return {
        "id": question.id,
        "text": question.text,
        "type": question.type,
        "required": question.required,
        "options": list(question.options),
        "minimum": question.minimum,
        "maximum": question.maximum,
    }


def _utc() -> datetime:
    return datetime.now(UTC)


__all__ = ["ArchiveError", "RefusedError", "RunningStudy"]
