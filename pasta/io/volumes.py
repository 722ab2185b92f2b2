"""One CT volume from a file or a DICOM series folder."""

from __future__ import annotations

import os
from pathlib import Path

from pasta.geometry import Acquisition, Volume
from pasta.io.checks import grid_warnings, hounsfield
from pasta.io.dicom import is_dicom_folder, read_dicom
from pasta.io.labelmaps import SEGMENTATION_SUFFIX
from pasta.io.nifti import is_eight_bit_nifti
from pasta.io.stored import SUFFIXES, read_stored


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
    acquisition = Acquisition()
    if path.is_dir():
        image, acquisition = read_dicom(path.resolve())
    else:
        image = read_stored(path)
    voxels, doubts = hounsfield(path.name, image)
    i, j, k = voxels.shape
    return Volume(
        voxels,
        image.affine,
        acquisition=acquisition,
        warnings=(*image.warnings, *grid_warnings((i, j, k), image.affine), *doubts),
        sha256=image.sha256,
    )


def find_volumes(folder: Path) -> list[Path]:
    """List what may be a CT volume in a study folder: image files and DICOM series folders.

    Hidden folders and files, folders named "labels", .seg.nrrd and 8-bit NIfTI files (labelmaps) are
    passed over. A DICOM series folder is one entry and is not searched further.

    Args:
        folder: searched with all folders below it; may be a series folder itself.

    Returns:
        Paths in sorted order.
    """
    if is_dicom_folder(folder):
        return [folder]
    found = []
    for root, folders, files in os.walk(folder):
        here = Path(root)
        kept = []
        for name in folders:
            if name.startswith(".") or name.lower() == "labels":
                continue
            if is_dicom_folder(here / name):
                found.append(here / name)
            else:
                kept.append(name)
        folders[:] = kept
        found.extend(
            here / name
            for name in files
            if not name.startswith(".")
            and name.lower().endswith(SUFFIXES)
            and not name.lower().endswith(SEGMENTATION_SUFFIX)
            and not is_eight_bit_nifti(here / name)
        )
    return sorted(found)
