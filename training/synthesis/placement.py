"""Where lesions lie: candidate centres in an organ, judged by what their surface would touch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from pasta.labels import label_named
from pasta.neighbourhood import deviation
from training.synthesis.host import FAT_HU, FIRST_LESION, box_around, surroundings
from training.synthesis.recipe import RecipeError, matrix
from training.synthesis.templates import TISSUES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from training.synthesis.recipe import Canvas, Triple
    from training.synthesis.templates import Template

CANDIDATES = 64
_HARD = np.zeros(256, bool)
_HARD[[TISSUES[name] for name in ("aorta", "vena_cava", "heart", "trachea", "spinal_cord")]] = True


def _directions(count: int) -> NDArray[np.float32]:
    """Spread points evenly over a sphere (Fibonacci lattice)."""
    n = np.arange(count) + 0.5
    polar, turn = np.arccos(1 - 2 * n / count), np.pi * (1 + math.sqrt(5)) * n
    points = [np.cos(turn) * np.sin(polar), np.sin(turn) * np.sin(polar), np.cos(polar)]
    return np.stack(points, axis=1).astype(np.float32)


DIRECTIONS = _directions(64)


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Candidate centres and what a lesion there would touch.

    Attributes:
        centres: (N, 3) voxels.
        contact: (N,) share of its surface in the organ.
        other: (N,) share of its surface at another organ, or at solid tissue.
        filled: (N,) share of its volume in the organ.
        blocked: (N,) share of its volume at existing lesions or outside the volume.
        bone: (N,) share of its surroundings that is bone.
    """

    centres: NDArray[np.int32]
    contact: NDArray[np.float64]
    other: NDArray[np.float64]
    filled: NDArray[np.float64]
    blocked: NDArray[np.float64]
    bone: NDArray[np.float64]


def _looked_up(array: NDArray[Any], points: NDArray[np.int32]) -> NDArray[Any]:
    bounded = np.clip(points, 0, np.array(array.shape) - 1)
    out: NDArray[Any] = array[bounded[..., 0], bounded[..., 1], bounded[..., 2]]
    return out


def judged(
    template: Template,
    organ: str,
    centres: NDArray[np.int32],
    axes_mm: Triple,
    rotation: tuple[float, float, float, float],
    canvas: Canvas | None = None,
) -> Places:
    """Look at what lies at the surface of an ellipsoid, for several centres of it."""
    value = label_named(organ).value
    source = template if canvas is None else canvas
    spokes = (DIRECTIONS * np.asarray(axes_mm, np.float32)) @ matrix(rotation)
    length = np.linalg.norm(spokes, axis=1, keepdims=True)
    shells = [
        spokes * (1 + 0.9 / length),
        spokes * (1 + 2.2 / length),
        spokes * 0.85,
        spokes * 0.45,
    ]
    at = [(centres[:, None, :] + np.rint(shell)[None]).astype(np.int32) for shell in shells]
    outer, further, inner, core = (_looked_up(source.labels, points) for points in at)
    hu = _looked_up(source.hu, at[1])
    contact = (outer == value).mean(axis=1)
    other = ((further != value) & ((further != 0) | (hu > FAT_HU))).mean(axis=1)
    filled = ((inner == value).mean(axis=1) * 2 + (core == value).mean(axis=1)) / 3
    outside = [((p < 0) | (p >= np.array(template.shape))).any(axis=2) for p in at]
    blocked = (_looked_up(template.blocked, at[0]) | (outer >= FIRST_LESION) | outside[1]).mean(
        axis=1
    ) + (inner >= FIRST_LESION).mean(axis=1)
    bone = (further == label_named("bone").value).mean(axis=1)
    bone = bone + _HARD[_looked_up(template.tissues, at[0])].mean(axis=1)
    return Places(centres, contact, other, filled, blocked, bone)


def outside_contact(
    template: Template,
    organ: str,
    centres: NDArray[np.int32],
    reach_mm: float,
    canvas: Canvas | None = None,
) -> NDArray[np.float64]:
    """Share of what lies 1 to 4 mm outside a wall, near each centre, that is solid or has a label."""
    source = template if canvas is None else canvas
    spokes = np.concatenate([DIRECTIONS * reach_mm * part for part in (0.25, 0.5, 0.75, 0.95)])
    points = (centres[:, None, :] + np.rint(spokes)[None]).astype(np.int32)
    depth = _looked_up(template.distances(organ), points)
    labels, hu = _looked_up(source.labels, points), _looked_up(source.hu, points)
    film = (depth >= 1) & (depth <= 4)
    solid = film & (labels != label_named(organ).value) & ((labels != 0) | (hu > FAT_HU))
    share: NDArray[np.float64] = solid.sum(axis=1) / np.maximum(1, film.sum(axis=1))
    return share


def candidates(
    template: Template,
    organ: str,
    rng: np.random.Generator,
    *,
    depth: tuple[float, float] = (-127, 0),
    near: Sequence[int] | None = None,
) -> NDArray[np.int32]:
    """Draw voxels at a wanted depth of an organ.

    Args:
        template: with the organ.
        organ: its name.
        rng: source of randomness.
        depth: smallest and largest signed distance to its surface in mm, negative inside; above 0
            voxels outside the organ are meant.
        near: a voxel to stay within 25 mm of.

    Returns:
        (N, 3), N up to `CANDIDATES`, maybe 0.
    """
    voxels = surroundings(template).voxels(organ)
    field = template.distances(organ)
    picked = voxels[rng.integers(len(voxels), size=min(1200, 4 * len(voxels)))]
    if depth[1] > 0:
        reach = math.ceil(depth[1])
        picked = picked + rng.integers(-reach, reach + 1, size=picked.shape)
        picked = np.clip(picked, 0, np.array(template.shape) - 1)
    if near is not None:
        picked = picked[((picked - np.asarray(near)) ** 2).sum(axis=1) < 25**2]
    found = field[tuple(picked.T)]
    kept = picked[(found >= depth[0]) & (found <= depth[1])][:CANDIDATES]
    out: NDArray[np.int32] = kept.astype(np.int32)
    return out


def best_place(
    places: Places,
    *,
    contact: float,
    close: bool,
    rng: np.random.Generator,
    least_filled: float = 0.0,
) -> tuple[int, int, int]:
    """Choose the centre whose surroundings fit best.

    Args:
        places: candidates, judged.
        contact: share of the surface wanted in the organ.
        close: whether it should touch something else.
        rng: breaks ties.
        least_filled: of its volume in the organ.

    Raises:
        RecipeError: if there is no free place.
    """
    if not len(places.centres):
        msg = "the organ has no free place at the depth that this lesion needs"
        raise RecipeError(msg)
    wrong = np.maximum(0, 0.22 - places.other) if close else np.maximum(0, places.other - 0.01)
    cost = (
        np.abs(places.contact - contact)
        + 4.0 * wrong
        + 8.0 * places.blocked
        + 2.0 * places.bone
        + 3.0 * np.maximum(0, least_filled - places.filled)
        + 0.03 * rng.random(len(places.centres))
    )
    best = int(np.argmin(cost))
    if places.blocked[best] > 0.02 or places.filled[best] < 0.6 * least_filled:
        msg = "no place in the organ is large enough for this lesion and free of others"
        raise RecipeError(msg)
    i, j, k = (int(c) for c in places.centres[best])
    return i, j, k


def ring_spread(
    template: Template,
    organ: str,
    centre: tuple[int, int, int],
    axes_mm: Triple,
    rotation: tuple[float, float, float, float],
) -> float:
    """Spread of the organ's HU 3 to 10 mm around an ellipsoid, blurred by 1.2 mm.

    The meter takes that of its ring off a lesion's texture: vessels, fat and noise are in it.
    """
    half = min(44, int(max(axes_mm)) + 12)
    box = box_around(centre, [half] * 3, template.shape)
    smooth = ndimage.gaussian_filter(template.hu[box].astype(np.float32), 1.2)
    at = _ring(centre, axes_mm, rotation) - [part.start for part in box]
    at = at[((at >= 0) & (at < np.array(smooth.shape))).all(axis=1)]
    own = template.labels[box][tuple(at.T)] == label_named(organ).value
    values = smooth[tuple(at[own].T)]
    return deviation(values) if values.size >= 15 else 0.0


def _ring(
    centre: tuple[int, int, int], axes_mm: Triple, rotation: tuple[float, float, float, float]
) -> NDArray[np.int32]:
    """Points 3 to 10 mm outside an ellipsoid, in voxels."""
    spokes = (DIRECTIONS * np.asarray(axes_mm, np.float32)) @ matrix(rotation)
    length = np.linalg.norm(spokes, axis=1, keepdims=True)
    steps = np.arange(3.0, 10.5, 1.0, dtype=np.float32)
    points = spokes[None] * (1 + steps[:, None, None] / length[None])
    return np.asarray((np.asarray(centre) + np.rint(points)).reshape(-1, 3), dtype=np.int32)


def ring_hu(
    template: Template, organ: str, centre: tuple[int, int, int], axes_mm: Triple,
    rotation: tuple[float, float, float, float], canvas: Canvas | None = None,
) -> float | None:  # fmt: skip
    """Median HU of the organ 3 to 10 mm around an ellipsoid; None where there is none."""
    source = template if canvas is None else canvas
    at = _ring(centre, axes_mm, rotation)
    inside = ((at >= 0) & (at < np.array(template.shape))).all(axis=1)
    at = at[inside]
    own = _looked_up(source.labels, at) == label_named(organ).value
    if own.sum() < 15:
        return None
    return round(float(np.median(_looked_up(source.hu, at[own]))), 1)
