"""A real server for the tests, small CTs, and a small model whose answer is known."""

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import requests
import torch
from requests_toolbelt.multipart.decoder import MultipartDecoder

from pasta.labels import LABELS
from pasta.networks.checkpoint import save_model
from pasta.networks.unet import PastaClassifier, PastaUNet
from pasta.report import head_options
from pasta.spec import ModelSpec, Segmental, ZScore

REPOSITORY = Path(__file__).resolve().parents[2]
APP = REPOSITORY / "apps" / "pasta_app"
START_SECONDS = 300
LIVER = 2
MASK_MODELS = ("pasta_segmentation", "pasta_diagnosis")
MODELS = (*MASK_MODELS, "pasta_screening", "pasta_report")


def threshold_network() -> PastaUNet:
    """A PASTA UNet of width 8 that labels as liver what is brighter than the window's mean."""
    network = PastaUNet(1 + len(LABELS), width=8)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        for blocks in (
            network.conv_blocks_context[0].blocks,
            *(layers.blocks for layers in network.conv_blocks_localization[-1]),
        ):
            for block in blocks:
                inputs = block.conv.in_channels
                block.conv.weight[0, 8 if inputs == 16 else 0, 1, 1, 1] = 1  # 8: from the skip
                block.instnorm.weight[0] = 1
        network.seg_outputs[-1].weight[0, 0] = -1
        network.seg_outputs[-1].weight[LIVER, 0] = 1
    return network


def save_models(folder: Path) -> Path:
    """Write one model of each kind: a known segmentation, random but saved classifiers."""
    torch.manual_seed(0)
    common = {
        "version": "1",
        "width": 8,
        "patch_shape": (64, 32, 32),
        "spacing_mm": (3.0, 3.0, 3.0),
    }
    spec = ModelSpec(
        name="threshold",
        task="segmentation",
        title="brighter than the mean",
        intensity=ZScore((-1000.0, 1000.0), 0.0, 500.0),
        channels=("background", *(label.name for label in LABELS)),
        **common,
    )
    save_model([threshold_network()], spec, folder / "segmentation")
    spec = ModelSpec(
        name="random-screening",
        task="screening",
        title="random",
        intensity=Segmental(),
        organs=("liver", "kidney"),
        **common,
    )
    save_model([PastaClassifier(2, width=8)], spec, folder / "screening")
    spec = ModelSpec(
        name="random-attributes",
        task="attributes",
        title="random",
        intensity=Segmental(),
        attributes=head_options(),
        **common,
    )
    save_model([PastaClassifier(spec.num_outputs, width=8)], spec, folder / "attributes")
    return folder


def body(shape=(48, 40, 36), seed=0) -> np.ndarray:
    """A bright body in air that no flip or permutation maps onto itself; int16 HU."""
    i, j, k = np.indices(shape) / np.reshape(shape, (3, 1, 1, 1))
    inside = (i - 0.4) ** 2 / 0.1 + (j - 0.45) ** 2 / 0.07 + (k - 0.5) ** 2 / 0.12 < 1
    inside |= (i > 0.6) & (i < 0.9) & (j > 0.5) & (j < 0.7) & (k > 0.2) & (k < 0.4)
    noise = np.random.default_rng(seed).normal(0, 10, shape)
    return np.where(inside, 60 + noise, -1000 + noise).astype(np.int16)


def save_ct(path: Path, voxels: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([-3.0, -3.0, 3.0, 1.0]) if affine is None else affine
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path


class Server:
    """One `monailabel start_server` process.

    Args:
        studies: folder of CTs.
        models: folder of model folders.
        log: to write; the tokens lie beside it.
        host: to listen on; None leaves that to MONAI Label.
        environment: variables.
    """

    def __init__(
        self,
        studies: Path,
        models: Path,
        log: Path,
        host: str | None = "127.0.0.1",
        **environment: str,
    ) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.studies = studies
        self.log = log
        self.temporary = log.parent / f"{log.stem}-temporary"
        self.temporary.mkdir(exist_ok=True)
        self._command = [sys.executable, "-m", "monailabel.main", "start_server"]
        self._command += ["--app", str(APP), "--studies", str(studies)]
        self._command += ["--port", str(port), *(["--host", host] if host else [])]
        self._environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PASTA_MODELS": str(models),
            "PASTA_DEVICE": "cpu",
            "TMPDIR": str(self.temporary),
            **environment,
        }
        # readers of a study log in; all else needs a token, and the tests may do everything
        self.tokens = {
            role: secrets.token_urlsafe(32) for role in ("reader", "coordinator", "admin")
        }
        study = "PASTA_STUDY" in environment
        self.headers = {} if study else {"Authorization": f"Bearer {self.tokens['admin']}"}
        self.token_file = log.parent / f"{log.stem}.tokens"
        self.token_file.touch(0o600)
        lines = [f"{role} test-{role} {token}\n" for role, token in self.tokens.items()]
        self.token_file.write_text("".join(lines))
        self._environment.setdefault("PASTA_TOKENS", str(self.token_file))
        self.start()

    def start(self) -> None:
        """Start the process; once more at the same address after it was killed."""
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self._command,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.log.parent,
                env=self._environment,
            )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            with contextlib.suppress(requests.RequestException):
                if self.get("/pasta/health", timeout=5).ok:
                    return
            time.sleep(0.3)
        msg = f"the server did not start:\n{self.log.read_text()[-4000:]}"
        raise RuntimeError(msg)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def get(self, path: str, **options) -> requests.Response:
        return self.request("GET", path, **options)

    def request(self, method: str, path: str, **options) -> requests.Response:
        options.setdefault("timeout", 60)
        options["headers"] = {**self.headers, **options.get("headers", {})}
        return requests.request(method, self.url + path, **options)

    def infer(self, model: str, params=None, *, image="", files=None, **query) -> requests.Response:
        fields = {"params": (None, json.dumps(params or {}))}
        for name, path in (files or {}).items():
            fields[name] = (Path(path).name, Path(path).read_bytes())
        query = {"image": image, **query}
        return self.request("POST", f"/infer/{model}", params=query, files=fields, timeout=120)

    def leftovers(self) -> list[str]:
        """Temporary files that are there while no request is."""
        run = self.studies / ".pasta" / "run"
        kept = {"owner", "sessions", "spool"}
        return [
            str(path.relative_to(run))
            for path in run.rglob("*")
            if path.name not in kept and path.parent != run
        ]


def parts_of(response: requests.Response) -> tuple[dict, str, bytes]:
    """JSON document, file name and bytes of a multipart answer."""
    found = {}
    for part in MultipartDecoder.from_response(response).parts:
        disposition = part.headers[b"Content-Disposition"].decode()
        found[disposition.split('name="')[1].split('"')[0]] = (disposition, part.content)
    disposition, content = found["image"]
    filename = disposition.split('filename="')[1].split('"')[0]
    return json.loads(found["params"][1]), filename, content


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))
