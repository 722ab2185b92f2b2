"""What a report holds: measurements, findings, lesions, facts of the case."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Vector = tuple[float, float, float]
Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Measurement:
    """What the image and mask say of an attribute.

    Attributes:
        value: the option; None where it cannot be assessed.
        numbers: what it was read from, such as {"sphericity": 0.91}; units end the names.
        note: why it cannot be assessed, or how far to trust it.
    """

    value: str | None
    numbers: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """One attribute of one lesion.

    Attributes:
        value: the option (for the size a text such as "24 x 31 x 28 mm"); None where unknown.
        source: who says so: "network", "measured", "mask", "DICOM ..." with the tag, "reader", or
            "none" where nobody does.
        probabilities: of every option, from the network; empty without one.
        measured: what image and mask say.
        note: why the value is unknown or doubtful.
    """

    value: str | None
    source: str
    probabilities: Mapping[str, float] = field(default_factory=dict)
    measured: Measurement | None = None
    note: str = ""

    @property
    def disagrees(self) -> bool | None:
        """Whether the measured option differs from the value; None where one of them is missing."""
        if self.value is None or self.measured is None or self.measured.value is None:
            return None
        return self.value != self.measured.value


@dataclass(frozen=True, slots=True)
class LesionReport:
    """One connected lesion.

    Attributes:
        number: from 1, in the order of the report.
        label: name of the lesion label, such as "liver_tumor".
        findings: of all eight attributes, by attribute name.
        size_mm: extent along (z, x, y): feet to head, right to left, front to back.
        volume_ml: of the mask.
        centre_mm: centre of mass, RAS+ mm.
        centre_voxel: the same on the grid of the CT.
        box: half-open voxel bounds along i, j, k of the CT.
        voxels: of the mask.
        organ_overlap: share of the lesion's 10 mm neighbourhood that each organ fills.
        cut_off: whether the lesion touches the border of the field of view.
        warnings: sentences.
    """

    number: int
    label: str
    findings: Mapping[str, Finding]
    size_mm: Vector
    volume_ml: float
    centre_mm: Vector
    centre_voxel: Vector
    box: Box
    voxels: int
    organ_overlap: Mapping[str, float] = field(default_factory=dict)
    cut_off: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def values(self) -> dict[str, str | None]:
        """The value of each attribute."""
        return {name: finding.value for name, finding in self.findings.items()}


@dataclass(frozen=True, slots=True)
class CaseFacts:
    """What holds for the whole scan.

    Attributes:
        shape: voxels of the CT.
        spacing_mm: of the CT.
        axcodes: directions of its axes, such as "LPS".
        organ_volumes_ml: of the organs in the labelmap, without their lesions.
        specks_dropped: lesion components too small to describe.
    """

    shape: tuple[int, int, int]
    spacing_mm: Vector
    axcodes: str
    organ_volumes_ml: Mapping[str, float] = field(default_factory=dict)
    specks_dropped: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """The structured report of one CT.

    Attributes:
        case: facts of the scan.
        enhancement: contrast agent or not, with its source.
        lesions: numbered from 1.
        warnings: sentences.
    """

    case: CaseFacts
    enhancement: Finding
    lesions: tuple[LesionReport, ...] = ()
    warnings: tuple[str, ...] = ()

    def to_document(self) -> dict[str, Any]:
        """Turn into the JSON document of `report.schema.json`."""
        from pasta.report.document import to_document  # it builds on this module

        return to_document(self)

    def text(self) -> str:
        """Write in a radiologist's words."""
        from pasta.report.prose import full_text  # it builds on this module

        return full_text(self)
