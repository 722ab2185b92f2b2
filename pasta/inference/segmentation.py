"""Segmentation: CT in, labelmap on the CT's own grid out."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import ndimage

from pasta.errors import LabelError
from pasta.geometry import Volume, reoriented
from pasta.inference.device import chosen_device
from pasta.inference.progress import Progress, part_of, silent
from pasta.inference.windows import Box, WindowedNetwork, body_box
from pasta.labels import lesions_of, organ_named
from pasta.preprocessing.resampling import GridMap, resampled, to_model_grid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from pasta.inference.windows import Slab
    from pasta.networks.checkpoint import Model

DEFAULT_BUDGET_BYTES = 2 * 2**30
CANDIDATE_MARGIN = 6.0  # a class this many logits below the best everywhere cannot win in between
ORGAN_MARGIN_MM = 30.0  # around an organ found by the quick pass
RESAMPLE_SHARE, LOCATE_SHARE = 0.05, 0.3  # of the progress bar
SLICES_AT_ONCE = 16  # mapped back together; 512 x 512 x 16 float32 is 16 MB


class Segmenter:
    """A segmentation model ready to label CT volumes.

    Args:
        model: of task "segmentation"; several folds are averaged.
        device: "auto", "cpu", "cuda" or "cuda:N".
        overlap: of neighbouring windows.
        mirror: average over eight flips; eight times slower.
        memory_budget_bytes: for the score accumulator. Beyond it scores are kept in half precision,
            then the volume is worked in strips; the result does not depend on the strips.

    Raises:
        CheckpointError: if the weights do not fit.
        ValueError: if the device is not there.
    """

    def __init__(
        self,
        model: Model,
        *,
        device: str = "auto",
        overlap: float = 0.5,
        mirror: bool = False,
        memory_budget_bytes: int = DEFAULT_BUDGET_BYTES,
    ) -> None:
        self.model = model
        self.spec = model.spec
        self.device = chosen_device(device)
        self.memory_budget_bytes = memory_budget_bytes
        networks = model.networks(self.device)
        self._fine = WindowedNetwork(
            networks, self.spec, self.device, overlap=overlap, mirror=mirror
        )
        self._quick = WindowedNetwork(networks[:1], self.spec, self.device, overlap=0.0)

    def segment(
        self,
        volume: Volume,
        organs: Sequence[str] | None = None,
        progress: Progress | None = None,
    ) -> Volume:
        """Label one CT.

        Args:
            volume: CT in HU, any orientation and spacing.
            organs: restrict the result to these organs and their lesions; the network then looks
                closely only where a quick pass finds them.
            progress: called after every window.

        Returns:
            uint8 labelmap (values of Supplementary Table 9) on the grid of `volume`.

        Raises:
            LabelError: if an organ is unknown, or this model does not label it.
            CancelledError: if `progress` raises it.
        """
        progress = progress or silent
        keep = self._wanted_values(organs)
        progress(0.0, "resample")
        hu, plan = to_model_grid(volume, self.spec)
        mask, box = body_box(hu, min(self.spec.spacing_mm))
        located = RESAMPLE_SHARE
        if organs is not None and mask.any():
            located = LOCATE_SHARE
            quick = part_of(progress, RESAMPLE_SHARE, located)
            mask, box = self._organ_box(hu, mask, box, keep, quick)
        labels = self._label(hu, plan, mask, box, part_of(progress, located, 1.0))
        if organs is not None:
            labels[~np.isin(labels, keep)] = 0
        turned = Volume(labels, plan.turned.affine)
        native = reoriented(turned, volume.grid.axcodes)
        return Volume(
            np.ascontiguousarray(native.voxels), volume.affine, volume.acquisition, volume.warnings
        )

    def _wanted_values(self, organs: Sequence[str] | None) -> list[int]:
        offered = [value for value in self.spec.label_values if value]
        if organs is None:
            return offered
        wanted: list[int] = []
        for organ in organs:
            labels = (organ_named(organ), *lesions_of(organ))
            values = [label.value for label in labels if label.value in offered]
            if not values:
                names = ", ".join(self.spec.channels[1:])
                msg = f"model {self.spec.name} does not label the {organ}; it labels {names}."
                raise LabelError(msg)
            wanted += values
        return wanted

    def _organ_box(
        self,
        hu: torch.Tensor,
        mask: NDArray[np.bool_],
        box: Box,
        values: Sequence[int],
        progress: Progress,
    ) -> tuple[NDArray[np.bool_], Box]:
        """Find the wanted organs by a pass without overlap; empty where there are none."""
        windows = self._quick.plan(box, mask)
        dtype, strips = self._strips(box[0], box[1])
        tick = _ticker(progress, "locate", len(windows) * len(strips))
        channels = [c for c, value in enumerate(self.spec.label_values) if value in values]
        found = np.zeros(hu.shape, dtype=bool)
        for rows in strips:
            for slab in self._quick.slabs(hu, windows, (rows, box[1]), dtype, tick):
                best = slab.scores.argmax(dim=0).cpu().numpy()
                stop = slab.first + best.shape[2]
                found[rows, box[1], slab.first : stop] = np.isin(best, channels)
        found = ndimage.binary_opening(found) if found.sum() > 1000 else found  # single voxels
        if not found.any():
            return np.zeros_like(mask), (slice(0, 0),) * 3
        around = [
            slice(
                max(part.start - margin, limit.start),
                min(part.stop + margin, limit.stop),
            )
            for part, limit, margin in zip(
                ndimage.find_objects(found.astype(np.uint8))[0],
                box,
                (round(ORGAN_MARGIN_MM / spacing) for spacing in self.spec.spacing_mm),
                strict=True,
            )
        ]
        near: Box = (around[0], around[1], around[2])
        restricted = np.zeros_like(mask)
        restricted[near] = mask[near]
        return restricted, near

    def _label(
        self,
        hu: torch.Tensor,
        plan: GridMap,
        mask: NDArray[np.bool_],
        box: Box,
        progress: Progress,
    ) -> NDArray[np.uint8]:
        """Label the turned native grid, strip by strip."""
        labels = np.zeros(plan.turned.shape, dtype=np.uint8)
        windows = self._fine.plan(box, mask) if mask.any() else []
        if not windows:
            return labels
        near = [
            slice(max(0, part.start - 1), min(n, part.stop + 1))
            for part, n in zip(box, hu.shape, strict=True)
        ]
        dtype, strips = self._strips(near[0], near[1])
        values = torch.tensor(self.spec.label_values, dtype=torch.uint8)
        tick = _ticker(progress, "segment", len(windows) * len(strips))
        for rows in strips:
            # one row more than its own: needed to interpolate up to the next strip
            tile = (slice(rows.start, min(rows.stop + 1, near[0].stop)), near[1])
            slabs = self._fine.slabs(hu, windows, tile, dtype, tick)
            for at, channels in _restored(slabs, plan, rows, tile, self.device):
                labels[at] = values[channels.long().cpu()].numpy()
        return labels

    def _strips(self, rows: slice, columns: slice) -> tuple[torch.dtype, list[slice]]:
        """Choose the accumulator's precision and the strips along the first axis."""
        depth = self.spec.patch_shape[2]
        per_row = self.spec.num_outputs * (columns.stop - columns.start) * depth
        copies = 8  # bytes a voxel and class while a slab, in float32, is finished
        dtype, row_bytes = torch.float32, per_row * (4 + copies)
        if (rows.stop - rows.start) * row_bytes > self.memory_budget_bytes:
            dtype, row_bytes = torch.float16, per_row * (2 + copies)
        length = max(self.spec.patch_shape[0] // 4, self.memory_budget_bytes // row_bytes)
        edges = [*range(rows.start, rows.stop, length), rows.stop]
        return dtype, [slice(a, b) for a, b in itertools.pairwise(edges)]


def _ticker(progress: Progress, stage: str, total: int) -> Callable[[], None]:
    """Count windows into a progress callback."""
    counter = itertools.count(1)
    progress(0.0, stage)
    return lambda: progress(min(1.0, next(counter) / max(1, total)), stage)


def _covered(step: float, target: int, source: int, own: slice, stop: int) -> slice:
    """Find the target voxels that lie between source voxels of `own`, using none from `stop` on."""
    centre = np.clip((np.arange(target) + 0.5) * step - 0.5, 0, source - 1)
    low, high = np.floor(centre), np.ceil(centre)
    found = np.flatnonzero((low >= own.start) & (low < own.stop) & (high < stop))
    return slice(int(found[0]), int(found[-1]) + 1) if found.size else slice(0, 0)


def _restored(
    slabs: Iterator[Slab],
    plan: GridMap,
    own_rows: slice,
    tile: tuple[slice, slice],
    device: torch.device,
) -> Iterator[tuple[Box, torch.Tensor]]:
    """Map slabs of scores to the turned native grid and take the best class of each voxel.

    Scores are interpolated, not labels: borders come out smooth and nothing shifts.

    Args:
        slabs: ascending, without gaps, of one tile.
        plan: between the grids.
        own_rows: model rows whose native voxels are wanted.
        tile: model rows and columns that the slabs hold.
        device: of the scores.

    Yields:
        Box on the turned native grid and (I, J, K) int16 output channels there.
    """
    backward = [1 / step for step in plan.steps]
    rows, columns = (
        _covered(backward[axis], plan.turned.shape[axis], plan.model.shape[axis], own, part.stop)
        for axis, (own, part) in enumerate(((own_rows, tile[0]), (tile[1], tile[1])))
    )
    to_native = [weights.to(device) for weights in plan.backward_weights()]
    row_weights = to_native[0][rows, tile[0]]
    column_weights = to_native[1][columns, tile[1]]
    carry: torch.Tensor | None = None
    for slab in slabs:
        scores, first = slab.scores, slab.first
        if carry is not None:
            scores, first = torch.cat((carry, scores), dim=3), first - 1
        carry = scores[..., -1:].clone()
        stop = first + scores.shape[3]
        own = slice(first, stop - (stop < plan.model.shape[2]))
        slices = _covered(backward[2], plan.turned.shape[2], plan.model.shape[2], own, stop)
        candidates = _candidates(scores)
        if candidates == [0]:
            continue
        for start in range(slices.start, slices.stop, SLICES_AT_ONCE):
            piece = slice(start, min(start + SLICES_AT_ONCE, slices.stop))
            weights = (row_weights, column_weights, to_native[2][piece, first:stop])
            yield (rows, columns, piece), _best(scores, candidates, weights)


def _candidates(scores: torch.Tensor) -> list[int]:
    """List the classes that come close enough to winning somewhere; background always."""
    best = scores.max(dim=0).values
    return [
        c
        for c in range(scores.shape[0])
        if c == 0 or bool((scores[c] - best).max() > -CANDIDATE_MARGIN)
    ]


def _best(
    scores: torch.Tensor,
    candidates: Sequence[int],
    weights: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> torch.Tensor:
    """Interpolate the candidates' scores one by one, keeping only the running best."""
    best = resampled(scores[0], weights)
    channels = torch.zeros(best.shape, dtype=torch.int16, device=best.device)
    for c in candidates[1:]:
        score = resampled(scores[c], weights)
        channels.masked_fill_(score > best, c)
        torch.maximum(best, score, out=best)
    return channels
