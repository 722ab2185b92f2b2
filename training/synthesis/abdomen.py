"""The abdomen of a phantom: solid organs, stomach and bowel, vessels, muscles, bladder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pasta.labels import label_named
from training.synthesis.shapes import (
    FAR_MM,
    Box,
    Floats,
    Points,
    ellipsoid,
    logistic,
    named_rng,
    smooth_path,
    smooth_union,
)

if TYPE_CHECKING:
    from training.synthesis.canvas import Body
    from training.synthesis.trunk import Trunk


def paint_abdomen(body: Body, trunk: Trunk) -> None:
    """Paint everything below the diaphragm but the bones."""
    breath = body.recipe.breath_mm
    seed = body.recipe.seed
    _paint_bladder(body)
    # psoas, paraspinal muscle and quadratus lumborum
    muscle = body.tissue("muscle")
    routes: tuple[Points, ...]
    for way in (-1, 1):
        routes = (
            [(28, 42, -50, 7), (40, 40, -130, 16), (52, 34, -215, 21), (70, 0, -290, 16),
             (82, 8, -350, 10)],
            [(70, 58, -40, 8), (74, 56, -110, 11), (80, 54, -180, 12)],
            [(34, 92, -290, 14), (36, 82, -220, 20), (36, 82, -120, 22), (34, 90, 0, 17),
             (30, 100, 70, 12), (28, 102, 180, 11)],
        )  # fmt: skip
        for points in routes:
            where, distance = body.tube(smooth_path([(way * p[0], *p[1:]) for p in points]))
            texture = muscle + 4 * body.noise(f"psoas {way}", 2, where)
            body.paint(where, distance, texture, 0)

    # great vessels
    blood = body.tissue("blood")
    routes = (
        [(20, 40, 60, 11), (12, 28, 5, 10.5), (7, 20, -60, 10), (6, 17, -130, 9.5),
         (3, 22, -185, 9)],
        [(-22, 5, 40, 12), (-24, 14, 0, 12), (-22, 20, -70, 11.5), (-20, 20, -130, 11),
         (-14, 26, -185, 10)],
        [(3, 22, -185, 7), (34, 25, -235, 6.5), (60, -5, -290, 6), (72, -38, -345, 5.5),
         (78, -42, -420, 5.5)],
        [(3, 22, -185, 7), (-34, 25, -235, 6.5), (-60, -5, -290, 6), (-72, -38, -345, 5.5),
         (-78, -42, -420, 5.5)],
        [(-14, 26, -185, 7.5), (34, 34, -240, 7), (62, 4, -292, 6.5), (66, -32, -345, 6)],
        [(-14, 26, -185, 7.5), (-36, 34, -240, 7), (-62, 4, -292, 6.5), (-66, -32, -345, 6)],
        [(6, 6, -70, 4), (4, -2, -110, 4), (0, -10, -170, 3)],
        [(-10, 0, -170, 4), (-8, -6, -110, 5), (-2, -4, -66, 6)],
        [(7, 20, -68, 3.5), (34, 38, -66, 3), (52, 46, -62, 2.5)],
        [(-22, 20, -78, 4.5), (-42, 36, -78, 4), (-52, 44, -78, 3)],
        [(-14, 12, -72, 4), (20, 14, -68, 4.5), (50, 42, -64, 4)],
    )  # fmt: skip
    for points in routes:
        where, distance = body.tube(smooth_path(points))
        body.paint(where, distance, blood, 0)

    _paint_bowel(body, trunk)
    _paint_liver(body, trunk)

    # spleen
    center = body.posed("spleen", [(104, 42, 2 + breath, 1.0)])[0]
    size = float(center[3])
    box = body.box(center[:3] - 70 * size, center[:3] + 70 * size, 4)
    at = body.coordinates(box)
    axes = np.linalg.qr(np.array([[0.9, 0.3, 0.2], [-0.4, 0.9, 0.1], [-0.2, -0.1, 1.0]]).T)[0].T
    spleen = ellipsoid(at, tuple(center[:3]), (27 * size, 45 * size, 56 * size), axes)
    hollow = ellipsoid(at, (center[0] - 45, center[1] - 22, center[2] - 5), (32, 34, 45))
    spleen = np.maximum(np.maximum(spleen, trunk.cavity[box] + 4), -hollow)
    spleen = np.maximum(spleen, (at[2] - trunk.diaphragm_z[box]) * 0.6 + 4)
    body.paint(box, spleen, body.tissue("spleen") + 4 * body.noise("spleen", 4, box), 0)

    # adrenals, thin and unlabelled
    for way in (-1, 1):
        path = smooth_path(
            [(way * 40, 30, -20, 3), (way * 34, 26, -34, 3.5), (way * 44, 36, -38, 2)]
        )
        where, distance = body.tube(path)
        body.paint(where, distance, body.tissue("wall"))

    for way, height in ((-1, -82.0), (1, -68.0)):
        _paint_kidney(body, way, height + 0.6 * breath)

    # esophagus, mostly collapsed
    rng = named_rng(seed, "esophagus")
    points = [(0, 36, 300, 6.5), (4, 41, 230, 7), (6, 42, 160, 7.5), (8, 34, 100, 8),
              (16, 22, 50 + breath, 8.5), (28, 14, 30 + breath, 9)]  # fmt: skip
    box, distance = body.tube(smooth_path(body.posed("esophagus", points)))
    air = np.where(body.noise("esophagus", 16, box) > 0.6, np.float32(-800), np.float32(20))
    _hollow(body, "esophagus", box, distance, rng.uniform(3.2, 5.0), air)

    # stomach: gas in front, food behind, as the patient lies on the back
    rng = named_rng(seed, "stomach")
    fill = float(rng.uniform(0.7, 1.08))
    points = [(34, 14, 30 + breath, 13), (62, 22, 26 + breath, 33 * fill), (72, 2, 0, 33 * fill),
              (66, -28, -34, 28 * fill), (42, -44, -62, 22 * fill), (10, -46, -66, 17),
              (-18, -36, -62, 11)]  # fmt: skip
    path = smooth_path(body.posed("stomach", points))
    box, distance = body.tube(path)
    distance = distance + 2 * body.noise("rugae", 8, box)
    y = body.at[1][box]
    level = np.quantile(path[:, 1], rng.uniform(0.1, 0.55))
    food = body.tissue("bowel") + 8 * body.noise("food", 4, box)
    food += 35 * (body.noise("food 2", 8, box) > 0.8)
    gas = logistic((level - y) / 0.5)
    _hollow(body, "stomach", box, distance, 3.5, (food * (1 - gas) - 960 * gas).astype(np.float32))

    # duodenum, unlabelled
    points = [(-18, -34, -62, 9), (-40, -10, -62, 12), (-46, 8, -85, 12), (-42, 12, -118, 12),
              (-8, 8, -128, 11), (24, 2, -112, 10), (34, -8, -95, 10)]  # fmt: skip
    box, distance = body.tube(smooth_path(points))
    _hollow(body, "bowel", box, distance, 2.5, 20 + 12 * body.noise("duodenum", 4, box))

    points = [(-30, 2, -92, 12), (-26, -4, -76, 14.5), (-6, -13, -62, 9.5), (16, -13, -52, 10.5),
              (44, 0, -38, 10.5), (78, 24, -22, 9)]  # fmt: skip
    path = smooth_path(body.posed("pancreas", points))
    box, distance = body.tube(path)
    distance = distance + 1.8 * body.noise("lobules", 4, box)
    texture = body.tissue("pancreas") + 5 * body.noise("pancreas", 2, box)
    texture -= 70 * np.clip(body.noise("marbling", 2, box) - 1.5, 0, 1) * body.recipe.fat_mm / 20
    body.paint(box, distance, texture, "pancreas")
    body.shapes["pancreas"] = box, distance
    where, vein = body.tube(smooth_path([(-2, -2, -62, 6), (40, 10, -42, 4), (84, 32, -20, 3.5)]))
    body.paint(where, vein, blood)

    # gallbladder
    points = [(-38, -22, -42, 5), (-46, -36, -58, 10), (-54, -50, -76, 13), (-58, -58, -88, 11)]
    box, distance = body.tube(smooth_path(body.posed("gallbladder", points)))
    _hollow(body, "gallbladder", box, distance, 1.8, body.tissue("bile"))


def _paint_liver(body: Body, trunk: Trunk) -> None:
    breath = body.recipe.breath_mm
    pose = body.recipe.poses["liver"]
    size = pose.scale
    x0, y0, z0 = pose.offset_mm
    z0 += breath
    box = body.box((-150, -110, -190), (110, 110, 80 + breath), 6)
    at = x, y, z = body.coordinates(box)
    right = ellipsoid(at, (-72 + x0, 6 + y0, -32 + z0), (70 * size, 88 * size, 96 * size))
    left = ellipsoid(at, (2 + x0, -44 + y0, 6 + z0), (78 * size, 36 * size, 42 * size))
    liver = smooth_union(right, left, 30)
    # visceral surface: a plane that climbs to the left, hollowed a little by the neighbours
    edge = 0.50 * (x + 60 - x0) + 0.42 * (y + 10 - y0) - 0.76 * (z + 62 - z0)
    liver = np.maximum(liver, edge + 4 * body.noise("visceral face", 16, box))
    left_edge = 0.25 * (x - 20) + 0.70 * (y + 22) - 0.55 * (z - z0)
    liver = np.maximum(liver, np.where(x > -12, left_edge, -FAR_MM))
    spine = np.sqrt(x * x + (y - trunk.spine[:, :, box[2]]) ** 2) - 34
    liver = np.maximum(np.maximum(liver, trunk.cavity[box] + 4), -spine)
    liver = np.maximum(liver, (z - trunk.diaphragm_z[box]) * 0.6 + 2.4)

    blood, base = body.tissue("blood"), body.tissue("liver") - 18 * body.recipe.steatosis
    texture = base + 3.5 * body.noise("liver", 4, box) + 2 * body.noise("liver 2", 16, box)
    for name, strength in (("hepatic", 0.030), ("portal", 0.022)):
        first, second = body.noise(f"{name} 1", 16, box), body.noise(f"{name} 2", 16, box)
        line = np.clip(1.7 * np.exp(-(first**2 + second**2) / strength) - 0.4, 0, 1)
        texture = texture + line * (
            0.9 * (blood - base) if name == "portal" else 0.75 * (blood - base)
        )
    body.paint(box, liver, texture, "liver")
    body.shapes["liver"] = box, liver
    routes: tuple[Points, ...] = (
        [(-4, -2, -66, 7), (-18, -4, -48, 7), (-36, 0, -34 + breath, 7),
         (-58, -2, -24 + breath, 5), (-86, 8, -16 + breath, 3)],
        [(-36, 0, -34 + breath, 6), (-22, -26, -10 + breath, 5), (4, -40, 2 + breath, 3)],
        [(-24, 10, 32 + breath, 7), (-52, 18, 18 + breath, 5), (-88, 30, -4 + breath, 3)],
        [(-24, 8, 32 + breath, 6), (-40, -24, 18 + breath, 4.5), (-52, -52, -4 + breath, 3)],
    )  # fmt: skip
    for points in routes:
        where, distance = body.tube(smooth_path(points))
        body.paint(where, distance, 0.92 * blood + 0.08 * base)


def _paint_kidney(body: Body, way: int, height: float) -> None:
    name = "kidney right" if way < 0 else "kidney left"
    pose = body.recipe.poses[name]
    dx, dy, dz = pose.offset_mm
    center = (way * 60 + dx, 46 + dy, height + dz)
    radii = (27 * pose.scale, 25 * pose.scale, 55 * pose.scale)
    box = body.box(np.array(center) - 66, np.array(center) + 66, 6)
    at = _x, _y, _z = body.coordinates(box)
    # upper pole towards the spine, hilum turned to the front
    axes = np.linalg.qr(
        np.array([[1.0, way * -0.45, way * 0.22], [way * 0.45, 1, 0.0], [way * -0.22, 0.12, 1]]).T
    )[0].T
    axes *= np.sign(np.diag(axes))[:, None]
    kidney = ellipsoid(at, center, radii, axes) + 1.2 * body.noise(f"{name} face", 16, box)
    hilum = (center[0] - way * 24, center[1] - 12, center[2])
    notch = ellipsoid(at, hilum, (15, 12, 20))
    body.paint(box, kidney, body.tissue("cortex") + 4 * body.noise(name, 4, box), "kidney")
    pyramids = np.maximum(kidney + 7, -(kidney + 20))
    pyramids = np.maximum(pyramids, 0.9 - 3 * body.noise(f"{name} pyramids", 8, box))
    body.paint(box, pyramids, body.tissue("medulla"))
    inner = (center[0] - way * 8, center[1] - 4, center[2])
    sinus = ellipsoid(at, inner, (13 * pose.scale, 10 * pose.scale, 28 * pose.scale), axes)
    sinus = sinus + 2.2 * body.noise(f"{name} sinus", 8, box)
    sinus = smooth_union(sinus, notch, 6)
    body.paint(box, np.maximum(sinus, kidney), -85 + 20 * body.noise(f"{name} fat", 4, box))
    # the notch opens to the outside: fat there is no kidney
    self_labels = body.labels[box]
    outside = (notch < 0) & (kidney < 0) & (kidney > -9)
    self_labels[outside & (self_labels == label_named("kidney").value)] = 0
    pelvis = ellipsoid(at, (inner[0] - way * 6, inner[1] - 4, inner[2]), (10, 5, 12))
    for n in (-1, 0, 1):
        calyx = ellipsoid(at, (inner[0] + way * 3, inner[1], inner[2] + n * 15), (6, 4, 6))
        pelvis = smooth_union(pelvis, calyx, 5)
    body.paint(box, np.maximum(pelvis, kidney), body.tissue("urine"))
    body.shapes[name] = box, kidney
    body.shapes[f"{name} sinus"] = box, np.maximum(sinus, kidney + 4)
    ureter = smooth_path([(hilum[0], hilum[1], hilum[2], 3), (way * 34, 28, -150, 2.2),
                          (way * 38, 22, -230, 2), (way * 24, 12, -310, 2)])  # fmt: skip
    where, distance = body.tube(ureter)
    body.paint(where, distance, body.tissue("urine") + 20)


def _paint_bowel(body: Body, trunk: Trunk) -> None:
    """Small bowel (unlabelled), then colon and rectum with gas in front and faeces."""
    rng = named_rng(body.recipe.seed, "small bowel")
    wall, content = body.tissue("wall"), body.tissue("bowel")
    low, high = np.array([-84.0, -84.0, -285.0]), np.array([88.0, 12.0, -92.0])
    place, goal = np.array([20.0, -20.0, -110.0]), rng.uniform(low, high)
    turns: list[tuple[float, ...]] = []
    heading = rng.standard_normal(3)
    for _ in range(230):
        turns.append((*place, rng.uniform(9.5, 13)))
        if np.linalg.norm(goal - place) < 30:
            goal = rng.uniform(low, high)
        pull = (goal - place) / np.linalg.norm(goal - place)
        heading = 0.6 * heading + 0.8 * rng.standard_normal(3) + 0.8 * pull
        heading /= np.linalg.norm(heading)
        place = np.clip(place + 22 * heading, low, high)
    for n in range(0, len(turns) - 6, 6):
        piece = smooth_path(turns[n : n + 8], 3)
        box, distance = body.tube(piece)
        distance = np.maximum(distance, trunk.cavity[box] + 3)
        gassy = rng.random() < 0.15
        fill = content + rng.normal(0, 8) + 8 * body.noise(f"chyme {n}", 4, box)
        y = body.at[1][box]
        share = logistic((piece[:, 1].mean() - 4 - y) / 0.5) * np.float32(gassy)
        body.paint(box, distance, wall + 12 * (body.recipe.phase == "portal venous"), 0)
        body.paint(box, distance + 2.2, fill * (1 - share) - 900 * share)

    rng = named_rng(body.recipe.seed, "colon")
    wide = float(rng.uniform(0.75, 1.05))
    knots = [(0, 52, -385, 13), (0, 62, -355, 17), (0, 60, -322, 21 * wide), (4, 54, -292, 18 * wide),
             (14, 30, -272, 14), (-20, 4, -268, 14), (-14, -22, -252, 14), (28, -26, -256, 14),
             (62, 6, -244, 14), (84, 20, -212, 14), (100, 32, -160, 14 * wide),
             (106, 36, -90, 14 * wide), (108, 30, -34, 16 * wide), (98, -6, -26, 17 * wide),
             (62, -56, -68, 18 * wide), (10, -70, -102, 18 * wide), (-44, -62, -98, 19 * wide),
             (-86, -22, -92, 20 * wide), (-98, 20, -118, 22 * wide), (-98, 22, -170, 23 * wide),
             (-90, 8, -222, 26 * wide), (-82, 2, -244, 18 * wide)]  # fmt: skip
    path = smooth_path(body.posed("colorectum", knots), 6)
    steps = np.linalg.norm(np.diff(path[:, :3], axis=0), axis=1)
    along = np.concatenate([[0], np.cumsum(steps)])
    haustra = 1 + 0.13 * np.cos(2 * np.pi * along / 27) * np.clip((along - 180) / 60, 0, 1)
    path[:, 3] *= haustra
    box, distance = body.tube(path)
    distance = distance + 1.2 * body.noise("colon face", 8, box)
    distance = np.maximum(distance, trunk.cavity[box] + 2)
    y = body.at[1][box]
    mottled = body.noise("faeces", 2, box) + 0.6 * body.noise("faeces 2", 4, box)
    faeces = 35 + 25 * mottled - 380 * np.clip(mottled - 0.9, 0, 1)
    filling = 16 * body.noise("filling", 16, box)
    level = -10 + 20 * float(rng.normal())
    gas = logistic((level + filling - y) / 0.7)
    gas = np.maximum(gas, logistic((body.noise("bubble", 16, box) - 0.7) / 0.03))
    _hollow(
        body, "colorectum", box, distance, 2.6, (faeces * (1 - gas) - 950 * gas).astype(np.float32)
    )


def _paint_bladder(body: Body) -> None:
    (center,) = body.posed("bladder", [(0, -24, -320, 1.0)])
    size = float(center[3])
    box = body.box(center[:3] - 50 * size, center[:3] + 50 * size)
    at = body.coordinates(box)
    bladder = ellipsoid(at, tuple(center[:3]), (40 * size, 31 * size, 29 * size))
    bladder = np.maximum(
        bladder, -smooth_union(bladder, ellipsoid(at, (0, -24, -260), (30, 30, 26)), 4) - 40
    )
    deep = ellipsoid(at, (0, 14 + center[1] + 24, -352), (24, 18, 20))
    if body.recipe.sex == "female":
        deep = ellipsoid(at, (4, 24, -306), (26, 20, 30))
    body.paint(box, deep, body.tissue("prostate") + 5 * body.noise("prostate", 4, box), 0)
    _hollow(body, "bladder", box, bladder, 3.0, body.tissue("urine"))


def _hollow(
    body: Body, name: str, box: Box, distance: Floats, wall_mm: float, content: Floats | float
) -> None:
    """Paint a hollow organ: wall, then what it holds."""
    wall = body.tissue("wall") + 4 * body.noise(f"wall {name}", 2, box)
    label = name if name != "bowel" else 0
    body.paint(box, distance, wall, label)
    body.paint(box, distance + wall_mm, content)
    if label:
        body.shapes[name] = box, distance
