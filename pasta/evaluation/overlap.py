"""Overlap of masks: Dice, and what it is where a mask is empty. Pure functions on arrays."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray


def dice(prediction: NDArray[np.bool_], reference: NDArray[np.bool_]) -> float:
    """Compute twice the shared volume over the sum of both volumes.

    Args:
        prediction: mask.
        reference: mask of the same shape.

    Returns:
        In [0, 1]; 0 where just one mask is empty, NaN where both are: nothing was there to find and
        nothing was found, so the case says nothing about overlap and stays out of means.

    Raises:
        ValueError: if the shapes differ or an array is not boolean (a labelmap passed by mistake).

    >>> dice(np.array([True, True, False]), np.array([True, False, False]))
    0.6666666666666666
    """
    for name, mask in (("prediction", prediction), ("reference", reference)):
        if mask.dtype != np.bool_:
            msg = f"{name} is {mask.dtype}, expected a boolean mask such as labelmap == 2."
            raise ValueError(msg)
    if prediction.shape != reference.shape:
        msg = f"prediction has shape {prediction.shape}, reference {reference.shape}."
        raise ValueError(msg)
    total = int(np.count_nonzero(prediction)) + int(np.count_nonzero(reference))
    if total == 0:
        return math.nan
    return 2 * int(np.count_nonzero(prediction & reference)) / total


def dice_of_labels(
    prediction: NDArray[np.integer],
    reference: NDArray[np.integer],
    labels: Mapping[str, Iterable[int]],
    ignore: int | None = None,
) -> dict[str, float]:
    """Compute the Dice of several structures of two labelmaps.

    Args:
        prediction: labelmap.
        reference: labelmap of the same shape.
        labels: label values that make up each structure, such as liver with its lesions.
        ignore: value of the reference where nothing is known; such voxels count for neither.

    Returns:
        Dice by structure, see `dice`.
    """
    if ignore is not None:
        known = reference != ignore
        prediction, reference = prediction[known], reference[known]
    return {
        name: dice(np.isin(prediction, list(values)), np.isin(reference, list(values)))
        for name, values in labels.items()
    }


def mean_dice(scores: Iterable[float]) -> float:
    """Average Dice over cases; NaN (both masks empty) is left out, NaN if nothing is left."""
    known = [score for score in scores if not math.isnan(score)]
    return sum(known) / len(known) if known else math.nan
