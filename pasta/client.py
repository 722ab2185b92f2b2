"""Talk to a PASTA-AID server over HTTP: send CTs, run tasks, follow their progress. No server code.

Everything here is plain `requests`; Slicer's extension and scripts may copy the flow of `Client.infer`.
"""

from __future__ import annotations

import json
import re
import secrets
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests

from pasta.errors import PastaError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    Progress = Callable[[float, str], None]

CONNECT_SECONDS, ANSWER_SECONDS = 5.0, 30.0
POLL_SECONDS = 0.25
BUSY_TRIES = 5
LONGEST_WAIT_SECONDS = 30.0
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class ServerError(PastaError, OSError):
    """The server is not there, refuses a request or answers what cannot be read."""


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
        token: bearer token, for servers that ask for one.
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

    def upload(self, path: Path, wanted: str | None = None) -> str:
        """Send a CT file into the store.

        Args:
            path: one file.
            wanted: id to take if it is allowed.

        Returns:
            The id under which the store holds it.

        Raises:
            ServerError: if the server refuses the file; the message is its sentence.
        """
        with path.open("rb") as file:
            # a neutral name: file names may hold patient names
            suffix = "".join(path.suffixes[-2:])
            answer = self._request(
                "PUT",
                "/datastore/image",
                query={"image": wanted} if wanted else {},
                files={"file": (f"image{suffix}", file)},
                read_seconds=None,
            )
        return str(_json(answer)["image"])

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
        """Stop a job; one that is over already is left alone."""
        self._send("DELETE", f"/pasta/jobs/{job}")

    def infer(
        self,
        model: str,
        image: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        output: str | None = None,
        progress: Progress | None = None,
    ) -> Answer:
        """Run a task and wait for it. Ctrl-C, or any exception in `progress`, cancels the job.

        A busy server is asked again after the time that it names.

        Args:
            model: name of the task, such as "pasta_segmentation".
            image: id in the server's store.
            parameters: of the task, such as {"organs": ["liver"]}.
            output: "json", "image" or "all"; None takes what the task has.
            progress: called with the fraction done and the name of the stage.

        Raises:
            ServerError: if the server refuses or fails; the message is its sentence.
        """
        for left in reversed(range(BUSY_TRIES)):
            job = f"job-{secrets.token_hex(8)}"
            fields = {"params": json.dumps({**(parameters or {}), "job": job})}
            query = {"image": image, **({"output": output} if output else {})}
            response = self._followed(job, f"/infer/{model}", query, fields, progress)
            if response.status_code != requests.codes.too_many_requests or not left:
                return _answer(_accepted(response))
            time.sleep(_retry_seconds(response))
        raise AssertionError  # the last try returns or raises

    def _followed(
        self,
        job: str,
        route: str,
        query: Mapping[str, str],
        fields: Mapping[str, str],
        progress: Progress | None,
    ) -> requests.Response:
        """Post in a thread and tell the progress meanwhile."""
        outcome: list[requests.Response | BaseException] = []

        def post() -> None:
            try:
                outcome.append(
                    self._send("POST", route, query=query, fields=fields, read_seconds=None)
                )
            except Exception as error:  # noqa: BLE001 - raised again in the caller's thread
                outcome.append(error)

        worker = threading.Thread(target=post, name=job, daemon=True)
        worker.start()
        try:
            while worker.is_alive():
                worker.join(POLL_SECONDS)
                state = self.job(job) if progress and worker.is_alive() else None
                if progress and state:
                    progress(float(state["percent"]) / 100, str(state["stage"] or state["state"]))
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
        files: Mapping[str, Any] | None = None,
        read_seconds: float | None = ANSWER_SECONDS,
    ) -> requests.Response:
        try:
            with requests.Session() as session:
                # a proxy of the environment cannot know this machine's own loopback
                session.trust_env = urlsplit(self.url).hostname not in LOOPBACK
                return session.request(
                    method,
                    self.url + route,
                    params=query,
                    data=fields,
                    files=files,
                    headers=self._headers,
                    timeout=(CONNECT_SECONDS, read_seconds),
                )
        except requests.ConnectionError as error:
            msg = f"{self.url}: no server answers. Start one with `make run`, or check the address."
            raise ServerError(msg) from error
        except requests.RequestException as error:
            msg = f"{self.url}{route}: no answer ({type(error).__name__}). Try again."
            raise ServerError(msg) from error


def _accepted(response: requests.Response) -> requests.Response:
    """Turn an error status into the server's own sentence."""
    if response.ok:
        return response
    try:
        detail = response.json()["detail"]
    except (ValueError, KeyError, TypeError):
        detail = f"status {response.status_code} without a reason; see the server's log."
    route = response.request.path_url.split("?")[0]
    msg = f"{route}: {detail}"
    raise ServerError(msg)


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
