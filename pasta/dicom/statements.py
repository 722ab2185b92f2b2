"""What a report says of each lesion, in one form for the AI's report and for the reader's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pasta import RESEARCH_USE_ONLY
from pasta.labels import Label, label_named
from pasta.report.attributes import ATTRIBUTE_NAMES, attribute_named
from pasta.report.document import SCHEMA, from_document
from pasta.report.prose import full_text, percent
from pasta.report.reader import READER_SCHEMA, ReaderReport

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pasta.report.findings import Box, Finding, LesionReport, Vector
    from pasta.report.reader import Entry, ReaderLesion

_STATES = {"ai": "AI", "accepted": "AI, accepted by the reader", "edited": "reader"}


@dataclass(frozen=True, slots=True)
class Lesion:
    """One lesion.

    Attributes:
        number: of the report.
        label: what it is.
        values: of all eight attributes; None where unknown.
        sources: who says each value, in words, such as "network 93 %".
        size_mm: extent along (z, x, y), None where it was not measured.
        volume_ml: of the mask.
        box: half-open voxel bounds along i, j, k of the CT.
        origin: who found it.
    """

    number: int
    label: Label
    values: Mapping[str, str | None]
    sources: Mapping[str, str]
    size_mm: Vector | None
    volume_ml: float | None
    box: Box | None
    origin: str

    @property
    def comment(self) -> str:
        """Say who says what, for whoever reads the coded values."""
        said = [
            f"{attribute_named(name).title}: {self.sources[name]}"
            for name in ATTRIBUTE_NAMES
            if self.values[name] is not None
        ]
        return f"Found by {self.origin}. {'; '.join(said)}. {RESEARCH_USE_ONLY}"


@dataclass(frozen=True, slots=True)
class Statements:
    """A report.

    Attributes:
        lesions: in the order of the report.
        text: the report in words.
        impression: its conclusion.
        models: that took part, as in `Model.provenance`.
        reader: pseudonym; "" for a report of the AI alone.
        complete: whether a person has seen every statement.
    """

    lesions: Sequence[Lesion]
    text: str
    impression: str
    models: Sequence[Mapping[str, Any]]
    reader: str = ""
    complete: bool = False

    @property
    def ai(self) -> bool:
        """Whether a network had part in it."""
        return bool(self.models)


def statements_of(document: Mapping[str, Any], reader: str = "") -> Statements:
    """Read a report document, the AI's or a reader's.

    Args:
        document: answer of `pasta_report` or `pasta_diagnosis`, the report in it, or a reader's report.
        reader: pseudonym of who made a reader's report.

    Raises:
        ReportError: if it does not follow its schema.
    """
    if document.get("schema") == READER_SCHEMA:
        return _of_reader(ReaderReport.from_document(document), document, reader or "anonymous")
    inner = document if document.get("schema") == SCHEMA else document.get("report", document)
    report = from_document(inner)
    text, models = full_text(report), document.get("model", ())
    return Statements(
        [_of_ai(lesion, "AI" if masks(models) else "a mask given") for lesion in report.lesions],
        text,
        _section(text, "IMPRESSION"),
        models,
    )


def masks(models: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Choose the models that drew the mask, among those that took part in a report."""
    return [model for model in models if model.get("task") == "segmentation"]


def _of_reader(report: ReaderReport, document: Mapping[str, Any], reader: str) -> Statements:
    text = report.text()
    return Statements(
        [_of_person(lesion) for lesion in report.lesions],
        text,
        _section(text, "IMPRESSION"),
        document["ai"].get("model", ()),
        reader,
        complete=not report.unreviewed(),
    )


def _of_ai(lesion: LesionReport, origin: str) -> Lesion:
    findings = lesion.findings
    return Lesion(
        lesion.number,
        label_named(lesion.label),
        lesion.values,
        {name: _who(finding) for name, finding in findings.items()},
        lesion.size_mm,
        lesion.volume_ml,
        lesion.box,
        origin,
    )


def _who(finding: Finding) -> str:
    probability = finding.probabilities.get(finding.value or "")
    text = finding.source if probability is None else f"{finding.source} {percent(probability)}"
    return f"{text}, measurement disagrees" if finding.disagrees else text


def _of_person(lesion: ReaderLesion) -> Lesion:
    return Lesion(
        lesion.number,
        label_named(lesion.label),
        {name: entry.value for name, entry in lesion.entries.items()},
        {name: _who_of(entry) for name, entry in lesion.entries.items()},
        lesion.size_mm,
        lesion.volume_ml,
        lesion.box,
        "AI" if lesion.origin == "ai" else "the reader",
    )


def _who_of(entry: Entry) -> str:
    text = _STATES.get(entry.state, "nobody")
    return f"{text}, measurement disagrees" if entry.disagrees else text


def _section(text: str, title: str) -> str:
    """Take one section out of a report's text; sections are parted by empty lines."""
    _, _, rest = text.partition(f"\n{title}\n")
    return rest.split("\n\n", 1)[0].strip()
