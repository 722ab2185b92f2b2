"""The public tumour challenges: Medical Segmentation Decathlon, KiTS23 and LiTS."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pasta.labels import label_named
from training.datasets.files import missing_files, read_json, read_table, require_folder
from training.datasets.licences import Licence
from training.datasets.records import (
    CaseRecord,
    DatasetError,
    Mask,
    Meaning,
    Origin,
    Problem,
    without_suffix,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from training.datasets.records import Value

Found = tuple[list[CaseRecord], list[Problem]]

MSD = Origin(
    title="Medical Segmentation Decathlon",
    page="http://medicaldecathlon.com/",
    licence=Licence("CC BY-SA 4.0"),
    needs="a task folder such as Task06_Lung (dataset.json, imagesTr/, labelsTr/), or the folder "
    "that holds several; tasks 01, 03, 06, 07, 08 and 10 are read",
)
KITS23 = Origin(
    title="KiTS23",
    page="https://kits-challenge.org/kits23/",
    licence=Licence("CC BY-NC-SA 4.0"),
    needs="dataset/case_NNNNN/imaging.nii.gz and segmentation.nii.gz; kits23.json beside the cases "
    "adds clinical data",
)
LITS = Origin(
    title="LiTS",
    page="https://competitions.codalab.org/competitions/17094",
    licence=Licence("CC BY-NC-ND 4.0"),
    needs="volume-N.nii with segmentation-N.nii, in one folder or in the batches as published",
)


@dataclass(frozen=True, slots=True)
class _Task:
    """What a task of the Decathlon labels."""

    values: Mapping[int, Meaning]
    complete: tuple[str, ...]
    channels: tuple[str, ...] = ("CT",)


# the mass of the pancreas task is tumour or cyst; the paper's radiologist told them apart
PANCREATIC_MASS: Meaning = ("pancreatic_tumor", "pancreatic_cyst")
_TASKS = {
    1: _Task(
        {1: ("ignored",), 2: ("ignored",), 3: ("ignored",)}, (), ("FLAIR", "T1w", "T1gd", "T2w")
    ),
    3: _Task({1: ("liver",), 2: ("liver_tumor",)}, ("liver", "liver_tumor")),
    6: _Task({1: ("lung_tumor",)}, ("lung_tumor",)),
    7: _Task({1: ("pancreas",), 2: PANCREATIC_MASS}, ("pancreas",)),
    8: _Task({1: ("ignored",), 2: ("liver_tumor",)}, ("liver_tumor",)),
    10: _Task({1: ("colorectal_cancer",)}, ("colorectal_cancer",)),
}


def read_msd(root: Path, *, pancreas: Path | None = None) -> Found:
    """Read one or several tasks of the Decathlon.

    Args:
        root: see `MSD.needs`.
        pancreas: CSV with the columns case and label, which tells pancreatic_tumor from
            pancreatic_cyst for cases of task 07; without it their mass may be either.

    Raises:
        DatasetError: if no task is found or its dataset.json does not fit.
    """
    require_folder(root)
    folders = (
        [root]
        if (root / "dataset.json").exists()
        else sorted(path.parent for path in root.glob("*/dataset.json"))
    )
    if not folders:
        msg = f"{root.name}: holds no dataset.json. Expected {MSD.needs}."
        raise DatasetError(msg)
    kinds = _pancreas_kinds(pancreas) if pancreas else {}
    cases: list[CaseRecord] = []
    problems: list[Problem] = []
    for folder in folders:
        number = re.match(r"Task(\d+)", folder.resolve().name)
        task = _TASKS.get(int(number[1])) if number else None
        if task is None:
            known = ", ".join(f"{n:02d}" for n in _TASKS)
            problem = (
                f"{folder.name}: not one of the tasks {known} by its name. Keep the name of the "
                "published folder, or read it as nnunet."
            )
            if len(folders) == 1:
                raise DatasetError(problem)
            problems.append(Problem("", problem))
            continue
        found, wrong = _read_task(folder, task, kinds)
        cases += found
        problems += wrong
    return cases, problems


def _read_task(folder: Path, task: _Task, kinds: Mapping[str, str]) -> Found:
    document = read_json(folder / "dataset.json")
    try:
        names = {int(value): str(name) for value, name in document["labels"].items()}
        training = [(folder / e["image"], folder / e["label"]) for e in document["training"]]
        test = [folder / name for name in document.get("test", ())]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        msg = f"{folder.name}/dataset.json: labels or training are not as the Decathlon has them. "
        raise DatasetError(msg + "Download it again, or read the folder as nnunet.") from error
    if set(names) - {0} != set(task.values):
        msg = (
            f"{folder.name}/dataset.json: labels {sorted(set(names) - {0})}, expected "
            f"{sorted(task.values)}. Download it again, or read the folder as nnunet."
        )
        raise DatasetError(msg)
    cases, problems = [], []
    for image, label in [*training, *((path, None) for path in test)]:
        case = without_suffix(image.name)
        wrong = missing_files(case, [image, *([label] if label else [])])
        if wrong:
            problems += wrong
            continue
        record = CaseRecord(
            case,
            patient=case,
            images=(image,),
            masks=(Mask(label, task.values, names),) if label else (),
            complete=task.complete if label else (),
            channels=task.channels,
            split="train" if label else "test",
            licence=MSD.licence,
            source=f"{MSD.title}, {folder.name}: {MSD.page}",
        )
        if case in kinds and label:
            record = _told_apart(record, kinds[case])
        cases.append(record)
    return cases, problems


def _pancreas_kinds(path: Path) -> dict[str, str]:
    kinds = {}
    for line, row in enumerate(read_table(path, ("case", "label")), start=2):
        if row["label"] not in PANCREATIC_MASS:
            msg = f"{path.name}, line {line}: label is not one of {', '.join(PANCREATIC_MASS)}."
            raise DatasetError(msg)
        kinds[without_suffix(row["case"])] = row["label"]
    return kinds


def _told_apart(record: CaseRecord, label: str) -> CaseRecord:
    mask = record.masks[0]
    values = {v: (label,) if m == PANCREATIC_MASS else m for v, m in mask.values.items()}
    # the other kind is not there then: the mass of a case is one or the other
    complete = (*record.complete, *PANCREATIC_MASS)
    return replace(record, masks=(replace(mask, values=values),), complete=complete)


_KITS_NAMES = {1: "kidney", 2: "tumor", 3: "cyst"}
_KITS_VALUES: dict[int, Meaning] = {1: ("kidney",), 2: ("kidney_tumor",), 3: ("kidney_cyst",)}
_KITS_CLINICAL = (
    "age_at_nephrectomy", "gender", "body_mass_index", "radiographic_size", "pathologic_size",
    "malignant", "tumor_histologic_subtype", "tumor_isup_grade", "pathology_t_stage",
    "pathology_n_stage", "pathology_m_stage", "vital_status", "vital_days_after_surgery",
)  # fmt: skip


def read_kits23(root: Path) -> Found:
    """Read KiTS23; the clinical data of kits23.json become attributes.

    Raises:
        DatasetError: if no case is found or kits23.json is damaged.
    """
    require_folder(root)
    folder = root / "dataset" if (root / "dataset").is_dir() else root
    folders = sorted(path for path in folder.glob("case_*") if path.is_dir())
    if not folders:
        msg = f"{root.name}: holds no case_NNNNN folders. Expected {KITS23.needs}."
        raise DatasetError(msg)
    clinical: dict[str, dict[str, Any]] = {}
    if (folder / "kits23.json").exists():
        document = read_json(folder / "kits23.json")
        clinical = {
            str(entry["case_id"]): entry
            for entry in document
            if isinstance(entry, dict) and "case_id" in entry
        }
    cases, problems = [], []
    for path in folders:
        image, label = path / "imaging.nii.gz", path / "segmentation.nii.gz"
        # test cases of the challenge come without labels
        wrong = missing_files(path.name, [image, *([label] if label.exists() else [])])
        if wrong:
            problems += wrong
            continue
        entry = clinical.get(path.name, {})
        cases.append(
            CaseRecord(
                path.name,
                patient=path.name,
                images=(image,),
                masks=(Mask(label, _KITS_VALUES, _KITS_NAMES),) if label.exists() else (),
                complete=("kidney", "kidney_tumor", "kidney_cyst") if label.exists() else (),
                split="train" if label.exists() else "test",
                attributes={k: _plain(entry[k]) for k in _KITS_CLINICAL if k in entry},
                licence=KITS23.licence,
                source=f"{KITS23.title}: {KITS23.page}",
            )
        )
    return cases, problems


def _plain(value: Any) -> Value:
    return value if isinstance(value, (str, int, float, bool)) or value is None else str(value)


_LITS_NAMES = {1: "liver", 2: "lesion"}


def read_lits(root: Path) -> Found:
    """Read LiTS.

    Volumes 28-47 are commonly reported to be 3D-IRCADb-01's patients, and task 03 of the Decathlon to
    be LiTS again; `attributes["also_in"]` says so, as such cases must not be on both sides of a split.

    Raises:
        DatasetError: if no volume is found.
    """
    require_folder(root)
    volumes = {
        found[0]: path
        for path in sorted(root.rglob("*volume-*.nii*"))
        if (found := re.match(r"(test-)?volume-\d+(?=\.nii(\.gz)?$)", path.name))
    }
    labels = {
        without_suffix(path.name).replace("segmentation", "volume"): path
        for path in sorted(root.rglob("segmentation-*.nii*"))
    }
    if not volumes:
        msg = f"{root.name}: holds no volume-N.nii. Expected {LITS.needs}."
        raise DatasetError(msg)
    cases = []
    problems = [
        Problem(
            name, f"{path.name} has no image {name}.nii. Download it, or delete the label file."
        )
        for name, path in labels.items()
        if name not in volumes
    ]
    for name, image in volumes.items():
        test = name.startswith("test-")
        label = labels.get(name)
        if label is None and not test:
            file = name.replace("volume", "segmentation")
            problems.append(
                Problem(name, f"{file}.nii is missing. Download it, or leave the case out.")
            )
            continue
        wrong = missing_files(name, [image, *([label] if label else [])])
        if wrong:
            problems += wrong
            continue
        number = int(name.rsplit("-", 1)[1])
        also = ["Medical Segmentation Decathlon task 03"]
        if not test and 28 <= number <= 47:
            also.append("3D-IRCADb-01")
        cases.append(
            CaseRecord(
                name,
                patient=name,
                images=(image,),
                masks=(Mask(label, _TASKS[3].values, _LITS_NAMES),) if label else (),
                complete=tuple(label_named(n).name for n in _TASKS[3].complete) if label else (),
                split="test" if test else "train",
                attributes={"also_in": ", ".join(also)},
                licence=LITS.licence,
                source=f"{LITS.title}: {LITS.page}",
            )
        )
    return cases, problems
