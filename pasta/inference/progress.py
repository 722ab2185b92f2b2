"""How long work tells where it is, and how it is stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# fraction of the whole call done (0 to 1, rising), name of the present stage.
# Raising CancelledError stops the work.
Progress = Callable[[float, str], None]


def silent(fraction: float, stage: str) -> None:
    """Report nothing."""


def part_of(progress: Progress, start: float, stop: float) -> Progress:
    """Give a part of a longer call its own progress from 0 to 1."""
    return lambda fraction, stage: progress(start + fraction * (stop - start), stage)


class Stopwatch:
    """Seconds per stage, monotonic; goes into every result."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of a `with` block to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            elapsed = time.perf_counter() - start
            self.seconds[name] = round(self.seconds.get(name, 0.0) + elapsed, 3)
