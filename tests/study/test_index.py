"""The index is a cache: made anew it says the same, and damage to it costs nothing."""

import pytest

from pasta.study import EventLog
from pasta.study.index import Index

CODE = "c-0123456789abcdef"


@pytest.fixture
def study(tmp_path):
    logs = tmp_path / "logs"
    logs.mkdir()
    with EventLog(logs / "server.jsonl", session_id="server") as log:
        log.append("login", {"session": "s-1", "reader": "J1", "block": "b-1", "arm": "solo"})
        where = {"session": "s-1", "reader": "J1", "block": "b-1"}
        log.append("case_assigned", where, case=CODE, position=1)
        log.append("case_assigned", {**where, "resumed": True}, case=CODE, position=1)
        for version, status in enumerate(("interrupted", "complete", "complete"), 1):
            told = {**where, "status": status, "seconds": float(version), "training": False}
            log.append("answer_received", {**told, "version": version}, case=CODE, position=1)
    with EventLog(logs / "s-1.jsonl", reader="J1", arm="solo", session_id="s-1") as log:
        log.append("load_start", case=CODE)
        log.append("suspend_detected", {"seconds": 99}, case=CODE)
        log.append("case_complete", {"idle_seconds": 3.5}, case=CODE)
    return tmp_path


def test_views_tell_sessions_and_the_answer_that_counts(study):
    index = Index(study)
    assert index.update() == 9
    (session,) = index.rows("SELECT * FROM sessions")
    assert (session["session_id"], session["reader"], session["events"]) == ("s-1", "J1", 3)
    assert session["ended_utc"] is None
    (read,) = index.rows("SELECT * FROM reads")
    assert (read["version"], read["status"], read["seconds"]) == (2, "complete", 2.0)
    assert (read["interruptions"], read["suspends"]) == (1, 1)
    assert "3.5" in read["timing"]


def test_an_index_made_anew_or_piece_by_piece_is_the_same(study):
    index = Index(study)
    index.update()
    with EventLog(study / "logs" / "s-1.jsonl", reader="J1", arm="solo", session_id="s-1") as log:
        log.append("session_end")
    index.update()
    piecewise = [
        index.rows(f"SELECT * FROM {table} ORDER BY 1, 2") for table in ("events", "logs", "reads")
    ]
    index.rebuild()
    assert piecewise == [
        index.rows(f"SELECT * FROM {table} ORDER BY 1, 2") for table in ("events", "logs", "reads")
    ]


def test_half_a_line_is_left_for_later(study):
    index = Index(study)
    path = study / "logs" / "s-1.jsonl"
    data = path.read_bytes()
    path.write_bytes(data[:-30])
    assert index.update() == 8
    path.write_bytes(data)
    assert index.update() == 9


def test_a_damaged_index_is_made_anew(study):
    index = Index(study)
    index.update()
    for damage in (b"not a database", index.path.read_bytes()[:2000], b""):
        index.path.write_bytes(damage)
        assert index.update() == 9


def test_a_log_that_is_gone_or_was_replaced_is_gone_from_the_index(study):
    index = Index(study)
    index.update()
    (study / "logs" / "s-1.jsonl").unlink()
    assert index.update() == 6
