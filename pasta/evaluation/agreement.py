"""How far two labelmaps of one CT agree: versions, readers, a model and a reader.

Rules for what is empty, per structure: in neither labelmap, it is not compared (no row); in one only,
Dice and surface Dice are 0. So one reader's lesion that the other lacks counts as full disagreement.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pasta.errors import LabelError
from pasta.evaluation.overlap import dice
from pasta.evaluation.surface import surface_dice
from pasta.labels import LABELS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pasta.geometry import Volume

TOLERANCE_MM = 2.0


@dataclass(frozen=True, slots=True)
class StructureAgreement:
    """One structure in two labelmaps.

    Attributes:
        name: of the label.
        dice: in [0, 1].
        surface_dice: normalised, in [0, 1], see `pasta.evaluation.surface`.
        volume_ml: in the first and the second labelmap.
    """

    name: str
    dice: float
    surface_dice: float
    volume_ml: tuple[float, float]

    @property
    def difference_ml(self) -> float:
        """Second volume less the first."""
        return self.volume_ml[1] - self.volume_ml[0]


@dataclass(frozen=True, slots=True)
class Agreement:
    """All structures that at least one of two labelmaps holds, in the order of their values."""

    structures: tuple[StructureAgreement, ...]

    @property
    def disagreement(self) -> float:
        """1 less the mean Dice, in [0, 1]; 0 where both labelmaps are empty."""
        if not self.structures:
            return 0.0
        return 1 - sum(each.dice for each in self.structures) / len(self.structures)

    def document(self) -> dict[str, Any]:
        """Build the JSON document."""
        return {
            "disagreement": round(self.disagreement, 6),
            "structures": [
                {
                    **asdict(each),
                    "volume_ml": list(each.volume_ml),
                    "difference_ml": each.difference_ml,
                }
                for each in self.structures
            ],
        }


def agreement(
    one: Volume,
    other: Volume,
    names: Iterable[str] | None = None,
    tolerance_mm: float = TOLERANCE_MM,
) -> Agreement:
    """Compare two labelmaps of one CT, label by label.

    Args:
        one: label values 0-25.
        other: on the same grid.
        names: of labels to compare; None takes all. Name those that both sides were asked to draw,
            else what only one was asked for counts as disagreement.
        tolerance_mm: of the surface Dice.

    Raises:
        LabelError: if the grids differ or a voxel holds no label value.
    """
    if not one.grid.matches(other.grid):
        msg = "the labelmaps are not on one grid; resample one to the other first."
        raise LabelError(msg)
    wanted = None if names is None else set(names)
    voxel_ml = one.grid.voxel_volume_mm3 / 1000
    counts = [_counts(labelmap) for labelmap in (one, other)]
    found = []
    for label in LABELS:
        a, b = (int(count[label.value]) for count in counts)
        if a + b == 0 or (wanted is not None and label.name not in wanted):
            continue
        masks = [labelmap.voxels == label.value for labelmap in (one, other)]
        found.append(
            StructureAgreement(
                label.name,
                dice(masks[0], masks[1]),
                surface_dice(masks[0], masks[1], one.grid.spacing_mm, tolerance_mm),
                (a * voxel_ml, b * voxel_ml),
            )
        )
    return Agreement(tuple(found))


def _counts(labelmap: Volume) -> np.ndarray[Any, Any]:
    voxels = labelmap.voxels
    if voxels.dtype.kind not in "iu" or voxels.min() < 0 or voxels.max() > LABELS[-1].value:
        msg = f"the labelmap is {voxels.dtype} or holds values outside 0-{LABELS[-1].value}."
        raise LabelError(msg)
    total = np.zeros(len(LABELS) + 1, dtype=np.int64)
    for part in voxels:  # at once, bincount would copy it at 8 bytes a voxel
        total += np.bincount(part.ravel(order="K"), minlength=len(total))
    return total
