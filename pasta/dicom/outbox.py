"""Sends submitted labels and reports back to the PACS, and goes on trying while it is away.

There is no queue that could be lost: what is to be sent is every version of a label with the tag
"final" that the store holds and that has no receipt beside it in `outbox`.
"""

from __future__ import annotations

import logging
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pasta.dicom.export import objects_of
from pasta.dicom.source import read_source
from pasta.errors import PacsError, PastaError
from pasta.io import read_labelmap
from pasta.store.records import read_json, write_json

if TYPE_CHECKING:
    from pathlib import Path

    import pydicom

    from pasta.dicom.pacs_store import PacsStore
    from pasta.store import LabelRecord

_log = logging.getLogger(__name__)
TAG = "final"
_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 5.0, 300.0


class Outbox:
    """What the PACS has not got yet.

    Args:
        store: of the labels and the PACS.
        first_wait_seconds: before the second try while the PACS is away; doubles, up to five minutes.
    """

    def __init__(self, store: PacsStore, first_wait_seconds: float = _FIRST_WAIT_SECONDS) -> None:
        self._store = store
        self._folder = store.private / "outbox"
        self._first_wait = first_wait_seconds
        self._stop = threading.Event()

    def start(self) -> None:
        """Send in a thread of its own, until the process ends."""
        threading.Thread(target=self._run, name="outbox", daemon=True).start()

    def stop(self) -> None:
        """End the thread after what it is doing."""
        self._stop.set()
        self._store.changed.set()

    def waiting(self) -> list[LabelRecord]:
        """List what is to be sent, oldest first."""
        found = [
            record
            for current in self._store.labels()
            if current.tag == TAG and self._store.is_remote(current.image)
            for record in self._store.history(current.image, current.tag, current.reader)
            if not record.withdrawn and not self._receipt(record).exists()
        ]
        return sorted(found, key=lambda record: record.created)

    def failed(self) -> list[str]:
        """Say of each submission that cannot be written as DICOM why; its label stays in the store."""
        found = (read_json(path) or {} for path in sorted(self._folder.rglob("v*.json")))
        return [str(said["failed"]) for said in found if "failed" in said]

    def send(self) -> int:
        """Send all that waits.

        Returns:
            How many submissions went out.

        Raises:
            PacsError: if the PACS is away or refuses; what was not sent still waits.
        """
        sent = 0
        for record in self.waiting():
            try:
                datasets = self._objects(record)
            except PacsError:
                raise
            except PastaError as error:
                # trying again would not help; the label stays in the store
                _log.error("outbox: a submission cannot be written as DICOM: %s", error)
                self._note(record, {"failed": str(error)})
                continue
            if datasets:
                self._store.pacs.store(datasets)
                sent += 1
            self._note(record, {"objects": len(datasets)})
        return sent

    def _objects(self, record: LabelRecord) -> list[pydicom.Dataset]:
        image = self._store.image(record.image)
        source = read_source(image.path)
        labelmap = read_labelmap(self._store.label_path(record), source.grid)
        report = record.info.get("report")
        made = objects_of(source, labelmap, report, reader=record.reader)
        return list(made.datasets.values())

    def _note(self, record: LabelRecord, said: dict[str, object]) -> None:
        path = self._receipt(record)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"at": datetime.now(UTC).isoformat(timespec="seconds"), **said})

    def _receipt(self, record: LabelRecord) -> Path:
        names = (record.image, record.tag, record.reader, f"v{record.version:04d}.json")
        return self._folder.joinpath(*names)

    def _run(self) -> None:
        wait = 0.0
        while not self._stop.is_set():
            self._store.changed.clear()
            try:
                sent = self.send()
                wait = 0.0
                if sent:
                    _log.info("outbox: sent %d submission(s) to the PACS", sent)
            except PacsError as error:
                wait = min(max(2 * wait, self._first_wait), _LONGEST_WAIT_SECONDS)
                _log.warning("outbox: %s Next try in %.0f s.", error, wait)
            except Exception:  # noqa: BLE001 - a thread that ends would send nothing more
                wait = _LONGEST_WAIT_SECONDS
                _log.exception("outbox: unforeseen error; next try in %.0f s", wait)
            if wait:
                self._pause(wait)
            else:
                self._store.changed.wait(_LONGEST_WAIT_SECONDS)

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._stop.is_set() and (left := until - time.monotonic()) > 0:
            self._stop.wait(left)
