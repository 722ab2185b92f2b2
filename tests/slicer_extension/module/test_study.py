"""A reader study in the module: solo and assisted, against the real server."""

import time

import pytest

from pasta.study import read_events, verify
from pasta.study.archive import Archive

from . import harness
from .harness import on_screen

IMAGES = [f"case-{number}" for number in range(9)]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    pytest.importorskip("monailabel", reason="the server extra is not installed")
    serving = harness.serving()
    studying = harness.studying()
    models = serving.save_models(tmp_path_factory.mktemp("models"))
    images = tmp_path_factory.mktemp("images")
    for number, name in enumerate(IMAGES):
        serving.save_ct(images / f"{name}.nii.gz", serving.body((40, 40, 40), number))
    folder = tmp_path_factory.mktemp("studies")
    codes = {
        "screen": studying.make_study(
            folder / "screen", models, IMAGES, study_id="screen", training=["case-8"]
        ),
        "short": studying.make_study(folder / "short", models, IMAGES, study_id="short", budget=1),
        "draw": studying.make_study(
            folder / "draw", models, IMAGES, study_id="draw", name="drawing", task="segment"
        ),
    }
    log = tmp_path_factory.mktemp("log") / "server.log"
    server = serving.Server(images, models, log, **studying.environment(folder))
    server.folder, server.codes = folder, codes
    yield server
    server.stop()


@pytest.fixture(scope="module")
def desk(tmp_path_factory, study):
    pytest.importorskip("slicer", reason="needs slicer-core")
    pytest.importorskip("PySide6", reason="needs PySide6-Essentials")
    desk = harness.Desk(tmp_path_factory.mktemp("reader"), study.url)
    yield desk
    desk.close()


def log_in(desk, study, name, reader):
    harness.log_in(desk, name, study.codes[name][reader])


def end(desk):
    return list(read_events(harness.end_session(desk)))


def reader_of(study, name, arm):
    """A reader whose first block has this arm, by the allocation of the coordinator."""
    from pasta.study.folder import StudyFolder

    folder = StudyFolder.open(study.folder / name)
    return next(
        reader.code
        for reader in folder.protocol.readers
        if folder.allocation.of(reader.code)[0].arm == arm
    )


def test_a_solo_reader_answers_with_one_key_and_the_next_case_comes(desk, study):
    ui, flow = desk.widget.study.ui, desk.flow
    log_in(desk, study, "screen", reader_of(study, "screen", "solo"))
    training = on_screen(desk)
    tabs = {
        name: desk.widget.ui.tabs.isTabVisible(place)
        for place, name in enumerate(("Cases", "AI", "Report", "Edit", "Study"))
    }
    assert tabs == {"Cases": False, "AI": False, "Report": False, "Edit": False, "Study": True}
    assert "Training 1 of 1" in desk.widget.ui.caseLabel.text
    shown = [desk.widget.ui.caseLabel.text, flow.status.text, flow.reading.volumeNode.GetName()]
    assert not [text for text in shown if training in text]  # a code could be recognised
    assert ui.leftLabel.text == ""
    assert ui.aiLabel.text == ""
    assert not desk.widget.ui.submitButton.enabled
    desk.press("F9")
    assert flow.study.answers == {"tumour": 1, "degree": 80}
    assert desk.widget.ui.submitButton.enabled
    desk.press("F6")
    assert flow.study.answers == {"tumour": 0, "degree": 20}
    desk.interactions = 0
    desk.press("Ctrl+Return")
    first = on_screen(desk, training)
    assert "Case 1 of 4" in ui.positionLabel.text
    assert ":" in ui.leftLabel.text
    assert flow.study.answers == {}
    desk.until(lambda: not flow.background.busy("prefetch"), 30, "the prefetch")
    desk.press("F10")
    desk.press("Ctrl+Return")
    on_screen(desk, first)
    assert desk.interactions == 3  # a decision and a submission a case
    session, block = flow.study.seat.session_id, flow.study.seat.block
    events = end(desk)
    kinds = [event["type"] for event in events]
    assert not [kind for kind in kinds if kind.startswith("ai_")]
    assert kinds.count("case_complete") == 2
    assert kinds[0] == "session_start"
    assert kinds[-1] == "session_end"
    assert {event["arm"] for event in events} == {"solo"}
    there = study.folder / "screen" / "logs" / f"{session}.jsonl"
    assert verify(there, events[-1]["sha256"]).ok
    kept = Archive(study.folder / "screen").counted(block, first)
    assert kept.record["answers"] == {"tumour": 1, "degree": 100}
    done = next(event for event in events if event["type"] == "case_complete")
    loaded = next(event for event in events if event["type"] == "load_start")
    assert done["task"] == "screen"
    assert done["mono_ns"] > loaded["mono_ns"]


def test_a_case_in_progress_at_the_end_comes_again(desk, study):
    log_in(desk, study, "screen", reader_of(study, "screen", "solo"))
    code = on_screen(desk)
    assert "Case 2 of 4" in desk.widget.study.ui.positionLabel.text
    desk.press("F8")
    end(desk)
    log_in(desk, study, "screen", reader_of(study, "screen", "solo"))
    assert on_screen(desk) == code
    assert desk.flow.study.answers == {"tumour": 1, "degree": 60}  # the draft kept them
    end(desk)


def test_the_assisted_reader_sees_what_was_made_ahead(desk, study):
    flow = desk.flow
    log_in(desk, study, "screen", reader_of(study, "screen", "assisted"))
    code = on_screen(desk)
    desk.until(lambda: len(flow.reading.documents) == 2, 60, "the AI")
    assert desk.widget.ui.tabs.isTabVisible(1)
    assert "probability of a tumour" in desk.widget.study.ui.aiLabel.text
    assert set(flow.reading.documents) == {"pasta_screening", "pasta_segmentation"}
    desk.flow.pause("phone")
    assert not desk.widget.ui.submitButton.enabled
    desk.press("F9")
    assert flow.study.answers == {}  # who pauses does not read
    desk.press("Ctrl+Shift+B")
    desk.press("F9")
    desk.press("Ctrl+Return")
    on_screen(desk, code)
    desk.until(lambda: len(flow.reading.documents) == 2, 60, "the AI")
    events = end(desk)
    kinds = [event["type"] for event in events]
    assert kinds.index("load_end") < kinds.index("ai_request") < kinds.index("ai_shown")
    assert "pause_start" in kinds


def test_a_server_that_is_away_costs_nothing(desk, study):
    flow = desk.flow
    log_in(desk, study, "screen", reader_of(study, "screen", "assisted"))
    code = on_screen(desk)
    desk.until(lambda: len(flow.reading.documents) == 2, 60, "the AI")
    client = flow.connection._client
    good, client.url = client.url, "http://127.0.0.1:9"
    desk.press("F5")
    desk.press("Ctrl+Return")
    desk.until(lambda: flow.status.kind == "error", 30, "the sentence")
    assert "tried again by itself" in flow.status.mend
    assert [each for each, _, _ in flow.connection.outbox.waiting()] == [code]
    seconds = flow.reading.timing.reading_seconds
    time.sleep(1.0)
    client.url = good
    on_screen(desk, code)
    block = flow.study.seat.block
    kept = Archive(study.folder / "screen").counted(block, code)
    assert kept.record["timing"]["reading_seconds"] == pytest.approx(seconds, abs=0.01)
    desk.until(lambda: len(flow.reading.documents) == 2, 60, "the AI")
    end(desk)


def test_the_case_in_progress_when_the_time_is_over_is_kept_and_marked(desk, study):
    flow = desk.flow
    log_in(desk, study, "short", "J1")
    code = on_screen(desk)
    desk.idle()
    block = flow.study.seat.block
    flow.reading.clock._sums["reading"] += 59 * 10**9  # the reader thinks for a minute
    flow.reading.clock._mark -= 2 * 10**9
    desk.until(lambda: not flow.study.active, 60, "the end of the block")
    assert "time of this block is over" in desk.widget.study.ui.seatLabel.text
    assert "head" in desk.widget.study.ui.seatLabel.text
    desk.until(lambda: not flow.background.busy("studyend"), 30, "the end")
    kept = Archive(study.folder / "short").counted(block, code)
    assert kept.record["status"] == "budget"
    assert kept.record["answers"] == {}


def test_a_mask_is_drawn_and_sent(desk, study):
    flow = desk.flow
    log_in(desk, study, "draw", reader_of(study, "draw", "solo"))
    code = on_screen(desk)
    assert desk.widget.ui.tabs.isTabVisible(3)
    flow.editing.addLesion("liver_tumor")
    bounds = [0.0] * 6
    flow.reading.volumeNode.GetRASBounds(bounds)
    centre = [(bounds[axis] + bounds[axis + 1]) / 2 for axis in (0, 2, 4)]
    desk.widget.edit.ui.editor.hostPaint(centre, 9.0)
    desk.spin(0.8)
    voxels = flow.editing.segments()[1].voxels
    block = flow.study.seat.block
    desk.press("Ctrl+Return")
    on_screen(desk, code)
    kept = Archive(study.folder / "draw").counted(block, code)
    import nibabel as nib
    import numpy as np

    assert np.count_nonzero(np.asarray(nib.load(kept.mask).dataobj) == 12) == voxels
    end(desk)


def test_after_the_study_the_module_is_as_before(desk):
    flow = desk.flow
    assert (flow.settings.reader, flow.settings.arm) == ("R1", "assisted")
    assert desk.widget.ui.tabs.isTabVisible(0)
    desk.click(desk.widget.cases.ui.connectButton)
    desk.until(lambda: flow.status.kind == "error", 30, "the sentence")
    # a server with a locked study is closed to all else
    assert "does not allow" in flow.status.text
