"""What readers send is on the disk before it is acknowledged, and no byte of it changes unseen."""

import json
import resource

import pytest

from pasta.errors import OutputError
from pasta.study import EventLog
from pasta.study.archive import Archive, ArchiveError, ForkError, check

CODE = "c-0123456789abcdef"


def session_log(folder, events=12, name="s-1"):
    with EventLog(folder / f"{name}.jsonl", reader="J1", session_id=name) as log:
        for number in range(events):
            log.append("slice_scroll", {"slices": number}, case=CODE)
    return (folder / f"{name}.jsonl").read_text().splitlines()


@pytest.fixture
def lines(tmp_path):
    (tmp_path / "reader").mkdir()
    return session_log(tmp_path / "reader")


@pytest.fixture
def archive(tmp_path):
    return Archive(tmp_path / "study")


EXPECTED = {"reader": "J1", "session_id": "s-1"}


def kept(archive):
    return archive.log_path("s-1").read_text().splitlines()


def test_an_upload_can_be_repeated_from_any_point(archive, lines):
    assert archive.append("s-1", lines[:5], EXPECTED)[0] == 5
    assert archive.append("s-1", lines[2:8], EXPECTED)[0] == 8
    assert archive.append("s-1", lines, EXPECTED)[0] == 12
    assert archive.append("s-1", lines, EXPECTED) == archive.head("s-1")
    assert kept(archive) == lines


def test_a_gap_and_a_fork_are_refused_with_the_place_to_go_on(archive, lines, tmp_path):
    archive.append("s-1", lines[:5], EXPECTED)
    with pytest.raises(ForkError, match="missing or out of place") as refused:
        archive.append("s-1", lines[7:], EXPECTED)
    assert refused.value.seq == 5
    (tmp_path / "other").mkdir()
    other = session_log(tmp_path / "other")
    with pytest.raises(ForkError, match="is here already, and is another"):
        archive.append("s-1", other, EXPECTED)
    assert kept(archive) == lines[:5]


def test_lines_that_are_no_events_of_the_session_are_refused(archive, lines):
    changed = lines[0].replace('"slices":0', '"slices":9')
    foreign = json.dumps({**json.loads(lines[0]), "reader": "J2"})
    for line in ("", "x", "[]", "{}", '{"seq": 1}', "[" * 5000, foreign, "\ud800", "9" * 70_000):
        with pytest.raises(ArchiveError):
            archive.append("s-1", [line], EXPECTED)
    with pytest.raises(ForkError, match="was changed"):
        archive.append("s-1", [changed], EXPECTED)
    for name in ("../s-1", "", "server", "a/b"):
        with pytest.raises(ArchiveError):
            archive.append(name, lines, EXPECTED)


def test_a_line_torn_by_a_crash_is_put_aside_and_sent_again(archive, lines):
    archive.append("s-1", lines[:5], EXPECTED)
    path = archive.log_path("s-1")
    with path.open("ab") as file:
        file.write(lines[5].encode()[:40])
    again = Archive(archive.logs.parent)
    assert again.head("s-1")[0] == 5
    assert again.append("s-1", lines, EXPECTED)[0] == 12
    assert kept(again) == lines
    assert len(list(archive.logs.glob("*.torn-*"))) == 1


def test_a_full_disk_keeps_nothing_half_and_loses_nothing(archive, lines):
    """A limit on the size of files: the system itself refuses to write, as on a full disk."""
    archive.append("s-1", lines[:5], EXPECTED)
    size = archive.log_path("s-1").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, hard))
    try:
        with pytest.raises(OutputError, match="was not kept"):
            archive.append("s-1", lines, EXPECTED)
        with pytest.raises(OutputError, match="was not kept"):
            archive.save_answer({"block": "b", "case": CODE}, b"{}", bytes(size + 200))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert archive.log_path("s-1").stat().st_size == size
    assert not list(archive.answers())
    assert not [p for p in archive.answers_folder.rglob("*") if p.is_file()]
    assert archive.append("s-1", lines, EXPECTED)[0] == 12
    assert kept(archive) == lines


def save(archive, text="{}", mask=None, status="complete"):
    return archive.save_answer(
        {"block": "b-1", "case": CODE, "status": status}, text.encode(), mask
    )


def test_the_same_answer_again_is_the_same_and_another_is_a_new_version(archive):
    first = save(archive, '{"a": 1}', b"mask")
    again = save(archive, '{"a": 1}', b"mask")
    assert (first.new, again.new, again.path) == (True, False, first.path)
    second = save(archive, '{"a": 1}', b"other mask")
    assert (second.version, second.new) == (2, True)
    assert first.mask.read_bytes() == b"mask"
    assert second.mask.read_bytes() == b"other mask"
    assert archive.counted("b-1", CODE).version == 1
    assert [answer.version for answer in archive.answers()] == [1, 2]


def test_the_first_answer_that_ended_the_case_counts(archive):
    save(archive, '{"draft": 1}', status="interrupted")
    assert archive.counted("b-1", CODE).version == 1
    save(archive, '{"a": 1}')
    save(archive, '{"a": 2}')
    assert archive.counted("b-1", CODE).version == 2


def test_names_that_climb_are_refused(archive):
    for block, case in (("..", CODE), ("b/../c", CODE), ("b", "../x"), ("b", "x")):
        with pytest.raises(ArchiveError):
            archive.versions(block, case)


@pytest.fixture
def study(archive, lines, tmp_path):
    """A small study as a server leaves it: two logs, its own, and an answer with a mask."""
    archive.append("s-1", lines, EXPECTED)
    answer = save(archive, '{"a": 1}', b"a mask")
    with EventLog(archive.logs / "server.jsonl", session_id="server") as log:
        log.append("login", {"session": "s-1", "reader": "J1"})
        told = {
            "block": "b-1",
            "version": 1,
            "record_sha256": answer.record_sha256,
        }
        log.append("answer_received", told, case=CODE)
        seq, head = archive.head("s-1")
        log.append("logout", {"session": "s-1", "head": head, "seq": seq})
        archive.keep_head(log.seq, log.head)
    assert check(tmp_path / "study") == []
    return tmp_path / "study"


def test_any_changed_byte_is_found(study):
    for path in [path for path in study.rglob("*") if path.is_file()]:
        data = path.read_bytes()
        for place in range(0, len(data), max(1, len(data) // 25)):
            changed = bytearray(data)
            changed[place] ^= 0x01
            path.write_bytes(bytes(changed))
            assert check(study), (path.name, place)
        for shorter in (data[:-1], data[: data[:-1].rfind(b"\n") + 1]):
            path.write_bytes(shorter)
            assert check(study), path.name
        path.unlink()
        assert check(study), path.name
        path.write_bytes(data)
    assert check(study) == []


def test_a_file_that_was_added_is_found(study):
    copy = study / "logs" / "s-2.jsonl"
    copy.write_bytes((study / "logs" / "s-1.jsonl").read_bytes())
    assert [p for p in check(study) if "no such session" in p]
    copy.unlink()
    folder = study / "answers" / "b-1" / CODE
    (folder / "v0002.json").write_bytes((folder / "v0001.json").read_bytes())
    assert check(study)
    (folder / "v0002.json").unlink()
    assert check(study) == []


def test_an_answer_that_was_never_acknowledged_is_put_aside_and_can_be_sent_again(study):
    archive = Archive(study)
    unknown = archive.save_answer({"block": "b-1", "case": CODE}, b"{}", b"another mask")
    assert check(study)
    assert archive.put_aside({("b-1", CODE, 1)}) == [f"b-1/{CODE}/v0002.json"]
    assert check(study) == []
    assert sorted(p.suffix for p in (study / "unacknowledged").iterdir()) == [".gz", ".json"]
    again = archive.save_answer({"block": "b-1", "case": CODE}, b"{}", b"another mask")
    assert (again.version, again.new) == (unknown.version, True)
