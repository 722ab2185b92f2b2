"""One reader's line to the server: each problem is told as one sentence with its mend.

Everything here waits for the network, so it belongs into `background`. No call waits for ever, and
nothing is told to be saved before it was read back and found equal.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import json
import threading
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pasta import __version__
from pasta.client import LONGEST_ANSWER_SECONDS, Answer, Client, ServerError
from pasta.errors import LabelError, OutputError, PastaError, ReportError
from pasta.report.reader import checked_reader_report
from PASTAAidLib.cases import Case
from PASTAAidLib.labelfile import LabelFile, read_label_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from PASTAAidLib.background import Task
    from PASTAAidLib.cases import Cache
    from PASTAAidLib.settings import Settings

    Progress = Callable[[float, str], None]

__all__ = ["Answer", "Check", "Connection", "Problem", "Receipt", "SavedLabel"]

_CHUNK = 1 << 20
_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
_CT, _MASK = "The CT", "The saved mask"
_AGAIN = "Try again; your work is kept here."


class Problem(PastaError):
    """Something that went wrong between the module and the server.

    Attributes:
        sentence: what is wrong.
        mend: what to do about it.
        kind: "away", "token", "forbidden", "version", "timeout", "memory", "model", "busy", "disk",
            "damaged", "missing", "settings", or "refused" for what the server does not accept.
    """

    def __init__(self, sentence: str, mend: str, kind: str = "refused") -> None:
        super().__init__(f"{sentence} {mend}")
        self.sentence = sentence
        self.mend = mend
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Check:
    """What a look at the server found.

    Attributes:
        ok: whether one can work with it.
        sentence: what was found.
        mend: what to do about it; empty if nothing is wrong.
        version: of the server, "" if it did not answer.
        models: tasks by name, with the reason why one is not ready, "" if it is.
        kind: of the problem, as in `Problem`.
    """

    ok: bool
    sentence: str
    mend: str = ""
    version: str = ""
    models: dict[str, str] = field(default_factory=dict)
    kind: str = ""


@dataclass(frozen=True, slots=True)
class SavedLabel:
    """A version of mine, fetched.

    Attributes:
        path: of the labelmap.
        report: document of the reader's report, None if none was saved with it.
        version: number.
        sha256: of the file.
        created: ISO time.
    """

    path: Path
    report: dict[str, Any] | None
    version: int
    sha256: str
    created: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """A version that was saved and read back.

    Attributes:
        version: number.
        sha256: of the file on the server.
        conflict: what somebody else saved meanwhile, in a sentence; "" if nobody did.
    """

    version: int
    sha256: str
    conflict: str = ""


class Connection:
    """The server as one reader sees it; threads may share it.

    Args:
        settings: address, token, reader and tag.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._client = Client(settings.url, settings.token or None)
        self._guard = threading.Lock()
        # versions by reader, as last seen: tells at submit who saved meanwhile
        self._seen: dict[str, dict[str, int]] = {}

    def check(self) -> Check:
        """Look whether one can work with the server; never raises."""
        version, models = "", dict[str, str]()
        try:
            with told():
                health = self._client.health()
                version, models = _health(health)
                _same_release(version)
                self._client.get("/pasta/jobs")  # asks for the token, and for little else
        except Problem as problem:
            return Check(False, problem.sentence, problem.mend, version, models, problem.kind)
        except Exception as error:  # noqa: BLE001 - the test of a connection must not fail itself
            sentence = f"The server could not be checked ({type(error).__name__})."
            return Check(False, sentence, "Check the address in the settings.", version, models)
        lacking = [name for name, reason in models.items() if reason]
        if lacking:
            return Check(
                True,
                f"Connected; {len(models) - len(lacking)} of {len(models)} AI tasks are ready, "
                f"not {', '.join(lacking)}.",
                "Reading works; whoever runs the server can install the missing weights.",
                version,
                models,
                "model",
            )
        return Check(True, f"Connected; {len(models)} AI tasks are ready.", "", version, models)

    # --- cases

    def worklist(self) -> list[Case]:
        """List all cases, as far as they are under my tag.

        Raises:
            Problem: if the server does not answer well.
        """
        settings = self.settings
        with told():
            items = self._client.get("/pasta/images", {"tag": settings.tag})["images"]
            for item in items:
                self._see(str(item["id"]), item["labels"])
            return [Case.from_item(item, settings.reader, settings.tag) for item in items]

    def strategies(self) -> list[str]:
        """List the ways in which the server can choose the next case.

        Raises:
            Problem: if the server does not answer well.
        """
        with told():
            return sorted(self._client.get("/info/")["strategies"])

    def next_case(self, strategy: str) -> str | None:
        """Let the server choose the next case; None if all are done.

        Raises:
            Problem: if the server does not answer well, or does not have the strategy.
        """
        wanted = {"label_tag": self.settings.tag, "client_id": self.settings.reader or "reader"}
        with told():
            found = self._client.ask("POST", f"/activelearning/{strategy}", document=wanted)
            return str(found["id"]) if found.get("id") else None

    def begin(self, case_id: str) -> bool:
        """Mark a case as read by me; the mark ends by itself after some hours.

        Returns:
            Whether the server took it; reading goes on without.
        """
        with contextlib.suppress(Problem), told():
            route = f"/pasta/images/{case_id}/reading"
            answer = self._client.ask("POST", route, document={"reader": self._reader()})
            self._see(case_id, answer["labels"])
            return True
        return False

    def release(self, case_id: str) -> bool:
        """Take my mark away; tells whether the server did."""
        with contextlib.suppress(Problem), told():
            route = f"/pasta/images/{case_id}/reading"
            self._client.ask("DELETE", route, {"reader": self._reader()})
            return True
        return False

    # --- images

    def fetch_image(self, case_id: str, cache: Cache, task: Task | None = None) -> Path:
        """Get the CT of a case, from the cache if the server still has the same.

        Args:
            case_id: in the store.
            cache: that keeps it.
            task: that hears of progress and can be cancelled.

        Returns:
            File in the cache, whole and checked.

        Raises:
            Problem: if it cannot be had.
            CancelledError: if the task was cancelled.
        """
        with told():
            known = self._client.get(
                f"/pasta/images/{case_id}", read_seconds=LONGEST_ANSWER_SECONDS
            )
            source, suffix = str(known["sha256"]), str(known["download"]["suffix"])
            wanted = str(known["download"]["sha256"] or "")
            here = cache.path(case_id, source)
            if here is not None:
                return here

            def write(path: Path) -> None:
                sha256 = self._client.download(
                    "/datastore/image", {"image": case_id}, path, progress=progress_of(task)
                )
                sound_image(path, sha256, wanted)

            return cache.store(case_id, suffix, write, source)

    def send_image(self, path: Path, task: Task | None = None) -> str:
        """Send a CT into the store. Its name is not sent, as it may hold a patient's.

        The caller sees to consent and to what is in the file.

        Args:
            path: .nii, .nii.gz, .nrrd or .mha.
            task: that hears of progress and can be cancelled.

        Returns:
            Id of the case; the same bytes sent twice are one case.

        Raises:
            Problem: if it cannot be sent.
            CancelledError: if the task was cancelled.
        """
        with told():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            wanted = f"local-{digest[:12]}"
            return self._client.upload(path, wanted, progress=progress_of(task))

    # --- AI

    def run(
        self,
        model: str,
        case_id: str,
        parameters: Mapping[str, Any] | None = None,
        mask: Path | None = None,
        task: Task | None = None,
    ) -> Answer:
        """Run a task of the server on a case and wait for it.

        Args:
            model: such as "pasta_diagnosis".
            case_id: in the store.
            parameters: such as {"organs": ["liver"]}.
            mask: labelmap to work on, for "pasta_report".
            task: that hears of progress and can be cancelled.

        Raises:
            Problem: if it cannot be run.
            CancelledError: if the task was cancelled.
        """
        with told():
            # always with progress: asking for it is also how a server that hangs is found out
            progress = progress_of(task) or (lambda _fraction, _stage: None)
            return self._client.infer(model, case_id, parameters, label=mask, progress=progress)

    # --- labels

    def fetch_label(
        self, case_id: str, tag: str, reader: str, folder: Path, version: int | None = None
    ) -> SavedLabel | None:
        """Get what a reader saved; None if there is nothing.

        Args:
            case_id: in the store.
            tag: of the label.
            reader: whose.
            folder: that the file is put into; must exist.
            version: number; None for the newest.

        Raises:
            Problem: if it cannot be had whole.
        """
        query = {"label": f"{case_id}@{reader}", "tag": tag}
        if version is not None:
            query["version"] = str(version)
        with told():
            try:
                info = self._client.get("/datastore/label/info", query)
            except ServerError as error:
                if error.status == 404:
                    return None
                raise
            number = int(info["version"])
            name = hashlib.sha256(f"{case_id} {tag} {reader}".encode()).hexdigest()[:16]
            path = folder / f"{name}-v{number}.nii.gz"
            query["version"] = str(number)  # that very one, though a newer may have come
            sha256 = self._client.download("/datastore/label", query, path)
            if sha256 != info["sha256"]:
                path.unlink(missing_ok=True)
                raise _damaged(_MASK)
            report = info.get("report")
            return SavedLabel(path, report, number, sha256, str(info["created"]))

    def submit(
        self,
        case_id: str,
        mask: Path,
        report: Mapping[str, Any],
        timing: Mapping[str, Any],
        expected_version: int,
        task: Task | None = None,
    ) -> Receipt:
        """Save mask and report as a new version of mine, and read it back.

        Args:
            case_id: in the store.
            mask: labelmap on the grid of the CT, .nii.gz, .nii or .nrrd.
            report: document of the reader's report.
            timing: document of the clock.
            expected_version: that this reading started from, 0 for none.
            task: that hears of progress; cancelling works until the server has all of it.

        Raises:
            Problem: if it is not saved, or not equal when read back; no version is ever replaced.
            CancelledError: if the task was cancelled.
        """
        tell = progress_of(task)
        reader = self._reader()
        with told():
            sent = read_label_file(mask)
            document = checked_reader_report(report)
            with self._guard:
                seen = dict(self._seen.get(case_id, {}))
            params = {
                "reader": reader,
                "client_id": reader,
                "report": document,
                "timing": dict(timing),
                "expected_version": expected_version,
                "seen": seen,
            }
            answer = self._client.send_file(
                "/datastore/label",
                "label",
                mask,
                {"image": case_id, "tag": self.settings.tag},
                {"params": json.dumps(params, allow_nan=False)},
                (lambda fraction, stage: tell(0.7 * fraction, stage)) if tell else None,
            )
            version, sha256 = int(answer["version"]), str(answer["sha256"])
            # from here on it is on the server: to stop now would leave the reader in doubt
            self._read_back(case_id, version, sha256, sent, document, mask.parent)
            with self._guard:
                self._seen.setdefault(case_id, {})[reader] = version
            return Receipt(version, sha256, _conflict(answer))

    def _read_back(
        self,
        case_id: str,
        version: int,
        sha256: str,
        sent: LabelFile,
        report: Mapping[str, Any],
        folder: Path,
    ) -> None:
        """Get the version that was just saved, and compare all of it.

        Raises:
            Problem: if anything differs.
        """
        tag, reader = self.settings.tag, self._reader()
        query = {"label": f"{case_id}@{reader}", "tag": tag, "version": str(version)}
        path = folder / f"read-back-{hashlib.sha256(case_id.encode()).hexdigest()[:12]}.nii.gz"
        try:
            info = self._client.get("/datastore/label/info", query)
            arrived = self._client.download("/datastore/label", query, path)
            stored = read_label_file(path)
        except (ServerError, LabelError) as error:
            told = problem_of(error)
            sentence = f"The server took version {version}, but it could not be read back."
            raise Problem(sentence, f"{told.mend} Submit again to be sure.", told.kind) from error
        finally:
            path.unlink(missing_ok=True)
        differs = [
            name
            for name, equal in (
                ("its checksum", arrived == sha256 == info["sha256"]),
                ("label values", np.array_equal(stored.voxels, sent.voxels)),
                ("geometry", stored.lies_on(sent.affine, sent.voxels.shape)),
                ("place on the CT", stored.lies_on(info["affine"], info["shape"])),
                ("the report", info.get("report") == report),
            )
            if not equal
        ]
        if differs:
            sentence = f"Version {version} was read back and differs in {', '.join(differs)}."
            raise Problem(
                sentence,
                "Submit again; if it happens again, tell whoever runs the server.",
                "damaged",
            )

    # --- inside

    def _reader(self) -> str:
        if not self.settings.reader:
            sentence = "There is no reader name yet."
            raise Problem(sentence, "Choose a pseudonym such as R1 in the settings.", "settings")
        return self.settings.reader

    def _see(self, case_id: str, labels: Any) -> None:
        seen = {
            str(label["reader"]): int(label["version"])
            for label in labels
            if label["tag"] == self.settings.tag
        }
        with self._guard:
            self._seen[case_id] = seen


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Turn what went wrong inside into a sentence with its mend.

    Raises:
        Problem: for all that is foreseen.
    """
    try:
        yield
    except (ServerError, OutputError, LabelError, ReportError, OSError) as error:
        raise problem_of(error) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        sentence = "The server's answer is not understood."
        raise Problem(
            sentence,
            "Install the same release on the server and here.",
            "version",
        ) from error
    except MemoryError as error:
        sentence = "This computer ran out of memory."
        raise Problem(sentence, "Close other programs and try again.", "memory") from error


def progress_of(task: Task | None) -> Progress | None:
    """Find who hears of progress."""
    return task.progress if task is not None else None


def _health(health: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    models = {
        str(name): "" if state["ready"] else str(state["reason"] or "not ready")
        for name, state in health["models"].items()
    }
    return str(health["version"]), models


def _same_release(version: str) -> None:
    """Ask for the same release; before 1.0 the second number changes what is understood."""
    mine, theirs = __version__.split("."), version.split(".")
    count = 2 if mine[0] == "0" else 1
    if mine[:count] != theirs[:count]:
        sentence = f"The server has release {version[:20]}, this module {__version__}."
        raise Problem(sentence, "Install the same release on both.", "version")


def sound_image(path: Path, sha256: str, wanted: str = "") -> None:
    """Refuse a CT that is not what the server has.

    Of a DICOM series, made into a NIfTI file for the way, no hash is known; gzip has its own.
    """
    if wanted and sha256 != wanted:
        raise _damaged(_CT)
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    if not packed or wanted:
        return
    try:
        with gzip.open(path) as file:
            while file.read(_CHUNK):
                pass
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(_CT) from error


def _damaged(what: str) -> Problem:
    return Problem(
        f"{what} was damaged on the way.",
        "Try again; if it stays so, check the network.",
        "damaged",
    )


def _conflict(answer: Mapping[str, Any]) -> str:
    """Say who saved meanwhile; all versions are kept."""
    sentences = []
    conflict = answer.get("conflict")
    if conflict:
        sentences.append(
            f"You began from version {conflict['expected']} of yours, but version "
            f"{conflict['found']} had been saved under your name meanwhile"
        )
    others = answer.get("others") or []
    if others:
        named = ", ".join(f"{other['reader']} (version {other['version']})" for other in others)
        sentences.append(f"meanwhile {named} saved this case too")
    if not sentences:
        return ""
    text = "; ".join(sentences)
    return f"{text[0].upper()}{text[1:]}; all versions are kept, and this is {answer['version']}."


def problem_of(error: Exception) -> Problem:
    """Find the sentence for an error."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, ServerError):
        return _of_server(error)
    if isinstance(error, LabelError):
        return Problem(_sentence(str(error)), "Export the mask again.")
    if isinstance(error, ReportError):
        return Problem(f"The report cannot be saved: {_sentence(str(error))}", "Correct it first.")
    if isinstance(error, OSError) and (error.errno in _FULL or isinstance(error, OutputError)):
        return Problem(
            "The disk of this computer is full or cannot be written.",
            "Free space, or choose another folder in the settings.",
            "disk",
        )
    reason = getattr(error, "strerror", None) or type(error).__name__
    return Problem(
        f"A file on this computer cannot be used ({reason}).",
        "Check the folder in the settings.",
        "disk",
    )


def _of_server(error: ServerError) -> Problem:
    """Find the sentence for what the server said, or for its silence."""
    detail = _sentence(error.detail)
    if error.kind == "away":
        return Problem(
            "No server answers at this address.",
            "Start the server, or check the address and the network; your work is kept here.",
            "away",
        )
    if error.kind == "timeout":
        return Problem("The server did not answer in time.", _AGAIN, "timeout")
    if error.kind == "unreadable":
        if "arrived short" in str(error):
            return _damaged("A file")
        return Problem(
            "What answers at this address is not a PASTA-AID server of this release.",
            "Check the address, or install the same release on both.",
            "version",
        )
    known = {
        401: (
            "The server does not accept the token.",
            "Get a valid one for the settings.",
            "token",
        ),
        403: (
            "The token does not allow this.",
            "Ask whoever runs the server for the rights of an annotator.",
            "forbidden",
        ),
        413: (
            detail or "The file is too large for the server.",
            "Whoever runs the server can allow larger files.",
            "refused",
        ),
        429: ("The server is busy with other readers.", "Try again in a minute.", "busy"),
        499: ("The task was cancelled on the server.", "Run it again.", "busy"),
        503: (
            detail or "The server lacks the weights for this task.",
            "Reading works without it; whoever runs the server can install them.",
            "model",
        ),
        504: ("The server did not answer in time.", _AGAIN, "timeout"),
        502: ("The server behind this address is away.", _AGAIN, "away"),
    }
    if error.status == 507:
        if "memory" in error.detail:
            return Problem(
                "The server ran out of memory.",
                "Run it on fewer organs, or again when fewer readers work.",
                "memory",
            )
        return Problem(
            "The disk of the server is full.",
            "Tell whoever runs it; your work is kept here until then.",
            "disk",
        )
    if error.status in known:
        return Problem(*known[error.status])
    if error.status == 404:
        return Problem(
            detail or "The server does not have this.",
            "Refresh the worklist; if it stays so, check the address.",
            "missing",
        )
    if error.status >= 500:
        return Problem(
            detail or "The server failed.",
            "Try again; your work is kept here. The server's log says more.",
        )
    return Problem(detail or f"The server refuses this ({error.status}).", "See the message.")


def _sentence(text: str) -> str:
    """Make one printable sentence of what a server said."""
    text = "".join(c if c.isprintable() else " " for c in text).strip()[:400]
    return text if not text or text.endswith((".", "!", "?")) else f"{text}."
