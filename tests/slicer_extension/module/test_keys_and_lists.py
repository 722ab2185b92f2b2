"""Keys, layouts, search, going back, the next case by active learning; edits after a submission."""

import time

import pytest

from pasta.study.events import read_events

from . import harness


@pytest.fixture(scope="module")
def desk(tmp_path_factory, server):
    pytest.importorskip("slicer", reason="needs slicer-core")
    folder = tmp_path_factory.mktemp("reader")
    desk = harness.Desk(folder, server.url, run_ai_on_open=False, idle_seconds=1.0, reader="R7")
    desk.connect()
    yield desk
    desk.close()


def kinds(desk):
    return [event["type"] for event in read_events(desk.flow.log.path)]


def test_the_search_shows_only_cases_that_hold_every_word(desk):
    ui = desk.widget.cases.ui
    ui.searchEdit.text = "crlm 1006"
    assert [ui.caseTable.item(row, 1).text() for row in range(ui.caseTable.rowCount)] == [
        "crlm_1006"
    ]
    desk.click(ui.openButton)
    desk.shown("crlm_1006")
    ui.searchEdit.text = ""
    assert ui.caseTable.rowCount == 3


def test_back_and_next_go_through_the_list(desk):
    desk.press("Ctrl+Shift+P")
    desk.shown("crlm_1004")
    desk.press("Ctrl+Shift+P")
    assert "first case" in desk.flow.status.text
    desk.press("Ctrl+Shift+N")
    desk.shown("crlm_1006")


def test_layouts_change_with_one_key_and_all_three_views_stay(desk):
    import slicer

    manager = slicer.app.layoutManager()
    layouts = []
    for key in ("Alt+7", "Alt+8", "Alt+6"):
        desk.press(key)
        desk.spin(0.2)
        layouts.append(manager.layout)
        assert all(manager.sliceWidget(name).visible for name in ("Red", "Green", "Yellow"))
        assert (manager.threeDViewCount > 0 and manager.threeDWidget(0).visible) == (key == "Alt+8")
    assert len(set(layouts)) == 3


def test_only_the_segmentation_is_run_and_its_masks_are_turned_on_and_off_by_one_key(desk):
    desk.widget.goTo("AI")
    desk.click(desk.widget.ai.ui.segmentationButton)
    desk.until(lambda: "pasta_segmentation" in desk.flow.reading.documents, 120, "the masks")
    desk.idle()
    assert desk.flow.editing.segments()
    display = desk.flow.reading.segmentationNode.GetDisplayNode()
    shown = []
    for _press in range(4):
        desk.press("Ctrl+Shift+M")
        fill, outline = display.GetVisibility2DFill(), display.GetVisibility2DOutline()
        shown.append((bool(display.GetVisibility()), bool(fill), bool(outline)))
    assert shown == [
        (True, False, True),
        (True, True, False),
        (False, False, False),
        (True, True, True),
    ]


def test_hands_at_rest_are_flagged_as_idle_and_not_subtracted(desk):
    began = desk.flow.reading.clock.elapsed_seconds
    desk.until(lambda: "idle_start" in kinds(desk), 30, "the flag")
    assert desk.flow.reading.clock.elapsed_seconds - began >= 0.9
    desk.flow.active()
    timing = desk.flow.reading.clock.timing()
    assert timing.idle_seconds >= 1.0
    assert timing.reading_seconds >= timing.active_seconds + timing.idle_seconds - 0.01


def test_an_edit_after_the_submission_starts_the_clock_again(desk):
    flow = desk.flow
    desk.press("Ctrl+Return")
    desk.until(lambda: flow.reading.receipt is not None, 60, "the receipt")
    first = flow.reading.timing
    time.sleep(0.5)
    desk.widget.report.ui.impressionEdit.setPlainText("One more thing.")
    assert flow.reading.timing is None
    assert flow.reading.clock.state == "running"
    assert kinds(desk)[-1] == "reopen"
    assert flow.reading.clock.elapsed_seconds < first.reading_seconds + 0.4
    receipt = flow.reading.receipt
    desk.press("Ctrl+Return")
    desk.until(lambda: flow.reading.receipt is not receipt, 60, "the second receipt")
    assert flow.reading.timing.reading_seconds >= first.reading_seconds
    assert kinds(desk).count("case_complete") == 2


def test_the_server_names_the_next_case_to_label(desk):
    ui = desk.widget.cases.ui
    ui.strategyCombo.setCurrentIndex(ui.strategyCombo.findText("first"))
    desk.click(ui.learningButton)
    desk.shown("crlm_1004")
