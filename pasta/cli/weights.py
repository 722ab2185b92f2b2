"""`pasta weights`: what a published checkpoint holds, and how it becomes a model folder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pasta.errors import CheckpointError, OutputError, PastaError
from pasta.spec import SPEC_FILE, TASKS, ZScore


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    inspecting = actions.add_parser("inspect", help="say what checkpoints or model folders hold")
    inspecting.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help=".pth, .tar or a model folder"
    )
    importing = actions.add_parser(
        "import",
        help="write published checkpoints as one model folder",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = importing.add_argument
    add("files", nargs="+", type=Path, metavar="FILE", help="one per fold of an ensemble")
    add("-o", "--output", type=Path, required=True, metavar="DIR", help="model folder to write")
    add("--task", choices=TASKS, help="needed where the files do not tell")
    add("--labels", type=_names, default=(), metavar="A,B", help="foreground classes, in order")
    add("--organs", type=_names, default=(), metavar="A,B", help="screening: organs trained on")
    add("--clip-hu", type=float, nargs=2, metavar=("LOW", "HIGH"), help="segmentation: clip")
    add("--mean-hu", type=float, metavar="HU", help="segmentation: mean of the foreground")
    add("--std-hu", type=float, metavar="HU", help="segmentation: standard deviation")
    add(
        "--default-intensity",
        action="store_true",
        help="accept -1024 to 276, mean -370, sd 436.6 (TotalSegmentator's foreground) where the "
        "file does not tell; those of PASTA's pretraining were never released",
    )
    add("--axcodes", help="axes of the network's input, such as LPS; default as the public code")
    add("--name", default="", help="of the model, shown in results")
    add("--title", default="", help="one line for people")
    add("--license", default="", help="of the weights")
    add("--full-precision", action="store_true", help="store float32 instead of float16")
    add("--overwrite", action="store_true", help="replace a model that is already there")


def run(args: argparse.Namespace) -> int:
    """Inspect or import.

    Raises:
        PastaError: if a file cannot be used or the model not be written.
    """
    return _inspect(args) if args.action == "inspect" else _import(args)


def _inspect(args: argparse.Namespace) -> int:
    return max([_inspected(path) for path in args.files])  # one bad file does not hide the others


def _inspected(path: Path) -> int:
    from pasta.networks.published import inspect_checkpoint

    try:
        lines = _model_report(path) if path.is_dir() else inspect_checkpoint(path).report()
    except PastaError as error:
        print(f"pasta weights: {error}", file=sys.stderr)
        return 2
    print("\n".join(lines))
    return 0


def _model_report(folder: Path) -> list[str]:
    """Load a model folder, which checks it, and describe it in lines."""
    import torch

    from pasta.networks.checkpoint import load_model

    model = load_model(folder)
    spec = model.spec
    model.networks(torch.device("cpu"))
    meaning = {
        "segmentation": ", ".join(spec.channels),
        "screening": f"organs {', '.join(spec.organs)}",
        "attributes": ", ".join(f"{name} ({len(o)})" for name, o in spec.attributes.items()),
    }
    return [
        f"{folder.name}",
        f"  model       {spec.name} {spec.version}: {spec.title}",
        f"  network     PASTA UNet family, width {spec.width}",
        f"  {spec.task:<11} {meaning[spec.task]}",
        f"  input       {spec.axcodes}, {_triple(spec.spacing_mm)} mm, {_triple(spec.patch_shape)}",
        *(f"  fold        {file.sha256} (complete)" for file in spec.weights),
    ]


def _import(args: argparse.Namespace) -> int:
    if (args.output / SPEC_FILE).exists() and not args.overwrite:
        msg = f"{args.output}: holds a model already; choose another folder or say --overwrite."
        raise OutputError(msg)
    from pasta.networks.importing import UNKNOWN_LICENSE, import_checkpoint

    model = import_checkpoint(
        args.files,
        args.output,
        task=args.task,
        labels=args.labels,
        organs=args.organs,
        intensity=_intensity(args),
        default_intensity=args.default_intensity,
        axcodes=args.axcodes,
        name=args.name,
        title=args.title,
        license_name=args.license or UNKNOWN_LICENSE,
        half=not args.full_precision,
    )
    print("\n".join(_model_report(model.folder)))
    return 0


def _intensity(args: argparse.Namespace) -> ZScore | None:
    given = (args.clip_hu, args.mean_hu, args.std_hu)
    if all(value is None for value in given):
        return None
    if any(value is None for value in given):
        msg = "--clip-hu, --mean-hu and --std-hu belong together; give all three."
        raise CheckpointError(msg)
    low, high = args.clip_hu
    return ZScore((low, high), args.mean_hu, args.std_hu)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _triple(numbers: tuple[float, float, float]) -> str:
    return "x".join(f"{n:g}" for n in numbers)
