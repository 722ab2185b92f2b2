"""What a task answers: images and one JSON-ready document that says where they come from."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from pasta import RESEARCH_USE_ONLY, __version__
from pasta.labels import LABELS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pasta.geometry import Volume
    from pasta.networks.checkpoint import Model
    from pasta.report import Report


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a result comes from.

    Attributes:
        models: that took part.
        input_sha256: of the CT's file bytes.
        warnings: sentences on doubtful input or output.
        seconds: per stage.
    """

    models: Sequence[Model]
    input_sha256: str
    warnings: tuple[str, ...]
    seconds: Mapping[str, float]

    def document(self, schema: str) -> dict[str, Any]:
        """Build the part that all result documents share."""
        return {
            "schema": schema,
            "notice": RESEARCH_USE_ONLY,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "software": {"name": "pasta-aid", "version": __version__},
            "model": [model.provenance() for model in self.models],
            "input_sha256": self.input_sha256,
            "warnings": list(self.warnings),
            "seconds": dict(self.seconds),
        }


@dataclass(frozen=True, slots=True)
class SegmentationResult:
    """A labelmap on the CT's own grid."""

    SCHEMA = "pasta-aid/segmentation/1"
    labelmap: Volume
    provenance: Provenance

    def document(self) -> dict[str, Any]:
        """Build the JSON document: provenance and the labels found with their volume in ml."""
        return {**self.provenance.document(self.SCHEMA), "labels": labels_found(self.labelmap)}


@dataclass(frozen=True, slots=True)
class ScreeningResult:
    """Tumour probability per organ.

    Attributes:
        findings: JSON-ready, from `ScreeningFindings.document`.
        labelmap: that the organs were taken from.
        evidence: float map in [0, 1] on the CT's grid, if asked for.
        provenance: where it comes from.
    """

    SCHEMA = "pasta-aid/screening/1"
    findings: Mapping[str, Any]
    labelmap: Volume
    evidence: Volume | None
    provenance: Provenance

    def document(self) -> dict[str, Any]:
        """Build the JSON document."""
        return {**self.provenance.document(self.SCHEMA), **self.findings}


@dataclass(frozen=True, slots=True)
class ReportResult:
    """Structured report of every lesion, with the labelmap it describes."""

    SCHEMA = "pasta-aid/report-result/1"
    report: Report
    labelmap: Volume
    provenance: Provenance

    def document(self) -> dict[str, Any]:
        """Build the JSON document: provenance, the report, its text and the labels described."""
        return {
            **self.provenance.document(self.SCHEMA),
            "labels": labels_found(self.labelmap),
            "report": self.report.to_document(),
            "text": self.report.text(),
        }


def labels_found(labelmap: Volume) -> list[dict[str, Any]]:
    """List the labels in a labelmap with their volume, for JSON."""
    counts = np.zeros(len(LABELS) + 1, dtype=np.int64)
    for part in labelmap.voxels:  # at once, bincount would copy the labelmap at 8 bytes a voxel
        counts += np.bincount(part.ravel(order="K"), minlength=len(counts))
    voxel_ml = labelmap.grid.voxel_volume_mm3 / 1000
    return [
        {
            "name": label.name,
            "title": label.title,
            "value": label.value,
            "kind": label.kind,
            "volume_ml": round(float(counts[label.value]) * voxel_ml, 3),
        }
        for label in LABELS
        if counts[label.value]
    ]
