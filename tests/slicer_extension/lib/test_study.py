"""A seat in a study, against the real server: nothing is lost, nothing is sent twice."""

import importlib.util
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PASTAAidLib.cases import Cache
from PASTAAidLib.connection import Problem
from PASTAAidLib.study import Done, LogUploader, Outbox, StudyConnection, log_in, machine_session
from PASTAAidLib.study import studies as studies_of

from pasta.study import EventLog, verify
from pasta.study.archive import Archive


@pytest.fixture(scope="module")
def studying(serving):
    path = Path(serving.__file__).with_name("studying.py")
    spec = importlib.util.spec_from_file_location("studying", path)
    sys.modules["studying"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["studying"])
    return sys.modules["studying"]


@pytest.fixture(scope="module")
def study(serving, studying, tmp_path_factory):
    """A server with two studies; each test has readers of its own."""
    images = tmp_path_factory.mktemp("images")
    for number in range(9):
        serving.save_ct(images / f"case-{number}.nii.gz", serving.body((30, 30, 30), number))
    models = serving.save_models(tmp_path_factory.mktemp("models"))
    folder = tmp_path_factory.mktemp("studies")
    names = [f"case-{number}" for number in range(9)]
    codes = {
        "screen": studying.make_study(
            folder / "screen", models, names, study_id="screen", training=["case-8"]
        ),
        "draw": studying.make_study(
            folder / "draw", models, names, study_id="draw", name="drawing", task="segment"
        ),
    }
    log = tmp_path_factory.mktemp("log") / "server.log"
    server = serving.Server(images, models, log, **studying.environment(folder))
    server.folder, server.codes = folder, codes
    yield server
    server.stop()


class Seated:
    """A reader at this computer."""

    def __init__(self, server, study, reader, folder, **options):
        self.folder, self.server, self.study = folder, server, study
        self.machine = machine_session(folder)
        code = server.codes[study][reader]
        self.seat = log_in(server.url, study, code, self.machine, **options)
        self.connection = StudyConnection(server.url, self.seat, self.machine, folder)
        self.log = EventLog(
            folder / f"{self.seat.session_id}.jsonl",
            reader=self.seat.reader,
            study_id=self.seat.study_id,
            level=self.seat.level,
            arm=self.seat.arm,
            session_id=self.seat.session_id,
        )
        self.uploader = LogUploader(self.connection, self.log.path, self.seat.session_id)

    def submit(self, case, mask=None, **answers):
        self.connection.answer(case.code, answers)
        return self.connection.submit(
            case.code, mask, {}, {"reading_seconds": 2.0, "load_seconds": 0.5}, 0
        )


def by_arm(server, study, tmp_path):
    """Seat readers until both arms have one."""
    seats = {}
    for reader in ("J1", "J2", "S1", "S2"):
        seated = Seated(server, study, reader, tmp_path / reader)
        seats.setdefault(seated.seat.arm, seated)
    return seats


def test_a_server_names_its_studies_and_a_wrong_code_is_one_sentence(study, tmp_path):
    assert ("screen", "Liver, a small study") in studies_of(study.url)
    with pytest.raises(Problem, match="not known in study") as caught:
        log_in(study.url, "screen", "wrong-code", "m" * 32)
    assert caught.value.kind == "token"


def test_the_machine_keeps_its_name(tmp_path):
    assert machine_session(tmp_path) == machine_session(tmp_path)
    assert (tmp_path / "machine").stat().st_mode & 0o077 == 0


def test_cases_come_in_order_with_image_ai_and_answer(study, tmp_path):
    seats = by_arm(study, "screen", tmp_path)
    assert set(seats) == {"solo", "assisted"}
    cache = Cache(tmp_path / "cache", 1e9, study.url)
    for arm, seated in seats.items():
        connection = seated.connection
        case = connection.next()
        assert (case.training, case.position, case.total) == (True, 1, 1)
        assert case.code.startswith("c-")
        assert connection.next().code == case.code
        path = connection.fetch_image(case.code, cache)
        assert nib.load(path).shape == (30, 30, 30)
        assert connection.fetch_image(case.code, cache) == path
        if arm == "solo":
            assert connection.check().models == {}
            with pytest.raises(Problem, match="no AI"):
                connection.run("pasta_screening", case.code)
        else:
            assert set(connection.check().models) == {"pasta_screening", "pasta_segmentation"}
            answer = connection.run("pasta_segmentation", case.code)
            assert answer.document["schema"]
            assert answer.image[:2] == b"\x1f\x8b"
        with pytest.raises(Problem, match=r"(degree|tumour).*required"):
            seated.submit(case)
        connection.outbox.drop(case.code)
        receipt = seated.submit(case, tumour="yes", degree=80)
        assert receipt.version == 1
        following = connection.next()
        assert (following.training, following.position) == (False, 1)
        assert following.upcoming not in ("", following.code)


def test_an_answer_waits_here_while_the_server_is_away_and_is_sent_once(study, tmp_path):
    seated = Seated(study, "screen", "S1", tmp_path, take_over=True)
    case = seated.connection.next()
    good = seated.connection._client.url
    seated.connection._client.url = "http://127.0.0.1:9"
    with pytest.raises(Problem) as caught:
        seated.submit(case, tumour="no", degree=10)
    assert caught.value.kind == "away"
    # the module ends; another start finds the answer and sends it
    again = StudyConnection(good, seated.seat, seated.machine, tmp_path)
    assert [code for code, _, _ in again.outbox.waiting()] == [case.code]
    assert again.send_kept()[case.code].version == 1
    assert list(again.outbox.waiting()) == []
    assert again.send_kept() == {}
    assert again.next().code != case.code


def test_a_mask_comes_to_the_server_as_it_was(study, tmp_path):
    seated = Seated(study, "draw", "J1", tmp_path)
    case = seated.connection.next()
    cache = Cache(tmp_path / "cache", 1e9, study.url)
    image = nib.load(seated.connection.fetch_image(case.code, cache))
    voxels = np.zeros(image.shape, np.uint8)
    voxels[5:9, 5:9, 5:9] = 12
    path = tmp_path / "mask.nii.gz"
    nib.save(nib.Nifti1Image(voxels, image.affine), path)
    assert seated.submit(case, path).version == 1
    (kept,) = Archive(study.folder / "draw").versions(seated.seat.block, case.code)
    assert kept.mask.read_bytes() == path.read_bytes()


def test_the_log_is_sent_as_it_grows_and_goes_on_wherever_the_server_is(study, tmp_path):
    seated = Seated(study, "screen", "J2", tmp_path, take_over=True)
    for _ in range(7):
        seated.log.append("clock_check")
    assert seated.uploader.send() == 7
    assert seated.uploader.send() == 7
    good = seated.connection._client.url
    seated.connection._client.url = "http://127.0.0.1:9"
    for _ in range(1200):  # more than one batch, for ten minutes without a server
        seated.log.append("clock_check")
    with pytest.raises(Problem):
        seated.uploader.send()
    seated.connection._client.url = good
    fresh = LogUploader(seated.connection, seated.log.path, seated.seat.session_id)
    assert fresh.send() == 1207
    seated.connection.end(seated.log.head, seated.log.seq)
    there = study.folder / "screen" / "logs" / f"{seated.seat.session_id}.jsonl"
    assert there.read_bytes() == seated.log.path.read_bytes()
    assert verify(there, seated.log.head).ok
    with pytest.raises(Problem, match="ended"):
        seated.connection.next()


def test_a_session_elsewhere_is_taken_over_only_when_asked(study, tmp_path):
    first = Seated(study, "draw", "J2", tmp_path / "one")
    with pytest.raises(Problem) as caught:
        Seated(study, "draw", "J2", tmp_path / "two")
    assert caught.value.kind == "live"
    same = Seated(study, "draw", "J2", tmp_path / "one")
    assert same.seat.session_id == first.seat.session_id
    second = Seated(study, "draw", "J2", tmp_path / "two", take_over=True)
    assert second.seat.session_id != first.seat.session_id
    with pytest.raises(Problem, match="taken over"):
        first.connection.next()


def test_a_block_ends_when_all_its_cases_are_read(study, tmp_path):
    seated = Seated(study, "screen", "S2", tmp_path, take_over=True)
    for _ in range(20):
        case = seated.connection.next()
        if isinstance(case, Done):
            break
        seated.submit(case, tumour="yes", degree=60)
    assert case == Done("block", True)


def test_a_full_disk_keeps_the_answer_before_it(tmp_path, monkeypatch):
    outbox = Outbox(tmp_path)
    outbox.put("c-1", {"answers": {"tumour": 1}}, None)

    def full(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="Free space"):
        outbox.put("c-1", {"answers": {"tumour": 0}}, None)
    assert [document["answers"] for _, document, _ in outbox.waiting()] == [{"tumour": 1}]
