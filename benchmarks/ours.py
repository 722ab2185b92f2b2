"""Run our engine once, from the CT on disk to the labelmap on disk.

Usage: python -m benchmarks.ours CT MODEL_FOLDER OUTPUT.nii.gz [--overlap X] [--mirror] [--organs ..]
Prints one JSON line: seconds and peak memory in MiB.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

from pasta.inference.segmentation import Segmenter
from pasta.io import read_volume, write_labelmap
from pasta.networks.checkpoint import load_model


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ct", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--overlap", type=float, default=0.5)
    parser.add_argument("--mirror", action="store_true")
    parser.add_argument("--organs", nargs="+")
    args = parser.parse_args()
    model = load_model(args.model)
    segmenter = Segmenter(model, device="cpu", overlap=args.overlap, mirror=args.mirror)
    start = time.perf_counter()
    labelmap = segmenter.segment(read_volume(args.ct), args.organs)
    write_labelmap(labelmap, args.output)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak_mib": peak}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
