"""Functions here are run by other processes, which import them by their module's name."""

import os
import sys
import time

import pytest

from pasta.workers import WorkerError, _by_pool, mapped, worker_number

pytestmark = pytest.mark.usefixtures("importable")


@pytest.fixture
def importable(tmp_path, monkeypatch):
    """A module that spawned processes find."""
    (tmp_path / "errands.py").write_text(
        "import os, signal, time\n"
        "from pasta.workers import worker_number\n"
        "def double(n):\n    return 2 * n\n"
        "def number(n):\n    time.sleep(0.2)\n    return worker_number()\n"
        "def deadly(n):\n"
        "    if n == 3:\n        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    time.sleep(0.1)\n    return n\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    sys.modules.pop("errands", None)


def errand(name):
    import importlib

    return getattr(importlib.import_module("errands"), name)


def test_a_task_that_kills_its_worker_fails_alone():
    found = sorted(_by_pool(errand("deadly"), range(8), 2, lambda n: -n))
    assert found == [-3, 0, 1, 2, 4, 5, 6, 7]


def test_without_an_answer_for_it_a_dead_worker_is_an_error():
    with pytest.raises(WorkerError, match="fewer --workers"):
        list(_by_pool(errand("deadly"), range(8), 1, None))


def test_workers_of_a_pool_are_numbered():
    assert set(_by_pool(errand("number"), range(8), 2, None)) == {0, 1}


def test_closing_early_ends_the_workers_at_once():
    outcomes = _by_pool(errand("number"), range(50), 1, None)
    next(outcomes)
    start = time.monotonic()
    outcomes.close()
    assert time.monotonic() - start < 5
    assert worker_number() is None


def test_no_workers_means_this_process():
    assert list(mapped(errand("double"), [1, 2], workers=0)) == [2, 4]
