"""Stand-ins for qMRML and qSlicer widgets, over real MRML nodes and real logics."""

from typing import ClassVar

import slicer
from PySide6 import QtWidgets
from PySide6.QtCore import Property, Signal

from .ctk_widgets import (
    ctkCollapsibleButton,
    ctkDoubleSpinBox,
    ctkRangeWidget,
    ctkSliderWidget,
    parent_in,
    stored,
    widget,
)

SCENE_CHANGED = {"mrmlSceneChanged(vtkMRMLScene*)": "mrmlSceneChanged"}


class SceneOwner:
    """What has a scene hands it to the widgets that its .ui file connects (see `ui_loader`)."""

    _scene = None

    def mrmlScene(self):
        return self._scene

    def setMRMLScene(self, scene):
        self._scene = scene
        for receiver in getattr(self, "_ui_receivers", []):
            receiver.setMRMLScene(scene)
        self._scene_was_set()
        if hasattr(self, "mrmlSceneChanged"):
            self.mrmlSceneChanged.emit(scene)

    def _scene_was_set(self):
        """For subclasses."""


@widget
class qMRMLWidget(SceneOwner, QtWidgets.QWidget):
    """The widget at the top of every module's .ui file."""

    mrmlSceneChanged = Signal(object)
    __pq_signals__: ClassVar = SCENE_CHANGED


@widget
class qSlicerWidget(qMRMLWidget):
    """Like qMRMLWidget."""


class qSlicerScriptedLoadableModuleWidget(qMRMLWidget):
    """What a scripted module's widget gets as parent."""

    isEntered = False


@widget
class qMRMLCollapsibleButton(SceneOwner, ctkCollapsibleButton):
    """A collapsible button with a scene."""


@widget
class qMRMLSliderWidget(SceneOwner, ctkSliderWidget):
    """A slider of a quantity with a unit."""

    quantity = stored("quantity", str, "")[0]


@widget
class qMRMLSpinBox(SceneOwner, ctkDoubleSpinBox):
    """A number with a unit."""

    quantity = stored("quantity", str, "")[0]


@widget
class qMRMLRangeWidget(SceneOwner, ctkRangeWidget):
    """A range of a quantity with a unit."""

    quantity = stored("quantity", str, "")[0]


@widget
class qMRMLNodeComboBox(SceneOwner, QtWidgets.QWidget):
    """Chooses one node of given classes; follows the scene."""

    currentNodeChanged = Signal(object)
    currentNodeIDChanged = Signal(str)
    nodeAddedByUser = Signal(object)
    nodeActivated = Signal(object)
    nodeAdded = Signal(object)
    __pq_signals__: ClassVar = {
        "currentNodeChanged(vtkMRMLNode*)": "currentNodeChanged",
        "currentNodeChanged(bool)": "currentNodeChanged",
        "currentNodeIDChanged(QString)": "currentNodeIDChanged",
        "nodeAddedByUser(vtkMRMLNode*)": "nodeAddedByUser",
        "nodeActivated(vtkMRMLNode*)": "nodeActivated",
        "nodeAdded(vtkMRMLNode*)": "nodeAdded",
    }

    nodeTypes, setNodeTypes = stored("nodeTypes", "QStringList", [], after="_refresh")
    noneEnabled, setNoneEnabled = stored("noneEnabled", bool, False, after="_refresh")
    noneDisplay, setNoneDisplay = stored("noneDisplay", str, "None", after="_refresh")
    showHidden, setShowHidden = stored("showHidden", bool, False, after="_refresh")
    showChildNodeTypes, setShowChildNodeTypes = stored(
        "showChildNodeTypes", bool, True, after="_refresh"
    )
    hideChildNodeTypes, setHideChildNodeTypes = stored("hideChildNodeTypes", "QStringList", [])
    addEnabled, setAddEnabled = stored("addEnabled", bool, True)
    removeEnabled, setRemoveEnabled = stored("removeEnabled", bool, True)
    renameEnabled, setRenameEnabled = stored("renameEnabled", bool, False)
    editEnabled, setEditEnabled = stored("editEnabled", bool, False)
    selectNodeUponCreation, setSelectNodeUponCreation = stored("selectNodeUponCreation", bool, True)
    baseName, setBaseName = stored("baseName", str, "")
    interactionNodeSingletonTag, setInteractionNodeSingletonTag = stored(
        "interactionNodeSingletonTag", str, ""
    )

    def __init__(self, *args):
        super().__init__(*parent_in(args))
        self._combo = QtWidgets.QComboBox()
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._combo)
        self._ids, self._attributes, self._observations, self._announced = [], [], [], None
        self._combo.currentIndexChanged.connect(self._announce)

    def addAttribute(self, node_type, name, value=None):
        self._attributes.append((node_type, name, value))
        self._refresh()

    def _scene_was_set(self):
        for scene, tag in self._observations:
            scene.RemoveObserver(tag)
        self._observations = []
        if self._scene:
            events = slicer.vtkMRMLScene
            for event in (events.NodeAddedEvent, events.NodeRemovedEvent, events.EndCloseEvent):
                tag = self._scene.AddObserver(event, lambda *_: self._refresh())
                self._observations.append((self._scene, tag))
        self._refresh()

    def _offered(self, node):
        if node.GetHideFromEditors() and not self.showHidden:
            return False
        if not self.showChildNodeTypes and node.GetClassName() not in self.nodeTypes:
            return False
        for node_type, name, value in self._attributes:
            if not node.IsA(node_type):
                continue
            found = node.GetAttribute(name)
            if found is None or (value is not None and found != str(value)):
                return False
        return True

    def _nodes(self):
        nodes = []
        for node_type in self.nodeTypes if self._scene else []:
            for index in range(self._scene.GetNumberOfNodesByClass(node_type)):
                node = self._scene.GetNthNodeByClass(index, node_type)
                if node not in nodes and self._offered(node):
                    nodes.append(node)
        return nodes

    def _refresh(self):
        current = self._current_id()
        self._combo.blockSignals(True)
        self._combo.clear()
        self._ids = []
        if self.noneEnabled:
            self._ids.append(None)
            self._combo.addItem(self.noneDisplay)
        for node in self._nodes():
            self._ids.append(node.GetID())
            self._combo.addItem(node.GetName() or "")
        index = self._ids.index(current) if current in self._ids else 0
        self._combo.setCurrentIndex(index if self._ids else -1)
        self._combo.blockSignals(False)
        self._announce()

    def _announce(self, *_):
        current = self._current_id()
        if current != self._announced:
            self._announced = current
            self.currentNodeChanged.emit(self.currentNode())
            self.currentNodeIDChanged.emit(current or "")

    def _current_id(self):
        index = self._combo.currentIndex
        return self._ids[index] if 0 <= index < len(self._ids) else None

    def currentNode(self):
        current = self._current_id()
        return self._scene.GetNodeByID(current) if self._scene and current else None

    def setCurrentNode(self, node):
        self.setCurrentNodeID(node.GetID() if hasattr(node, "GetID") else node)

    def setCurrentNodeID(self, node_id):
        node_id = node_id or None
        if node_id and node_id not in self._ids:
            self._refresh()
        self._combo.setCurrentIndex(self._ids.index(node_id) if node_id in self._ids else -1)

    currentNodeID = Property(str, lambda self: self._current_id() or "", setCurrentNodeID)

    def nodeCount(self):
        return sum(node_id is not None for node_id in self._ids)

    def nodeFromIndex(self, index):
        return self._scene.GetNodeByID([node_id for node_id in self._ids if node_id][index])

    def addNode(self, node_type=None):
        node = self._scene.AddNewNodeByClass(node_type or self.nodeTypes[0], self.baseName or "")
        self.setCurrentNode(node)
        self.nodeAddedByUser.emit(node)
        return node


class _SegmentationHolder:
    """A widget that shows one segmentation node."""

    _segmentation = None

    def setSegmentationNode(self, node):
        self._segmentation = node

    def segmentationNode(self):
        return self._segmentation


@widget
class qMRMLSegmentsTableView(_SegmentationHolder, qMRMLWidget):
    """The segments of a node; the host keeps the selection only."""

    selectionChanged = Signal()
    readOnly = stored("readOnly", bool, False)[0]
    selectionMode = stored("selectionMode", int, 1)[0]
    _selected = ()

    def selectedSegmentIDs(self):
        return list(self._selected)

    def setSelectedSegmentIDs(self, segment_ids):
        self._selected = list(segment_ids)
        self.selectionChanged.emit()


@widget
class qMRMLSegmentationShow3DButton(_SegmentationHolder, SceneOwner, QtWidgets.QPushButton):
    """Shows the closed surfaces of a segmentation."""

    def __init__(self, *args):
        super().__init__(*parent_in(args))
        self.setText("Show 3D")
        self.setCheckable(True)
        self.toggled.connect(self._show)

    def _show(self, on):
        if self._segmentation is None:
            return
        if on:
            self._segmentation.CreateClosedSurfaceRepresentation()
        else:
            self._segmentation.RemoveClosedSurfaceRepresentation()


@widget
class qSlicerMarkupsPlaceWidget(qMRMLWidget):
    """Buttons that put the mouse into place mode for one markups node."""

    activeMarkupsPlaceModeChanged = Signal(bool)
    activeMarkupsFiducialPlaceModeChanged = Signal(bool)
    __pq_signals__: ClassVar = {
        **SCENE_CHANGED,
        "activeMarkupsPlaceModeChanged(bool)": "activeMarkupsPlaceModeChanged",
        "activeMarkupsFiducialPlaceModeChanged(bool)": "activeMarkupsPlaceModeChanged",
    }
    ShowPlaceMultipleMarkupsOption, HidePlaceMultipleMarkupsOption = 0, 1
    ForcePlaceSingleMarkup, ForcePlaceMultipleMarkups = 2, 3
    buttonsVisible, setButtonsVisible = stored("buttonsVisible", bool, True)
    placeMultipleMarkups, setPlaceMultipleMarkups = stored("placeMultipleMarkups", int, 0)
    placeModePersistency, setPlaceModePersistency = stored("placeModePersistency", bool, False)
    currentNodeActive, setCurrentNodeActive = stored("currentNodeActive", bool, False)

    def __init__(self, *args):
        super().__init__(*parent_in(args))
        self._node = None
        self._place, self._delete = QtWidgets.QToolButton(), QtWidgets.QToolButton()
        self._place.setText("+")
        self._place.setCheckable(True)
        self._delete.setText("\u00d7")
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._place)
        row.addWidget(self._delete)
        self._place.toggled.connect(self.setPlaceModeEnabled)

    def placeButton(self):
        return self._place

    def deleteButton(self):
        return self._delete

    def currentNode(self):
        return self._node

    def setCurrentNode(self, node):
        self._node = node

    def interactionNode(self):
        return slicer.app.applicationLogic().GetInteractionNode()

    def setPlaceModeEnabled(self, on):
        on = bool(on)
        interaction = self.interactionNode()
        if on and self._node:
            selection = slicer.app.applicationLogic().GetSelectionNode()
            selection.SetReferenceActivePlaceNodeClassName(self._node.GetClassName())
            selection.SetActivePlaceNodeID(self._node.GetID())
            interaction.SetCurrentInteractionMode(interaction.Place)
        elif interaction:
            interaction.SetCurrentInteractionMode(interaction.ViewTransform)
        self._place.blockSignals(True)
        self._place.setChecked(on)
        self._place.blockSignals(False)
        self.activeMarkupsPlaceModeChanged.emit(on)

    placeModeEnabled = Property(
        bool, lambda self: bool(self._place.isChecked()), setPlaceModeEnabled
    )


@widget
class qMRMLTableView(SceneOwner, QtWidgets.QTableWidget):
    """A table node."""

    def setMRMLTableNode(self, node):
        self._table_node = node


@widget
class qMRMLVolumeInfoWidget(qMRMLWidget):
    """Facts of a volume; empty here."""


@widget
class qMRMLWindowLevelWidget(qMRMLWidget):
    """Window and level of a volume; empty here."""

    def setMRMLVolumeNode(self, node):
        self._volume = node


@widget
class qMRMLSubjectHierarchyTreeView(qMRMLWidget):
    """The tree of the data; empty here."""


@widget
class qMRMLSubjectHierarchyComboBox(qMRMLWidget):
    """Chooses one item of the subject hierarchy."""

    currentItemChanged = Signal(int)
    __pq_signals__: ClassVar = {
        **SCENE_CHANGED,
        "currentItemChanged(vtkIdType)": "currentItemChanged",
    }
    noneEnabled, setNoneEnabled = stored("noneEnabled", bool, False)
    nodeTypes, setNodeTypes = stored("nodeTypes", "QStringList", [])
    _item = 0

    def currentItem(self):
        return self._item

    def setCurrentItem(self, item):
        if item != self._item:
            self._item = item
            self.currentItemChanged.emit(item)
