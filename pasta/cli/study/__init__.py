"""`pasta study`: a reader study from protocol to tables."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

# Each has `add_commands(actions)`, which adds its parsers and sets `act` to what runs them.
_MODULES = ("protocol", "data", "analysis")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name in _MODULES:
        importlib.import_module(f"pasta.cli.study.{name}").add_commands(actions)


def run(args: argparse.Namespace) -> int:
    """Run an action.

    Raises:
        PastaError: if a file has mistakes or cannot be written.
    """
    return int(args.act(args))
