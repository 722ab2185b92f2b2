"""Measure a segmentation model on real CTs: `python -m training.evaluate --data FOLDER CASE ...`.

Dice on the CT's own grid, organs counted with their lesions; writes a table and, if asked, JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pasta.errors import PastaError, VolumeError
from pasta.evaluation.overlap import dice_of_labels, mean_dice
from pasta.labels import LESIONS, ORGANS, lesions_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pasta.inference.segmentation import Segmenter

UNKNOWN = 255


def structures(complete: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Name what can be measured where these labels are complete, with the values that make it up."""
    known = set(complete)
    out = {
        organ.name: (organ.value, *(lesion.value for lesion in lesions_of(organ.name)))
        for organ in ORGANS
        if organ.name in known
    }
    return out | {lesion.name: (lesion.value,) for lesion in LESIONS if lesion.name in known}


def evaluate_case(segmenter: Segmenter, folder: Path, annotations: Path | None) -> dict[str, float]:
    """Segment one CT and compare it with its reference.

    Raises:
        VolumeError: if the folder holds no CT or nothing is labelled.
    """
    from training.references import read_nifti, reference_labels

    if not (folder / "ct.nii.gz").exists():
        msg = f"{folder}: holds no ct.nii.gz. Name cases as in the folder ct of --data."
        raise VolumeError(msg)
    volume = read_nifti(folder / "ct.nii.gz")
    reference, complete = reference_labels(folder, volume.voxels.shape, annotations)
    if not complete:
        msg = f"{folder}: nothing is labelled there. Give --annotations or leave the case out."
        raise VolumeError(msg)
    prediction = segmenter.segment(volume).voxels
    return dice_of_labels(prediction, reference, structures(complete), ignore=UNKNOWN)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluate",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("cases", nargs="+", help="names of folders in ct/ of the data folder")
    parser.add_argument("--data", type=Path, required=True, help="data folder")
    parser.add_argument("--annotations", type=Path, help="folder of training.annotation")
    parser.add_argument("--model", type=Path, default=Path("pasta/weights/segmentation"))
    parser.add_argument("--overlap", type=float, default=0.5, help="of sliding windows")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    args = build_parser().parse_args(argv)
    from pasta.inference.segmentation import Segmenter
    from pasta.networks.checkpoint import load_model

    scores: dict[str, dict[str, float]] = {}
    try:
        segmenter = Segmenter(load_model(args.model), overlap=args.overlap)
        for name in args.cases:
            start = time.perf_counter()
            scores[name] = evaluate_case(segmenter, args.data / "ct" / name, args.annotations)
            row = "  ".join(f"{key} {value:.3f}" for key, value in scores[name].items())
            print(f"{name}: {row}  ({time.perf_counter() - start:.0f} s)", flush=True)
    except PastaError as error:
        print(f"training.evaluate: {error}", file=sys.stderr)
        return 2
    for structure in sorted({key for row in scores.values() for key in row}):
        values = [row[structure] for row in scores.values() if structure in row]
        print(f"mean {structure}: {mean_dice(values):.3f} of {len(values)}")
    if args.json:
        document = {
            name: {key: None if math.isnan(value) else value for key, value in row.items()}
            for name, row in scores.items()
        }
        args.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
