"""One CT volume from a file or a DICOM series folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pasta.errors import VolumeError
from pasta.geometry import Volume
from pasta.io.checks import StoredImage, grid_warnings, hounsfield
from pasta.io.files import require_file
from pasta.io.itk import META_SUFFIXES, NRRD_SUFFIXES, read_meta, read_nrrd
from pasta.io.nifti import SUFFIXES as NIFTI_SUFFIXES
from pasta.io.nifti import read_nifti

SUFFIXES = (*NIFTI_SUFFIXES, *NRRD_SUFFIXES, *META_SUFFIXES)


def read_volume(path: Path) -> Volume:
    """Read one CT volume in HU: .nii, .nii.gz, .nrrd, .mha, .mhd or a DICOM series folder.

    Args:
        path: of the file or folder.

    Returns:
        Voxels int16 where all HU are whole, else float32; affine to RAS+ mm.

    Raises:
        VolumeError: if it is not one regular 3-D CT volume in HU; the message says why and the mend.
    """
    path = Path(path)
    image = read_stored(path)
    voxels, doubts = hounsfield(path.name, image)
    i, j, k = voxels.shape
    return Volume(
        voxels,
        image.affine,
        warnings=(*image.warnings, *grid_warnings((i, j, k), image.affine), *doubts),
        sha256=image.sha256,
    )


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
