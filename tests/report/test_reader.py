"""The reader's version of a report: options, numbers, marks of the AI, measuring again."""

import copy
import json
import subprocess
import sys

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasta.errors import ReportError
from pasta.labels import LESIONS
from pasta.report import ATTRIBUTE_NAMES, CaseFacts, Finding, LesionReport, Measurement, Report
from pasta.report.attributes import BY_NAME
from pasta.report.reader import (
    READER_SCHEMA_FILE,
    ReaderReport,
    checked_reader_report,
)

SCHEMA = json.loads(READER_SCHEMA_FILE.read_text())


def finding(name, *, density="Hypodense"):
    options = BY_NAME[name].options
    if name == "size":
        return Finding("24 x 31 x 28 mm", "mask")
    if name == "density":
        shares = {density: 0.8} | {o: 0.1 for o in options if o != density}
        return Finding(density, "network", shares, Measurement("Isodense", {"mean_hu": 55.0}))
    return Finding(options[0], "network")


def lesion(number, label="liver_tumor", centre=(10.0, 20.0, 30.0), **options):
    findings = {name: finding(name, **options) for name in ATTRIBUTE_NAMES}
    findings["location"] = Finding("Liver", "mask")
    box = ((0, 10), (0, 10), (0, 10))
    size = (24.0, 31.0, 28.0)
    return LesionReport(number, label, findings, size, 10.4, centre, (5.0, 5.0, 5.0), box, 500)


def ai(*lesions):
    case = CaseFacts((10, 10, 10), (1.0, 1.0, 1.0), "LPS")
    enhancement = Finding("Enhanced CT", "measured")
    return {
        "schema": "pasta-aid/report-result/1",
        "model": [{"name": "m"}],
        "report": Report(case, enhancement, tuple(lesions)).to_document(),
    }


def moved(document, number, size="30 x 30 x 30 mm", **changes):
    """An AI document after the mask was edited."""
    document = copy.deepcopy(document)
    for item in document["report"]["lesions"]:
        if item["number"] == number:
            item.update(changes)
            item["attributes"]["size"]["value"] = size
            item["size_mm"] = dict.fromkeys("zxy", 30.0)
    return document


@pytest.fixture
def report():
    return ReaderReport.from_ai(ai(lesion(1), lesion(2, "liver_cyst", (-40.0, 0.0, 0.0))))


def test_all_of_the_ai_is_marked_until_a_person_touches_or_accepts_it(report):
    assert len(report.unreviewed()) == 2 * len(ATTRIBUTE_NAMES)
    report.set_value(1, "shape", "Irregular")
    report.set_value(1, "surface", report.lesion(1).entries["surface"].suggestion)
    report.accept(1, "invasion")
    states = {name: entry.state for name, entry in report.lesion(1).entries.items()}
    assert states["shape"] == "edited"
    assert states["surface"] == states["invasion"] == "accepted"
    assert states["density"] == "ai"
    report.accept(1)
    assert report.lesion(1).reviewed
    assert not report.lesion(2).reviewed
    report.accept_all()
    assert report.unreviewed() == []
    assert report.lesion(1).entries["shape"].value == "Irregular"


def test_the_suggestion_its_probability_and_the_measurement_stay_beside_the_value(report):
    entry = report.lesion(1).entries["density"]
    assert (entry.suggestion, entry.probability, entry.measured) == ("Hypodense", 0.8, "Isodense")
    assert entry.disagrees is True
    report.set_value(1, "density", "Isodense")
    assert entry.disagrees is False
    assert entry.suggestion == "Hypodense"


@pytest.mark.parametrize(
    ("attribute", "option"),
    [("shape", "Oval"), ("shape", "irregular"), ("size", "3 cm"), ("colour", "red")],
)
def test_only_options_of_the_schema_are_taken(report, attribute, option):
    before = report.to_document()
    with pytest.raises(ReportError):
        report.set_value(1, attribute, option)
    assert report.to_document() == before


def test_a_value_that_is_taken_away_counts_as_edited(report):
    report.set_value(1, "shape", None)
    assert report.lesion(1).entries["shape"].state == "edited"
    assert (1, "shape") in report.missing()
    assert "Shape: not stated." in report.text()


def test_an_added_lesion_knows_its_organ_and_the_contrast(report):
    added = report.add_lesion("kidney_cyst", (1.0, 2.0, 3.0))
    assert (added.number, added.origin) == (3, "reader")
    assert added.entries["location"].value == "Kidney"
    assert added.entries["enhancement"].value == "Enhanced CT"
    assert added.entries["shape"].state == "empty"
    with pytest.raises(ReportError, match="organ"):
        report.add_lesion("liver")
    with pytest.raises(ReportError):
        report.add_lesion("lump")


def test_numbers_are_never_used_twice_not_even_after_saving(report):
    report.delete_lesion(2)
    again = ReaderReport.from_document(report.to_document())
    assert again.add_lesion("liver_cyst").number == 3
    again.delete_lesion(3)
    assert again.add_lesion("liver_cyst").number == 4
    with pytest.raises(ReportError, match="no lesion 2"):
        again.lesion(2)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["add", "delete", "set", "clear", "accept", "all", "size", "save"]),
            st.integers(0, 30),
        ),
        max_size=25,
    )
)
def test_whatever_a_reader_does_the_document_follows_the_schema(steps):
    report = ReaderReport.from_ai(ai(lesion(1), lesion(2, "liver_cyst", (-40.0, 0.0, 0.0))))
    used = {1, 2}
    for kind, pick in steps:
        numbers = [item.number for item in report.lesions]
        number = numbers[pick % len(numbers)] if numbers else None
        name = ATTRIBUTE_NAMES[pick % len(ATTRIBUTE_NAMES)]
        if kind == "add":
            new = report.add_lesion(LESIONS[pick % len(LESIONS)].name).number
            assert new not in used
            used.add(new)
        elif kind == "all":
            report.accept_all()
        elif kind == "save":
            report = ReaderReport.from_document(json.loads(json.dumps(report.to_document())))
        elif number is None:
            continue
        elif kind == "delete":
            report.delete_lesion(number)
        elif kind == "accept":
            report.accept(number, name)
        elif kind == "size":
            report.set_size(number, (pick + 1.0, 2.0, 3.0), 0.5)
        elif name != "size":
            options = BY_NAME[name].options
            report.set_value(number, name, None if kind == "clear" else options[pick % 2])
    document = report.to_document()
    jsonschema.validate(document, SCHEMA)
    assert ReaderReport.from_document(document).to_document() == document
    assert report.text()


def damaged(report):
    document = report.to_document()

    def change(path, value):
        broken = copy.deepcopy(document)
        target = broken
        for key in path[:-1]:
            target = target[key]
        if value is KeyError:
            del target[path[-1]]
        else:
            target[path[-1]] = value
        return broken

    shape = ("lesions", 0, "attributes", "shape")
    return {
        "option": change((*shape, "value"), "Oval"),
        "state": change((*shape, "state"), "sure"),
        "probability": change((*shape, "probability"), 1.5),
        "empty with a value": change((*shape, "state"), "empty"),
        "ai without a value": change((*shape, "value"), None),
        "missing attribute": change(shape, KeyError),
        "label": change(("lesions", 0, "label"), "lump"),
        "unknown field": change(("patient",), "Doe"),
        "schema": change(("schema",), "pasta-aid/report/1"),
        "size": change(("lesions", 0, "size_mm"), {"z": 0, "x": 1, "y": 1}),
        "impression": change(("impression",), "x" * 20_001),
        "centre": change(("lesions", 0, "centre_mm"), [1, 2]),
    }


@pytest.mark.parametrize("kind", list(damaged(ReaderReport.from_ai(ai(lesion(1))))))
def test_a_document_that_breaks_the_schema_is_refused_by_code_and_schema_alike(kind):
    document = damaged(ReaderReport.from_ai(ai(lesion(1))))[kind]
    with pytest.raises(ReportError):
        checked_reader_report(document)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, SCHEMA)


@pytest.mark.parametrize(
    ("field", "value"),
    [("lesions[0].number", 2), ("next_number", 2), ("lesions[0].centre_mm", [1, 2, float("nan")])],
)
def test_numbers_that_repeat_and_nan_are_refused(report, field, value):
    document = report.to_document()
    if field == "next_number":
        document["next_number"] = value
    else:
        document["lesions"][0][field.rpartition(".")[2]] = value
    with pytest.raises(ReportError):
        checked_reader_report(document)


def test_measuring_again_changes_the_size_and_what_nobody_touched(report):
    report.set_value(1, "shape", "Irregular")
    report.accept(1, "density")
    document = moved(ai(lesion(7, density="Hyperdense")), 7, volume_ml=14.1)
    changes = report.remeasured(document)
    assert [(c.number, c.attribute, c.old, c.new) for c in changes] == [
        (1, "size", "24 x 31 x 28 mm", "30 x 30 x 30 mm")
    ]
    first = report.lesion(1)
    assert first.entries["shape"].value == "Irregular"
    assert first.entries["density"].value == "Hypodense"  # accepted: a person stands for it
    assert (first.size_mm, first.volume_ml) == ((30.0, 30.0, 30.0), 14.1)
    assert report.lesion(2).size_mm == (24.0, 31.0, 28.0)  # not in the new document


def test_measuring_again_renews_an_untouched_suggestion_and_tells_it(report):
    changes = report.remeasured(ai(lesion(1, density="Hyperdense")))
    assert ("density", "Hypodense", "Hyperdense") in {(c.attribute, c.old, c.new) for c in changes}
    assert report.lesion(1).entries["density"].state == "ai"


def test_lesions_are_matched_by_label_and_place_not_by_number():
    report = ReaderReport.from_ai(
        ai(lesion(1, centre=(0.0, 0.0, 0.0)), lesion(2, centre=(100.0, 0.0, 0.0)))
    )
    found = moved(
        ai(lesion(1, centre=(97.0, 0.0, 0.0)), lesion(2, centre=(2.0, 0.0, 0.0))), 1, "90 mm"
    )
    changes = report.remeasured(found)
    assert [(c.number, c.new) for c in changes] == [(2, "90 mm")]
    far = ai(lesion(1, centre=(500.0, 0.0, 0.0)), lesion(2, "kidney_cyst"))
    assert report.remeasured(far) == []


def test_a_drawn_lesion_without_a_place_takes_what_is_left_over():
    report = ReaderReport.from_ai(ai(lesion(1)))
    report.add_lesion("liver_tumor")
    found = ai(lesion(1, centre=(11.0, 20.0, 30.0)), lesion(2, centre=(80.0, 0.0, 0.0)))
    report.remeasured(found)
    assert report.lesion(2).centre_mm == (80.0, 0.0, 0.0)
    assert report.lesion(2).entries["shape"].state == "ai"  # a suggestion, to be reviewed
    two = ReaderReport.empty()
    two.add_lesion("liver_tumor")
    two.add_lesion("liver_tumor")
    assert two.remeasured(found) == []  # which is which, nobody can tell


def test_the_text_marks_what_only_the_ai_says(report):
    text = report.text()
    assert "1. Liver tumor, 24 x 31 x 28 mm (Z x X x Y), 10.4 ml." in text
    assert "Density: Hypodense [AI 80 %, measured Isodense]." in text
    assert "NOT FINAL: 16 statements" in text
    report.accept_all()
    report.impression = "Two lesions of the liver."
    text = report.text()
    assert "[AI" not in text
    assert "NOT FINAL" not in text
    assert text.endswith("IMPRESSION\nTwo lesions of the liver.\n")
    assert "No lesion is marked" in ReaderReport.empty().text()


def test_a_report_without_ai_holds_no_trace_of_it():
    report = ReaderReport.from_ai(None)
    report.add_lesion("lung_tumor")
    document = report.to_document()
    jsonschema.validate(document, SCHEMA)
    assert document["ai"] == {}
    assert document["enhancement"] is None
    assert '"ai"' not in json.dumps(document["lesions"])


def test_report_study_and_client_load_nothing_heavy():
    code = (
        "import sys, pasta.report.reader, pasta.study, pasta.labels;"
        "heavy = {'numpy', 'torch', 'requests', 'scipy', 'SimpleITK'} & set(sys.modules);"
        "assert not heavy, heavy;"
        "import pasta.client;"
        "heavy = {'numpy', 'torch', 'scipy', 'SimpleITK'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
