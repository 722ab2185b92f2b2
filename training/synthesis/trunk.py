"""The trunk of a phantom: skin, fat, muscle, cavity, diaphragm, lungs, heart and great vessels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from training.synthesis.shapes import (
    Box,
    Floats,
    Point,
    Points,
    ellipsoid,
    lattice_noise,
    logistic,
    named_rng,
    smooth_path,
    smooth_union,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from training.synthesis.canvas import Body

# outline of the trunk by height: half width and half depth of the cavity, middle of the cavity
# (y), thickness of muscle at the sides, in front and behind
_Z = (-430, -390, -340, -300, -260, -220, -180, -120, -60, 0, 60, 120, 180, 230, 265, 300)
_WIDTH = (50, 55, 64, 78, 106, 118, 122, 127, 133, 136, 135, 130, 116, 90, 60, 40)
_DEPTH = (45, 48, 54, 62, 74, 77, 79, 82, 86, 89, 91, 89, 79, 62, 45, 35)
_MIDDLE = (8, 8, 8, 8, 3, -2, -5, -6, -5, -2, 0, 2, 6, 12, 18, 22)
_SIDE = (108, 108, 104, 90, 46, 28, 18, 14, 13, 15, 17, 24, 42, 74, 98, 84)
_FRONT = (45, 40, 32, 20, 12, 10, 10, 10, 10, 11, 12, 17, 23, 24, 20, 20)
_BACK = (55, 58, 52, 44, 40, 36, 34, 30, 26, 24, 24, 26, 30, 34, 36, 36)
# centre line of the vertebral bodies (y), their half width and half depth, their height with disc
SPINE_Z = (-262, -230, -190, -150, -100, -60, 0, 60, 120, 180, 230, 270, 300)
SPINE_Y = (66, 52, 45, 42, 45, 50, 57, 61, 63, 62, 58, 52, 48)
SPINE_A = (25, 25, 24, 23, 22, 21, 19, 16, 15, 14, 13, 13, 12)
SPINE_B = (17, 17, 17, 17, 16.5, 16, 15.5, 14.5, 14, 13, 12, 11, 10)
SPINE_HEIGHT = (36, 36, 36, 35, 33, 31, 28, 25, 23, 21, 20, 19, 18)


@dataclass(slots=True)
class Trunk:
    """What organs ask of the trunk: distances to the cavity, height of the diaphragm, middles."""

    cavity: Floats
    diaphragm_z: Floats
    middle: Floats
    spine: Floats


def profile(z: Floats, knots: Sequence[float], values: Sequence[float]) -> Floats:
    """Interpolate a property of the trunk at heights."""
    return np.interp(z, knots, values).astype(np.float32)


def vertebral_phase(z: Floats) -> Floats:
    """Count vertebrae along the spine: grows by one from each to the next."""
    heights = np.arange(-320.0, 420.0, 1.0)
    count = np.cumsum(1 / np.interp(heights, SPINE_Z, SPINE_HEIGHT))
    phase: Floats = np.interp(z, heights, count).astype(np.float32)
    return phase


def _outline(x: Floats, y: Floats, a: Floats, b: Floats) -> Floats:
    """Distance to a rounded rectangle of half width a and half depth b, about first order."""
    u, v = (x / a) ** 2, (y / b) ** 2
    rho = np.sqrt(u + v - np.float32(0.35) * np.minimum(u * v, 1.5))
    distance: Floats = (rho - 1) * (a * b / np.sqrt(a * a * v + b * b * u + 1e-6)) * np.sqrt(u + v)
    return distance


def paint_trunk(body: Body) -> Trunk:
    """Paint skin, fat, muscle and the fat inside."""
    recipe = body.recipe
    x, y, _ = body.at
    z = body.z
    everything: Box = (slice(None), slice(None), slice(None))
    a, b, middle = (profile(z, _Z, values) for values in (_WIDTH, _DEPTH, _MIDDLE))
    side, front, back = (profile(z, _Z, values) for values in (_SIDE, _FRONT, _BACK))
    b = b + np.float32(recipe.belly_mm) * np.exp(-(((z + 110) / 90) ** 2))
    middle = middle - np.float32(recipe.belly_mm) * np.exp(-(((z + 110) / 90) ** 2))
    cavity = _outline(x, y - middle, a, b)
    muscle = _outline(x, y - middle - (back - front) / 2, a + side, b + (front + back) / 2)
    grain = body.noise("grain", 4, everything)

    # subcutaneous fat: more on the belly and the hips, less over the ribs
    axes = body.axes()
    relief = lattice_noise(named_rng(recipe.seed, "fat"), axes, 60.0)
    fat: Floats = np.float32(recipe.fat_mm) * (0.75 + 0.5 * np.exp(-(((z + 200) / 110) ** 2)))
    fat = fat * (1 + np.float32(0.3) * relief) * np.where(y > 60, np.float32(0.85), 1)
    skin: Floats = muscle - fat
    if recipe.sex == "female":
        for way in (-1, 1):
            breast = ellipsoid(body.at, (way * 72, -112 - recipe.fat_mm * 0.5, 95), (58, 34, 52))
            skin = smooth_union(skin, breast, 14)
    body.paint(everything, skin, -104 + 7 * grain)
    body.paint(everything, np.abs(skin + 1.2) - 1.2, 10.0)

    # muscle with fat between its bundles; without it shoulders and hips look like rubber
    planes = np.abs(body.noise("planes", 16, everything)) - np.float32(0.05)
    deep = np.clip((-muscle - 2) / 4, 0, 1) * np.clip((cavity - 7) / 4, 0, 1)
    deep *= np.clip(0.5 - planes / 0.05, 0, 1)
    tissue = body.tissue("muscle") + 4 * grain
    body.paint(everything, np.maximum(muscle, -cavity), tissue - 120 * deep)

    body.paint(everything, cavity, -102 + 5 * grain)
    box = body.box((-130, -110, -300), (130, 80, 40))
    vessels = np.maximum(0.2 - np.abs(body.noise("mesentery", 4, box)), 0) / 0.2
    vessels *= np.maximum(0.5 - np.abs(body.noise("mesentery 2", 8, box)), 0) / 0.5
    body.hu[box] += np.where(cavity[box] < 0, 130 * vessels, 0)

    # domes: right higher than left, tendon between them under the heart
    # in front the diaphragm hangs at the sternum, behind it reaches the last ribs
    depth = np.where(y < 0, y / 150, y / 86) ** 2
    right = 58 - 95 * (((x + 68) / 75) ** 2 + depth)
    left = 45 - 95 * (((x - 72) / 75) ** 2 + depth)
    tendon = 33 - 60 * ((x - 10) / 85) ** 2 - 95 * ((y + 25) / 75) ** 2
    domes = -smooth_union(smooth_union(-right, -left, 20), -tendon, 20) + recipe.breath_mm
    spine = profile(z, SPINE_Z, SPINE_Y)
    return Trunk(cavity, domes.astype(np.float32), middle, spine)


def paint_lungs(body: Body, trunk: Trunk) -> None:
    """Paint lungs, heart, great vessels of the chest and airways."""
    box = body.box((-150, -120, -70), (150, 120, 300))
    at = x, y, z = body.coordinates(box)
    cavity, spine_y = trunk.cavity[box], trunk.spine[:, :, box[2]]
    dome = (trunk.diaphragm_z[box] - z) * np.float32(0.6)
    pose = body.recipe.poses["heart"]
    heart_at: Point = (24 + pose.offset_mm[0], -30 + pose.offset_mm[1], 74 + pose.offset_mm[2])
    heart_at = (heart_at[0], heart_at[1], heart_at[2] + body.recipe.breath_mm * 0.7)
    tilt = np.array([[0.80, -0.35, -0.49], [0.35, 0.93, -0.10], [0.49, -0.10, 0.87]])
    tilt, _ = np.linalg.qr(tilt.T)
    radii = (57 * pose.scale, 43 * pose.scale, 45 * pose.scale)
    heart = ellipsoid(at, heart_at, radii, tilt.T)
    core = ellipsoid(at, (2, 8, 120), (27, 54, 400))
    seam = np.maximum(np.abs(x - 6) - 4, -y - 90)
    backbone = ellipsoid(at, (0, 0, 120), (24, 1, 1))
    backbone = np.sqrt(x * x + (y - spine_y) ** 2) - 24
    middle = smooth_union(smooth_union(core, heart - 5, 25), np.minimum(seam, backbone), 14)
    lung = np.maximum(np.maximum(cavity + 2.5, dome), -middle)
    apex = (z - 262) * 0.7 + np.abs(np.abs(x) - 45) * 0.25
    lung = np.maximum(lung, apex)

    # vessels: lines where two noise fields vanish together, wider and denser towards the hilum
    hilum = np.sqrt((np.abs(x) - 30) ** 2 + (y - 15) ** 2 + ((z - 130) * 0.8) ** 2)
    reach = np.clip(1.25 - hilum / 110, 0.2, 1)
    texture = -868 + 22 * body.noise("lung", 2, box) + 30 * (y / 90)
    for name, sigma, strength in (("large", 16, 0.10), ("small", 8, 0.08)):
        first, second = body.noise(f"v1 {name}", sigma, box), body.noise(f"v2 {name}", sigma, box)
        line = np.exp(-(first**2 + second**2) / (strength * reach))
        texture = texture + (880 * np.clip(1.6 * line - 0.45, 0, 1) * np.clip(reach * 1.5, 0, 1))
    texture = np.minimum(texture, body.tissue("blood") - 15)
    body.paint(box, np.maximum(np.abs(dome - 1.3) - 1.3, cavity), body.tissue("muscle") - 8)
    body.paint(box, lung, texture, "lung")
    body.shapes["lung"] = box, lung

    blood = body.tissue("blood")
    chambers = blood + 6 * body.noise("heart", 8, box)
    muscle = logistic((heart + 9 + 3 * body.noise("septum", 16, box)) / 0.8)
    septum = np.exp(-((((x - heart_at[0]) * 0.8 + (z - heart_at[2]) * 0.5 - 4) / 5) ** 2))
    wall = np.clip(np.maximum(muscle, septum), 0, 1)
    body.paint(box, heart, chambers * (1 - wall) + wall * body.tissue("myocardium"), 0)

    def vessel(points: Points, hu: float) -> None:
        where, distance = body.tube(smooth_path(points))
        # what lies in the lung and is thin belongs to it, as in every manual mask
        body.paint(where, distance, hu, 0 if max(p[3] for p in points) > 6 else None)

    up = body.recipe.breath_mm * 0.5
    for way in (-1, 1):
        vessel([(way * 8, 5, 130, 11), (way * 34, 12, 132, 9), (way * 60, 18, 118, 5)], blood)
        vessel([(way * 10, 12, 95, 8), (way * 40, 22, 92, 6), (way * 66, 28, 78, 3)], blood)
        vessel([(way * 40, 14, 130, 5), (way * 70, -10, 150, 3)], blood)
        vessel([(way * 12, -5, 215, 5), (way * 24, 5, 290, 4.5)], blood)
    vessel([(4, -20, 95 + up, 15), (-6, -28, 140, 14), (-2, -18, 178, 13), (8, 8, 190, 13),
            (20, 34, 176, 12), (23, 42, 130, 11.5), (20, 40, 60, 11)], blood)  # fmt: skip
    vessel([(10, -25, 95 + up, 14), (6, -22, 138, 13), (4, -5, 145, 12)], blood)
    vessel([(-26, -12, 90, 10), (-27, -18, 150, 9), (-25, -15, 200, 8)], blood)
    vessel([(-14, -8, 240, 6), (0, -16, 285, 9)], body.tissue("thyroid"))
    airways = [
        [(0, 18, 300, 9), (0, 24, 230, 8.5), (0, 28, 160, 8.5)],
        [(0, 28, 160, 8), (-26, 24, 138, 6.5), (-48, 24, 120, 4)],
        [(0, 28, 160, 7.5), (30, 28, 134, 6), (50, 30, 116, 4)],
    ]
    for points in airways:
        where, distance = body.tube(smooth_path(points))
        body.paint(where, distance - 1.5, 25.0, 0)
        body.paint(where, distance, -985.0)
