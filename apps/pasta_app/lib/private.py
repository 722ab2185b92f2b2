"""Private temporary files: one folder a process, nothing of a patient outlives it."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_LOCK = "owner"


class PrivateFolder:
    """A folder that only this process uses; those of dead processes are removed on the way.

    Args:
        parent: on the disk of the store, so that accepted files need not be copied.
    """

    def __init__(self, parent: Path) -> None:
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _purge(parent)
        self.path = parent / f"{os.getpid()}-{secrets.token_hex(4)}"
        self.path.mkdir(mode=0o700)
        self._owner = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._owner, fcntl.LOCK_EX)
        self._also: list[Callable[[], None]] = []
        atexit.register(self.close)

    def use_for_temporary_files(self) -> None:
        """Let what MONAI Label and the web framework spool to disk go here too."""
        spool = self.path / "spool"
        spool.mkdir(mode=0o700, exist_ok=True)
        tempfile.tempdir = str(spool)

    @contextlib.contextmanager
    def job(self) -> Iterator[Path]:
        """Lend a folder that is gone afterwards, whatever happens."""
        folder = self.path / f"job-{secrets.token_hex(8)}"
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def also(self, remove: Callable[[], None]) -> None:
        """Remember something that goes with the folder."""
        self._also.append(remove)

    def close(self) -> None:
        """Remove the folder, and what goes with it."""
        for remove in self._also:
            remove()
        shutil.rmtree(self.path, ignore_errors=True)


def _purge(parent: Path) -> None:
    for folder in parent.iterdir():
        with contextlib.suppress(OSError):
            owner = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its process lives
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(owner)
