"""Screening: recall, precision and F1 of readers, their tests, and how much was read in time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import stats

from pasta.study.analysis.estimates import (
    Estimate,
    clustered_logit,
    holm,
    mean_of,
    proportion_of,
)
from pasta.study.analysis.mantel_haenszel import stratified_test
from pasta.study.analysis.printed import half_up, p_text
from pasta.study.analysis.tables import rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

COUNTS = ("tp", "tn", "fp", "fn")
MEASURES = ("recall", "precision", "f1", "specificity")
_TESTED = ("recall", "precision")  # the family that Holm's steps go over, as in Suppl. Table 2
_BOOTSTRAPS = 2000


def count_reads(reads: pd.DataFrame) -> pd.DataFrame:
    """Count decisions against the truth.

    Args:
        reads: screening reads that count: complete, with decision (0 or 1) and positive (0 or 1).

    Returns:
        One row per organ, reader and arm: organ, reader, level, arm, tp, tn, fp, fn.
    """
    said, true = reads["decision"] == 1, reads["positive"] == 1
    hits = {"tp": said & true, "tn": ~said & ~true, "fp": said & ~true, "fn": ~said & true}
    by = ["organ", "reader", "level", "arm"]
    return (
        reads[by]
        .assign(**{k: v.astype(int) for k, v in hits.items()})
        .groupby(by, as_index=False, sort=True)
        .sum()
    )


def _rate(counts: pd.DataFrame, measure: str) -> NDArray[np.float64]:
    tp, tn, fp, fn = (counts[name].to_numpy(dtype=float) for name in COUNTS)
    over, under = {
        "recall": (tp, tp + fn),
        "precision": (tp, tp + fp),
        "f1": (2 * tp, 2 * tp + fp + fn),
        "specificity": (tn, tn + fp),
    }[measure]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(under > 0, over / under, math.nan), dtype=float)


def reader_rates(counts: pd.DataFrame) -> pd.DataFrame:
    """Add recall, precision, f1 and specificity of each reader, in %, and the cases read.

    Recall is over the positives that were *read* (`recall_read`), as the paper computes it, though
    its Methods 6 say "relative to the total number of positive cases".
    """
    rates = {measure: 100 * _rate(counts, measure) for measure in MEASURES}
    read = counts[list(COUNTS)].sum(axis=1)
    return counts.assign(read=read, **rates)


def long_rates(counts: pd.DataFrame, allocated: pd.DataFrame | None = None) -> pd.DataFrame:
    """List each reader's rates one a row, with unit, n and Wilson interval.

    Args:
        counts: of `count_reads`.
        allocated: columns organ, reader, arm, positives: how many positives were on the list;
            adds `yield_of_allocated`, the positives found over those allocated.
    """
    records: list[dict[str, Any]] = []
    for row in counts.to_dict("records"):
        tp, tn, fp, fn = (int(row[name]) for name in COUNTS)
        pairs = {
            "recall_read": (tp, tp + fn),
            "precision": (tp, tp + fp),
            "specificity": (tn, tn + fp),
        }
        if allocated is not None:
            of = allocated[
                (allocated["organ"] == row["organ"])
                & (allocated["reader"] == row["reader"])
                & (allocated["arm"] == row["arm"])
            ]["positives"]
            if len(of):
                pairs["yield_of_allocated"] = (tp, int(of.iloc[0]))
        keys = {key: row[key] for key in ("organ", "reader", "level", "arm")}
        for name, (hits, total) in pairs.items():
            part = proportion_of(hits, total)
            records.append(
                keys
                | {
                    "measure": name,
                    "value": 100 * part.value,
                    "low": 100 * part.low,
                    "high": 100 * part.high,
                    "unit": "%",
                    "n": total,
                }
            )
        f1 = 100 * _rate(pd.DataFrame([row]), "f1")[0]
        records.append(
            keys
            | {
                "measure": "f1",
                "value": f1,
                "low": math.nan,
                "high": math.nan,
                "unit": "%",
                "n": 2 * tp + fp + fn,
            }
        )
    return rows(records, "organ reader level arm measure value low high unit n")


def averages(counts: pd.DataFrame) -> pd.DataFrame:
    """Average over readers (macro) and over reads (pooled), by organ, level and arm.

    A macro average takes the readers whose rate is estimable in every arm they have, so that the
    arms are averaged over the same readers; `n` counts them, `left_out` names the others.

    Returns:
        Columns organ, level ("all" too), measure, average, arm, value, low, high, unit, n, left_out.
        Macro intervals are t over readers, pooled ones Wilson's (none for F1).
    """
    records: list[dict[str, Any]] = []
    rates = reader_rates(counts)
    for (organ, level), group in _by_organ_and_level(rates):
        for measure in MEASURES:
            wide = group.pivot_table(
                index="reader", columns="arm", values=measure, dropna=False, aggfunc="first"
            )
            known = wide.dropna()
            for arm in _arms(group):
                of_arm = group[group["arm"] == arm]
                keys = {"organ": organ, "level": level, "measure": measure, "arm": arm}
                mean = mean_of(known[arm])
                left = ", ".join(sorted(set(wide.index) - set(known.index)))
                # with two readers t intervals leave the scale
                records.append(
                    keys
                    | {
                        "average": "macro",
                        "value": mean.value,
                        "low": float(np.clip(mean.low, 0, 100)),
                        "high": float(np.clip(mean.high, 0, 100)),
                        "unit": "%",
                        "n": mean.n,
                        "n_of": "readers",
                        "left_out": left,
                    }
                )
                pooled = _pooled(of_arm, measure)
                records.append(
                    keys
                    | {
                        "average": "pooled",
                        "value": 100 * pooled.value,
                        "low": 100 * pooled.low,
                        "high": 100 * pooled.high,
                        "unit": "%",
                        "n": pooled.n,
                        "n_of": "reads",
                        "left_out": "",
                    }
                )
    columns = "organ level measure average arm value low high unit n n_of left_out"
    return rows(records, columns)


def _pooled(counts: pd.DataFrame, measure: str) -> Estimate:
    sums = counts[list(COUNTS)].sum()
    if measure == "f1":
        value = float(_rate(pd.DataFrame([sums]), "f1")[0])
        return Estimate(value, n=int(sums["tp"] + sums["fp"] + sums["fn"]))
    other = {"recall": "fn", "precision": "fp", "specificity": "fp"}[measure]
    hit = "tn" if measure == "specificity" else "tp"
    return proportion_of(int(sums[hit]), int(sums[hit] + sums[other]))


def improvements(counts: pd.DataFrame, reads: pd.DataFrame | None, seed: int) -> pd.DataFrame:
    """Compare the arms: assisted minus solo of the macro averages, in points.

    Args:
        counts: of `count_reads`.
        reads: the reads behind them, for bootstraps over cases; None leaves those out.
        seed: of the bootstraps.

    Returns:
        By organ, level and measure: value in points with the t interval over readers and its p
        (df = readers - 1), and two bootstrap intervals: over cases, and over readers and cases.
    """
    records: list[dict[str, Any]] = []
    for (organ, level), group in _by_organ_and_level(reader_rates(counts)):
        drawn: dict[str, tuple[float, float, float, float]] = {}
        if reads is not None:
            chosen = reads[(reads["organ"] == organ) & reads["reader"].isin(group["reader"])]
            drawn = _bootstraps(chosen, np.random.default_rng(seed))
        for measure in MEASURES:
            wide = group.pivot_table(
                index="reader", columns="arm", values=measure, dropna=False, aggfunc="first"
            )
            if not {"solo", "assisted"} <= set(wide.columns):
                continue
            known = wide.dropna(subset=["solo", "assisted"])
            difference = mean_of(known["assisted"] - known["solo"])
            cases, both = (
                drawn.get(measure, (math.nan,) * 4)[:2],
                drawn.get(measure, (math.nan,) * 4)[2:],
            )
            records.append(
                {
                    "organ": organ,
                    "level": level,
                    "measure": measure,
                    "solo": float(known["solo"].mean()) if len(known) else math.nan,
                    "assisted": float(known["assisted"].mean()) if len(known) else math.nan,
                    "value": difference.value,
                    "low": float(np.clip(difference.low, -100, 100)),
                    "high": float(np.clip(difference.high, -100, 100)),
                    "unit": "points",
                    "means_unit": "%",
                    "n": len(known),
                    "n_of": "readers",
                    "p_readers": difference.p,
                    "bootstrap_cases": _range(cases),
                    "bootstrap_readers_cases": _range(both),
                    "left_out": ", ".join(sorted(set(wide.index) - set(known.index))),
                }
            )
    columns = (
        "organ level measure solo assisted means_unit value low high unit n n_of p_readers "
        "bootstrap_cases "
        "bootstrap_readers_cases left_out"
    )
    return rows(records, columns)


def _range(pair: tuple[float, ...]) -> str:
    if not all(math.isfinite(x) for x in pair):
        return "not estimable"
    return f"{half_up(pair[0], 1)} to {half_up(pair[1], 1)}"


def _bootstraps(
    reads: pd.DataFrame, rng: np.random.Generator
) -> dict[str, tuple[float, float, float, float]]:
    """Bootstrap the macro differences: over cases, positives apart; and over readers and cases.

    A drawn case brings all its reads along, so that cases shared by readers count as one draw.
    """
    cells = pd.MultiIndex.from_product([sorted(reads["reader"].unique()), ["solo", "assisted"]])
    said, true = reads["decision"] == 1, reads["positive"] == 1
    where = cells.get_indexer(pd.MultiIndex.from_frame(reads[["reader", "arm"]]))
    cases = reads["case"].astype("category")
    sums = {}
    truth_of = true.groupby(cases, observed=True).first().to_numpy()
    weights = np.zeros((_BOOTSTRAPS, len(truth_of)))
    for kind in (True, False):
        chosen = np.flatnonzero(truth_of == kind)
        if len(chosen):
            weights[:, chosen] = rng.multinomial(
                len(chosen), np.full(len(chosen), 1 / len(chosen)), size=_BOOTSTRAPS
            )
    for name, hit in (
        ("tp", said & true),
        ("tn", ~said & ~true),
        ("fp", said & ~true),
        ("fn", ~said & true),
    ):
        matrix = np.zeros((len(truth_of), len(cells)))
        np.add.at(matrix, (cases.cat.codes.to_numpy(), where), hit.to_numpy(dtype=float))
        sums[name] = weights @ matrix
    n_readers = len(cells) // 2
    readers = rng.multinomial(n_readers, np.full(n_readers, 1 / n_readers), size=_BOOTSTRAPS)
    result = {}
    for measure in MEASURES:
        flat = pd.DataFrame({name: table.ravel() for name, table in sums.items()})
        rate = 100 * _rate(flat, measure).reshape(_BOOTSTRAPS, n_readers, 2)
        difference = rate[..., 1] - rate[..., 0]
        known = np.isfinite(difference)
        filled = np.where(known, difference, 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            over_cases = filled.sum(1) / known.sum(1)
            over_both = (filled * readers).sum(1) / (known * readers).sum(1)
        result[measure] = (*_percentiles(over_cases), *_percentiles(over_both))
    return result


def _percentiles(values: NDArray[np.float64]) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    if len(known) < 0.9 * len(values):  # what is left would be a chosen part
        return math.nan, math.nan
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)


def compare_arms(counts: pd.DataFrame, reads: pd.DataFrame | None = None) -> pd.DataFrame:
    """Test recall, precision and specificity over arms, stratified by reader.

    Args:
        counts: of `count_reads`.
        reads: the reads behind them, for the model that knows of shared cases; None leaves it out.

    Returns:
        By organ and measure the p values of `mantel_haenszel.StratifiedTest`, Holm over recall and
        precision of all organs, and the odds ratio. Specificity stands outside that family.
    """
    records: list[dict[str, Any]] = []
    for organ, group in counts.groupby("organ", sort=True):
        tables: dict[str, dict[str, list[list[int]]]] = {m: {} for m in (*_TESTED, "specificity")}
        for reader, rows_of in group.groupby("reader", sort=True):
            arms = rows_of.set_index("arm")
            if not {"solo", "assisted"} <= set(arms.index):
                continue
            for measure, pair in (
                ("recall", ("tp", "fn")),
                ("precision", ("tp", "fp")),
                ("specificity", ("tn", "fp")),
            ):
                tables[measure][str(reader)] = [
                    [int(arms.loc[arm, name]) for name in pair] for arm in ("assisted", "solo")
                ]
        for measure, strata in tables.items():
            found = stratified_test(strata)
            clustered = _clustered(reads, str(organ), measure)
            records.append(
                {
                    "organ": organ,
                    "measure": measure,
                    "n_readers": len(strata),
                    "n_reads": sum(sum(map(sum, table)) for table in strata.values()),
                    "p_cmh": found.p,
                    "p_cmh_corrected": found.p_corrected,
                    "p_exact": found.p_exact,
                    "p_mid": found.p_mid,
                    "p_holm": math.nan,
                    "value": found.odds_ratio,
                    "low": found.low,
                    "high": found.high,
                    "unit": "odds ratio",
                    "p_homogeneity": found.p_homogeneity,
                    "p_clustered": clustered.p,
                    "uninformative_readers": ", ".join(found.silent),
                }
            )
    columns = (
        "organ measure n_readers n_reads p_cmh p_cmh_corrected p_exact p_mid p_holm value low high "
        "unit p_homogeneity p_clustered uninformative_readers"
    )
    frame = rows(records, columns)
    family = frame["measure"].isin(_TESTED)
    adjusted = iter(holm(list(frame.loc[family, "p_cmh"])))
    # "": does not apply, unlike NaN, which is not estimable
    return frame.assign(p_holm=[next(adjusted) if inside else "" for inside in family])


def _clustered(reads: pd.DataFrame | None, organ: str, measure: str) -> Estimate:
    if reads is None:
        return Estimate(math.nan)
    chosen = reads[reads["organ"] == organ]
    said, true = chosen["decision"] == 1, chosen["positive"] == 1
    at = {"recall": true, "precision": said, "specificity": ~true}[measure]
    outcome = (~said if measure == "specificity" else true if measure == "precision" else said)[at]
    frame = chosen[at].assign(outcome=outcome.astype(int))
    frame = frame.assign(assisted=(frame["arm"] == "assisted").astype(int))
    # readers with one outcome only would have no finite coefficient
    varied = frame.groupby("reader")["outcome"].transform("nunique") > 1
    return clustered_logit(frame[varied], "outcome", ["assisted"], "case", ["reader"])


def throughput(counts: pd.DataFrame, seconds: pd.DataFrame | None = None) -> pd.DataFrame:
    """Compare how many cases were read in each arm.

    Args:
        counts: of `count_reads`.
        seconds: columns organ, reader, arm, seconds: summed time of the cases read; adds cases per
            minute.

    Returns:
        By organ and level: mean cases read a reader in each arm, the relative change in %, its
        conditional binomial p (the counts as Poisson) and the paired t over readers.
    """
    records: list[dict[str, Any]] = []
    for (organ, level), group in _by_organ_and_level(reader_rates(counts)):
        wide = group.pivot_table(index="reader", columns="arm", values="read", aggfunc="first")
        if not {"solo", "assisted"} <= set(wide.columns):
            continue
        wide = wide.dropna(subset=["solo", "assisted"])
        solo, assisted = int(wide["solo"].sum()), int(wide["assisted"].sum())
        if not len(wide) or not solo:
            continue
        test = stats.binomtest(assisted, solo + assisted)
        low, high = (
            share / (1 - share) if share < 1 else math.inf
            for share in test.proportion_ci(1 - 0.05, method="wilson")
        )
        by_reader = mean_of(wide["assisted"] - wide["solo"])
        keys = {"organ": organ, "level": level, "n": len(wide), "n_of": "readers"}
        common = {
            "solo": solo / len(wide),
            "assisted": assisted / len(wide),
            "means_unit": "cases",
        }
        records.append(
            keys
            | common
            | {
                "measure": "cases read",
                "value": 100 * (assisted / solo - 1),
                "low": 100 * (low - 1),
                "high": 100 * (high - 1),
                "unit": "relative %",
                "p_poisson": float(test.pvalue),
                "p_readers": by_reader.p,
            }
        )
        if seconds is not None:
            times = seconds[(seconds["organ"] == organ) & seconds["reader"].isin(wide.index)]
            minutes = times.groupby("arm")["seconds"].sum() / 60
            if {"solo", "assisted"} <= set(minutes.index) and (minutes > 0).all():
                rates = {
                    "solo": solo / minutes["solo"],
                    "assisted": assisted / minutes["assisted"],
                    "means_unit": "cases/min",
                }
                records.append(
                    keys
                    | rates
                    | {
                        "measure": "cases per minute of reading",
                        "value": 100 * (rates["assisted"] / rates["solo"] - 1),
                        "low": math.nan,
                        "high": math.nan,
                        "unit": "relative %",
                        "p_poisson": "",
                        "p_readers": "",
                    }
                )
    columns = "organ level measure solo assisted means_unit value low high unit n n_of p_poisson p_readers"
    return rows(records, columns)


def paper_table(counts: pd.DataFrame) -> pd.DataFrame:
    """Lay the counts out as Supplementary Table 2, every cell printed half-up.

    Args:
        counts: of `count_reads`, both arms of the same readers.

    Returns:
        Rows as in the paper, F1 added; columns organ by tp, tn, fp, fn for readers, `value` for the
        rest. Index: row names.
    """
    rates = reader_rates(counts)
    p = compare_arms(counts).set_index(["organ", "measure"])["p_cmh"]
    cells: dict[str, dict[tuple[str, str], str]] = {}
    for organ, group in rates.groupby("organ", sort=False):
        key = (str(organ), "value")
        for row in group.sort_values(
            ["level", "reader", "arm"], ascending=[True, True, False]
        ).to_dict("records"):
            for name in COUNTS:
                line = f"{row['reader']} {row['arm']}"
                cells.setdefault(line, {})[str(organ), name] = str(int(row[name]))
        means = {
            (measure, arm): _macro(group, measure, arm)
            for measure in ("read", "recall", "precision", "f1")
            for arm in ("solo", "assisted")
        }

        def put(line: str, text: str, key: tuple[str, str] = key) -> None:
            cells.setdefault(line, {})[key] = text

        put("Avg. cases read (solo)", half_up(means["read", "solo"], 1))
        put("Avg. cases read (assisted)", half_up(means["read", "assisted"], 1))
        gain = 100 * (means["read", "assisted"] / means["read", "solo"] - 1)
        put("Efficiency improvement (relative %)", half_up(gain, 1))
        for measure in ("recall", "precision", "f1"):
            title = "F1" if measure == "f1" else measure
            solo, assisted = means[measure, "solo"], means[measure, "assisted"]
            put(f"Avg. {title} (solo, %)", half_up(solo, 1))
            put(f"Avg. {title} (assisted, %)", half_up(assisted, 1))
            put(f"{title[0].upper()}{title[1:]} improvement (points)", half_up(assisted - solo, 1))
            if measure in _TESTED:
                put(f"p value for {measure}", p_text(float(p[organ, measure])))
    frame = pd.DataFrame.from_dict(cells, orient="index")
    frame.columns = pd.MultiIndex.from_tuples(frame.columns)
    return frame.fillna("")


def _macro(group: pd.DataFrame, measure: str, arm: str) -> float:
    wide = group.pivot_table(
        index="reader", columns="arm", values=measure, dropna=False, aggfunc="first"
    ).dropna()
    return float(wide[arm].mean()) if arm in wide.columns and len(wide) else math.nan


def _arms(group: pd.DataFrame) -> list[str]:
    return [arm for arm in ("solo", "assisted") if arm in set(group["arm"])]


def _by_organ_and_level(
    frame: pd.DataFrame,
) -> list[tuple[tuple[str, str], pd.DataFrame]]:
    """Groups by organ: all readers, then each level if there is more than one."""
    groups: list[tuple[tuple[str, str], pd.DataFrame]] = []
    for organ, group in frame.groupby("organ", sort=True):
        groups.append(((str(organ), "all"), group))
        levels = sorted(group["level"].unique())
        if len(levels) > 1:
            groups += [((str(organ), level), group[group["level"] == level]) for level in levels]
    return groups
