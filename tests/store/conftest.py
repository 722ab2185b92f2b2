from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from pasta.store import Store


@pytest.fixture
def save_ct():
    def save(path: Path, seed: int = 0, shape=(24, 20, 16)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        voxels = np.random.default_rng(seed).integers(-1000, 200, shape).astype(np.int16)
        nib.save(nib.Nifti1Image(voxels, np.diag([-1.0, -1.0, 2.5, 1.0])), path)
        return path

    return save


@pytest.fixture
def store(tmp_path, save_ct):
    save_ct(tmp_path / "studies" / "ct.nii.gz")
    return Store(tmp_path / "studies")
