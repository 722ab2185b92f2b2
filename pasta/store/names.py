"""Names in the store: image ids that cannot collide, tags, readers. Standard library only."""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import TYPE_CHECKING

from pasta.errors import StoreError

if TYPE_CHECKING:
    from pathlib import PurePath

LONGEST_NAME = 128
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{LONGEST_NAME - 1}}}")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_HASH_DIGITS = 12
_HASHED = re.compile(rf".*-[0-9a-f]{{{_HASH_DIGITS}}}")
_PLAIN_SUFFIX = ".nii.gz"
_SUFFIXES = (_PLAIN_SUFFIX, ".nii", ".seg.nrrd", ".nrrd", ".mha", ".mhd")


def checked_name(what: str, name: object) -> str:
    """Refuse what cannot be one part of a path and of a URL.

    Args:
        what: "image id", "tag", "reader": for the message.
        name: given by a client.

    Raises:
        StoreError: if it is not 1-128 of letters, digits, dot, dash, underscore, or starts with one
            of the latter three.
    """
    if isinstance(name, str) and _NAME.fullmatch(name):
        return str.__str__(name)  # MONAI Label's tags are string enums, which format otherwise
    shown = repr(name if isinstance(name, str) and len(name) < 80 else type(name).__name__)
    msg = (
        f"{what} {shown} is not allowed: use letters, digits, dot, dash and underscore "
        f"(at most {LONGEST_NAME}), a letter or digit first."
    )
    raise StoreError(msg)


def stem_of(name: str) -> str:
    """Take the image suffix off a file name; other dots stay ("1.2.840.nii.gz": "1.2.840")."""
    lower = name.lower()
    for suffix in _SUFFIXES:
        if lower.endswith(suffix):
            return name[: -len(suffix)]
    return name


def image_id_of(relative: PurePath, *, folder: bool = False, hashed: bool = False) -> str:
    """Derive the id of an image from its path below the studies folder, and from nothing else.

    A `.nii.gz` directly in the folder keeps its plain name; all else gets a hash of its path, as
    "a/b" and "a_b" or two formats of one name would meet otherwise.

    Args:
        relative: path below the studies folder; "." is the folder itself.
        folder: it is a DICOM series.
        hashed: add the hash in any case.
    """
    text = relative.as_posix()
    stem = stem_of(text) if not folder else text
    plain = not folder and not hashed and text.endswith(_PLAIN_SUFFIX)
    if plain and _NAME.fullmatch(stem) and not _HASHED.fullmatch(stem):
        return stem
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
    return f"{_readable(stem)}-{digest[:_HASH_DIGITS]}"


def minted_id(wanted: str) -> str:
    """Make up an id that resembles a name and that nothing else has."""
    return f"{_readable(stem_of(wanted))}-{secrets.token_hex(_HASH_DIGITS // 2)}"


def refuse_path(wanted: str) -> None:
    """Refuse a wanted id that tries to be a path; other odd characters are only replaced.

    Raises:
        StoreError: if it is absolute or climbs.
    """
    parts = wanted.replace("\\", "/").split("/")
    if parts[0] == "" or ".." in parts or "." in parts or "\0" in wanted:
        msg = f"image id {wanted[:80]!r} looks like a path: give a name only."
        raise StoreError(msg)


def is_name(text: str) -> bool:
    """Tell whether a text can be an image id as it is."""
    return bool(_NAME.fullmatch(text))


def _readable(stem: str) -> str:
    room = LONGEST_NAME - 1 - _HASH_DIGITS
    return _UNSAFE.sub("_", stem).strip("._-")[:room] or "image"
