"""From scores to an order: random, k-center, a mix of two. Pure functions on arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.distance import cdist
from scipy.stats import rankdata

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    FloatArray = NDArray[np.float64]


def shuffled(ids: Sequence[str], seed: int) -> list[str]:
    """Put ids in a random order that depends on the seed and the set of ids, not on their order."""
    known = sorted(ids)
    return [known[i] for i in np.random.default_rng(seed).permutation(len(known))]


def farthest_first(features: ArrayLike, covered: ArrayLike) -> FloatArray:
    """Measure how far each case lies from the nearest covered one.

    Args:
        features: (N, D) of the cases.
        covered: (M, D) of cases that are labelled or being read; M may be 0.

    Returns:
        (N,) Euclidean distances. With nothing covered the middle of the cases comes first: the
        negated distance from their mean, shifted to be positive.
    """
    rows = _rows(features)
    if not len(rows):
        return np.zeros(0)
    known = np.asarray(covered, dtype=np.float64)
    if known.size:
        nearest: FloatArray = cdist(rows, _rows(known)).min(axis=1)
        return nearest
    distance = np.linalg.norm(rows - rows.mean(axis=0), axis=1)
    central: FloatArray = distance.max() - distance
    return central


def k_center_greedy(features: ArrayLike, covered: ArrayLike, count: int) -> list[int]:
    """Choose cases one by one, each the farthest from all labelled or chosen before.

    Sener and Savarese, Active learning for convolutional neural networks: a core-set approach,
    ICLR 2018, algorithm 1. At most twice the radius of the best possible choice.

    Args:
        features: (N, D) of the cases to choose from.
        covered: (M, D) of labelled cases; M may be 0, then the first is the one nearest the mean.
        count: how many; at most N are given.

    Returns:
        Indices into `features`, first choice first; ties go to the lower index.
    """
    rows = _rows(features)
    distance = farthest_first(rows, covered)
    chosen: list[int] = []
    left = np.ones(len(rows), dtype=bool)
    for _ in range(min(count, len(rows))):
        index = int(np.argmax(np.where(left, distance, -1.0)))
        from_it = np.linalg.norm(rows - rows[index], axis=1)
        fresh = not chosen and not np.asarray(covered).size  # until now: nearness to the middle
        distance = from_it if fresh else np.minimum(distance, from_it)
        chosen.append(index)
        left[index] = False
    return chosen


def ranks(scores: ArrayLike) -> FloatArray:
    """Scale scores to [0, 1] by rank, ties alike: 0 the lowest, 1 the highest, 0.5 if all are equal.

    Ranks, not the range: one outlier would press all others together.
    """
    values = np.asarray(scores, dtype=np.float64)
    if len(values) < 2:
        return np.full(len(values), 0.5)
    scaled: FloatArray = (rankdata(values) - 1) / (len(values) - 1)
    return scaled


def hybrid(uncertainty: ArrayLike, coverage: ArrayLike, weight: float = 0.5) -> FloatArray:
    """Mix two scores by rank.

    Args:
        uncertainty: (N,), higher first.
        coverage: (N,), distance from what is labelled.
        weight: of the uncertainty, 0 to 1; the rest is of the coverage.

    Returns:
        (N,) in [0, 1], higher first.

    Raises:
        ValueError: if the weight is outside [0, 1] or the lengths differ.
    """
    if not 0 <= weight <= 1:
        msg = f"weight is {weight}, expected 0 to 1."
        raise ValueError(msg)
    one, other = ranks(uncertainty), ranks(coverage)
    if len(one) != len(other):
        msg = f"{len(one)} uncertainties and {len(other)} distances, expected as many."
        raise ValueError(msg)
    return weight * one + (1 - weight) * other


def _rows(features: ArrayLike) -> FloatArray:
    rows = np.asarray(features, dtype=np.float64)
    if rows.ndim != 2:
        msg = f"features have shape {rows.shape}, expected (cases, numbers)."
        raise ValueError(msg)
    return rows
