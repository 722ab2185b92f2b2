"""Which reads count, and what became of the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from pasta.study.analysis.tables import Section, Table, rows

if TYPE_CHECKING:
    from pasta.study.analysis.export import Export


def reads_that_count(export: Export) -> pd.DataFrame:
    """Reads that are analysed: complete, not training.

    A read that a crash interrupted and that was then completed keeps its decision, mask and report;
    its time does not count, see `timed_reads`.
    """
    reads = export.reads
    chosen = (reads["status"] == "complete") & (reads["training"] != 1)
    return reads[chosen].reset_index(drop=True)


def timed_reads(counted: pd.DataFrame) -> pd.DataFrame:
    """Reads whose time counts: not interrupted by a crash, of a task that is timed."""
    timed = counted["task"].isin(["screen", "segment", "report"])
    return counted[timed & (counted["interrupted"] != 1) & (counted["seconds"] > 0)]


def flow(export: Export) -> Section:
    """Count what was allocated, read and left out, and why."""
    records: list[dict[str, Any]] = []
    reads = export.reads
    by = ["part", "organ", "level", "reader", "arm"]
    listed = export.allocation.groupby(by).size()
    seen = reads.groupby(by).size()
    for keys in sorted(set(listed.index) | set(seen.index)):
        chosen = reads.loc[(reads[by] == list(keys)).all(axis=1)]
        real = chosen[chosen["training"] != 1]
        crashed = (real["status"] == "complete") & (real["interrupted"] == 1)
        counts = {
            "n_allocated": int(listed.get(keys, 0)),
            "n_training": int((chosen["training"] == 1).sum()),
            "n_complete": int((real["status"] == "complete").sum()),
            "n_crashed": int(crashed.sum()),
            "n_skipped": int((real["status"] == "skip").sum()),
            "n_interrupted": int((real["status"] == "interrupted").sum()),
            "n_budget": int((real["status"] == "budget").sum()),
        }
        counts["n_timed"] = counts["n_complete"] - counts["n_crashed"]
        records.append(dict(zip(by, keys, strict=True)) | counts)
    columns = " ".join(by) + (
        " n_allocated n_training n_complete n_crashed n_skipped n_interrupted n_budget n_timed"
    )
    notes = (
        "Analysed: complete, outside training. Crashed: of these, begun again after a crash; their "
        "decisions count, their times do not (timed). Interrupted: begun and never ended; budget: in "
        "progress when the time was up. Skipped, interrupted and budget reads are not analysed.",
        "Recall is over the positives that were read; skipped and unread positives lower only "
        "yield_of_allocated.",
    )
    frame = rows(records, columns)
    return Section("flow", "Flow of cases and reads", [Table("flow", "Reads", frame, notes)])


def of_counted(frame: pd.DataFrame, counted: pd.DataFrame) -> pd.DataFrame:
    """Keep the masks or attributes whose read counts; they share its keys."""
    keys = ["reader", "part", "organ", "arm", "case"]
    there = counted[keys].drop_duplicates()
    return frame.merge(there, on=keys)


def wide(name: str, title: str, frame: pd.DataFrame, notes: tuple[str, ...] = ()) -> Table:
    """A table laid out as the paper's, its row names in the first column."""
    flat = frame.copy()
    if isinstance(flat.columns, pd.MultiIndex):
        flat.columns = pd.Index(
            [
                str(a).capitalize()
                if b == "value"
                else f"{str(a).capitalize()}, {str(b).upper() if len(str(b)) == 2 else b}"
                for a, b in flat.columns
            ]
        )
    return Table(name, title, flat.rename_axis("").reset_index(), notes)
