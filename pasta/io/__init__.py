"""Images in and out: NIfTI, NRRD, MetaImage, DICOM series. Patient identity stops here."""

from pasta.io.labelmaps import write_image, write_labelmap
from pasta.io.volumes import read_volume

__all__ = ["read_volume", "write_image", "write_labelmap"]
