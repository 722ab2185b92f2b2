"""A reading without AI: nothing of it is shown, asked for, kept or logged."""

import pytest

from pasta.study.events import read_events

from . import harness


@pytest.fixture(scope="module")
def desk(tmp_path_factory, server):
    pytest.importorskip("slicer", reason="needs slicer-core")
    desk = harness.Desk(tmp_path_factory.mktemp("reader"), server.url, arm="solo", reader="S1")
    yield desk
    desk.close()


def test_no_ai_is_shown_run_or_logged(desk, server):
    desk.connect()
    desk.open("crlm_1006")
    desk.press("Ctrl+Shift+D")
    desk.flow.assistant.run("pasta_screening")
    desk.spin(1.0)
    tabs = desk.widget.ui.tabs
    assert tabs.tabText(1) == "AI"
    assert not tabs.isTabVisible(1)
    assert not desk.widget.ui.acceptAllButton.visible
    assert desk.flow.assistant.running is None
    assert desk.flow.reading.documents == {}
    assert desk.flow.reading.report.lesions == []
    assert server.get("/pasta/jobs").json()["jobs"] == [] or all(
        job["image"] != "crlm_1006" for job in server.get("/pasta/jobs").json()["jobs"]
    )


def test_the_reader_draws_measures_and_submits_alone(desk, server):
    flow, edit = desk.flow, desk.widget.edit.ui
    edit.labelCombo.setCurrentIndex(edit.labelCombo.findData("liver_tumor"))
    desk.click(edit.addButton)
    import slicer

    bounds = [0.0] * 6
    flow.reading.volumeNode.GetRASBounds(bounds)
    centre = [(bounds[axis] + bounds[axis + 1]) / 2 for axis in (0, 2, 4)]
    edit.editor.hostPaint(centre, 12.0)
    desk.spin(0.8)
    desk.click(desk.widget.report.ui.remeasureButton)
    assert flow.reading.report.lesions[0].size_mm is not None
    desk.choose(desk.widget.report.combos["density"], "Hypodense")
    assert desk.widget.report._labels["density"][1].text == ""
    desk.press("Ctrl+Return")
    desk.until(lambda: flow.reading.receipt is not None, 60, "the receipt")
    kinds = [event["type"] for event in read_events(flow.log.path)]
    assert "case_complete" in kinds
    assert [kind for kind in kinds if kind.startswith("ai_")] == []
    waits = [e for e in read_events(flow.log.path) if e["type"] == "wait_start"]
    assert [e for e in waits if e["payload"]["kind"] == "ai"] == []
    assert slicer.mrmlScene is not None


def test_a_version_made_with_ai_stays_hidden(desk):
    desk.widget.saveSettings(arm="assisted")
    desk.connect()
    desk.open("crlm_1004")
    desk.until(lambda: desk.flow.reading.documents, 120, "the diagnosis")
    desk.press("Ctrl+Return")
    desk.until(lambda: desk.flow.reading.receipt is not None, 60, "the receipt")
    desk.widget.saveSettings(arm="solo")
    desk.connect()
    desk.open("crlm_1004")
    desk.until(lambda: "stays hidden" in desk.flow.status.text, 60, "the refusal")
    assert desk.flow.reading.report.lesions == []
    assert desk.flow.editing.segments() == {}
