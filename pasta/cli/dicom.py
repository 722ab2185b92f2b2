"""`pasta dicom`: results as DICOM objects."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    export = actions.add_parser(
        "export", help="SEG, SR, PDF and FHIR of what `pasta predict` wrote, for the PACS"
    )
    export.add_argument("case", type=Path, help="folder that `pasta predict` wrote")
    export.add_argument(
        "--series", type=Path, required=True, help="folder of the CT series that it is of"
    )
    export.add_argument("-o", "--output", type=Path, required=True, help="folder for the files")
    export.add_argument(
        "--reader", default="", help="pseudonym of who corrected mask or report (default: AI alone)"
    )
    export.add_argument(
        "--subject", default="", help='FHIR reference of the patient, such as "Patient/123"'
    )
    receive = actions.add_parser(
        "receive", help="take CT series sent by a PACS (DIMSE C-STORE) into a studies folder"
    )
    receive.add_argument("studies", type=Path, help="folder that the server's --studies names")
    receive.add_argument("--port", type=int, default=11112, help="TCP port (default: 11112)")
    receive.add_argument("--host", default="127.0.0.1", help="address (default: 127.0.0.1)")
    receive.add_argument("--title", default="PASTA", help="AE title (default: PASTA)")
    receive.add_argument(
        "--from", dest="callers", nargs="+", default=[], metavar="AET", help="who may send"
    )
    receive.add_argument(
        "--quiet", type=float, default=10.0, help="seconds without a new image end a series"
    )


def run(args: argparse.Namespace) -> int:
    """Write the files, or receive.

    Raises:
        PastaError: for bad input or an output that cannot be written.
    """
    if args.action == "receive":
        return _receive(args)
    from pasta.dicom.export import export_case  # here, so that --help answers at once

    written = export_case(
        args.case, args.series, args.output, reader=args.reader, subject=args.subject
    )
    for path in written:
        print(path)
    return 0


def _receive(args: argparse.Namespace) -> int:
    import logging
    import threading

    from pasta.dicom.receiver import Receiver

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    receiver = Receiver(args.studies, args.title, tuple(args.callers), args.quiet)
    receiver.start(args.port, args.host)
    print(f"receiving as {args.title} on {args.host}:{args.port}; Ctrl-C ends it", flush=True)
    try:
        threading.Event().wait()
    finally:
        receiver.stop()
    return 0
