"""All benchmarks in one command: `make benchmark`, or `python -m benchmarks [--ct FILE ...]`.

The peers (nnU-Net, stock MONAI Label) live in `.venv-benchmark`, made on first use.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import venv
from pathlib import Path

from benchmarks import segmentation, server

ROOT = Path(__file__).resolve().parents[1]
PEER = ROOT / ".venv-benchmark"
DATA = Path(os.environ.get("PASTA_DATA", ROOT.parent / "shared" / "data"))


def peer_python() -> str:
    """Make the peers' environment where it is missing; return its Python."""
    python = PEER / "bin" / "python"
    stamp = PEER / ".stamp"
    if not stamp.exists():
        print(f"making {PEER.name}, once", file=sys.stderr)
        venv.create(PEER, with_pip=True, clear=True)
        import torch

        pip = [str(python), "-m", "pip", "install", "--quiet", "-c", "constraints.txt"]
        for packages in (
            [f"torch=={torch.__version__}"],
            ["-r", "benchmarks/requirements.txt"],
            ["--no-deps", "monailabel", "monai", "pydicom-seg"],
            ["-e", ".[server]"],
        ):
            subprocess.run([*pip, *packages], cwd=ROOT, check=True)
        stamp.touch()
    return str(python)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--ct",
        type=Path,
        nargs="+",
        default=[DATA / "ct" / "pancreas_cb_001" / "ct.nii.gz"],
        help="CT files for the comparison with nnU-Net; the first also for the server",
    )
    parser.add_argument("--spacing", type=float, nargs="*", default=[], help="mm, further tables")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    python = peer_python()
    for ct in args.ct:
        for spacing in (None, *args.spacing):
            segmentation.table(ct, python, spacing=spacing, repeats=args.repeats)
    server.table(args.ct[0], python, repeats=args.repeats)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
