"""Reading times and what assistance saves."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pasta.study.analysis import figures, times
from pasta.study.analysis.sections.flow import timed_reads, wide
from pasta.study.analysis.tables import Picture, Section, Table

if TYPE_CHECKING:
    import pandas as pd


def times_section(counted: pd.DataFrame, seed: int) -> Section | None:
    """Times and their reduction."""
    reads = timed_reads(counted)
    if reads.empty:
        return None
    section = Section("times", "Reading times", notes=list(times.CAVEATS))
    found = times.reductions(reads, seed)
    for part, group in reads.groupby("part", sort=True):
        section.tables.append(
            wide(
                f"times_table4_{part}",
                f"Times by reader: {part}",
                times.paper_table(group, found[found["part"] == part]),
                ("Mean (95% CI) in seconds; laid out as Supplementary Table 4.",),
            )
        )
    levels = sorted(reads["level"].unique())
    for part, group in reads.groupby("part", sort=True):
        texts = {}
        for organ in group["organ"].unique():
            for level in levels:
                p = found[
                    (found["part"] == part) & (found["organ"] == organ) & (found["level"] == level)
                ].set_index("method")["p"]
                if "default" in p.index:
                    texts[organ, level] = figures.p_line(p["paper replica"], p["default"])
        section.pictures.append(
            Picture(
                f"times_{part}",
                f"Time a case: {part}",
                figures.boxes(group, "seconds", "Time (s)", texts),
                "Seconds from load start to case complete. Box: median and quartiles; whiskers: "
                "within 1.5 IQR; points: reads. mixed: the paper's model; default: log time, "
                "readers fixed, cases random or clustered.",
            )
        )
    section.tables += [
        Table(
            "time_reductions",
            "Time saved, by method",
            found,
            (
                "p_holm: over all parts, organs and levels, within a method. The replica's estimate in "
                "seconds is shown relative to the solo mean.",
            ),
        ),
        Table(
            "times_readers",
            "Time saved, each reader",
            times.per_reader(reads),
            ("Ratio of geometric means, HC3.",),
        ),
        Table("times_means", "Time of each reader", times.cell_means(reads), ("t interval.",)),
        Table(
            "times_sensitivity",
            "Other clocks, and without flagged or outlying reads",
            times.sensitivity(reads),
            ("Default model. Nothing is trimmed in any other table.",),
        ),
    ]
    levels_table = times.levels_compared(reads)
    if len(levels_table):
        section.tables.append(
            Table(
                "times_levels",
                "Juniors and seniors compared",
                levels_table,
                ("Above 1: seniors save less than juniors.",),
            )
        )
    default = found[(found["method"] == "default") & (found["level"] != "all")]
    if default.empty:
        default = found[found["method"] == "default"]
    labels = [f"{r['part']}, {r['organ']}, {r['level']}" for r in default.to_dict("records")]
    texts_right = [
        f"p = {p:.3f}" if p >= 0.001 else "p < 0.001" if math.isfinite(p) else ""
        for p in default["p"]
    ]
    section.pictures.append(
        Picture(
            "times_saved",
            "Time saved",
            figures.forest(
                default, labels, "Time saved (relative %)", ratio=False, texts=texts_right
            ),
            "Share of time saved by assistance (ratio of geometric means) with 95% CI, default "
            "model.",
        )
    )
    waits = reads.groupby(["part", "arm"], as_index=False).agg(
        n=("seconds", "size"),
        ai_wait_s=("ai_wait_seconds", "mean"),
        load_s=("load_seconds", "mean"),
    )
    section.tables.append(
        Table(
            "times_waits",
            "Waits, mean seconds a read",
            waits,
            (
                "The time counts from load start; where one arm loads or waits longer, see the clock from "
                "images displayed under sensitivity.",
            ),
        )
    )
    return section
