"""Images in and out: NIfTI, NRRD, MetaImage, DICOM series. Patient identity stops here."""

from pasta.io.dicom import is_dicom_folder
from pasta.io.labelmaps import read_labelmap, write_image, write_labelmap
from pasta.io.volumes import find_volumes, read_volume

__all__ = [
    "find_volumes",
    "is_dicom_folder",
    "read_labelmap",
    "read_volume",
    "write_image",
    "write_labelmap",
]
