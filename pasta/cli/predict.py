"""`pasta predict`: one CT to mask, tumour probability and report, without a server."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pasta.errors import DicomError

if TYPE_CHECKING:
    import argparse

TASKS = ("segmentation", "screening", "report")  # those of pasta.casework, which imports much


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    parser.add_argument("ct", type=Path, help="CT: NIfTI, NRRD, MetaImage or a DICOM series folder")
    parser.add_argument(
        "-o", "--output", type=Path, help="folder for the results (default: named after the CT)"
    )
    parser.add_argument("--organs", nargs="+", metavar="ORGAN", help="only these organs")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="what to do")
    parser.add_argument("--mask", type=Path, help="report on these labels instead of segmenting")
    parser.add_argument("--evidence", action="store_true", help="write the screening evidence map")
    parser.add_argument(
        "--dicom", action="store_true", help="write SEG, SR, PDF and FHIR too; of a DICOM series"
    )
    parser.add_argument("--models", type=Path, help="folder of models (default: those shipped)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--overlap", type=float, default=0.5, help="of sliding windows")
    parser.add_argument("--mirror", action="store_true", help="average eight flips; 8 times slower")


def run(args: argparse.Namespace) -> int:
    """Do the whole job and write the results.

    Raises:
        PastaError: for bad input, missing weights or an output that cannot be written.
    """
    from tqdm import tqdm

    from pasta.casework import done_tasks, write_results
    from pasta.inference.pipeline import Pipeline
    from pasta.io import read_labelmap, read_volume
    from pasta.networks.checkpoint import find_models

    if args.dicom and not args.ct.is_dir():
        msg = f"{args.ct.name}: --dicom needs a DICOM series folder, which results can refer to."
        raise DicomError(msg)
    volume = read_volume(args.ct)
    for warning in volume.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    labelmap = read_labelmap(args.mask, volume.grid) if args.mask else None
    folder = args.output or Path(args.ct.name.split(".")[0] + "_pasta")
    pipeline = Pipeline(
        find_models(args.models), device=args.device, overlap=args.overlap, mirror=args.mirror
    )
    with tqdm(total=100, unit="%", disable=None, bar_format="{l_bar}{bar}| {postfix}") as bar:

        def progress(fraction: float, stage: str) -> None:
            bar.set_postfix_str(stage, refresh=False)
            bar.update(round(100 * fraction) - bar.n)

        results = done_tasks(
            pipeline,
            volume,
            args.tasks,
            args.organs,
            labelmap=labelmap,
            evidence=args.evidence,
            progress=progress,
        )
    written = write_results(folder, volume, results.labelmap, results.documents, results.evidence)
    for path in written:
        print(path)
    if args.dicom:
        from pasta.dicom.export import export_case

        for path in export_case(folder, args.ct, folder / "dicom"):
            print(path)
    return 0
