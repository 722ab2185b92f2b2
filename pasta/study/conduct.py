"""The conduct of a study: whose turn is which case, what time is left, what a reader may begin.

A pure state machine. Its state is what the events of the server's log made of it, so a restarted
server that reads the log again goes on where it stopped. Nothing here reads a clock or a file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from pasta.errors import PastaError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pasta.study.allocation import Allocation, Block
    from pasta.study.protocol import Part, Protocol

AnswerStatus = Literal["complete", "skip", "interrupted", "budget"]
ANSWER_STATUSES: tuple[AnswerStatus, ...] = ("complete", "skip", "interrupted", "budget")
_NS = 1_000_000_000
_OVER_SECONDS = 1.0  # the reader's countdown is repainted once a second
_ENDS = ("case_complete", "case_skip")


class ConductError(PastaError):
    """A reader may not do this now.

    Attributes:
        code: "live", "washout", "done", "order" or "ended".
    """

    def __init__(self, text: str, code: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True)
class Slot:
    """One case of a block.

    Attributes:
        image: id in the store; never shown to a reader.
        code: of the case.
        training: read first, never analysed, costs no budget.
        position: in its list (training or main), from 1.
        total: length of that list.
    """

    image: str
    code: str
    training: bool
    position: int
    total: int


@dataclass(slots=True)
class BlockState:
    """How far a reader is in one block.

    Attributes:
        block: as allocated.
        part: of the protocol.
        slots: training cases, then the cases, in their order.
        handed: codes that were handed out.
        done: final status by code.
        seconds: case time by code; training cases too, though they cost no budget.
        open: code of the case in progress, "" if there is none.
        open_session: session that it was last handed out to.
        resumed: codes handed out once more after an interruption.
        expired: the budget ended.
        begun_utc: of the first case, "" before.
        last_utc: of the last answer or hand-out.
    """

    block: Block
    part: Part
    slots: tuple[Slot, ...]
    handed: set[str] = field(default_factory=set)
    done: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    open: str = ""
    open_session: str = ""
    resumed: set[str] = field(default_factory=set)
    expired: bool = False
    begun_utc: str = ""
    last_utc: str = ""

    @property
    def used_seconds(self) -> float:
        """Case time that the budget was charged with: without training cases."""
        return sum(self.seconds.get(slot.code, 0.0) for slot in self.slots if not slot.training)

    @property
    def left_seconds(self) -> float | None:
        """What is left of the budget; None where the part has none."""
        if not self.part.budget_seconds:
            return None
        return max(0.0, float(self.part.budget_seconds) - self.used_seconds)

    @property
    def finished(self) -> bool:
        """Tell whether nothing is left to hand out."""
        if self.open:
            return False
        return self.expired or all(slot.code in self.done for slot in self.slots)

    def slot(self, code: str) -> Slot | None:
        """Look a case up by its code; None if the block has no such case."""
        return next((slot for slot in self.slots if slot.code == code), None)

    def next_slot(self) -> Slot | None:
        """The case in progress, else the next one; None if the block is at its end."""
        if self.open:
            return self.slot(self.open)
        return self._unread()

    def upcoming(self) -> Slot | None:
        """The case after the one in progress; the next one if there is none in progress."""
        return self._unread()

    def cases_left(self, *, training: bool) -> int:
        """Number of cases not yet done."""
        return sum(s.training == training and s.code not in self.done for s in self.slots)

    def _unread(self) -> Slot | None:
        if self.expired:
            return None
        left = (s for s in self.slots if s.code not in self.done and s.code != self.open)
        slot = next(left, None)
        if slot and not slot.training and self.left_seconds == 0.0:
            return None
        return slot


@dataclass(slots=True)
class Session:
    """One sitting of a reader.

    Attributes:
        id: names its event log.
        reader: pseudonym.
        block: id of the block.
        arm: of the block.
        live: whether its token opens anything.
        begun_utc: of the login.
        ended_utc: "" while live.
        reason: why it ended.
        paused: the reader takes a pause.
        head: SHA-256 of the log's last event, as the reader's machine told at the end.
        seq: number of that event.
    """

    id: str
    reader: str
    block: str
    arm: str
    live: bool = True
    begun_utc: str = ""
    ended_utc: str = ""
    reason: str = ""
    paused: bool = False
    head: str = ""
    seq: int | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """What a reader gets next.

    Attributes:
        slot: to read; None at an end.
        end: "", "block", "budget" or "study".
        resumed: the case was handed out in an earlier session, which was interrupted.
        expires: the budget ends now, which is yet to be noted.
    """

    slot: Slot | None
    end: str = ""
    resumed: bool = False
    expires: bool = False


class Conduct:
    """The state of all readers of one study.

    Args:
        protocol: of the study.
        allocation: that was drawn from it.
        code_of: makes the code of an image id.
    """

    def __init__(
        self, protocol: Protocol, allocation: Allocation, code_of: Callable[[str], str]
    ) -> None:
        self.protocol = protocol
        self.blocks: dict[str, BlockState] = {}
        self.sessions: dict[str, Session] = {}
        self.washout_overrides: set[str] = set()
        self.last_utc = ""
        self._of: dict[str, list[BlockState]] = {}
        for reader in protocol.readers:
            for block in allocation.of(reader.code):
                state = BlockState(block, protocol.part(block.part), _slots(block, code_of))
                self.blocks[block.id] = state
                self._of.setdefault(reader.code, []).append(state)

    # --- what was

    def apply(self, event: Mapping[str, Any]) -> None:
        """Change the state as one event of the server's log says; unknown types change nothing."""
        handler = getattr(self, f"_on_{event['type']}", None)
        self.last_utc = max(self.last_utc, str(event.get("utc", "")))
        if handler is not None:
            handler(event, event.get("payload") or {})

    def _on_login(self, event: Mapping[str, Any], payload: Mapping[str, Any]) -> None:
        self.sessions[payload["session"]] = Session(
            payload["session"],
            payload["reader"],
            payload["block"],
            payload["arm"],
            begun_utc=event["utc"],
        )

    def _on_logout(self, event: Mapping[str, Any], payload: Mapping[str, Any]) -> None:
        session = self.sessions[payload["session"]]
        session.live, session.paused = False, False
        session.ended_utc, session.reason = event["utc"], payload.get("reason", "")
        session.head, session.seq = payload.get("head", ""), payload.get("seq")

    _on_takeover = _on_logout

    def _on_pause_start(self, _event: Mapping[str, Any], payload: Mapping[str, Any]) -> None:
        self.sessions[payload["session"]].paused = True

    def _on_pause_end(self, _event: Mapping[str, Any], payload: Mapping[str, Any]) -> None:
        self.sessions[payload["session"]].paused = False

    def _on_override(self, _event: Mapping[str, Any], payload: Mapping[str, Any]) -> None:
        if payload.get("what") == "washout":
            self.washout_overrides.add(payload["block"])

    def _on_case_assigned(self, event: Mapping[str, Any], payload: Mapping[str, Any]) -> None:
        state = self.blocks[payload["block"]]
        code = event["case"]
        state.handed.add(code)
        state.open, state.open_session = code, payload["session"]
        state.begun_utc = state.begun_utc or event["utc"]
        state.last_utc = event["utc"]
        if payload.get("resumed"):
            state.resumed.add(code)

    def _on_answer_received(self, event: Mapping[str, Any], payload: Mapping[str, Any]) -> None:
        state = self.blocks[payload["block"]]
        code = event["case"]
        state.last_utc = event["utc"]
        if code not in state.done:  # a later version is kept, and changes nothing of the conduct
            state.done[code] = payload["status"]
            state.seconds[code] = float(payload["seconds"])
        if state.open == code:
            state.open = ""

    def _on_budget_expired(self, _event: Mapping[str, Any], payload: Mapping[str, Any]) -> None:
        self.blocks[payload["block"]].expired = True

    # --- what may be

    def of(self, reader: str) -> list[BlockState]:
        """All blocks of a reader in their order."""
        return self._of.get(reader, [])

    def block_of(self, reader: str) -> BlockState | None:
        """The block that a reader is at; None if all are finished."""
        return next((state for state in self.of(reader) if not state.finished), None)

    def live_session(self, reader: str) -> Session | None:
        """The session of a reader that has not ended."""
        return next((s for s in self.sessions.values() if s.live and s.reader == reader), None)

    def begin(self, reader: str, now: datetime) -> BlockState:
        """Find the block that a reader may begin or go on with now.

        Args:
            reader: pseudonym.
            now: UTC. A clock that was set back does not count: the last event's time does.

        Raises:
            ConductError: "done" if all is read, "washout" if it is too early.
        """
        state = self.block_of(reader)
        if state is None:
            msg = f"reader {reader} has read all blocks of this study."
            raise ConductError(msg, "done")
        until = self.washout_until(state)
        now = max(now, datetime.fromisoformat(self.last_utc)) if self.last_utc else now
        if until is not None and now < until:
            msg = (
                f"block {state.block.id} shows cases of an earlier block in the other arm and may "
                f"begin on {until:%Y-%m-%d %H:%M} UTC (washout of {self.protocol.washout_days} "
                "days); the coordinator can allow it earlier with a reason."
            )
            raise ConductError(msg, "washout")
        return state

    def washout_until(self, state: BlockState) -> datetime | None:
        """When a block may begin; None if it may at once, or has begun."""
        if state.begun_utc or state.block.id in self.washout_overrides:
            return None
        images = set(state.block.images)
        ends = [
            other.last_utc
            for other in self.of(state.block.reader)
            if other.block.arm != state.block.arm
            and other.last_utc
            and images & set(other.block.images)
        ]
        if not ends or not self.protocol.washout_days:
            return None
        return datetime.fromisoformat(max(ends)) + timedelta(days=self.protocol.washout_days)

    def step(self, session: Session) -> Step:
        """Find what a session gets next; the same case until it is answered.

        Raises:
            ConductError: "ended" if the session has ended.
        """
        if not session.live:
            msg = "this session has ended; log in again."
            raise ConductError(msg, "ended")
        state = self.blocks[session.block]
        slot = state.next_slot()
        if slot is not None:
            elsewhere = bool(state.open) and state.open_session != session.id
            return Step(slot, resumed=elsewhere or slot.code in state.resumed)
        unread = any(slot.code not in state.done for slot in state.slots)
        end = "study" if self._last(state) else "budget" if unread else "block"
        return Step(None, end, expires=unread and not state.expired)

    def _last(self, state: BlockState) -> bool:
        return all(other is state or other.finished for other in self.of(state.block.reader))

    def status_of(
        self, state: BlockState, code: str, status: AnswerStatus, seconds: float
    ) -> AnswerStatus:
        """The status to keep: a case that went on past the budget is marked, whoever says what."""
        slot = state.slot(code)
        if status != "complete" or slot is None or slot.training or state.left_seconds is None:
            return status
        others = sum(
            state.seconds.get(other.code, 0.0)
            for other in state.slots
            if not other.training and other.code != code
        )
        over = others + seconds > float(state.part.budget_seconds or 0) + _OVER_SECONDS
        return "budget" if over else status


def case_seconds(events: Iterable[Mapping[str, Any]], case: str) -> float | None:
    """Time of a case by its log: from load start to complete, pauses taken off.

    Args:
        events: of one session.
        case: its code.

    Returns:
        Seconds of monotonic time, summed over starts of the program (nothing is counted between
        them); to the last event where the case was not ended. None if it was never loaded.
    """
    total: float | None = None
    boot, start, paused, paused_at, last = "", 0, 0, 0, 0  # ns; 0 where there is none

    def closed() -> float:
        still = last - paused_at if paused_at else 0
        return (total or 0.0) + (last - start - paused - still) / _NS

    for event in events:
        if event.get("case") != case:
            continue
        if event["boot_id"] != boot:
            total = closed() if start else total
            boot, start, paused, paused_at = event["boot_id"], 0, 0, 0
        kind, now = event["type"], int(event["mono_ns"])
        if kind == "load_start" and not start:
            start = now
        elif kind == "pause_start" and not paused_at:
            paused_at = now
        elif kind == "pause_end" and paused_at:
            paused, paused_at = paused + now - paused_at, 0
        last = now
        if kind in _ENDS and start:
            total = closed()
            start, paused, paused_at = 0, 0, 0
    return closed() if start else total


def timing_seconds(timing: Mapping[str, Any] | None) -> float | None:
    """Time of a case by what the reader's machine says with the answer; None if it says nothing.

    Args:
        timing: `Timing.document()`, or {"seconds": ...}.
    """
    numbers = {
        key: float(value)
        for key, value in (timing or {}).items()
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e7
    }
    if "seconds" in numbers:
        return numbers["seconds"]
    if "reading_seconds" in numbers:
        return numbers["reading_seconds"] + numbers.get("load_seconds", 0.0)
    return None


def _slots(block: Block, code_of: Callable[[str], str]) -> tuple[Slot, ...]:
    return tuple(
        Slot(image, code_of(image), training, position, len(images))
        for training, images in ((True, block.training), (False, block.images))
        for position, image in enumerate(images, 1)
    )
