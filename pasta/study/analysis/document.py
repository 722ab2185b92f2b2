"""The report on disk: self-contained HTML, JSON, tables as CSV, figures as PDF and SVG."""

from __future__ import annotations

import base64
import csv
import io
import json
import shutil
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, StrictUndefined

from pasta import RESEARCH_USE_ONLY, __version__
from pasta.errors import OutputError
from pasta.study.analysis.figures import pdf_bytes, svg_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pandas as pd

    from pasta.study.analysis.analyse import Analysis
    from pasta.study.analysis.tables import Section

SCHEMA = "pasta-aid/study-results/1"
_WRITTEN = {"report.html", "results.json", "tables", "figures"}
_MOST_ROWS_OPEN = 30  # a longer table is folded


def write_report(analysis: Analysis, folder: Path, *, overwrite: bool = False) -> list[Path]:
    """Write a report.

    Args:
        analysis: what to write.
        folder: to make; `report.html`, `results.json`, `tables/` and `figures/` go there.
        overwrite: replace a report that is there.

    Returns:
        The files that a person opens: HTML and JSON.

    Raises:
        OutputError: if there is a report already, or the disk refuses.
    """
    check_folder(folder, overwrite=overwrite)
    drawn = {p.name: svg_bytes(p.figure) for section in analysis.sections for p in section.pictures}
    html, document = report_html(analysis, drawn), results_document(analysis)
    try:
        for name in ("tables", "figures"):
            if (folder / name).is_dir():
                shutil.rmtree(folder / name)
            (folder / name).mkdir(parents=True)
        for section in analysis.sections:
            for table in section.tables:
                path = folder / "tables" / f"{table.name}.csv"
                path.write_text(_csv(table.frame), encoding="utf-8")
            for picture in section.pictures:
                stem = folder / "figures" / picture.name
                stem.with_suffix(".svg").write_bytes(drawn[picture.name])
                stem.with_suffix(".pdf").write_bytes(pdf_bytes(picture.figure))
        text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
        (folder / "results.json").write_text(text + "\n", encoding="utf-8")
        (folder / "report.html").write_text(html, encoding="utf-8")
    except OSError as error:
        msg = f"{folder}: cannot be written ({error.strerror}). Choose another with --output."
        raise OutputError(msg) from error
    return [folder / "report.html", folder / "results.json"]


def check_folder(folder: Path, *, overwrite: bool) -> None:
    """Refuse a folder that a report cannot go to, before anything is computed.

    Raises:
        OutputError: if it is a file, holds something else than a report, or a report that is not to
            be replaced.
    """
    if folder.exists() and not folder.is_dir():
        msg = f"{folder}: is a file. Give a folder with --output."
        raise OutputError(msg)
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if there and not overwrite:
        msg = f"{folder}: is not empty. Give another with --output, or --overwrite."
        raise OutputError(msg)
    if strangers := sorted(there - _WRITTEN):
        msg = f"{folder}: holds {strangers[0]}, which is no part of a report. Give another folder."
        raise OutputError(msg)


def results_document(analysis: Analysis) -> dict[str, Any]:
    """Build the JSON document: every table's rows, unrounded; null where not estimable."""
    return {
        "schema": SCHEMA,
        "notice": RESEARCH_USE_ONLY,
        "title": analysis.title,
        "version": __version__,
        "exploratory": analysis.exploratory,
        "facts": analysis.facts,
        "sections": {
            section.name: {
                "title": section.title,
                "notes": section.notes,
                "not_done": section.not_done,
                "tables": {
                    table.name: {
                        "title": table.title,
                        "notes": list(table.notes),
                        "rows": table.records(),
                    }
                    for table in section.tables
                },
            }
            for section in analysis.sections
        },
    }


def report_html(analysis: Analysis, drawn: Mapping[str, bytes]) -> str:
    """Build the HTML, figures and style inside it; it opens without a network.

    Args:
        analysis: what to show.
        drawn: SVG of each figure by its name.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(
        files("pasta.study.analysis").joinpath("report.html").read_text(encoding="utf-8")
    )
    return template.render(
        analysis=analysis,
        notice=RESEARCH_USE_ONLY,
        version=__version__,
        sections=[_section(section, drawn) for section in analysis.sections],
    )


def _section(section: Section, drawn: Mapping[str, bytes]) -> dict[str, Any]:
    return {
        "name": section.name,
        "title": section.title,
        "notes": section.notes,
        "not_done": section.not_done,
        "pictures": [
            {
                "title": picture.title,
                "caption": picture.caption,
                "name": picture.name,
                # as an image of its own: ids inside two SVG in one page would clash
                "data": base64.b64encode(drawn[picture.name]).decode("ascii"),
                "width": round(picture.figure.get_figwidth() * 96),
            }
            for picture in section.pictures
        ],
        "tables": [
            {
                "name": table.name,
                "title": table.title,
                "notes": table.notes,
                "columns": [_heading(str(column)) for column in shown.columns],
                "rows": shown.to_numpy().tolist(),
                "open": len(shown) <= _MOST_ROWS_OPEN,
                "words": section.name == "checklists" or "table" in table.name,
            }
            for table in section.tables
            for shown in [table.shown()]
        ],
    }


def _heading(column: str) -> str:
    if column.startswith("n_") and column != "n_of":
        return f"n {column[2:].replace('_', ' ')}"
    if column.endswith(("_s", "_ml")):
        name, unit = column.rsplit("_", 1)
        return f"{name.replace('_', ' ').replace('ai ', 'AI ')} ({unit})"
    return column.replace("_", " ")


def _csv(frame: pd.DataFrame) -> str:
    file = io.StringIO()
    frame.to_csv(file, index=False, lineterminator="\n", quoting=csv.QUOTE_MINIMAL)
    return file.getvalue()
