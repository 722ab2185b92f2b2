"""Marks of cases in work, and what a saved label tells of the versions before it."""

import importlib.util
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from serving import APP, body, save_ct

from pasta.geometry import Volume
from pasta.io import write_labelmap
from pasta.store import Store

_spec = importlib.util.spec_from_file_location("readings", APP / "lib" / "readings.py")
readings = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(readings)


class Clock:
    def __init__(self):
        self.now = datetime(2026, 11, 24, tzinfo=UTC)

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def readers(marks, image):
    return [mark["reader"] for mark in marks.of(image)]


def test_marks_outlive_the_server_and_end_by_themselves(tmp_path, clock):
    path = tmp_path / "readings.json"
    marks = readings.Readings(path, clock)
    marks.begin("ct", "R1")
    clock.now += timedelta(hours=7)
    marks.begin("ct", "R2")
    again = readings.Readings(path, clock)
    assert readers(again, "ct") == ["R1", "R2"]
    clock.now += timedelta(hours=2)
    assert readers(again, "ct") == ["R2"]
    again.release("ct", "R2")
    again.release("ct", "R2")
    again.release("other", "R2")
    assert json.loads(path.read_text()) == {}


def test_a_damaged_file_of_marks_stops_nobody(tmp_path, clock):
    path = tmp_path / "readings.json"
    for text in ("{", "[]", '{"ct": 5, "b": {"R1": "yesterday", "R2": 7}}'):
        path.write_text(text)
        marks = readings.Readings(path, clock)
        assert marks.of("ct") == marks.of("b") == []
        marks.begin("ct", "R1")
        assert readers(marks, "ct") == ["R1"]


def test_marks_of_one_image_are_bounded(tmp_path, clock):
    marks = readings.Readings(tmp_path / "readings.json", clock)
    for number in range(readings.MOST_READERS + 5):
        clock.now += timedelta(seconds=1)
        marks.begin("ct", f"R{number}")
    assert len(marks.of("ct")) == readings.MOST_READERS
    assert "R0" not in readers(marks, "ct")


def test_routes_mark_and_unmark_a_case(server):
    begun = server.request("POST", "/pasta/images/ct/reading", json={"reader": "R1"})
    assert begun.status_code == 200, begun.text
    assert [mark["reader"] for mark in begun.json()["in_work"]] == ["R1"]
    one = server.get("/pasta/images/ct").json()
    assert one["in_work"] == begun.json()["in_work"]
    assert one["shape"] == list(body().shape)
    assert len(one["sha256"]) == 64
    assert one["download"] == {"suffix": ".nii.gz", "sha256": one["sha256"]}
    ended = server.request("DELETE", "/pasta/images/ct/reading", params={"reader": "R1"})
    assert ended.json()["in_work"] == []
    for method in ("POST", "DELETE"):
        assert server.request(method, "/pasta/images/none/reading").status_code == 404
    bad = server.request("POST", "/pasta/images/ct/reading", json={"reader": "../x"})
    assert bad.status_code == 422


def test_a_record_names_the_version_that_it_follows(tmp_path):
    save_ct(tmp_path / "ct.nii.gz", body())
    store = Store(tmp_path)
    grid = store.grid("ct")
    mask = tmp_path / "mask.nii.gz"
    write_labelmap(Volume((body() > 0).astype("uint8"), grid.affine), mask)
    mask = mask.rename(tmp_path.parent / f"{tmp_path.name}-mask.nii.gz")
    found = [store.save_label("ct", mask, tag="final", reader="R1").replaced for _ in range(3)]
    assert found == [0, 1, 2]
    store.remove_label("ct", "final", "R1")
    assert store.save_label("ct", mask, tag="final", reader="R1").replaced == 0
    assert Store(tmp_path).history("ct", "final", "R1")[-1].version == 5


def test_running_out_of_memory_is_told_whoever_says_so():
    code = f"""
import sys; sys.path.insert(0, {str(APP)!r})
import torch
from lib.answers import http_error
for error in (
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory."),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: x"),
):
    found = http_error(error)
    assert (found.status_code, "out of memory" in found.detail) == (507, True), error
assert http_error(RuntimeError("shapes differ")).status_code == 500
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
