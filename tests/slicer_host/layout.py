"""The layout manager: every layout, Slicer's own and a module's, is built from its XML description.

The genuine vtkMRMLLayoutLogic parses the description, makes missing view nodes and sets their properties;
here the widgets are made and put side by side.
"""

import xml.etree.ElementTree as ET

import slicer
import vtk
from PySide6 import QtCore, QtWidgets

from .views import qMRMLSliceWidget, qMRMLThreeDWidget


class qMRMLLayoutManager(QtCore.QObject):
    """Shows the views of the scene's layout node in a viewport."""

    layoutChanged = QtCore.Signal(int)

    def __init__(self, viewport, layout_logic):
        super().__init__()
        self._viewport, self._logic = viewport, layout_logic
        self._node = layout_logic.GetLayoutNode()
        self._slices, self._three_d, self._placed = {}, {}, []
        self._shown, self._root, self._building = None, None, False
        self._column = QtWidgets.QVBoxLayout(viewport)
        self._column.setContentsMargins(0, 0, 0, 0)
        self._node.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self._follow())

    # --------------------------------------------------------------------------------- building
    def _follow(self):
        """Rebuild the viewport when the layout node's arrangement has changed."""
        arrangement = self._node.GetViewArrangement()
        description = self._node.GetCurrentLayoutDescription()
        if self._building or not description or (arrangement, description) == self._shown:
            return
        self._building = True
        try:
            self._shown = (arrangement, description)
            for view in (*self._slices.values(), *self._three_d.values()):
                view.hide()
                view.setParent(None)
            self._placed = []
            old, self._root = self._root, self._build(ET.fromstring(description))
            if old is not None:
                self._column.removeWidget(old)
                old.deleteLater()
            self._column.addWidget(self._root)
            self._root.show()
            for view in self._placed:
                view.show()  # only now: without a parent it would be a window
            self._mark_mapped()
        finally:
            self._building = False
        self.layoutChanged.emit(arrangement)

    def _build(self, element):
        if element.tag == "view":
            return self._view(element)
        if element.tag != "layout":
            msg = f"layout: found <{element.tag}>, wanted <layout>, <item> or <view>"
            raise ValueError(msg)
        kind = element.get("type", "horizontal")
        items = element.findall("item")
        if kind == "tab":
            container = QtWidgets.QTabWidget()
            for item in items:
                container.addTab(self._build(item[0]), item.get("name", ""))
        elif kind == "grid":
            container = QtWidgets.QWidget()
            grid = QtWidgets.QGridLayout(container)
            grid.setContentsMargins(0, 0, 0, 0)
            grid.setSpacing(2)
            for item in items:
                place = [int(item.get(key, default)) for key, default in
                         (("row", 0), ("column", 0), ("rowspan", 1), ("colspan", 1))]  # fmt: skip
                grid.addWidget(self._build(item[0]), *place)
        else:
            way = QtCore.Qt.Vertical if kind == "vertical" else QtCore.Qt.Horizontal
            container = QtWidgets.QSplitter(way)
            container.setHandleWidth(3)
            for item in items:
                container.addWidget(self._build(item[0]))
            container.setSizes([int(item.get("splitSize", 500)) or 500 for item in items])
        return container

    def _view(self, element):
        class_name, tag = element.get("class"), element.get("singletontag", "")
        node = slicer.mrmlScene.GetSingletonNode(tag, class_name)
        if node is None:
            msg = f"layout: no {class_name} with the tag '{tag}'"
            raise ValueError(msg)
        if class_name == "vtkMRMLSliceNode":
            kept, make = self._slices, qMRMLSliceWidget
        elif class_name == "vtkMRMLViewNode":
            kept, make = self._three_d, qMRMLThreeDWidget
        else:
            return QtWidgets.QLabel(class_name)  # tables, plots: their place, not their content
        if tag not in kept:
            kept[tag] = make(node)
            kept[tag].setMRMLScene(slicer.mrmlScene)
        self._placed.append(kept[tag])
        return kept[tag]

    def _mark_mapped(self):
        views = self._logic.GetViewNodes()
        shown = {views.GetItemAsObject(index).GetID() for index in range(views.GetNumberOfItems())}
        for widget in (*self._slices.values(), *self._three_d.values()):
            node = (
                widget.mrmlSliceNode()
                if hasattr(widget, "mrmlSliceNode")
                else widget.mrmlViewNode()
            )
            node.SetMappedInLayout(int(node.GetID() in shown))

    # -------------------------------------------------------------------------------- interface
    def setLayout(self, arrangement):
        if not self._node.IsLayoutDescription(arrangement):
            slicer.app.host_log(f"layout manager: no layout {arrangement}")
        self._node.SetViewArrangement(arrangement)
        self._follow()

    layout = QtCore.Property(int, lambda self: self._node.GetViewArrangement(), setLayout)

    def layoutLogic(self):
        return self._logic

    def viewport(self):
        return self._viewport

    def mrmlScene(self):
        return slicer.mrmlScene

    def sliceViewNames(self):
        return list(self._slices)

    def sliceWidget(self, name):
        return self._slices.get(name)

    def threeDWidget(self, which):
        widgets = list(self._three_d.values())
        if isinstance(which, str):
            return self._three_d.get(which)
        return widgets[which] if which < len(widgets) else None

    threeDViewCount = QtCore.Property(int, lambda self: len(self._three_d))
    tableViewCount = QtCore.Property(int, lambda self: 0)
    plotViewCount = QtCore.Property(int, lambda self: 0)

    def viewWidget(self, node):
        if node.IsA("vtkMRMLSliceNode"):
            return self._slices.get(node.GetSingletonTag())
        return self._three_d.get(node.GetSingletonTag())

    def mrmlSliceLogics(self):
        return slicer.app.applicationLogic().GetSliceLogics()

    def mrmlViewLogics(self):
        return slicer.app.applicationLogic().GetViewLogics()

    def activeMRMLThreeDViewNode(self):
        widget = self.threeDWidget(0)
        return widget.mrmlViewNode() if widget else None

    def resetSliceViews(self):
        for widget in self._slices.values():
            widget.fitSliceToBackground()

    def resetThreeDViews(self):
        for widget in self._three_d.values():
            widget.threeDView().resetFocalPoint()

    def setRenderPaused(self, paused):
        slicer.app.setRenderPaused(paused)

    def pauseRender(self):
        slicer.app.pauseRender()

    def resumeRender(self):
        slicer.app.resumeRender()
