"""The protocol of a reader study: one TOML file, read strictly. Standard library only."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from pasta.labels import ORGANS
from pasta.study.findings import Finding, Lines, ProtocolError
from pasta.study.forms import Form, syntax_finding

if TYPE_CHECKING:
    from pathlib import Path

    from pasta.study.findings import Path_

PROTOCOL_FILE = "protocol.toml"
SOLO, ASSISTED = "solo", "assisted"
ARMS = (SOLO, ASSISTED)
LEVELS = ("junior", "senior")
TASKS = ("screen", "segment", "report", "realism", "consistency")
ALLOCATIONS = ("counterbalanced", "random", "crossed")
LAYOUTS = ("three-row", "axial-large", "four-up")
WINDOWS = ("soft tissue", "lung", "bone", "liver", "brain")
HIDEABLE = ("case_id", "position", "clock", "time_left", "organ")
AI_TASKS = ("screening", "segmentation", "report")
QUESTION_TYPES = ("yes_no", "score", "choice", "likert", "attributes", "mask", "text")
ORGAN_NAMES = tuple(organ.name for organ in ORGANS)
SCORE_RANGE = (0, 100)
_NAME = re.compile(r"[A-Za-z0-9_-]{1,32}")
_DAY_MINUTES = 24 * 60

Arm = Literal["solo", "assisted"]
QuestionType = Literal["yes_no", "score", "choice", "likert", "attributes", "mask", "text"]


@dataclass(frozen=True, slots=True)
class Question:
    """One question of a part.

    Attributes:
        id: key in answers and exports.
        text: as the reader sees it.
        type: of `QUESTION_TYPES`.
        required: whether a case can be completed without an answer.
        options: of a choice.
        minimum: least value of a score (0) or likert.
        maximum: greatest value of a score (100) or likert.
    """

    id: str
    text: str
    type: QuestionType
    required: bool = True
    options: tuple[str, ...] = ()
    minimum: int | None = None
    maximum: int | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """One kind of reading.

    Attributes:
        name: such as "screening".
        task: of `TASKS`.
        organs: names as in `pasta.labels`.
        arms: "solo", "assisted" or both.
        budget_seconds: reading time of one block; None for as long as it takes.
        allocation: "counterbalanced" halves, independent "random" draws, or "crossed": every reader
            reads every case in every arm.
        cases_per_arm: of one reader and organ, for "random"; None otherwise.
        training_cases: image ids, read first in the blocks of their organ and never analysed.
        layout: of the views.
        window: preset of the CT window.
        hide: what the reader does not see, of `HIDEABLE`.
        ai: tasks whose results are computed beforehand and shown in the assisted arm.
        questions: in the order in which they are asked.
    """

    name: str
    task: str
    organs: tuple[str, ...]
    arms: tuple[str, ...]
    budget_seconds: int | None
    allocation: str
    cases_per_arm: int | None
    training_cases: tuple[str, ...]
    layout: str
    window: str
    hide: tuple[str, ...]
    ai: tuple[str, ...]
    questions: tuple[Question, ...]

    def question_of(self, kind: str) -> Question | None:
        """Find the first question of a type: the yes_no is the decision, the score its degree."""
        return next((each for each in self.questions if each.type == kind), None)


@dataclass(frozen=True, slots=True)
class Reader:
    """A reader by pseudonym.

    Attributes:
        code: pseudonym in logs and exports, such as "J1"; no login code.
        level: "junior" or "senior".
    """

    code: str
    level: str


@dataclass(frozen=True, slots=True)
class Protocol:
    """A whole study.

    Attributes:
        id: of the study, up to 32 letters, digits, dashes, underscores.
        title: for people.
        seed: that all of the allocation is drawn from.
        washout_days: between blocks that show a reader the same case in both arms.
        idle_seconds: without input before time counts as idle.
        clock_visible: whether readers see the time.
        readers: in the order of the file.
        parts: in the order in which they are read.
    """

    id: str
    title: str
    seed: int
    washout_days: int
    idle_seconds: int
    clock_visible: bool
    readers: tuple[Reader, ...]
    parts: tuple[Part, ...]

    def part(self, name: str) -> Part:
        """Look a part up.

        Raises:
            KeyError: if there is none.
        """
        for part in self.parts:
            if part.name == name:
                return part
        raise KeyError(name)

    def reader(self, code: str) -> Reader:
        """Look a reader up by pseudonym.

        Raises:
            KeyError: if there is none.
        """
        for reader in self.readers:
            if reader.code == code:
                return reader
        raise KeyError(code)


def read_protocol(path: Path) -> Protocol:
    """Read a protocol.

    Args:
        path: of the TOML file.

    Returns:
        The protocol; warnings do not keep it from being read.

    Raises:
        ProtocolError: with every mistake and its line.
    """
    protocol, findings, _ = examine(path)
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors or protocol is None:
        raise ProtocolError(errors)
    return protocol


def check_protocol(path: Path, cases_path: Path | None = None) -> list[Finding]:
    """List every mistake in a protocol and its case list.

    Args:
        path: of the TOML file.
        cases_path: of the CSV; by default `cases.csv` beside the protocol, where there is one.

    Returns:
        Findings in the order of files and lines; warnings among them.
    """
    from pasta.study.cases import CASES_FILE, examine_cases

    protocol, findings, lines = examine(path)
    if cases_path is None:
        beside = path.with_name(CASES_FILE)
        cases_path = beside if beside.is_file() else None
    if cases_path is not None and protocol is not None:
        findings += examine_cases(cases_path, protocol, lines)[1]
    return sorted(findings, key=lambda each: (each.file != PROTOCOL_FILE, each.line))


def examine(path: Path) -> tuple[Protocol | None, list[Finding], Lines | None]:
    """Read a protocol as far as it goes.

    Returns:
        The protocol, None where there are errors; all findings; where the keys stand.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        return None, [Finding(0, "", "is not UTF-8; save it as UTF-8.", path.name)], None
    except OSError as error:
        text = f"cannot be read ({error.strerror}). `pasta study new FOLDER` writes an example."
        return None, [Finding(0, "", text, path.name)], None
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        return None, [syntax_finding(error, text, path.name)], None
    lines = Lines(text)
    form = Form(lines, path.name)
    protocol = _protocol(form, document)
    failed = any(finding.severity == "error" for finding in form.findings)
    return None if failed else protocol, form.findings, lines


_STUDY_KEYS = ("id", "title", "seed", "washout_days", "idle_seconds", "clock_visible")
_READER_KEYS = ("code", "level")
_PART_KEYS = (
    "name",
    "task",
    "organs",
    "arms",
    "budget_minutes",
    "allocation",
    "cases_per_arm",
    "training_cases",
    "layout",
    "window",
    "hide",
    "ai",
    "questions",
)
_QUESTION_KEYS = ("id", "text", "type", "required", "options", "min", "max")


def _protocol(form: Form, document: dict[str, Any]) -> Protocol:
    form.known((), document, ("study", "readers", "parts"))
    study = form.value((), document, "study", dict)
    path: Path_ = ("study",)
    form.known(path, study, _STUDY_KEYS)
    readers = tuple(_reader(form, *each) for each in form.tables((), document, "readers"))
    form.unique([(("readers", i, "code"), each.code) for i, each in enumerate(readers)], "code")
    parts = tuple(_part(form, *each) for each in form.tables((), document, "parts"))
    form.unique([(("parts", i, "name"), each.name) for i, each in enumerate(parts)], "name")
    protocol = Protocol(
        id=form.name(path, study, "id"),
        title=form.value(path, study, "title", str),
        seed=form.number(path, study, "seed", 0, 2**63 - 1, ...),
        washout_days=form.number(path, study, "washout_days", 0, 3650, 0),
        idle_seconds=form.number(path, study, "idle_seconds", 1, 3600, 30),
        clock_visible=form.value(path, study, "clock_visible", bool, True),
        readers=readers,
        parts=parts,
    )
    _design(form, protocol)
    return protocol


def _reader(form: Form, path: Path_, table: dict[str, Any]) -> Reader:
    form.known(path, table, _READER_KEYS)
    return Reader(form.name(path, table, "code"), form.choice(path, table, "level", LEVELS))


def _part(form: Form, path: Path_, table: dict[str, Any]) -> Part:
    form.known(path, table, _PART_KEYS)
    minutes = form.value(path, table, "budget_minutes", float, None)
    if minutes is not None and not 0 < minutes <= _DAY_MINUTES:
        text = f"is {minutes}, expected more than 0 minutes, up to {_DAY_MINUTES}; leave it out for no limit."
        form.tell((*path, "budget_minutes"), text)
    questions = tuple(_question(form, *each) for each in form.tables(path, table, "questions"))
    form.unique(
        [((*path, "questions", i, "id"), each.id) for i, each in enumerate(questions)], "id"
    )
    part = Part(
        name=form.name(path, table, "name"),
        task=form.choice(path, table, "task", TASKS),
        organs=form.words(path, table, "organs", ORGAN_NAMES),
        arms=form.words(path, table, "arms", ARMS),
        budget_seconds=None if minutes is None else round(60 * minutes),
        allocation=form.choice(path, table, "allocation", ALLOCATIONS, "counterbalanced"),
        cases_per_arm=form.number(path, table, "cases_per_arm", 1, 1_000_000, None),
        training_cases=form.words(path, table, "training_cases", None, []),
        layout=form.choice(path, table, "layout", LAYOUTS, LAYOUTS[0]),
        window=form.choice(path, table, "window", WINDOWS, WINDOWS[0]),
        hide=form.words(path, table, "hide", HIDEABLE, []),
        ai=form.words(path, table, "ai", AI_TASKS, []),
        questions=questions,
    )
    _fitting(form, path, part, table)
    return part


def _fitting(form: Form, path: Path_, part: Part, table: dict[str, Any]) -> None:
    """Look whether the values of a part go together."""
    for key, words in (("organs", part.organs), ("arms", part.arms)):
        if not words and table.get(key) == []:
            form.tell((*path, key), "is empty; name at least one.")
    if part.allocation == "counterbalanced" and part.arms and len(part.arms) < len(ARMS):
        form.tell(
            (*path, "allocation"),
            'counterbalanced halves need arms = ["solo", "assisted"]; with one arm use "crossed".',
        )
    if part.allocation == "random" and part.cases_per_arm is None:
        form.tell((*path, "allocation"), "random draws need a line such as cases_per_arm = 180.")
    if part.allocation != "random" and part.cases_per_arm is not None:
        form.tell((*path, "cases_per_arm"), 'has a meaning with allocation = "random" only.')
    if ASSISTED in part.arms and not part.ai:
        form.tell(
            (*path, "ai"), 'the assisted arm shows nothing; add a line such as ai = ["screening"].'
        )
    if part.ai and part.arms and ASSISTED not in part.arms:
        form.tell((*path, "ai"), "is shown in the assisted arm only, which this part lacks.")
    wanted = {
        "screen": ("yes_no",),
        "segment": ("mask",),
        "report": ("attributes",),
        "realism": ("likert",),
        "consistency": ("likert",),
    }.get(part.task, ())
    for kind in wanted:
        if not part.question_of(kind) and part.questions:
            form.tell((*path, "task"), f'{part.task} needs a question of type = "{kind}".')
        elif part.questions and not any(q.required for q in part.questions if q.type == kind):
            form.tell((*path, "task"), f"the {kind} question of {part.task} must be required.")
    if part.task == "screen":
        if sum(question.type == "yes_no" for question in part.questions) > 1:
            text = "has several yes_no questions; the first one is taken as the decision."
            form.tell((*path, "questions"), text, warning=True)
        if part.questions and not part.question_of("score"):
            text = 'has no question of type = "score": without one there is no ROC and no MRMC analysis.'
            form.tell(path, text, warning=True)


def _question(form: Form, path: Path_, table: dict[str, Any]) -> Question:
    form.known(path, table, _QUESTION_KEYS)
    kind = form.choice(path, table, "type", QUESTION_TYPES)
    options = form.words(path, table, "options", None, [])
    least = form.number(path, table, "min", -1000, 1000, None)
    most = form.number(path, table, "max", -1000, 1000, None)
    if kind == "choice" and len(options) < 2:
        form.tell((*path, "options"), 'a choice needs two options or more: options = ["a", "b"].')
    if kind != "choice" and "options" in table:
        form.tell((*path, "options"), 'has a meaning with type = "choice" only.')
    if kind == "likert":
        if least is None or most is None:
            form.tell(path, "a likert question needs both ends: min = 1 and max = 5.")
        elif least >= most:
            form.tell((*path, "max"), f"is {most}, expected more than min = {least}.")
    elif kind == "score":
        if (least, most) not in ((None, None), SCORE_RANGE):
            form.tell(
                (*path, "min" if "min" in table else "max"),
                "a score is 0 to 100; take out min and max.",
            )
        least, most = SCORE_RANGE
    elif "min" in table or "max" in table:
        form.tell(
            (*path, "min" if "min" in table else "max"), 'has a meaning with type = "likert" only.'
        )
    return Question(
        id=form.name(path, table, "id"),
        text=form.value(path, table, "text", str),
        type=cast("QuestionType", kind),
        required=form.value(path, table, "required", bool, True),
        options=options,
        minimum=least,
        maximum=most,
    )


def _design(form: Form, protocol: Protocol) -> None:
    """Look whether readers and parts make a design that can be analysed."""
    for index, part in enumerate(protocol.parts):
        path: Path_ = ("parts", index)
        if part.allocation == "counterbalanced" and protocol.readers:
            if len(protocol.readers) < 2:
                text = "counterbalanced halves need two readers or more; add [[readers]]."
                form.tell((*path, "allocation"), text)
            for level in LEVELS:
                count = sum(reader.level == level for reader in protocol.readers)
                if count % 2:
                    text = (
                        f"{count} {level} reader(s): an odd number leaves the halves unbalanced within "
                        f"the {level} readers."
                    )
                    form.tell((*path, "allocation"), text, warning=True)
        if part.allocation == "crossed" and len(part.arms) > 1 and protocol.washout_days == 0:
            text = (
                "readers see each case in both arms without a washout; set washout_days in [study] "
                "(28 is common) or use counterbalanced."
            )
            form.tell((*path, "allocation"), text, warning=True)
