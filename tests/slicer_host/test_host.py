"""The host itself: what modules rely on holds, over real MRML and a real CT."""

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="needs slicer-core")
pytest.importorskip("PySide6", reason="needs PySide6-Essentials")

from tests.slicer_host import HOST_ERRORS, REPORT, RESERVED_KEYS, boot, check_shortcuts, spin

LAYOUT_ID = 27183
LAYOUT = """
<layout type="horizontal" split="true">
  <item splitSize="700"><view class="vtkMRMLSliceNode" singletontag="HostTest">
    <property name="orientation" action="default">Coronal</property>
    <property name="viewlabel" action="default">H</property>
  </view></item>
  <item splitSize="300"><layout type="vertical">
    <item><view class="vtkMRMLSliceNode" singletontag="Red"/></item>
    <item><view class="vtkMRMLSliceNode" singletontag="Yellow"/></item>
  </layout></item>
</layout>
"""


@pytest.fixture(scope="module")
def app():
    return boot(size=(1200, 800))


@pytest.fixture(autouse=True)
def _clean(app):
    slicer.mrmlScene.Clear(0)
    HOST_ERRORS.clear()
    for names in REPORT.values():
        names.clear()
    yield
    slicer.mrmlScene.Clear(0)


@pytest.fixture
def ct(app, real_data):
    return slicer.util.loadVolume(str(real_data / "ct" / "ts_example" / "ct.nii.gz"))


@pytest.fixture
def editor(ct):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    node.SetReferenceImageGeometryParameterFromVolumeNode(ct)
    for name in ("first", "second"):
        node.GetSegmentation().AddEmptySegment(name, name)
    widget = slicer.qMRMLSegmentEditorWidget()
    widget.setMRMLScene(slicer.mrmlScene)
    widget.setMRMLSegmentEditorNode(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentEditorNode"))
    widget.setSegmentationNode(node)
    widget.setSourceVolumeNode(ct)
    widget.setMaximumNumberOfUndoStates(10)
    return widget


def centre(node):
    bounds = [0.0] * 6
    node.GetRASBounds(bounds)
    return [(low + high) / 2 for low, high in zip(bounds[::2], bounds[1::2], strict=True)]


def voxels(editor, segment, ct):
    return int(
        slicer.util.arrayFromSegmentBinaryLabelmap(editor.segmentationNode(), segment, ct).sum()
    )


# ----------------------------------------------------------------------------------------- PythonQt
def test_a_property_is_an_attribute_and_no_method(app):
    import qt

    label = qt.QLabel("a")
    label.text = "b"
    assert label.text == "b"
    with pytest.raises(TypeError):
        label.text()
    label.setText("c")
    assert label.text == "c"


def test_a_slot_gets_as_many_arguments_as_it_takes_and_disconnects(app):
    import qt

    button, calls = qt.QPushButton("x"), []

    def none():
        calls.append("none")

    button.connect("clicked(bool)", none)
    button.connect("clicked(bool)", lambda checked: calls.append(checked))
    button.click()
    button.disconnect("clicked(bool)", none)
    button.click()
    assert calls == ["none", False, False]


def test_a_signal_that_is_not_there_is_refused_and_reported(app):
    import qt

    with pytest.raises(AttributeError, match="currentIndexChanged"):
        qt.QComboBox().connect("currentIndexChanged(QString)", print)
    assert REPORT["bad_signal"]


def test_a_plain_qt_object_takes_no_new_attributes(app):
    import qt

    with pytest.raises(AttributeError, match="setpText"):
        qt.QLabel().setpText = "typo"


@pytest.mark.parametrize("source", ["slot", "timer", "observer"])
def test_an_exception_that_nobody_catches_is_recorded(app, source):
    import qt

    def fail(*_):
        message = "seen"
        raise RuntimeError(message)

    if source == "slot":
        button = qt.QPushButton()
        button.connect("clicked()", fail)
        button.click()
    elif source == "timer":
        qt.QTimer.singleShot(0, fail)
        spin(0.05)
    else:
        tag = slicer.mrmlScene.AddObserver(slicer.vtkMRMLScene.NodeAddedEvent, fail)
        slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTextNode")
        slicer.mrmlScene.RemoveObserver(tag)
    assert str(HOST_ERRORS[0][1]) == "seen"


# -------------------------------------------------------------------------------------------- views
def test_a_layout_of_a_module_is_shown_nested_and_in_its_proportions(app):
    node = app.layoutManager().layoutLogic().GetLayoutNode()
    if not node.IsLayoutDescription(LAYOUT_ID):
        node.AddLayoutDescription(LAYOUT_ID, LAYOUT)
    app.layoutManager().setLayout(LAYOUT_ID)
    spin(0.05)
    own, red, yellow, green = (
        app.layoutManager().sliceWidget(name) for name in ("HostTest", "Red", "Yellow", "Green")
    )
    assert own.mrmlSliceNode().GetOrientation() == "Coronal"
    assert own.width > 2 * red.width
    assert (
        red.mapToGlobal(red.rect.bottomLeft()).y() < yellow.mapToGlobal(yellow.rect.topLeft()).y()
    )
    assert not green.isVisible()
    assert own.mrmlSliceNode().IsMappedInLayout()
    assert not green.mrmlSliceNode().IsMappedInLayout()
    app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
    assert green.isVisible()
    assert not own.isVisible()
    assert HOST_ERRORS == []


def test_the_wheel_scrolls_the_slice_through_the_genuine_interactor_style(app, ct):
    import qt

    app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
    spin(0.1)
    view = app.layoutManager().sliceWidget("Red").sliceView()
    before, picture = view.sliceLogic().GetSliceOffset(), view.grab().toImage()
    middle = qt.QPointF(view.width / 2, view.height / 2)
    wheel = qt.QWheelEvent(
        middle, middle, qt.QPoint(0, 0), qt.QPoint(0, 120), qt.Qt.NoButton, qt.Qt.NoModifier,
        qt.Qt.NoScrollPhase, False,
    )  # fmt: skip
    qt.QApplication.sendEvent(view, wheel)
    spin(0.1)
    assert abs(view.sliceLogic().GetSliceOffset() - before) == pytest.approx(
        3.0
    )  # the CT's slice spacing
    assert view.grab().toImage() != picture


def test_a_segment_is_drawn_over_the_slice(app, ct, editor):
    app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView)
    slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, *centre(ct))
    editor.setCurrentSegmentID("first")
    editor.segmentationNode().GetSegmentation().GetSegment("first").SetColor(1, 0, 0)
    view = app.layoutManager().sliceWidget("Red").sliceView()
    spin(0.1)
    assert red_pixels(view) == 0
    editor.hostPaint(centre(ct), 30)
    spin(0.1)
    assert red_pixels(view) > 500


def red_pixels(view):
    view.forceRender()
    rgb = view._pixels.astype(int)
    return int(np.sum(rgb[..., 0] > rgb[..., 1] + 60))


# ------------------------------------------------------------------------------------------ editing
def test_strokes_are_undone_and_redone_by_the_genuine_editor_logic(editor, ct):
    editor.setCurrentSegmentID("first")
    counts = []
    for stroke in (
        lambda: editor.hostPaint(centre(ct), 15),
        lambda: editor.hostPaint(centre(ct), 8, erase=True),
        editor.undo,
        editor.undo,
        editor.redo,
    ):
        stroke()
        counts.append(voxels(editor, "first", ct))
    ball = 4 / 3 * np.pi * 15**3 / 27  # voxels of 3 mm
    assert counts[0] == pytest.approx(ball, rel=0.05)
    assert counts[0] > counts[1] > 0
    assert counts[2:] == [counts[0], 0, counts[0]]


@pytest.mark.parametrize(
    ("mode", "kept"), [("OverwriteNone", True), ("OverwriteAllSegments", False)]
)
def test_other_segments_are_overwritten_only_if_the_node_says_so(editor, ct, mode, kept):
    node = editor.mrmlSegmentEditorNode()
    editor.setCurrentSegmentID("first")
    editor.hostPaint(centre(ct), 12)
    before = voxels(editor, "first", ct)
    node.SetOverwriteMode(getattr(slicer.vtkMRMLSegmentEditorNode, mode))
    editor.setCurrentSegmentID("second")
    editor.hostPaint(centre(ct), 6)
    assert (voxels(editor, "first", ct) == before) == kept
    assert voxels(editor, "second", ct) > 0


# ---------------------------------------------------------------------- settings, parameters, keys
def test_a_parameter_node_remembers_typed_values_through_a_saved_scene(app, tmp_path):
    import enum

    from slicer.parameterNodeWrapper import parameterNodeWrapper
    from slicer.ScriptedLoadableModule import ScriptedLoadableModuleLogic

    class Arm(enum.Enum):
        SOLO = "solo"
        AIDED = "aided"

    @parameterNodeWrapper
    class Parameters:
        volume: slicer.vtkMRMLScalarVolumeNode
        arm: Arm = Arm.AIDED
        seconds: float = 30.0
        reader: str = ""
        visible: bool = True

    class DeskLogic(ScriptedLoadableModuleLogic):
        pass

    parameters = Parameters(DeskLogic().getParameterNode())
    assert (parameters.arm, parameters.seconds, parameters.visible) == (Arm.AIDED, 30.0, True)
    parameters.arm, parameters.seconds, parameters.reader, parameters.visible = (
        Arm.SOLO,
        5,
        "R <1>; a:b",
        False,
    )
    with pytest.raises(TypeError):
        parameters.reader = 3
    scene = str(tmp_path / "scene.mrml")
    assert slicer.util.saveScene(scene)
    slicer.mrmlScene.Clear(0)
    slicer.util.loadScene(scene)
    again = Parameters(DeskLogic().getParameterNode())
    found = (again.arm, again.seconds, again.reader, again.visible, again.volume)
    assert found == (Arm.SOLO, 5.0, "R <1>; a:b", False, None)


def test_a_parameter_goes_only_to_widgets_that_slicer_can_connect(app):
    import qt
    from slicer.parameterNodeWrapper import parameterNodeWrapper

    @parameterNodeWrapper
    class Shown:
        shown: bool = True

    parameters = Shown(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode"))
    for cls in (qt.QToolButton, qt.QLineEdit):
        with pytest.raises(RuntimeError):
            parameters.connectParametersToGui({"shown": cls()})
    box = qt.QCheckBox()
    tag = parameters.connectParametersToGui({"shown": box})
    assert box.checked
    box.checked = False
    assert parameters.shown is False
    parameters.shown = True
    assert box.checked
    parameters.disconnectGui(tag)
    box.checked = False
    assert parameters.shown is True


def test_a_settings_panel_loads_what_was_stored_and_stores_what_changes(app):
    import ctk
    import qt

    qt.QSettings().setValue("HostTest/on", 0)
    panel, box, line = ctk.ctkSettingsPanel(), qt.QCheckBox(), qt.QLineEdit("standard")
    box.checked = True
    mapper = ctk.ctkBooleanMapper(box, "checked", qt.SIGNAL("toggled(bool)"))
    panel.registerProperty("HostTest/on", mapper, "valueAsInt", qt.SIGNAL("valueAsIntChanged(int)"))
    panel.registerProperty("HostTest/text", line, "text", qt.SIGNAL("textChanged(QString)"))
    assert box.checked is False
    box.checked = True
    line.text = "changed"
    assert slicer.util.settingsValue("HostTest/on", False, converter=slicer.util.toBool) is True
    assert slicer.util.settingsValue("HostTest/text", "") == "changed"


@pytest.mark.parametrize("key", ["Ctrl+1", "Z", "T", "Ctrl+Shift+A"])
def test_a_shortcut_that_slicer_uses_is_an_error(app, key):
    import qt

    assert key in RESERVED_KEYS
    shortcut = qt.QShortcut(qt.QKeySequence(key), slicer.util.mainWindow())
    assert [sentence for sentence in check_shortcuts() if f"shortcut {key} " in sentence]
    assert key in str(HOST_ERRORS[0][1])
    shortcut.setParent(None)


def test_a_free_shortcut_used_once_is_no_error_and_twice_is_one(app):
    import qt

    one = qt.QShortcut(qt.QKeySequence("Ctrl+Shift+F7"), slicer.util.mainWindow())
    assert check_shortcuts() == []
    two = qt.QShortcut(qt.QKeySequence("Ctrl+Shift+F7"), slicer.util.mainWindow())
    assert len(check_shortcuts()) == 1
    for shortcut in (one, two):
        shortcut.setParent(None)


def test_the_editors_own_keys_are_no_clash_and_go_when_it_is_left(app, editor):
    import qt

    editor.installKeyboardShortcuts()
    assert check_shortcuts() == []
    assert len(slicer.util.mainWindow().findChildren(qt.QShortcut)) > 20
    editor.uninstallKeyboardShortcuts()
    assert slicer.util.mainWindow().findChildren(qt.QShortcut) == []
