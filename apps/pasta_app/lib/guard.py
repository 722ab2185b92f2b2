"""What every request passes first: who asks, what for, from where, how much; errors in words.

Plain ASGI around MONAI Label's application: middleware of the framework cannot be added any more
once our app is loaded, and would not see the body stream by.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import secrets
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from lib.access.door import Refusal
from lib.access.roles import PERSON, REQUEST
from lib.answers import http_error
from pasta.settings import is_loopback

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, MutableMapping

    from lib.access.door import Door
    from lib.access.roles import Person
    from pasta.settings import Settings

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

DRAINED_BYTES = 256 * 1024 * 1024
DRAINED_OF_STRANGERS = 1 << 20
_CASE = re.compile(r"c-[0-9a-f]{16}")  # of a study
_FIRST = re.compile(
    r"/(pasta|infer|datastore|session|activelearning|train|batch|scoring|info|logs)\b"
)
# asked for every quarter of a second while a task runs
_UNNOTED = re.compile(r"GET /(pasta/(health|jobs.*)|info/?)")
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
)


class _TooLargeError(Exception):
    pass


class _SilentError(Exception):
    pass


class Guard:
    """Checks around the application.

    Args:
        app: the application.
        settings: limits.
        door: knows who may use which route.
        known: tells whether the store has an image of an id.
    """

    def __init__(
        self, app: App, settings: Settings, door: Door, known: Callable[[str], bool]
    ) -> None:
        self._app = app
        self._settings = settings
        self._door = door
        self._known = known

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        scope[REQUEST] = secrets.token_hex(8)
        allowed = self._allowed(headers)
        refusal, person = self._refusal(scope, headers, allowed=allowed), None
        if refusal is None and not _preflight(scope, headers):
            person = await self._door.person(scope["method"], scope["path"], headers)
            scope[PERSON] = person
            address = scope["client"][0] if scope.get("client") else ""
            refusal = self._door.refusal(scope["method"], scope["path"], person, address)
        refusal = refusal or self._oversized(headers)

        async def answered(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": _with_ours(message.get("headers", []), scope)}
                if message["status"] != 429:  # a flood fills no disk
                    self._note(scope, person, message["status"])
            await send(message)

        if refusal:
            most = DRAINED_BYTES if person else DRAINED_OF_STRANGERS
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(_drain(receive, most), self._settings.body_seconds)
            await _answer(answered, refusal.status, refusal.detail, dict(refusal.headers))
            return
        await _Exchange(self._app, self._settings, allowed, answered).run(scope, receive)

    def _refusal(
        self, scope: MutableMapping[str, Any], headers: dict[bytes, bytes], *, allowed: bool
    ) -> Refusal | None:
        # the address that was connected to: no header can change it, as with that of the client
        server = scope.get("server")
        inside = not server or server[1] is None or is_loopback(server[0])
        if not inside and not self._settings.network:
            return Refusal(403, "this server is open to its own machine only; see server.network.")
        if b"origin" in headers and not allowed:
            detail = "requests from this web origin are not allowed; see PASTA_CORS_ORIGINS."
            return Refusal(403, detail)
        return None

    def _oversized(self, headers: dict[bytes, bytes]) -> Refusal | None:
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or len(length) > 18:
            return Refusal(400, "the Content-Length header is not a number.")
        if int(length) > self._settings.max_upload_bytes:
            return Refusal(413, _too_large(self._settings))
        return None

    def _allowed(self, headers: dict[bytes, bytes]) -> bool:
        origin = headers.get(b"origin", b"").decode("latin-1")
        same = urlsplit(origin).netloc == headers.get(b"host", b"-").decode("latin-1")
        return bool(origin) and (same or origin in self._settings.origins)

    def _note(self, scope: MutableMapping[str, Any], person: Person | None, status: int) -> None:
        path = self._door.local(scope["path"])
        route = getattr(scope.get("route"), "path", "")
        first = _FIRST.match(path)
        action = (
            f"{scope['method'][:8]} {self._door.local(route) or (first[0] if first else '/...')}"
        )
        if _UNNOTED.fullmatch(action) and status < 400:
            return
        if person is not None and person.study and status in (401, 403):
            person = None  # the study did not know this seat
        self._door.audit.note(
            request=scope[REQUEST],
            user=person.name if person else "",
            role=person.role.word if person else "",
            action=action,
            case=self._case(scope) if person else "",
            status=status,
        )

    def _case(self, scope: MutableMapping[str, Any]) -> str:
        """Find the case of a request: an image that the store has, or a code of a study."""
        given = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        parts = scope.get("path_params") or {}
        for name in ("image", "label", "id", "code"):
            found = str(parts.get(name) or next(iter(given.get(name, [])), "")).split("@")[0]
            if found and (_CASE.fullmatch(found) or self._known(found)):
                return found
        return ""


def _preflight(scope: MutableMapping[str, Any], headers: dict[bytes, bytes]) -> bool:
    """Tell whether a browser asks if another site may call; it sends no token with that."""
    return (
        scope["method"] == "OPTIONS"
        and b"origin" in headers
        and b"access-control-request-method" in headers
    )


def _with_ours(headers: Any, scope: MutableMapping[str, Any]) -> list[tuple[bytes, bytes]]:
    there = {name.lower() for name, _value in headers}
    ours = [(name, value) for name, value in _HEADERS if name not in there]
    return [*headers, *ours, (b"x-request-id", scope[REQUEST].encode())]


class _Exchange:
    """One request and its answer."""

    def __init__(self, app: App, config: Settings, cross_origin: bool, send: Send) -> None:
        self._app = app
        self._config = config
        self._cross_origin = cross_origin
        self._send = send
        self._received = 0
        self._held: list[Message] = []
        self._started = False
        self._whole = False
        self._silent = False

    async def run(self, scope: MutableMapping[str, Any], receive: Receive) -> None:
        async def counted() -> Message:
            seconds = None if self._whole else self._config.body_seconds
            try:
                message = await asyncio.wait_for(receive(), seconds)
            except TimeoutError:
                self._silent = True
                raise _SilentError from None
            self._whole = not message.get("more_body", False)
            self._received += len(message.get("body", b""))
            if self._too_large:
                raise _TooLargeError
            return message

        try:
            await self._app(scope, counted, self._forward)
        except Exception as error:
            if self._started:
                raise
            if not self._too_large and not self._silent:
                found = http_error(error)
                await _answer(self._send, found.status_code, str(found.detail), found.headers)
                return
        if self._silent and not self._started:
            detail = f"nothing came for {self._config.body_seconds} s; send it again."
            await _answer(self._send, 408, detail)
            return
        if self._too_large and not self._started:
            await _drain(receive, DRAINED_BYTES)
            await _answer(self._send, 413, _too_large(self._config))
            return
        for message in self._held:
            await self._send(message)

    @property
    def _too_large(self) -> bool:
        return self._received > self._config.max_upload_bytes

    async def _forward(self, message: Message) -> None:
        if (self._too_large or self._silent) and not self._started:
            return
        if message["type"] == "http.response.start":
            headers = self._without_cors(message.get("headers", []))
            message = {**message, "headers": headers}
        if self._held or message.get("status") == 500:
            self._held.append(message)  # an exception may follow, which says more
            return
        self._started = True
        await self._send(message)

    def _without_cors(self, headers: Any) -> list[tuple[bytes, bytes]]:
        if self._cross_origin:
            return list(headers)
        return [(n, v) for n, v in headers if not n.lower().startswith(b"access-control-")]


def _too_large(config: Settings) -> str:
    limit = config.max_upload_bytes // (1024 * 1024)
    return f"the upload is larger than {limit} MB; raise PASTA_MAX_UPLOAD_MB if it is one CT."


async def _drain(receive: Receive, left: int) -> None:
    """Take the rest of a body: a client that is still sending would not read our answer."""
    while left > 0:
        message = await receive()
        left -= len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body", False):
            return


async def _answer(
    send: Send, status: int, detail: str, extra: Mapping[str, str] | None = None
) -> None:
    body = json.dumps({"detail": detail}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
        *((name.lower().encode(), value.encode()) for name, value in (extra or {}).items()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
