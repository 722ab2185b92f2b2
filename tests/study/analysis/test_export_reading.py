"""A bad export is refused in one clear sentence; nothing is analysed in silence."""

import re
import zipfile

import pandas as pd
import pytest

from pasta.study.analysis.analyse import AnalysisError, analyse, assemble, plan
from pasta.study.analysis.export import ExportError, read_export
from pasta.study.analysis.sections.flow import flow, reads_that_count, timed_reads
from pasta.study.tables import TABLES


@pytest.fixture(scope="module")
def small(made):
    effects = made.Effects(positives=4, negatives=6, most_read=None)
    return made.made_tables(effects, 2, per_arm=0)


def changed(tables, name, column, row, value):
    frame = tables[name].astype(object).copy()
    frame.loc[row, column] = value
    return tables | {name: frame}


def test_the_made_tables_have_the_columns_of_the_export(tables):
    for name, frame in tables.items():
        known = {column.name for column in TABLES[name]}
        assert set(frame.columns) <= known, name
        assert known - set(frame.columns) <= {"file"}


def test_what_is_no_zip_or_not_there_is_said(tmp_path):
    with pytest.raises(ExportError, match=r"none\.zip: cannot be read \(No such file"):
        read_export(tmp_path / "none.zip")
    (tmp_path / "text.zip").write_text("reads")
    with pytest.raises(ExportError, match=r"text\.zip: is not a whole zip file"):
        read_export(tmp_path / "text.zip")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("a.txt", "a")
    with pytest.raises(ExportError, match=r"other\.zip: holds no manifest\.json"):
        read_export(tmp_path / "other.zip")


def test_a_table_changed_after_the_export_is_refused(made, small, tmp_path):
    path = made.write_export(tmp_path / "e.zip", small)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    text = members["reads.csv"].decode()
    for name, data in (("reads.csv", text.replace("complete", "skip", 1).encode()), ("", b"")):
        with zipfile.ZipFile(path, "w") as archive:
            for member, content in members.items():
                if member != "reads.csv":
                    archive.writestr(member, content)
            if name:
                archive.writestr(name, data)
        wanted = "was changed after the export" if name else "is missing"
        with pytest.raises(ExportError, match=rf"reads\.csv {wanted}"):
            read_export(path)


@pytest.mark.parametrize(
    ("table", "column", "value", "words"),
    [
        (
            "reads",
            "arm",
            "aided",
            "reads.csv, line 3: arm is 'aided', expected one of solo, assisted",
        ),
        ("reads", "seconds", "soon", "reads.csv, line 3: seconds is 'soon', expected a number"),
        ("reads", "seconds", -1, "reads.csv, line 3: seconds is negative"),
        ("reads", "decision", 2, "reads.csv, line 3: decision is '2.0', expected one of 0, 1"),
        ("reads", "score", 101, "a score lies outside 0 to 100"),
        ("reads", "status", "done", "reads.csv, line 3: status is 'done'"),
        ("cases", "positive", "yes", "cases.csv, line 3: positive is 'yes'"),
    ],
)
def test_a_value_that_cannot_be_is_named_with_its_line(
    made, small, tmp_path, table, column, value, words
):
    tables = changed(small, table, column, 1, value)
    with pytest.raises(ExportError, match=re.escape(words)):
        read_export(made.write_export(tmp_path / "e.zip", tables))


def test_a_lacking_column_or_table_is_named(made, small, tmp_path):
    tables = small | {"reads": small["reads"].drop(columns="seconds")}
    with pytest.raises(ExportError, match=r"reads\.csv lacks seconds"):
        read_export(made.write_export(tmp_path / "e.zip", tables))
    tables = {name: frame for name, frame in small.items() if name != "masks"}
    with pytest.raises(ExportError, match=r"masks\.csv is missing"):
        read_export(made.write_export(tmp_path / "e.zip", tables))


def test_a_read_that_is_there_twice_is_refused(made, small, tmp_path):
    reads = pd.concat([small["reads"], small["reads"].head(1)])
    with pytest.raises(
        ExportError, match=r"J1's read of c-[0-9a-f]{16} in screening/liver/solo twice"
    ):
        read_export(made.write_export(tmp_path / "e.zip", small | {"reads": reads}))


def test_a_study_that_was_not_locked_is_exploratory_or_refused(made, small, tmp_path):
    export = read_export(made.write_export(tmp_path / "e.zip", small, locked=False))
    with pytest.raises(AnalysisError, match=r"was not locked .* --exploratory"):
        analyse(export)
    assert list(plan(export, exploratory=True, seed=0))
    found = assemble(export, [])
    assert found.exploratory
    assert "NO" in found.facts["Locked before reading"]


def test_problems_found_at_export_stop_the_analysis(made, small, tmp_path):
    problem = "protocol.toml: is not what was locked."
    path = made.write_export(tmp_path / "e.zip", small, problems=[problem])
    with pytest.raises(AnalysisError, match=r"is not what was locked\. Mend it"):
        analyse(read_export(path))


def test_what_does_not_count_is_left_out_and_listed(made, small, tmp_path):
    reads = small["reads"].astype(object).copy()
    for row, (column, value) in enumerate(
        (
            ("training", 1),
            ("status", "skip"),
            ("status", "interrupted"),
            ("status", "budget"),
            ("interrupted", 1),
        )
    ):
        reads.loc[row, column] = value
    export = read_export(made.write_export(tmp_path / "e.zip", small | {"reads": reads}))
    counted = reads_that_count(export)
    assert len(counted) == len(reads) - 4
    assert len(timed_reads(counted)) == len(counted) - 1
    row = (
        flow(export)
        .tables[0]
        .frame.set_index(["reader", "organ", "arm"])
        .loc[("J1", "liver", "solo")]
    )
    listed = [
        row[f"n_{name}"]
        for name in ("training", "skipped", "interrupted", "budget", "crashed", "allocated")
    ]
    assert listed == [1, 1, 1, 1, 1, 10]
    assert row["n_complete"] == 6
    assert row["n_timed"] == 5


def test_nothing_to_analyse_is_said(made, small, tmp_path):
    reads = small["reads"].assign(status="skip")
    export = read_export(made.write_export(tmp_path / "e.zip", small | {"reads": reads}))
    with pytest.raises(AnalysisError, match="holds no complete read outside training"):
        analyse(export)


def only(small, keep):
    """The tables with those reads alone."""
    return small | {"reads": small["reads"][keep(small["reads"])]}


@pytest.fixture(scope="module")
def whole(made):
    effects = made.Effects(positives=3, negatives=5, most_read=None)
    tables = made.made_tables(effects, 2, per_arm=4)
    return {
        name: frame[frame["organ"] == "liver"] if "organ" in frame.columns else frame
        for name, frame in tables.items()
    }


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "keep",
    [
        pytest.param(lambda reads: reads["reader"] == "J1", id="one reader", marks=SLOW),
        pytest.param(lambda reads: reads["arm"] == "solo", id="one arm", marks=SLOW),
        pytest.param(lambda reads: reads["task"] == "realism", id="realism alone"),
        pytest.param(lambda reads: reads["task"] == "consistency", id="consistency alone"),
        pytest.param(lambda reads: reads["position"] == 1, id="first cases"),
        pytest.param(
            lambda reads: (reads["task"] == "screen") & (reads["positive"] == 0),
            id="no positive case",
        ),
        pytest.param(
            lambda reads: (reads["reader"] == "J1") | (reads["arm"] == "solo"),
            id="arms of unequal readers",
            marks=SLOW,
        ),
        pytest.param(lambda reads: reads.index == reads.index[0], id="a single read"),
    ],
)
def test_a_study_that_lacks_something_is_analysed_as_far_as_it_goes(made, whole, tmp_path, keep):
    export = read_export(made.write_export(tmp_path / "e.zip", only(whole, keep)))
    found = analyse(export)
    assert {section.name for section in found.sections} >= {"flow", "checklists"}
    for section in found.sections:
        for table in section.tables:
            assert len(table.shown()) == len(table.frame)
        for picture in section.pictures:
            picture.figure.draw_without_rendering()
