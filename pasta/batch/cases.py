"""Which CTs a batch is of, and what each is called. No name of a patient: as the store names them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path, PurePath

from pasta.errors import VolumeError
from pasta.io import find_volumes
from pasta.store.names import image_id_of

_HASH_DIGITS = 12


@dataclass(frozen=True, slots=True)
class Case:
    """One CT of a batch.

    Attributes:
        id: its name in folders and tables.
        path: file, or folder of a DICOM series.
    """

    id: str
    path: Path


def find_cases(source: Path) -> list[Case]:
    """Find the CTs of a folder, or read a list of them.

    Args:
        source: folder, searched as the store does it; or a text file with one path a line, relative
            to the file's own folder, where empty lines and those that begin with # do not count.

    Returns:
        Sorted by id; a path that is named twice is there once. What a list names need not exist:
        that case fails, the others go on.

    Raises:
        VolumeError: if there is no such folder or file, the file is no text, or no CT is named.
    """
    if source.is_dir():
        top, paths = source, find_volumes(source)
        lacks = "holds no CT. Put NIfTI, NRRD or MetaImage files or DICOM series there."
    elif source.is_file():
        top, paths = source.parent, _listed(source)
        lacks = "names no CT. Write one path a line."
    else:
        msg = f"{source}: no such folder or list. Give a folder of CTs, or a text file of paths."
        raise VolumeError(msg)
    if not paths:
        msg = f"{source}: {lacks}"
        raise VolumeError(msg)
    root = top.resolve()
    cases = {case_id(path, root): path for path in paths}
    return [Case(name, cases[name].absolute()) for name in sorted(cases)]


def case_id(path: Path, root: Path) -> str:
    """Name a CT after its path below a folder; one that lies elsewhere by its name and a hash."""
    absolute = path if path.is_absolute() else path.absolute()
    folder = not absolute.is_file() and absolute.is_dir()
    for whole in (absolute, absolute.resolve()):
        if whole.is_relative_to(root):
            return image_id_of(whole.relative_to(root), folder=folder)
    parent = hashlib.sha256(str(absolute.parent).encode("utf-8", "surrogateescape")).hexdigest()
    return image_id_of(PurePath(parent[:_HASH_DIGITS]) / absolute.name, folder=folder, hashed=True)


def _listed(path: Path) -> list[Path]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        msg = f"{path}: is no list. Give a folder, or a text file with the path of one CT a line."
        raise VolumeError(msg) from error
    except OSError as error:
        msg = f"{path}: cannot be read ({error.strerror}). Check its permissions."
        raise VolumeError(msg) from error
    named = (line.strip() for line in lines)
    return [path.parent.resolve() / name for name in named if name and not name.startswith("#")]
