"""The worklist as a reader sees it, and CTs kept on this machine."""

import os

import pytest
from PASTAAidLib.cases import Cache, Case, Worklist

from pasta.errors import OutputError


def item(name, *labels, working=()):
    labels = [{"tag": tag, "reader": r, "version": v} for tag, r, v in labels]
    return {"id": name, "labels": labels, "in_work": [{"reader": r} for r in working]}


ITEMS = [
    item("liver_01", ("final", "R1", 2), ("final", "R2", 5)),
    item("liver_02", working=["R2"]),
    item("liver_03", ("original", "pasta_diagnosis", 1)),
    item("kidney_01", working=["R1"]),
    item("kidney_02", ("final", "R2", 1)),
    item("kidney_03"),
]


@pytest.fixture
def worklist():
    return Worklist(Case.from_item(found, "R1", "final") for found in ITEMS)


def test_status_tells_new_in_work_done_and_by_me(worklist):
    assert [case.status for case in worklist.cases] == [
        "done", "in work", "new", "in work", "done", "new",
    ]  # fmt: skip
    first = worklist.get("liver_01")
    assert (first.mine, first.my_version, first.newest_version) == (True, 2, 5)
    assert first.readers == ("R1", "R2")
    assert [case.id for case in worklist.filtered(status="mine")] == ["liver_01"]
    assert len(worklist.filtered(status="new")) == 2


def test_search_takes_words_in_any_order_and_case(worklist):
    assert [case.id for case in worklist.filtered("01 LIVER")] == ["liver_01"]
    assert len(worklist.filtered("kidney")) == 3
    assert worklist.filtered("kidney", "mine") == []


def test_next_leaves_out_what_is_done_or_read_by_others_and_goes_round(worklist):
    assert worklist.next_after(None).id == "liver_03"
    assert worklist.next_after("liver_03").id == "kidney_01"  # my own reading
    assert worklist.next_after("kidney_03").id == "liver_03"
    assert worklist.next_after("gone").id == "liver_03"
    assert worklist.next_after("liver_01", open_only=False).id == "liver_02"
    assert worklist.next_after("kidney_03", open_only=False) is None
    assert worklist.previous_before("liver_02").id == "liver_01"
    assert worklist.previous_before("liver_01") is None
    assert Worklist([]).next_after(None) is None


def put(cache, case, size=100, source="s"):
    return cache.store(case, ".nii.gz", lambda path: path.write_bytes(b"x" * size), source)


def test_a_kept_ct_is_found_while_the_server_has_the_same(tmp_path):
    cache = Cache(tmp_path / "cache", 1000)
    assert cache.path("ct") is None
    path = put(cache, "ct")
    assert cache.path("ct") == cache.path("ct", "s") == path
    assert cache.path("ct", "replaced") is None
    assert "ct" not in path.name.removesuffix(".nii.gz")
    assert Cache(tmp_path / "cache", 1000, "http://b").path("ct") is None
    if os.name == "posix":
        assert (tmp_path / "cache").stat().st_mode & 0o077 == 0


def test_a_file_that_is_not_whole_is_not_there(tmp_path):
    cache = Cache(tmp_path, 1000)
    path = put(cache, "ct")
    path.write_bytes(b"x")
    assert cache.path("ct") is None

    def broken(path):
        path.write_bytes(b"half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        cache.store("other", ".nii.gz", broken)
    assert cache.path("other") is None
    assert len(list(tmp_path.glob("*.nii.gz"))) + len(list(tmp_path.glob(".*"))) == 1


def test_what_was_not_used_for_longest_goes_first(tmp_path):
    cache = Cache(tmp_path, 250)
    put(cache, "a")
    put(cache, "b")
    for age, case in ((100, "a"), (50, "b")):
        os.utime(cache._note(case), (1e9 - age, 1e9 - age))
    cache.path("a")  # used now
    put(cache, "c")
    assert cache.path("b") is None
    assert cache.path("a")
    assert cache.path("c")
    put(cache, "huge", 1000)
    assert cache.path("huge")  # what is being opened stays, whatever the limit
    assert len(list(tmp_path.glob("*.nii.gz"))) == 1


def test_a_replaced_ct_leaves_nothing(tmp_path):
    cache = Cache(tmp_path, 1000)
    put(cache, "ct")
    put(cache, "ct", source="new")
    assert len(list(tmp_path.glob("*.nii.gz"))) == 1
    assert cache.path("ct", "new")


def test_a_full_disk_is_told(tmp_path):
    def full(_path):
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="Free space"):
        Cache(tmp_path, 1000).store("ct", ".nii.gz", full)
