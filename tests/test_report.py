"""The structured report: options of Extended Data Table 1, letters, JSON document, text."""

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from pasta import RESEARCH_USE_ONLY
from pasta.errors import ReportError
from pasta.labels import LESIONS, ORGANS
from pasta.report import (
    ATTRIBUTES,
    LOCATIONS,
    PREDICTED,
    SCHEMA_FILE,
    CaseFacts,
    Finding,
    LesionReport,
    Measurement,
    Report,
    attribute_named,
    from_document,
    full_text,
    head_options,
    letters_of,
    one_line,
    option_of,
    read_letters,
    to_document,
    values_of,
    write_letters,
)

# paper, Extended Data Table 1, copied row by row
TABLE = {
    "Enhancement status": ["Enhanced CT", "Non-contrast CT"],
    "Location": [
        "Lung",
        "Liver",
        "Gallbladder",
        "Pancreas",
        "Esophagus",
        "Stomach",
        "Colorectal",
        "Kidney",
        "Bladder",
        "Bone",
    ],
    "Size": [],
    "Shape": ["Round-like", "Irregular", "Wall thickening", "Punctate, nodular"],
    "Density": ["Hypodense", "Isodense", "Hyperdense"],
    "Heterogeneity": ["Homogeneous", "Heterogeneous"],
    "Surface": ["Well-defined margin", "Ill-defined margin"],
    "Invasion": [
        "No close relationship with surrounding structures",
        "Close relationship with adjacent structures",
    ],
}


def lesion(number: int = 1, **changes: object) -> LesionReport:
    findings = {
        "enhancement": Finding("Enhanced CT", "DICOM ContrastBolusAgent (0018,0010)"),
        "location": Finding("Liver", "mask"),
        "size": Finding("24 x 31 x 28 mm", "measured"),
        "shape": Finding(
            "Irregular",
            "network",
            {"Round-like": 0.2, "Irregular": 0.7, "Wall thickening": 0.1, "Punctate, nodular": 0.0},
            Measurement("Round-like", {"sphericity": 0.91, "solidity": 0.95}),
        ),
        "density": Finding(
            "Hypodense",
            "network",
            {"Hypodense": 0.9, "Isodense": 0.05, "Hyperdense": 0.05},
            Measurement("Hypodense", {"delta_hu": -41.0}),
        ),
        "heterogeneity": Finding(
            "Homogeneous",
            "network",
            {"Homogeneous": 0.6, "Heterogeneous": 0.4},
            Measurement(None, {}, "smaller than 12 mm."),
        ),
        "surface": Finding(None, "none", note="no attribute weights"),
        "invasion": Finding("No close relationship with surrounding structures", "reader"),
    }
    fields = {
        "number": number,
        "label": "liver_tumor",
        "findings": findings,
        "size_mm": (24.0, 31.0, 28.0),
        "volume_ml": 10.2,
        "centre_mm": (-45.0, 10.5, 100.25),
        "centre_voxel": (120.0, 200.0, 30.5),
        "box": ((100, 140), (180, 220), (25, 36)),
        "voxels": 9000,
        "organ_overlap": {"liver": 0.97},
        "cut_off": False,
        "warnings": ("Larger than the patch of the network.",),
    }
    return LesionReport(**{**fields, **changes})


@pytest.fixture
def report() -> Report:
    second = lesion(2, label="liver_cyst", size_mm=(9.0, 10.0, 11.0), warnings=())
    return Report(
        CaseFacts((512, 512, 129), (0.57, 0.57, 1.6), "LPS", {"liver": 1500.5}, 2),
        lesion().findings["enhancement"],
        (lesion(), second),
        ("2 specks were dropped.",),
    )


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_attributes_and_options_are_those_of_extended_data_table_1():
    assert {a.title: list(a.options) for a in ATTRIBUTES} == TABLE


def test_each_location_names_one_organ_of_the_labelmap():
    assert tuple(LOCATIONS) == tuple(organ.name for organ in ORGANS)
    assert set(LOCATIONS.values()) == set(TABLE["Location"])


def test_published_head_has_fourteen_outputs_and_ours_thirteen():
    assert sum(map(len, head_options().values())) == 13  # paper: 4 + 3 + 2 + 2 + 2
    published = head_options(published=True)
    assert [len(options) for options in published.values()] == [5, 3, 2, 2, 2]  # public scripts
    assert published["shape"][4] == ""
    assert tuple(published) == PREDICTED


def test_letters_follow_the_order_of_the_public_code():
    values = values_of("A,B,B,A,A\n")
    assert values == {
        "shape": "Round-like",
        "density": "Isodense",
        "heterogeneity": "Heterogeneous",
        "surface": "Well-defined margin",
        "invasion": "No close relationship with surrounding structures",
    }
    assert letters_of(values) == "A,B,B,A,A"
    assert values_of("D, C, A, B, B")["shape"] == "Punctate, nodular"


@pytest.mark.parametrize(
    ("text", "named"),
    [("A,B,B,A", "five"), ("A,D,A,A,A", "density"), ("E,A,A,A,A", "shape"), ("", "five")],
)
def test_letters_that_name_no_option_are_refused(text, named):
    with pytest.raises(ReportError, match=named):
        values_of(text)


def test_letter_file_comes_back_as_written(tmp_path):
    path = tmp_path / "label.txt"
    write_letters(values_of("B,A,B,B,B"), path)
    assert path.read_text() == "B,A,B,B,B\n"
    assert letters_of(read_letters(path)) == "B,A,B,B,B"


def test_letter_file_is_not_written_while_an_attribute_is_unknown(tmp_path):
    with pytest.raises(ReportError, match="surface"):
        write_letters(lesion().values, tmp_path / "label.txt")
    assert not (tmp_path / "label.txt").exists()


def test_missing_letter_file_is_named(tmp_path):
    with pytest.raises(ReportError, match=r"absent\.txt"):
        read_letters(tmp_path / "absent.txt")


@pytest.mark.parametrize("word", ["surrounding", "adjacent"])
def test_both_spellings_of_the_invasion_options_are_read(word):
    far, close = attribute_named("invasion").options
    assert option_of("invasion", f"No close relationship with {word} structures") == far
    assert option_of("invasion", f"Close relationship with {word} structures") == close
    assert "surrounding" in far
    assert "adjacent" in close  # as Extended Data Table 1 writes them


def test_document_comes_back_as_the_same_report_and_follows_the_schema(report, validator):
    document = json.loads(json.dumps(to_document(report), allow_nan=False))
    validator.validate(document)
    assert from_document(document) == report
    assert to_document(from_document(document)) == document
    assert document["notice"] == RESEARCH_USE_ONLY


def test_provenance_of_a_task_may_stand_in_the_document(report, validator):
    document = to_document(report) | {
        "model": {"attributes": {"name": "x", "weights_sha256": ["0"]}},
        "input_sha256": "ab",
        "seconds": {"report": 1.5},
        "created": "2025-01-01T00:00:00Z",
        "software": {"name": "pasta-aid", "version": "0"},
    }
    validator.validate(document)
    assert from_document(document) == report


def test_other_spelling_in_a_document_becomes_that_of_the_table(report):
    document = to_document(report)
    invasion = document["lesions"][0]["attributes"]["invasion"]
    invasion["value"] = "Close relationship with surrounding structures"
    invasion["probabilities"] = {
        "No close relationship with adjacent structures": 0.25,
        "Close relationship with adjacent structures": 0.75,
    }
    finding = from_document(document).lesions[0].findings["invasion"]
    assert finding.value == "Close relationship with adjacent structures"
    assert list(finding.probabilities) == TABLE["Invasion"]


BROKEN = [
    ("schema", "pasta-aid/report/2", "schema"),
    ("lesions.0.attributes.shape.value", "Oval", r"lesions\[0\]\.attributes\.shape\.value"),
    ("lesions.0.attributes.shape.source", "", r"lesions\[0\]\.attributes\.shape\.source"),
    ("lesions.1.size_mm.z", "long", r"lesions\[1\]\.size_mm\.z"),
    ("lesions.1.label", "liver", r"lesions\[1\]\.label"),
    ("lesions.1.label_value", 12, r"lesions\[1\]\.label_value"),
    ("lesions.0.voxels", True, r"lesions\[0\]\.voxels"),
    ("lesions.0.box", [[1, 2], [3, 4]], r"lesions\[0\]\.box"),
    ("lesions.0.box", [[1, 2], [3, 4], [7]], r"lesions\[0\]\.box\[2\]"),
    ("lesions.0.centre_mm", [1, 2, "x"], r"lesions\[0\]\.centre_mm\[2\]"),
    ("lesions.0.organ_overlap", {"spleen": 0.5}, r"lesions\[0\]\.organ_overlap\.spleen"),
    (
        "lesions.0.attributes.density.probabilities",
        {"Hypodense": 1.5},
        r"density\.probabilities\.Hypodense",
    ),
    ("lesions.0.warnings", "one", r"lesions\[0\]\.warnings"),
    ("case.shape", [0, 1, 1], r"case\.shape\[0\]"),
    ("case.spacing_mm", [1, 1], r"case\.spacing_mm"),
    ("case.patient_name", "x", r"case\.patient_name"),
    ("enhancement.measured", {"value": "Enhanced CT"}, r"enhancement\.measured\.numbers"),
    ("warnings", [1], r"warnings\[0\]"),
]


@pytest.mark.parametrize(("where", "value", "named"), BROKEN)
def test_a_wrong_field_is_refused_by_name_and_by_the_schema(report, validator, where, value, named):
    document = copy.deepcopy(to_document(report))
    target = document
    *path, last = (int(part) if part.isdigit() else part for part in where.split("."))
    for part in path:
        target = target[part]
    target[last] = value
    with pytest.raises(ReportError, match=named):
        from_document(document)
    if where != "lesions.1.label_value":  # pairs of fields are beyond JSON Schema
        assert not validator.is_valid(document)


def paths_of(document, path=()):
    yield path
    if isinstance(document, dict):
        for key, value in document.items():
            yield from paths_of(value, (*path, key))


def test_a_missing_field_is_refused_by_name_wherever_it_is(report, validator):
    document = to_document(report)
    document["lesions"] = {"0": document["lesions"][0]}  # so that paths are keys only
    open_objects = {"probabilities", "numbers", "organ_volumes_ml", "organ_overlap"}
    tried = 0
    for path in list(paths_of(document)):
        if not path or path in [("lesions",), ("lesions", "0")] or open_objects & set(path[:-1]):
            continue
        broken = copy.deepcopy(document)
        target = broken
        for key in path[:-1]:
            target = target[key]
        del target[path[-1]]
        broken["lesions"] = [broken["lesions"]["0"]]
        with pytest.raises(ReportError, match=re.escape(str(path[-1]))):
            from_document(broken)
        assert not validator.is_valid(broken), path
        tried += 1
    assert tried > 60


@pytest.mark.parametrize("document", [None, [], "x", {"schema": "pasta-aid/report/1"}])
def test_what_is_no_report_is_refused(document):
    with pytest.raises(ReportError):
        from_document(document)


def test_schema_lists_the_same_options_and_labels_as_the_code():
    schema = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    for attribute in ATTRIBUTES:
        if attribute.options:
            listed = schema["$defs"][f"options_of_{attribute.name}"]["properties"]["value"]["enum"]
            assert listed == [*attribute.options, None]
    labels = schema["$defs"]["lesion"]["properties"]["label"]["enum"]
    assert labels == [lesion.name for lesion in LESIONS]
    assert schema["$defs"]["by_organ"]["propertyNames"]["enum"] == [o.name for o in ORGANS]


def test_disagreement_needs_a_value_and_a_measurement():
    findings = lesion().findings
    assert findings["shape"].disagrees is True
    assert findings["density"].disagrees is False
    assert findings["heterogeneity"].disagrees is None  # not assessable
    assert findings["surface"].disagrees is None
    assert findings["invasion"].disagrees is None  # not measured


def test_one_line_reads_like_a_radiologist():
    line = one_line(lesion())
    assert "\n" not in line
    assert line == (
        "1. Liver tumor, 24 x 31 x 28 mm (Z x X x Y), 10.2 ml: irregular shape (measurement "
        "disagrees), hypodense, homogeneous, surface not assessable, no close relationship with "
        "surrounding structures; Enhanced CT. [AI output, research use only, not verified]"
    )


def test_a_lesion_away_from_its_organ_says_where_it_lies():
    findings = {**lesion().findings, "location": Finding("Kidney", "measured")}
    assert "Liver tumor at the kidney," in one_line(lesion(findings=findings))


def test_full_text_names_sources_disagreements_and_cautions(report):
    text = full_text(report)
    assert text.count(RESEARCH_USE_ONLY) == 2
    assert "Enhanced CT (DICOM ContrastBolusAgent (0018,0010))" in text
    assert (
        "Shape: Irregular (network 70 %; MEASURED OTHERWISE, please check: Round-like "
        "[sphericity 0.91, solidity 0.95])." in text
    )
    assert "Density: Hypodense (network 90 %; measured alike [delta -41 HU])." in text
    assert "Surface: not stated (no attribute weights)." in text
    assert "Homogeneous (network 60 %; measurement not assessable, smaller than 12 mm)." in text
    assert "1 liver tumor (31 mm); 1 liver cyst (11 mm)." in text
    assert "- 2 specks were dropped." in text
    assert "Caution: Larger than the patch" in text


def test_full_text_without_weights_gives_the_measurement_alone(report):
    measured = Measurement("Hypodense", {"delta_hu": -41.0})
    findings = {
        **lesion().findings,
        "density": Finding(None, "none", measured=measured, note="no attribute weights"),
    }
    text = full_text(Report(report.case, report.enhancement, (lesion(findings=findings),)))
    assert "Hypodense [delta -41 HU] by measurement alone (no attribute weights)." in text
    assert "hypodense (measured)" in one_line(lesion(findings=findings))


def test_full_text_of_no_lesion_does_not_exclude_one(report):
    text = full_text(Report(report.case, report.enhancement))
    assert "does not exclude" in text


def test_report_needs_the_standard_library_alone():
    blocked = ["numpy", "scipy", "torch", "nibabel", "skimage", "SimpleITK", "pydicom", "requests"]
    code = f"import sys\nfor n in {blocked}: sys.modules[n] = None\nimport pasta.report, pasta.concepts"
    root = Path(__file__).parents[1]
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(root)}
    )
