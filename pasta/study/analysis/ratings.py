"""Ratings of synthetic cases: realism beside real ones, consistency of image and text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from pasta.study.analysis.estimates import mean_of, proportion_of, random_intercept
from pasta.study.analysis.roc import components
from pasta.study.analysis.tables import rows

if TYPE_CHECKING:
    from pasta.study.analysis.export import Export

_HIGH = 4  # of 5: "highly realistic", "highly accurate" in the paper's words


def ratings(export: Export, task: str) -> pd.DataFrame:
    """Collect the Likert answers of one task, complete reads only.

    Returns:
        Columns part, organ, reader, level, case, question, rating, lesion (the case's group, else
        the organ) and source.
    """
    reads = export.reads
    done = reads[
        (reads["task"] == task) & (reads["status"] == "complete") & (reads["training"] != 1)
    ]
    keys = ["reader", "part", "organ", "arm", "case"]
    likert = export.answers[export.answers["type"].isin(["likert", "score"])]
    found = likert.merge(done[[*keys, "level"]], on=keys)
    found = found.assign(rating=pd.to_numeric(found["value"], errors="coerce"))
    about = export.cases.drop_duplicates(["case", "organ"])[["case", "organ", "source", "group"]]
    found = found.merge(about, on=["case", "organ"], how="left").fillna({"source": "", "group": ""})
    found = found.dropna(subset=["rating"])
    return found.assign(lesion=found["group"].where(found["group"] != "", found["organ"]))


def realism(found: pd.DataFrame) -> pd.DataFrame:
    """Average realism by lesion and source as in Fig. 5b; the interval is over cases.

    A case's rating is the mean of its readers, so that readers of one case are not counted as
    independent.
    """
    records: list[dict[str, Any]] = []
    for (lesion, source), group in found.groupby(["lesion", "source"], sort=True):
        records += _mean_and_share(group, {"lesion": lesion, "source": source})
    return rows(records, "lesion source measure value low high unit n n_of n_ratings n_readers")


def _mean_and_share(group: pd.DataFrame, keys: dict[str, Any]) -> list[dict[str, Any]]:
    mean = mean_of(group.groupby("case")["rating"].mean())
    about = {"n_ratings": len(group), "n_readers": group["reader"].nunique()}
    high = proportion_of(int((group["rating"] >= _HIGH).sum()), len(group))
    return [
        keys
        | about
        | {
            "measure": "mean rating",
            "value": mean.value,
            "low": mean.low,
            "high": mean.high,
            "unit": "of 5",
            "n": mean.n,
            "n_of": "cases",
        },
        keys
        | about
        | {
            "measure": f"rated {_HIGH} or more",
            "value": 100 * high.value,
            "low": 100 * high.low,
            "high": 100 * high.high,
            "unit": "%",
            "n": high.n,
            "n_of": "ratings",
        },
    ]


def told_apart(found: pd.DataFrame) -> pd.DataFrame:
    """Tell whether readers rate real cases above synthetic ones.

    Returns:
        By lesion, and over all: difference of mean ratings (real minus synthetic, mixed model with
        the case random), and the chance that a real case is rated above a synthetic one (0.5:
        they cannot be told apart), the mean over readers.
    """
    records: list[dict[str, Any]] = []
    groups = [("all", found), *((str(k), g) for k, g in found.groupby("lesion", sort=True))]
    for lesion, group in groups:
        if set(group["source"]) < {"real", "synthetic"}:
            continue
        frame = group.assign(real=(group["source"] == "real").astype(float))
        difference = random_intercept(frame, "rating", ["real"], "case", ["reader"])
        records.append(
            {
                "lesion": lesion,
                "measure": "real minus synthetic",
                "value": difference.value,
                "low": difference.low,
                "high": difference.high,
                "unit": "of 5",
                "n": frame["case"].nunique(),
                "n_of": "cases",
                "p": difference.p,
            }
        )
        areas = [components(g["rating"], g["real"] == 1)[0] for _, g in frame.groupby("reader")]
        mean = mean_of(areas)
        records.append(
            {
                "lesion": lesion,
                "measure": "chance that real is rated above synthetic",
                "value": mean.value,
                "low": mean.low,
                "high": mean.high,
                "unit": "AUC",
                "n": mean.n,
                "n_of": "readers",
                "p": mean_of([a - 0.5 for a in areas]).p,
            }
        )
    return rows(records, "lesion measure value low high unit n n_of p")


def consistency(found: pd.DataFrame) -> pd.DataFrame:
    """Average the agreement of image and text by lesion and attribute, and over all, as in Fig. 5c."""
    records: list[dict[str, Any]] = []
    for lesion, group in found.groupby("lesion", sort=True):
        records += _mean_and_share(group, {"lesion": lesion, "question": "all"})
        for question, part in group.groupby("question", sort=True):
            records += _mean_and_share(part, {"lesion": lesion, "question": question})
    return rows(records, "lesion question measure value low high unit n n_of n_ratings n_readers")
