"""Our server against stock MONAI Label transforms: one whole round trip with a no-op network.

The CT is padded and repeated to 512 x 512 x 300. Each server is asked three times for a mask over HTTP,
from the image in its store to the mask in the client's memory; the first answer warms it up.
"""

from __future__ import annotations

import gzip
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
import requests
from requests_toolbelt import MultipartDecoder

from benchmarks.noop import write_model
from pasta.client import local_token

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
SHAPE = (512, 512, 300)


def enlarged(source: Path, target: Path) -> None:
    """Pad with air, repeat along the body, cut to 512 x 512 x 300."""
    image = nib.load(source)
    voxels = np.asarray(image.dataobj).astype(np.int16)
    rows, columns = (
        max(0, want - have) for want, have in zip(SHAPE[:2], voxels.shape[:2], strict=True)
    )
    voxels = np.pad(voxels, ((0, rows), (0, columns), (0, 0)), constant_values=-1000)
    voxels = np.tile(voxels, (1, 1, -(-SHAPE[2] // voxels.shape[2])))
    voxels = voxels[tuple(slice(0, n) for n in SHAPE)]
    affine = np.diag([-0.8, -0.8, 1.5, 1.0])
    nib.save(nib.Nifti1Image(voxels, affine), target)


@contextmanager
def server(python: str, app: Path, studies: Path, models: Path) -> Iterator[tuple[str, int]]:
    """Start a server and yield its address and process id once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PASTA_MODELS": str(models),
        "PASTA_DEVICE": "cpu",
        "MONAI_LABEL_TRACKING_ENABLED": "false",
        "MONAI_LABEL_AUTO_UPDATE_SCORING": "false",
    }
    address = f"http://127.0.0.1:{port}"
    options = ["--app", str(app), "--studies", str(studies), "--host", "127.0.0.1"]
    log = app.parent / f"{app.name}.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [python, "-m", "monailabel.main", "start_server", *options, "--port", str(port)],
            cwd=app.parent,
            env=environment,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
        try:
            for _ in range(180):
                if process.poll() is not None:
                    raise SystemExit(log.read_text()[-3000:])
                try:
                    requests.get(
                        f"{address}/info/", headers=token_of(address), timeout=5
                    ).raise_for_status()
                    break
                except requests.RequestException:
                    time.sleep(1)
            yield address, process.pid
        finally:
            process.terminate()
            process.wait(30)


def token_of(address: str) -> dict[str, str]:
    """Header with the token that our server lays out; the stock one has none and needs none."""
    token = local_token(address)
    return {"Authorization": f"Bearer {token}"} if token else {}


def round_trips(address: str, pid: int, repeats: int) -> tuple[float, float, np.ndarray]:
    """Ask for a mask; return best seconds, peak MiB of the server, and the last mask."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        answer = requests.post(
            f"{address}/infer/pasta_segmentation",
            params={"image": "ct"},
            data={"params": "{}"},
            headers=token_of(address),
            timeout=600,
        )
        answer.raise_for_status()
        parts = MultipartDecoder.from_response(answer).parts
        seconds.append(time.perf_counter() - start)
    status = Path(f"/proc/{pid}/status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    content = next(part.content for part in parts if part.content[:2] == b"\x1f\x8b")
    image = nib.Nifti1Image.from_bytes(gzip.decompress(content))
    return min(seconds[1:]), int(peak.split()[1]) / 1024, np.asarray(image.dataobj) > 0


def table(ct: Path, peer_python: str, *, repeats: int = 3) -> None:
    """Print the table; `peer_python` belongs to the peers' environment."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_model(folder / "models" / "segmentation")
        ours = folder / "ours"
        shutil.copytree(ROOT / "apps" / "pasta_app", ours)
        with (ours / "main.py").open("a") as file:
            file.write("\nfrom benchmarks.noop import install\n\ninstall()\n")
        stock = folder / "stock"
        shutil.copytree(ROOT / "benchmarks" / "peers" / "stock_app", stock)
        print(
            "| 512 x 512 x 300, no-op network at 1.5 mm | seconds | time ratio | peak MiB | memory ratio |"
        )
        print("|---|---|---|---|---|")
        base: tuple[float, float] | None = None
        masks = []
        for name, python, app in (
            ("stock MONAI Label transforms", peer_python, stock),
            ("ours", sys.executable, ours),
        ):
            studies = folder / f"studies_{app.name}"
            studies.mkdir()
            enlarged(ct, studies / "ct.nii.gz")
            with server(python, app, studies, folder / "models") as (address, pid):
                seconds, peak, mask = round_trips(address, pid, repeats)
            masks.append(mask)
            base = base or (seconds, peak)
            print(
                f"| {name} | {seconds:.2f} | {base[0] / seconds:.1f}x | {peak:.0f} | "
                f"{base[1] / peak:.1f}x |",
                flush=True,
            )
        both = 2 * (masks[0] & masks[1]).sum() / (masks[0].sum() + masks[1].sum())
        print(f"\nDice of the two masks: {both:.3f}")
