"""The index: all records in one file, for quick answers. Only a cache; the records are the truth."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import time
from typing import TYPE_CHECKING, Any

from pasta.errors import StoreError
from pasta.store.records import FolderLock, LabelRecord, read_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

SCHEMA = "pasta-aid/store-index/1"
RECORD_FILE = "record.json"
_STALE_SECONDS = 3600  # leftovers of a killed writer younger than this may belong to a live one

_log = logging.getLogger(__name__)

Labels = dict[str, dict[str, dict[str, LabelRecord]]]  # image, tag, reader


class Index:
    """Current labels and image records, shared by all processes that use one folder.

    Args:
        folder: private folder of the store.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "index.json"
        self._dirty = folder / "index.dirty"
        self._lock = FolderLock(folder / "lock")
        self._signature: tuple[int, ...] | None = None
        self._labels: Labels = {}
        self._images: dict[str, dict[str, Any]] = {}

    def labels(self) -> Labels:
        """All current labels; not to be changed."""
        self._update()
        return self._labels

    def images(self) -> dict[str, dict[str, Any]]:
        """All image records; not to be changed."""
        self._update()
        return self._images

    @contextlib.contextmanager
    def writing(self) -> Iterator[Index]:
        """Hold the store for a change; records written inside are in the index afterwards.

        A writer that dies inside leaves the dirty mark, and whoever comes next rebuilds.
        """
        with self._lock():
            self._update()
            self._dirty.touch()
            yield self
            self._write()

    def put_label(self, record: LabelRecord) -> None:
        """Make a record the current one of its image, tag and reader; inside `writing` only."""
        tags = self._labels.get(record.image, {})  # copied, as other threads may iterate over them
        readers = {**tags.get(record.tag, {}), record.reader: record}
        self._labels = {**self._labels, record.image: {**tags, record.tag: readers}}

    def put_image(self, image_id: str, record: dict[str, Any] | None) -> None:
        """Set the record of an image, None to forget it and its labels; inside `writing` only."""
        if record is None:
            self._images = {key: old for key, old in self._images.items() if key != image_id}
            self._labels = {key: old for key, old in self._labels.items() if key != image_id}
        else:
            self._images = {**self._images, image_id: record}

    def rebuild(self) -> None:
        """Read all records again."""
        with self._lock():
            self._dirty.touch()
            self._update()

    def _update(self) -> None:
        if not self._dirty.exists() and self._signature and self._signature == self._stat():
            return
        with self._lock():
            signature = self._stat()
            if not self._dirty.exists() and signature and self._load():
                self._signature = signature
                return
            self._scan()
            with contextlib.suppress(OSError):  # full disk: answers come from memory
                self._write()

    def _stat(self) -> tuple[int, ...] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _load(self) -> bool:
        document = read_json(self._path)
        try:
            if document is None or document["schema"] != SCHEMA:
                raise KeyError(SCHEMA)
            records = [LabelRecord.from_document(label) for label in document["labels"]]
            images = {str(key): dict(value) for key, value in document["images"].items()}
        except (AttributeError, KeyError, TypeError, ValueError, StoreError):
            self._keep_aside()
            return False
        self._labels, self._images = _by_image(records), images
        return True

    def _keep_aside(self) -> None:
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        aside = self._path.with_name(f"index.damaged-{stamp}-{os.getpid()}.json")
        with contextlib.suppress(OSError):
            self._path.replace(aside)
            aside.with_suffix(".txt").write_text(
                "This index was damaged. It was rebuilt from the records of images and labels; "
                "nothing was lost, and this copy may be deleted.\n",
                encoding="utf-8",
            )

    def _write(self) -> None:
        document = {
            "schema": SCHEMA,
            "images": self._images,
            "labels": [
                record.document()
                for tags in self._labels.values()
                for readers in tags.values()
                for record in readers.values()
            ],
        }
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps(document), encoding="utf-8")  # no fsync: it is only a cache
        part.replace(self._path)
        self._signature = self._stat()
        self._dirty.unlink(missing_ok=True)

    def _scan(self) -> None:
        images = {}
        for path in sorted((self._folder / "images").glob(f"[!.]*/{RECORD_FILE}")):
            record = read_json(path)
            if record is not None:
                images[path.parent.name] = record
        records = []
        for folder in sorted((self._folder / "labels").glob("*/*/*")):
            versions = (read_label(path) for path in sorted(folder.glob("v*.json"), reverse=True))
            newest = next((record for record in versions if record), None)
            if newest:
                records.append(newest)
        self._labels, self._images = _by_image(records), images
        self._sweep()

    def _sweep(self) -> None:
        """Remove what killed writers left; none of it was acknowledged."""
        limit = time.time() - _STALE_SECONDS
        leftovers = [
            *(self._folder / "labels").glob("*/*/*/.*.part"),
            *(self._folder / "labels").glob("*/*/*/incoming-*"),
            *(self._folder / "images").glob(".incoming-*"),
        ]
        for path in leftovers:
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < limit:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()


def read_label(path: Path) -> LabelRecord | None:
    """Read one label record; None, with a line in the log, if it is damaged."""
    document = read_json(path)
    try:
        return LabelRecord.from_document(document or {})
    except StoreError:
        _log.warning("label record %s is damaged; the version before it counts", path.name)
        return None


def _by_image(records: Iterable[LabelRecord]) -> Labels:
    labels: Labels = {}
    for record in records:
        labels.setdefault(record.image, {}).setdefault(record.tag, {})[record.reader] = record
    return labels
