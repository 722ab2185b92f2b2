"""The `pasta` command: picks a subcommand, and tells foreseen errors in one line."""

from __future__ import annotations

import argparse
import importlib
import sys
from typing import TYPE_CHECKING

from pasta import RESEARCH_USE_ONLY, __version__
from pasta.errors import PastaError

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = {
    "batch": "thousands of CTs, restartable, to one table and a screening worklist",
    "demo": "server with one CT through all tasks, from a checkout (`make run`)",
    "dicom": "results as DICOM SEG and SR, PDF and FHIR, for the PACS",
    "doctor": "looks at Python, packages, device, weights, clock, port, disk, PACS: what to mend",
    "predict": "one CT to mask, tumour probability and structured report, without a server",
    "serve": "server on a folder of CTs, from a checkout; --config for its settings",
    "study": "reader study: protocol, allocation, lock, logs, export, analysis",
    "weights": "inspect published checkpoints and import them as model folders",
}
FORESEEN, INTERRUPTED = 2, 130  # exit statuses; 130 is the shell's for Ctrl-C


def build_parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """Build the parser; only the subcommand that `argv` names is imported."""
    parser = argparse.ArgumentParser(prog="pasta", description=RESEARCH_USE_ONLY)
    parser.add_argument("--version", action="version", version=f"pasta-aid {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    chosen = next((word for word in argv if not word.startswith("-")), "")
    for name, summary in COMMANDS.items():
        command = subparsers.add_parser(name, help=summary, description=summary)
        if name == chosen:
            module = importlib.import_module(f"pasta.cli.{name}")
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: words after `pasta`; None takes those of the process.

    Returns:
        Exit status: 0 done, 2 a foreseen error, 130 interrupted.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    args = build_parser(words).parse_args(words)
    try:
        return int(args.run(args))
    except PastaError as error:  # what we foresaw: one line; anything else keeps its traceback
        print(f"pasta {args.command}: {error}", file=sys.stderr)
        return FORESEEN
    except KeyboardInterrupt:
        print(f"pasta {args.command}: interrupted.", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
