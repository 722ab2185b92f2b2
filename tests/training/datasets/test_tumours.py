import json

import nibabel as nib
import numpy as np
import pytest

from tests.training.datasets.conftest import AFFINE, labels_of, write_nifti
from training.datasets import DatasetError, LicenceError, read_dataset
from training.datasets.voxels import allowed_of, load_case, load_channels
from training.losses import allowed_classes


def decathlon(root, task, ct, names, cases, test=()):
    folder = root / task
    for case in cases:
        write_nifti(folder / "imagesTr" / f"{case}.nii.gz", ct)
        write_nifti(folder / "labelsTr" / f"{case}.nii.gz", labels_of(range(1, len(names))))
    for case in test:
        write_nifti(folder / "imagesTs" / f"{case}.nii.gz", ct)
    document = {
        "name": task,
        "licence": "CC-BY-SA 4.0",
        "modality": {"0": "CT"},
        "labels": {str(value): name for value, name in enumerate(names)},
        "training": [
            {"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"}
            for case in cases
        ],
        "test": [f"./imagesTs/{case}.nii.gz" for case in test],
    }
    (folder / "dataset.json").write_text(json.dumps(document))
    return folder


LIVER = ("background", "liver", "cancer")
PANCREAS = ("background", "pancreas", "cancer")


def test_decathlon_liver_becomes_liver_and_tumour_with_cysts_in_doubt(tmp_path, ct):
    root = decathlon(tmp_path, "Task03_Liver", ct, LIVER, ["liver_10", "liver_2"], ["liver_7"])
    dataset = read_dataset("msd", root)
    assert [case.case for case in dataset.cases] == ["liver_2", "liver_7", "liver_10"]
    case = dataset.cases[0]
    assert case.label_mapping == {1: 2, 2: 12}
    assert case.hidden_lesions == ("liver_cyst",)
    assert (dataset.cases[1].split, dataset.cases[1].masks) == ("test", ())
    labels = load_case(case).labelmap.voxels
    assert set(labels[1].ravel()) == {2}
    assert set(labels[2].ravel()) == {12}
    np.testing.assert_array_equal(
        allowed_of(case), allowed_classes(["liver", "liver_tumor"], ["liver_cyst"])
    )


def test_several_tasks_are_read_from_the_folder_that_holds_them(tmp_path, ct):
    decathlon(tmp_path, "Task06_Lung", ct, ("background", "cancer"), ["lung_001"])
    decathlon(tmp_path, "Task10_Colon", ct, ("background", "colon cancer primaries"), ["colon_1"])
    decathlon(tmp_path, "Task09_Spleen", ct, ("background", "spleen"), ["spleen_2"])
    dataset = read_dataset("msd", tmp_path)
    assert {case.case: case.complete for case in dataset.cases} == {
        "colon_1": ("colorectal_cancer",),
        "lung_001": ("lung_tumor",),
    }
    assert "Task09_Spleen" in str(dataset.problems[0])


def test_a_pancreatic_mass_may_be_tumour_or_cyst_until_a_table_says_which(tmp_path, ct):
    root = decathlon(tmp_path, "Task07_Pancreas", ct, PANCREAS, ["pancreas_001", "pancreas_004"])
    in_doubt = read_dataset("msd", root).cases[0]
    allowed = allowed_of(in_doubt)
    assert np.flatnonzero(allowed[14]).tolist() == [14, 23]
    assert np.flatnonzero(allowed[4]).tolist() == [4]
    table = tmp_path / "kinds.csv"
    table.write_text("case,label\npancreas_004,pancreatic_cyst\n")
    first, second = read_dataset("msd", root, pancreas=table).cases
    assert first.ambiguous
    assert set(load_case(second).labelmap.voxels[2].ravel()) == {23}
    table.write_text("case,label\npancreas_004,cyst\n")
    with pytest.raises(DatasetError, match=r"kinds\.csv, line 2"):
        read_dataset("msd", root, pancreas=table)


def test_brain_tumours_have_four_channels_of_one_file(tmp_path):
    names = ("background", "edema", "non-enhancing tumor", "enhancing tumour")
    root = decathlon(tmp_path, "Task01_BrainTumour", np.zeros((12, 10, 8, 4)), names, ["BRATS_001"])
    voxels = np.random.default_rng(0).random((12, 10, 8, 4)).astype(np.float32)
    nib.save(nib.Nifti1Image(voxels, AFFINE), root / "imagesTr" / "BRATS_001.nii.gz")
    case = read_dataset("msd", root).cases[0]
    channels = load_channels(case)
    assert case.channels == ("FLAIR", "T1w", "T1gd", "T2w")
    np.testing.assert_array_equal(channels[2].voxels, voxels[..., 2])


def test_a_missing_and_an_empty_file_are_named_and_the_rest_goes_on(tmp_path, ct):
    root = decathlon(tmp_path, "Task03_Liver", ct, LIVER, ["liver_0", "liver_1", "liver_2"])
    (root / "imagesTr" / "liver_0.nii.gz").unlink()
    (root / "labelsTr" / "liver_1.nii.gz").write_bytes(b"")
    dataset = read_dataset("msd", root)
    assert [case.case for case in dataset.cases] == ["liver_2"]
    assert "imagesTr/liver_0.nii.gz is missing" in str(dataset.problems[0])
    assert "labelsTr/liver_1.nii.gz is empty" in str(dataset.problems[1])


def test_other_labels_than_the_published_ones_are_refused(tmp_path, ct):
    root = decathlon(tmp_path, "Task03_Liver", ct, (*LIVER, "vessel"), ["liver_0"])
    with pytest.raises(DatasetError, match=r"dataset\.json: labels \[1, 2, 3\]"):
        read_dataset("msd", root)


def test_kits23_brings_clinical_data_and_hides_no_cyst(tmp_path, ct):
    for case in ("case_00000", "case_00001"):
        write_nifti(tmp_path / "dataset" / case / "imaging.nii.gz", ct)
        write_nifti(tmp_path / "dataset" / case / "segmentation.nii.gz", labels_of([1, 2, 3]))
    (tmp_path / "dataset" / "case_00001" / "imaging.nii.gz").unlink()
    (tmp_path / "dataset" / "kits23.json").write_text(
        json.dumps([{"case_id": "case_00000", "pathology_t_stage": "1a", "radiographic_size": 4.2}])
    )
    dataset = read_dataset("kits23", tmp_path)
    case = dataset.cases[0]
    assert case.label_mapping == {1: 8, 2: 18, 3: 24}
    assert case.hidden_lesions == ("kidney_stone",)
    assert case.attributes == {"pathology_t_stage": "1a", "radiographic_size": 4.2}
    assert [problem.case for problem in dataset.problems] == ["case_00001"]


def test_lits_is_read_from_its_batches_and_says_where_patients_come_back(tmp_path, ct):
    for batch, number in (("Training Batch 1", 0), ("Training Batch 2", 28)):
        write_nifti(tmp_path / batch / f"volume-{number}.nii", ct)
        write_nifti(tmp_path / batch / f"segmentation-{number}.nii", labels_of([1, 2]))
    write_nifti(tmp_path / "test" / "test-volume-0.nii", ct)
    write_nifti(tmp_path / "Training Batch 2" / "volume-29.nii", ct)
    write_nifti(tmp_path / "Training Batch 2" / "segmentation-30.nii", labels_of([1]))
    dataset = read_dataset("lits", tmp_path)
    assert [(case.case, case.split) for case in dataset.cases] == [
        ("test-volume-0", "test"),
        ("volume-0", "train"),
        ("volume-28", "train"),
    ]
    assert "3D-IRCADb" in dataset.cases[2].attributes["also_in"]
    assert {problem.case for problem in dataset.problems} == {"volume-29", "volume-30"}


@pytest.mark.parametrize("kind", ["kits23", "lits", "ircadb", "lung1"])
def test_data_under_restrictive_terms_are_refused_for_weights_that_are_shipped(kind, tmp_path):
    with pytest.raises(LicenceError, match="non-commercial"):
        read_dataset(kind, tmp_path, for_shipping=True)


def test_the_decathlon_may_be_used_for_weights_that_are_shipped(tmp_path, ct):
    root = decathlon(tmp_path, "Task03_Liver", ct, LIVER, ["liver_0"])
    assert len(read_dataset("msd", root, for_shipping=True).cases) == 1


def test_unknown_kinds_options_and_roots_are_named(tmp_path):
    with pytest.raises(DatasetError, match="known are msd, kits23"):
        read_dataset("flare", tmp_path)
    with pytest.raises(DatasetError, match="unknown option 'fold'; known are none"):
        read_dataset("lits", tmp_path, fold=1)
    with pytest.raises(DatasetError, match="no such folder"):
        read_dataset("lits", tmp_path / "nothing")
