"""The reading clock, with clocks that the tests turn."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasta.study import ClockError, EventLog, EventLogError, ReadingClock, read_events, verify

IDLE = 30.0


class World:
    """Time, and the events that were logged."""

    def __init__(self):
        self.ns = 10**12
        self.utc = datetime(2026, 11, 24, tzinfo=UTC)
        self.events = []
        self.clock = ReadingClock(
            self, monotonic_ns=lambda: self.ns, utc=lambda: self.utc, idle_seconds=IDLE
        )

    def append(self, kind, payload=None, **fields):
        self.events.append((kind, dict(payload or {}), fields))

    def passes(self, seconds, *, asleep=False):
        self.utc += timedelta(seconds=seconds)
        if not asleep:
            self.ns += round(seconds * 1e9)

    def kinds(self):
        return [kind for kind, _, _ in self.events]

    def opened(self):
        self.clock.case_requested("ct")
        self.clock.load_start()
        self.passes(4)
        self.clock.displayed()
        return self.clock


@pytest.fixture
def world():
    return World()


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "activity", "tick", "pause", "resume", "focus", "blur", "ai", "ai end", "save",
                "save end", "load", "load end", "note", "timing", "displayed",
            ]
        ),
        st.floats(0, 90),
    ),
    max_size=40,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(STEPS, st.floats(0, 90))
def test_wall_is_reading_and_pauses_whatever_happens(steps, last):
    world = World()
    clock = world.opened()
    wall = paused = 0.0
    for step, seconds in steps:
        before = clock.state
        world.passes(seconds)
        wall += seconds
        paused += seconds if before == "paused" else 0
        {
            "activity": clock.activity,
            "tick": clock.tick,
            "pause": lambda: clock.pause("phone"),
            "resume": clock.resume,
            "focus": lambda: clock.focus(True),
            "blur": lambda: clock.focus(False),
            "ai": lambda: clock.wait_start("ai"),
            "ai end": lambda: clock.wait_end("ai"),
            "save": lambda: clock.wait_start("save"),
            "save end": lambda: clock.wait_end("save"),
            "load": lambda: clock.wait_start("load"),
            "load end": lambda: clock.wait_end("load"),
            "note": lambda: clock.note("undo"),
            "timing": clock.timing,
            "displayed": clock.displayed,
        }[step]()
        assert clock.elapsed_seconds == pytest.approx(wall - paused, abs=1e-6)
    paused += last if clock.state == "paused" else 0
    world.passes(last)
    timing = clock.complete()
    near = {"abs": 1e-6}
    assert timing.wall_seconds == pytest.approx(wall + last, **near)
    assert timing.wall_seconds == pytest.approx(timing.reading_seconds + timing.paused_seconds)
    assert timing.paused_seconds == pytest.approx(paused, **near)
    # idle time, focus and waits are told beside the reading time and not taken off
    for part in ("idle", "unfocused", "ai_wait", "save_wait", "active"):
        assert -1e-6 <= getattr(timing, f"{part}_seconds") <= timing.reading_seconds + 1e-6
    assert timing.load_seconds >= 4
    assert clock.state == "idle"
    assert clock.problem == ""


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.floats(0.1, 100).filter(lambda gap: abs(gap - IDLE) > 0.01), min_size=1, max_size=20
    ),
    st.integers(1, 40),
)
def test_idle_time_does_not_depend_on_when_the_ticks_come(gaps, ticks):
    found = []
    for count in (0, ticks):
        world = World()
        clock = world.opened()
        for gap in gaps:
            for _ in range(count):
                world.passes(gap / (count + 1))
                clock.tick()
            world.passes(gap / (count + 1))
            clock.activity()
        found.append(clock.complete())
    assert found[0].idle_seconds == pytest.approx(found[1].idle_seconds, abs=1e-3)
    expected = sum(gap for gap in gaps if gap >= IDLE)
    assert found[0].idle_seconds == pytest.approx(expected, abs=1e-3)


def test_it_starts_when_the_images_are_displayed_and_not_before(world):
    clock = world.clock
    clock.displayed()
    assert clock.state == "idle"  # nothing was asked for
    clock.case_requested("ct", task="report", organ="liver", position=3)
    world.passes(7)
    clock.load_start()
    world.passes(4)
    assert (clock.state, clock.elapsed_seconds) == ("idle", 0)
    clock.displayed()
    world.passes(10)
    clock.displayed()
    assert clock.state == "running"
    assert clock.elapsed_seconds == 10
    timing = clock.complete()
    assert (timing.wall_seconds, timing.load_seconds) == (10, 4)
    assert world.kinds() == ["case_requested", "load_start", "load_end", "case_complete"]
    assert world.events[-1][2]["case"] == "ct"
    assert world.events[-1][2]["position"] == 3


def test_it_stops_at_complete(world):
    clock = world.opened()
    world.passes(5)
    clock.complete()
    world.passes(50)
    assert clock.elapsed_seconds == 5
    with pytest.raises(ClockError):
        clock.complete()
    clock.pause("late")
    clock.activity()
    clock.tick()
    assert world.kinds()[-1] == "case_complete"


def test_staring_is_idle_from_the_last_input_on_and_still_reading(world):
    clock = world.opened()
    world.passes(10)
    clock.activity()
    for _ in range(50):
        world.passes(1)
        clock.tick()
    clock.activity()
    world.passes(1)
    timing = clock.complete()
    assert timing.idle_seconds == 50
    assert timing.reading_seconds == timing.wall_seconds == 61
    assert timing.active_seconds == 11
    kinds = world.kinds()
    assert kinds.count("idle_start") == kinds.count("idle_end") == 1
    start = next(payload for kind, payload, _ in world.events if kind == "idle_start")
    assert start["quiet_seconds"] == 30


def test_a_pause_with_its_reason_is_the_only_thing_taken_off(world):
    clock = world.opened()
    world.passes(10)
    clock.pause("phone call")
    world.passes(100)
    clock.tick()
    clock.resume()
    world.passes(5)
    timing = clock.complete()
    assert (timing.wall_seconds, timing.paused_seconds, timing.reading_seconds) == (115, 100, 15)
    assert timing.idle_seconds == 0
    assert timing.pauses == 1
    assert ("pause_start", {"reason": "phone call"}) in [event[:2] for event in world.events]


def test_completing_in_a_pause_ends_the_pause(world):
    clock = world.opened()
    world.passes(3)
    clock.pause("phone")
    world.passes(4)
    timing = clock.complete()
    assert (timing.reading_seconds, timing.paused_seconds) == (3, 4)
    assert world.kinds()[-2:] == ["pause_end", "case_complete"]


def test_waits_are_counted_apart_and_overlap_counts_once(world):
    clock = world.opened()
    clock.wait_start("ai")
    world.passes(10)
    clock.wait_start("save")
    world.passes(10)
    clock.wait_end("ai")
    world.passes(10)
    clock.wait_end("save")
    clock.wait_end("save")
    world.passes(10)
    timing = clock.complete()
    assert (timing.ai_wait_seconds, timing.save_wait_seconds) == (20, 20)
    assert timing.reading_seconds == 40
    assert timing.active_seconds == 10
    assert timing.idle_seconds == 0  # whoever waits is not idle
    with pytest.raises(ValueError, match="ai, load, save"):
        clock.wait_start("coffee")


def test_lost_focus_is_flagged_even_across_cases(world):
    clock = world.opened()
    clock.focus(True)
    world.passes(5)
    clock.focus(False)
    world.passes(7)
    clock.focus(False)
    timing = clock.complete()
    assert (timing.unfocused_seconds, timing.reading_seconds) == (7, 12)
    assert world.kinds().count("focus_lost") == 1
    clock.case_requested("next")
    clock.displayed()
    world.passes(2)
    assert clock.complete().unfocused_seconds == 2


def test_sleep_shows_in_the_drift_between_the_clocks(world):
    clock = world.opened()
    world.passes(5)
    clock.tick()
    world.passes(3600, asleep=True)
    clock.tick()
    timing = clock.complete()
    assert timing.suspends == 1
    assert timing.reading_seconds == 5
    assert "suspend_detected" in world.kinds()


def test_sleep_with_a_monotonic_clock_that_runs_on_shows_in_missing_ticks(world):
    clock = world.opened()
    clock.tick()
    world.passes(3600)
    clock.tick()
    assert clock.complete().suspends == 1


def test_a_case_that_is_left_or_replaced_is_logged_as_skipped(world):
    clock = world.opened()
    world.passes(5)
    clock.abandon("left")
    assert clock.state == "idle"
    assert world.events[-1][0] == "case_skip"
    assert world.events[-1][1]["reading_seconds"] == 5
    world.opened()
    clock.case_requested("other")
    assert world.kinds()[-2:] == ["case_skip", "case_requested"]
    clock.abandon("never shown")
    clock.abandon("twice")
    assert world.kinds()[-1] == "case_skip"


def test_the_first_input_is_told_once(world):
    clock = world.opened()
    clock.activity()
    clock.activity()
    assert world.kinds().count("first_interaction") == 1


def test_a_log_that_fails_stops_no_clock(world):
    clock = world.opened()

    def full(*_arguments, **_fields):
        raise EventLogError("the disk is full. Free space.")  # noqa: EM101

    world.append = full
    clock.note("undo")
    world.passes(5)
    assert clock.complete().reading_seconds == 5
    assert clock.problem == "the disk is full. Free space."


def test_all_of_it_goes_into_a_real_log(tmp_path):
    with EventLog(tmp_path / "log.jsonl", reader="R1") as log:
        clock = ReadingClock(log)
        clock.case_requested("ct", task="report", position=1)
        clock.load_start()
        clock.displayed()
        clock.activity()
        clock.note("attribute_set", attribute="shape", old="Round-like", new="Irregular")
        clock.wait_start("ai")
        clock.wait_end("ai")
        clock.pause("phone")
        clock.resume()
        clock.focus(False)
        clock.tick()
        timing = clock.complete()
        assert clock.problem == ""
    assert verify(tmp_path / "log.jsonl").ok
    events = list(read_events(tmp_path / "log.jsonl"))
    assert events[-1]["payload"] == timing.document()
    assert [event["type"] for event in events][:3] == ["case_requested", "load_start", "load_end"]
    monotonic = [event["mono_ns"] for event in events]
    assert monotonic == sorted(monotonic)


def test_a_completed_case_that_is_reopened_adds_up_without_the_time_between(world):
    clock = world.opened()
    world.passes(20)
    clock.complete()
    world.passes(100)
    clock.wait_end("ai")  # a late answer looks at the clock, too
    world.passes(20)
    clock.reopen("edited")
    assert world.kinds()[-1] == "reopen"
    assert world.events[-1][1]["closed_seconds"] == pytest.approx(120)
    assert world.events[-1][2]["case"] == "ct"
    world.passes(5)
    timing = clock.complete()
    assert timing.reading_seconds == pytest.approx(25)
    assert timing.wall_seconds == pytest.approx(25)
    clock.case_requested("another")
    clock.reopen("too late")
    assert clock.state == "idle"
    assert world.kinds()[-1] == "case_requested"
