"""A drawn mask and its report, on slices of a real CT series."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest

pytest.importorskip("highdicom", reason="the extra `dicom` is not installed")

from pasta.geometry import Volume
from pasta.io import read_volume
from pasta.report import (
    ATTRIBUTE_NAMES,
    CaseFacts,
    Finding,
    LesionReport,
    Report,
    attribute_named,
    to_document,
)

MODEL = {
    "name": "test-segmentation",
    "version": "1.2",
    "task": "segmentation",
    "weights_sha256": ["ab" * 32],
    "folds": 1,
}


@pytest.fixture(scope="session")
def small_slices(real_data, tmp_path_factory):
    """Twelve slices of a real CT series, cut to 80 rows of 96 pixels, of a patient with a name."""
    folder = tmp_path_factory.mktemp("slices")
    for number, path in enumerate(sorted((real_data / "dicom" / "crlm_1004").glob("*.dcm"))[:12]):
        dataset = pydicom.dcmread(path)
        dataset.PixelData = dataset.pixel_array[200:280, 40:136].tobytes()
        dataset.Rows, dataset.Columns = 80, 96
        dataset.SpecificCharacterSet = "ISO_IR 100"
        dataset.PatientName, dataset.PatientID = "MÜSTERMANN^Jörg", "SECRET-4711"
        dataset.save_as(folder / f"slice_{number:02d}.dcm")
    return folder


@pytest.fixture
def series(small_slices, tmp_path):
    """The small slices in a folder that a test may change."""
    return shutil.copytree(small_slices, tmp_path / "study")


def drawn(grid):
    """Draw a liver with two tumours, a speck of tumour, and a kidney stone."""
    voxels = np.zeros(grid.shape, np.uint8, order="F")
    voxels[10:60, 12:70, 1:11] = 2
    voxels[20:30, 20:34, 3:7] = 12
    voxels[40:45, 50:58, 6:9] = 12
    voxels[33, 41, 2] = 12
    voxels[80:84, 5:9, 0:2] = 25
    return Volume(voxels, grid.affine)


def lesion(number, label, box, location, **values):
    chosen = {name: attribute_named(name).options[0] for name in ATTRIBUTE_NAMES if name != "size"}
    chosen |= {"location": location, "size": "20 x 8 x 11 mm", **values}
    findings = {
        name: Finding(
            value, "network", {value: 1.0} if value and attribute_named(name).options else {}
        )
        for name, value in chosen.items()
    }
    return LesionReport(
        number, label, findings, (20.0, 8.25, 11.5), 1.7778, (0, 0, 0), (0, 0, 0), box, 560
    )


@pytest.fixture(scope="session")
def report(small_slices):
    """A report of the drawn mask, as `pasta predict` writes it."""
    grid = read_volume(small_slices).grid
    lesions = (
        lesion(
            1,
            "liver_tumor",
            ((20, 30), (20, 34), (3, 7)),
            "Liver",
            shape="Irregular",
            density="Hypodense",
            heterogeneity="Heterogeneous",
            surface="Ill-defined margin",
            invasion="Close relationship with adjacent structures",
        ),
        lesion(2, "liver_tumor", ((40, 45), (50, 58), (6, 9)), "Liver", shape="Round-like"),
        lesion(3, "kidney_stone", ((80, 84), (5, 9), (0, 2)), "Kidney", density="Hyperdense"),
    )
    facts = CaseFacts(grid.shape, grid.spacing_mm, grid.axcodes)
    found = Report(facts, Finding("Enhanced CT", "DICOM ContrastBolusAgent (0018,0010)"), lesions)
    document = {
        "schema": "pasta-aid/report-result/1",
        "model": [MODEL],
        "report": to_document(found),
        "text": found.text(),
    }
    return json.loads(json.dumps(document))


@pytest.fixture(scope="session")
def screening():
    """A screening result, as `pasta predict` writes it."""
    organ = {"model": "m", "title": "", "folds": [], "spread": None, "box_mm": None}
    return {
        "schema": "pasta-aid/screening/1",
        "model": [{**MODEL, "task": "screening"}],
        "warnings": ["The CT is enhanced."],
        "organs": [
            {
                **organ,
                "organ": "liver",
                "status": "screened",
                "probability": 0.8375,
                "sentence": "Screened.",
                "box_voxels": [[0, 90], [0, 80], [1, 11]],
            },
            {
                **organ,
                "organ": "pancreas",
                "status": "absent",
                "probability": None,
                "sentence": "The pancreas is not in the scan.",
                "box_voxels": None,
            },
        ],
    }


@pytest.fixture
def case(series, report, screening, tmp_path):
    """A folder as `pasta predict` leaves it."""
    from pasta.io import write_labelmap

    folder = tmp_path / "ct_pasta"
    folder.mkdir()
    write_labelmap(drawn(read_volume(series).grid), folder / "mask.nii.gz")
    (folder / "report.json").write_text(json.dumps(report))
    (folder / "screening.json").write_text(json.dumps(screening))
    return folder


def _orthanc_module():
    spec = importlib.util.spec_from_file_location("orthanc", Path(__file__).with_name("orthanc.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def orthanc(tmp_path):
    """An empty Orthanc of the test's own."""
    folder = tmp_path / "orthanc"
    folder.mkdir()
    running = _orthanc_module().Orthanc(folder)
    running.start()
    yield running
    running.stop()
