"""Screening with several folds, cancelling, and a second AI answer over a reader's edits."""

import shutil

import pytest

from . import harness


@pytest.fixture(scope="module")
def organ_server(tmp_path_factory, real_data):
    """The shipped network finds the organs; three folds of a random one screen them."""
    pytest.importorskip("monailabel", reason="the server extra is not installed")
    models = harness.save_models(tmp_path_factory.mktemp("models"))
    studies = tmp_path_factory.mktemp("studies")
    for case in ("acrin_flt_001", "crlm_1006"):
        shutil.copy(real_data / "ct" / case / "ct.nii.gz", studies / f"{case}.nii.gz")
    shutil.rmtree(models / "segmentation")
    shutil.copytree(harness.ROOT / "pasta" / "weights" / "segmentation", models / "segmentation")
    log = tmp_path_factory.mktemp("log") / "server.log"
    running = harness.serving().Server(studies, models, log)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def desk(tmp_path_factory, organ_server):
    pytest.importorskip("slicer", reason="needs slicer-core")
    desk = harness.Desk(tmp_path_factory.mktemp("reader"), organ_server.url)
    desk.connect()
    yield desk
    desk.close()


def test_a_task_is_cancelled_with_one_click_and_reading_goes_on(desk):
    desk.open("crlm_1006")
    desk.until(lambda: desk.flow.assistant.running, 30, "the diagnosis")
    desk.until(lambda: desk.widget.ui.cancelButton.visible, 30, "the button")
    desk.click(desk.widget.ui.cancelButton)
    desk.until(lambda: not desk.flow.assistant.running, 60, "the end")
    assert desk.flow.status.text == "Cancelled."
    assert desk.flow.reading.documents == {}
    assert desk.flow.canRead


def test_bars_show_the_mean_and_the_spread_of_the_folds_and_the_map_lies_over_the_ct(desk):
    import slicer

    desk.open("acrin_flt_001")
    desk.idle()
    desk.widget.goTo("AI")
    desk.click(desk.widget.ai.ui.screeningButton)
    desk.until(lambda: "pasta_screening" in desk.flow.reading.documents, 120, "the screening")
    organs = desk.flow.reading.documents["pasta_screening"]["organs"]
    assessed = [organ for organ in organs if organ["probability"] is not None]
    assert assessed
    spread = assessed[0]["spread"]
    texts = [row.text for row in desk.widget.ai._rows]
    low, high = 100 * spread["min"], 100 * spread["max"]
    assert any(f"({low:.0f}-{high:.0f})" in text for text in texts)
    assert any("Folds" in row.toolTip for row in desk.widget.ai._rows)
    desk.widget.ai.ui.evidenceCheck.checked = True
    composite = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceCompositeNode()
    assert composite.GetForegroundVolumeID() == desk.flow.reading.evidenceNode.GetID()
    desk.widget.ai.ui.evidenceSlider.value = 80
    assert composite.GetForegroundOpacity() == pytest.approx(0.8)
    desk.widget.ai.ui.evidenceCheck.checked = False
    assert not composite.GetForegroundVolumeID()


def test_an_answer_never_overwrites_edits_unless_the_reader_says_so(desk):
    flow = desk.flow
    flow.editing.addLesion("liver_cyst")
    bounds = [0.0] * 6
    flow.reading.volumeNode.GetRASBounds(bounds)
    centre = [(bounds[axis] + bounds[axis + 1]) / 2 for axis in (0, 2, 4)]
    desk.widget.edit.ui.editor.hostPaint(centre, 9.0)
    desk.spin(0.8)
    voxels = flow.editing.segments()[1].voxels
    desk.press("Ctrl+Shift+D")
    desk.until(lambda: any(q.key == "replace" for q in flow.questions), 120, "the question")
    assert flow.editing.segments()[1].voxels == voxels
    desk.click(desk.widget.ui.noButton)
    assert flow.editing.segments()[1].voxels == voxels
    assert flow.reading.report.lesion(1).label == "liver_cyst"


def test_the_solo_reader_may_hide_the_clock_and_settings_have_a_page(desk):
    import slicer

    desk.host.startup_completed()
    assert "PASTA-AID" in slicer.app.settingsDialog().panels
    desk.widget.saveSettings(clock_visible=False)
    assert not desk.widget.ui.clockLabel.visible
    desk.widget.saveSettings(clock_visible=True)
    assert desk.widget.ui.clockLabel.visible
    assert desk.faults() == []
