"""The meter: report attributes measured from image and mask, beside what a network says.

Every number comes from a 1 mm box around the lesion. What cannot be measured honestly (too small,
no reference tissue, no contrast) is not assessable, with the reason. The thresholds come from
rendered lesions of known attributes and were checked on hand-drawn masks of real lesions.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage, optimize, spatial
from skimage import measure as surfaces

from pasta.geometry import Spacing
from pasta.labels import LESIONS, organ_named
from pasta.neighbourhood import Neighbourhood, Scan, Slices, deviation
from pasta.report.attributes import (
    CLOSE,
    HETEROGENEOUS,
    HOMOGENEOUS,
    HYPERDENSE,
    HYPODENSE,
    ILL_DEFINED,
    IRREGULAR,
    ISODENSE,
    NOT_CLOSE,
    PUNCTATE,
    ROUND,
    WALL,
    WELL_DEFINED,
)
from pasta.report.findings import Measurement
from pasta.trunk import FAT_HU

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pasta.labels import Label

HUMAN_SPHERICITY = 0.84  # hand-drawn simple cysts: quartile 0.87, 5 % below 0.79
RENDERED_SPHERICITY = 0.93  # of drawn masks, which are smoother
SOLIDITY = 0.88
FLATNESS = 2.2  # extent over thickness from which a wall lesion is a thickening
WALL_SHELL_MM = 15.0
WALL_SHARE = 0.6
PUNCTATE_MM = 10.0
PUNCTATE_DELTA_HU = 100.0
MIN_SHAPE_MM = 5.0
MIN_SHAPE_VOXELS = 3
DELTA_HU = 10.0
DOUBT_HU = 3.0  # a difference this near the limit is called borderline
MIN_DENSITY_MM = 4.0
HETEROGENEITY_HU = 5.0
SPREAD_HU = 18.0  # 10th to 90th percentile
MIN_HETEROGENEITY_MM = 12.0
WIDTH_MM = 1.3  # of the logistic edge; the rise from 10 to 90 % takes 4.4 times that
MIN_SURFACE_MM = 10.0
EDGE_CONTRAST_HU = 15.0
COARSE_MM = 2.0  # along axes with larger voxels the width of an edge is that of the voxels
CONTACT = 0.05  # share of the surface that touches something else
MIN_INVASION_MM = 5.0

HOLLOW = frozenset({"gallbladder", "esophagus", "stomach", "colorectum", "bladder"})
STONES = frozenset({"gallstone", "kidney_stone"})
_LESION_VALUES = tuple(lesion.value for lesion in LESIONS)


@dataclass(frozen=True, slots=True)
class Measurements:
    """What the meter says of one lesion.

    Attributes:
        size_mm: extent along (z, x, y): feet to head, right to left, front to back.
        volume_ml: of the mask.
        diameter_mm: of the ball of the same volume.
        attributes: shape, density, heterogeneity, surface, invasion.
        organ_overlap: share of the 10 mm around the lesion that each labelled organ fills.
        grid_mm: spacing that the attributes were measured at.
    """

    size_mm: Spacing
    volume_ml: float
    diameter_mm: float
    attributes: dict[str, Measurement]
    organ_overlap: dict[str, float]
    grid_mm: float


def measured(
    scan: Scan,
    label: Label,
    box: Slices,
    mask: NDArray[np.bool_],
    *,
    sphericity: float = HUMAN_SPHERICITY,
) -> Measurements:
    """Measure one lesion.

    Args:
        scan: CT and labelmap.
        label: of the lesion.
        box: the tight bounds of the lesion along the axes of `scan.labels`.
        mask: the lesion in that box.
        sphericity: from which a solid lesion is round-like; `RENDERED_SPHERICITY` for drawn masks.
    """
    x, y, z = (n * s for n, s in zip(mask.shape, scan.grid.spacing_mm, strict=True))
    volume_mm3 = float(mask.sum()) * scan.grid.voxel_volume_mm3
    diameter = (6 * volume_mm3 / np.pi) ** (1 / 3)
    near = scan.neighbourhood(label, box, mask)
    density = density_of(near, diameter)
    attributes = {
        "shape": shape_of(near, diameter, min(mask.shape), density, sphericity),
        "density": density,
        "heterogeneity": heterogeneity_of(near, diameter),
        "surface": surface_of(near, diameter),
        "invasion": invasion_of(near, diameter),
    }
    return Measurements(
        (z, x, y), volume_mm3 / 1000, diameter, attributes, near.organ_overlap, near.grid_mm
    )


def _small(diameter_mm: float, least_mm: float) -> Measurement:
    numbers = {"diameter_mm": round(diameter_mm, 1)}
    return Measurement(None, numbers, f"smaller than {least_mm:.0f} mm")


def density_of(near: Neighbourhood, diameter_mm: float) -> Measurement:
    """Compare the lesion with its reference tissue; isodense within 10 HU.

    Lesions of liver, pancreas, kidney and stones are compared with the organ around them, bone
    lesions with trabecular bone. In lung and hollow organs a ring would hold air or lumen, beside
    which every tumour is "hyperdense": there the reference is back muscle.
    """
    inside = near.hu[near.core]
    mean = float(np.median(inside) if near.label.organ == "lung" else inside.mean())
    numbers = {"lesion_hu": round(mean, 1)}
    reference = _reference_hu(near)
    if isinstance(reference, str):
        return Measurement(None, numbers, reference)
    delta = mean - reference[0]
    numbers |= {"reference_hu": round(reference[0], 1), "delta_hu": round(delta, 1)}
    if diameter_mm < MIN_DENSITY_MM and abs(delta) < PUNCTATE_DELTA_HU:
        return Measurement(None, numbers, "smaller than 4 mm, its voxels are partly something else")
    value = ISODENSE if abs(delta) <= DELTA_HU else HYPERDENSE if delta > 0 else HYPODENSE
    note = f"reference: {reference[1]}"
    if abs(abs(delta) - DELTA_HU) < DOUBT_HU:
        note += "; borderline"
    return Measurement(value, numbers, note)


def _reference_hu(near: Neighbourhood) -> tuple[float, str] | str:
    """HU and name of the reference tissue, or why there is none."""
    organ = near.label.organ
    if (organ in HOLLOW or organ == "lung") and near.label.name not in STONES:
        muscle = near.muscle
        return "no back muscle found to compare with" if muscle is None else (muscle.hu, "muscle")
    if organ == "bone":
        # one erosion of 1 mm and the partial volume of 1 mm more: cortex is left out
        marrow = ndimage.binary_erosion(near.host, iterations=max(1, round(2 / near.grid_mm)))
        marrow &= near.distance_mm > 2.5
        if marrow.sum() < 50:
            return "no trabecular bone labelled around it"
        return float(np.median(near.hu[marrow])), "trabecular bone"
    if near.ring.sum() < 50:
        return f"no {organ} labelled around it"
    return float(np.median(near.hu[near.ring])), f"{organ} around it"


def shape_of(
    near: Neighbourhood,
    diameter_mm: float,
    least_voxels: int,
    density: Measurement,
    round_from: float = HUMAN_SPHERICITY,
) -> Measurement:
    """Tell stones and bright points, wall thickenings, round-like and irregular lesions apart."""
    delta = density.numbers.get("delta_hu", 0.0)
    if near.label.name in STONES or (diameter_mm < PUNCTATE_MM and delta > PUNCTATE_DELTA_HU):
        return Measurement(PUNCTATE, {"diameter_mm": round(diameter_mm, 1)})
    if diameter_mm < MIN_SHAPE_MM:
        return _small(diameter_mm, MIN_SHAPE_MM)
    if least_voxels < MIN_SHAPE_VOXELS:
        note = f"only {least_voxels} voxels across"
        return Measurement(None, {"diameter_mm": round(diameter_mm, 1)}, note)
    psi, solidity = sphericity_and_solidity(near.fraction[near.around(2)], near.grid_mm)
    if np.isnan(psi):  # threads and plates, such as segmentation specks along a border
        return Measurement(None, {"diameter_mm": round(diameter_mm, 1)}, "thinner than a voxel")
    numbers = {"sphericity": round(psi, 3), "solidity": round(solidity, 3)}
    if near.label.organ in HOLLOW:
        flatness, shell = _wall(near)
        numbers |= {"flatness": round(flatness, 2), "wall_share": round(shell, 2)}
        if flatness >= FLATNESS and shell >= WALL_SHARE:
            return Measurement(WALL, numbers)
    value = ROUND if psi >= round_from and solidity >= SOLIDITY else IRREGULAR
    return Measurement(value, numbers)


def sphericity_and_solidity(
    fraction: NDArray[np.float32], grid_mm: float = 1.0
) -> tuple[float, float]:
    """Compute sphericity and solidity of a body from its surface mesh.

    Args:
        fraction: share of the body in each voxel, 0-1.
        grid_mm: voxel spacing.

    Returns:
        pi^(1/3) (6 V)^(2/3) / A, which is 1 for a ball, and volume over that of the convex hull;
        both NaN for a body thinner than a voxel.
    """
    field = ndimage.gaussian_filter(np.pad(fraction, 3), 0.7 / grid_mm)
    level = 0.5
    if field.max() <= level:
        return float("nan"), float("nan")
    vertices, faces, _, _ = surfaces.marching_cubes(field, level)  # type: ignore[no-untyped-call]
    corners = vertices[faces]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = float(np.linalg.norm(cross, axis=1).sum() / 2)
    volume = abs(float((corners[:, 0] * cross).sum() / 6))
    hull = float(spatial.ConvexHull(vertices).volume)
    return float(np.pi ** (1 / 3) * (6 * volume) ** (2 / 3) / area), volume / hull


def _wall(near: Neighbourhood) -> tuple[float, float]:
    """Extent over thickness, and the share of the lesion within 15 mm of the organ's outside."""
    depth = np.where(near.mask, -near.distance_mm, 0)
    ridge = near.mask & (depth >= ndimage.maximum_filter(depth, 3))
    thickness = 2 * float(np.percentile(depth[ridge], 90)) + near.grid_mm / 2
    spans = [np.flatnonzero(near.mask.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    extent = max(float(span[-1] - span[0] + 1) for span in spans) * near.grid_mm
    own = (near.labels == organ_named(near.label.organ).value) | near.mask
    inner = ndimage.distance_transform_edt(ndimage.binary_fill_holes(own)) * near.grid_mm
    return extent / thickness, float((inner[near.mask] <= WALL_SHELL_MM).mean())


def heterogeneity_of(near: Neighbourhood, diameter_mm: float) -> Measurement:
    """Compare the spread of HU inside with that of plain tissue in the same scan.

    The image is blurred by 1.2 mm first. What noise adds to the spread is taken off, in quadrature.
    """
    if diameter_mm < MIN_HETEROGENEITY_MM:
        return _small(diameter_mm, MIN_HETEROGENEITY_MM)
    inside = near.core & (near.distance_mm <= -2.0)
    values = near.smooth[inside if inside.sum() >= 60 else near.core]
    noise = _noise_hu(near)
    if noise is None:
        return Measurement(None, {}, "no plain tissue found to read the noise from")
    excess = float(np.sqrt(max(0.0, float(values.var()) - noise**2)))
    low, high = np.percentile(values, (10, 90))
    # 10 to 90 % of a normal distribution are 2.563 standard deviations
    spread = float(np.sqrt(max(0.0, float(high - low) ** 2 - (2.563 * noise) ** 2)))
    numbers = {
        "texture_hu": round(excess, 1),
        "spread_hu": round(spread, 1),
        "noise_hu": round(noise, 1),
    }
    mixed = excess > HETEROGENEITY_HU or spread > SPREAD_HU
    return Measurement(HETEROGENEOUS if mixed else HOMOGENEOUS, numbers)


def _noise_hu(near: Neighbourhood) -> float | None:
    organ = near.label.organ
    plain = organ not in HOLLOW and organ not in ("lung", "bone")
    if plain and near.ring.sum() >= 50:
        return deviation(near.smooth[near.ring])
    return None if near.muscle is None else near.muscle.noise_hu


def surface_of(near: Neighbourhood, diameter_mm: float) -> Measurement:
    """Fit a logistic edge to the HU profile across the surface, where it faces its host.

    Hollow organs: where the lesion faces the outside of the organ.
    """
    if diameter_mm < MIN_SURFACE_MM:
        return _small(diameter_mm, MIN_SURFACE_MM)
    beyond = near.host
    if near.label.organ in HOLLOW:
        beyond = near.labels == 0
    if not beyond.any():
        return Measurement(None, {}, f"no {near.label.organ} labelled around it")
    fine = _seen_sharply(near)
    if fine is None:
        return Measurement(None, {}, f"voxels larger than {COARSE_MM:.0f} mm along every axis")
    facing = np.zeros_like(near.mask)
    tight = near.around(3)
    away = ndimage.distance_transform_edt(~beyond[tight]) * near.grid_mm
    facing[tight] = near.mask[tight] & (away <= 1.5 * near.grid_mm - near.distance_mm[tight])
    position, profile = _profile(near, (facing | (beyond & ~near.mask)) & fine)
    inside, outside = profile[position <= -3], profile[position >= 3]
    if len(inside) < 2 or len(outside) < 2:
        return Measurement(None, {}, "too little of its surface faces the organ")
    start = float(np.mean(inside)), float(np.mean(outside))
    contrast = abs(start[0] - start[1])
    numbers = {"edge_contrast_hu": round(contrast, 1)}
    if contrast < EDGE_CONTRAST_HU:
        return Measurement(None, numbers, "no contrast with what lies around it")
    width = _edge_width(position, profile, start)
    if width is None:
        return Measurement(None, numbers, "no edge in the profile across its surface")
    numbers["edge_width_mm"] = round(width, 2)
    return Measurement(WELL_DEFINED if width <= WIDTH_MM else ILL_DEFINED, numbers)


def _seen_sharply(near: Neighbourhood) -> NDArray[np.bool_] | None:
    """Voxels whose nearest surface faces along the finely sampled axes; None if there are none."""
    fine = np.ones(near.mask.shape, dtype=bool)
    coarse = [axis for axis, step in enumerate(near.spacing_mm) if step > COARSE_MM]
    if len(coarse) == 3:
        return None
    for axis in coarse:
        slope = np.gradient(near.distance_mm, near.grid_mm, axis=axis)
        fine &= np.abs(slope) < 0.5
    return fine


def _profile(
    near: Neighbourhood, where: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Median HU by distance from the surface, 7 mm to both sides."""
    where = where & (np.abs(near.distance_mm) < 7)
    distance, hu = near.distance_mm[where], near.hu[where]
    order = np.argsort(distance, kind="stable")
    distance, hu = distance[order], hu[order]
    edges = np.searchsorted(distance, np.arange(-7, 8) * near.grid_mm)
    points = [
        (float(distance[a:b].mean()), float(np.median(hu[a:b])))
        for a, b in itertools.pairwise(edges)
        if b - a >= 20
    ]
    position, profile = np.array(points, dtype=float).reshape(-1, 2).T
    return position, profile


def _edge_width(
    position: NDArray[np.float64], profile: NDArray[np.float64], start: tuple[float, float]
) -> float | None:
    def edge(
        x: NDArray[np.float64], a: float, b: float, x0: float, w: float
    ) -> NDArray[np.float64]:
        out: NDArray[np.float64] = a + (b - a) / (1 + np.exp(-(x - x0) / w))
        return out

    bounds = ([-2000, -2000, -3, 0.1], [4000, 4000, 3, 6])
    try:
        fitted, _ = optimize.curve_fit(
            edge, position, profile, p0=[*start, 0.0, 1.0], bounds=bounds, max_nfev=500
        )
    except (RuntimeError, ValueError):  # no convergence, too few points
        return None
    return float(fitted[3])


def invasion_of(near: Neighbourhood, diameter_mm: float) -> Measurement:
    """Measure how much of the surface touches something that is not its organ, nor fat, nor air.

    Touching means less than 1 mm of fat between. What the labelmap does not name counts by HU.
    """
    if diameter_mm < MIN_INVASION_MM:
        return _small(diameter_mm, MIN_INVASION_MM)
    if not near.host.any():
        return Measurement(None, {}, f"no {near.label.organ} labelled around it")
    organ = organ_named(near.label.organ).value
    tight = near.around(8)
    labels, mask, distance = near.labels[tight], near.mask[tight], near.distance_mm[tight]
    same = [value for value in _LESION_VALUES if _organ_value(value) == organ]
    other = (labels != organ) & (labels != 0) & ~mask & ~np.isin(labels, same)
    solid = (labels == 0) & ~mask & (near.smooth[tight] > FAT_HU)
    shell = (distance > 0) & (distance <= 1.0 * near.grid_mm)
    reach = ndimage.generate_binary_structure(3, 1)
    by_organ = float(ndimage.binary_dilation(other, reach)[shell].mean())
    # a thin unlabelled film around an organ is the edge of its mask, not a neighbour
    thick = ndimage.binary_opening(solid, reach, iterations=2) if solid.any() else solid
    by_tissue = float((thick & shell).sum() / shell.sum())
    numbers = {"contact_organ": round(by_organ, 3), "contact_unlabelled": round(by_tissue, 3)}
    if by_organ >= CONTACT:
        return Measurement(CLOSE, numbers)
    if by_organ + by_tissue >= CONTACT:
        return Measurement(CLOSE, numbers, "touches tissue that the mask does not name")
    return Measurement(NOT_CLOSE, numbers)


def _organ_value(lesion_value: int) -> int:
    return organ_named(LESIONS[lesion_value - LESIONS[0].value].organ).value
