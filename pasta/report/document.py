"""The JSON document of a report, described by `report.schema.json` beside this file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from pasta import RESEARCH_USE_ONLY
from pasta.errors import ReportError
from pasta.labels import LESIONS, ORGANS, label_named
from pasta.report.attributes import ATTRIBUTE_NAMES, attribute_named, option_of
from pasta.report.findings import Box, CaseFacts, Finding, LesionReport, Measurement, Report, Vector

SCHEMA = "pasta-aid/report/1"
SCHEMA_FILE = Path(__file__).with_name("report.schema.json")
# Written by whoever runs the task; allowed in a document, not part of what is read back.
PROVENANCE_KEYS = ("model", "input_sha256", "seconds", "created", "software")
_ORGAN_NAMES = tuple(organ.name for organ in ORGANS)


def to_document(report: Report) -> dict[str, Any]:
    """Turn a report into its JSON document (`report.schema.json`)."""
    return {
        "schema": SCHEMA,
        "notice": RESEARCH_USE_ONLY,
        "case": {
            "shape": list(report.case.shape),
            "spacing_mm": list(report.case.spacing_mm),
            "axcodes": report.case.axcodes,
            "organ_volumes_ml": dict(report.case.organ_volumes_ml),
            "specks_dropped": report.case.specks_dropped,
        },
        "enhancement": _finding_document(report.enhancement),
        "lesions": [
            {
                "number": lesion.number,
                "label": lesion.label,
                "label_value": label_named(lesion.label).value,
                "attributes": {
                    name: _finding_document(lesion.findings[name]) for name in ATTRIBUTE_NAMES
                },
                "size_mm": dict(zip("zxy", lesion.size_mm, strict=True)),
                "volume_ml": lesion.volume_ml,
                "centre_mm": list(lesion.centre_mm),
                "centre_voxel": list(lesion.centre_voxel),
                "box": [list(bounds) for bounds in lesion.box],
                "voxels": lesion.voxels,
                "organ_overlap": dict(lesion.organ_overlap),
                "cut_off": lesion.cut_off,
                "warnings": list(lesion.warnings),
            }
            for lesion in report.lesions
        ],
        "warnings": list(report.warnings),
    }


def _finding_document(finding: Finding) -> dict[str, Any]:
    measured = finding.measured
    return {
        "value": finding.value,
        "source": finding.source,
        "probabilities": dict(finding.probabilities),
        "measured": None
        if measured is None
        else {
            "value": measured.value,
            "numbers": dict(measured.numbers),
            "note": measured.note,
        },
        "disagrees": finding.disagrees,
        "note": finding.note,
    }


def from_document(document: Any) -> Report:
    """Read a report from its JSON document; provenance keys may be there and are not kept.

    Raises:
        ReportError: if a field is missing, unknown or wrong; the message names it, such as
            "lesions[0].attributes.shape.value".
    """
    fields = Fields(document, "")
    schema = fields.take("schema", str)
    if schema != SCHEMA:
        fields.fail("schema", f"is {schema!r}, this release reads {SCHEMA!r}.")
    fields.take("notice", str)
    for key in PROVENANCE_KEYS:
        fields.values.pop(key, None)
    report = Report(
        case=_case_from(fields.inner("case")),
        enhancement=_finding_from(fields.inner("enhancement"), "enhancement"),
        lesions=tuple(
            _lesion_from(Fields(item, f"lesions[{index}]"))
            for index, item in enumerate(fields.take("lesions", list))
        ),
        warnings=fields.sentences("warnings"),
    )
    fields.end()
    return report


def _case_from(fields: Fields) -> CaseFacts:
    axes = Fields(dict(enumerate(fields.take("shape", list))), fields.path("shape"))
    if len(axes.values) != 3:
        fields.fail("shape", f"expected three integers, found {len(axes.values)}.")
    case = CaseFacts(
        shape=(axes.count(0, 1), axes.count(1, 1), axes.count(2, 1)),
        spacing_mm=fields.vector("spacing_mm"),
        axcodes=fields.take("axcodes", str),
        organ_volumes_ml=fields.numbers("organ_volumes_ml", _ORGAN_NAMES, least=0),
        specks_dropped=fields.count("specks_dropped"),
    )
    fields.end()
    return case


def _lesion_from(fields: Fields) -> LesionReport:
    label = fields.take("label", str)
    if label not in {lesion.name for lesion in LESIONS}:
        fields.fail("label", f"{label!r} is not a lesion label.")
    if fields.take("label_value", int) != label_named(label).value:
        fields.fail("label_value", f"{label} has label value {label_named(label).value}.")
    attributes = fields.inner("attributes")
    findings = {name: _finding_from(attributes.inner(name), name) for name in ATTRIBUTE_NAMES}
    attributes.end()
    size = fields.inner("size_mm")
    lesion = LesionReport(
        number=fields.count("number", 1),
        label=label,
        findings=findings,
        size_mm=(size.number("z"), size.number("x"), size.number("y")),
        volume_ml=fields.number("volume_ml"),
        centre_mm=fields.vector("centre_mm"),
        centre_voxel=fields.vector("centre_voxel"),
        box=fields.box("box"),
        voxels=fields.count("voxels", 1),
        organ_overlap=fields.numbers("organ_overlap", _ORGAN_NAMES, least=0),
        cut_off=fields.take("cut_off", bool),
        warnings=fields.sentences("warnings"),
    )
    size.end()
    fields.end()
    return lesion


def _finding_from(fields: Fields, name: str) -> Finding:
    measured = None
    if fields.take("measured", dict, type(None)) is not None:
        inner = fields.inner("measured", again=True)
        measured = Measurement(
            inner.option("value", name), inner.numbers("numbers"), inner.take("note", str)
        )
        inner.end()
    # Follows from value and measurement; whoever edited the value may have left it stale.
    fields.take("disagrees", bool, type(None))
    finding = Finding(
        value=fields.option("value", name),
        source=fields.take("source", str),
        probabilities=_probabilities_from(fields, name),
        measured=measured,
        note=fields.take("note", str),
    )
    if not finding.source:
        fields.fail("source", "is empty; name who says so, such as 'reader'.")
    fields.end()
    return finding


def _probabilities_from(fields: Fields, name: str) -> dict[str, float]:
    inner = fields.inner("probabilities")
    probabilities = {}
    for key in list(inner.values):
        value = inner.number(key)
        if not 0 <= value <= 1:
            inner.fail(key, f"is {value}, expected a probability from 0 to 1.")
        try:
            probabilities[option_of(name, key)] = value
        except ReportError as error:
            inner.fail(key, str(error))
    total = sum(probabilities.values())
    if probabilities and abs(total - 1) > 0.01:
        fields.fail("probabilities", f"sum to {total:.3f}, expected 1.")
    return probabilities


class Fields:
    """Takes the fields of a JSON object one by one and complains by their path."""

    def __init__(self, document: Any, where: str) -> None:
        self.where = where
        if not isinstance(document, Mapping):
            msg = f"{where or 'report'}: expected a JSON object, found {type(document).__name__}."
            raise ReportError(msg)
        self.source: Mapping[Any, Any] = document
        self.values = dict(document)

    def path(self, name: str | int) -> str:
        """Name a field, or an item of a list, for a message."""
        if isinstance(name, int):
            return f"{self.where}[{name}]"
        return f"{self.where}.{name}" if self.where else name

    def fail(self, name: str | int, problem: str) -> NoReturn:
        """Raise ReportError on a field."""
        msg = f"{self.path(name)}: {problem}"
        raise ReportError(msg)

    def take(self, name: str | int, *kinds: type, again: bool = False) -> Any:
        """Take one field of the given type; a bool is no number."""
        if name not in (self.source if again else self.values):
            self.fail(name, "is missing.")
        self.values.pop(name, None)
        value = self.source[name]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            wanted = " or ".join("null" if k is type(None) else k.__name__ for k in kinds)
            self.fail(name, f"expected {wanted}, found {type(value).__name__}.")
        return value

    def end(self) -> None:
        """Complain of fields that nobody took."""
        for name in self.values:
            self.fail(name, "is not a field of this schema.")

    def inner(self, name: str, *, again: bool = False) -> Fields:
        """Take an object."""
        return Fields(self.take(name, dict, again=again), self.path(name))

    def count(self, name: str | int, least: int = 0) -> int:
        """Take an integer of at least `least`."""
        value: int = self.take(name, int)
        if value < least:
            self.fail(name, f"is {value}, expected {least} or more.")
        return value

    def number(self, name: str | int, *, again: bool = False) -> float:
        """Take a finite number."""
        value = float(self.take(name, int, float, again=again))
        if not math.isfinite(value):
            self.fail(name, f"is {value}, expected a finite number.")
        return value

    def vector(self, name: str, *, again: bool = False) -> Vector:
        """Take three finite numbers."""
        values = self.take(name, list, again=again)
        if len(values) != 3:
            self.fail(name, f"expected three numbers, found {len(values)}.")
        items = Fields(dict(enumerate(values)), self.path(name))
        return items.number(0), items.number(1), items.number(2)

    def bounds(self, name: str | int) -> tuple[int, int]:
        """Take half-open voxel bounds."""
        values = self.take(name, list)
        if len(values) != 2:
            self.fail(name, f"expected two integers, found {len(values)}.")
        items = Fields(dict(enumerate(values)), self.path(name))
        first, stop = items.count(0), items.count(1)
        if stop <= first:
            self.fail(name, f"is empty ({first} to {stop}).")
        return first, stop

    def box(self, name: str, *, again: bool = False) -> Box:
        """Take half-open voxel bounds along three axes."""
        values = self.take(name, list, again=again)
        if len(values) != 3:
            self.fail(name, f"expected three pairs of voxel bounds, found {len(values)}.")
        items = Fields(dict(enumerate(values)), self.path(name))
        return items.bounds(0), items.bounds(1), items.bounds(2)

    def choice(self, name: str, choices: Sequence[str]) -> str:
        """Take one of several texts."""
        value: str = self.take(name, str)
        if value not in choices:
            self.fail(name, f"is {value[:40]!r}, expected one of {', '.join(choices)}.")
        return value

    def numbers(
        self, name: str, known: Sequence[str] | None = None, least: float | None = None
    ) -> dict[str, float]:
        """Take an object of finite numbers, whose keys are `known`."""
        inner = self.inner(name)
        values = {str(key): inner.number(key) for key in list(inner.values)}
        for key, value in values.items():
            if known is not None and key not in known:
                inner.fail(key, f"is not known; use {'; '.join(known)}.")
            if least is not None and value < least:
                inner.fail(key, f"is {value}, expected {least:g} or more.")
        return values

    def sentences(self, name: str) -> tuple[str, ...]:
        """Take a list of texts."""
        values = self.take(name, list)
        for index, value in enumerate(values):
            if not isinstance(value, str):
                self.fail(f"{name}[{index}]", f"expected str, found {type(value).__name__}.")
        return tuple(values)

    def option(self, name: str, attribute: str) -> str | None:
        """Take an option of an attribute, in either spelling, or null."""
        value: str | None = self.take(name, str, type(None))
        if value is None or not attribute_named(attribute).options:
            return value
        try:
            return option_of(attribute, value)
        except ReportError as error:
            self.fail(name, str(error))
