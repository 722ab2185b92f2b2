"""Measure a trained network on drawn lesions: guards, attribute drift, noise, leak test."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage
from tqdm import tqdm

from pasta.labels import LESIONS, label_named
from training.synthesis.cases import box_around, drawn
from training.synthesis.loop import CropScan, accepted
from training.synthesis.recipe import RecipeError
from training.synthesis.refinement.diffusion import RefinementError, sigma_hu
from training.synthesis.refinement.guards import Guarded, guarded, noise_hu
from training.synthesis.refinement.leak import (
    FAR_MM,
    MIN_PLACES,
    TARGET,
    background_ring,
    leak_test,
    ring_features,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from training.synthesis.cases import SyntheticCase
    from training.synthesis.refinement.sdedit import Refiner
    from training.synthesis.templates import Template, TemplateStore

MIN_KEPT = 0.9  # share of volumes that must pass the guards before weights may be shipped


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """A drawn lesion in its crop, and the same crop without.

    Attributes:
        label: lesion type.
        case: the crop with the lesion.
        mask: (I, J, K) bool, the lesion.
        untouched: (I, J, K) int16, the template's HU.
        template_labels: (I, J, K) uint8, the template's organs.
    """

    label: str
    case: SyntheticCase
    mask: NDArray[np.bool_]
    untouched: NDArray[np.int16]
    template_labels: NDArray[np.uint8]

    @property
    def organ(self) -> int:
        """Label value of the organ."""
        return label_named(label_named(self.label).organ).value


def draw_places(
    store: TemplateStore, types: Sequence[str], count: int, size: int, rng: np.random.Generator
) -> list[Place]:
    """Draw lesions that fit a crop together with their background ring.

    Args:
        store: of templates; types that no template takes by the table of contrasts are drawn into
            any template with a usable organ, so that one scan is enough for a check.
        types: lesion types; those with no place at all are left out.
        count: of lesions.
        size: edge of the crop, voxels of 1 mm.
        rng: source of randomness.

    Raises:
        RefinementError: if not a single one can be drawn.
    """
    templates = list(store)
    hosts: dict[str, list[Template]] = {}
    for name in types:
        organ = label_named(name).organ
        usable = [t for t in templates if t.usable(organ)[0]]
        preferred = set(store.ids_for(name))
        hosts[name] = [t for t in usable if t.id in preferred] or usable
    able = [name for name in types if hosts[name]]
    places: list[Place] = []
    largest = size - 2 * FAR_MM
    for attempt in range(20 * count):
        if len(places) == count or not able:
            break
        name = able[attempt % len(able)]
        template = hosts[name][int(rng.integers(len(hosts[name])))]
        try:
            made = accepted(
                name, template, rng, {"diameter_mm": float(rng.uniform(8, 0.7 * largest))}
            )
        except RecipeError:
            continue
        (tight,) = ndimage.find_objects(made.result.mask.astype(np.uint8))
        if max(part.stop - part.start for part in tight) > largest:
            continue
        middle = [
            outer.start + (part.start + part.stop) / 2
            for outer, part in zip(made.result.box, tight, strict=True)
        ]
        box = box_around(template.shape, middle, (size,) * 3)
        case = drawn(template, [made.recipe], box)
        mask = case.labels == label_named(name).value
        if not mask.any() or background_ring(mask).sum() < 1000:
            continue
        untouched = np.array(template.hu[box])
        places.append(Place(name, case, mask, untouched, np.array(template.labels[box])))
    if not places:
        msg = f"{store.folder}: no lesion can be drawn in crops of {size} mm. Enlarge --size."
        raise RefinementError(msg)
    return places


def check(
    refiner: Refiner,
    places: Sequence[Place],
    steps: Sequence[int],
    seed: int,
    progress: Callable[[str], None] = lambda _text: None,
) -> dict[str, Any]:
    """Refine crops with and without lesion, and measure what that does.

    Where the guards refuse a lesion its untouched twin stays unrefined too: negatives must be
    treated as positives are, else "smooth" means "lesion".

    Args:
        refiner: to be measured.
        places: of `draw_places`.
        steps: values of t.
        seed: of the noise and the folds.
        progress: called with a line after each t.

    Returns:
        By t: share kept, refusals by guard, largest shifts, noise in the lesion and the ring against
        before, seconds, leak test of drawn lesions against untouched CT treated alike and (the
        shortcut to avoid) against CT that was not refined, where there are 10 places or more; and
        whether weights may be shipped: 90 % kept and both AUC at most 0.6.
    """
    found = {}
    for t in steps:
        begun = time.monotonic()
        bar = tqdm(places, desc=f"t = {t}", mininterval=5)
        results = [_refine(refiner, place, t, seed + index) for index, place in enumerate(bar)]
        seconds = (time.monotonic() - begun) / (2 * len(places))
        found[str(t)] = _summary(places, results, t, seed, seconds)
        progress(f"t = {t}: {found[str(t)]}")
    return {
        "places": len(places),
        "types": dict(Counter(place.label for place in places)),
        "crop_mm": list(places[0].mask.shape),
        "by_t": found,
    }


def _refine(refiner: Refiner, place: Place, t: int, seed: int) -> tuple[Guarded, Guarded]:
    """Lesion and untouched twin, both after the guards."""
    value, organ = label_named(place.label).value, place.organ
    case = place.case

    def scan_of(hu: NDArray[np.int16]) -> CropScan:
        return CropScan(case.template, case.box, hu, case.labels)

    host = (case.labels == organ) | place.mask
    synthetic = guarded(
        case.hu, refiner.refined(case.hu, host, t, seed), case.labels, scan_of, value
    )
    labels = place.template_labels
    # other noise than its twin has: two scans of one person never share theirs
    change = refiner.refined(place.untouched, labels == organ, t, seed + 1_000_000)
    return synthetic, guarded(place.untouched, change, labels, scan_of, 0)


def _summary(
    places: Sequence[Place],
    results: Sequence[tuple[Guarded, Guarded]],
    t: int,
    seed: int,
    seconds: float,
) -> dict[str, Any]:
    kept = float(np.mean([guard.kept for guard, _ in results]))
    numbers: dict[str, float] = {}
    for name in ("edge_shift_mm", "contrast_shift_hu", "change_hu_lesion", "change_hu_outside"):
        values = [guard.numbers[name] for guard, _ in results if name in guard.numbers]
        if values:
            numbers[f"{name}_median"] = round(float(np.median(values)), 2)
            numbers[f"{name}_most"] = round(float(max(values)), 2)
    summary: dict[str, Any] = {
        "sigma_hu": round(sigma_hu(t), 1),
        "kept": round(kept, 3),
        "refused_by": dict(Counter(guard.reason for guard, _ in results if not guard.kept)),
        **numbers,
        "noise_lesion": _noise_ratio(places, results, inside=True),
        "noise_ring": _noise_ratio(places, results, inside=False),
        "seconds_per_crop": round(seconds, 2),
    }
    alike, shortcut, before, plain = [], [], [], []
    for place, (guard, twin) in zip(places, results, strict=True):
        alike.append(ring_features(twin.hu if guard.kept else place.untouched, place.mask))
        shortcut.append(ring_features(guard.hu, place.mask))
        before.append(ring_features(place.case.hu, place.mask))
        plain.append(ring_features(place.untouched, place.mask))
    leaks = {
        "leak": (shortcut, alike),
        "leak_shortcut": (shortcut, plain),
        "leak_unrefined": (before, plain),
    }
    for name, (synthetic, untouched) in leaks.items():
        if len(places) < MIN_PLACES:
            continue
        result = leak_test(synthetic, untouched, np.random.default_rng(seed))
        summary[name] = {
            "auc": round(result.auc, 3),
            "low": round(result.low, 3),
            "high": round(result.high, 3),
        }
    summary["may_be_shipped"] = bool(
        t > 0
        and kept >= MIN_KEPT
        and "leak" in summary
        and max(summary["leak"]["auc"], summary["leak_shortcut"]["auc"]) <= TARGET
    )
    return summary


def _noise_ratio(
    places: Sequence[Place], results: Sequence[tuple[Guarded, Guarded]], *, inside: bool
) -> float | None:
    """Median of noise after against before, in the lesions that were kept or in their rings."""
    ratios = []
    for place, (guard, _) in zip(places, results, strict=True):
        where = place.mask if inside else background_ring(place.mask)
        old = noise_hu(place.case.hu, where)
        if guard.kept and old > 0:
            ratios.append(noise_hu(guard.hu, where) / old)
    return round(float(np.median(ratios)), 3) if ratios else None


def default_types() -> list[str]:
    """All lesion types."""
    return [lesion.name for lesion in LESIONS]
