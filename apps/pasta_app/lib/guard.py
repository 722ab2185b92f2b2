"""What every request passes first: size, origin, switched-off routes, errors in words.

Plain ASGI around MONAI Label's application: middleware of the framework cannot be added any more
once our app is loaded, and would not see the body stream by.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from lib.answers import http_error

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, MutableMapping

    from lib.config import Config
    from lib.study.gate import Gate

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

# reach any path of a PACS, replace weights, start other software, load scripts from elsewhere
SWITCHED_OFF = re.compile(r"/+(proxy|ohif|reload|model|infer/wsi|batch/infer/wsi|logs/gpu)(/.*)?")

DRAINED_BYTES = 256 * 1024 * 1024


class _TooLargeError(Exception):
    pass


class Guard:
    """Checks around the application.

    Args:
        app: the application.
        config: limits.
        gate: who may use which route of a server that runs a study; None for a server without.
    """

    def __init__(self, app: App, config: Config, gate: Gate | None = None) -> None:
        self._app = app
        self._config = config
        self._gate = gate

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket" and self._gate is not None:
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        refusal = self._refusal(scope, headers)
        if refusal:
            await _drain(receive)
            await _answer(send, *refusal)
            return
        await _Exchange(self._app, self._config, self._allowed(headers), send).run(scope, receive)

    def _refusal(
        self, scope: MutableMapping[str, Any], headers: dict[bytes, bytes]
    ) -> tuple[int, str] | None:
        if SWITCHED_OFF.fullmatch(scope["path"]):
            return 404, "this route is switched off in PASTA-AID."
        if b"origin" in headers and not self._allowed(headers):
            return 403, "requests from this web origin are not allowed; see PASTA_CORS_ORIGINS."
        shut = self._gate.refusal(scope["path"], headers) if self._gate else ""
        if shut:
            return 403, shut
        length = headers.get(b"content-length", b"0")
        if not length.isdigit():
            return 400, "the Content-Length header is not a number."
        if int(length) > self._config.max_upload_bytes:
            return 413, _too_large(self._config)
        return None

    def _allowed(self, headers: dict[bytes, bytes]) -> bool:
        origin = headers.get(b"origin", b"").decode("latin-1")
        same = urlsplit(origin).netloc == headers.get(b"host", b"-").decode("latin-1")
        return bool(origin) and (same or origin in self._config.origins)


class _Exchange:
    """One request and its answer."""

    def __init__(self, app: App, config: Config, cross_origin: bool, send: Send) -> None:
        self._app = app
        self._config = config
        self._cross_origin = cross_origin
        self._send = send
        self._received = 0
        self._held: list[Message] = []
        self._started = False

    async def run(self, scope: MutableMapping[str, Any], receive: Receive) -> None:
        async def counted() -> Message:
            message = await receive()
            self._received += len(message.get("body", b""))
            if self._too_large:
                raise _TooLargeError
            return message

        try:
            await self._app(scope, counted, self._forward)
        except Exception as error:
            if self._started:
                raise
            if not self._too_large:
                found = http_error(error)
                await _answer(self._send, found.status_code, str(found.detail), found.headers)
                return
        if self._too_large and not self._started:
            await _drain(receive)
            await _answer(self._send, 413, _too_large(self._config))
            return
        for message in self._held:
            await self._send(message)

    @property
    def _too_large(self) -> bool:
        return self._received > self._config.max_upload_bytes

    async def _forward(self, message: Message) -> None:
        if self._too_large and not self._started:
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


def _too_large(config: Config) -> str:
    limit = config.max_upload_bytes // (1024 * 1024)
    return f"the upload is larger than {limit} MB; raise PASTA_MAX_UPLOAD_MB if it is one CT."


async def _drain(receive: Receive) -> None:
    """Take the rest of a body: a client that is still sending would not read our answer."""
    left = DRAINED_BYTES
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
