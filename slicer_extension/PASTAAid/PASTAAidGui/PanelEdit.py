"""The tab of the editor: Slicer's segment editor, and lesions that are added, split or deleted."""

import slicer
from slicer.i18n import tr as _

from pasta.labels import LESIONS

EDITOR_TAG = "PASTAAid"


class PanelEdit:
    """Embeds the segment editor; other segments are protected, lesions may lie in organs.

    Args:
        root: widget of PASTAAidEdit.ui, its scene not set yet.
        flow: of the module.
    """

    def __init__(self, root, flow) -> None:
        self.root = root
        self.ui = slicer.util.childWidgetVariables(root)
        self.flow = flow
        ui = self.ui
        self.editorNode()
        for label in LESIONS:
            ui.labelCombo.addItem(label.title, label.name)
        ui.addButton.connect(
            "clicked(bool)", lambda _on: flow.editing.addLesion(ui.labelCombo.currentData)
        )
        ui.deleteButton.connect(
            "clicked(bool)", lambda _on: flow.editing.deleteLesion(self._number())
        )
        ui.splitButton.connect(
            "clicked(bool)", lambda _on: flow.editing.splitLesion(self._number())
        )
        ui.splitButton.setToolTip(_("Every separate part becomes a lesion of its own."))
        flow.editing.attachEditor = self.attach
        ui.editor.connect("currentSegmentIDChanged(QString)", self.onSegment)
        self._installed = False

    def editorNode(self):
        """Give the editor its parameter node; it must be there before the scene is set."""
        node = slicer.mrmlScene.GetSingletonNode(EDITOR_TAG, "vtkMRMLSegmentEditorNode")
        if node is None:
            node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLSegmentEditorNode")
            node.UnRegister(None)
            node.SetSingletonTag(EDITOR_TAG)
            node = slicer.mrmlScene.AddNode(node)
        if self.ui.editor.mrmlSegmentEditorNode() != node:
            self.ui.editor.setMRMLSegmentEditorNode(node)
        return node

    def _number(self) -> int | None:
        return self.flow.reading.selected if self.flow.reading is not None else None

    def attach(self, reading) -> None:
        """Edit the mask of this reading."""
        self.editorNode()
        self.flow.masks.setUpEditor(self.ui.editor, reading.segmentationNode, reading.volumeNode)

    def enter(self) -> None:
        """Make the editor's own keys work."""
        self.editorNode()
        if not self._installed:
            self.ui.editor.installKeyboardShortcuts()
            self._installed = True

    def exit(self) -> None:
        """Give the keys and the views back."""
        self.ui.editor.setActiveEffect(None)
        self.ui.editor.uninstallKeyboardShortcuts()
        self.ui.editor.removeViewObservations()
        self._installed = False

    def letGo(self) -> None:
        """Drop nodes of a scene that closes."""
        self.ui.editor.setActiveEffect(None)
        self.ui.editor.setSegmentationNode(None)
        self.ui.editor.removeViewObservations()

    def onSegment(self, segmentId: str) -> None:
        """A lesion chosen in the editor is the one in focus everywhere."""
        reading = self.flow.reading
        if reading is None or reading.segmentationNode is None or not segmentId:
            return
        for number, segment in self.flow.editing.segments().items():
            if segment.segmentId == segmentId and number != reading.selected:
                reading.selected = number
                self.flow.changed("report")

    def showLesion(self) -> None:
        """Choose the lesion in focus in the editor too."""
        segment = self.flow.editing.segments().get(self._number())
        if segment is not None and self.ui.editor.currentSegmentID() != segment.segmentId:
            self.ui.editor.setCurrentSegmentID(segment.segmentId)

    def show(self) -> None:
        """Enable what makes sense now."""
        ui, flow = self.ui, self.flow
        ui.editor.enabled = ui.labelCombo.enabled = ui.addButton.enabled = flow.canRead
        has = flow.canRead and self._number() is not None
        ui.splitButton.enabled = ui.deleteButton.enabled = has
        if flow.paused:
            ui.editor.setActiveEffect(None)
        ui.editLabel.text = (
            _("Lesion {number} is edited; other segments are protected.").format(
                number=self._number()
            )
            if has
            else ""
        )
