"""The screening worklist: who should be looked at first. Reads `results.parquet` alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pasta import RESEARCH_USE_ONLY
from pasta.batch.tables import require_arrow, write_csv
from pasta.errors import LabelError, OutputError
from pasta.labels import organ_named

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

DEFAULT_THRESHOLD = 0.5  # of no clinical meaning: nobody has calibrated the shipped weights
COLUMNS = (
    "rank", "case", "organ", "probability", "threshold", "above_threshold", "status", "volume_ml",
    "remark", "models", "input_sha256", "notice",
)  # fmt: skip


def write_worklist(
    results: Path, output: Path, thresholds: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """Sort all screened organs by probability; what has none stands at the end, with the reason.

    Args:
        results: `results.parquet` of a batch.
        output: CSV, replaced.
        thresholds: by organ; the others take `DEFAULT_THRESHOLD`. Stated in each row, as is which
            weights made the number.

    Returns:
        The rows. Cases that failed are among them: they have not been screened.

    Raises:
        LabelError: if an organ is unknown or a threshold not in [0, 1].
        OutputError: if the results cannot be read or the list not be written.
    """
    limits = dict(thresholds or {})
    for organ, limit in limits.items():
        organ_named(organ)
        if not 0 <= limit <= 1:
            msg = f"--threshold {organ}={limit}: expected a probability from 0 to 1."
            raise LabelError(msg)
    rows = ranked(_read(results), limits)
    write_csv(output, COLUMNS, rows)
    return rows


def ranked(rows: Sequence[Mapping[str, Any]], limits: Mapping[str, float]) -> list[dict[str, Any]]:
    """Make the rows of the worklist from those of the table: highest probability first, ties by case."""
    entries = []
    for row in rows:
        failed = row["kind"] == "case" and row["status"] == "failed"
        if not failed and not (row["kind"] == "organ" and row["screening_status"]):
            continue
        probability = row["probability"]
        organ = row["structure"] or ""
        limit = limits.get(organ, DEFAULT_THRESHOLD) if organ else None
        entries.append(
            {
                "case": row["case"],
                "organ": organ,
                "probability": probability,
                "threshold": limit,
                "above_threshold": ""
                if probability is None
                else ("yes" if probability >= (limit or 0.0) else "no"),
                "status": "failed" if failed else row["screening_status"],
                "volume_ml": row["volume_ml"],
                "remark": row["reason"] if failed else row["warnings"],
                "models": row["models"],
                "input_sha256": row["input_sha256"],
                "notice": RESEARCH_USE_ONLY,
            }
        )
    entries.sort(
        key=lambda entry: (
            entry["probability"] is None,
            -(entry["probability"] or 0.0),
            entry["case"],
            entry["organ"],
        )
    )
    return [{"rank": number, **entry} for number, entry in enumerate(entries, start=1)]


def _read(path: Path) -> list[dict[str, Any]]:
    arrow, parquet = require_arrow()
    needed = [
        "case", "kind", "structure", "status", "reason", "volume_ml", "screening_status",
        "probability", "warnings", "models", "input_sha256",
    ]  # fmt: skip
    try:
        table = parquet.read_table(path, columns=needed)
    except (OSError, arrow.ArrowException) as error:
        msg = f"{path}: is no table of results. Give the results.parquet that `pasta batch` wrote."
        raise OutputError(msg) from error
    if list(table.column_names) != needed:
        missing = ", ".join(name for name in needed if name not in table.column_names)
        msg = f"{path}: lacks {missing}. Give the results.parquet that `pasta batch` wrote."
        raise OutputError(msg)
    found: list[dict[str, Any]] = table.to_pylist()
    return found
