"""The HTTP client against a small server that answers as the app does."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from pasta.client import Client, ServerError

MASK = bytes(range(256)) * 9 + b"\r\n--not the fence\r\n\r\n" + b"\r\n"
FENCE = "a1b2c3"


class Fake:
    """What the fake server was asked, and what it shall answer."""

    def __init__(self):
        self.busy = 0
        self.requests = []
        self.cancelled = threading.Event()
        self.release = threading.Event()
        self.release.set()


def handler(fake):
    """Make the handler class of a fake."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_arguments):
            """Stay quiet."""

        def answer(self, status, body, kind="application/json", **headers):
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self):
            route = urlsplit(self.path).path
            if route == "/pasta/images":
                self.answer(200, {"images": [{"id": "a", "kind": "file", "labels": []}]})
            elif route == "/pasta/health":
                self.answer(200, b"<html>another program</html>", "text/html")
            elif fake.requests:
                self.answer(200, {"state": "running", "percent": 40, "stage": "windows"})
            else:
                self.answer(404, {"detail": "unknown job"})

        def do_DELETE(self):
            fake.cancelled.set()
            fake.release.set()
            self.answer(200, {})

        def do_PUT(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            fake.requests.append((self.path, body))
            self.answer(200, {"image": "minted"})

        def do_POST(self):
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            fake.requests.append((self.path, json.loads(form["params"][0])))
            fake.release.wait(20)
            if fake.busy:
                fake.busy -= 1
                self.answer(429, {"detail": "8 jobs wait already."}, Retry_After="0")
            elif "pasta_screening" in self.path:
                self.answer(200, {"organs": []})
            elif "pasta_report" in self.path:
                self.answer(422, {"detail": "unknown organ 'hart'."})
            elif "broken" in self.path:
                self.answer(500, b"Internal Server Error", "text/plain")
            else:
                parts = (
                    b'Content-Disposition: form-data; name="params"\r\n'
                    b'Content-Type: application/json\r\n\r\n{"schema": "s"}\r\n',
                    b'Content-Disposition: form-data; name="image"; filename="m.nii.gz"\r\n'
                    b"Content-Type: application/octet-stream\r\n\r\n" + MASK + b"\r\n",
                )
                fence = f"--{FENCE}".encode()
                body = b"".join(fence + b"\r\n" + part for part in parts) + fence + b"--\r\n"
                self.answer(200, body, f"multipart/form-data; boundary={FENCE}")

    return Handler


@pytest.fixture
def fake():
    """State of the fake server."""
    return Fake()


@pytest.fixture
def client(fake, monkeypatch):
    """Client of the fake server, with a proxy set that does not exist."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(fake))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield Client(f"http://127.0.0.1:{server.server_port}/")
    fake.release.set()
    server.shutdown()
    thread.join()
    server.server_close()


def test_mask_and_document_arrive_bit_by_bit(client, fake):
    answer = client.infer("pasta_segmentation", "a", {"organs": ["liver"]})
    assert answer.document == {"schema": "s"}
    assert answer.image == MASK
    path, parameters = fake.requests[0]
    assert path == "/infer/pasta_segmentation?image=a"
    assert parameters["organs"] == ["liver"]
    assert parameters["job"].startswith("job-")


def test_task_without_a_file_answers_json(client):
    answer = client.infer("pasta_screening", "a")
    assert answer.document == {"organs": []}
    assert answer.image is None


def test_progress_of_the_server_is_told(client, fake):
    fake.release.clear()
    told = []

    def progress(fraction, stage):
        told.append((fraction, stage))
        fake.release.set()

    client.infer("pasta_segmentation", "a", progress=progress)
    assert told[0] == (0.4, "windows")
    assert told[-1] == (1.0, "done")


def test_ctrl_c_cancels_the_job(client, fake):
    fake.release.clear()

    def progress(_fraction, _stage):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.infer("pasta_segmentation", "a", progress=progress)
    assert fake.cancelled.wait(5)


def test_busy_server_is_asked_again(client, fake):
    fake.busy = 2
    assert client.infer("pasta_screening", "a").document == {"organs": []}
    assert len({parameters["job"] for _, parameters in fake.requests}) == 3


def test_refusal_is_the_sentence_of_the_server(client):
    with pytest.raises(ServerError, match=r"/infer/pasta_report: unknown organ 'hart'\."):
        client.infer("pasta_report", "a")


def test_failure_without_a_sentence_names_the_status(client):
    with pytest.raises(ServerError, match="status 500"):
        client.infer("broken", "a")


def test_another_program_on_the_port_is_told(client):
    with pytest.raises(ServerError, match="Is it a PASTA-AID server"):
        client.health()


def test_missing_server_is_told():
    with pytest.raises(ServerError, match="no server answers"):
        Client("http://127.0.0.1:9").images()


def test_upload_hides_the_name_of_the_file(client, fake, tmp_path):
    path = tmp_path / "DOE_JANE.nii.gz"
    path.write_bytes(b"voxels")
    assert client.upload(path, "case 1") == "minted"
    assert fake.requests[0][0] == "/datastore/image?image=case+1"
    assert b"DOE" not in fake.requests[0][1]
    assert client.images()[0]["id"] == "a"
