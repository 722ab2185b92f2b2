"""The CT series that results belong to, our codes in pydicom's form, and UIDs."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pydicom
from pydicom.sr.coding import Code as PydicomCode
from pydicom.uid import UID

from pasta.errors import DicomError
from pasta.io.dicom import find_series

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pasta.geometry import Grid
    from pasta.labels import Code

MANUFACTURER = "PASTA-AID"
# series numbers of ours, far from those of a scanner; 4 digits show in every viewer
SEGMENTATION_SERIES, REPORT_SERIES, SCREENING_SERIES = 9101, 9102, 9103
# may be empty but must be there (type 2), which not every archive keeps
_EMPTY_IF_MISSING = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate",
    "StudyTime", "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip
# concepts of DICOM PS3.16 annex D
AI_FAMILY = PydicomCode("123110", "DCM", "Artificial Intelligence")
MEASUREMENT_REPORT = PydicomCode("126000", "DCM", "Imaging Measurement Report")
DEVICE, PERSON = PydicomCode("121007", "DCM", "Device"), PydicomCode("121006", "DCM", "Person")
COMMENT = PydicomCode("121106", "DCM", "Comment")
_NEEDED = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A CT series without its pixels; names the patient, so never to be logged.

    Attributes:
        images: headers of the slices, along the third axis of the grid.
        grid: of the volume that `pasta.io` reads from the series.
    """

    images: Sequence[pydicom.Dataset]
    grid: Grid

    @property
    def series_uid(self) -> str:
        """SeriesInstanceUID."""
        return str(self.images[0].SeriesInstanceUID)


def read_source(folder: Path) -> Source:
    """Read the headers of the CT series in a folder.

    Raises:
        VolumeError: if there is not one regular CT series.
        DicomError: if it lacks the UIDs by which results refer to it.
    """
    series = find_series(folder)
    images = []
    for number, path in enumerate(series.paths, 1):
        header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        missing = [name for name in _NEEDED if not header.get(name)]
        if missing:
            msg = (
                f"{folder.name}: slice {number} has no {', '.join(missing)}; results could not refer "
                "to it. Export the series from the PACS again."
            )
            raise DicomError(msg)
        for name in _EMPTY_IF_MISSING:
            if name not in header:
                setattr(header, name, "")
        if not header.get("SliceThickness"):  # highdicom asks for it
            header.SliceThickness = round(series.grid.spacing_mm[2], 6)
        images.append(header)
    return Source(tuple(images), series.grid)


def coded(code: Code) -> PydicomCode:
    """Turn one of our codes into pydicom's."""
    return PydicomCode(code.value, code.scheme, code.meaning)


def uid_of(*parts: object) -> UID:
    """Derive a UID from texts: the same content gets the same UID, so that it is stored once.

    DICOM PS3.5 B.2: 2.25 and a UUID.
    """
    name = "\0".join(str(part) for part in parts)
    return UID(f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, name).int}")


def model_text(models: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Name the models of a result: short text, and a fingerprint of all their weights."""
    names = ", ".join(f"{model['name']} {model['version']}" for model in models) or "no network"
    weights = [digest for model in models for digest in model["weights_sha256"]]
    return names, uuid.uuid5(uuid.NAMESPACE_OID, "".join(weights)).hex[:16]


def utf8(dataset: pydicom.Dataset) -> None:
    """Write all text in UTF-8: highdicom copies names but not the character set they need."""
    dataset.SpecificCharacterSet = "ISO_IR 192"
