"""Sliding windows that skip air, stream along the body and keep memory within a budget.

Scores of overlapping windows are blended with a Gaussian (as nnU-Net does), averaged over folds and
mirrored copies. Windows advance along the first axis (slices, see `pasta.networks.turning`); a slab
of scores leaves the accumulator as soon as no later window can touch it, so memory does not grow
with scan length.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import ndimage
from torch.nn.functional import pad

from pasta.inference.device import fast_precision
from pasta.preprocessing.intensity import AIR_HU, normalized

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import nn

    from pasta.geometry import Shape
    from pasta.spec import ModelSpec

Box = tuple[slice, slice, slice]
BODY_HU = -500.0  # fat, muscle and table are above, air and most of the lung below
BACKGROUND_LOGIT = 20.0  # of background, where no window looked
MIRROR_AXES = [
    axes for count in range(4) for axes in itertools.combinations((2, 3, 4), count)
]  # all eight flips, the unflipped first


@dataclass(frozen=True, slots=True, eq=False)
class Slab:
    """Finished scores of some slices.

    Attributes:
        first: index of the first slice along the model grid's first axis.
        scores: (classes, slices, rows, columns) float32 logits of the tile.
    """

    first: int
    scores: torch.Tensor


def body_box(
    hu: torch.Tensor, spacing_mm: float, pad_mm: float = 8.0
) -> tuple[NDArray[np.bool_], Box]:
    """Find the body in a CT, coarsely.

    Args:
        hu: (S, P, L) HU, slices first.
        spacing_mm: smallest spacing, sets the coarseness (about 4 mm).
        pad_mm: added around the body on every side.

    Returns:
        (S, P, L) mask at the volume's resolution (blocks of the coarse grid), filled so that lung
        counts as body, and the half-open box around it. A scan without body gives an empty mask and
        an empty box.
    """
    step = max(1, round(4.0 / spacing_mm))
    coarse = (hu[::step, ::step, ::step] > BODY_HU).cpu().numpy()
    coarse = ndimage.binary_opening(coarse)  # drops cables and thin table parts
    parts, count = ndimage.label(coarse)
    if count == 0:
        return np.zeros(hu.shape, dtype=bool), (slice(0, 0),) * 3
    sizes = np.bincount(parts.ravel())[1:]
    coarse = np.isin(parts, 1 + np.flatnonzero(sizes >= 0.1 * sizes.max()))
    for index in range(coarse.shape[0]):  # by slices: the lung opens to air only at the scan's ends
        coarse[index] = ndimage.binary_fill_holes(coarse[index])
    coarse = ndimage.binary_dilation(coarse, iterations=max(1, round(pad_mm / (step * spacing_mm))))
    mask = coarse.repeat(step, 0).repeat(step, 1).repeat(step, 2)
    mask = mask[: hu.shape[0], : hu.shape[1], : hu.shape[2]]
    found = ndimage.find_objects(mask.astype(np.uint8))[0]
    return mask, (found[0], found[1], found[2])


def window_starts(extent: int, length: int, overlap: float) -> list[int]:
    """Place windows along one axis, evenly, with at least the wanted overlap, as nnU-Net does.

    Returns:
        Start indices; the last window ends at the end. One window, centred, where it covers all.
    """
    if extent <= length:
        return [-((length - extent) // 2)]
    stride = max(1, int(length * (1 - overlap)))
    count = int(np.ceil((extent - length) / stride)) + 1
    return [round(float(x)) for x in np.linspace(0, extent - length, count)]


def nearest_parts(starts: Sequence[int], length: int, extent: int) -> list[slice]:
    """Share an axis out among its windows: each voxel goes to the window with the nearest centre."""
    edges = [0, *((a + b + length) // 2 for a, b in itertools.pairwise(starts)), extent]
    return [slice(a, b) for a, b in itertools.pairwise(edges)]


def fewest_starts(starts: Sequence[int], length: int) -> list[int]:
    """Choose as few windows of an axis as leave no gap, the first and the last among them."""
    chosen = [starts[0]]
    while chosen[-1] != starts[-1]:
        chosen.append(max(start for start in starts if start <= chosen[-1] + length))
    return chosen


def gaussian_importance(patch_shape: Shape) -> torch.Tensor:
    """Weight of each voxel of a window, exactly nnU-Net's: sigma 1/8 of it, cut off at 4 sigma.

    The peak is at voxel n // 2 and the corners beyond the cut take the smallest weight inside. Half
    a voxel elsewhere changes 0.7 % of the foreground labels against nnU-Net.
    """
    axes = []
    for n in patch_shape:
        sigma = n / 8
        distance = (torch.arange(n, dtype=torch.float64) - n // 2).abs()
        axis = torch.exp(-0.5 * (distance / sigma) ** 2)
        axes.append(axis.masked_fill_(distance > int(4 * sigma + 0.5), 0))
    weight = axes[0][:, None, None] * axes[1][None, :, None] * axes[2][None, None, :]
    return weight.clamp_(min=float(weight[weight > 0].min())).float()


class WindowedNetwork:
    """One or more networks (folds) applied window by window to a volume on the model's grid.

    Args:
        networks: of the same kind, on `device`.
        spec: what they expect.
        device: where they run.
        overlap: of neighbouring windows, 0 to below 1.
        mirror: average over all eight flips (8 times the work).
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        spec: ModelSpec,
        device: torch.device,
        *,
        overlap: float = 0.5,
        mirror: bool = False,
    ) -> None:
        if not 0 <= overlap < 1:
            msg = f"overlap is {overlap}, expected 0 to below 1."
            raise ValueError(msg)
        self.networks = networks
        self.spec = spec
        self.device = device
        self.overlap = overlap
        self.flips = MIRROR_AXES if mirror else MIRROR_AXES[:1]
        self.importance = gaussian_importance(spec.patch_shape).to(device)

    def plan(
        self, mask: NDArray[np.bool_], *, nearest_only: bool = False
    ) -> list[tuple[int, int, int]]:
        """Place windows over a whole volume as nnU-Net does, leaving out those that are not needed.

        The places depend on the volume's shape alone, so that a smaller mask gives a subset of the
        same windows, and where all of them ran, the same scores.

        Args:
            mask: (S, P, L) what has to be looked at.
            nearest_only: keep for every voxel of the mask only the window whose centre is nearest,
                where the weight is greatest. The others see it from afar, beside it.

        Returns:
            Start voxels (may be negative), in ascending order.
        """
        patch = self.spec.patch_shape
        axes = []
        for extent, length in zip(mask.shape, patch, strict=True):
            starts = window_starts(extent, length, self.overlap)
            whole = [slice(max(0, s), min(extent, s + length)) for s in starts]
            parts = nearest_parts(starts, length, extent) if nearest_only else whole
            axes.append(list(zip(starts, parts, strict=True)))
        return [
            (i, j, k)
            for (i, box_i), (j, box_j), (k, box_k) in itertools.product(*axes)
            if mask[box_i, box_j, box_k].any()
        ]

    def inside(self, start: tuple[int, ...], shape: tuple[int, ...]) -> Box:
        """Cut a window to the volume."""
        i, j, k = (
            slice(max(0, s), min(n, s + length))
            for s, length, n in zip(start, self.spec.patch_shape, shape, strict=True)
        )
        return i, j, k

    def logits(
        self, hu: torch.Tensor, start: tuple[int, int, int], first: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Run the networks on one window; outside the volume there is air.

        Args:
            hu: (S, P, L) HU on the model's grid.
            start: of the window.
            first: what the first network said of it unflipped, if that is known already.

        Returns:
            (classes, *patch_shape) float32, averaged over folds and flips.
        """
        calls = list(itertools.product(self.networks, self.flips))
        if not calls:
            msg = "no network given."
            raise ValueError(msg)
        if first is None:
            first = self._scores(calls[0][0], self._input(hu, start))
        total = first.float()
        if len(calls) == 1:
            return total
        x = self._input(hu, start)
        for network, axes in calls[1:]:
            total = total + self._scores(network, x, axes).float()
        return total / len(calls)

    def _scores(
        self, network: nn.Module, x: torch.Tensor, axes: tuple[int, ...] = ()
    ) -> torch.Tensor:
        """Run one network on one window; (classes, *patch_shape) in the precision it works in."""
        with torch.inference_mode(), fast_precision(self.device):
            out: torch.Tensor = network(x.flip(axes)).flip(axes) if axes else network(x)
        return out[0]

    def _input(self, hu: torch.Tensor, start: tuple[int, int, int]) -> torch.Tensor:
        """Cut one window out and normalise it; (1, 1, *patch_shape)."""
        inside = self.inside(start, hu.shape)
        margins: list[int] = []
        for s, part, length in zip(start, inside, self.spec.patch_shape, strict=True):
            margins = [part.start - s, s + length - part.stop, *margins]
        patch = pad(hu[inside], margins, value=AIR_HU)
        return normalized(patch, self.spec.intensity)[None, None].to(self.device)

    def located(
        self,
        hu: torch.Tensor,
        mask: NDArray[np.bool_],
        channels: Sequence[int],
        keep_bytes: int,
        progress: Callable[[float], None],
    ) -> tuple[NDArray[np.int16], dict[tuple[int, int, int], torch.Tensor]]:
        """Find where some classes lie, roughly and quickly: one network, as few windows as can be.

        The windows are some of those of `plan`, so that what they say need not be computed again.

        Args:
            hu: (S, P, L) HU on the model's grid.
            mask: of the body; windows without it are skipped.
            channels: the classes.
            keep_bytes: most memory for the scores that are kept.
            progress: called with the fraction done after every window; may raise to stop.

        Returns:
            (S, P, L) channel where one of the classes wins in a window, else -1; and by start the
            scores of windows where one does, for `slabs`, as far as memory goes.
        """
        axes = [
            fewest_starts(window_starts(extent, length, self.overlap), length)
            for extent, length in zip(hu.shape, self.spec.patch_shape, strict=True)
        ]
        starts = [
            (i, j, k)
            for i, j, k in itertools.product(*axes)
            if mask[self.inside((i, j, k), mask.shape)].any()
        ]
        wanted = torch.as_tensor(channels, device=self.device)
        found = np.full(hu.shape, -1, dtype=np.int16)
        kept = {}
        for count, start in enumerate(starts, start=1):
            scores = self._scores(self.networks[0], self._input(hu, start))
            inside = self.inside(start, hu.shape)
            winners = scores.argmax(dim=0)[_shifted(inside, start)]
            wins = torch.isin(winners, wanted).cpu().numpy()
            found[inside][wins] = winners.cpu().numpy()[wins]
            if wins.any() and keep_bytes >= scores.nbytes:
                kept[start] = scores
                keep_bytes -= scores.nbytes
            progress(count / len(starts))
        return found, kept

    def slabs(
        self,
        hu: torch.Tensor,
        windows: Sequence[tuple[int, int, int]],
        tile: tuple[slice, slice],
        dtype: torch.dtype,
        tick: Callable[[], None],
        known: Mapping[tuple[int, int, int], torch.Tensor] | None = None,
    ) -> Iterator[Slab]:
        """Blend windows and yield finished slabs, in ascending order.

        Each slab begins with the last slice of the one before, so that scores can be interpolated
        across the seam.

        Args:
            hu: (S, P, L) HU on the model's grid.
            windows: from `plan`.
            tile: the rows and columns (second and third axis) wanted.
            dtype: of the accumulator.
            tick: called after every window; may raise to stop.
            known: scores of some windows, from `located`.
        """
        known = known or {}
        depth = self.spec.patch_shape[0]
        length = hu.shape[0]
        extent = (tile[0].stop - tile[0].start, tile[1].stop - tile[1].start)
        classes = self.spec.num_outputs
        scores = torch.zeros((classes, depth, *extent), dtype=dtype, device=self.device)
        weight = torch.zeros((depth, *extent), device=self.device)
        base = 0  # slice that the accumulator starts at
        done = 0  # slices below are yielded
        seam: torch.Tensor | None = None

        def finished(upto: int) -> Slab:
            """Take slices `done` to `upto` out; those beyond the accumulator saw no window."""
            nonlocal done, seam
            lead = 0 if seam is None else 1
            out = torch.zeros((classes, lead + upto - done, *extent), device=self.device)
            if seam is not None:
                out[:, 0] = seam
            inside = slice(done - base, min(upto - base, depth))
            seen = out[:, lead : lead + max(0, inside.stop - inside.start)]
            unseen = torch.ones(out.shape[1:], dtype=torch.bool, device=self.device)
            unseen[:lead] = False
            if seen.shape[1]:
                torch.div(scores[:, inside], weight[inside].clamp(min=1e-8), out=seen)
                unseen[lead : lead + seen.shape[1]] = weight[inside] == 0
            out[0].masked_fill_(unseen, BACKGROUND_LOGIT)
            slab = Slab(done - lead, out)
            done, seam = upto, out[:, -1].clone()
            return slab

        for first, group in itertools.groupby(windows, key=lambda start: start[0]):
            front = max(0, first)
            while done < front:
                yield finished(min(front, max(done, base) + depth))
            shift = front - base
            keep = max(0, depth - shift)
            if shift:
                scores[:, :keep] = scores[:, shift : shift + keep].clone()
                weight[:keep] = weight[shift : shift + keep].clone()
                scores[:, keep:] = 0
                weight[keep:] = 0
                base = front
            for start in group:
                self._blend(hu, start, tile, scores, weight, base, known.get(start))
                tick()
        while done < length:
            yield finished(min(length, max(done, base) + depth))

    def _blend(
        self,
        hu: torch.Tensor,
        start: tuple[int, int, int],
        tile: tuple[slice, slice],
        scores: torch.Tensor,
        weight: torch.Tensor,
        base: int,
        known: torch.Tensor | None,
    ) -> None:
        """Add one window to the accumulator, as far as it lies in the tile."""
        slices, rows, columns = self.inside(start, hu.shape)
        rows = slice(max(rows.start, tile[0].start), min(rows.stop, tile[0].stop))
        columns = slice(max(columns.start, tile[1].start), min(columns.stop, tile[1].stop))
        if rows.start >= rows.stop or columns.start >= columns.stop:
            return
        part = (slices, rows, columns)
        source = _shifted(part, start)
        target = _shifted(part, (base, tile[0].start, tile[1].start))
        blend = self.importance[source]
        out = self.logits(hu, start, known)[(slice(None), *source)]
        if scores.dtype == torch.float32:
            scores[(slice(None), *target)].addcmul_(out, blend)
        else:
            scores[(slice(None), *target)] += (out * blend).to(scores.dtype)
        weight[target] += blend


def _shifted(box: Box, origin: tuple[int, int, int]) -> Box:
    i, j, k = (slice(part.start - o, part.stop - o) for part, o in zip(box, origin, strict=True))
    return i, j, k
