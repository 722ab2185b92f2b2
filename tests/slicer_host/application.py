"""`slicer.app`, the main window, and what starts and drives them."""

import logging
import os
import sys
import tempfile
import time
import types
from pathlib import Path

import vtk
from PySide6 import QtCore, QtWidgets

from .pythonqt import (  # PySide6 is changed before anything below makes a class of it
    QT,
    record_error,
)

import slicer  # isort: skip

from . import ctk_widgets

sys.modules["ctk"] = ctk_widgets.module()

from . import aliases, dialogs, layout, modules, mrml_widgets, scripted, segment_editor, views
from .file_io import CoreIOManager
from .shortcuts import check_shortcuts
from .ui_loader import HostUiLoader

QT.QUiLoader = HostUiLoader
_LOG = logging.getLogger("slicerhost")
PANEL_WIDTH = 500


class SettingsDialog:
    """The panels of Slicer's settings dialog."""

    def __init__(self):
        self.panels = {}

    def addPanel(self, label, panel):
        self.panels[label] = panel
        # Slicer's dialog owns its panels
        panel.setWindowTitle(label)


class ModuleSelector:
    """What `slicer.util.selectModule` and `selectedModule` call."""

    def selectModule(self, name):
        modules.select_module(name)

    @property
    def selectedModule(self):
        current = slicer.app.host_current
        return current._host_widget.moduleName if current is not None else ""


class MainWindow(QtWidgets.QMainWindow):
    """A window with the parts that take space in Slicer: menus, toolbar, panel, data probe, status bar."""

    def __init__(self, viewport):
        super().__init__()
        self.setObjectName("qSlicerMainWindow")
        self.setWindowTitle("3D Slicer (test host)")
        for name in ("File", "Edit", "View", "Help"):
            self.menuBar().addMenu(name)
        bar = self.addToolBar("Modules")
        bar.setObjectName("ModuleSelectorToolBar")
        bar.setMovable(False)
        bar.addWidget(QtWidgets.QLabel(" Modules: "))
        self._module_name = QtWidgets.QComboBox()
        self._module_name.setMinimumWidth(220)
        bar.addWidget(self._module_name)
        self.setCentralWidget(viewport)
        self._dock = QtWidgets.QDockWidget("3D Slicer")
        self._dock.setObjectName("PanelDockWidget")
        self._scroll = QtWidgets.QScrollArea()
        self._scroll.setObjectName("ModulePanelScrollArea")
        self._scroll.setWidgetResizable(True)
        self._scroll.setMinimumWidth(PANEL_WIDTH)
        self._scroll.setHorizontalScrollBarPolicy(QtCore.Qt.ScrollBarAlwaysOff)
        content = QtWidgets.QWidget()
        column = QtWidgets.QVBoxLayout(content)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self._scroll, 1)
        probe = QtWidgets.QGroupBox("Data Probe")
        probe.setFixedHeight(96)  # as much as Slicer's takes with its four lines
        column.addWidget(probe)
        self._dock.setWidget(content)
        self.addDockWidget(QtCore.Qt.LeftDockWidgetArea, self._dock)
        self.statusBar().showMessage("")
        self._selector = ModuleSelector()

    def show_panel(self, panel, title):
        """Put a module's widget into the panel; the one before is kept alive, hidden."""
        before = self._scroll.takeWidget()
        if before is not None:
            before.setParent(None)
            before.hide()
        self._scroll.setWidget(panel)
        panel.show()
        self._module_name.clear()
        self._module_name.addItem(title)

    def moduleSelector(self):
        return self._selector


class Application:
    """`slicer.app`."""

    applicationName, applicationVersion, documentationBaseUrl = (
        "Slicer",
        "5.12.0-host",
        "https://slicer.readthedocs.io/en/latest/",
    )
    majorVersion, minorVersion, revision, releaseType, os = 5, 12, "host", "Stable", "linux"

    def __init__(self, qt_application, testing):
        self._qt, self._testing = qt_application, testing
        self._signals, self._modules = modules.HostSignals(), modules.ModuleManager()
        self._settings_dialog, self._io = SettingsDialog(), CoreIOManager()
        self._application_logic = self._layout_manager = None
        self.temporaryPath = tempfile.mkdtemp(prefix="slicerhost-")
        self.slicerHome = self.extensionsInstallPath = self.temporaryPath
        # of the host alone
        self.calls = []
        self.render_paused = 0
        self.host_current = self.host_window = None
        self.host_vtk_log = Path(self.temporaryPath) / "vtk.log"

    def host_log(self, text):
        _LOG.warning(text)

    def connect(self, *args):
        return self._signals.connect(*args)

    def disconnect(self, *args):
        return self._signals.disconnect(*args)

    def testingEnabled(self):
        return self._testing

    def mrmlScene(self):
        return slicer.mrmlScene

    def applicationLogic(self):
        return self._application_logic

    def layoutManager(self):
        return self._layout_manager

    def coreIOManager(self):
        return self._io

    ioManager = coreIOManager

    def moduleManager(self):
        return self._modules

    def settingsDialog(self):
        return self._settings_dialog

    def settings(self):
        return QtCore.QSettings()

    userSettings = revisionUserSettings = settings

    def processEvents(self, *_):
        try:
            self._qt.processEvents()
        except Exception:  # noqa: BLE001 (from a Python override of an event handler)
            record_error("event loop")

    def pauseRender(self):
        self.render_paused += 1

    def resumeRender(self):
        self.render_paused = max(0, self.render_paused - 1)

    def setRenderPaused(self, paused):
        if paused:
            self.pauseRender()
        else:
            self.resumeRender()

    def translate(self, context, text):
        return text

    def commandOptions(self):
        return types.SimpleNamespace(
            noMainWindow=False, testingEnabled=self._testing, disableSettings=True
        )

    def startupEnvironment(self):
        return dict(os.environ)

    def moduleDocumentationUrl(self, name):
        return self.documentationBaseUrl + name

    def toSlicerHomeAbsolutePath(self, path):
        return path

    def isInstalled(self):
        return True

    def restart(self):
        self.calls.append("restart")

    def pythonConsole(self):
        return None

    def mainWindow(self):
        return self.host_window

    def __getattr__(self, name):
        # topLevelWidgets, setOverrideCursor, style, clipboard, focusWidget, ...: QApplication's own
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._qt, name)


def _quiet_vtk(app):
    """Send VTK's and MRML's messages to a file: missing shared resources of Slicer are none of a test's."""
    window = vtk.vtkFileOutputWindow()
    window.SetFileName(str(app.host_vtk_log))
    window.SetAppend(True)
    vtk.vtkOutputWindow.SetInstance(window)
    if "HOST_VTK_STDERR" not in os.environ:
        vtk.vtkLogger.SetStderrVerbosity(vtk.vtkLogger.VERBOSITY_OFF)


def _make_scene(app):
    scene = slicer.mrmlScene
    crosshair = slicer.vtkMRMLCrosshairNode()
    crosshair.SetCrosshairName("default")
    scene.AddNode(crosshair)
    logic = app._application_logic = slicer.vtkSlicerApplicationLogic()
    logic.SetMRMLScene(scene)
    logic.GetColorLogic().SetMRMLScene(scene)
    for setter in (logic.SetTemporaryPath, logic.SetHomeDirectory, logic.SetShareDirectory):
        setter(app.temporaryPath)
    logic.SetSliceLogics(vtk.vtkCollection())
    logic.SetViewLogics(vtk.vtkCollection())
    slicer.modules, slicer.moduleNames = types.SimpleNamespace(), types.SimpleNamespace()
    sys.modules["slicer.modules"] = slicer.modules
    modules.add_core_modules(app.moduleManager(), scene, logic, app.temporaryPath)
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene, True)
    slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    layout_logic = slicer.vtkMRMLLayoutLogic()
    layout_logic.SetMRMLApplicationLogic(logic)
    layout_logic.SetMRMLScene(scene)
    return layout_logic


def _make_names():
    """Put the widgets' classes where modules look for them."""
    for source in (mrml_widgets, segment_editor, views, layout):
        for name, value in vars(source).items():
            if name.startswith(("qMRML", "qSlicer")):
                setattr(slicer, name, value)
    slicer.qSlicerScriptedLoadableModule = modules.ScriptedModule
    slicer.qSlicerApplication = Application
    slicer.qt, slicer.ctk = QT, sys.modules["ctk"]
    aliases.install()
    scripted.install()
    dialogs.install()


def _tell(kind, context, text):
    if "propagateSizeHints" not in text:  # of the offscreen platform at every change of a window
        print(text, file=sys.stderr)


def boot(testing=True, show=True, size=(1500, 900), settings_dir=None):
    """Make the application, once per process: scene, logics, views, main window.

    Args:
        testing: what `slicer.app.testingEnabled()` answers.
        show: also show the window; hidden views do not render, as in Slicer.
        size: of the window, in pixels.
        settings_dir: folder of the QSettings; a temporary one by default.
    """
    if getattr(slicer, "app", None) is not None:
        return slicer.app
    qt_application = QtWidgets.QApplication.instance() or QtWidgets.QApplication(["Slicer"])
    QtCore.qInstallMessageHandler(_tell)
    qt_application.setStyle("Fusion")
    qt_application.setOrganizationName("NA-MIC")
    qt_application.setApplicationName("Slicer-host")
    ini = QtCore.QSettings.IniFormat
    QtCore.QSettings.setDefaultFormat(ini)
    settings_dir = settings_dir or tempfile.mkdtemp(prefix="slicerhost-settings-")
    QtCore.QSettings.setPath(ini, QtCore.QSettings.UserScope, str(settings_dir))
    app = slicer.app = Application(qt_application, testing)
    _quiet_vtk(app)
    slicer.mrmlScene = slicer.vtkMRMLScene()
    slicer.selfTests, slicer.dicomDatabase = {}, None
    layout_logic = _make_scene(app)
    _make_names()
    viewport = QtWidgets.QWidget()
    viewport.setObjectName("CentralWidgetLayoutFrame")
    app.host_window = MainWindow(viewport)
    app._layout_manager = layout.qMRMLLayoutManager(viewport, layout_logic)
    app._layout_manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
    app.host_window.resize(*size)
    if show:
        app.host_window.show()
        qt_application.processEvents()
    return app


def startup_completed():
    """Emit startupCompleted(), when modules add their settings panel."""
    slicer.app._signals.startupCompleted.emit()
    slicer.app.processEvents()


def spin(seconds=0.05):
    """Let the event loop run, then look for clashing shortcuts."""
    end = time.monotonic() + seconds
    while True:
        slicer.app.processEvents()
        if time.monotonic() >= end:
            break
        time.sleep(0.002)
    check_shortcuts()


def screenshot(path):
    """Save a picture of the main window and return its path."""
    spin(0.2)
    slicer.app.host_window.grab().save(str(path))
    return path
