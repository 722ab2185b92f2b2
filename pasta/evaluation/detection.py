"""Lesion-wise detection: which lesions of a reference a prediction touches. Pure functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from numpy.typing import NDArray


def lesions_found(
    prediction: NDArray[np.bool_], reference: NDArray[np.bool_], share: float = 0.1
) -> tuple[int, int]:
    """Count the lesions of a reference and those of them that are found.

    Args:
        prediction: mask of one lesion type.
        reference: mask of the same type and shape; each 26-connected part is a lesion.
        share: of a lesion's voxels that must be predicted for it to be found.

    Returns:
        Found, and there in all.

    Raises:
        ValueError: if the shapes differ.
    """
    if prediction.shape != reference.shape:
        msg = f"prediction has shape {prediction.shape}, reference {reference.shape}."
        raise ValueError(msg)
    parts, count = ndimage.label(reference, structure=np.ones((3,) * reference.ndim))
    sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    hits = np.bincount(parts[prediction], minlength=count + 1)[1:]
    return int(np.count_nonzero((hits > 0) & (hits >= share * sizes))), count
