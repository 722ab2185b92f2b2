"""Tiny data sets in the published layouts, written by the libraries that write such files."""

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

SHAPE = (12, 10, 8)
AFFINE = np.array([[-0.8, 0, 0, 30], [0, -0.8, 0, 40], [0, 0, 2.5, -100], [0, 0, 0, 1.0]])


def ct_voxels(shape=SHAPE):
    """HU from air to bone."""
    return np.linspace(-1000, 900, int(np.prod(shape))).reshape(shape).astype(np.int16)


def labels_of(values, shape=SHAPE):
    """A labelmap in which each value has the voxels of one plane."""
    labels = np.zeros(shape, np.uint8)
    for plane, value in enumerate(values, start=1):
        labels[plane] = value
    return labels


def write_nifti(path, voxels, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, affine), path)


def write_series(folder, voxels_kji, *, origin=(0.0, 0.0, 0.0), modality="CT", eight_bit=False):
    """A classic series, one file for each slice, 0.8 x 0.8 x 2.5 mm."""
    folder.mkdir(parents=True, exist_ok=True)
    series = generate_uid()
    for number, voxels in enumerate(voxels_kji):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        image.SOPClassUID = meta.MediaStorageSOPClassUID
        image.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
        image.SeriesInstanceUID = series
        image.Modality, image.ImageType = modality, ["ORIGINAL", "PRIMARY", "AXIAL"]
        image.Rows, image.Columns = voxels.shape
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.BitsAllocated = image.BitsStored = 8 if eight_bit else 16
        image.HighBit, image.PixelRepresentation = image.BitsAllocated - 1, int(not eight_bit)
        image.PixelSpacing, image.SliceThickness = [0.8, 0.8], 2.5
        image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        x, y, z = origin
        image.ImagePositionPatient = [x, y, z + 2.5 * number]
        image.RescaleSlope, image.RescaleIntercept = 1, 0
        image.PixelData = voxels.astype(np.uint8 if eight_bit else np.int16).tobytes()
        image.is_little_endian, image.is_implicit_VR = True, False
        pydicom.dcmwrite(folder / f"image_{number}", image, write_like_original=False)


@pytest.fixture
def ct():
    return ct_voxels()
