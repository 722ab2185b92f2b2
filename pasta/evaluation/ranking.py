"""How well scores rank positives above negatives. Pure functions on arrays."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import rankdata

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def auroc(scores: ArrayLike, positive: ArrayLike) -> float:
    """Compute the area under the ROC curve: how often a positive outranks a negative, ties half.

    Args:
        scores: (N,), higher is more suspicious.
        positive: (N,) bool.

    Returns:
        In [0, 1]; NaN where one of the two classes is missing.

    Raises:
        ValueError: if the lengths differ or a score is not finite.

    >>> auroc([0.1, 0.4, 0.35, 0.8], [False, False, True, True])
    0.75
    """
    values = np.asarray(scores, dtype=float)
    truth = np.asarray(positive, dtype=bool)
    if values.shape != truth.shape or values.ndim != 1:
        msg = f"scores have shape {values.shape}, positive {truth.shape}; expected equal lists."
        raise ValueError(msg)
    if not np.all(np.isfinite(values)):
        msg = "a score is not finite."
        raise ValueError(msg)
    positives = int(truth.sum())
    negatives = len(truth) - positives
    if positives == 0 or negatives == 0:
        return math.nan
    rank_sum = float(rankdata(values)[truth].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)
