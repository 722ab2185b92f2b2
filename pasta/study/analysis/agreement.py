"""Agreement between readers: Krippendorff's alpha and pairwise weighted kappa."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pasta.report.attributes import BY_NAME
from pasta.study.analysis.tables import rows

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

Scale = Literal["nominal", "ordinal", "interval"]
_BOOTSTRAPS = 1000


def krippendorff_alpha(ratings: NDArray[np.float64], scale: Scale = "nominal") -> float:
    """Compute Krippendorff's alpha from a coincidence matrix.

    Args:
        ratings: (readers, units), NaN where a reader did not rate; values are codes, ordered for
            "ordinal", numbers for "interval".
        scale: how far two values are apart.

    Returns:
        1 for full agreement, 0 for that of chance; NaN where no unit has two ratings, or only one
        value occurs.

    Source: K. Krippendorff, Computing Krippendorff's Alpha-Reliability, 2011, sections B to E.
    """
    values = np.unique(ratings[np.isfinite(ratings)])
    counts = np.array([(ratings == value).sum(axis=0) for value in values], dtype=float).T
    if not len(values):
        return math.nan
    counts = counts[counts.sum(axis=1) > 1]
    return (
        _alpha(counts, _distances(values, counts.sum(axis=0), scale)) if len(counts) else math.nan
    )


def _alpha(counts: NDArray[np.float64], distance: NDArray[np.float64]) -> float:
    """Alpha of (units, values) counts, every unit with two ratings or more."""
    rated = counts.sum(axis=1)
    weighted = counts / (rated - 1)[:, None]
    coincidence = counts.T @ weighted - np.diag(weighted.sum(axis=0))
    totals = coincidence.sum(axis=1)
    expected = float(totals @ distance @ totals) / (totals.sum() - 1)
    if expected <= 0:
        return math.nan
    return float(1 - (coincidence * distance).sum() / expected)


def _distances(
    values: NDArray[np.float64], totals: NDArray[np.float64], scale: Scale
) -> NDArray[np.float64]:
    if scale == "nominal":
        return 1.0 - np.eye(len(values))
    if scale == "interval":
        return np.asarray((values[:, None] - values[None, :]) ** 2, dtype=float)
    ranks = np.cumsum(totals) - totals / 2
    return np.asarray((ranks[:, None] - ranks[None, :]) ** 2, dtype=float)


def weighted_kappa(
    first: NDArray[np.float64], second: NDArray[np.float64], weights: str | None = "quadratic"
) -> float:
    """Compute Cohen's kappa of two readers on the units both rated; None for no weights."""
    both = np.isfinite(first) & np.isfinite(second)
    values = np.unique(np.concatenate([first[both], second[both]]))
    if both.sum() < 2 or len(values) < 2:
        return math.nan
    table = np.zeros((len(values), len(values)))
    np.add.at(table, tuple(np.searchsorted(values, x[both]) for x in (first, second)), 1)
    distance = _distances(values, values, "nominal" if weights is None else "interval")
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    return 1 - float((distance * table).sum()) / float((distance * expected).sum())


def agreement(ratings: pd.DataFrame, by: list[str], seed: int) -> pd.DataFrame:
    """Compare readers on the cases they share.

    Args:
        ratings: columns `by`, reader, unit (case, or case and lesion), code (number), scale.
        by: columns that make a group, such as organ, arm and attribute.
        seed: of the bootstrap over units.

    Returns:
        By group: alpha with its bootstrap interval, and the mean kappa of all pairs of readers
        (quadratic weights unless nominal); n units with two ratings or more.
    """
    records: list[dict[str, Any]] = []
    rng = np.random.default_rng(seed)
    for keys, group in ratings.dropna(subset=["code"]).groupby(by, sort=True):
        scale: Scale = group["scale"].iloc[0]
        wide = group.pivot_table(index="reader", columns="unit", values="code", aggfunc="first")
        matrix = wide.to_numpy(dtype=float)
        shared = np.isfinite(matrix).sum(axis=0) > 1
        names = dict(zip(by, keys, strict=True))
        low, high = _bootstrapped(matrix[:, shared], scale, rng)
        records.append(
            names
            | {
                "measure": f"Krippendorff's alpha, {scale}",
                "value": krippendorff_alpha(matrix, scale),
                "low": low,
                "high": high,
                "unit": "alpha",
                "n": int(shared.sum()),
                "n_of": "units rated twice or more",
            }
        )
        kappas = [
            weighted_kappa(matrix[a], matrix[b], None if scale == "nominal" else "quadratic")
            for a, b in itertools.combinations(range(len(matrix)), 2)
        ]
        known = [kappa for kappa in kappas if math.isfinite(kappa)]
        weights = "unweighted" if scale == "nominal" else "quadratic weights"
        records.append(
            names
            | {
                "measure": f"mean Cohen's kappa of pairs, {weights}",
                "value": float(np.mean(known)) if known else math.nan,
                "low": math.nan,
                "high": math.nan,
                "unit": "kappa",
                "n": len(known),
                "n_of": "pairs of readers",
            }
        )
    return rows(records, " ".join([*by, "measure value low high unit n n_of"]))


def _bootstrapped(
    matrix: NDArray[np.float64], scale: Scale, rng: np.random.Generator
) -> tuple[float, float]:
    """Percentile interval of alpha, units drawn with replacement."""
    if matrix.shape[1] < 5:
        return math.nan, math.nan
    values = np.unique(matrix[np.isfinite(matrix)])
    counts = np.array([(matrix == value).sum(axis=0) for value in values], dtype=float).T
    distance = _distances(values, counts.sum(axis=0), scale)
    drawn = np.array(
        [
            _alpha(counts[rng.integers(0, len(counts), len(counts))], distance)
            for _ in range(_BOOTSTRAPS)
        ]
    )
    drawn = drawn[np.isfinite(drawn)]
    if len(drawn) < 0.9 * _BOOTSTRAPS:
        return math.nan, math.nan
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def code_of(attribute: str, value: str) -> tuple[float, Scale]:
    """Turn an option of a report attribute into a code and its scale; density is ordinal."""
    options = BY_NAME[attribute].options if attribute in BY_NAME else ()
    scale: Scale = "ordinal" if attribute == "density" else "nominal"
    return (float(options.index(value)) if value in options else math.nan), scale
