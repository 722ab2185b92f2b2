"""3D-IRCADb-01, NSCLC-Radiomics (Lung1), and this project's own ct/<case> folders."""

from __future__ import annotations

import math
import os
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from pasta.io.dicom import is_dicom_folder
from pasta.labels import label_named
from training.datasets.files import missing_files, read_json, read_table, require_folder
from training.datasets.licences import Licence
from training.datasets.records import CaseRecord, DatasetError, Mask, Meaning, Origin, Problem
from training.tissues import LABEL_OF_TISSUE, tissue_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from training.datasets.records import Value

Found = tuple[list[CaseRecord], list[Problem]]

IRCADB = Origin(
    title="3D-IRCADb-01",
    page="https://www.ircad.fr/research/data-sets/liver-segmentation-3d-ircadb-01/",
    licence=Licence("CC BY-NC-ND 4.0"),
    needs="3Dircadb1.N folders with PATIENT_DICOM and MASKS_DICOM, each a folder or the zip as "
    "published; or one folder for each case with ct.nii.gz and masks/<structure>.nii.gz",
)
LUNG1 = Origin(
    title="NSCLC-Radiomics (Lung1)",
    page="https://www.cancerimagingarchive.net/collection/nsclc-radiomics/",
    licence=Licence("CC BY-NC 3.0"),
    needs="LUNG1-NNN folders of DICOM series as TCIA's downloader writes them; the clinical CSV of "
    "the collection beside them; a CSV of centre points by the option annotations",
)
FOLDERS = Origin(
    title="Folders of CT cases",
    page="your own; docs/datasets.md describes the layout",
    licence=Licence(),
    needs="<case>/ct.nii.gz, with organs.nii.gz and lesions.nii.gz explained by labels.json, or "
    "masks/<structure>.nii.gz; ct_manifest.json in the folder above names licences (id, lic)",
)

# (pattern, meaning), first match counts; skin is left out, it fills the whole body
_IRCADB: tuple[tuple[str, Meaning], ...] = (
    (r"liver(tumou?rs?)", ("liver_tumor",)),
    (r"liver(cyst|kyst|kyste)s?", ("liver_cyst",)),
    (r"stones?", ("gallstone", "kidney_stone")),
    (r"metastasectomie|tumor|metal", ("ignored",)),
    (r"liver", ("liver",)),
    (r"(left|right)?lungs?", ("lung",)),
    (r"(left|right)?kidneys?", ("kidney",)),
    (r"bones?", ("bone",)),
    (r"gallbladder", ("gallbladder",)),
    (r"pancreas", ("pancreas",)),
    (r"stomach", ("stomach",)),
    (r"colon", ("colorectum",)),
    (r"bladder", ("bladder",)),
    (
        r"artery|aorta|portalvein|venacava|venoussystem|biliarysystem|spleen|heart|smallintestin"
        r"|uterus|(left|right)?surrenalgland|(left|right)surretumor",
        ("background",),
    ),
)
_SKIN = "skin"
_PARTIAL = "partial"


def read_ircadb(root: Path) -> Found:
    """Read 3D-IRCADb-01, as published or as NIfTI.

    Kidneys and lungs count as completely labelled where both sides or a common mask are there.

    Raises:
        DatasetError: if no case is found.
    """
    require_folder(root)
    cases: list[CaseRecord] = []
    problems: list[Problem] = []
    here = [root, *sorted(path for path in root.iterdir() if path.is_dir())]
    for folder in here:
        image = _existing(folder, ("PATIENT_DICOM", "PATIENT_DICOM.zip", "ct.nii.gz"))
        masks = _existing(folder, ("MASKS_DICOM", "MASKS_DICOM.zip", "masks"))
        if image is None and masks is None:
            continue
        case = folder.resolve().name
        if image is None or masks is None:
            kind = "image (PATIENT_DICOM)" if image is None else "masks (MASKS_DICOM)"
            problems.append(Problem(case, f"no {kind}. Unpack the whole case again."))
            continue
        try:
            structures = _structures(masks)
        except DatasetError as error:
            problems.append(Problem(case, str(error)))
            continue
        record, doubts = _structured_case(case, image, structures, IRCADB)
        problems += doubts
        cases.append(record)
    if not cases and not problems:
        msg = f"{root.name}: holds no case. Expected {IRCADB.needs}."
        raise DatasetError(msg)
    return cases, problems


def _existing(folder: Path, names: Iterable[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).exists()), None)


def _structures(masks: Path) -> dict[str, tuple[Path, str]]:
    """Find the masks of a case: structure to file or archive, and folder inside."""
    if masks.suffix == ".zip":
        try:
            with zipfile.ZipFile(masks) as archive:
                names = [name for name in archive.namelist() if not name.endswith("/")]
        except (zipfile.BadZipFile, OSError) as error:
            msg = f"{masks.name}: the archive is damaged. Download it again."
            raise DatasetError(msg) from error
        folders = {str(Path(name).parent) for name in names}
        return {Path(inner).name: (masks, Path(inner).as_posix()) for inner in sorted(folders)}
    found: dict[str, tuple[Path, str]] = {}
    for path in sorted(masks.iterdir()):
        if path.is_dir():
            found[path.name] = (path, "")
        elif path.name.endswith(".nii.gz"):
            found[path.name.removesuffix(".nii.gz")] = (path, "")
    return found


def _structured_case(
    case: str, image: Path, structures: dict[str, tuple[Path, str]], origin: Origin
) -> tuple[CaseRecord, list[Problem]]:
    masks: list[Mask] = []
    problems = []
    drawn: set[str] = set()
    for name, (path, member) in structures.items():
        plain = re.sub(r"\d+$", "", name.lower())
        if plain == _SKIN:
            continue
        meaning = next((m for pattern, m in _IRCADB if re.fullmatch(pattern, plain)), None)
        if meaning is None:
            text = f"structure {name!r} is not known; its voxels are ignored. Rename it if it is a label."
            problems.append(Problem(case, text))
            meaning = ("ignored",)
        # masks hold 255 (DICOM) or 1 (NIfTI)
        masks.append(Mask(path, dict.fromkeys((1, 255), meaning), {1: name, 255: name}, member))
        drawn.add(plain)
    masks.sort(key=_painting_order)
    labels = {m.values[1][0] for m in masks if len(m.values[1]) == 1} - {"background", "ignored"}
    for organ in ("kidney", "lung"):
        sides = {f"left{organ}", f"right{organ}"}
        if organ in labels and not (sides <= drawn or f"{organ}s" in drawn):
            labels.discard(organ)
    if "liver" in labels:
        labels.add("liver_tumor")  # all are drawn where there are any
    record = CaseRecord(
        case,
        patient=case,
        images=(image,),
        masks=tuple(masks),
        complete=_by_value(labels),
        licence=origin.licence,
        source=f"{origin.title}: {origin.page}",
    )
    return record, problems


def _painting_order(mask: Mask) -> tuple[int, str]:
    """Background under organs under what is ignored under lesions: a liver holds its vessels."""
    first = mask.values[1][0]
    if first in {"background", "ignored"}:
        return (0 if first == "background" else 2), mask.names[1]
    return (1 if label_named(first).kind == "organ" else 3), mask.names[1]


def _by_value(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(names, key=lambda name: label_named(name).value))


_CLINICAL = {
    "age": "age",
    "gender": "gender",
    "Histology": "histology",
    "clinical.T.Stage": "t_stage",
    "Clinical.N.Stage": "n_stage",
    "Clinical.M.Stage": "m_stage",
    "Overall.Stage": "overall_stage",
}
TWO_YEARS_DAYS = 730


def read_lung1(root: Path, *, annotations: Path | None = None) -> Found:
    """Read Lung1: CT series, clinical data and, where given, centre points of the tumours.

    The endpoint survived_2_years is True from 730 days on, False for a death before, None for a
    patient lost to follow-up before; staging is in overall_stage (I, II, IIIa, IIIb).

    Args:
        root: see `LUNG1.needs`.
        annotations: CSV with PatientID and coordX, coordY, coordZ (mm, LPS, as SimpleITK's world);
            its clinical columns fill in where the collection's own CSV is not there.

    Raises:
        DatasetError: if no patient is found or a CSV lacks its columns.
    """
    require_folder(root)
    inner = root / "NSCLC-Radiomics"
    folder = inner if inner.is_dir() else root
    patients = sorted(p for p in folder.iterdir() if p.is_dir() and re.match(r"LUNG1-\d+", p.name))
    if not patients:
        msg = f"{root.name}: holds no LUNG1-NNN folder. Expected {LUNG1.needs}."
        raise DatasetError(msg)
    points: dict[str, dict[str, str]] = {}
    if annotations is not None:
        needed = ("PatientID", "coordX", "coordY", "coordZ")
        points = {row["PatientID"]: row for row in read_table(annotations, needed)}
    clinical: dict[str, dict[str, str]] = {}
    for path in sorted({*root.glob("*[Cc]linical*.csv"), *folder.glob("*[Cc]linical*.csv")}):
        clinical |= {row["PatientID"]: row for row in read_table(path, ("PatientID",))}
    cases, problems = [], []
    for path in patients:
        case = re.match(r"LUNG1-\d+", path.name)
        name = case[0] if case else path.name
        series = [Path(at) for at, _, files in os.walk(path) if files and is_dicom_folder(Path(at))]
        if len(series) != 1:
            problems.append(
                Problem(name, f"{len(series)} CT series found, expected one. Download it again.")
            )
            continue
        row = {**points.get(name, {}), **clinical.get(name, {})}
        centre, doubt = _centre(name, points.get(name))
        if annotations is not None and doubt:
            problems.append(Problem(name, doubt))
        if not row:
            problems.append(
                Problem(
                    name, "no clinical data. Put the collection's clinical CSV beside the cases."
                )
            )
        cases.append(
            CaseRecord(
                name,
                patient=name,
                images=(series[0],),
                centre_ras_mm=centre,
                attributes=_endpoints(row),
                licence=LUNG1.licence,
                source=f"{LUNG1.title}: {LUNG1.page}",
            )
        )
    return cases, problems


def _centre(name: str, row: dict[str, str] | None) -> tuple[tuple[float, float, float] | None, str]:
    if row is None:
        return None, "no centre point in the annotations. Add a row or leave the case out."
    try:
        x, y, z = (float(row[key]) for key in ("coordX", "coordY", "coordZ"))
    except ValueError:
        return (
            None,
            f"the centre point of {name} is not three numbers. Mend coordX, coordY, coordZ.",
        )
    if not all(math.isfinite(value) for value in (x, y, z)):
        return None, f"the centre point of {name} is not finite. Mend coordX, coordY, coordZ."
    return (-x, -y, z), ""


def _endpoints(row: dict[str, str]) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for column, name in _CLINICAL.items():
        text = row.get(column, "")
        if text and text.upper() not in {"NA", "NAN"}:
            found[name] = number_or_text(text)
    days, died = (number_or_text(row.get(c, "")) for c in ("Survival.time", "deadstatus.event"))
    if isinstance(days, (int, float)) and isinstance(died, (int, float)):
        found["survival_days"], found["died"] = days, bool(died)
        found["survived_2_years"] = True if days >= TWO_YEARS_DAYS else (False if died else None)
    return found


def number_or_text(text: str) -> Value:
    """Read a cell: whole number, finite number, or the text itself."""
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        if math.isfinite(value):
            return value
    return text


def read_folders(root: Path) -> Found:
    """Read folders of CT cases with their licences.

    Lung contours, IRCADb structures and whole TotalSegmentator maps are known by their names;
    anything named "partial" and lesions that are not PASTA's are ignored, not background.

    Raises:
        DatasetError: if no case is found or the manifest is damaged.
    """
    require_folder(root)
    folder = root / "ct" if (root / "ct").is_dir() else root
    paths = sorted(path.parent for path in folder.glob("*/ct.nii.gz"))
    if not paths:
        msg = f"{root.name}: holds no <case>/ct.nii.gz. Expected {FOLDERS.needs}."
        raise DatasetError(msg)
    manifest = folder.resolve().parent / "ct_manifest.json"
    entries = {e["id"]: e for e in read_json(manifest)} if manifest.exists() else {}
    cases, problems = [], []
    for path in paths:
        entry = entries.get(path.name, {})
        licence = Licence(str(entry.get("lic", "")) or _terms_of(path.name))
        source = str(entry.get("coll", "")) or path.name
        try:
            record, doubts = _folder_case(path)
        except DatasetError as error:
            problems.append(Problem(path.name, str(error)))
            continue
        problems += doubts
        cases.append(
            CaseRecord(
                record.case,
                patient=record.case,
                images=record.images,
                masks=record.masks,
                complete=record.complete,
                licence=licence,
                source=source,
            )
        )
    return cases, problems


def _terms_of(folder: str) -> str:
    """Read the terms that end a folder's name, as in case_NC-ND."""
    found = re.search(r"_(NC(?:-ND)?|ND)$", folder)
    return f"not named; the folder says {found[1]}" if found else ""


def _folder_case(path: Path) -> tuple[CaseRecord, list[Problem]]:
    image = path / "ct.nii.gz"
    if (path / "masks").is_dir():
        return _structured_case(path.name, image, _structures(path / "masks"), FOLDERS)
    names = read_json(path / "labels.json") if (path / "labels.json").exists() else {}
    masks: list[Mask] = []
    complete: set[str] = set()
    problems: list[Problem] = []
    for part in ("organs", "lesions"):
        if part not in names:
            continue
        wrong = missing_files(path.name, [path / f"{part}.nii.gz"])
        if wrong:
            raise DatasetError(wrong[0].message)
        own = {int(value): str(name) for value, name in names[part].items()}
        values = {value: _structure_meaning(name) for value, name in own.items()}
        masks.append(Mask(path / f"{part}.nii.gz", values, own))
        found = {m[0] for m in values.values()} - {"background", "ignored"}
        if part == "lesions" or len(own) > 20:  # a whole TotalSegmentator map
            complete |= found
        else:
            complete |= found & {"lung"}  # contours for radiotherapy go round the target
    record = CaseRecord(path.name, path.name, (image,), tuple(masks), _by_value(complete))
    return record, problems


def _structure_meaning(name: str) -> Meaning:
    plain = name.lower()
    if _PARTIAL in plain or "landmark" in plain:
        return ("ignored",)
    if re.search(r"lung.?(gtv|tumou?r)", plain):
        return ("lung_tumor",)
    if re.search(r"tumou?r|gtv|sarcoma|lesion", plain):
        return ("ignored",)
    if plain in {"lymph_node", "costal_cartilages"}:
        return ("background",)
    try:
        return (LABEL_OF_TISSUE.get(tissue_of(plain), "background"),)
    except KeyError:
        return ("ignored",)
