"""What a data set holds, in figures: `describe`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pasta.errors import PastaError
from pasta.labels import LABELS
from training.datasets.records import Problem
from training.datasets.voxels import grid_of, load_case
from training.losses import CERTAIN, IGNORE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pasta.geometry import Grid
    from training.datasets.records import CaseRecord, Dataset

_NAMES = {0: "", CERTAIN: "certain background", IGNORE: "ignored"} | {
    label.value: label.name for label in LABELS
}


@dataclass(frozen=True, slots=True)
class Summary:
    """Figures of a data set.

    Attributes:
        dataset: described.
        labels: cases in which a label may be (from the files' meaning), or, with voxels read, is.
        complete: cases in which a label is labelled completely.
        spacing_mm: lowest and highest along each axis of the files; None where no header was read.
        shape: lowest and highest number of voxels along each axis.
        problems: the data set's, and those found in headers or voxels.
        voxels_read: True where `labels` counts what was seen in the voxels.
    """

    dataset: Dataset
    labels: Mapping[str, int]
    complete: Mapping[str, int]
    spacing_mm: tuple[tuple[float, float], ...] | None
    shape: tuple[tuple[int, int], ...] | None
    problems: tuple[Problem, ...]
    voxels_read: bool

    def lines(self) -> list[str]:
        """Write the summary as lines of text; no patient identifiers."""
        dataset = self.dataset
        cases = dataset.cases
        licences = Counter(case.licence.name or "unknown" for case in cases)
        splits = Counter(case.split or "none" for case in cases)
        channels = Counter(" + ".join(case.channels) for case in cases)
        rows = [
            ("data set", f"{dataset.origin.title} ({dataset.origin.page})"),
            ("licence", _counted(licences)),
            ("cases", f"{len(cases)}, {len(dataset.labelled())} with labels"),
            ("patients", str(dataset.patients)),
            ("splits", _counted(splits)),
            ("channels", _counted(channels)),
        ]
        points = sum(case.centre_ras_mm is not None for case in cases)
        if points:
            rows.append(("centre points", str(points)))
        attributes = Counter(
            key for case in cases for key, value in case.attributes.items() if value is not None
        )
        if attributes:
            rows.append(("attributes", _counted(attributes)))
        if self.spacing_mm and self.shape:
            rows.append(
                ("spacing", " x ".join(f"{a:.3g}-{b:.3g}" for a, b in self.spacing_mm) + " mm")
            )
            rows.append(("shape", " x ".join(f"{a}-{b}" for a, b in self.shape)))
        unknown = sum(not case.licence.name for case in cases)
        if unknown:
            rows.append(
                ("note", f"{unknown} cases name no licence: not for weights that are shipped")
            )
        if any(case.licence.share_alike for case in cases):
            rows.append(("note", "share-alike: what is derived from it must keep its licence"))
        width = max(len(name) for name, _ in rows)
        lines = [f"{name:<{width}}  {text}" for name, text in rows]
        lines += ["", f"{'label':<20} {'cases':>6} {'complete':>9}"]
        names = [
            name for name in _NAMES.values() if self.labels.get(name) or self.complete.get(name)
        ]
        order = {label.name: label.value for label in LABELS}
        lines += [
            f"{name:<20} {self.labels.get(name, 0):>6} {self.complete.get(name, 0):>9}"
            for name in sorted(names, key=lambda name: order.get(name, 99))
        ]
        if not names:
            lines.append("none")
        if not self.voxels_read and names:
            lines.append("(cases whose files may hold the label; --voxels counts those that do)")
        lines += ["", f"problems: {len(self.problems) or 'none'}"]
        lines += [f"  {problem}" for problem in self.problems]
        return lines


def describe(dataset: Dataset, *, voxels: bool = False) -> Summary:
    """Read all headers, or all voxels, of a data set and count.

    Args:
        dataset: of `read_dataset`.
        voxels: read every image and mask through `pasta.io` as training does, so that all damage,
            unknown values and unequal grids are found; takes seconds a case.

    Returns:
        Figures and problems; a case that cannot be read is a problem and not counted.
    """
    labels: Counter[str] = Counter()
    complete: Counter[str] = Counter()
    spacings, shapes = [], []
    problems = list(dataset.problems)
    names: Iterable[str]
    for case in dataset.cases:
        complete.update(case.complete)
        try:
            if voxels:
                grid, names = _seen(case)
            else:
                grid, names = grid_of(case.images[0]), case.labels
        except PastaError as error:
            problems.append(Problem(case.case, str(error)))
            continue
        labels.update(names)
        spacings.append(grid.spacing_mm)
        shapes.append(grid.shape)
    return Summary(
        dataset,
        labels,
        complete,
        _ranges(spacings) if spacings else None,
        tuple((int(a), int(b)) for a, b in _ranges(shapes)) if shapes else None,
        tuple(problems),
        voxels,
    )


def _seen(case: CaseRecord) -> tuple[Grid, Iterable[str]]:
    loaded = load_case(case)
    names: Iterable[str] = ()
    if loaded.labelmap is not None:
        counts = np.bincount(loaded.labelmap.voxels.ravel(order="K"), minlength=256)
        names = [_NAMES[int(value)] for value in np.flatnonzero(counts) if _NAMES[int(value)]]
    return loaded.channels[0].grid, names


def _ranges(rows: Sequence[tuple[float, float, float]]) -> tuple[tuple[float, float], ...]:
    table = np.array(rows, dtype=float)
    return tuple(zip(table.min(axis=0).tolist(), table.max(axis=0).tolist(), strict=True))


def _counted(counts: Counter[str]) -> str:
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{name} ({count})" for name, count in counts.items())
