"""Readers of public data sets and of one's own; `python -m training.datasets check KIND ROOT`."""

from training.datasets.reading import KINDS, read_dataset
from training.datasets.records import (
    CaseRecord,
    Dataset,
    DatasetError,
    LicenceError,
    Mask,
    Problem,
)

__all__ = [
    "KINDS",
    "CaseRecord",
    "Dataset",
    "DatasetError",
    "LicenceError",
    "Mask",
    "Problem",
    "read_dataset",
]
