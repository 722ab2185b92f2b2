"""Work for the device: one job at a time, a bounded queue, progress, cancelling."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from pasta.errors import CancelledError, PastaError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
_REMEMBERED = 200  # finished jobs whose state can still be asked for


class BusyError(PastaError):
    """The queue is full."""


class Job:
    """One request for the device, as clients see it.

    Attributes:
        id: chosen by the client, else made up.
        model: name of the task.
        cancelled: set to stop it at its next sign of progress.
    """

    def __init__(self, job_id: str, model: str) -> None:
        self.id = job_id
        self.model = model
        self.state = "waiting"
        self.cancelled = threading.Event()
        self.future: Future[Any] | None = None
        self._fraction = 0.0
        self._stage = "waiting"
        self._start = time.monotonic()
        self._end: float | None = None

    def progress(self, fraction: float, stage: str) -> None:
        """Note how far the work is.

        Raises:
            CancelledError: if nobody wants it any more.
        """
        if self.cancelled.is_set():
            msg = f"job {self.id} was cancelled."
            raise CancelledError(msg)
        self._fraction = min(max(float(fraction), 0.0), 1.0)
        self._stage = stage

    def finish(self, state: str) -> None:
        self.state = state
        self._end = time.monotonic()
        if state == "done":
            self._fraction, self._stage = 1.0, "done"

    def document(self) -> dict[str, Any]:
        """Build the JSON document."""
        return {
            "job": self.id,
            "model": self.model,
            "state": self.state,
            "percent": round(100 * self._fraction, 1),
            "stage": self._stage,
            "seconds": round((self._end or time.monotonic()) - self._start, 2),
        }


class Jobs:
    """All jobs of the server.

    Args:
        limit: jobs that may wait while one runs.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="device")
        self._guard = threading.Lock()
        self._jobs: OrderedDict[str, Job] = OrderedDict()

    def submit(self, job: Job, work: Callable[[], T]) -> Future[T]:
        """Queue work; it runs when the device is free.

        Raises:
            BusyError: if the queue is full, or a live job has this id.
        """
        with self._guard:
            live = [other for other in self._jobs.values() if other.state in ("waiting", "running")]
            if any(other.id == job.id for other in live):
                msg = f"a job {job.id!r} is under way; give each request its own job id."
                raise BusyError(msg)
            if len(live) > self.limit:
                msg = f"{len(live)} requests are under way or waiting; try again in a moment."
                raise BusyError(msg)
            self._jobs[job.id] = job
            self._jobs.move_to_end(job.id)
            for old in list(self._jobs)[: max(0, len(self._jobs) - _REMEMBERED)]:
                if self._jobs[old].state not in ("waiting", "running"):
                    del self._jobs[old]
            future = self._worker.submit(self._run, job, work)
            job.future = future
        return future

    def before_all(self, work: Callable[[], None]) -> None:
        """Run something on the device before the first job; it is no job that clients see."""
        self._worker.submit(work)

    def get(self, job_id: str) -> dict[str, Any] | None:
        """State of one job; None if it is not known (any more)."""
        with self._guard:
            waiting = [job.id for job in self._jobs.values() if job.state == "waiting"]
            job = self._jobs.get(job_id)
        if job is None:
            return None
        position = waiting.index(job.id) + 1 if job.id in waiting else 0
        return {**job.document(), "position": position}

    def cancel(self, job_id: str) -> bool:
        """Ask a job to stop, at once if it waits; False if it is not known."""
        with self._guard:
            job = self._jobs.get(job_id)
        if job is None:
            return False
        job.cancelled.set()
        if job.future is not None and job.future.cancel():
            job.finish("cancelled")  # it never began: nobody else says so
        return True

    def cancel_all(self) -> None:
        """Ask every job to stop."""
        with self._guard:
            known = list(self._jobs)
        for job_id in known:
            self.cancel(job_id)

    def document(self) -> dict[str, Any]:
        """Build the JSON document of all jobs."""
        with self._guard:
            jobs = list(self._jobs.values())
        states = [job.state for job in jobs]
        queue = {
            "running": states.count("running"),
            "waiting": states.count("waiting"),
            "limit": self.limit,
        }
        return {"queue": queue, "jobs": [job.document() for job in jobs]}

    def _run(self, job: Job, work: Callable[[], T]) -> T:
        state = "failed"
        try:
            job.progress(0.0, "starting")
            job.state = "running"
            result = work()
            state = "done"
        except CancelledError:
            state = "cancelled"
            raise
        finally:
            job.finish(state)
        return result
