"""Takes a series out of an archive that a client sent; only where that was switched on.

Names in the archive are not used at all, links and devices are passed over, and what comes out is
counted while it does: neither a path nor a bomb gets anywhere.
"""

from __future__ import annotations

import lzma
import struct
import tarfile
import zipfile
import zlib
from typing import TYPE_CHECKING, BinaryIO

from lib.options import RequestError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_CHUNK = 1 << 20
_BROKEN = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    LookupError,  # a name of no length: zipfile looks at its last letter
    NotImplementedError,  # a kind of compression, or of encryption, that zipfile does not have
    RuntimeError,  # a password
    ValueError,
    OSError,
)


def unpack(stream: BinaryIO, folder: Path, most_files: int, most_bytes: int) -> None:
    """Write the regular files of a ZIP or tar archive under neutral names.

    Args:
        stream: of the archive.
        folder: to write to; must be there.
        most_files: that it may hold.
        most_bytes: that they may have together.

    Raises:
        RequestError: if it is no archive, is damaged, holds nothing, or too much.
    """
    number, left = 0, most_bytes
    try:
        for member in _members(stream):
            if number >= most_files:
                msg = f"the archive holds more than {most_files} files; send one series."
                raise RequestError(msg)
            with (folder / f"{number:05d}.dcm").open("xb") as target:
                while chunk := member.read(_CHUNK):
                    left -= len(chunk)
                    if left < 0:
                        msg = f"the archive unpacks to more than {most_bytes >> 20} MB."
                        raise RequestError(msg)
                    target.write(chunk)
            number += 1
    except RequestError:
        raise
    except _BROKEN as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk, not the archive
        msg = "the archive cannot be read; send a ZIP or tar file without a password."
        raise RequestError(msg) from error
    if not number:
        msg = "the archive holds no file."
        raise RequestError(msg)


def _members(stream: BinaryIO) -> Iterator[BinaryIO]:
    """Open the regular files one after the other."""
    if zipfile.is_zipfile(stream):
        stream.seek(0)
        with zipfile.ZipFile(stream) as archive:
            for entry in archive.infolist():
                if not entry.is_dir():
                    with archive.open(entry) as file:
                        yield file  # type: ignore[misc]
        return
    stream.seek(0)
    with tarfile.open(fileobj=stream, mode="r:*") as archive:
        for member in archive:
            if member.isreg() and (file := archive.extractfile(member)):
                with file:
                    yield file  # type: ignore[misc]
