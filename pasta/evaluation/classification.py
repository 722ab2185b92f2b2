"""How well predicted options and risks agree with the reference. Pure functions on arrays."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def accuracy(predicted: ArrayLike, reference: ArrayLike) -> float:
    """Share of cases with the right option; NaN without cases.

    Args:
        predicted: (N,) option indices.
        reference: (N,) option indices.

    Raises:
        ValueError: if the lengths differ.

    >>> accuracy([0, 1, 1, 2], [0, 1, 2, 2])
    0.75
    """
    given, truth = _pair(predicted, reference)
    return float((given == truth).mean()) if len(truth) else math.nan


def balanced_accuracy(predicted: ArrayLike, reference: ArrayLike) -> float:
    """Mean sensitivity of the options that occur in the reference; NaN without cases.

    Args:
        predicted: (N,) option indices.
        reference: (N,) option indices.

    Raises:
        ValueError: if the lengths differ.

    >>> balanced_accuracy([0, 0, 0, 1], [0, 0, 1, 1])
    0.75
    """
    given, truth = _pair(predicted, reference)
    recalls = [float((given[truth == option] == option).mean()) for option in np.unique(truth)]
    return float(np.mean(recalls)) if recalls else math.nan


def macro_f1(predicted: ArrayLike, reference: ArrayLike) -> float:
    """Mean F1 score of the options that occur in the reference or the prediction; NaN without cases.

    An option that was predicted though it never occurs counts 0, as one that occurs and was never
    predicted.

    Args:
        predicted: (N,) option indices.
        reference: (N,) option indices.

    Raises:
        ValueError: if the lengths differ.

    >>> round(macro_f1([0, 0, 1, 1], [0, 1, 1, 1]), 4)
    0.7333
    """
    given, truth = _pair(predicted, reference)
    scores = []
    for option in np.union1d(given, truth):
        right = np.count_nonzero((given == option) & (truth == option))
        total = np.count_nonzero(given == option) + np.count_nonzero(truth == option)
        scores.append(2 * right / total)
    return float(np.mean(scores)) if scores else math.nan


def concordance(risk: ArrayLike, time: ArrayLike, event: ArrayLike) -> float:
    """Harrell's C: how often the patient with the higher risk has the event first, ties half.

    Pairs count where the shorter time ended with an event (Harrell et al. 1982, JAMA 247:2543).

    Args:
        risk: (N,), higher is worse.
        time: (N,) to the event or the last look, any unit.
        event: (N,) bool, False where censored.

    Returns:
        In [0, 1]; NaN where no pair can be compared.

    Raises:
        ValueError: if the lengths differ.
    """
    _pair(risk, time)
    _pair(event, time)
    risks, times = np.asarray(risk, dtype=float), np.asarray(time, dtype=float)
    events = np.asarray(event, dtype=bool)
    first = events[:, None] & (
        (times[:, None] < times[None]) | ((times[:, None] == times[None]) & ~events[None])
    )
    if not first.any():
        return math.nan
    higher = (risks[:, None] > risks[None]) + 0.5 * (risks[:, None] == risks[None])
    return float(higher[first].mean())


def _pair(one: ArrayLike, other: ArrayLike) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    first, second = np.asarray(one), np.asarray(other)
    if first.shape != second.shape or first.ndim != 1:
        msg = f"found shapes {first.shape} and {second.shape}; expected two lists of one length."
        raise ValueError(msg)
    return first, second
