"""Leak test: can one tell from the background alone whether a lesion was drawn?

If refinement (or drawing) leaves traces around a lesion, a network trained on it learns those
instead of the lesion. A classifier sees nothing but a ring of background.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage, optimize

from pasta.evaluation.ranking import auroc
from training.synthesis.refinement.diffusion import RefinementError

if TYPE_CHECKING:
    from numpy.typing import NDArray

TARGET = 0.6
NEAR_MM, FAR_MM = 3.0, 12.0
SHELLS_MM = (3.0, 5.0, 8.0, 12.0)
FOLDS = 5
RESAMPLES = 2000
RIDGE = 1.0
MIN_PLACES = 10
MIN_RING_VOXELS = 200


@dataclass(frozen=True, slots=True)
class LeakResult:
    """How well synthetic and untouched background are told apart.

    Attributes:
        auc: out-of-fold area under the ROC curve; 0.5 is chance.
        low: of its 95 % confidence interval, places resampled.
        high: of the interval.
        places: pairs of synthetic and untouched volumes.
    """

    auc: float
    low: float
    high: float
    places: int

    @property
    def passed(self) -> bool:
        """Whether the AUC is at most 0.6."""
        return self.auc <= TARGET


def background_ring(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Voxels from 3 to 12 mm from a lesion, on a grid of 1 mm."""
    distance = ndimage.distance_transform_edt(~mask)
    return np.asarray((distance > NEAR_MM) & (distance <= FAR_MM))


def ring_features(hu: NDArray[np.int16], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Describe the background ring of a volume; nothing within 3 mm of the lesion is read.

    Args:
        hu: (I, J, K) at 1 mm.
        mask: where the lesion is, or would be in an untouched volume.

    Returns:
        Mean and spread; high-pass spread and gradient at two scales; correlation of neighbours along
        i, j, k; mean by shell against that of the ring; share of equal neighbours.

    Raises:
        RefinementError: if the ring has fewer than 200 voxels.
    """
    distance = ndimage.distance_transform_edt(~mask)
    ring = (distance > NEAR_MM) & (distance <= FAR_MM)
    if ring.sum() < MIN_RING_VOXELS:
        msg = f"ring: {int(ring.sum())} voxels, at least {MIN_RING_VOXELS} needed. Take a larger crop."
        raise RefinementError(msg)
    volume = np.clip(hu, -300, 500).astype(np.float64)
    values = volume[ring]
    low, middle, high = np.percentile(values, (10, 50, 90))
    features = [float(values.mean()), float(values.std()), low - middle, high - middle]
    for sigma in (0.7, 1.5):
        smooth = _blurred(volume, ring, sigma)
        rest = (volume - smooth)[ring]
        spread = 1.4826 * float(np.median(np.abs(rest - np.median(rest))))
        features += [float(rest.std()), spread, float(np.mean(rest**3)) / max(1.0, rest.std() ** 3)]
    rest3 = np.where(ring, volume - _blurred(volume, ring, 1.5), 0.0)
    for axis in range(3):
        a, b = np.moveaxis(rest3, axis, 0)[1:], np.moveaxis(rest3, axis, 0)[:-1]
        both = np.moveaxis(ring, axis, 0)[1:] & np.moveaxis(ring, axis, 0)[:-1]
        scale = max(1e-6, float(np.mean(a[both] ** 2 + b[both] ** 2)) / 2)
        features += [float(np.mean(a[both] * b[both])) / scale, float(np.mean(a[both] == b[both]))]
        step = np.diff(volume, axis=axis)
        features.append(float(np.mean(np.abs(np.moveaxis(step, axis, 0)[both]))))
    for start, stop in itertools.pairwise(SHELLS_MM):
        shell = (distance > start) & (distance <= stop)
        part = volume[shell] if shell.any() else values
        features += [
            float(part.mean()) - features[0],
            float(rest3[shell].std()) if shell.any() else 0,
        ]
    return np.asarray(features)


def _blurred(
    volume: NDArray[np.float64], ring: NDArray[np.bool_], sigma: float
) -> NDArray[np.float64]:
    """Gaussian of the ring's voxels alone: the lesion beside them must not leak in by the filter."""
    weight = ndimage.gaussian_filter(ring.astype(np.float64), sigma)
    total = ndimage.gaussian_filter(np.where(ring, volume, 0.0), sigma)
    return np.where(ring, total / np.maximum(weight, 1e-9), 0.0)


def leak_test(
    synthetic: Sequence[NDArray[np.float64]],
    untouched: Sequence[NDArray[np.float64]],
    rng: np.random.Generator,
) -> LeakResult:
    """Cross-validate a logistic classifier; both volumes of a place lie in the same fold.

    Args:
        synthetic: features of volumes with a lesion, one for each place.
        untouched: features of the same places without.
        rng: assigns folds and resamples places.

    Raises:
        RefinementError: if there are fewer than 10 places, or the lists differ in length.
    """
    places = len(synthetic)
    if places < MIN_PLACES or len(untouched) != places:
        msg = (
            f"leak test: {places} and {len(untouched)} volumes, at least {MIN_PLACES} pairs needed."
        )
        raise RefinementError(msg)
    x = np.concatenate((np.stack(synthetic), np.stack(untouched)))
    y = np.concatenate((np.ones(places), np.zeros(places)))
    fold = np.tile(rng.permutation(places) % FOLDS, 2)
    scores = np.zeros(2 * places)
    for held in range(FOLDS):
        learn, test = fold != held, fold == held
        mean, spread = x[learn].mean(axis=0), x[learn].std(axis=0)
        spread[spread < 1e-9] = 1.0
        weights = _logistic((x[learn] - mean) / spread, y[learn])
        scores[test] = ((x[test] - mean) / spread) @ weights[1:] + weights[0]
    by_place = scores.reshape(2, places)
    drawn = rng.integers(0, places, (RESAMPLES, places))
    truth = y > 0
    resampled = [auroc(by_place[:, picked].ravel(), truth) for picked in drawn]
    low, high = np.percentile(resampled, (2.5, 97.5))
    return LeakResult(auroc(scores, truth), float(low), float(high), places)


def _logistic(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ridge-penalised logistic regression: intercept, then weights."""
    sign = 2 * y - 1

    def loss(w: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        margin = sign * (x @ w[1:] + w[0])
        pull = -sign / (1 + np.exp(np.clip(margin, -500, 500)))
        gradient = np.concatenate(([pull.sum()], x.T @ pull + RIDGE * w[1:]))
        return float(np.logaddexp(0, -margin).sum() + RIDGE / 2 * (w[1:] ** 2).sum()), gradient

    found = optimize.minimize(loss, np.zeros(x.shape[1] + 1), jac=True, method="L-BFGS-B")
    weights: NDArray[np.float64] = found.x
    return weights
