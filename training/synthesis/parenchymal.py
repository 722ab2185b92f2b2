"""Solid lesions: ellipsoids and lobulated masses with texture, necrosis, rim, halo, mass effect."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from training.synthesis.composition import (
    GAP_MM,
    ILL_DEFINED_MM,
    beyond,
    composed,
    coordinates,
    edge,
    one_piece,
    pushed,
    show_outside,
)
from training.synthesis.host import Host, box_around
from training.synthesis.noise import taken
from training.synthesis.recipe import matrix
from training.synthesis.tables import Floats, bell, blurred, scaled, steady
from training.synthesis.templates import HOLLOW

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from training.synthesis.recipe import Canvas, Recipe, Result
    from training.synthesis.templates import Template

GROWTH = 0.45  # radii by which a lesion grows where its organ leaves no room on one side
SEAM = 0.25  # radii over which lobes are joined


def render(recipe: Recipe, template: Template, canvas: Canvas | None = None) -> Result:
    """Draw a solid lesion.

    Args:
        recipe: of family "solid".
        template: it was drawn for.
        canvas: what was drawn before; None draws into the template.
    """
    rng = np.random.default_rng(recipe.seed)
    turn = matrix(recipe.rotation)
    axes = np.asarray(recipe.axes_mm, np.float32)
    radius = recipe.radius_mm
    span = np.sqrt(((turn * axes[:, None]) ** 2).sum(axis=0))
    wide = 1.15 + 1.4 * recipe["rough"] + recipe["spicules"] + (0.15 if recipe["lobes"] > 1 else 0)
    fade = min(4.0, 3 + 0.5 * recipe["margin_mm"]) * recipe["margin_mm"] + recipe["halo_mm"] * 1.5
    half = [int(np.ceil(s * wide + fade + 3)) for s in span]
    far = [max(h, int(np.ceil(2.2 * s)) + 1) for h, s in zip(half, span, strict=True)]
    pushes = recipe["kappa"] > 0
    host = Host.read(
        template, recipe.organ, box_around(recipe.centre, far if pushes else half, template.shape),
        canvas,
    )  # fmt: skip
    displaced = np.zeros(host.hu.shape, bool)
    before = host
    if pushes:
        rho = radii(coordinates(host, recipe.centre), turn, axes)
        displaced = pushed(host, rho, recipe.centre, recipe["kappa"])
        near = box_around(recipe.centre, half, template.shape)
        inner = tuple(
            slice(part.start - outer.start, part.stop - outer.start)
            for part, outer in zip(near, host.box, strict=True)
        )
        host = host.inner(inner)  # type: ignore[arg-type]
    else:
        inner = (slice(None),) * 3
    distance = _shape(recipe, host, turn, axes, radius, rng)
    lung = recipe.organ == "lung"
    air = lung or recipe.organ in HOLLOW
    forbidden = host.forbidden(recipe["outside_mm"], replaces=recipe["replaces"] > 0, air=air)
    clip = beyond(forbidden)
    if recipe["gap"] > 0:
        if recipe["outside_mm"] > GAP_MM:  # exophytic: it may lie against its neighbours' fat
            clip = np.maximum(clip, beyond(host.neighbours()) + np.float32(1.2))
        else:
            clip = np.maximum(clip, beyond(host.solid_outside()) + np.float32(GAP_MM))
    target = 4 / 3 * np.pi * radius**3
    distance = _sized(distance, clip, target, radius)
    width = recipe["margin_mm"]
    if width > ILL_DEFINED_MM:  # noise makes the level steep: an edge that wide needs true mm
        distance = _true_distance(distance)
    alpha = np.minimum(edge(distance, width), edge(clip, 0.5))
    if width > ILL_DEFINED_MM and recipe.organ in HOLLOW:  # it fades out of the organ, too
        around = host.forbidden(recipe["outside_mm"] + 3 * width, replaces=True, air=air)
        alpha = np.minimum(edge(np.maximum(distance, clip), width), edge(beyond(around), 0.5))
        under = host.hu.copy()
        show_outside(host, 2 * width)
        host.hu[...] = np.where(alpha >= 0.5, host.hu, under)
    distance = np.maximum(distance, clip)
    inside = one_piece(distance < 0, distance)
    alpha = np.where(~inside & (distance < 0), np.float32(0), alpha)
    distance = np.where(~inside & (distance < 0), np.float32(1), distance)
    layer, exact = _layer(recipe, distance, radius, rng)
    if recipe["halo_mm"] > 0:
        _halo(recipe, host, distance, forbidden, rng)
    result = composed(
        recipe, template, host, alpha, layer, distance, forbidden, displaced[inner], rng,
        exact=exact, brightest=lung,
    )  # fmt: skip
    if not pushes:
        return result
    return _in_wider_box(result, before, displaced, inner)  # type: ignore[arg-type]


def _in_wider_box(
    result: Result, host: Host, displaced: NDArray[np.bool_], inner: tuple[slice, slice, slice]
) -> Result:
    """Put a result into the box of all tissue that was pushed aside."""
    from training.synthesis.recipe import Result as Wider

    hu = np.rint(host.hu).astype(np.int16)
    labels = host.labels.copy()
    mask = np.zeros(hu.shape, bool)
    alpha = np.zeros(hu.shape, np.float32)
    hu[inner], labels[inner] = result.hu, result.labels
    mask[inner], alpha[inner] = result.mask, result.alpha
    return Wider(host.box, hu, mask, labels, alpha, displaced)


def radii(
    at: tuple[Floats, Floats, Floats], turn: NDArray[np.float32], axes: NDArray[np.float32]
) -> Floats:
    """Distance from the centre in semi-axes."""
    total: Floats | None = None
    for row, axis in zip(turn, axes, strict=True):
        along = (at[0] * (row[0] / axis) + at[1] * (row[1] / axis)) + at[2] * (row[2] / axis)
        total = along * along if total is None else total + along * along
    return np.sqrt(total)  # type: ignore[arg-type]


def _shape(
    recipe: Recipe,
    host: Host,
    turn: NDArray[np.float32],
    axes: NDArray[np.float32],
    radius: float,
    rng: np.random.Generator,
) -> Floats:
    """Signed distance to the lesion before its organ cuts it, about mm."""
    at = coordinates(host, recipe.centre)
    lobes = int(recipe["lobes"])
    jitter = (rng.random(3) - 0.5).astype(np.float32)
    moved = tuple(x - shift for x, shift in zip(at, jitter, strict=True))
    if lobes <= 1:
        rho = radii(moved, turn, axes)
        away = np.sqrt(moved[0] ** 2 + moved[1] ** 2 + moved[2] ** 2)
        local = away / np.maximum(rho, np.float32(0.05))  # mm that one semi-axis is long there
        local = np.clip(local, np.float32(min(axes)), np.float32(max(axes)))
    else:
        local = np.float32(radius)
        rho = np.full(host.hu.shape, np.float32(9))
        for _ in range(lobes):
            place = rng.random(3) * 2 - 1
            place = place / max(1.0, float(np.sqrt((place**2).sum()))) * 0.75
            shift = (place.astype(np.float32) * axes) @ turn
            size = np.float32(0.55 + 0.3 * rng.random())
            own = tuple(x - s for x, s in zip(moved, shift, strict=True))
            lobe = (radii(own, turn, axes * size) - 1) * size + 1
            seam = np.maximum(np.float32(SEAM) - np.abs(rho - lobe), 0)
            rho = np.minimum(rho, lobe) - seam * seam * np.float32(0.25 / SEAM)
    rough = np.float32(recipe["rough"])
    if rough > 0:
        shape = host.hu.shape
        rho = rho - rough * taken(shape, 0.45 * radius, rng)
        rho = rho - np.float32(0.35) * rough * taken(shape, max(0.18 * radius, 1.2), rng)
    if recipe["spicules"] > 0:
        ridge = np.abs(taken(host.hu.shape, max(0.12 * radius, 1.3), rng))
        ridge = np.maximum(np.float32(0.35) - ridge, 0) * np.float32(1 / 0.35)
        rho = rho - np.float32(recipe["spicules"]) * ridge * np.clip(rho, 0.6, 1.4)
    return np.asarray((rho - 1) * local, dtype=np.float32)


def _sized(distance: Floats, clip: Floats, target_mm3: float, radius: float) -> Floats:
    """Shift a surface so that what its organ leaves of it has the wanted volume."""
    free = distance[(clip < 0) & (distance < GROWTH * radius + 1)]
    n = round(target_mm3)
    if n < 1 or not free.size:
        return distance
    level = float(np.partition(free, n - 1)[n - 1]) if n <= free.size else GROWTH * radius
    level = float(np.clip(level, -0.5 * radius, GROWTH * radius))
    return distance - np.float32(steady(level))


def _true_distance(level: Floats) -> Floats:
    """Signed distance in mm to where a level is zero, negative inside."""
    inside = level < 0
    if not inside.any() or inside.all():
        return level
    outer = ndimage.distance_transform_edt(~inside)
    inner = ndimage.distance_transform_edt(inside)
    mm = np.where(inside, 0.5 - inner, outer - 0.5).astype(np.float32)
    return blurred(mm, (0.5, 0.5, 0.5))


def _layer(
    recipe: Recipe, distance: Floats, radius: float, rng: np.random.Generator
) -> tuple[Floats, NDArray[np.bool_] | None]:
    """HU of the lesion, and the voxels whose mean is that of the recipe (None: all)."""
    shape = distance.shape
    layer: Floats = np.full(shape, np.float32(recipe["hu"]))
    texture = np.zeros(shape, np.float32)
    if recipe["texture_hu"] > 0:
        texture = np.float32(0.6) * taken(shape, max(0.35 * radius, 2), rng)
        texture = texture + np.float32(0.5) * taken(shape, 3, rng)
        texture = texture + np.float32(0.35) * taken(shape, 1.5, rng)
        inner = distance < -min(2.5, 0.3 * radius)
        # where the edge is wide the host shows through and takes a part of the texture away
        share = edge(distance[inner], recipe["margin_mm"]).mean() if inner.any() else 1.0
        texture = scaled(texture, inner, recipe["texture_hu"] / max(0.5, steady(share)))
        layer = layer + texture
    exact = None
    if recipe["necrosis"] > 0:
        depth = np.clip(-distance / np.float32(radius), 0, 1)
        wander = np.float32(0.22) * taken(shape, 0.3 * radius, rng)
        core = edge(np.float32(1 - recipe["necrosis"]) - depth - wander, 0.07)
        dead = np.float32(recipe["necrosis_hu"]) + texture * np.float32(0.25)
        layer = np.asarray(layer * (1 - core) + core * dead, dtype=np.float32)
    if recipe["rim_hu"] != 0:
        layer = layer + np.float32(recipe["rim_hu"]) * bell((distance + np.float32(1.5)) / 1.6)
    if recipe["septa_hu"] != 0:
        sheet = np.abs(taken(shape, max(0.3 * radius, 3), rng))
        layer = layer + np.float32(recipe["septa_hu"]) * bell(sheet * np.float32(5))
    if recipe["calcium_hu"] > 0:
        speck = (taken(shape, 1.5, rng) > 2.2) & (distance < -0.15 * radius)
        layer = layer + blurred(speck * np.float32(recipe["calcium_hu"]), (0.6, 0.6, 0.6))
        exact = ~speck
    if recipe["cavity"] > 0:
        depth = np.clip(-distance / np.float32(radius), 0, 1)
        wander = np.float32(0.12) * taken(shape, 0.3 * radius, rng)
        hole = edge(np.float32(1 - recipe["cavity"]) - depth - wander, 0.03)
        layer = layer * (1 - hole) + hole * np.float32(-950)
        exact = hole < 0.02
    return layer, exact


def _halo(
    recipe: Recipe, host: Host, distance: Floats, forbidden: NDArray[np.bool_],
    rng: np.random.Generator,
) -> None:  # fmt: skip
    """Fill air around a nodule with ground glass; what is brighter stays."""
    reach = np.float32(recipe["halo_mm"])
    wander = np.float32(0.35) * reach * taken(distance.shape, 3, rng)
    share = edge(distance - reach + wander, 0.9)
    texture = np.float32(40) * taken(distance.shape, 1.5, rng)
    glass = np.float32(recipe["halo_hu"]) + texture
    filled = host.hu + share * np.maximum(glass - host.hu, 0)
    host.hu[...] = np.where(forbidden, host.hu, filled)
