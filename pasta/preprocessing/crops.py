"""A box of a CT as one network input, and what the network says of it back on the CT's grid.

The crop is "resized and padded" as in PASTA's classification code (Pad2Shape, then Resize): axes
shorter than the patch are padded with air around their centre, axes longer than it are shrunk to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import pad

from pasta.geometry import Volume, reoriented
from pasta.preprocessing.intensity import AIR_HU, normalized
from pasta.preprocessing.resampling import GridMap, axis_weights, grid_map, resampled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pasta.geometry import FloatArray, Grid
    from pasta.spec import ModelSpec

Bounds = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]  # half-open, per axis
ROUNDING = 1e-6  # voxels; keeps 12.0000000001 from becoming 13


@dataclass(frozen=True, slots=True, eq=False)
class Crop:
    """A box on the grid of a model.

    Attributes:
        plan: between the native grid and the model's grid.
        box: half-open bounds on the model's grid.
        native_box: half-open bounds of the native voxels whose centres lie inside, along the axes
            of the volume as read.
    """

    plan: GridMap
    box: Bounds
    native_box: Bounds

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels of the box on the model's grid."""
        i, j, k = (stop - start for start, stop in self.box)
        return i, j, k

    @property
    def bounds_mm(self) -> tuple[tuple[float, float], ...]:
        """Least and greatest R, A and S coordinate of the box's corners (RAS+ mm)."""
        ends = [(start - 0.5, stop - 0.5) for start, stop in self.box]
        corners = np.array([(i, j, k) for i in ends[0] for j in ends[1] for k in ends[2]])
        affine = self.plan.model.affine
        world = corners @ affine[:3, :3].T + affine[:3, 3]
        return tuple(
            (float(low), float(high))
            for low, high in zip(world.min(axis=0), world.max(axis=0), strict=True)
        )

    def patch(self, volume: Volume, spec: ModelSpec) -> torch.Tensor:
        """Cut the network's input out of a CT.

        Only the box is resampled; the values are those of the whole CT resampled.

        Args:
            volume: CT in HU on the native grid.
            spec: of the model.

        Returns:
            float32 of `spec.patch_shape`, normalised.
        """
        whole = self.plan.forward_weights(antialias=spec.antialias)
        rows, parts = [], []
        for weights, (start, stop) in zip(whole, self.box, strict=True):
            used = weights[start:stop].any(dim=0).nonzero()
            part = slice(int(used[0]), int(used[-1]) + 1)
            rows.append(weights[start:stop, part])
            parts.append(part)
        turned = reoriented(volume, spec.axcodes).voxels[tuple(parts)]
        hu = torch.from_numpy(np.ascontiguousarray(turned, dtype=np.float32))
        x = normalized(resampled(hu, (rows[0], rows[1], rows[2])), spec.intensity)
        air = float(normalized(torch.tensor(AIR_HU), spec.intensity))
        margins: list[int] = []
        shrink = []
        for length, wanted in zip(x.shape, spec.patch_shape, strict=True):
            missing = max(0, wanted - length)
            margins = [missing // 2, missing - missing // 2, *margins]  # last axis first
            shrink.append(_resize_weights(length + missing, wanted, antialias=spec.antialias))
        return resampled(pad(x, margins, value=air), (shrink[0], shrink[1], shrink[2]))

    def to_native(self, cells: torch.Tensor, spec: ModelSpec) -> NDArray[np.float32]:
        """Bring a coarse map of the network's input back to the native grid, linearly.

        Args:
            cells: (I, J, K) float32, from convolutions of stride 2 and padding 1: at stride s, cell
                i sees equally far around voxel s x i of the patch.
            spec: of the model.

        Returns:
            float32 of the shape of `native_box`.
        """
        matrices = []
        for axis, weights in enumerate(self.plan.backward_weights()):
            length, wanted = self.shape[axis], spec.patch_shape[axis]
            to_patch = _cell_weights(cells.shape[axis], wanted)
            padded = max(length, wanted)
            first = (padded - length) // 2
            to_box = axis_weights(wanted, padded, wanted / padded)[first : first + length]
            start, stop = self.box[axis]
            inside = weights[self._turned_rows(axis), start:stop]
            inside = inside / inside.sum(dim=1, keepdim=True)  # neighbours outside do not count
            matrices.append(inside @ to_box @ to_patch)
        block = resampled(cells, (matrices[0], matrices[1], matrices[2]))
        turned = Volume(block.numpy(), self.plan.turned.affine)
        native = reoriented(turned, self.plan.native.axcodes).voxels
        return np.ascontiguousarray(native, dtype=np.float32)

    def _turned_rows(self, axis: int) -> slice:
        return _centres_inside(self.box[axis], self.plan.steps[axis], self.plan.turned.shape[axis])


def crop_around(grid: Grid, bounds: Bounds, spec: ModelSpec) -> Crop:
    """Plan the crop around a box of native voxels, with the margin of the specification.

    Args:
        grid: native.
        bounds: half-open, along the axes of `grid`.
        spec: of the model.

    Returns:
        The smallest box on the model's grid that holds the bounds and `spec.margin_mm` on every
        side, cut at the field of view.
    """
    plan = grid_map(grid, spec.axcodes, spec.spacing_mm)
    turned = _moved(bounds, grid.affine, plan.turned.affine)
    box = []
    for axis, (start, stop) in enumerate(turned):
        step, margin = plan.steps[axis], spec.margin_mm / spec.spacing_mm[axis]
        low = int(np.floor(start / step - margin + ROUNDING))
        high = int(np.ceil(stop / step + margin - ROUNDING))
        box.append((max(0, low), min(plan.model.shape[axis], high)))
    own = [
        _centres_inside(bound, step, length)
        for bound, step, length in zip(box, plan.steps, plan.turned.shape, strict=True)
    ]
    native = _moved(
        ((own[0].start, own[0].stop), (own[1].start, own[1].stop), (own[2].start, own[2].stop)),
        plan.turned.affine,
        grid.affine,
    )
    return Crop(plan, (box[0], box[1], box[2]), native)


def _resize_weights(length: int, wanted: int, *, antialias: bool) -> torch.Tensor:
    return axis_weights(length, wanted, length / wanted, antialias=antialias)


def _cell_weights(cells: int, wanted: int) -> torch.Tensor:
    """Build the matrix from cells, that lie at voxels 0, s, 2s, ..., to the voxels of a patch."""
    place = torch.arange(wanted, dtype=torch.float64) * (cells / wanted)
    distance = (place.clamp(max=cells - 1)[:, None] - torch.arange(cells)[None]).abs()
    return (1 - distance).clamp_(min=0).to(torch.float32)


def _centres_inside(bound: tuple[int, int], step: float, length: int) -> slice:
    """Find the voxels whose centres lie in a bound given in voxels of `step` times their size."""
    low, high = (int(np.ceil(edge * step - 0.5 - ROUNDING)) for edge in bound)
    return slice(max(0, low), min(length, high))


def _moved(bounds: Bounds, source: FloatArray, target: FloatArray) -> Bounds:
    """Turn bounds between two grids of the same voxels that differ in axis order and direction."""
    ends = np.array(bounds, dtype=float).T - 0.5  # (2, 3): outer faces
    between = np.linalg.inv(target) @ source
    moved = np.round(ends @ between[:3, :3].T + between[:3, 3] + 0.5).astype(int)
    i, j, k = zip(moved.min(axis=0).tolist(), moved.max(axis=0).tolist(), strict=True)
    return i, j, k


def placed(block: NDArray[np.float32], crop: Crop, whole: NDArray[np.float32]) -> None:
    """Take the greater of a block and what a native array already holds in the crop's box."""
    target = whole[tuple(slice(start, stop) for start, stop in crop.native_box)]
    np.maximum(target, block, out=target)
