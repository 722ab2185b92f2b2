"""Secrets of a study server: session tokens, the admin token, the brake on guessing."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ADMIN_FILE = "admin.token"
_TOKEN = re.compile(r"([A-Za-z0-9_-]{1,32})\.([A-Za-z0-9_-]{1,64})\.([0-9a-f]{64})")
_FAILURES, _WINDOW_SECONDS = 10, 60.0
_COOKIES = 100


class SessionTokens:
    """Tokens of the sessions of one study: nothing is kept, so a restart changes nothing.

    A token is the session's id and a code over it and the machine session that logged in, made with
    the study's key: without the machine session that belongs to it, it opens nothing.

    Args:
        study_id: of the study.
        key: secret of the study.
    """

    def __init__(self, study_id: str, key: bytes) -> None:
        self._study_id = study_id
        self._key = hmac.new(key, b"session tokens", hashlib.sha256).digest()

    def token(self, session: str, machine_session: str) -> str:
        """Make the token of a session."""
        return f"{self._study_id}.{session}.{self._code(f'{session}|{machine_session}')}"

    def machine(self, machine_session: str) -> str:
        """Name a machine session in the log, which tells no secret."""
        return self._code(f"machine|{machine_session}")[:16]

    def fits(self, token: str, machine_session: str) -> bool:
        """Tell whether a token was made by this server for this machine session."""
        session = session_of(token)
        return session is not None and hmac.compare_digest(
            token.encode(), self.token(session, machine_session).encode()
        )

    def _code(self, text: str) -> str:
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()


def study_of(token: str) -> str | None:
    """The study that a token names; None if it is no session token."""
    found = _TOKEN.fullmatch(token)
    return found[1] if found else None


def session_of(token: str) -> str | None:
    """The session that a token names; None if it is no session token."""
    found = _TOKEN.fullmatch(token)
    return found[2] if found else None


class AdminToken:
    """The coordinators' secret, and the browsers that have shown it.

    Args:
        given: from PASTA_ADMIN_TOKEN; "" makes one, or takes the one made before.
        folder: where a token that was made up is kept, readable for the owner alone.
    """

    def __init__(self, given: str, folder: Path) -> None:
        self.path = None if given else folder / ADMIN_FILE
        self._token = given or _kept(folder / ADMIN_FILE)
        self._cookies: dict[str, None] = {}
        self._guard = threading.Lock()

    def fits(self, token: str) -> bool:
        """Tell whether this is the token."""
        return hmac.compare_digest(token.encode(), self._token.encode())

    def cookie(self) -> str:
        """Make a cookie for a browser that has shown the token; it ends with the server."""
        made = secrets.token_urlsafe(32)
        with self._guard:
            self._cookies[made] = None
            while len(self._cookies) > _COOKIES:
                del self._cookies[next(iter(self._cookies))]
        return made

    def knows(self, cookie: str) -> bool:
        """Tell whether a cookie was made here and not taken back."""
        with self._guard:
            known = list(self._cookies)
        return any(hmac.compare_digest(cookie.encode(), other.encode()) for other in known)

    def forget(self, cookie: str) -> None:
        """Take a cookie back."""
        with self._guard:
            self._cookies.pop(cookie, None)


class Brake:
    """Slows down guessing of codes and tokens: few failures a minute from one address.

    Args:
        now: monotonic clock.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._guard = threading.Lock()
        self._failures: dict[str, list[float]] = {}

    def seconds(self, address: str) -> float:
        """How long an address must wait, 0 if it may try."""
        with self._guard:
            recent = self._recent(address)
            return recent[0] + _WINDOW_SECONDS - self._now() if len(recent) >= _FAILURES else 0.0

    def failed(self, address: str) -> None:
        """Note a failure."""
        with self._guard:
            self._failures[address] = [*self._recent(address), self._now()]
            if len(self._failures) > 10_000:
                del self._failures[next(iter(self._failures))]

    def _recent(self, address: str) -> list[float]:
        since = self._now() - _WINDOW_SECONDS
        return [at for at in self._failures.get(address, []) if at > since]


def _kept(path: Path) -> str:
    """Read the token that was made before, or make one."""
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        token = secrets.token_urlsafe(24)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{token}\n")
        return token
