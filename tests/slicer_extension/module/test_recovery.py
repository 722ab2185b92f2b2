"""Kill Slicer, or the server, in the middle of the work: nothing older than an autosave is lost."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pasta.study.events import verify

from . import harness


@pytest.fixture(scope="module")
def crashed(tmp_path_factory, server):
    """The folder of a reader whose Slicer was killed, and what its last draft held."""
    pytest.importorskip("slicer", reason="needs slicer-core")
    folder = tmp_path_factory.mktemp("reader")
    command = [sys.executable, str(Path(__file__).with_name("reader_process.py"))]
    process = subprocess.Popen(
        [*command, str(folder), server.url, "crlm_1004"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=harness.ROOT,
    )
    told = next((line for line in process.stdout if line.startswith("READY ")), None)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert told is not None, "the reader's process ended before it had saved a draft"
    return folder, json.loads(told.removeprefix("READY "))


@pytest.fixture(scope="module")
def desk(crashed, server):
    desk = harness.Desk(crashed[0], server.url)
    yield desk
    desk.close()


def test_the_panel_offers_what_the_crash_left_and_brings_it_back(desk, crashed):
    import slicer

    told = crashed[1]
    assert told["faults"] == []
    assert desk.widget.ui.questionBar.visible
    assert "crlm_1004" in desk.widget.ui.questionLabel.text
    assert [call for call in slicer.app.calls if call[0] == "dialog"] == []
    desk.click(desk.widget.ui.yesButton)  # not even connected: the CT is in the cache
    desk.shown("crlm_1004")
    reading = desk.flow.reading
    assert reading.report.impression == "Written before the crash."
    segment = desk.flow.editing.segments()[told["number"]]
    assert segment.voxels == told["voxels"]
    assert segment.origin == "reader"
    assert segment.label == "liver_cyst"
    assert any(not lesion.reviewed for lesion in reading.report.lesions)  # the AI's stay marked
    assert verify(desk.flow.log.path).ok


@pytest.fixture
def mortal(tmp_path_factory, studies):
    """A server of its own that a test may kill; it starts again at the same address."""
    models = harness.save_models(tmp_path_factory.mktemp("models"))
    log = tmp_path_factory.mktemp("log") / "server.log"
    copy = tmp_path_factory.mktemp("studies")
    (copy / "crlm_1004.nii.gz").symlink_to(studies / "crlm_1004.nii.gz")
    running = harness.serving().Server(copy, models, log)
    yield running
    running.stop()


def test_a_server_that_is_killed_costs_nothing_and_the_same_work_is_saved_later(desk, mortal):
    flow = desk.flow
    desk.widget.saveSettings(url=mortal.url)
    assert flow.reading is None  # put away, on the disk
    desk.connect()
    desk.open("crlm_1004")
    desk.idle()
    desk.widget.report.ui.impressionEdit.setPlainText("Written before the server died.")
    mortal.process.kill()
    mortal.process.wait()
    desk.press("Ctrl+Return")
    desk.until(lambda: flow.status.kind == "error", 60, "the refusal")
    assert "No server answers" in flow.status.text
    assert flow.reading.receipt is None
    assert flow.drafts.load("crlm_1004") is not None
    mortal.start()
    desk.press("Ctrl+Return")
    desk.until(lambda: flow.reading.receipt is not None, 60, "the receipt")
    assert flow.drafts.load("crlm_1004") is None
    info = mortal.get(
        "/datastore/label/info", params={"label": "crlm_1004@R1", "tag": "final"}
    ).json()
    assert info["report"]["impression"] == "Written before the server died."


def test_work_put_away_for_another_server_is_back_when_its_case_is_opened(desk, server):
    desk.widget.saveSettings(url=server.url)
    desk.connect()
    desk.open("crlm_1004")
    assert desk.flow.reading.report.impression == "Written before the crash."


def test_a_disk_that_is_full_is_told_and_the_work_stays_in_memory(desk, monkeypatch):
    flow = desk.flow
    desk.open("ts_example")
    desk.idle()
    desk.widget.report.ui.impressionEdit.setPlainText("Keep me.")

    def full(*_arguments, **_keywords):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(type(flow.drafts), "save", full)
        assert not flow.saving.autosave()
    assert flow.status.kind == "error"
    assert "No space left" in flow.status.text
    assert flow.reading.isDirty
    assert flow.saving.autosave()
    assert flow.drafts.load("ts_example").report["impression"] == "Keep me."
