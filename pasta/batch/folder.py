"""The folder of a batch: what is done, what failed, and by which settings; kill -9 leaves it right.

`run.json` holds the settings, `cases/<id>/` the files of one finished case with `case.json` among
them, `failures/<id>.json` why one failed. A case's folder is written under another name, put on the
disk and renamed, so it is whole or not there.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
from typing import TYPE_CHECKING, Any

from pasta.errors import OutputError
from pasta.store.records import read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

CASE_FILE = "case.json"
_PART = ".part-"


class BatchFolder:
    """Where a batch writes.

    Args:
        path: made by `prepare`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cases = path / "cases"
        self.failures = path / "failures"

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Make the folder and keep other batches out of it; the kernel lets go when we die.

        Raises:
            OutputError: if another batch runs in it, or it cannot be written.
        """
        try:
            for folder in (self.cases, self.failures):
                folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            msg = f"{self.path}: cannot be written ({error.strerror}). Choose another with -o."
            raise OutputError(msg) from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                msg = f"{self.path}: another batch is at work there. Wait, or choose another -o."
                raise OutputError(msg) from None
            for left in self.cases.glob(f"{_PART}*"):
                shutil.rmtree(left, ignore_errors=True)
            yield
        finally:
            os.close(descriptor)

    def settle(self, settings: Mapping[str, Any], *, overwrite: bool) -> str:
        """Write down the settings, or see that they are those of before.

        Returns:
            Their fingerprint.

        Raises:
            OutputError: if they differ and `overwrite` is False; the message names the fields.
        """
        path = self.path / "run.json"
        before = read_json(path)
        now = json.loads(json.dumps(settings))
        if before is not None and before != now and not overwrite:
            fields = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
            msg = (
                f"{self.path}: holds a batch of other settings ({', '.join(fields)}). "
                "Choose another folder with -o, or do all cases again with --overwrite."
            )
            raise OutputError(msg)
        if before != now:
            write_json(path, now)
        return hashlib.sha256(json.dumps(now, sort_keys=True).encode()).hexdigest()

    def done(self, case: str, settings: str, stat: object) -> bool:
        """Tell whether a case is finished, by these settings and on the file as it is now."""
        document = read_json(self.cases / case / CASE_FILE)
        return (
            document is not None
            and document.get("settings") == settings
            and document.get("stat") == stat
        )

    def write_case(
        self, case: str, document: Mapping[str, Any], write: Callable[[Path], object]
    ) -> None:
        """Write the files of a case, all or none; what was there is replaced.

        Args:
            case: its id.
            document: what becomes `case.json`.
            write: writes the other files into the folder it is given.

        Raises:
            OutputError: if they cannot be written.
        """
        part = self.cases / f"{_PART}{case}-{secrets.token_hex(4)}"
        try:
            part.mkdir()
            write(part)
            write_json(part / CASE_FILE, document)
            for path in (*part.iterdir(), part):
                _flush(path)
            target = self.cases / case
            if target.exists():  # of other settings, or a lost worker's, which is as good
                target.rename(part.with_name(f"{part.name}-old"))
            part.rename(target)
            _flush(self.cases)
            (self.failures / f"{case}.json").unlink(missing_ok=True)
        except OSError as error:
            if isinstance(error, OutputError):
                raise
            msg = f"{self.cases}: cannot be written ({error.strerror}). Free space on the disk."
            raise OutputError(msg) from error
        finally:
            for left in (part, part.with_name(f"{part.name}-old")):
                shutil.rmtree(left, ignore_errors=True)

    def write_failure(self, case: str, document: Mapping[str, Any]) -> None:
        """Write down why a case failed; it is tried again at the next start.

        Raises:
            OutputError: if it cannot be written.
        """
        write_json(self.failures / f"{case}.json", document)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
