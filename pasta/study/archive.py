"""What readers send, on the server's disk: session logs and answers. Acknowledged means written.

`logs/<session>.jsonl` holds the very lines of the reader's machine; only lines that continue the
chain are appended. `answers/<block>/<case>/v0001.json` is one answer, with the mask as it was sent
beside it; a later answer to the same case is a later version and replaces nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pasta.errors import OutputError, PastaError
from pasta.study.events import FIRST, checked_line, read_events, verify

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from pathlib import Path

LONGEST_LINE = 1 << 16
SERVER_LOG = "server.jsonl"
SERVER_HEAD = "server.head"
COUNTED = ("complete", "skip", "budget")
_SESSION = re.compile(r"[A-Za-z0-9_-]{1,128}")
_CODE = re.compile(r"c-[0-9a-f]{16}")
_HEAD = re.compile(rb"([0-9]{1,15}) ([0-9a-f]{64})\n")
_VERSION = re.compile(r"v(\d{4})\.json")


class ArchiveError(PastaError):
    """What a reader's machine sent cannot be taken."""


class ForkError(ArchiveError):
    """Lines do not continue the log that is here.

    Attributes:
        seq: number of the last event here.
        head: its SHA-256.
    """

    def __init__(self, text: str, seq: int, head: str) -> None:
        super().__init__(text)
        self.seq, self.head = seq, head


@dataclass(frozen=True, slots=True)
class Answer:
    """One saved version of an answer.

    Attributes:
        path: of its JSON.
        record: as saved.
        record_sha256: of the bytes of its JSON.
        new: whether it was saved now; False for the very same once more.
    """

    path: Path
    record: dict[str, Any]
    record_sha256: str
    new: bool = False

    @property
    def version(self) -> int:
        """From 1."""
        return int(self.record["version"])

    @property
    def mask(self) -> Path | None:
        """File of the mask; None if none was sent."""
        return self.path.with_suffix(".nii.gz") if self.record.get("mask_sha256") else None


class Archive:
    """Logs and answers of one study; safe with several threads of one process.

    Args:
        folder: of the study.

    Raises:
        OutputError: if it cannot be written to.
    """

    def __init__(self, folder: Path) -> None:
        self.logs, self.answers_folder = folder / "logs", folder / "answers"
        try:
            for path in (self.logs, self.answers_folder):
                path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(error) from error
        self._guard = threading.RLock()
        self._chains: dict[str, list[str]] = {}

    # --- logs

    def log_path(self, session: str) -> Path:
        """File of the log of a session.

        Raises:
            ArchiveError: if that is no session.
        """
        if not _SESSION.fullmatch(session) or session.startswith("server"):
            msg = f"session {session[:40]!r} is not allowed: letters, digits, dashes, underscores."
            raise ArchiveError(msg)
        return self.logs / f"{session}.jsonl"

    def head(self, session: str) -> tuple[int, str]:
        """Number and SHA-256 of the last event of a session's log here."""
        with self._guard:
            chain = self._chain(session)
            return len(chain), chain[-1] if chain else FIRST

    def events(self, session: str) -> list[dict[str, Any]]:
        """Events of a session's log here; none if there is no log yet."""
        path = self.log_path(session)
        return list(read_events(path)) if path.exists() else []

    def append(
        self, session: str, lines: Sequence[str], expected: Mapping[str, str]
    ) -> tuple[int, str]:
        """Append the lines that continue a session's log; on return they are on the disk.

        Lines that are here already change nothing, so an upload can be repeated from any point.

        Args:
            session: names the log.
            lines: as the reader's machine wrote them, in order.
            expected: fields that each event must have, such as reader and arm.

        Returns:
            Number and SHA-256 of the last event here.

        Raises:
            ForkError: if a line is missing before them, or another was written in its place.
            ArchiveError: if a line is no event of this session.
            OutputError: if there is no space; the log is as before.
        """
        with self._guard:
            chain = self._chain(session)
            fresh: list[bytes] = []
            shas: list[str] = []
            for text in lines:
                line = text.rstrip("\n").encode(errors="surrogatepass") + b"\n"
                count = len(chain) + len(shas)
                last = shas[-1] if shas else chain[-1] if chain else FIRST
                event = _event_of(line, expected)
                seq, sha256 = event["seq"], event["sha256"]
                if 1 <= seq <= count and [*chain, *shas][seq - 1] == sha256:
                    continue
                found, problem = checked_line(line, count + 1, last)
                if found is None:
                    if seq <= count:
                        problem = f"event {seq} is here already, and is another"
                    msg = f"log {session}: {problem}."
                    raise ForkError(msg, len(chain), _head(chain))
                fresh.append(line)
                shas.append(sha256)
            if fresh:
                _append(self.log_path(session), b"".join(fresh))
                chain.extend(shas)
            return len(chain), _head(chain)

    def _chain(self, session: str) -> list[str]:
        """SHA-256 of every event of a log here, read once; a torn last line is put aside."""
        if session not in self._chains:
            path = self.log_path(session)
            self._chains[session] = _recovered(path) if path.exists() else []
        return self._chains[session]

    def keep_head(self, seq: int, sha256: str) -> None:
        """Note how far the server's own log goes, so that lines taken off its end are missed.

        Raises:
            OutputError: if there is no space.
        """
        try:
            write_file(self.logs / SERVER_HEAD, f"{seq} {sha256}\n".encode())
        except OSError as error:
            raise _unwritable(error) from error

    # --- answers

    def save_answer(self, record: Mapping[str, Any], sent: bytes, mask: bytes | None) -> Answer:
        """Save an answer as a new version; on return it is on the disk.

        Args:
            record: block, case, status, seconds and whatever else is to be kept.
            sent: the JSON as the reader's machine sent it; its SHA-256 names the answer.
            mask: bytes of a .nii.gz file, kept as they are.

        Returns:
            The answer; the present one if the very same was saved before.

        Raises:
            OutputError: if there is no space; earlier versions are as before.
        """
        sha256 = hashlib.sha256(sent).hexdigest()
        mask_sha256 = hashlib.sha256(mask).hexdigest() if mask is not None else ""
        with self._guard:
            versions = self.versions(record["block"], record["case"])
            for answer in versions:
                here = (answer.record.get("sha256"), answer.record.get("mask_sha256"))
                if here == (sha256, mask_sha256):
                    return answer
            folder = self._folder(record["block"], record["case"])
            version = versions[-1].version + 1 if versions else 1
            path = folder / f"v{version:04d}.json"
            document = {
                "v": 1,
                **record,
                "version": version,
                "sha256": sha256,
                "mask_sha256": mask_sha256,
                "sent": sent.decode(),
            }
            data = json.dumps(document, sort_keys=True, indent=1, allow_nan=False).encode() + b"\n"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                if mask is not None:
                    write_file(path.with_suffix(".nii.gz"), mask)
                write_file(path, data)
            except OSError as error:
                raise _unwritable(error) from error
        return Answer(path, document, hashlib.sha256(data).hexdigest(), new=True)

    def versions(self, block: str, case: str) -> list[Answer]:
        """All answers to a case, oldest first."""
        folder = self._folder(block, case)
        paths = sorted(p for p in folder.glob("v*.json") if _VERSION.fullmatch(p.name))
        return [_answer(path) for path in paths]

    def counted(self, block: str, case: str) -> Answer | None:
        """The answer that counts: the first that ended the case, else the first at all."""
        versions = self.versions(block, case)
        ended = (answer for answer in versions if answer.record.get("status") in COUNTED)
        return next(ended, versions[0] if versions else None)

    def answers(self) -> Iterator[Answer]:
        """Every version of every answer, by block and case."""
        for path in sorted(self.answers_folder.glob("*/*/v*.json")):
            if _VERSION.fullmatch(path.name):
                yield _answer(path)

    def put_aside(self, known: Collection[tuple[str, str, int]]) -> list[str]:
        """Take out answers that were written when the server died, and never acknowledged.

        The reader's machine sends them again. They are kept in `unacknowledged`.

        Args:
            known: block, case and version of every answer in the server's log.

        Returns:
            What was taken out.

        Raises:
            OutputError: if it cannot be.
        """
        found = []
        with self._guard:
            for path in sorted(self.answers_folder.glob("*/*/*")):
                version = _VERSION.fullmatch(path.name)
                where = (path.parent.parent.name, path.parent.name)
                if path.name.endswith(".part"):
                    path.unlink(missing_ok=True)
                elif version and (*where, int(version[1])) not in known:
                    found.append("/".join((*where, path.name)))
                    aside = self.answers_folder.with_name("unacknowledged")
                    name = f"{'-'.join(where)}-{secrets.token_hex(4)}-{path.stem}"
                    try:
                        aside.mkdir(exist_ok=True)
                        mask = path.with_suffix(".nii.gz")
                        if mask.exists():
                            mask.rename(aside / f"{name}.nii.gz")
                        path.rename(aside / f"{name}.json")
                    except OSError as error:
                        raise _unwritable(error) from error
        return found

    def _folder(self, block: str, case: str) -> Path:
        if not _SESSION.fullmatch(block) or not _CODE.fullmatch(case):
            msg = f"case {case[:40]!r} of block {block[:40]!r} is not one of the study."
            raise ArchiveError(msg)
        return self.answers_folder / block / case


class Checker:
    """Finds what was changed in the logs and answers of a study since the server wrote them.

    Every line of every log is in its chain; the server's log tells the SHA-256 of every answer and
    the last event of every session that was ended. A file that has not been touched since the last
    look is not read again.

    Args:
        folder: of the study.
    """

    def __init__(self, folder: Path) -> None:
        self._logs, self._answers = folder / "logs", folder / "answers"
        self._seen: dict[Path, tuple[tuple[int, ...], Any]] = {}

    def problems(self) -> list[str]:
        """Look; one sentence for each problem, none if all is well."""
        problems = []
        ends: dict[str, tuple[str, int]] = {}
        told: dict[str, str] = {}
        known = {SERVER_LOG.removesuffix(".jsonl")}
        server = self._logs / SERVER_LOG
        whole, shas = self._once(server, _told) if server.exists() else ([], [])
        for event in whole:
            payload = event["payload"]
            if event["type"] == "login":
                known.add(payload["session"])
            elif event["type"] == "logout":
                ends[payload["session"]] = payload.get("head") or "", payload.get("seq") or 0
            else:
                where = f"{payload['block']}/{event['case']}/v{payload['version']:04d}.json"
                told[where] = payload["record_sha256"]
        problems += self._server_head(server, shas)
        for path in sorted(self._logs.glob("*.jsonl")):
            found = self._once(path, verify)
            head, seq = ends.get(path.stem, ("", 0))
            if path.stem not in known:
                problems.append(f"logs/{path.name}: the server's log knows no such session.")
            if not found.ok:
                problems.append(f"logs/{path.name}: event {found.first_bad_seq}: {found.reason}.")
            elif seq > found.events:
                missing = seq - found.events
                problems.append(f"logs/{path.name}: the last {missing} event(s) are missing.")
            elif seq == found.events and head not in ("", found.head):
                text = "is not the log whose end the reader's machine told"
                problems.append(f"logs/{path.name}: {text}.")
        missing_logs = [log for log, (head, _) in ends.items() if head]
        problems += [
            f"logs/{log}.jsonl: is missing."
            for log in missing_logs
            if not (self._logs / f"{log}.jsonl").exists()
        ]
        for path in sorted(self._answers.glob("*/*/v*.json")):
            where = path.relative_to(self._answers).as_posix()
            sha256, mask_sha256 = self._once(path, _answer_sha256)
            if told.pop(where, None) != sha256:
                problems.append(f"answers/{where}: is not as the server's log says.")
            mask = path.with_suffix(".nii.gz")
            if mask_sha256 and (not mask.exists() or self._once(mask, _sha256) != mask_sha256):
                name = mask.relative_to(self._answers).as_posix()
                problems.append(f"answers/{name}: was changed.")
        return problems + [f"answers/{where}: is missing." for where in sorted(told)]

    def _server_head(self, server: Path, shas: Sequence[str]) -> list[str]:
        """Compare the server's log with the note on its end; a crash may leave that behind."""
        path = self._logs / SERVER_HEAD
        if not path.exists():
            return [f"logs/{SERVER_HEAD}: is missing."] if server.exists() else []
        note = _HEAD.fullmatch(path.read_bytes())
        if note is None:
            return [f"logs/{SERVER_HEAD}: was changed."]
        if not server.exists():
            return [f"logs/{SERVER_LOG}: is missing."]
        seq = int(note[1])
        if seq > len(shas):
            return [f"logs/{SERVER_LOG}: the last {seq - len(shas)} event(s) are missing."]
        if seq < 1 or shas[seq - 1] != note[2].decode():
            return [f"logs/{SERVER_LOG}: is not the log that {SERVER_HEAD} tells of."]
        return []

    def _once(self, path: Path, look: Callable[[Path], Any]) -> Any:
        stat = path.stat()
        signature = (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)  # ctime: nobody sets it back
        key = path / look.__name__
        if self._seen.get(key, (None, None))[0] != signature:
            self._seen[key] = signature, look(path)
        return self._seen[key][1]


def check(folder: Path) -> list[str]:
    """Find what was changed in the logs and answers of a study; see `Checker`.

    Args:
        folder: of the study.

    Returns:
        One sentence for each problem; none if all is well.
    """
    return Checker(folder).problems()


def _told(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """What the whole part of the server's log tells of logs and answers, and its chain."""
    found, shas = [], [FIRST]
    with path.open("rb") as file:
        for seq, line in enumerate(file, 1):
            event, _ = checked_line(line, seq, shas[-1])
            if event is None:
                break
            shas.append(event["sha256"])
            if event["type"] in ("login", "logout", "answer_received"):
                found.append(event)
    return found, shas[1:]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _answer_sha256(path: Path) -> tuple[str, str]:
    data = path.read_bytes()
    try:
        mask_sha256 = str(json.loads(data)["mask_sha256"])
    except (ValueError, KeyError, TypeError):
        mask_sha256 = ""
    return hashlib.sha256(data).hexdigest(), mask_sha256


def write_file(path: Path, data: bytes) -> None:
    """Write a file that is whole and on the disk, or not there.

    Raises:
        OSError: if it cannot be written.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    for folder in (path.parent, path.parent.parent, path.parent.parent.parent):
        _sync(folder)  # the names of new folders too


def _event_of(line: bytes, expected: Mapping[str, str]) -> dict[str, Any]:
    if len(line) > LONGEST_LINE:
        msg = f"a line has more than {LONGEST_LINE // 1024} KiB; no event has."
        raise ArchiveError(msg)
    try:
        event = json.loads(line)
        seq, sha256 = event["seq"], event["sha256"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        msg = "a line is not an event; send the lines of the log as they are."
        raise ArchiveError(msg) from error
    if not isinstance(seq, int) or isinstance(seq, bool) or not isinstance(sha256, str):
        msg = "a line is not an event; send the lines of the log as they are."
        raise ArchiveError(msg)
    for name, wanted in expected.items():
        if event.get(name) != wanted:
            msg = f"event {seq}: {name} is not that of this session; send the session's own log."
            raise ArchiveError(msg)
    return dict(event)


def _append(path: Path, data: bytes) -> None:
    length, new = 0, not path.exists()
    try:
        with path.open("ab", buffering=0) as file:
            length = file.seek(0, os.SEEK_END)
            try:
                if file.write(data) != len(data):
                    raise OSError(28, "no space left on the device")
                os.fsync(file.fileno())
            except OSError:
                file.truncate(length)  # half a line would tear the chain
                raise
    except OSError as error:
        raise _unwritable(error) from error
    if new:
        _sync(path.parent)


def _recovered(path: Path) -> list[str]:
    """Read the chain of a log; a torn last line, never acknowledged, goes to a file of its own."""
    data = path.read_bytes()
    end = data.rfind(b"\n") + 1
    if end < len(data):
        try:
            write_file(path.with_name(f"{path.name}.torn-{secrets.token_hex(4)}"), data[end:])
            os.truncate(path, end)
        except OSError as error:
            raise _unwritable(error) from error
    chain: list[str] = []
    for line in data[:end].splitlines(keepends=True):
        event, problem = checked_line(line, len(chain) + 1, _head(chain))
        if event is None:
            text = f"log {path.stem}: event {len(chain) + 1}: {problem}; nothing is added to it."
            raise ForkError(text, len(chain), _head(chain))
        chain.append(event["sha256"])
    return chain


def _answer(path: Path) -> Answer:
    data = path.read_bytes()
    try:
        record = json.loads(data)
        int(record["version"])
    except (ValueError, KeyError, TypeError) as error:
        msg = f"answers/{path.parent.parent.name}/{path.parent.name}/{path.name}: is damaged."
        raise ArchiveError(msg) from error
    return Answer(path, record, hashlib.sha256(data).hexdigest())


def _head(chain: Sequence[str]) -> str:
    return chain[-1] if chain else FIRST


def _sync(folder: Path) -> None:
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _unwritable(error: OSError) -> OutputError:
    return OutputError(
        f"the study's folder cannot be written to ({error.strerror or error}); what you sent was "
        "not kept: free space on the server and send it again."
    )
