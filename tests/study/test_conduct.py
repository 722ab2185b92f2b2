"""Whose turn is which case: budget, order, washout, and a state that its events bring back."""

from datetime import UTC, datetime, timedelta

import pytest

from pasta.study import case_code
from pasta.study.allocation import Allocation, Block
from pasta.study.conduct import Conduct, ConductError, case_seconds, timing_seconds
from pasta.study.protocol import Part, Protocol, Reader

T0 = datetime(2026, 11, 27, 9, 0, tzinfo=UTC)


def code(image):
    return case_code(b"k" * 32, image)


def conduct(*, budget=60, washout=0, crossed=False):
    part = Part(
        "screening", "screen", ("liver",), ("solo", "assisted"), budget, "crossed", None, ("t1",),
        "three-row", "soft tissue", (), ("screening",), (),
    )  # fmt: skip
    protocol = Protocol("s", "S", 1, washout, 30, True, (Reader("J1", "junior"),), (part,))
    images = (("a", "b", "c"), ("a", "b", "c") if crossed else ("d", "e", "f"))
    blocks = tuple(
        Block(
            f"J1-screening-liver-{arm}",
            "J1",
            "screening",
            "liver",
            arm,
            order,
            images[order - 1],
            ("t1",),
        )
        for order, arm in ((1, "solo"), (2, "assisted"))
    )
    return Conduct(protocol, Allocation("s", 1, blocks), code)


class Play:
    """Feeds a conduct the events that a server would write."""

    def __init__(self, state):
        self.state, self.now, self.events = state, T0, []

    def tell(self, kind, case="", **payload):
        self.now += timedelta(seconds=1)
        event = {"type": kind, "utc": self.now.isoformat(), "case": case, "payload": payload}
        self.events.append(event)
        self.state.apply(event)

    def login(self, session="s-1"):
        block = self.state.begin("J1", self.now).block
        self.tell("login", session=session, reader="J1", block=block.id, arm=block.arm)
        return self.state.sessions[session]

    def hand(self, session):
        step = self.state.step(session)
        if step.slot:
            self.tell(
                "case_assigned",
                step.slot.code,
                session=session.id,
                block=session.block,
                resumed=step.resumed,
            )
        return step

    def answer(self, session, slot, seconds=10.0, status="complete"):
        status = self.state.status_of(self.state.blocks[session.block], slot.code, status, seconds)
        self.tell(
            "answer_received",
            slot.code,
            session=session.id,
            block=session.block,
            status=status,
            seconds=seconds,
        )
        return status


def read_block(play, session, seconds=10.0):
    images = []
    while (step := play.hand(session)).slot:
        play.answer(session, step.slot, seconds)
        images.append(step.slot.image)
    return images, step


def test_a_block_is_handed_out_in_its_order_training_first():
    play = Play(conduct())
    images, step = read_block(play, play.login())
    assert images == ["t1", "a", "b", "c"]
    assert step.end == "block"


def test_a_case_stays_the_next_one_until_it_is_answered():
    play = Play(conduct())
    session = play.login()
    first = play.hand(session).slot
    assert play.hand(session).slot == first
    assert play.state.blocks[session.block].upcoming().image == "a"


def test_training_costs_no_budget_and_the_budget_ends_the_block():
    play = Play(conduct(budget=25))
    session = play.login()
    images, step = read_block(play, session, seconds=10.0)
    state = play.state.blocks[session.block]
    assert images == ["t1", "a", "b", "c"]  # 20 s are used when c is handed out
    assert state.done[code("c")] == "budget"  # which went past 25 s, and is marked
    assert step.end == "block"  # nothing is unread
    play = Play(conduct(budget=20))
    session = play.login()
    images, step = read_block(play, session, seconds=10.0)
    assert images == ["t1", "a", "b"]
    assert (step.end, step.expires) == ("budget", True)
    play.tell("budget_expired", session=session.id, block=session.block)
    assert play.state.block_of("J1").block.arm == "assisted"


def test_the_countdown_may_be_a_second_late():
    play = Play(conduct(budget=20))
    session = play.login()
    state = play.state.blocks[session.block]
    assert play.state.status_of(state, code("a"), "complete", 20.9) == "complete"
    assert play.state.status_of(state, code("a"), "complete", 21.1) == "budget"
    assert play.state.status_of(state, code("t1"), "complete", 99.0) == "complete"
    assert play.state.status_of(state, code("a"), "interrupted", 99.0) == "interrupted"


def test_a_part_without_budget_never_ends_early():
    play = Play(conduct(budget=None))
    session = play.login()
    images, _ = read_block(play, session, seconds=1e6)
    assert len(images) == 4
    assert play.state.blocks[session.block].left_seconds is None


def test_an_interrupted_case_is_handed_out_again_and_marked():
    play = Play(conduct())
    session = play.login()
    slot = play.hand(session).slot
    play.tell("logout", session=session.id, reason="end")
    later = play.login("s-2")
    step = play.hand(later)
    assert (step.slot, step.resumed) == (slot, True)
    assert play.hand(later).resumed
    with pytest.raises(ConductError, match="ended"):
        play.state.step(session)


def test_a_second_answer_changes_nothing_of_the_conduct():
    play = Play(conduct())
    session = play.login()
    slot = play.hand(session).slot
    play.answer(session, slot, 5.0)
    second = play.hand(session).slot
    play.answer(session, slot, 50.0, status="skip")
    state = play.state.blocks[session.block]
    assert (state.done[slot.code], state.seconds[slot.code]) == ("complete", 5.0)
    assert state.open == second.code


def test_washout_counts_from_the_last_answer_and_can_be_overridden():
    play = Play(conduct(washout=28, crossed=True))
    session = play.login()
    read_block(play, session)
    end = play.now
    with pytest.raises(ConductError, match="washout of 28 days") as refused:
        play.state.begin("J1", end + timedelta(days=27, hours=23))
    assert refused.value.code == "washout"
    assert play.state.begin("J1", end + timedelta(days=28)).block.arm == "assisted"
    play.tell("override", what="washout", block="J1-screening-liver-assisted", reason="holidays")
    assert play.state.begin("J1", end).block.arm == "assisted"


def test_no_washout_without_shared_cases_and_none_within_a_block():
    play = Play(conduct(washout=28))
    read_block(play, play.login())
    assert play.state.begin("J1", play.now).block.arm == "assisted"
    play = Play(conduct(washout=28, crossed=True))
    session = play.login()
    play.answer(session, play.hand(session).slot)
    assert play.state.begin("J1", play.now).block.arm == "solo"


def test_a_clock_that_was_set_back_makes_no_washout_longer_or_shorter():
    play = Play(conduct(washout=1, crossed=True))
    read_block(play, play.login())
    end = play.now
    play.now = end + timedelta(days=2)
    play.tell("clock_check")
    assert play.state.begin("J1", T0 - timedelta(days=365)).block.arm == "assisted"


def test_a_reader_who_has_read_all_is_told_so():
    play = Play(conduct())
    for session in ("s-1", "s-2"):
        _, step = read_block(play, play.login(session))
    assert step.end == "study"
    with pytest.raises(ConductError, match="all blocks"):
        play.state.begin("J1", play.now)


def test_events_read_again_bring_the_same_state_back():
    play = Play(conduct())
    session = play.login()
    play.answer(session, play.hand(session).slot)
    play.hand(session)
    play.tell("pause_start", session=session.id)
    again = conduct()
    for event in play.events:
        again.apply(event)
    assert again.blocks == play.state.blocks
    assert again.sessions == play.state.sessions
    assert again.step(again.sessions["s-1"]) == play.state.step(session)


def event(kind, second, boot="b1", case="c-1"):
    return {"type": kind, "mono_ns": 10**12 + int(second * 1e9), "boot_id": boot, "case": case}


def test_time_of_a_case_is_load_start_to_complete_without_pauses():
    events = [
        event("case_requested", 0), event("load_start", 1), event("load_end", 2),
        event("pause_start", 5), event("pause_end", 65), event("case_complete", 71),
        event("load_start", 72, case="c-2"),
    ]  # fmt: skip
    assert case_seconds(events, "c-1") == 10.0
    assert case_seconds(events, "c-3") is None


def test_time_of_an_interrupted_case_sums_what_was_read():
    events = [
        event("load_start", 1), event("slice_scroll", 6),
        event("load_start", 0, boot="b2"), event("case_complete", 4, boot="b2"),
    ]  # fmt: skip
    assert case_seconds(events, "c-1") == 9.0
    assert case_seconds(events[:2], "c-1") == 5.0
    assert (
        case_seconds([*events[:1], event("pause_start", 3), event("focus_lost", 9)], "c-1") == 2.0
    )


def test_time_told_with_an_answer():
    assert timing_seconds({"reading_seconds": 8.0, "load_seconds": 1.5, "wall_seconds": 99}) == 9.5
    assert timing_seconds({"seconds": 7, "reading_seconds": 8.0}) == 7.0
    for nothing in (
        None,
        {},
        {"seconds": "5"},
        {"seconds": -1},
        {"seconds": True},
        {"seconds": 1e9},
    ):
        assert timing_seconds(nothing) is None
