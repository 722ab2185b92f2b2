"""PASTA-Gen-30K's layout: `Organ/Type/ID/{img,label,total}.nii.gz` and `type.json`.

Beside them each case has `classes.nii.gz` (the 25 label values), `report.json` and `recipe.json`.
A case is written into a hidden folder that is renamed when it is complete, so a folder that is
there is a case that is whole, whatever killed the export.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from pasta.errors import OutputError, PastaError
from pasta.geometry import Volume
from pasta.io.files import atomic_file
from pasta.io.nifti import write_nifti
from pasta.labels import ORGANS, label_named
from pasta.report.attributes import ATTRIBUTE_NAMES, NOT_CLOSE, attribute_named
from pasta.workers import mapped
from training.synthesis.cases import SyntheticCase, box_around, drawn, recipes_of
from training.synthesis.planning import (
    PlanError,
    PlannedCase,
    opened,
    read_plan,
    read_spec,
    require_same_code,
)
from training.synthesis.templates import Template, TemplateStore
from training.tissues import LABEL_OF_TISSUE, TOTALSEGMENTATOR_V1, tissue_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZE = (280, 280, 280)  # of the published demonstration cases
MIN_PART = 0.05  # share of a lesion in an organ part from which the part is named
PART_SUFFIX = ".part"

# Folder names of PASTA-Gen-30K; that of bone is not known from any listing.
_ORGAN_FOLDERS: Mapping[str, str] = {
    "lung": "Lung",
    "liver": "Liver",
    "gallbladder": "Gall",
    "pancreas": "Pancreas",
    "esophagus": "Esophagus",
    "stomach": "Stomach",
    "colorectum": "Colon",
    "kidney": "Kidney",
    "bladder": "Bladder",
    "bone": "Bone",
}
# the public code writes "adjacent" where Extended Data Table 1 writes "surrounding"
_CODE_SPELLING = {NOT_CLOSE: "No close relationship with adjacent structures"}
_PART_VALUES: Mapping[str, tuple[int, ...]] = {
    organ.name: tuple(
        value
        for value, name in TOTALSEGMENTATOR_V1.items()
        if LABEL_OF_TISSUE.get(tissue_of(name)) == organ.name
    )
    for organ in ORGANS
}


@dataclass(frozen=True, slots=True)
class ExportTask:
    """One case to export, for a worker."""

    store: Path
    out: Path
    case: PlannedCase
    size: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class ExportSummary:
    """What an export did: cases written now, found whole, without a lesion, and the failed ones."""

    written: int
    found: int
    empty: int
    failed: tuple[tuple[int, str], ...]


def case_folder(case: PlannedCase) -> Path:
    """Folder of a case below the export's, such as `Liver/Tumor/17`."""
    lesion = label_named(case.type)
    kind = "Tumor" if lesion.malignant else "Cyst" if lesion.name.endswith("cyst") else "Stone"
    return Path(_ORGAN_FOLDERS[lesion.organ]) / kind / str(case.index)


def export_plan(
    plan: Path,
    store: TemplateStore,
    out: Path,
    *,
    size: tuple[int, int, int] = SIZE,
    limit: int | None = None,
    scheduler: str | None = None,
    workers: int | None = None,
    progress: Callable[[int], None] = lambda _done: None,
) -> ExportSummary:
    """Write the cases of a plan; those that are there are kept, leftovers of a killed run removed.

    Args:
        plan: folder of a finished plan.
        store: of its templates.
        out: folder of the data set.
        size: most voxels along i, j, k; a smaller template is not padded.
        limit: only the first so many cases.
        scheduler: address of a Dask scheduler.
        workers: processes on this machine.
        progress: called with the number of cases that were done.

    Raises:
        PlanError: if the plan is unfinished or damaged, or the folder holds another.
        OutputError: if a case cannot be written, most often for want of space; it leaves nothing.
    """
    require_same_code(plan, store)
    _claim(out, plan, size)
    cases = [case for case in read_plan(plan) if limit is None or case.number < limit]
    tasks, found, empty = [], 0, 0
    for case in cases:
        if not case.recipes:
            empty += 1
        elif (out / case_folder(case)).is_dir():
            found += 1
        else:
            tasks.append(ExportTask(store.folder.resolve(), out.resolve(), case, size))
    for leftover in out.glob(f"*/*/.*{PART_SUFFIX}"):
        shutil.rmtree(leftover, ignore_errors=True)
    progress(found + empty)
    written = 0
    failed = []
    for number, problem in mapped(export_case, tasks, scheduler=scheduler, workers=workers):
        if problem:
            failed.append((number, problem))
        else:
            written += 1
        progress(1)
    return ExportSummary(written, found, empty, tuple(sorted(failed)))


def _claim(out: Path, plan: Path, size: tuple[int, int, int]) -> None:
    """Note in the folder which plan it holds, or see that it holds this one."""
    asked = {"plan": read_spec(plan).document(), "size": list(size)}
    path = out / "export.json"
    text = json.dumps(asked, indent=1, sort_keys=True) + "\n"
    try:
        out.mkdir(parents=True, exist_ok=True)
        present = path.read_text(encoding="utf-8") if path.exists() else None
    except OSError as error:
        msg = f"{out}: cannot be used ({error.strerror}). Choose another folder."
        raise OutputError(msg) from error
    if present is None:
        with atomic_file(path) as file:
            file.write(text.encode())
    elif present != text:
        msg = f"{out}: holds the export of another plan or size. Choose a new folder."
        raise PlanError(msg)


def export_case(task: ExportTask) -> tuple[int, str]:
    """Write one case; runs in a worker.

    Returns:
        Its number, and what is wrong with its recipe or template; or "".

    Raises:
        OutputError: if it cannot be written.
    """
    try:
        template = opened(task.store, task.case.template)
        recipes = recipes_of(task.case.recipes, f"case {task.case.number}")
        centre = np.mean([recipe.centre for recipe in recipes], axis=0)
        case = drawn(template, recipes, box_around(template.shape, centre, task.size))
        total = total_of(case, TemplateStore(task.store).structures(template.id)[case.box])
    except OSError:
        raise
    except PastaError as error:
        return task.case.number, str(error)
    _write(task.out / case_folder(task.case), task.case, case, total)
    return task.case.number, ""


def total_of(case: SyntheticCase, healthy: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """TotalSegmentator v1 values of a case: of the healthy scan, moved where a lesion pushed.

    Args:
        case: as drawn.
        healthy: values of the template in the box of the case.
    """
    before = case.template.labels[case.box]
    after = case.labels
    total = healthy.copy()
    organ = (after > 0) & (after <= len(ORGANS))
    for value in np.unique(after[organ & (after != before)]):
        here = organ & (after == value) & (before != value)
        near = ndimage.find_objects(here.astype(np.uint8))[0]
        wide = tuple(
            slice(max(0, part.start - 12), min(n, part.stop + 12))
            for part, n in zip(near, here.shape, strict=True)
        )
        known = before[wide] == value
        if not known.any():
            continue
        nearest = ndimage.distance_transform_edt(
            ~known, return_distances=False, return_indices=True
        )
        total[wide][here[wide]] = healthy[wide][tuple(nearest)][here[wide]]
    gone = (before > 0) & (after == 0)
    total[gone] = 0
    return total


def type_document(
    planned: PlannedCase, case: SyntheticCase, total: NDArray[np.uint8]
) -> dict[str, Any]:
    """`type.json`: by TotalSegmentator v1 value of each organ part with a lesion, its attributes.

    Where several lesions lie in one part the attributes are those of the largest, and Size lists all.
    """
    lesion = label_named(planned.type)
    by_volume = sorted(planned.reports, key=lambda report: -float(report.get("volume_ml", 0)))
    mask = case.labels == lesion.value
    counts = np.bincount(total[mask], minlength=256)
    parts = [v for v in _PART_VALUES[lesion.organ] if counts[v] > MIN_PART * mask.sum()]
    if not parts:  # wholly outside: the nearest part
        organ = np.isin(total, _PART_VALUES[lesion.organ])
        if organ.any():
            nearest = ndimage.distance_transform_edt(
                ~organ, return_distances=False, return_indices=True
            )
            centre = tuple(round(c) for c in ndimage.center_of_mass(mask))
            parts = [int(total[tuple(axis[centre] for axis in nearest)])]
    entry = {}
    for name in ATTRIBUTE_NAMES:
        text = by_volume[0].get(name) if by_volume else None
        if name == "size":
            text = ", ".join(str(report.get("size") or "") for report in by_volume)
        text = "" if text is None else str(text)
        entry[attribute_named(name).title] = _CODE_SPELLING.get(text, text)
    return {str(value): entry for value in parts}


def read_export(out: Path) -> Iterator[Path]:
    """Folders of the cases that are whole, sorted."""
    yield from sorted(path for path in out.glob("*/*/[0-9]*") if path.is_dir())


def _write(
    target: Path, planned: PlannedCase, case: SyntheticCase, total: NDArray[np.uint8]
) -> None:
    lesion = label_named(planned.type)
    both = np.zeros(case.labels.shape, np.uint8)
    both[case.labels == label_named(lesion.organ).value] = 1
    both[case.labels == lesion.value] = 2
    part = target.with_name(f".{target.name}{PART_SUFFIX}")
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])  # as in the published cases: LPS, origin 0
    volumes: Sequence[tuple[str, NDArray[Any]]] = (
        ("img", case.hu),
        ("label", both),
        ("total", total),
        ("classes", case.labels),
    )
    documents = {
        "type": type_document(planned, case, total),
        "report": list(planned.reports),
        "recipe": {
            "template": planned.template,
            "box": [[part.start, part.stop] for part in case.box],
            "recipes": list(planned.recipes),
            "licence": case.template.licence,
            "source": case.template.source,
        },
    }
    try:
        part.mkdir(parents=True, exist_ok=True)
        for name, voxels in volumes:
            write_nifti(Volume(np.asarray(voxels), affine), part / f"{name}.nii.gz")
        for name, document in documents.items():
            with atomic_file(part / f"{name}.json") as file:
                file.write(json.dumps(document, indent=1).encode())
        part.rename(target)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        if isinstance(error, OutputError):
            raise
        msg = (
            f"{target}: the case cannot be written ({error.strerror}). Free space and run it again."
        )
        raise OutputError(msg) from error


def template_of_case(store: TemplateStore, case: PlannedCase) -> Template:
    """Open the template of a planned case."""
    return opened(store.folder.resolve(), case.template)
