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


def run(args: argparse.Namespace) -> int:
    """Write the files.

    Raises:
        PastaError: for bad input or an output that cannot be written.
    """
    from pasta.dicom.export import export_case  # here, so that --help answers at once

    written = export_case(
        args.case, args.series, args.output, reader=args.reader, subject=args.subject
    )
    for path in written:
        print(path)
    return 0
