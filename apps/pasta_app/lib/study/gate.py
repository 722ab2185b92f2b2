"""While a server runs a study, only the study's own routes are open; all else is the coordinator's.

An allow list: a route that comes with a later version of MONAI Label is shut until it is named here.
"""

from __future__ import annotations

import re
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lib.study.tokens import AdminToken

COOKIE = "pasta_coordinator"
_OPEN = re.compile(r"/pasta/(health|(study|coordinator)(/.*)?)")  # these two check for themselves


class Gate:
    """Knows which routes of a study server look at their callers themselves, and its coordinators.

    Args:
        admin: token of the coordinators.
    """

    def __init__(self, admin: AdminToken) -> None:
        self._admin = admin

    def is_open(self, route: str) -> bool:
        """Tell whether a route checks for itself who asks."""
        return bool(_OPEN.fullmatch(route))

    def is_coordinator(self, headers: Mapping[bytes, bytes]) -> bool:
        """Tell whether a request carries the admin token or a cookie that it was exchanged for."""
        token = bearer(headers.get(b"authorization", b"").decode("latin-1"))
        if token and self._admin.fits(token):
            return True
        cookie = cookie_of(headers.get(b"cookie", b"").decode("latin-1"))
        return bool(cookie) and self._admin.knows(cookie)


def bearer(header: str) -> str:
    """Take the token out of an Authorization header; "" if there is none."""
    kind, _, token = header.partition(" ")
    return token.strip() if kind.lower() == "bearer" else ""


def cookie_of(header: str) -> str:
    """Take our cookie out of a Cookie header; "" if it is not there."""
    try:
        found = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found else ""
