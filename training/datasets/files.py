"""Small things all readers of data sets need: JSON and CSV with errors that name file and mend."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING, Any

from training.datasets.records import DatasetError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

IMAGE_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DatasetError: if it is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        msg = f"{path.name}: not found in {path.parent.name or 'the root'}. Check the root folder."
        raise DatasetError(msg) from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        msg = f"{path.name}: not readable as JSON. Copy or download it again."
        raise DatasetError(msg) from error


def read_table(path: Path, needed: Iterable[str]) -> list[dict[str, str]]:
    """Read a CSV file with a header line.

    Args:
        path: of the file; UTF-8, with or without a byte order mark.
        needed: columns that must be there.

    Returns:
        One mapping for each row, values stripped; an empty cell is "".

    Raises:
        DatasetError: if it is missing, not text, or lacks a column.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file)
            columns = [name.strip() for name in table.fieldnames or ()]
            missing = [name for name in needed if name not in columns]
            if missing:
                msg = (
                    f"{path.name}: the columns {', '.join(missing)} are missing. Add them to the "
                    "header line."
                )
                raise DatasetError(msg)
            return [
                {key.strip(): (value or "").strip() for key, value in row.items() if key}
                for row in table
            ]
    except FileNotFoundError:
        msg = f"{path.name}: no such file. Check the path."
        raise DatasetError(msg) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        msg = f"{path.name}: not readable as UTF-8 CSV. Save it again as CSV (UTF-8)."
        raise DatasetError(msg) from error


def require_folder(root: Path) -> None:
    """Refuse a root that is no folder.

    Raises:
        DatasetError: if it is none.
    """
    if not root.is_dir():
        msg = f"{root.name}: no such folder. Name the folder that the data set was unpacked into."
        raise DatasetError(msg)


def missing_files(case: str, paths: Iterable[Path]) -> list[Problem]:
    """List a problem for each file of a case that is not there or empty."""
    found = []
    for path in paths:
        if not path.exists():
            found.append(
                Problem(
                    case, f"{path.parent.name}/{path.name} is missing. Download or unpack it again."
                )
            )
        elif path.is_file() and path.stat().st_size == 0:
            found.append(
                Problem(
                    case, f"{path.parent.name}/{path.name} is empty. Download or unpack it again."
                )
            )
    return found
