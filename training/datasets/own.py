"""Data of one's own: nnU-Net raw folders and CSV tables."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pasta.errors import LabelError
from pasta.labels import BACKGROUND, LABELS, label_named
from training.datasets.archives import number_or_text
from training.datasets.files import (
    IMAGE_SUFFIXES,
    missing_files,
    read_json,
    read_table,
    require_folder,
)
from training.datasets.licences import Licence
from training.datasets.records import (
    IGNORED,
    CaseRecord,
    DatasetError,
    Mask,
    Meaning,
    Origin,
    Problem,
    without_suffix,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Found = tuple[list[CaseRecord], list[Problem]]

NNUNET = Origin(
    title="nnU-Net raw folder",
    page="https://github.com/MIC-DKFZ/nnUNet/blob/master/documentation/dataset_format.md",
    licence=Licence(),
    needs="dataset.json (of nnU-Net v1 or v2), imagesTr/<case>_0000.nii.gz (one file for each "
    "channel), labelsTr/<case>.nii.gz; imagesTs is read as the test split",
)
TABLE = Origin(
    title="CSV table",
    page="your own; docs/datasets.md describes the columns",
    licence=Licence(),
    needs="a CSV file with the column image (paths relative to it, channels parted by ;); label, "
    "patient, split, case, complete, licence, centre_x_mm, centre_y_mm, centre_z_mm if there",
)

_WORDS = {BACKGROUND: BACKGROUND, "ignore": IGNORED, IGNORED: IGNORED} | {
    word: label.name for label in LABELS for word in (label.name, label.title.lower())
}


def meaning_of(name: str, labels: Mapping[str, str]) -> Meaning:
    """Say which of PASTA's labels a data set's own label name stands for.

    Args:
        name: the data set's own.
        labels: the caller's word on it: own name to a label's name, several parted by "|",
            "background" or "ignored".

    Raises:
        DatasetError: if neither the caller nor PASTA's own names know it.
    """
    plain = name.strip().lower().replace("tumour", "tumor").replace("-", "_")
    given = labels.get(name)
    if given is None:
        known = _WORDS.get(plain) or _WORDS.get(plain.replace(" ", "_"))
        if known is None:
            msg = (
                f"label {name!r} is none of PASTA's. Say what it is: a label name, several parted "
                f"by |, {BACKGROUND} or {IGNORED} (option label, {name}=...)."
            )
            raise DatasetError(msg)
        return (known,)
    parts = tuple(part.strip() for part in given.split("|"))
    for part in parts:
        if part not in {BACKGROUND, IGNORED}:
            try:
                label_named(part)
            except LabelError as error:
                msg = f"option label, {name}: {error}"
                raise DatasetError(msg) from error
    return parts


def complete_of(values: Mapping[int, Meaning], complete: Sequence[str] | None) -> tuple[str, ...]:
    """Name what is labelled completely: what the caller says, else all labels that are certain."""
    if complete is None:
        found = {m[0] for m in values.values() if len(m) == 1} - {BACKGROUND, IGNORED}
        return tuple(sorted(found, key=lambda name: label_named(name).value))
    for name in complete:
        label_named(name)
    return tuple(complete)


def read_nnunet(
    root: Path,
    *,
    labels: Mapping[str, str] | None = None,
    complete: Sequence[str] | None = None,
    licence: str = "",
) -> Found:
    """Read an nnU-Net raw folder.

    Args:
        root: see `NNUNET.needs`.
        labels: see `meaning_of`.
        complete: organs and lesions labelled completely; all labels that are there by default.
        licence: name of the licence; that of dataset.json by default.

    Raises:
        DatasetError: if dataset.json is missing or odd, or a label is not known.
        LabelError: if `complete` names an unknown label.
    """
    require_folder(root)
    document = read_json(root / "dataset.json")
    try:
        second = "channel_names" in document
        channels = {
            int(k): str(v) for k, v in document["channel_names" if second else "modality"].items()
        }
        own = _values_by_name(document["labels"], by_name=second)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        msg = (
            "dataset.json: channel_names (v2) or modality (v1) and labels are needed, as in "
            f"{NNUNET.page}."
        )
        raise DatasetError(msg) from error
    ending = str(document.get("file_ending", ".nii.gz"))
    names = tuple(_channel_name(channels[number]) for number in sorted(channels))
    values = {value: meaning_of(name, labels or {}) for value, name in own.items()}
    terms = licence or str(document.get("licence") or document.get("license") or "")
    known = complete_of(values, complete)
    cases, problems = [], []
    for split, case, images, label in _listed(root, document, len(names), ending):
        wrong = missing_files(case, [*images, *([label] if label else [])])
        if wrong:
            problems += wrong
            continue
        cases.append(
            CaseRecord(
                case,
                patient=case,
                images=images,
                masks=(Mask(label, values, own),) if label else (),
                complete=known if label else (),
                channels=names,
                split=split,
                licence=Licence(terms),
                source=str(document.get("name") or document.get("reference") or root.name),
            )
        )
    if not cases and not problems:
        msg = f"{root.name}: holds no case. Expected {NNUNET.needs}."
        raise DatasetError(msg)
    return cases, problems


def _values_by_name(labels: Mapping[str, Any], *, by_name: bool) -> dict[int, str]:
    """Name each value; of overlapping regions (v2) the smallest that holds it."""
    if not by_name:
        return {int(value): str(name) for value, name in labels.items() if int(value)}
    sizes: dict[int, tuple[int, str]] = {}
    for name, value in labels.items():
        parts = [int(v) for v in value] if isinstance(value, (list, tuple)) else [int(value)]
        for part in parts:
            if part and (part not in sizes or len(parts) < sizes[part][0]):
                sizes[part] = (len(parts), name)
    return {value: name for value, (_, name) in sorted(sizes.items())}


def _channel_name(name: str) -> str:
    return "CT" if name.upper() in {"CT", "CTN"} else name


def _listed(
    root: Path, document: Mapping[str, Any], channels: int, ending: str
) -> list[tuple[str, str, tuple[Path, ...], Path | None]]:
    """List split, case, images and label of what is in the folder or in dataset.json."""
    found: list[tuple[str, str, tuple[Path, ...], Path | None]] = []
    if isinstance(document.get("dataset"), dict):  # v2: files anywhere
        for case, entry in document["dataset"].items():
            images = tuple((root / name) for name in entry["images"])
            found.append(("train", case, images, root / entry["label"]))
    else:
        cases = {
            path.name.removesuffix(ending)
            for path in (root / "labelsTr").glob(f"*{ending}")
            if not path.name.startswith(".")
        }
        for entry in document.get("training", ()):  # v1 lists them; one may be missing on the disk
            listed = entry["label"] if isinstance(entry, dict) else str(entry)
            cases.add(Path(listed).name.removesuffix(ending))
        cases |= _cases_in(root / "imagesTr", ending)
        found += [
            ("train", c, _images(root / "imagesTr", c, channels, ending),
             root / "labelsTr" / f"{c}{ending}")
            for c in sorted(cases)
        ]  # fmt: skip
    for case in sorted(_cases_in(root / "imagesTs", ending)):
        label = root / "labelsTs" / f"{case}{ending}"
        images = _images(root / "imagesTs", case, channels, ending)
        found.append(("test", case, images, label if label.exists() else None))
    return found


def _cases_in(folder: Path, ending: str) -> set[str]:
    return {
        path.name.removesuffix(f"_0000{ending}")
        for path in folder.glob(f"*_0000{ending}")
        if not path.name.startswith(".")
    }


def _images(folder: Path, case: str, channels: int, ending: str) -> tuple[Path, ...]:
    return tuple(folder / f"{case}_{number:04d}{ending}" for number in range(channels))


_COLUMNS = {
    "image", "label", "patient", "split", "case", "complete", "licence",
    "centre_x_mm", "centre_y_mm", "centre_z_mm",
}  # fmt: skip


def read_csv(
    root: Path,
    *,
    labels: Mapping[str, str] | None = None,
    complete: Sequence[str] | None = None,
    licence: str = "",
    channels: Sequence[str] = ("CT",),
) -> Found:
    """Read a CSV table; columns that have no meaning of their own become attributes.

    Args:
        root: the CSV file.
        labels: label value (as text) to PASTA's label, as in `meaning_of`; without it the files hold
            PASTA's own values 1-25.
        complete: labelled completely in every case that names nothing in its column complete; all
            labels that `labels` maps to by default, and nothing for PASTA's own values.
        licence: of rows that name none.
        channels: names of the channels of every case.

    Raises:
        DatasetError: if the file is missing, has no column image, or no row.
        LabelError: if `complete` or `labels` name an unknown label.
    """
    rows = read_table(root, ("image",))
    if not rows:
        msg = f"{root.name}: holds no row. Add one for each case."
        raise DatasetError(msg)
    values: dict[int, Meaning] = {label.value: (label.name,) for label in LABELS}
    if labels:
        try:
            values = {int(value): meaning_of(value, labels) for value in labels}
        except ValueError as error:
            msg = "option label: give stored values of the label files, such as 1=liver."
            raise DatasetError(msg) from error
    default = complete_of(values, complete) if labels or complete is not None else ()
    cases, problems = [], []
    for line, row in enumerate(rows, start=2):
        images = tuple(root.parent / part.strip() for part in row["image"].split(";"))
        case = row.get("case") or without_suffix(images[0].name, IMAGE_SUFFIXES)
        label = root.parent / row["label"] if row.get("label") else None
        try:
            if not row["image"]:
                msg = "the column image is empty. Fill it or delete the row."
                raise DatasetError(msg)
            named = [p.strip() for p in row.get("complete", "").split(";") if p.strip()]
            known = complete_of(values, named or default)
            centre = _centre(row)
        except (DatasetError, LabelError) as error:
            problems.append(Problem(case, f"{root.name}, line {line}: {error}"))
            continue
        wrong = missing_files(case, [*images, *([label] if label else [])])
        if wrong:
            problems += wrong
            continue
        cases.append(
            CaseRecord(
                case,
                patient=row.get("patient") or case,
                images=images,
                masks=(Mask(label, values),) if label else (),
                complete=known if label else (),
                channels=tuple(channels),
                split=row.get("split", ""),
                centre_ras_mm=centre,
                attributes={
                    key: number_or_text(text)
                    for key, text in row.items()
                    if key not in _COLUMNS and text
                },
                licence=Licence(row.get("licence") or licence),
                source=root.stem,
            )
        )
    return cases, problems


def _centre(row: Mapping[str, str]) -> tuple[float, float, float] | None:
    texts = [row.get(f"centre_{axis}_mm", "") for axis in "xyz"]
    if not any(texts):
        return None
    numbers = [number_or_text(text) for text in texts]
    for number in numbers:
        if not isinstance(number, (int, float)) or not math.isfinite(number):
            msg = "centre_x_mm, centre_y_mm and centre_z_mm are not three numbers. Mend the row."
            raise DatasetError(msg)
    x, y, z = (float(str(number)) for number in numbers)
    return x, y, z
