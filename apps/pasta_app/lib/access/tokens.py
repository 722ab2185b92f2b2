"""API tokens: a file that its owner alone can read, one token a line, read again when it changes."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import threading
from typing import TYPE_CHECKING

from lib.access.roles import ROLES, Person, Role
from pasta.client import local_file
from pasta.errors import OutputError, PastaError

if TYPE_CHECKING:
    from pathlib import Path

_log = logging.getLogger(__name__)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
_HASH = re.compile(r"sha256:([0-9a-f]{64})")
_SHORTEST = 24  # characters; `secrets.token_urlsafe(32)` makes 43
_HEAD = """\
# Tokens of the PASTA-AID server: role, name in the audit log (a pseudonym), token.
# Roles: reader, coordinator, admin. Instead of a token its hash may stand here, as sha256:HEX of
# `printf %s TOKEN | sha256sum`. Changes count at once; a line taken out shuts its token out.
"""


class TokenFile:
    """The tokens of a server.

    Args:
        path: of the file; made with one token a role if it is not there.

    Raises:
        PastaError: if the file can be read by others, or a line cannot be understood.
        OutputError: if it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._guard = threading.Lock()
        self._stamp: tuple[int, int, int] | None = None
        self._people: dict[bytes, Person] = {}
        self.made = not path.exists()
        if self.made:
            _make(path)
        self._read()

    def person(self, token: str) -> Person | None:
        """Find whose token this is; looks at all of them, whichever fits."""
        with self._guard:
            try:
                self._read()
            except (
                PastaError,
                OSError,
            ) as error:  # somebody is editing it: the last good one counts
                _log.warning("the file of tokens was not read again: %s", error)
            people = list(self._people.items())
        given = hashlib.sha256(token.encode()).digest()
        found = None
        for digest, person in people:
            if hmac.compare_digest(digest, given):
                found = person
        return found

    def _read(self) -> None:
        status = self.path.stat()
        stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        if stamp == self._stamp:
            return
        if status.st_mode & 0o077:
            msg = f"{self.path.name}: others may read the tokens; run chmod 600 on it."
            raise PastaError(msg)
        self._people = _parsed(self.path.read_text(encoding="utf-8"), self.path.name)
        self._stamp = stamp


def plain_token(path: Path, role: Role) -> str:
    """Find the first token of a role that stands in a file in the clear; "" if there is none."""
    for line in path.read_text(encoding="utf-8").splitlines():
        words = line.split("#")[0].split()
        if len(words) == 3 and words[0] == role.word and not words[2].startswith("sha256:"):
            return words[2]
    return ""


def _make(path: Path) -> None:
    lines = [f"{role.word} {role.word} {secrets.token_urlsafe(32)}\n" for role in Role]
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(_HEAD + "".join(lines))
    except OSError as error:
        msg = f"{path.name}: the tokens cannot be written ({error.strerror}); see access.tokens."
        raise OutputError(msg) from error


def _parsed(text: str, name: str) -> dict[bytes, Person]:
    people: dict[bytes, Person] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        where = f"{name}:{number}"
        if len(words) != 3:
            msg = f"{where}: expected role, name and token, found {len(words)} words."
            raise PastaError(msg)
        role, person, token = words
        if role not in ROLES:
            msg = f"{where}: the role is not known; use one of {', '.join(ROLES)}."
            raise PastaError(msg)
        if not _NAME.fullmatch(person):
            msg = f"{where}: the name must be a pseudonym of letters, digits, dashes, underscores."
            raise PastaError(msg)
        hashed = _HASH.fullmatch(token)
        if not hashed and (len(token) < _SHORTEST or token.startswith("sha256:")):
            msg = f"{where}: the token is too short, or no SHA-256; give {_SHORTEST} characters."
            raise PastaError(msg)
        digest = bytes.fromhex(hashed[1]) if hashed else hashlib.sha256(token.encode()).digest()
        if digest in people:
            msg = f"{where}: this token is there already; give each name its own."
            raise PastaError(msg)
        people[digest] = Person(person, ROLES[role])
    return people


class LocalToken:
    """The reader's token, put where clients of the same account on this machine find it.

    Args:
        port: that the server listens on.
        token: of a reader.
    """

    def __init__(self, port: int, token: str) -> None:
        self._path = local_file(port)
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        beside = self._path.with_suffix(f".{secrets.token_hex(4)}")
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump({"token": token, "process": os.getpid()}, file)
        beside.replace(self._path)

    def remove(self) -> None:
        """Take it away, if it is still ours."""
        try:
            if json.loads(self._path.read_text())["process"] == os.getpid():
                self._path.unlink()
        except (OSError, ValueError, KeyError, TypeError):
            return
