"""The folder of a study: protocol, truth, secrets, allocation, lock, logs. Standard library only."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pasta.study.allocation import ALLOCATION_FILE, Allocation, allocate
from pasta.study.cases import CASES_FILE, StudyCase, read_cases
from pasta.study.events import case_code
from pasta.study.findings import StudyError
from pasta.study.lock import LOCK_FILE, Lock, read_allocation, read_lock
from pasta.study.protocol import PROTOCOL_FILE, Protocol, Reader, read_protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

READERS_FILE = "readers.json"
KEY_FILE = "study.key"
LOGS, ANSWERS = "logs", "answers"
_SCHEMA = "pasta-aid/readers/1"
_ALPHABET = "23456789ABCDEFGHJKMNPQRSTUVWXYZ"  # nothing that looks like something else
_CODE_LENGTH = 12  # 59 bits: too many to guess, and each guess costs an scrypt


@dataclass(frozen=True)
class StudyFolder:
    """A study on disk.

    Attributes:
        path: of the folder.
        protocol: of the study.
        cases: with their truth.
        key: secret that case codes are made with.
    """

    path: Path
    protocol: Protocol
    cases: tuple[StudyCase, ...]
    key: bytes = field(repr=False)

    @classmethod
    def open(cls, path: Path) -> StudyFolder:
        """Read a study.

        Raises:
            StudyError: if a file is missing or has mistakes.
        """
        protocol = read_protocol(path / PROTOCOL_FILE)
        return cls(path, protocol, read_cases(path / CASES_FILE, protocol), _key(path))

    @property
    def id(self) -> str:
        """Id of the study."""
        return self.protocol.id

    @property
    def allocation(self) -> Allocation:
        """The allocation, read anew.

        Raises:
            StudyError: if there is none yet.
        """
        return read_allocation(self.path)

    @property
    def lock(self) -> Lock | None:
        """The lock, read anew; None where the study is not locked.

        Raises:
            StudyError: if the file is damaged.
        """
        return read_lock(self.path)

    @property
    def logs(self) -> Path:
        """Folder of the event logs, one file per session."""
        return self.path / LOGS

    @property
    def answers(self) -> Path:
        """Folder of answers and masks."""
        return self.path / ANSWERS

    def code_of(self, image: str) -> str:
        """Name an image by its case code."""
        return case_code(self.key, image)

    def images(self) -> dict[str, str]:
        """Map case codes to image ids."""
        return {self.code_of(case.image): case.image for case in self.cases}

    def reader_of(self, code: str) -> Reader | None:
        """Find the reader of a login code.

        Takes the same time whether the code is right, and of whom.

        Args:
            code: as typed; case and dashes do not matter.

        Raises:
            StudyError: if no codes were made yet.
        """
        salt, hashes = _hashes(self.path)
        given = _hash(code, salt)
        found = None
        for reader in self.protocol.readers:
            known = hashes.get(reader.code, "")
            if hmac.compare_digest(given, known) and known:
                found = reader
        return found


def studies_in(path: Path) -> list[StudyFolder]:
    """Open all studies under a folder, or the one that the folder is.

    Raises:
        StudyError: if one of them has mistakes, or two have the same id.
    """
    folders = [path] if (path / PROTOCOL_FILE).is_file() else sorted(path.iterdir())
    found = [StudyFolder.open(each) for each in folders if (each / PROTOCOL_FILE).is_file()]
    ids = [study.id for study in found]
    for identifier in ids:
        if ids.count(identifier) > 1:
            msg = f"two studies have the id {identifier}; rename one in its {PROTOCOL_FILE}."
            raise StudyError(msg)
    return found


def make_key(folder: Path) -> None:
    """Make the secret of a study where there is none; it never changes.

    Raises:
        StudyError: if it cannot be written.
    """
    if not (folder / KEY_FILE).exists():
        _write_private(folder / KEY_FILE, secrets.token_hex(32) + "\n")


def write_allocation(folder: Path) -> Allocation:
    """Draw the allocation of a study and write it.

    Raises:
        StudyError: if the study has mistakes, is locked, or the file cannot be written.
    """
    if (folder / LOCK_FILE).exists():
        msg = f"{LOCK_FILE}: the study is locked, so its allocation stays as it is."
        raise StudyError(msg)
    protocol = read_protocol(folder / PROTOCOL_FILE)
    made = allocate(protocol, read_cases(folder / CASES_FILE, protocol))
    try:
        (folder / ALLOCATION_FILE).write_text(made.text(), encoding="utf-8")
    except OSError as error:
        msg = f"{ALLOCATION_FILE} cannot be written ({error.strerror})."
        raise StudyError(msg) from error
    return made


def new_codes(folder: Path, readers: Iterable[str] | None = None) -> dict[str, str]:
    """Make login codes; they are kept as scrypt hashes only, so show them now.

    Args:
        folder: of the study.
        readers: pseudonyms that get a new code, whose old one dies; None for all.

    Returns:
        Login codes by pseudonym.

    Raises:
        StudyError: if a reader is unknown or the file cannot be written.
    """
    protocol = read_protocol(folder / PROTOCOL_FILE)
    known = [reader.code for reader in protocol.readers]
    chosen = known if readers is None else list(readers)
    for reader in chosen:
        if reader not in known:
            msg = f"reader {reader!r} is not in {PROTOCOL_FILE}; there are {', '.join(known)}."
            raise StudyError(msg)
    salt, hashes = _hashes(folder) if (folder / READERS_FILE).exists() else ("", {})
    salt = salt or secrets.token_hex(16)
    codes = {reader: _new_code() for reader in chosen}
    hashes |= {reader: _hash(code, salt) for reader, code in codes.items()}
    document = {"schema": _SCHEMA, "salt": salt, "scrypt": hashes}
    _write_private(folder / READERS_FILE, json.dumps(document, indent=1, sort_keys=True) + "\n")
    return codes


def _new_code() -> str:
    text = "".join(secrets.choice(_ALPHABET) for _ in range(_CODE_LENGTH))
    return "-".join(text[at : at + 4] for at in range(0, _CODE_LENGTH, 4))


def _hash(code: str, salt: str) -> str:
    plain = "".join(each for each in code.upper() if each.isalnum())[:64]
    return hashlib.scrypt(
        plain.encode(), salt=bytes.fromhex(salt), n=2**14, r=8, p=1, dklen=32, maxmem=2**26
    ).hex()


def _hashes(folder: Path) -> tuple[str, dict[str, str]]:
    path = folder / READERS_FILE
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        hashes = {str(reader): str(each) for reader, each in document["scrypt"].items()}
        return bytes.fromhex(document["salt"]).hex(), hashes
    except OSError as error:
        msg = f"{READERS_FILE} is not there; make login codes: pasta study codes."
        raise StudyError(msg) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        msg = f"{READERS_FILE} is damaged; remove it and make new codes: pasta study codes."
        raise StudyError(msg) from error


def _key(folder: Path) -> bytes:
    path = folder / KEY_FILE
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except OSError as error:
        msg = f"{KEY_FILE} is not there; copy it back, or make the folder with pasta study new."
        raise StudyError(msg) from error
    except ValueError as error:
        msg = f"{KEY_FILE} is damaged; put back its copy, or case codes would change."
        raise StudyError(msg) from error
    if len(key) < 16:
        msg = f"{KEY_FILE} is too short to hide image ids; put back its copy."
        raise StudyError(msg)
    return key


def _write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read; whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.unlink(missing_ok=True)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        msg = f"{path.name} cannot be written ({error.strerror})."
        raise StudyError(msg) from error
