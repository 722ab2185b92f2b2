"""The cases of the server as a reader sees them, and CTs kept on this machine."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pasta.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from PASTAAidLib.settings import Settings

NEW, IN_WORK, DONE, MINE = "new", "in work", "done", "mine"
STATUSES = (NEW, IN_WORK, DONE)


@dataclass(frozen=True, slots=True)
class Case:
    """One image of the server's store.

    Attributes:
        id: in the store.
        status: "done" once anybody saved a version under the tag, "in work" while somebody reads
            it, else "new".
        mine: whether I saved a version under the tag.
        in_work_by: readers who have it open, me too.
        readers: who saved a version under the tag.
        my_version: newest that I saved, 0 for none.
        newest_version: highest of all readers.
        mine_in_work: whether I have it open.
    """

    id: str
    status: str
    mine: bool = False
    in_work_by: tuple[str, ...] = ()
    readers: tuple[str, ...] = ()
    my_version: int = 0
    newest_version: int = 0
    mine_in_work: bool = False

    @property
    def open(self) -> bool:
        """Whether it waits to be read, and by nobody else."""
        mine_alone = self.mine_in_work and len(self.in_work_by) == 1
        return self.status == NEW or (self.status == IN_WORK and mine_alone)

    @classmethod
    def from_item(cls, item: Mapping[str, Any], reader: str, tag: str) -> Case:
        """Read one image of the server's list.

        Raises:
            KeyError, TypeError, ValueError: if it is not one.
        """
        versions = {
            str(label["reader"]): int(label["version"])
            for label in item["labels"]
            if label["tag"] == tag
        }
        working = tuple(str(mark["reader"]) for mark in item.get("in_work", ()))
        status = DONE if versions else IN_WORK if working else NEW
        return cls(
            id=str(item["id"]),
            status=status,
            mine=bool(reader) and reader in versions,
            in_work_by=working,
            readers=tuple(sorted(versions)),
            my_version=versions.get(reader, 0),
            newest_version=max(versions.values(), default=0),
            mine_in_work=reader in working,
        )


class Worklist:
    """Cases in the order of the server.

    Args:
        cases: in that order.
    """

    def __init__(self, cases: Iterable[Case] = ()) -> None:
        self.cases: tuple[Case, ...] = tuple(cases)
        self._places = {case.id: place for place, case in enumerate(self.cases)}

    def get(self, case_id: str) -> Case | None:
        """Look a case up; None if it is not in the list (any more)."""
        place = self._places.get(case_id)
        return None if place is None else self.cases[place]

    def filtered(self, text: str = "", status: str | None = None) -> list[Case]:
        """List the cases whose id holds every word of `text`.

        Args:
            text: words, upper or lower case.
            status: "new", "in work", "done", "mine" (I saved a version), or None for all.
        """
        words = text.casefold().split()
        return [
            case
            for case in self.cases
            if all(word in case.id.casefold() for word in words)
            and (status is None or (case.mine if status == MINE else case.status == status))
        ]

    def next_after(self, case_id: str | None, *, open_only: bool = True) -> Case | None:
        """Find the case to read next; from the end, the search goes on at the beginning.

        Args:
            case_id: that is shown now; None starts at the first.
            open_only: leave out what is done or read by others; else simply the next in the list,
                without going round.
        """
        place = -1 if case_id is None else self._places.get(case_id, -1)
        after = self.cases[place + 1 :]
        if not open_only:
            return after[0] if after else None
        before = self.cases[: max(place, 0)]
        return next((case for case in (*after, *before) if case.open), None)

    def previous_before(self, case_id: str) -> Case | None:
        """Find the case before one in the list."""
        place = self._places.get(case_id, 0)
        return self.cases[place - 1] if place > 0 else None


class Cache:
    """CTs kept on this machine: whole ones only, the longest unused go first.

    A CT is there once the note beside it is; file names say nothing of the case.

    Args:
        folder: of this cache alone.
        limit_bytes: that it may take.
        server: address; the same id on another server is another case.
    """

    def __init__(self, folder: Path, limit_bytes: float, server: str = "") -> None:
        self.folder = Path(folder)
        self.limit_bytes = int(limit_bytes)
        self._server = server

    @classmethod
    def from_settings(cls, settings: Settings) -> Cache:
        """Open the cache of a workplace."""
        return cls(settings.folder / "cache", settings.cache_gb * 1e9, settings.url)

    def path(self, case_id: str, source: str | None = None) -> Path | None:
        """Find the file of a case; None if it is not here whole.

        Args:
            case_id: in the store.
            source: SHA-256 that the server tells of the image; another one means that it was
                replaced there. None takes what is here.
        """
        note = self._note(case_id)
        try:
            said = json.loads(note.read_bytes())
            path = self.folder / str(said["file"])
            whole = path.parent == self.folder and path.stat().st_size == said["bytes"]
            current = source is None or said["source"] == source
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if not (whole and current):
            return None
        with contextlib.suppress(OSError):
            os.utime(note)  # used now
        return path

    def store(
        self, case_id: str, suffix: str, write: Callable[[Path], None], source: str = ""
    ) -> Path:
        """Keep a file.

        Args:
            case_id: in the store.
            suffix: such as ".nii.gz".
            write: writes and checks the file at the path it gets; if it raises, nothing is kept.
            source: SHA-256 that the server tells of the image.

        Raises:
            OutputError: if there is no space or no permission.
        """
        key = self._key(case_id)
        stamp = secrets.token_hex(4)
        part = self.folder / f".{key}-{stamp}.part{suffix}"
        path = self.folder / f"{key}-{stamp}{suffix}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(OSError):
                self.folder.chmod(0o700)  # images of patients
            write(part)
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            said = {"file": path.name, "bytes": part.stat().st_size, "source": source}
            note = self.folder / f".{key}-{stamp}.part"
            note.write_text(json.dumps(said), encoding="utf-8")
            note.replace(self._note(case_id))  # first: another `trim` takes files without a note
            part.replace(path)
        except OSError as error:
            part.unlink(missing_ok=True)
            if isinstance(error, OutputError) or error.errno is None:
                raise
            msg = (
                f"{self.folder}: the CT cannot be kept there ({error.strerror or error}). Free "
                "space on the disk or choose another folder in the settings."
            )
            raise OutputError(msg) from error
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        self.trim(keep=(case_id,))
        return path

    def trim(self, keep: Sequence[str] = ()) -> None:
        """Remove what was not used for longest, until the limit holds; `keep` stays."""
        kept = {self._note(case_id) for case_id in keep}
        notes = []
        known = set()
        for note in self.folder.glob("*.json"):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                said = json.loads(note.read_bytes())
                notes.append((note.stat().st_mtime, int(said["bytes"]), note, str(said["file"])))
                known.add(str(said["file"]))
        for path in [*self.folder.glob("*.nii*"), *self.folder.glob("*.nrrd")]:
            if path.name not in known and not path.name.startswith("."):
                with contextlib.suppress(OSError):
                    path.unlink()  # replaced by a newer one
        total = sum(size for _, size, _, _ in notes)
        for _, size, note, name in sorted(notes):
            if total <= self.limit_bytes:
                return
            if note in kept:
                continue
            with contextlib.suppress(OSError):
                note.unlink()  # first: without its note a file is not there
                (self.folder / name).unlink(missing_ok=True)
                total -= size

    def _key(self, case_id: str) -> str:
        return hashlib.sha256(f"{self._server} {case_id}".encode()).hexdigest()[:24]

    def _note(self, case_id: str) -> Path:
        return self.folder / f"{self._key(case_id)}.json"
