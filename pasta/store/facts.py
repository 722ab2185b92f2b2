"""Facts about stored images: their bytes, their grid, and where the store may write."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pasta.errors import LabelError, OutputError
from pasta.geometry import Grid
from pasta.io import read_labelmap
from pasta.store.names import stem_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pasta.geometry import Volume

PRIVATE_FOLDER = ".pasta"
_ANY_WRITE = 0o222


def private_folder(studies: Path) -> Path:
    """Choose where the store writes: in the studies folder, or elsewhere if that is read-only."""
    # the mode bits too: for root, os.access calls every folder writable
    if os.access(studies, os.W_OK) and studies.stat().st_mode & _ANY_WRITE:
        return studies / PRIVATE_FOLDER
    home = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    digest = hashlib.sha256(str(studies.resolve()).encode()).hexdigest()
    return home / "pasta-aid" / "stores" / f"{studies.resolve().name}-{digest[:12]}"


def copied(source: Path, folder: Path) -> str:
    """Copy an image into a new folder under a neutral name and put it on the disk.

    Raises:
        OutputError: if there is no space.
    """
    folder.mkdir()
    try:
        if source.is_dir():
            target = folder / "series"
            target.mkdir()
            for path in _files(source):
                shutil.copyfile(path, target / path.name)
        else:
            target = folder / ("image" + source.name[len(stem_of(source.name)) :].lower())
            shutil.copyfile(source, target)
        for path in _files(target):
            with path.open("rb") as file:
                os.fsync(file.fileno())
    except OSError as error:
        msg = f"the image cannot be stored ({error.strerror or error}). Free space on the disk."
        raise OutputError(msg) from error
    return target.name


def _files(path: Path) -> Iterator[Path]:
    """A file itself, or the slices of a series folder."""
    if path.is_dir():
        for inner in sorted(path.iterdir()):
            if inner.is_file() and not inner.name.startswith("."):
                yield inner
    else:
        yield path


def stat_of(path: Path) -> list[int]:
    """What changes when an image is replaced: number of files, bytes, newest change."""
    found = [file.stat() for file in _files(path)]
    return [
        len(found),
        sum(f.st_size for f in found),
        max((f.st_mtime_ns for f in found), default=0),
    ]


def facts_document(volume: Volume) -> dict[str, Any]:
    """Build what a record says of an image."""
    return {
        "sha256": volume.sha256,
        "grid": {"affine": volume.affine.tolist(), "shape": list(volume.voxels.shape)},
    }


def facts_of(record: Mapping[str, Any]) -> tuple[Grid, str] | None:
    """Read grid and SHA-256 back from a record; None if they are not there."""
    try:
        i, j, k = (int(n) for n in record["grid"]["shape"])
        affine = np.asarray(record["grid"]["affine"], dtype=float)
        return Grid(affine, (i, j, k)), str(record["sha256"])
    except (KeyError, TypeError, ValueError):
        return None


def fitting(label: Path | Volume, grid: Grid) -> Volume:
    """Read a label and check that it lies on the grid of its image.

    Raises:
        LabelError: if it does not, or holds unknown values.
    """
    if isinstance(label, Path):
        label = read_labelmap(label, grid)
    if not label.grid.matches(grid):
        msg = (
            f"the label has grid {label.grid.shape}, the image {grid.shape}, or they lie at "
            "different places; resample the label to the image first."
        )
        raise LabelError(msg)
    return replace(label, affine=grid.affine)


def last_version(folder: Path) -> int:
    """Find the highest version number in a folder, complete or not; 0 if there is none."""
    numbers = (path.name[1:].split(".")[0] for path in folder.glob("v*.*"))
    return max((int(number) for number in numbers if number.isdecimal()), default=0)


def values_in(labelmap: Volume) -> tuple[int, ...]:
    """List the label values that occur, without background."""
    counts = np.bincount(np.ravel(labelmap.voxels, order="K"))
    return tuple(int(value) for value in np.flatnonzero(counts) if value)
