"""A lesion and what lies around it, in a box resampled to 1 mm along L, P, S."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import ndimage

from pasta.geometry import Grid, Shape, Spacing, Volume, reoriented, resampled_grid
from pasta.labels import ORGANS, Label, organ_named
from pasta.preprocessing.resampling import axis_weights, resampled
from pasta.trunk import AXCODES, Trunk, measured_enhancement, muscle_hu, trunk_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pasta.report.findings import Measurement

Slices = tuple[slice, slice, slice]

MARGIN_MM = 15.0  # around the lesion: the widest host ring ends at 14 mm
MAX_BOX_VOXELS = 1_000_000  # larger boxes are measured on a coarser grid, to stay fast
MUSCLE_REACH_MM = 10.0
NOISE_SCALE_MM = 1.2
SOLID_HU = -300.0  # above it a lung lesion is solid, below ground glass


def deviation(values: NDArray[np.float32]) -> float:
    """Estimate the standard deviation from the median absolute deviation."""
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


@dataclass(frozen=True, slots=True)
class Muscle:
    """Back muscle at the height of a lesion: its HU and, if it is clean enough, the noise in it."""

    hu: float
    noise_hu: float | None


class Scan:
    """A CT and its labelmap, turned to L, P, S; what all lesions of a case share.

    Args:
        volume: CT in HU, any orientation and spacing.
        labelmap: on the same grid, label values of `pasta.labels`.
    """

    def __init__(self, volume: Volume, labelmap: Volume) -> None:
        self.volume = volume
        self.labelmap = labelmap
        self.hu = reoriented(volume, AXCODES).voxels
        turned = reoriented(labelmap, AXCODES)
        self.labels = turned.voxels
        self.grid: Grid = turned.grid
        self._muscles: dict[int, Muscle | None] = {}

    @cached_property
    def trunk(self) -> Trunk:
        """The whole scan at 3 mm."""
        return trunk_of(self.volume)

    @cached_property
    def enhancement(self) -> Measurement:
        """Contrast agent or not, by HU."""
        return measured_enhancement(self.trunk, self.labelmap)

    def neighbourhood(self, label: Label, box: Slices, mask: NDArray[np.bool_]) -> Neighbourhood:
        """Resample the surroundings of one lesion.

        Args:
            label: of the lesion.
            box: of the lesion, along the axes of `labels`.
            mask: the lesion in that box.
        """
        spacing = self.grid.spacing_mm
        wide = tuple(
            slice(
                max(0, part.start - int(np.ceil(MARGIN_MM / step))),
                min(n, part.stop + int(np.ceil(MARGIN_MM / step))),
            )
            for part, step, n in zip(box, spacing, self.grid.shape, strict=True)
        )
        extent = [(part.stop - part.start) * s for part, s in zip(wide, spacing, strict=True)]
        grid_mm = max(1.0, float(np.prod(extent) / MAX_BOX_VOXELS) ** (1 / 3))
        lesion = np.zeros([part.stop - part.start for part in wide], dtype=np.float32)
        inner = tuple(
            slice(part.start - outer.start, part.stop - outer.start)
            for part, outer in zip(box, wide, strict=True)
        )
        lesion[inner] = mask
        weights = _weights(lesion.shape, spacing, grid_mm)
        fraction = resampled(torch.from_numpy(lesion), weights).numpy()
        nearest = [row.argmax(dim=1).numpy() for row in weights]
        return Neighbourhood(
            scan=self,
            label=label,
            box=box,
            hu=self._hu_at(wide, weights),
            fraction=fraction,
            mask=fraction >= min(0.5, 0.5 * float(fraction.max())),
            labels=np.ascontiguousarray(self.labels[wide][np.ix_(*nearest)]),
            grid_mm=grid_mm,
        )

    def muscle(self, box: Slices) -> Muscle | None:
        """Back muscle at the height of a box, or None if there is none to be found."""
        height = (box[2].start + box[2].stop) / 2 / self.grid.shape[2]
        zone = int(height * self.grid.shape[2] * self.grid.spacing_mm[2] / (2 * MUSCLE_REACH_MM))
        if zone not in self._muscles:
            self._muscles[zone] = self._muscle_at(height)
        return self._muscles[zone]

    def _muscle_at(self, height: float) -> Muscle | None:
        found = muscle_hu(self.trunk, height)
        if found is None:
            return None
        hu, coarse = found
        scale = np.array(self.grid.shape) / np.array(self.trunk.hu.shape)
        i, j, k = (
            (int(part.start * s), min(n, int(np.ceil(part.stop * s))))
            for part, s, n in zip(coarse, scale, self.grid.shape, strict=True)
        )
        reach = max(2, round(MUSCLE_REACH_MM / self.grid.spacing_mm[2]))
        first = min(max(k[0], int(height * self.grid.shape[2]) - reach), k[1] - 1)
        window = (slice(*i), slice(*j), slice(first, min(k[1], first + 2 * reach)))
        shape = [part.stop - part.start for part in window]
        hu_at = self._hu_at(window, _weights(shape, self.grid.spacing_mm, 1.0))
        smooth = ndimage.gaussian_filter(hu_at, NOISE_SCALE_MM)
        soft = ndimage.binary_erosion(np.abs(smooth - hu) < 40, iterations=2)
        return Muscle(hu, deviation(smooth[soft]) if soft.sum() >= 150 else None)

    def _hu_at(
        self, box: tuple[slice, ...], weights: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    ) -> NDArray[np.float32]:
        crop = np.ascontiguousarray(self.hu[box], dtype=np.float32)
        out: NDArray[np.float32] = resampled(torch.from_numpy(crop), weights).numpy()
        return out


def _weights(
    shape: tuple[int, ...] | list[int], spacing_mm: Spacing, grid_mm: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    source: Shape = (shape[0], shape[1], shape[2])
    grid = Grid(np.diag([*spacing_mm, 1.0]), source)
    target = resampled_grid(grid, (grid_mm, grid_mm, grid_mm)).shape
    i, j, k = (
        axis_weights(n, m, grid_mm / s, antialias=True)
        for n, m, s in zip(source, target, spacing_mm, strict=True)
    )
    return i, j, k


@dataclass(eq=False)
class Neighbourhood:
    """One lesion in its box.

    Attributes:
        scan: that it is part of.
        label: of the lesion.
        box: of the lesion in the scan.
        hu: (I, J, K) float32.
        fraction: share of the lesion in each voxel.
        mask: the lesion.
        labels: label values, the lesion's own included.
        grid_mm: spacing of all arrays.
    """

    scan: Scan
    label: Label
    box: Slices
    hu: NDArray[np.float32]
    fraction: NDArray[np.float32]
    mask: NDArray[np.bool_]
    labels: NDArray[np.integer]
    grid_mm: float

    @property
    def spacing_mm(self) -> Spacing:
        """Of the CT, along L, P, S."""
        return self.scan.grid.spacing_mm

    @cached_property
    def distance_mm(self) -> NDArray[np.float32]:
        """Signed distance from the surface of the lesion: negative inside, positive outside."""
        # between the centres of two voxels lies the surface, half a voxel from either
        voxels = ndimage.distance_transform_edt(~self.mask) - 0.5
        tight = self.around(1)
        depth = ndimage.distance_transform_edt(self.mask[tight])
        voxels[tight] = np.where(self.mask[tight], 0.5 - depth, voxels[tight])
        return np.asarray(voxels * self.grid_mm, dtype=np.float32)

    def around(self, voxels: int) -> Slices:
        """Bounds of the lesion, wider by some voxels where the box allows."""
        bounds = []
        for axes, n in zip(((1, 2), (0, 2), (0, 1)), self.mask.shape, strict=True):
            span = np.flatnonzero(self.mask.any(axis=axes))
            bounds.append(slice(max(0, int(span[0]) - voxels), min(n, int(span[-1]) + 1 + voxels)))
        i, j, k = bounds
        return i, j, k

    @cached_property
    def host(self) -> NDArray[np.bool_]:
        """The organ of the lesion, lesions left out."""
        host: NDArray[np.bool_] = self.labels == organ_named(self.label.organ).value
        return host & ~self.mask

    @cached_property
    def core(self) -> NDArray[np.bool_]:
        """The lesion without its partly filled rim: eroded by 1.5 mm, whole slices only.

        In the lung only what is solid, if that is half of it or more: beside air of -850 HU a few
        mask voxels too many would make every nodule "hypodense".
        """
        core: NDArray[np.bool_] = (self.distance_mm <= -1.0) & (self.fraction > 0.95)
        if core.sum() < 30:
            core = self.mask
        if self.label.organ == "lung":
            solid = core & (self.hu > SOLID_HU)
            core = solid if 2 * solid.sum() >= core.sum() else core
        return core

    @cached_property
    def ring(self) -> NDArray[np.bool_]:
        """Host tissue from 2.5 to 10 mm around the lesion, to 14 mm where that is too little."""
        for reach in (10.0, 14.0):
            ring = self.host & (self.distance_mm > 2.5) & (self.distance_mm <= reach)
            if ring.sum() * self.grid_mm**3 >= 150:
                return ring
        return ring

    @cached_property
    def smooth(self) -> NDArray[np.float32]:
        """HU at the scale of texture: blurred by 1.2 mm, so that quantum noise is mostly gone."""
        blurred: NDArray[np.float32] = ndimage.gaussian_filter(
            self.hu, NOISE_SCALE_MM / self.grid_mm
        )
        return blurred

    @cached_property
    def muscle(self) -> Muscle | None:
        """Back muscle at the height of the lesion."""
        return self.scan.muscle(self.box)

    @cached_property
    def organ_overlap(self) -> dict[str, float]:
        """Share of the 10 mm around the lesion that each labelled organ fills."""
        around = (self.distance_mm > 0) & (self.distance_mm <= 10)
        shell = self.labels[around & (self.labels != self.label.value)]
        counts = np.bincount(shell, minlength=len(ORGANS) + 1)
        return {
            organ.name: round(float(counts[organ.value] / max(1, shell.size)), 3)
            for organ in ORGANS
            if counts[organ.value]
        }
