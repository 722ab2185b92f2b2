"""Run nnU-Net's own predictor on a PASTA UNet. Executed by the benchmark's separate environment.

Usage: python benchmarks/peers/nnunet.py CT MODEL_FOLDER OUTPUT.nii.gz [--mirror]
Prints one JSON line: seconds from the file on disk to the labelmap on disk, peak memory in MiB.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from safetensors.torch import load_file

from pasta.networks.unet import PastaUNet

RESAMPLING = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": False}


def plans_of(spec: dict[str, Any]) -> dict[str, Any]:
    """Write nnU-Net plans that ask for what a ModelSpec asks for, linear resampling on both sides."""
    intensity = spec["intensity"]
    low, high = intensity["clip_hu"]
    spacing = list(reversed(spec["spacing_mm"]))
    configuration = {
        "data_identifier": "benchmark",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(reversed(spec["patch_shape"])),
        "spacing": spacing,
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": RESAMPLING,
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_seg_kwargs": {**RESAMPLING, "is_seg": True},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": RESAMPLING,
        "batch_dice": False,
        "architecture": {"network_class_name": "", "arch_kwargs": {}, "_kw_requires_import": []},
    }
    statistics = {
        "mean": intensity["mean_hu"],
        "std": intensity["std_hu"],
        "percentile_00_5": low,
        "percentile_99_5": high,
    }
    return {
        "dataset_name": "benchmark",
        "plans_name": "benchmark",
        "original_median_spacing_after_transp": spacing,
        "original_median_shape_after_transp": [1, 1, 1],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "experiment_planner_used": "none",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": statistics},
        "configurations": {"3d_fullres": configuration},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ct", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--mirror", action="store_true")
    args = parser.parse_args()
    spec = json.loads((args.model / "spec.json").read_text())
    state = load_file(str(args.model / spec["weights"][0]["file"]))
    # nnU-Net reads arrays as (k, j, i), we as (i, j, k): the same network needs turned kernels
    state = {
        name: (w.permute(0, 1, 4, 3, 2).contiguous() if w.ndim == 5 else w).float()
        for name, w in state.items()
    }
    network = PastaUNet(len(spec["channels"]), spec["width"]).eval()
    network.load_state_dict(state)
    plans = PlansManager(plans_of(spec))
    dataset = {
        "channel_names": {"0": "CT"},
        "labels": {name: index for index, name in enumerate(spec["channels"])},
        "file_ending": ".nii.gz",
    }
    start = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):
        predictor = nnUNetPredictor(
            tile_step_size=0.5, use_mirroring=args.mirror, device=torch.device("cpu")
        )
        predictor.manual_initialization(
            network,
            plans,
            plans.get_configuration("3d_fullres"),
            [network.state_dict()],
            dataset,
            "benchmark",
            (0, 1, 2) if args.mirror else None,
        )
        predictor.predict_from_files_sequential(
            [[str(args.ct)]], [str(args.output).removesuffix(".nii.gz")], False, True, None
        )
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak_mib": peak}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
