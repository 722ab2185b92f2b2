"""Synthetic lesions: draw a recipe (random), apply it (the same to the last bit, every time)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from training.synthesis import parenchymal, stones, walls
from training.synthesis.drawing import draw, impossible
from training.synthesis.priors import draw_count
from training.synthesis.recipe import PARAMETERS, Canvas, Recipe, RecipeError, Result

if TYPE_CHECKING:
    from training.synthesis.templates import Template

_RENDER = {"solid": parenchymal.render, "wall": walls.render, "stone": stones.render}


def apply(recipe: Recipe, template: Template, canvas: Canvas | None = None) -> Result:
    """Draw the lesion of a recipe.

    Args:
        recipe: of `draw` or `Recipe.from_json`.
        template: the one it was drawn for.
        canvas: what was drawn before it; None draws into the template itself. Nothing is changed:
            `Canvas.put` adds the result.

    Returns:
        The lesion in its box of the template.

    Raises:
        RecipeError: if the recipe is for another template, lies outside of it or leaves no lesion.
    """
    if recipe.template != template.id:
        msg = f"recipe: drawn for template {recipe.template!r}, not {template.id!r}. Load that one."
        raise RecipeError(msg)
    if recipe.organ not in template.organs or any(
        not 0 <= c < n for c, n in zip(recipe.centre, template.shape, strict=True)
    ):
        msg = f"recipe: template {template.id} has no {recipe.organ} at {recipe.centre}. Draw it again."
        raise RecipeError(msg)
    result = _RENDER[recipe.family](recipe, template, canvas)
    if not result.mask.any():
        msg = f"recipe: nothing of this {recipe.label} fits template {template.id}. Draw it again."
        raise RecipeError(msg)
    return result


def draw_case(
    label: str, template: Template, rng: np.random.Generator, most: int = 22
) -> tuple[list[Recipe], Canvas]:
    """Draw all lesions of one type in a scan, as many as real scans have.

    Args:
        label: lesion type.
        template: to draw into.
        rng: source of randomness.
        most: lesions at most.

    Returns:
        The recipes, to be applied in this order onto one canvas, and that canvas.

    Raises:
        RecipeError: if not even one can be drawn.
    """
    canvas = Canvas.of(template)
    recipes = [draw(label, template, rng, canvas=canvas)]
    canvas.put(apply(recipes[0], template, canvas))
    for _ in range(min(most, draw_count(label, rng)) - 1):
        try:
            recipe = draw(label, template, rng, canvas=canvas)
            result = apply(recipe, template, canvas)
        except RecipeError:  # no room left: the scan has fewer
            break
        canvas.put(result)
        recipes.append(recipe)
    return recipes, canvas


__all__ = [
    "PARAMETERS",
    "Canvas",
    "Recipe",
    "RecipeError",
    "Result",
    "apply",
    "draw",
    "draw_case",
    "draw_count",
    "impossible",
]
