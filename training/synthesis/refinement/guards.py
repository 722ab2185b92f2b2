"""What a refined volume must keep, or the unrefined one is used: HU, edge, contrast, all attributes.

The mask of a lesion is never computed anew: it stays the one that the lesion was drawn with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage, optimize

from pasta.labels import label_of, organ_named
from pasta.meter import EDGE_CONTRAST_HU, HOLLOW, RENDERED_SPHERICITY, Measurements, measured
from pasta.neighbourhood import Neighbourhood, Scan, deviation
from pasta.report.attributes import PREDICTED
from training.synthesis.templates import HIGHEST_HU, LOWEST_HU

if TYPE_CHECKING:
    from numpy.typing import NDArray

LESION_HU = 30.0  # a lesion's voxels may change by so much
OUTSIDE_SIGMAS = 3.0  # all others by so many standard deviations of the scan's noise
EDGE_SHIFT_MM = 0.5
CONTRAST_HU = 5.0
PROFILE_MM = 7
MIN_BIN_VOXELS = 20
NOISE_SCALE_VOXELS = 2.0
MIN_COMPONENT_VOXELS = 14  # as the priors count lesions

ScanOf = Callable[["NDArray[np.int16]"], Scan]


@dataclass(frozen=True, slots=True, eq=False)
class Guarded:
    """A volume after the guards.

    Attributes:
        hu: (I, J, K) int16; the unrefined volume if a guard refused.
        reason: which guard refused, "" if none: "edge", "contrast", or the name of an attribute.
        numbers: of the lesion that changed most: `change_hu_lesion`, `change_hu_outside` (root mean
            square after the clamp), `clamped` (share of voxels), `edge_shift_mm`, `contrast_shift_hu`
            (absolute; missing where not measurable).
    """

    hu: NDArray[np.int16]
    reason: str
    numbers: Mapping[str, float]

    @property
    def kept(self) -> bool:
        """Whether the refined volume passed."""
        return not self.reason


def noise_hu(hu: NDArray[np.int16], organ: NDArray[np.bool_]) -> float:
    """Estimate the noise in an organ: robust deviation of what a Gaussian of 2 mm takes away.

    Args:
        hu: (I, J, K) at 1 mm.
        organ: healthy tissue; eroded by 2 mm where that leaves enough.
    """
    deep = ndimage.binary_erosion(organ, iterations=2)
    where = deep if deep.sum() >= 200 else organ
    if not where.any():
        return 0.0
    volume = hu.astype(np.float32)
    # the Gaussian takes 4 % of the variance of white noise with it, more of correlated noise
    return deviation((volume - ndimage.gaussian_filter(volume, NOISE_SCALE_VOXELS))[where])


def guarded(
    hu: NDArray[np.int16],
    refined: NDArray[np.float32],
    labels: NDArray[np.uint8],
    scan_of: ScanOf,
    value: int,
) -> Guarded:
    """Clamp what refinement changed, then measure every lesion before and after.

    Args:
        hu: (I, J, K) unrefined, 1 mm along L, P, S.
        refined: of `Refiner.refined`.
        labels: (I, J, K) organs and lesions; they stay as they are.
        scan_of: makes a scan of a volume on this grid with these labels.
        value: label value of the lesions; 0 for a volume without, which is only clamped.
    """
    lesion = (labels == value) if value else np.zeros(labels.shape, bool)
    organ = label_of(value).organ if value else ""
    host = labels == organ_named(organ).value if organ else (labels > 0) & (hu > -200) & (hu < 300)
    outside = OUTSIDE_SIGMAS * noise_hu(hu, host)
    limit = np.where(lesion, np.float32(LESION_HU), np.float32(outside))
    asked = refined - hu
    change = np.clip(asked, -limit, limit)
    # truncation, not rounding: half a unit more would break the clamp
    whole = np.trunc(change).astype(np.int32)
    out = np.clip(hu + whole, LOWEST_HU, HIGHEST_HU).astype(np.int16)
    numbers = {
        "change_hu_outside": _root_mean_square(change[~lesion]),
        "clamped": float((np.abs(asked) > limit).mean()),
    }
    if not value:
        return Guarded(out, "", numbers)
    numbers["change_hu_lesion"] = _root_mean_square(change[lesion])
    before, after = scan_of(hu), scan_of(out)
    parts, count = ndimage.label(lesion, np.ones((3, 3, 3)))
    reason = ""
    for index, box in enumerate(ndimage.find_objects(parts, max_label=count), start=1):
        mask = parts[box] == index
        if mask.sum() < MIN_COMPONENT_VOXELS:
            continue
        problem, found = _compared(before, after, value, box, mask)
        reason = reason or problem
        for name, number in found.items():
            numbers[name] = max(number, numbers.get(name, 0.0))
    return Guarded(hu if reason else out, reason, numbers)


def _compared(
    before: Scan, after: Scan, value: int, box: tuple[slice, slice, slice], mask: NDArray[np.bool_]
) -> tuple[str, dict[str, float]]:
    """Which guard refuses one lesion, and by how much it changed."""
    label = label_of(value)
    old, new = (
        measured(scan, label, box, mask, sphericity=RENDERED_SPHERICITY) for scan in (before, after)
    )
    numbers: dict[str, float] = {}
    contrast = abs(_contrast(new) - _contrast(old))
    numbers["contrast_shift_hu"] = contrast
    first, second = (
        edge_position_mm(scan.neighbourhood(label, box, mask)) for scan in (before, after)
    )
    # an edge that could not be placed before cannot be seen to move; one that is lost has moved
    shift = 0.0 if first is None else abs(second - first) if second is not None else float("inf")
    if first is not None and second is not None:
        numbers["edge_shift_mm"] = shift
    if shift > EDGE_SHIFT_MM:
        return "edge", numbers
    if contrast > CONTRAST_HU:
        return "contrast", numbers
    for name in PREDICTED:
        if old.attributes[name].value != new.attributes[name].value:
            return name, numbers
    return "", numbers


def _contrast(found: Measurements) -> float:
    """Lesion against its reference tissue; against 0 HU where there is none."""
    numbers: Mapping[str, Any] = found.attributes["density"].numbers
    return float(numbers.get("delta_hu", numbers["lesion_hu"]))


def edge_position_mm(near: Neighbourhood) -> float | None:
    """Where the HU of a lesion turns into that of its host: x0 of a logistic edge.

    Median HU by distance from the mask's surface, 7 mm to both sides, over the lesion and its organ
    (for hollow organs, over what lies outside of it).

    Returns:
        mm, positive outside the mask; None without contrast or where the fit fails.
    """
    beyond = near.labels == 0 if near.label.organ in HOLLOW else near.host
    where = (near.mask | beyond) & (np.abs(near.distance_mm) < PROFILE_MM)
    distance, hu = near.distance_mm[where], near.hu[where]
    bins = np.round(distance / near.grid_mm).astype(int)
    points = [
        (float(distance[bins == b].mean()), float(np.median(hu[bins == b])))
        for b in np.unique(bins)
        if (bins == b).sum() >= MIN_BIN_VOXELS
    ]
    if len(points) < 5:
        return None
    position, profile = np.array(points).T
    inside, outside = profile[position < 0], profile[position > 0]
    if len(inside) < 2 or len(outside) < 2:
        return None
    start = (float(inside[: max(1, len(inside) // 2)].mean()), float(outside[-3:].mean()))
    if abs(start[0] - start[1]) < EDGE_CONTRAST_HU:
        return None
    try:
        fitted, _ = optimize.curve_fit(
            _edge, position, profile, p0=[*start, 0.0, 1.0],
            bounds=([-2000, -2000, -5, 0.1], [4000, 4000, 5, 6]), max_nfev=500,
        )  # fmt: skip
    except (RuntimeError, ValueError):  # no convergence
        return None
    return float(fitted[2])


def _edge(x: NDArray[np.float64], a: float, b: float, x0: float, w: float) -> NDArray[np.float64]:
    out: NDArray[np.float64] = a + (b - a) / (1 + np.exp(-(x - x0) / w))
    return out


def _root_mean_square(values: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64)))) if values.size else 0.0
