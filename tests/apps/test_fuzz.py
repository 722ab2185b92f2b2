"""Inputs that nobody would send by accident: no 500, no hang, nothing left behind.

All of it: `python -m pytest tests/apps/test_fuzz.py -m slow -s` prints the table of docs/security.md.
"""

import gzip
import io
import json
import os
import random
import struct
import subprocess
import sys
import time
import zipfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from urllib.parse import quote, urlencode, urlsplit

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from serving import Server, body, save_ct

from pasta.labels import LABELS

pytest.importorskip("schemathesis", reason="the dev extra is not installed")
SMALL, LARGE = 60, 2400  # inputs of one kind
LONGEST_SECONDS = 20.0
THREADS = 4
KINDS = ("nifti", "nifti.gz", "nrrd", "mha", "label", "dicom", "archive", "multipart", "parameters")


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory, models):
    folder = tmp_path_factory.mktemp("fuzzed")
    save_ct(folder / "studies" / "ct.nii.gz", body((12, 10, 9)))
    running = Server(
        folder / "studies",
        models,
        folder / "server.log",
        PASTA_MAX_UPLOAD_MB="4",
        PASTA_QUEUE="64",
        PASTA_REQUESTS_PER_MINUTE="1000000",
        PASTA_ALLOW_ARCHIVES="yes",
    )
    yield running
    running.stop()


# --- inputs


def seeds():
    """One sound file of each kind."""
    voxels, affine = body((12, 10, 9)), np.diag([-3.0, -3.0, 3.0, 1.0])
    nifti = nib.Nifti1Image(voxels, affine).to_bytes()
    labels = nib.Nifti1Image((voxels > 0).astype(np.uint8) * LABELS[0].value, affine).to_bytes()
    sizes = " ".join(map(str, voxels.shape))
    nrrd = (
        f"NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: {sizes}\n"
        "space directions: (3,0,0) (0,3,0) (0,0,3)\nkinds: domain domain domain\n"
        "endian: little\nencoding: raw\nspace origin: (0,0,0)\n\n"
    ).encode() + voxels.tobytes(order="F")
    mha = (
        f"ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
        f"CompressedData = False\nTransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\n"
        f"ElementSpacing = 3 3 3\nDimSize = {sizes}\nElementType = MET_SHORT\n"
        "ElementDataFile = LOCAL\n"
    ).encode() + voxels.tobytes(order="F")
    return {
        "nifti": nifti,
        "nifti.gz": gzip.compress(nifti),
        "nrrd": nrrd,
        "mha": mha,
        "label": gzip.compress(labels),
        "dicom": slice_of_series(voxels[:, :, 0]),
        "archive": archived([slice_of_series(voxels[:, :, k], k) for k in range(3)]),
    }


def slice_of_series(plane, number=0):
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    data.Modality, data.SeriesInstanceUID, data.PatientID = "CT", "1.2.3.4", "x"
    data.Rows, data.Columns = plane.shape[1], plane.shape[0]
    data.ImageOrientationPatient, data.PixelSpacing = [1, 0, 0, 0, 1, 0], [3, 3]
    data.ImagePositionPatient, data.InstanceNumber = [0, 0, 3 * number], number + 1
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
    data.RescaleIntercept, data.RescaleSlope = 0, 1
    data.PixelData = np.ascontiguousarray(plane.T).tobytes()
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, data, write_like_original=False)
    return buffer.getvalue()


def archived(slices):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number, content in enumerate(slices):
            archive.writestr(f"{number}.dcm", content)
    return buffer.getvalue()


WORDS = [
    b"\0",
    b"\xff" * 4,
    b"-1",
    b"nan",
    b"1e308",
    b"99999999999999999999",
    b"../../../etc/passwd",
]
NUMBERS = [0, 1, -1, 2**15, 2**31 - 1, -(2**31), 2**16 + 1]


def mutated(data, rng):
    """Change a file a little, mostly in its head, where sizes and offsets are."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        if not data:
            break
        top = len(data) if rng.random() < 0.3 else min(len(data), 400)
        at = rng.randrange(top)
        match rng.randrange(8):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at] = rng.randrange(256)
            case 2:
                data[at : at + 4] = struct.pack("<i", rng.choice(NUMBERS))
            case 3:
                data[at : at + 2] = struct.pack("<h", rng.choice((0, -1, 32767, -32768, 7)))
            case 4:
                data[at : at + 4] = struct.pack(
                    "<f", rng.choice((0.0, float("nan"), float("inf"), 1e38, -1.0))
                )
            case 5:
                del data[at : rng.choice((len(data), at + rng.randrange(1, 64)))]
            case 6:
                data[at:at] = rng.choice(WORDS)
            case 7:
                data[at:at] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 40)))
    return bytes(data)


def multipart(parts):
    fence = "fence-of-the-fuzz"
    packed = b"".join(
        f'--{fence}\r\nContent-Disposition: form-data; name="{name}"; filename="{file}"\r\n\r\n'.encode(
            "utf-8", "surrogateescape"
        )
        + content
        + b"\r\n"
        for name, file, content in parts
    )
    return packed + f"--{fence}--\r\n".encode(), f"multipart/form-data; boundary={fence}"


def value(rng, depth=0):
    """Any JSON."""
    kinds = 9 if depth < 3 else 7
    match rng.randrange(kinds):
        case 0:
            return rng.choice(NUMBERS)
        case 1:
            return rng.choice((1e308, -0.0, 0.5, 10**30))
        case 2:
            return rng.choice((True, False, None))
        case 3:
            return rng.choice(
                ("", "ct", "liver", "../x", "a" * 5000, "\0", "\ud800", "cpu", "cuda:99")
            )
        case 4 | 5 | 6:
            return "".join(
                chr(rng.choice((rng.randrange(128), rng.randrange(0x3000)))) for _ in range(8)
            )
        case 7:
            return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
        case _:
            return {str(value(rng, 3)): value(rng, depth + 1) for _ in range(rng.randrange(4))}


OPTIONS = (
    "organs",
    "device",
    "label_tag",
    "reader",
    "save_label",
    "job",
    "evidence",
    "result_extension",
)
OPTIONS += (
    "image",
    "model",
    "threshold",
    "report",
    "timing",
    "seen",
    "expected_version",
    "restore_grid",
)


def request_of(kind, rng, sound):
    """One request: method, route, body, content type."""
    if kind in ("nifti", "nifti.gz", "nrrd", "mha"):
        suffix = {"nifti": ".nii", "nifti.gz": ".nii.gz"}.get(kind, f".{kind}")
        data = sound[kind]
        if kind == "nifti.gz" and rng.random() < 0.6:  # damage what is inside the gzip
            data = gzip.compress(mutated(sound["nifti"], rng), 1)
        else:
            data = mutated(data, rng)
        packed = multipart([("file", f"image{suffix}", data)])
        if rng.random() < 0.9:  # what is sound is refused there as known: inference takes its time
            return "PUT", "/datastore/image?image=fuzz", *packed
        return "POST", "/infer/pasta_segmentation?output=json", *packed
    if kind == "label":
        data = sound["label"]
        data = (
            gzip.compress(mutated(gzip.decompress(data), rng), 1)
            if rng.random() < 0.6
            else mutated(data, rng)
        )
        packed = multipart([("label", "label.nii.gz", data)])
        return "PUT", "/datastore/label?image=ct&tag=fuzz", *packed
    if kind == "dicom":
        slices = [mutated(sound["dicom"], rng) for _ in range(rng.choice((1, 2, 3)))]
        return (
            "PUT",
            "/session/?expiry=5",
            *multipart([("files", "s.dcm", each) for each in slices]),
        )
    if kind == "archive":
        return (
            "PUT",
            "/session/?uncompress=true&expiry=5",
            *multipart([("files", "s.zip", mutated(sound["archive"], rng))]),
        )
    if kind == "multipart":
        data, content = multipart([("file", "image.nii.gz", sound["nifti.gz"])])
        if rng.random() < 0.3:
            content = (
                mutated(content.encode(), rng).decode("latin-1").replace("\r", "").replace("\n", "")
            )
        route = rng.choice(("/datastore/image", "/session/", "/datastore/label?image=ct&tag=fuzz"))
        return "PUT", route, mutated(data, rng), content
    given = {rng.choice(OPTIONS): value(rng) for _ in range(rng.randrange(4))}
    text = json.dumps(given)
    if rng.random() < 0.3:
        text = mutated(text.encode(), rng).decode("latin-1")
    name = str(value(rng, 3)).encode("utf-8", "replace").decode()
    match rng.randrange(4):
        case 0:
            query = urlencode(
                {"image": rng.choice(("ct", name)), "output": rng.choice(("json", name))}
            )
            model = rng.choice(("pasta_screening", quote(name, safe="")))
            packed = urlencode({"params": text.encode("utf-8", "replace")})
            return (
                "POST",
                f"/infer/{model}?{query}",
                packed.encode(),
                "application/x-www-form-urlencoded",
            )
        case 1:
            query = urlencode({"image": rng.choice(("ct", name))})
            packed = urlencode({"info": text.encode("utf-8", "replace")})
            return (
                "PUT",
                f"/datastore/image/info?{query}",
                packed.encode(),
                "application/x-www-form-urlencoded",
            )
        case 2:
            route = f"/activelearning/{rng.choice(('first', 'random', quote(name, safe='')))}"
            return "POST", route, text.encode("utf-8", "replace"), "application/json"
        case _:
            route = f"/pasta/images/{rng.choice(('ct', quote(name, safe='')))}/reading"
            return "POST", route, text.encode("utf-8", "replace"), "application/json"


# --- trying


class Sender:
    """Sends on one connection, as opening one for each costs more than the request."""

    def __init__(self, server):
        parts = urlsplit(server.url)
        self._address = (parts.hostname, parts.port)
        self._headers = server.headers
        self._connection = None

    def send(self, method, route, data, content):
        for _ in range(2):
            if self._connection is None:
                self._connection = HTTPConnection(*self._address, timeout=LONGEST_SECONDS)
            try:
                headers = {**self._headers, "Content-Type": content}
                self._connection.request(method, route, data, headers)
                answer = self._connection.getresponse()
                text = answer.read()
                if answer.headers.get("Connection") == "close":
                    self.close()
                return answer.status, text
            except TimeoutError:
                self.close()
                return 0, b""
            except (OSError, EOFError):  # the server closed it after an answer
                self.close()
            except Exception:
                self.close()
                raise
        return -1, b""

    def close(self):
        if self._connection is not None:
            self._connection.close()
        self._connection = None


def tried(server, kind, count, seed):
    """Send inputs of one kind; answers by status, the slowest, and what went wrong."""
    sound = seeds()
    counts, slowest, wrong = Counter(), 0.0, []

    def some(worker):
        nonlocal slowest
        rng = random.Random(f"{kind} {seed} {worker}")
        sender = Sender(server)
        for _ in range(count // THREADS):
            asked = request_of(kind, rng, sound)
            began = time.monotonic()
            status, text = sender.send(*asked)
            if kind == "dicom" and status == 200:  # a session is read only when it is used
                session = json.loads(text)["session_id"]
                route = f"/infer/pasta_segmentation?output=json&session_id={session}"
                status, text = sender.send("POST", route, b"", "application/octet-stream")
            slowest = max(slowest, time.monotonic() - began)
            counts[status] += 1
            if status >= 500 or status <= 0:
                wrong.append((status, asked[0], asked[1][:200], text[:200], asked[2][:3000]))
        sender.close()

    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(some, range(THREADS)))
    return counts, slowest, wrong


def left_behind(server):
    """Files that no answer accounts for; sessions last five seconds here and are cleaned at the next."""
    return [name for name in server.leftovers() if "/sessions/" not in f"/{name}"]


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_input_is_refused_in_words(fuzzed, kind):
    counts, slowest, wrong = tried(fuzzed, kind, SMALL, "few")
    assert not wrong, wrong[:3]
    assert sum(counts.values()) == SMALL
    assert slowest < LONGEST_SECONDS
    assert left_behind(fuzzed) == []
    assert fuzzed.get("/info/").status_code == 200


@pytest.mark.slow
def test_twenty_thousand_damaged_inputs_and_more(fuzzed, capsys):
    seed = int(os.environ.get("PASTA_FUZZ_SEED", "1"))
    total, failures = 0, []
    with capsys.disabled():
        print("\n| Input | Requests | Answers | Slowest, s | Left |\n|---|---|---|---|---|")
    for kind in KINDS:
        count = LARGE if kind not in ("parameters", "multipart") else 1600
        counts, slowest, wrong = tried(fuzzed, kind, count, seed)
        total += sum(counts.values())
        shown = ", ".join(f"{status}: {number}" for status, number in sorted(counts.items()))
        left = len(left_behind(fuzzed))
        with capsys.disabled():  # as it goes: all of it takes some minutes
            print(
                f"| {kind} | {sum(counts.values())} | {shown} | {slowest:.2f} | {left} |",
                flush=True,
            )
        failures += [(kind, *each) for each in wrong] + [
            (kind, name) for name in left_behind(fuzzed)
        ]
    assert not failures, failures[:5]
    assert total >= 20_000
    assert fuzzed.get("/info/").status_code == 200


def schemathesis(server, folder, examples):
    """Let schemathesis try every route that OpenAPI describes; its output."""
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"]
    command += ["--header", f"Authorization: {server.headers['Authorization']}"]
    command += ["--checks", "not_a_server_error", "--max-examples", str(examples)]
    command += ["--request-timeout", "60", "--seed", "1", "--generation-database", "none"]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=3000, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_no_described_route_fails_on_what_its_description_allows(fuzzed, tmp_path):
    status, output = schemathesis(fuzzed, tmp_path, 3)
    assert status == 0, output[-6000:]
    assert left_behind(fuzzed) == []


@pytest.mark.slow
def test_no_described_route_fails_on_many_examples(fuzzed, tmp_path):
    status, output = schemathesis(fuzzed, tmp_path, 100)
    assert status == 0, output[-6000:]
    assert left_behind(fuzzed) == []
