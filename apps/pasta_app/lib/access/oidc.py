"""Tokens of people from an identity provider such as Keycloak: JWTs, checked against its keys.

PyJWT 2 refuses every token unless it is told the algorithms, and would take a forged one if it were
told those that the token itself names: they come from the settings alone.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jwt
import requests

from lib.access.roles import Person, Role
from pasta.errors import PastaError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pasta.settings import Oidc

_log = logging.getLogger(__name__)
_LEEWAY_SECONDS = 30
_KEEP_SECONDS = 3600.0
_AGAIN_SECONDS = 30.0  # a made-up key id must not make us ask the provider at every request
_FETCH_SECONDS = 5.0
_MOST_BYTES = 1 << 20
_NO_ACCESS_TOKENS = ("ID", "Refresh", "Offline")  # as Keycloak names them in the claim `typ`


class People:
    """Finds out who a JWT speaks for.

    Args:
        settings: of the provider.
        secret: that pseudonyms are made with.
        now: monotonic clock, seconds.
    """

    def __init__(
        self, settings: Oidc, secret: bytes, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings, self._secret, self._now = settings, secret, now
        self._guard = threading.Lock()
        self._keys: dict[str, jwt.PyJWK] = {}
        self._looked = -_KEEP_SECONDS

    def person(self, token: str) -> Person | None:
        """Check a token; None if it is not one of ours, has run out, or has no role here.

        May wait some seconds for the provider, so it belongs in a thread.
        """
        settings = self._settings
        try:
            header = jwt.get_unverified_header(token)
            key = self._key(str(header.get("kid", "")))
            if key is None:
                return None
            claims = jwt.decode(
                token,
                key,
                algorithms=list(settings.algorithms),
                audience=settings.audience,
                issuer=settings.issuer,
                leeway=_LEEWAY_SECONDS,
                options={"require": ["exp", "iat", "iss", "aud", "sub"], "strict_aud": False},
            )
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            _log.info("a token of the identity provider was refused: %s", type(error).__name__)
            return None
        role = self._role(claims)
        if role is None or claims.get("typ") in _NO_ACCESS_TOKENS:
            return None
        return Person(self._pseudonym(str(claims["sub"])), role)

    def _pseudonym(self, subject: str) -> str:
        text = f"{self._settings.issuer}|{subject}".encode()
        return f"oidc-{hmac.new(self._secret, text, hashlib.sha256).hexdigest()[:12]}"

    def _role(self, claims: dict[str, Any]) -> Role | None:
        found: Any = claims
        for name in self._settings.roles_claim.split("."):
            found = found.get(name) if isinstance(found, dict) else None
        names = found if isinstance(found, list) else []
        return next((role for role in reversed(Role) if self._name_of(role) in names), None)

    def _name_of(self, role: Role) -> str:
        settings = self._settings
        return {
            Role.READER: settings.reader,
            Role.COORDINATOR: settings.coordinator,
            Role.ADMIN: settings.admin,
        }[role]

    def _key(self, name: str) -> jwt.PyJWK | None:
        with self._guard:
            waited = self._now() - self._looked
            if waited > _KEEP_SECONDS or (name not in self._keys and waited > _AGAIN_SECONDS):
                self._looked = self._now()
                try:
                    self._keys = _usable(self._document())
                except (OSError, ValueError, PastaError, jwt.PyJWTError) as error:
                    _log.warning("keys of the identity provider: %s", type(error).__name__)
            return self._keys.get(name)

    def _document(self) -> Any:
        where = self._settings.keys
        if "://" not in where:
            return json.loads(Path(where).read_text(encoding="utf-8"))
        # no redirects: the address was checked, another one was not
        with requests.get(where, timeout=_FETCH_SECONDS, stream=True, allow_redirects=False) as got:
            got.raise_for_status()
            body = got.raw.read(_MOST_BYTES + 1, decode_content=True)
        if got.status_code != requests.codes.ok or len(body) > _MOST_BYTES:
            msg = "oidc.keys: the answer is no JSON Web Key Set; check the address."
            raise PastaError(msg)
        return json.loads(body)


def _usable(document: Any) -> dict[str, jwt.PyJWK]:
    """Take the public signing keys; a symmetric one in such a set would let anybody sign."""
    found = {}
    for entry in document["keys"] if isinstance(document, dict) else ():
        if not isinstance(entry, dict) or entry.get("kty") not in ("RSA", "EC"):
            continue
        if entry.get("use", "sig") != "sig" or not isinstance(entry.get("kid"), str):
            continue
        try:
            found[entry["kid"]] = jwt.PyJWK(entry)
        except jwt.PyJWTError:
            continue
    return found
