"""The cases of a study with their truth: a CSV that only the coordinator and the server see.

Standard library only.
"""

from __future__ import annotations

import csv
import io
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pasta.errors import ReportError
from pasta.report.attributes import ATTRIBUTE_NAMES, PREDICTED, option_of
from pasta.study.findings import Finding, ProtocolError, suggestion

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from pasta.study.findings import Lines
    from pasta.study.protocol import Part, Protocol

CASES_FILE = "cases.csv"
SOURCES = ("real", "synthetic")
REFERENCE = "reference_"
ATTRIBUTE_COLUMNS = tuple(REFERENCE + name for name in ATTRIBUTE_NAMES)
COLUMNS = (
    "image",
    "organ",
    "part",
    "positive",
    "reference_mask",
    "source",
    "group",
    "patient",
    *ATTRIBUTE_COLUMNS,
)
_REQUIRED = ("image", "organ")
_MASK_SUFFIXES = (".nii.gz", ".nii")


@dataclass(frozen=True, slots=True)
class StudyCase:
    """One image of a study and what is true of it.

    Attributes:
        image: id in the server's store.
        organ: that is read.
        part: name of the part it belongs to; "" for all parts that read its organ.
        positive: whether there is a tumour; None where that is no question.
        reference_mask: tag of a label in the store, or a NIfTI file beside the CSV; "" for none.
        attributes: reference values by attribute name; where consistency is rated, the description.
        source: "real" or "synthetic", "" where that is no question.
        group: stratum that splits keep balanced and tables list, such as a lesion type.
        patient: cases of one patient stay in one arm; "" where each image is a patient.
    """

    image: str
    organ: str
    part: str = ""
    positive: bool | None = None
    reference_mask: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    group: str = ""
    patient: str = ""

    def in_part(self, part: Part) -> bool:
        """Tell whether a part reads this case."""
        return self.organ in part.organs and self.part in ("", part.name)

    @property
    def reference_file(self) -> bool:
        """Whether the reference mask is a file and no tag."""
        return self.reference_mask.endswith(_MASK_SUFFIXES)


def read_cases(path: Path, protocol: Protocol) -> tuple[StudyCase, ...]:
    """Read the case list.

    Args:
        path: of the CSV.
        protocol: that it belongs to.

    Returns:
        The cases in the order of the file, training cases among them.

    Raises:
        ProtocolError: with every mistake and its line.
    """
    cases, findings = examine_cases(path, protocol)
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        raise ProtocolError(errors)
    return cases


def cases_of(part: Part, organ: str, cases: Iterable[StudyCase]) -> list[StudyCase]:
    """List what a part reads of one organ, without its training cases."""
    return [
        case
        for case in cases
        if case.organ == organ and case.in_part(part) and case.image not in part.training_cases
    ]


def training_of(part: Part, organ: str, cases: Iterable[StudyCase]) -> tuple[str, ...]:
    """List the training images of one organ, in the protocol's order."""
    organs = {(case.image, case.organ) for case in cases if case.in_part(part)}
    return tuple(image for image in part.training_cases if (image, organ) in organs)


def examine_cases(
    path: Path, protocol: Protocol, lines: Lines | None = None
) -> tuple[tuple[StudyCase, ...], list[Finding]]:
    """Read the case list as far as it goes.

    Args:
        path: of the CSV.
        protocol: that it belongs to.
        lines: of the protocol, to name its lines.

    Returns:
        The cases that could be read, and all findings.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        return (), [Finding(0, "", 'is not UTF-8; save it as "CSV UTF-8".', path.name)]
    except OSError as error:
        return (), [Finding(0, "", f"cannot be read ({error.strerror}).", path.name)]
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    sheet = _Sheet(path, protocol)
    try:
        header = [name.strip() for name in next(reader, [])]
        if not sheet.header(header):
            return (), sheet.findings
        for values in reader:
            if any(value.strip() for value in values):
                sheet.row(reader.line_num, header, [value.strip() for value in values])
    except csv.Error as error:
        sheet.tell(reader.line_num, "", f"is no CSV ({error}); look for a quote that never ends.")
        return (), sheet.findings
    sheet.whole(lines)
    return tuple(sheet.cases), sheet.findings


class _Sheet:
    """Reads rows and notes what is wrong with them."""

    def __init__(self, path: Path, protocol: Protocol) -> None:
        self._path, self._protocol = path, protocol
        self._organs = tuple(dict.fromkeys(o for part in protocol.parts for o in part.organs))
        self._parts = tuple(part.name for part in protocol.parts)
        self._seen: dict[tuple[str, str, str], int] = {}
        self._lines: list[int] = []
        self.cases: list[StudyCase] = []
        self.findings: list[Finding] = []

    def tell(self, line: int, name: str, text: str, *, warning: bool = False) -> None:
        self.findings.append(
            Finding(line, name, text, self._path.name, "warning" if warning else "error")
        )

    def header(self, names: list[str]) -> bool:
        """Check the first line; without `image` and `organ` no row means anything."""
        if len(names) == 1 and names[0].count(";") > 0:
            self.tell(1, "", "is separated by semicolons; save it with commas.")
            return False
        for name in names:
            if name not in COLUMNS:
                self.tell(1, name, f"unknown column; {suggestion(name, COLUMNS)}")
        for name, count in Counter(names).items():
            if count > 1:
                self.tell(1, name, "the column is there twice; keep one.")
        missing = [name for name in _REQUIRED if name not in names]
        for name in missing:
            self.tell(1, name, "the column is missing.")
        return not missing

    def row(self, line: int, header: list[str], values: list[str]) -> None:
        if len(values) > len(header):
            self.tell(line, "", f"has {len(values)} values for {len(header)} columns.")
            return
        row = dict.fromkeys(COLUMNS, "") | dict(zip(header, values, strict=False))
        before = len(self.findings)
        if not row["image"]:
            self.tell(line, "image", "is empty; write the id that the server's store shows.")
        for name, known in (
            ("organ", self._organs),
            ("part", self._parts),
            ("positive", ("1", "0")),
            ("source", SOURCES),
        ):
            value = row[name]
            if name == "organ" and not value:
                self.tell(line, name, f"is empty; {suggestion('', known)}")
            elif value and value not in known:
                self.tell(line, name, f'"{value}" is unknown; {suggestion(value, known)}')
        attributes = self._attributes(line, row)
        self._mask(line, row["reference_mask"])
        key = (row["image"], row["organ"], row["part"])
        if row["image"] and key in self._seen:
            text = f'"{row["image"]}" is there already, on line {self._seen[key]}; keep one.'
            self.tell(line, "image", text)
        self._seen.setdefault(key, line)
        if len(self.findings) > before:
            return
        self._lines.append(line)
        self.cases.append(
            StudyCase(
                image=row["image"],
                organ=row["organ"],
                part=row["part"],
                positive={"1": True, "0": False}.get(row["positive"]),
                reference_mask=row["reference_mask"],
                attributes=attributes,
                source=row["source"],
                group=row["group"],
                patient=row["patient"],
            )
        )

    def _attributes(self, line: int, row: Mapping[str, str]) -> dict[str, str]:
        attributes = {}
        for column in ATTRIBUTE_COLUMNS:
            name, value = column.removeprefix(REFERENCE), row[column]
            if not value:
                continue
            try:
                attributes[name] = value if name == "size" else option_of(name, value)
            except ReportError as error:
                self.tell(line, column, str(error))
        return attributes

    def _mask(self, line: int, mask: str) -> None:
        if not mask.endswith(_MASK_SUFFIXES):
            return
        file = self._path.parent / mask
        if not file.resolve().is_relative_to(self._path.parent.resolve()):
            self.tell(line, "reference_mask", "lies outside of the study folder; copy it there.")
        elif not file.is_file():
            self.tell(line, "reference_mask", f'there is no file "{mask}" in the study folder.')

    def whole(self, lines: Lines | None) -> None:
        """Look at all rows together, part by part."""
        for index, part in enumerate(self._protocol.parts):
            self._training(index, part, lines)
            for organ in part.organs:
                found = [
                    (line, case)
                    for line, case in zip(self._lines, self.cases, strict=True)
                    if case.organ == organ and case.in_part(part)
                ]
                found = [each for each in found if each[1].image not in part.training_cases]
                place = f"part {part.name}, {organ}"
                if not found:
                    self.tell(0, place, "no case is left to read; add rows of this organ.")
                    continue
                self._truth(part, found)
                self._numbers(part, organ, [case for _, case in found])
        patients = defaultdict(set)
        for case in self.cases:
            if case.patient:
                patients[case.image].add(case.patient)
        for image, names in patients.items():
            if len(names) > 1:
                self.tell(0, "patient", f'"{image}" belongs to {len(names)} patients; choose one.')

    def _training(self, index: int, part: Part, lines: Lines | None) -> None:
        images = {case.image for case in self.cases if case.in_part(part)}
        for image in part.training_cases:
            if image not in images:
                from pasta.study.protocol import PROTOCOL_FILE

                line = lines.of(("parts", index, "training_cases"), image) if lines else 0
                text = f'"{image}" is not among the cases of this part; add its row, so that its organ is known.'
                self.findings.append(
                    Finding(line, f"parts[{index + 1}].training_cases", text, PROTOCOL_FILE)
                )

    def _truth(self, part: Part, found: list[tuple[int, StudyCase]]) -> None:
        """Each task needs its own truth; a part of another name keeps these rows out of it."""
        for line, case in found:
            where = f"part {part.name}"
            if part.task == "screen" and case.positive is None:
                self.tell(line, "positive", f"is empty, {where} needs the truth: 1 or 0.")
            if part.task == "segment" and not case.reference_mask:
                text = f"is empty, so {where} cannot measure Dice here unless seniors' masks serve."
                self.tell(line, "reference_mask", text, warning=True)
            if part.task in ("report", "consistency"):
                missing = [name for name in PREDICTED if name not in case.attributes]
                if missing:
                    text = f"{where} lacks the reference of {', '.join(missing)}."
                    self.tell(line, REFERENCE + missing[0], text, warning=part.task == "report")
            if part.task == "realism" and not case.source:
                self.tell(line, "source", f"is empty, {where} needs real or synthetic.")

    def _numbers(self, part: Part, organ: str, cases: list[StudyCase]) -> None:
        place = f"part {part.name}, {organ}"
        positives = sum(case.positive is True for case in cases)
        negatives = sum(case.positive is False for case in cases)
        if part.task == "screen":
            if not positives:
                self.tell(0, place, "there is no positive case, so recall cannot be measured.")
            if not negatives:
                text = "there is no negative case, so precision and specificity mean nothing."
                self.tell(0, place, text)
        if part.allocation == "counterbalanced":
            for name, count in (("positive", positives), ("negative", negatives)):
                if count % 2:
                    text = (
                        f"{count} {name} cases do not part into equal halves: one arm of a reader has "
                        "one more; add or take out one."
                    )
                    self.tell(0, place, text, warning=True)
            if len(cases) < len(part.arms):
                self.tell(0, place, f"{len(cases)} case(s) cannot fill both arms.")
        if part.allocation == "random" and part.cases_per_arm is not None:
            wanted = part.cases_per_arm * len(part.arms)
            if wanted > len(cases):
                text = (
                    f"{len(part.arms)} arms of {part.cases_per_arm} cases need {wanted}, there are "
                    f"{len(cases)}; lower cases_per_arm or add cases."
                )
                self.tell(0, place, text)
