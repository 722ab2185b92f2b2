"""Volumes to a model's grid and scores back to the native grid.

A model's grid keeps the (maybe oblique) axes of the volume, permuted and flipped towards the model's
axcodes, at the model's spacing. Resampling is then separable: one small matrix per axis. Linear as
in the paper (Methods 1.2), with voxel centres mapped exactly, so that nothing shifts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from pasta.geometry import Grid, Spacing, Volume, reoriented, resampled_grid
from pasta.spec import ZScore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pasta.spec import ModelSpec


def axis_weights(
    source_length: int, target_length: int, step: float, *, antialias: bool = False
) -> torch.Tensor:
    """Build the matrix that resamples one axis by linear interpolation.

    Args:
        source_length: voxels of the source axis.
        target_length: voxels of the target axis.
        step: target spacing over source spacing. The outer edges of the first voxels coincide;
            target positions beyond the last source centres take the edge value.
        antialias: where `step` is above 1, widen the interpolation triangle to `step` source voxels
            so that every source voxel counts.

    Returns:
        (target_length, source_length) float32, rows sum to 1.
    """
    centre = (torch.arange(target_length, dtype=torch.float64) + 0.5) * step - 0.5
    centre = centre.clamp(0, source_length - 1)
    width = max(step, 1.0) if antialias else 1.0
    distance = (torch.arange(source_length, dtype=torch.float64)[None] - centre[:, None]).abs()
    weights = (1 - distance / width).clamp_(min=0)
    return (weights / weights.sum(dim=1, keepdim=True)).to(torch.float32)


def resampled(
    array: torch.Tensor, weights: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
) -> torch.Tensor:
    """Resample the last three axes of an array.

    Args:
        array: (..., I, J, K) float32.
        weights: matrices of `axis_weights` for I, J and K.

    Returns:
        (..., I', J', K') float32, contiguous.
    """
    i, j, k = weights
    array = torch.matmul(array, k.T)
    array = torch.matmul(j, array)
    lead = array.shape[:-3]
    flat = array.reshape(*lead, array.shape[-3], -1)
    return torch.matmul(i, flat).reshape(*lead, i.shape[0], j.shape[0], k.shape[0])


@dataclass(frozen=True, slots=True, eq=False)
class GridMap:
    """The way from a volume's native grid to a model's grid and back.

    Attributes:
        native: grid of the volume as read.
        turned: the same voxels with axes along the model's axcodes.
        model: the model's grid.
    """

    native: Grid
    turned: Grid
    model: Grid

    @property
    def steps(self) -> Spacing:
        """Model spacing over native spacing along the turned axes."""
        i, j, k = np.asarray(self.model.spacing_mm) / np.asarray(self.turned.spacing_mm)
        return float(i), float(j), float(k)

    def forward_weights(
        self, *, antialias: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Matrices from the turned native axes to the model's axes."""
        i, j, k = (
            axis_weights(source, target, step, antialias=antialias)
            for source, target, step in zip(
                self.turned.shape, self.model.shape, self.steps, strict=True
            )
        )
        return i, j, k

    def backward_weights(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Matrices from the model's axes to the turned native axes."""
        i, j, k = (
            axis_weights(source, target, 1 / step)
            for source, target, step in zip(
                self.model.shape, self.turned.shape, self.steps, strict=True
            )
        )
        return i, j, k


def grid_map(native: Grid, axcodes: str, spacing_mm: Spacing) -> GridMap:
    """Plan the way between a native grid and the grid of a model."""
    empty = np.broadcast_to(np.zeros((), np.uint8), native.shape)
    turned = reoriented(Volume(empty, native.affine), axcodes).grid
    return GridMap(native, turned, resampled_grid(turned, spacing_mm))


def to_model_grid(volume: Volume, spec: ModelSpec) -> tuple[torch.Tensor, GridMap]:
    """Resample a CT to the grid that a model expects.

    Args:
        volume: CT in HU, any orientation and spacing.
        spec: of the model.

    Returns:
        (I, J, K) float32 HU on the model's grid, cut at the top of the model's window, and the map
        between the grids.
    """
    plan = grid_map(volume.grid, spec.axcodes, spec.spacing_mm)
    turned = reoriented(volume, spec.axcodes).voxels
    # work in the order of the memory: files lie with i fastest, and copying 512 x 512 x 300 voxels
    # into the order of the result first costs more than all the rest
    order = sorted(range(3), key=lambda axis: -abs(turned.strides[axis]))
    stored = torch.from_numpy(_clipped(turned.transpose(order), spec))
    if spec.antialias and max(plan.steps) > 1:
        weights = plan.forward_weights(antialias=True)
        found = resampled(stored, (weights[order[0]], weights[order[1]], weights[order[2]]))
    else:
        found = _interpolated(
            stored,
            [plan.model.shape[axis] for axis in order],
            [plan.steps[axis] for axis in order],
        )
    del stored
    return found.permute([order.index(axis) for axis in range(3)]).contiguous(), plan


def _clipped(hu: NDArray[np.generic], spec: ModelSpec) -> NDArray[np.float32]:
    """Copy HU as float32, cut at the top of the model's window, as nnU-Net does before resampling.

    Metal and contrast agent far above the window would bleed into their neighbours. Air is left
    alone: the search for the body needs it.
    """
    high = spec.intensity.clip_hu[1] if isinstance(spec.intensity, ZScore) else np.inf
    copy = np.array(hu, dtype=np.float32, order="C")
    return np.minimum(copy, np.float32(high), out=copy)


def _interpolated(
    array: torch.Tensor, shape: Sequence[int], steps: Sequence[float]
) -> torch.Tensor:
    """Do what `resampled` does with the weights of `axis_weights`, seven times as fast.

    PyTorch's public `interpolate` takes a size or a factor; both are needed here, as the last voxel
    may reach beyond the field of view.
    """
    factors = [1 / step for step in steps]
    found: torch.Tensor = torch.ops.aten.upsample_trilinear3d(
        array[None, None], list(shape), False, *factors
    )
    return found[0, 0]


def labelmap_to_model_grid(labelmap: Volume, spec: ModelSpec) -> NDArray[np.uint8]:
    """Resample a labelmap to the grid that a model expects, nearest label.

    Args:
        labelmap: integers 0-255, on the grid of its CT.
        spec: of the model.

    Returns:
        (I, J, K) uint8 on the same grid that `to_model_grid` gives for the CT.
    """
    plan = grid_map(labelmap.grid, spec.axcodes, spec.spacing_mm)
    turned = reoriented(labelmap, spec.axcodes).voxels
    nearest = [
        axis_weights(source, target, step).argmax(dim=1).numpy()
        for source, target, step in zip(
            plan.turned.shape, plan.model.shape, plan.steps, strict=True
        )
    ]
    return np.ascontiguousarray(turned[np.ix_(*nearest)], dtype=np.uint8)
