"""Who reads which case now: marks that others see, and that end by themselves."""

from __future__ import annotations

import logging
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from pasta.errors import OutputError
from pasta.store.records import read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_log = logging.getLogger(__name__)
EXPIRY = timedelta(hours=8)  # longer than a session at the workstation; a crash leaves no mark

MOST_READERS = 50  # of one image


class Readings:
    """Marks "in work", kept in a file so that they outlive the server.

    Args:
        path: of the file; a damaged one counts as empty, as marks only inform.
        now: clock.
    """

    def __init__(self, path: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._path = path
        self._now = now
        self._guard = threading.Lock()
        self._marks: dict[str, dict[str, str]] = {}
        for image, readers in (read_json(path) or {}).items():
            if isinstance(readers, dict):
                self._marks[image] = {str(r): str(since) for r, since in readers.items()}

    def begin(self, image: str, reader: str) -> None:
        """Mark an image as read by somebody; once more, and the mark is new again."""
        with self._guard:
            marks = self._marks.setdefault(image, {})
            marks.pop(reader, None)
            while len(marks) >= MOST_READERS:
                del marks[min(marks, key=marks.__getitem__)]  # the oldest
            marks[reader] = self._now().isoformat(timespec="seconds")
            self._write()

    def release(self, image: str, reader: str) -> None:
        """Take a mark away; one that is gone already is no error."""
        with self._guard:
            if self._marks.get(image, {}).pop(reader, None):
                self._write()

    def of(self, image: str) -> list[dict[str, str]]:
        """Who reads an image: reader and since when."""
        with self._guard:
            marks = self._marks.get(image, {})
            return [
                {"reader": reader, "since": since}
                for reader, since in sorted(marks.items())
                if self._fresh(since)
            ]

    def _fresh(self, since: str) -> bool:
        try:
            return self._now() - datetime.fromisoformat(since) < EXPIRY
        except (ValueError, TypeError):
            return False

    def _write(self) -> None:
        for image, readers in list(self._marks.items()):
            left = {reader: since for reader, since in readers.items() if self._fresh(since)}
            self._marks[image] = left
            if not left:
                del self._marks[image]
        try:
            write_json(self._path, self._marks)
        except OutputError as error:  # the marks still work until the server stops
            _log.warning("%s", error)
