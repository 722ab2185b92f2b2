import io
import logging
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pydicom
import pytest
import requests

from pasta.dicom.outbox import Outbox
from pasta.dicom.pacs_store import PacsStore
from pasta.dicom.segmentation import read_segmentation
from pasta.dicom.web import Pacs, RemoteSeries
from pasta.errors import PacsError, StoreError
from pasta.io import read_volume
from pasta.report.reader import ReaderReport

from .conftest import drawn


@pytest.fixture
def pacs(orthanc, small_slices):
    orthanc.upload(small_slices)
    return Pacs(orthanc.url, *orthanc.auth)


class Between(BaseHTTPRequestHandler):
    """Stands between us and Orthanc, and cuts off the images of a series in the middle."""

    orthanc = None
    cuts = True

    def do_GET(self):
        answer = requests.get(
            self.orthanc.rest + self.path,
            headers={"Accept": self.headers["Accept"]},
            auth=self.orthanc.auth,
            timeout=30,
        )
        body = answer.content
        multipart = answer.headers["Content-Type"].startswith("multipart")
        self.send_response(answer.status_code)
        self.send_header("Content-Type", answer.headers["Content-Type"])
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if multipart and type(self).cuts else body)

    def log_message(self, *_arguments):
        pass


@pytest.fixture
def cut_off(orthanc, pacs):
    handler = type("Cutting", (Between,), {"orthanc": orthanc})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield handler, f"http://127.0.0.1:{server.server_port}/dicom-web"
    server.shutdown()
    server.server_close()


@pytest.fixture
def store(pacs, tmp_path):
    return PacsStore(pacs, tmp_path / "cache")


def objects(orthanc, modality):
    return [pydicom.dcmread(io.BytesIO(content)) for content in orthanc.instances(modality)]


def submit(store, report, reader="R1"):
    (image,) = store.images()
    document = ReaderReport.from_ai(report)
    document.accept_all()
    label = drawn(store.grid(image))
    info = {"report": document.to_document()}
    return store.save_label(image, label, tag="final", reader=reader, info=info)


def test_a_series_of_the_pacs_is_listed_and_fetched_when_it_is_needed(store, small_slices):
    (image,) = store.images()
    assert image.startswith("ct-")
    assert not list(store.folder.glob("ct-*"))
    volume = read_volume(store.image(image).path)
    expected = read_volume(small_slices)
    assert np.array_equal(volume.voxels, expected.voxels)
    np.testing.assert_allclose(volume.affine, expected.affine)
    assert list(store.images()) == [image]


def test_what_was_fetched_is_there_while_the_pacs_is_away(store, orthanc, tmp_path):
    (image,) = store.images()
    store.image(image)
    orthanc.stop()
    again = PacsStore(Pacs(orthanc.url, *orthanc.auth), tmp_path / "cache")
    assert list(again.images(look_again=True)) == [image]
    assert again.image(image).path.is_dir()
    assert not again.reachable


def test_a_series_that_cannot_be_fetched_leaves_nothing_and_says_why(store, orthanc):
    (image,) = store.images()
    orthanc.stop()
    with pytest.raises(PacsError, match="cannot be reached"):
        store.image(image)
    assert not list(store.folder.glob("ct-*"))
    assert not list(store.private.glob(".incoming*"))
    with pytest.raises(StoreError, match="no image"):
        store.image("ct-unknown")


def test_a_series_cut_off_on_the_way_is_not_taken_for_whole(cut_off, tmp_path):
    handler, url = cut_off
    store = PacsStore(Pacs(url), tmp_path / "cache")
    (image,) = store.images()
    with pytest.raises(PacsError) as caught:
        store.image(image)
    assert "1.3.6.1" not in str(caught.value)
    assert not list(store.folder.glob("ct-*"))
    assert not list(store.private.glob(".incoming*"))
    handler.cuts = False
    assert read_volume(store.image(image).path).voxels.shape[2] == 12


def test_what_a_killed_process_fetched_in_part_is_swept_away(pacs, tmp_path):
    left = tmp_path / "cache" / ".pasta" / ".incoming-dead"
    left.mkdir(parents=True)
    os.utime(left, (0, 0))
    young = left.with_name(".incoming-live")
    young.mkdir()
    PacsStore(pacs, tmp_path / "cache")
    assert not left.exists()
    assert young.exists()


def test_a_series_that_grew_in_the_pacs_is_fetched_anew(orthanc, small_slices, tmp_path):
    paths = sorted(small_slices.glob("*.dcm"))
    half = tmp_path / "half"
    half.mkdir()
    for path in paths[:6]:
        (half / path.name).write_bytes(path.read_bytes())
    orthanc.upload(half)
    store = PacsStore(Pacs(orthanc.url, *orthanc.auth), tmp_path / "cache")
    (image,) = store.images()
    assert read_volume(store.image(image).path).voxels.shape[2] == 6
    orthanc.upload(small_slices)
    store.images(look_again=True)
    assert read_volume(store.image(image).path).voxels.shape[2] == 12


def test_long_answers_come_page_by_page(pacs, monkeypatch, tmp_path):
    monkeypatch.setattr("pasta.dicom.web._PAGE", 5)
    (series,) = pacs.ct_series()
    assert pacs.fetch(series, tmp_path) == 12


def test_wrong_credentials_are_named(orthanc):
    with pytest.raises(PacsError, match="refuses our credentials"):
        Pacs(orthanc.url, "pasta", "wrong").ct_series()


def test_a_submission_goes_back_as_segmentation_and_report(store, orthanc, report, tmp_path):
    submit(store, report)
    assert Outbox(store).send() == 1
    (seg,), (sr,) = objects(orthanc, "SEG"), objects(orthanc, "SR")
    seg.save_as(tmp_path / "seg.dcm", False)
    (image,) = store.images()
    back = read_segmentation(tmp_path / "seg.dcm", store.grid(image))
    assert np.array_equal(back.voxels, drawn(store.grid(image)).voxels)
    (ct, *_) = objects(orthanc, "CT")
    for item in (seg, sr):
        assert item.StudyInstanceUID == ct.StudyInstanceUID
        assert str(item.PatientName) == "MÜSTERMANN^Jörg"
    assert sr.CompletionFlag == "COMPLETE"
    assert Outbox(store).send() == 0


def test_nothing_is_lost_while_the_pacs_is_away(store, orthanc, report, tmp_path):
    store.image(next(iter(store.images())))
    orthanc.stop()
    submit(store, report)
    submit(store, report, reader="R2")
    with pytest.raises(PacsError):
        Outbox(store).send()
    assert len(Outbox(store).waiting()) == 2
    # the server restarts meanwhile, too
    again = PacsStore(Pacs(orthanc.url, *orthanc.auth), tmp_path / "cache")
    outbox = Outbox(again, first_wait_seconds=0.2)
    outbox.start()
    time.sleep(0.5)
    orthanc.start()
    until = time.monotonic() + 20
    while outbox.waiting() and time.monotonic() < until:
        time.sleep(0.1)
    outbox.stop()
    assert outbox.waiting() == []
    readers = {str(item.ContentCreatorName) for item in objects(orthanc, "SEG")}
    assert readers == {"R1^Reader", "R2^Reader"}
    assert len(objects(orthanc, "SR")) == 2


def test_sending_again_after_a_crash_stores_nothing_twice(store, orthanc, report):
    record = submit(store, report)
    outbox = Outbox(store)
    outbox.send()
    outbox._receipt(record).unlink()  # killed between the PACS's answer and the receipt
    assert outbox.send() == 1
    assert len(objects(orthanc, "SEG")) == len(objects(orthanc, "SR")) == 1


def test_logs_and_messages_hold_neither_names_nor_uids(store, orthanc, report, caplog):
    caplog.set_level(logging.DEBUG)
    (series,) = store.pacs.ct_series()
    submit(store, report)
    Outbox(store).send()
    orthanc.stop()
    store.images(look_again=True)
    messages = [caplog.text]
    for ask in (
        store.pacs.ct_series,
        lambda: store.pacs.fetch(RemoteSeries(series.study_uid, "1.2.3.4.5.6", 3), store.folder),
    ):
        with pytest.raises(PacsError) as caught:
            ask()
        messages.append(f"{caught.value} {caught.value.__cause__}")
    text = " ".join(messages)
    assert "PACS" in text
    assert series.study_uid not in text
    assert series.series_uid not in text
    assert "1.2.3.4.5.6" not in text
    assert "STERMANN" not in text
    assert "4711" not in text


def test_a_submission_that_no_segmentation_can_hold_is_told_and_holds_nothing_up(
    store, orthanc, report
):
    (image,) = store.images()
    empty = drawn(store.grid(image))
    empty.voxels[:] = 0
    store.save_label(image, empty, tag="final", reader="R0", info={"report": {"schema": "?"}})
    submit(store, report)
    assert store.status()["pacs"]["waiting_to_be_sent"] == 2
    assert Outbox(store).send() == 1
    status = store.status()["pacs"]
    assert (status["waiting_to_be_sent"], status["not_to_be_written"]) == (0, 1)
    assert "schema" in Outbox(store).failed()[0]
    assert status["reachable"]


def test_a_normal_case_goes_back_as_a_report_without_segmentation(store, orthanc):
    (image,) = store.images()
    empty = drawn(store.grid(image))
    empty.voxels[:] = 0
    info = {"report": ReaderReport.empty().to_document()}
    store.save_label(image, empty, tag="final", reader="R1", info=info)
    assert Outbox(store).send() == 1
    assert objects(orthanc, "SEG") == []
    (sr,) = objects(orthanc, "SR")
    assert sr.CompletionFlag == "COMPLETE"
