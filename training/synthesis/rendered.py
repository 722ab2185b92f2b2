"""Templates painted from organ label maps, for users and tests without CT.

Half of the fields that make a CT are drawn (habitus, contrast phase, bowel content, vessels, noise,
blur); organ shapes are those of the label map, bent and scaled. A domain-randomised variant gives
every tissue any attenuation (SynthSeg: Billot et al. 2023).
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from pasta.errors import LabelError
from pasta.geometry import reoriented
from pasta.io import read_labelmap
from pasta.preprocessing.resampling import grid_map
from training.synthesis.phantom import PHASES, TRUNK_MM, draw_phantom, render_phantom
from training.synthesis.rendering import RenderRecipe, deformed, draw_render_recipe, painted
from training.synthesis.standardisation import build_template, labels_at_1mm, names_of_scheme
from training.synthesis.templates import AXCODES, SPACING_MM, Template
from training.tissues import tissue_map

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

MARGIN_MM = 30  # of air kept around the organs of the map, for the body wall
DOMAIN_SHARE = 0.25


def read_structures(path: Path, scheme: str) -> tuple[NDArray[np.uint8], Mapping[int, str]]:
    """Read a label map at 1 mm along L, P, S, with the structure of each value.

    Raises:
        LabelError: if a value is not in the scheme, or the map is empty.
        VolumeError: if it cannot be read.
    """
    names = names_of_scheme(scheme)
    labelmap = read_labelmap(path, highest=255)
    values = {int(value) for value in np.unique(labelmap.voxels)} - {0}
    unknown = sorted(values - set(names))
    if unknown or not values:
        shown = ", ".join(map(str, unknown[:8])) or "none at all"
        msg = f"{path.name}: label values {shown} are not in {scheme}. Name the scheme of the map."
        raise LabelError(msg)
    plan = grid_map(labelmap.grid, AXCODES, (SPACING_MM,) * 3)
    return labels_at_1mm(reoriented(labelmap, AXCODES).voxels, plan), names


def draw_rendering(
    rng: np.random.Generator, *, contrast: bool | None = None, random_hu: bool | None = None
) -> RenderRecipe:
    """Draw what replays a rendered template.

    Args:
        rng: source of all choices.
        contrast: with contrast agent or without; None draws it.
        random_hu: domain-randomised or plausible; None draws a quarter of them randomised.
    """
    recipe = draw_render_recipe(rng, DOMAIN_SHARE)
    enhanced = recipe.contrast > 0 if contrast is None else contrast
    level = float(rng.uniform(0.8, 1.15))
    arterial = float(rng.uniform(0, 60))
    return replace(
        recipe,
        contrast=level if enhanced else 0.0,
        arterial=arterial if enhanced else 0.0,
        noise_hu=float(rng.uniform(8, 16)),
        random_hu=recipe.random_hu if random_hu is None else random_hu,
    )


def render_template(
    template_id: str,
    structures: NDArray[np.uint8],
    names: Mapping[int, str],
    recipe: RenderRecipe,
    *,
    licence: str = "",
    source: str = "",
) -> tuple[Template, NDArray[np.uint8]]:
    """Paint a template.

    Args:
        template_id: name.
        structures: (I, J, K) of `read_structures`.
        names: structure of each value.
        recipe: of `draw_rendering`; the same recipe gives the same voxels.
        licence: of the label map.
        source: of the label map.

    Returns:
        The template and its TotalSegmentator v1 values.
    """
    rng = np.random.default_rng(recipe.seed)
    bounds = ndimage.find_objects((structures > 0).astype(np.uint8))[0]
    inside = structures[
        bounds[0], bounds[1], :  # every slice is kept: the ends of the scan are those of the map
    ]
    inside = inside[:, :, bounds[2]]
    side = MARGIN_MM + round(recipe.fat_mm)
    wide = np.pad(inside, ((side, side), (side, side), (0, 0)))
    bent = deformed(wide, SPACING_MM, recipe, rng)
    hu = painted(tissue_map(bent, names), SPACING_MM, recipe, rng)
    note = "domain-randomised" if recipe.random_hu else "plausible HU"
    return build_template(
        template_id,
        hu,
        bent,
        names,
        slice_mm=1.0,
        contrast=recipe.contrast > 0,
        licence=licence,
        source=f"{source}; rendered ({note})".lstrip("; "),
        rendered=True,
        warnings=(f"Rendered from a label map: {asdict(recipe)}",),
    )


def phantom_template(
    template_id: str,
    rng: np.random.Generator,
    *,
    contrast: bool,
    range_mm: tuple[float, float] = TRUNK_MM,
) -> tuple[Template, NDArray[np.uint8]]:
    """Paint a template from nothing but code: all ten organs, no label map needed.

    Args:
        template_id: name.
        rng: source of all choices.
        contrast: portal venous or without contrast agent.
        range_mm: lowest and highest height, of `training.synthesis.phantom.draw_phantom`.

    Returns:
        The template and its TotalSegmentator v1 values (kidneys and lungs by side, no parts).
    """
    phase = PHASES[int(contrast)]
    recipe = draw_phantom(rng, phase=phase, lesions=(), range_mm=range_mm)
    ct, labelmap = render_phantom(recipe, SPACING_MM)
    structures = np.ascontiguousarray(labelmap.voxels, dtype=np.uint8)
    return build_template(
        template_id,
        np.ascontiguousarray(ct.voxels),
        structures,
        names_of_scheme("pasta"),
        affine=ct.affine,
        slice_mm=1.0,
        contrast=contrast,
        licence="none needed",
        source="drawn by training.synthesis.phantom",
        rendered=True,
    )
