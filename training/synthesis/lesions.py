"""Simple lesions drawn into CT volumes: draw a recipe, then apply it.

Sizes and attenuations follow published measurements where there are some (KiTS, LiTS, MSD, and the
literature behind each entry) and radiological convention elsewhere. Shapes are ellipsoids, lobulated
blobs, thickened walls and stones; vessels, mass effect and spicules are not drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from pasta.labels import LABELS, label_named
from training.synthesis.fields import smooth_field

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pasta.geometry import Shape

ROUND, IRREGULAR, WALL, PUNCTATE = range(4)  # options of the attribute shape, in report order
MIN_HOST_MM3 = 4000.0  # paper, Methods 1: smaller organs are not used


@dataclass(frozen=True, slots=True)
class _Type:
    """How one lesion type is drawn: log-normal diameter (ln mm), limits, shares of shapes."""

    ln_mean: float
    ln_sd: float
    limits_mm: tuple[float, float]
    shapes: tuple[float, float, float, float]
    ill_defined: float
    invasive: float


_TYPES: dict[str, _Type] = {
    "lung_tumor": _Type(3.2, 0.6, (7, 90), (0.5, 0.5, 0, 0), 0.5, 0.2),
    "liver_tumor": _Type(3.0, 0.7, (8, 100), (0.6, 0.4, 0, 0), 0.5, 0.05),
    "gallbladder_cancer": _Type(3.4, 0.3, (14, 60), (0.3, 0.3, 0.4, 0), 0.6, 0.5),
    "pancreatic_tumor": _Type(3.15, 0.35, (10, 60), (0.5, 0.5, 0, 0), 0.75, 0.5),
    "esophageal_cancer": _Type(3.6, 0.3, (18, 80), (0, 0.1, 0.9, 0), 0.6, 0.5),
    "gastric_cancer": _Type(3.6, 0.3, (20, 90), (0, 0.15, 0.85, 0), 0.6, 0.4),
    "colorectal_cancer": _Type(3.56, 0.3, (18, 80), (0, 0.25, 0.75, 0), 0.5, 0.4),
    "kidney_tumor": _Type(3.58, 0.55, (12, 100), (0.85, 0.15, 0, 0), 0.15, 0.2),
    "bladder_cancer": _Type(3.1, 0.4, (10, 60), (0.4, 0.3, 0.3, 0), 0.5, 0.3),
    "bone_metastasis": _Type(3.0, 0.45, (10, 60), (0.6, 0.4, 0, 0), 0.55, 0.1),
    "liver_cyst": _Type(2.9, 0.55, (7, 80), (1, 0, 0, 0), 0.0, 0.0),
    "gallstone": _Type(2.2, 0.45, (4, 22), (0.1, 0, 0, 0.9), 0.0, 0.0),
    "pancreatic_cyst": _Type(2.9, 0.5, (8, 60), (0.9, 0.1, 0, 0), 0.05, 0.0),
    "kidney_cyst": _Type(2.9, 0.6, (7, 80), (1, 0, 0, 0), 0.0, 0.0),
    "kidney_stone": _Type(1.9, 0.5, (4, 22), (0, 0, 0, 1), 0.0, 0.0),
}


@dataclass(frozen=True, slots=True)
class LesionRecipe:
    """What replays one lesion on its host volume.

    Attributes:
        label: name of the lesion.
        seed: of its shape and texture.
        centre: voxel (i, j, k).
        semi_axes_mm: of the ellipsoid it grows from.
        shape: index of the attribute's option: round-like, irregular, wall thickening, punctate.
        thickness_mm: of a thickened wall.
        hu: mean attenuation wanted.
        heterogeneous: mixed texture, necrotic core where large.
        margin_mm: width of the logistic edge; above 1.2 is ill-defined.
        invasive: may replace neighbouring tissue.
    """

    label: str
    seed: int
    centre: tuple[int, int, int]
    semi_axes_mm: tuple[float, float, float]
    shape: int
    thickness_mm: float
    hu: float
    heterogeneous: bool
    margin_mm: float
    invasive: bool


@dataclass(frozen=True, slots=True, eq=False)
class DrawnLesion:
    """One lesion as drawn: its recipe, its mask and the attenuation of the tissue it sits in."""

    recipe: LesionRecipe
    mask: NDArray[np.bool_]
    host_hu: float


def _attenuation(name: str, host_hu: float, rng: np.random.Generator) -> float:
    """Draw the mean HU of a lesion in a host of this attenuation."""
    enhanced = host_hu > 80
    if name == "lung_tumor":
        return rng.uniform(-650, -300) if rng.random() < 0.12 else rng.uniform(10, 80)
    if name in {"liver_cyst", "pancreatic_cyst", "kidney_cyst"}:
        return min(rng.uniform(-5, 22), host_hu - 12)
    if name in {"gallstone", "kidney_stone"}:
        return rng.uniform(180, 900) if name == "gallstone" else rng.uniform(300, 1300)
    if name == "bone_metastasis":
        return rng.uniform(480, 900) if rng.random() < 0.5 else rng.uniform(30, 90)
    if name == "liver_tumor":
        if rng.random() < 0.12:
            return host_hu + rng.uniform(14, 45)
        return host_hu - (rng.uniform(18, 70) if enhanced else rng.uniform(13, 35))
    if name == "pancreatic_tumor":
        return host_hu - (rng.uniform(12, 60) if enhanced else rng.uniform(3, 20))
    if name == "kidney_tumor":
        return host_hu - rng.uniform(20, 100) if enhanced else host_hu + rng.uniform(-12, 22)
    return rng.uniform(35, 110)  # hollow organs: soft tissue, more with contrast agent


def draw_recipe(
    name: str,
    hu: NDArray[np.float32],
    labels: NDArray[np.uint8],
    spacing_mm: float,
    rng: np.random.Generator,
) -> LesionRecipe | None:
    """Draw a lesion of one type for a volume.

    Args:
        name: of the lesion.
        hu: host volume.
        labels: labelmap of the host; the lesion is placed in voxels of its organ.
        spacing_mm: isotropic.
        rng: source of randomness.

    Returns:
        The recipe, or None where the organ is absent or below 4000 mm3.
    """
    kind, label = _TYPES[name], label_named(name)
    host = labels == label_named(label.organ).value
    if np.count_nonzero(host) * spacing_mm**3 < MIN_HOST_MM3:
        return None
    diameter = float(np.clip(np.exp(rng.normal(kind.ln_mean, kind.ln_sd)), *kind.limits_mm))
    ratio = rng.normal(0, 0.18, size=3)
    semi = diameter / 2 * np.exp(ratio - ratio.mean())
    shape = int(rng.choice(4, p=kind.shapes))
    centre = _place(name, host, shape, spacing_mm, rng)
    near = host[tuple(slice(max(0, c - 12), c + 13) for c in centre)]
    host_hu = float(np.median(hu[tuple(slice(max(0, c - 12), c + 13) for c in centre)][near]))
    return LesionRecipe(
        label=name,
        seed=int(rng.integers(2**31)),
        centre=centre,
        semi_axes_mm=(float(semi[0]), float(semi[1]), float(semi[2])),
        shape=shape,
        thickness_mm=float(np.clip(np.exp(rng.normal(2.6, 0.3)), 6, 28)),
        hu=float(_attenuation(name, host_hu, rng)),
        heterogeneous=label.malignant,
        margin_mm=float(rng.uniform(1.7, 3.0) if rng.random() < kind.ill_defined else 0.5),
        invasive=bool(rng.random() < kind.invasive),
    )


def _place(
    name: str,
    host: NDArray[np.bool_],
    shape: int,
    spacing_mm: float,
    rng: np.random.Generator,
) -> tuple[int, int, int]:
    """Choose the centre: near the surface for walls and kidneys, dependent for gallstones."""
    places = np.argwhere(host)
    if len(places) > 4000:
        places = places[rng.choice(len(places), 4000, replace=False)]
    if shape == WALL or name.startswith("kidney") or name == "bladder_cancer":
        depth = ndimage.distance_transform_edt(host)[tuple(places.T)] * spacing_mm
        if name == "kidney_stone":
            places = places[depth >= np.quantile(depth, 0.6)]
        elif shape == WALL or rng.random() < 0.6:
            places = places[depth <= max(1.5 * spacing_mm, 4.0)]
    if name == "gallstone":
        places = places[places[:, 1] >= np.quantile(places[:, 1], 0.7)]  # LPS: posterior is down
    i, j, k = places[rng.integers(len(places))]
    return int(i), int(j), int(k)


def _rotation(rng: np.random.Generator) -> NDArray[np.float64]:
    matrix, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    return matrix


def apply_recipe(
    recipe: LesionRecipe, hu: NDArray[np.float32], labels: NDArray[np.uint8], spacing_mm: float
) -> tuple[NDArray[np.float32], NDArray[np.uint8], DrawnLesion]:
    """Draw one lesion into copies of a volume and its labelmap.

    Args:
        recipe: of `draw_recipe` for this volume.
        hu: host volume.
        labels: labelmap of the host.
        spacing_mm: isotropic.

    Returns:
        New HU, new labelmap, and the lesion with its mask (maybe empty when next to nothing of it
        fits its organ).
    """
    rng = np.random.default_rng(recipe.seed)
    label = label_named(recipe.label)
    organ_value = label_named(label.organ).value
    mean_radius = float(np.prod(recipe.semi_axes_mm)) ** (1 / 3)
    reach = int(np.ceil((1.5 * max(recipe.semi_axes_mm) + 3 * recipe.margin_mm) / spacing_mm)) + 2
    box = tuple(
        slice(max(0, c - reach), min(n, c + reach + 1))
        for c, n in zip(recipe.centre, hu.shape, strict=True)
    )
    host, own = hu[box], labels[box]
    shape: Shape = host.shape
    organ = own == organ_value
    grid = np.stack(
        np.meshgrid(
            *(
                (np.arange(b.start, b.stop, dtype=np.float32) - c) * spacing_mm
                for b, c in zip(box, recipe.centre, strict=True)
            ),
            indexing="ij",
        )
    )
    turned = np.tensordot(_rotation(rng).astype(np.float32), grid, axes=1)
    semi = np.asarray(recipe.semi_axes_mm, dtype=np.float32).reshape(3, 1, 1, 1)
    rho = np.sqrt(((turned / semi) ** 2).sum(axis=0))
    rough = {ROUND: 0.08, IRREGULAR: 0.3, WALL: 0.15, PUNCTATE: 0.05}[recipe.shape]
    rho = rho - rough * smooth_field(shape, max(0.45 * mean_radius / spacing_mm, 0.7), rng)
    distance = (rho - 1) * mean_radius  # about mm, negative inside
    signed = (
        ndimage.distance_transform_edt(~organ) - ndimage.distance_transform_edt(organ)
    ) * spacing_mm  # of the organ, negative inside; surface half a voxel off
    if recipe.shape == WALL:
        thickness = recipe.thickness_mm * (1 + 0.15 * smooth_field(shape, 4 / spacing_mm, rng))
        distance = np.maximum(distance, -signed - thickness)
        spill = 4.0 if recipe.invasive else 0.0
        distance = np.maximum(distance, signed - 0.5 * spacing_mm - spill)
    elif recipe.invasive or recipe.label in {"kidney_tumor", "kidney_cyst"}:
        # exophytic or infiltrating: fat and soft tissue may be replaced, air and bone never
        distance = np.where((host < -300) & ~organ, np.float32(3 * recipe.margin_mm), distance)
        distance = np.where(own == label_named("bone").value, np.float32(9), distance)
        if not recipe.invasive:
            other = (own > 0) & (own <= LABELS[-1].value) & (own != organ_value)
            distance = np.where(other, np.float32(9), distance)
    else:
        distance = np.maximum(distance, signed - 0.5 * spacing_mm)
    width = max(recipe.margin_mm, 0.3 * spacing_mm)
    alpha = 1 / (1 + np.exp(np.clip(distance / width, -30, 30)))
    mask = distance < 0
    reference = host[organ & (distance > width)]
    if reference.size < 30:
        reference = host[organ] if organ.any() else host.ravel()
    host_hu = float(np.median(reference))
    layer = _texture(recipe, host, distance, mean_radius, spacing_mm, rng)
    out, out_labels = hu.copy(), labels.copy()
    out[box] = (1 - alpha) * host + alpha * layer
    out_labels[box][mask] = label.value
    full = np.zeros(hu.shape, bool)
    full[box] = mask
    return out, out_labels, DrawnLesion(recipe, full, host_hu)


def _texture(
    recipe: LesionRecipe,
    host: NDArray[np.float32],
    distance: NDArray[np.float32],
    mean_radius: float,
    spacing_mm: float,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    shape: Shape = host.shape
    layer = np.full(shape, recipe.hu, np.float32)
    if recipe.heterogeneous:
        swing = rng.uniform(9, 24) * (4 if recipe.hu > 300 or recipe.hu < -200 else 1)
        layer += swing * smooth_field(shape, max(0.35 * mean_radius, 2) / spacing_mm, rng)
        if mean_radius > 11 and recipe.hu > 0 and rng.random() < 0.5:
            depth = -distance / mean_radius + 0.15 * smooth_field(shape, 4 / spacing_mm, rng)
            core = 1 / (1 + np.exp(np.clip((rng.uniform(0.4, 0.6) - depth) / 0.07, -30, 30)))
            mixed = layer * (1 - core) + core * min(rng.uniform(10, 30), recipe.hu)
            layer = mixed.astype(np.float32)
    residue = host - ndimage.gaussian_filter(host, 1.0)
    spread = 1.48 * float(np.median(np.abs(residue[distance > 0]))) if (distance > 0).any() else 5.0
    layer += min(spread, 25.0) * smooth_field(shape, 0.6, rng)
    return layer


def add_lesions(
    hu: NDArray[np.float32],
    labels: NDArray[np.uint8],
    names: Sequence[str],
    spacing_mm: float,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.uint8], list[DrawnLesion]]:
    """Draw lesions one after the other; names without a host organ are passed over."""
    drawn = []
    for name in names:
        recipe = draw_recipe(name, hu, labels, spacing_mm, rng)
        if recipe is not None:
            hu, labels, lesion = apply_recipe(recipe, hu, labels, spacing_mm)
            if lesion.mask.any():
                drawn.append(lesion)
    return hu, labels, drawn
