"""Drafts: what was acknowledged is on the disk, whatever happens to the program."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PASTAAidLib.drafts import DraftError, Drafts

MODULE = Path(__file__).resolve().parents[3] / "slicer_extension" / "PASTAAid"
KILLS = 50
WRITER = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from PASTAAidLib.drafts import Drafts
drafts = Drafts(Path(sys.argv[2]))
count = int(sys.argv[3])
while True:
    count += 1
    mask = None if count % 3 == 0 else (lambda path: path.write_bytes(str(count).encode() * 20000))
    drafts.save("ct", {"count": count}, {"mask": mask is not None}, mask)
    os.write(1, f"{count}\\n".encode())
"""


def save(drafts, count, mask=True, case="ct"):
    writer = (lambda path: path.write_bytes(b"mask %d" % count)) if mask else None
    return drafts.save(case, {"count": count}, {"tool": "paint"}, writer)


@pytest.fixture
def drafts(tmp_path):
    return Drafts(tmp_path / "drafts")


def test_a_draft_comes_back_as_it_was(drafts):
    assert drafts.load("ct") is None
    assert drafts.recoverable() == []
    saved = save(drafts, 1)
    assert saved.mask.name.endswith(".seg.nrrd")
    again = Drafts(drafts.folder).load("ct")
    assert again == saved
    assert again.mask.read_bytes() == b"mask 1"
    assert (again.report, again.state, again.case_id) == ({"count": 1}, {"tool": "paint"}, "ct")


def test_a_save_without_a_mask_keeps_the_one_before(drafts):
    save(drafts, 1)
    for count in range(2, 9):
        save(drafts, count, mask=False)
    draft = drafts.load("ct")
    assert (draft.report, draft.mask.read_bytes()) == ({"count": 8}, b"mask 1")


def test_the_last_three_generations_are_kept_and_no_more(drafts):
    for count in range(1, 8):
        folder = save(drafts, count).folder
    names = sorted(path.name for path in folder.iterdir())
    assert sum(name.endswith(".json") and name.startswith("g") for name in names) == 3
    assert sum(name.endswith(".seg.nrrd") for name in names) == 3
    assert len(names) == 6


@pytest.mark.parametrize("damage", ["torn", "changed", "mask torn", "mask changed", "mask gone"])
def test_a_damaged_draft_is_set_aside_and_the_one_before_is_offered(drafts, damage):
    save(drafts, 1)
    last = save(drafts, 2)
    path = last.folder / f"g{last.generation:06d}.json"
    if damage == "torn":
        path.write_bytes(path.read_bytes()[:-20])
    elif damage == "changed":
        path.write_text(path.read_text().replace('"count": 2', '"count": 3'))
    elif damage == "mask torn":
        last.mask.write_bytes(b"mas")
    elif damage == "mask changed":
        last.mask.write_bytes(b"mask X")
    else:
        last.mask.unlink()
    (found,) = drafts.recoverable()
    assert (found.report, found.mask.read_bytes()) == ({"count": 1}, b"mask 1")
    assert found.damaged == (path.name,)
    assert any((last.folder / "damaged").iterdir())
    save(drafts, 4)
    assert drafts.load("ct").report == {"count": 4}


def test_only_cases_that_were_not_left_in_order_are_offered(drafts):
    save(drafts, 1, case="a")
    save(drafts, 2, case="b")
    save(drafts, 3, case="c")
    drafts.close("a")
    drafts.finish("b")
    assert [draft.case_id for draft in drafts.recoverable()] == ["c"]
    assert drafts.load("a").report == {"count": 1}  # reopened with the case
    assert drafts.load("b") is None
    save(drafts, 4, case="a")
    assert [draft.case_id for draft in drafts.recoverable()] == ["a", "c"]
    drafts.close("never saved")
    drafts.finish("never saved")


def test_ids_that_differ_by_case_only_do_not_meet(drafts):
    save(drafts, 1, case="CT")
    save(drafts, 2, case="ct")
    assert drafts.load("CT").report == {"count": 1}


def test_a_full_disk_is_told_and_the_draft_before_stays(drafts):
    save(drafts, 1)

    def full(path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(DraftError, match="free space"):
        drafts.save("ct", {"count": 2}, {}, full)
    folder = drafts.load("ct").folder
    assert drafts.load("ct").report == {"count": 1}
    assert not list(folder.glob("part-*"))


def test_a_writer_that_fails_otherwise_is_heard(drafts):
    save(drafts, 1)
    with pytest.raises(ZeroDivisionError):
        drafts.save("ct", {"count": 2}, {}, lambda path: 1 / 0)
    assert drafts.load("ct").report == {"count": 1}


def test_fifty_kills_lose_nothing_that_was_acknowledged(drafts):
    random.seed(0)
    told = 0
    for _ in range(KILLS):
        process = subprocess.Popen(
            [sys.executable, "-S", "-c", WRITER, str(MODULE), str(drafts.folder), str(told)],
            stdout=subprocess.PIPE,
            env={"PYTHONPATH": ":".join(path for path in sys.path if path)},
        )
        first = process.stdout.readline()
        time.sleep(random.uniform(0, 0.03))
        process.kill()  # SIGKILL
        rest = process.stdout.read()
        process.wait()
        told = max([told, *(int(line) for line in (first + rest).split())])
        draft = Drafts(drafts.folder).load("ct")
        assert draft.damaged == ()  # a kill tears nothing
        count = draft.report["count"]
        assert count >= told
        with_mask = count if count % 3 else count - 1
        assert draft.mask.read_bytes() == str(with_mask).encode() * 20000
        assert [found.case_id for found in drafts.recoverable()] == ["ct"]
        told = count
    assert told >= KILLS
