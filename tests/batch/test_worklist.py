import csv

import pytest

from pasta.batch.worklist import ranked, write_worklist
from pasta.errors import LabelError, OutputError


def row(case, organ="liver", probability=None, status="screened", **more):
    empty = dict.fromkeys(("reason", "volume_ml", "warnings", "models", "input_sha256"))
    organ_row = {"case": case, "kind": "organ", "structure": organ, "status": None}
    return {
        **organ_row, "screening_status": status, "probability": probability, **empty, **more,
    }  # fmt: skip


def test_the_most_suspicious_come_first_and_those_without_a_number_last():
    rows = [
        row("d", status="absent", warnings="not found"),
        row("b", probability=0.2),
        row("a", probability=0.9),
        row("c", probability=0.2),
        row("e", kind="case", structure=None, screening_status=None, status="failed", reason="bad"),
        row("f", kind="lesion"),
    ]
    rows[4]["status"] = "failed"
    entries = ranked(rows, {"liver": 0.5})
    assert [entry["case"] for entry in entries] == ["a", "b", "c", "d", "e"]
    assert [entry["above_threshold"] for entry in entries] == ["yes", "no", "no", "", ""]
    assert [entry["remark"] for entry in entries][3:] == ["not found", "bad"]


def test_a_probability_of_the_threshold_is_above_it():
    assert ranked([row("a", probability=0.3)], {"liver": 0.3})[0]["above_threshold"] == "yes"


def test_the_file_is_sorted_and_states_each_threshold(finished, tmp_path):
    write_worklist(finished[0] / "results.parquet", tmp_path / "w.csv", {"liver": 0.3})
    with (tmp_path / "w.csv").open() as file:
        entries = list(csv.DictReader(file))
    numbers = [float(entry["probability"]) for entry in entries if entry["probability"]]
    assert len(numbers) == 6
    assert numbers == sorted(numbers, reverse=True)
    assert {e["threshold"] for e in entries if e["organ"] == "liver"} == {"0.3"}
    assert {e["threshold"] for e in entries if e["organ"] == "kidney"} == {"0.5"}
    assert [e["case"] for e in entries if e["status"] == "failed"] == ["case-1b"]


@pytest.mark.parametrize("thresholds", [{"liver": 1.5}, {"lever": 0.5}, {"liver": float("nan")}])
def test_a_threshold_that_cannot_be_is_refused(finished, tmp_path, thresholds):
    with pytest.raises(LabelError):
        write_worklist(finished[0] / "results.parquet", tmp_path / "w.csv", thresholds)


def test_a_file_that_is_no_table_is_refused(tmp_path):
    (tmp_path / "results.parquet").write_text("case,kind\n")
    with pytest.raises(OutputError, match="no table of results"):
        write_worklist(tmp_path / "results.parquet", tmp_path / "w.csv")
