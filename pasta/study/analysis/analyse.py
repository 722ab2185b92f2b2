"""The whole analysis of an export: which reads count, and every section of the report."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pandas as pd

from pasta import __version__
from pasta.errors import PastaError
from pasta.study.analysis import (
    agreement,
    behaviour,
    checklists,
    figures,
    quality,
    ratings,
    roc,
    screening,
    times,
)
from pasta.study.analysis.tables import Picture, Section, Table, rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pasta.study.analysis.export import Export

CIRCULAR = (
    "Reads are treated as independent within a reader, though readers share cases; the clustered "
    "p (logistic model, readers fixed, errors clustered by case) allows for that."
)


class AnalysisError(PastaError, ValueError):
    """The study must not or cannot be analysed."""


@dataclass(frozen=True, slots=True)
class Analysis:
    """Everything that a report shows.

    Attributes:
        title: of the study.
        facts: about study, lock and software, in order, for people.
        exploratory: whether the study was not locked.
        sections: in order.
    """

    title: str
    facts: dict[str, str]
    exploratory: bool
    sections: tuple[Section, ...]


@dataclass(frozen=True, slots=True)
class Stage:
    """One section's name and what makes it."""

    name: str
    make: Callable[[], Section | None]


def analyse(export: Export, *, exploratory: bool = False, seed: int = 0) -> Analysis:
    """Analyse a study.

    Args:
        export: as read.
        exploratory: allow a study that was never locked; the report says so on its first line.
        seed: of the bootstraps.

    Raises:
        AnalysisError: if the study was not locked or something was changed after it, and this is not
            exploratory; or nothing was read.
    """
    stages = list(plan(export, exploratory=exploratory, seed=seed))
    return assemble(export, [stage.make() for stage in stages])


def plan(export: Export, *, exploratory: bool, seed: int) -> Iterator[Stage]:
    """List the sections to make, so that a command can show how far it is.

    Raises:
        AnalysisError: as for `analyse`.
    """
    if not export.locked and not exploratory:
        msg = (
            f"study {export.study_id}: was not locked before it was read, so its results could have "
            "been steered. Lock a study first, or analyse it with --exploratory."
        )
        raise AnalysisError(msg)
    if export.problems and not exploratory:
        msg = (
            f"study {export.study_id}: {export.problems[0]} Mend it and export again, or analyse with "
            "--exploratory."
        )
        raise AnalysisError(msg)
    counted = reads_that_count(export)
    if counted.empty:
        msg = (
            f"study {export.study_id}: holds no complete read outside training; nothing to analyse."
        )
        raise AnalysisError(msg)
    return iter(
        (
            Stage("flow", lambda: flow(export)),
            Stage("screening", lambda: screening_section(export, counted, seed)),
            Stage("areas", lambda: areas_section(counted)),
            Stage("times", lambda: times_section(counted, seed)),
            Stage("masks", lambda: masks_section(export, counted)),
            Stage("reports", lambda: reports_section(export, counted)),
            Stage("agreement", lambda: agreement_section(export, counted, seed)),
            Stage("reliance", lambda: reliance_section(export, counted)),
            Stage("learning", lambda: learning_section(counted)),
            Stage("ratings", lambda: ratings_section(export)),
        )
    )


def assemble(export: Export, made: list[Section | None]) -> Analysis:
    """Put the sections together and add the checklists."""
    sections = [section for section in made if section is not None]
    sections.append(checklist_section(export, {s.name for s in sections}))
    study = export.protocol.get("study", {})
    counted = reads_that_count(export)
    facts = {
        "Study": export.study_id,
        "Locked before reading": "yes" if export.locked else "NO: exploratory",
        "Problems at export": " ".join(export.problems) or "none",
        "Readers": _readers_words(counted),
        "Reads that count": f"{len(counted)} of {len(export.reads)} (training and unfinished "
        "reads are listed under Flow)",
        "Export (SHA-256)": export.sha256,
        "Software": _software(),
    }
    return Analysis(
        str(study.get("title") or export.study_id),
        facts,
        not export.locked or bool(export.problems),
        tuple(sections),
    )


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
        CIRCULAR,
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
            _wide(
                f"screening_table2{tag}",
                f"Performance and throughput{name}",
                printed.loc[~lines, summary],
                ("Laid out as Supplementary Table 2; means over readers, printed half-up.",),
            ),
            _wide(
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


def times_section(counted: pd.DataFrame, seed: int) -> Section | None:
    """Times and their reduction."""
    reads = timed_reads(counted)
    if reads.empty:
        return None
    section = Section("times", "Reading times", notes=list(times.CAVEATS))
    found = times.reductions(reads, seed)
    section.tables.append(
        _wide(
            "times_table4",
            "Times by reader",
            times.paper_table(reads, found),
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


def masks_section(export: Export, counted: pd.DataFrame) -> Section | None:
    """Masks against the reference."""
    masks = _of_counted(export.masks, counted, "segment")
    if masks.empty:
        return None
    section = Section("masks", "Masks against the reference", notes=[quality.INCORPORATION])
    section.notes.append(
        "Dice is 0 where just one of mask and reference is empty, and undefined (n_undefined) where "
        "both are. NSD: surface Dice within 2 mm. HD95: 95th percentile of the surface distances."
    )
    section.tables += [
        Table(
            "masks_means",
            "Dice, NSD and HD95 of each reader",
            quality.mask_means(masks),
            ("t interval over masks.",),
        ),
        Table(
            "masks_improvements",
            "Assisted against solo",
            quality.mask_improvements(masks),
            (
                "relative %: change of pooled means, as Suppl. Table 5; points: 100 Dice, from the "
                "default model (readers fixed, cases random or clustered), and mm for HD95. p_paper: "
                "reader random, Wald z.",
            ),
        ),
    ]
    table = section.tables[1].frame
    p = table[(table["measure"] == "dice") & (table["unit"] == "points")]
    texts = {
        (r["organ"], r["level"]): figures.p_line(r["p_paper"], r["p_default"])
        for r in p.to_dict("records")
    }
    section.pictures.append(
        Picture(
            "dice",
            "Dice against the reference",
            figures.boxes(masks, "dice", "Dice", texts),
            "Dice of each mask with the reference, by level and arm. Box: median and quartiles; "
            "whiskers: within 1.5 IQR; points: masks.",
        )
    )
    return section


def reports_section(export: Export, counted: pd.DataFrame) -> Section | None:
    """Report attributes against the reference; Suppl. Table 5 of juniors."""
    attributes = _of_counted(export.attributes, counted, "report")
    attributes = attributes[attributes["reference"] != ""]
    masks = _of_counted(export.masks, counted, "segment")
    if attributes.empty and masks.empty:
        return None
    section = Section("reports", "Report attributes against the reference")
    accuracies = quality.report_accuracy(attributes)
    for level in sorted({*masks["level"], *accuracies["level"]}):
        section.tables.append(
            _wide(
                f"quality_table5_{level}",
                f"{level.capitalize()} readers against the reference",
                quality.paper_table(masks, accuracies, level),
                (
                    "Dice and accuracy are means (95% CI); accuracy is the share of right attributes "
                    "of a case.",
                ),
            )
        )
    if attributes.empty:
        section.not_done.append("No report attribute has a reference value.")
        return section
    silent = len(counted[counted["task"] == "report"]) - len(
        attributes[["reader", "part", "organ", "arm", "case"]].drop_duplicates()
    )
    if silent > 0:
        section.notes.append(
            f"{silent} complete reports have no lesion, or no reference, and are in no accuracy."
        )
    section.notes.append(
        "Accuracy of a case: over shape, density, heterogeneity, surface and invasion, as the paper. An "
        "attribute left blank is wrong. The reference stands at the largest lesion."
    )
    scores = quality.attribute_scores(attributes)
    section.tables += [
        Table(
            "attributes",
            "Accuracy and macro-F1 by attribute",
            scores,
            (
                "Accuracy: Wilson interval. Macro-F1: mean over the options that occur. AI draft: of "
                "the drafts shown in the assisted arm.",
            ),
        ),
        Table(
            "accuracy_improvements",
            "Accuracy, assisted against solo",
            quality.accuracy_improvements(accuracies),
            ("Over cases, as Suppl. Table 5.",),
        ),
        Table(
            "attributes_tests",
            "Odds of a right attribute, assisted over solo",
            quality.attribute_tests(attributes),
            ("Logistic model, readers and attributes fixed, errors clustered by case.",),
        ),
    ]
    shown = scores[scores["measure"] == "accuracy"]
    for level in sorted(shown["level"].unique()):
        of_level = shown[shown["level"] == level]
        merged = of_level.groupby(["attribute", "arm"], as_index=False, sort=True).apply(
            lambda g: pd.Series(_weighted(g)), include_groups=False
        )
        section.pictures.append(
            Picture(
                f"attributes_{level}",
                f"Accuracy by attribute, {level} readers",
                figures.share_bars(
                    merged.rename(columns={"attribute": "organ"}), "arm", "Accuracy (%)"
                ),
                "Share of attributes equal to the reference, all organs together.",
            )
        )
    section.notes.append(quality.INCORPORATION)
    return section


def _weighted(group: pd.DataFrame) -> dict[str, float]:
    from pasta.study.analysis.estimates import proportion_of

    total = int(group["n"].sum())
    found = proportion_of(round(float((group["value"] * group["n"]).sum()) / 100), total)
    return {"value": 100 * found.value, "low": 100 * found.low, "high": 100 * found.high}


def agreement_section(export: Export, counted: pd.DataFrame, seed: int) -> Section | None:
    """Agreement between readers on shared cases: decisions, attributes, ratings."""
    section = Section("agreement", "Agreement between readers")
    screened = counted[(counted["task"] == "screen") & counted["decision"].notna()]
    if len(screened):
        frame = screened.assign(unit=screened["case"], code=screened["decision"], scale="nominal")
        section.tables.append(
            Table(
                "agreement_screening",
                "Screening decisions",
                agreement.agreement(frame, ["organ", "arm"], seed),
            )
        )
    attributes = _of_counted(export.attributes, counted, "report")
    if len(attributes):
        coded = [
            agreement.code_of(a, v)
            for a, v in zip(attributes["attribute"], attributes["value"], strict=True)
        ]
        frame = attributes.assign(
            unit=attributes["organ"]
            + "/"
            + attributes["case"]
            + "/"
            + attributes["lesion"].astype(str),
            code=[code for code, _ in coded],
            scale=[scale for _, scale in coded],
        )
        if frame["code"].notna().any():
            section.tables.append(
                Table(
                    "agreement_attributes",
                    "Report attributes",
                    agreement.agreement(frame, ["attribute", "arm"], seed),
                )
            )
    for task in ("realism", "consistency"):
        found = ratings.ratings(export, task)
        if len(found):
            frame = found.assign(
                unit=found["case"] + "/" + found["question"],
                code=found["rating"],
                scale="ordinal",
                task=task,
            )
            section.tables.append(
                Table(
                    f"agreement_{task}",
                    f"Ratings: {task}",
                    agreement.agreement(frame, ["task", "question"], seed),
                )
            )
    if not section.tables:
        return None
    section.notes.append(
        "Alpha: 1 full agreement, 0 that of chance; interval: bootstrap over units (1,000). It is not "
        "estimable where readers share no case or use one value only. Where most values are the same, "
        "alpha and kappa are low however often readers agree."
    )
    return section


def reliance_section(export: Export, counted: pd.DataFrame) -> Section | None:
    """How far readers follow the AI."""
    section = Section("reliance", "Reliance on the AI (automation bias)")
    screened = counted[(counted["task"] == "screen") & counted["positive"].notna()]
    decided = behaviour.decisions_with_ai(screened)
    if len(decided):
        section.tables.append(
            Table(
                "reliance_screening",
                "Screening decisions",
                decided,
                (
                    "Following a wrong AI is automation bias. Errors on the cases where the AI was "
                    "wrong, assisted beside solo, tell what it costs.",
                ),
            )
        )
        follow = decided[decided["measure"].str.startswith("AI followed")]
        for level in sorted(follow["level"].unique()):
            section.pictures.append(
                Picture(
                    f"reliance_{level}",
                    f"How often the AI was followed, {level} readers",
                    figures.share_bars(
                        follow[follow["level"] == level], "measure", "AI followed (%)"
                    ),
                    "Share of assisted decisions equal to the AI's, with Wilson's 95% CI.",
                )
            )
        switched, why = behaviour.switches(export.events, screened)
        if why:
            section.not_done.append(why)
        else:
            section.tables.append(Table("reliance_switches", "Decisions changed", switched))
    drafts = behaviour.attributes_with_ai(_of_counted(export.attributes, counted, "report"))
    if len(drafts):
        section.tables.append(Table("reliance_attributes", "Report drafts", drafts))
    edits = behaviour.mask_edits(_of_counted(export.masks, counted, "segment"), counted)
    if len(edits):
        section.tables.append(Table("reliance_masks", "Edits of masks", edits))
    if not section.tables:
        return None
    return section


def learning_section(counted: pd.DataFrame) -> Section | None:
    """Time and errors by position in the list."""
    timed = timed_reads(counted)
    if timed.empty:
        return None
    section = Section("learning", "Learning curves")
    section.tables.append(
        Table(
            "learning",
            "Change of time with practice",
            behaviour.learning(timed),
            ("Least squares of log time on log2 of the position, HC3; negative: faster.",),
        )
    )
    screened = timed[
        (timed["task"] == "screen") & timed["decision"].notna() & timed["positive"].notna()
    ]
    if len(screened):
        section.tables.append(
            Table(
                "learning_errors",
                "Screening errors, first and second half",
                behaviour.halves(screened),
            )
        )
    for part, group in timed.groupby("part", sort=True):
        section.pictures.append(
            Picture(
                f"learning_{part}",
                f"Time by position: {part}",
                figures.learning_curves(group),
                "Points: reads; lines: lowess of log time. Log axis.",
            )
        )
    section.notes.append(
        "If all readers read one arm first, practice and fatigue cannot be told from the arm; the "
        "order of the blocks is in the protocol."
    )
    return section


def ratings_section(export: Export) -> Section | None:
    """Realism and consistency of synthetic cases."""
    section = Section("ratings", "Ratings of synthetic cases")
    real = ratings.ratings(export, "realism")
    if len(real):
        table = ratings.realism(real)
        section.tables += [
            Table(
                "realism",
                "Realism by lesion and source",
                table,
                ("Mean over cases of the mean over readers; t interval over cases.",),
            ),
            Table(
                "realism_apart",
                "Real against synthetic",
                ratings.told_apart(real),
                ("0.5: readers cannot tell them apart. p of the chance: t over readers.",),
            ),
        ]
        section.pictures.append(
            Picture(
                "realism",
                "Realism",
                figures.rating_bars(table[table["measure"] == "mean rating"], "Realism (1 to 5)"),
                "Mean realism of real and synthetic cases with 95% CI over cases.",
            )
        )
    consistent = ratings.ratings(export, "consistency")
    if len(consistent):
        table = ratings.consistency(consistent)
        section.tables.append(
            Table(
                "consistency",
                "Agreement of image and text, by lesion and attribute",
                table,
                ("Mean over cases of the mean over readers; t interval over cases.",),
            )
        )
        chosen = table[(table["measure"] == "mean rating") & (table["question"] == "all")]
        section.pictures.append(
            Picture(
                "consistency",
                "Agreement of image and text",
                figures.rating_bars(chosen.drop(columns="question"), "Consistency (1 to 5)"),
                "Mean over all attributes with 95% CI over cases.",
            )
        )
    return section if section.tables else None


def checklist_section(export: Export, done: set[str]) -> Section:
    """DECIDE-AI and CLAIM, filled as far as the export knows."""
    facts = _checklist_facts(export, done)
    return Section(
        "checklists",
        "Reporting checklists (skeleton)",
        [
            Table("decide_ai", "DECIDE-AI", checklists.filled(checklists.DECIDE_AI, facts)),
            Table("claim", "CLAIM (2020)", checklists.filled(checklists.CLAIM, facts)),
        ],
        notes=[
            "Items are abridged in our own words: compare with the published checklists before "
            "submission. What the export knows is filled in; the rest is for the authors."
        ],
    )


def _checklist_facts(export: Export, done: set[str]) -> dict[str, str]:
    counted = reads_that_count(export)
    reads, cases = export.reads, export.cases
    parts = export.protocol.get("parts", [])
    unfinished = int(((reads["training"] != 1) & (reads["status"] != "complete")).sum())
    tasks = ", ".join(sorted(counted["task"].unique()))
    models = (export.manifest.get("lock") or {}).get("weights", {})
    return {
        "lock": "Protocol and allocation were locked by SHA-256 before the first read; hashes are in "
        "the export's manifest."
        if export.locked
        else "The study was NOT locked: exploratory.",
        "cases": f"{cases['case'].nunique()} cases ({_positives_words(cases)}). Reasons for their "
        "number: see `pasta study power`.",
        "readers": _readers_words(counted)
        + ". Recruitment and experience in years are to be added.",
        "training": f"{int((reads['training'] == 1).sum())} training reads came before the reads "
        "that count and are not analysed.",
        "models": f"PASTA-AID {__version__}"
        + (
            f"; models: {', '.join(sorted(models))} (SHA-256 in the manifest)."
            if models
            else "; model hashes are not in the manifest."
        ),
        "ai": "; ".join(f"{p.get('name')}: {', '.join(p.get('ai', [])) or 'none'}" for p in parts)
        + ". Computed before the reading, shown in the assisted arm only."
        if parts
        else "",
        "setting": "3D Slicer with the PASTA-AID extension in study mode; cases are handed out and "
        "timed by the server.",
        "arms": "Solo against AI-assisted reading; the reader decides in both arms.",
        "outcomes": f"Tasks: {tasks}. Recall, precision, F1, specificity, cases read, time a case, "
        "Dice, NSD and HD95, accuracy and macro-F1 of attributes, as far as the tasks have them.",
        "methods": "Named below every table of this report, with software versions at the top.",
        "sensitivity": "Other clocks, without flagged reads, without outliers: table "
        "times_sensitivity; tests with correction, exact, clustered: table screening_tests.",
        "incidents": f"Crashes and interruptions: {int((reads['interrupted'] == 1).sum())} reads; "
        f"suspends of the machine: {int(reads['suspends'].fillna(0).sum())}. Errors of the AI: "
        "section Reliance.",
        "retrospective": "Retrospective cases read in a simulated setting; no patient was affected.",
        "missing": f"{unfinished} reads were not completed; table flow counts them by reader and "
        "reason. No value is imputed.",
        "exposure": f"{int((counted['arm'] == 'assisted').sum())} assisted reads that count.",
        "main": "Sections Screening, Reading times, Masks, Report attributes.",
        "subgroups": "By organ and reader level throughout.",
        "changes": "None that the lock would have missed: protocol, allocation and weights are "
        "compared with it."
        if export.locked
        else "",
        "reliance": "Section Reliance: follow rates with the AI right and wrong, edits."
        if "reliance" in done
        else "",
        "learning": "Section Learning curves.",
        "agreement": "Section Agreement between readers." if "agreement" in done else "",
        "limits": f"{counted['reader'].nunique()} readers; caveats are printed in each section.",
        "data": "The export holds de-identified reads, attributes, events and masks.",
        "dictionary": "dictionary.csv of the export.",
        "deidentified": "Readers by pseudonym, cases by keyed code; the export holds no identifiers.",
        "allocation": "By case, from one seed; "
        + "; ".join(f"{p.get('name')}: {p.get('allocation', '')}" for p in parts)
        + ".",
        "software": _software(),
    }


def _positives_words(cases: pd.DataFrame) -> str:
    known = cases.drop_duplicates(["case", "organ"])["positive"].dropna()
    return f"{int((known == 1).sum())} positive, {int((known == 0).sum())} negative"


def _readers_words(reads: pd.DataFrame) -> str:
    levels = reads.drop_duplicates("reader").groupby("level").size()
    words = ", ".join(f"{count} {level}" for level, count in levels.items())
    return f"{int(levels.sum())} ({words})"


def _software() -> str:
    names = ("numpy", "scipy", "pandas", "statsmodels", "matplotlib")
    return ", ".join([f"PASTA-AID {__version__}", *(f"{n} {version(n)}" for n in names)])


def _of_counted(frame: pd.DataFrame, counted: pd.DataFrame, task: str) -> pd.DataFrame:
    """Keep the rows whose read counts. Masks and attributes of one reading share its keys.

    A part may yield both, so the task is looked for only where one case has reads of two parts.
    """
    keys = ["reader", "part", "organ", "arm", "case"]
    there = counted[keys].drop_duplicates()
    return frame.merge(there, on=keys) if task else frame


def _wide(name: str, title: str, frame: pd.DataFrame, notes: tuple[str, ...] = ()) -> Table:
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
