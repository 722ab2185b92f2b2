"""The three views: what is shown where, drawn by Slicer's own slice pipeline."""

import nibabel as nib
import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="needs slicer-core")

NAMES = ("Red", "Green", "Yellow")


@pytest.fixture
def views(host):
    from PASTAAidGui.Views import Views

    views = Views()
    views.install()
    views.setLayout("threeRow")
    host.spin(0.1)
    yield views
    views.remove()


def pixels(name):
    """Draw a view now and read it: rows from the bottom."""
    import vtk
    from vtk.util.numpy_support import vtk_to_numpy

    window = slicer.app.layoutManager().sliceWidget(name).sliceView().renderWindow()
    window.Render()
    width, height = window.GetSize()
    array = vtk.vtkUnsignedCharArray()
    window.GetPixelData(0, 0, width - 1, height - 1, 0, array, 0)
    return vtk_to_numpy(array).reshape(height, width, 3).astype(int)


def place(name, ras):
    """The pixel (x, y from the bottom) of a point, and how far it lies off the slice in mm."""
    node = slicer.app.layoutManager().sliceWidget(name).mrmlSliceNode()
    inverse = np.linalg.inv(slicer.util.arrayFromVTKMatrix(node.GetXYToRAS()))
    x, y, z, _one = inverse @ [*ras, 1]
    return round(x), round(y), z


def test_a_landmark_is_shown_in_the_middle_of_all_three_views(case, views, load, host):
    image = nib.load(case.ct)
    voxels = np.full(image.shape, -1000, np.int16)
    spot = np.array(image.shape) * (0.3, 0.6, 0.4)
    i, j, k = spot.astype(int)
    voxels[i - 3 : i + 4, j - 3 : j + 4, k - 3 : k + 4] = 3000
    nib.save(nib.Nifti1Image(voxels, image.affine), case.ct)
    volume = load(case.ct)
    views.showVolume(volume)
    views.setWindow("bone")
    ras = (image.affine @ [i, j, k, 1])[:3]
    views.jumpTo(ras)
    host.spin(0.1)
    for name in NAMES:
        shown = pixels(name)
        x, y, _z = place(name, ras)
        assert shown[y, x].min() > 240, name
        assert abs(x - shown.shape[1] / 2) < 12
        assert abs(y - shown.shape[0] / 2) < 12
        assert (shown.min(axis=2) > 240).mean() < 0.1  # the block alone


@pytest.mark.parametrize(
    ("name", "letters", "right", "up"),
    [
        ("Red", "RLPA", (-1, 0, 0), (0, 1, 0)),
        ("Green", "RLIS", (-1, 0, 0), (0, 0, 1)),
        ("Yellow", "APIS", (0, -1, 0), (0, 0, 1)),
    ],
)
def test_patient_right_is_on_the_left_and_the_edges_say_so(
    name, letters, right, up, case, views, load, host
):
    volume = load(case.ct)
    views.showVolume(volume)
    host.spin(0.1)
    centre = np.zeros(6)
    volume.GetRASBounds(centre)
    middle = centre.reshape(3, 2).mean(axis=1)
    x, y, _z = place(name, middle)
    x_right, _y, _z = place(name, middle + 30 * np.array(right))
    _x, y_up, _z = place(name, middle + 30 * np.array(up))
    assert x_right > x + 5
    assert y_up > y + 5
    assert views._letters[name].text == letters


def test_liver_and_kidneys_lie_where_a_radiologist_expects_them(lps, views, load, host):
    from PASTAAidGui.Masks import Masks

    volume = load(lps.ct)
    views.showVolume(volume)
    node = Masks().fromLabelmap(lps.mask, volume, None)
    views.showMasks(node)
    views.setMaskOpacity(1.0)
    liver = (lps.affine @ [*np.argwhere(lps.values == 2).mean(axis=0), 1])[:3]
    views.jumpTo(liver)
    x, _y, _z = place("Red", liver + np.array([-10, 0, 0]))  # off the crosshair
    views.fit()
    views.jumpTo(liver)
    host.spin(0.1)
    for name in NAMES:
        shown = pixels(name)
        x, y, _z = place(name, liver + np.array([-6, 6, 6]))
        color = np.array([186, 110, 74])
        assert np.abs(shown[y, x] - color).max() < 12, name


def test_all_three_views_have_drawn_the_volume_when_the_call_comes(lps, views, load, host):
    volume = load(lps.ct)
    calls = []
    views.showVolume(volume)
    views.whenDisplayed(lambda: calls.append("shown"))
    assert calls == []  # set, not drawn
    for name in NAMES[:2]:
        slicer.app.layoutManager().sliceWidget(name).sliceView().renderWindow().Render()
    assert calls == []  # two of three
    slicer.app.layoutManager().sliceWidget("Yellow").sliceView().renderWindow().Render()
    assert calls == ["shown"]
    host.spin(0.2)
    assert calls == ["shown"]  # once


def test_the_call_does_not_come_for_another_volume(lps, views, load, host):
    first, second = load(lps.ct), load(lps.ct)
    calls = []
    views.showVolume(first)
    views.whenDisplayed(lambda: calls.append(1))
    views.showVolume(second)
    views.whenDisplayed(lambda: calls.append(2))
    host.spin(0.3)
    assert calls == [2]


def test_masks_cycle_through_four_displays(lps, views, load, host):
    from PASTAAidGui.Masks import Masks

    volume = load(lps.ct)
    views.showVolume(volume)
    node = Masks().fromLabelmap(lps.mask, volume, None)
    views.showMasks(node)
    display = node.GetDisplayNode()
    pictures, states = {}, []
    for _step in range(4):
        host.spin(0.05)
        pictures[views.maskMode] = pixels("Green")
        states.append(
            (
                views.maskMode,
                display.GetVisibility(),
                display.GetVisibility2DFill(),
                display.GetVisibility2DOutline(),
            )
        )
        views.cycleMaskDisplay()
    assert states == [
        ("outline+fill", 1, True, True),
        ("outline", 1, False, True),
        ("fill", 1, True, False),
        ("off", 0, False, False),
    ]
    assert views.maskMode == "outline+fill"
    colored = {mode: int((np.ptp(p, axis=2) > 25).sum()) for mode, p in pictures.items()}
    assert colored["outline+fill"] >= colored["fill"] > 3 * colored["outline"]
    assert colored["outline"] > 2 * colored["off"]


def test_windows_are_in_hounsfield_units(lps, views, load, host):
    from PASTAAidGui.Views import PRESETS

    volume = load(lps.ct)
    views.showVolume(volume)
    for name, (width, level) in PRESETS.items():
        views.setWindow(name)
        display = volume.GetDisplayNode()
        assert (display.GetWindow(), display.GetLevel()) == (width, level)
        assert not display.GetAutoWindowLevel()
    with pytest.raises(ValueError, match="soft tissue"):
        views.setWindow("spleen")


def test_evidence_lies_in_colour_over_the_ct_and_is_clear_where_there_is_none(
    lps, views, load, host, tmp_path
):
    volume = load(lps.ct)
    views.showVolume(volume)
    views.setWindow("soft tissue")
    host.spin(0.1)
    before = pixels("Red")
    heat = np.zeros(lps.values.shape, np.float32)
    spot = np.argwhere(lps.values == 2).mean(axis=0).astype(int)
    heat[tuple(slice(c - 6, c + 7) for c in spot)] = 0.9
    nib.save(nib.Nifti1Image(heat, lps.affine), tmp_path / "evidence.nii.gz")
    evidence = load(tmp_path / "evidence.nii.gz")
    views.showEvidence(evidence, 0.5)
    ras = (lps.affine @ [*spot, 1])[:3]
    views.jumpTo(ras)
    host.spin(0.1)
    shown = pixels("Red")
    x, y, _z = place("Red", ras + np.array([8, 8, 0]))
    red, _green, blue = shown[y, x]
    assert red > 150
    assert red > blue + 60
    x, y, _z = place("Red", ras + np.array([50, 0, 0]))
    assert np.ptp(shown[y, x]) < 3  # grey as before
    views.hideEvidence()
    views.fit()
    host.spin(0.1)
    np.testing.assert_array_equal(pixels("Red"), before)


def test_views_are_linked_and_the_crosshair_follows(lps, views, load, host):
    volume = load(lps.ct)
    views.showVolume(volume)
    views.setCrosshair(True)
    node = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    assert node.GetCrosshairMode() == slicer.vtkMRMLCrosshairNode.ShowIntersection
    for name in NAMES:
        composite = slicer.app.layoutManager().sliceWidget(name).mrmlSliceCompositeNode()
        assert composite.GetLinkedControl()
        assert composite.GetHotLinkedControl()
    views.jumpTo((10.0, 170.0, 300.0))
    np.testing.assert_allclose(node.GetCrosshairRAS(), (10.0, 170.0, 300.0))


@pytest.mark.parametrize("name", ["threeRow", "axialLarge", "fourUp"])
def test_layouts_show_all_three_slices_and_outlive_close_and_import(name, views, host, tmp_path):
    from PASTAAidGui.Views import LAYOUT_IDS

    manager = slicer.app.layoutManager()
    views.setLayout("threeRow")
    host.spin(0.1)
    other = slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView
    scene = tmp_path / "scene.mrml"
    manager.setLayout(other)
    slicer.mrmlScene.SetURL(str(scene))
    slicer.mrmlScene.Commit(str(scene))
    views.setLayout(name)
    host.spin(0.1)
    node = manager.layoutLogic().GetLayoutNode()
    for change in (lambda: slicer.mrmlScene.Clear(0), slicer.mrmlScene.Import):
        change()
        host.spin(0.1)
        assert node.GetViewArrangement() == LAYOUT_IDS[name]
        assert all(node.IsLayoutDescription(identifier) for identifier in LAYOUT_IDS.values())
        assert all(manager.sliceWidget(view).visible for view in NAMES)


def test_layout_descriptions_are_what_slicer_parses(host):
    from PASTAAidGui.Views import LAYOUTS

    for description in LAYOUTS.values():
        element = slicer.vtkMRMLLayoutNode.ParseLayout(description)
        assert element is not None
        assert all(f'singletontag="{name}"' in description for name in NAMES)


def test_remove_puts_everything_back(lps, host, load):
    from PASTAAidGui.Views import LAYOUT_IDS, Views

    manager = slicer.app.layoutManager()
    manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
    before = load(lps.ct)
    slicer.util.setSliceViewerLayers(background=before)
    host.spin(0.1)
    states = stateOf(manager)
    views = Views()
    views.install()
    views.setLayout("axialLarge")
    volume = load(lps.ct)
    views.showVolume(volume)
    views.whenDisplayed(lambda: None)
    views.setCrosshair(True)
    views.showEvidence(load(lps.ct))
    views.jumpTo((0, 150, 300))
    host.spin(0.1)
    assert stateOf(manager) != states
    nodes = slicer.mrmlScene.GetNumberOfNodes()
    views.remove()
    host.spin(0.1)
    assert stateOf(manager) == states
    assert slicer.mrmlScene.GetNumberOfNodes() == nodes - 1  # the colours of the evidence
    layoutNode = manager.layoutLogic().GetLayoutNode()
    assert not any(layoutNode.IsLayoutDescription(identifier) for identifier in LAYOUT_IDS.values())


def stateOf(manager):
    crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    state = [manager.layoutLogic().GetLayoutNode().GetViewArrangement()]
    state += [crosshair.GetCrosshairMode(), crosshair.GetCrosshairBehavior()]
    for name in NAMES:
        widget = manager.sliceWidget(name)
        composite, node = widget.mrmlSliceCompositeNode(), widget.mrmlSliceNode()
        renderer = widget.sliceView().renderWindow().GetRenderers().GetItemAsObject(0)
        matrix = slicer.util.arrayFromVTKMatrix(node.GetSliceToRAS())
        texts = [
            renderer.GetViewProps().GetItemAsObject(n).GetClassName()
            for n in range(renderer.GetViewProps().GetNumberOfItems())
        ]
        state.append(
            (
                composite.GetBackgroundVolumeID(),
                composite.GetForegroundVolumeID(),
                composite.GetForegroundOpacity(),
                composite.GetLinkedControl(),
                composite.GetHotLinkedControl(),
                node.GetRulerType(),
                matrix.round(3).tolist(),
                texts.count("vtkOpenGLTextActor"),
            )
        )
    return state
