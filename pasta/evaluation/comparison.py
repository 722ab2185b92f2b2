"""Is one model better than another? Intervals by patients, paired tests."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from numpy.typing import ArrayLike, NDArray

    Statistic = Callable[[NDArray[np.intp]], float]


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its 95 % interval.

    Attributes:
        value: on all cases.
        low: 2.5th percentile over the resamples.
        high: 97.5th percentile.
        undefined: resamples in which the value could not be computed, such as an AUC of one class.
    """

    value: float
    low: float
    high: float
    undefined: int


def bootstrap(
    statistic: Statistic, patients: Sequence[Hashable], *, seed: int, resamples: int = 2000
) -> Interval:
    """Compute a percentile interval by drawing patients with replacement, with all of their cases.

    Cases of one patient are alike; drawn one by one they would make the interval too narrow.

    Args:
        statistic: of the cases with the given indices, with repeats.
        patients: of each case.
        seed: of the draws.
        resamples: how many.

    Raises:
        ValueError: without cases.
    """
    if not patients:
        msg = "no cases: nothing to draw from."
        raise ValueError(msg)
    places: dict[Hashable, list[int]] = {}
    for place, patient in enumerate(patients):
        places.setdefault(patient, []).append(place)
    groups = [np.array(found) for found in places.values()]
    rng = np.random.default_rng(seed)
    values = np.array(
        [
            statistic(
                np.concatenate([groups[g] for g in rng.integers(len(groups), size=len(groups))])
            )
            for _ in range(resamples)
        ]
    )
    defined = values[np.isfinite(values)]
    low, high = np.percentile(defined, [2.5, 97.5]) if len(defined) else (math.nan, math.nan)
    return Interval(
        statistic(np.arange(len(patients))), float(low), float(high), len(values) - len(defined)
    )


def wilcoxon_better(candidate: ArrayLike, baseline: ArrayLike) -> float:
    """P value of the one-sided Wilcoxon signed-rank test that the candidate is higher (paper, Methods).

    Args:
        candidate: (N,) values of the same cases in the same order; NaN pairs are left out.
        baseline: (N,).

    Returns:
        P value; 1 where no pair differs.

    Raises:
        ValueError: if the lengths differ.
    """
    one, other = np.asarray(candidate, float), np.asarray(baseline, float)
    if one.shape != other.shape or one.ndim != 1:
        msg = f"found shapes {one.shape} and {other.shape}; expected the same cases twice."
        raise ValueError(msg)
    difference = (one - other)[np.isfinite(one - other)]
    if not np.any(difference):
        return 1.0
    return float(stats.wilcoxon(difference, alternative="greater").pvalue)


def permutation_better(
    statistic: Callable[[NDArray[np.float64]], float],
    candidate: ArrayLike,
    baseline: ArrayLike,
    *,
    seed: int,
    resamples: int = 10000,
) -> float:
    """P value of the paired permutation test that the candidate's statistic is higher.

    Under the null hypothesis the two models' outputs of a case may be swapped.

    Args:
        statistic: of the outputs of all cases, such as an AUC.
        candidate: (N, ...) outputs.
        baseline: (N, ...) outputs of the same cases.
        seed: of the swaps.
        resamples: how many; the p value is never below 1 / (resamples + 1).

    Raises:
        ValueError: if the shapes differ.
    """
    one, other = np.asarray(candidate, float), np.asarray(baseline, float)
    if one.shape != other.shape or one.ndim < 1:
        msg = f"found shapes {one.shape} and {other.shape}; expected the same cases twice."
        raise ValueError(msg)
    seen = statistic(one) - statistic(other)
    rng = np.random.default_rng(seed)
    as_high = 0
    for _ in range(resamples):
        swap = (rng.random(len(one)) < 0.5).reshape(-1, *([1] * (one.ndim - 1)))
        found = statistic(np.where(swap, other, one)) - statistic(np.where(swap, one, other))
        as_high += found >= seen - 1e-12
    return (as_high + 1) / (resamples + 1)
