"""The export of a study: one zip of tables, masks and hashes, the same bytes every time.

Needs the extra `study` (pyarrow) for Parquet. What could tell who a patient is stays out: image ids,
patients, free text (unless asked for), the study's key, and whatever else a mask's header held.
"""

from __future__ import annotations

import contextlib
import csv
import fnmatch
import gzip
import hashlib
import io
import json
import math
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np

from pasta import RESEARCH_USE_ONLY, __version__
from pasta.errors import PastaError
from pasta.evaluation.overlap import dice
from pasta.evaluation.surface import hausdorff95, surface_dice
from pasta.io import read_labelmap
from pasta.labels import label_named, lesions_of
from pasta.study.archive import check, write_file
from pasta.study.cases import cases_of
from pasta.study.findings import StudyError
from pasta.study.lock import LOCKED_FILES, PLAN_FILES, check_lock, reference_name, sha256_of
from pasta.study.tables import TABLES, Reading, ordered, tables_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from pasta.geometry import Volume
    from pasta.store import Store
    from pasta.study.cases import StudyCase
    from pasta.study.folder import StudyFolder
    from pasta.study.lock import Lock
    from pasta.study.protocol import Part, Protocol
    from pasta.study.tables import Column, Row

SCHEMA = "pasta-aid/study-export/1"
NSD_TOLERANCE_MM = 2.0
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can hold
_ML = 1000.0  # mm3
_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Exported:
    """What was exported.

    Attributes:
        path: of the zip.
        sha256: of its bytes.
        rows: of each table.
        missing: sentences on what could not be put in.
    """

    path: Path
    sha256: str
    rows: Mapping[str, int]
    missing: tuple[str, ...]


def problems_of(study: StudyFolder, store: Store | None = None) -> list[str]:
    """Say what is wrong with a study's lock, logs and answers.

    Args:
        study: to look at.
        store: of the images, to compare reference masks that are labels in it.

    Returns:
        One sentence each; none if every byte is as it was written.
    """
    references = None if store is None else references_in(study, store)
    return [*check_lock(study.path, references=references), *check(study.path)]


def references_in(study: StudyFolder, store: Store) -> dict[str, str]:
    """Hash the reference masks that are labels in the store, as a lock holds them.

    Args:
        study: whose case list names them by tag.
        store: of the images.

    Returns:
        SHA-256 by `reference_name`, of those that are there.
    """
    found = {}
    for case in study.cases:
        if case.reference_mask and not case.reference_file:
            with contextlib.suppress(PastaError, OSError):
                record = store.label(case.image, case.reference_mask)
                name = reference_name(case.image, case.reference_mask)
                found[name] = sha256_of(store.label_path(record))
    return found


def export(
    study: StudyFolder,
    path: Path,
    *,
    store: Store | None = None,
    with_text: bool = False,
    exploratory: bool = False,
) -> Exported:
    """Export a study as a zip.

    Args:
        study: to export.
        path: of the zip; replaced only by a whole one.
        store: of the images, where reference masks are labels in it.
        with_text: give free text, too; it may name people.
        exploratory: export also what is not locked or was changed; the manifest says what is wrong.

    Returns:
        What is in it.

    Raises:
        StudyError: if the study is not locked, or something was changed, and `exploratory` is off.
        OutputError: if the zip cannot be written.
    """
    problems = problems_of(study, store)
    if problems and not exploratory:
        msg = f"{problems[0]} Nothing was exported; an exploratory export would say so in itself."
        raise StudyError(msg)
    reading = Reading(study)
    tables = tables_of(reading, with_text=with_text)
    masks = _Masks(reading, store)
    tables["masks"] = ordered("masks", masks.rows())
    members: dict[str, bytes] = {"protocol.toml": protocol_text(study).encode()}
    for name, rows in tables.items():
        members[f"{name}.csv"] = csv_bytes(TABLES[name], rows)
        members[f"{name}.parquet"] = parquet_bytes(TABLES[name], rows)
    members |= masks.files
    members |= imrmc_files(study.protocol, tables["reads"])
    lock = study.lock
    counts = {name: len(rows) for name, rows in sorted(tables.items())}
    manifest = {
        "schema": SCHEMA,
        "notice": RESEARCH_USE_ONLY,
        "study_id": study.id,
        "title": study.protocol.title,
        "version": __version__,
        "lock": None
        if lock is None
        else {
            "sha256": lock.sha256,
            "utc": lock.utc,
            "version": lock.version,
            "files": {name: digest for name, digest in lock.files.items() if _harmless(name)},
            "reference_masks": sorted(
                {digest for name, digest in lock.files.items() if not _harmless(name)}
                | set(lock.references.values())
            ),
            "weights": dict(lock.weights),
        },
        "problems": _without_names(problems, lock),
        "missing": masks.missing,
        "free_text": with_text,
        "logs": reading.heads(),
        "rows": counts,
        "members": {
            name: hashlib.sha256(data).hexdigest() for name, data in sorted(members.items())
        },
    }
    text = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    data = zip_bytes({"manifest.json": text.encode(), **members})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, data)
    except OSError as error:
        msg = f"{path}: cannot be written ({error.strerror or error}). Nothing was exported."
        raise StudyError(msg) from error
    return Exported(path, hashlib.sha256(data).hexdigest(), counts, tuple(masks.missing))


def csv_bytes(columns: Sequence[Column], rows: Iterable[Row]) -> bytes:
    """Write a table as CSV: UTF-8, one header line, blank for nothing."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([column.name for column in columns])
    writer.writerows([_shown(row[column.name]) for column in columns] for row in rows)
    return text.getvalue().encode()


def parquet_bytes(columns: Sequence[Column], rows: Sequence[Row]) -> bytes:
    """Write a table as Parquet, with the meaning and unit of each column in its schema.

    Raises:
        StudyError: if pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        msg = "Parquet needs pyarrow: pip install 'pasta-aid[study]', or `make study`."
        raise StudyError(msg) from error
    kinds = {
        "text": (pa.string(), str),
        "whole number": (pa.int64(), int),
        "number": (pa.float64(), float),
        "flag": (pa.int8(), int),
    }
    fields, arrays = [], []
    for column in columns:
        kind, cast = kinds[column.type]
        values = [row[column.name] for row in rows]
        plain = [None if _blank(value) else cast(value) for value in values]
        arrays.append(pa.array(plain, kind))
        metadata = {"meaning": column.meaning, "unit": column.unit}
        fields.append(pa.field(column.name, kind, metadata=metadata))
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(arrays, schema=pa.schema(fields)), buffer)
    return buffer.getvalue()


def zip_bytes(members: Mapping[str, bytes]) -> bytes:
    """Pack files so that the same files give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in sorted(members.items()):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.external_attr = 0o644 << 16
            info.create_system = 3  # else it tells which system wrote it
            packed = name.endswith((".gz", ".parquet"))
            info.compress_type = zipfile.ZIP_STORED if packed else zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
    return buffer.getvalue()


def protocol_text(study: StudyFolder) -> str:
    """Write the protocol with case codes for image ids and without its comments, which may name people."""
    protocol = study.protocol
    names = ("id", "title", "seed", "washout_days", "idle_seconds", "clock_visible")
    lines = ["[study]", *(f"{name} = {_toml(getattr(protocol, name))}" for name in names)]
    for reader in protocol.readers:
        lines += [
            "",
            "[[readers]]",
            f"code = {_toml(reader.code)}",
            f"level = {_toml(reader.level)}",
        ]
    for part in protocol.parts:
        lines += ["", "[[parts]]", *_part_lines(study, part)]
        for question in part.questions:
            lines += ["", "[[parts.questions]]"]
            for name in ("id", "text", "type", "required"):
                lines.append(f"{name} = {_toml(getattr(question, name))}")
            if question.options:
                lines.append(f"options = {_toml(question.options)}")
            if question.type == "likert":
                lines += [f"min = {question.minimum}", f"max = {question.maximum}"]
    return "\n".join(lines) + "\n"


def _part_lines(study: StudyFolder, part: Part) -> list[str]:
    lines = [
        f"{name} = {_toml(getattr(part, name))}"
        for name in ("name", "task", "organs", "arms", "allocation", "layout", "window")
    ]
    if part.budget_seconds is not None:
        lines.append(f"budget_minutes = {part.budget_seconds / 60!r}")
    if part.cases_per_arm is not None:
        lines.append(f"cases_per_arm = {part.cases_per_arm}")
    codes = [study.code_of(image) for image in part.training_cases]
    for name, words in (("training_cases", codes), ("hide", part.hide), ("ai", part.ai)):
        if words:
            lines.append(f"{name} = {_toml(words)}")
    return lines


def imrmc_files(protocol: Protocol, reads: Iterable[Row]) -> dict[str, bytes]:
    """Write an iMRMC input file for each organ of each screening part.

    Format: DIDSR/iMRMC: free text with N0, N1, NR and NM, then `readerID,caseID,modalityID,score`;
    reader -1 tells the truth. Only what was completed is in it; where nobody asked for a score, the
    decision stands for it.
    """
    found = list(reads)
    files = {}
    for part in protocol.parts:
        if part.task != "screen":
            continue
        measure = "score" if part.question_of("score") else "decision"
        for organ in part.organs:
            rows = [
                row
                for row in found
                if (row["part"], row["organ"], row["status"]) == (part.name, organ, "complete")
                and not row["training"]
                and not _blank(row[measure])
            ]
            if rows:
                files[f"imrmc/{part.name}-{organ}.imrmc"] = _imrmc(
                    f"{protocol.id}: {part.name}, {organ}, {measure}", rows, measure
                )
    return files


def _imrmc(title: str, rows: Sequence[Row], measure: str) -> bytes:
    truth = {row["case"]: int(row["positive"]) for row in rows}
    lines = [
        title,
        "",
        f"N0: {sum(not positive for positive in truth.values())}",
        f"N1: {sum(truth.values())}",
        f"NR: {len({row['reader'] for row in rows})}",
        f"NM: {len({row['arm'] for row in rows})}",
        "",
        "BEGIN DATA:",
        *(f"-1,{case},0,{positive}" for case, positive in sorted(truth.items())),
        *sorted(f"{row['reader']},{row['case']},{row['arm']},{row[measure]:g}" for row in rows),
    ]
    return ("\n".join(lines) + "\n").encode()


class _Masks:
    """Readers' masks, references and AI masks: measured, and written without their headers."""

    def __init__(self, reading: Reading, store: Store | None) -> None:
        self._reading, self._study, self._store = reading, reading.study, store
        self.files: dict[str, bytes] = {}
        self.missing: list[str] = []

    def rows(self) -> list[Row]:
        """Compare every mask that counts with its reference; read each reference once."""
        by_case: dict[tuple[str, str, str], list[tuple[Any, Path]]] = {}
        for block, part, code, answer in self._reading.counted:
            if answer is None or answer.mask is None or self._reading.is_training(block, code):
                continue
            key = (part.name, block.organ, code)
            by_case.setdefault(key, []).append((block, answer.mask))
        rows = []
        for (name_of_part, organ, code), masks in sorted(by_case.items()):
            case = self._reading.case(code, organ, name_of_part)
            reference = self._reference(case, code)
            ai = self._ai(code, organ)
            for block, path in masks:
                name = f"masks/{name_of_part}/{organ}/{code}/{block.reader}-{block.arm}.nii.gz"
                mask = read_labelmap(path)
                self.files[name] = nifti_bytes(mask)
                rows.append(
                    {
                        "case": code,
                        "organ": organ,
                        "part": name_of_part,
                        "reader": block.reader,
                        "level": self._study.protocol.reader(block.reader).level,
                        "arm": block.arm,
                        **self._measured(mask, reference, ai, organ, name),
                        "file": name,
                    }
                )
        self._rest()
        return rows

    def _measured(
        self, mask: Volume, reference: Volume | None, ai: Volume | None, organ: str, name: str
    ) -> dict[str, float | None]:
        found = lesion_mask(mask, organ)
        spacing = mask.grid.spacing_mm
        voxel_ml = mask.grid.voxel_volume_mm3 / _ML
        numbers: dict[str, float] = {"volume_ml": float(np.count_nonzero(found)) * voxel_ml}
        for other, what in ((reference, "reference"), (ai, "AI mask")):
            if other is None:
                continue
            if not other.grid.matches(mask.grid):
                self.missing.append(f"{name}: its {what} lies on another grid; not compared.")
                continue
            truth = lesion_mask(other, organ, binary=what == "reference")
            if what == "AI mask":
                numbers["ai_dice"] = dice(found, truth)
                continue
            numbers["dice"] = dice(found, truth)
            numbers["nsd_2mm"] = surface_dice(found, truth, spacing, NSD_TOLERANCE_MM)
            numbers["hd95_mm"] = hausdorff95(found, truth, spacing)
            numbers["reference_volume_ml"] = float(np.count_nonzero(truth)) * voxel_ml
        names = ("dice", "nsd_2mm", "hd95_mm", "volume_ml", "reference_volume_ml", "ai_dice")
        return {each: _number(numbers.get(each)) for each in names}

    def _reference(self, case: StudyCase, code: str) -> Volume | None:
        if not case.reference_mask:
            return None
        try:
            if case.reference_file:
                path = self._study.path / case.reference_mask
            elif self._store is None:
                self.missing.append(
                    f"reference of {code}: is a label of the store; name the store."
                )
                return None
            else:
                record = self._store.label(case.image, case.reference_mask)
                path = self._store.label_path(record)
            reference = read_labelmap(path)
        except (PastaError, OSError) as error:
            # the message may hold the image's id
            self.missing.append(f"reference of {code}: cannot be read ({type(error).__name__}).")
            return None
        self.files[f"reference/{case.organ}/{code}.nii.gz"] = nifti_bytes(reference)
        return reference

    def _ai(self, code: str, organ: str) -> Volume | None:
        path = self._study.path / "ai" / organ / code / "segmentation.nii.gz"
        if not path.is_file():
            return None
        try:
            mask = read_labelmap(path)
        except PastaError as error:
            self.missing.append(f"AI mask of {code}: cannot be read ({type(error).__name__}).")
            return None
        self.files[f"ai/{organ}/{code}.nii.gz"] = nifti_bytes(mask)
        return mask

    def _rest(self) -> None:
        """Give the AI's masks and the references of cases that nobody outlined, too."""
        for part in self._study.protocol.parts:
            if part.task != "segment":
                continue
            for organ in part.organs:
                for case in cases_of(part, organ, self._study.cases):
                    code = self._study.code_of(case.image)
                    if f"reference/{organ}/{code}.nii.gz" not in self.files:
                        self._reference(case, code)
                    if f"ai/{organ}/{code}.nii.gz" not in self.files:
                        self._ai(code, organ)
        self.missing = sorted(set(self.missing))


def lesion_mask(labelmap: Volume, organ: str, *, binary: bool = False) -> NDArray[np.bool_]:
    """Take the lesions of one organ out of a labelmap.

    Args:
        labelmap: with the label values of `pasta.labels`.
        organ: name.
        binary: take a labelmap of nothing but 0 and 1 as a mask of the lesion, as other programs
            write it.

    Returns:
        Mask on the labelmap's grid.
    """
    voxels = np.asarray(labelmap.voxels)
    if binary and voxels.max(initial=0) == 1:
        return np.asarray(voxels == 1)
    values = [lesion.value for lesion in lesions_of(label_named(organ).name)]
    return np.asarray(np.isin(voxels, values))


def nifti_bytes(labelmap: Volume) -> bytes:
    """Write a labelmap as .nii.gz with a fresh header: nothing but voxels and geometry."""
    voxels = np.asarray(labelmap.voxels).astype(np.uint8)
    image = nib.Nifti1Image(voxels, np.asarray(labelmap.affine))
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), 6, mtime=0)


def _without_names(problems: Iterable[str], lock: Lock | None) -> list[str]:
    names = [] if lock is None else [name for name in lock.files if not _harmless(name)]
    found = []
    for problem in problems:
        name = next((name for name in names if problem.startswith(name)), "")
        found.append(f"A reference mask{problem.removeprefix(name)}" if name else problem)
    return found


def _harmless(name: str) -> bool:
    """Tell the study's own files from reference masks, whose names may name patients."""
    return name in LOCKED_FILES or fnmatch.fnmatchcase(name, PLAN_FILES)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_toml, value))}]"
    return repr(value)


def _blank(value: object) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _shown(value: object) -> str:
    if _blank(value):
        return ""
    return repr(value) if isinstance(value, float) else str(value)


def _number(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else round(value, _DIGITS)
