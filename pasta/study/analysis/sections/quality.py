"""Masks and report attributes against their reference; agreement between readers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from pasta.study.analysis import agreement, figures, quality, ratings
from pasta.study.analysis.estimates import proportion_of
from pasta.study.analysis.sections.flow import of_counted, wide
from pasta.study.analysis.tables import Picture, Section, Table

if TYPE_CHECKING:
    from pasta.study.analysis.export import Export


def masks_section(export: Export, counted: pd.DataFrame) -> Section | None:
    """Masks against the reference."""
    masks = of_counted(export.masks, counted)
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
    if masks["dice"].isna().all():  # no reference at all, or all masks and references are empty
        return section
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
    attributes = of_counted(export.attributes, counted)
    attributes = attributes[attributes["reference"] != ""]
    masks = of_counted(export.masks, counted)
    if attributes.empty and masks.empty:
        return None
    section = Section("reports", "Report attributes against the reference")
    accuracies = quality.report_accuracy(attributes)
    for level in sorted({*masks["level"], *accuracies["level"]}):
        section.tables.append(
            wide(
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
    attributes = of_counted(export.attributes, counted)
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
