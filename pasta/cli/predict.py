"""`pasta predict`: one CT to mask, tumour probability and report, without a server."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pasta.errors import DicomError, OutputError

if TYPE_CHECKING:
    import argparse

    from pasta.geometry import Volume

TASKS = ("segmentation", "screening", "report")


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
    documents: dict[str, dict[str, Any]] = {}
    with tqdm(total=100, unit="%", disable=None, bar_format="{l_bar}{bar}| {postfix}") as bar:

        def progress(fraction: float, stage: str) -> None:
            bar.set_postfix_str(stage, refresh=False)
            bar.update(round(100 * fraction) - bar.n)

        evidence = None
        if "report" in args.tasks:
            reported = pipeline.report(volume, labelmap, args.organs, progress=progress)
            labelmap = reported.labelmap
            documents["report"] = reported.document()
        elif "segmentation" in args.tasks or labelmap is None:
            segmented = pipeline.segmentation(volume, args.organs, progress=progress)
            labelmap = segmented.labelmap
            documents["segmentation"] = segmented.document()
        if "screening" in args.tasks:
            bar.reset(total=100)
            screened = pipeline.screening(
                volume,
                [organ for organ in args.organs if organ in pipeline.models.screening]
                if args.organs
                else None,
                labelmap,
                evidence=args.evidence,
                progress=progress,
            )
            documents["screening"] = screened.document()
            evidence = screened.evidence
    for path in write_results(folder, volume, labelmap, documents, evidence):
        print(path)
    if args.dicom:
        from pasta.dicom.export import export_case

        for path in export_case(folder, args.ct, folder / "dicom"):
            print(path)
    return 0


def write_results(
    folder: Path,
    volume: Volume,
    labelmap: Volume | None,
    documents: dict[str, dict[str, Any]],
    evidence: Volume | None = None,
) -> list[Path]:
    """Write what the tasks answered into one folder.

    Args:
        folder: made if missing.
        volume: the CT, for the overview.
        labelmap: on the CT's grid; written as `mask.nii.gz` and `mask.seg.nrrd`.
        documents: by task name; each becomes `<task>.json`, the report also `report.txt`.
        evidence: written as `evidence.nrrd`.

    Returns:
        The paths written; the last is `overview.png`, when there is a labelmap.

    Raises:
        OutputError: if a file cannot be written.
    """
    from pasta.io import write_image, write_labelmap
    from pasta.overview import write_overview

    written: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for task, document in documents.items():
            path = folder / f"{task}.json"
            path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
            written.append(path)
        if "report" in documents:
            path = folder / "report.txt"
            path.write_text(documents["report"]["text"] + "\n", encoding="utf-8")
            written.append(path)
    except OSError as error:
        msg = f"{folder}: cannot write results ({error.strerror}). Choose another folder with -o."
        raise OutputError(msg) from error
    if evidence is not None:
        write_image(evidence, folder / "evidence.nrrd")
        written.append(folder / "evidence.nrrd")
    if labelmap is not None:
        for name in ("mask.nii.gz", "mask.seg.nrrd"):
            write_labelmap(labelmap, folder / name)
            written.append(folder / name)
        overview = folder / "overview.png"
        write_overview(
            volume, labelmap, documents.get("screening"), documents.get("report"), overview
        )
        written.append(overview)
    return written
