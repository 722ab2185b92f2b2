"""After the lock nothing changes silently; secrets stay secret."""

import json
import os
import stat

import pytest

from pasta.study.allocation import ALLOCATION_FILE
from pasta.study.cases import CASES_FILE
from pasta.study.findings import StudyError
from pasta.study.folder import (
    KEY_FILE,
    READERS_FILE,
    StudyFolder,
    make_key,
    new_codes,
    studies_in,
    write_allocation,
)
from pasta.study.lock import LOCK_FILE, check_lock, lock, read_lock
from pasta.study.protocol import PROTOCOL_FILE

from .test_protocol import CASES, PROTOCOL

WEIGHTS = {"screening": "a" * 64}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / PROTOCOL_FILE).write_text(PROTOCOL)
    (tmp_path / CASES_FILE).write_text(CASES)
    make_key(tmp_path)
    write_allocation(tmp_path)
    return tmp_path


def test_a_locked_study_is_as_it_was(folder):
    assert "not locked" in check_lock(folder)[0]
    made = lock(folder, WEIGHTS)
    assert read_lock(folder) == made
    assert check_lock(folder) == []
    assert check_lock(folder, WEIGHTS) == []
    assert set(made.files) == {PROTOCOL_FILE, CASES_FILE, ALLOCATION_FILE}


@pytest.mark.parametrize("name", [PROTOCOL_FILE, CASES_FILE, ALLOCATION_FILE])
def test_any_changed_byte_is_told(folder, name):
    lock(folder, WEIGHTS)
    data = bytearray((folder / name).read_bytes())
    for place in range(0, len(data), max(1, len(data) // 7)):
        other = bytearray(data)
        other[place] ^= 1
        (folder / name).write_bytes(other)
        assert check_lock(folder) == [f"{name} was changed after the lock."]
    (folder / name).unlink()
    assert check_lock(folder) == [f"{name} is gone."]


def test_other_weights_are_told(folder):
    lock(folder, WEIGHTS)
    assert "others than those locked" in check_lock(folder, {"screening": "b" * 64})[0]
    assert "is not there" in check_lock(folder, {})[0]


def test_a_lock_that_was_edited_is_told(folder):
    lock(folder, WEIGHTS)
    document = json.loads((folder / LOCK_FILE).read_text())
    document["weights"]["screening"] = "b" * 64
    (folder / LOCK_FILE).write_text(json.dumps(document))
    assert f"{LOCK_FILE} itself was changed." in check_lock(folder)
    (folder / LOCK_FILE).write_text("{}")
    assert "damaged" in check_lock(folder)[0]


def test_a_changed_reference_mask_is_told(folder):
    text = CASES.replace("positive", "positive,reference_mask").replace(
        "a,liver,1", "a,liver,1,a.nii.gz"
    )
    (folder / CASES_FILE).write_text(text)
    (folder / "a.nii.gz").write_bytes(b"mask")
    lock(folder, WEIGHTS)
    (folder / "a.nii.gz").write_bytes(b"other")
    assert check_lock(folder) == ["a.nii.gz was changed after the lock."]


def test_a_changed_analysis_plan_is_told(folder):
    (folder / "analysis_plan.md").write_text("Primary: recall, CMH.")
    assert "analysis_plan.md" in lock(folder, WEIGHTS).files
    (folder / "analysis_plan.md").write_text("Primary: precision.")
    assert check_lock(folder) == ["analysis_plan.md was changed after the lock."]


def test_a_lock_is_refused_where_it_would_fix_a_mistake(folder):
    with pytest.raises(StudyError, match="no model weights"):
        lock(folder, {})
    with pytest.raises(StudyError, match="64 hexadecimal"):
        lock(folder, {"screening": "x"})
    text = (folder / ALLOCATION_FILE).read_text()
    (folder / ALLOCATION_FILE).write_text(text.replace('"seed": 7', '"seed": 8'))
    with pytest.raises(StudyError, match="pasta study allocate"):
        lock(folder, WEIGHTS)
    (folder / ALLOCATION_FILE).write_text(text)
    lock(folder, WEIGHTS)
    with pytest.raises(StudyError, match="locked already"):
        lock(folder, WEIGHTS)
    with pytest.raises(StudyError, match="stays as it is"):
        write_allocation(folder)


def test_login_codes_are_kept_as_hashes_only(folder):
    codes = new_codes(folder)
    text = (folder / READERS_FILE).read_text()
    assert all(code not in text and code.replace("-", "") not in text for code in codes.values())
    study = StudyFolder.open(folder)
    assert study.reader_of(codes["J2"]).code == "J2"
    assert study.reader_of(codes["J1"].lower().replace("-", " ")).code == "J1"
    for wrong in ("", "J1", codes["J1"][:-1], "x" * 1000, codes["J1"] + "2"):
        assert study.reader_of(wrong) is None


def test_a_new_code_ends_the_old_one_of_that_reader_alone(folder):
    old = new_codes(folder)
    new = new_codes(folder, ["J1"])
    study = StudyFolder.open(folder)
    assert list(new) == ["J1"]
    assert study.reader_of(old["J1"]) is None
    assert study.reader_of(new["J1"]).code == "J1"
    assert study.reader_of(old["J2"]).code == "J2"
    with pytest.raises(StudyError, match="not in protocol"):
        new_codes(folder, ["J9"])


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_secrets_are_readable_by_their_owner_alone(folder):
    new_codes(folder)
    for name in (KEY_FILE, READERS_FILE):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600


def test_the_key_never_changes_and_is_not_shown(folder):
    key = (folder / KEY_FILE).read_text()
    make_key(folder)
    assert (folder / KEY_FILE).read_text() == key
    study = StudyFolder.open(folder)
    assert study.key.hex() == key.strip()
    assert key.strip() not in repr(study)
    assert study.images()[study.code_of("a")] == "a"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (KEY_FILE, None, "pasta study new"),
        (KEY_FILE, "no hex", "put back its copy"),
        (KEY_FILE, "abcd", "too short"),
        (PROTOCOL_FILE, "", "is missing"),
        (CASES_FILE, None, "cannot be read"),
    ],
)
def test_an_incomplete_folder_says_what_is_missing(folder, name, content, says):
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    with pytest.raises(StudyError, match=says):
        StudyFolder.open(folder)


def test_studies_are_found_and_two_of_one_id_are_refused(folder, tmp_path_factory):
    root = tmp_path_factory.mktemp("studies")
    for name in ("one", "two"):
        (root / name).mkdir()
        for file in folder.iterdir():
            (root / name / file.name).write_bytes(file.read_bytes())
    assert [study.id for study in studies_in(folder)] == ["trial"]
    with pytest.raises(StudyError, match="two studies have the id trial"):
        studies_in(root)
    text = (root / "two" / PROTOCOL_FILE).read_text().replace('id = "trial"', 'id = "other"')
    (root / "two" / PROTOCOL_FILE).write_text(text)
    assert [study.id for study in studies_in(root)] == ["trial", "other"]


def test_no_codes_yet_says_so(folder):
    with pytest.raises(StudyError, match="pasta study codes"):
        StudyFolder.open(folder).reader_of("x")
