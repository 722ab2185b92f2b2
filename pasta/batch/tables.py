"""One Parquet of all results: a row for each case, each of its organs and each of its lesions."""

from __future__ import annotations

import csv
import importlib
import io
from typing import TYPE_CHECKING, Any

from pasta.batch.folder import CASE_FILE
from pasta.errors import OutputError
from pasta.io.files import atomic_file
from pasta.report import ATTRIBUTE_NAMES
from pasta.store.records import read_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from pasta.batch.folder import BatchFolder

Row = dict[str, Any]
RESULTS_FILE, FAILURES_FILE = "results.parquet", "failures.csv"
COLUMNS = {  # name to Arrow's type
    "case": "string",
    "kind": "string",  # case, organ, lesion
    "structure": "string",
    "number": "int32",  # of the lesion in its report
    "status": "string",  # of the case: done, failed
    "reason": "string",
    "volume_ml": "float64",
    "screening_status": "string",
    "probability": "float64",
    **dict.fromkeys(ATTRIBUTE_NAMES, "string"),
    "cut_off": "bool_",
    "seconds": "float64",
    "warnings": "string",  # sentences, one a line
    "input_sha256": "string",
    "models": "string",  # name and version, then the SHA-256 of each fold; one model a line
    "software": "string",
    "created": "string",
}


def require_arrow() -> Any:
    """Import Arrow's Parquet.

    Raises:
        OutputError: if it is not installed.
    """
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        msg = "tables need Parquet, which is not installed. Run: pip install 'pasta-aid[batch]'"
        raise OutputError(msg) from error


def write_tables(folder: BatchFolder, cases: Sequence[str]) -> tuple[Path, Path]:
    """Gather what is on the disk into `results.parquet` and `failures.csv`.

    Args:
        folder: of the batch.
        cases: ids, in order; those neither done nor failed have no row.

    Returns:
        Both paths.

    Raises:
        OutputError: if a file cannot be written or Parquet is not installed.
    """
    arrow, parquet = require_arrow()
    rows: list[Row] = []
    failures: list[Mapping[str, Any]] = []
    for case in cases:
        # the failure first: it is newer, as finishing a case removes it
        failure = read_json(folder.failures / f"{case}.json")
        if failure is not None:
            failures.append(failure)
            rows.append({"case": case, "kind": "case", "status": "failed", **_of(failure)})
        else:
            rows += case_rows(folder.cases / case)
    schema = arrow.schema([(name, getattr(arrow, kind)()) for name, kind in COLUMNS.items()])
    table = arrow.Table.from_pylist(rows, schema=schema)
    results, listed = folder.path / RESULTS_FILE, folder.path / FAILURES_FILE
    with atomic_file(results) as file:
        parquet.write_table(table, file)
    write_csv(listed, ("case", "seconds", "reason"), failures)
    return results, listed


def case_rows(folder: Path) -> list[Row]:
    """Read one finished case; nothing where it is not finished."""
    record = read_json(folder / CASE_FILE)
    if record is None:
        return []
    documents = [
        document
        for name in ("segmentation", "report", "screening")
        if (document := read_json(folder / f"{name}.json")) is not None
    ]
    whole = _case_row(record, documents)
    shared = {name: whole[name] for name in ("case", "input_sha256", "models", "software")}
    organs: dict[str, Row] = {}
    lesions: list[Row] = []
    for document in documents:
        for label in document.get("labels", ()):
            row = {
                **shared,
                "kind": label["kind"],
                "structure": label["name"],
                "volume_ml": label["volume_ml"],
            }
            if label["kind"] == "organ":
                organs[label["name"]] = row
            elif "report" not in document:  # else it lists each lesion apart
                lesions.append(row)
        for organ in document.get("organs", ()):
            row = organs.setdefault(
                organ["organ"],
                {**shared, "kind": "organ", "structure": organ["organ"], "volume_ml": 0.0},
            )
            row["screening_status"] = organ["status"]
            row["probability"] = organ["probability"]
            if organ["status"] != "screened":
                row["warnings"] = organ["sentence"]
        for lesion in document.get("report", {}).get("lesions", ()):
            found = lesion["attributes"]
            lesions.append(
                {
                    **shared,
                    "kind": "lesion",
                    "structure": lesion["label"],
                    "number": lesion["number"],
                    "volume_ml": lesion["volume_ml"],
                    **{name: found[name]["value"] for name in ATTRIBUTE_NAMES},
                    "cut_off": lesion["cut_off"],
                    "warnings": "\n".join(lesion["warnings"]),
                }
            )
    return [whole, *(organs[name] for name in sorted(organs)), *lesions]


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a CSV file whole or not at all; a line break in a cell becomes a space.

    Raises:
        OutputError: if it cannot be written.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _cell(row.get(name)) for name in columns})
    with atomic_file(path) as file:
        file.write(text.getvalue().encode())


def _case_row(record: Mapping[str, Any], documents: Sequence[Mapping[str, Any]]) -> Row:
    models = {
        model["name"]: f"{model['name']} {model['version']} {' '.join(model['weights_sha256'])}"
        for document in documents
        for model in document["model"]
    }
    sentences = dict.fromkeys(line for document in documents for line in document["warnings"])
    software = documents[0]["software"] if documents else {"name": "", "version": ""}
    return {
        "case": record["case"],
        "kind": "case",
        "status": "done",
        "seconds": record["seconds"],
        "warnings": "\n".join(sentences),
        "input_sha256": record["input_sha256"],
        "models": "\n".join(models[name] for name in sorted(models)),
        "software": f"{software['name']} {software['version']}",
        "created": documents[0]["created"] if documents else "",
    }


def _of(failure: Mapping[str, Any]) -> Row:
    return {"reason": str(failure.get("reason", "")), "seconds": failure.get("seconds")}


def _cell(value: Any) -> Any:
    return " ".join(value.split()) if isinstance(value, str) else value
