"""One case through the tasks, and its results as files: what `predict` and `batch` share."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pasta.errors import OutputError
from pasta.inference.progress import Progress, part_of, silent
from pasta.io import write_image, write_labelmap
from pasta.overview import write_overview

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from pasta.geometry import Volume
    from pasta.inference.pipeline import Pipeline

TASKS = ("segmentation", "screening", "report")
_SCREENING_FROM = 0.85  # of the progress, where the labels are made before


@dataclass(frozen=True, slots=True, eq=False)
class Results:
    """What the tasks answered on one CT.

    Attributes:
        documents: JSON-ready, by task.
        labelmap: on the CT's grid; made by the network or as given.
        evidence: of the screening, on the same grid; None if not asked for.
    """

    documents: dict[str, dict[str, Any]]
    labelmap: Volume | None
    evidence: Volume | None


def done_tasks(
    pipeline: Pipeline,
    volume: Volume,
    tasks: Collection[str],
    organs: Sequence[str] | None = None,
    *,
    labelmap: Volume | None = None,
    evidence: bool = False,
    progress: Progress | None = None,
) -> Results:
    """Run tasks on one CT; it is segmented once at most.

    Args:
        pipeline: of the models.
        volume: CT in HU.
        tasks: of `TASKS`; a report holds what the segmentation says, so that has no document then.
        organs: restrict to these; those without a screening model are only not screened.
        labelmap: as marked by someone, on the CT's grid; None segments.
        evidence: also map what the screening saw.
        progress: rises to 1.

    Raises:
        PastaError: as the pipeline.
    """
    progress = progress or silent
    documents: dict[str, dict[str, Any]] = {}
    screened_organs = None
    if organs:
        screened_organs = [organ for organ in organs if organ in pipeline.models.screening]
        if not screened_organs and set(tasks) == {"screening"}:
            screened_organs = list(organs)  # refused, with the organs that there are
    screening = "screening" in tasks
    first = part_of(progress, 0.0, _SCREENING_FROM if screening else 1.0)
    heat = None
    if "report" in tasks:
        reported = pipeline.report(volume, labelmap, organs, progress=first)
        labelmap = reported.labelmap
        documents["report"] = reported.document()
    elif "segmentation" in tasks or labelmap is None:
        segmented = pipeline.segmentation(volume, organs, progress=first)
        labelmap = segmented.labelmap
        documents["segmentation"] = segmented.document()
    if screening and screened_organs != []:
        screened = pipeline.screening(
            volume,
            screened_organs,
            labelmap,
            evidence=evidence,
            progress=part_of(progress, _SCREENING_FROM, 1.0),
        )
        documents["screening"] = screened.document()
        heat = screened.evidence
    return Results(documents, labelmap, heat)


def write_results(
    folder: Path,
    volume: Volume,
    labelmap: Volume | None,
    documents: dict[str, dict[str, Any]],
    evidence: Volume | None = None,
    *,
    pictures: bool = True,
) -> list[Path]:
    """Write what the tasks answered into one folder.

    Args:
        folder: made if missing.
        volume: the CT, for the overview.
        labelmap: on the CT's grid; written as `mask.nii.gz` and `mask.seg.nrrd`.
        documents: by task name; each becomes `<task>.json`, the report also `report.txt`.
        evidence: written as `evidence.nrrd`.
        pictures: False leaves `mask.seg.nrrd` and `overview.png` out.

    Returns:
        The paths written; the last is `overview.png`, when there is a labelmap and pictures are wanted.

    Raises:
        OutputError: if a file cannot be written.
    """
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
        for name in ("mask.nii.gz", "mask.seg.nrrd")[: 2 if pictures else 1]:
            write_labelmap(labelmap, folder / name)
            written.append(folder / name)
    if labelmap is not None and pictures:
        overview = folder / "overview.png"
        write_overview(
            volume, labelmap, documents.get("screening"), documents.get("report"), overview
        )
        written.append(overview)
    return written
