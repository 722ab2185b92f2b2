"""Our engine against nnU-Net's predictor: same network, same weights, same CT, same run.

Both start from the file on disk and end with the labelmap on disk, mirroring off, windows overlapping
by half, linear resampling, no anti-aliasing. nnU-Net rounds a scan to whole voxels and stretches it, we
keep the spacing: so that both see the same grid, the spacing is fitted to the scan. The network has width 16: the shipped weights, widened
without changing what they compute. Best of the repeats counts; each run is a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np

from benchmarks.widening import save_widened
from pasta.labels import label_named, lesions_of
from pasta.networks.checkpoint import PACKAGED_MODELS, load_model

ROOT = Path(__file__).resolve().parents[1]


def best_run(command: list[str], repeats: int) -> dict[str, float]:
    """Run a command several times; keep the fastest time and the smallest peak."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "nnUNet_raw": "", "nnUNet_results": ""}
    runs = []
    for _ in range(repeats):
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            msg = f"{' '.join(command)} failed:\n{done.stderr[-3000:]}"
            raise SystemExit(msg)
        runs.append(json.loads(done.stdout.strip().splitlines()[-1]))
    return {key: min(run[key] for run in runs) for key in ("seconds", "peak_mib")}


def labels_in(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj).astype(np.uint8)


def agreement(found: np.ndarray, reference: np.ndarray) -> float:
    """Share of equal labels among the voxels that either one labels."""
    foreground = (found > 0) | (reference > 0)
    return float((found == reference)[foreground].mean())


def table(
    ct: Path,
    peer_python: str,
    *,
    model: Path = PACKAGED_MODELS / "segmentation",
    spacing: float | None = None,
    repeats: int = 3,
) -> None:
    """Print one table; `spacing` in mm replaces the model's own."""
    image = nib.load(ct)
    if "".join(nib.aff2axcodes(image.affine)) != "LPS":
        msg = f"{ct}: nnU-Net does not turn scans; take one stored as LPS, as the model expects."
        raise SystemExit(msg)
    wanted = spacing or load_model(model).spec.spacing_mm[0]
    extent_mm = np.array(image.shape) * image.header.get_zooms()[:3]
    fitted = tuple(float(mm) for mm in extent_mm / np.round(extent_mm / wanted))
    changes: dict[str, object] = {"antialias": False, "spacing_mm": fitted}
    with tempfile.TemporaryDirectory() as temporary:
        _table(ct, peer_python, model, changes, repeats, Path(temporary))


def _table(
    ct: Path, peer_python: str, model: Path, changes: dict[str, object], repeats: int, folder: Path
) -> None:
    spec = save_widened(model, folder / "wide", **changes).spec
    print(
        f"{ct.parent.name}: {nib.load(ct).shape}, model at {spec.spacing_mm[0]:.3g} mm, "
        f"patch {spec.patch_shape[0]}, width {spec.width}, best of {repeats}\n"
    )
    print("| | seconds | time ratio | peak MiB | memory ratio | foreground agreement |")
    print("|---|---|---|---|---|---|")

    def measured(name: str, runner: list[str], *options: str) -> np.ndarray:
        output = folder / "mask.nii.gz"
        run = best_run([*runner, str(ct), str(folder / "wide"), str(output), *options], repeats)
        base = runs.setdefault("base", run)
        runs[name] = run
        print(
            f"| {name} | {run['seconds']:.1f} | {base['seconds'] / run['seconds']:.1f}x | "
            f"{run['peak_mib']:.0f} | {base['peak_mib'] / run['peak_mib']:.1f}x | ",
            end="",
        )
        return labels_in(output)

    runs: dict[str, dict[str, float]] = {}
    ours = [sys.executable, "-m", "benchmarks.ours"]
    channels = measured("nnU-Net's predictor", [peer_python, "benchmarks/peers/nnunet.py"])
    print("- |", flush=True)
    peer = np.array(spec.label_values, np.uint8)[channels]
    whole = measured("ours", ours)
    print(f"{agreement(whole, peer):.4f} |", flush=True)
    less = measured("ours, overlap 0.25", ours, "--overlap", "0.25")
    print(f"{agreement(less, whole):.4f} with overlap 0.5 |", flush=True)
    liver = measured("ours, organs=[liver]", ours, "--organs", "liver")
    values = [label_named("liver").value, *(lesion.value for lesion in lesions_of("liver"))]
    wanted = np.where(np.isin(whole, values), whole, 0)
    print(f"{agreement(liver, wanted):.4f} with the whole scan's liver |\n", flush=True)
