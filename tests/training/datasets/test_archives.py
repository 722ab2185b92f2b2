import json
import shutil

import numpy as np
import pytest

from pasta.io.volumes import read_volume
from pasta.spec import ModelSpec, ZScore
from tests.training.datasets.conftest import SHAPE, labels_of, write_nifti, write_series
from training.cases import Case, real_case
from training.datasets import DatasetError, read_dataset
from training.datasets.voxels import load_case, to_case

SPEC = ModelSpec(
    name="test",
    version="1",
    task="segmentation",
    title="test",
    width=4,
    spacing_mm=(4.0, 4.0, 4.0),
    patch_shape=(64, 64, 64),
    intensity=ZScore((-500.0, 500.0), 0.0, 200.0),
    channels=("background", "liver"),
    license="Apache-2.0",
    trained_on="nothing",
)


def plane(index, shape=(8, 10, 12)):
    """A DICOM mask (k, j, i) with the sagittal plane `index` at 255."""
    mask = np.zeros(shape, np.uint8)
    mask[:, :, index] = 255
    return mask


@pytest.fixture
def published_case(tmp_path, ct):
    """3D-IRCADb as published: one case in folders."""
    folder = tmp_path / "3Dircadb1" / "3Dircadb1.1"
    write_series(folder / "PATIENT_DICOM", ct.T)
    liver = plane(1) | plane(2) | plane(3)
    for name, mask in {
        "liver": liver,
        "livertumor01": plane(2),
        "portalvein": plane(3),
        "leftkidney": plane(5),
        "skin": np.full((8, 10, 12), 255, np.uint8),
    }.items():
        write_series(folder / "MASKS_DICOM" / name, mask, eight_bit=True)
    return folder


def test_published_ircadb_masks_lie_over_one_another_and_skin_is_no_label(published_case):
    dataset = read_dataset("ircadb", published_case.parent)
    (case,) = dataset.cases
    assert case.complete == ("liver", "liver_tumor")  # one kidney alone is not all kidney
    labels = load_case(case).labelmap.voxels
    # a vessel inside the liver stays liver
    assert [set(labels[i].ravel()) for i in (0, 1, 2, 3, 5, 7)] == [{0}, {2}, {12}, {2}, {8}, {0}]


def test_zipped_ircadb_reads_like_unpacked(published_case):
    unpacked = load_case(read_dataset("ircadb", published_case.parent).cases[0])
    for name in ("PATIENT_DICOM", "MASKS_DICOM"):
        shutil.make_archive(published_case / name, "zip", published_case, name)
        shutil.rmtree(published_case / name)
    zipped = load_case(read_dataset("ircadb", published_case.parent).cases[0])
    np.testing.assert_array_equal(zipped.channels[0].voxels, unpacked.channels[0].voxels)
    np.testing.assert_array_equal(zipped.labelmap.voxels, unpacked.labelmap.voxels)


def test_a_damaged_archive_is_a_problem_of_its_case(published_case):
    other = published_case.parent / "3Dircadb1.2"
    shutil.copytree(published_case / "PATIENT_DICOM", other / "PATIENT_DICOM")
    (other / "MASKS_DICOM.zip").write_bytes(b"PK not an archive")
    dataset = read_dataset("ircadb", published_case.parent)
    assert len(dataset.cases) == 1
    assert str(dataset.problems[0]).startswith("3Dircadb1.2: MASKS_DICOM.zip: the archive is")


def test_an_unknown_structure_is_ignored_and_told(published_case):
    write_series(published_case / "MASKS_DICOM" / "shunt", plane(9), eight_bit=True)
    dataset = read_dataset("ircadb", published_case.parent)
    assert "'shunt'" in str(dataset.problems[0])
    assert set(load_case(dataset.cases[0]).labelmap.voxels[9].ravel()) == {255}


def lung1(root, ct, patients):
    for patient in patients:
        study = root / "NSCLC-Radiomics" / patient / "09-18-2008-StudyID-NA-69331"
        write_series(study / "0.000000-NA-82046", ct.T)
        write_series(study / "300.000000-Segmentation-9.554", ct.T[:1], modality="SEG")
    return root


LUNG1_POINTS = """,PatientID,Overall.Stage,Survival.time,deadstatus.event,coordX,coordY,coordZ
0,LUNG1-001,IIIb,2165,1,82.5,-201.0,-456.5
1,LUNG1-002,I,155,1,-74.5,16.5,-18.5
2,LUNG1-003,II,300,0,1,2,3
"""


def test_lung1_gives_centre_points_in_ras_and_endpoints_that_respect_censoring(tmp_path, ct):
    root = lung1(tmp_path, ct, ["LUNG1-001", "LUNG1-002", "LUNG1-003", "LUNG1-004"])
    (root / "points.csv").write_text(LUNG1_POINTS)
    dataset = read_dataset("lung1", root, annotations=root / "points.csv")
    assert dataset.cases[0].centre_ras_mm == (-82.5, 201.0, -456.5)
    assert [case.attributes.get("survived_2_years") for case in dataset.cases] == [
        True,
        False,
        None,  # lost to follow-up after 300 days
        None,
    ]
    assert dataset.cases[1].attributes["overall_stage"] == "I"
    assert {problem.case for problem in dataset.problems} == {"LUNG1-004"}
    assert load_case(dataset.cases[0]).channels[0].voxels.shape == SHAPE


def test_lung1_needs_one_ct_series_for_a_patient(tmp_path, ct):
    root = lung1(tmp_path, ct, ["LUNG1-001", "LUNG1-002"])
    shutil.rmtree(next((root / "NSCLC-Radiomics" / "LUNG1-002").glob("*/0.0*")))
    dataset = read_dataset("lung1", root)
    assert [case.case for case in dataset.cases] == ["LUNG1-001"]
    assert "0 CT series" in str(next(p for p in dataset.problems if p.case == "LUNG1-002"))


def test_clinical_data_of_the_collection_are_found_beside_the_patients(tmp_path, ct):
    root = lung1(tmp_path, ct, ["LUNG1-001"])
    (root / "NSCLC Radiomics Lung1.clinical-version3-Oct 2019.csv").write_text(
        "PatientID,age,Overall.Stage,Survival.time,deadstatus.event\nLUNG1-001,78.75,IIIb,2165,1\n"
    )
    case = read_dataset("lung1", root).cases[0]
    assert case.attributes["age"] == 78.75
    assert case.attributes["survival_days"] == 2165


def test_the_real_table_of_centre_points_gives_each_patient_a_point_in_its_ct(real_data, tmp_path):
    table = real_data / "pasta_annotations" / "fmcib_lung1_annotations.csv"
    case = real_data / "ct" / "lung1_002_NC" / "ct.nii.gz"
    if not case.exists():
        pytest.skip("lung1_002_NC is not there")
    volume = read_volume(case)
    lesions = read_dataset("folders", real_data).cases
    record = next(item for item in lesions if item.case == "lung1_002_NC")
    labels = load_case(record).labelmap.voxels
    write_series(tmp_path / "LUNG1-002" / "a" / "b", np.zeros((3, 4, 4)))
    patient = read_dataset("lung1", tmp_path, annotations=table).cases[0]
    i, j, k, _ = np.linalg.inv(volume.affine) @ [*patient.centre_ras_mm, 1]
    # the point is the centre of the contoured tumour's mask of another release
    found = np.argwhere(labels == 11).mean(axis=0)
    assert np.linalg.norm((np.array([i, j, k]) - found) * volume.grid.spacing_mm) < 40


def test_own_folders_read_like_the_reference_labels(real_data):
    for name in ("ts_example", "nsclcrg_r01_001"):
        folder = real_data / "ct" / name
        if not folder.is_dir():
            pytest.skip(f"{name} is not there")
        record = next(c for c in read_dataset("folders", real_data).cases if c.case == name)
        mine = to_case(record, SPEC, hidden=())
        theirs = real_case(folder, None, SPEC)
        np.testing.assert_array_equal(mine.hu, theirs.hu)
        np.testing.assert_array_equal(mine.allowed, theirs.allowed)
        known = ~np.isin(mine.labels, (0, 26, 255))
        np.testing.assert_array_equal(mine.labels[known], theirs.labels[known])
        # what is named and none of ours is certain background, not a foreground of theirs
        assert not np.isin(theirs.labels[~known], range(1, 26)).any()


def test_a_case_without_derivatives_or_commerce_is_left_out_of_shipped_weights(real_data):
    dataset = read_dataset("folders", real_data, for_shipping=True)
    assert not [case.case for case in dataset.cases if "NC" in case.case]
    assert [p.case for p in dataset.problems if "non-commercial" in p.message]


def test_own_folders_tell_a_labels_file_that_is_missing(tmp_path, ct):
    for case in ("a", "b"):
        write_nifti(tmp_path / case / "ct.nii.gz", ct)
        (tmp_path / case / "labels.json").write_text(json.dumps({"lesions": {"1": "lung_tumor"}}))
    write_nifti(tmp_path / "b" / "lesions.nii.gz", labels_of([1]))
    dataset = read_dataset("folders", tmp_path)
    assert [case.case for case in dataset.cases] == ["b"]
    assert "a/lesions.nii.gz is missing" in str(dataset.problems[0])


def test_labels_that_are_not_told_apart_stay_allowed_in_a_stored_case(tmp_path, ct):
    table = tmp_path / "cases.csv"
    write_nifti(tmp_path / "ct.nii.gz", ct)
    write_nifti(tmp_path / "labels.nii.gz", labels_of([1, 2]))
    table.write_text("image,label\nct.nii.gz,labels.nii.gz\n")
    labels = {"1": "pancreas", "2": "pancreatic_tumor|pancreatic_cyst"}
    case = to_case(read_dataset("csv", table, labels=labels).cases[0], SPEC)
    case.save(tmp_path / "case.npz")
    np.testing.assert_array_equal(Case.load(tmp_path / "case.npz").allowed, case.allowed)
    assert case.allowed[14, 23]


def test_a_case_with_nothing_complete_is_no_training_case(tmp_path, ct):
    write_nifti(tmp_path / "ct.nii.gz", ct)
    (tmp_path / "cases.csv").write_text("image\nct.nii.gz\n")
    record = read_dataset("csv", tmp_path / "cases.csv").cases[0]
    with pytest.raises(DatasetError, match="nothing of PASTA's labels"):
        to_case(record, SPEC)
