"""Screening: performance, throughput, tests, ROC analysis."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pasta.study.analysis import figures, roc, screening
from pasta.study.analysis.sections.flow import wide
from pasta.study.analysis.tables import Picture, Section, Table

if TYPE_CHECKING:
    import pandas as pd

    from pasta.study.analysis.export import Export

_CLUSTERED = (
    "Reads are treated as independent within a reader, though readers share cases; the clustered "
    "p (logistic model, readers fixed, errors clustered by case) allows for that."
)


def screening_section(export: Export, counted: pd.DataFrame, seed: int) -> Section | None:
    """Recall, precision, F1, throughput and their tests."""
    reads = counted[counted["task"] == "screen"]
    if reads.empty:
        return None
    section = Section("screening", "Screening")
    unknown = reads["decision"].isna() | reads["positive"].isna()
    if unknown.any():
        section.notes.append(
            f"{int(unknown.sum())} complete reads lack a decision or the truth and are left out."
        )
    reads = reads[~unknown]
    if reads.empty:
        section.not_done.append("No read has both a decision and the truth.")
        return section
    for part, group in reads.groupby("part", sort=True):
        of_part = str(part) if reads["part"].nunique() > 1 else ""
        _screen_part(section, export, group, of_part, seed)
    section.notes += [
        "Averages are macro: each reader counts the same. Recall is over the positives read "
        "(recall_read); yield_of_allocated is over all positives on the reader's list, which is "
        "how the paper's Methods 6 word recall, though its table prints recall_read.",
        "Differences of recall, precision, F1 and specificity are in points; throughput is in "
        "relative %.",
        "p_cmh: Cochran-Mantel-Haenszel stratified by reader without continuity correction, as the "
        "paper; p_cmh_corrected is what R's mantelhaen.test prints by default; p_exact and p_mid are "
        "conditional exact; p_holm adjusts p_cmh over recall and precision of all organs.",
        _CLUSTERED,
        "Precision conditions on the cases called positive, a number that the reading itself "
        "decides; specificity is beside it.",
    ]
    return section


def _screen_part(
    section: Section, export: Export, reads: pd.DataFrame, part: str, seed: int
) -> None:
    counts = screening.count_reads(reads)
    tag = f"_{part}" if part else ""
    name = f" ({part})" if part else ""
    two_arms = set(counts["arm"]) == {"solo", "assisted"}
    rates = screening.reader_rates(counts)
    if two_arms:
        printed = screening.paper_table(counts)
        summary = [column for column in printed.columns if column[1] == "value"]
        lines = printed[summary[0]] == ""
        section.tables += [
            wide(
                f"screening_table2{tag}",
                f"Performance and throughput{name}",
                printed.loc[~lines, summary],
                ("Laid out as Supplementary Table 2; means over readers, printed half-up.",),
            ),
            wide(
                f"screening_counts{tag}",
                f"Counts of each reader{name}",
                printed.loc[lines].drop(columns=summary),
            ),
        ]
    section.pictures.append(
        Picture(
            f"screening{tag}",
            f"Screening by reader{name}",
            figures.screening_bars(rates),
            "Recall, precision, F1 (%) and cases read of each reader, solo and AI-assisted; "
            "Mean: over readers. n.e.: not estimable.",
        )
    )
    section.tables.append(
        Table(
            f"screening_readers{tag}",
            f"Rates of each reader{name}",
            screening.long_rates(counts, _positives(export, reads)),
            ("Intervals: Wilson.",),
        )
    )
    section.tables.append(
        Table(
            f"screening_averages{tag}",
            f"Averages{name}",
            screening.averages(counts),
            ("Macro: t interval over readers (cut at 0 and 100 %); pooled: Wilson, over reads.",),
        )
    )
    if not two_arms:
        section.not_done.append(f"Comparison of arms{name}: the reads have one arm only.")
        return
    section.tables.append(
        Table(
            f"screening_improvements{tag}",
            f"Assisted minus solo{name}",
            screening.improvements(counts, reads, seed),
            (
                "Interval and p_readers: t over readers (df = readers - 1). Bootstraps (2,000): over "
                "cases alone, for these very readers; over readers and cases, for readers like them.",
            ),
        )
    )
    tests = screening.compare_arms(counts, reads)
    section.tables.append(
        Table(
            f"screening_tests{tag}",
            f"Tests{name}",
            tests,
            (
                "Odds ratio: Mantel-Haenszel, assisted over solo, interval of Robins, Breslow and "
                "Greenland. p_homogeneity: Breslow-Day; not estimable where a reader's table has an empty "
                "margin (uninformative_readers).",
            ),
        )
    )
    chosen = tests[tests["measure"].isin(["recall", "precision"])]
    labels = [
        f"{o.capitalize()}, {m}" for o, m in zip(chosen["organ"], chosen["measure"], strict=True)
    ]
    texts = [f"p = {p:.3f}" if p >= 0.001 else "p < 0.001" for p in chosen["p_cmh"].fillna(1)]
    texts = [t if math.isfinite(p) else "" for t, p in zip(texts, chosen["p_cmh"], strict=True)]
    section.pictures.append(
        Picture(
            f"screening_odds{tag}",
            f"Odds ratios{name}",
            figures.forest(
                chosen,
                labels,
                "Mantel-Haenszel odds ratio, assisted over solo",
                ratio=True,
                texts=texts,
            ),
            "Odds of a hit, assisted over solo, stratified by reader, with 95% CI; p: "
            "Cochran-Mantel-Haenszel without correction.",
        )
    )
    seconds = reads.groupby(["organ", "reader", "arm"], as_index=False)["seconds"].sum()
    section.tables.append(
        Table(
            f"screening_throughput{tag}",
            f"Throughput{name}",
            screening.throughput(counts, seconds),
            (
                "Cases read in the time given, mean a reader. p_poisson takes the counts as Poisson "
                "(conditional binomial test); p_readers is the paired t over readers. It says "
                "something only where the time ran out before the cases.",
            ),
        )
    )


def _positives(export: Export, reads: pd.DataFrame) -> pd.DataFrame | None:
    """How many positives each reader was allocated, by organ and arm."""
    listed = export.allocation[export.allocation["part"].isin(reads["part"].unique())]
    if listed.empty:
        return None
    truth = export.cases.drop_duplicates(["case", "organ"])[["case", "organ", "positive"]]
    known = listed.drop(columns=["position"]).merge(truth, on=["case", "organ"], how="left")
    counts = known.groupby(["organ", "reader", "arm"], as_index=False)["positive"].sum()
    return counts.rename(columns={"positive": "positives"})


def areas_section(counted: pd.DataFrame) -> Section | None:
    """Areas under the ROC curve and the multi-reader multi-case test."""
    reads = counted[(counted["task"] == "screen") & counted["positive"].notna()]
    if reads.empty:
        return None
    section = Section("areas", "ROC analysis")
    scored = reads.dropna(subset=["score"])
    if scored.empty or scored["score"].nunique() < 3:
        section.not_done.append(
            "No area under the ROC curve: it needs a graded score (0-100) beside yes and no. Ask for "
            "one in the protocol."
        )
        return section
    areas = roc.reader_areas(scored)
    section.tables.append(
        Table(
            "areas",
            "Area under the ROC curve of each reader",
            areas,
            ("DeLong's interval; not estimable where every positive outranks every negative.",),
        )
    )
    differences = roc.area_differences(areas)
    if len(differences):
        section.tables.append(
            Table(
                "area_differences",
                "Assisted minus solo",
                differences,
                ("t over readers (df = readers - 1).",),
            )
        )
    section.pictures.append(
        Picture(
            "roc",
            "ROC curves",
            figures.roc_curves(scored),
            "Empirical ROC curves of each reader; dashed: solo, solid: AI-assisted.",
        )
    )
    frame, reasons = roc.mrmc(scored)
    section.not_done += reasons
    if len(frame):
        section.tables.append(
            Table(
                "obuchowski_rockette",
                "Obuchowski-Rockette",
                frame,
                ("Random readers and cases, DeLong covariances, degrees of freedom after Hillis.",),
            )
        )
    return section
