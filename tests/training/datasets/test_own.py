import json

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from pasta.errors import LabelError, VolumeError
from tests.training.datasets.conftest import AFFINE, ct_voxels, labels_of, write_nifti
from training.datasets import DatasetError, read_dataset
from training.datasets.__main__ import main
from training.datasets.voxels import load_case, load_channels


def raw_folder(root, document, cases, values, channels=1):
    for case in cases:
        for number in range(channels):
            write_nifti(root / "imagesTr" / f"{case}_{number:04d}.nii.gz", ct_voxels())
        write_nifti(root / "labelsTr" / f"{case}.nii.gz", labels_of(values))
    (root / "dataset.json").write_text(json.dumps(document))
    return root


V2 = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "liver": 1, "tumour": 2, "spleen": 3, "ignore": 4},
    "numTraining": 2,
    "file_ending": ".nii.gz",
    "licence": "CC BY 4.0",
}


def test_a_label_that_is_none_of_ours_must_be_explained(tmp_path):
    root = raw_folder(tmp_path, V2, ["a"], [1, 2, 3, 4])
    with pytest.raises(DatasetError, match="label 'tumour' is none of PASTA's"):
        read_dataset("nnunet", root)


def test_explained_labels_become_ours_background_or_nothing_known(tmp_path):
    root = raw_folder(tmp_path, V2, ["a"], [1, 2, 3, 4])
    labels = {"tumour": "liver_tumor", "spleen": "background"}
    case = read_dataset("nnunet", root, labels=labels, for_shipping=True).cases[0]
    voxels = load_case(case).labelmap.voxels
    assert [voxels[plane, 0, 0] for plane in range(6)] == [0, 2, 12, 26, 255, 0]
    assert case.complete == ("liver", "liver_tumor")
    assert read_dataset("nnunet", root, labels=labels, complete=["liver"]).cases[0].complete == (
        "liver",
    )


def test_a_case_without_a_licence_is_left_out_of_shipped_weights(tmp_path):
    write_nifti(tmp_path / "a.nii.gz", ct_voxels())
    write_nifti(tmp_path / "b.nii.gz", ct_voxels())
    (tmp_path / "t.csv").write_text("image,licence\na.nii.gz,\nb.nii.gz,CC0\n")
    dataset = read_dataset("csv", tmp_path / "t.csv", for_shipping=True)
    assert [case.case for case in dataset.cases] == ["b"]
    assert "licence is unknown" in dataset.problems[0].message


def test_version_1_names_values_and_lists_files_without_the_channel(tmp_path):
    document = {
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "Kidney", "2": "kidney tumour"},
        "training": [
            {"image": f"./imagesTr/{c}.nii.gz", "label": f"./labelsTr/{c}.nii.gz"} for c in "ab"
        ],
        "test": [],
    }
    root = raw_folder(tmp_path, document, ["a"], [1, 2])
    dataset = read_dataset("nnunet", root)
    assert dataset.cases[0].label_mapping == {1: 8, 2: 18}
    assert {problem.case for problem in dataset.problems} == {"b"}


def test_of_overlapping_regions_the_smallest_names_a_value(tmp_path):
    document = V2 | {"labels": {"background": 0, "liver": [1, 2], "liver_tumor": 2}}
    case = read_dataset("nnunet", raw_folder(tmp_path, document, ["a"], [1, 2])).cases[0]
    assert case.label_mapping == {1: 2, 2: 12}


def test_channels_of_a_case_must_lie_on_one_grid(tmp_path):
    document = V2 | {
        "channel_names": {"0": "T1", "1": "T2"},
        "labels": {"background": 0, "liver": 1},
    }
    root = raw_folder(tmp_path, document, ["a", "b"], [1], channels=2)
    shifted = AFFINE.copy()
    shifted[2, 3] += 5
    write_nifti(root / "imagesTr" / "b_0001.nii.gz", ct_voxels(), shifted)
    first, second = read_dataset("nnunet", root).cases
    assert len(load_channels(first)) == 2
    with pytest.raises(VolumeError, match=r"b_0001\.nii\.gz: does not lie on the grid"):
        load_channels(second)


def test_a_second_channel_that_is_missing_is_a_problem(tmp_path):
    document = V2 | {
        "channel_names": {"0": "T1", "1": "T2"},
        "labels": {"background": 0, "liver": 1},
    }
    root = raw_folder(tmp_path, document, ["a", "b"], [1], channels=2)
    (root / "imagesTr" / "b_0001.nii.gz").unlink()
    assert "b_0001.nii.gz is missing" in str(read_dataset("nnunet", root).problems[0])


def test_a_table_brings_splits_patients_points_and_attributes(tmp_path):
    for name in ("one", "two"):
        write_nifti(tmp_path / f"{name}.nii.gz", ct_voxels())
    image = sitk.GetImageFromArray(labels_of([2, 12]).T)
    image.SetSpacing((0.8, 0.8, 2.5))
    image.SetOrigin((-30, -40, -100))
    sitk.WriteImage(image, str(tmp_path / "one_labels.nrrd"))
    (tmp_path / "t.csv").write_text(
        "image,label,patient,split,complete,licence,centre_x_mm,centre_y_mm,centre_z_mm,stage,os\n"
        "one.nii.gz,one_labels.nrrd,p1,train,liver;liver_tumor,CC BY 4.0,1,2,3.5,II,400\n"
        "two.nii.gz,,p1,test,,,,,,IV,\n"
        "three.nii.gz,,p2,,,,,,,,\n"
    )
    dataset = read_dataset("csv", tmp_path / "t.csv")
    one, two = dataset.cases
    assert one.centre_ras_mm == (1.0, 2.0, 3.5)
    assert one.attributes == {"stage": "II", "os": 400}
    assert (dataset.patients, two.split, two.licence.name) == (1, "test", "")
    assert set(np.unique(load_case(one).labelmap.voxels)) == {0, 2, 12}
    assert dataset.problems[0].case == "three"
    assert "p1" not in repr(one)


def test_rows_that_cannot_be_understood_are_told_by_line(tmp_path):
    write_nifti(tmp_path / "a.nii.gz", ct_voxels())
    (tmp_path / "t.csv").write_text(
        "case,image,complete,centre_x_mm\nx,a.nii.gz,,\ny,a.nii.gz,lver,\nz,a.nii.gz,,1\n"
    )
    dataset = read_dataset("csv", tmp_path / "t.csv")
    assert [case.case for case in dataset.cases] == ["x"]
    assert "line 3" in dataset.problems[0].message
    assert "centre_x_mm" in dataset.problems[1].message


def test_a_value_without_a_meaning_and_a_mask_off_the_grid_are_refused(tmp_path):
    root = raw_folder(tmp_path, V2, ["a", "b"], [1, 2, 9])
    shifted = AFFINE.copy()
    shifted[0, 3] += 4
    write_nifti(root / "labelsTr" / "b.nii.gz", labels_of([1]), shifted)
    labels = {"tumour": "liver_tumor", "spleen": "background"}
    first, second = read_dataset("nnunet", root, labels=labels).cases
    with pytest.raises(LabelError, match=r"a\.nii\.gz: values \[9\] have no meaning"):
        load_case(first)
    with pytest.raises(LabelError, match=r"b\.nii\.gz: the first voxel of the labelmap"):
        load_case(second)


def test_check_counts_and_returns_1_where_the_voxels_show_a_problem(tmp_path, capsys):
    document = V2 | {"labels": {"background": 0, "liver": 1, "liver_tumor": 2}}
    root = raw_folder(tmp_path, document, ["a", "b"], [1])
    assert main(["check", "nnunet", str(root)]) == 0
    out = capsys.readouterr().out
    assert "liver_tumor               2" in out
    assert "0.8-0.8 x 0.8-0.8 x 2.5-2.5 mm" in out
    assert main(["check", "nnunet", str(root), "--voxels"]) == 0
    assert "liver_tumor               0         2" in capsys.readouterr().out
    damaged = root / "imagesTr" / "b_0000.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:-400])
    assert main(["check", "nnunet", str(root), "--voxels"]) == 1
    assert "b: b_0000.nii.gz" in capsys.readouterr().out


def test_check_returns_2_where_nothing_can_be_read_and_kinds_lists_all(tmp_path, capsys):
    assert main(["check", "lits", str(tmp_path)]) == 2
    assert "volume-N.nii" in capsys.readouterr().err
    assert main(["check", "nnunet", str(tmp_path), "--label", "tumour"]) == 2
    assert "NAME=LABEL" in capsys.readouterr().err
    assert main(["kinds"]) == 0
    assert "cancerimagingarchive.net" in capsys.readouterr().out
