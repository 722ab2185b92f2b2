"""Segmentation: CT in, labelmap on the CT's own grid out."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import ndimage

from pasta.errors import LabelError
from pasta.geometry import Volume, reoriented
from pasta.inference.device import cast_kernels, chosen_device
from pasta.inference.progress import Progress, part_of, silent
from pasta.inference.restoring import restored
from pasta.inference.windows import Box, WindowedNetwork, body_box
from pasta.labels import lesions_of, organ_named
from pasta.networks.turning import upright
from pasta.preprocessing.intensity import AIR_HU
from pasta.preprocessing.resampling import GridMap, to_model_grid

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from pasta.networks.checkpoint import Model

    Known = dict[tuple[int, int, int], torch.Tensor]

DEFAULT_BUDGET_BYTES = 2 * 2**30
ORGAN_MARGIN_MM = 15.0  # around an organ found by the quick pass
SMALLEST_PART = 0.05  # of an organ that the quick pass finds, of its largest part
PAIRED = ("lung", "kidney")  # one label for both sides
RESAMPLE_SHARE, LOCATE_SHARE = 0.05, 0.3  # of the progress bar


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
        DeviceError: if the device is not there.
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
        self._upright = upright(networks, model.spec)
        cast_kernels(networks, self.device)
        self._fine = WindowedNetwork(
            networks, self._upright, self.device, overlap=overlap, mirror=mirror
        )

    def warm_up(self) -> None:
        """Run the networks once on air: the first run compiles and allocates."""
        air = torch.full(self._upright.patch_shape, float(AIR_HU))
        self._fine.logits(air, (0, 0, 0))

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
                closely only where a quick pass finds them, or everywhere if that is in doubt.
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
        hu, plan = to_model_grid(volume, self._upright)
        mask, box = body_box(hu, min(self.spec.spacing_mm))
        labels: NDArray[np.uint8] | None = None
        known: Known = {}
        share = RESAMPLE_SHARE
        if organs is not None and mask.any():
            share = LOCATE_SHARE
            labels, known = self._label_near(hu, plan, mask, organs, keep, progress)
        if labels is None:
            windows = self._fine.plan(mask)
            labels = self._label(hu, plan, windows, box, part_of(progress, share, 1.0), known)
        if organs is not None:
            labels[~np.isin(labels, keep)] = 0
        turned = Volume(labels, plan.turned.affine)
        native = reoriented(turned, volume.grid.axcodes)
        return Volume(
            np.array(native.voxels, order="K"), volume.affine, volume.acquisition, volume.warnings
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

    def _label_near(
        self,
        hu: torch.Tensor,
        plan: GridMap,
        mask: NDArray[np.bool_],
        organs: Sequence[str],
        values: Sequence[int],
        progress: Progress,
    ) -> tuple[NDArray[np.uint8] | None, Known]:
        """Label the neighbourhood of organs that a quick pass finds.

        Returns:
            Labels on the turned native grid; None where an organ is not surely all there: nothing of
            it was found, a paired one on one side only, or it goes on beyond the neighbourhood. And
            the scores of windows that the quick pass ran.
        """
        channels = [c for c, value in enumerate(self.spec.label_values) if value in values]
        quick = part_of(progress, RESAMPLE_SHARE, LOCATE_SHARE)
        found, known = self._fine.located(
            hu, mask, channels, self.memory_budget_bytes // 8, lambda done: quick(done, "locate")
        )
        parts = np.zeros_like(mask)
        for organ in organs:
            own = [label.value for label in (organ_named(organ), *lesions_of(organ))]
            own_channels = [c for c in channels if self.spec.label_values[c] in own]
            part = _large_parts(np.isin(found, own_channels))
            if not part.any() or (organ in PAIRED and _one_sided(part, mask)):
                return None, known
            parts |= part
        near, box = self._near(parts, mask)
        windows = {start for start in known if near[self._fine.inside(start, near.shape)].any()}
        windows.update(self._fine.plan(near, nearest_only=True))
        known = {start: scores for start, scores in known.items() if start in windows}
        rest = part_of(progress, LOCATE_SHARE, 1.0)
        labels = self._label(hu, plan, sorted(windows), box, rest, known)
        return (None if self._goes_on(labels, plan, box, values) else labels), known

    def _near(
        self, found: NDArray[np.bool_], mask: NDArray[np.bool_]
    ) -> tuple[NDArray[np.bool_], Box]:
        """Widen what the quick pass found by a margin, within the body; and the box around it."""
        i, j, k = (
            slice(max(part.start - margin, 0), min(part.stop + margin, n))
            for part, n, margin in zip(
                ndimage.find_objects(found.astype(np.uint8))[0],
                mask.shape,
                (round(ORGAN_MARGIN_MM / spacing) for spacing in self._upright.spacing_mm),
                strict=True,
            )
        )
        box: Box = (i, j, k)
        distance = ndimage.distance_transform_edt(~found[box], sampling=self._upright.spacing_mm)
        near = np.zeros_like(mask)
        near[box] = mask[box] & (distance <= ORGAN_MARGIN_MM)
        return near, box

    def _goes_on(
        self, labels: NDArray[np.uint8], plan: GridMap, box: Box, values: Sequence[int]
    ) -> bool:
        """Tell whether a large part of the wanted labels is cut off by a face of the box."""
        inner, faces = [], []
        for part, steps, n, m in zip(box, plan.steps, labels.shape, plan.model.shape, strict=True):
            first = 0 if part.start == 0 else min(n - 1, int(np.ceil(part.start * steps)))
            last = n if part.stop == m else max(first + 1, int(part.stop * steps))
            inner.append(slice(first, last))
            faces.append((part.start > 0, part.stop < m))
        wanted = np.isin(labels[tuple(inner)], values)
        ends = [
            (axis, end)
            for axis, open_ends in enumerate(faces)
            for end, is_open in zip((0, -1), open_ends, strict=True)
            if is_open and np.take(wanted, end, axis).any()
        ]
        if not ends:
            return False
        wanted = _large_parts(wanted)
        return any(np.take(wanted, end, axis).any() for axis, end in ends)

    def _label(
        self,
        hu: torch.Tensor,
        plan: GridMap,
        windows: Sequence[tuple[int, int, int]],
        box: Box,
        progress: Progress,
        known: Known | None = None,
    ) -> NDArray[np.uint8]:
        """Label the turned native grid in a box, strip by strip; `known` scores are not computed."""
        labels = np.zeros(plan.turned.shape, dtype=np.uint8)
        if not windows:
            return labels
        rows, columns = (
            slice(max(0, part.start - 1), min(n, part.stop + 1))
            for part, n in zip(box[1:], hu.shape[1:], strict=True)
        )
        kept = sum(scores.nbytes for scores in (known or {}).values())
        dtype, strips = self._strips(rows, columns, self.memory_budget_bytes - kept)
        tick = _ticker(progress, "segment", len(windows) * len(strips))
        for own in strips:
            # one row more than its own: needed to interpolate up to the next strip
            tile = (slice(own.start, min(own.stop + 1, rows.stop)), columns)
            slabs = self._fine.slabs(hu, windows, tile, dtype, tick, known)
            for at, found in restored(slabs, plan, own, tile, self.spec.label_values):
                labels[at] = found.cpu().numpy()
        return labels

    def _strips(
        self, rows: slice, columns: slice, budget_bytes: int
    ) -> tuple[torch.dtype, list[slice]]:
        """Choose the accumulator's precision and the strips of rows."""
        depth = self._upright.patch_shape[0]
        per_row = self.spec.num_outputs * (columns.stop - columns.start) * depth
        copies = 8  # bytes a voxel and class while a slab, in float32, is finished
        dtype, row_bytes = torch.float32, per_row * (4 + copies)
        if (rows.stop - rows.start) * row_bytes > budget_bytes:
            dtype, row_bytes = torch.float16, per_row * (2 + copies)
        length = max(self._upright.patch_shape[1] // 4, budget_bytes // row_bytes)
        edges = [*range(rows.start, rows.stop, length), rows.stop]
        return dtype, [slice(a, b) for a, b in itertools.pairwise(edges)]


def _large_parts(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Keep connected parts, without single voxels, that are not much smaller than the largest."""
    parts, count = ndimage.label(ndimage.binary_opening(mask))
    if not count:
        return np.zeros_like(mask)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    large: NDArray[np.bool_] = (sizes >= SMALLEST_PART * sizes.max())[parts]
    return large


def _one_sided(part: NDArray[np.bool_], body: NDArray[np.bool_]) -> bool:
    """Tell whether nearly all of an organ lies left or right (third axis) of the body's middle."""
    columns = np.flatnonzero(body.any(axis=(0, 1)))
    counts = part.sum(axis=(0, 1))
    middle = (int(columns[0]) + int(columns[-1]) + 1) // 2
    return bool(min(counts[:middle].sum(), counts[middle:].sum()) < SMALLEST_PART * counts.sum())


def _ticker(progress: Progress, stage: str, total: int) -> Callable[[], None]:
    """Count windows into a progress callback."""
    counter = itertools.count(1)
    progress(0.0, stage)
    return lambda: progress(min(1.0, next(counter) / max(1, total)), stage)
