"""Many tasks over processes of this machine or a Dask cluster; results come as they are ready."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from typing import Any, TypeVar

from pasta.errors import PastaError

Task = TypeVar("Task")
Outcome = TypeVar("Outcome")
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_number: int | None = None  # of this process in a pool; Dask's workers know theirs by name


class WorkerError(PastaError, RuntimeError):
    """The workers cannot be reached, or one of them died."""


def dask_installed() -> bool:
    """Tell whether Dask's scheduler is there (the extras `batch` and `synthesis`)."""
    return importlib.util.find_spec("distributed") is not None


def worker_number() -> int | None:
    """Number of this worker among those of the machine, from 0; None outside of one.

    Workers of a cluster that somebody else started have names, not numbers: None too.
    """
    if _number is not None or not dask_installed():
        return _number
    try:
        name = importlib.import_module("distributed").get_worker().name
    except ValueError:  # no worker
        return None
    return name if isinstance(name, int) else None


def mapped(
    function: Callable[[Task], Outcome],
    tasks: Sequence[Task],
    *,
    scheduler: str | None = None,
    workers: int | None = None,
    on_death: Callable[[Task], Outcome] | None = None,
) -> Generator[Outcome, None, None]:
    """Apply a function to tasks in other processes.

    Close the iterator, or let an exception pass through, and the workers of this machine end at once;
    they also end when this process is killed.

    Args:
        function: of a module, so that workers can import it; its result is a pure function of the task.
        tasks: to be done, in any order.
        scheduler: address of a Dask scheduler, such as "tcp://host:8786"; every worker must see the
            same files. None uses a Dask LocalCluster if Dask is installed, else a process pool.
        workers: processes on this machine; None takes one for each core. 0 works in this process.
        on_death: answers for a task that killed its worker again and again (most often for lack of
            memory); the others go on. None raises instead.

    Yields:
        Results in the order in which they are ready.

    Raises:
        WorkerError: if Dask is wanted and not installed, its scheduler does not answer, or a worker
            dies and there is no `on_death`.
    """
    if not tasks:
        return
    if scheduler is None and workers == 0:
        yield from map(function, tasks)
    elif scheduler is not None or dask_installed():
        yield from _by_dask(function, tasks, scheduler, workers, on_death)
    else:
        yield from _by_pool(function, tasks, workers, on_death)


def _by_pool(
    function: Callable[[Task], Outcome],
    tasks: Sequence[Task],
    workers: int | None,
    on_death: Callable[[Task], Outcome] | None,
) -> Iterator[Outcome]:
    count = min(workers or os.cpu_count() or 1, len(tasks))
    waiting = deque(tasks)
    suspects: deque[Task] = deque()  # were under way when a worker died: each is tried alone
    while waiting or suspects:
        if suspects:
            task = suspects.popleft()
            try:
                outcomes = list(_pooled(function, deque([task]), 1, deque()))
            except BrokenProcessPool:
                assert on_death is not None  # noqa: S101 - else there would be no suspects
                outcomes = [on_death(task)]
            yield from outcomes
            continue
        try:
            yield from _pooled(function, waiting, count, suspects)
        except BrokenProcessPool as error:
            if on_death is None:
                msg = (
                    "A worker process died, perhaps for lack of memory. "
                    "Run it again with fewer --workers."
                )
                raise WorkerError(msg) from error


def _pooled(
    function: Callable[[Task], Outcome], waiting: deque[Task], count: int, suspects: deque[Task]
) -> Iterator[Outcome]:
    """Take tasks from `waiting` into a pool; those under way when it breaks go to `suspects`."""
    spawn = multiprocessing.get_context("spawn")
    numbers = spawn.SimpleQueue()
    for number in range(count):
        numbers.put(number)
    leash, held = spawn.Pipe(duplex=False)
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    os.environ.update(dict.fromkeys(_ONE_THREAD, "1"))  # children read them when NumPy loads
    pool = ProcessPoolExecutor(
        count, mp_context=spawn, initializer=_begin_worker, initargs=(numbers, leash)
    )
    under_way: dict[Future[Outcome], Task] = {}
    try:
        while waiting or under_way:
            while waiting and len(under_way) < count:
                task = waiting[0]
                under_way[pool.submit(function, task)] = task
                waiting.popleft()  # now, as a pool that is broken already refuses
            for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                outcome = future.result()  # breaks before it leaves the list of those under way
                del under_way[future]
                yield outcome
    except BrokenProcessPool:
        suspects.extend(under_way.values())
        raise
    except BaseException:
        held.close()  # nobody waits for what is under way
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        held.close()
        leash.close()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _begin_worker(numbers: Any, leash: connection.Connection) -> None:
    import signal

    import torch

    global _number
    _number = numbers.get()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, args=(leash,), daemon=True).start()


def _end_with_parent(leash: connection.Connection) -> None:
    """End this process when its parent lets go of the pipe, by will or because it was killed."""
    connection.wait([leash])
    os._exit(1)


def _by_dask(
    function: Callable[[Task], Outcome],
    tasks: Sequence[Task],
    scheduler: str | None,
    workers: int | None,
    on_death: Callable[[Task], Outcome] | None,
) -> Iterator[Outcome]:
    try:
        dask = importlib.import_module("distributed")
        killed = importlib.import_module("distributed.scheduler").KilledWorker
    except ImportError as error:
        msg = "--scheduler needs Dask, which is not installed. Run: pip install 'pasta-aid[batch]'"
        raise WorkerError(msg) from error
    cluster: Any = None
    try:
        if scheduler is None:
            count = min(workers or os.cpu_count() or 1, len(tasks))
            cluster = dask.LocalCluster(  # no dashboard: nothing of a study is served by the way
                n_workers=count, threads_per_worker=1, dashboard_address=None, silence_logs=40
            )
        try:
            client = dask.Client(cluster or scheduler, timeout=20)
        except (OSError, TimeoutError, ValueError) as error:
            msg = f"{scheduler}: no Dask scheduler answers there. Start one with `dask scheduler`."
            raise WorkerError(msg) from error
        with client:
            futures = client.map(function, tasks, pure=False)
            by_key = {future.key: task for future, task in zip(futures, tasks, strict=True)}
            for future in dask.as_completed(futures):
                try:
                    yield future.result()
                except killed as error:
                    if on_death is None:
                        msg = (
                            "A Dask worker died, perhaps for lack of memory. "
                            "Give workers more memory."
                        )
                        raise WorkerError(msg) from error
                    yield on_death(by_key[future.key])
                future.release()
    finally:
        if cluster is not None:
            with contextlib.suppress(TimeoutError):
                cluster.close()
