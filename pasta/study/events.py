"""The event log of a reading: one JSON line an event, on the disk before the next, chained by hash.

Lines are only ever appended. A chain shows any change and any line taken out of the middle; lines
taken off the end show only if the head was kept elsewhere, so show it, or send it along.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import math
import os
import re
import secrets
import sys
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Any

from pasta.errors import PastaError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path
    from types import TracebackType

VERSION = 1
FIRST = "0" * 64  # what the first event names as the hash before it

EVENT_TYPES = frozenset(
    {
        # the study and the session
        "study_locked",
        "consent",
        "training_start",
        "training_end",
        "session_start",
        "session_end",
        "clock_check",
        "screen_lock",
        "suspend_detected",
        "budget_expired",
        "crash_recovered",
        "export",
        # a case, from being asked for to being done
        "case_requested",
        "load_start",
        "load_end",
        "first_interaction",
        "case_complete",
        "case_skip",
        "reopen",
        "amend",
        "pause_start",
        "pause_end",
        "focus_lost",
        "focus_gained",
        "idle_start",
        "idle_end",
        "wait_start",
        "wait_end",
        "draft_restored",
        # what the AI says
        "ai_request",
        "ai_ready",
        "ai_failed",
        "ai_shown",
        "ai_declined",
        # what the reader does
        "slice_scroll",
        "window_level",
        "seg_edit_start",
        "seg_edit_end",
        "undo",
        "mask_accept",
        "mask_edit",
        "lesion_added",
        "lesion_deleted",
        "lesion_split",
        "remeasured",
        "attribute_set",
        "decision",
        "impression_set",
        # what the server of a study notes in a log of its own
        "login",
        "logout",
        "takeover",
        "session_refused",
        "token_refused",
        "override",
        "case_assigned",
        "answer_received",
        "ai_precomputed",
    }
)
_OPENS, _ENDS = ("case_requested", "reopen"), ("case_complete", "case_skip")
_PSEUDONYM = re.compile(r"[A-Za-z0-9_-]{0,32}")
_CODE = re.compile(r"(c-[0-9a-f]{16})?")
_UID = re.compile(r"\d+(\.\d+){4,}")
_PATH = re.compile(r"file:|[/\\]|[A-Za-z]:[/\\]|~/")
_NAMES = frozenset(
    (
        "patient",
        "name",
        "id",
        "uid",
        "path",
        "file",
        "filename",
        "user",
        "username",
        "host",
        "birth",
        "mrn",
    )
)
_LONGEST_TEXT = 200
_MOST_LOGS = 9


class EventLogError(PastaError, OSError):
    """The event log cannot be written."""


class EventError(PastaError, ValueError):
    """An event is of no known type, or holds what may not be in a log."""


@dataclass(frozen=True, slots=True)
class Verification:
    """What a check of a log found.

    Attributes:
        ok: whether every line is as it was written.
        events: that are whole and in the chain.
        first_bad_seq: number of the first event that is not; None if all are.
        reason: what is wrong with it.
        head: SHA-256 of the last good event.
    """

    ok: bool
    events: int
    first_bad_seq: int | None = None
    reason: str = ""
    head: str = FIRST


def case_code(study_key: str | bytes | None, image_id: str) -> str:
    """Name a case in logs without its id.

    Args:
        study_key: secret of the study, kept outside of the repository and of every export. Without
            one the id is merely hashed, which hides no id that can be guessed.
        image_id: in the server's store.

    Returns:
        "c-" and 16 hexadecimal digits.
    """
    key = study_key.encode() if isinstance(study_key, str) else study_key
    message = image_id.encode()
    digest = (
        hmac.new(key, message, hashlib.sha256).hexdigest()
        if key
        else hashlib.sha256(message).hexdigest()
    )
    return f"c-{digest[:16]}"


class EventLog:
    """Appends events to one file, which no other program may write meanwhile.

    Where another program writes it already, as a second Slicer of the same reader, the log goes on
    in a file beside it, which is a chain of its own; `path` says which.

    A last line that was torn by a crash is put into a file of its own beside the log, and
    `crash_recovered` says so; it also names a case that was never ended.

    Args:
        path: of the log; it and its folder are made if they are not there.
        reader: pseudonym.
        study_id: of the study, "" outside of one.
        level: "junior", "senior" or "".
        arm: "solo", "assisted" or "".
        study_key: secret that case codes are made with; see `case_code`.
        session_id: of this session; made up if not given.
        monotonic_ns: clock for durations.
        utc: clock for provenance.

    Raises:
        EventLogError: if the file cannot be written.
        EventError: if a field holds what may not be in a log.
    """

    def __init__(
        self,
        path: Path,
        *,
        reader: str = "",
        study_id: str = "",
        level: str = "",
        arm: str = "",
        study_key: str | bytes | None = None,
        session_id: str | None = None,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
        utc: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._study_key = study_key
        self._fields = {
            "v": VERSION,
            "study_id": _pseudonym("study_id", study_id),
            "session_id": session_id or f"s-{secrets.token_hex(6)}",
            "reader": _pseudonym("reader", reader),
            "level": _pseudonym("level", level),
            "arm": _pseudonym("arm", arm),
            # monotonic times compare within one of these only: one start of the program
            "boot_id": secrets.token_hex(8),
        }
        self._monotonic_ns, self._utc = monotonic_ns, utc
        self._guard = threading.Lock()
        self._seq, self._head, self._length = 0, FIRST, 0
        self.path, self._file = _opened(path)
        try:
            recovered = self._recover()
        except BaseException:
            self._file.close()
            raise
        if recovered:
            self.append("crash_recovered", recovered)

    @property
    def head(self) -> str:
        """SHA-256 of the last event: kept elsewhere, it shows that no line was taken off the end."""
        return self._head

    @property
    def seq(self) -> int:
        """Number of the last event, 0 for an empty log."""
        return self._seq

    def append(
        self,
        kind: str,
        payload: Mapping[str, Any] | None = None,
        *,
        case: str = "",
        task: str = "",
        organ: str = "",
        position: int | None = None,
        mono_ns: int | None = None,
    ) -> dict[str, Any]:
        """Write one event; on return it is on the disk.

        Args:
            kind: one of `EVENT_TYPES`.
            payload: numbers, short texts, lists and objects of them; no path, UID or name.
            case: id of the image, which becomes a code, or that code.
            task: "screen", "segment", "report" or "".
            organ: such as "liver".
            position: of the case in the reader's list.
            mono_ns: when it happened, if not now.

        Returns:
            The event as written.

        Raises:
            EventError: if the type is unknown, or a field holds what may not be in a log.
            EventLogError: if it cannot be written; the log is as before.
        """
        if kind not in EVENT_TYPES:
            msg = f"event type {kind!r} is unknown; see EVENT_TYPES."
            raise EventError(msg)
        event = {
            **self._fields,
            "type": kind,
            "task": _pseudonym("task", task),
            "organ": _pseudonym("organ", organ),
            "case": case if _CODE.fullmatch(case) else case_code(self._study_key, case),
            "position": position,
            "payload": _harmless("payload", dict(payload or {})),
        }
        with self._guard:
            event |= {
                "seq": self._seq + 1,
                "event_id": secrets.token_hex(8),
                "mono_ns": self._monotonic_ns() if mono_ns is None else mono_ns,
                "utc": self._utc().isoformat(timespec="milliseconds"),
                "prev_sha256": self._head,
            }
            event["sha256"] = _sha256(event)
            self._write(_canonical(event) + b"\n")
            self._seq, self._head = event["seq"], event["sha256"]
        return event

    def close(self) -> None:
        """Let the file go."""
        with self._guard:
            self._file.close()

    def __enter__(self) -> EventLog:
        """Close at the end of a with block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    def _write(self, line: bytes) -> None:
        try:
            written = self._file.write(line)
            if written != len(line):
                raise OSError(28, "no space left on the device")
            os.fsync(self._file.fileno())
        except (OSError, ValueError) as error:
            with contextlib.suppress(OSError, ValueError):
                self._file.truncate(self._length)  # half a line would tear the chain
            raise _unwritable(self.path, error) from error
        self._length += len(line)

    def _recover(self) -> dict[str, Any]:
        """Find the end of the chain; tell what a crash left."""
        self._file.seek(0)
        data = self._file.read()
        end = len(data)
        last = _last_event(data)
        if data and last is None:  # torn, or not ours; nothing of it is lost
            end = data.rfind(b"\n", 0, len(data) - 1) + 1
            last = _last_event(data[:end])
            while end and last is None:
                end = data.rfind(b"\n", 0, end - 1) + 1
                last = _last_event(data[:end])
        torn = data[end:]
        if torn:
            aside = self.path.with_name(f"{self.path.name}.torn-{secrets.token_hex(4)}")
            try:
                with aside.open("xb") as file:
                    file.write(torn)
                    file.flush()
                    os.fsync(file.fileno())
                self._file.truncate(end)
            except OSError as error:
                raise _unwritable(self.path, error) from error
        self._length = end
        if last:
            self._seq, self._head = last["seq"], last["sha256"]
        interrupted = _open_case(data[:end])
        if not torn and not interrupted:
            return {}
        return {"torn_bytes": len(torn), "interrupted": interrupted}


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """Read the events of a log, without checking them; a torn last line is left out."""
    with path.open("rb") as file:
        for line in file:
            event = _event(line)
            if event is not None:
                yield event


def verify(path: Path, head: str | None = None) -> Verification:
    """Check every line of a log and the chain between them.

    Args:
        path: of the log.
        head: SHA-256 of its last event, if it was kept elsewhere; shows lines taken off the end.

    Raises:
        OSError: if it cannot be read.
    """
    last, count = FIRST, 0
    with path.open("rb") as file:
        for line in file:
            event, problem = checked_line(line, count + 1, last)
            if event is None:
                return Verification(False, count, count + 1, problem, last)
            last, count = event["sha256"], count + 1
    if head is not None and head != last:
        return Verification(False, count, count + 1, "events after it were taken off", last)
    return Verification(True, count, head=last)


def checked_line(line: bytes, seq: int, prev_sha256: str) -> tuple[dict[str, Any] | None, str]:
    """Check one line of a log against the line before it.

    Args:
        line: with its end.
        seq: number that the event must have.
        prev_sha256: SHA-256 of the event before it, `FIRST` for the first.

    Returns:
        The event and ""; or None and what is wrong.
    """
    event = _event(line)
    if event is None:
        return None, "not a whole event" if line.endswith(b"\n") else "the last line is torn"
    if event["seq"] != seq:
        return None, f"an event is missing or out of place: found number {event['seq']}"
    if event["prev_sha256"] != prev_sha256:
        return None, "the event before it was changed or taken out"
    if event["sha256"] != _sha256(event) or line != _canonical(event) + b"\n":
        return None, "it was changed"
    return event, ""


def _opened(path: Path) -> tuple[Path, IO[bytes]]:
    """Open the first of a few files that nobody else writes."""
    for number in range(1, _MOST_LOGS + 1):
        chosen = path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")
        try:
            chosen.parent.mkdir(parents=True, exist_ok=True)
            file = chosen.open("ab+", buffering=0)
        except OSError as error:
            raise _unwritable(chosen, error) from error
        if _taken(file):
            return chosen, file
        file.close()
    msg = f"{path.name}: other programs write this log and those beside it; close one of them."
    raise EventLogError(msg)


def _taken(file: IO[bytes]) -> bool:
    """Keep other programs out; the system lets go when this one dies."""
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(1 << 40)  # a byte that is never written, as a locked one cannot be read
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _event(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        event = json.loads(line, parse_constant=_refused)  # NaN is no JSON
        if not (
            isinstance(event["seq"], int)
            and isinstance(event["sha256"], str)
            and isinstance(event["prev_sha256"], str)
            and isinstance(event["type"], str)
        ):
            return None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    else:
        return dict(event)


def _refused(constant: str) -> None:
    raise ValueError(constant)


def _last_event(data: bytes) -> dict[str, Any] | None:
    return _event(data[data.rfind(b"\n", 0, len(data) - 1) + 1 :]) if data else None


def _open_case(data: bytes) -> str:
    """Name the case that was asked for and never ended; "" if there is none."""
    case = ""
    for line in data.splitlines(keepends=True):
        event = _event(line) or {"type": ""}
        if event["type"] in _OPENS:
            case = str(event.get("case", ""))
        elif event["type"] in _ENDS or event["type"] == "crash_recovered":
            case = ""
    return case


def _canonical(event: Mapping[str, Any]) -> bytes:
    return json.dumps(event, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _sha256(event: Mapping[str, Any]) -> str:
    content = {key: value for key, value in event.items() if key != "sha256"}
    return hashlib.sha256(_canonical(content)).hexdigest()


def _pseudonym(name: str, text: str) -> str:
    if not _PSEUDONYM.fullmatch(text):
        msg = f"{name} is not allowed in a log: up to 32 letters, digits, dashes, underscores."
        raise EventError(msg)
    return text


def _harmless(where: str, value: Any) -> Any:
    """Refuse what could tell who the patient or the reader is; give back plain JSON."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    if isinstance(value, str):
        if len(value) > _LONGEST_TEXT or _UID.search(value) or _PATH.match(value):
            msg = f"{where}: a path, UID or long text may not be in a log."
            raise EventError(msg)
        return value
    if isinstance(value, list | tuple):
        return [_harmless(where, item) for item in value]
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str) or key.lower() in _NAMES:
                msg = f"{where}: the key {key!r} may not be in a log."
                raise EventError(msg)
        return {key: _harmless(f"{where}.{key}", inner) for key, inner in value.items()}
    msg = f"{where}: a {type(value).__name__} may not be in a log."
    raise EventError(msg)


def _unwritable(path: Path, error: Exception) -> EventLogError:
    reason = getattr(error, "strerror", None) or error
    return EventLogError(
        f"{path.name}: the log cannot be written ({reason}). Free space on the disk or choose "
        "another folder in the settings."
    )
