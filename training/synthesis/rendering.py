"""CT-like volumes rendered from label maps.

A label map is deformed, given a body of another habitus, and each tissue gets HU of a contrast phase
(or, in part of the volumes, any HU at all, as in SynthSeg: Billot et al. 2023).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage
from skimage.morphology import convex_hull_image

from training.synthesis.fields import smooth_field
from training.tissues import TISSUES, label_map

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pasta.geometry import Shape

AIR_HU = -1000.0

# HU without contrast and in the portal venous phase
PARENCHYMA_HU: dict[str, tuple[float, float]] = {
    "spleen": (46, 118),
    "kidney": (32, 168),
    "gallbladder": (8, 8),
    "liver": (56, 110),
    "artery": (42, 148),
    "vein": (42, 138),
    "pancreas": (38, 92),
    "adrenal": (25, 70),
    "lung": (-850, -850),
    "esophagus": (38, 62),
    "trachea": (-990, -990),
    "heart": (42, 125),
    "muscle": (52, 60),
    "prostate": (40, 65),
    "spinal_cord": (30, 32),
    "cartilage": (100, 100),
    "bladder": (6, 8),
}
HOLLOW = {"stomach": 3.4, "bowel": 2.4, "colon": 2.2, "bladder": 3.0}  # wall, mm


@dataclass(frozen=True, slots=True)
class RenderRecipe:
    """What replays a rendering on its label map.

    Attributes:
        seed: of all random fields.
        contrast: 0 without contrast agent, 1 portal venous; between them earlier or weaker.
        arterial: HU added to arteries (and half of it to kidney cortex).
        fat_mm: subcutaneous fat.
        deformation_mm: standard deviation of the smooth displacement.
        scale: of the anatomy along each axis.
        noise_hu: standard deviation.
        random_hu: SynthSeg-like HU instead of plausible ones.
    """

    seed: int
    contrast: float
    arterial: float
    fat_mm: float
    deformation_mm: float
    scale: tuple[float, float, float]
    noise_hu: float
    random_hu: bool


def draw_render_recipe(rng: np.random.Generator, random_hu_share: float = 0.25) -> RenderRecipe:
    """Draw a recipe: half of the volumes without contrast agent, habitus and anatomy at random."""
    contrast = 0.0 if rng.random() < 0.5 else float(rng.uniform(0.6, 1.15))
    common = rng.uniform(0.88, 1.14)
    axes = common * rng.uniform(0.93, 1.07, size=3)
    return RenderRecipe(
        seed=int(rng.integers(2**31)),
        contrast=contrast,
        arterial=float(rng.uniform(0, 160)) if contrast > 0 and rng.random() < 0.5 else 0.0,
        fat_mm=float(rng.uniform(8, 36)),
        deformation_mm=float(rng.uniform(2, 8)),
        scale=(float(axes[0]), float(axes[1]), float(axes[2])),
        noise_hu=float(rng.uniform(5, 18)),
        random_hu=bool(rng.random() < random_hu_share),
    )


def deformed(
    tissues: NDArray[np.uint8], spacing_mm: float, recipe: RenderRecipe, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Scale and bend a label map about its centre, nearest label."""
    shape: Shape = tissues.shape
    coordinates = np.indices(shape, dtype=np.float32)
    for axis in range(3):
        centre = (shape[axis] - 1) / 2
        shift = smooth_field(shape, 30 / spacing_mm, rng) * (recipe.deformation_mm / spacing_mm)
        coordinates[axis] = (coordinates[axis] - centre) / recipe.scale[axis] + centre + shift
    return np.asarray(ndimage.map_coordinates(tissues, coordinates, order=0, mode="nearest"))


def _body(
    tissues: NDArray[np.uint8], spacing_mm: float, rng: np.random.Generator
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Compute the hull of the organs and the distance outside of it, mm."""
    hull = np.zeros(tissues.shape, bool)
    occupied = tissues > 0
    for k in range(tissues.shape[2]):
        if np.count_nonzero(occupied[:, :, k]) > 30:
            hull[:, :, k] = convex_hull_image(occupied[:, :, k])  # type: ignore[no-untyped-call]
    smooth = ndimage.gaussian_filter(hull.astype(np.float32), (4 / spacing_mm,) * 3) > 0.45
    hull = smooth | occupied
    distance = ndimage.distance_transform_edt(~hull) * spacing_mm
    wobble = 1 + 0.3 * np.clip(smooth_field(tissues.shape, 40 / spacing_mm, rng), -1.5, 1.5)
    return hull, np.asarray(distance / wobble, dtype=np.float32)


def _sides(hull: NDArray[np.bool_], spacing_mm: float) -> NDArray[np.float32]:
    """1 behind and before the body, -1 at its sides, smooth: fat is thicker there."""
    i, j = np.ogrid[: hull.shape[0], : hull.shape[1]]
    centre = ndimage.center_of_mass(hull.any(axis=2))
    angle = np.arctan2((j - centre[1]) * spacing_mm, (i - centre[0]) * spacing_mm)
    return np.asarray(-np.cos(2 * angle), dtype=np.float32)[:, :, None]


def _wall_profile(hull: NDArray[np.bool_], spacing_mm: float) -> NDArray[np.float32]:
    """Thickness of the body wall about 1: full at the flanks, thin in front, none over the back.

    Behind, the muscles of the back are labelled and are the wall themselves.
    """
    i, j = np.ogrid[: hull.shape[0], : hull.shape[1]]
    centre = ndimage.center_of_mass(hull.any(axis=2))
    back = np.sin(np.arctan2((j - centre[1]) * spacing_mm, (i - centre[0]) * spacing_mm))
    profile = np.interp(back, (-1, -0.95, -0.6, 0.3, 0.75, 1), (0.35, 0.75, 0.8, 1.1, 0.25, 0.1))
    return np.asarray(profile, dtype=np.float32)[:, :, None]


def _add_spine(
    hu: NDArray[np.float32],
    tissues: NDArray[np.uint8],
    spacing_mm: float,
    rng: np.random.Generator,
) -> None:
    """Paint what label maps leave out of the spine: discs between vertebrae, the spinal canal."""
    bone = tissues == TISSUES.index("bone")
    columns = np.flatnonzero(bone.any(axis=(1, 2)))
    if len(columns) == 0:
        return
    middle = int(columns[0] + columns[-1]) // 2
    reach = round(32 / spacing_mm)
    near = bone[max(0, middle - reach) : middle + reach]
    view = hu[max(0, middle - reach) : middle + reach]
    free = tissues[max(0, middle - reach) : middle + reach] == 0
    line = np.ones((1, 1, 2 * round(7 / spacing_mm) + 1), bool)
    core = ndimage.binary_opening(near, iterations=max(1, round(5 / spacing_mm)))
    disc = ndimage.binary_closing(core, line) & free & ~near
    view[disc] = rng.uniform(70, 95)
    for k in range(near.shape[2]):
        plane = ndimage.binary_closing(near[:, :, k], iterations=max(1, round(3 / spacing_mm)))
        canal = ndimage.binary_fill_holes(plane) & ~plane & free[:, :, k]
        view[:, :, k][canal] = 28


def _bowel_content(
    name: str, shape: Shape, spacing_mm: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    large = smooth_field(shape, 9 / spacing_mm, rng)
    fine = smooth_field(shape, 1.5, rng)
    oral = rng.uniform(120, 500) if rng.random() < 0.25 else None
    if name == "bladder":
        return np.full(shape, rng.uniform(-5, 15), np.float32)
    if name == "stomach":
        height = np.arange(shape[1], dtype=np.float32)[None, :, None] / shape[1]  # anterior is 0
        gas = height < rng.uniform(0.05, 0.4) + 0.03 * large
        fluid = (rng.uniform(0, 40) if oral is None else oral) + 8 * fine
        return np.where(gas, np.float32(-920), fluid).astype(np.float32)
    gas_level = rng.uniform(0, 1.2) if name == "colon" else rng.uniform(1.2, 2.5)
    content = (rng.uniform(10, 45) if oral is None else oral) + (
        35 if name == "colon" else 8
    ) * fine
    return np.where(large > gas_level, np.float32(-880), content).astype(np.float32)


def rendered(
    tissues: NDArray[np.uint8], spacing_mm: float, recipe: RenderRecipe
) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Render one volume.

    Args:
        tissues: indices into `TISSUES`, axes along LPS, isotropic.
        spacing_mm: of the label map and of the volume.
        recipe: of `draw_render_recipe`; the same recipe gives the same volume.

    Returns:
        HU and labelmap (organs only) on the grid of the label map.
    """
    rng = np.random.default_rng(recipe.seed)
    tissues = deformed(tissues, spacing_mm, recipe, rng)
    return painted(tissues, spacing_mm, recipe, rng), label_map(tissues)


def painted(
    tissues: NDArray[np.uint8], spacing_mm: float, recipe: RenderRecipe, rng: np.random.Generator
) -> NDArray[np.int16]:
    """Paint the CT of a label map as it is, undeformed.

    Args:
        tissues: indices into `TISSUES`, axes along LPS, isotropic.
        spacing_mm: of the label map and of the volume.
        recipe: of `draw_render_recipe`.
        rng: source of all fields.

    Returns:
        HU on the grid of the label map.
    """
    shape: Shape = tissues.shape
    hull, distance = _body(tissues, spacing_mm, rng)
    muscle_mm = rng.uniform(7, 14) * _wall_profile(hull, spacing_mm)
    fat_mm = recipe.fat_mm * (1 + 0.25 * _sides(hull, spacing_mm))
    hu = np.full(shape, AIR_HU, np.float32)
    body = distance < muscle_mm + fat_mm

    muscle_hu = _tissue_hu("muscle", recipe, rng)
    fat_hu = rng.uniform(-115, -85)
    septa = np.abs(smooth_field(shape, 3 / spacing_mm, rng))
    hu[body] = fat_hu + 35 * np.maximum(0.1 - septa, 0)[body] / 0.1
    # three layers of muscle with a film of fat between, as at the flank
    wall = distance < muscle_mm
    depth = distance / np.maximum(muscle_mm, 1)
    film = np.minimum(np.abs(depth - 0.36), np.abs(depth - 0.68)) * muscle_mm < 0.7
    hu[wall] = np.where(film & (muscle_mm > 7), 0.5 * (muscle_hu + fat_hu), muscle_hu)[wall]
    hu[body & (distance > muscle_mm + fat_mm - 2)] = 10
    hu[hull] = fat_hu
    strands = np.abs(smooth_field(shape, 1.2, rng))
    mesentery = hull & (tissues == 0)
    hu[mesentery] += (np.maximum(0.12 - strands, 0) / 0.12 * (90 + 80 * recipe.contrast))[mesentery]
    _add_spine(hu, tissues, spacing_mm, rng)
    for value in np.unique(tissues):
        if value:
            _paint(hu, tissues == value, TISSUES[value], spacing_mm, recipe, rng)
    _add_table(hu, body, spacing_mm, rng)
    hu = ndimage.gaussian_filter(hu, rng.uniform(0.3, 0.8) * 1.5 / spacing_mm)
    hu += recipe.noise_hu * smooth_field(shape, rng.uniform(0.5, 0.9), rng)
    if rng.random() < 0.5:
        hu += rng.uniform(0, 8) * smooth_field(shape, 40 / spacing_mm, rng)
    whole: NDArray[np.int16] = np.clip(np.rint(hu), -1024, 3071).astype(np.int16)
    return whole


def _tissue_hu(name: str, recipe: RenderRecipe, rng: np.random.Generator) -> float:
    plain, portal = PARENCHYMA_HU[name]
    if recipe.random_hu and name not in {"lung", "trachea"}:
        return float(rng.uniform(-20, 200))
    value = plain + (portal - plain) * recipe.contrast
    if name == "artery":
        value += recipe.arterial
    if name == "heart":
        value += 0.7 * recipe.arterial
    if name == "liver" and rng.random() < 0.2:
        value -= rng.uniform(10, 40)  # fatty
    if name == "lung":
        return float(rng.uniform(-900, -720))
    spread = 4 + 0.05 * abs(value)
    return float(value + rng.normal(0, spread))


def _paint(
    volume: NDArray[np.float32],
    mask: NDArray[np.bool_],
    name: str,
    spacing_mm: float,
    recipe: RenderRecipe,
    rng: np.random.Generator,
) -> None:
    """Fill one tissue in place."""
    bounds = ndimage.find_objects(mask.astype(np.uint8))[0]
    box = tuple(
        slice(max(0, b.start - 3), min(n, b.stop + 3))
        for b, n in zip(bounds, mask.shape, strict=True)
    )
    inside = mask[box]
    shape: Shape = inside.shape
    fine = smooth_field(shape, 1.5 / spacing_mm, rng)
    medium = smooth_field(shape, 4 / spacing_mm, rng)
    if name == "bone":
        depth = ndimage.distance_transform_edt(inside) * spacing_mm
        cortex = np.clip((rng.uniform(1.5, 3.5) - depth) / 1.0 + 0.5, 0, 1)
        hu = (1 - cortex) * (rng.uniform(90, 230) + 45 * fine) + cortex * (
            rng.uniform(350, 750) + 80 * medium
        )
    elif name in HOLLOW:
        depth = ndimage.distance_transform_edt(inside) * spacing_mm
        wall = np.clip((HOLLOW[name] * rng.uniform(0.7, 1.5) - depth) / 1.0 + 0.5, 0, 1)
        wall_hu = rng.uniform(30, 48) + 45 * recipe.contrast
        hu = _bowel_content(name, shape, spacing_mm, rng) * (1 - wall) + wall * (wall_hu + 5 * fine)
    else:
        hu = _tissue_hu(name, recipe, rng) + rng.uniform(1, 6) * medium + rng.uniform(1, 4) * fine
        if name == "lung":
            vessels = np.maximum(np.abs(smooth_field(shape, 2.0 / spacing_mm, rng)) - 1.9, 0)
            hu = hu + vessels * 500 + 40 * medium
        if name == "liver" and recipe.contrast > 0 and not recipe.random_hu:
            hu = hu + np.maximum(fine - 1.9, 0) * rng.uniform(0, 60)
        if name == "pancreas":
            hu = hu - np.maximum(fine - 1.2, 0) * rng.uniform(20, 80)  # lobulation
        if name == "kidney":
            hu = _kidney(hu, inside, mask, box, spacing_mm, recipe, rng)
    view = volume[box]
    view[inside] = np.asarray(hu, dtype=np.float32)[inside]


def _kidney(
    hu: NDArray[np.float32],
    inside: NDArray[np.bool_],
    mask: NDArray[np.bool_],
    box: tuple[slice, ...],
    spacing_mm: float,
    recipe: RenderRecipe,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Add cortex in contrast phases and the sinus (fat, urine) of each kidney."""
    if recipe.contrast > 0:
        depth = ndimage.distance_transform_edt(inside) * spacing_mm
        hu = hu + np.where(depth < 7, 15 + 0.5 * recipe.arterial, -10)
    parts, count = ndimage.label(inside)
    middle = mask.shape[0] / 2 - box[0].start
    grid = np.ogrid[tuple(slice(n) for n in inside.shape)]
    wobble = smooth_field(inside.shape, 3 / spacing_mm, rng)
    for part in range(1, count + 1):
        if np.count_nonzero(parts == part) * spacing_mm**3 < 20_000:
            continue
        centre = np.array(ndimage.center_of_mass(parts == part))
        centre[0] += (6 if centre[0] < middle else -6) / spacing_mm
        radius = sum(
            ((g - c) * spacing_mm / r) ** 2
            for g, c, r in zip(grid, centre, (8, 7, 18), strict=True)
        )
        radius = radius + 0.3 * wobble
        hu = np.where((radius < 1) & inside, np.float32(-70), hu)
        hu = np.where((radius < 0.45) & inside, np.float32(8), hu)
    return hu


def _add_table(
    hu: NDArray[np.float32],
    body: NDArray[np.bool_],
    spacing_mm: float,
    rng: np.random.Generator,
) -> None:
    """Put a couch behind the body in most volumes."""
    occupied = np.flatnonzero(body.any(axis=(0, 2)))
    if len(occupied) == 0 or rng.random() < 0.3:
        return
    start = int(occupied[-1] + rng.uniform(0, 12) / spacing_mm)
    thick = max(1, round(rng.uniform(2, 8) / spacing_mm))
    slab = hu[:, start : start + thick]
    slab[~body[:, start : start + thick]] = rng.uniform(-300, 100)
