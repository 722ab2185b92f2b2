"""A DIMSE receiver: CT series sent by a PACS or scanner (C-STORE) become images of a studies folder.

A series is taken over once nothing of it has come for a while and it reads as one CT volume; until then it
waits in `.pasta/received`, and stays there, whole, if it does not.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
import time
from typing import TYPE_CHECKING, Any

from pydicom.uid import UID
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, evt

from pasta.errors import OutputError, PastaError, VolumeError
from pasta.io import read_volume
from pasta.io.files import atomic_file

if TYPE_CHECKING:
    from pathlib import Path

_log = logging.getLogger(__name__)
# what pynetdicom says holds UIDs and names of stations
logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
_CT_IMAGE, _VERIFICATION = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.1"
_SUCCESS, _OUT_OF_RESOURCES, _CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xC000


class Receiver:
    """A storage service class provider for CT images.

    Args:
        folder: of the studies; made if missing.
        title: AE title.
        callers: AE titles that may send; empty for all.
        quiet_seconds: without a new image before a series counts as complete.
    """

    def __init__(
        self,
        folder: Path,
        title: str = "PASTA",
        callers: tuple[str, ...] = (),
        quiet_seconds: float = 10.0,
    ) -> None:
        self._folder = folder
        self._waiting = folder / ".pasta" / "received"
        self._quiet = quiet_seconds
        self._newest: dict[str, float] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._server: Any = None
        self._ae = AE(ae_title=title)
        self._ae.require_called_aet = True
        if callers:
            self._ae.require_calling_aet = list(callers)
        self._ae.add_supported_context(_VERIFICATION)
        self._ae.add_supported_context(_CT_IMAGE, ALL_TRANSFER_SYNTAXES)
        try:
            self._waiting.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            msg = f"{folder}: cannot be written ({error.strerror}). Check its permissions."
            raise OutputError(msg) from error
        # what came before a restart
        for left in self._waiting.iterdir():
            self._newest[left.name] = time.monotonic()

    def start(self, port: int, host: str = "127.0.0.1") -> None:
        """Listen, and take series over, in threads.

        Raises:
            OutputError: if the port is taken.
        """
        handlers = [(evt.EVT_C_STORE, self._store)]
        try:
            self._server = self._ae.start_server((host, port), block=False, evt_handlers=handlers)
        except OSError as error:
            msg = f"port {port}: cannot be listened on ({error.strerror}). Choose another one."
            raise OutputError(msg) from error
        threading.Thread(target=self._run, name="receiver", daemon=True).start()

    def stop(self) -> None:
        """Stop listening; what has arrived stays."""
        self._stop.set()
        if self._server is not None:
            self._server.shutdown()

    def _store(self, event: Any) -> int:
        """Answer one C-STORE: success only once the image is on the disk."""
        try:
            dataset = event.dataset
            dataset.file_meta = event.file_meta
            series = _hashed(dataset.SeriesInstanceUID)
            name = _hashed(dataset.SOPInstanceUID)
        except Exception:  # noqa: BLE001 - whatever a damaged data set raises
            return _CANNOT_UNDERSTAND
        try:
            with self._lock:
                folder = self._waiting / f"ct-{series}"
                folder.mkdir(mode=0o700, exist_ok=True)
                self._newest[folder.name] = time.monotonic()
                with atomic_file(folder / f"{name}.dcm") as file:
                    dataset.save_as(file, write_like_original=False)
        except (OSError, ValueError, AttributeError, TypeError) as error:
            _log.error("receiver: an image cannot be stored (%s)", type(error).__name__)
            return _OUT_OF_RESOURCES
        return _SUCCESS

    def take_over(self) -> int:
        """Move series that are complete into the studies folder.

        Returns:
            How many.
        """
        moved = 0
        for name, newest in list(self._newest.items()):
            if time.monotonic() - newest < self._quiet:
                continue
            with self._lock:
                if time.monotonic() - self._newest[name] < self._quiet:
                    continue  # one more came meanwhile
                del self._newest[name]
                moved += self._move(name)
        return moved

    def _move(self, name: str) -> bool:
        waiting, target = self._waiting / name, self._folder / name
        try:
            if target.is_dir():  # some more images of a series that is here
                for path in waiting.iterdir():
                    path.replace(target / path.name)
                waiting.rmdir()
            else:
                read_volume(waiting)
                waiting.rename(target)
        except VolumeError as error:
            # the name of the folder is a hash
            _log.warning("receiver: a series is kept apart: %s", error)
            return False
        except (OSError, PastaError) as error:
            _log.error("receiver: a series cannot be moved (%s)", type(error).__name__)
            return False
        _log.info("receiver: took over %s", name)
        return True

    def _run(self) -> None:
        while not self._stop.wait(min(1.0, self._quiet / 2)):
            with contextlib.suppress(OSError):
                self.take_over()


def _hashed(uid: UID) -> str:
    """Name without identity; the same for the same UID, so that an image sent twice is there once."""
    return hashlib.sha256(str(uid).encode()).hexdigest()[:16]
