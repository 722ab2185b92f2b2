"""The report: opens without a network, says the unit and n of every number, comes out by command."""

import base64
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pandas as pd
import pytest

from pasta.cli.main import main
from pasta.study.analysis.checklists import CLAIM, DECIDE_AI, TO_WRITE

SECTIONS = (
    "flow",
    "screening",
    "areas",
    "times",
    "masks",
    "reports",
    "agreement",
    "reliance",
    "learning",
    "ratings",
    "checklists",
)


@pytest.fixture(scope="module")
def report(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    effects = made.Effects(positives=12, negatives=24, most_read=(28, 33))
    tables = made.made_tables(effects, 4, per_arm=12)
    one_organ = {
        name: frame
        if name in ("answers", "cases") or "organ" not in frame.columns
        else frame[(frame["organ"] == "liver")]
        for name, frame in tables.items()
    }
    export = made.write_export(folder / "export.zip", one_organ)
    assert main(["study", "analyse", str(export), "-o", str(folder / "report")]) == 0
    return folder / "report"


@pytest.fixture(scope="module")
def results(report):
    return json.loads((report / "results.json").read_text(encoding="utf-8"))


class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found, self.images = [], []

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        assert tag not in ("script", "link", "iframe")
        self.found += [v for k, v in attrs if k in ("src", "href")]
        if tag == "img":
            assert named["alt"]
            self.images.append(named["src"])


def test_the_page_needs_nothing_from_elsewhere(report):
    page = Links()
    text = (report / "report.html").read_text(encoding="utf-8")
    page.feed(text)
    assert all(link.startswith(("#", "data:image/svg+xml;base64,")) for link in page.found)
    assert "@import" not in text
    assert "url(" not in text
    assert len(page.images) == len(list((report / "figures").glob("*.svg")))
    for image in page.images:
        drawn = base64.b64decode(image.split(",")[1])
        assert drawn.startswith(b"<?xml")
        assert not re.search(
            rb'href="(?!#)',
            drawn.replace(b"xlink:", b"").replace(b'href="data:image/png;base64', b""),
        )


def test_every_section_is_there(results):
    assert tuple(results["sections"]) == SECTIONS
    assert not results["exploratory"]
    # a line of the paper's caveats, and of why the multi-reader test was not done
    assert "singular" in " ".join(results["sections"]["times"]["notes"])
    assert "not fully crossed" in results["sections"]["areas"]["not_done"][0]


def test_every_value_has_a_unit_and_an_n(results):
    for name, section in results["sections"].items():
        for table, content in section["tables"].items():
            for row in content["rows"]:
                if "value" in row:
                    assert row["unit"], (name, table)
                    assert any(key == "n" or key.startswith("n_") for key in row), (name, table)


def test_points_and_relative_percent_are_told_apart(results):
    tables = results["sections"]["screening"]["tables"]
    assert {r["unit"] for r in tables["screening_improvements"]["rows"]} == {"points"}
    assert {r["unit"] for r in tables["screening_throughput"]["rows"]} == {"relative %"}
    dice = [
        r
        for r in results["sections"]["masks"]["tables"]["masks_improvements"]["rows"]
        if r["measure"] == "dice"
    ]
    assert {r["unit"] for r in dice} == {"points", "relative %"}


def test_tables_and_figures_lie_beside_the_page(report, results):
    for section in results["sections"].values():
        for name, table in section["tables"].items():
            frame = pd.read_csv(report / "tables" / f"{name}.csv", keep_default_na=False)
            assert len(frame) == len(table["rows"])
    names = {path.stem for path in (report / "figures").glob("*.pdf")}
    assert {"screening", "times_masks", "times_reports", "realism", "consistency", "roc"} <= names
    assert all(path.read_bytes().startswith(b"%PDF") for path in (report / "figures").glob("*.pdf"))


def test_checklists_are_filled_where_the_export_knows_and_only_there(results):
    tables = results["sections"]["checklists"]["tables"]
    assert len(tables["claim"]["rows"]) == len(CLAIM) == 42
    # 17 AI items, some in parts, and 10 generic ones
    numbers = {re.sub("[abc]$", "", number) for number, _, _ in DECIDE_AI}
    assert len(numbers) == 27
    for row in tables["decide_ai"]["rows"] + tables["claim"]["rows"]:
        assert bool(row["from_the_export"]) != (row["status"] == TO_WRITE)


@pytest.mark.slow
def test_the_same_export_gives_the_same_numbers(report, results, tmp_path):
    export = report.parent / "export.zip"
    assert main(["study", "analyse", str(export), "-o", str(tmp_path / "again")]) == 0
    assert json.loads((tmp_path / "again" / "results.json").read_text()) == results
    for path in (tmp_path / "again" / "figures").iterdir():
        assert path.read_bytes() == (report / "figures" / path.name).read_bytes(), path.name


def test_a_report_is_not_replaced_unasked(report, capsys):
    export = report.parent / "export.zip"
    assert main(["study", "analyse", str(export), "-o", str(report)]) == 2
    assert "is not empty" in capsys.readouterr().err


def test_a_folder_with_other_things_is_never_replaced(report, tmp_path, capsys):
    (tmp_path / "thesis.docx").write_text("mine")
    export = report.parent / "export.zip"
    assert main(["study", "analyse", str(export), "-o", str(tmp_path), "--overwrite"]) == 2
    assert "thesis.docx, which is no part of a report" in capsys.readouterr().err


def test_a_missing_export_is_one_line(tmp_path, capsys):
    assert main(["study", "analyse", str(tmp_path / "x.zip"), "-o", str(tmp_path / "r")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "Give the zip of `pasta study export`" in error


def test_the_study_itself_imports_none_of_it():
    code = (
        "import sys, pasta.study, pasta.study.analysis, pasta.cli.study.analysis; "
        "print([m for m in ('pandas', 'numpy', 'statsmodels', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
