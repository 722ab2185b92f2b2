"""Work beside the GUI: results come when asked for, in the thread that asks."""

import threading
import time

import pytest
from PASTAAidLib.background import Background

from pasta.errors import CancelledError


@pytest.fixture
def background():
    background = Background()
    yield background
    background.close()


def polled(background, until, seconds=5):
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, "nothing came"
        background.poll()
        time.sleep(0.002)


def test_the_result_comes_in_the_thread_that_polls(background):
    found = []

    def done(result):
        found.append((result, threading.current_thread() is threading.main_thread()))

    background.start("sum", lambda task: 1 + 1, done=done)
    assert background.busy("sum")
    time.sleep(0.05)
    assert found == []  # not before it is asked for
    polled(background, lambda: found)
    assert found == [(2, True)]
    assert not background.busy("sum")


def test_an_error_goes_to_failed(background):
    found = []
    background.start("bad", lambda task: 1 / 0, failed=found.append)
    polled(background, lambda: found)
    assert isinstance(found[0], ZeroDivisionError)


def test_of_much_progress_only_the_newest_is_shown(background):
    shown, found = [], []

    def work(task):
        for step in range(1000):
            task.progress(step / 1000, f"step {step}")

    background.start("long", work, done=found.append, progress=lambda *told: shown.append(told))
    time.sleep(0.1)
    polled(background, lambda: found)
    assert shown == [(0.999, "step 999")]


def test_cancelled_work_stops_at_its_next_sign_of_progress(background):
    found, begun = [], threading.Event()

    def work(task):
        begun.set()
        while True:
            task.progress(0.5, "working")
            time.sleep(0.002)

    background.start("endless", work, failed=found.append)
    begun.wait(5)
    background.cancel("endless")
    polled(background, lambda: found)
    assert isinstance(found[0], CancelledError)
    background.cancel("nothing of the kind")


def test_work_that_is_replaced_is_never_heard_of_again(background):
    found, go = [], threading.Event()
    first = background.start("case", lambda task: go.wait(5) and "old", done=found.append)
    background.start("case", lambda task: "new", done=found.append)
    go.set()
    polled(background, lambda: found)
    time.sleep(0.05)
    background.poll()
    assert found == ["new"]
    assert first.cancelled


def test_a_callback_that_fails_loses_no_other(background):
    found = []

    def broken(_result):
        raise RuntimeError

    background.start("a", lambda task: 1, done=broken)
    time.sleep(0.05)
    background.start("b", lambda task: 2, done=found.append)
    time.sleep(0.05)
    with pytest.raises(RuntimeError):
        background.poll()
    background.poll()
    assert found == [2]


def test_a_callback_may_start_the_next_work_of_its_name(background):
    found = []

    def again(result):
        found.append(result)
        if result < 3:
            background.start("chain", lambda task: result + 1, done=again)

    background.start("chain", lambda task: 1, done=again)
    polled(background, lambda: len(found) == 3)


def test_closing_waits_shortly_and_calls_nobody(background):
    found = []
    background.start("stuck", lambda task: time.sleep(3), done=found.append, failed=found.append)
    start = time.monotonic()
    background.close(0.2)
    assert time.monotonic() - start < 1
    background.start("late", lambda task: 1, done=found.append)
    background.poll()
    assert found == []


def test_polling_takes_little_time_even_with_much_to_deliver(background):
    for number in range(50):
        background.start(f"w{number}", lambda task: 1, done=lambda _result: time.sleep(0.005))
    time.sleep(0.2)
    start = time.monotonic()
    background.poll(0.01)
    assert time.monotonic() - start < 0.2  # all of them would take 0.25
