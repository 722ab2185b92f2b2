"""Made-up volumes and DICOM slices for the tests of pasta.io."""

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from scipy.spatial.transform import Rotation

from pasta.geometry import Volume


@pytest.fixture
def oblique_affine():
    affine = np.eye(4)
    turn = Rotation.from_euler("xyz", (7, -13, 21), degrees=True).as_matrix()
    affine[:3, :3] = turn * (-0.8, -0.9, 2.5)
    affine[:3, 3] = 101.5, -42.25, 33.0
    return affine


@pytest.fixture
def body(oblique_affine):
    """HU-like noise: air, tissue and bone, one marked voxel (5, 7, 3) of 3000 HU."""
    voxels = np.random.default_rng(0).integers(-1024, 1500, (20, 18, 12)).astype(np.int16)
    voxels[5, 7, 3] = 3000
    return Volume(np.asfortranarray(voxels), oblique_affine)


@pytest.fixture
def labelmap(oblique_affine):
    voxels = np.zeros((20, 18, 12), np.uint8, order="F")
    voxels[2:15, 3:14, 2:10] = 2
    voxels[5:9, 6:9, 4:7] = 12
    voxels[16:19, 15:17, 9:11] = 25
    return Volume(voxels, oblique_affine)


@pytest.fixture(scope="session")
def small_slices(real_data, tmp_path_factory):
    """Ten slices of a real CT series, cut to 96 x 96 pixels."""
    folder = tmp_path_factory.mktemp("slices")
    for number, path in enumerate(sorted((real_data / "dicom" / "crlm_1004").glob("*.dcm"))[:10]):
        dataset = pydicom.dcmread(path)
        dataset.PixelData = dataset.pixel_array[200:296, 40:136].tobytes()
        dataset.Rows = dataset.Columns = 96
        dataset.save_as(folder / f"MUSTERMANN_{number:02d}.dcm")
    return folder


@pytest.fixture
def series(small_slices, tmp_path):
    """The small slices in a folder that a test may change."""
    return Path(shutil.copytree(small_slices, tmp_path / "study"))


@pytest.fixture
def change(series):
    """Rewrite slices: `change(lambda number, dataset: ...)`; return False to delete one."""

    def rewrite(edit):
        for number, path in enumerate(sorted(series.glob("*.dcm"))):
            dataset = pydicom.dcmread(path)
            if edit(number, dataset) is False:
                path.unlink()
            else:
                dataset.save_as(path)

    return rewrite
