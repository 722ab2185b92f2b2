"""Three orthogonal views of a CT with masks, crosshair, windows and evidence map."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

# Singleton tag, orientation preset, letter, colour: the three views that Slicer's users know.
SLICES = (
    ("Red", "Axial", "R", "#F34A33"),
    ("Green", "Coronal", "G", "#6EB04B"),
    ("Yellow", "Sagittal", "Y", "#EDD54C"),
)
# Ids of custom layouts are shared by all modules; these are far from Slicer's own (< 101) and 501 f.
LAYOUT_IDS = {"threeRow": 27180, "axialLarge": 27181, "fourUp": 27182}
# Window width and level in HU. The liver window takes in native (50) and portal venous (110) liver.
PRESETS: dict[str, tuple[float, float]] = {
    "soft tissue": (400.0, 40.0),
    "lung": (1500.0, -600.0),
    "bone": (1800.0, 400.0),
    "liver": (200.0, 80.0),
    "brain": (80.0, 40.0),
}
MASK_MODES = ("outline+fill", "outline", "fill", "off")
MASKS_ATTRIBUTE = "PASTAAid.masks"  # set on the segmentations that the mask keys act on
EVIDENCE_FLOOR = 0.05  # below, the map stays clear
OBLIQUE_COSINE = 0.9999  # 0.8 degrees; steeper volumes are shown along their own axes


def _sliceXml(tag: str) -> str:
    name, orientation, letter, color = next(item for item in SLICES if item[0] == tag)
    return (
        f'<view class="vtkMRMLSliceNode" singletontag="{name}">'
        f'<property name="orientation" action="default">{orientation}</property>'
        f'<property name="viewlabel" action="default">{letter}</property>'
        f'<property name="viewcolor" action="default">{color}</property></view>'
    )


def _row(*items: str, kind: str = "horizontal") -> str:
    inner = "".join(f'<item splitSize="500">{item}</item>' for item in items)
    return f'<layout type="{kind}" split="true">{inner}</layout>'


_RED, _GREEN, _YELLOW = (_sliceXml(item[0]) for item in SLICES)
_THREE_D = (
    '<view class="vtkMRMLViewNode" singletontag="1">'
    '<property name="viewlabel" action="default">1</property></view>'
)
LAYOUTS = {
    "threeRow": _row(_RED, _GREEN, _YELLOW),
    "axialLarge": (
        '<layout type="horizontal" split="true">'
        f'<item splitSize="660">{_RED}</item>'
        f'<item splitSize="340">{_row(_GREEN, _YELLOW, kind="vertical")}</item></layout>'
    ),
    "fourUp": _row(_row(_RED, _THREE_D), _row(_GREEN, _YELLOW), kind="vertical"),
}


@dataclass
class _Before:
    """What a slice view showed before this module came."""

    background: str | None
    foreground: str | None
    foregroundOpacity: float
    linked: int
    hotLinked: int
    ruler: int
    orientation: list[float]


class Views:
    """Owns what the three slice views show while the module is open."""

    def __init__(self) -> None:
        """Touch nothing yet; `install` and `setLayout` do."""
        self.volumeNode: Any = None
        self.layout = ""
        self.maskMode = MASK_MODES[0]
        self.maskOpacity = 0.4
        self._evidence: tuple[str, float] | None = None
        self._previousLayout: int | None = None
        self._before: dict[str, _Before] = {}
        self._crosshairBefore: tuple[int, int] | None = None
        self._sceneTags: list[int] = []
        self._waiting: list[tuple[Callable[[], None], dict[str, tuple[Any, int]]]] = []
        self._letters: dict[str, _EdgeLetters] = {}
        self._evidenceColors: Any = None

    # ---------------------------------------------------------------- layout

    def install(self) -> None:
        """Register the layouts and watch the scene, so that they outlive a close or an import."""
        self._addLayouts()
        if not self._sceneTags:
            scene = slicer.mrmlScene
            for event in (scene.EndCloseEvent, scene.EndImportEvent, scene.EndRestoreEvent):
                self._sceneTags.append(scene.AddObserver(event, self._onSceneChanged))

    def setLayout(self, name: str = "threeRow") -> None:
        """Show "threeRow", "axialLarge" or "fourUp"."""
        if name not in LAYOUTS:
            msg = f"layout {name!r}: expected one of {', '.join(LAYOUTS)}."
            raise ValueError(msg)
        self._addLayouts()
        layoutNode = _layoutNode()
        if self._previousLayout is None:
            self._previousLayout = layoutNode.GetViewArrangement()
        self.layout = name
        slicer.app.layoutManager().setLayout(LAYOUT_IDS[name])
        self._setUpSlices()
        self._setUpSurfaces()

    def restorePrevious(self) -> None:
        """Go back to the layout that was there before the first `setLayout`."""
        self.layout = ""
        self._setUpSurfaces()
        if self._previousLayout is not None:
            if _layoutNode().GetViewArrangement() in LAYOUT_IDS.values():
                slicer.app.layoutManager().setLayout(self._previousLayout)
            self._previousLayout = None

    def remove(self) -> None:
        """Take away all that was added and put back what was there."""
        for tag in self._sceneTags:
            slicer.mrmlScene.RemoveObserver(tag)
        self._sceneTags = []
        for callback, _views in list(self._waiting):
            self._forget(callback)
        for letters in self._letters.values():
            letters.remove()
        self._letters = {}
        for name, before in self._before.items():
            self._putBack(name, before)
        self._before = {}
        if self._crosshairBefore is not None:
            crosshair = _crosshairNode()
            if crosshair:
                crosshair.SetCrosshairMode(self._crosshairBefore[0])
                crosshair.SetCrosshairBehavior(self._crosshairBefore[1])
            self._crosshairBefore = None
        self.restorePrevious()
        layoutNode = _layoutNode()
        for identifier in LAYOUT_IDS.values():
            if layoutNode.IsLayoutDescription(identifier):
                layoutNode.SetLayoutDescription(identifier, "")  # an empty one is taken out
        if self._evidenceColors is not None:
            if slicer.mrmlScene.IsNodePresent(self._evidenceColors):
                slicer.mrmlScene.RemoveNode(self._evidenceColors)
            self._evidenceColors = None
        self._evidence = None
        self.volumeNode = None

    # ---------------------------------------------------------------- volume

    def showVolume(self, volumeNode: Any) -> None:
        """Show a CT in all three views: fitted, linked, in its middle."""
        self.volumeNode = volumeNode
        self._evidence = None
        with _oneRender():
            selection = slicer.app.applicationLogic().GetSelectionNode()
            selection.SetActiveVolumeID(volumeNode.GetID())
            self._setUpSlices()
            for widget in _sliceWidgets():
                composite = widget.mrmlSliceCompositeNode()
                composite.SetBackgroundVolumeID(volumeNode.GetID())
                composite.SetForegroundVolumeID(None)
                composite.SetLabelVolumeID(None)
            self.fit()

    def fit(self) -> None:
        """Turn the views to the axes of the patient, or of a tilted CT, and fit them to it."""
        for (name, orientation, _letter, _color), widget in zip(
            SLICES, _sliceWidgets(), strict=True
        ):
            sliceNode = widget.mrmlSliceNode()
            sliceNode.SetOrientation(orientation)
            logic = widget.sliceLogic()
            if self.volumeNode is not None and _isOblique(self.volumeNode):
                sliceNode.RotateToVolumePlane(self.volumeNode)
            logic.FitSliceToBackground()
            logic.SnapSliceOffsetToIJK()
            if name in self._letters:
                self._letters[name].update()

    def whenDisplayed(self, callback: Callable[[], None]) -> None:
        """Call back once, after each of the three views has drawn the volume shown now.

        A view counts when its render window has finished a frame in which the volume is the
        background; setting the volume is not enough. Another volume in between cancels the call.
        """
        if self.volumeNode is None:
            msg = "no volume is shown; call showVolume first."
            raise RuntimeError(msg)
        wanted = self.volumeNode.GetID()
        views: dict[str, tuple[Any, int]] = {}
        self._waiting.append((callback, views))

        def rendered(name: str, widget: Any) -> None:
            if name not in views or not widget.visible:
                return
            if self.volumeNode is None or self.volumeNode.GetID() != wanted:
                self._forget(callback)
                return
            logic = widget.sliceLogic()
            composite = widget.mrmlSliceCompositeNode()
            if composite.GetBackgroundVolumeID() != wanted or not logic.GetImageDataConnection():
                return
            window, tag = views.pop(name)
            window.RemoveObserver(tag)
            if not views:
                self._forget(callback)
                callback()

        for (name, *_rest), widget in zip(SLICES, _sliceWidgets(), strict=True):
            window = widget.sliceView().renderWindow()
            tag = window.AddObserver(
                vtk.vtkCommand.EndEvent, lambda _c, _e, n=name, w=widget: rendered(n, w)
            )
            views[name] = (window, tag)
        for widget in _sliceWidgets():
            widget.sliceView().scheduleRender()

    def _forget(self, callback: Callable[[], None]) -> None:
        for item in [item for item in self._waiting if item[0] is callback]:
            for window, tag in item[1].values():
                window.RemoveObserver(tag)
            item[1].clear()
            self._waiting.remove(item)

    def setWindow(self, name: str) -> None:
        """Set the grey levels of the CT to one of `PRESETS`."""
        if name not in PRESETS:
            msg = f"window {name!r}: expected one of {', '.join(PRESETS)}."
            raise ValueError(msg)
        if self.volumeNode is None:
            return
        displayNode = self.volumeNode.GetDisplayNode()
        if displayNode is None:
            self.volumeNode.CreateDefaultDisplayNodes()
            displayNode = self.volumeNode.GetDisplayNode()
        width, level = PRESETS[name]
        with slicer.util.NodeModify(displayNode):
            displayNode.AutoWindowLevelOff()  # first: it would undo the next line
            displayNode.SetWindowLevel(width, level)

    # ---------------------------------------------------------------- place

    def jumpTo(self, ras: Sequence[float]) -> None:
        """Centre all three views and the crosshair on a point (RAS mm)."""
        point = [float(value) for value in ras]
        with _oneRender():
            for widget in _sliceWidgets():
                widget.mrmlSliceNode().JumpSliceByCentering(*point)
                widget.sliceLogic().SnapSliceOffsetToIJK()
            crosshair = _crosshairNode()
            if crosshair:
                crosshair.SetCrosshairRAS(point)

    def setCrosshair(self, on: bool) -> None:
        """Show the crosshair; with Shift held, the mouse then moves all three views along."""
        crosshair = _crosshairNode()
        if crosshair is None:
            return
        if self._crosshairBefore is None:
            self._crosshairBefore = (
                crosshair.GetCrosshairMode(),
                crosshair.GetCrosshairBehavior(),
            )
        crosshair.SetCrosshairMode(
            slicer.vtkMRMLCrosshairNode.ShowIntersection
            if on
            else slicer.vtkMRMLCrosshairNode.NoCrosshair
        )
        crosshair.SetCrosshairBehavior(slicer.vtkMRMLCrosshairNode.OffsetJumpSlice)

    # ---------------------------------------------------------------- masks

    def cycleMaskDisplay(self) -> str:
        """Go from outline and fill to outline, fill, off and back; return what is shown now."""
        self.setMaskDisplay(MASK_MODES[(MASK_MODES.index(self.maskMode) + 1) % len(MASK_MODES)])
        return self.maskMode

    def setMaskDisplay(self, mode: str) -> None:
        """Show masks as one of `MASK_MODES`."""
        if mode not in MASK_MODES:
            msg = f"mask display {mode!r}: expected one of {', '.join(MASK_MODES)}."
            raise ValueError(msg)
        self.maskMode = mode
        for node in _maskNodes():
            self.showMasks(node)

    def setMaskOpacity(self, opacity: float) -> None:
        """Set how much the filling of the masks covers the CT, 0 to 1."""
        self.maskOpacity = min(1.0, max(0.0, float(opacity)))
        for node in _maskNodes():
            self.showMasks(node)

    def showMasks(self, segmentationNode: Any) -> None:
        """Show a segmentation as the mask mode and opacity say; for those loaded later."""
        displayNode = segmentationNode.GetDisplayNode()
        if displayNode is None:
            return
        with slicer.util.NodeModify(displayNode):
            displayNode.SetVisibility(self.maskMode != "off")
            displayNode.SetVisibility2DFill("fill" in self.maskMode)
            displayNode.SetVisibility2DOutline("outline" in self.maskMode)
            displayNode.SetOpacity2DFill(self.maskOpacity)
            displayNode.SetOpacity2DOutline(1.0)
        if self.layout == "fourUp":
            segmentationNode.CreateClosedSurfaceRepresentation()

    def showEvidence(self, volumeNode: Any, opacity: float = 0.5) -> None:
        """Lay the screening's evidence map (0 to 1) over the CT, from clear over red to yellow."""
        if volumeNode.GetDisplayNode() is None:
            volumeNode.CreateDefaultDisplayNodes()
        displayNode = volumeNode.GetDisplayNode()
        with slicer.util.NodeModify(displayNode):
            displayNode.SetAndObserveColorNodeID(self._evidenceColorNode().GetID())
            displayNode.AutoWindowLevelOff()
            displayNode.SetWindowLevel(1.0, 0.5)
            displayNode.AutoThresholdOff()
            displayNode.SetThreshold(EVIDENCE_FLOOR, 1e6)
            displayNode.ApplyThresholdOn()  # what is clear must not darken the CT
            displayNode.InterpolateOn()
        self._evidence = (volumeNode.GetID(), float(opacity))
        for widget in _sliceWidgets():
            composite = widget.mrmlSliceCompositeNode()
            composite.SetForegroundVolumeID(volumeNode.GetID())
            composite.SetForegroundOpacity(float(opacity))

    def hideEvidence(self) -> None:
        """Take the evidence map away."""
        self._evidence = None
        for widget in _sliceWidgets():
            widget.mrmlSliceCompositeNode().SetForegroundVolumeID(None)

    # ---------------------------------------------------------------- inner

    def _addLayouts(self) -> None:
        layoutNode = _layoutNode()
        for name, identifier in LAYOUT_IDS.items():
            if layoutNode.IsLayoutDescription(identifier):
                layoutNode.SetLayoutDescription(identifier, LAYOUTS[name])
            else:
                layoutNode.AddLayoutDescription(identifier, LAYOUTS[name])

    def _onSceneChanged(self, _caller: Any, _event: Any) -> None:
        """Put layouts and links back; closing resets the view nodes, importing replaces them."""
        self._addLayouts()
        if self.volumeNode is not None and not slicer.mrmlScene.IsNodePresent(self.volumeNode):
            self.volumeNode = None
            self._evidence = None
        if self._evidenceColors is not None and not slicer.mrmlScene.IsNodePresent(
            self._evidenceColors
        ):
            self._evidenceColors = None
        if self.layout:
            slicer.app.layoutManager().setLayout(LAYOUT_IDS[self.layout])
            _layoutNode().SetViewArrangement(LAYOUT_IDS[self.layout])  # the scene brought another
            self._setUpSlices()

    def _setUpSlices(self) -> None:
        for (name, *_rest), widget in zip(SLICES, _sliceWidgets(), strict=True):
            sliceNode, composite = widget.mrmlSliceNode(), widget.mrmlSliceCompositeNode()
            if name not in self._before:
                self._before[name] = _Before(
                    composite.GetBackgroundVolumeID(),
                    composite.GetForegroundVolumeID(),
                    composite.GetForegroundOpacity(),
                    composite.GetLinkedControl(),
                    composite.GetHotLinkedControl(),
                    sliceNode.GetRulerType(),
                    slicer.util.arrayFromVTKMatrix(sliceNode.GetSliceToRAS()).ravel().tolist(),
                )
            composite.SetLinkedControl(True)
            composite.SetHotLinkedControl(True)
            sliceNode.SetRulerType(slicer.vtkMRMLAbstractViewNode.RulerTypeThin)
            if name not in self._letters:
                self._letters[name] = _EdgeLetters(widget)

    def _setUpSurfaces(self) -> None:
        """Make surfaces for the 3D view; without it they only slow each stroke down."""
        for node in _maskNodes():
            if self.layout == "fourUp":
                node.CreateClosedSurfaceRepresentation()
            elif node.GetSegmentation().ContainsRepresentation("Closed surface"):
                node.RemoveClosedSurfaceRepresentation()
        if self.layout == "fourUp":
            threeD = slicer.app.layoutManager().threeDWidget(0)
            if threeD:
                threeD.threeDView().resetFocalPoint()

    def _putBack(self, name: str, before: _Before) -> None:
        widget = slicer.app.layoutManager().sliceWidget(name)
        if widget is None:
            return
        composite, sliceNode = widget.mrmlSliceCompositeNode(), widget.mrmlSliceNode()
        for volumeId, put in (
            (before.background, composite.SetBackgroundVolumeID),
            (before.foreground, composite.SetForegroundVolumeID),
        ):
            put(volumeId if volumeId and slicer.mrmlScene.GetNodeByID(volumeId) else None)
        composite.SetForegroundOpacity(before.foregroundOpacity)
        composite.SetLinkedControl(before.linked)
        composite.SetHotLinkedControl(before.hotLinked)
        sliceNode.SetRulerType(before.ruler)
        sliceNode.GetSliceToRAS().DeepCopy(before.orientation)
        sliceNode.UpdateMatrices()

    def _evidenceColorNode(self) -> Any:
        if self._evidenceColors is None:
            table = slicer.mrmlScene.CreateNodeByClass("vtkMRMLColorTableNode")
            table.UnRegister(None)
            table.SetName(_("PASTA-AID evidence"))
            table.SetTypeToUser()
            table.HideFromEditorsOn()
            table.SaveWithSceneOff()
            table.SetNumberOfColors(256)
            table.GetLookupTable().SetRange(0, 255)
            for index in range(256):
                share = index / 255
                color = (min(1.0, 0.35 + share), max(0.0, 1.6 * share - 0.6), 0.0)
                table.SetColor(index, f"{share:.2f}", *color, 1.0)
            self._evidenceColors = slicer.mrmlScene.AddNode(table)
        return self._evidenceColors


class _EdgeLetters:
    """The letters R, L, A, P, S, I at the four edges of a slice view."""

    # The bottom one stands above the ruler.
    PLACES = ((0.012, 0.5), (0.988, 0.5), (0.5, 0.06), (0.5, 0.988))  # left, right, bottom, top

    def __init__(self, widget: Any) -> None:
        self._sliceNode = widget.mrmlSliceNode()
        self._view = widget.sliceView()
        self._renderer = self._view.renderWindow().GetRenderers().GetItemAsObject(0)
        self._actors = []
        for index, (x, y) in enumerate(self.PLACES):
            actor = vtk.vtkTextActor()
            place = actor.GetPositionCoordinate()
            place.SetCoordinateSystemToNormalizedViewport()
            place.SetValue(x, y)
            text = actor.GetTextProperty()
            text.SetFontSize(18)
            text.SetColor(1.0, 0.85, 0.3)
            text.ShadowOn()
            text.SetJustification((0, 2, 1, 1)[index])
            text.SetVerticalJustification((1, 1, 0, 2)[index])
            self._renderer.AddViewProp(actor)
            self._actors.append(actor)
        self._shown = ""
        self._tag = self._sliceNode.AddObserver(vtk.vtkCommand.ModifiedEvent, self.update)
        self.update()

    def update(self, *_args: Any) -> None:
        """Set the letters if the view was turned; scrolling must not cost a redraw of text."""
        matrix = self._sliceNode.GetSliceToRAS()
        right = [matrix.GetElement(row, 0) for row in range(3)]
        up = [matrix.GetElement(row, 1) for row in range(3)]
        letters = _letter(right, -1) + _letter(right, 1) + _letter(up, -1) + _letter(up, 1)
        if letters != self._shown:
            self._shown = letters
            for actor, letter in zip(self._actors, letters, strict=True):
                actor.SetInput(letter)
            self._view.scheduleRender()

    @property
    def text(self) -> str:
        """The letters at left, right, bottom and top."""
        return self._shown

    def remove(self) -> None:
        """Take the letters off the view."""
        self._sliceNode.RemoveObserver(self._tag)
        for actor in self._actors:
            self._renderer.RemoveViewProp(actor)
        self._view.scheduleRender()


def _letter(direction: Sequence[float], sign: int) -> str:
    axis = int(np.argmax(np.abs(direction)))
    return "RAS"[axis] if sign * direction[axis] > 0 else "LPI"[axis]


def _isOblique(volumeNode: Any) -> bool:
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASDirectionMatrix(matrix)
    directions = slicer.util.arrayFromVTKMatrix(matrix)[:3, :3]
    return bool(np.abs(directions).max(axis=0).min() < OBLIQUE_COSINE)


def _layoutNode() -> Any:
    return slicer.app.layoutManager().layoutLogic().GetLayoutNode()


def _sliceWidgets() -> list[Any]:
    manager = slicer.app.layoutManager()
    return [manager.sliceWidget(name) for name, *_rest in SLICES]


def _crosshairNode() -> Any:
    return slicer.util.getFirstNodeByClassByName("vtkMRMLCrosshairNode", "default") or (
        slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    )


def _maskNodes() -> list[Any]:
    return [
        node
        for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
        if node.GetAttribute(MASKS_ATTRIBUTE)
    ]


@contextlib.contextmanager
def _oneRender() -> Any:
    """Hold rendering back until all is set, then draw each view once."""
    slicer.app.pauseRender()
    try:
        yield
    finally:
        slicer.app.resumeRender()
        for widget in _sliceWidgets():
            widget.sliceView().scheduleRender()
