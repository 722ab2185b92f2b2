"""PASTA-AID in 3D Slicer: read CT with three views, masks, a structured report and a clock."""

import sys
from pathlib import Path
from typing import Annotated

import qt
import slicer
from slicer import vtkMRMLScalarVolumeNode
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

try:
    import pasta.report  # noqa: F401 - asks whether the core is here
except ImportError:  # used from a checkout: its root lies three folders up
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from PASTAAidGui.Flow import Flow
from PASTAAidGui.FlowStudy import DEGREES
from PASTAAidGui.HeaderBar import HeaderBar
from PASTAAidGui.Masks import Masks
from PASTAAidGui.PanelAI import PanelAI
from PASTAAidGui.PanelCases import PanelCases
from PASTAAidGui.PanelEdit import PanelEdit
from PASTAAidGui.PanelReport import PanelReport
from PASTAAidGui.PanelSettings import SettingsPanel, dataFolder, readSettings, writeSettings
from PASTAAidGui.PanelStudy import PanelStudy
from PASTAAidGui.Shortcuts import Shortcuts
from PASTAAidGui.Views import Views
from PASTAAidLib.settings import Settings, SettingsError

TABS = ("Cases", "AI", "Report", "Edit", "Study")


def scrolling(page):
    """Put a tab into a scroll area, so that a small screen scrolls the tab and not the panel."""
    area = qt.QScrollArea()
    area.setFrameShape(qt.QFrame.NoFrame)
    area.setWidgetResizable(True)
    area.setHorizontalScrollBarPolicy(qt.Qt.ScrollBarAlwaysOff)
    area.setMinimumHeight(420)
    area.setWidget(page)
    return area


class PASTAAid(ScriptedLoadableModule):
    """What Slicer shows of the module in its lists."""

    def __init__(self, parent) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("PASTA-AID")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        parent.dependencies = []
        parent.contributors = ["PASTA-AID contributors"]
        parent.helpText = _(
            "Read CT with AI masks and a structured report of ten organs and fifteen lesion types, "
            "edit both, and save them to a PASTA-AID server. Research use only, no medical device."
        )
        parent.acknowledgementText = _("Built on MONAI Label and 3D Slicer.")
        self._settingsPanel = None
        slicer.app.connect("startupCompleted()", self.onStartupCompleted)

    def onStartupCompleted(self) -> None:
        """Add the page to Slicer's settings, once there is a window for it."""
        if slicer.app.commandOptions().noMainWindow:
            return
        self._settingsPanel = SettingsPanel(self.resourcePath("UI/PASTAAidSettings.ui"))
        slicer.app.settingsDialog().addPanel("PASTA-AID", self._settingsPanel)


@parameterNodeWrapper
class PASTAAidParameterNode:
    """What a saved scene remembers of the panel; never a token, a reader or a report.

    Attributes:
        localVolume: chosen to be sent.
        maskOpacity: 0-100.
        crosshair: shown or not.
    """

    localVolume: vtkMRMLScalarVolumeNode
    maskOpacity: Annotated[int, WithinRange(0, 100)] = 30
    crosshair: bool = True


class PASTAAidLogic(ScriptedLoadableModuleLogic):
    """The flow of a reading and what it works on; no widget here."""

    def __init__(self) -> None:
        ScriptedLoadableModuleLogic.__init__(self)

    def getParameterNode(self):
        """Get the wrapped parameter node of this module."""
        return PASTAAidParameterNode(super().getParameterNode())

    def makeFlow(self, settings: Settings, changed) -> Flow:
        """Start a flow; whoever asks closes it."""
        return Flow(settings, Views(), Masks(), changed)


class PASTAAidWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel: tells the flow what the reader does and shows what the flow knows."""

    def __init__(self, parent=None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = self.flow = self.shortcuts = None
        self._parameterNode = None
        self._guiTags: list = []
        self._entered = False
        self._seated = ""  # session whose layout and window were taken

    def setup(self) -> None:
        """Build the panel."""
        ScriptedLoadableModuleWidget.setup(self)
        root = slicer.util.loadUI(self.resourcePath("UI/PASTAAid.ui"))
        self.layout.addWidget(root, 100)  # against a spacer that may follow
        self.root = root
        self.ui = slicer.util.childWidgetVariables(root)
        self.logic = PASTAAidLogic()
        try:
            settings, refusal = readSettings(), None
        except SettingsError as error:
            settings, refusal = Settings(folder=dataFolder()), error
        self.flow = flow = self.logic.makeFlow(settings, self.onFlowChanged)
        self.header = HeaderBar(root, flow)
        pages = {
            name: slicer.util.loadUI(self.resourcePath(f"UI/PASTAAid{name}.ui")) for name in TABS
        }
        self.cases = PanelCases(pages["Cases"], flow, self.saveSettings)
        self.ai = PanelAI(pages["AI"], flow)
        self.report = PanelReport(pages["Report"], flow)
        self.edit = PanelEdit(pages["Edit"], flow)
        self.study = PanelStudy(pages["Study"], flow)
        titles = (_("Cases"), _("AI"), _("Report"), _("Edit"), _("Study"))
        for page, title in zip(pages.values(), titles, strict=True):
            self.ui.tabs.addTab(scrolling(page), title)
        self.pages = pages
        root.setMRMLScene(slicer.mrmlScene)
        pages["Cases"].setMRMLScene(slicer.mrmlScene)
        pages["Edit"].setMRMLScene(slicer.mrmlScene)
        flow.prepareView = self.header.applyWindow
        self.shortcuts = Shortcuts(self.actions())
        self.ui.submitButton.connect("clicked(bool)", lambda _on: flow.saving.submit())
        self.ui.acceptAllButton.connect("clicked(bool)", lambda _on: flow.editing.acceptAll())
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(scene, scene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(scene, scene.EndImportEvent, self.onSceneEndImport)
        self.initializeParameterNode()
        self.showAll()
        if refusal is not None:
            flow.say(str(refusal), _("Change it below or in the settings."), "error")

    def actions(self) -> dict:
        """Say what each key does."""
        flow, header = self.flow, self.header
        actions = {
            "submit": flow.saving.submit,
            "next": flow.cases.next,
            "previous": flow.cases.previous,
            "acceptAll": flow.editing.acceptAll,
            "accept": self.report.acceptCurrent,
            "nextLesion": lambda: flow.editing.step(1),
            "previousLesion": lambda: flow.editing.step(-1),
            "mask": header.cycleMask,
            "crosshair": header.toggleCrosshair,
            "diagnosis": lambda: flow.assistant.run("pasta_diagnosis"),
            "report": self.goToReport,
            "edit": lambda: self.goTo("Edit"),
            "list": lambda: self.goTo("Cases"),
            "pause": header.togglePause,
        }
        for place in range(5):
            actions[f"window{place + 1}"] = lambda place=place: header.setWindow(place)
        for place in range(3):
            actions[f"layout{place + 1}"] = lambda place=place: header.setLayout(place)
        for place in range(len(DEGREES)):
            actions[f"grade{place}"] = lambda place=place: flow.study.grade(place)
        return actions

    # life of the module

    def enter(self) -> None:
        """Take views and keys."""
        self._entered = True
        self.initializeParameterNode()
        self.flow.views.install()
        self.header.applyLayout()
        self.edit.enter()
        self.shortcuts.create()
        self.flow.saving.offerRecovery()
        self.showAll()

    def exit(self) -> None:
        """Give views and keys back; what is unsaved goes to the disk."""
        if not self._entered:
            return
        self._entered = False
        self.flow.saving.autosave()
        self.shortcuts.destroy()
        self.edit.exit()
        self._dropParameterNode()
        self.flow.views.restorePrevious()

    def cleanup(self) -> None:
        """End in order when Slicer closes or the module is reloaded."""
        self.exit()
        if self.flow is not None:
            self.flow.close()
            self.flow.views.remove()
        self.removeObservers()
        self._dropParameterNode()

    def onSceneStartClose(self, _caller=None, _event=None) -> None:
        """Keep the work before the nodes go."""
        self.flow.cases.leave(quietly=True)
        self.edit.letGo()
        self._dropParameterNode()

    def onSceneEndClose(self, _caller=None, _event=None) -> None:
        """Begin again in the empty scene."""
        if self._entered:
            self.initializeParameterNode()
            self.edit.editorNode()
            self.header.applyLayout()
            self.showAll()

    def onSceneEndImport(self, _caller=None, _event=None) -> None:
        """A saved scene brings its own layouts and editor nodes: put ours back."""
        if self._entered:
            self.flow.views.install()
            self.header.applyLayout()
            self.edit.editorNode()

    def initializeParameterNode(self) -> None:
        """Connect the scene's parameters to the panel."""
        if self._parameterNode is not None:
            return
        self._parameterNode = self.logic.getParameterNode()
        self._guiTags = [self._parameterNode.connectGui(ui) for ui in (self.ui, self.cases.ui)]

    def _dropParameterNode(self) -> None:
        if self._parameterNode is not None:
            for tag in self._guiTags:
                self._parameterNode.disconnectGui(tag)
            self._parameterNode, self._guiTags = None, []

    # settings

    def saveSettings(self, **values) -> bool:
        """Check and keep settings; False if one is refused, which the status line tells."""
        flow = self.flow
        current = {
            name: getattr(flow.settings, name)
            for name in flow.settings.__dataclass_fields__
            if name != "folder"
        }
        try:
            settings = Settings.from_values({**current, **values}, flow.settings.folder)
        except SettingsError as error:
            flow.say(str(error), kind="error")
            return False
        writeSettings(**values)
        flow.applySettings(settings)
        return True

    # tabs

    def goTo(self, name: str) -> None:
        """Bring a tab to the front."""
        self.ui.tabs.setCurrentIndex(TABS.index(name))

    def goToReport(self) -> None:
        """Bring the report to the front, the keyboard on its first attribute."""
        self.goTo("Report")
        self.report.focusFirst()

    # what the flow tells

    def onFlowChanged(self, topic: str) -> None:
        """Show again what changed."""
        if topic in ("status", "progress", "question", "clock"):
            getattr(self.header, f"show{topic.capitalize()}")()
        elif topic == "connection":
            self.cases.showConnection()
            self.ai.show()
        elif topic == "worklist":
            self.cases.showWorklist()
            self.showButtons()
        elif topic == "ai":
            self.ai.show()
            self.study.show()
            self.showButtons()
        elif topic == "report":
            self.report.show()
            self.edit.show()
            self.showButtons()
        elif topic == "lesion":
            self.report.show()
            self.edit.showLesion()
            self.edit.show()
        elif topic == "studytime":
            self.study.showTime()
        elif topic == "study":
            self.showStudy()
        elif topic == "preview":
            self.report.showPreview()
        elif topic in ("case", "shown", "pause", "saved", "settings"):
            if topic == "shown":
                self.goTo("Study" if self.flow.study.active else "Report")
            self.showAll()

    def showButtons(self) -> None:
        """Enable what makes sense now."""
        flow, ui = self.flow, self.ui
        ui.submitButton.enabled = not flow.saving.refusal()
        ui.submitButton.setToolTip(flow.saving.refusal() or _("Ctrl+Return"))
        ui.acceptAllButton.visible = flow.assisted
        ui.acceptAllButton.enabled = flow.canRead and flow.editing.pending()
        self.header.showCase()

    def showAll(self) -> None:
        """Show everything again."""
        self.showTabs()
        self.header.show()
        self.cases.showSettings()
        self.cases.showConnection()
        self.cases.showWorklist()
        self.ai.show()
        self.report.show()
        self.edit.show()
        self.study.show()
        self.showButtons()

    def showTabs(self) -> None:
        """Show the tabs that make sense: a study shows those that its questions need."""
        study = self.flow.study
        shown = {
            "Cases": not study.active,
            "AI": self.flow.assisted,
            "Report": not study.active
            or study.seat.needs("attributes")
            or study.seat.needs("mask"),
            "Edit": not study.active or study.seat.needs("mask"),
            "Study": True,
        }
        for name, visible in shown.items():
            self.ui.tabs.setTabVisible(TABS.index(name), visible)

    def showStudy(self) -> None:
        """Show the session; one that begins brings its layout and window."""
        seat = self.flow.study.seat
        if seat is not None and self._seated != seat.session_id:
            self.header.take(seat.layout, seat.window)
            self.goTo("Study")
        self._seated = seat.session_id if seat is not None else ""
        self.showTabs()
        self.study.show()
        self.showButtons()


class PASTAAidTest(ScriptedLoadableModuleTest):
    """Runs inside Slicer without a server: the panel comes up, takes and returns views and keys."""

    def setUp(self) -> None:
        """Start from an empty scene."""
        slicer.mrmlScene.Clear(0)

    def runTest(self) -> None:
        """Run all tests."""
        self.setUp()
        self.test_panelTakesAndReturnsViewsAndKeys()

    def test_panelTakesAndReturnsViewsAndKeys(self) -> None:
        """Enter and leave the module; the layout of before comes back."""
        manager = slicer.app.layoutManager()
        before = manager.layout
        slicer.util.selectModule("PASTAAid")
        widget = slicer.modules.PASTAAidWidget
        keys = slicer.util.mainWindow().findChildren(qt.QShortcut)
        self.assertNotEqual(manager.layout, before)
        slicer.util.selectModule("Data")
        after = slicer.util.mainWindow().findChildren(qt.QShortcut)
        self.assertEqual(manager.layout, before)
        self.assertIsNone(widget.flow.reading)
        self.assertGreaterEqual(len(keys), len(after))
