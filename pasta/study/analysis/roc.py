"""ROC areas of readers (DeLong) and the multi-reader multi-case test of Obuchowski and Rockette."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from pasta.study.analysis.estimates import CONFIDENCE, mean_of
from pasta.study.analysis.tables import rows

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

_Z = float(stats.norm.ppf((1 + CONFIDENCE) / 2))


def components(
    scores: ArrayLike, positive: ArrayLike
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """Compute the area under the ROC curve and its structural components.

    Args:
        scores: (N,), higher is more suspicious.
        positive: (N,) bool.

    Returns:
        The area, and for each positive (negative) how often it outranks (is outranked by) the
        other class, ties half. NaN and empty where a class is missing.

    Source: DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988) 837-845.
    """
    values = np.asarray(scores, dtype=float)
    truth = np.asarray(positive, dtype=bool)
    high, low = values[truth], values[~truth]
    if not len(high) or not len(low):
        return math.nan, np.empty(0), np.empty(0)
    all_ranks = stats.rankdata(np.concatenate([high, low]))
    over = (all_ranks[: len(high)] - stats.rankdata(high)) / len(low)
    under = 1 - (all_ranks[len(high) :] - stats.rankdata(low)) / len(high)
    return float(over.mean()), over, under


def covariance(scores: NDArray[np.float64], positive: ArrayLike) -> NDArray[np.float64]:
    """Compute DeLong's covariance of areas on the same cases.

    Args:
        scores: (K, N), K readings of the same N cases.
        positive: (N,) bool.

    Returns:
        (K, K).
    """
    found = [components(row, positive) for row in scores]
    over, under = (np.array([part[k] for part in found]) for k in (1, 2))
    return np.asarray(
        np.atleast_2d(np.cov(over)) / over.shape[1] + np.atleast_2d(np.cov(under)) / under.shape[1],
        dtype=float,
    )


def reader_areas(reads: pd.DataFrame) -> pd.DataFrame:
    """List the area of each reader in each arm with its DeLong interval.

    Args:
        reads: columns organ, reader, level, arm, score, positive; reads with a score only.
    """
    records: list[dict[str, Any]] = []
    by = ["organ", "level", "reader", "arm"]
    for keys, group in reads.groupby(by, sort=True):
        truth = group["positive"].to_numpy() == 1
        area, over, under = components(group["score"], truth)
        error = math.nan
        if len(over) > 1 and len(under) > 1:
            error = math.sqrt(over.var(ddof=1) / len(over) + under.var(ddof=1) / len(under))
        # an area of 1 has no variance: no interval, rather than one of no width
        low, high = (area - _Z * error, area + _Z * error) if error > 0 else (math.nan, math.nan)
        records.append(
            dict(zip(by, keys, strict=True))
            | {
                "measure": "area under the ROC curve",
                "value": area,
                "low": max(low, 0.0) if error > 0 else low,
                "high": min(high, 1.0) if error > 0 else high,
                "unit": "AUC",
                "n": len(group),
                "n_positive": int(truth.sum()),
                "standard_error": error,
            }
        )
    columns = "organ level reader arm measure value low high unit n n_positive standard_error"
    return rows(records, columns)


def area_differences(areas: pd.DataFrame) -> pd.DataFrame:
    """Average the readers' differences of areas, assisted minus solo, with the t over readers."""
    records: list[dict[str, Any]] = []
    for organ, group in areas.groupby("organ", sort=True):
        wide = group.pivot_table(index="reader", columns="arm", values="value", aggfunc="first")
        if not {"solo", "assisted"} <= set(wide.columns):
            continue
        wide = wide.dropna(subset=["solo", "assisted"])
        found = mean_of(wide["assisted"] - wide["solo"])
        records.append(
            {
                "organ": organ,
                "measure": "mean difference of areas",
                "means_unit": "AUC",
                "solo": float(wide["solo"].mean()),
                "assisted": float(wide["assisted"].mean()),
                "value": found.value,
                "low": found.low,
                "high": found.high,
                "unit": "AUC",
                "n": found.n,
                "n_of": "readers",
                "p_readers": found.p,
            }
        )
    return rows(
        records, "organ measure solo assisted means_unit value low high unit n n_of p_readers"
    )


@dataclass(frozen=True, slots=True)
class ObuchowskiRockette:
    """The test of equal areas of two arms with random readers and random cases.

    Attributes:
        difference: mean over readers of first minus second arm.
        low: of its 95 % interval.
        high: of its 95 % interval.
        f: F statistic, 1 and `df` degrees of freedom (Hillis 2007).
        df: denominator degrees of freedom.
        p: two-sided.
        error: variance of an area.
        cov1: covariance of two arms of the same reader.
        cov2: of two readers in the same arm.
        cov3: of two readers in different arms.
    """

    difference: float
    low: float
    high: float
    f: float
    df: float
    p: float
    error: float
    cov1: float
    cov2: float
    cov3: float


def obuchowski_rockette(
    areas: NDArray[np.float64], covariances: NDArray[np.float64]
) -> ObuchowskiRockette:
    """Compare the arms of a fully crossed study: every reader read every case in every arm.

    Args:
        areas: (arms, readers), two readers or more.
        covariances: (arms, readers, arms, readers), of the areas, from `covariance`.

    Returns:
        The test of the first two arms' difference over both (two arms).

    Raises:
        ValueError: if there are not two arms and at least two readers.

    Source: Obuchowski and Rockette 1995; degrees of freedom of Hillis, Stat Med 26 (2007) 596-619.
    """
    arms, readers = areas.shape
    if arms != 2 or readers < 2:
        msg = f"expected 2 arms and 2 readers or more, found {arms} and {readers}."
        raise ValueError(msg)
    same_arm = np.eye(arms, dtype=bool)[:, None, :, None]
    same_reader = np.eye(readers, dtype=bool)[None, :, None, :]
    error = float(covariances[np.broadcast_to(same_arm & same_reader, covariances.shape)].mean())
    cov1 = float(covariances[np.broadcast_to(~same_arm & same_reader, covariances.shape)].mean())
    cov2 = float(covariances[np.broadcast_to(same_arm & ~same_reader, covariances.shape)].mean())
    cov3 = float(covariances[np.broadcast_to(~same_arm & ~same_reader, covariances.shape)].mean())
    grand, by_arm, by_reader = areas.mean(), areas.mean(axis=1), areas.mean(axis=0)
    ms_arm = readers * float(((by_arm - grand) ** 2).sum()) / (arms - 1)
    rest = areas - by_arm[:, None] - by_reader[None, :] + grand
    ms_rest = float((rest**2).sum()) / ((arms - 1) * (readers - 1))
    denominator = ms_rest + readers * max(cov2 - cov3, 0.0)
    difference = float(by_arm[0] - by_arm[1])
    nan = math.nan
    if denominator <= 0 or ms_rest <= 0:
        return ObuchowskiRockette(difference, nan, nan, nan, nan, nan, error, cov1, cov2, cov3)
    df = denominator**2 / (ms_rest**2 / ((arms - 1) * (readers - 1)))
    f = ms_arm / denominator
    margin = float(stats.t.ppf((1 + CONFIDENCE) / 2, df)) * math.sqrt(2 * denominator / readers)
    return ObuchowskiRockette(
        difference,
        difference - margin,
        difference + margin,
        f,
        df,
        float(stats.f.sf(f, arms - 1, df)),
        error,
        cov1,
        cov2,
        cov3,
    )


def crossed(reads: pd.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.bool_]] | str:
    """Arrange reads of one organ as scores (assisted and solo, readers, cases), or say why not.

    Args:
        reads: columns reader, arm, case, score, positive.

    Returns:
        (2, readers, cases) scores and (cases,) truth, or the reason in words.
    """
    if reads["reader"].nunique() < 2:
        return "there is one reader"
    if set(reads["arm"]) != {"solo", "assisted"}:
        return "there is one arm"
    wide = reads.pivot_table(index=["arm", "reader"], columns="case", values="score")
    cells = 2 * reads["reader"].nunique()
    total = wide.shape[1] * cells
    read = int(np.isfinite(wide.to_numpy()).sum())
    if len(wide) != cells or read != total:
        return (
            f"the design is not fully crossed: {read} of {total} reader-by-arm-by-case cells were "
            "read with a score"
        )
    truth = reads.groupby("case")["positive"].first().loc[wide.columns].to_numpy() == 1
    if truth.all() or not truth.any():
        return "all cases are of one class"
    scores = np.stack([wide.loc[arm].to_numpy(dtype=float) for arm in ("assisted", "solo")])
    return scores, truth


def mrmc(reads: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Run Obuchowski-Rockette per organ where the design allows; else say why not."""
    records: list[dict[str, Any]] = []
    reasons: list[str] = []
    for organ, group in reads.groupby("organ", sort=True):
        found = crossed(group)
        if isinstance(found, str):
            reasons.append(
                f"Obuchowski-Rockette, {organ}: not done, as {found}. The export holds the reads in "
                "iMRMC format for split-plot methods."
            )
            continue
        scores, truth = found
        arms, readers, cases = scores.shape
        flat = scores.reshape(arms * readers, cases)
        areas = np.array([components(row, truth)[0] for row in flat]).reshape(arms, readers)
        shape = (arms, readers, arms, readers)
        test = obuchowski_rockette(areas, covariance(flat, truth).reshape(shape))
        records.append(
            {
                "organ": organ,
                "measure": "difference of mean areas, assisted minus solo",
                "means_unit": "AUC",
                "solo": float(areas[1].mean()),
                "assisted": float(areas[0].mean()),
                "value": test.difference,
                "low": test.low,
                "high": test.high,
                "unit": "AUC",
                "n": cases,
                "n_of": "cases",
                "n_readers": readers,
                "f": test.f,
                "df": test.df,
                "p": test.p,
                "var_error": test.error,
                "cov1": test.cov1,
                "cov2": test.cov2,
                "cov3": test.cov3,
            }
        )
    columns = (
        "organ measure solo assisted means_unit value low high unit n n_of n_readers f df p var_error "
        "cov1 "
        "cov2 cov3"
    )
    return rows(records, columns), reasons
