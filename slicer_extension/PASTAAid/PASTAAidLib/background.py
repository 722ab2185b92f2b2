"""Work beside the GUI: plain threads, with results delivered where and when the GUI asks for them.

Nothing of Qt or MRML may be touched in `work`; `done`, `failed` and `progress` run in `poll`, thus
in the GUI's thread.
"""

from __future__ import annotations

import collections
import logging
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

from pasta.errors import CancelledError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Task:
    """One piece of work under way.

    Attributes:
        name: of the work; one of a name runs at a time.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._cancelled = threading.Event()
        self._told: tuple[float, str] | None = None

    @property
    def cancelled(self) -> bool:
        """Whether nobody wants the result any more."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Ask the work to stop at its next sign of progress."""
        self._cancelled.set()

    def progress(self, fraction: float, stage: str) -> None:
        """Tell how far the work is; called by the work itself.

        Raises:
            CancelledError: if it was asked to stop.
        """
        if self.cancelled:
            msg = f"{self.name} was cancelled."
            raise CancelledError(msg)
        self._told = (min(max(float(fraction), 0.0), 1.0), stage)

    def take_progress(self) -> tuple[float, str] | None:
        """Newest progress that was not shown yet."""
        told, self._told = self._told, None
        return told


class _Running:
    """A task with whoever waits for it."""

    def __init__(
        self,
        task: Task,
        done: Callable[[Any], None] | None,
        failed: Callable[[Exception], None] | None,
        progress: Callable[[float, str], None] | None,
    ) -> None:
        self.task = task
        self.done = done
        self.failed = failed
        self.progress = progress
        self.thread: threading.Thread | None = None


class Background:
    """All work under way. `poll` is to be called every 50 ms or so by the thread that owns it."""

    def __init__(self) -> None:
        self._running: dict[str, _Running] = {}
        self._replaced: list[_Running] = []
        self._over: collections.deque[tuple[_Running, Any, Exception | None]] = collections.deque()
        self._closed = False

    def start(
        self,
        name: str,
        work: Callable[[Task], T],
        *,
        done: Callable[[T], None] | None = None,
        failed: Callable[[Exception], None] | None = None,
        progress: Callable[[float, str], None] | None = None,
    ) -> Task:
        """Run `work` in a thread of its own.

        Work of the same name that is under way is cancelled, and nobody hears of it again; ask
        `busy` first where that must not be.

        Args:
            name: of the work.
            work: gets its task, to tell progress and to see whether it was cancelled.
            done: gets the result.
            failed: gets the error; a `pasta.errors.CancelledError` if it stopped as it was asked to.
            progress: gets the newest fraction and stage; those in between are left out.
        """
        former = self._running.pop(name, None)
        if former is not None:
            former.task.cancel()
            self._replaced.append(former)
        task = Task(name)
        running = _Running(task, done, failed, progress)

        def run() -> None:
            result: Any = None
            problem: Exception | None = None
            try:
                result = work(task)
            except Exception as error:  # noqa: BLE001 - handed to `failed` in the caller's thread
                problem = error
            self._over.append((running, result, problem))

        running.thread = threading.Thread(target=run, name=f"pasta-{name}", daemon=True)
        self._running[name] = running
        if self._closed:  # the module goes away: nothing begins any more
            del self._running[name]
            task.cancel()
        else:
            running.thread.start()
        return task

    def busy(self, name: str) -> bool:
        """Tell whether work of this name is under way, or over but not delivered yet."""
        return name in self._running

    def cancel(self, name: str) -> None:
        """Ask work to stop; its `failed` or, if it was too late, `done` is still called."""
        running = self._running.get(name)
        if running is not None:
            running.task.cancel()

    def poll(self, seconds: float = 0.01) -> None:
        """Deliver what is over and the newest progress, for about `seconds` at most.

        What a callback raises goes to the caller; other deliveries wait for the next call.
        """
        end = time.monotonic() + seconds
        for running in list(self._running.values()):
            told = running.task.take_progress()
            if told and running.progress and not running.task.cancelled:
                running.progress(*told)
        while self._over:
            running, result, problem = self._over.popleft()
            if self._running.get(running.task.name) is running:
                del self._running[running.task.name]
                self._deliver(running, result, problem)
            elif running in self._replaced:
                self._replaced.remove(running)
            if time.monotonic() >= end:
                break

    def close(self, seconds: float = 2.0) -> None:
        """Cancel everything and wait a while for it; no callback is called any more."""
        self._closed = True
        left = [*self._running.values(), *self._replaced]
        self._running.clear()
        self._replaced.clear()
        for running in left:
            running.task.cancel()
        end = time.monotonic() + seconds
        for running in left:
            if running.thread is not None:
                running.thread.join(max(0.0, end - time.monotonic()))
        self._over.clear()

    def _deliver(self, running: _Running, result: Any, problem: Exception | None) -> None:
        if problem is None:
            if running.done:
                running.done(result)
        elif running.failed:
            running.failed(problem)
        elif not isinstance(problem, CancelledError):
            _log.error("%s failed, and nobody listens", running.task.name, exc_info=problem)
