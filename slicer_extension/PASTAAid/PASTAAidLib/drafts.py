"""Drafts of cases under way: on the disk within seconds, whole or not at all, three generations back.

A generation is a JSON file that names its mask file, with the SHA-256 of both; it exists once that
JSON is there under its name. `status.json` tells whether the case was left in order.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pasta.errors import PastaError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from PASTAAidLib.settings import Settings

SCHEMA = "pasta-aid/draft/1"
GENERATIONS = 3
OPEN, CLOSED = "open", "closed"
_GENERATION = re.compile(r"g(\d{6,})\.json")
_ASIDE = "damaged"


class DraftError(PastaError, OSError):
    """A draft cannot be written; the one before it is as it was."""


@dataclass(frozen=True, slots=True)
class Draft:
    """One saved generation.

    Attributes:
        case_id: of the case.
        folder: of all drafts of the case.
        mask: file; None if none was saved yet.
        report: document of the reader's report.
        state: what else the module wants back.
        saved_utc: ISO time.
        generation: counts up with every save.
        damaged: files that were found damaged and set aside on the way to this one.
    """

    case_id: str
    folder: Path
    mask: Path | None
    report: dict[str, Any]
    state: dict[str, Any]
    saved_utc: str
    generation: int
    damaged: tuple[str, ...] = ()


class Drafts:
    """Drafts of one reader at one workplace.

    Args:
        folder: of these drafts alone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    @classmethod
    def from_settings(cls, settings: Settings) -> Drafts:
        """Open the drafts of a workplace: those of other readers and servers stay apart."""
        return cls(settings.folder / "drafts" / settings.workplace)

    def save(
        self,
        case_id: str,
        report: Mapping[str, Any],
        state: Mapping[str, Any],
        mask_writer: Callable[[Path], None] | None = None,
        suffix: str = ".seg.nrrd",
    ) -> Draft:
        """Save a new generation; on return it is on the disk.

        Args:
            case_id: of the case.
            report: document of the reader's report.
            state: anything that JSON can hold.
            mask_writer: writes the mask to the path that it gets; None keeps the mask of the
                generation before.
            suffix: of the mask file.

        Raises:
            DraftError: if it cannot be written; the generation before is still there.
        """
        folder = self._folder(case_id)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(OSError):
                folder.chmod(0o700)
            former = self._newest(folder)
            number = 1 + max((n for n, _ in _generations(folder)), default=0)
            mask = former["mask"] if former else None
            if mask_writer is not None:
                mask = self._write_mask(folder, number, mask_writer, suffix)
            content = {
                "schema": SCHEMA,
                "case": case_id,
                "generation": number,
                "saved_utc": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "mask": mask,
                "report": dict(report),
                "state": dict(state),
            }
            text = json.dumps(content, sort_keys=True, allow_nan=False)
            sha256 = hashlib.sha256(text.encode()).hexdigest()
            write_private(
                folder / f"g{number:06d}.json", f'{{"sha256": "{sha256}", "draft": {text}}}\n'
            )
            if self._status(folder) != OPEN:
                self._set_status(folder, OPEN)
            self._prune(folder)
        except OSError as error:
            msg = (
                f"The draft could not be saved ({error.strerror or error}): free space on the "
                f"disk of {self.folder}, or choose another folder in the settings."
            )
            raise DraftError(msg) from error
        return _draft(folder, content)

    def load(self, case_id: str) -> Draft | None:
        """Read the newest whole generation; damaged ones are set aside in `damaged`."""
        folder = self._folder(case_id)
        damaged: list[str] = []
        content = self._newest(folder, damaged)
        return _draft(folder, content, damaged) if content else None

    def recoverable(self) -> list[Draft]:
        """List drafts of cases that were not left in order, the newest first."""
        found = []
        for folder in self.folder.glob("c-*"):
            if self._status(folder) == OPEN:
                damaged: list[str] = []
                content = self._newest(folder, damaged)
                if content:
                    found.append(_draft(folder, content, damaged))
        return sorted(found, key=lambda draft: draft.saved_utc, reverse=True)

    def close(self, case_id: str) -> None:
        """Note that a case was left in order: no longer offered, but still loaded with the case."""
        folder = self._folder(case_id)
        if folder.is_dir():
            with contextlib.suppress(OSError):  # at worst it is offered once more
                self._set_status(folder, CLOSED)

    def finish(self, case_id: str) -> None:
        """Forget the drafts of a case, once the server holds the verified version."""
        folder = self._folder(case_id)
        gone = self.folder / f".finished-{folder.name}-{secrets.token_hex(4)}"
        with contextlib.suppress(OSError):
            folder.rename(gone)  # at once, so that a crash in between leaves no half draft
        shutil.rmtree(gone, ignore_errors=True)

    def _folder(self, case_id: str) -> Path:
        # a hash: an id may differ from another by upper case only, or be a name Windows forbids
        return self.folder / f"c-{hashlib.sha256(case_id.encode()).hexdigest()[:20]}"

    def _write_mask(
        self, folder: Path, number: int, writer: Callable[[Path], None], suffix: str
    ) -> dict[str, Any]:
        part = folder / f"part-{secrets.token_hex(4)}{suffix}"
        path = folder / f"g{number:06d}-{secrets.token_hex(2)}{suffix}"
        try:
            writer(part)
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            sha256, size = _hashed(part)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        return {"file": path.name, "bytes": size, "sha256": sha256}

    def _newest(self, folder: Path, damaged: list[str] | None = None) -> dict[str, Any] | None:
        for _, path in _generations(folder):
            try:
                content = _read(path)
            except OSError:
                continue  # not readable now is not damaged
            if content is not None:
                return content
            if damaged is not None:
                damaged.append(path.name)
                _set_aside(path)
        return None

    def _prune(self, folder: Path) -> None:
        kept = set()
        for place, (_, path) in enumerate(_generations(folder)):
            if place < GENERATIONS:
                kept |= {path.name, *_mask_of(path)}
            else:
                path.unlink(missing_ok=True)
        for path in folder.iterdir():
            if path.is_file() and path.name not in kept and path.name != "status.json":
                with contextlib.suppress(OSError):
                    path.unlink()  # masks of generations gone, and parts of a killed writer

    def _status(self, folder: Path) -> str:
        try:
            return str(json.loads((folder / "status.json").read_bytes())["status"])
        except (OSError, ValueError, KeyError, TypeError):
            return OPEN  # killed before it was told: offer it

    def _set_status(self, folder: Path, status: str) -> None:
        write_private(folder / "status.json", json.dumps({"status": status}))


def _generations(folder: Path) -> list[tuple[int, Path]]:
    """List generations, the newest first."""
    found = [(match, path) for path in folder.glob("g*.json") if (match := _number(path))]
    return sorted(found, reverse=True)


def _number(path: Path) -> int:
    match = _GENERATION.fullmatch(path.name)
    return int(match.group(1)) if match else 0


def _read(path: Path) -> dict[str, Any] | None:
    """Read one generation; None if it, or its mask, is damaged."""
    data = path.read_bytes()
    try:
        outer = json.loads(data)
        content: dict[str, Any] = outer["draft"]
        text = json.dumps(content, sort_keys=True, allow_nan=False)
        if outer["sha256"] != hashlib.sha256(text.encode()).hexdigest():
            return None
        mask = content["mask"]
        if mask is not None:
            file = path.parent / mask["file"]
            if not file.is_file() or _hashed(file) != (mask["sha256"], mask["bytes"]):
                return None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return content


def _mask_of(path: Path) -> tuple[str, ...]:
    try:
        return (str(json.loads(path.read_bytes())["draft"]["mask"]["file"]),)
    except (OSError, ValueError, KeyError, TypeError):
        return ()


def _draft(folder: Path, content: Mapping[str, Any], damaged: list[str] | None = None) -> Draft:
    mask = content["mask"]
    return Draft(
        case_id=str(content["case"]),
        folder=folder,
        mask=folder / mask["file"] if mask else None,
        report=dict(content["report"]),
        state=dict(content["state"]),
        saved_utc=str(content["saved_utc"]),
        generation=int(content["generation"]),
        damaged=tuple(damaged or ()),
    )


def _set_aside(path: Path) -> None:
    with contextlib.suppress(OSError):
        aside = path.parent / _ASIDE
        aside.mkdir(exist_ok=True)
        for name in (path.name, *_mask_of(path)):
            if (path.parent / name).exists():
                (path.parent / name).replace(aside / f"{secrets.token_hex(2)}-{name}")


def _hashed(path: Path) -> tuple[str, int]:
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return sha256, path.stat().st_size


def write_private(path: Path, text: str) -> None:
    """Write a small file that is there whole, and on the disk, or not there; for its owner alone.

    Raises:
        OSError: if it cannot be written; a file that was there is as it was.
    """
    part = path.with_name(f"part-{secrets.token_hex(4)}.json")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # Windows opens no folders
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
