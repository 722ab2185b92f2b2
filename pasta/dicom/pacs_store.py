"""A store whose images lie in a PACS: listed there, fetched when first needed, results sent back.

The folder of the store is the cache. Image ids are made of a hash of the series UID: no identity.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import secrets
import shutil
import threading
import time
from dataclasses import asdict
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from pasta.dicom.outbox import Outbox
from pasta.dicom.web import Pacs, RemoteSeries
from pasta.errors import PacsError, PastaError
from pasta.io import read_volume
from pasta.store import Store
from pasta.store.names import checked_name, image_id_of
from pasta.store.records import Image, read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pasta.geometry import Volume
    from pasta.store import LabelRecord

_log = logging.getLogger(__name__)
_LISTING_FILE = "pacs.json"
_PATIENCE_SECONDS = 5.0  # an empty or absent PACS is not asked with every request
_STALE_SECONDS = 3600
_COUNT_FILE = ".count"  # in the folder of a fetched series; readers pass over hidden files


def default_folder(url: str) -> Path:
    """Choose the cache of a PACS in the user's data home."""
    home = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    digest = hashlib.sha256(url.rstrip("/").encode()).hexdigest()
    return home / "pasta-aid" / "stores" / f"pacs-{digest[:12]}"


class PacsStore(Store):
    """Images of a PACS, labels here.

    Args:
        pacs: where the images are.
        folder: of the cache; made, for its owner only.

    Raises:
        OutputError: if the folder cannot be written to.
    """

    def __init__(self, pacs: Pacs, folder: Path) -> None:
        super().__init__(folder)
        folder.chmod(0o700)
        self.pacs = pacs
        self.reachable = False
        self.changed = threading.Event()  # set when a label was saved
        self._fetching = threading.Lock()
        self._look_next = 0.0
        self._sweep()
        known = read_json(self.private / _LISTING_FILE) or {}
        self._series = {key: RemoteSeries(**value) for key, value in known.items()}

    def images(self, *, look_again: bool = False) -> dict[str, Image]:
        """All images by id, those of the PACS whether fetched or not.

        While the PACS is away, those it listed last.
        """
        if look_again or (not self._series and time.monotonic() > self._look_next):
            self._look_at_pacs()
        remote = {
            image_id: Image(image_id, self.folder / _name(series), "series")
            for image_id, series in self._series.items()
        }
        return {**super().images(look_again=look_again), **remote}

    def image(self, image_id: str) -> Image:
        """Look one image up; fetched from the PACS if it is not here yet.

        Raises:
            StoreError: if there is no such image.
            PacsError: if it cannot be fetched.
            VolumeError: if the series is not one CT volume.
        """
        checked_name("image id", image_id)
        if image_id not in self._series:
            self._look_at_pacs()
        series = self._series.get(image_id)
        if series is not None and not (self.folder / _name(series)).is_dir():
            self._fetch(series)
        return super().image(image_id)

    def is_remote(self, image_id: str) -> bool:
        """Tell whether an image came from the PACS, so that results go back to it."""
        return image_id in self._series

    def save_label(
        self,
        image_id: str,
        label: Path | Volume,
        *,
        tag: str,
        reader: str,
        info: Mapping[str, Any] | None = None,
    ) -> LabelRecord:
        """Save a label as `Store.save_label`, and let the outbox know."""
        record = super().save_label(image_id, label, tag=tag, reader=reader, info=info)
        self.changed.set()
        return record

    def _sweep(self) -> None:
        """Remove what a killed process had fetched in part; what is younger may belong to a live one."""
        limit = time.time() - _STALE_SECONDS
        for left in self.private.glob(".incoming-*"):
            with contextlib.suppress(OSError):
                if left.stat().st_mtime < limit:
                    shutil.rmtree(left)

    def status(self) -> dict[str, Any]:
        """Numbers as of `Store.status`, and how it stands with the PACS."""
        pacs = {
            "reachable": self.reachable,
            "series": len(self._series),
            "waiting_to_be_sent": len(Outbox(self).waiting()),
            "not_to_be_written": len(Outbox(self).failed()),
        }
        return {**super().status(), "pacs": pacs}

    def _look_at_pacs(self) -> None:
        self._look_next = time.monotonic() + _PATIENCE_SECONDS
        try:
            found = {_id(series): series for series in self.pacs.ct_series() if series.count != 1}
        except PacsError as error:
            if self.reachable:
                _log.warning("PACS: %s", error)
            self.reachable = False
            return
        if not self.reachable:
            _log.info("PACS: reached, %d CT series", len(found))
        self.reachable = True
        if found != self._series:
            # what is labelled stays known, though the PACS may have moved it to an archive
            kept = {key: old for key, old in self._series.items() if self.labels(key)}
            self._series = {**kept, **found}
            write_json(
                self.private / _LISTING_FILE,
                {key: asdict(series) for key, series in self._series.items()},
            )
            self._drop_outgrown()

    def _drop_outgrown(self) -> None:
        """Forget copies of series that had not arrived in the PACS as a whole; fetched anew when used."""
        for image_id, series in self._series.items():
            folder = self.folder / _name(series)
            with contextlib.suppress(OSError, ValueError):
                had = json.loads((folder / _COUNT_FILE).read_text())
                if series.count and series.count != had and not self.labels(image_id):
                    shutil.rmtree(folder, ignore_errors=True)

    def _fetch(self, series: RemoteSeries) -> None:
        target = self.folder / _name(series)
        incoming = self.private / f".incoming-{secrets.token_hex(8)}"
        with self._fetching:
            if target.is_dir():
                return
            try:
                incoming.mkdir(mode=0o700)
                count = self.pacs.fetch(series, incoming)
                try:
                    read_volume(incoming)  # whole, regular, decodable; else it never gets in
                except PastaError as error:
                    # the message names the folder, which means nothing to anybody
                    text = str(error).removeprefix(f"{incoming.name}: ")
                    msg = f"series of the PACS: {text}"
                    raise type(error)(msg) from None
                (incoming / _COUNT_FILE).write_text(str(count))
                incoming.rename(target)
            finally:
                shutil.rmtree(incoming, ignore_errors=True)
        _log.info("PACS: fetched a series of %d images", count)


def _name(series: RemoteSeries) -> str:
    return f"ct-{hashlib.sha256(series.series_uid.encode()).hexdigest()[:16]}"


def _id(series: RemoteSeries) -> str:
    """The very id that `Store` gives to the folder once it is there."""
    return image_id_of(PurePath(_name(series)), folder=True)
