"""The reader study: who read what, when, for how long. Standard library only."""

from pasta.study.clock import ClockError, ReadingClock, Timing
from pasta.study.events import (
    EVENT_TYPES,
    EventError,
    EventLog,
    EventLogError,
    Verification,
    case_code,
    read_events,
    verify,
)

__all__ = [
    "EVENT_TYPES",
    "ClockError",
    "EventError",
    "EventLog",
    "EventLogError",
    "ReadingClock",
    "Timing",
    "Verification",
    "case_code",
    "read_events",
    "verify",
]
