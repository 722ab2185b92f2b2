"""The skeleton of a phantom: spine, ribs, sternum, shoulder blades, pelvis, hips."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from training.synthesis.shapes import Box, Floats, ellipsoid, logistic, smooth_path, smooth_union
from training.synthesis.trunk import (
    SPINE_A,
    SPINE_B,
    SPINE_HEIGHT,
    SPINE_Y,
    SPINE_Z,
    profile,
    vertebral_phase,
)

if TYPE_CHECKING:
    from training.synthesis.canvas import Body
    from training.synthesis.trunk import Trunk


def paint_skeleton(body: Body, trunk: Trunk) -> None:
    """Paint all bones, and the cartilage of the ribs."""
    _paint_spine(body)
    _paint_cage(body, trunk)
    _paint_pelvis(body)


def _paint_spine(body: Body) -> None:
    box = body.box((-62, 20, -275), (62, 130, 310), 6)
    x, y, _z = body.coordinates(box)
    if x.shape[2] < 2:  # a slope takes two slices
        return
    flat = body.z[:, :, box[2]]
    middle, a, b, height = (
        profile(flat, SPINE_Z, values) for values in (SPINE_Y, SPINE_A, SPINE_B, SPINE_HEIGHT)
    )
    v = y - middle
    # discs are square to the centre line: their planes tilt with its slope
    slope = np.gradient(middle.ravel(), body.spacing_mm[2])[None, None, :].astype(np.float32)
    level = flat - slope * v
    phase = vertebral_phase(level)
    s = (phase - np.floor(phase) - 0.5) * height
    waist = 0.90 + 0.13 * (2 * s / height) ** 2
    round_body = np.sqrt((x / (a * waist)) ** 2 + (v / (b * waist)) ** 2 + 1e-6)
    column = (round_body - 1) * b
    disc = np.maximum(column + 1, np.abs(s) - height * 0.5)
    body.paint(box, disc, 88.0, 0)
    bone = np.maximum(column, np.abs(s) - height * 0.40)
    p = v - b - 9
    ring = np.abs(np.sqrt((x / 1.15) ** 2 + p**2) - 11.5) - 3.2
    ring = np.maximum(ring, np.abs(s + 2) - height * 0.36)
    spine = np.maximum(np.abs(x) - 3.2, np.abs(p - 23) - 13)
    spine = np.maximum(spine, np.abs(s + 4 + 0.25 * (p - 10)) - height * 0.26)
    across = np.maximum(np.abs(p - 1 - 0.12 * np.abs(x)) - 3.6, np.abs(np.abs(x) - 25) - 13)
    across = np.maximum(across, np.abs(s - 2) - height * 0.18)
    facets = np.sqrt((np.abs(x) - 15) ** 2 + (p - 5) ** 2) - 6.5
    sharp = np.minimum(np.minimum(ring, spine), np.minimum(across, facets))
    cord = np.sqrt((x / 1.1) ** 2 + p**2) - 8.3
    body.paint(box, cord, 28.0)
    arch = np.maximum(sharp, -cord)
    _bone(body, "spine", box, smooth_union(bone, arch, 3))


def _bone(body: Body, name: str, box: Box, distance: Floats, cortex_mm: float = 1.6) -> None:
    spongy = body.recipe.bone_hu + 45 * body.noise(f"spongy {name}", 2, box)
    spongy += 25 * body.noise(f"spongy 2 {name}", 8, box)
    shell = logistic((distance + np.float32(cortex_mm)) / np.float32(0.5))
    body.paint(
        box, distance, spongy * (1 - shell) + shell * (body.recipe.bone_hu * 2 + 380), "bone"
    )


def _paint_cage(body: Body, trunk: Trunk) -> None:
    """Ribs, cartilage, sternum and shoulder blades, all by their depth in the chest wall."""
    box = body.box((-150, -125, -110), (150, 125, 300), 6)
    x, y, _ = body.coordinates(box)
    wall = trunk.cavity[box]
    flat = body.z[:, :, box[2]]
    angle = np.arctan2(np.abs(x), y - trunk.middle[:, :, box[2]]) / np.float32(np.pi)
    drop = 95 * (1 - np.cos(np.pi * np.clip(angle, 0, 0.8) * 0.95)) / 2
    drop -= 60 * np.clip(angle - 0.74, 0, 1) ** 1.2  # cartilages climb back to the sternum
    level = flat + drop
    phase = vertebral_phase(level)
    height = np.interp(level, SPINE_Z, SPINE_HEIGHT).astype(np.float32)
    s = (phase - np.floor(phase) - 0.5) * height
    thick = np.abs(wall - 4.5) - 3.3
    rib = np.sqrt(np.maximum((wall - 4.5) / 3.6, -9) ** 2 + (s / 6.2) ** 2) - 1
    rib = np.maximum(rib * 3.6, np.maximum(level - 272, -12 - level))
    end = np.interp(level, (-12, 20, 60, 90), (0.42, 0.52, 0.72, 0.76)).astype(np.float32)
    bony = np.maximum(rib, np.maximum(angle - end, 0.08 - angle) * 250)
    soft = np.maximum(rib, np.maximum(end - angle, angle - 0.97) * 250)
    soft = np.maximum(soft, 45 - level)
    body.paint(box, soft, 88 + 20 * body.noise("cartilage", 2, box))
    _bone(body, "ribs", box, bony, 1.3)
    sternum = np.maximum(np.maximum(np.abs(x) - 15, np.abs(wall - 4.5) - 5.5), y)
    sternum = np.maximum(sternum, np.maximum(flat - 205, 58 - flat))
    del thick
    _bone(body, "sternum", box, sternum, 1.2)
    blade = np.maximum(np.abs(wall - 15) - 2.6, np.maximum(0.22 - angle, angle - 0.42) * 250)
    blade = np.maximum(blade, np.maximum(flat - 255, 128 - flat + 300 * np.abs(angle - 0.30)))
    _bone(body, "scapulae", box, blade, 1.0)
    for way in (-1, 1):
        where, clavicle = body.tube(
            smooth_path(
                [(way * 16, -62, 205, 8), (way * 60, -62, 232, 6), (way * 120, -20, 262, 6)]
            )
        )
        _bone(body, f"clavicle {way}", where, clavicle)


def _paint_pelvis(body: Body) -> None:
    box = body.box((-60, 30, -355), (60, 125, -245), 6)
    at = body.coordinates(box)
    lean = np.array([[1.0, 0, 0], [0, 0.80, 0.60], [0, -0.60, 0.80]])
    sacrum = ellipsoid(at, (0, 82, -288), (50, 20, 48), lean)
    sacrum = np.maximum(sacrum, -(at[2] + 370))
    canal = ellipsoid(at, (0, 94, -275), (10, 6, 40), lean)
    _bone(body, "sacrum", box, np.maximum(sacrum, -canal))
    where, coccyx = body.tube(smooth_path([(0, 98, -328, 9), (0, 92, -352, 6), (0, 80, -372, 4)]))
    _bone(body, "coccyx", where, coccyx)

    box = body.box((-140, -60, -345), (140, 120, -170), 6)
    at = x, y, z = body.coordinates(box)
    wing = np.abs(ellipsoid(at, (0, 18, -185), (126, 84, 150))) - 4.5
    wing = wing - 4 * np.exp(-(((z + 300) / 22) ** 2)) - 3.5 * np.exp(-((y - 66) ** 2) / 250)
    crest = z + 186 + 0.006 * (y - 12) ** 2
    wing = np.maximum(wing, np.maximum(crest, -(z + 322)))
    front = -38 + 0.30 * np.abs(z + 225)
    wing = np.maximum(wing, np.maximum(front - y, 46 - np.abs(x)))
    _bone(body, "wings", box, wing)
    for way in (-1, 1):
        hip = (way * 88.0, 4.0, -338.0)
        box = body.box(np.array(hip) - 50, np.array(hip) + 50)
        at = x, y, z = body.coordinates(box)
        head = ellipsoid(at, hip, (24, 24, 24))
        cup = np.maximum(np.abs(head - 6) - 3.5, way * (x - hip[0]) - 9 + 0.35 * (z - hip[2]) * -1)
        cup = np.maximum(cup, -(z - hip[2]) - 26)
        _bone(body, f"cup {way}", box, cup)
        _bone(body, f"head {way}", box, head, 1.2)
        for points in (
            [(88, 4, -338, 15), (112, 10, -358, 14), (130, 14, -372, 17), (128, 14, -430, 15)],
            [(72, 22, -352, 13), (64, 38, -380, 14), (58, 36, -408, 13)],
            [(70, -14, -328, 10), (44, -34, -336, 8.5), (10, -46, -348, 10), (9, -44, -362, 9)],
            [(9, -44, -362, 8), (30, -18, -388, 7), (54, 22, -408, 9)],
        ):
            where, bone = body.tube(smooth_path([(way * p[0], *p[1:]) for p in points]))
            _bone(body, f"hip {way} {points[0][0]}", where, bone, 2.2)
