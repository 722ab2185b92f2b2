"""Sliding windows that skip air, stream along the body and keep memory within a budget.

Scores of overlapping windows are blended with a Gaussian (as nnU-Net does), averaged over folds and
mirrored copies. Windows advance along the last axis (inferior to superior); a slab of scores leaves
the accumulator as soon as no later window can touch it, so memory does not grow with scan length.
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
    from collections.abc import Callable, Iterator, Sequence

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
        first: index of the first slice along the model grid's last axis.
        scores: (classes, I, J, slices) float32 logits of the tile.
    """

    first: int
    scores: torch.Tensor


def body_box(
    hu: torch.Tensor, spacing_mm: float, pad_mm: float = 8.0
) -> tuple[NDArray[np.bool_], Box]:
    """Find the body in a CT, coarsely.

    Args:
        hu: (I, J, K) HU.
        spacing_mm: smallest spacing, sets the coarseness (about 4 mm).
        pad_mm: added around the body on every side.

    Returns:
        (I, J, K) mask at the volume's resolution (blocks of the coarse grid), filled so that lung
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
    for k in range(coarse.shape[2]):  # per slice: the lung is open to air only at the scan's ends
        coarse[:, :, k] = ndimage.binary_fill_holes(coarse[:, :, k])
    coarse = ndimage.binary_dilation(coarse, iterations=max(1, round(pad_mm / (step * spacing_mm))))
    mask = coarse.repeat(step, 0).repeat(step, 1).repeat(step, 2)
    mask = mask[: hu.shape[0], : hu.shape[1], : hu.shape[2]]
    found = ndimage.find_objects(mask.astype(np.uint8))[0]
    return mask, (found[0], found[1], found[2])


def window_starts(start: int, stop: int, length: int, overlap: float) -> list[int]:
    """Place windows along one axis, evenly, with at least the wanted overlap.

    Returns:
        Start indices; the last window ends at `stop`. One window, centred, where it covers all.
    """
    extent = stop - start
    if extent <= length:
        return [start - (length - extent) // 2]
    stride = max(1, int(length * (1 - overlap)))
    count = int(np.ceil((extent - length) / stride)) + 1
    return [round(float(x)) for x in np.linspace(start, stop - length, count)]


def gaussian_importance(patch_shape: Shape) -> torch.Tensor:
    """Weight of each voxel of a window: Gaussian, sigma 1/8 of the window, as in nnU-Net."""
    axes = [torch.exp(-0.5 * ((torch.arange(n) - (n - 1) / 2) / (n / 8)) ** 2) for n in patch_shape]
    weight = axes[0][:, None, None] * axes[1][None, :, None] * axes[2][None, None, :]
    return (weight / weight.max()).clamp_(min=1e-4)


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

    def plan(self, box: Box, mask: NDArray[np.bool_]) -> list[tuple[int, int, int]]:
        """Place windows over a box, leaving out those that hold no body.

        Returns:
            Start voxels (may be negative), sorted along the last axis first.
        """
        axes = [
            window_starts(part.start, part.stop, length, self.overlap)
            for part, length in zip(box, self.spec.patch_shape, strict=True)
        ]
        return [
            (i, j, k)
            for k, i, j in itertools.product(axes[2], axes[0], axes[1])
            if mask[self._inside((i, j, k), mask.shape)].any()
        ]

    def _inside(self, start: tuple[int, ...], shape: tuple[int, ...]) -> Box:
        i, j, k = (
            slice(max(0, s), min(n, s + length))
            for s, length, n in zip(start, self.spec.patch_shape, shape, strict=True)
        )
        return i, j, k

    def logits(self, hu: torch.Tensor, start: tuple[int, int, int]) -> torch.Tensor:
        """Run the networks on one window; outside the volume there is air.

        Returns:
            (classes, *patch_shape) float32, averaged over folds and flips.
        """
        inside = self._inside(start, hu.shape)
        patch = hu[inside]
        margins: list[int] = []
        for s, part, length in zip(start, inside, self.spec.patch_shape, strict=True):
            margins = [part.start - s, s + length - part.stop, *margins]
        patch = pad(patch, margins, value=AIR_HU)
        x = normalized(patch, self.spec.intensity)[None, None].to(self.device)
        total: torch.Tensor | None = None
        with torch.inference_mode(), fast_precision(self.device):
            for network, axes in itertools.product(self.networks, self.flips):
                out = network(x.flip(axes) if axes else x).flip(axes).float()[0]
                total = out if total is None else total + out
        if total is None:
            msg = "no network given."
            raise ValueError(msg)
        return total / (len(self.networks) * len(self.flips))

    def slabs(
        self,
        hu: torch.Tensor,
        windows: Sequence[tuple[int, int, int]],
        tile: tuple[slice, slice],
        dtype: torch.dtype,
        tick: Callable[[], None],
    ) -> Iterator[Slab]:
        """Blend windows and yield finished slabs, in ascending order, without gaps.

        Args:
            hu: (I, J, K) HU on the model's grid.
            windows: from `plan`.
            tile: the rows and columns wanted.
            dtype: of the accumulator.
            tick: called after every window; may raise to stop.
        """
        depth = self.spec.patch_shape[2]
        shape = hu.shape
        rows, columns = tile
        extent = (rows.stop - rows.start, columns.stop - columns.start)
        size = (self.spec.num_outputs, *extent, depth)
        scores = torch.zeros(size, dtype=dtype, device=self.device)
        weight = torch.zeros(size[1:], dtype=torch.float32, device=self.device)
        base = 0  # slice that the accumulator starts at
        done = 0  # slices below are yielded

        def finished(upto: int) -> Slab:
            count = upto - done
            at = slice(done - base, upto - base)
            part = scores[..., at].float() / weight[None, :, :, at].clamp(min=1e-8)
            unseen = weight[:, :, at] == 0
            part[:, unseen] = 0
            part[0, unseen] = BACKGROUND_LOGIT
            return Slab(done, part[..., :count])

        for k, group in itertools.groupby(windows, key=lambda start: start[2]):
            front = max(0, k)
            if front > done and done < base + depth:
                upto = min(front, base + depth, shape[2])
                yield finished(upto)
                done = upto
            while done < front:  # no window at all: air between two bodies
                upto = min(front, done + depth)
                yield self._empty(done, upto, extent)
                done = upto
            shift = front - base
            keep = max(0, depth - shift)
            scores[..., :keep] = scores[..., shift : shift + keep].clone()
            weight[..., :keep] = weight[..., shift : shift + keep].clone()
            scores[..., keep:] = 0
            weight[..., keep:] = 0
            base = front
            for start in group:
                inside = self._inside(start, shape)
                clipped = (
                    slice(max(inside[0].start, rows.start), min(inside[0].stop, rows.stop)),
                    slice(max(inside[1].start, columns.start), min(inside[1].stop, columns.stop)),
                    inside[2],
                )
                if all(part.start < part.stop for part in clipped):
                    source = tuple(
                        slice(part.start - s, part.stop - s)
                        for part, s in zip(clipped, start, strict=True)
                    )
                    target = tuple(
                        slice(part.start - o, part.stop - o)
                        for part, o in zip(clipped, (rows.start, columns.start, base), strict=True)
                    )
                    blend = self.importance[source]
                    out = self.logits(hu, start)[(slice(None), *source)]
                    scores[(slice(None), *target)] += (out * blend).to(dtype)
                    weight[target] += blend
                tick()
        if windows:
            upto = min(base + depth, shape[2])
            if upto > done:
                yield finished(upto)
                done = upto
        while done < shape[2]:
            upto = min(shape[2], done + depth)
            yield self._empty(done, upto, extent)
            done = upto

    def _empty(self, first: int, stop: int, extent: tuple[int, int]) -> Slab:
        scores = torch.zeros((self.spec.num_outputs, *extent, stop - first), device=self.device)
        scores[0] = BACKGROUND_LOGIT
        return Slab(first, scores)
