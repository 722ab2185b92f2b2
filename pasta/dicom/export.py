"""All DICOM objects, the PDF and the FHIR document of one case, in files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pasta.dicom.fhir import diagnostic_report
from pasta.dicom.pdf import report_pdf
from pasta.dicom.segmentation import segmentation
from pasta.dicom.source import Source, read_source
from pasta.dicom.statements import Statements, masks, statements_of
from pasta.dicom.structured import report_sr, screening_sr
from pasta.errors import OutputError, ReportError
from pasta.io import read_labelmap
from pasta.io.files import atomic_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pydicom

    from pasta.geometry import Volume

MASK_FILES = ("mask.nii.gz", "mask.seg.nrrd")
REPORT_FILE, SCREENING_FILE, SEGMENTATION_FILE = (
    "report.json",
    "screening.json",
    "segmentation.json",
)


@dataclass(frozen=True, slots=True, eq=False)
class Objects:
    """DICOM objects of one case by what they are: "segmentation", "report", "screening"."""

    datasets: Mapping[str, pydicom.Dataset]
    statements: Statements | None


def objects_of(
    source: Source,
    labelmap: Volume | None = None,
    report: Mapping[str, Any] | None = None,
    screening: Mapping[str, Any] | None = None,
    *,
    models: tuple[Mapping[str, Any], ...] = (),
    reader: str = "",
) -> Objects:
    """Make the DICOM objects of what there is.

    Args:
        source: the CT series.
        labelmap: on its grid; an empty one makes no segmentation.
        report: the AI's or a reader's document.
        screening: document.
        models: that made the labelmap, where no report names them.
        reader: pseudonym of who made labelmap and report; "" for the AI alone.

    Raises:
        PastaError: as `segmentation`, `report_sr` and `screening_sr`.
    """
    statements = None if report is None else statements_of(report, reader)
    datasets: dict[str, pydicom.Dataset] = {}
    segments = None
    if labelmap is not None and labelmap.voxels.any():
        segments = segmentation(
            labelmap,
            source,
            lesions=statements.lesions if statements else (),
            models=masks(statements.models if statements else models),
            reader=reader,
        )
        datasets["segmentation"] = segments.dataset
    if statements is not None:
        datasets["report"] = report_sr(statements, source, segments)
    if screening is not None:
        datasets["screening"] = screening_sr(screening, source)
    return Objects(datasets, statements)


def export_case(
    case: Path, series: Path, folder: Path, *, reader: str = "", subject: str = ""
) -> list[Path]:
    """Write what `pasta predict` left in a folder as DICOM objects.

    Args:
        case: folder with a mask, `report.json`, `screening.json`, or some of them.
        series: folder of the CT series that they are of.
        folder: for the results; made if missing.
        reader: pseudonym, where a person corrected mask or report.
        subject: FHIR reference of the patient, such as "Patient/123".

    Returns:
        The files written: `segmentation.dcm`, `report.dcm`, `screening.dcm`, `report.pdf`,
        `report.fhir.json`. Those in DICOM name the patient, the other two do not.

    Raises:
        PastaError: if there is nothing to export, or it does not fit the series.
    """
    source = read_source(series)
    mask = next((case / name for name in MASK_FILES if (case / name).is_file()), None)
    labelmap = read_labelmap(mask) if mask else None
    report, screening = _json(case / REPORT_FILE), _json(case / SCREENING_FILE)
    if labelmap is None and report is None and screening is None:
        msg = (
            f"{case.name}: no mask, report or screening inside. Give the output of `pasta predict`."
        )
        raise OutputError(msg)
    models = (_json(case / SEGMENTATION_FILE) or {}).get("model", ())
    made = objects_of(source, labelmap, report, screening, models=tuple(models), reader=reader)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"{folder}: cannot be made ({error.strerror}). Choose another folder with -o."
        raise OutputError(msg) from error
    written = []
    for name, dataset in made.datasets.items():
        path = folder / f"{name}.dcm"
        save(dataset, path)
        written.append(path)
    if made.statements is not None:
        pdf = report_pdf(made.statements)
        issued = str((report or {}).get("created", ""))
        fhir = diagnostic_report(made.statements, subject=subject, issued=issued, pdf=pdf)
        texts = {"report.pdf": pdf, "report.fhir.json": json.dumps(fhir, indent=2).encode() + b"\n"}
        for name, content in texts.items():
            with atomic_file(folder / name) as file:
                file.write(content)
            written.append(folder / name)
    return written


def save(dataset: pydicom.Dataset, path: Path) -> None:
    """Write a DICOM file, whole or not at all.

    Raises:
        OutputError: if it cannot be written.
    """
    with atomic_file(path) as file:
        dataset.save_as(file, write_like_original=False)


def _json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f"{path.name}: cannot be read as JSON. Run `pasta predict` again."
        raise ReportError(msg) from error
    if not isinstance(document, dict):
        msg = f"{path.name}: expected a JSON object. Run `pasta predict` again."
        raise ReportError(msg)
    return document
