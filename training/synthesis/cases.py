"""A case of a plan, drawn: CT and labelmap of a template with its synthetic lesions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pasta.labels import ORGANS
from training.synthesis.recipe import Canvas, Recipe
from training.synthesis.recipes import apply

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pasta.geometry import Shape
    from training.synthesis.templates import Box, Template


@dataclass(frozen=True, slots=True, eq=False)
class SyntheticCase:
    """A piece of a template with lesions in it.

    Attributes:
        template: that it was drawn into.
        box: the piece, in voxels of the template.
        hu: (I, J, K) int16, 1 mm along L, P, S.
        labels: (I, J, K) uint8, the 25 values of `pasta.labels`.
    """

    template: Template
    box: Box
    hu: NDArray[np.int16]
    labels: NDArray[np.uint8]

    @property
    def lesion(self) -> NDArray[np.bool_]:
        """(I, J, K) bool, all lesions."""
        return np.asarray(self.labels > len(ORGANS))


def recipes_of(documents: Sequence[Mapping[str, Any]], where: str) -> list[Recipe]:
    """Read the recipes of a plan's line.

    Raises:
        RecipeError: if one is corrupt; the message names `where`.
    """
    return [Recipe.from_json(json.dumps(document), where) for document in documents]


def drawn(template: Template, recipes: Sequence[Recipe], box: Box | None = None) -> SyntheticCase:
    """Draw lesions into a template.

    Args:
        template: named by the recipes.
        recipes: one or more, in their order.
        box: the piece wanted; None takes the whole template.

    Returns:
        The piece. The same recipes give the same voxels.

    Raises:
        PastaError: if a recipe does not fit the template.
    """
    whole = tuple(slice(0, n) for n in template.shape)
    box = box or (whole[0], whole[1], whole[2])
    if len(recipes) == 1:  # no need to copy the whole template
        result = apply(recipes[0], template)
        hu, labels = np.array(template.hu[box]), np.array(template.labels[box])
        inner, outer = _overlap(result.box, box)
        hu[outer], labels[outer] = result.hu[inner], result.labels[inner]
        return SyntheticCase(template, box, hu, labels)
    canvas = Canvas.of(template)
    for recipe in recipes:
        canvas.put(apply(recipe, template, canvas))
    return SyntheticCase(template, box, canvas.hu[box], canvas.labels[box])


def box_around(shape: Shape, centre: Sequence[float], size: Sequence[int]) -> Box:
    """Bounds of a piece of at most `size` voxels about a centre, moved to lie inside the volume."""
    bounds = []
    for n, c, wanted in zip(shape, centre, size, strict=True):
        length = min(n, int(wanted))
        start = min(max(0, round(c) - length // 2), n - length)
        bounds.append(slice(start, start + length))
    return bounds[0], bounds[1], bounds[2]


def _overlap(part: Box, box: Box) -> tuple[Box, Box]:
    """Where two boxes overlap, relative to either."""
    of_part, of_box = [], []
    for a, b in zip(part, box, strict=True):
        start, stop = max(a.start, b.start), min(a.stop, b.stop)
        stop = max(start, stop)
        of_part.append(slice(start - a.start, stop - a.start) if stop > start else slice(0, 0))
        of_box.append(slice(start - b.start, stop - b.start) if stop > start else slice(0, 0))
    return (of_part[0], of_part[1], of_part[2]), (of_box[0], of_box[1], of_box[2])
