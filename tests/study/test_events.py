"""The event log: what is written stays, torn lines are put aside, changes show."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasta.study import EventError, EventLog, case_code, read_events, verify


def written(path, count=6):
    with EventLog(path, reader="R1", arm="assisted") as log:
        for number in range(count):
            log.append("slice_scroll", {"count": number}, case="crlm_1004")
        return log.head


def test_events_form_a_chain_and_carry_the_fields_of_the_study(tmp_path):
    path = tmp_path / "log.jsonl"
    head = written(path)
    found = verify(path, head)
    assert (found.ok, found.events, found.head) == (True, 6, head)
    event = next(read_events(path))
    assert set(event) == {
        "v", "study_id", "session_id", "seq", "event_id", "type", "reader", "level", "arm", "task",
        "organ", "case", "position", "boot_id", "mono_ns", "utc", "payload", "prev_sha256", "sha256",
    }  # fmt: skip
    assert (event["seq"], event["reader"], event["type"]) == (1, "R1", "slice_scroll")


def test_a_second_session_goes_on_with_the_chain(tmp_path):
    path = tmp_path / "log.jsonl"
    written(path)
    written(path)
    assert verify(path).events == 12
    sessions = {event["session_id"] for event in read_events(path)}
    assert len(sessions) == 2


def test_each_event_is_on_the_disk_before_append_returns(tmp_path, monkeypatch):
    synced = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(fd), real(fd)))
    path = tmp_path / "log.jsonl"
    with EventLog(path) as log:
        for count in (1, 2, 3):
            log.append("undo")
            assert len(synced) == count
            assert len(path.read_bytes().splitlines()) == count


def test_no_id_of_an_image_gets_into_the_log(tmp_path):
    path = tmp_path / "log.jsonl"
    with EventLog(path, reader="R1", study_key="secret") as log:
        log.append("case_requested", case="Doe_John_1950")
    text = path.read_text()
    assert "Doe" not in text
    assert case_code("secret", "Doe_John_1950") in text
    assert case_code("secret", "a") != case_code("other", "a") != case_code(None, "a")
    assert os.uname().nodename not in text


@pytest.mark.parametrize(
    "payload",
    [
        {"patient": "x"},
        {"PatientName": {"name": "Doe"}},
        {"note": "1.2.840.113619.2.55.3"},
        {"file": "ct"},
        {"where": "/home/doe/ct.nii.gz"},
        {"where": "C:\\ct"},
        {"text": "x" * 300},
        {"object": object()},
    ],
)
def test_payloads_that_could_name_somebody_are_refused(tmp_path, payload):
    with EventLog(tmp_path / "log.jsonl") as log, pytest.raises(EventError):
        log.append("attribute_set", payload)
    assert verify(tmp_path / "log.jsonl").events == 0


def test_unknown_types_and_names_are_refused(tmp_path):
    with pytest.raises(EventError, match="reader"):
        EventLog(tmp_path / "a.jsonl", reader="Dr. Doe")
    with EventLog(tmp_path / "b.jsonl") as log, pytest.raises(EventError, match="type"):
        log.append("something")


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_any_change_is_found_and_named_by_the_first_bad_seq(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("log") / "log.jsonl"
    written(path)
    lines = path.read_bytes().splitlines(keepends=True)
    bad = data.draw(st.integers(0, len(lines) - 1))
    line = bytearray(lines[bad])
    place = data.draw(st.integers(0, len(line) - 2))
    line[place] = data.draw(st.integers(32, 126).filter(lambda c: c != line[place]))
    lines[bad] = bytes(line)
    path.write_bytes(b"".join(lines))
    found = verify(path)
    assert not found.ok
    assert found.first_bad_seq == bad + 1


def test_a_changed_event_with_its_own_hash_made_anew_breaks_the_next(tmp_path):
    path = tmp_path / "log.jsonl"
    written(path)
    lines = path.read_text().splitlines()
    from pasta.study.events import _canonical, _sha256

    event = json.loads(lines[2])
    event["payload"] = {"count": 99}
    event["sha256"] = _sha256(event)
    lines[2] = _canonical(event).decode()
    path.write_text("\n".join(lines) + "\n")
    assert verify(path).first_bad_seq == 4


@pytest.mark.parametrize("gone", [0, 2])
def test_a_line_taken_out_is_found(tmp_path, gone):
    path = tmp_path / "log.jsonl"
    written(path)
    lines = path.read_bytes().splitlines(keepends=True)
    del lines[gone]
    path.write_bytes(b"".join(lines))
    assert verify(path).first_bad_seq == gone + 1


def test_lines_taken_off_the_end_show_where_the_head_was_kept(tmp_path):
    path = tmp_path / "log.jsonl"
    head = written(path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-2]))
    assert verify(path).ok
    found = verify(path, head)
    assert (found.ok, found.first_bad_seq) == (False, 5)


@pytest.mark.parametrize("cut", [1, 10, 200])
def test_a_torn_last_line_is_put_aside_and_told(tmp_path, cut):
    path = tmp_path / "log.jsonl"
    written(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    assert not verify(path).ok
    torn = whole.splitlines(keepends=True)[-1][:-cut]
    with EventLog(path) as log:
        log.append("session_start")
    assert verify(path).ok
    events = list(read_events(path))
    assert [event["type"] for event in events[-2:]] == ["crash_recovered", "session_start"]
    assert events[-2]["payload"]["torn_bytes"] == len(torn)
    (aside,) = tmp_path.glob("log.jsonl.torn-*")
    assert aside.read_bytes() == torn


def test_a_case_that_was_never_ended_is_named_at_the_next_start(tmp_path):
    path = tmp_path / "log.jsonl"
    with EventLog(path) as log:
        log.append("case_requested", case="ct")
    with EventLog(path):
        pass
    recovered = list(read_events(path))[-1]
    assert recovered["type"] == "crash_recovered"
    assert recovered["payload"]["interrupted"] == case_code(None, "ct")
    with EventLog(path) as log:
        assert log.seq == 2  # told once


def test_a_killed_program_loses_no_event_that_was_acknowledged(tmp_path):
    path = tmp_path / "log.jsonl"
    code = (
        "import sys; from pathlib import Path; from pasta.study import EventLog\n"
        "log = EventLog(Path(sys.argv[1]))\n"
        "while True: print(log.append('undo')['seq'], flush=True)\n"
    )
    told = 0
    for lines in (5, 30, 60):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(lines):
            told = int(process.stdout.readline())
        process.kill()
        told = max([told, *map(int, process.stdout.read().split("\n")[:-1])])
        process.wait()
        with EventLog(path) as log:
            assert log.seq >= told
        assert verify(path).ok


def test_a_log_that_is_open_elsewhere_goes_on_beside_it(tmp_path):
    with EventLog(tmp_path / "R1.jsonl") as first, EventLog(tmp_path / "R1.jsonl") as second:
        first.append("undo")
        second.append("undo")
        assert second.path.name == "R1-2.jsonl"
    assert verify(tmp_path / "R1.jsonl").ok
    assert verify(tmp_path / "R1-2.jsonl").ok


def test_a_full_disk_is_told_and_leaves_the_chain_whole(tmp_path):
    path = tmp_path / "log.jsonl"
    with EventLog(path) as log:
        log.append("undo")
        real = log._file

        class Full:
            def write(self, data):
                real.write(data[:10])
                raise OSError(28, "No space left on device")

            def __getattr__(self, name):
                return getattr(real, name)

        log._file = Full()
        with pytest.raises(OSError, match="Free space"):
            log.append("undo")
        log._file = real
        log.append("undo")
    assert verify(path).events == 2


def test_times_come_from_the_clocks_that_were_given(tmp_path):
    path = tmp_path / "log.jsonl"
    moment = datetime(2026, 11, 24, tzinfo=UTC)
    with EventLog(path, monotonic_ns=lambda: 5, utc=lambda: moment) as log:
        log.append("undo")
        log.append("undo", mono_ns=3)
    first, second = read_events(path)
    assert (first["mono_ns"], second["mono_ns"]) == (5, 3)
    assert first["utc"] == "2026-11-24T00:00:00.000+00:00"
