"""Talk to a PASTA-AID server over HTTP: send CTs, run tasks, follow their progress. No server code.

Everything here is plain `requests`; Slicer's extension and scripts may copy the flow of `Client.infer`.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import secrets
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests

from pasta.errors import PastaError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Progress = Callable[[float, str], None]

CONNECT_SECONDS, ANSWER_SECONDS = 5.0, 30.0
POLL_SECONDS = 0.25
BUSY_TRIES = 5
LONGEST_WAIT_SECONDS = 30.0
LONGEST_ANSWER_SECONDS = 300.0  # to an upload: the server reads the whole volume first
LOST_SECONDS = 120.0  # without a sign that the server still knows the job
CHUNK_BYTES = 1 << 18
LONG_SUFFIXES = (".nii.gz", ".seg.nrrd")
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def local_file(port: int) -> Path:
    """Where a server lays out its reader's token for clients of the same account.

    Args:
        port: that the server listens on.
    """
    base = os.environ.get("XDG_RUNTIME_DIR") or os.environ.get("XDG_STATE_HOME")
    folder = Path(base) if base else Path.home() / ".local" / "state"
    return folder / "pasta-aid" / f"server-{port}.json"


def local_token(url: str) -> str:
    """Find the token of a server of the same account on this machine; "" if there is none.

    A file that others could have written is left alone, and one of a process that is gone: another
    account could listen on its port now.

    Args:
        url: of the server.
    """
    parts = urlsplit(url)
    if parts.hostname not in LOOPBACK or os.name != "posix":
        return ""
    path = local_file(parts.port or (443 if parts.scheme == "https" else 80))
    try:
        status = path.stat()
        if status.st_uid != os.getuid() or status.st_mode & 0o077:
            return ""
        given = json.loads(path.read_text(encoding="utf-8"))
        os.kill(int(given["process"]), 0)
        return str(given["token"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return ""


class ServerError(PastaError, OSError):
    """The server is not there, refuses a request or answers what cannot be read.

    Attributes:
        kind: "away", "timeout", "refused" or "unreadable".
        status: of the answer, 0 if there was none.
        detail: the server's own sentence, if it gave one.
    """

    def __init__(
        self, message: str, *, kind: str = "unreadable", status: int = 0, detail: str = ""
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.status = status
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Answer:
    """What a task returned.

    Attributes:
        document: its JSON.
        image: bytes of the mask or map, None for tasks without one.
    """

    document: dict[str, Any]
    image: bytes | None = None


class Client:
    """One server.

    Args:
        url: such as "http://127.0.0.1:8000".
        token: of the server's file of tokens, or from an identity provider; None takes that which a
            server of the same account on this machine has laid out.
    """

    def __init__(self, url: str, token: str | None = None) -> None:
        self.url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def health(self) -> dict[str, Any]:
        """Ask whether the server works and which tasks are ready.

        Raises:
            ServerError: if it does not answer.
        """
        return _json(self._request("GET", "/pasta/health"))

    def images(self) -> list[dict[str, Any]]:
        """List the images of the server's store: id, kind and labels of each.

        Raises:
            ServerError: if it does not answer.
        """
        images: list[dict[str, Any]] = _json(self._request("GET", "/pasta/images"))["images"]
        return images

    def upload(
        self, path: Path, wanted: str | None = None, *, progress: Progress | None = None
    ) -> str:
        """Send a CT file into the store. Any exception in `progress` stops it.

        Args:
            path: one file; its name is not sent, as it may hold a patient's.
            wanted: id to take if it is allowed.
            progress: called with the fraction sent and "sending".

        Returns:
            The id under which the store holds it.

        Raises:
            ServerError: if the server refuses the file; the message is its sentence.
        """
        query = {"image": wanted} if wanted else {}
        document = self.send_file("/datastore/image", "file", path, query, progress=progress)
        return str(document["image"])

    def send_file(
        self,
        route: str,
        field: str,
        path: Path,
        query: Mapping[str, str],
        fields: Mapping[str, str] | None = None,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """Put a file with form fields, streamed from the disk; return the JSON answer.

        Args:
            route: such as "/datastore/label".
            field: name of the form field of the file.
            path: of the file.
            query: of the address.
            fields: texts to send along.
            progress: called with the fraction sent and "sending".

        Raises:
            ServerError: if the server refuses it; the message is its sentence.
            OSError: if the file cannot be read.
        """
        with _Form(fields or {}, field, path, progress) as form:
            response = self._send(
                "PUT", route, query=query, form=form, read_seconds=LONGEST_ANSWER_SECONDS
            )
        return _json(_accepted(response))

    def post_form(
        self, route: str, fields: Mapping[str, str], field: str = "", path: Path | None = None
    ) -> dict[str, Any]:
        """Post form fields, with a file if there is one; return the JSON answer.

        Args:
            route: such as "/pasta/study/case/c-0123456789abcdef/answer".
            fields: texts.
            field: name of the form field of the file.
            path: of the file.

        Raises:
            ServerError: if the server refuses it; the message is its sentence.
            OSError: if the file cannot be read.
        """
        seconds = LONGEST_ANSWER_SECONDS
        if path is None:
            return _json(self._request("POST", route, fields=fields, read_seconds=seconds))
        with _Form(fields, field, path, None) as form:
            return _json(self._request("POST", route, form=form, read_seconds=seconds))

    def fetch(self, route: str, query: Mapping[str, str]) -> bytes:
        """Get the bytes of a file.

        Raises:
            ServerError: if there is no answer, or another one.
        """
        return self._request("GET", route, query=query, read_seconds=LONGEST_ANSWER_SECONDS).content

    def get(
        self,
        route: str,
        query: Mapping[str, str] | None = None,
        *,
        read_seconds: float = ANSWER_SECONDS,
    ) -> dict[str, Any]:
        """Get a JSON object.

        Raises:
            ServerError: if there is no answer, or another one.
        """
        return _json(self._request("GET", route, query=query, read_seconds=read_seconds))

    def ask(
        self,
        method: str,
        route: str,
        query: Mapping[str, str] | None = None,
        document: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Send a JSON object and get one.

        Raises:
            ServerError: if there is no answer, or another one.
        """
        return _json(self._request(method, route, query=query, document=document or {}))

    def download(
        self,
        route: str,
        query: Mapping[str, str],
        path: Path,
        *,
        progress: Progress | None = None,
    ) -> str:
        """Get a file; what arrives short or damaged on the way is refused.

        Args:
            route: such as "/datastore/image".
            query: of the address.
            path: to write.
            progress: called with the fraction received and "receiving".

        Returns:
            SHA-256 of its bytes.

        Raises:
            ServerError: if the server refuses, or the file is not whole; nothing is left then.
            OSError: if it cannot be written.
        """
        try:
            with self._send("GET", route, query=query, stream=True) as response:
                return _received(_accepted(response), path, progress)
        except requests.RequestException as error:  # while it streams
            path.unlink(missing_ok=True)
            if isinstance(error, requests.exceptions.ChunkedEncodingError):
                msg = f"{route}: the file arrived short. Try again."
                raise ServerError(msg) from error
            raise self._broken(route, error) from error
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def job(self, job: str) -> dict[str, Any] | None:
        """Ask how far a job is; None if the server does not know it (yet).

        Raises:
            ServerError: if it does not answer.
        """
        response = self._send("GET", f"/pasta/jobs/{job}")
        if response.status_code == requests.codes.not_found:
            return None
        return _json(_accepted(response))

    def cancel(self, job: str) -> None:
        """Stop a job; one that is over already, or a server that is gone, is left alone."""
        with contextlib.suppress(ServerError):
            self._send("DELETE", f"/pasta/jobs/{job}", read_seconds=CONNECT_SECONDS)

    def infer(
        self,
        model: str,
        image: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        output: str | None = None,
        label: Path | None = None,
        progress: Progress | None = None,
    ) -> Answer:
        """Run a task and wait for it. Ctrl-C, or any exception in `progress`, cancels the job.

        A busy server is asked again after the time that it names.

        Args:
            model: name of the task, such as "pasta_segmentation".
            image: id in the server's store.
            parameters: of the task, such as {"organs": ["liver"]}.
            output: "json", "image" or "all"; None takes what the task has.
            label: labelmap to work on, for tasks that take one.
            progress: called with the fraction done and the name of the stage.

        Raises:
            ServerError: if the server refuses or fails; the message is its sentence.
        """
        for left in reversed(range(BUSY_TRIES)):
            job = f"job-{secrets.token_hex(8)}"
            fields = {"params": json.dumps({**(parameters or {}), "job": job})}
            query = {"image": image, **({"output": output} if output else {})}
            response = self._followed(job, f"/infer/{model}", query, fields, label, progress)
            if response.status_code != requests.codes.too_many_requests or not left:
                return _answer(_accepted(response))
            _wait(_retry_seconds(response), progress)
        raise AssertionError  # the last try returns or raises

    def _followed(
        self,
        job: str,
        route: str,
        query: Mapping[str, str],
        fields: Mapping[str, str],
        label: Path | None,
        progress: Progress | None,
    ) -> requests.Response:
        """Post in a thread and tell the progress meanwhile.

        Not knowing how long a task takes, it gives up only where the server stops answering, or no
        longer knows the job.
        """
        outcome: list[requests.Response | BaseException] = []

        def post() -> None:
            try:
                if label is None:
                    response = self._send(
                        "POST", route, query=query, fields=fields, read_seconds=None
                    )
                else:
                    with _Form(fields, "label", label, None) as form:
                        response = self._send(
                            "POST", route, query=query, form=form, read_seconds=None
                        )
                outcome.append(response)
            except Exception as error:  # noqa: BLE001 - raised again in the caller's thread
                outcome.append(error)

        worker = threading.Thread(target=post, name=job, daemon=True)
        worker.start()
        heard = time.monotonic()
        try:
            while worker.is_alive():
                worker.join(POLL_SECONDS)
                if not worker.is_alive():
                    break
                state = self.job(job)
                if state and state.get("state") in ("waiting", "running"):
                    heard = time.monotonic()
                elif time.monotonic() - heard > LOST_SECONDS:
                    msg = f"{route}: the server no longer knows the job. Run it again."
                    raise ServerError(msg, kind="timeout")
                if progress and state:
                    progress(float(state["percent"]) / 100, str(state["stage"] or state["state"]))
                elif progress:
                    progress(0.0, "sending")
        except BaseException:
            if worker.is_alive():
                self.cancel(job)
            raise
        (result,) = outcome
        if isinstance(result, BaseException):
            raise result
        if progress and result.ok:
            progress(1.0, "done")
        return result

    def _request(self, *arguments: Any, **keywords: Any) -> requests.Response:
        return _accepted(self._send(*arguments, **keywords))

    def _send(
        self,
        method: str,
        route: str,
        *,
        query: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
        form: _Form | None = None,
        document: Mapping[str, Any] | None = None,
        read_seconds: float | None = ANSWER_SECONDS,
        stream: bool = False,
    ) -> requests.Response:
        headers = dict(self._headers)
        if "Authorization" not in headers and (token := local_token(self.url)):
            headers["Authorization"] = f"Bearer {token}"
        if form is not None:
            headers["Content-Type"] = form.kind
        if stream:
            headers["Accept-Encoding"] = "identity"  # the length then is that of the file
        try:
            with requests.Session() as session:
                # a proxy of the environment cannot know this machine's own loopback
                session.trust_env = urlsplit(self.url).hostname not in LOOPBACK
                return session.request(
                    method,
                    self.url + route,
                    params=query,
                    data=form if form is not None else fields,
                    json=document,
                    headers=headers,
                    timeout=(CONNECT_SECONDS, read_seconds),
                    stream=stream,
                )
        except requests.RequestException as error:
            if form is not None and form.stopped is not None:
                raise form.stopped from None  # what `progress` raised, not what became of it
            raise self._broken(route, error) from error

    def _broken(self, route: str, error: requests.RequestException) -> ServerError:
        # connecting in vain is "away"; silence of one who is there is a timeout
        late = isinstance(error, requests.ReadTimeout) or "timed out" in str(error).lower()
        if late and not isinstance(error, requests.ConnectTimeout):
            msg = f"{self.url}{route}: no answer in time. Try again."
            return ServerError(msg, kind="timeout")
        if isinstance(error, requests.ConnectionError):
            msg = f"{self.url}: no server answers. Start one with `make run`, or check the address."
            return ServerError(msg, kind="away")
        msg = f"{self.url}{route}: no answer ({type(error).__name__}). Try again."
        return ServerError(msg, kind="away")


class _Form:
    """A multipart body that is read from the disk while it is sent: a CT need not fit in memory."""

    def __init__(
        self, fields: Mapping[str, str], field: str, path: Path, progress: Progress | None
    ) -> None:
        fence = f"pasta-{secrets.token_hex(16)}"
        self.kind = f"multipart/form-data; boundary={fence}"
        self.stopped: BaseException | None = None
        texts = "".join(
            f'--{fence}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n'
            for name, text in fields.items()
        )
        suffix = "".join(path.suffixes[-2:])
        suffix = suffix if suffix.lower() in LONG_SUFFIXES else path.suffix
        head = (
            f'{texts}--{fence}\r\nContent-Disposition: form-data; name="{field}"; '
            f'filename="image{suffix}"\r\nContent-Type: application/octet-stream\r\n\r\n'
        )
        tail = f"\r\n--{fence}--\r\n".encode()
        self._file = path.open("rb")
        self._parts: list[IO[bytes]] = [io.BytesIO(head.encode()), self._file, io.BytesIO(tail)]
        self._length = len(head.encode()) + path.stat().st_size + len(tail)
        self._sent = 0
        self._progress = progress

    def __enter__(self) -> _Form:
        return self

    def __exit__(self, *_error: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[bytes]:
        while chunk := self.read(CHUNK_BYTES):
            yield chunk

    def read(self, size: int = -1) -> bytes:
        """Read the next bytes, and tell how far it is; requests calls this."""
        size = max(size, CHUNK_BYTES)
        chunk = b""
        while self._parts and not chunk:
            chunk = self._parts[0].read(size)
            if not chunk:
                self._parts.pop(0)
        self._sent += len(chunk)
        if self._progress:
            try:
                self._progress(min(self._sent / self._length, 1.0), "sending")
            except BaseException as error:
                self.stopped = error
                raise
        return chunk


def _received(response: requests.Response, path: Path, progress: Progress | None) -> str:
    """Write a streamed answer to a file; return the SHA-256 of its bytes."""
    sha256 = hashlib.sha256()
    length = int(response.headers.get("Content-Length") or 0)
    done = 0
    with path.open("wb") as file:
        for chunk in response.iter_content(CHUNK_BYTES):
            file.write(chunk)
            sha256.update(chunk)
            done += len(chunk)
            if progress:
                progress(min(done / length, 1.0) if length else 0.0, "receiving")
    if length and done != length:
        msg = f"{response.request.path_url}: arrived short, {done} of {length} bytes. Try again."
        raise ServerError(msg)
    return sha256.hexdigest()


def _wait(seconds: float, progress: Progress | None) -> None:
    """Wait for a busy server; `progress` may end it."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if progress:
            progress(0.0, "waiting, the server is busy")
        time.sleep(min(left, POLL_SECONDS))


def _accepted(response: requests.Response) -> requests.Response:
    """Turn an error status into the server's own sentence."""
    if response.ok:
        return response
    detail = ""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        found = response.json()["detail"]
        detail = found if isinstance(found, str) else ""
    said = detail or f"status {response.status_code} without a reason; see the server's log."
    route = response.request.path_url.split("?")[0]
    msg = f"{route}: {said}"
    raise ServerError(msg, kind="refused", status=response.status_code, detail=detail)


def _json(response: requests.Response) -> dict[str, Any]:
    try:
        document = response.json()
    except ValueError as error:
        msg = f"{response.request.path_url}: the answer is not JSON. Is it a PASTA-AID server?"
        raise ServerError(msg) from error
    if not isinstance(document, dict):
        msg = f"{response.request.path_url}: the answer is not a JSON object."
        raise ServerError(msg)
    return document


def _retry_seconds(response: requests.Response) -> float:
    try:
        return min(max(float(response.headers["Retry-After"]), 0.5), LONGEST_WAIT_SECONDS)
    except (KeyError, ValueError):
        return 2.0


def _answer(response: requests.Response) -> Answer:
    """Take an answer apart: JSON, a file, or both in multipart/form-data."""
    kind = response.headers.get("Content-Type", "")
    if kind.startswith("application/json"):
        return Answer(_json(response))
    if not kind.startswith("multipart/form-data"):
        return Answer({}, response.content)
    document: dict[str, Any] | None = None
    image: bytes | None = None
    for name, content in _parts(kind, response.content):
        if name == "params":
            try:
                document = json.loads(content)
            except ValueError as error:
                msg = "the answer's JSON part cannot be read. Try again."
                raise ServerError(msg) from error
        elif name in {"image", "file"}:
            image = content
    if document is None:
        msg = "the answer has no JSON part. Is the server of another release?"
        raise ServerError(msg)
    return Answer(document, image)


def _parts(kind: str, body: bytes) -> Iterator[tuple[str, bytes]]:
    """Split a multipart body into (field name, content)."""
    found = re.search(r'boundary="?([^";]+)', kind)
    if not found:
        msg = "the answer is multipart without a boundary. Is the server of another release?"
        raise ServerError(msg)
    fence = b"--" + found.group(1).encode()
    for part in body.split(fence)[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        name = re.search(rb'\bname="?([^";\r\n]+)', head)
        if name:
            yield name.group(1).decode(), content.removesuffix(b"\r\n")
