"""What must hold of every lesion drawn; each rule that is broken is one sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from pasta.labels import label_named
from training.synthesis.composition import (
    HIGHEST_HU,
    LOWEST_HU,
    coordinates,
    fading_mm,
    pushed,
    steps_away,
)
from training.synthesis.host import Host
from training.synthesis.parenchymal import radii
from training.synthesis.recipe import matrix

if TYPE_CHECKING:
    from training.synthesis.recipe import Canvas, Recipe, Result
    from training.synthesis.templates import Template

MIN_CONTRAST_TO_NOISE = 1.0


def broken_rules(
    recipe: Recipe, result: Result, template: Template, canvas: Canvas | None = None
) -> list[str]:
    """Check a lesion as drawn.

    Host HU away from the lesion are as they were, but where it pushed tissue aside; one component;
    HU in range; the mask is where alpha is one half or more; nothing at existing lesions; benign
    lesions replace no voxel of a neighbour.

    Args:
        recipe: of the lesion.
        result: of `apply`.
        template: it was drawn into.
        canvas: what was drawn before it, as given to `apply`.

    Returns:
        Sentences; empty if all is well.
    """
    found = []
    if int(result.hu.min()) < LOWEST_HU or int(result.hu.max()) > HIGHEST_HU:
        found.append(f"HU outside {LOWEST_HU} to {HIGHEST_HU}")
    if not result.mask.any():
        return [*found, "no voxel of it is left"]
    if ndimage.label(result.mask, np.ones((3, 3, 3)))[1] != 1:
        found.append("more than one component")
    if not np.array_equal(result.mask, result.alpha >= 0.5):
        found.append("the mask is not where alpha is one half or more")
    value = label_named(recipe.label).value
    if not (result.labels[result.mask] == value).all():
        found.append("the labelmap does not have the lesion's value in its mask")
    if far_changes(recipe, result, template, canvas):
        found.append("tissue far from the lesion has other HU")
    blocked = template.blocked[result.box] & ~result.displaced
    if (blocked & result.mask).any():
        found.append("it lies on a lesion that was there before")
    if not label_named(recipe.label).malignant and replaced_voxels(
        recipe, result, template, canvas
    ):
        found.append("a benign lesion took voxels of a neighbour")
    return found


def far_changes(
    recipe: Recipe, result: Result, template: Template, canvas: Canvas | None = None
) -> int:
    """Count voxels with other HU further than 3 mm and the fading edge (four widths) from the lesion.

    Voxels that were pushed aside do not count.
    """
    source = template if canvas is None else canvas
    changed = (result.hu != source.hu[result.box]) & ~result.displaced
    reach = fading_mm(recipe) + 2.5 * recipe["halo_mm"]
    if recipe["strands_hu"] > 0:
        reach += 10
    if recipe.family == "stone":
        reach += 3 * 0.42 * template.slice_mm
    away = steps_away(result.mask) > reach
    return int((changed & away).sum())


def replaced_voxels(
    recipe: Recipe, result: Result, template: Template, canvas: Canvas | None = None
) -> int:
    """Count voxels of the mask that were another organ's or a named tissue's.

    Tissue that the lesion pushes aside moves, its labels with it, before the lesion is drawn: what
    lies under the mask is asked of the displaced labels.
    """
    moved = _before(recipe, result, template, canvas)
    return int((moved.neighbours() & result.mask).sum())


def _before(recipe: Recipe, result: Result, template: Template, canvas: Canvas | None) -> Host:
    """The host as it was when the lesion was put in: tissue pushed aside, no lesion."""
    host = Host.read(template, recipe.organ, result.box, canvas)
    if recipe["kappa"] > 0:
        axes = np.asarray(recipe.axes_mm, np.float32)
        rho = radii(coordinates(host, recipe.centre), matrix(recipe.rotation), axes)
        pushed(host, rho, recipe.centre, recipe["kappa"])
    return host


def contrast_to_noise(recipe: Recipe, delta_hu: float) -> float:
    """How far a lesion stands out: difference to its reference over the noise of its host."""
    return abs(delta_hu) / max(recipe["noise_hu"], 1.0)
