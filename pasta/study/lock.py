"""The lock of a study: SHA-256 of all that must not change once readers have begun.

Standard library only.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pasta import __version__
from pasta.study.allocation import ALLOCATION_FILE, Allocation, allocate
from pasta.study.cases import CASES_FILE, read_cases
from pasta.study.findings import StudyError
from pasta.study.protocol import ASSISTED, PROTOCOL_FILE, read_protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

LOCK_FILE = "lock.json"
SCHEMA = "pasta-aid/study-lock/1"
LOCKED_FILES = (PROTOCOL_FILE, CASES_FILE, ALLOCATION_FILE)
PLAN_FILES = "analysis_plan.*"  # whatever the coordinator put down before the first read
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Lock:
    """What a study was when it was locked.

    Attributes:
        study_id: of the protocol.
        utc: when.
        version: of PASTA-AID.
        files: SHA-256 of protocol, cases, allocation, analysis plan and reference masks, by path in
            the folder.
        weights: SHA-256 of the model weights by name of the model.
        references: SHA-256 of reference masks that are labels in the store, by image and tag.
        sha256: of all of the above.
    """

    study_id: str
    utc: str
    version: str
    files: Mapping[str, str]
    weights: Mapping[str, str]
    references: Mapping[str, str] = field(default_factory=dict)
    sha256: str = ""

    def document(self) -> dict[str, Any]:
        """Build the JSON document."""
        return {"schema": SCHEMA, **asdict(self)}


def lock(
    folder: Path, weights: Mapping[str, str], references: Mapping[str, str] | None = None
) -> Lock:
    """Lock a study: from here on every change is told.

    Args:
        folder: of the study, with protocol, cases and allocation.
        weights: SHA-256 of the model weights by name of the model; may be empty for a study without
            an assisted arm only.
        references: SHA-256 of reference masks that are labels in the store, by `reference_name`.

    Returns:
        The lock, written to `lock.json`.

    Raises:
        StudyError: if the study is locked already, has mistakes, or the allocation is not the one
            that protocol and cases give.
    """
    if (folder / LOCK_FILE).exists():
        msg = f"{LOCK_FILE}: the study is locked already; what was locked stays. Begin a new study."
        raise StudyError(msg)
    protocol = read_protocol(folder / PROTOCOL_FILE)
    cases = read_cases(folder / CASES_FILE, protocol)
    if read_allocation(folder) != allocate(protocol, cases):
        msg = (
            f"{ALLOCATION_FILE} is not what protocol and cases give; draw it anew: "
            "pasta study allocate."
        )
        raise StudyError(msg)
    for name, digest in weights.items():
        if not _SHA256.fullmatch(digest):
            msg = (
                f"weights of {name}: {digest[:20]!r} is no SHA-256, expected 64 hexadecimal digits."
            )
            raise StudyError(msg)
    if not weights and any(ASSISTED in part.arms for part in protocol.parts):
        msg = "no model weights are given, yet the protocol has an assisted arm; name the model folder."
        raise StudyError(msg)
    plans = sorted(path.name for path in folder.glob(PLAN_FILES) if path.is_file())
    masks = sorted({case.reference_mask for case in cases if case.reference_file})
    names = [*LOCKED_FILES, *plans, *masks]
    made = Lock(
        study_id=protocol.id,
        utc=datetime.now(UTC).isoformat(timespec="seconds"),
        version=__version__,
        files={name: sha256_of(folder / name) for name in names},
        weights=dict(sorted(weights.items())),
        references=dict(sorted((references or {}).items())),
    )
    made = replace(made, sha256=_digest(made))
    text = json.dumps(made.document(), indent=1, sort_keys=True) + "\n"
    try:
        (folder / LOCK_FILE).write_text(text, encoding="utf-8")
    except OSError as error:
        msg = f"{LOCK_FILE} cannot be written ({error.strerror})."
        raise StudyError(msg) from error
    return made


def read_lock(folder: Path) -> Lock | None:
    """Read the lock of a study.

    Returns:
        The lock, None where the study is not locked.

    Raises:
        StudyError: if the file is damaged.
    """
    path = folder / LOCK_FILE
    if not path.exists():
        return None
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document.pop("schema") != SCHEMA:
            raise ValueError(SCHEMA)
        found = Lock(**document)
        if not all(isinstance(x, dict) for x in (found.files, found.weights, found.references)):
            raise TypeError("files")  # noqa: EM101
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        msg = f"{LOCK_FILE} is damaged; put back the copy that was made when the study was locked."
        raise StudyError(msg) from error
    return found


def check_lock(
    folder: Path,
    weights: Mapping[str, str] | None = None,
    references: Mapping[str, str] | None = None,
) -> list[str]:
    """Say what changed since the lock.

    Args:
        folder: of the study.
        weights: SHA-256 of the model weights that are in use; None does not compare them.
        references: SHA-256 of reference masks in the store; None does not compare them.

    Returns:
        A sentence for each change; empty if the study is locked and as it was.
    """
    try:
        found = read_lock(folder)
    except StudyError as error:
        return [str(error)]
    if found is None:
        return ["The study is not locked: pasta study lock."]
    problems = [f"{LOCK_FILE} lacks {name}." for name in LOCKED_FILES if name not in found.files]
    if _digest(found) != found.sha256:
        problems.append(f"{LOCK_FILE} itself was changed.")
    for name, digest in sorted(found.files.items()):
        path = folder / name
        if not path.is_file():
            problems.append(f"{name} is gone.")
        elif sha256_of(path) != digest:
            problems.append(f"{name} was changed after the lock.")
    if weights is not None:
        for name, digest in sorted(found.weights.items()):
            if name not in weights:
                problems.append(f"The model {name} that was locked is not there.")
            elif weights[name] != digest:
                problems.append(f"The weights of the model {name} are others than those locked.")
    if references is not None:
        changed = [
            name for name, digest in found.references.items() if references.get(name) != digest
        ]
        if changed:  # their names hold image ids
            problems.append(f"{len(changed)} reference mask(s) in the store changed or are gone.")
    return problems


def reference_name(image: str, tag: str) -> str:
    """Name a reference mask in the store, as a lock does."""
    return f"{image}/{tag}"


def sha256_of(path: Path) -> str:
    """Hash a file.

    Raises:
        StudyError: if it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        msg = f"{path.name} cannot be read ({error.strerror})."
        raise StudyError(msg) from error


def read_allocation(folder: Path) -> Allocation:
    """Read the allocation of a study.

    Raises:
        StudyError: if there is none, or the file is damaged.
    """
    try:
        text = (folder / ALLOCATION_FILE).read_text(encoding="utf-8")
        return Allocation.from_document(json.loads(text))
    except OSError as error:
        msg = f"{ALLOCATION_FILE} is not there; draw it first: pasta study allocate."
        raise StudyError(msg) from error
    except (ValueError, AttributeError) as error:
        msg = f"{ALLOCATION_FILE} is damaged; draw it anew: pasta study allocate."
        raise StudyError(msg) from error


def _digest(found: Lock) -> str:
    content = {key: value for key, value in asdict(found).items() if key != "sha256"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
