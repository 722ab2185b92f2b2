"""Many tasks over processes of this machine or a Dask cluster; results come as they are ready."""

from __future__ import annotations

import importlib
import importlib.util
import multiprocessing
import multiprocessing.connection
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from pasta.errors import PastaError

Task = TypeVar("Task")
Outcome = TypeVar("Outcome")
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class WorkerError(PastaError, RuntimeError):
    """The workers cannot be reached, or one of them died."""


def dask_installed() -> bool:
    """Tell whether Dask's scheduler is there (the extra `synthesis`)."""
    return importlib.util.find_spec("distributed") is not None


def mapped(
    function: Callable[[Task], Outcome],
    tasks: Sequence[Task],
    *,
    scheduler: str | None = None,
    workers: int | None = None,
) -> Iterator[Outcome]:
    """Apply a function to tasks in other processes.

    Args:
        function: of a module, so that workers can import it; its result is a pure function of the task.
        tasks: to be done, in any order.
        scheduler: address of a Dask scheduler, such as "tcp://host:8786"; every worker must see the
            same files. None uses a Dask LocalCluster if Dask is installed, else a process pool.
        workers: processes on this machine; None takes one for each core. 0 works in this process.

    Yields:
        Results in the order in which they are ready.

    Raises:
        WorkerError: if Dask is wanted and not installed, its scheduler does not answer, or a worker
            dies (most often of too little memory).
    """
    if not tasks:
        return
    if scheduler is None and workers == 0:
        yield from map(function, tasks)
    elif scheduler is not None or dask_installed():
        yield from _by_dask(function, tasks, scheduler, workers)
    else:
        yield from _by_pool(function, tasks, workers)


def _by_pool(
    function: Callable[[Task], Outcome], tasks: Sequence[Task], workers: int | None
) -> Iterator[Outcome]:
    count = min(workers or os.cpu_count() or 1, len(tasks))
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    os.environ.update(dict.fromkeys(_ONE_THREAD, "1"))  # children read them when NumPy loads
    pool = ProcessPoolExecutor(
        count, mp_context=multiprocessing.get_context("spawn"), initializer=_begin_worker
    )
    try:
        for future in as_completed([pool.submit(function, task) for task in tasks]):
            yield future.result()
    except BrokenProcessPool as error:
        msg = (
            "A worker process died, perhaps for lack of memory. Run it again with fewer --workers."
        )
        raise WorkerError(msg) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _begin_worker() -> None:
    import torch

    torch.set_num_threads(1)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """End this process when its parent is killed, which a pool's workers do not notice."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _by_dask(
    function: Callable[[Task], Outcome],
    tasks: Sequence[Task],
    scheduler: str | None,
    workers: int | None,
) -> Iterator[Outcome]:
    try:
        dask = importlib.import_module("distributed")
        killed = importlib.import_module("distributed.scheduler").KilledWorker
    except ImportError as error:
        msg = "--scheduler needs Dask, which is not installed. Run: pip install 'pasta-aid[synthesis]'"
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
            for future in dask.as_completed(futures):
                try:
                    yield future.result()
                except killed as error:
                    msg = (
                        "A Dask worker died, perhaps for lack of memory. Give workers more memory."
                    )
                    raise WorkerError(msg) from error
                future.release()
    finally:
        if cluster is not None:
            cluster.close()
