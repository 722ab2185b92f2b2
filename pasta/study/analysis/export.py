"""Reading an export of a study: one zip of tables, checked before anything is computed."""

from __future__ import annotations

import hashlib
import io
import json
import tomllib
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from pasta.errors import PastaError

if TYPE_CHECKING:
    from pathlib import Path

ARMS = ("solo", "assisted")
LEVELS = ("junior", "senior")
TASKS = ("screen", "segment", "report", "realism", "consistency")
STATUSES = ("complete", "skip", "interrupted", "budget")

# columns the analysis reads; an export may hold more
_NUMBERS = {
    "reads": (
        "training block_order position positive decision score seconds seconds_from_display "
        "reading_seconds active_seconds idle_seconds unfocused_seconds ai_wait_seconds "
        "load_seconds pauses suspends interrupted ai_score ai_decision edits"
    ),
    "attributes": "lesion changed",
    "answers": "",
    "cases": "positive",
    "allocation": "order position",
    "masks": "dice nsd_2mm hd95_mm volume_ml reference_volume_ml ai_dice",
}
_WORDS = {
    "reads": "study_id reader level part task organ arm block case status session_id",
    "attributes": "reader level part organ arm case attribute value reference ai_value",
    "answers": "reader part organ arm case question type value",
    "cases": "case organ part source group",
    "allocation": "reader level block part organ arm case",
    "masks": "case organ part reader level arm",
}
_EVENTS = ("session_id", "seq", "type", "case", "payload")
_READ = ["reader", "part", "organ", "arm", "case"]


class ExportError(PastaError, ValueError):
    """An export cannot be read, was changed, or lacks what the analysis needs."""


@dataclass(frozen=True, slots=True)
class Export:
    """The tables of an export.

    Attributes:
        reads: one row a read, all of them, training too.
        attributes: one row a report attribute of a lesion.
        answers: one row an answer to a question.
        cases: one row a case and organ.
        allocation: one row a case of a reader's list.
        masks: one row a mask, compared with its reference.
        events: only what tells when the AI was shown and what was decided before.
        manifest: as written by the export.
        protocol: the protocol's TOML as a dictionary.
        locked: whether the study was locked before it was exported.
        problems: what was wrong with lock, logs or answers when it was exported.
        sha256: of the file.
    """

    reads: pd.DataFrame
    attributes: pd.DataFrame
    answers: pd.DataFrame
    cases: pd.DataFrame
    allocation: pd.DataFrame
    masks: pd.DataFrame
    events: pd.DataFrame
    manifest: dict[str, Any]
    protocol: dict[str, Any]
    locked: bool
    problems: tuple[str, ...]
    sha256: str

    @property
    def study_id(self) -> str:
        """Name of the study."""
        return str(self.manifest.get("study_id", ""))

    def part(self, name: str) -> dict[str, Any]:
        """The part of the protocol of that name; empty if there is none."""
        return next((p for p in self.protocol.get("parts", []) if p.get("name") == name), {})


def read_export(path: Path) -> Export:
    """Read an export and check it.

    Args:
        path: the zip that `pasta study export` wrote.

    Raises:
        ExportError: if it is not there or no zip, a member is missing or was changed after the
            export, or a table lacks a column or holds a value that cannot be.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        msg = f"{path}: cannot be read ({error.strerror}). Give the zip of `pasta study export`."
        raise ExportError(msg) from error
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name: archive.read(name) for name in archive.namelist() if _needed(name)}
            _check_hashes(path, archive, members)
    except zipfile.BadZipFile as error:
        msg = f"{path}: is not a whole zip file ({error}). Export the study again."
        raise ExportError(msg) from error
    manifest = json.loads(members["manifest.json"])
    tables = {name: _table(path, name, members) for name in _NUMBERS}
    _check(path, tables)
    return Export(
        **tables,
        events=_events(path, members),
        manifest=manifest,
        protocol=_protocol(path, members),
        locked=bool(manifest.get("lock")),
        problems=tuple(str(problem) for problem in manifest.get("problems", ())),
        sha256=hashlib.sha256(data).hexdigest(),
    )


def _needed(name: str) -> bool:
    return name.endswith((".csv", ".json", ".toml")) and "/" not in name


def _check_hashes(path: Path, archive: zipfile.ZipFile, members: dict[str, bytes]) -> None:
    """Compare every member with the manifest; a table changed by hand is not analysed."""
    if "manifest.json" not in members:
        msg = f"{path}: holds no manifest.json. Give the zip of `pasta study export`."
        raise ExportError(msg)
    try:
        manifest = json.loads(members["manifest.json"])
        hashes = {str(name): str(sha256) for name, sha256 in manifest["members"].items()}
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        msg = f"{path}: manifest.json is damaged ({error}). Export the study again."
        raise ExportError(msg) from error
    there = set(archive.namelist())
    for name, sha256 in hashes.items():
        if name not in there:
            msg = f"{path}: {name} is missing. Export the study again."
            raise ExportError(msg)
        if hashlib.sha256(members.get(name) or archive.read(name)).hexdigest() != sha256:
            msg = f"{path}: {name} was changed after the export. Export the study again."
            raise ExportError(msg)


def _protocol(path: Path, members: dict[str, bytes]) -> dict[str, Any]:
    try:
        return tomllib.loads(members.get("protocol.toml", b"").decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        msg = f"{path}: protocol.toml cannot be read ({error}). Export the study again."
        raise ExportError(msg) from error


def _frame(path: Path, member: str, members: dict[str, bytes]) -> pd.DataFrame:
    if member not in members:
        msg = f"{path}: {member} is missing. Export the study again with this version."
        raise ExportError(msg)
    try:
        return pd.read_csv(io.BytesIO(members[member]), dtype=str, keep_default_na=False)
    except (ValueError, UnicodeDecodeError) as error:
        msg = f"{path}: {member} is not a table ({error}). Export the study again."
        raise ExportError(msg) from error


def _table(path: Path, name: str, members: dict[str, bytes]) -> pd.DataFrame:
    member = f"{name}.csv"
    frame = _frame(path, member, members)
    numbers, words = _NUMBERS[name].split(), _WORDS[name].split()
    lacking = [column for column in words + numbers if column not in frame.columns]
    if lacking:
        msg = f"{path}: {member} lacks {', '.join(lacking)}. Export again with this version."
        raise ExportError(msg)
    for column in numbers:
        blank = frame[column].str.strip() == ""
        values = pd.to_numeric(frame[column].mask(blank), errors="coerce")
        wrong = values.isna() & ~blank
        if wrong.any():
            row = int(wrong.to_numpy().argmax())
            msg = (
                f"{path}: {member}, line {row + 2}: {column} is {frame[column].iloc[row]!r}, "
                "expected a number or nothing. Export the study again."
            )
            raise ExportError(msg)
        frame[column] = values.astype(float)
    return frame


def _events(path: Path, members: dict[str, bytes]) -> pd.DataFrame:
    frame = _frame(path, "events.csv", members)
    lacking = [column for column in _EVENTS if column not in frame.columns]
    if lacking:
        msg = f"{path}: events.csv lacks {', '.join(lacking)}. Export again with this version."
        raise ExportError(msg)
    frame = frame.loc[frame["type"].isin(["ai_shown", "decision"]), list(_EVENTS)]
    frame["seq"] = pd.to_numeric(frame["seq"], errors="coerce")
    return frame.sort_values(["session_id", "seq"], kind="stable")


def _check(path: Path, tables: dict[str, pd.DataFrame]) -> None:
    """Refuse values that no study has, naming table, line and column."""
    reads = tables["reads"]
    allowed: dict[str, tuple[Any, ...]] = {
        "arm": ARMS,
        "level": LEVELS,
        "task": TASKS,
        "status": STATUSES,
        "training": (0, 1),
        "positive": (0, 1),
        "decision": (0, 1),
        "ai_decision": (0, 1),
    }
    for column, values in allowed.items():
        # realism and consistency have one arm, which may be left empty
        blank = (reads[column] == "") if column == "arm" else reads[column].isna()
        wrong = ~reads[column].isin(values) & ~blank
        if wrong.any():
            row = int(wrong.to_numpy().argmax())
            words = ", ".join(str(value) for value in values)
            msg = (
                f"{path}: reads.csv, line {row + 2}: {column} is '{reads[column].iloc[row]}', "
                f"expected one of {words}. Export the study again."
            )
            raise ExportError(msg)
    for column in ("seconds", "reading_seconds", "active_seconds"):
        if (reads[column] < 0).any():
            row = int((reads[column] < 0).to_numpy().argmax())
            msg = f"{path}: reads.csv, line {row + 2}: {column} is negative; no read takes that."
            raise ExportError(msg)
    scored = reads["score"].dropna()
    if ((scored < 0) | (scored > 100)).any():
        msg = f"{path}: reads.csv: a score lies outside 0 to 100. Export the study again."
        raise ExportError(msg)
    done = reads[(reads["status"] == "complete") & (reads["training"] != 1)]
    twice = done.duplicated(_READ)
    if twice.any():
        row = done[twice].iloc[0]
        msg = (
            f"{path}: reads.csv holds {row['reader']}'s read of {row['case']} in "
            f"{row['part']}/{row['organ']}/{row['arm']} twice. Export the study again."
        )
        raise ExportError(msg)
