"""The loop: draw, render, measure; keep what reads as intended, else draw again, else relabel.

The report is written from what the meter reads, never from what was asked for, so it cannot
disagree with the image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from pasta.geometry import Volume
from pasta.labels import label_named
from pasta.meter import Measurements, measured
from pasta.neighbourhood import MARGIN_MM, Muscle, Scan, Slices
from pasta.report.attributes import ENHANCED, ISODENSE, LOCATIONS, NON_CONTRAST, PREDICTED
from pasta.report.findings import CaseFacts, Finding, LesionReport, Report
from pasta.report.prose import size_text
from training.synthesis.drawing import Wish, checked_wish, draw, impossible
from training.synthesis.guards import MIN_CONTRAST_TO_NOISE, broken_rules
from training.synthesis.host import box_around, surroundings
from training.synthesis.recipe import RecipeError
from training.synthesis.recipes import apply

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from training.synthesis.recipe import Box, Canvas, Recipe, Result
    from training.synthesis.templates import Template

ATTEMPTS = 5  # one drawing and four more
MEASURED = "measured"  # source of every finding


class CropScan(Scan):
    """A crop of a template with a lesion, whose muscle is looked up in the whole template."""

    def __init__(
        self, template: Template, box: Box, hu: NDArray[np.int16], labels: NDArray[np.uint8]
    ) -> None:
        affine = template.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ [part.start for part in box]
        super().__init__(Volume(hu, affine), Volume(labels, affine))
        self._whole, self._at = surroundings(template).scan, box

    def muscle(self, box: Slices) -> Muscle | None:
        """Back muscle at the height of a box of the crop."""
        i, j, k = (
            slice(outer.start + part.start, outer.start + part.stop)
            for part, outer in zip(box, self._at, strict=True)
        )
        return self._whole.muscle((i, j, k))


@dataclass(frozen=True, slots=True, eq=False)
class Accepted:
    """A lesion with what the meter says of it.

    Attributes:
        recipe: replays it.
        result: as drawn.
        measurements: of the meter.
        report: the eight attributes, `size_mm` (z, x, y), `diameter_mm`, `volume_ml`, numbers of
            the meter, and `unmet`: why a wish was not met.
        attempts: drawings until it was kept, 1 to 5.
        relabelled: attributes that read otherwise than intended: [intended, measured].
        unmet: attribute to reason, of the caller's wish.
    """

    recipe: Recipe
    result: Result
    measurements: Measurements
    report: Mapping[str, Any]
    attempts: int
    relabelled: Mapping[str, list[str]]
    unmet: Mapping[str, str]


def measure(
    recipe: Recipe, result: Result, template: Template, canvas: Canvas | None = None
) -> Measurements:
    """Measure a lesion as drawn.

    Args:
        recipe: of the lesion.
        result: of `apply`.
        template: it was drawn into.
        canvas: what was drawn before it.
    """
    source = template if canvas is None else canvas
    (tight,) = ndimage.find_objects(result.mask.astype(np.uint8))
    margin = int(MARGIN_MM)
    wide = tuple(
        slice(max(0, outer.start + part.start - margin), min(n, outer.start + part.stop + margin))
        for part, outer, n in zip(tight, result.box, template.shape, strict=True)
    )
    hu, labels = np.array(source.hu[wide]), np.array(source.labels[wide])
    both = [
        (max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(wide, result.box, strict=True)
    ]
    into = tuple(slice(a - w.start, b - w.start) for (a, b), w in zip(both, wide, strict=True))
    out = tuple(slice(a - r.start, b - r.start) for (a, b), r in zip(both, result.box, strict=True))
    hu[into], labels[into] = result.hu[out], result.labels[out]
    box = tuple(
        slice(o.start + t.start - w.start, o.start + t.stop - w.start)
        for t, o, w in zip(tight, result.box, wide, strict=True)
    )
    scan = CropScan(template, wide, hu, labels)  # type: ignore[arg-type]
    return measured(scan, label_named(recipe.label), box, result.mask[tight])  # type: ignore[arg-type]


def accepted(
    label: str,
    template: Template,
    rng: np.random.Generator,
    wish: Wish | None = None,
    canvas: Canvas | None = None,
) -> Accepted:
    """Draw a lesion until the meter reads what was intended, five times at most.

    Of drawings that never read as intended, the one with the fewest differences is kept and
    reported as measured. Drawings that break a rule of `guards` are thrown away.

    Args:
        label: lesion type.
        template: to draw into.
        rng: source of randomness.
        wish: as for `drawing.draw`.
        canvas: what was drawn before; not changed.

    Raises:
        RecipeError: if none can be drawn, or all five break a rule.
    """
    options, diameter = checked_wish(wish)
    kept: tuple[int, Recipe, Result, Measurements] | None = None
    tries, problem = 0, ""
    for attempt in range(1, ATTEMPTS + 1):
        tries = attempt
        try:
            recipe = draw(label, template, rng, wish, canvas)
            result = apply(recipe, template, canvas)
        except RecipeError as error:
            problem = str(error)
            if kept is None and attempt == ATTEMPTS:
                raise
            continue
        broken = broken_rules(recipe, result, template, canvas)
        if broken:
            problem = f"template {template.id}: {label}: {broken[0]}. Choose another template."
            continue
        found = measure(recipe, result, template, canvas)
        missed = len(differences(recipe, found)) + _unseen(recipe, found)
        if diameter and abs(found.diameter_mm - diameter) > max(2.0, 0.15 * diameter):
            missed += 1
        if kept is None or missed < kept[0]:
            kept = missed, recipe, result, found
        if missed == 0:
            break
    if kept is None:
        raise RecipeError(problem)
    _, recipe, result, found = kept
    unmet = impossible(label, wish)
    for name, wanted in options.items():
        item = found.attributes[name]
        if name not in unmet and item.value != wanted:
            unmet[name] = f"measured as {item.value}" if item.value else item.note
    if diameter and abs(found.diameter_mm - diameter) > max(2.0, 0.15 * diameter):
        unmet["diameter_mm"] = f"measured as {found.diameter_mm:.1f} mm"
    return Accepted(
        recipe, result, found, report_of(recipe, result, found, template, unmet), tries,
        differences(recipe, found), unmet,
    )  # fmt: skip


def differences(recipe: Recipe, found: Measurements) -> dict[str, list[str]]:
    """Attributes that the meter reads otherwise than intended; not assessable ones do not count."""
    return {
        name: [intended, str(found.attributes[name].value)]
        for name, intended in recipe.wish.items()
        if found.attributes[name].value not in (None, intended)
    }


def _unseen(recipe: Recipe, found: Measurements) -> bool:
    """Whether a lesion that is not isodense can hardly be told from the noise around it."""
    density = found.attributes["density"]
    if density.value in (None, ISODENSE) or "delta_hu" not in density.numbers:
        return False
    return abs(density.numbers["delta_hu"]) < MIN_CONTRAST_TO_NOISE * recipe["noise_hu"]


def findings_of(recipe: Recipe, found: Measurements, template: Template) -> dict[str, Finding]:
    """The eight attributes of a lesion, as `pasta.report` has them."""
    findings = {
        "enhancement": Finding(ENHANCED if template.contrast else NON_CONTRAST, MEASURED),
        "location": Finding(LOCATIONS[recipe.organ], MEASURED),
        "size": Finding(size_text(found.size_mm), MEASURED),
    }
    for name in PREDICTED:
        item = found.attributes[name]
        findings[name] = Finding(item.value, MEASURED, measured=item, note=item.note)
    return findings


def lesion_report(
    recipe: Recipe, result: Result, found: Measurements, template: Template, number: int = 1
) -> LesionReport:
    """Write a lesion's part of a `pasta.report.Report`, on the grid of the template."""
    (tight,) = ndimage.find_objects(result.mask.astype(np.uint8))
    i, j, k = (
        (outer.start + part.start, outer.start + part.stop)
        for part, outer in zip(tight, result.box, strict=True)
    )
    inside = np.argwhere(result.mask).mean(axis=0) + [part.start for part in result.box]
    centre = template.affine[:3, :3] @ inside + template.affine[:3, 3]
    cut = any(a == 0 or b == n for (a, b), n in zip((i, j, k), template.shape, strict=True))
    return LesionReport(
        number,
        recipe.label,
        findings_of(recipe, found, template),
        found.size_mm,
        found.volume_ml,
        (float(centre[0]), float(centre[1]), float(centre[2])),
        (float(inside[0]), float(inside[1]), float(inside[2])),
        (i, j, k),
        int(result.mask.sum()),
        found.organ_overlap,
        cut,
    )


def full_report(lesions: list[LesionReport], template: Template) -> Report:
    """Put the lesions of one template into a report."""
    volumes = {name: facts.volume_mm3 / 1000 for name, facts in template.organs.items()}
    enhancement = Finding(ENHANCED if template.contrast else NON_CONTRAST, MEASURED)
    case = CaseFacts(template.shape, (1.0, 1.0, 1.0), template.axcodes, volumes)
    return Report(case, enhancement, tuple(lesions))


def report_of(
    recipe: Recipe,
    result: Result,
    found: Measurements,
    template: Template,
    unmet: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Write what a plan keeps of a lesion's report: values, sizes and the meter's numbers."""
    lesion = lesion_report(recipe, result, found, template)
    document: dict[str, Any] = dict(lesion.values)
    document |= {
        "size_mm": [round(v, 1) for v in found.size_mm],
        "diameter_mm": round(found.diameter_mm, 2),
        "volume_ml": round(found.volume_ml, 4),
        "centre_voxel": [round(v, 1) for v in lesion.centre_voxel],
    }
    density = found.attributes["density"].numbers
    document |= {f"density_{k.removeprefix('lesion_')}": v for k, v in density.items()}
    document["not_assessable"] = {
        name: found.attributes[name].note
        for name in PREDICTED
        if found.attributes[name].value is None
    }
    document["unmet"] = dict(unmet or {})
    return document


def surrounding_box(result: Result, template: Template, margin: int) -> Box:
    """Bounds of the lesion with a margin, in voxels of the template."""
    where = np.argwhere(result.mask)
    low, high = where.min(axis=0), where.max(axis=0)
    middle = [
        int((a + b) // 2) + part.start for a, b, part in zip(low, high, result.box, strict=True)
    ]
    half = [int((b - a) // 2) + margin for a, b in zip(low, high, strict=True)]
    return box_around((middle[0], middle[1], middle[2]), half, template.shape)
