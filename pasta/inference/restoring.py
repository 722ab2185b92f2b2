"""From scores on a model's grid to labels on the native grid.

Scores are interpolated, not labels: borders come out smooth and nothing shifts. A voxel takes the
best of those classes that win at a model voxel next to it. Without this rule a third class, second
best on both sides of a border, would win in between and line every organ with a thin shell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pasta.inference.windows import Box, Slab
    from pasta.preprocessing.resampling import GridMap

SLICES_AT_ONCE = 16  # native slices mapped back together; 512 x 512 x 16 float32 is 16 MB


def restored(
    slabs: Iterator[Slab],
    plan: GridMap,
    own_rows: slice,
    tile: tuple[slice, slice],
    values: Sequence[int],
) -> Iterator[tuple[Box, torch.Tensor]]:
    """Map slabs of scores to the turned native grid and take the best class of each voxel.

    Args:
        slabs: of one tile, ascending, each beginning with the last slice of the one before.
        plan: between the grids.
        own_rows: model rows whose native voxels are wanted.
        tile: model rows and columns that the slabs hold.
        values: label value of each class.

    Yields:
        Box on the turned native grid, and the uint8 label values there. Voxels in no box are
        background.
    """
    axes = [_Axis(plan, axis) for axis in range(3)]
    for slab in slabs:
        stop = slab.first + slab.scores.shape[1]
        last = stop == plan.model.shape[0]
        slices = axes[0].between(slice(slab.first, stop if last else stop - 1), stop)
        winners = slab.scores.argmax(dim=0)
        boxes = winning_boxes(winners)
        foreground = [box for c, box in boxes.items() if c]
        if not foreground:
            continue
        around = _union(foreground)
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
            yield at, _best(slab.scores, winners, boxes, axes, at, origin, values)


class _Axis:
    """One axis of the way back: between which model voxels each native voxel lies, and where."""

    def __init__(self, plan: GridMap, axis: int) -> None:
        step, source = 1 / plan.steps[axis], plan.model.shape[axis]
        native = np.arange(plan.turned.shape[axis])
        centre = np.clip((native + 0.5) * step - 0.5, 0, source - 1)
        self.low = np.floor(centre).astype(np.int64)
        self.high = np.ceil(centre).astype(np.int64)
        self.fraction = (centre - self.low).astype(np.float32)

    def between(self, own: slice, stop: int) -> slice:
        """Find the native voxels between model voxels of `own`, needing none from `stop` on."""
        found = np.flatnonzero((self.low >= own.start) & (self.low < own.stop) & (self.high < stop))
        return slice(int(found[0]), int(found[-1]) + 1) if found.size else slice(0, 0)


def winning_boxes(winners: torch.Tensor) -> dict[int, tuple[slice, slice]]:
    """Find where each class wins.

    Args:
        winners: (slices, rows, columns) class with the best score.

    Returns:
        By class, the half-open rows and columns, one voxel wider than where it wins; classes that
        win nowhere are left out.
    """
    boxes = {}
    for c in torch.unique(winners).tolist():
        wins = (winners == c).any(dim=0)
        rows, columns = (
            slice(max(0, int(index[0]) - 1), min(size, int(index[-1]) + 2))
            for index, size in (
                (torch.nonzero(wins.any(dim=1)).flatten(), wins.shape[0]),
                (torch.nonzero(wins.any(dim=0)).flatten(), wins.shape[1]),
            )
        )
        boxes[c] = (rows, columns)
    return boxes


def _union(boxes: list[tuple[slice, slice]]) -> tuple[slice, slice]:
    rows, columns = (
        slice(min(box[side].start for box in boxes), max(box[side].stop for box in boxes))
        for side in (0, 1)
    )
    return rows, columns


def _near(wins: torch.Tensor) -> torch.Tensor:
    """Tell for each cell, named by its lowest corner, whether the class wins at a corner of it."""
    for axis in range(3):
        upper = wins.narrow(axis, 1, wins.shape[axis] - 1)
        wins = torch.cat(
            (
                wins.narrow(axis, 0, wins.shape[axis] - 1) | upper,
                wins.narrow(axis, wins.shape[axis] - 1, 1),
            ),
            dim=axis,
        )
    return wins


def _best(
    scores: torch.Tensor,
    winners: torch.Tensor,
    boxes: dict[int, tuple[slice, slice]],
    axes: list[_Axis],
    at: Box,
    origin: tuple[int, int, int],
    values: Sequence[int],
) -> torch.Tensor:
    """Interpolate class after class over its box and keep the running best."""
    piece, rows, columns = at
    shape = [part.stop - part.start for part in at]
    best = torch.full(shape, -torch.inf, device=scores.device)
    labels = torch.zeros(shape, dtype=torch.uint8, device=scores.device)
    for c, (box_rows, box_columns) in boxes.items():
        cells, target = [_cells(axes[0], piece, origin[0], scores.device)], [slice(None)]
        for axis, (box, whole) in enumerate(((box_rows, rows), (box_columns, columns)), start=1):
            model = slice(box.start + origin[axis], box.stop + origin[axis])
            found = axes[axis].between(model, model.stop)
            native = slice(max(found.start, whole.start), min(found.stop, whole.stop))
            cells.append(_cells(axes[axis], native, model.start, scores.device))
            target.append(slice(native.start - whole.start, native.stop - whole.start))
        if any(len(low) == 0 for low, _, _ in cells):
            continue
        score = scores[c][:, box_rows, box_columns]
        near = _near(winners[:, box_rows, box_columns] == c)
        for axis, (low, high, fraction) in enumerate(cells):
            below, above = (score.index_select(axis, index) for index in (low, high))
            weight = fraction.view([-1 if other == axis else 1 for other in range(3)])
            score = torch.lerp(below, above, weight)
            near = near.index_select(axis, low)
        score.masked_fill_(~near, -torch.inf)
        here = best[tuple(target)]
        labels[tuple(target)].masked_fill_(score > here, values[c])
        torch.maximum(here, score, out=here)
    return labels


def _cells(
    axis: _Axis, native: slice, first: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Model voxels below and above some native voxels, counted from `first`, and the way between."""
    return (
        torch.from_numpy(axis.low[native] - first).to(device),
        torch.from_numpy(axis.high[native] - first).to(device),
        torch.from_numpy(axis.fraction[native]).to(device),
    )
