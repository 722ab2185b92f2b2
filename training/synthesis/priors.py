"""What lesions of the 15 types look like: sizes, shapes, attenuation, counts.

Liver tumours, pancreas lesions, kidney tumours and cysts were measured on masks of LiTS, MSD and
KiTS (components of 14 mm3 or more); other sizes come from the literature or, where there is none,
from radiological convention. HU are of the portal venous or the non-contrast phase.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pasta.labels import LESIONS
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

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
CONTACT_QUANTILES = (0.05, 0.5, 0.95)
MEASURED = ("liver_tumor", "pancreatic_tumor", "kidney_tumor", "kidney_cyst")
STONES = ("gallstone", "kidney_stone")
CYSTS = ("liver_cyst", "pancreatic_cyst", "kidney_cyst")
SHAPES = (ROUND, IRREGULAR, WALL, PUNCTATE)
DENSITIES = (HYPODENSE, ISODENSE, HYPERDENSE)


@dataclass(frozen=True, slots=True)
class Prior:
    """One lesion type.

    Attributes:
        diameter: mean and standard deviation of ln D, D in mm of the ball of the same volume.
        limits_mm: smallest and largest D.
        axis_sd: standard deviation of ln(semi-axis / D/2).
        sphericity: at `QUANTILES`; unused for walls and stones.
        contact: share of the surface that touches the host, at `CONTACT_QUANTILES`.
        shape: shares of round-like, irregular, wall thickening, punctate.
        density: shares of hypodense, isodense, hyperdense.
        heterogeneous: share.
        well_defined: share.
        close: share with a close relationship.
        count: quartiles and 95 % of lesions in a scan that has any.
        thickness: of a wall, mean and sd of ln mm.
        kappa: smallest and largest mass effect: share of the volume that pushes, not replaces.
    """

    diameter: tuple[float, float]
    limits_mm: tuple[float, float]
    axis_sd: float
    sphericity: tuple[float, float, float, float, float]
    contact: tuple[float, float, float]
    shape: tuple[float, float, float, float]
    density: tuple[float, float, float]
    heterogeneous: float
    well_defined: float
    close: float
    count: tuple[int, int, int, int] = (1, 1, 1, 1)
    thickness: tuple[float, float] = (2.6, 0.3)
    kappa: tuple[float, float] = (0.0, 0.0)

    def shares(self, attribute: str) -> dict[str, float]:
        """Shares of the options of one of the five attributes."""
        if attribute == "shape":
            return dict(zip(SHAPES, self.shape, strict=True))
        if attribute == "density":
            return dict(zip(DENSITIES, self.density, strict=True))
        share, one, other = {
            "heterogeneity": (self.heterogeneous, HETEROGENEOUS, HOMOGENEOUS),
            "surface": (self.well_defined, WELL_DEFINED, ILL_DEFINED),
            "invasion": (self.close, CLOSE, NOT_CLOSE),
        }[attribute]
        return {one: share, other: 1 - share}


_SMOOTH = (0.86, 0.90, 0.925, 0.94, 0.965)
_MASS = (0.72, 0.80, 0.85, 0.90, 0.94)
_FULL = (0.9, 1.0, 1.0)
PRIORS: Mapping[str, Prior] = {
    "lung_tumor": Prior(
        (3.2, 0.6), (6, 90), 0.22, (0.55, 0.72, 0.81, 0.88, 0.94), (0.6, 0.95, 1.0),
        (0.45, 0.55, 0, 0), (0.1, 0.9, 0), 1, 0.5, 0.3, kappa=(0, 0.1),
    ),
    "liver_tumor": Prior(
        (2.47, 0.70), (3.2, 110), 0.28, (0.55, 0.75, 0.84, 0.90, 0.95), (0.64, 0.97, 1.0),
        (0.65, 0.35, 0, 0), (0.9, 0.05, 0.05), 1, 0.5, 0.15, (1, 4, 9, 22), kappa=(0, 0.5),
    ),
    "gallbladder_cancer": Prior(
        (3.3, 0.35), (12, 60), 0.2, _MASS, (0.5, 0.8, 0.95),
        (0.25, 0.35, 0.4, 0), (0.3, 0.6, 0.1), 1, 0.3, 0.6, thickness=(2.4, 0.3),
        kappa=(0.1, 0.3),
    ),
    "pancreatic_tumor": Prior(
        (3.10, 0.35), (8, 70), 0.26, (0.77, 0.84, 0.88, 0.91, 0.95), (0.44, 0.85, 1.0),
        (0.7, 0.3, 0, 0), (0.7, 0.3, 0), 1, 0.25, 0.55, kappa=(0.4, 0.75),
    ),
    "esophageal_cancer": Prior(
        (3.5, 0.3), (18, 70), 0.2, _MASS, (0.5, 0.7, 0.9),
        (0, 0.1, 0.9, 0), (0.05, 0.95, 0), 1, 0.4, 0.6, thickness=(2.67, 0.33),
    ),
    "gastric_cancer": Prior(
        (3.4, 0.35), (18, 80), 0.2, _MASS, (0.5, 0.8, 0.95),
        (0, 0.15, 0.85, 0), (0.05, 0.8, 0.15), 1, 0.4, 0.5, thickness=(2.7, 0.38),
    ),
    "colorectal_cancer": Prior(
        (3.4, 0.3), (15, 70), 0.2, _MASS, (0.5, 0.8, 0.95),
        (0, 0.25, 0.75, 0), (0.05, 0.85, 0.1), 1, 0.5, 0.45, thickness=(2.64, 0.35),
    ),
    "kidney_tumor": Prior(
        (3.58, 0.69), (7, 120), 0.18, (0.80, 0.87, 0.89, 0.91, 0.95), (0.28, 0.56, 0.93),
        (0.85, 0.15, 0, 0), (0.8, 0.12, 0.08), 1, 0.75, 0.22, (1, 1, 1, 2), kappa=(0.4, 0.8),
    ),
    "bladder_cancer": Prior(
        (3.1, 0.45), (8, 60), 0.22, (0.6, 0.72, 0.80, 0.87, 0.92), (0.3, 0.6, 0.9),
        (0.25, 0.5, 0.25, 0), (0.05, 0.75, 0.2), 1, 0.5, 0.35, thickness=(2.6, 0.3),
    ),
    "bone_metastasis": Prior(
        (2.9, 0.5), (6, 60), 0.22, (0.6, 0.74, 0.82, 0.88, 0.94), (0.5, 0.9, 1.0),
        (0.6, 0.4, 0, 0), (0.5, 0.1, 0.4), 1, 0.45, 0.1, (1, 3, 5, 10),
    ),
    "liver_cyst": Prior(
        (2.6, 0.65), (4, 100), 0.12, _SMOOTH, (0.7, 0.98, 1.0),
        (1, 0, 0, 0), (1, 0, 0), 0.0, 1, 0, (1, 2, 4, 8), kappa=(0.8, 1.0),
    ),
    "gallstone": Prior(
        (2.1, 0.55), (2.5, 28), 0.1, _SMOOTH, _FULL,
        (0, 0, 0, 1), (0.07, 0.08, 0.85), 0.5, 1, 0, (1, 2, 5, 15),
    ),
    "pancreatic_cyst": Prior(
        (2.5, 0.6), (4, 60), 0.15, (0.80, 0.87, 0.90, 0.93, 0.96), (0.5, 0.85, 1.0),
        (0.9, 0.1, 0, 0), (1, 0, 0), 0.03, 0.98, 0, kappa=(0.7, 1.0),
    ),
    "kidney_cyst": Prior(
        (2.41, 0.64), (3.2, 90), 0.21, (0.79, 0.87, 0.90, 0.92, 0.96), (0.22, 0.63, 1.0),
        (1, 0, 0, 0), (0.97, 0.02, 0.01), 0.0, 1, 0, (1, 2, 5, 9), kappa=(0.7, 1.0),
    ),
    "kidney_stone": Prior(
        (1.4, 0.6), (1.5, 25), 0.15, _SMOOTH, _FULL,
        (0, 0, 0, 1), (0, 0, 1), 0.0, 1, 0, (1, 2, 3, 6),
    ),
}  # fmt: skip
assert set(PRIORS) == {lesion.name for lesion in LESIONS}  # noqa: S101


def between(
    levels: tuple[float, ...], values: tuple[float, ...], u: float, floor: float, ceiling: float
) -> float:
    """Read the value at level `u` of a distribution known at some quantiles."""
    return float(np.interp(u, (0.0, *levels, 1.0), (floor, *values, ceiling)))


def draw_count(name: str, rng: np.random.Generator) -> int:
    """Draw how many lesions of a type a scan that has any holds, 1 to 22."""
    levels = (0.25, 0.5, 0.75, 0.95)
    found = np.interp(
        rng.random(), (0, *levels, 1), (1, *PRIORS[name].count, PRIORS[name].count[-1])
    )
    return max(1, round(float(found)))


def reference_kind(name: str) -> str:
    """Tissue that the density of a type is compared with: "muscle", "bone" or "organ"."""
    organ = next(lesion.organ for lesion in LESIONS if lesion.name == name)
    if name in STONES:
        return "organ"
    if organ in {"lung", "gallbladder", "esophagus", "stomach", "colorectum", "bladder"}:
        return "muscle"
    return "organ"


def draw_hu(
    name: str, density: str, reference_hu: float, *, contrast: bool, rng: np.random.Generator
) -> float:
    """Draw the mean attenuation of a lesion.

    A difference between 6.5 and 14 HU from the reference is never drawn: it would read as either.

    Args:
        name: of the type.
        density: option asked for.
        reference_hu: of the tissue it is compared with.
        contrast: whether contrast agent was given.
        rng: source of randomness.
    """
    if name == "kidney_stone":
        mean = rng.choice((420.0, 700.0, 1000.0, 1350.0), p=(0.12, 0.10, 0.55, 0.23))
        return max(float(rng.normal(mean, 60)), reference_hu + 120)
    if name == "gallstone":
        if density == HYPERDENSE:
            span = ((200, 900), (90, 230))[int(rng.random() < 0.25)]
            return float(rng.uniform(*span))
        if density == HYPODENSE:
            return reference_hu - float(rng.uniform(30, 90))
    if density == ISODENSE:
        low, high = (-6.5, 0.0) if name == "pancreatic_tumor" else (-6.5, 6.5)
        return reference_hu + float(rng.uniform(low, high))
    if name in CYSTS:
        if density == HYPERDENSE:
            return reference_hu + float(rng.uniform(30, 60))
        low, high = {
            "liver_cyst": (0, 15),
            "pancreatic_cyst": (0, 25),
            "kidney_cyst": (-8, 28) if contrast else (-10, 18),
        }[name]
        return min(float(rng.uniform(low, high)), reference_hu - 14)
    if name == "bone_metastasis":
        if density == HYPERDENSE:
            return max(float(np.clip(rng.normal(654, 176), 380, 885)), reference_hu + 120)
        return min(float(rng.uniform(30, 90)), reference_hu - 20)
    away = {
        "lung_tumor": ((14, 30), (14, 40)),
        "liver_tumor": ((20, 60), (14, 45)) if contrast else ((14, 26), (14, 30)),
        "pancreatic_tumor": ((16, 66), (14, 30)) if contrast else ((14, 22), (14, 20)),
        "kidney_tumor": ((25, 105), (14, 40)) if contrast else ((14, 20), (14, 30)),
    }.get(name, ((14, 25), (14, 45 if contrast else 22)))
    if density == HYPODENSE:
        if (
            name == "kidney_tumor" and contrast
        ):  # clear cell 80-140, papillary 45-75, never below 42
            low, high = ((80, 140), (45, 75))[int(rng.random() < 0.3)]
            return float(np.clip(rng.uniform(low, high), 42, max(42, reference_hu - 16)))
        return reference_hu - float(rng.uniform(*away[0]))
    return reference_hu + float(rng.uniform(*away[1]))
