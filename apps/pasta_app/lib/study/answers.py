"""Checks an answer against the questions of its part."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from lib.options import RequestError
from pasta.errors import ReportError
from pasta.report.reader import checked_reader_report
from pasta.study.conduct import ANSWER_STATUSES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pasta.study.protocol import Part, Question

_LONGEST_TEXT = 10_000
_YES_NO = {"yes": 1, "no": 0, "1": 1, "0": 0, "true": 1, "false": 0}


def read_answer(sent: bytes, part: Part, *, with_mask: bool) -> dict[str, Any]:
    """Check what a reader's machine sends as an answer.

    Args:
        sent: JSON.
        part: that the case is read for.
        with_mask: a mask came along.

    Returns:
        answers (yes/no as 1 or 0), report, timing, status.

    Raises:
        RequestError: naming the field that is wrong, or the question that is not answered.
    """
    try:
        document = json.loads(sent, parse_constant=_refused)
    except (ValueError, RecursionError) as error:
        msg = "answer is not valid JSON."
        raise RequestError(msg) from error
    if not isinstance(document, dict) or not isinstance(document.get("answers") or {}, dict):
        msg = 'answer must be an object such as {"answers": {}, "status": "complete"}.'
        raise RequestError(msg)
    status = document.get("status", "complete")
    if status not in ANSWER_STATUSES:
        msg = f"answer.status is {str(status)[:40]!r}, expected {', '.join(ANSWER_STATUSES)}."
        raise RequestError(msg)
    timing, report = document.get("timing") or {}, document.get("report")
    if not isinstance(timing, dict):
        msg = "answer.timing must be an object of seconds."
        raise RequestError(msg)
    if report is not None:
        try:
            report = checked_reader_report(report)
        except ReportError as error:
            msg = f"answer.report: {error}"
            raise RequestError(msg) from error
    given = document.get("answers") or {}
    known = {question.id: question for question in part.questions}
    for name in given:
        if name not in known:
            msg = f"answer.answers: there is no question {str(name)[:40]!r} in this part."
            raise RequestError(msg)
    answers = {
        name: _value(known[name], value) for name, value in given.items() if value is not None
    }
    if status == "complete":
        _require(part, answers, report is not None, with_mask)
    return {"answers": answers, "report": report, "timing": timing, "status": status}


def _require(part: Part, answers: Mapping[str, Any], with_report: bool, with_mask: bool) -> None:
    for question in part.questions:
        there = {
            "mask": with_mask,
            "attributes": with_report or question.id in answers,
        }.get(question.type, question.id in answers)
        if question.required and not there:
            msg = f"answer.answers: question {question.id!r} is not answered; it is required."
            raise RequestError(msg)


def _value(question: Question, value: Any) -> Any:
    where = f"answer.answers.{question.id}"
    if question.type == "yes_no":
        found = _YES_NO.get(str(value).strip().lower()) if not isinstance(value, float) else None
        if found is None:
            msg = f"{where} must be yes or no."
            raise RequestError(msg)
        return found
    if question.type in ("score", "likert"):
        low = 0 if question.minimum is None else question.minimum
        high = 100 if question.maximum is None else question.maximum
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
            or not low <= value <= high
            or (question.type == "likert" and value != int(value))
        ):
            msg = f"{where} must be a number from {low} to {high}."
            raise RequestError(msg)
        return value
    if question.type == "choice":
        if value not in question.options:
            msg = f"{where} must be one of {', '.join(question.options)}."
            raise RequestError(msg)
        return value
    if question.type == "text":
        if not isinstance(value, str) or len(value) > _LONGEST_TEXT:
            msg = f"{where} must be a text of at most {_LONGEST_TEXT} characters."
            raise RequestError(msg)
        return value
    if len(json.dumps(value)) > 10 * _LONGEST_TEXT:
        msg = f"{where} is too long."
        raise RequestError(msg)
    return value


def _refused(constant: str) -> None:
    raise ValueError(constant)
