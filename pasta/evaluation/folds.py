"""Cross-validation by patient: no patient on two sides, no test case in any choice."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from pasta.errors import PastaError
from pasta.io.files import atomic_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FORMAT = 1


class FoldsError(PastaError, ValueError):
    """Cases cannot be parted as asked, or a stored parting is damaged."""


@dataclass(frozen=True, slots=True)
class Fold:
    """Cases of one fold.

    Attributes:
        training: to learn from.
        selection: to choose checkpoints, thresholds and settings by; never part of `test`.
        test: to measure on, once.
    """

    training: tuple[str, ...]
    selection: tuple[str, ...]
    test: tuple[str, ...]


def patient_folds(
    patients: Mapping[str, str],
    count: int,
    *,
    seed: int,
    strata: Mapping[str, str] | None = None,
    selection: float = 0.2,
) -> list[Fold]:
    """Part cases into folds, all cases of a patient together.

    Args:
        patients: patient of each case.
        count: of folds; each case is tested in one.
        seed: of the order.
        strata: of each case, such as the lesion type; each is spread evenly over the folds. A patient
            has the stratum of its first case.
        selection: share of the patients that are not tested, kept aside to choose by.

    Raises:
        FoldsError: if there are fewer patients than folds, or a fold would have no training case.
    """
    cases: dict[str, list[str]] = {}
    for case in sorted(patients):
        cases.setdefault(patients[case], []).append(case)
    if count < 2 or len(cases) < count:
        msg = f"{len(cases)} patients cannot make {count} folds. Ask for 2 to {len(cases)}."
        raise FoldsError(msg)
    rng = np.random.default_rng(seed)
    kinds: dict[str, list[str]] = {}
    for patient in sorted(cases):
        kinds.setdefault((strata or {}).get(cases[patient][0], ""), []).append(patient)
    tested: list[list[str]] = [[] for _ in range(count)]
    at = 0
    for kind in sorted(kinds):
        # dealt on where the last kind ended, so that small strata do not all fall into fold 0
        for patient in rng.permutation(np.array(kinds[kind], dtype=object)):
            tested[at % count].append(str(patient))
            at += 1
    folds = []
    for part in tested:
        others = [patient for patient in sorted(cases) if patient not in part]
        kept = round(selection * len(others))
        chosen = set(rng.permutation(np.array(others, dtype=object))[:kept].tolist())
        training = [patient for patient in others if patient not in chosen]
        if not training:
            msg = f"a fold has no training case left: lower selection ({selection})."
            raise FoldsError(msg)
        folds.append(
            Fold(
                *(
                    tuple(case for patient in sorted(side) for case in cases[patient])
                    for side in (training, chosen, part)
                )
            )
        )
    return folds


def save_folds(folds: list[Fold], path: Path) -> None:
    """Write folds as JSON, beside the weights they belong to."""
    document = {"format": FORMAT, "folds": [asdict(fold) for fold in folds]}
    with atomic_file(path) as file:
        file.write((json.dumps(document, indent=1) + "\n").encode())


def read_folds(path: Path) -> list[Fold]:
    """Read what `save_folds` wrote.

    Raises:
        FoldsError: if the file is missing, damaged, or has a case on two sides of a fold.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] != FORMAT:
            msg = f"{path}: of another version. Part the cases again."
            raise FoldsError(msg)
        folds = [
            Fold(*(tuple(map(str, each[side])) for side in ("training", "selection", "test")))
            for each in document["folds"]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, FoldsError):
            raise
        msg = f"{path}: cannot be read as folds ({type(error).__name__}). Part the cases again."
        raise FoldsError(msg) from error
    for number, fold in enumerate(folds):
        both = (set(fold.training) | set(fold.selection)) & set(fold.test)
        both |= set(fold.training) & set(fold.selection)
        if both:
            msg = f"{path}: fold {number} has {min(both)} on two sides. Part the cases again."
            raise FoldsError(msg)
    return folds
