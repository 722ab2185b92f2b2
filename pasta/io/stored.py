"""An image file of any known kind, by its suffix."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pasta.errors import VolumeError
from pasta.io.files import require_file
from pasta.io.itk import META_SUFFIXES, NRRD_SUFFIXES, read_meta, read_nrrd
from pasta.io.nifti import SUFFIXES as NIFTI_SUFFIXES
from pasta.io.nifti import read_nifti

if TYPE_CHECKING:
    from pathlib import Path

    from pasta.io.checks import StoredImage

SUFFIXES = (*NIFTI_SUFFIXES, *NRRD_SUFFIXES, *META_SUFFIXES)


def read_stored(path: Path) -> StoredImage:
    """Read an image file without judging its values.

    Raises:
        VolumeError: if the file is damaged or not one 3-D image of a known format.
    """
    require_file(path)
    name = path.name.lower()
    if name.endswith(NIFTI_SUFFIXES):
        return read_nifti(path)
    if name.endswith(NRRD_SUFFIXES):
        return read_nrrd(path)
    if name.endswith(META_SUFFIXES):
        return read_meta(path)
    msg = (
        f"{path.name}: unknown kind of file. Give one of {', '.join(SUFFIXES)}, or a DICOM folder."
    )
    raise VolumeError(msg)
