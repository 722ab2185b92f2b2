"""What goes wrong on the way: each is one sentence with its mend, and nothing hangs."""

import contextlib
import gzip
import hashlib
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import nibabel as nib
import numpy as np
import pytest
from PASTAAidLib.cases import Cache
from PASTAAidLib.connection import Connection, Problem
from PASTAAidLib.settings import Settings

import pasta.client
from pasta import __version__
from pasta.report.reader import ReaderReport

HEALTH = {"version": __version__, "models": {"pasta_report": {"ready": True, "reason": None}}}
CT = gzip.compress(np.random.default_rng(0).bytes(20_000))


class Fake:
    """A server that answers what a test wants, by route; a seam, as no real one fails on demand."""

    def __init__(self):
        self.answers = {"/pasta/health": (200, HEALTH), "/pasta/jobs": (200, {})}
        self.asked = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_arguments):
                """Stay quiet."""

            def do_GET(self):
                route = urlsplit(self.path).path
                fake.asked.append((self.command, route))
                with contextlib.suppress(ConnectionError):
                    self.rfile.read(int(self.headers.get("Content-Length") or 0))
                    found = fake.answers.get(route, (404, {"detail": "no such thing."}))
                    if callable(found):
                        found(self)
                    else:
                        self.answer(*found)

            do_PUT = do_POST = do_DELETE = do_GET

            def answer(self, status, body, length=None):
                content = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                kind = "text/html" if isinstance(body, bytes) else "application/json"
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(length or len(content)))
                self.end_headers()
                self.wfile.write(content)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def fake():
    fake = Fake()
    yield fake
    fake.server.shutdown()
    fake.server.server_close()


@pytest.fixture
def connection(fake, tmp_path):
    return Connection(Settings(url=fake.url, reader="R1", folder=tmp_path))


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache", 1e9)


def problem_of(call, *arguments):
    with pytest.raises(Problem) as caught:
        call(*arguments)
    problem = caught.value
    assert problem.sentence.endswith(".")
    assert problem.mend.endswith(".")
    assert "\n" not in str(problem)
    assert "Traceback" not in str(problem)
    return problem


def test_a_server_that_is_away_is_told_at_once(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    connection = Connection(Settings(url=f"http://127.0.0.1:{port}", reader="R", folder=tmp_path))
    start = time.monotonic()
    assert problem_of(connection.worklist).kind == "away"
    check = connection.check()
    assert (check.ok, check.kind) == (False, "away")
    assert connection.begin("ct") is False
    assert problem_of(connection.run, "pasta_report", "ct").kind == "away"
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    ("status", "detail", "kind", "words"),
    [
        (401, "Could not validate credentials", "token", "token"),
        (403, "not allowed", "forbidden", "rights"),
        (413, "the upload is larger than 8 MB.", "refused", "8 MB"),
        (429, "3 requests are under way.", "busy", "again"),
        (500, "the server failed in a way not foreseen; its log says where.", "refused", "log"),
        (502, "", "away", "Try again"),
        (503, "no weights for screening; see docs.", "model", "weights for screening"),
        (504, "", "timeout", "in time"),
        (507, "the server ran out of memory; try fewer organs or the CPU.", "memory", "organs"),
        (507, "v0001.nii.gz: cannot be written. Free space.", "disk", "disk of the server"),
        (422, "organs: unknown organ 'x'.", "refused", "unknown organ"),
        (404, "no image 'ct' in the store.", "missing", "worklist"),
    ],
)
def test_each_answer_of_a_server_has_its_sentence(
    fake, connection, monkeypatch, status, detail, kind, words
):
    monkeypatch.setattr(pasta.client, "BUSY_TRIES", 1)
    for route in ("/pasta/images", "/infer/pasta_report"):
        fake.answers[route] = (status, {"detail": detail})
    for call in (connection.worklist, lambda: connection.run("pasta_report", "ct")):
        problem = problem_of(call)
        assert problem.kind == kind
        assert words in str(problem)


def test_the_check_tells_a_wrong_token_and_still_names_the_version(fake, connection):
    fake.answers["/pasta/jobs"] = (401, {"detail": "Could not validate credentials"})
    check = connection.check()
    assert (check.ok, check.kind, check.version) == (False, "token", __version__)


@pytest.mark.parametrize("version", ["9.9.9", "0.0.1", "new"])
def test_another_release_is_told(fake, connection, version):
    fake.answers["/pasta/health"] = (200, {**HEALTH, "version": version})
    check = connection.check()
    assert (check.ok, check.kind) == (False, "version")
    assert version in check.sentence
    assert __version__ in check.sentence


@pytest.mark.parametrize(
    "answer", [(200, b"<html>a printer</html>"), (200, {"status": "ok"}), (200, [1]), (404, b"no")]
)
def test_what_is_not_our_server_is_told(fake, connection, answer):
    fake.answers["/pasta/health"] = answer
    check = connection.check()
    assert not check.ok
    assert check.sentence
    assert check.mend
    fake.answers["/pasta/images"] = answer
    problem_of(connection.worklist)


def test_a_server_that_never_answers_is_given_up(fake, connection, monkeypatch):
    monkeypatch.setitem(pasta.client.Client.get.__kwdefaults__, "read_seconds", 0.5)
    monkeypatch.setitem(pasta.client.Client._send.__kwdefaults__, "read_seconds", 0.5)
    silent = threading.Event()
    for route in ("/pasta/images", "/pasta/health"):
        fake.answers[route] = lambda _handler: silent.wait(20)
    start = time.monotonic()
    assert problem_of(connection.worklist).kind == "timeout"
    assert connection.check().kind == "timeout"
    assert time.monotonic() - start < 5
    silent.set()


def test_a_task_that_the_server_forgot_is_given_up(fake, connection, monkeypatch):
    monkeypatch.setattr(pasta.client, "LOST_SECONDS", 0.5)
    over = threading.Event()
    fake.answers["/infer/pasta_report"] = lambda _handler: over.wait(20)
    start = time.monotonic()
    assert problem_of(connection.run, "pasta_report", "ct").kind == "timeout"
    assert time.monotonic() - start < 5
    assert any(method == "DELETE" for method, _ in fake.asked)  # in case it still runs
    over.set()


def known(fake, content=CT, sha256=None):
    sha256 = hashlib.sha256(content).hexdigest() if sha256 is None else sha256
    fake.answers["/pasta/images/ct"] = (
        200,
        {"sha256": "s", "download": {"suffix": ".nii.gz", "sha256": sha256 or None}},
    )


def test_a_ct_with_another_hash_is_refused_and_not_kept(fake, connection, cache):
    known(fake)
    fake.answers["/datastore/image"] = (200, CT[:-1] + b"x")
    assert problem_of(connection.fetch_image, "ct", cache).kind == "damaged"
    assert cache.path("ct") is None
    assert not list(cache.folder.glob("*"))
    fake.answers["/datastore/image"] = (200, CT)
    assert connection.fetch_image("ct", cache).read_bytes() == CT


def test_a_download_that_breaks_off_is_refused(fake, connection, cache):
    known(fake)
    fake.answers["/datastore/image"] = (200, CT[:100], len(CT))
    assert problem_of(connection.fetch_image, "ct", cache).kind == "damaged"
    assert not list(cache.folder.glob("*"))


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_series_has_no_hash_but_its_checksum_tells(fake, connection, cache, damage):
    known(fake, sha256="")
    broken = CT[:-5] if damage == "cut" else CT[:-6] + bytes([CT[-6] ^ 1]) + CT[-5:]
    fake.answers["/datastore/image"] = (200, broken)
    assert problem_of(connection.fetch_image, "ct", cache).kind == "damaged"


def test_a_full_disk_here_is_told(fake, connection, cache, monkeypatch):
    known(fake)
    fake.answers["/datastore/image"] = (200, CT)

    def full(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pasta.client, "_received", full)
    problem = problem_of(connection.fetch_image, "ct", cache)
    assert problem.kind == "disk"
    assert "settings" in problem.mend


@pytest.fixture
def mask(tmp_path):
    path = tmp_path / "mask.nii.gz"
    voxels = np.zeros((4, 5, 6), np.uint8)
    voxels[1, 2, 3] = 12
    nib.save(nib.Nifti1Image(voxels, np.diag([-1.0, -2.0, 3.0, 1.0])), path)
    return path


def accepting(fake, content, report, **changes):
    """Let the fake take a label, and give back what a test wants."""
    sha256 = hashlib.sha256(content).hexdigest()
    info = {
        "version": 1,
        "created": "2026-11-24",
        "sha256": sha256,
        "report": report,
        "shape": [4, 5, 6],
        "affine": np.diag([-1.0, -2.0, 3.0, 1.0]).tolist(),
        **changes,
    }
    stored = {"version": 1, "sha256": sha256, "conflict": None}

    def label(handler):
        handler.answer(200, stored if handler.command == "PUT" else content)

    fake.answers["/datastore/label"] = label
    fake.answers["/datastore/label/info"] = (200, info)


def changed(mask, path, *, voxel=None, affine=None):
    image = nib.load(mask)
    voxels = np.asarray(image.dataobj).copy()
    if voxel is not None:
        voxels[voxel] = 13
    nib.save(nib.Nifti1Image(voxels, image.affine if affine is None else affine), path)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("nothing", ""),
        ("hash", "its checksum"),
        ("voxel", "label values"),
        ("affine", "geometry"),
        ("ct", "place on the CT"),
        ("report", "the report"),
        ("no report", "the report"),
        ("file", "could not be read back"),
        ("away", "could not be read back"),
    ],
)
def test_saved_is_only_said_of_what_was_read_back_equal(
    fake, connection, mask, tmp_path, damage, words
):
    report = ReaderReport.empty().to_document()
    content = mask.read_bytes()
    other = {**report, "impression": "other"}
    if damage == "voxel":
        content = changed(mask, tmp_path / "x.nii.gz", voxel=(0, 0, 0))
    elif damage == "affine":
        content = changed(mask, tmp_path / "x.nii.gz", affine=np.diag([-1.0, -2.0, 3.1, 1.0]))
    elif damage == "file":
        content = b"rubbish"
    accepting(
        fake,
        content,
        {"report": other, "no report": None}.get(damage, report),
        **({"sha256": "0" * 64} if damage == "hash" else {}),
        **({"affine": np.eye(4).tolist()} if damage == "ct" else {}),
    )
    if damage == "away":
        fake.answers["/datastore/label/info"] = (502, {"detail": ""})
    if not words:
        assert connection.submit("ct", mask, report, {}, 0).version == 1
        return
    problem = problem_of(connection.submit, "ct", mask, report, {}, 0)
    assert words in problem.sentence
    assert "Submit again" in problem.mend
    assert mask.is_file()  # the work stays


def test_the_names_of_files_are_never_sent(fake, connection, tmp_path):
    path = tmp_path / "Doe^John.nii.gz"
    path.write_bytes(CT)
    heard = []

    def image(handler):
        heard.append(handler.path)
        handler.answer(200, {"image": "local-1"})

    fake.answers["/datastore/image"] = image
    with pasta.client._Form({"params": "{}"}, "file", path, None) as form:
        sent = b"".join(form)
    assert len(sent) == len(form)
    assert b"Doe" not in sent
    assert b'filename="image.nii.gz"' in sent
    connection.send_image(path)
    assert "Doe" not in heard[0]


def test_only_label_files_that_can_be_compared_are_submitted(connection, tmp_path):
    for name, content in (("a.nii.gz", b"rubbish"), ("b.nrrd", b"NRRD0004\nrubbish\n\n")):
        path = tmp_path / name
        path.write_bytes(content)
        report = ReaderReport.empty().to_document()
        problem = problem_of(connection.submit, "ct", path, report, {}, 0)
        assert name in problem.sentence
