"""Slice and 3D views: real logics, displayable managers and interactor styles, rendered off screen.

The render window draws into memory (EGL or OSMesa); its pixels are painted into an ordinary QWidget, and Qt's
mouse, wheel and key events go to the genuine interactor style.
"""

import slicer
import vtk
from PySide6 import QtCore, QtGui, QtWidgets
from vtk.util.numpy_support import vtk_to_numpy

from .mrml_widgets import qMRMLWidget
from .pythonqt import record_error

SLICE_MANAGERS = (
    "vtkMRMLCrosshairDisplayableManager",
    "vtkMRMLModelSliceDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager2D",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLVolumeGlyphSliceDisplayableManager",
    "vtkMRMLOrientationMarkerDisplayableManager",
    "vtkMRMLRulerDisplayableManager",
    "vtkMRMLScalarBarDisplayableManager",
)
THREE_D_MANAGERS = (
    "vtkMRMLCameraDisplayableManager",
    "vtkMRMLViewDisplayableManager",
    "vtkMRMLModelDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager3D",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLOrientationMarkerDisplayableManager",
)
_BUTTONS = {
    QtCore.Qt.LeftButton: "LeftButton",
    QtCore.Qt.RightButton: "RightButton",
    QtCore.Qt.MiddleButton: "MiddleButton",
}
_KEY_NAMES = {
    QtCore.Qt.Key_Left: "Left",
    QtCore.Qt.Key_Right: "Right",
    QtCore.Qt.Key_Up: "Up",
    QtCore.Qt.Key_Down: "Down",
    QtCore.Qt.Key_Escape: "Escape",
    QtCore.Qt.Key_Delete: "Delete",
    QtCore.Qt.Key_Return: "Return",
    QtCore.Qt.Key_BracketLeft: "bracketleft",
    QtCore.Qt.Key_BracketRight: "bracketright",
}


class RenderedView(QtWidgets.QWidget):
    """A VTK render window inside a QWidget (ctkVTKAbstractView in Slicer)."""

    def __init__(self, factory, managers, parent=None):
        super().__init__(parent)
        self.setMouseTracking(True)
        self.setFocusPolicy(QtCore.Qt.StrongFocus)
        self.setMinimumSize(120, 120)
        self._window = vtk.vtkRenderWindow()
        self._window.SetOffScreenRendering(1)
        self._window.ShowWindowOff()
        self._window.SetMultiSamples(0)
        self._window.SetSize(300, 300)
        self._renderer = vtk.vtkRenderer()
        self._window.AddRenderer(self._renderer)
        self._interactor = vtk.vtkGenericRenderWindowInteractor()
        self._interactor.SetRenderWindow(self._window)
        self._interactor.Initialize()
        self._annotation = vtk.vtkCornerAnnotation()
        self._annotation.SetMaximumFontSize(14)
        self._renderer.AddViewProp(self._annotation)
        factory.SetMRMLApplicationLogic(slicer.app.applicationLogic())
        for manager in managers:
            if not factory.IsDisplayableManagerRegistered(manager):
                factory.RegisterDisplayableManager(manager)
        self._group = slicer.vtkMRMLDisplayableManagerGroup()
        self._group.SetRenderer(self._renderer)
        self._group.Initialize(factory, self._renderer)
        self._group.AddObserver(vtk.vtkCommand.UpdateEvent, lambda *_: self.scheduleRender())
        self._image = self._pixels = None
        self._scheduled = False
        self.renderCount = 0  # host only: how often it was rendered

    # -------------------------------------------------------------------------------- rendering
    def scheduleRender(self):
        if not self._scheduled:
            self._scheduled = True
            QtCore.QTimer.singleShot(0, self._render_scheduled)

    def _render_scheduled(self):
        if slicer.app.render_paused:
            QtCore.QTimer.singleShot(10, self._render_scheduled)
            return
        self.forceRender()

    def forceRender(self):
        self._scheduled = False
        if not self.isVisible():
            return  # as in Slicer; showing it paints it
        self._window.Render()
        self.renderCount += 1
        width, height = self._window.GetSize()
        pixels = vtk.vtkUnsignedCharArray()
        self._window.GetPixelData(0, 0, width - 1, height - 1, 0, pixels, 0)
        self._pixels = vtk_to_numpy(pixels).reshape(height, width, 3)[::-1].copy()
        self._image = QtGui.QImage(
            self._pixels.data, width, height, 3 * width, QtGui.QImage.Format_RGB888
        )
        self.update()

    def paintEvent(self, event):
        if self._image is None:
            self.scheduleRender()
            return
        painter = QtGui.QPainter(self)
        try:
            painter.drawImage(self.rect, self._image)
        except Exception:  # noqa: BLE001 (one that leaves paintEvent ends the process)
            record_error("paintEvent")
        painter.end()

    def resizeEvent(self, event):
        self._window.SetSize(max(self.width, 1), max(self.height, 1))
        self._interactor.UpdateSize(self.width, self.height)
        self._was_resized()
        self.scheduleRender()

    def _was_resized(self):
        """For subclasses."""

    def renderWindow(self):
        return self._window

    def renderer(self):
        return self._renderer

    def interactor(self):
        return self._interactor

    def cornerAnnotation(self):
        return self._annotation

    def displayableManagerByClassName(self, name):
        return self._group.GetDisplayableManagerByClassName(name)

    def setViewCursor(self, cursor):
        self.setCursor(cursor)

    def unsetViewCursor(self):
        self.unsetCursor()

    # ----------------------------------------------------------------------------- Qt to VTK
    def _locate(self, event):
        modifiers, position = event.modifiers(), event.position()
        self._interactor.SetEventInformationFlipY(
            int(position.x()),
            int(position.y()),
            int(bool(modifiers & QtCore.Qt.ControlModifier)),
            int(bool(modifiers & QtCore.Qt.ShiftModifier)),
        )

    def _press(self, event, what):
        self._locate(event)
        if event.button() in _BUTTONS:
            self._interactor.InvokeEvent(_BUTTONS[event.button()] + what)

    def mousePressEvent(self, event):
        self.setFocus()
        self._press(event, "PressEvent")

    def mouseReleaseEvent(self, event):
        self._press(event, "ReleaseEvent")

    def mouseMoveEvent(self, event):
        self._locate(event)
        self._interactor.InvokeEvent("MouseMoveEvent")

    def enterEvent(self, event):
        self._interactor.InvokeEvent("EnterEvent")

    def leaveEvent(self, event):
        self._interactor.InvokeEvent("LeaveEvent")

    def wheelEvent(self, event):
        self._locate(event)
        way = "Forward" if event.angleDelta().y() > 0 else "Backward"
        self._interactor.InvokeEvent(f"MouseWheel{way}Event")

    def keyPressEvent(self, event):
        self._interactor.SetKeySym(_KEY_NAMES.get(event.key(), event.text()))
        self._interactor.InvokeEvent("KeyPressEvent")
        self._interactor.InvokeEvent("CharEvent")
        event.ignore()


# ------------------------------------------------------------------------------------------ slices
class qMRMLSliceView(RenderedView):
    """The image of one slice node."""

    def __init__(self, node, parent=None):
        super().__init__(
            slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance(), SLICE_MANAGERS, parent
        )
        application_logic = slicer.app.applicationLogic()
        self._renderer.GetActiveCamera().ParallelProjectionOn()
        self._node = node
        self._logic = slicer.vtkMRMLSliceLogic()
        self._logic.SetMRMLApplicationLogic(application_logic)
        application_logic.GetSliceLogics().AddItem(self._logic)
        self._logic.SetMRMLScene(slicer.mrmlScene)
        self._logic.SetSliceNode(node)
        self._mapper = vtk.vtkImageMapper()
        self._mapper.SetColorWindow(255)
        self._mapper.SetColorLevel(127.5)
        self._actor = vtk.vtkActor2D()
        self._actor.SetMapper(self._mapper)
        self._actor.GetProperty().SetDisplayLocationToBackground()
        self._actor.SetVisibility(0)
        self._renderer.AddViewProp(self._actor)
        self._group.SetMRMLDisplayableNode(node)
        self._style = slicer.vtkMRMLSliceViewInteractorStyle()
        self._style.SetSliceLogic(self._logic)
        self._style.SetDisplayableManagers(self._group)
        self._style.SetInteractor(self._interactor)
        self._logic.AddObserver("ModifiedEvent", lambda *_: self._connect_image())
        self._connect_image()

    def _connect_image(self):
        image = self._logic.GetImageDataConnection()
        if image:
            self._mapper.SetInputConnection(image)
        self._actor.SetVisibility(int(bool(image)))
        self.scheduleRender()

    def _was_resized(self):
        self._logic.ResizeSliceNode(self.width, self.height)

    def sliceLogic(self):
        return self._logic

    def mrmlSliceNode(self):
        return self._node

    def sliceViewInteractorStyle(self):
        return self._style

    def interactorObserver(self):
        return self._style

    def convertDeviceToXYZ(self, xy):
        # VTK counts device rows from below
        return [float(xy[0]), float(xy[1]), 0.0]

    def convertXYZToRAS(self, xyz):
        return list(self._node.GetXYToRAS().MultiplyPoint((*xyz, 1)))[:3]

    def convertRASToXYZ(self, ras):
        inverse = vtk.vtkMatrix4x4()
        vtk.vtkMatrix4x4.Invert(self._node.GetXYToRAS(), inverse)
        return list(inverse.MultiplyPoint((*ras, 1)))[:3]


class qMRMLSliceControllerWidget(qMRMLWidget):
    """The coloured bar over a slice view, with the slider of its offset."""

    def __init__(self, logic, node):
        super().__init__()
        self._logic, self._node = logic, node
        self._following = False
        colour = "#{:02x}{:02x}{:02x}".format(
            *(round(255 * part) for part in node.GetLayoutColor())
        )
        self.setFixedHeight(24)
        self.setAutoFillBackground(True)
        self._label = QtWidgets.QLabel(node.GetLayoutLabel() or node.GetName())
        self._label.setStyleSheet(
            f"background: {colour}; color: black; padding: 0 6px; font-weight: bold;"
        )
        self._slider = QtWidgets.QSlider(QtCore.Qt.Horizontal)
        self._place = QtWidgets.QLabel("")
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 4, 0)
        row.addWidget(self._label)
        row.addWidget(self._slider, 1)
        row.addWidget(self._place)
        self._slider.valueChanged.connect(self._dragged)
        logic.AddObserver("ModifiedEvent", lambda *_: self._follow())

    def _range(self):
        bounds = [0.0] * 6
        self._logic.GetSliceBounds(bounds)
        spacing = self._logic.GetLowestVolumeSliceSpacing()
        return bounds[4], bounds[5], spacing[2] if spacing and spacing[2] > 0 else 1.0

    def _follow(self):
        composite = self._logic.GetSliceCompositeNode()
        if composite is None or not composite.GetBackgroundVolumeID():
            return
        low, high, step = self._range()
        offset = self._logic.GetSliceOffset()
        self._following = True
        self._slider.setMaximum(max(0, round((high - low) / step) - 1))
        self._slider.setValue(round((offset - low) / step - 0.5))
        self._following = False
        letter = {
            "Axial": "SI"[offset < 0],
            "Sagittal": "RL"[offset < 0],
            "Coronal": "AP"[offset < 0],
        }
        self._place.setText(f"{letter.get(self._node.GetOrientation(), '')}: {abs(offset):.1f}mm")

    def _dragged(self, index):
        if not self._following:
            low, _, step = self._range()
            self._logic.SetSliceOffset(low + (index + 0.5) * step)

    def sliceLogic(self):
        return self._logic

    def mrmlSliceNode(self):
        return self._node

    def mrmlSliceCompositeNode(self):
        return self._logic.GetSliceCompositeNode()

    def setSliceLink(self, linked):
        for index in range(slicer.app.applicationLogic().GetSliceLogics().GetNumberOfItems()):
            logic = slicer.app.applicationLogic().GetSliceLogics().GetItemAsObject(index)
            logic.GetSliceCompositeNode().SetLinkedControl(linked)

    def setHotLinked(self, hot):
        self.mrmlSliceCompositeNode().SetHotLinkedControl(hot)

    def setSliceVisible(self, visible):
        self._node.SetSliceVisible(visible)

    def setSliceOffsetValue(self, offset):
        self._logic.SetSliceOffset(offset)

    def fitSliceToBackground(self):
        self._logic.FitSliceToBackground()
        self._logic.SnapSliceOffsetToIJK()


class qMRMLSliceWidget(qMRMLWidget):
    """A slice view under its bar."""

    def __init__(self, node):
        super().__init__()
        self._view = qMRMLSliceView(node)
        self._controller = qMRMLSliceControllerWidget(self._view.sliceLogic(), node)
        self.setObjectName(f"qMRMLSliceWidget{node.GetLayoutName()}")
        column = QtWidgets.QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        column.addWidget(self._controller)
        column.addWidget(self._view, 1)

    def sliceView(self):
        return self._view

    def sliceController(self):
        return self._controller

    def controllerWidget(self):
        return self._controller

    def sliceLogic(self):
        return self._view.sliceLogic()

    def mrmlSliceNode(self):
        return self._view.mrmlSliceNode()

    def mrmlSliceCompositeNode(self):
        return self.sliceLogic().GetSliceCompositeNode()

    def interactorStyle(self):
        return self._view.sliceViewInteractorStyle()

    def fitSliceToBackground(self):
        self._controller.fitSliceToBackground()

    def setSliceOrientation(self, orientation):
        self.mrmlSliceNode().SetOrientation(orientation)


# ---------------------------------------------------------------------------------------------- 3D
class qMRMLThreeDView(RenderedView):
    """The 3D image of one view node."""

    def __init__(self, node, parent=None):
        super().__init__(
            slicer.vtkMRMLThreeDViewDisplayableManagerFactory.GetInstance(),
            THREE_D_MANAGERS,
            parent,
        )
        application_logic = slicer.app.applicationLogic()
        self._node = node
        self._logic = slicer.vtkMRMLViewLogic()
        self._logic.SetMRMLApplicationLogic(application_logic)
        application_logic.GetViewLogics().AddItem(self._logic)
        self._logic.SetMRMLScene(slicer.mrmlScene)
        self._logic.AddViewNode(node.GetSingletonTag())  # takes the node of that tag that is there
        self._group.SetMRMLDisplayableNode(node)
        self._renderer.SetBackground(0.6, 0.6, 0.8)
        self._style = slicer.vtkMRMLThreeDViewInteractorStyle()
        self._style.SetDisplayableManagers(self._group)
        self._style.SetInteractor(self._interactor)

    def viewLogic(self):
        return self._logic

    def mrmlViewNode(self):
        return self._node

    def interactorObserver(self):
        return self._style

    def resetFocalPoint(self):
        self._renderer.ResetCamera()
        self.scheduleRender()

    def resetCamera(self, *_):
        self._renderer.ResetCamera()
        self.scheduleRender()


class qMRMLThreeDViewControllerWidget(qMRMLWidget):
    """The bar over a 3D view."""

    def __init__(self, view):
        super().__init__()
        self._view = view
        self.setFixedHeight(24)
        label = QtWidgets.QLabel(view.mrmlViewNode().GetLayoutLabel() or "1")
        label.setStyleSheet("background: #7483c3; color: black; padding: 0 6px; font-weight: bold;")
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 4, 0)
        row.addWidget(label)
        row.addStretch(1)

    def set3DAxisVisible(self, visible):
        self._view.mrmlViewNode().SetBoxVisible(visible)

    def set3DAxisLabelVisible(self, visible):
        self._view.mrmlViewNode().SetAxisLabelsVisible(visible)

    def resetFocalPoint(self):
        self._view.resetFocalPoint()


class qMRMLThreeDWidget(qMRMLWidget):
    """A 3D view under its bar."""

    def __init__(self, node):
        super().__init__()
        self._view = qMRMLThreeDView(node)
        self._controller = qMRMLThreeDViewControllerWidget(self._view)
        column = QtWidgets.QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        column.addWidget(self._controller)
        column.addWidget(self._view, 1)

    def threeDView(self):
        return self._view

    def threeDController(self):
        return self._controller

    def viewLogic(self):
        return self._view.viewLogic()

    def mrmlViewNode(self):
        return self._view.mrmlViewNode()
