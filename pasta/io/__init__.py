"""Files in and out: NIfTI, NRRD, MetaImage, DICOM series. Patient identity stops here."""
