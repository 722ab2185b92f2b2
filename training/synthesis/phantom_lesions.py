"""The lesions of a phantom: all 15 types, each in its organ, with the attenuation of its phase."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pasta.labels import label_named
from training.synthesis.shapes import (
    Floats,
    ellipsoid,
    logistic,
    named_rng,
    rotation_matrix,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from training.synthesis.canvas import Body
    from training.synthesis.shapes import Box

# ln mean and ln sd of the equivalent diameter in mm, smallest, largest
SIZES_MM: dict[str, tuple[float, float, float, float]] = {
    "lung_tumor": (3.2, 0.5, 10, 70),
    "liver_tumor": (3.0, 0.6, 8, 80),
    "gallbladder_cancer": (3.2, 0.3, 14, 40),
    "pancreatic_tumor": (3.2, 0.35, 12, 50),
    "esophageal_cancer": (3.6, 0.3, 22, 65),
    "gastric_cancer": (3.5, 0.3, 20, 60),
    "colorectal_cancer": (3.6, 0.3, 22, 60),
    "kidney_tumor": (3.5, 0.5, 14, 80),
    "bladder_cancer": (3.2, 0.35, 12, 45),
    "bone_metastasis": (3.0, 0.4, 10, 45),
    "liver_cyst": (2.8, 0.6, 7, 70),
    "gallstone": (2.2, 0.4, 5, 20),
    "pancreatic_cyst": (2.8, 0.5, 7, 40),
    "kidney_cyst": (2.9, 0.6, 7, 70),
    "kidney_stone": (1.9, 0.5, 4, 20),
}
# HU without contrast agent, in the portal venous phase, and spread between lesions
LESION_HU: dict[str, tuple[float, float, float]] = {
    "lung_tumor": (35, 55, 8),
    "gallbladder_cancer": (42, 85, 8),
    "pancreatic_tumor": (33, 58, 8),
    "esophageal_cancer": (44, 75, 6),
    "gastric_cancer": (46, 88, 8),
    "colorectal_cancer": (46, 88, 8),
    "kidney_tumor": (36, 95, 18),
    "bladder_cancer": (36, 68, 8),
    "liver_cyst": (6, 8, 4),
    "gallstone": (280, 280, 160),
    "pancreatic_cyst": (10, 13, 5),
    "kidney_cyst": (5, 9, 5),
    "kidney_stone": (850, 850, 280),
}
# wall types: the lesion replaces the wall, thickened to this share of its diameter
WALL_LESIONS = (
    "gallbladder_cancer",
    "esophageal_cancer",
    "gastric_cancer",
    "colorectal_cancer",
    "bladder_cancer",
)
STONES = ("gallstone", "kidney_stone")
CYSTS = ("liver_cyst", "pancreatic_cyst", "kidney_cyst")


@dataclass(frozen=True, slots=True)
class LesionRecipe:
    """What replays one lesion.

    Attributes:
        name: label name of the lesion type.
        diameter_mm: of the sphere of the same volume, before the organ cuts it.
        ratios: semi-axes relative to the mean radius.
        site: in [0, 1), which of the places that the organ offers.
        contrast_hu: for liver tumours and bone metastases, difference to the organ; for all
            others a variation about the usual attenuation.
        roughness: 0 smooth, 0.3 irregular.
        margin_mm: width of the fading edge.
        necrosis: True for a core of low attenuation.
        seed: of its shape and texture.
    """

    name: str
    diameter_mm: float
    ratios: tuple[float, float, float]
    site: float
    contrast_hu: float
    roughness: float
    margin_mm: float
    necrosis: bool
    seed: int


def draw_lesion(rng: np.random.Generator, name: str, phase: str) -> LesionRecipe:
    """Draw a lesion of one type."""
    mean, spread, low, high = SIZES_MM[label_named(name).name]
    diameter = float(np.clip(np.exp(rng.normal(mean, spread)), low, high))
    log_ratio = rng.normal(0, 0.1 if name in CYSTS or name in STONES else 0.2, 3)
    ratios = np.exp(log_ratio - log_ratio.mean())
    contrast = float(rng.normal())
    if name == "liver_tumor":
        low, high = (-62, -25) if phase == "portal venous" else (-30, -14)
        contrast = float(rng.uniform(low, high))
        if phase == "portal venous" and rng.random() < 0.15:
            contrast = float(rng.uniform(20, 45))
    elif name == "bone_metastasis":
        contrast = float(rng.uniform(280, 520) if rng.random() < 0.4 else -rng.uniform(90, 140))
    benign = name in CYSTS or name in STONES
    margin = float(rng.choice((0.6, 2.0)))
    if name in WALL_LESIONS or name == "lung_tumor":
        margin = min(margin, 0.8)  # gas beside it: a wide margin would average it with air
    return LesionRecipe(
        name=name,
        diameter_mm=diameter,
        ratios=(float(ratios[0]), float(ratios[1]), float(ratios[2])),
        site=float(rng.random()),
        contrast_hu=contrast,
        roughness=float(0.04 if benign else rng.uniform(0.08, 0.26)),
        margin_mm=0.4 if benign else margin,
        necrosis=bool(not benign and diameter > 24 and rng.random() < 0.5),
        seed=int(rng.integers(2**31)),
    )


def paint_lesion(body: Body, lesion: LesionRecipe) -> bool:
    """Paint one lesion.

    Returns:
        False if the organ is not in the field of view or offers no place.
    """
    if lesion.name == "bone_metastasis":
        return _paint_in_bone(body, lesion)
    place = _place(body, lesion)
    if place is None:
        return False
    center, shape_name = place
    organ_box, organ_distance = body.shapes[shape_name]
    blob_box, blob = _blob(body, lesion, center)
    organ = np.full(blob.shape, 1e3, dtype=np.float32)
    _copy_overlap(organ, blob_box, organ_distance, organ_box)
    if lesion.name in WALL_LESIONS:
        thickness = np.clip(0.32 * lesion.diameter_mm, 6, 16)
        rough = body.bank.take(named_rng(lesion.seed, "wall"), 8, blob.shape)
        outside = organ - np.float32(0.06 * lesion.diameter_mm) * (1 + 0.5 * rough)
        blob = np.maximum(np.maximum(blob, outside), -(organ + thickness * (1 + 0.15 * rough)))
    elif lesion.name in STONES:
        blob = np.maximum(blob, organ + 1.2)
    elif lesion.name == "lung_tumor":
        blob = np.maximum(blob, organ)
    elif lesion.name.startswith(("liver", "pancreatic")):
        # may bulge, by a fifth of its radius
        blob = np.maximum(blob, organ - np.float32(0.1 * lesion.diameter_mm))
    _fill(body, lesion, blob_box, blob)
    return True


def _place(body: Body, lesion: LesionRecipe) -> tuple[tuple[float, float, float], str] | None:
    """Choose the centre of a lesion among the voxels of its organ."""
    organ = label_named(lesion.name).organ
    name = organ
    if organ == "kidney":
        name = "kidney left" if lesion.seed % 2 else "kidney right"
        name += " sinus" if lesion.name == "kidney_stone" else ""
    if name not in body.shapes:
        return None
    box, distance = body.shapes[name]
    if not distance.size:  # outside the range shown
        return None
    radius = lesion.diameter_mm / 2
    if lesion.name in WALL_LESIONS:
        fits = np.abs(distance + 2) < body.edge_mm
    elif lesion.name in STONES:
        fits = distance < -min(radius, 3.0)
    elif organ == "kidney":
        fits = np.abs(distance + 0.15 * radius) < body.edge_mm
    else:
        fits = distance < -min(0.8 * radius, 0.55 * float(-distance.min()))
    fits &= body.labels[box] > 0 if organ not in {"kidney"} else True
    x, y, z = body.coordinates(box)
    if organ == "kidney" and lesion.name != "kidney_stone":
        # on the outer side: the hilum holds vessels
        way = 1 if name.startswith("kidney left") else -1
        fits &= way * x > way * float(np.median(x[fits])) if fits.any() else True
    if lesion.name == "gallstone" and fits.any():
        # stones sink to the back
        fits &= y > np.quantile(y[fits], 0.8)
    if lesion.name == "colorectal_cancer" and lesion.seed % 2 and (fits & (z < -200)).any():
        fits &= z < -200  # half of them in rectum and sigmoid
    # not at the end of the field of view
    depth = min(0.5 * lesion.diameter_mm, 8)
    fits &= (z > float(body.z[0, 0, 0]) + depth) & (z < float(body.z[0, 0, -1]) - depth)
    found = np.flatnonzero(fits)
    if not len(found):
        return None
    # order by height, so that the same site means the same place at every spacing
    order = np.argsort(z.ravel()[found], kind="stable")
    chosen = found[order[int(lesion.site * len(found))]]
    return (float(x.ravel()[chosen]), float(y.ravel()[chosen]), float(z.ravel()[chosen])), name


def _blob(
    body: Body, lesion: LesionRecipe, center: tuple[float, float, float]
) -> tuple[Box, Floats]:
    """Distance to an ellipsoid, turned and roughened."""
    radius = lesion.diameter_mm / 2
    radii = np.array(lesion.ratios) * radius
    if lesion.name in WALL_LESIONS:
        radii *= 1.15
    reach = float(radii.max()) * 1.5 + 4
    low, high = np.array(center) - reach, np.array(center) + reach
    box = body.box(low, high)
    rng = named_rng(lesion.seed, "shape")
    at = body.coordinates(box)
    blob = ellipsoid(at, center, (radii[0], radii[1], radii[2]), rotation_matrix(rng))
    coarse = body.bank.take(rng, max(0.45 * radius, 2), blob.shape)
    fine = body.bank.take(rng, max(0.2 * radius, 1.5), blob.shape)
    rough = np.float32(lesion.roughness * radius)
    return box, blob - rough * (coarse + np.float32(0.35) * fine)


def _paint_in_bone(body: Body, lesion: LesionRecipe) -> bool:
    bone = body.labels == label_named("bone").value
    box = body.box((-140, -40, -340), (140, 110, 200), 0)
    inside = np.zeros_like(bone)
    inside[box] = bone[box] & (np.abs(body.hu[box] - body.recipe.bone_hu) < 110)
    found = np.flatnonzero(inside)
    if not len(found):
        return False
    order = np.argsort(body.at[2].ravel()[found], kind="stable")
    chosen = found[order[int(lesion.site * len(found))]]
    center = tuple(float(axis.ravel()[chosen]) for axis in body.at)
    blob_box, blob = _blob(body, lesion, (center[0], center[1], center[2]))
    blob = np.where(bone[blob_box], blob, np.float32(20))
    _fill(body, lesion, blob_box, blob)
    return True


def _fill(body: Body, lesion: LesionRecipe, box: Box, distance: Floats) -> None:
    rng = named_rng(lesion.seed, "texture")
    shape = distance.shape
    venous = body.recipe.phase == "portal venous"
    if lesion.name == "liver_tumor":
        mean = body.tissue("liver") - 18 * body.recipe.steatosis + lesion.contrast_hu
    elif lesion.name == "bone_metastasis":
        mean = body.recipe.bone_hu + lesion.contrast_hu
    else:
        plain, enhanced, spread = LESION_HU[lesion.name]
        mean = (enhanced if venous else plain) + spread * lesion.contrast_hu
    if lesion.name in STONES:
        mean = max(mean, 120.0)
    rough = 2.0 if lesion.name in CYSTS else 7.0
    hu = np.float32(mean) + np.float32(rough) * body.bank.take(rng, 4, shape)
    if lesion.necrosis:
        depth = -distance / np.float32(lesion.diameter_mm / 2)
        core = logistic((depth - 0.5 + 0.2 * body.bank.take(rng, 8, shape)) / 0.08)
        hu = hu * (1 - core) + core * np.float32(min(mean - 15, 24))
    if lesion.name == "liver_tumor" and venous and lesion.contrast_hu < 0:
        hu = hu + 22 * np.exp(-(((distance + 1.5) / 1.6) ** 2))
    if lesion.name == "colorectal_cancer" or lesion.name in WALL_LESIONS:
        hu = np.maximum(hu, 20)
    share = logistic(-distance / np.float32(max(lesion.margin_mm, 0.35 * body.edge_mm)))
    share[distance > 3 * lesion.margin_mm + body.edge_mm] = 0
    if lesion.name == "bone_metastasis":
        share[distance > 10] = 0
    here = body.hu[box]
    here += share * (hu - here)
    body.labels[box][distance < 0] = label_named(lesion.name).value


def _copy_overlap(into: Floats, into_box: Box, source: Floats, source_box: Box) -> None:
    """Copy the common part of two boxes of the same volume."""
    low = [max(a.start, b.start) for a, b in zip(into_box, source_box, strict=True)]
    high = [min(a.stop, b.stop) for a, b in zip(into_box, source_box, strict=True)]
    if any(h <= lo for lo, h in zip(low, high, strict=True)):
        return
    ours = tuple(
        slice(lo - b.start, h - b.start) for lo, h, b in zip(low, high, into_box, strict=True)
    )
    theirs = tuple(
        slice(lo - b.start, h - b.start) for lo, h, b in zip(low, high, source_box, strict=True)
    )
    into[ours] = source[theirs]


def lesion_mask(labels: NDArray[np.uint8], name: str) -> NDArray[np.bool_]:
    """Voxels of one lesion type."""
    mask: NDArray[np.bool_] = labels == label_named(name).value
    return mask
