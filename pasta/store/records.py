"""What the store writes down: one JSON file a record, and an index that is only a cache of them."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pasta.errors import StoreError
from pasta.io.files import atomic_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Image:
    """One image of the store.

    Attributes:
        id: name in every request.
        path: file, or folder of a DICOM series.
        kind: "file", "series" or "upload".
    """

    id: str
    path: Path
    kind: str


@dataclass(frozen=True, slots=True)
class LabelRecord:
    """One saved version of a label.

    Attributes:
        image: id of the image.
        tag: what the label is for, such as "final".
        reader: who drew it; a model's name for predictions.
        version: from 1.
        file: name beside the record; empty for a withdrawn label.
        sha256: of the file's bytes.
        values: label values that occur.
        image_sha256: of the image it was drawn on.
        created: ISO time, UTC.
        info: what the client said (timings, comments).
        withdrawn: True once the label was removed; earlier versions stay.
        replaced: version that was current when this one was saved, 0 for none.
    """

    image: str
    tag: str
    reader: str
    version: int
    file: str
    sha256: str
    values: tuple[int, ...]
    image_sha256: str
    created: str
    info: dict[str, Any] = field(default_factory=dict)
    withdrawn: bool = False
    replaced: int = 0

    def document(self) -> dict[str, Any]:
        """Build the JSON document."""
        return {**dataclasses.asdict(self), "values": list(self.values)}

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> LabelRecord:
        """Build a record from its JSON document.

        Raises:
            StoreError: if a field is missing or unknown.
        """
        try:
            return cls(**{**document, "values": tuple(document["values"])})
        except (KeyError, TypeError) as error:
            msg = f"a label record is damaged ({error}); restore it from a backup."
            raise StoreError(msg) from error


def write_json(path: Path, document: object) -> None:
    """Write a JSON file that is complete and on the disk, or not there.

    Raises:
        OutputError: if it cannot be written.
        ValueError: if the document holds NaN or infinity.
    """
    text = json.dumps(document, indent=1, allow_nan=False, sort_keys=True) + "\n"
    with atomic_file(path) as file:
        file.write(text.encode())


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; None if the file is missing, damaged or not an object."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None


class FolderLock:
    """Mutual exclusion of threads and processes, on a file that stays."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._threads = threading.RLock()
        self._depth = 0

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """Hold the lock; nests within a thread. The kernel frees it when a process dies."""
        with self._threads:
            if self._depth:
                yield
                return
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                self._depth += 1
                try:
                    yield
                finally:
                    self._depth -= 1
            finally:
                os.close(descriptor)
