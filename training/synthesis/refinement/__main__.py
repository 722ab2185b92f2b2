"""Refinement of drawn lesions: train the denoising network, measure it, apply it.

    python -m training.synthesis.refinement train --store templates --out refinement
    python -m training.synthesis.refinement check --store templates --weights refinement
    python -m training.synthesis.refinement apply --weights refinement --data data --out refined

docs/synthesis_refinement.md explains them and says why refinement is off by default.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pasta.errors import PastaError

PROGRAM = "training.synthesis.refinement"
CONFIG = Path(__file__).parents[2] / "configs" / "refinement.toml"
STEPS = (0, 5, 10, 50, 100)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    learn = commands.add_parser("train", help="train; the same command goes on after a kill")
    learn.add_argument("--store", type=Path, required=True, help="folder of the templates")
    learn.add_argument("--out", type=Path, required=True, help="folder of checkpoint and weights")
    learn.add_argument(
        "--config", type=Path, default=CONFIG, help="run file (default: %(default)s)"
    )
    learn.add_argument("--until", type=int, help="stop after this many steps in all")
    learn.add_argument("--tensorboard", type=Path, help="folder for TensorBoard")
    learn.set_defaults(run=_train)
    check = commands.add_parser("check", help="guards, attribute drift and leak test")
    check.add_argument("--store", type=Path, required=True, help="folder of the templates")
    check.add_argument("--weights", type=Path, required=True, help="folder that `train` wrote")
    check.add_argument("--types", nargs="+", metavar="TYPE", help="lesion types (default: all 15)")
    check.add_argument("--count", type=int, default=60, help="lesions (default: %(default)s)")
    check.add_argument("--size", type=int, default=64, help="of a crop, mm (default: %(default)s)")
    check.add_argument(
        "--t", type=int, nargs="+", choices=STEPS, default=[0, 5], help="default: 0 5"
    )
    check.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    check.add_argument("--report", type=Path, help="JSON file for the numbers")
    check.set_defaults(run=_check)
    use = commands.add_parser("apply", help="refine an exported data set into another folder")
    use.add_argument("--weights", type=Path, required=True, help="folder that `train` wrote")
    use.add_argument("--data", type=Path, required=True, help="folder that `export` wrote")
    use.add_argument("--out", type=Path, required=True, help="folder for the refined data set")
    use.add_argument("--t", type=int, choices=STEPS, default=5, help="default: %(default)s")
    use.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    use.set_defaults(run=_apply)
    for command in (learn, check, use):
        command.add_argument("--device", default="auto", help="auto, cpu or cuda[:index]")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; exit status 2 for a foreseen error."""
    args = build_parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = args.run
    try:
        return run(args)
    except PastaError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{PROGRAM}: stopped. Run the same command again to go on.", file=sys.stderr)
        return 130


def _train(args: argparse.Namespace) -> int:
    from pasta.inference.device import chosen_device
    from training.synthesis.refinement.diffusion import RefinementError, Run
    from training.synthesis.refinement.learning import train
    from training.synthesis.templates import TemplateStore

    run = Run.read(args.config)
    log: Any = None
    close: Any = lambda: None
    if args.tensorboard:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            msg = "--tensorboard: TensorBoard is not installed. Install it or leave the option out."
            raise RefinementError(msg) from error
        writer = SummaryWriter(args.tensorboard)
        log, close = writer.add_scalar, writer.close
    try:
        losses = train(
            TemplateStore(args.store), run, args.out, chosen_device(args.device),
            until=args.until, log=log,
        )  # fmt: skip
    finally:
        close()
    print(f"{len(losses)} of {run.steps} steps done; last loss {losses[-1]:.4f}")
    return 0


def _check(args: argparse.Namespace) -> int:
    import numpy as np

    from pasta.inference.device import chosen_device
    from pasta.io.files import atomic_file
    from pasta.labels import label_named
    from training.synthesis.refinement.checking import check, default_types, draw_places
    from training.synthesis.refinement.sdedit import Refiner
    from training.synthesis.templates import TemplateStore

    refiner = Refiner.load(args.weights, chosen_device(args.device))
    types = [label_named(name).name for name in args.types or default_types()]
    rng = np.random.default_rng(args.seed)
    places = draw_places(TemplateStore(args.store), types, args.count, args.size, rng)
    found = check(refiner, places, args.t, args.seed, print)
    text = json.dumps(found, indent=1)
    if args.report:
        with atomic_file(args.report) as file:
            file.write(text.encode())
    print(text)
    return 0


def _apply(args: argparse.Namespace) -> int:
    from pasta.inference.device import chosen_device
    from training.synthesis.refinement.exported import refine_data
    from training.synthesis.refinement.sdedit import Refiner

    refiner = Refiner.load(args.weights, chosen_device(args.device))
    counts = refine_data(refiner, args.data, args.out, args.t, args.seed)
    for reason, number in sorted(counts.items()):
        print(f"{reason}: {number}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
