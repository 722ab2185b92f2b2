"""From scores on a model's grid to labels on the native grid.

Scores are interpolated, not labels: borders come out smooth and nothing shifts. Each class is
interpolated only where it comes near winning, and only the running best is kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from pasta.preprocessing.resampling import resampled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pasta.inference.windows import Box, Slab
    from pasta.preprocessing.resampling import GridMap

CANDIDATE_MARGIN = 6.0  # logits below the best; a class further below wins nowhere in between
SLICES_AT_ONCE = 16  # native slices mapped back together; 512 x 512 x 16 float32 is 16 MB


def restored(
    slabs: Iterator[Slab], plan: GridMap, own_rows: slice, tile: tuple[slice, slice]
) -> Iterator[tuple[Box, torch.Tensor]]:
    """Map slabs of scores to the turned native grid and take the best class of each voxel.

    Args:
        slabs: of one tile, ascending, each beginning with the last slice of the one before.
        plan: between the grids.
        own_rows: model rows whose native voxels are wanted.
        tile: model rows and columns that the slabs hold.

    Yields:
        Box on the turned native grid, and the int16 output channels there. Voxels in no box are
        background.
    """
    axes = [_Axis(plan, axis) for axis in range(3)]
    for slab in slabs:
        stop = slab.first + slab.scores.shape[1]
        last = stop == plan.model.shape[0]
        slices = axes[0].between(slice(slab.first, stop if last else stop - 1), stop)
        boxes = candidate_boxes(slab.scores)
        if not boxes:
            continue
        around = _union(list(boxes.values()))
        rows = axes[1].between(
            slice(max(own_rows.start, tile[0].start + around[0].start), own_rows.stop),
            tile[0].start + around[0].stop,
        )
        columns = axes[2].between(
            slice(tile[1].start + around[1].start, tile[1].stop), tile[1].start + around[1].stop
        )
        for start in range(slices.start, slices.stop, SLICES_AT_ONCE):
            piece = slice(start, min(start + SLICES_AT_ONCE, slices.stop))
            at = (piece, rows, columns)
            origin = (slab.first, tile[0].start, tile[1].start)
            yield at, _best(slab.scores, {0: around, **boxes}, axes, at, origin)


class _Axis:
    """One axis of the way back: which native voxels lie between which model voxels, and weights."""

    def __init__(self, plan: GridMap, axis: int) -> None:
        self.weights = plan.backward_weights()[axis]
        step, source = 1 / plan.steps[axis], plan.model.shape[axis]
        native = np.arange(plan.turned.shape[axis])
        centre = np.clip((native + 0.5) * step - 0.5, 0, source - 1)
        self.low, self.high = np.floor(centre), np.ceil(centre)

    def between(self, own: slice, stop: int) -> slice:
        """Find the native voxels between model voxels of `own`, needing none from `stop` on."""
        found = np.flatnonzero((self.low >= own.start) & (self.low < own.stop) & (self.high < stop))
        return slice(int(found[0]), int(found[-1]) + 1) if found.size else slice(0, 0)


def candidate_boxes(scores: torch.Tensor) -> dict[int, tuple[slice, slice]]:
    """Find where each class but the background comes close to winning.

    Args:
        scores: (classes, slices, rows, columns).

    Returns:
        By class, the half-open rows and columns, one voxel wider than where it is close.
    """
    best = scores.amax(dim=0) - CANDIDATE_MARGIN
    boxes = {}
    for c in range(1, scores.shape[0]):
        close = (scores[c] > best).any(dim=0)
        sides = []
        for side in (1, 0):
            index = torch.nonzero(close.any(dim=side)).flatten()
            if not index.numel():
                break
            size = close.shape[1 - side]
            sides.append(slice(max(0, int(index[0]) - 1), min(size, int(index[-1]) + 2)))
        if len(sides) == 2:
            boxes[c] = (sides[0], sides[1])
    return boxes


def _union(boxes: list[tuple[slice, slice]]) -> tuple[slice, slice]:
    rows, columns = (
        slice(min(box[side].start for box in boxes), max(box[side].stop for box in boxes))
        for side in (0, 1)
    )
    return rows, columns


def _best(
    scores: torch.Tensor,
    boxes: dict[int, tuple[slice, slice]],
    axes: list[_Axis],
    at: Box,
    origin: tuple[int, int, int],
) -> torch.Tensor:
    """Interpolate class after class over its box and keep the running best, background first."""
    piece, rows, columns = at
    shape = [part.stop - part.start for part in at]
    best = torch.full(shape, -torch.inf, device=scores.device)
    channels = torch.zeros(shape, dtype=torch.int16, device=scores.device)
    span = slice(origin[0], origin[0] + scores.shape[1])
    slice_weights = axes[0].weights[piece, span].to(scores.device)
    for c, (box_rows, box_columns) in boxes.items():
        weights, target = [slice_weights], [slice(None)]
        for axis, (box, whole) in enumerate(((box_rows, rows), (box_columns, columns)), start=1):
            model = slice(box.start + origin[axis], box.stop + origin[axis])
            found = axes[axis].between(model, model.stop)
            native = slice(max(found.start, whole.start), min(found.stop, whole.stop))
            weights.append(axes[axis].weights[native, model].to(scores.device))
            target.append(slice(native.start - whole.start, native.stop - whole.start))
        if any(weight.shape[0] == 0 for weight in weights):
            continue
        score = resampled(scores[c][:, box_rows, box_columns], (weights[0], weights[1], weights[2]))
        here = best[tuple(target)]
        channels[tuple(target)].masked_fill_(score > here, c)
        torch.maximum(here, score, out=here)
    return channels
