"""What coordinators see of a study: progress, live sessions, problems, quality of the data.

Everything is counted from the logs through their index; no truth of a case is read here, so that a
page shows nothing of it before the study is over.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pasta.study.archive import Checker
from pasta.study.index import Index

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lib.study.prepare import Preparation
    from lib.study.running import RunningStudy
    from pasta.study.conduct import BlockState

GAP_SECONDS = 60.0  # between what server and reader's machine measured; both have their waits
_OUTLIER = 3.5  # robust z of log time, after Iglewicz and Hoaglin
_MAD_TO_SD = 1.4826
_CHECK_SHARE = 20  # of its own duration is waited before the next verification
_FEW = 8  # reads, below which nothing is called an outlier


@dataclass(frozen=True)
class Problem:
    """One thing that a coordinator should look at.

    Attributes:
        severity: "error" where data may be lost or wrong, "warning" where they are to be explained,
            "note" where the study works as it should and somebody should know.
        kind: short title.
        text: a sentence.
        reader: pseudonym, "" where nobody is meant.
        utc: when, "" where it has no time.
    """

    severity: str
    kind: str
    text: str
    reader: str = ""
    utc: str = ""


@dataclass
class Overview:
    """Counts a study for the pages; keeps what it has verified.

    Args:
        study: to look at.
        preparation: of its cases.
    """

    study: RunningStudy
    preparation: Preparation
    _index: Index = field(init=False)
    _checker: Checker = field(init=False)
    _broken: list[str] = field(default_factory=list)
    _check_again: float = -math.inf  # monotonic

    def __post_init__(self) -> None:
        self._index = Index(self.study.folder.path)
        self._checker = Checker(self.study.folder.path)

    def summary(self) -> dict[str, Any]:
        """What the list of studies shows."""
        conduct, protocol = self.study.conduct, self.study.folder.protocol
        blocks = list(conduct.blocks.values())
        total = sum(len(state.block.images) for state in blocks)
        done = sum(_done(state) for state in blocks)
        problems = self.problems()
        return {
            "id": self.study.id,
            "title": protocol.title,
            "locked": True,
            "readers": len(protocol.readers),
            "blocks": len(blocks),
            "blocks_finished": sum(state.finished for state in blocks),
            "cases_total": total,
            "cases_done": done,
            "percent": _percent(done, total),
            "live": sum(session.live for session in list(conduct.sessions.values())),
            "errors": sum(problem.severity == "error" for problem in problems),
            "warnings": sum(problem.severity == "warning" for problem in problems),
        }

    def document(self) -> dict[str, Any]:
        """Everything that the page of the study shows; JSON-ready."""
        lock = self.study.folder.lock
        ready, needed = self.preparation.progress()
        return {
            **self.summary(),
            "now_utc": _now(),
            "lock": {"utc": lock.utc, "sha256": lock.sha256} if lock else None,
            "weights": dict(lock.weights) if lock else {},
            "ai_ready": ready,
            "ai_needed": needed,
            "progress": self.progress(),
            "arms": self.arms(),
            "sessions": self.live(),
            "problems": [vars(problem) for problem in self.problems()],
            "quality": self.quality(),
        }

    def progress(self) -> list[dict[str, Any]]:
        """Every reader's blocks in their order."""
        found = []
        for reader in self.study.folder.protocol.readers:
            current = self.study.conduct.block_of(reader.code)
            blocks = [
                self._block(state, now=state is current)
                for state in self.study.conduct.of(reader.code)
            ]
            total = sum(block["total"] for block in blocks)
            done = sum(block["done"] for block in blocks)
            found.append(
                {
                    "reader": reader.code,
                    "level": reader.level,
                    "blocks": blocks,
                    "done": done,
                    "total": total,
                    "percent": _percent(done, total),
                }
            )
        return found

    def _block(self, state: BlockState, *, now: bool) -> dict[str, Any]:
        until = self.study.conduct.washout_until(state) if now else None
        early = until is not None and until > datetime.now(UTC)
        words = "finished" if state.finished else "washout" if early else "current" if now else ""
        budget = state.part.budget_seconds
        training = [slot for slot in state.slots if slot.training]
        return {
            "block": state.block.id,
            "part": state.block.part,
            "organ": state.block.organ,
            "arm": state.block.arm,
            "order": state.block.order,
            "state": words or "waiting",
            "done": _done(state),
            "total": len(state.block.images),
            "percent": _percent(_done(state), len(state.block.images)),
            "training_done": sum(slot.code in state.done for slot in training),
            "training_total": len(training),
            "used_seconds": round(state.used_seconds, 1),
            "budget_seconds": budget,
            "budget_percent": _percent(state.used_seconds, budget) if budget else None,
            "expired": state.expired,
            "washout_until": until.isoformat(timespec="minutes") if early and until else None,
        }

    def arms(self) -> list[dict[str, Any]]:
        """Reads per part, organ and arm over all readers."""
        sums: dict[tuple[str, str, str], list[int]] = {}
        for state in self.study.conduct.blocks.values():
            key = (state.block.part, state.block.organ, state.block.arm)
            entry = sums.setdefault(key, [0, 0])
            entry[0] += _done(state)
            entry[1] += len(state.block.images)
        return [
            {
                "part": part,
                "organ": organ,
                "arm": arm,
                "done": done,
                "total": total,
                "percent": _percent(done, total),
            }
            for (part, organ, arm), (done, total) in sums.items()
        ]

    def live(self) -> list[dict[str, Any]]:
        """Sessions that have not ended."""
        found = []
        for session in list(self.study.conduct.sessions.values()):
            if not session.live:
                continue
            state = self.study.conduct.blocks[session.block]
            slot = state.slot(state.open) if state.open else None
            events, _ = self.study.archive.head(session.id)
            found.append(
                {
                    "session": session.id,
                    "reader": session.reader,
                    "block": session.block,
                    "arm": session.arm,
                    "organ": state.block.organ,
                    "part": state.block.part,
                    "begun_utc": session.begun_utc,
                    "last_call_utc": self.study.last_call(session.id),
                    "paused": session.paused,
                    "case": slot.code if slot else "",
                    "position": slot.position if slot else None,
                    "training": bool(slot and slot.training),
                    "total": len(state.block.images),
                    "done": _done(state),
                    "used_seconds": round(state.used_seconds, 1),
                    "budget_seconds": state.part.budget_seconds,
                    "events": events,
                }
            )
        return found

    def problems(self) -> list[Problem]:
        """What a coordinator should look at, the worst first."""
        self._index.update()
        found = [Problem("error", "Lock", text) for text in self.study.problems()]
        found += [Problem("error", "Broken record", text) for text in self._broken_records()]
        found += [Problem("error", "Preparation", text) for text in self.preparation.problems()]
        found += self._events_of_ai_in_solo()
        found += self._interrupted()
        found += self._gaps()
        found += self._from_server_log()
        order = {"error": 0, "warning": 1, "note": 2}
        return sorted(found, key=lambda p: (order[p.severity], p.kind, p.utc))

    def _broken_records(self) -> list[str]:
        """Verify what has been touched, but not all the time: a long log takes a second."""
        begun = time.monotonic()
        if begun >= self._check_again:
            self._broken = self._checker.problems()
            self._check_again = time.monotonic() + _CHECK_SHARE * (time.monotonic() - begun)
        return self._broken

    def _events_of_ai_in_solo(self) -> Iterable[Problem]:
        query = (
            "SELECT log, reader, count(*) AS n, min(utc) AS utc FROM events "
            "WHERE arm = 'solo' AND type GLOB 'ai_*' AND log != 'server' GROUP BY log"
        )
        for row in self._index.rows(query):
            text = (
                f"session {row['log']} holds {row['n']} AI event(s), though it is a solo session."
            )
            yield Problem("error", "AI in the solo arm", text, row["reader"], row["utc"])

    def _interrupted(self) -> Iterable[Problem]:
        query = "SELECT * FROM reads WHERE interruptions > 0 OR status = 'interrupted'"
        for row in self._index.rows(query):
            end = "and not finished" if row["status"] == "interrupted" else "and read on"
            text = (
                f"case {row['case']} of block {row['block']} was interrupted {end}; it is marked."
            )
            yield Problem("warning", "Interrupted case", text, row["reader"], row["utc"])

    def _gaps(self) -> Iterable[Problem]:
        live = {s.id for s in list(self.study.conduct.sessions.values()) if s.live}
        for row in self._index.rows("SELECT * FROM reads"):
            timing = json.loads(row["timing"]) if row["timing"] else None
            where = f"case {row['case']} of block {row['block']}"
            if timing is None:
                if row["session_id"] not in live and row["status"] != "interrupted":
                    text = f"{where}: the log of session {row['session_id']} lacks its end."
                    yield Problem("error", "Missing events", text, row["reader"], row["utc"])
                continue
            if row["server_seconds"] is None or row["interruptions"]:
                continue
            beside = row["server_seconds"] - row["seconds"] - timing.get("paused_seconds", 0.0)
            if beside > GAP_SECONDS:
                text = f"{where}: {beside:.0f} s between hand-out and answer are in no clock."
                yield Problem("warning", "Time gap", text, row["reader"], row["utc"])
            elif beside < -2.0:
                text = f"{where}: took longer by the reader's clock than it was handed out."
                yield Problem("error", "Doubtful time", text, row["reader"], row["utc"])

    def _from_server_log(self) -> Iterable[Problem]:
        sentences = {
            "takeover": ("note", "Session taken over", "session {session} was taken over by {by}."),
            "token_refused": (
                "warning",
                "Token refused",
                "the token of session {session} was refused: {reason}.",
            ),
            "override": ("note", "Washout overridden", "block {block}: {reason}"),
            "clock_check": ("warning", "Clock", "the server's clock was set, or it slept."),
            "budget_expired": ("note", "Budget ended", "block {block}: its time is used up."),
        }
        what = {
            "ai": "asked for AI in the solo arm; it was refused.",
            "answer": "answered a case that was not handed out; it was refused.",
            "log": "sent the log of another session; it was refused.",
        }
        query = "SELECT * FROM events WHERE log = 'server' AND type IN ({})".format(  # noqa: S608
            ", ".join(f"'{kind}'" for kind in (*sentences, "session_refused"))
        )
        owners = {s.id: s.reader for s in list(self.study.conduct.sessions.values())}
        for row in self._index.rows(query):
            payload = json.loads(row["payload"])
            reader = payload.get("reader") or owners.get(payload.get("session", ""), "")
            if row["type"] != "session_refused":
                severity, kind, sentence = sentences[row["type"]]
                yield Problem(severity, kind, sentence.format(**payload), reader, row["utc"])
            elif payload.get("what") in what:
                text = f"session {payload['session']} {what[payload['what']]}"
                yield Problem("warning", "Refused request", text, reader, row["utc"])
        query = "SELECT * FROM answers WHERE version > 1"
        for row in self._index.rows(query):
            text = (
                f"case {row['case']} of block {row['block']} was answered again (version "
                f"{row['version']}); the first answer that ended the case counts."
            )
            yield Problem("note", "Changed answer", text, row["reader"], row["utc"])

    def quality(self) -> list[dict[str, Any]]:
        """Times and signs of distraction, per block that has reads."""
        blocks: dict[str, list[dict[str, Any]]] = {}
        for row in self._index.rows("SELECT * FROM reads WHERE NOT training ORDER BY position"):
            row["timing"] = json.loads(row["timing"]) if row["timing"] else {}
            blocks.setdefault(row["block"], []).append(row)
        found = []
        for state in self.study.conduct.blocks.values():
            rows = blocks.get(state.block.id, [])
            if rows:
                found.append(_quality(state, rows))
        return found


def _quality(state: BlockState, rows: list[dict[str, Any]]) -> dict[str, Any]:
    whole = [row for row in rows if row["status"] in ("complete", "skip")]
    seconds = [row["seconds"] for row in whole if row["seconds"] > 0]
    outliers = set(outliers_of({row["case"]: row["seconds"] for row in whole}))
    sums = {
        name: sum(float(row["timing"].get(name) or 0.0) for row in rows)
        for name in ("idle_seconds", "unfocused_seconds", "paused_seconds", "ai_wait_seconds")
    }
    reading = sum(float(row["timing"].get("reading_seconds") or 0.0) for row in rows)
    quartiles = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else [math.nan] * 3
    return {
        "block": state.block.id,
        "reader": state.block.reader,
        "part": state.block.part,
        "organ": state.block.organ,
        "arm": state.block.arm,
        "reads": len(rows),
        "median_seconds": _finite(statistics.median(seconds) if seconds else math.nan),
        "q1_seconds": _finite(quartiles[0]),
        "q3_seconds": _finite(quartiles[2]),
        **{name: round(value, 1) for name, value in sums.items()},
        "idle_percent": _percent(sums["idle_seconds"], reading) if reading else None,
        "pauses": sum(int(row["timing"].get("pauses") or 0) for row in rows),
        "suspends": sum(row["suspends"] for row in rows),
        "interruptions": sum(row["interruptions"] for row in rows),
        "budget": sum(row["status"] == "budget" for row in rows),
        "skipped": sum(row["status"] == "skip" for row in rows),
        "outliers": len(outliers),
        "points": [
            {
                "position": row["position"],
                "seconds": row["seconds"],
                "case": row["case"],
                "status": row["status"],
                "outlier": row["case"] in outliers,
                "interrupted": bool(row["interruptions"] or row["status"] == "interrupted"),
            }
            for row in rows
        ],
    }


def outliers_of(seconds: Mapping[str, float]) -> list[str]:
    """Name the cases whose log time is far from the median; for looking at, never for trimming.

    Args:
        seconds: by case, of one block.
    """
    logs = {case: math.log(value) for case, value in seconds.items() if value > 0}
    if len(logs) < _FEW:
        return []
    middle = statistics.median(logs.values())
    spread = _MAD_TO_SD * statistics.median(abs(value - middle) for value in logs.values())
    spread = max(spread, 0.05)  # log units; times that hardly differ have no outliers
    return [case for case, value in logs.items() if abs(value - middle) > _OUTLIER * spread]


def _done(state: BlockState) -> int:
    return sum(slot.code in state.done for slot in state.slots if not slot.training)


def _percent(part: float, whole: float | None) -> float:
    return round(min(100.0, 100.0 * part / whole), 1) if whole else 0.0


def _finite(value: float) -> float | None:
    return round(value, 2) if math.isfinite(value) else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
