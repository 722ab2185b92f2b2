"""The trunk at 3 mm: spine, back muscle and blood, found by HU alone; contrast agent or not.

Our 25 labels hold neither vessels nor muscle, and a labelmap drawn by hand may hold one lesion only.
So what a report needs of them is read from the CT itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import ndimage

from pasta.geometry import Spacing, Volume, reoriented
from pasta.labels import organ_named
from pasta.preprocessing.resampling import axis_weights, resampled
from pasta.report.attributes import ENHANCED, NON_CONTRAST
from pasta.report.findings import Measurement

if TYPE_CHECKING:
    from numpy.typing import NDArray

AXCODES = "LPS"  # axis 0 to the left, 1 to the back, 2 to the head
GRID_MM = 3.0
BODY_HU = -300.0
BONE_HU = 180.0
FAT_HU = -30.0

# PASTA calls a scan non-contrast where aorta and vena cava are both below 80 HU (paper, Methods 5).
# On the 15 public scans it was made with, the statistic below was 42-58 HU without contrast agent and
# 107-314 HU with it.
VESSEL_HU = 80.0
DOUBT_HU = 10.0
KIDNEY_LABEL = organ_named("kidney").value
MIN_KIDNEY_ML = 30.0


def enhancement_from_vessels(aorta_hu: float, vena_cava_hu: float) -> str:
    """Apply PASTA's rule to the mean HU of both vessels: below 80 HU in both is non-contrast."""
    return NON_CONTRAST if max(aorta_hu, vena_cava_hu) < VESSEL_HU else ENHANCED


@dataclass(frozen=True, slots=True, eq=False)
class Trunk:
    """The body of one scan on a coarse grid along L, P, S.

    Attributes:
        hu: (I, J, K) float32, voxels of 3 mm.
        body: the largest connected body.
        spine: per slice (i, j) of the spine's midline and of its hindmost bone; NaN without spine.
        spacing_mm: of `hu`; 3 mm but for scans of a few voxels.
    """

    hu: NDArray[np.float32]
    body: NDArray[np.bool_]
    spine: NDArray[np.float64]
    spacing_mm: Spacing


def trunk_of(volume: Volume) -> Trunk:
    """Average a CT to 3 mm and find body and spine."""
    turned = reoriented(volume, AXCODES)
    spacing = turned.grid.spacing_mm
    shape = [
        max(1, round(n * s / GRID_MM)) for n, s in zip(turned.grid.shape, spacing, strict=True)
    ]
    left, back, up = (n * s / m for n, s, m in zip(turned.grid.shape, spacing, shape, strict=True))
    coarse: Spacing = (left, back, up)
    i, j, k = (
        axis_weights(n, m, c / s, antialias=True)
        for n, m, c, s in zip(turned.grid.shape, shape, coarse, spacing, strict=True)
    )
    # slices first: the rest of the work is then on a few of them, and no full float copy is made
    planes = []
    source = turned.voxels
    for row in k:
        used = torch.nonzero(row).ravel()
        first, last = int(used[0]), int(used[-1]) + 1
        slab = np.ascontiguousarray(source[:, :, first:last], dtype=np.float32)
        planes.append(torch.from_numpy(slab) @ row[first:last])
    hu = resampled(torch.stack(planes, dim=2), (i, j, torch.eye(len(planes)))).numpy()
    solid = hu > BODY_HU
    parts, count = ndimage.label(solid)
    if count > 1:
        solid = parts == np.argmax(np.bincount(parts.ravel())[1:]) + 1
    return Trunk(hu, solid, _spine(hu, solid, coarse), coarse)


def _spine(
    hu: NDArray[np.float32], body: NDArray[np.bool_], spacing_mm: Spacing
) -> NDArray[np.float64]:
    """Find the bone of the rear half near the midline of every slice."""
    found = np.full((hu.shape[2], 2), np.nan)
    reach = 60 / spacing_mm[0]
    least_body = 4500 / (spacing_mm[0] * spacing_mm[1])  # 45 cm2
    least_bone = 135 / (spacing_mm[0] * spacing_mm[1])
    for k in range(hu.shape[2]):
        if body[:, :, k].sum() < least_body:
            continue
        columns = np.flatnonzero(body[:, :, k].any(axis=1))
        rows = np.flatnonzero(body[:, :, k].any(axis=0))
        bone = (hu[:, :, k] > BONE_HU) & body[:, :, k]
        bone[:, : (rows[0] + rows[-1]) // 2] = False
        middle = (columns[0] + columns[-1]) / 2
        bone[: max(0, int(middle - reach))] = False
        bone[int(middle + reach) :] = False
        points = np.argwhere(bone)
        if len(points) >= least_bone:
            found[k] = np.median(points[:, 0]), points[:, 1].max()
    return found


def measured_enhancement(trunk: Trunk, labelmap: Volume | None = None) -> Measurement:
    """Tell from HU whether contrast agent was given, where no DICOM tag says so.

    In every slice in front of the spine, the brightest 15 mm disc is sought: all of it must be
    bright, so calcium, stents and ribs do not count. With contrast agent heart, aorta, vena cava,
    iliac vessels, kidneys or liver give one in nearly every slice; without it blood is 30-60 HU,
    and only bone or oral contrast in some slices is brighter. The first quartile over slices is
    compared with PASTA's 80 HU; within 10 HU of it, or where labelled kidneys contradict it, the
    status is not assessable.

    Args:
        trunk: of the CT.
        labelmap: on any grid of the same field of view, for the kidneys; optional.
    """
    discs = _brightest_discs(trunk)
    kidney_hu = _kidney_hu(trunk, labelmap)
    if len(discs) * trunk.spacing_mm[2] < 30:
        return Measurement(None, {}, "less than 30 mm of trunk with a spine in the scan")
    quartile = float(np.percentile(discs, 25))
    numbers = {"blood_hu": round(quartile, 1), "slices": float(len(discs))}
    if kidney_hu is not None:
        numbers["kidney_hu"] = round(kidney_hu, 1)
    if abs(quartile - VESSEL_HU) < DOUBT_HU:
        return Measurement(None, numbers, "blood is within 10 HU of PASTA's limit of 80 HU")
    value = ENHANCED if quartile > VESSEL_HU else NON_CONTRAST
    # kidneys are near 30 HU without and above 80 HU in every phase with contrast agent
    if kidney_hu is not None and (kidney_hu < 55) == (value == ENHANCED):
        return Measurement(
            None, numbers, "kidneys and blood contradict each other (oral contrast?)"
        )
    note = "by HU; oral contrast in most slices could mislead it"
    return Measurement(value, numbers, note)


def _brightest_discs(trunk: Trunk) -> NDArray[np.float64]:
    step_i, step_j, _ = trunk.spacing_mm
    hu = np.where(trunk.body, trunk.hu, -1000.0)
    radius_i, radius_j = (max(1, round(6 / step)) for step in (step_i, step_j))
    i, j = np.mgrid[-radius_i : radius_i + 1, -radius_j : radius_j + 1]
    disc = (i / radius_i) ** 2 + (j / radius_j) ** 2 <= 1.15
    discs = []
    for k in np.flatnonzero(np.isfinite(trunk.spine[:, 0])):
        middle, back = trunk.spine[k]
        front = back - 55 / step_j  # spinous process to the front of the vertebral body
        window = hu[
            max(0, int(middle - 60 / step_i)) : int(middle + 60 / step_i) + 1,
            max(0, int(front - 110 / step_j)) : max(0, int(front - 20 / step_j)) + 1,
            k,
        ]
        discs.append(ndimage.grey_erosion(window, footprint=disc, mode="nearest").max())
    return np.array(discs)


def _kidney_hu(trunk: Trunk, labelmap: Volume | None) -> float | None:
    if labelmap is None:
        return None
    turned = reoriented(labelmap, AXCODES)
    centres = [
        np.clip(((np.arange(m) + 0.5) * n / m).astype(int), 0, n - 1)
        for m, n in zip(trunk.hu.shape, turned.grid.shape, strict=True)
    ]
    kidneys = turned.voxels[np.ix_(*centres)] == KIDNEY_LABEL
    if kidneys.sum() * np.prod(trunk.spacing_mm) / 1000 < MIN_KIDNEY_ML:
        return None
    return float(np.median(trunk.hu[kidneys]))


def muscle_hu(trunk: Trunk, height: float) -> tuple[float, tuple[slice, slice, slice]] | None:
    """Find the back muscle beside the spine.

    Args:
        trunk: of the CT.
        height: slice of interest, from 0 (feet) to 1 (head).

    Returns:
        Upper quartile of HU within 60 mm of that height (in the elderly half of the muscle is fat:
        a hand-checked back muscle had a median of 20 HU beside a psoas of 48) and the box of the
        muscle on the trunk's grid; None where there is no spine or too little muscle.
    """
    step_i, step_j, step_k = trunk.spacing_mm
    slices = np.flatnonzero(np.isfinite(trunk.spine[:, 0]))
    wanted = height * trunk.hu.shape[2]
    slices = slices[np.abs(slices - wanted) <= 60 / step_k]
    if not len(slices):
        return None
    middle, back = np.median(trunk.spine[slices], axis=0)
    k = slice(int(slices[0]), int(slices[-1]) + 1)
    best: tuple[float, tuple[slice, slice, slice]] | None = None
    most = 3000 / (step_i * step_j * step_k)  # 3 ml
    for side in (-1, 1):
        ends = sorted((middle + side * 15 / step_i, middle + side * 45 / step_i))
        i = slice(max(0, int(ends[0])), max(0, int(ends[1])) + 1)
        j = slice(max(0, int(back - 40 / step_j)), max(0, int(back)) + 1)
        window = trunk.hu[i, j, k]
        soft = (window > FAT_HU) & (window < 110)  # fat and bone of partly filled voxels stay out
        core = ndimage.binary_erosion(soft)
        if core.sum() > most:
            most = int(core.sum())
            best = float(np.percentile(window[core], 75)), (i, j, k)
    return best
