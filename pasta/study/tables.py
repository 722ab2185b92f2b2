"""Tidy tables of a study, from its answers and logs, each column explained. Standard library only."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from pasta.report.attributes import ATTRIBUTE_NAMES
from pasta.study.archive import SERVER_LOG, Archive
from pasta.study.cases import cases_of
from pasta.study.conduct import case_seconds, timing_seconds
from pasta.study.events import read_events

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from pasta.study.allocation import Block
    from pasta.study.archive import Answer
    from pasta.study.cases import StudyCase
    from pasta.study.folder import StudyFolder
    from pasta.study.protocol import Part

ColumnType = Literal["text", "whole number", "number", "flag"]
Row = dict[str, Any]
_AI_THRESHOLD = 0.5
_ENDS = ("case_complete", "case_skip")
_EDITS = frozenset({"mask_edit", "lesion_added", "lesion_deleted", "lesion_split", "attribute_set"})
_WORDS = frozenset({"reason", "comment", "impression"})  # keys of payloads that people may type
_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table.

    Attributes:
        name: in the first row of the CSV.
        type: of its values; a flag is 0 or 1.
        unit: "" for none.
        meaning: a sentence.
    """

    name: str
    type: ColumnType
    unit: str
    meaning: str


def _columns(*lines: str) -> tuple[Column, ...]:
    kinds: dict[str, ColumnType] = {"t": "text", "w": "whole number", "n": "number", "f": "flag"}
    found = []
    for line in lines:
        name, kind, unit, meaning = (each.strip() for each in line.split("|", 3))
        found.append(Column(name, kinds[kind], unit, meaning))
    return tuple(found)


_READER = "reader|t||Pseudonym of the reader."
_LEVEL = "level|t||junior or senior."
_PART = "part|t||Part of the protocol."
_ORGAN = "organ|t||Organ that is read."
_ARM = "arm|t||solo (without AI) or assisted (with AI)."
_CASE = "case|t||Code of the case; the same in all tables."

TABLES: Mapping[str, tuple[Column, ...]] = {
    "reads": _columns(
        "study_id|t||Id of the study.",
        _READER,
        _LEVEL,
        _PART,
        "task|t||screen, segment, report, realism or consistency.",
        _ORGAN,
        _ARM,
        "block|t||One reader's cases of one part, organ and arm, under one time budget.",
        "block_order|w||Place of the block among all blocks of the reader, from 1.",
        _CASE,
        "position|w||Place of the case in its list, from 1; training cases have a list of their own.",
        "training|f||1 for a training case, which is not analysed.",
        "status|t||complete; skip; interrupted: begun and not ended; budget: in progress when the time ran "
        "out.",
        "positive|f||Truth: 1 with, 0 without a tumour; blank where that is no question.",
        "decision|f||Answer to the first yes/no question: 1 yes, 0 no.",
        "score|n|0-100|Answer to the first score question.",
        "started_utc|t|UTC|When the images began to load, by the reader's clock; for the record, never for "
        "durations.",
        "seconds|n|s|Primary: from the start of loading to complete by the monotonic clock, without pauses "
        "that the reader took.",
        "seconds_from_display|n|s|The same from all images displayed on.",
        "reading_seconds|n|s|From displayed to complete without pauses, as the reader's program summed it.",
        "active_seconds|n|s|Reading time without idle time and waits.",
        "idle_seconds|n|s|Reading time in stretches without input longer than the protocol's idle_seconds.",
        "unfocused_seconds|n|s|Reading time with another window in front.",
        "ai_wait_seconds|n|s|Waiting for the AI while the clock ran.",
        "load_seconds|n|s|From the start of loading to displayed.",
        "save_wait_seconds|n|s|Waiting for a save while the clock ran.",
        "paused_seconds|n|s|In pauses that the reader took; in none of the times above.",
        "pauses|w||Number of pauses.",
        "suspends|w||Times that the machine slept or its clock was set.",
        "interrupted|f||1 if the read was begun again, the program crashed in it, or it was never ended: "
        "leave it out of comparisons of time.",
        "ai_score|n|0-100|Tumour probability by the AI, times 100; also for solo reads, which never showed "
        "it. Blank where the AI was not run.",
        "ai_decision|f||1 where ai_score is 50 or more.",
        "edits|w||Changes of masks, lesions and attributes that the reader made.",
        "session_id|t||Sitting in which the case was ended; names its log.",
    ),
    "attributes": _columns(
        _READER,
        _LEVEL,
        _PART,
        _ORGAN,
        _ARM,
        _CASE,
        "lesion|w||Number of the lesion in the reader's report.",
        "attribute|t||One of the eight attributes of the report.",
        "value|t||What the reader submitted; blank for none. A size is z x x x y in mm.",
        "reference|t||Reference value of the case; stands at the largest lesion of the report only.",
        "ai_value|t||What the AI suggested to the reader; blank where it did not.",
        "changed|f||1 where the reader submitted other than the AI suggested; blank without suggestion.",
    ),
    "answers": _columns(
        _READER,
        _PART,
        _ORGAN,
        _ARM,
        _CASE,
        "question|t||Id of the question in the protocol.",
        "type|t||yes_no, score, choice, likert, attributes, mask or text.",
        "value|t||The answer: 1 or 0, a number, an option; the SHA-256 of a mask; JSON of attributes. "
        "Free text is left out unless it was asked for, as it may name people.",
    ),
    "events": _columns(
        "session_id|t||Sitting; one log each.",
        "seq|w||Number of the event in its log, from 1.",
        "type|t||Type of the event.",
        _READER,
        _ARM,
        "task|t||Task of the case, blank outside of one.",
        "organ|t||Organ of the case, blank outside of one.",
        "case|t||Code of the case, blank outside of one.",
        "position|w||Place of the case in its list.",
        "mono_ns|w|ns|Monotonic clock; compares within one start of the program (boot_id in the log) only.",
        "utc|t|UTC|Clock of the reader's machine.",
        "payload|t|JSON|What the event says, without words that people typed.",
        "sha256|t||Hash of the event in the chain of its log.",
    ),
    "cases": _columns(
        _CASE,
        _ORGAN,
        _PART,
        "positive|f||Truth: 1 with, 0 without a tumour; blank where that is no question.",
        "source|t||real or synthetic; blank where that is no question.",
        "group|t||Stratum from the case list, such as the lesion type.",
    ),
    "allocation": _columns(
        _READER,
        _LEVEL,
        "block|t||One reader's cases of one part, organ and arm.",
        "order|w||Place of the block among all blocks of the reader, from 1.",
        _PART,
        _ORGAN,
        _ARM,
        _CASE,
        "position|w||Place of the case in the block, from 1.",
    ),
    "masks": _columns(
        _CASE,
        _ORGAN,
        _PART,
        _READER,
        _LEVEL,
        _ARM,
        "dice|n||Dice of the reader's lesion mask and the reference; blank where both are empty or one "
        "is missing.",
        "nsd_2mm|n||Normalised surface Dice at a tolerance of 2 mm; 0 where one mask is empty.",
        "hd95_mm|n|mm|95th percentile of the Hausdorff distance; blank where a mask is empty.",
        "volume_ml|n|ml|Volume of the reader's lesion mask.",
        "reference_volume_ml|n|ml|Volume of the reference.",
        "ai_dice|n||Dice of the reader's mask and the AI's: how much of the AI's mask was kept.",
        "file|t||The reader's mask in this export.",
    ),
    "dictionary": _columns(
        "table|t||Name of a table of this export.",
        "column|t||Name of a column.",
        "type|t||text, whole number, number or flag (0 or 1).",
        "unit|t||Unit of the values.",
        "meaning|t||What the values mean.",
    ),
}
KEYS: Mapping[str, tuple[str, ...]] = {
    "reads": ("part", "reader", "block_order", "training", "position", "case"),
    "attributes": ("part", "reader", "organ", "arm", "case", "lesion", "attribute"),
    "answers": ("part", "reader", "organ", "arm", "case", "question"),
    "events": ("session_id", "seq"),
    "cases": ("part", "organ", "case"),
    "allocation": ("reader", "order", "position"),
    "masks": ("part", "organ", "case", "reader", "arm"),
    "dictionary": (),
}


def dictionary() -> list[Row]:
    """Explain every column of every table, one row each."""
    return [
        {
            "table": table,
            "column": column.name,
            "type": column.type,
            "unit": column.unit,
            "meaning": column.meaning,
        }
        for table, columns in TABLES.items()
        for column in columns
    ]


def ordered(table: str, rows: Iterable[Row]) -> list[Row]:
    """Sort the rows of a table so that the same study gives the same file.

    Raises:
        KeyError: if a row has a column that the dictionary does not explain, or lacks one.
    """
    names = [column.name for column in TABLES[table]]
    found = []
    for row in rows:
        if set(row) != set(names):
            msg = f"{table}: {sorted(set(row) ^ set(names))}"
            raise KeyError(msg)
        found.append({name: row[name] for name in names})
    keys = KEYS[table]
    return sorted(found, key=lambda row: [_sortable(row[key]) for key in keys]) if keys else found


def tables_of(reading: Reading, *, with_text: bool = False) -> dict[str, list[Row]]:
    """Make all tables but that of masks.

    Args:
        reading: of the study.
        with_text: give free text, too; it may name people.

    Returns:
        Rows by table, sorted.
    """
    return {
        "reads": ordered("reads", reading.reads()),
        "attributes": ordered("attributes", reading.attributes()),
        "answers": ordered("answers", reading.answers(with_text=with_text)),
        "events": ordered("events", reading.events(with_text=with_text)),
        "cases": ordered("cases", _case_rows(reading.study)),
        "allocation": ordered("allocation", _allocation_rows(reading.study)),
        "dictionary": dictionary(),
    }


class Reading:
    """What was read in a study: every answer with the events of its case.

    Args:
        study: with its answers and logs.
    """

    def __init__(self, study: StudyFolder) -> None:
        self.study = study
        self._archive = Archive(study.path)
        self._blocks = study.allocation.blocks
        codes = {case.image: study.code_of(case.image) for case in study.cases}
        # place of each case in its list, training and main
        self._training = {b.id: _places(codes, b.training) for b in self._blocks}
        self._places = {b.id: _places(codes, b.images) for b in self._blocks}
        self._cases = {(codes[c.image], c.organ, c.part): c for c in study.cases}
        self._logs = {
            path.stem: list(read_events(path))
            for path in sorted(study.logs.glob("*.jsonl"))
            if path.name != SERVER_LOG
        }
        self._assigned: dict[tuple[str, str], Mapping[str, Any]] = {}
        self._sessions: dict[str, list[str]] = defaultdict(list)
        server = study.logs / SERVER_LOG
        for event in read_events(server) if server.exists() else ():
            payload = event["payload"]
            if event["type"] == "login":
                self._sessions[payload["block"]].append(payload["session"])
            elif event["type"] == "case_assigned":
                self._assigned.setdefault((payload["block"], event["case"]), event)
        self._events: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        for block, sessions in self._sessions.items():
            for session in sessions:
                for event in self._logs.get(session, ()):
                    self._events[block, event["case"]].append(event)
        self._ai: dict[tuple[str, str], float | None] = {}

    @cached_property
    def counted(self) -> tuple[tuple[Block, Part, str, Answer | None], ...]:
        """Each case that was handed out, with the answer that counts."""
        found = []
        for block in self._blocks:
            part = self.study.protocol.part(block.part)
            for code in (*self._training[block.id], *self._places[block.id]):
                answer = self._archive.counted(block.id, code)
                if answer is not None or (block.id, code) in self._assigned:
                    found.append((block, part, code, answer))
        return tuple(found)

    def is_training(self, block: Block, code: str) -> bool:
        """Tell whether a case is one of the training cases of a block."""
        return code in self._training[block.id]

    def case(self, code: str, organ: str, part: str) -> StudyCase:
        """Find a case by its code.

        Raises:
            KeyError: if there is none.
        """
        found = self._cases.get((code, organ, part))
        return found if found is not None else self._cases[code, organ, ""]

    def reads(self) -> list[Row]:
        """Make the rows of reads."""
        return [self._read(*each) for each in self.counted]

    def _read(self, block: Block, part: Part, code: str, answer: Answer | None) -> Row:
        record: Mapping[str, Any] = answer.record if answer else {}
        events = self._events[block.id, code]
        training = self.is_training(block, code)
        position = (self._training if training else self._places)[block.id][code]
        case = self.case(code, block.organ, block.part)
        timing = _timing(events) or record.get("timing") or {}
        status = str(record.get("status", "interrupted"))
        answers = record.get("answers") or {}
        decision, score = part.question_of("yes_no"), part.question_of("score")
        probability = self._probability(code, block.organ)
        return {
            "study_id": self.study.id,
            "reader": block.reader,
            "level": self.study.protocol.reader(block.reader).level,
            "part": block.part,
            "task": part.task,
            "organ": block.organ,
            "arm": block.arm,
            "block": block.id,
            "block_order": block.order,
            "case": code,
            "position": position,
            "training": int(training),
            "status": status,
            "positive": None if case.positive is None else int(case.positive),
            "decision": answers.get(decision.id) if decision else None,
            "score": answers.get(score.id) if score else None,
            "started_utc": _started(events),
            "seconds": _seconds(events, record, code),
            "seconds_from_display": _from_display(events, code),
            **{name: timing.get(name) for name in _TIMING},
            "interrupted": int(
                status == "interrupted"
                or bool(record.get("resumed"))
                or len({event["boot_id"] for event in events}) > 1
            ),
            "ai_score": None if probability is None else round(100 * probability, _DIGITS),
            "ai_decision": None if probability is None else int(probability >= _AI_THRESHOLD),
            "edits": sum(event["type"] in _EDITS for event in events),
            "session_id": record.get("session_id", ""),
        }

    def attributes(self) -> list[Row]:
        """Make the rows of report attributes."""
        rows = []
        for block, part, code, answer in self.counted:
            if answer is None or self.is_training(block, code):
                continue
            case = self.case(code, block.organ, block.part)
            lesions = _lesions(part, answer.record)
            largest = max(lesions, key=lambda each: each[1], default=(0, 0.0, {}))[0]
            for number, _, entries in lesions:
                for attribute in ATTRIBUTE_NAMES:
                    if attribute not in entries:
                        continue
                    value, suggestion = entries[attribute]
                    reference = case.attributes.get(attribute, "") if number == largest else ""
                    rows.append(
                        {
                            "reader": block.reader,
                            "level": self.study.protocol.reader(block.reader).level,
                            "part": block.part,
                            "organ": block.organ,
                            "arm": block.arm,
                            "case": code,
                            "lesion": number,
                            "attribute": attribute,
                            "value": value or "",
                            "reference": reference,
                            "ai_value": suggestion or "",
                            "changed": int(value != suggestion) if suggestion else None,
                        }
                    )
        return rows

    def answers(self, *, with_text: bool) -> list[Row]:
        """Make the rows of answers."""
        rows = []
        for block, part, code, answer in self.counted:
            if answer is None or self.is_training(block, code):
                continue
            given = answer.record.get("answers") or {}
            for question in part.questions:
                value: Any = given.get(question.id)
                if question.type == "mask":
                    value = answer.record.get("mask_sha256") or None
                elif question.type == "text" and not with_text:
                    value = None
                if value is None:
                    continue
                plain = isinstance(value, str | int | float)
                rows.append(
                    {
                        "reader": block.reader,
                        "part": block.part,
                        "organ": block.organ,
                        "arm": block.arm,
                        "case": code,
                        "question": question.id,
                        "type": question.type,
                        "value": str(value) if plain else _json(value),
                    }
                )
        return rows

    def events(self, *, with_text: bool) -> list[Row]:
        """Make the rows of events, of the readers' logs."""
        words = {
            question.id
            for part in self.study.protocol.parts
            for question in part.questions
            if question.type == "text"
        }
        hidden: frozenset[str] = frozenset() if with_text else _WORDS | words
        return [
            {
                "session_id": session,
                "seq": event["seq"],
                "type": event["type"],
                "reader": event["reader"],
                "arm": event["arm"],
                "task": event["task"],
                "organ": event["organ"],
                "case": event["case"],
                "position": event["position"],
                "mono_ns": event["mono_ns"],
                "utc": event["utc"],
                "payload": _json(_without(event["payload"], hidden)),
                "sha256": event["sha256"],
            }
            for session, events in self._logs.items()
            for event in events
        ]

    def heads(self) -> dict[str, dict[str, Any]]:
        """Tell the last event of every log, so that a shortened one shows."""
        return {
            session: {"events": len(events), "head": events[-1]["sha256"] if events else ""}
            for session, events in self._logs.items()
        }

    def _probability(self, code: str, organ: str) -> float | None:
        if (code, organ) not in self._ai:
            document = ai_document(self.study.path, code, organ, "screening") or {}
            found = [
                entry.get("probability")
                for entry in document.get("organs", ())
                if entry.get("organ") == organ
            ]
            self._ai[code, organ] = found[0] if found else None
        return self._ai[code, organ]


def ai_document(folder: Path, code: str, organ: str, task: str) -> dict[str, Any] | None:
    """Read what the AI said of a case, as the server computed it beforehand; None if nothing."""
    path = folder / "ai" / organ / code / f"{task}.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None


_TIMING = (
    "reading_seconds",
    "active_seconds",
    "idle_seconds",
    "unfocused_seconds",
    "ai_wait_seconds",
    "load_seconds",
    "save_wait_seconds",
    "paused_seconds",
    "pauses",
    "suspends",
)


def _timing(events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Sum what the reading clock said at each end of a case: several where it was resumed."""
    ends = [event["payload"] for event in events if event["type"] in _ENDS]
    return {
        name: round(sum(each.get(name) or 0 for each in ends), _DIGITS)
        for name in _TIMING
        if any(name in each for each in ends)
    }


def _seconds(
    events: Sequence[Mapping[str, Any]], record: Mapping[str, Any], code: str
) -> float | None:
    logged = case_seconds(events, code)
    if logged is None:
        logged = record.get("seconds") or timing_seconds(record.get("timing"))
    return None if logged is None else round(float(logged), _DIGITS)


def _from_display(events: Sequence[Mapping[str, Any]], code: str) -> float | None:
    """Take the same time from `load_end` on."""
    moved = [
        {**event, "type": {"load_start": "", "load_end": "load_start"}.get(kind, kind)}
        for event in events
        if (kind := event["type"])
    ]
    seconds = case_seconds(moved, code)
    return None if seconds is None else round(seconds, _DIGITS)


def _started(events: Sequence[Mapping[str, Any]]) -> str:
    kinds = ("load_start", "case_requested")
    found = [event["utc"] for kind in kinds for event in events if event["type"] == kind]
    return str(found[0]) if found else ""


def _lesions(
    part: Part, record: Mapping[str, Any]
) -> list[tuple[int, float, dict[str, tuple[str | None, str | None]]]]:
    """Take number, volume in ml and (value, AI's value) by attribute out of an answer."""
    found = []
    for lesion in (record.get("report") or {}).get("lesions", ()):
        entries = {
            name: (entry.get("value"), entry.get("suggestion"))
            for name, entry in lesion["attributes"].items()
        }
        if size := lesion.get("size_mm"):
            text = " x ".join(f"{size[axis]:g}" for axis in "zxy")
            entries["size"] = (text, entries.get("size", (None, None))[1])
        found.append((int(lesion["number"]), float(lesion.get("volume_ml") or 0.0), entries))
    if not found:
        for question in part.questions:
            given = (record.get("answers") or {}).get(question.id)
            if question.type == "attributes" and isinstance(given, dict):
                found.append((1, 0.0, {str(k): (str(v), None) for k, v in given.items()}))
    return found


def _places(codes: Mapping[str, str], images: Sequence[str]) -> dict[str, int]:
    return {codes[image]: place for place, image in enumerate(images, 1)}


def _case_rows(study: StudyFolder) -> list[Row]:
    return [
        {
            "case": study.code_of(case.image),
            "organ": organ,
            "part": part.name,
            "positive": None if case.positive is None else int(case.positive),
            "source": case.source,
            "group": case.group,
        }
        for part in study.protocol.parts
        for organ in part.organs
        for case in cases_of(part, organ, study.cases)
    ]


def _allocation_rows(study: StudyFolder) -> list[Row]:
    return [
        {
            "reader": block.reader,
            "level": study.protocol.reader(block.reader).level,
            "block": block.id,
            "order": block.order,
            "part": block.part,
            "organ": block.organ,
            "arm": block.arm,
            "case": study.code_of(image),
            "position": position,
        }
        for block in study.allocation.blocks
        for position, image in enumerate(block.images, 1)
    ]


def _without(payload: Any, hidden: frozenset[str]) -> Any:
    """Take the keys that hold people's words out of a payload."""
    if not isinstance(payload, dict):
        return payload
    return {key: _without(value, hidden) for key, value in payload.items() if key not in hidden}


def _sortable(value: Any) -> tuple[int, Any]:
    return (0, value) if isinstance(value, int | float) else (1, str(value))


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
