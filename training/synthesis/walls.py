"""Wall thickenings: patches over the surface of a hollow organ, and rings around a tube."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage, sparse
from scipy.sparse import csgraph

from training.synthesis.composition import (
    GAP_MM,
    ILL_DEFINED_MM,
    beyond,
    composed,
    edge,
    show_outside,
)
from training.synthesis.host import Host, box_around
from training.synthesis.noise import taken
from training.synthesis.recipe import RecipeError
from training.synthesis.tables import Floats, bell, blurred, scaled, smoothstep

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from training.synthesis.recipe import Canvas, Recipe, Result
    from training.synthesis.templates import Template

STEP = 2  # voxels between the nodes of the surface graph: the thickness varies slowly along it
LUMEN_EDGE_MM = 0.6
SIDE_EDGE_MM = 0.8
RING_MM = 2.5
FAR_MM = 400.0
_OFFSETS = [
    (i, j, k) for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1) if (i, j, k) > (0, 0, 0)
]


def render(recipe: Recipe, template: Template, canvas: Canvas | None = None) -> Result:
    """Draw a wall thickening.

    Args:
        recipe: of family "wall".
        template: it was drawn for.
        canvas: what was drawn before; None draws into the template.

    Raises:
        RecipeError: if the organ has no surface at the centre of the recipe.
    """
    rng = np.random.default_rng(recipe.seed)
    extent, outward = recipe["extent_mm"], recipe["outward_mm"]
    reach = max(extent, recipe["reach_mm"]) if recipe["annular"] > 0 else extent
    half = int(np.ceil(reach + outward + 3 * recipe["margin_mm"] + 5))
    box = box_around(recipe.centre, [half] * 3, template.shape)
    host = Host.read(template, recipe.organ, box, canvas)
    depth = blurred(host.depth.astype(np.float32), (0.8, 0.8, 0.8))
    seed = np.array([c - part.start for c, part in zip(recipe.centre, box, strict=True)])
    along, around = _along_the_wall(recipe, host, seed)
    shape = host.hu.shape
    coarse, fine = taken(shape, 0.35 * extent, rng), taken(shape, 3, rng)
    wander = 1 + np.float32(0.15) * coarse + np.float32(0.06) * taken(shape, 6, rng)
    rest = 1 - along * wander / np.float32(extent)
    rise = smoothstep(rest / np.float32(recipe["shoulder"]))
    swing = np.clip(0.9 + 0.16 * coarse + 0.05 * fine, 0.35, 1.3).astype(np.float32)
    ring = 1 - np.float32(recipe["eccentric"]) * (1 - around) * np.float32(0.5)
    thick = np.float32(recipe["thickness_mm"]) * rise * swing * ring
    if recipe["ulcer"] > 0:
        dip = bell(along * np.float32(1 / (0.45 * extent)))
        thick = thick * (1 - np.float32(0.75 * recipe["ulcer"]) * dip)
    grown = np.float32(outward) * rise * ring * np.clip(0.85 + 0.3 * coarse + 0.2 * fine, 0, 1.5)
    forbidden = host.forbidden(
        outward + 3 + 3 * recipe["margin_mm"], replaces=recipe["replaces"] > 0, air=True
    )
    clip = beyond(forbidden)
    if recipe["gap"] > 0:
        clip = np.maximum(clip, beyond(host.solid_outside()) + np.float32(GAP_MM))
    inner = -depth - thick
    outer = np.maximum(depth - grown.astype(np.float32), clip)
    side = np.float32(extent) * (np.float32(0.02) - rest)
    distance = np.maximum(np.maximum(inner, outer), side)
    width = np.float32(recipe["margin_mm"])
    alpha = np.minimum(edge(inner, LUMEN_EDGE_MM), edge(side, SIDE_EDGE_MM))
    alpha = np.minimum(alpha, edge(depth - grown, float(width)))
    alpha = np.minimum(alpha, edge(clip, 0.6))
    alpha = alpha * np.minimum(1, 5 * rise)  # no film along the wall where nothing is thickened
    layer = np.full(shape, np.float32(recipe["hu"]))
    if recipe["texture_hu"] > 0:
        texture = np.float32(0.6) * taken(shape, 5, rng) + np.float32(0.5) * taken(shape, 2, rng)
        layer = layer + scaled(texture, distance < -2, recipe["texture_hu"])
    if recipe["mucosa_hu"] != 0:
        layer = layer + np.float32(recipe["mucosa_hu"]) * bell((inner + np.float32(0.8)) / 1.1)
    under = host.hu.copy()
    if width > ILL_DEFINED_MM:
        show_outside(host, 2 * float(width))
        host.hu[...] = np.where(alpha >= 0.5, host.hu, under)
    if recipe["strands_hu"] > 0:
        _strands(recipe, host, depth - grown, rise, rng)
    none = np.zeros(shape, bool)
    return composed(
        recipe, template, host, alpha, layer.astype(np.float32), distance, forbidden, none, rng
    )


def _strands(
    recipe: Recipe, host: Host, outside: Floats, rise: Floats, rng: np.random.Generator
) -> None:
    """Draw strands into the fat outside."""
    ridge = bell(np.abs(taken(host.hu.shape, 3, rng)) * np.float32(3.5))
    share = ridge * edge(outside - np.float32(4), 1.0) * rise * rise
    fat = (host.labels == 0) & (host.hu < -30) & (host.hu > -200) & (outside > 0)
    host.hu[fat] += (np.float32(recipe["strands_hu"]) * share)[fat]


def _along_the_wall(recipe: Recipe, host: Host, seed: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Geodesic distance along the surface from the seed, and the side of a ring: 1 near, -1 far.

    Distances are found on the surface voxels of every second voxel, carried into the depth from the
    nearest of them, and interpolated.
    """
    organ = host.labels == host.organ
    coarse = organ[::STEP, ::STEP, ::STEP]
    surface = coarse & ~ndimage.binary_erosion(coarse, border_value=1)
    nodes = np.argwhere(surface)
    if len(nodes) < 8:
        msg = f"recipe: no wall of the {recipe.organ} at its centre. Draw it again."
        raise RecipeError(msg)
    number = np.full(surface.shape, -1, np.int32)
    number[surface] = np.arange(len(nodes), dtype=np.int32)
    graph = _graph(number)
    offset = (nodes * STEP - seed).astype(np.float64)
    nearest = int(np.argmin((offset**2).sum(axis=1)))
    limit = recipe["extent_mm"] * 1.6 + 8
    if recipe["annular"] > 0:
        axis = np.array([recipe["axis_i"], recipe["axis_j"], recipe["axis_k"]])
        height = (offset * axis).sum(axis=1)
        near = (offset**2).sum(axis=1) < (2.4 * recipe["reach_mm"]) ** 2
        start = np.flatnonzero((np.abs(height) < RING_MM) & near)
        if not len(start):
            start = np.array([nearest])
    else:
        start = np.array([nearest])
    lengths = csgraph.dijkstra(graph, directed=False, indices=start, limit=limit, min_only=True)
    lengths = np.where(np.isfinite(lengths), lengths, FAR_MM)
    _, index = ndimage.distance_transform_edt(~surface, return_indices=True)
    carried = np.zeros(surface.shape, np.float32)
    carried[surface] = lengths
    along = _upsampled(np.minimum(carried[tuple(index)], np.float32(limit)), host.hu.shape)
    side = np.ones(surface.shape, np.float32)
    if recipe["annular"] > 0:
        middle = offset[start].mean(axis=0)
        towards = offset[nearest] - middle
        size = max(1e-6, float(np.sqrt((towards**2).sum())))
        grid = np.indices(surface.shape).reshape(3, -1).T * STEP - seed - middle
        grid -= (grid * axis).sum(axis=1)[:, None] * axis
        far = np.maximum(np.sqrt((grid**2).sum(axis=1)), 1e-3)
        side = ((grid * (towards / size)).sum(axis=1) / far).reshape(surface.shape)
        side = side.astype(np.float32)
    return along, _upsampled(side, host.hu.shape)


def _graph(number: NDArray[np.int32]) -> sparse.csr_matrix:
    starts, ends, weights = [], [], []
    for step in _OFFSETS:
        from_, to = (
            tuple(
                slice(max(0, s * sign), n + min(0, s * sign))
                for s, n in zip(step, number.shape, strict=True)
            )
            for sign in (-1, 1)
        )
        a, b = number[from_], number[to]
        both = (a >= 0) & (b >= 0)
        starts.append(a[both])
        ends.append(b[both])
        weights.append(np.full(int(both.sum()), STEP * float(np.sqrt(sum(s * s for s in step)))))
    count = int(number.max()) + 1
    pairs = (np.concatenate(starts), np.concatenate(ends))
    return sparse.csr_matrix((np.concatenate(weights), pairs), shape=(count, count))


def _upsampled(values: Floats, shape: tuple[int, ...]) -> Floats:
    """Interpolate from every second voxel to all."""
    out = values
    for axis, n in enumerate(shape):
        out = np.moveaxis(out, axis, 0)
        later = np.concatenate([out[1:], out[-1:]])
        full = np.empty((2 * len(out), *out.shape[1:]), np.float32)
        full[::2], full[1::2] = out, (out + later) * np.float32(0.5)
        out = np.moveaxis(full[:n], 0, axis)
    return blurred(np.ascontiguousarray(out), (1.0, 1.0, 1.0))
