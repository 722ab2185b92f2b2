import io
import json
import re
import subprocess
import sys

import pydicom
import pytest

from pasta.dicom.export import export_case
from pasta.dicom.fhir import diagnostic_report
from pasta.dicom.pdf import report_pdf
from pasta.dicom.statements import statements_of
from pasta.errors import OutputError
from pasta.report.reader import ReaderReport


def test_one_command_writes_all_and_names_the_patient_in_dicom_alone(case, series, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "pasta.cli.main", "dicom", "export", case]
    done = subprocess.run(
        [*command, "--series", series, "-o", out], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")  # no warning, which might quote a name
    assert sorted(done.stdout.split()) == sorted(str(path) for path in out.iterdir())
    names = {path.name for path in out.iterdir()}
    assert names == {
        "segmentation.dcm", "report.dcm", "screening.dcm", "report.pdf", "report.fhir.json"
    }  # fmt: skip
    for path in out.glob("*.dcm"):
        assert str(pydicom.dcmread(path).PatientID) == "SECRET-4711"
    for name in ("report.pdf", "report.fhir.json"):
        content = (out / name).read_bytes()
        assert b"4711" not in content
        assert not re.search(rb"1\.3\.6\.1\.4\.1", content)


def test_a_single_component_name_stays_out_of_what_the_command_prints(case, series, tmp_path):
    for path in series.glob("*.dcm"):
        dataset = pydicom.dcmread(path)
        dataset.PatientName = "SINGLENAME"
        dataset.StudyID = "TOO-LONG-FOR-A-SHORT-STRING"
        dataset.save_as(path)
    command = [sys.executable, "-m", "pasta.cli.main", "dicom", "export", case]
    done = subprocess.run(
        [*command, "--series", series, "-o", tmp_path / "out"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "SINGLENAME" not in done.stdout + done.stderr
    assert "TOO-LONG" not in done.stdout + done.stderr


def test_a_folder_without_results_is_refused(series, tmp_path):
    with pytest.raises(OutputError, match="no mask, report or screening"):
        export_case(tmp_path, series, tmp_path / "out")


def test_fhir_is_valid_and_says_the_same_as_the_report(report):
    r4b = pytest.importorskip("fhir.resources.R4B.diagnosticreport", reason="extra `dev`")
    from fhir.resources.R4B.observation import Observation

    statements = statements_of(report)
    document = diagnostic_report(
        statements, subject="Patient/1", issued="2026-01-31T12:00:00+00:00", pdf=b"%PDF"
    )
    r4b.DiagnosticReport.model_validate_json(json.dumps(document))
    lesions = [item for item in document["contained"] if item["resourceType"] == "Observation"]
    for lesion in lesions:
        Observation.model_validate_json(json.dumps(lesion))
    first = {part["code"]["text"]: part for part in lesions[0]["component"]}
    assert first["Shape"]["valueCodeableConcept"]["text"] == "Irregular"
    assert first["Height"]["valueQuantity"]["value"] == 20.0
    assert lesions[0]["bodySite"]["coding"][0]["code"] == "10200004"
    assert document["status"] == "preliminary"
    assert "Research use only" in document["conclusion"]
    del document["code"]
    with pytest.raises(ValueError, match="code"):
        r4b.DiagnosticReport.model_validate_json(json.dumps(document))


def test_each_page_of_the_pdf_says_research_use_only(report):
    pypdf = pytest.importorskip("pypdf", reason="extra `dev`")
    reader = ReaderReport.from_ai(report)
    for number in range(12):
        reader.add_lesion("liver_cyst", (float(number), 0, 0))
    content = report_pdf(statements_of(reader.to_document(), "R1"))
    pages = [page.extract_text() for page in pypdf.PdfReader(io.BytesIO(content)).pages]
    assert len(pages) > 1
    for page in pages:
        assert "Research use only. AI output, not a diagnosis" in page
    text = " ".join(" ".join(pages).split())
    assert "1. Liver tumor" in text
    assert "Reader R1" in text
    assert content == report_pdf(statements_of(reader.to_document(), "R1"))


@pytest.mark.slow
def test_predict_writes_the_objects_of_a_series_and_refuses_other_files(case, series, tmp_path):
    command = [sys.executable, "-m", "pasta.cli.main", "predict"]
    options = ["--mask", case / "mask.nii.gz", "--tasks", "report", "--dicom"]
    options += ["--device", "cpu", "-o", tmp_path / "out"]
    subprocess.run([*command, series, *options], capture_output=True, check=True)
    report = pydicom.dcmread(tmp_path / "out" / "dicom" / "report.dcm")
    seg = pydicom.dcmread(tmp_path / "out" / "dicom" / "segmentation.dcm")
    assert report.StudyInstanceUID == seg.StudyInstanceUID
    # the mask was given: no network drew it
    assert {item.SegmentAlgorithmType for item in seg.SegmentSequence} == {"MANUAL"}
    assert "Liver tumor 1" in [item.SegmentLabel for item in seg.SegmentSequence]
    refused = subprocess.run(
        [*command, case / "mask.nii.gz", "--dicom"], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert "needs a DICOM series folder" in refused.stderr
