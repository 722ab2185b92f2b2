"""Bytes in and out: hashed streams that notice damage, and files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import secrets
import zlib
from typing import TYPE_CHECKING, BinaryIO

from pasta.errors import OutputError, VolumeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

GZIP_MAGIC = b"\x1f\x8b"
_CHUNK = 1 << 20
_GZIP_OR_ZLIB = 47  # window bits: 15 plus 32 for "detect the wrapper"
_LONGEST_LINE = 1 << 16
_MOST_SURPLUS = 1 << 26


def require_file(path: Path) -> None:
    """Refuse a path that is not a file with content.

    Raises:
        VolumeError: if the file is missing, a folder, empty or not readable.
    """
    try:
        with path.open("rb") as file:
            first = file.read(1)
    except FileNotFoundError:
        msg = f"{path.name}: no such file or folder. Check the path."
        raise VolumeError(msg) from None
    except OSError as error:
        msg = f"{path.name}: cannot be read ({error.strerror}). Check its permissions."
        raise VolumeError(msg) from error
    if not first:
        msg = f"{path.name}: the file is empty (0 bytes). Export or copy it again."
        raise VolumeError(msg)


def sha256_of_files(paths: Iterable[Path]) -> str:
    """Hash the bytes of files, one after the other, as one stream."""
    sha256 = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                sha256.update(chunk)
    return sha256.hexdigest()


class HashedStream:
    """The content of a file, inflated from a point on if wanted; all its bytes are hashed.

    `close` reads to the end, so that the checksum of compressed data is verified (ITK's readers take
    damaged ones for good) and the hash is that of the whole file.
    """

    def __init__(self, path: Path, sha256: hashlib._Hash | None = None) -> None:
        self._name = path.name
        self._sha256 = sha256 or hashlib.sha256()
        self._blocks = self._content(path)
        self._left = memoryview(b"")

    @property
    def sha256(self) -> hashlib._Hash:
        """Hash of the bytes read so far, for a second file that belongs to the first."""
        return self._sha256

    def starts_with(self, magic: bytes) -> bool:
        """Tell whether the next bytes are these, without taking them."""
        if not self._left:
            self._left = memoryview(next(self._blocks, b""))
        return bytes(self._left[: len(magic)]) == magic

    def inflate(self) -> None:
        """Take all that follows as gzip or zlib data."""
        self._blocks = self._inflated(itertools.chain((bytes(self._left),), self._blocks))
        self._left = memoryview(b"")

    def read_into(self, target: memoryview) -> int:
        """Fill a buffer of bytes; return how many there were."""
        filled = 0
        while filled < len(target):
            if not self._left:
                block = next(self._blocks, None)
                if block is None:
                    break
                self._left = memoryview(block)
            take = min(len(self._left), len(target) - filled)
            target[filled : filled + take] = self._left[:take]
            self._left = self._left[take:]
            filled += take
        return filled

    def read_line(self) -> bytes:
        """Take one line with its end; empty at the end of the file.

        Raises:
            VolumeError: if a line has more than 64 KiB, as no header has.
        """
        line = bytearray()
        while not line.endswith(b"\n"):
            if not self._left:
                block = next(self._blocks, None)
                if block is None:
                    break
                self._left = memoryview(block)
            window = bytes(self._left[:4096])
            take = window.find(b"\n") + 1 or len(window)
            line += window[:take]
            self._left = self._left[take:]
            if len(line) > _LONGEST_LINE:
                msg = f"{self._name}: the header is damaged. Copy or export the file again."
                raise VolumeError(msg)
        return bytes(line)

    def close(self) -> str:
        """Read what is left and return the SHA-256 of the file, in hex.

        Raises:
            VolumeError: if compressed data are damaged or far longer than the header says.
        """
        surplus = len(self._left)
        for block in self._blocks:
            surplus += len(block)
            if surplus > _MOST_SURPLUS:
                msg = f"{self._name}: holds far more data than its header says. Export it again."
                raise VolumeError(msg)
        return self._sha256.hexdigest()

    def _content(self, path: Path) -> Iterator[bytes]:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                self._sha256.update(chunk)
                yield chunk

    def _inflated(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        try:
            yield from self._members(chunks)
        except zlib.error as error:
            msg = f"{self._name}: the compressed data are damaged. Copy or export the file again."
            raise VolumeError(msg) from error

    def _members(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        member = zlib.decompressobj(wbits=_GZIP_OR_ZLIB)
        for chunk in chunks:
            rest = chunk
            while rest:
                if member.eof:  # several members in one file (bgzip), or padding behind the last
                    rest = rest.lstrip(b"\0")
                    if not rest:
                        break
                    member = zlib.decompressobj(wbits=_GZIP_OR_ZLIB)
                block = member.decompress(rest, 4 * _CHUNK)
                rest = member.unused_data if member.eof else member.unconsumed_tail
                if block:
                    yield block
        if not member.eof:
            msg = f"{self._name}: truncated: the compressed data end too early. Copy it again."
            raise VolumeError(msg)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that replaces `path` only when it is complete and on the disk.

    Raises:
        OutputError: if it cannot be written (no space, no permission, no such folder); `path` is as
            before and nothing else is left in the folder.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        try:
            with part.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OutputError:
        raise
    except OSError as error:
        msg = (
            f"{path}: cannot be written ({error.strerror or error}). "
            "Free space or choose a folder that you may write to."
        )
        raise OutputError(msg) from error


def _sync_folder(folder: Path) -> None:
    """Put the renaming itself on the disk, where the system allows it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
