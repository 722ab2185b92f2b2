"""The whole way through the real server of this repository, with a real CT."""

import contextlib
import json
import shutil
import threading
import time

import nibabel as nib
import numpy as np
import pytest
from PASTAAidLib.background import Background
from PASTAAidLib.cases import Cache, Worklist
from PASTAAidLib.connection import Connection, Problem
from PASTAAidLib.labelfile import read_label_file
from PASTAAidLib.settings import Settings

import pasta.client
from pasta.errors import CancelledError
from pasta.report.reader import ReaderReport

CASE = "ts_example"
LIVER, LIVER_TUMOR = 2, 12
TIMING = {"wall_seconds": 61.0, "reading_seconds": 55.0}


@pytest.fixture(scope="module")
def server(serving, real_data, tmp_path_factory):
    """One server for this file; it has no weights for screening."""
    models = serving.save_models(tmp_path_factory.mktemp("models"))
    shutil.rmtree(models / "screening")
    studies = tmp_path_factory.mktemp("studies")
    for case in (CASE, "cort_liver"):
        shutil.copyfile(real_data / "ct" / case / "ct.nii.gz", studies / f"{case}.nii.gz")
    for number in range(5):
        serving.save_ct(studies / f"small_{number}.nii.gz", serving.body(seed=number))
    (studies / "series").mkdir()
    series = next(path for path in sorted((real_data / "dicom").iterdir()) if path.is_dir())
    for path in sorted(path for path in series.rglob("*") if path.is_file())[:40]:
        shutil.copyfile(path, studies / "series" / path.name)
    log = tmp_path_factory.mktemp("log") / "server.log"
    running = serving.Server(studies, models, log, PASTA_QUEUE="1", PASTA_MAX_UPLOAD_MB="64")
    yield running
    running.stop()


@pytest.fixture
def connect(server, tmp_path):
    def make(reader="R1", **values):
        return Connection(Settings(url=server.url, reader=reader, folder=tmp_path, **values))

    return make


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache", 1e9)


class Telling:
    """A task that notes its progress, and is cancelled at a stage if wanted."""

    def __init__(self, stop_at=None):
        self.told = []
        self.stop_at = stop_at

    def progress(self, fraction, stage):
        self.told.append((fraction, stage))
        if self.stop_at is not None and fraction >= self.stop_at:
            msg = "stopped"
            raise CancelledError(msg)


def mask_on(ct, path, *, value=LIVER_TUMOR, seed=0):
    """A mask on the grid of a CT, with an organ and a lesion."""
    image = nib.load(ct)
    voxels = np.zeros(image.shape, np.uint8)
    voxels[5:40, 8:30, 3:20] = LIVER
    voxels[10 + seed : 18 + seed, 12:19, 5:9] = value
    nib.save(nib.Nifti1Image(voxels, image.affine), path)
    return path


def report_with(impression="Seen."):
    report = ReaderReport.empty()
    report.add_lesion("liver_tumor", (1.0, 2.0, 3.0))
    report.set_value(1, "shape", "Irregular")
    report.impression = impression
    return report.to_document()


def test_the_check_tells_version_and_which_task_is_not_ready(connect):
    check = connect().check()
    assert check.ok
    assert check.version == pasta.__version__
    assert check.models["pasta_diagnosis"] == ""
    assert "screening" in check.models["pasta_screening"]
    assert "not pasta_screening" in check.sentence
    assert check.mend


def test_a_case_goes_from_new_over_in_work_to_done(connect, cache, tmp_path):
    mine, other = connect("R1"), connect("R2")
    assert Worklist(mine.worklist()).get("small_0").status == "new"
    assert mine.begin("small_0")
    case = Worklist(other.worklist()).get("small_0")
    assert (case.status, case.in_work_by, case.open) == ("in work", ("R1",), False)
    assert Worklist(mine.worklist()).get("small_0").open
    mask = mask_on(mine.fetch_image("small_0", cache), tmp_path / "mask.nii.gz")
    mine.submit("small_0", mask, report_with(), TIMING, 0)
    assert mine.release("small_0")
    case = Worklist(other.worklist()).get("small_0")
    assert (case.status, case.in_work_by, case.readers, case.mine) == ("done", (), ("R1",), False)
    assert Worklist(mine.worklist()).get("small_0").my_version == 1


def test_marks_need_a_reader_and_a_case_but_never_fail(connect):
    assert not connect("").begin(CASE)
    assert not connect().begin("nothing")
    assert not connect().release("nothing")
    assert connect().release(CASE)  # that was never begun


@pytest.mark.parametrize("case", [CASE, "cort_liver"])
def test_the_ct_arrives_byte_for_byte_and_is_kept(connect, cache, server, case):
    task = Telling()
    path = connect().fetch_image(case, cache, task)
    assert path.read_bytes() == (server.studies / f"{case}.nii.gz").read_bytes()
    assert task.told[-1] == (1.0, "receiving")
    again = Telling()
    assert connect().fetch_image(case, cache, again) == path
    assert again.told == []


def test_a_dicom_series_arrives_as_one_nifti_file(connect, cache):
    (case,) = [c.id for c in connect().worklist() if c.id.startswith("series-")]
    path = connect().fetch_image(case, cache)
    assert path.name.endswith(".nii.gz")
    assert nib.load(path).ndim == 3
    assert connect().fetch_image(case, cache) == path


def test_a_ct_that_was_replaced_on_the_server_is_fetched_anew(connect, cache, server, serving):
    first = connect().fetch_image("small_4", cache).read_bytes()
    serving.save_ct(server.studies / "small_4.nii.gz", serving.body(seed=44))
    assert connect().fetch_image("small_4", cache).read_bytes() != first


def test_a_download_can_be_cancelled_and_leaves_nothing(connect, cache):
    with pytest.raises(CancelledError):
        connect().fetch_image("cort_liver", cache, Telling(stop_at=0.1))
    assert cache.path("cort_liver") is None
    assert not list(cache.folder.iterdir())


def test_a_local_ct_is_sent_under_a_neutral_name(connect, cache, serving, server, tmp_path):
    path = serving.save_ct(tmp_path / "Doe^John_19500101.nii.gz", serving.body(seed=77))
    task = Telling()
    case = connect().send_image(path, task)
    assert case.startswith("local-")
    assert task.told[-1] == (1.0, "sending")
    assert connect().send_image(path) == case  # the same bytes are the same case
    assert connect().fetch_image(case, cache).read_bytes() == path.read_bytes()
    written = [file for file in (server.studies / ".pasta").rglob("*") if file.is_file()]
    assert not any(b"Doe" in file.read_bytes() or "Doe" in file.name for file in written)
    assert "Doe" not in server.log.read_text()


def test_sending_can_be_cancelled(connect, real_data):
    path = real_data / "ct" / "lidc_0001" / "ct.nii.gz"
    before = len(connect().worklist())
    with pytest.raises(CancelledError):
        connect().send_image(path, Telling(stop_at=0.2))
    assert len(connect().worklist()) == before


def test_what_is_no_ct_is_refused_in_the_servers_words(connect, tmp_path):
    path = tmp_path / "x.nii.gz"
    path.write_bytes(b"not an image")
    with pytest.raises(Problem) as caught:
        connect().send_image(path)
    assert caught.value.kind == "refused"
    assert str(tmp_path) not in str(caught.value)
    with pytest.raises(Problem) as caught:
        connect().send_image(tmp_path / "gone.nii.gz")
    assert "No such file" in caught.value.sentence


def test_diagnosis_tells_its_progress_and_the_reader_takes_over(connect, cache, tmp_path):
    task = Telling()
    answer = connect().run("pasta_diagnosis", "small_1", {"organs": ["liver"]}, None, task)
    assert task.told[-1][0] == 1.0
    assert all(0 <= fraction <= 1 for fraction, _ in task.told)
    (tmp_path / "mask.nii.gz").write_bytes(answer.image)
    assert set(read_label_file(tmp_path / "mask.nii.gz").values) <= {0, LIVER}
    report = ReaderReport.from_ai(answer.document)
    assert report.to_document()["ai"]["input_sha256"] == answer.document["input_sha256"]


def test_the_report_of_an_edited_mask_measures_it(connect, cache, tmp_path):
    connection = connect()
    ct = connection.fetch_image(CASE, cache)
    mask = mask_on(ct, tmp_path / "mask.nii.gz")
    document = connection.run("pasta_report", CASE, {}, mask).document
    report = ReaderReport.empty()
    report.add_lesion("liver_tumor")
    changes = report.remeasured(document)
    assert ("size", None) in [(change.attribute, change.old) for change in changes]
    # 8 x 7 x 4 voxels of 3 mm
    assert sorted(report.lesion(1).size_mm) == pytest.approx([12, 21, 24])
    assert report.lesion(1).volume_ml == pytest.approx(8 * 7 * 4 * 0.027, rel=0.02)


def test_a_task_can_be_cancelled_while_it_runs(connect, server):
    begun = threading.Event()
    found = []
    background = Background()

    def work(task):
        begun.set()
        return connect().run("pasta_segmentation", "cort_liver", task=task)

    background.start("ai", work, done=found.append, failed=found.append)
    begun.wait(5)
    time.sleep(0.5)
    background.cancel("ai")
    start = time.monotonic()
    while not found and time.monotonic() - start < 30:
        background.poll()
        time.sleep(0.02)
    assert isinstance(found[0], CancelledError)
    assert time.monotonic() - start < 10
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        jobs = server.get("/pasta/jobs").json()
        if jobs["queue"]["running"] == jobs["queue"]["waiting"] == 0:
            break
        time.sleep(0.1)
    assert [job["state"] for job in jobs["jobs"]][-1] == "cancelled"


def test_a_task_without_weights_is_told_with_its_mend(connect):
    with pytest.raises(Problem) as caught:
        connect().run("pasta_screening", CASE)
    assert caught.value.kind == "model"
    assert "screening" in caught.value.sentence


def test_a_busy_server_is_told(connect, server, monkeypatch):
    monkeypatch.setattr(pasta.client, "BUSY_TRIES", 1)
    tasks = [Telling(), Telling()]

    def run(task):
        with contextlib.suppress(CancelledError):
            connect().run("pasta_segmentation", "cort_liver", task=task)

    threads = [threading.Thread(target=run, args=(task,)) for task in tasks]
    try:
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            queue = server.get("/pasta/jobs").json()["queue"]
            if queue["running"] + queue["waiting"] == 2:
                break
            time.sleep(0.02)
        with pytest.raises(Problem) as caught:
            connect().run("pasta_segmentation", CASE)
        assert caught.value.kind == "busy"
    finally:
        for task in tasks:
            task.stop_at = 0
        for thread in threads:
            thread.join(30)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd"])
def test_what_is_submitted_is_read_back_equal(connect, cache, tmp_path, suffix):
    import SimpleITK

    connection = connect(f"S{suffix.replace('.', '')}")
    connection.worklist()
    ct = connection.fetch_image(CASE, cache)
    path = mask_on(ct, tmp_path / "mask.nii.gz")
    if suffix != ".nii.gz":  # as Slicer writes it: by ITK
        image = SimpleITK.ReadImage(str(path))
        path = tmp_path / f"mask{suffix}"
        SimpleITK.WriteImage(image, str(path), suffix == ".nrrd")
    task = Telling()
    report = report_with("Größe 3 cm, „unklar“.")
    receipt = connection.submit(CASE, path, report, TIMING, 0, task)
    assert receipt.version == 1
    assert task.told
    # others, as the fixture's readers, may have saved before the list was seen: no conflict
    assert receipt.conflict == ""
    saved = connection.fetch_label(CASE, "final", connection.settings.reader, tmp_path)
    assert (saved.version, saved.sha256, saved.report) == (1, receipt.sha256, report)
    np.testing.assert_array_equal(
        np.asarray(nib.load(saved.path).dataobj), np.asarray(read_label_file(path).voxels)
    )
    np.testing.assert_allclose(nib.load(saved.path).affine, nib.load(ct).affine, atol=1e-3)
    assert not list(tmp_path.glob("read-back*"))


def test_my_last_version_is_the_one_that_opens_again(connect, cache, tmp_path):
    connection = connect("R7")
    ct = connection.fetch_image("small_2", cache)
    for version in (1, 2):
        mask = mask_on(ct, tmp_path / f"m{version}.nii.gz", seed=version)
        receipt = connection.submit("small_2", mask, report_with(str(version)), {}, version - 1)
        assert (receipt.version, receipt.conflict) == (version, "")
    saved = connection.fetch_label("small_2", "final", "R7", tmp_path)
    assert (saved.version, saved.report["impression"]) == (2, "2")
    first = connection.fetch_label("small_2", "final", "R7", tmp_path, version=1)
    assert first.report["impression"] == "1"
    assert not np.array_equal(
        read_label_file(first.path).voxels, read_label_file(saved.path).voxels
    )
    assert connection.fetch_label("small_2", "final", "R9", tmp_path) is None
    assert connection.fetch_label("small_2", "other", "R7", tmp_path) is None


def test_a_conflict_is_told_and_all_versions_are_kept(connect, cache, tmp_path, server):
    one, two, other = connect("R5"), connect("R5"), connect("R6")
    ct = one.fetch_image("small_3", cache)
    masks = [mask_on(ct, tmp_path / f"m{n}.nii.gz", seed=n) for n in range(3)]
    assert one.begin("small_3")
    assert two.begin("small_3")
    one.submit("small_3", masks[0], report_with("first"), {}, 0)
    receipt = two.submit("small_3", masks[1], report_with("second"), {}, 0)
    assert receipt.version == 2
    assert "version 0" in receipt.conflict
    assert "all versions are kept" in receipt.conflict
    assert other.begin("small_3")
    other.submit("small_3", masks[2], report_with("third"), {}, 0)
    receipt = one.submit("small_3", masks[0], report_with("fourth"), {}, 2)
    assert "R6 (version 1)" in receipt.conflict
    assert "under your name" not in receipt.conflict
    kept = [one.fetch_label("small_3", "final", "R5", tmp_path, version=v) for v in (1, 2, 3)]
    assert [saved.report["impression"] for saved in kept] == ["first", "second", "fourth"]
    listed = next(i for i in server.get("/pasta/images").json()["images"] if i["id"] == "small_3")
    assert {(label["reader"], label["version"]) for label in listed["labels"]} == {
        ("R5", 3),
        ("R6", 1),
    }
    assert all(len(label["sha256"]) == 64 and label["created"] for label in listed["labels"])


def test_a_mask_that_does_not_fit_or_a_bad_report_is_refused_before_anything_is_saved(
    connect, cache, tmp_path
):
    connection = connect("R8")
    ct = connection.fetch_image("small_1", cache)
    other = mask_on(connection.fetch_image(CASE, cache), tmp_path / "other.nii.gz")
    with pytest.raises(Problem, match="grid"):
        connection.submit("small_1", other, report_with(), {}, 0)
    mask = mask_on(ct, tmp_path / "mask.nii.gz")
    document = report_with()
    document["lesions"][0]["attributes"]["shape"]["value"] = "Oval"
    with pytest.raises(Problem, match="not an option"):
        connection.submit("small_1", mask, document, {}, 0)
    with pytest.raises(Problem, match="pseudonym"):
        connect("").submit("small_1", mask, report_with(), {}, 0)
    with pytest.raises(Problem):
        connection.submit("small_1", tmp_path / "gone.nii.gz", report_with(), {}, 0)
    assert connection.fetch_label("small_1", "final", "R8", tmp_path) is None


def test_the_server_itself_checks_report_and_expected_version(server, cache, connect, tmp_path):
    mask = mask_on(connect().fetch_image("small_1", cache), tmp_path / "mask.nii.gz")

    def put(**params):
        return server.request(
            "PUT",
            "/datastore/label",
            params={"image": "small_1", "tag": "raw"},
            data={"params": json.dumps({"reader": "R1", **params})},
            files={"label": ("mask.nii.gz", mask.read_bytes())},
        )

    for params in ({"report": {"schema": "x"}}, {"expected_version": "1"}, {"seen": [1]}):
        refused = put(**params)
        assert refused.status_code == 422, refused.text
    plain = put().json()  # a stock client says nothing of versions
    assert "conflict" not in plain
    assert plain["version"] == 1
    assert put(expected_version=1).json()["conflict"] is None
    assert put(expected_version=1).json()["conflict"] == {"expected": 1, "found": 2}


def test_the_server_chooses_the_next_case_and_says_when_all_are_done(connect):
    connection = connect(tag="strategy")
    assert set(connection.strategies()) == {"first", "random"}
    assert connection.next_case("first") == connection.worklist()[0].id
    with pytest.raises(Problem, match="no strategy"):
        connection.next_case("best")
