import numpy as np
import pydicom
import pytest

from pasta.dicom import read_source
from pasta.dicom.segmentation import segmentation
from pasta.dicom.statements import statements_of
from pasta.dicom.structured import report_sr, screening_sr
from pasta.errors import ReportError
from pasta.report.reader import ReaderReport

from .conftest import drawn

MODIFIER = {"HAS CONCEPT MOD", "HAS OBS CONTEXT"}


@pytest.fixture
def source(series):
    return read_source(series)


@pytest.fixture
def saved(source, report, tmp_path):
    """The SR with its SEG, through files."""
    statements = statements_of(report)
    made = segmentation(drawn(source.grid), source, lesions=statements.lesions)
    report_sr(statements, source, made).save_as(tmp_path / "sr.dcm", False)
    made.dataset.save_as(tmp_path / "seg.dcm", False)
    return pydicom.dcmread(tmp_path / "sr.dcm"), pydicom.dcmread(tmp_path / "seg.dcm")


def items(item, meaning):
    return [
        each
        for each in item.ContentSequence
        if "ConceptNameCodeSequence" in each
        and each.ConceptNameCodeSequence[0].CodeMeaning == meaning
    ]


def groups(dataset):
    (measurements,) = items(dataset, "Imaging Measurements")
    return items(measurements, "Measurement Group")


def answers(group):
    """(scheme, code) of every coded answer, by (scheme, code) of its question."""
    found = {}
    for item in group.ContentSequence:
        if item.ValueType == "CODE":
            question, answer = item.ConceptNameCodeSequence[0], item.ConceptCodeSequence[0]
            found[question.CodingSchemeDesignator, question.CodeValue] = (
                answer.CodingSchemeDesignator,
                answer.CodeValue,
            )
    return found


def numbers(group):
    found = {}
    for item in group.ContentSequence:
        if item.ValueType == "NUM":
            value = item.MeasuredValueSequence[0]
            unit = value.MeasurementUnitsCodeSequence[0]
            assert unit.CodingSchemeDesignator == "UCUM"
            name = item.ConceptNameCodeSequence[0].CodeMeaning
            found[name] = (float(value.NumericValue), unit.CodeValue)
    return found


def test_all_eight_attributes_are_coded_as_the_specification_says(saved):
    first, second, third = groups(saved[0])
    assert answers(first) == {
        ("SCT", "276214006"): ("SCT", "49755003"),
        ("DCM", "121071"): ("SCT", "108369006"),
        ("SCT", "363698007"): ("SCT", "10200004"),
        ("99PASTA", "ENH"): ("99PASTA", "ENH-YES"),
        ("SCT", "300842002"): ("SCT", "49608001"),
        ("DCM", "111035"): ("SCT", "129746008"),
        ("DCM", "112010"): ("DCM", "112161"),
        ("DCM", "112007"): ("SCT", "300841009"),
        ("99PASTA", "INV"): ("99PASTA", "INV-CLOSE"),
    }
    assert numbers(first) == {
        "Height": (20.0, "mm"),
        "Width": (8.25, "mm"),
        "Depth": (11.5, "mm"),
        "Volume": (1777.8, "mm3"),
    }
    assert answers(second)["SCT", "300842002"] == ("SCT", "42700002")
    assert answers(third)["DCM", "111035"] == ("SCT", "129744006")
    assert answers(third)["SCT", "363698007"] == ("SCT", "64033007")


def test_each_lesion_refers_to_its_segment_and_its_slices(saved, source):
    report, seg = saved
    for group, segment, slices in zip(
        groups(report), (2, 3, 5), ((3, 7), (6, 9), (0, 2)), strict=True
    ):
        (reference,) = items(group, "Referenced Segment")
        found = reference.ReferencedSOPSequence[0]
        assert found.ReferencedSOPInstanceUID == seg.SOPInstanceUID
        assert found.ReferencedSegmentNumber == segment
        described = seg.SegmentSequence[segment - 1]
        (tracking,) = items(group, "Tracking Unique Identifier")
        assert described.TrackingUID == tracking.UID
        images = items(group, "Source Image for Segmentation") + items(
            group, "Source image for segmentation"
        )
        named = {image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for image in images}
        assert named == {image.SOPInstanceUID for image in source.images[slice(*slices)]}


def test_all_that_is_referred_to_is_listed_as_evidence(saved, source):
    report, seg = saved
    listed = {
        item.ReferencedSOPInstanceUID
        for name in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence")
        for study in report[name].value
        for one in study.ReferencedSeriesSequence
        for item in one.ReferencedSOPSequence
    }
    assert listed == {seg.SOPInstanceUID, *(image.SOPInstanceUID for image in source.images)}


def test_the_model_is_the_device_observer_and_nothing_is_final(saved):
    report, _ = saved
    assert items(report, "Observer Type")[0].ConceptCodeSequence[0].CodeMeaning == "Device"
    assert items(report, "Device Observer Model Name")[0].TextValue == "test-segmentation 1.2"
    assert "AI, research use only" in items(report, "Device Observer Name")[0].TextValue
    assert (report.CompletionFlag, report.VerificationFlag) == ("PARTIAL", "UNVERIFIED")
    assert report.PreliminaryFlag == "PRELIMINARY"
    assert "not reviewed" in items(report, "Comment")[0].TextValue
    for group in groups(report):
        assert "Research use only" in items(group, "Comment")[0].TextValue
        assert items(group, "Algorithm Name")[0].TextValue == "PASTA-AID: test-segmentation 1.2"


def test_a_reader_is_a_person_observer_and_says_what_was_changed(source, report):
    reader = ReaderReport.from_ai(report)
    reader.set_value(1, "shape", "Round-like")
    reader.add_lesion("liver_cyst", (0, 0, 0))
    reader.accept_all()
    dataset = report_sr(statements_of(reader.to_document(), "R1"), source)
    kinds = [item.ConceptCodeSequence[0].CodeMeaning for item in items(dataset, "Observer Type")]
    assert kinds == ["Person", "Device"]
    assert items(dataset, "Person Observer Name")[0].PersonName == "R1^Reader"
    first, _, _, cyst = groups(dataset)
    assert answers(first)["SCT", "300842002"] == ("SCT", "42700002")
    said = items(first, "Comment")[0].TextValue
    assert "Shape: reader" in said
    assert "Density: AI, accepted by the reader" in said
    assert "Found by the reader" in items(cyst, "Comment")[0].TextValue
    assert not items(cyst, "Algorithm Name")
    assert dataset.CompletionFlag == "COMPLETE"


def test_without_lesions_the_report_says_so(source, report):
    empty = {**report, "report": {**report["report"], "lesions": []}}
    (group,) = groups(report_sr(statements_of(empty), source))
    assert answers(group)["99PASTA", "LES"] == ("99PASTA", "LES-NONE")


def test_screening_gives_a_probability_or_the_reason_why_not(source, screening, tmp_path):
    screening_sr(screening, source).save_as(tmp_path / "sr.dcm", False)
    dataset = pydicom.dcmread(tmp_path / "sr.dcm")
    liver, pancreas = groups(dataset)
    assert numbers(liver) == {"Probability of cancer": (83.75, "%")}
    assert answers(liver)["99PASTA", "SCR"] == ("99PASTA", "SCR-DONE")
    assert numbers(pancreas) == {}
    assert answers(pancreas)["99PASTA", "SCR"] == ("99PASTA", "SCR-ABSENT")
    assert "not in the scan" in items(pancreas, "Comment")[0].TextValue
    assert "The CT is enhanced." in items(dataset, "Comment")[0].TextValue
    with pytest.raises(ReportError, match="'model' is missing"):
        screening_sr({"organs": []}, source)


def test_the_same_report_gets_the_same_uid_and_another_one_another(source, report):
    statements = statements_of(report)
    uids = [str(report_sr(statements, source).SOPInstanceUID) for _ in range(2)]
    assert len(set(uids)) == 1
    reader = ReaderReport.from_ai(report)
    reader.set_value(1, "shape", "Round-like")
    other = report_sr(statements_of(reader.to_document(), "R1"), source)
    assert other.SOPInstanceUID != uids[0]
    assert np.all([len(uid) <= 64 for uid in uids])
