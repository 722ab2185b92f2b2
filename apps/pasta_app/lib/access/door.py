"""Who a request comes from, and whether it may pass."""

from __future__ import annotations

import base64
import binascii
import os
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool

from lib.access.audit import Audit
from lib.access.limits import RateLimit
from lib.access.oidc import People
from lib.access.roles import Person, Role
from lib.access.rules import rule_for
from lib.access.tokens import TokenFile
from lib.study.gate import bearer
from lib.study.tokens import session_of
from pasta.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from lib.study.gate import Gate
    from pasta.settings import Settings

TOKENS, AUDIT, SECRET = "tokens", "audit.jsonl", "pseudonyms.key"
PAGES = ("/", "/docs", "/openapi.json")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request may not pass.

    Attributes:
        status: of the answer.
        detail: its sentence.
        headers: that go with it.
    """

    status: int
    detail: str
    headers: tuple[tuple[str, str], ...] = ()


class Door:
    """Tokens, roles, limits and the audit log of one server.

    Args:
        settings: of the server.
        folder: private, of the store; files lie there unless the settings say otherwise.
        gate: of a server that runs a study; None for a server without.
        prefix: of all routes.

    Raises:
        PastaError: if a file of ours cannot be understood or written.
    """

    def __init__(
        self, settings: Settings, folder: Path, gate: Gate | None = None, prefix: str = ""
    ) -> None:
        self.tokens = TokenFile(settings.tokens or folder / TOKENS)
        self.audit = Audit(settings.audit or folder / AUDIT)
        self._people = People(settings.oidc, _secret(folder / SECRET)) if settings.oidc else None
        self._gate, self._prefix, self._switches = gate, prefix, settings.switches
        self._limit = RateLimit(settings.requests_per_minute)

    def local(self, path: str) -> str:
        """A path without the prefix of all routes."""
        return path.removeprefix(self._prefix)

    async def person(self, method: str, path: str, headers: Mapping[bytes, bytes]) -> Person | None:
        """Find out who asks; None for a stranger."""
        if self._gate is not None and self._gate.is_coordinator(headers):
            return Person("coordinator", Role.ADMIN)
        given = headers.get(b"authorization", b"").decode("latin-1")
        token = bearer(given)
        # what a browser sends by itself opens pages only, so that no other site can use it
        if not token and method in ("GET", "HEAD") and self.local(path) in PAGES:
            token = _basic(given)
        if not token:
            return None
        found = self.tokens.person(token)
        if found is None and self._people is not None and token.count(".") == 2:
            found = await run_in_threadpool(self._people.person, token)
        if found is None and self._gate is not None and session_of(token):
            # not checked here: the study's own routes do, and nothing else opens for it
            found = Person(f"session-{session_of(token)}", Role.READER, study=True)
        return found

    def refusal(
        self, method: str, path: str, person: Person | None, address: str
    ) -> Refusal | None:
        """Say why a request may not pass; None if it may."""
        route = self.local(path)
        key = person.name if person and not person.study else f"address {address}"
        seconds = self._limit.seconds(key)
        if seconds:
            detail = "too many requests in a minute; wait, or raise server.requests_per_minute."
            return Refusal(429, detail, (("Retry-After", str(seconds)),))
        if not self._is_open(route):
            if person is None and self._gate is None:
                return _who(method, route)
            if self._gate is not None and (person is None or person.role < Role.COORDINATOR):
                detail = (
                    "this server runs a reader study; this route is open to its coordinator only."
                )
                return Refusal(403, detail)
        rule = rule_for(method, route, self._switches)
        if rule is None:
            return Refusal(404, "this route is switched off in PASTA-AID, or there is none.")
        if person is not None and person.role < rule.role:
            detail = f"the role {person.role.word} may not do this; it takes {rule.role.word}."
            return Refusal(403, detail)
        return None

    def _is_open(self, route: str) -> bool:
        return self._gate is not None and self._gate.is_open(route)


def _who(method: str, route: str) -> Refusal:
    detail = (
        "a token is needed: send `Authorization: Bearer TOKEN`. Whoever runs the server has it, "
        "in the file `.pasta/tokens` of the folder of images."
    )
    page = method in ("GET", "HEAD") and route in PAGES
    kind = 'Basic realm="PASTA-AID: any name, token as password", charset="UTF-8"'
    return Refusal(401, detail, (("WWW-Authenticate", kind if page else "Bearer"),))


def _basic(header: str) -> str:
    """Take the token out of the password that a browser asked for."""
    kind, _, packed = header.partition(" ")
    if kind.lower() != "basic":
        return ""
    try:
        text = base64.b64decode(packed.strip(), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return ""
    return text.partition(":")[2]


def _secret(path: Path) -> bytes:
    """Read the secret that pseudonyms are made with, or make one."""
    try:
        return bytes.fromhex(path.read_text().strip())
    except FileNotFoundError:
        made = secrets.token_bytes(32)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(f"{made.hex()}\n")
        except OSError as error:
            msg = f"{path.name}: cannot be written ({error.strerror})."
            raise OutputError(msg) from error
        return made
    except ValueError as error:
        msg = f"{path.name}: is damaged; remove it, pseudonyms in the audit log begin anew then."
        raise OutputError(msg) from error
