"""The reader's version of a report: what the AI suggests, and what a person made of it.

Standard library only: Slicer edits it, the server checks it. The document is described by
`reader_report.schema.json` beside this file.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from pasta import RESEARCH_USE_ONLY
from pasta.errors import LabelError, ReportError
from pasta.labels import LESIONS, label_named
from pasta.report.attributes import ATTRIBUTE_NAMES, LOCATIONS, attribute_named, option_of
from pasta.report.document import Fields, from_document
from pasta.report.findings import Box, Finding, LesionReport, Vector
from pasta.report.prose import percent, plural, size_text, volume_text

READER_SCHEMA = "pasta-aid/reader-report/1"
READER_SCHEMA_FILE = Path(__file__).with_name("reader_report.schema.json")
SIZE = "size"
LONGEST_IMPRESSION = 20_000
LONGEST_NOTE = 2_000
MOST_LESIONS = 2_000

State = Literal["ai", "accepted", "edited", "empty"]
Origin = Literal["ai", "reader"]
_STATES = ("ai", "accepted", "edited", "empty")
_ORIGINS = ("ai", "reader")
# a lesion moved by less than this, or by half of its own size, is still the same lesion
_SAME_PLACE_MM = 10.0


@dataclass(slots=True)
class Entry:
    """One attribute of one lesion.

    Attributes:
        value: that counts; None where there is none.
        state: "ai" until a person touched it; "accepted" as suggested; "edited" by the reader, to
            none even; "empty" where nobody said anything.
        suggestion: of the AI.
        probability: that the AI gives its suggestion.
        measured: what image and mask say.
        disagrees: whether the measured option differs from the value; None where one is missing.
        note: why the value is unknown or doubtful.
    """

    value: str | None = None
    state: State = "empty"
    suggestion: str | None = None
    probability: float | None = None
    measured: str | None = None
    disagrees: bool | None = None
    note: str = ""

    def compare(self) -> None:
        """Look again whether the measurement disagrees."""
        missing = self.value is None or self.measured is None
        self.disagrees = None if missing else self.value != self.measured


@dataclass(slots=True)
class ReaderLesion:
    """One lesion.

    Attributes:
        number: of the report; never used twice.
        label: name of the lesion label, such as "liver_tumor".
        origin: who found it.
        entries: of all eight attributes, by name.
        size_mm: extent along (z, x, y), None where it was not measured.
        volume_ml: of the mask.
        centre_mm: RAS+ mm.
        box: half-open voxel bounds along i, j, k of the CT.
    """

    number: int
    label: str
    origin: Origin
    entries: dict[str, Entry] = field(default_factory=dict)
    size_mm: Vector | None = None
    volume_ml: float | None = None
    centre_mm: Vector | None = None
    box: Box | None = None

    @property
    def reviewed(self) -> bool:
        """Whether a person touched or accepted all that the AI says of it."""
        return all(entry.state != "ai" for entry in self.entries.values())


@dataclass(frozen=True, slots=True)
class Change:
    """What measuring again changed, for showing."""

    number: int
    attribute: str
    old: str | None
    new: str | None


class ReaderReport:
    """The report that a reader edits, saves and submits.

    Attributes:
        lesions: in the order of their numbers.
        impression: free text.
    """

    def __init__(self) -> None:
        self.lesions: list[ReaderLesion] = []
        self.impression = ""
        self._deleted: list[dict[str, Any]] = []
        self._next = 1
        self._enhancement: Entry | None = None
        self._ai: dict[str, Any] = {}

    # --- where it comes from

    @classmethod
    def empty(cls) -> ReaderReport:
        """Begin without AI."""
        return cls()

    @classmethod
    def from_ai(cls, document: Mapping[str, Any] | None) -> ReaderReport:
        """Begin with what the AI says.

        Args:
            document: answer of `pasta_diagnosis` or `pasta_report`, or the report in it; None for a
                reader without AI.

        Raises:
            ReportError: if the report does not follow its schema.
        """
        report = cls()
        if document is None:
            return report
        inner = _report_in(document)
        read = from_document(inner)
        report._enhancement = _entry_from(read.enhancement)
        report._ai = {
            key: document[key]
            for key in ("schema", "model", "created", "input_sha256", "software")
            if key in document
        }
        for lesion in read.lesions:
            report.lesions.append(_lesion_from(lesion, lesion.number))
        report.lesions.sort(key=lambda lesion: lesion.number)
        numbers = [lesion.number for lesion in report.lesions]
        if len(set(numbers)) != len(numbers):
            msg = "lesions: two have the same number."
            raise ReportError(msg)
        report._next = max(numbers, default=0) + 1
        return report

    @classmethod
    def from_document(cls, document: Any) -> ReaderReport:
        """Read a document of `to_document` back, and check all of it.

        Raises:
            ReportError: if a field is missing, unknown or wrong; the message names it.
        """
        fields = Fields(document, "")
        schema = fields.take("schema", str)
        if schema != READER_SCHEMA:
            fields.fail("schema", f"is {schema[:80]!r}, this release reads {READER_SCHEMA!r}.")
        fields.take("notice", str)
        report = cls()
        report.impression = _short(fields, "impression", LONGEST_IMPRESSION)
        if fields.take("enhancement", dict, type(None)) is not None:
            report._enhancement = _read_entry(
                fields.inner("enhancement", again=True), "enhancement"
            )
        lesions = fields.take("lesions", list)
        if len(lesions) > MOST_LESIONS:
            fields.fail("lesions", f"has {len(lesions)} lesions, at most {MOST_LESIONS} fit.")
        for index, item in enumerate(lesions):
            report.lesions.append(_read_lesion(Fields(item, f"lesions[{index}]")))
        for index, item in enumerate(fields.take("deleted", list)):
            report._deleted.append(_read_deleted(Fields(item, f"deleted[{index}]")))
        report._next = fields.count("next_number", 1)
        report._ai = dict(fields.take("ai", dict))
        fields.end()
        numbers = [lesion.number for lesion in report.lesions]
        used = [*numbers, *(gone["number"] for gone in report._deleted)]
        if len(set(used)) != len(used) or numbers != sorted(numbers):
            fields.fail("lesions", "have numbers that repeat or do not ascend.")
        if used and max(used) >= report._next:
            fields.fail("next_number", f"is {report._next}, but {max(used)} was used.")
        return report

    # --- editing

    def lesion(self, number: int) -> ReaderLesion:
        """Look a lesion up.

        Raises:
            ReportError: if there is none of this number.
        """
        for lesion in self.lesions:
            if lesion.number == number:
                return lesion
        msg = f"there is no lesion {number}; it may have been deleted."
        raise ReportError(msg)

    def set_value(self, number: int, attribute: str, option: str | None) -> None:
        """Set an attribute: "accepted" if it is what the AI suggests, else "edited".

        Raises:
            ReportError: if the lesion or the option does not exist, or it is the size, which is
                measured.
        """
        entry = self._entry(number, attribute)
        if attribute == SIZE:
            msg = "size: is measured from the mask; use set_size or remeasured."
            raise ReportError(msg)
        entry.value = None if option is None else option_of(attribute, option)
        suggested = option is not None and entry.value == entry.suggestion
        entry.state = "accepted" if suggested else "edited"
        entry.compare()

    def set_size(
        self, number: int, size_mm: Vector, volume_ml: float | None = None
    ) -> Change | None:
        """Set the size as it was measured from the reader's mask; None if nothing changed.

        Raises:
            ReportError: if the lesion does not exist or the size is not three positive numbers.
        """
        lesion, entry = self.lesion(number), self._entry(number, SIZE)
        if len(size_mm) != 3 or not all(math.isfinite(s) and s > 0 for s in size_mm):
            msg = "size: expected three positive numbers in mm."
            raise ReportError(msg)
        old, new = entry.value, size_text(size_mm)
        lesion.size_mm = size_mm
        lesion.volume_ml = lesion.volume_ml if volume_ml is None else volume_ml
        if old == new:
            return None
        entry.value, entry.measured, entry.state = new, None, "edited"
        entry.compare()
        return Change(number, SIZE, old, new)

    def accept(self, number: int, attribute: str | None = None) -> None:
        """Take over what the AI says of one attribute, or of the whole lesion.

        Raises:
            ReportError: if the lesion or attribute does not exist.
        """
        names = ATTRIBUTE_NAMES if attribute is None else (attribute,)
        for name in names:
            entry = self._entry(number, name)
            if entry.state == "ai":
                entry.state = "accepted"

    def accept_all(self) -> None:
        """Take over all that the AI says and nobody touched."""
        for lesion in self.lesions:
            self.accept(lesion.number)

    def add_lesion(self, label: str, centre_mm: Vector | None = None) -> ReaderLesion:
        """Add a lesion that the reader found; location and enhancement follow from what is known.

        Raises:
            ReportError: if the label is no lesion.
        """
        try:
            known = label_named(label)
        except LabelError as error:
            raise ReportError(str(error)) from None
        if known.kind != "lesion":
            msg = f"{label!r} is an organ; choose a lesion label."
            raise ReportError(msg)
        entries = {name: Entry() for name in ATTRIBUTE_NAMES}
        entries["location"] = Entry(LOCATIONS[known.organ], "edited")
        if self._enhancement is not None:
            entries["enhancement"] = _copied(self._enhancement)
        lesion = ReaderLesion(self._next, label, "reader", entries, centre_mm=centre_mm)
        self._next += 1
        self.lesions.append(lesion)
        return lesion

    def delete_lesion(self, number: int) -> None:
        """Delete a lesion; its number is not used again.

        Raises:
            ReportError: if it does not exist.
        """
        lesion = self.lesion(number)
        self.lesions.remove(lesion)
        centre = list(lesion.centre_mm) if lesion.centre_mm else None
        self._deleted.append(
            {
                "number": number,
                "label": lesion.label,
                "origin": lesion.origin,
                "centre_mm": centre,
            }
        )

    def remeasured(self, ai_document: Mapping[str, Any]) -> list[Change]:
        """Take over what was measured on the edited mask.

        Lesions are matched by label and place. Size, volume and place are new for each; of the
        attributes only those change that nobody touched, and beside the others the measurement is
        renewed. Lesions that only one side has stay as they are.

        Args:
            ai_document: answer of `pasta_report` for the reader's mask.

        Returns:
            The values that changed, for showing.

        Raises:
            ReportError: if the report does not follow its schema.
        """
        found = from_document(_report_in(ai_document))
        changes: list[Change] = []
        for lesion, measured in _pairs(self.lesions, found.lesions):
            for name in ATTRIBUTE_NAMES:
                entry, new = lesion.entries[name], _entry_from(measured.findings[name])
                old = entry.value
                if name == SIZE:
                    state: State = "edited" if old != new.value else entry.state
                    lesion.entries[name] = Entry(new.value, state, entry.suggestion, note=new.note)
                elif entry.state in ("ai", "empty"):
                    lesion.entries[name] = new
                else:
                    entry.measured = new.measured
                    entry.compare()
                if lesion.entries[name].value != old:
                    changes.append(Change(lesion.number, name, old, lesion.entries[name].value))
            lesion.size_mm, lesion.volume_ml = measured.size_mm, measured.volume_ml
            lesion.centre_mm, lesion.box = measured.centre_mm, measured.box
        return sorted(changes, key=lambda change: change.number)

    def unreviewed(self) -> list[tuple[int, str]]:
        """List what only the AI said so far: (number, attribute)."""
        return self._in_state("ai")

    def missing(self) -> list[tuple[int, str]]:
        """List what has no value: (number, attribute)."""
        return [
            (lesion.number, name)
            for lesion in self.lesions
            for name, entry in lesion.entries.items()
            if entry.value is None
        ]

    # --- where it goes

    def to_document(self) -> dict[str, Any]:
        """Build the JSON document (`reader_report.schema.json`)."""
        return {
            "schema": READER_SCHEMA,
            "notice": RESEARCH_USE_ONLY,
            "impression": self.impression,
            "enhancement": None
            if self._enhancement is None
            else _entry_document(self._enhancement),
            "lesions": [_lesion_document(lesion) for lesion in self.lesions],
            "deleted": [dict(gone) for gone in self._deleted],
            "next_number": self._next,
            "ai": dict(self._ai),
        }

    def text(self) -> str:
        """Write the report in a radiologist's words; what nobody reviewed is marked."""
        lines = ["STRUCTURED CT REPORT", RESEARCH_USE_ONLY, "", "FINDINGS"]
        if not self.lesions:
            lines.append("No lesion is marked in this scan.")
        for lesion in self.lesions:
            lines += _lesion_lines(lesion)
        impression = self.impression.strip() or _impression(self.lesions)
        lines += ["", "IMPRESSION", impression]
        left = len(self.unreviewed())
        if left:
            many = "statements are" if left > 1 else "statement is"
            lines += ["", f"NOT FINAL: {left} {many} by the AI alone, marked [AI]."]
        return "\n".join(lines) + "\n"

    def _entry(self, number: int, attribute: str) -> Entry:
        return self.lesion(number).entries[attribute_named(attribute).name]

    def _in_state(self, state: State) -> list[tuple[int, str]]:
        return [
            (lesion.number, name)
            for lesion in self.lesions
            for name, entry in lesion.entries.items()
            if entry.state == state
        ]


def checked_reader_report(document: Any) -> dict[str, Any]:
    """Check a document and give it back in the one form that is stored.

    Raises:
        ReportError: as `ReaderReport.from_document`.
    """
    return ReaderReport.from_document(document).to_document()


def _report_in(document: Mapping[str, Any]) -> Any:
    return document.get("report", document)


def _entry_from(finding: Finding) -> Entry:
    measured = finding.measured.value if finding.measured else None
    entry = Entry(
        value=finding.value,
        state="empty" if finding.value is None else "ai",
        suggestion=finding.value,
        probability=finding.probabilities.get(finding.value) if finding.value else None,
        measured=measured,
        note=finding.note or (finding.measured.note if finding.measured else ""),
    )
    entry.compare()
    return entry


def _lesion_from(lesion: LesionReport, number: int) -> ReaderLesion:
    entries = {name: _entry_from(lesion.findings[name]) for name in ATTRIBUTE_NAMES}
    return ReaderLesion(
        number,
        lesion.label,
        "ai",
        entries,
        lesion.size_mm,
        lesion.volume_ml,
        lesion.centre_mm,
        lesion.box,
    )


def _copied(entry: Entry) -> Entry:
    return Entry(
        entry.value,
        entry.state,
        entry.suggestion,
        entry.probability,
        entry.measured,
        entry.disagrees,
        entry.note,
    )


def _pairs(
    lesions: list[ReaderLesion], found: tuple[LesionReport, ...]
) -> list[tuple[ReaderLesion, LesionReport]]:
    """Match lesions of one label, the nearest first."""
    near = []
    for i, lesion in enumerate(lesions):
        for j, measured in enumerate(found):
            if measured.label != lesion.label:
                continue
            if lesion.centre_mm is None:  # added without a place: what is left over
                near.append((math.inf, i, j))
                continue
            away = math.dist(lesion.centre_mm, measured.centre_mm)
            reach = max(*measured.size_mm, *(lesion.size_mm or (0.0,))) / 2
            if away <= max(reach, _SAME_PLACE_MM):
                near.append((away, i, j))
    pairs: dict[int, int] = {}
    for away, i, j in sorted(near):
        if i in pairs or j in pairs.values():
            continue
        if away == math.inf and not _only_choice(near, i, pairs):
            continue
        pairs[i] = j
    return [(lesions[i], found[j]) for i, j in pairs.items()]


def _only_choice(near: list[tuple[float, int, int]], i: int, pairs: dict[int, int]) -> bool:
    """Tell whether one lesion without a place, and one measured, are left for each other."""
    taken = set(pairs.values())
    left = {j for away, own, j in near if own == i and j not in taken}
    rivals = {own for away, own, j in near if j in left and own not in pairs and away == math.inf}
    return len(left) == len(rivals) == 1


# --- the document


def _entry_document(entry: Entry) -> dict[str, Any]:
    return {
        "value": entry.value,
        "state": entry.state,
        "suggestion": entry.suggestion,
        "probability": entry.probability,
        "measured": entry.measured,
        "disagrees": entry.disagrees,
        "note": entry.note,
    }


def _lesion_document(lesion: ReaderLesion) -> dict[str, Any]:
    size = lesion.size_mm
    return {
        "number": lesion.number,
        "label": lesion.label,
        "label_value": label_named(lesion.label).value,
        "origin": lesion.origin,
        "attributes": {name: _entry_document(lesion.entries[name]) for name in ATTRIBUTE_NAMES},
        "size_mm": dict(zip("zxy", size, strict=True)) if size else None,
        "volume_ml": lesion.volume_ml,
        "centre_mm": list(lesion.centre_mm) if lesion.centre_mm else None,
        "box": [list(bounds) for bounds in lesion.box] if lesion.box else None,
    }


def _read_entry(fields: Fields, name: str) -> Entry:
    entry = Entry(
        value=fields.option("value", name),
        state=cast("State", fields.choice("state", _STATES)),
        suggestion=fields.option("suggestion", name),
        measured=fields.option("measured", name),
        note=_short(fields, "note", LONGEST_NOTE),
    )
    if fields.take("probability", int, float, type(None)) is not None:
        entry.probability = fields.number("probability", again=True)
        if not 0 <= entry.probability <= 1:
            fields.fail("probability", "is not from 0 to 1.")
    for key in ("value", "suggestion", "measured"):
        if len(getattr(entry, key) or "") > LONGEST_NOTE:
            fields.fail(key, "is too long.")
    fields.take("disagrees", bool, type(None))
    if entry.state == "empty" and entry.value is not None:
        fields.fail("state", "is empty, but there is a value.")
    if entry.state in ("ai", "accepted") and entry.value is None:
        fields.fail("state", f"is {entry.state}, but there is no value.")
    fields.end()
    entry.compare()
    return entry


def _read_lesion(fields: Fields) -> ReaderLesion:
    label = _lesion_label(fields)
    if fields.take("label_value", int) != label_named(label).value:
        fields.fail("label_value", f"{label} has label value {label_named(label).value}.")
    attributes = fields.inner("attributes")
    entries = {name: _read_entry(attributes.inner(name), name) for name in ATTRIBUTE_NAMES}
    attributes.end()
    lesion = ReaderLesion(
        number=fields.count("number", 1),
        label=label,
        origin=cast("Origin", fields.choice("origin", _ORIGINS)),
        entries=entries,
    )
    if fields.take("size_mm", dict, type(None)) is not None:
        size = fields.inner("size_mm", again=True)
        lesion.size_mm = (size.number("z"), size.number("x"), size.number("y"))
        size.end()
        if min(lesion.size_mm) <= 0:
            fields.fail("size_mm", "is not positive.")
    if fields.take("volume_ml", int, float, type(None)) is not None:
        lesion.volume_ml = fields.number("volume_ml", again=True)
        if lesion.volume_ml < 0:
            fields.fail("volume_ml", "is negative.")
    lesion.centre_mm = _read_centre(fields)
    if fields.take("box", list, type(None)) is not None:
        lesion.box = fields.box("box", again=True)
    fields.end()
    return lesion


def _read_deleted(fields: Fields) -> dict[str, Any]:
    label = _lesion_label(fields)
    number, origin = fields.count("number", 1), fields.choice("origin", _ORIGINS)
    centre = _read_centre(fields)
    fields.end()
    return {
        "number": number,
        "label": label,
        "origin": origin,
        "centre_mm": list(centre) if centre else None,
    }


def _lesion_label(fields: Fields) -> str:
    label: str = fields.take("label", str)
    if label not in {lesion.name for lesion in LESIONS}:
        fields.fail("label", f"{label[:80]!r} is not a lesion label.")
    return label


def _read_centre(fields: Fields) -> Vector | None:
    if fields.take("centre_mm", list, type(None)) is None:
        return None
    return fields.vector("centre_mm", again=True)


def _short(fields: Fields, name: str, longest: int) -> str:
    text: str = fields.take(name, str)
    if len(text) > longest:
        fields.fail(name, f"has {len(text)} characters, at most {longest} fit.")
    return text


# --- the words


def _lesion_lines(lesion: ReaderLesion) -> list[str]:
    label = label_named(lesion.label)
    home = LOCATIONS[label.organ]
    location = lesion.entries["location"].value
    place = "" if location in (None, home) else f" at the {str(location).lower()}"
    size = f", {size_text(lesion.size_mm)} (Z x X x Y)" if lesion.size_mm else ""
    volume = f", {volume_text(lesion.volume_ml)}" if lesion.volume_ml is not None else ""
    by = "" if lesion.origin == "ai" else ", added by the reader"
    lines = [f"{lesion.number}. {label.title}{place}{size}{volume}{by}."]
    for name in ATTRIBUTE_NAMES:
        if name != SIZE:
            title = attribute_named(name).title
            lines.append(f"   {title}: {_statement(lesion.entries[name])}")
    return lines


def _statement(entry: Entry) -> str:
    if entry.value is None:
        return "not stated."
    if entry.state != "ai":
        return f"{entry.value}."
    sure = "" if entry.probability is None else f" {percent(entry.probability)}"
    doubt = f", measured {entry.measured}" if entry.disagrees else ""
    return f"{entry.value} [AI{sure}{doubt}]."


def _impression(lesions: list[ReaderLesion]) -> str:
    if not lesions:
        return "No marked lesion."
    groups = []
    for name, count in Counter(lesion.label for lesion in lesions).items():
        sizes = [max(item.size_mm) for item in lesions if item.label == name and item.size_mm]
        title = label_named(name).title.lower()
        text = f"{count} {title if count == 1 else plural(title)}"
        if sizes:
            text += f" ({'largest ' if count > 1 else ''}{max(sizes):.0f} mm)"
        groups.append(text)
    return f"{'; '.join(groups)}."
