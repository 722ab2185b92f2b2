"""Stones: faceted superellipsoids, drawn three times finer than the grid."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pasta.labels import label_named
from training.synthesis.composition import HIGHEST_HU, LOWEST_HU, noise_of, one_piece, psf
from training.synthesis.host import Host, box_around
from training.synthesis.noise import taken
from training.synthesis.recipe import Result, matrix
from training.synthesis.tables import Curve, Floats, blurred, steady

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from training.synthesis.recipe import Canvas, Recipe
    from training.synthesis.templates import Template

FINE = 3
_cosine = Curve(lambda t: np.cos(6 * t), 0, 2, 8192)


def render(recipe: Recipe, template: Template, canvas: Canvas | None = None) -> Result:
    """Draw a stone.

    Args:
        recipe: of family "stone".
        template: it was drawn for.
        canvas: what was drawn before; None draws into the template.
    """
    rng = np.random.default_rng(recipe.seed)
    reach = max(recipe.axes_mm) * (2.6 if recipe["branches"] > 0 else 1.35)
    box = box_around(recipe.centre, [int(np.ceil(reach + 5))] * 3, template.shape)
    host = Host.read(template, recipe.organ, box, canvas)
    rho = _radii(recipe, host, rng)
    forbidden = host.forbidden(0, replaces=False) | host.blocked
    shape = host.hu.shape
    share = _averaged((rho < 1).astype(np.float32), shape)
    layers = 1 - np.float32(recipe["lamination"]) * _cosine(np.minimum(rho, 1.5))
    centre = np.clip(1 - rho, 0, 1) * np.float32(recipe["core_hu"])
    inside = _averaged(np.where(rho < 1, layers, 0).astype(np.float32), shape)
    added = _averaged(np.where(rho < 1, centre, 0).astype(np.float32), shape)
    share[forbidden], inside[forbidden], added[forbidden] = 0, 0, 0
    target = float(4 / 3 * np.pi * np.prod(recipe.axes_mm))
    mask = one_piece(_largest(share, target), -share)
    share = np.where(mask | (share < 0.5), share, np.float32(0.499))
    lumen = host.hu[(host.labels == host.organ) & (share == 0)]
    around = steady(float(np.median(lumen)) if lumen.size else 10.0)
    body = inside * np.float32(recipe["hu"]) + added - share * np.float32(around)
    alpha = np.where(mask, np.maximum(share, 0.5), np.minimum(share, 0.499)).astype(np.float32)
    seen = blurred(body, psf(template))
    if mask.any():  # the mean that is seen is the one asked for; small stones would fade
        blur = blurred(share, psf(template))
        mean = float((host.hu + seen)[mask].mean())
        lift = (recipe["hu"] - mean) / max(0.25, float(blur[mask].mean()))
        seen = seen + np.float32(steady(min(lift, 0.9 * abs(recipe["hu"]) + 20))) * blur
    out = host.hu + seen
    if recipe["texture_hu"] > 0:
        out = out + share * np.float32(recipe["texture_hu"]) * taken(shape, 1.5, rng)
    out = out + share * noise_of(recipe, shape, template, rng)
    out = np.where(np.abs(seen) < 0.3, host.hu, out)
    hu = np.clip(np.rint(out), LOWEST_HU, HIGHEST_HU).astype(np.int16)
    labels = host.labels.copy()
    labels[mask] = label_named(recipe.label).value
    return Result(box, hu, mask, labels, alpha, np.zeros(shape, bool))


def _largest(share: Floats, target_mm3: float) -> NDArray[np.bool_]:
    """Voxels at least half filled; a stone too small for one has its fullest voxel."""
    mask: NDArray[np.bool_] = share >= 0.5
    if not mask.any() and share.max() > 0 and target_mm3 > 0:
        mask = share >= share.max()
    return mask


def _radii(recipe: Recipe, host: Host, rng: np.random.Generator) -> Floats:
    """Distance from the centre in radii of a superellipsoid, on the fine grid."""
    at = []
    jitter = (rng.random(3) - 0.5).astype(np.float32)
    for axis, (part, c) in enumerate(zip(host.box, recipe.centre, strict=True)):
        n = (part.stop - part.start) * FINE
        fine = (np.arange(n, dtype=np.float32) - np.float32((FINE - 1) / 2)) / np.float32(FINE)
        place: list[slice | None] = [None, None, None]
        place[axis] = slice(None)
        at.append((fine + np.float32(part.start - c) - jitter[axis])[tuple(place)])
    turn, axes = matrix(recipe.rotation), np.asarray(recipe.axes_mm, np.float32)
    rho = _superellipsoid(recipe, at, turn, axes, rng)
    for _ in range(int(recipe["branches"])):
        way = rng.random(3).astype(np.float32) * 2 - 1
        way = way / np.float32(max(0.3, float(np.sqrt((way**2).sum()))))
        for step in (0.7, 1.3):
            shift = way * axes.max() * np.float32(step)
            own = [x - s for x, s in zip(at, shift, strict=True)]
            rho = np.minimum(rho, _superellipsoid(recipe, own, turn, axes * 0.62, rng))
    return rho


def _superellipsoid(
    recipe: Recipe,
    at: list[Floats],
    turn: NDArray[np.float32],
    axes: NDArray[np.float32],
    rng: np.random.Generator,
) -> Floats:
    power = recipe["power"]
    raised = Curve(lambda t: t**power, 0, 2, 8192)
    root = Curve(lambda t: t ** (1 / power), 0, 3, 16384)
    across = [
        (at[0] * (row[0] / axis) + at[1] * (row[1] / axis)) + at[2] * (row[2] / axis)
        for row, axis in zip(turn, axes, strict=True)
    ]
    rho = root(raised(np.abs(across[0])) + raised(np.abs(across[1])) + raised(np.abs(across[2])))
    for _ in range(int(recipe["facets"])):
        way = rng.random(3).astype(np.float32) * 2 - 1
        way = way / np.float32(max(0.3, float(np.sqrt((way**2).sum()))))
        plane = (way[0] * across[0] + way[1] * across[1]) + way[2] * across[2]
        rho = np.maximum(rho, plane / np.float32(0.72 + 0.2 * rng.random()))
    return rho


def _averaged(values: Floats, shape: tuple[int, ...]) -> Floats:
    """Average blocks of the fine grid."""
    i, j, k = shape
    blocks = values.reshape(i, FINE, j, FINE, k, FINE)
    out: Floats = blocks.mean(axis=(1, 3, 5), dtype=np.float32)
    return out
