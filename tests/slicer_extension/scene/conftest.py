"""The headless host with the extension on the path, and real CTs with masks in any orientation."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[3]
DATA = Path(os.environ.get("PASTA_DATA", ROOT.parent / "shared" / "data"))
sys.path.insert(0, str(ROOT / "slicer_extension" / "PASTAAid"))
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")

# Structures of ts_example by PASTA label: real shapes stand in for lesions, many of them.
ORGANS = {
    "kidney": ("kidney_right", "kidney_left"),
    "gallbladder": ("gallbladder",),
    "liver": ("liver",),
    "stomach": ("stomach",),
    "pancreas": ("pancreas",),
    "lung": ("lung_upper_lobe_left", "lung_lower_lobe_left", "lung_lower_lobe_right"),
    "colorectum": ("colon",),
    "bladder": ("urinary_bladder",),
    "bone": ("sacrum", "hip_left", "hip_right"),
}
LESIONS = {
    "kidney_cyst": ("adrenal_gland_right", "adrenal_gland_left"),
    "liver_tumor": ("inferior_vena_cava", "aorta"),
    "bone_metastasis": tuple(f"rib_{side}_{n}" for side in ("left", "right") for n in range(7, 12)),
}
ORIENTATIONS = ["LPS", "RAS", "LAS", "PIR", "SLA", "oblique", "sheared rotation, left-handed"]


@pytest.fixture(scope="session")
def application():
    pytest.importorskip("slicer", reason="needs slicer-core")
    pytest.importorskip("PySide6", reason="needs PySide6-Essentials")
    from tests.slicer_host import boot

    return boot(size=(1500, 700))


@pytest.fixture
def host(application):
    import slicer

    from tests import slicer_host

    slicer.mrmlScene.Clear(0)
    slicer_host.HOST_ERRORS.clear()
    yield slicer_host
    slicer.mrmlScene.Clear(0)
    slicer_host.spin(0.02)
    assert slicer_host.HOST_ERRORS == []


@dataclass(frozen=True)
class Case:
    ct: Path
    mask: Path
    values: np.ndarray
    affine: np.ndarray


@pytest.fixture(scope="session")
def original():
    """CT and labelmap of ts_example, with PASTA's label values."""
    import json

    from pasta.labels import label_named

    folder = DATA / "ct" / "ts_example"
    if not folder.is_dir():
        pytest.skip(f"needs the real CT in {folder}; set PASTA_DATA")
    names = json.loads((folder / "labels.json").read_text())["organs"]
    numbers = {name: int(value) for value, name in names.items()}
    image = nib.load(folder / "ct.nii.gz")
    organs = np.asarray(nib.load(folder / "organs.nii.gz").dataobj)
    values = np.zeros(organs.shape, np.uint8)
    for label, parts in {**ORGANS, **LESIONS}.items():
        values[np.isin(organs, [numbers[part] for part in parts])] = label_named(label).value
    return nib.Nifti1Image(np.asarray(image.dataobj).astype(np.int16), image.affine), values


def turned(image, axcodes):
    if len(axcodes) == 3:
        end = nib.orientations.axcodes2ornt(tuple(axcodes))
        out = image.as_reoriented(
            nib.orientations.ornt_transform(nib.io_orientation(image.affine), end)
        )
        return nib.Nifti1Image(np.asarray(out.dataobj), out.affine)
    a, b = np.deg2rad([12.0, -17.0])
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    tilt = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = image.affine.copy()
    affine[:3, :3] = turn @ tilt @ affine[:3, :3] @ np.diag([1.0, 1.0, 1.7])  # anisotropic too
    if "left" in axcodes:
        affine[:3, 0] *= -1
    return nib.Nifti1Image(np.asarray(image.dataobj), affine)


@pytest.fixture(params=ORIENTATIONS)
def case(request, original, tmp_path):
    return written(original, request.param, tmp_path)


@pytest.fixture
def lps(original, tmp_path):
    return written(original, "LPS", tmp_path)


def written(original, axcodes, folder):
    ct, values = original
    image = turned(ct, axcodes)
    mask = turned(nib.Nifti1Image(values, ct.affine), axcodes)
    nib.save(image, folder / "ct.nii.gz")
    nib.save(mask, folder / "mask.nii.gz")
    return Case(folder / "ct.nii.gz", folder / "mask.nii.gz", np.asarray(mask.dataobj), mask.affine)


@pytest.fixture
def load():
    import slicer

    def loaded(path):
        return slicer.util.loadVolume(str(path), {"show": False})

    return loaded


@pytest.fixture
def turn():
    def save(image, axcodes, path):
        nib.save(turned(image, axcodes), path)

    return save
