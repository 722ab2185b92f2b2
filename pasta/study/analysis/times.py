"""Reading times: reductions as the paper computes them, its mixed model, and a better default."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pasta.study.analysis.estimates import (
    Estimate,
    gamma_regression,
    holm,
    mean_of,
    mixed_model,
    nothing,
    random_intercept,
    robust_regression,
)
from pasta.study.analysis.printed import half_up, interval_text, p_text
from pasta.study.analysis.tables import rows

if TYPE_CHECKING:
    from collections.abc import Sequence

CAVEATS = (
    "Paper's model: linear mixed model of seconds with the reader as random intercept, REML, Wald "
    "z test. With two readers a level their variance is often estimated as zero (column singular); "
    "the model then is an ordinary regression that treats all reads as independent.",
    "The paper's model has no reader-by-arm term: if readers gain differently, its type-I error "
    "grows. In simulations with two readers and a nominal 5 % it was 10 % where the gains differed "
    "by an SD of 5 % between readers, 22 % at 10 % and 47 % at 20 %.",
    "It assumes equal variances and normal seconds, while times are skewed and vary less when "
    "assisted, and it ignores that readers share cases.",
    "Default model: log seconds on the arm, readers fixed, cases random (a random intercept by "
    "case; cases that only one reader read say nothing about it). Its result is the ratio of "
    "geometric means. Where cases repeat too little, least squares with errors clustered by case "
    "is used instead (column model).",
    "With few readers no model tells how other readers would fare. The per-reader ratios and the t "
    "test over readers (df = readers - 1) are beside it; two readers can hardly reach p < 0.05.",
)
_SHARED = 0.2  # of the reads must be of cases read twice or more for a random case effect
_BOOTSTRAPS = 2000
OUTCOMES = {
    "seconds": "from load start to case complete (primary)",
    "seconds_from_display": "from images displayed to case complete",
    "reading_seconds": "without the reader's pauses",
    "active_seconds": "without pauses, idle time and waits",
}


def pooled_reduction(solo: Sequence[float], assisted: Sequence[float]) -> float:
    """Compute the time saved, relative to solo, from means over equally many reads.

    Args:
        solo: seconds, of each reader or each read.
        assisted: the same readers or reads, assisted.

    Returns:
        100 (1 - mean assisted / mean solo), in relative %. This is Suppl. Table 4's formula: the
        ratio of pooled means, not the mean of the readers' own reductions.
    """
    return 100 * (1 - float(np.mean(assisted)) / float(np.mean(solo)))


def pooled_improvement(solo: Sequence[float], assisted: Sequence[float]) -> float:
    """Compute the relative change of pooled means, in relative % (Suppl. Table 5's formula)."""
    return 100 * (float(np.mean(assisted)) / float(np.mean(solo)) - 1)


def cell_means(reads: pd.DataFrame, outcome: str = "seconds") -> pd.DataFrame:
    """Summarise times by part, organ, reader and arm: mean with t interval, SD, median, quartiles."""
    records: list[dict[str, Any]] = []
    by = ["part", "organ", "level", "reader", "arm"]
    for keys, group in reads.groupby(by, sort=True):
        values = group[outcome].dropna()
        mean = mean_of(values)
        quartiles = values.quantile([0.25, 0.5, 0.75]).to_list()
        records.append(
            dict(zip(by, keys, strict=True))
            | {
                "measure": "mean time",
                "value": mean.value,
                "low": mean.low,
                "high": mean.high,
                "unit": "s",
                "n": mean.n,
                "sd_s": float(values.std(ddof=1)) if len(values) > 1 else math.nan,
                "median_s": quartiles[1],
                "q1_s": quartiles[0],
                "q3_s": quartiles[2],
            }
        )
    columns = "part organ level reader arm measure value low high unit n sd_s median_s q1_s q3_s"
    return rows(records, columns)


def reductions(reads: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Compare times over arms in every part, organ and level.

    Args:
        reads: columns part, organ, level, reader, arm, case, seconds; complete reads only.
        seed: of the bootstrap.

    Returns:
        One row per part, organ, level and method, see `methods`: value in relative % (positive:
        assisted is faster), interval, p, n reads.
    """
    records: list[dict[str, Any]] = []
    for keys, group in cells(reads):
        for name, estimate, model in methods(group, seed):
            records.append(
                dict(zip(("part", "organ", "level"), keys, strict=True))
                | {
                    "method": name,
                    "model": model,
                    "value": estimate.value,
                    "low": estimate.low,
                    "high": estimate.high,
                    "unit": "relative %",
                    "n": estimate.n,
                    "n_readers": group["reader"].nunique(),
                    "p": "" if name == "pooled means" else estimate.p,
                    "p_holm": "",
                    "singular": "yes" if estimate.singular else "",
                    "why": estimate.why,
                }
            )
    columns = "part organ level method model value low high unit n n_readers p p_holm singular why"
    frame = rows(records, columns)
    holms: dict[Any, float] = {}  # "": does not apply, unlike NaN, which is not estimable
    for method in ("paper replica", "default"):
        # levels are the family's members; "all" repeats them
        family = (frame["method"] == method) & (frame["level"] != "all")
        if not family.any():
            family = frame["method"] == method
        adjusted = dict(zip(frame.index[family], holm(list(frame.loc[family, "p"])), strict=True))
        holms |= adjusted
    return frame.assign(p_holm=[holms.get(line, "") for line in frame.index])


def cells(reads: pd.DataFrame) -> list[tuple[tuple[str, str, str], pd.DataFrame]]:
    """Split reads by part, organ and level, "all" being every level together."""
    found = []
    for (part, organ), group in reads.groupby(["part", "organ"], sort=True):
        levels = sorted(group["level"].unique())
        found += [
            ((str(part), str(organ), level), group[group["level"] == level]) for level in levels
        ]
        if len(levels) > 1:
            found.append(((str(part), str(organ), "all"), group))
    return found


def methods(group: pd.DataFrame, seed: int) -> list[tuple[str, Estimate, str]]:
    """Estimate one reduction by all methods: (name, estimate in relative %, model)."""
    group = group[group["seconds"] > 0]
    group = group.assign(
        assisted=(group["arm"] == "assisted").astype(float), log_s=np.log(group["seconds"])
    )
    if group["assisted"].nunique() < 2:
        return [("pooled means", nothing("one arm has no reads", len(group)), "")]
    solo, assisted = (group.loc[group["arm"] == arm, "seconds"] for arm in ("solo", "assisted"))
    low, high = _bootstrapped(group, seed)
    pooled = Estimate(pooled_reduction(list(solo), list(assisted)), low, high, n=len(group))
    replica = mixed_model(group, "seconds", ["assisted"], "reader")
    mean = float(solo.mean())
    in_percent = replace(
        replica,
        value=-100 * replica.value / mean,
        low=-100 * replica.high / mean,
        high=-100 * replica.low / mean,
    )
    default, model = default_model(group)
    by_reader = reader_ratios(group)
    crossed = _with_gains(group)
    gains = [name for name in crossed.columns if str(name).startswith("gain_")]
    return [
        ("pooled means", pooled, "ratio of means, bootstrap over cases"),
        ("paper replica", in_percent, "seconds ~ arm, reader random, REML"),
        ("default", default, model),
        ("t over readers", _saved(mean_of(list(by_reader.values()))), "log ratios of the readers"),
        (
            "arm by reader",
            _saved(robust_regression(crossed, "log_s", ["assisted", *gains], factors=["reader"])),
            "log s, readers' own gains averaged, HC3",
        ),
        (
            "gamma",
            _saved(gamma_regression(group, "seconds", ["assisted"], "case", ["reader"])),
            "Gamma, log link, readers fixed, clustered by case",
        ),
    ]


def default_model(group: pd.DataFrame) -> tuple[Estimate, str]:
    """Fit log seconds on the arm with readers fixed and cases random; relative % saved.

    Args:
        group: columns log_s, assisted (0 or 1), reader, case.

    Returns:
        The estimate and which model it comes from.
    """
    times_read = group.groupby("case")["case"].transform("size")
    if (times_read > 1).mean() >= _SHARED:
        found = random_intercept(group, "log_s", ["assisted"], "case", ["reader"])
        if math.isfinite(found.low):
            return _saved(found), "log s, readers fixed, cases random"
    found = robust_regression(group, "log_s", ["assisted"], "case", ["reader"])
    return _saved(found), "log s, readers fixed, errors clustered by case"


def reader_ratios(group: pd.DataFrame) -> dict[str, float]:
    """Log ratio of each reader's geometric means, assisted over solo; readers of both arms only."""
    means = group.groupby(["reader", "assisted"])["log_s"].mean().unstack("assisted").dropna()
    return {str(reader): float(row[1.0] - row[0.0]) for reader, row in means.iterrows()}


def per_reader(reads: pd.DataFrame) -> pd.DataFrame:
    """List each reader's own reduction: ratio of geometric means, with its t interval."""
    records: list[dict[str, Any]] = []
    for (part, organ, level, reader), group in reads.groupby(
        ["part", "organ", "level", "reader"], sort=True
    ):
        known = group[group["seconds"] > 0]
        known = known.assign(
            assisted=(known["arm"] == "assisted").astype(float), log_s=np.log(known["seconds"])
        )
        if known["assisted"].nunique() < 2:
            continue
        found = _saved(robust_regression(known, "log_s", ["assisted"]))
        records.append(
            {
                "part": part,
                "organ": organ,
                "level": level,
                "reader": reader,
                "measure": "time saved",
                "value": found.value,
                "low": found.low,
                "high": found.high,
                "unit": "relative %",
                "n": found.n,
                "p": found.p,
            }
        )
    return rows(records, "part organ level reader measure value low high unit n p")


def sensitivity(reads: pd.DataFrame) -> pd.DataFrame:
    """Repeat the default model with other clocks and without flagged or outlying reads.

    Outliers are reads beyond three IQR of their reader's and arm's log times; nothing is taken out
    anywhere else.
    """
    records: list[dict[str, Any]] = []
    for keys, group in cells(reads):
        for name, chosen in _variants(group):
            chosen = chosen[chosen["seconds"] > 0]
            chosen = chosen.assign(
                assisted=(chosen["arm"] == "assisted").astype(float),
                log_s=np.log(chosen["seconds"]),
            )
            if chosen.groupby("reader")["assisted"].nunique().ne(2).any() or chosen.empty:
                found, model = nothing("a reader has one arm only", len(chosen)), ""
            else:
                found, model = default_model(chosen)
            records.append(
                dict(zip(("part", "organ", "level"), keys, strict=True))
                | {
                    "variant": name,
                    "value": found.value,
                    "low": found.low,
                    "high": found.high,
                    "unit": "relative %",
                    "n": len(chosen),
                    "p": found.p,
                    "n_left_out": len(group) - len(chosen),
                    "model": model,
                    "why": found.why,
                }
            )
    columns = "part organ level variant value low high unit n n_left_out p model why"
    return rows(records, columns)


def _variants(group: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    found = [
        (f"{words}", group.assign(seconds=group[name]).dropna(subset=["seconds"]))
        for name, words in OUTCOMES.items()
    ]
    flagged = (
        (group["suspends"].fillna(0) > 0)
        | (group["unfocused_seconds"].fillna(0) > 0)
        | (group["idle_seconds"].fillna(0) > 0)
    )
    found.append(("without reads with idle time, lost focus or a suspend", group[~flagged]))
    log = np.log(group["seconds"].where(group["seconds"] > 0))
    by = [group["reader"], group["arm"]]
    first, third = (log.groupby(by).transform("quantile", q) for q in (0.25, 0.75))
    outside = (log < first - 3 * (third - first)) | (log > third + 3 * (third - first))
    found.append(("without outliers beyond 3 IQR", group[~outside]))
    return found


def levels_compared(reads: pd.DataFrame) -> pd.DataFrame:
    """Test whether juniors and seniors save differently: arm by level on log seconds."""
    records: list[dict[str, Any]] = []
    for (part, organ), group in reads.groupby(["part", "organ"], sort=True):
        if set(group["level"]) != {"junior", "senior"} or group["arm"].nunique() < 2:
            continue
        known = group[group["seconds"] > 0]
        known = known.assign(
            assisted=(known["arm"] == "assisted").astype(float),
            senior=(known["level"] == "senior").astype(float),
            log_s=np.log(known["seconds"]),
        )
        known = known.assign(senior_gain=known["assisted"] * known["senior"])
        terms = ["senior_gain", "assisted"]
        found = random_intercept(known, "log_s", terms, "case", ["reader"])
        if not math.isfinite(found.low):
            found = robust_regression(known, "log_s", terms, "case", ["reader"])
        records.append(
            {
                "part": part,
                "organ": organ,
                "measure": "seniors' time ratio over juniors'",
                "value": math.exp(found.value),
                "low": math.exp(found.low),
                "high": math.exp(found.high),
                "unit": "ratio of ratios",
                "n": found.n,
                "p": found.p,
            }
        )
    return rows(records, "part organ measure value low high unit n p")


def paper_table(reads: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """Lay times out as Suppl. Table 4: mean (95% CI) s by reader and arm, p, overall reduction.

    Args:
        reads: as for `reductions`.
        found: their `reductions`.
    """
    cells_of: dict[str, dict[tuple[str, str], str]] = {}
    means = cell_means(reads).sort_values(["level", "reader", "arm"], ascending=[True, True, False])
    lines = {
        "paper replica": ("p value (paper's mixed model)", "p"),
        "default": ("p value (default model)", "p"),
        "pooled means": ("overall time reduction (relative %)", "value"),
    }
    for level in sorted(means["level"].unique()):
        for row in means[means["level"] == level].to_dict("records"):
            line = f"{row['reader']} ({level}) {row['arm']}"
            text = interval_text(row["value"], row["low"], row["high"], 1)
            cells_of.setdefault(line, {})[row["organ"], row["part"]] = f"{text}, n={row['n']}"
        for method, (words, column) in lines.items():
            chosen = found[(found["method"] == method) & (found["level"] == level)]
            for row in chosen.to_dict("records"):
                text = p_text(row["p"]) if column == "p" else half_up(row["value"], 1)
                cells_of.setdefault(f"{level}: {words}", {})[row["organ"], row["part"]] = text
    frame = pd.DataFrame.from_dict(cells_of, orient="index")
    frame.columns = pd.MultiIndex.from_tuples(frame.columns)
    return frame.sort_index(axis=1).fillna("")


def _with_gains(group: pd.DataFrame) -> pd.DataFrame:
    """Add arm-by-reader columns as sum contrasts, so that `assisted` is the readers' mean gain."""
    readers = sorted(group["reader"].unique())
    last = (group["reader"] == readers[-1]).astype(float)
    return group.assign(
        **{
            f"gain_{reader}": group["assisted"] * ((group["reader"] == reader).astype(float) - last)
            for reader in readers[:-1]
        }
    )


def _saved(found: Estimate) -> Estimate:
    """Turn a log ratio into the share of time saved, in relative %."""
    return replace(
        found,
        value=100 * (1 - math.exp(found.value)),
        low=100 * (1 - math.exp(found.high)),
        high=100 * (1 - math.exp(found.low)),
    )


def _bootstrapped(group: pd.DataFrame, seed: int) -> tuple[float, float]:
    """Percentile interval of the pooled reduction, cases drawn with all their reads."""
    rng = np.random.default_rng(seed)
    codes, names = group["case"].factorize()
    if len(names) < 2:
        return math.nan, math.nan
    sums = np.zeros((4, len(names)))  # seconds and reads, solo and assisted
    arm = group["assisted"].to_numpy(dtype=int)
    np.add.at(sums, (arm, codes), group["seconds"].to_numpy(dtype=float))
    np.add.at(sums, (arm + 2, codes), 1.0)
    weights = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=_BOOTSTRAPS)
    total = weights @ sums.T
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = (total[:, 1] / total[:, 3]) / (total[:, 0] / total[:, 2])
    low, high = np.percentile(100 * (1 - ratio[np.isfinite(ratio)]), [2.5, 97.5])
    return float(low), float(high)
