"""Contrast agent or not by HU, and the back muscle, on real CT."""

import json

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from pasta.geometry import Volume
from pasta.report.attributes import ENHANCED, NON_CONTRAST
from pasta.trunk import enhancement_from_vessels, measured_enhancement, muscle_hu, trunk_of

QUICK = {"cort_liver", "sts_037", "ts_example", "lung4d_113", "lidc_0001", "tcga_ov_2043"}
# phase as in the table of the collection's README
PHASES = {
    "acrin_flt_001": NON_CONTRAST,
    "cort_liver": NON_CONTRAST,
    "cptac_pda_c3n00249": ENHANCED,
    "crlm_1004": ENHANCED,
    "crlm_1006": ENHANCED,
    "ircadb_01_NC-ND": ENHANCED,
    "lidc_0001": ENHANCED,
    "lung1_002_NC": ENHANCED,
    "lung4d_113": NON_CONTRAST,
    "nsclcrg_r01_001": ENHANCED,
    "pancreas_cb_001": ENHANCED,
    "sts_037": NON_CONTRAST,
    "tcga_coad_4070a": ENHANCED,
    "tcga_ov_2043": ENHANCED,
    "ts_example": NON_CONTRAST,
}
CASES = [
    pytest.param(case, phase, id=case, marks=() if case in QUICK else pytest.mark.slow)
    for case, phase in PHASES.items()
]


def read(folder, case, file="ct.nii.gz") -> Volume:
    image = nib.load(folder / "ct" / case / file)
    return Volume(np.asarray(image.dataobj), image.affine)


@pytest.mark.parametrize(("case", "phase"), CASES)
def test_contrast_agent_is_told_from_hu(real_data, case, phase):
    assert measured_enhancement(trunk_of(read(real_data, case))).value == phase


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_way_a_file_stores_its_axes_does_not_matter(real_data, axis):
    volume = read(real_data, "ts_example")
    flip = np.eye(4)
    flip[axis, axis] = -1
    flip[axis, 3] = volume.voxels.shape[axis] - 1
    turned = Volume(np.flip(volume.voxels, axis), volume.affine @ flip)
    assert measured_enhancement(trunk_of(turned)) == measured_enhancement(trunk_of(volume))


def test_no_trunk_means_not_assessable():
    empty = Volume(np.full((60, 60, 60), -1000, np.int16), np.eye(4))
    found = measured_enhancement(trunk_of(empty))
    assert found.value is None
    assert "trunk" in found.note


def test_kidneys_that_contradict_make_it_not_assessable(real_data):
    volume = read(real_data, "ts_example")  # non-contrast
    trunk = trunk_of(volume)
    labels = np.zeros(volume.voxels.shape, np.uint8)
    bright = volume.voxels > 150  # bone, labelled as kidney
    labels[bright] = 8
    found = measured_enhancement(trunk, Volume(labels, volume.affine))
    assert found.value is None
    assert found.numbers["kidney_hu"] > 100


def test_true_kidneys_agree_with_the_blood(real_data):
    volume = read(real_data, "ts_example")
    names = json.loads((real_data / "ct/ts_example/labels.json").read_text())["organs"]
    values = [int(value) for value, name in names.items() if name.startswith("kidney")]
    organs = read(real_data, "ts_example", "organs.nii.gz")
    kidneys = Volume(np.where(np.isin(organs.voxels, values), 8, 0).astype(np.uint8), volume.affine)
    found = measured_enhancement(trunk_of(volume), kidneys)
    assert found.value == NON_CONTRAST
    assert 5 < found.numbers["kidney_hu"] < 50


def test_vessels_follow_the_rule_of_the_paper(real_data):
    assert enhancement_from_vessels(79, 79) == NON_CONTRAST
    assert enhancement_from_vessels(81, 60) == ENHANCED  # both must be below 80
    organs = read(real_data, "ts_example", "organs.nii.gz").voxels
    hu = read(real_data, "ts_example").voxels
    aorta, cava = (float(hu[organs == value].mean()) for value in (52, 63))
    assert enhancement_from_vessels(aorta, cava) == NON_CONTRAST


def test_back_muscle_has_the_hu_of_the_labelled_back_muscle(real_data):
    volume = read(real_data, "ts_example")
    organs = read(real_data, "ts_example", "organs.nii.gz").voxels
    muscle = ndimage.binary_erosion(np.isin(organs, (86, 87)))  # autochthonous back muscles
    expected = np.percentile(volume.voxels[muscle], 75)
    found = muscle_hu(trunk_of(volume), 0.5)
    assert found is not None
    assert found[0] == pytest.approx(expected, abs=8)
