"""What a study exports is what the analysis reads."""

import json

import pytest

pytest.importorskip("pyarrow", reason="the extra `study` is not installed")
from pasta.cli.main import main
from pasta.study.analysis.export import read_export
from pasta.study.analysis.sections.flow import reads_that_count
from pasta.study.export import export


def test_an_export_of_scripted_reads_is_analysed_whole(script, tmp_path):
    path = tmp_path / "export.zip"
    export(script.study, path)
    found = read_export(path)
    assert found.locked
    assert not found.problems
    assert found.study_id == "small"
    counted = reads_that_count(found)
    assert len(counted)
    assert (counted["seconds"] > 0).all()
    assert main(["study", "analyse", str(path), "-o", str(tmp_path / "report")]) == 0
    results = json.loads((tmp_path / "report" / "results.json").read_text(encoding="utf-8"))
    rows = results["sections"]["flow"]["tables"]["flow"]["rows"]
    assert sum(row["n_complete"] for row in rows) == len(counted)
