"""Check a data set before training on it.

    python -m training.datasets kinds
    python -m training.datasets check kits23 data/kits23
    python -m training.datasets check nnunet Dataset001_Mine --label "tumour=liver_tumor" --voxels

Nothing is downloaded; docs/datasets.md says what each kind needs and where people get it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pasta.errors import PastaError

if TYPE_CHECKING:
    from collections.abc import Sequence

PROGRAM = "training.datasets"


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the commands."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {PROGRAM}",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("kinds", help="list the kinds: what each needs, page, licence")
    check = commands.add_parser("check", help="count cases, labels and problems of a data set")
    check.add_argument("kind", metavar="KIND", help="see the command kinds")
    check.add_argument("root", metavar="ROOT", type=Path, help="folder, or CSV file")
    check.add_argument("--voxels", action="store_true", help="read all voxels, not headers alone")
    check.add_argument(
        "--for-shipping", action="store_true", help="leave out what shipped weights may not use"
    )
    check.add_argument(
        "--label",
        action="append",
        default=[],
        metavar="NAME=LABEL",
        help="nnunet, csv: PASTA's label for one of yours; several parted by |, background, ignored",
    )
    check.add_argument(
        "--complete", nargs="+", metavar="LABEL", help="nnunet, csv: labelled wholly"
    )
    check.add_argument("--licence", help="nnunet, csv: name of the licence")
    check.add_argument("--annotations", type=Path, metavar="CSV", help="lung1: centre points")
    check.add_argument("--pancreas", type=Path, metavar="CSV", help="msd: tumour or cyst of cases")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0 without problems, 1 with problems, 2 where nothing could be read."""
    args = build_parser().parse_args(argv)
    from training.datasets.reading import KINDS, read_dataset

    if args.command == "kinds":
        for name, kind in KINDS.items():
            origin = kind.origin
            print(f"{name}: {origin.title}\n  from     {origin.page}")
            print(f"  licence  {origin.licence.name or 'of your data'}\n  needs    {origin.needs}")
        return 0
    from training.datasets.summary import describe

    try:
        dataset = read_dataset(
            args.kind, args.root, for_shipping=args.for_shipping, **_options(args)
        )
        summary = describe(dataset, voxels=args.voxels)
    except PastaError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 2
    print("\n".join(summary.lines()))
    return 1 if summary.problems else 0


def _options(args: argparse.Namespace) -> dict[str, Any]:
    from training.datasets.records import DatasetError

    options = {
        name: getattr(args, name)
        for name in ("complete", "licence", "annotations", "pancreas")
        if getattr(args, name) is not None
    }
    labels = {}
    for text in args.label:
        name, equals, label = text.partition("=")
        if not equals:
            msg = f"--label {text}: give NAME=LABEL, such as tumour=liver_tumor."
            raise DatasetError(msg)
        labels[name] = label
    return options | ({"labels": labels} if labels else {})


if __name__ == "__main__":
    sys.exit(main())
