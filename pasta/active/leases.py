"""Leases: a case given to one reader is given to no other until it is released or runs out."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pasta.errors import StoreError
from pasta.store.names import checked_name
from pasta.store.records import FolderLock, read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

LEASE_SECONDS = 3600.0
_FILE, _LOCK = "leases.json", "leases.lock"


@dataclass(frozen=True, slots=True)
class Lease:
    """A case in the hands of one reader.

    Attributes:
        image: id of the case.
        reader: who has it.
        expires: Unix time in seconds; wall clock, as it must outlive a restart of the machine.
    """

    image: str
    reader: str
    expires: float

    def document(self, now: float) -> dict[str, Any]:
        """Build the JSON document."""
        left = round(max(0.0, self.expires - now), 1)
        return {"image": self.image, "reader": self.reader, "seconds_left": left}


class Leases:
    """All leases of a store; safe with several threads and processes.

    Every change is on the disk before it is answered, under a lock of the kernel that dies with its
    process. A damaged file is refused: taking it for empty would give two readers one case.

    Args:
        folder: private folder of the store.
        seconds: that a lease lasts unless renewed.
        now: wall clock.
    """

    def __init__(
        self, folder: Path, seconds: float = LEASE_SECONDS, now: Callable[[], float] = time.time
    ) -> None:
        self.seconds = seconds
        self._path = folder / _FILE
        self._lock = FolderLock(folder / _LOCK)
        self._now = now

    def take(self, candidates: Iterable[str], reader: str) -> tuple[Lease, bool] | None:
        """Lease the first candidate that nobody has.

        Args:
            candidates: image ids, best first.
            reader: who asks.

        Returns:
            The lease, and whether the reader had it already: own cases are given again, the best
            first, only when no other is left. None if others have all of them.

        Raises:
            StoreError: if the reader's name is not allowed, or the file is damaged.
            OutputError: if it cannot be written; then nothing is leased.
        """
        reader = checked_name("reader", reader)
        own = ""
        with self._lock():
            leases = self._read()
            for image in candidates:
                found = leases.get(image)
                if found is None:
                    return self._put(leases, image, reader), False
                if found.reader == reader:
                    own = own or image
            return (self._put(leases, own, reader), True) if own else None

    def renew(self, image: str, reader: str) -> Lease | None:
        """Make a lease last its full time again, or take one that nobody has.

        Returns:
            The lease; None if another reader has the case.
        """
        found = self.take([checked_name("image id", image)], reader)
        return found[0] if found else None

    def release(self, image: str, reader: str) -> bool:
        """Give a case back; False if this reader does not have it."""
        with self._lock():
            leases = self._read()
            found = leases.get(image)
            if found is None or found.reader != reader:
                return False
            del leases[image]
            self._write(leases)
            return True

    def all(self) -> dict[str, Lease]:
        """Leases that have not run out, by image."""
        with self._lock():
            return self._read()

    def documents(self) -> list[dict[str, Any]]:
        """Build the JSON documents of all leases."""
        now = self._now()
        return [lease.document(now) for _, lease in sorted(self.all().items())]

    def _put(self, leases: dict[str, Lease], image: str, reader: str) -> Lease:
        leases[image] = Lease(image, reader, self._now() + self.seconds)
        self._write(leases)
        return leases[image]

    def _read(self) -> dict[str, Lease]:
        document = read_json(self._path)
        if document is None:
            if self._path.exists():
                msg = f"{_FILE}: damaged. Move it away once no reader has a case open."
                raise StoreError(msg)
            return {}
        now = self._now()
        try:
            found = [Lease(i, str(e["reader"]), float(e["expires"])) for i, e in document.items()]
        except (KeyError, TypeError, ValueError) as error:
            msg = f"{_FILE}: damaged ({error}). Move it away once no reader has a case open."
            raise StoreError(msg) from error
        # a clock that was set back must not make a lease last longer than it may
        return {x.image: x for x in found if now < x.expires <= now + 2 * self.seconds}

    def _write(self, leases: dict[str, Lease]) -> None:
        write_json(
            self._path,
            {x.image: {"reader": x.reader, "expires": x.expires} for x in leases.values()},
        )
