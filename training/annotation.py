"""Organ masks for CTs that carry none, grown from seeds that a person placed.

Arrays are (I, J, K) along R, A, S: i grows to the patient's right, j forward, k upward. Seeds are in
patient RAS+ mm, so they do not depend on the grid. All is done on an isotropic working grid and then
brought to the grid of the CT. Lung and bone follow thresholds; soft organs and the tissue they are
confused with are grown against each other by the random walker of Grady (IEEE TPAMI 2006). Where an
organ meets other soft tissue without a step of HU, both sides of the border become unknown (255).

Run `python -m training.annotation --data FOLDER --out FOLDER`; equal seeds give equal masks.
"""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.segmentation import random_walker

from pasta.errors import LabelError, PastaError, VolumeError
from pasta.geometry import FloatArray, Grid, Shape, Volume, reoriented, resampled_grid
from pasta.io.volumes import read_volume
from pasta.labels import label_named

UNKNOWN = 255
SEEDS = Path(__file__).with_name("annotations.toml")
Mask = NDArray[np.bool_]
Image = NDArray[np.float32]
_FACES = ndimage.generate_binary_structure(3, 1)
_RULED = ("lung", "bone")
_AIR_HU = -500.0
_ENHANCED_HU = 250.0  # kidney after contrast agent, as dense as bone


@dataclass(frozen=True, slots=True)
class Stroke:
    """A drawn tube: all points within a radius of a polyline; one point gives a ball.

    Attributes:
        radius_mm: half the thickness.
        points: corners of the polyline, each (x, y, z) in RAS+ mm.
    """

    radius_mm: float
    points: tuple[tuple[float, float, float], ...]


@dataclass(frozen=True, slots=True)
class Annotation:
    """What a person gave for one CT.

    Attributes:
        case: name of the CT's folder.
        complete: organs that are labelled wherever they appear, so that all else surely is not them.
        seeds: name to strokes inside it. Names of `pasta.labels` become labels; "unknown" becomes
            255; any other name ("spleen") is background that competes for its surroundings.
        limits: name to strokes that it must stay within.
        cuts: name to strokes it must stay out of (enhanced vessels for bone, trachea for lung).
        gas: hollow organ to strokes in its gas; the gas and one voxel of wall become the organ.
        lesions: value in the collection's own lesions.nii.gz to our name or "unknown".
        window_hu: name to the range of smoothed HU it may have; nothing outside it is labelled.
        bone_hu: smoothed HU above which tissue may be bone.
        contrast_hu: smoothed HU step between neighbours that halts the growth.
        reach_mm: name to the greatest distance from its seeds, 40 mm where not given.
        opening_mm: what is thinner than twice this and not seeded breaks off.
        wall_mm: depth below the skin that is surely body wall, no organ.
        spacing_mm: of the working grid.
    """

    case: str
    complete: tuple[str, ...]
    seeds: Mapping[str, tuple[Stroke, ...]]
    limits: Mapping[str, tuple[Stroke, ...]] = field(default_factory=dict)
    cuts: Mapping[str, tuple[Stroke, ...]] = field(default_factory=dict)
    gas: Mapping[str, tuple[Stroke, ...]] = field(default_factory=dict)
    lesions: Mapping[int, str] = field(default_factory=dict)
    window_hu: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    bone_hu: float = 170.0
    contrast_hu: float = 10.0
    reach_mm: Mapping[str, float] = field(default_factory=dict)
    opening_mm: float = 6.0
    wall_mm: float = 6.0
    spacing_mm: float = 3.0


def draw(strokes: Sequence[Stroke], grid: Grid) -> Mask:
    """Draw strokes on a grid.

    Args:
        strokes: tubes and balls in RAS+ mm.
        grid: any grid; voxels count by their centres.

    Returns:
        (I, J, K) mask; empty where no voxel centre lies inside.
    """
    mask = np.zeros(grid.shape, dtype=bool)
    inverse = np.linalg.inv(grid.affine)
    reach = np.asarray(grid.spacing_mm)
    for stroke in strokes:
        points = np.asarray(stroke.points, dtype=float)
        for a, b in zip(points, np.vstack([points[1:], points[-1:]]), strict=True):
            ends = np.stack([a, b]) @ inverse[:3, :3].T + inverse[:3, 3]
            margin = stroke.radius_mm / reach
            low = np.clip(np.floor(ends.min(axis=0) - margin), 0, grid.shape).astype(int)
            high = np.clip(np.ceil(ends.max(axis=0) + margin) + 1, 0, grid.shape).astype(int)
            if np.any(high <= low):
                continue
            box = tuple(slice(lo, hi) for lo, hi in zip(low, high, strict=True))
            index = np.stack(np.meshgrid(*(np.arange(s.start, s.stop) for s in box), indexing="ij"))
            at = np.einsum("ab,bijk->ijka", grid.affine[:3, :3], index) + grid.affine[:3, 3]
            along = b - a
            share = ((at - a) @ along) / max(float(along @ along), 1e-9)
            nearest = a + np.clip(share, 0, 1)[..., None] * along
            mask[box] |= np.linalg.norm(at - nearest, axis=-1) <= stroke.radius_mm
    return mask


def ball(radius_voxels: float) -> Mask:
    """Build a ball-shaped structuring element."""
    n = int(radius_voxels)
    i, j, k = np.ogrid[-n : n + 1, -n : n + 1, -n : n + 1]
    return np.asarray(i * i + j * j + k * k <= radius_voxels**2)


def touching(mask: Mask, seeds: Mask) -> Mask:
    """Keep the 6-connected components of a mask that meet a seed."""
    components, _ = ndimage.label(mask)
    keep = np.unique(components[seeds & mask])
    return np.isin(components, keep[keep > 0])


def largest(mask: Mask) -> Mask:
    """Keep the largest 6-connected component."""
    components, count = ndimage.label(mask)
    if count == 0:
        return mask
    sizes = np.bincount(components.ravel())
    sizes[0] = 0
    return np.asarray(components == sizes.argmax())


def body(image: Image) -> Mask:
    """Find the patient without the table: axial slices are filled, thin things are opened away."""
    tissue = largest(_opened(image > -300, _FACES, iterations=2))
    filled = np.zeros_like(tissue)
    for k in range(image.shape[2]):
        # closed ends: a body that the field of view truncates (not at its back) must fill too
        padded = np.pad(tissue[:, :, k], ((1, 1), (0, 1)))
        padded[0], padded[-1] = padded[1].any(), padded[-2].any()
        padded[:, -1] = padded[1:-1, -2].any()
        filled[:, :, k] = ndimage.binary_fill_holes(padded)[1:-1, :-1]
    return filled


def _opened(mask: Mask, structure: Mask, iterations: int = 1) -> Mask:
    """Open a mask that goes on beyond the field of view."""
    padded = np.pad(mask, 4, mode="edge")
    return np.asarray(
        ndimage.binary_opening(padded, structure, iterations=iterations)[4:-4, 4:-4, 4:-4]
    )


def lung(image: Image, seeds: Mask, spacing_mm: float, cut: Mask | None = None) -> Mask:
    """Find the lungs: air that is connected to a seed, with the vessels in it.

    Args:
        image: (I, J, K) HU.
        seeds: some voxels of each lung.
        spacing_mm: of the isotropic grid.
        cut: what is not lung although connected: trachea and main bronchi.

    Returns:
        Mask; vessels up to about 10 mm across are closed, the hilum stays out.
    """
    air = image < _AIR_HU
    if cut is not None:
        air &= ~cut
    air = touching(_opened(air, _FACES), seeds)
    pad = 4
    padded = np.pad(air, pad, mode="edge")
    closed = ndimage.binary_closing(padded, ball(6.0 / spacing_mm))
    for k in range(closed.shape[2]):
        closed[:, :, k] = ndimage.binary_fill_holes(closed[:, :, k])
    closed = closed[pad:-pad, pad:-pad, pad:-pad]
    return np.asarray(closed & ~cut if cut is not None else closed)


def bone(
    image: Image, spacing_mm: float, threshold_hu: float = 170.0, cut: Mask | None = None
) -> Mask:
    """Find bone: what is dense, with the marrow that dense rims enclose.

    Args:
        image: (I, J, K) HU; what is outside the body should be air.
        spacing_mm: of the isotropic grid.
        threshold_hu: of dense tissue.
        cut: dense tissue that is not bone: enhanced vessels, kidneys, oral contrast. A component
            below 250 ml that lies in it for more than 30 % goes altogether.

    Returns:
        Mask of components above 1 ml.
    """
    dense = image > threshold_hu
    if cut is not None:
        components, count = ndimage.label(dense)
        index = np.arange(1, count + 1)
        small = ndimage.sum_labels(dense, components, index) * spacing_mm**3 < 250_000
        other = small & (ndimage.mean(cut, components, index) > 0.3)
        dense &= ~cut & ~np.concatenate([[False], other])[components]
    pad = 4
    padded = np.pad(dense, pad, mode="edge")
    closed = ndimage.binary_closing(padded, ball(6.0 / spacing_mm))
    # marrow is above fat and water; the spinal canal, about 30-40 HU but wide, is not closed
    padded_image = np.pad(image, pad, mode="edge")
    closed &= padded_image > 60
    for k in range(closed.shape[2]):
        closed[:, :, k] = _filled(closed[:, :, k], padded_image[:, :, k], spacing_mm)
    closed = closed[pad:-pad, pad:-pad, pad:-pad]
    if cut is not None:
        closed &= ~cut
    components, _ = ndimage.label(closed, np.ones((3, 3, 3)))
    sizes = np.bincount(components.ravel())
    large = sizes * spacing_mm**3 > 1000
    large[0] = False
    return np.asarray(large[components])


def _filled(mask: Mask, image: Image, spacing_mm: float) -> Mask:
    """Fill the holes of a slice that hold marrow: small, or denser than the spinal canal."""
    holes, count = ndimage.label(ndimage.binary_fill_holes(mask) & ~mask)
    if count == 0:
        return mask
    index = np.arange(1, count + 1)
    area = ndimage.sum_labels(holes > 0, holes, index) * spacing_mm**2
    marrow = (area < 150) | ((area < 2000) & (ndimage.mean(image, holes, index) > 75))
    return np.asarray(mask | np.concatenate([[False], marrow])[holes])


def grow(image: Image, seeds: Mask, rivals: Mask, domain: Mask, contrast_hu: float = 10.0) -> Mask:
    """Grow seeds over a domain against rival seeds.

    Args:
        image: (I, J, K) smoothed HU.
        seeds: what surely is the organ.
        rivals: what surely is not; rivals inside `seeds` do not count.
        domain: where the organ may be; seeds belong to it anyway.
        contrast_hu: step between neighbours at which the walk is e times less likely.

    Returns:
        Mask of the voxels from where a random walker meets `seeds` before `rivals`.
    """
    markers = np.where(domain, 0, -1).astype(np.int32)
    markers[rivals & domain] = 2
    markers[seeds] = 1
    components, _ = ndimage.label(markers >= 0)
    reached = np.unique(components[seeds])
    markers[~np.isin(components, reached)] = -1
    box = ndimage.find_objects((markers >= 0).astype(np.uint8))[0] if seeds.any() else None
    if box is None or not (markers == 2).any() or not (markers == 0).any():
        return np.asarray((markers >= 0) & (markers != 2))
    data = image[box].astype(np.float64) / contrast_hu
    # skimage divides squared differences by 10 data.std(); beta takes that back
    with warnings.catch_warnings():
        # skimage stops after 30 conjugate gradient steps, about 90 mm on a 3 mm grid: enough here,
        # but it warns of places that the walk has not settled
        warnings.filterwarnings("ignore", message="The probability range", category=UserWarning)
        found = random_walker(data, markers[box], beta=10 * data.std(), mode="cg_j", tol=1e-2)
    grown = np.zeros(image.shape, dtype=bool)
    grown[box] = found == 1
    return grown


def annotate(volume: Volume, given: Annotation) -> NDArray[np.uint8]:
    """Turn one person's seeds into a labelmap on the volume's own grid.

    Returns:
        (I, J, K) of `volume`: label values of `pasta.labels`, 0 background, 255 unknown.
    """
    turned = reoriented(volume, "RAS")
    step = given.spacing_mm
    grid = resampled_grid(turned.grid, (step, step, step))
    image = _resampled(turned, grid)
    inside = body(image)
    image[~inside] = -1000
    smooth = ndimage.gaussian_filter(image, 0.6)
    drawn = {name: draw(strokes, grid) for name, strokes in given.seeds.items()}
    cuts = {name: draw(strokes, grid) for name, strokes in given.cuts.items()}
    masks: dict[str, Mask] = {}
    if "lung" in drawn:
        masks["lung"] = lung(image, drawn["lung"], step, cuts.get("lung")) & inside
    grown_names = [n for n in drawn if n not in (*_RULED, "unknown")]
    dense = bone(
        image, step, given.bone_hu, _union(cuts.get("bone"), *(drawn[n] for n in grown_names))
    )
    air = masks.get("lung", np.zeros_like(inside)) | (image < -250)
    wall = (
        inside
        & ~ndimage.binary_erosion(
            np.pad(inside, ((0, 0), (0, 0), (5, 5)), mode="edge"), _FACES, int(given.wall_mm / step)
        )[:, :, 5:-5]
    )
    claimed = air | ~inside
    for name in grown_names:
        if not _is_label(name):
            masks[name] = drawn[name]  # a rival: its seeds do, wherever else it reaches
            continue
        rivals = _union(wall, *(drawn[n] for n in grown_names if n != name))
        masks[name] = _organ(smooth, drawn[name], rivals, claimed, dense, name, given, grid)
        claimed = claimed | masks[name]
    for name, strokes in given.gas.items():
        gas = (image < -200) & inside & ~masks.get("lung", np.zeros_like(inside))
        if name in given.limits:
            gas &= draw(given.limits[name], grid)
        gas = ndimage.binary_dilation(touching(gas, draw(strokes, grid)), _FACES)
        others = _union(np.zeros_like(inside), *(m for n, m in masks.items() if n != name))
        masks[name] = masks.get(name, np.zeros_like(inside)) | (gas & ~others & (image < 150))
    enhanced = [
        masks[n] for n in grown_names if smooth[masks[n]].size and smooth[masks[n]].mean() > 90
    ]
    organs = _union(np.zeros_like(inside), *enhanced)
    masks["bone"] = dense & ~ndimage.binary_dilation(organs, _FACES)
    if "bone" in cuts:  # the rim of what was cut from bone may be either
        rim = ndimage.binary_dilation(cuts["bone"], _FACES, iterations=3) & masks["bone"]
        drawn["unknown"] = _union(rim, drawn.get("unknown"))
    labelmap = _on_grid(masks, grid, turned)
    doubt = _doubt(masks, grown_names, smooth, grid) | _union(
        np.zeros_like(inside), drawn.get("unknown")
    )
    labelmap[_nearest(doubt, grid, turned.grid)] = UNKNOWN
    return _turned_back(labelmap, turned, volume)


def _union(first: Mask | None, *others: Mask | None) -> Mask:
    present = [m for m in (first, *others) if m is not None]
    return np.asarray(np.logical_or.reduce(present))


def _organ(
    smooth: Image,
    seeds: Mask,
    rivals: Mask,
    barrier: Mask,
    dense: Mask,
    name: str,
    given: Annotation,
    grid: Grid,
) -> Mask:
    """Grow one organ where it has the HU of its seeds, then break off what hangs by a thread."""
    whole = np.zeros(grid.shape, dtype=bool)
    if not seeds.any():
        return whole
    step = grid.spacing_mm[0]
    low, high = given.window_hu.get(name, _window(smooth[seeds]))
    reach = given.reach_mm.get(name, 40.0)
    if name in given.limits:
        barrier = barrier | ~draw(given.limits[name], grid)
    if name in given.cuts:
        barrier = barrier | draw(given.cuts[name], grid)
    if high < _ENHANCED_HU:
        barrier = barrier | (dense & (smooth > 150))
    margin = int(reach / step) + 3
    box = tuple(
        slice(max(0, s.start - margin), s.stop + margin)
        for s in ndimage.find_objects(seeds.astype(np.uint8))[0]
    )
    smooth, seeds, rivals, barrier = smooth[box], seeds[box], rivals[box], barrier[box]
    near = ndimage.distance_transform_edt(~seeds, sampling=step) <= reach
    domain = (smooth >= low) & (smooth <= high) & near & ~barrier
    mask = grow(smooth, seeds, rivals, domain, given.contrast_hu)
    pad = np.pad(mask, 2, mode="edge")  # an organ cut by the field of view has no border there
    core = ndimage.binary_opening(pad, ball(given.opening_mm / step))
    core = touching(core, np.pad(seeds, 2))
    mask = (ndimage.binary_dilation(core, _FACES) & pad)[2:-2, 2:-2, 2:-2] | (mask & seeds)
    closed = ndimage.binary_closing(np.pad(mask, 2, mode="edge"), ball(2.0))[2:-2, 2:-2, 2:-2]
    solid = ndimage.binary_fill_holes(closed) & ~barrier
    whole[box] = solid | (_partial(smooth, solid, float(low)) & ~barrier & ~rivals)
    return whole


def _partial(smooth: Image, mask: Mask, below_hu: float) -> Mask:
    """Find the rim that an organ shares with fat or air: more than half organ by its HU.

    Without it the range of HU of an organ makes it 2 mm too thin there.
    """
    lowest = ndimage.minimum_filter(smooth, size=3)
    half = (np.median(smooth[mask]) + lowest) / 2 if mask.any() else smooth
    rim = ndimage.binary_dilation(mask, _FACES) & ~mask
    return np.asarray(rim & (smooth < below_hu) & (lowest < -30) & (smooth > half))


def _window(values: Image) -> tuple[float, float]:
    """Guess the range of HU of an organ from those of its seeds."""
    low, high = np.percentile(values, [5, 95])
    return float(low) - 15, float(high) + 25


def _doubt(masks: Mapping[str, Mask], grown: Sequence[str], smooth: Image, grid: Grid) -> Mask:
    """Mark both sides of borders that no step of HU shows: organ against other soft tissue."""
    doubt = np.zeros(grid.shape, dtype=bool)
    for name in grown:
        if not _is_label(name):
            continue
        mask = masks[name]
        rim = ndimage.binary_dilation(mask) & ~mask
        step = np.abs(smooth - np.float32(np.median(smooth[mask]) if mask.any() else 0))
        unclear = rim & (step < 35)
        doubt |= unclear | (ndimage.binary_dilation(unclear) & mask)
    return doubt


def _is_label(name: str) -> bool:
    try:
        label_named(name)
    except LabelError:
        return False
    return True


def _resampled(turned: Volume, grid: Grid) -> Image:
    """Bring HU to the working grid, averaging where it is coarser."""
    ratio = np.asarray(grid.spacing_mm) / np.asarray(turned.grid.spacing_mm)
    sigma = np.where(ratio > 1, 0.42 * np.sqrt(np.maximum(ratio**2 - 1, 0)), 0)
    image = ndimage.gaussian_filter(turned.voxels.astype(np.float32), sigma, mode="nearest")
    return _interpolated(image, turned.affine, grid)


def _interpolated(array: Image, affine: FloatArray, grid: Grid) -> Image:
    transform = np.linalg.inv(affine) @ grid.affine
    result: Image = ndimage.affine_transform(
        array, transform[:3, :3], transform[:3, 3], grid.shape, order=1, mode="nearest"
    )
    return result


def _nearest(mask: Mask, grid: Grid, wanted: Grid) -> Mask:
    transform = np.linalg.inv(grid.affine) @ wanted.affine
    result: Mask = ndimage.affine_transform(
        mask, transform[:3, :3], transform[:3, 3], wanted.shape, order=0, mode="nearest"
    )
    return result


def _on_grid(masks: Mapping[str, Mask], grid: Grid, turned: Volume) -> NDArray[np.uint8]:
    """Bring masks to the volume's own grid, the likeliest label at each voxel."""
    shape: Shape = turned.grid.shape
    best = np.full(shape, 0.5, dtype=np.float32)
    labelmap = np.zeros(shape, dtype=np.uint8)
    for name, mask in masks.items():
        share = _interpolated(mask.astype(np.float32), grid.affine, turned.grid)
        wins = share > best
        best[wins] = share[wins]
        labelmap[wins] = label_named(name).value if _is_label(name) else 0
    fatty = ndimage.gaussian_filter(turned.voxels.astype(np.float32), 0.7) < -50
    soft = (labelmap > 1) & (labelmap != label_named("colorectum").value)
    soft &= labelmap != label_named("stomach").value  # these two may hold gas
    labelmap[soft & fatty] = 0
    return labelmap


def _turned_back(labelmap: NDArray[np.uint8], turned: Volume, volume: Volume) -> NDArray[np.uint8]:
    result = reoriented(Volume(labelmap, turned.affine), volume.grid.axcodes)
    return np.ascontiguousarray(result.voxels)


def read_annotations(path: Path = SEEDS) -> dict[str, Annotation]:
    """Read the seeds of all cases.

    Raises:
        LabelError: if an organ that is called complete has no seeds and no rule.
    """
    annotations: dict[str, Annotation] = {}
    for case, table in tomllib.loads(path.read_text(encoding="utf-8")).items():
        fields: dict[str, Any] = dict(table)
        for key in ("seeds", "limits", "cuts", "gas"):
            fields[key] = {
                name: tuple(
                    Stroke(
                        float(radius), tuple((float(x), float(y), float(z)) for x, y, z in points)
                    )
                    for radius, *points in strokes
                )
                for name, strokes in fields.get(key, {}).items()
            }
        fields["window_hu"] = {n: (lo, hi) for n, (lo, hi) in fields.get("window_hu", {}).items()}
        fields["complete"] = tuple(fields["complete"])
        unseeded = set(fields["complete"]) - set(fields["seeds"]) - {"bone"}
        if unseeded:
            msg = f"{path}: {case} calls {sorted(unseeded)} complete but has no seeds of them; add some."
            raise LabelError(msg)
        fields["lesions"] = {int(v): name for v, name in fields.get("lesions", {}).items()}
        annotations[case] = Annotation(case=case, **fields)
    return annotations


def main(argv: Sequence[str] | None = None) -> int:
    """Regenerate the masks of all cases, or of some."""
    parser = argparse.ArgumentParser(prog="training.annotation", description=__doc__)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder that holds ct/<case>/ct.nii.gz"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for <case>.nii.gz and .json"
    )
    parser.add_argument("--seeds", type=Path, default=SEEDS, help="default: %(default)s")
    parser.add_argument("cases", nargs="*", help="default: all in the seeds file")
    args = parser.parse_args(argv)
    try:
        annotations = read_annotations(args.seeds)
        for case in args.cases or annotations:
            write(args.data / "ct" / case / "ct.nii.gz", annotations[case], args.out)
    except PastaError as error:
        print(f"training.annotation: {error}", file=sys.stderr)
        return 2
    return 0


def write(path: Path, given: Annotation, out: Path) -> None:
    """Annotate the CT at `path` and write its labelmap and the list of complete organs."""
    if not path.is_file():
        msg = f"{path}: no such CT. Name the folder that holds ct/<case>/ct.nii.gz with --data."
        raise VolumeError(msg)
    volume = read_volume(path)
    labelmap = annotate(volume, given)
    if given.lesions:
        contours = nib.Nifti1Image.from_filename(path.with_name("lesions.nii.gz"))
        drawn = np.asanyarray(contours.dataobj)
        for value, name in given.lesions.items():
            labelmap[drawn == value] = UNKNOWN if name == "unknown" else label_named(name).value
    out.mkdir(parents=True, exist_ok=True)
    result = nib.Nifti1Image(labelmap, volume.affine)
    result.set_data_dtype(np.uint8)
    nib.save(result, out / f"{given.case}.nii.gz")
    text = json.dumps({"complete": list(given.complete)}, indent=2) + "\n"
    (out / f"{given.case}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
