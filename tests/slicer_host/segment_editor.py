"""The segment editor widget over the real vtkSlicerSegmentEditorLogic.

Undo, masking, overwriting and the change of a segment are the genuine ones. Effects are names with their
parameters; what a mouse stroke does with them is `hostPaint`.
"""

from typing import ClassVar

import numpy as np
import slicer
import vtk
from PySide6 import QtGui, QtWidgets
from PySide6.QtCore import Property, Signal
from vtk.util.numpy_support import vtk_to_numpy

from .ctk_widgets import ctkCollapsibleButton, parent_in, stored, widget
from .mrml_widgets import (
    SCENE_CHANGED,
    qMRMLNodeComboBox,
    qMRMLSegmentationShow3DButton,
    qMRMLWidget,
)

EFFECTS = (
    "Threshold",
    "Paint",
    "Draw",
    "Erase",
    "Level tracing",
    "Grow from seeds",
    "Fill between slices",
    "Margin",
    "Hollow",
    "Smoothing",
    "Scissors",
    "Islands",
    "Logical operators",
    "Mask volume",
)


class SegmentEditorEffect:
    """An effect's parameters, kept in the segment editor node as Slicer does."""

    def __init__(self, editor, name):
        self._editor, self.name = editor, name
        self.applied = 0  # how often a test or a module asked it to apply

    def _node(self):
        return self._editor.mrmlSegmentEditorNode()

    def _key(self, name):
        return f"{self.name}.{name}"

    def setParameter(self, name, value):
        self._node().SetAttribute(self._key(name), str(value))

    def setCommonParameter(self, name, value):
        self._node().SetAttribute(name, str(value))

    def parameter(self, name):
        return self._node().GetAttribute(self._key(name)) or ""

    def commonParameter(self, name):
        return self._node().GetAttribute(name) or ""

    def doubleParameter(self, name):
        return float(self.parameter(name) or 0)

    def integerParameter(self, name):
        return int(float(self.parameter(name) or 0))

    def parameterDefined(self, name):
        return self._node().GetAttribute(self._key(name)) is not None

    def self(self):
        return self

    def onApply(self):
        self.applied += 1


def _selector_property(attribute, default=True):
    """A bool property that shows or hides one part of the editor."""

    def get(editor):
        return editor.__dict__.get("_" + attribute, default)

    def put(editor, shown):
        editor.__dict__["_" + attribute] = bool(shown)
        for part in editor._parts.get(attribute, ()):
            part.setVisible(bool(shown))

    return Property(bool, get, put), put


@widget
class qMRMLSegmentEditorWidget(qMRMLWidget):
    """The interface of Slicer's widget, and in rough strokes its looks."""

    currentSegmentIDChanged = Signal(str)
    segmentationNodeChanged = Signal(object)
    sourceVolumeNodeChanged = Signal(object)
    __pq_signals__: ClassVar = {
        **SCENE_CHANGED,
        "currentSegmentIDChanged(QString)": "currentSegmentIDChanged",
        "segmentationNodeChanged(vtkMRMLSegmentationNode*)": "segmentationNodeChanged",
        "sourceVolumeNodeChanged(vtkMRMLVolumeNode*)": "sourceVolumeNodeChanged",
    }

    segmentationNodeSelectorVisible, setSegmentationNodeSelectorVisible = _selector_property(
        "segmentation"
    )
    sourceVolumeNodeSelectorVisible, setSourceVolumeNodeSelectorVisible = _selector_property(
        "volume"
    )
    addRemoveSegmentButtonsVisible, setAddRemoveSegmentButtonsVisible = _selector_property(
        "addRemove"
    )
    show3DButtonVisible, setShow3DButtonVisible = _selector_property("show3D")
    switchToSegmentationsButtonVisible, setSwitchToSegmentationsButtonVisible = _selector_property(
        "switch"
    )
    specifyGeometryButtonVisible, setSpecifyGeometryButtonVisible = _selector_property("geometry")
    maskingSectionVisible, setMaskingSectionVisible = _selector_property("masking")
    undoEnabled, setUndoEnabled = _selector_property("undo")
    autoShowSourceVolumeNode, setAutoShowSourceVolumeNode = stored("autoShow", bool, True)
    readOnly, setReadOnly = stored("readOnly", bool, False, after="_enable")
    unorderedEffectsVisible, setUnorderedEffectsVisible = stored(
        "unorderedEffectsVisible", bool, True, after="_arrange_effects"
    )
    effectColumnCount, setEffectColumnCount = stored("columns", int, 2, after="_arrange_effects")
    effectButtonStyle, setEffectButtonStyle = stored("effectButtonStyle", int, 2)
    jumpToSelectedSegmentEnabled, setJumpToSelectedSegmentEnabled = stored("jump", bool, False)
    defaultTerminologyEntrySettingsKey, setDefaultTerminologyEntrySettingsKey = stored(
        "defaultTerminologyEntrySettingsKey", str, ""
    )
    defaultTerminologyEntry, setDefaultTerminologyEntry = stored("defaultTerminologyEntry", str, "")

    def __init__(self, *args):
        super().__init__(*parent_in(args))
        self._logic = slicer.vtkSlicerSegmentEditorLogic()
        self._effects = {name: SegmentEditorEffect(self, name) for name in EFFECTS}
        self._order = list(EFFECTS)
        self._active = self._previous = ""
        self._observations, self._rows, self._shortcuts, self._parts = [], [], [], {}
        self._build()

    # ------------------------------------------------------------------------------- appearance
    def _build(self):
        column = QtWidgets.QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        column.addLayout(self._build_selectors())
        column.addLayout(self._build_segment_buttons())
        self._table = QtWidgets.QTableWidget(0, 3)
        self._table.setObjectName("SegmentsTable")
        self._table.setHorizontalHeaderLabels(["", "", "Name"])
        self._table.verticalHeader().hide()
        self._table.verticalHeader().setDefaultSectionSize(24)
        self._table.horizontalHeader().setStretchLastSection(True)
        self._table.setColumnWidth(0, 26)
        self._table.setColumnWidth(1, 26)
        self._table.setSelectionBehavior(QtWidgets.QAbstractItemView.SelectRows)
        self._table.itemSelectionChanged.connect(self._row_selected)
        column.addWidget(self._table, 1)
        self._effect_box = QtWidgets.QGroupBox("Effects")
        self._effect_grid = QtWidgets.QGridLayout(self._effect_box)
        self._effect_grid.setContentsMargins(4, 4, 4, 4)
        self._effect_grid.setSpacing(2)
        self._buttons = {}
        for name in EFFECTS:
            button = QtWidgets.QToolButton()
            button.setText(name)
            button.setObjectName(name)
            button.setCheckable(True)
            button.setSizePolicy(QtWidgets.QSizePolicy.Expanding, QtWidgets.QSizePolicy.Fixed)
            button.clicked.connect(
                lambda on=False, name=name: self.setActiveEffectByName(name if on else "")
            )
            self._buttons[name] = button
        self._arrange_effects()
        column.addWidget(self._effect_box)
        column.addLayout(self._build_undo())
        column.addWidget(self._build_masking())

    def _build_selectors(self):
        form = QtWidgets.QFormLayout()
        form.setContentsMargins(0, 0, 0, 0)
        for name, title, node_type, chosen in (
            ("segmentation", "Segmentation:", "vtkMRMLSegmentationNode", self.setSegmentationNode),
            ("volume", "Source volume:", "vtkMRMLScalarVolumeNode", self.setSourceVolumeNode),
        ):
            label, selector = QtWidgets.QLabel(title), qMRMLNodeComboBox()
            selector.setNodeTypes([node_type])
            selector.setNoneEnabled(True)
            selector.currentNodeChanged.connect(
                lambda node, name=name, chosen=chosen: self._chosen(name, node, chosen)
            )
            form.addRow(label, selector)
            self._parts[name] = (label, selector)
        return form

    def _build_segment_buttons(self):
        row = QtWidgets.QHBoxLayout()
        add, remove = QtWidgets.QPushButton("Add"), QtWidgets.QPushButton("Remove")
        add.clicked.connect(lambda *_: self._add_segment())
        remove.clicked.connect(lambda *_: self._remove_segment())
        show = qMRMLSegmentationShow3DButton()
        switch = QtWidgets.QPushButton("Segmentations...")
        self._parts.update(addRemove=(add, remove), show3D=(show,), switch=(switch,))
        for button in (add, remove, show, switch):
            row.addWidget(button)
        return row

    def _build_undo(self):
        row = QtWidgets.QHBoxLayout()
        undo, redo = QtWidgets.QToolButton(), QtWidgets.QToolButton()
        undo.setText("\u21b6 Undo")
        redo.setText("\u21b7 Redo")
        undo.clicked.connect(lambda *_: self.undo())
        redo.clicked.connect(lambda *_: self.redo())
        row.addStretch(1)
        row.addWidget(undo)
        row.addWidget(redo)
        self._parts["undo"] = (undo, redo)
        return row

    def _build_masking(self):
        section = ctkCollapsibleButton("Masking")
        form = QtWidgets.QFormLayout(section)
        self._mask_mode, self._overwrite = QtWidgets.QComboBox(), QtWidgets.QComboBox()
        self._mask_mode.addItems(
            ["Everywhere", "Inside all segments", "Inside all visible segments", "Outside all segments",
             "Outside all visible segments", "Inside single segment"]
        )  # fmt: skip
        self._overwrite.addItems(["Overwrite all", "Overwrite visible", "Allow overlap"])
        self._mask_mode.currentIndexChanged.connect(
            lambda mode: self._edit_node("SetMaskMode", mode)
        )
        self._overwrite.currentIndexChanged.connect(
            lambda mode: self._edit_node("SetOverwriteMode", mode)
        )
        form.addRow("Editable area:", self._mask_mode)
        form.addRow("Modify other segments:", self._overwrite)
        self._parts["masking"] = (section,)
        return section

    def _edit_node(self, setter, value):
        if self.mrmlSegmentEditorNode():
            getattr(self.mrmlSegmentEditorNode(), setter)(value)

    def _chosen(self, name, node, choose):
        if node is not None or self._parts[name][1].currentNode() is None:
            current = self.segmentationNode() if name == "segmentation" else self.sourceVolumeNode()
            if self.mrmlSegmentEditorNode() and node is not current:
                choose(node)

    def _arrange_effects(self):
        if not hasattr(self, "_buttons"):
            return
        rest = [name for name in EFFECTS if name not in self._order]
        shown = [name for name in self._order if name in self._buttons]
        shown += rest if self.unorderedEffectsVisible else []
        for button in self._buttons.values():
            self._effect_grid.removeWidget(button)
            button.setParent(self._effect_box)
            button.hide()
        for index, name in enumerate(shown):
            self._effect_grid.addWidget(
                self._buttons[name], *divmod(index, max(1, self.effectColumnCount))
            )
            self._buttons[name].setVisible(True)

    def _enable(self):
        for button in (*self._buttons.values(), *self._parts["addRemove"], *self._parts["undo"]):
            button.setEnabled(not self.readOnly)

    # ------------------------------------------------------------------------------------ nodes
    def _scene_was_set(self):
        self._logic.SetMRMLScene(self._scene)
        self._logic.SetMRMLApplicationLogic(slicer.app.applicationLogic())
        for name in ("segmentation", "volume"):
            self._parts[name][1].setMRMLScene(self._scene)

    def logic(self):
        return self._logic

    def setMRMLSegmentEditorNode(self, node):
        self._logic.SetSegmentEditorNode(node)
        self.updateWidgetFromMRML()

    def mrmlSegmentEditorNode(self):
        return self._logic.GetSegmentEditorNode()

    def setSegmentationNode(self, node):
        for segmentation, tag in self._observations:
            segmentation.RemoveObserver(tag)
        self._observations = []
        if node:
            node.CreateDefaultDisplayNodes()
        self._logic.SetSegmentationNode(node)
        self._parts["show3D"][0].setSegmentationNode(node)
        if node:
            segmentation = node.GetSegmentation()
            events = slicer.vtkSegmentation
            for event in (events.SegmentAdded, events.SegmentRemoved, events.SegmentModified):
                tag = segmentation.AddObserver(event, lambda *_: self.updateWidgetFromMRML())
                self._observations.append((segmentation, tag))
            if not self.currentSegmentID() and segmentation.GetNumberOfSegments():
                self._logic.SetCurrentSegmentID(segmentation.GetNthSegmentID(0))
        self.updateWidgetFromMRML()
        self.segmentationNodeChanged.emit(node)

    def segmentationNode(self):
        return self._logic.GetSegmentationNode()

    def setSegmentationNodeID(self, node_id):
        self.setSegmentationNode(self._scene.GetNodeByID(node_id))

    def segmentationNodeID(self):
        return self.segmentationNode().GetID() if self.segmentationNode() else ""

    def setSourceVolumeNode(self, node):
        self._logic.SetSourceVolumeNode(node)
        self.updateWidgetFromMRML()
        self.sourceVolumeNodeChanged.emit(node)

    def sourceVolumeNode(self):
        return self._logic.GetSourceVolumeNode()

    def setSourceVolumeNodeID(self, node_id):
        self.setSourceVolumeNode(self._scene.GetNodeByID(node_id))

    def sourceVolumeNodeID(self):
        return self.sourceVolumeNode().GetID() if self.sourceVolumeNode() else ""

    setMasterVolumeNode, masterVolumeNode = setSourceVolumeNode, sourceVolumeNode

    def setCurrentSegmentID(self, segment_id):
        if segment_id == self.currentSegmentID():
            return
        self._logic.SetCurrentSegmentID(segment_id)
        self.updateWidgetFromMRML()
        self.currentSegmentIDChanged.emit(segment_id or "")

    def currentSegmentID(self):
        return self._logic.GetCurrentSegmentID() or "" if self.mrmlSegmentEditorNode() else ""

    def updateWidgetFromMRML(self):
        if not self.mrmlSegmentEditorNode():
            return
        node = self.segmentationNode()
        for part, shown in (("segmentation", node), ("volume", self.sourceVolumeNode())):
            selector = self._parts[part][1]
            selector.blockSignals(True)
            selector.setCurrentNode(shown)
            selector.blockSignals(False)
        self._rows = list(node.GetSegmentation().GetSegmentIDs()) if node else []
        self._table.blockSignals(True)
        self._table.setRowCount(len(self._rows))
        for row, segment_id in enumerate(self._rows):
            segment = node.GetSegmentation().GetSegment(segment_id)
            shown = node.GetDisplayNode() is None or node.GetDisplayNode().GetSegmentVisibility(
                segment_id
            )
            colour = QtWidgets.QTableWidgetItem()
            colour.setBackground(QtGui.QColor.fromRgbF(*segment.GetColor()))
            self._table.setItem(row, 0, QtWidgets.QTableWidgetItem("\u25c9" if shown else "\u25cb"))
            self._table.setItem(row, 1, colour)
            self._table.setItem(row, 2, QtWidgets.QTableWidgetItem(segment.GetName()))
            if segment_id == self.currentSegmentID():
                self._table.selectRow(row)
        self._table.blockSignals(False)
        for combo, mode in (
            (self._mask_mode, self.mrmlSegmentEditorNode().GetMaskMode()),
            (self._overwrite, self.mrmlSegmentEditorNode().GetOverwriteMode()),
        ):
            combo.blockSignals(True)
            combo.setCurrentIndex(mode)
            combo.blockSignals(False)

    def _row_selected(self):
        row = self._table.currentRow()
        if 0 <= row < len(self._rows):
            self.setCurrentSegmentID(self._rows[row])

    def _add_segment(self):
        self.saveStateForUndo()
        self.setCurrentSegmentID(self.segmentationNode().GetSegmentation().AddEmptySegment())

    def _remove_segment(self):
        self.saveStateForUndo()
        self.segmentationNode().GetSegmentation().RemoveSegment(self.currentSegmentID())

    # ---------------------------------------------------------------------------------- effects
    def availableEffectNames(self):
        return list(EFFECTS)

    def effectCount(self):
        return len(EFFECTS)

    def effectByIndex(self, index):
        return self._effects[EFFECTS[index]]

    def effectByName(self, name):
        return self._effects.get(name)

    def setEffectNameOrder(self, names):
        self._order = list(names)
        self._arrange_effects()

    def effectNameOrder(self):
        return list(self._order)

    def activeEffect(self):
        return self._effects.get(self._active)

    def setActiveEffect(self, effect):
        self.setActiveEffectByName(effect.name if effect else "")

    def setActiveEffectByName(self, name):
        if self.readOnly:
            name = ""
        if self._active:
            self._previous = self._active
        self._active = name or ""
        if self.mrmlSegmentEditorNode():
            self.mrmlSegmentEditorNode().SetActiveEffectName(self._active)
        for each, button in self._buttons.items():
            button.setChecked(each == self._active)

    def updateEffectList(self):
        """Effects are fixed here."""

    # ------------------------------------------------------------------------------- undo, keys
    def _set_undo_states(self, count):
        self._logic.SetMaximumNumberOfUndoStates(count)

    setMaximumNumberOfUndoStates = _set_undo_states
    maximumNumberOfUndoStates = Property(
        int, lambda self: self._logic.GetMaximumNumberOfUndoStates(), _set_undo_states
    )

    def undo(self):
        self._logic.Undo()
        self.updateWidgetFromMRML()

    def redo(self):
        self._logic.Redo()
        self.updateWidgetFromMRML()

    def saveStateForUndo(self):
        self._logic.SaveStateForUndo()

    def selectNextSegment(self):
        self._select_at(1)

    def selectPreviousSegment(self):
        self._select_at(-1)

    def selectSegmentAtOffset(self, offset):
        self._select_at(offset)

    def _select_at(self, offset):
        if self._rows:
            current = self.currentSegmentID()
            index = self._rows.index(current) + offset if current in self._rows else 0
            self.setCurrentSegmentID(self._rows[index % len(self._rows)])

    def installKeyboardShortcuts(self, parent=None):
        """Install the keys that Slicer's editor takes, so that a module's would be ambiguous here too."""
        self.uninstallKeyboardShortcuts()
        parent = parent or slicer.util.mainWindow()
        keys = {
            "Esc": lambda: self.setActiveEffectByName(""),
            "Space": lambda: self.setActiveEffectByName("" if self._active else self._previous),
            "Z": self.undo,
            "Ctrl+Z": self.undo,
            "Y": self.redo,
            "Ctrl+Y": self.redo,
            "I": lambda: None,
        }
        keys.update(dict.fromkeys(("Q", "<", ","), self.selectPreviousSegment))
        keys.update(dict.fromkeys(("W", ">", "."), self.selectNextSegment))
        shown = [name for name in self._order if name in self._buttons]
        for index, name in enumerate(shown[:20]):
            modifier = "Shift+" if index >= 10 else ""
            keys[f"{modifier}{(index + 1) % 10}"] = lambda name=name: self.setActiveEffectByName(
                name
            )
        for key, act in keys.items():
            shortcut = QtGui.QShortcut(QtGui.QKeySequence(key), parent)
            shortcut.setObjectName("SlicerHostShortcut")
            shortcut.activated.connect(act)
            self._shortcuts.append(shortcut)

    def uninstallKeyboardShortcuts(self):
        for shortcut in self._shortcuts:
            shortcut.setEnabled(False)
            shortcut.setParent(None)
            shortcut.deleteLater()
        self._shortcuts = []

    # ------------------------------------------------------------------------------------ views
    def setupViewObservations(self):
        """The host's strokes come from `hostPaint`, not from the views."""

    def removeViewObservations(self):
        """See setupViewObservations."""

    def rotateSliceViewsToSegmentation(self):
        """Not done by the host."""

    def jumpSlices(self):
        node = self.segmentationNode()
        centre = node.GetSegmentCenterRAS(self.currentSegmentID())
        if centre is not None:
            slicer.vtkMRMLSliceNode.JumpAllSlices(self._scene, *centre)

    def showSourceVolumeInSliceViewers(self, forceShowInBackground=False, fitSlice=False):
        volume = self.sourceVolumeNode()
        if volume is not None:
            slicer.util.setSliceViewerLayers(background=volume, fit=fitSlice)

    # ------------------------------------------------------------------------------- host only
    def hostPaint(self, ras, radius_mm, erase=False):
        """Do what one brush stroke does in Slicer: a ball into the current segment, masked, undoable."""
        logic = self._logic
        logic.UpdateReferenceGeometryImage()
        self.saveStateForUndo()
        logic.ResetModifierLabelmapToDefault()
        modifier = logic.GetModifierLabelmap()
        to_image = vtk.vtkMatrix4x4()
        modifier.GetWorldToImageMatrix(to_image)
        centre = to_image.MultiplyPoint((*ras, 1))[:3]
        spacing, extent = modifier.GetSpacing(), modifier.GetExtent()
        low = [max(extent[2 * i], int(centre[i] - radius_mm / spacing[i])) for i in range(3)]
        high = [
            min(extent[2 * i + 1], int(centre[i] + radius_mm / spacing[i]) + 1) for i in range(3)
        ]
        voxels = vtk_to_numpy(modifier.GetPointData().GetScalars()).reshape(
            modifier.GetDimensions()[::-1]
        )
        slices = [slice(low[i] - extent[2 * i], high[i] + 1 - extent[2 * i]) for i in range(3)]
        k, j, i = np.ogrid[low[2] : high[2] + 1, low[1] : high[1] + 1, low[0] : high[0] + 1]
        squares = [
            ((axis - centre[n]) * spacing[n]) ** 2 for n, axis in enumerate((i, j, k))
        ]  # mm^2, broadcast to the box
        voxels[tuple(slices[::-1])][sum(squares) <= radius_mm**2] = 1
        modifier.Modified()
        mode = logic.ModificationModeRemove if erase else logic.ModificationModeAdd
        box = [bound for pair in zip(low, high, strict=True) for bound in pair]
        logic.ModifySegmentByLabelmap(
            self.segmentationNode(), self.currentSegmentID(), modifier, mode, box, False
        )
