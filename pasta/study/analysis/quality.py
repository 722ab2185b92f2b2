"""Masks against the reference, and report attributes against theirs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pasta.report.attributes import ATTRIBUTES, PREDICTED
from pasta.study.analysis.estimates import (
    Estimate,
    clustered_logit,
    mean_of,
    mixed_model,
    nothing,
    proportion_of,
    random_intercept,
    robust_regression,
)
from pasta.study.analysis.printed import half_up, interval_text, p_text
from pasta.study.analysis.tables import rows
from pasta.study.analysis.times import pooled_improvement

if TYPE_CHECKING:
    from collections.abc import Sequence

MASK_MEASURES = {"dice": "Dice", "nsd_2mm": "NSD at 2 mm", "hd95_mm": "mm"}
_WITH_OPTIONS = [attribute.name for attribute in ATTRIBUTES if attribute.options]
INCORPORATION = (
    "If those who confirmed the reference had seen the AI's masks or drafts, agreement with it "
    "favours the assisted arm (incorporation bias)."
)


def mask_means(masks: pd.DataFrame) -> pd.DataFrame:
    """Average Dice, NSD and HD95 against the reference by part, organ, reader and arm."""
    return _means(masks, MASK_MEASURES)


def _means(frame: pd.DataFrame, measures: dict[str, str]) -> pd.DataFrame:
    records: list[dict[str, Any]] = []
    by = ["part", "organ", "level", "reader", "arm"]
    for keys, group in frame.groupby(by, sort=True):
        for measure, unit in measures.items():
            found = mean_of(group[measure])
            records.append(
                dict(zip(by, keys, strict=True))
                | {
                    "measure": measure,
                    "value": found.value,
                    "low": found.low,
                    "high": found.high,
                    "unit": unit,
                    "n": found.n,
                    "n_undefined": int(group[measure].isna().sum()),
                }
            )
    return rows(records, "part organ level reader arm measure value low high unit n n_undefined")


def mask_improvements(masks: pd.DataFrame) -> pd.DataFrame:
    """Compare masks over arms by part, organ and level: relative % and points, both models."""
    return _improvements(masks, MASK_MEASURES)


def _improvements(frame: pd.DataFrame, measures: dict[str, str]) -> pd.DataFrame:
    records: list[dict[str, Any]] = []
    for (part, organ, level), group in frame.groupby(["part", "organ", "level"], sort=True):
        for measure in measures:
            known = group.dropna(subset=[measure])
            known = known.assign(
                assisted=(known["arm"] == "assisted").astype(float), outcome=known[measure]
            )
            keys = {"part": part, "organ": organ, "level": level, "measure": measure}
            solo, assisted = (known.loc[known["assisted"] == a, "outcome"] for a in (0.0, 1.0))
            if not len(solo) or not len(assisted):
                continue
            replica = mixed_model(known, "outcome", ["assisted"], "reader")
            default = _default(known)
            scale, unit = (1.0, "mm") if measure == "hd95_mm" else (100.0, "points")
            common = keys | {
                "solo": float(solo.mean()),
                "assisted": float(assisted.mean()),
                "means_unit": measures[measure],
                "n": len(known),
                "n_readers": known["reader"].nunique(),
                "p_paper": replica.p,
                "p_default": default.p,
                "singular": "yes" if replica.singular else "",
            }
            relative = pooled_improvement(list(solo), list(assisted)) if solo.mean() else math.nan
            records.append(
                common
                | {"value": relative, "low": math.nan, "high": math.nan, "unit": "relative %"}
            )
            records.append(
                common
                | {
                    "value": scale * default.value,
                    "low": scale * default.low,
                    "high": scale * default.high,
                    "unit": unit,
                }
            )
    columns = (
        "part organ level measure solo assisted means_unit value low high unit n n_readers p_paper p_default "
        "singular"
    )
    return rows(records, columns)


def _default(frame: pd.DataFrame) -> Estimate:
    """Difference of arms, readers fixed, cases random or clustered; in the outcome's own unit."""
    if frame["assisted"].nunique() < 2:
        return nothing("one arm", len(frame))
    if frame["case"].duplicated(keep=False).mean() >= 0.2:
        found = random_intercept(frame, "outcome", ["assisted"], "case", ["reader"])
        if math.isfinite(found.low):
            return found
    return robust_regression(frame, "outcome", ["assisted"], "case", ["reader"])


def graded(attributes: pd.DataFrame) -> pd.DataFrame:
    """Keep attributes with options and a reference; add `right` (0 or 1). A blank value is wrong."""
    known = attributes[
        (attributes["reference"] != "") & attributes["attribute"].isin(_WITH_OPTIONS)
    ]
    return known.assign(right=(known["value"] == known["reference"]).astype(float))


def report_accuracy(attributes: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of each read: the share of the five attributes that equal the reference.

    Returns:
        One row per part, organ, level, reader, arm and case, with `accuracy` in 0-1 and `n`, how
        many attributes it is over.
    """
    by = ["part", "organ", "level", "reader", "arm", "case"]
    return (
        graded(attributes[attributes["attribute"].isin(PREDICTED)])
        .groupby(by, as_index=False, sort=True)
        .agg(accuracy=("right", "mean"), n_attributes=("right", "size"))
    )


def accuracy_means(accuracies: pd.DataFrame) -> pd.DataFrame:
    """Average the reads' accuracies by part, organ, reader and arm."""
    return _means(accuracies, {"accuracy": "share"})


def accuracy_improvements(accuracies: pd.DataFrame) -> pd.DataFrame:
    """Compare accuracy over arms as `mask_improvements` does."""
    return _improvements(accuracies, {"accuracy": "share"})


def macro_f1(values: Sequence[str], references: Sequence[str]) -> float:
    """Average the F1 of all options that occur in either list.

    >>> round(macro_f1(["a", "a", "b"], ["a", "b", "b"]), 3)
    0.667
    """
    said, true = np.asarray(values, dtype=object), np.asarray(references, dtype=object)
    scores = []
    for option in sorted(set(said) | set(true)):
        hits = int(((said == option) & (true == option)).sum())
        scores.append(2 * hits / (int((said == option).sum()) + int((true == option).sum())))
    return float(np.mean(scores)) if scores else math.nan


def attribute_scores(attributes: pd.DataFrame) -> pd.DataFrame:
    """Accuracy and macro-F1 by organ, level, attribute and arm, and those of the AI's draft."""
    records: list[dict[str, Any]] = []
    known = graded(attributes)
    for (part, organ, level, attribute), group in known.groupby(
        ["part", "organ", "level", "attribute"], sort=True
    ):
        keys = {"part": part, "organ": organ, "level": level, "attribute": attribute}
        readings = {arm: g["value"] for arm, g in group.groupby("arm", sort=True)}
        drafted = group[(group["arm"] == "assisted") & (group["ai_value"] != "")]
        drafted = drafted.drop_duplicates(["case", "lesion"])
        if len(drafted):
            readings["AI draft"] = drafted["ai_value"]
        for who, values in readings.items():
            reference = group.loc[values.index, "reference"]
            right = proportion_of(int((values == reference).sum()), len(values))
            records.append(
                keys
                | {
                    "arm": who,
                    "measure": "accuracy",
                    "value": 100 * right.value,
                    "low": 100 * right.low,
                    "high": 100 * right.high,
                    "unit": "%",
                    "n": right.n,
                }
            )
            records.append(
                keys
                | {
                    "arm": who,
                    "measure": "macro-F1",
                    "value": 100 * macro_f1(list(values), list(reference)),
                    "low": math.nan,
                    "high": math.nan,
                    "unit": "%",
                    "n": len(values),
                }
            )
    return rows(records, "part organ level attribute arm measure value low high unit n")


def attribute_tests(attributes: pd.DataFrame) -> pd.DataFrame:
    """Odds ratio of a right attribute, assisted over solo, errors clustered by case."""
    records: list[dict[str, Any]] = []
    for (part, organ, level), group in graded(attributes).groupby(
        ["part", "organ", "level"], sort=True
    ):
        frame = group.assign(assisted=(group["arm"] == "assisted").astype(float))
        varied = frame.groupby("attribute")["right"].transform("nunique") > 1
        found = clustered_logit(
            frame[varied], "right", ["assisted"], "case", ["reader", "attribute"]
        )
        records.append(
            {
                "part": part,
                "organ": organ,
                "level": level,
                "measure": "right attribute",
                "value": math.exp(found.value),
                "low": math.exp(found.low),
                "high": math.exp(found.high),
                "unit": "odds ratio",
                "n": found.n,
                "p": found.p,
                "why": found.why,
            }
        )
    return rows(records, "part organ level measure value low high unit n p why")


def paper_table(masks: pd.DataFrame, accuracies: pd.DataFrame, level: str) -> pd.DataFrame:
    """Lay Dice and accuracy of one level out as Suppl. Table 5, relative % and points apart."""
    cells: dict[str, dict[tuple[str, str], str]] = {}
    below: dict[str, dict[tuple[str, str], str]] = {
        "p value (paper's mixed model)": {},
        "p value (default model)": {},
    }
    for frame, measure in ((masks, "dice"), (accuracies, "accuracy")):
        chosen = frame[frame["level"] == level] if len(frame) else frame
        if not len(chosen):
            continue
        means = _means(chosen, {measure: measure})
        for row in means.sort_values(["reader", "arm"], ascending=[True, False]).to_dict("records"):
            text = interval_text(row["value"], row["low"], row["high"], 3)
            line = f"{row['reader']} {row['arm']}"
            cells.setdefault(line, {})[row["organ"], measure] = f"{text}, n={row['n']}"
        for row in _improvements(chosen, {measure: measure}).to_dict("records"):
            key = (row["organ"], measure)
            line = f"Performance improvement ({row['unit']})"
            cells.setdefault(line, {})[key] = half_up(row["value"], 1)
            below["p value (paper's mixed model)"][key] = p_text(row["p_paper"])
            below["p value (default model)"][key] = p_text(row["p_default"])
    table = pd.DataFrame.from_dict(cells | below, orient="index")
    if len(table.columns):
        table.columns = pd.MultiIndex.from_tuples(table.columns)
        table = table.sort_index(axis=1)
    return table.fillna("")
