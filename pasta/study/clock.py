"""The reading clock: from images displayed to submitted, by the monotonic clock alone.

Two numbers matter: wall time, and reading time, which is wall time without the pauses that the
reader took. Idle time, lost focus and waiting are counted beside them and never taken off.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pasta.errors import PastaError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Wait = Literal["ai", "load", "save"]
State = Literal["idle", "running", "paused"]
WAITS: tuple[Wait, ...] = ("ai", "load", "save")
_NS = 1_000_000_000
_STEP_SECONDS = 1.0  # between UTC and monotonic clock: the machine slept, or somebody set its clock
_TICK_GAP_SECONDS = 60.0  # where the monotonic clock runs on in sleep, only missing ticks show it


class ClockError(PastaError, RuntimeError):
    """The clock is asked for what cannot be in its state."""


class Log(Protocol):
    """Where events go; `pasta.study.events.EventLog` is one."""

    def append(
        self,
        kind: str,
        payload: Mapping[str, Any] | None = None,
        *,
        case: str = "",
        task: str = "",
        organ: str = "",
        position: int | None = None,
        mono_ns: int | None = None,
    ) -> object:
        """Write one event."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a case took.

    Attributes:
        wall_seconds: from images displayed to complete.
        reading_seconds: wall without pauses; the primary number.
        active_seconds: reading without idle time and waits.
        idle_seconds: of stretches longer than the threshold without any input, from the last input.
        unfocused_seconds: with another window in front.
        ai_wait_seconds: waiting for the AI, while the clock ran.
        load_seconds: from load start to images displayed, and reloads after it.
        save_wait_seconds: waiting for a save, while the clock ran.
        paused_seconds: in pauses that the reader took.
        pauses: number of them.
        suspends: times that the machine slept, or its clock was set.
    """

    wall_seconds: float
    reading_seconds: float
    active_seconds: float
    idle_seconds: float
    unfocused_seconds: float
    ai_wait_seconds: float
    load_seconds: float
    save_wait_seconds: float
    paused_seconds: float
    pauses: int = 0
    suspends: int = 0

    def document(self) -> dict[str, Any]:
        """Build the JSON document."""
        return {
            name: round(value, 3) if isinstance(value, float) else value
            for name, value in asdict(self).items()
        }


class ReadingClock:
    """Times one case after the other.

    A log that cannot be written does not stop the clock; `problem` says so until the next case.

    Args:
        log: that gets every event.
        monotonic_ns: clock for all durations.
        utc: clock to find out that the machine slept.
        idle_seconds: without input before time counts as idle.
    """

    def __init__(
        self,
        log: Log,
        *,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
        utc: Callable[[], datetime] = lambda: datetime.now(UTC),
        idle_seconds: float = 30.0,
    ) -> None:
        self._log = log
        self._monotonic_ns, self._utc = monotonic_ns, utc
        self._idle_ns = int(idle_seconds * _NS)
        self.state: State = "idle"
        self.problem = ""
        self._case: dict[str, Any] = {}
        self._completed: tuple[dict[str, Any], int] | None = None
        self._focused = True
        self._reset()

    def _reset(self) -> None:
        self._sums: Counter[str] = Counter()
        self._waiting: Counter[str] = Counter()
        self._mark = self._monotonic_ns()
        self._utc_mark = self._utc()
        self._tick_mark: int | None = None
        self._quiet = 0  # ns that counted towards idle since the last input
        self._idle_told = False
        self._touched = False
        self._load_began: int | None = None
        self._pauses = self._suspends = 0

    @property
    def elapsed_seconds(self) -> float:
        """Reading time of the case so far; for showing."""
        running = self._monotonic_ns() - self._mark if self.state == "running" else 0
        return (self._sums["reading"] + max(running, 0)) / _NS

    # --- a case from beginning to end

    def case_requested(
        self, case: str, *, task: str = "", organ: str = "", position: int | None = None
    ) -> None:
        """Note that a case was asked for; one still under way is abandoned.

        Args:
            case: id of the image; the log makes a code of it.
            task: "screen", "segment", "report" or "".
            organ: such as "liver".
            position: of the case in the reader's list.
        """
        if self._case:
            self.abandon("another case")
        self._reset()
        self.problem = ""
        self._completed = None
        self._case = {"case": case, "task": task, "organ": organ, "position": position}
        self._tell("case_requested")

    def load_start(self) -> None:
        """Note that the images begin to load."""
        self._advance()
        self._load_began = self._mark
        self._tell("load_start")

    def displayed(self) -> None:
        """Start: all views show the images. Once is enough; later calls change nothing."""
        if self.state != "idle" or not self._case:
            return
        self._advance()
        if self._load_began is not None:
            self._sums["load"] += self._mark - self._load_began
        self.state = "running"
        self._quiet = 0
        self._tell("load_end", {"load_seconds": self._sums["load"] / _NS})

    def complete(self) -> Timing:
        """Stop: the reader submits.

        Raises:
            ClockError: if no case is being read.
        """
        if self.state == "idle":
            msg = "no case is being read, so there is nothing to complete."
            raise ClockError(msg)
        if self.state == "paused":
            self.resume()
        self._advance()
        self._settle()
        timing = self._timing()
        self._tell("case_complete", timing.document())
        self._completed = self._case, self._mark
        self._end()
        return timing

    def reopen(self, reason: str) -> None:
        """Go on with the case that was completed last: the reader works on it once more.

        The time since it was completed counts as nothing; `complete` then tells the sum. Does
        nothing where no case was completed, or another was asked for.
        """
        if self._completed is None:
            return
        self._advance()
        self._case, completed_ns = self._completed
        self._completed = None
        self.state = "running"
        self._quiet = 0
        self._waiting.clear()
        closed_seconds = (self._mark - completed_ns) / _NS
        self._tell("reopen", {"reason": reason[:80], "closed_seconds": closed_seconds})

    def abandon(self, reason: str) -> None:
        """Stop without a result: the case was left."""
        if not self._case:
            return
        self._advance()
        self._settle()
        self._tell("case_skip", {"reason": reason[:80], **self._timing().document()})
        self._end()

    def timing(self) -> Timing:
        """Numbers of the case so far, as for a draft; nothing stops."""
        self._advance()
        return self._timing()

    # --- pauses and waits

    def pause(self, reason: str) -> None:
        """Pause; nothing but pause time runs. Does nothing unless the clock runs."""
        if self.state != "running":
            return
        self._advance()
        self._settle()
        self.state = "paused"
        self._pauses += 1
        self._tell("pause_start", {"reason": reason[:80]})

    def resume(self) -> None:
        """End the pause."""
        if self.state != "paused":
            return
        self._advance()
        self.state = "running"
        self._quiet = 0
        self._tell("pause_end")

    def wait_start(self, kind: Wait) -> None:
        """Begin to wait for the AI, for loading, for saving; waits may overlap."""
        self._advance()
        self._settle()
        self._waiting[_known(kind)] += 1
        self._tell("wait_start", {"kind": kind})

    def wait_end(self, kind: Wait) -> None:
        """End one wait."""
        self._advance()
        if self._waiting[_known(kind)] > 0:
            self._waiting[kind] -= 1
            self._tell("wait_end", {"kind": kind})
            self._quiet = 0

    # --- what the reader does

    def activity(self) -> None:
        """Note any input: mouse, wheel, key, tablet."""
        self._advance()
        self._settle()
        if self.state == "running" and not self._touched:
            self._touched = True
            self._tell("first_interaction")

    def focus(self, focused: bool) -> None:
        """Note that the window came to the front or went behind another."""
        self._advance()
        if focused != self._focused:
            self._focused = focused
            self._tell("focus_gained" if focused else "focus_lost")

    def tick(self) -> None:
        """Look at the clocks, every second or so: finds idle time and sleep."""
        before = self._tick_mark
        self._advance()
        self._tick_mark = self._mark
        if before is not None and self._mark - before > _TICK_GAP_SECONDS * _NS:
            self._suspended((self._mark - before) / _NS, "no ticks")
        if self._quiet >= self._idle_ns and self.state == "running" and not self._idle_told:
            self._idle_told = True
            self._tell("idle_start", {"quiet_seconds": self._quiet / _NS})

    def note(self, kind: str, **payload: Any) -> None:
        """Log an event of the case, such as an edit or what the AI said."""
        self._advance()
        self._tell(kind, payload)

    # --- inside

    def _advance(self) -> None:
        """Account for the time since the last look, by the state it was in."""
        now, utc = self._monotonic_ns(), self._utc()
        passed = max(0, now - self._mark)
        drift = (utc - self._utc_mark).total_seconds() - passed / _NS
        self._mark, self._utc_mark = now, utc
        if self.state == "paused":
            self._sums["paused"] += passed
        elif self.state == "running":
            self._sums["reading"] += passed
            if not self._focused:
                self._sums["unfocused"] += passed
            for kind in WAITS:
                if self._waiting[kind]:
                    self._sums[kind] += passed
            if any(self._waiting[kind] for kind in WAITS):
                self._sums["waiting"] += passed
            else:
                self._quiet += passed
        if abs(drift) > _STEP_SECONDS:
            self._suspended(drift, "clocks differ")

    def _settle(self) -> None:
        """Input, or an end: the quiet before it was idle if it was long, and thinking if not."""
        if self._quiet >= self._idle_ns:
            self._sums["idle"] += self._quiet
            if not self._idle_told:
                self._tell("idle_start", {"quiet_seconds": self._quiet / _NS})
            self._tell("idle_end", {"idle_seconds": self._quiet / _NS})
        self._quiet = 0
        self._idle_told = False

    def _suspended(self, seconds: float, sign: str) -> None:
        self._tick_mark = None
        if self._case:
            self._suspends += 1
            self._tell("suspend_detected", {"seconds": seconds, "sign": sign})

    def _timing(self) -> Timing:
        sums = self._sums
        idle = sums["idle"] + (self._quiet if self._quiet >= self._idle_ns else 0)
        return Timing(
            wall_seconds=(sums["reading"] + sums["paused"]) / _NS,
            reading_seconds=sums["reading"] / _NS,
            active_seconds=(sums["reading"] - idle - sums["waiting"]) / _NS,
            idle_seconds=idle / _NS,
            unfocused_seconds=sums["unfocused"] / _NS,
            ai_wait_seconds=sums["ai"] / _NS,
            load_seconds=sums["load"] / _NS,
            save_wait_seconds=sums["save"] / _NS,
            paused_seconds=sums["paused"] / _NS,
            pauses=self._pauses,
            suspends=self._suspends,
        )

    def _end(self) -> None:
        self.state = "idle"
        self._case = {}

    def _tell(self, kind: str, payload: Mapping[str, Any] | None = None) -> None:
        try:
            self._log.append(kind, payload, mono_ns=self._mark, **self._case)
        except (PastaError, OSError) as error:
            self.problem = str(error)  # the reader reads on; the panel shows the sentence


def _known(kind: Wait) -> Wait:
    if kind not in WAITS:
        msg = f"wait for {kind!r} is unknown; use {', '.join(WAITS)}."
        raise ValueError(msg)
    return kind
