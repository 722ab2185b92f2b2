"""Measure a segmentation model: `python -m training.evaluate --data FOLDER CASE ...`.

A case is a folder in ct/ of the data folder, or a volume of the sample study, such as
sample_portal_venous. Dice is computed on the grid of the CT, organs counted with their lesions.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pasta.errors import PastaError, VolumeError
from pasta.evaluation.detection import lesions_found
from pasta.evaluation.overlap import dice_of_labels, mean_dice
from pasta.geometry import Volume, reoriented
from pasta.labels import LABELS, LESIONS, ORGANS, lesions_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

UNKNOWN = 255
NO_DERIVATIVES = "ND"  # in a folder's name: no pictures of that case


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """One case with its reference, its prediction and the numbers."""

    name: str
    volume: Volume
    prediction: NDArray[np.uint8]
    dice: dict[str, float]
    found: dict[str, tuple[int, int]]


def structures(complete: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Name what can be measured where these labels are complete, with the values that make it up."""
    known = set(complete)
    out = {
        organ.name: (organ.value, *(lesion.value for lesion in lesions_of(organ.name)))
        for organ in ORGANS
        if organ.name in known
    }
    return out | {lesion.name: (lesion.value,) for lesion in LESIONS if lesion.name in known}


def read_case(
    name: str, data: Path, annotations: Path | None, sample_seed: int
) -> tuple[Volume, NDArray[np.uint8], set[str]]:
    """Read or render a case.

    Returns:
        CT, reference labelmap (255 where nothing is known), and what is labelled completely.

    Raises:
        VolumeError: if the case is unknown or nothing is labelled in it.
    """
    from training.references import read_nifti, reference_labels
    from training.synthesis.phantom import SAMPLE_SPACING_MM, SAMPLES, draw_phantom, render_phantom

    for number, sample in enumerate(SAMPLES):
        if name == sample.name:
            rng = np.random.default_rng([sample_seed, number])
            recipe = draw_phantom(rng, phase=sample.phase, lesions=sample.lesions)
            ct, labelmap = render_phantom(recipe, SAMPLE_SPACING_MM)
            labels = labelmap.voxels.astype(np.uint8)
            drawn = {lesion.name for lesion in LESIONS if (labels == lesion.value).any()}
            return ct, labels, drawn | {organ.name for organ in ORGANS}
    folder = data / "ct" / name
    if not (folder / "ct.nii.gz").exists():
        samples = ", ".join(sample.name for sample in SAMPLES)
        msg = f"{folder}: holds no ct.nii.gz. Name folders of {data / 'ct'} or {samples}."
        raise VolumeError(msg)
    volume = read_nifti(folder / "ct.nii.gz")
    reference, complete = reference_labels(folder, volume.voxels.shape, annotations)
    if not complete:
        msg = f"{folder}: nothing is labelled there. Give --annotations or leave the case out."
        raise VolumeError(msg)
    return volume, reference, complete


def measured(
    name: str,
    volume: Volume,
    prediction: NDArray[np.uint8],
    reference: NDArray[np.uint8],
    complete: set[str],
) -> Measured:
    """Compare a prediction with its reference."""
    scores = dice_of_labels(prediction, reference, structures(complete), ignore=UNKNOWN)
    found = {
        lesion.name: lesions_found(prediction == lesion.value, reference == lesion.value)
        for lesion in LESIONS
        if lesion.name in complete
    }
    return Measured(name, volume, prediction, scores, found)


def draw_picture(cases: Sequence[Measured], path: Path) -> None:
    """Write a PNG: an axial, a coronal and a sagittal slice of each case with the labels on it."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

    colors = [
        (0.0, 0.0, 0.0),
        *((r / 255, g / 255, b / 255) for r, g, b in (label.color for label in LABELS)),
    ]
    figure = Figure(figsize=(12, 4.2 * len(cases)), facecolor="black", layout="constrained")
    axes = figure.subplots(len(cases), 3, squeeze=False)
    for row, case in zip(axes, cases, strict=True):
        hu = reoriented(case.volume, "LPS")
        labels = reoriented(Volume(case.prediction, case.volume.affine), "LPS").voxels
        i, j, k = hu.grid.spacing_mm
        middle = [n // 2 for n in hu.voxels.shape]
        organs = [np.count_nonzero((labels == 2) | (labels == 8), axis=a).max() for a in (0, 1)]
        if max(organs) > 0:
            middle[2] = int(np.argmax(np.count_nonzero(labels == 2, axis=(0, 1))))
            middle[0] = int(np.argmax(np.count_nonzero(labels == 2, axis=(1, 2))))
            middle[1] = int(np.argmax(np.count_nonzero((labels == 1) | (labels == 2), axis=(0, 2))))
        views = (
            (np.s_[:, :, middle[2]], j / i, "upper"),
            (np.s_[:, middle[1], :], k / i, "lower"),
            (np.s_[middle[0], :, :], k / j, "lower"),
        )
        for axis, (view, aspect, origin) in zip(row, views, strict=True):
            axis.imshow(
                hu.voxels[view].T,
                cmap=colormaps["gray"],
                vmin=-160,
                vmax=240,
                aspect=aspect,
                origin=origin,
            )
            shown = np.ma.masked_equal(labels[view].T, 0)
            axis.imshow(
                shown,
                cmap=ListedColormap(colors),
                vmin=0,
                vmax=len(colors) - 1,
                alpha=0.5,
                aspect=aspect,
                origin=origin,
                interpolation="nearest",
            )
            axis.axis("off")
        row[0].set_title(case.name, color="white")
    figure.savefig(path, dpi=70)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluate",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("cases", nargs="+", help="folders in ct/ of the data folder, or samples")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="data folder")
    parser.add_argument("--annotations", type=Path, help="folder of training.annotation")
    parser.add_argument("--model", type=Path, default=Path("pasta/weights/segmentation"))
    parser.add_argument("--sample-seed", type=int, default=7, help="of the sample study")
    parser.add_argument("--overlap", type=float, default=0.5, help="of sliding windows")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    parser.add_argument("--picture", type=Path, help="also draw the predictions here (PNG)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    args = build_parser().parse_args(argv)
    from pasta.inference.segmentation import Segmenter
    from pasta.networks.checkpoint import load_model

    cases: list[Measured] = []
    try:
        if args.picture and any(NO_DERIVATIVES in name.split("-") for name in args.cases):
            msg = (
                "a case's licence allows no derivatives, so no picture; leave it or --picture out."
            )
            raise VolumeError(msg)
        segmenter = Segmenter(load_model(args.model), overlap=args.overlap)
        for name in args.cases:
            volume, reference, complete = read_case(
                name, args.data, args.annotations, args.sample_seed
            )
            start = time.perf_counter()
            prediction = segmenter.segment(volume).voxels
            seconds = time.perf_counter() - start
            case = measured(name, volume, prediction, reference, complete)
            cases.append(case)
            row = [f"{key} {value:.3f}" for key, value in case.dice.items()]
            row += [f"{key} found {f} of {n}" for key, (f, n) in case.found.items()]
            print(f"{name}: {', '.join(row)} ({seconds:.0f} s)", flush=True)
    except PastaError as error:
        print(f"training.evaluate: {error}", file=sys.stderr)
        return 2
    for structure in sorted({key for case in cases for key in case.dice}):
        values = [case.dice[structure] for case in cases if structure in case.dice]
        print(f"mean {structure}: {mean_dice(values):.3f} of {len(values)}")
    if args.json:
        document = {
            case.name: {
                "dice": {k: None if math.isnan(v) else round(v, 4) for k, v in case.dice.items()},
                "found": {k: {"found": f, "there": n} for k, (f, n) in case.found.items()},
            }
            for case in cases
        }
        args.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    if args.picture:
        draw_picture(cases, args.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
