"""What tools that share no code with us make of our objects: dcmqi, and dicom3tools' validator."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from pasta.dicom.export import export_case
from pasta.io import read_labelmap
from pasta.labels import LABELS


def tool(name, mend):
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if not found:
        pytest.skip(f"{name} is not installed: {mend}")
    return found


@pytest.fixture
def exported(case, series, tmp_path):
    export_case(case, series, tmp_path / "out")
    return tmp_path / "out"


def test_dcmqi_finds_every_voxel_of_every_segment(exported, case, tmp_path):
    program = tool("segimage2itkimage", "pip install dcmqi")
    target = tmp_path / "dcmqi"
    target.mkdir()
    arguments = ["--inputDICOM", exported / "segmentation.dcm", "--outputDirectory", target]
    subprocess.run([program, *arguments, "-t", "nii"], check=True, capture_output=True)
    wanted = read_labelmap(case / "mask.nii.gz")
    found = np.zeros_like(wanted.voxels)
    names = {}
    meta = json.loads((target / "meta.json").read_text())
    for number, (segment,) in enumerate(meta["segmentAttributes"], 1):
        names[number] = segment["SegmentLabel"].rstrip(" 0123456789")
    titles = {label.title: label.value for label in LABELS}
    for number, name in names.items():
        image = nib.load(target / f"{number}.nii.gz")
        index = np.argwhere(np.asarray(image.dataobj) > 0)
        way = np.linalg.inv(wanted.affine) @ image.affine
        at = np.rint((way @ np.c_[index, np.ones(len(index))].T)[:3]).astype(int)
        found[tuple(at)] = titles[name]
    assert np.array_equal(found, wanted.voxels)


def test_dcmqi_reads_all_measurements_and_evaluations(exported, tmp_path):
    program = tool("tid1500reader", "pip install dcmqi")
    arguments = ["--inputDICOM", exported / "report.dcm", "--outputMetadata", tmp_path / "sr.json"]
    subprocess.run([program, *arguments], check=True, capture_output=True)
    lesions = json.loads((tmp_path / "sr.json").read_text())["Measurements"]
    assert [lesion["ReferencedSegment"] for lesion in lesions] == [2, 3, 5]
    sizes = [[float(item["value"]) for item in lesion["measurementItems"]] for lesion in lesions]
    assert sizes == [[20.0, 8.25, 11.5, 1777.8]] * 3
    said = {
        item["conceptCode"]["CodeMeaning"]: item["conceptValue"]["CodeValue"]
        for item in lesions[0]["qualitativeEvaluations"]
        if "conceptValue" in item and isinstance(item["conceptValue"], dict)
    }
    assert said["Shape"] == "49608001"
    assert said["Relationship with surrounding structures"] == "INV-CLOSE"
    assert len(said) == 7  # six attributes and the category; the location is the finding site


@pytest.mark.parametrize("name", ["segmentation", "report", "screening"])
def test_the_validator_finds_no_error(exported, name):
    program = tool("dciodvfy", "on Debian, apt-get install dicom3tools")
    done = subprocess.run(
        [program, exported / f"{name}.dcm"], capture_output=True, text=True, check=False
    )
    assert [line for line in done.stderr.splitlines() if line.startswith("Error")] == []
    assert "Segmentation" in done.stderr or "Comprehensive3DSR" in done.stderr
