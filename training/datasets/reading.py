"""One way in: `read_dataset(kind, root)`. Nothing is ever downloaded."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.datasets.archives import (
    FOLDERS,
    IRCADB,
    LUNG1,
    read_folders,
    read_ircadb,
    read_lung1,
)
from training.datasets.own import NNUNET, TABLE, read_csv, read_nnunet
from training.datasets.records import (
    CaseRecord,
    Dataset,
    DatasetError,
    LicenceError,
    Origin,
    Problem,
    ordered_cases,
)
from training.datasets.tumours import KITS23, LITS, MSD, read_kits23, read_lits, read_msd

Reader = Callable[..., tuple[list[CaseRecord], list[Problem]]]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of data set: where it comes from and how it is read."""

    origin: Origin
    read: Reader
    options: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Take the options from the reader's signature."""
        names = [
            name
            for name, parameter in inspect.signature(self.read).parameters.items()
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY
        ]
        object.__setattr__(self, "options", tuple(names))


KINDS: dict[str, Kind] = {
    "msd": Kind(MSD, read_msd),
    "kits23": Kind(KITS23, read_kits23),
    "lits": Kind(LITS, read_lits),
    "ircadb": Kind(IRCADB, read_ircadb),
    "lung1": Kind(LUNG1, read_lung1),
    "nnunet": Kind(NNUNET, read_nnunet),
    "csv": Kind(TABLE, read_csv),
    "folders": Kind(FOLDERS, read_folders),
}


def read_dataset(
    kind: str, root: Path | str, *, for_shipping: bool = False, **options: Any
) -> Dataset:
    """Read what a data set on this machine holds; no voxels are read and nothing is downloaded.

    Args:
        kind: one of `KINDS`.
        root: folder of the data set, or the CSV file.
        for_shipping: the caller trains weights to be given to others: cases whose licence excludes
            commercial use or derivatives, or is unknown, are left out and named as problems.
        **options: of the reader: pancreas (msd), annotations (lung1), labels, complete, licence
            (nnunet, csv), channels (csv).

    Returns:
        Usable cases in natural order, and the problems of the others.

    Raises:
        DatasetError: if the kind or an option is unknown, the root is not laid out as the kind
            needs, or no case is usable.
        LicenceError: if, with `for_shipping`, no case may be used.
        LabelError: if an option names an unknown label.
    """
    found = KINDS.get(kind)
    if found is None:
        msg = f"unknown kind of data set {kind!r}; known are {', '.join(KINDS)}."
        raise DatasetError(msg)
    for option in options:
        if option not in found.options:
            known = ", ".join(found.options) or "none"
            msg = f"{kind}: unknown option {option!r}; known are {known}."
            raise DatasetError(msg)
    # a collection under one licence need not be searched to be refused
    if for_shipping and found.origin.licence.name and found.origin.licence.refusal():
        msg = (
            f"{found.origin.title}: not for weights that are shipped: "
            f"{found.origin.licence.refusal()}. Train without it, or keep the weights."
        )
        raise LicenceError(msg)
    cases, problems = found.read(Path(root), **options)
    if not cases:
        first = problems[0] if problems else f"Expected {found.origin.needs}."
        msg = f"{Path(root).name}: no usable case, {len(problems)} problems. First: {first}"
        raise DatasetError(msg)
    dataset = Dataset(kind, found.origin, ordered_cases(cases), tuple(problems))
    return dataset.for_shipping() if for_shipping else dataset
