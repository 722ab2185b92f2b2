"""The volume a phantom is painted in: coordinates, tissues, textures, soft edges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from pasta.labels import label_named
from training.synthesis.shapes import (
    FAR_MM,
    Box,
    Coordinates,
    Floats,
    NoiseBank,
    Points,
    named_rng,
    segment,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from training.synthesis.phantom import PhantomRecipe

# HU without contrast agent and in the portal venous phase
TISSUE_HU: dict[str, tuple[float, float]] = {
    "muscle": (52, 62),
    "liver": (57, 112),
    "spleen": (50, 120),
    "pancreas": (40, 98),
    "cortex": (33, 175),
    "medulla": (31, 150),
    "wall": (40, 85),
    "blood": (42, 155),
    "myocardium": (45, 112),
    "bile": (8, 8),
    "urine": (6, 8),
    "bowel": (22, 26),
    "prostate": (38, 75),
    "thyroid": (95, 150),
}


@dataclass(slots=True)
class Body:
    """A volume being painted.

    Attributes:
        recipe: what to paint.
        at: canonical coordinates of every voxel, deformed.
        z: undeformed canonical heights, (1, 1, K).
        spacing_mm: of the voxels, canonical.
        bank: noise for textures.
        hu: (I, J, K) attenuation so far.
        labels: (I, J, K) label values so far.
        shapes: distance of each named organ inside its box, for lesions to find their place.
    """

    recipe: PhantomRecipe
    at: Coordinates
    z: Floats
    spacing_mm: tuple[float, float, float]
    bank: NoiseBank
    hu: Floats
    labels: NDArray[np.uint8]
    shapes: dict[str, tuple[Box, Floats]] = field(default_factory=dict)

    @property
    def edge_mm(self) -> float:
        """Width over which an edge fades: about a voxel, the partial volume effect."""
        return float(np.mean(self.spacing_mm))

    def tissue(self, name: str) -> float:
        """HU of a tissue in the phase of the recipe, with its variation from person to person."""
        plain, venous = TISSUE_HU[name]
        rng = named_rng(self.recipe.seed, f"hu {name}")
        if self.recipe.phase == "portal venous":
            plain += (venous - plain) * self.recipe.enhancement
        return float(plain + rng.normal() * self.recipe.hu_jitter)

    def box(
        self, low: Sequence[float] | Floats, high: Sequence[float] | Floats, margin_mm: float = 14.0
    ) -> Box:
        """Find the voxels between two canonical corners; the margin allows for deformation."""
        slices = []
        for n in range(3):
            axis = self.axes()[n]  # undeformed: deformation is what the margin is for
            start = int(np.searchsorted(axis, low[n] - margin_mm))
            stop = int(np.searchsorted(axis, high[n] + margin_mm))
            slices.append(slice(start, stop))
        return slices[0], slices[1], slices[2]

    def axes(self) -> tuple[NDArray[np.float64], ...]:
        """Undeformed canonical coordinates along each axis."""
        z = self.z.ravel().astype(float)
        i, j, _ = self.hu.shape
        return (
            (np.arange(i) - (i - 1) / 2) * self.spacing_mm[0],
            (np.arange(j) - (j - 1) / 2) * self.spacing_mm[1],
            z,
        )

    def coordinates(self, box: Box) -> Coordinates:
        """Deformed canonical coordinates of the voxels of a box."""
        return self.at[0][box], self.at[1][box], self.at[2][box]

    def noise(self, name: str, sigma_mm: float, box: Box) -> Floats:
        """Texture of one named part."""
        shape = self.hu[box].shape
        return self.bank.take(named_rng(self.recipe.seed, name), sigma_mm, shape)

    def paint(
        self, box: Box, distance: Floats, hu: Floats | float, label: str | int | None = None
    ) -> None:
        """Fill a shape; edges share their voxels with what was there before."""
        share = np.clip(0.5 - distance / np.float32(self.edge_mm), 0, 1)
        here = self.hu[box]
        here += share * (hu - here)
        if label is not None:
            value = label if isinstance(label, int) else label_named(label).value
            self.labels[box][distance < 0] = value

    def tube(self, path: NDArray[np.float64]) -> tuple[Box, Floats]:
        """Distance to a tube given as (x, y, z, radius) rows."""
        low = (path[:, :3] - path[:, 3:]).min(axis=0)
        high = (path[:, :3] + path[:, 3:]).max(axis=0)
        box = self.box(tuple(low), tuple(high))
        distance = np.full(self.hu[box].shape, FAR_MM, dtype=np.float32)
        for (xa, ya, za, ra), (xb, yb, zb, rb) in pairwise(path):
            r = max(ra, rb) + 4
            piece = self.box(
                (min(xa, xb) - r, min(ya, yb) - r, min(za, zb) - r),
                (max(xa, xb) + r, max(ya, yb) + r, max(za, zb) + r),
            )
            inner = tuple(
                slice(max(p.start - b.start, 0), max(p.stop - b.start, 0))
                for p, b in zip(piece, box, strict=True)
            )
            outer = tuple(
                slice(b.start + p.start, min(b.start + p.stop, b.stop))
                for p, b in zip(inner, box, strict=True)
            )
            part = distance[inner]
            at = self.coordinates((outer[0], outer[1], outer[2]))
            np.minimum(part, segment(at, (xa, ya, za), (xb, yb, zb), (ra, rb)), out=part)
        return box, distance

    def posed(self, organ: str, points: Points) -> NDArray[np.float64]:
        """Move and scale a path, or one centre with its radius, by the pose of an organ."""
        pose = self.recipe.poses[organ]
        path = np.array(points, dtype=float)
        middle = path[:, :3].mean(axis=0)
        path[:, :3] = (path[:, :3] - middle) * pose.scale + middle + np.array(pose.offset_mm)
        path[:, 3:] *= pose.scale
        return path
