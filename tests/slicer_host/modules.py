"""The module manager, `slicer.modules`, and the life of a scripted module."""

import importlib.util
import sys
from pathlib import Path
from typing import ClassVar

import slicer
from PySide6 import QtCore, QtWidgets

from .shortcuts import check_shortcuts

# module name: class of its logic in slicer-core
LOGICS = {
    "Volumes": "vtkSlicerVolumesLogic",
    "Segmentations": "vtkSlicerSegmentationsModuleLogic",
    "Markups": "vtkSlicerMarkupsLogic",
    "Models": "vtkSlicerModelsLogic",
    "Colors": "vtkSlicerColorLogic",
    "Terminologies": "vtkSlicerTerminologiesModuleLogic",
    "SubjectHierarchy": "vtkSlicerSubjectHierarchyModuleLogic",
    "Tables": "vtkSlicerTablesLogic",
    "Texts": "vtkSlicerTextsLogic",
    "Plots": "vtkSlicerPlotsLogic",
    "Sequences": "vtkSlicerSequencesLogic",
    "CropVolume": "vtkSlicerCropVolumeLogic",
    "Transforms": "vtkSlicerTransformLogic",
    "Units": "vtkSlicerUnitsLogic",
    "VolumeRendering": "vtkSlicerVolumeRenderingLogic",
    "Data": "vtkSlicerDataModuleLogic",
    "Cameras": "vtkSlicerCamerasModuleLogic",
    "ViewControllers": "vtkSlicerViewControllersLogic",
}


class Module:
    """A module with a logic and no widget of its own."""

    def __init__(self, name, logic=None, path=""):
        self.name = self.title = name
        self.path = path
        self._logic = logic
        self._widget, self._make_widget = None, None

    def logic(self):
        return self._logic

    def widgetRepresentation(self):
        if self._widget is None and self._make_widget:
            self._widget = self._make_widget()
        return self._widget

    def createNewWidgetRepresentation(self):
        return self._make_widget() if self._make_widget else None


class ScriptedModule(Module, QtCore.QObject):
    """What a scripted module's class gets as `parent`."""

    def __init__(self, path):
        QtCore.QObject.__init__(self)
        Module.__init__(self, Path(path).stem, None, path)
        self.title = self.helpText = self.acknowledgementText = self.version = ""
        self.categories, self.dependencies, self.contributors, self.associatedNodeTypes = (
            [],
            [],
            [],
            [],
        )
        self.icon, self.hidden, self.index = None, False, -1


class HostSignals(QtCore.QObject):
    """The signals of the application and of the module manager."""

    startupCompleted = QtCore.Signal()
    mrmlSceneChanged = QtCore.Signal(object)
    lastWindowClosed = QtCore.Signal()
    aboutToQuit = QtCore.Signal()
    moduleAboutToBeUnloaded = QtCore.Signal(str)
    moduleLoaded = QtCore.Signal(str)
    modulesLoaded = QtCore.Signal("QStringList")
    __pq_signals__: ClassVar = {
        "startupCompleted()": "startupCompleted",
        "mrmlSceneChanged(vtkMRMLScene*)": "mrmlSceneChanged",
        "lastWindowClosed()": "lastWindowClosed",
        "aboutToQuit()": "aboutToQuit",
        "moduleAboutToBeUnloaded(QString)": "moduleAboutToBeUnloaded",
        "moduleLoaded(QString)": "moduleLoaded",
        "modulesLoaded(QStringList)": "modulesLoaded",
    }


class ModuleManager(HostSignals):
    """Modules by name."""

    def __init__(self):
        super().__init__()
        self._modules = {}

    def add(self, name, module):
        self._modules[name] = module
        setattr(slicer.modules, name.lower(), module)
        setattr(slicer.moduleNames, name, name)

    def module(self, name):
        return self._modules.get(name)

    def modulesNames(self):
        return list(self._modules)

    def factoryManager(self):
        return self

    def loadedModuleNames(self):
        return list(self._modules)

    def isLoaded(self, name):
        return name in self._modules


def add_core_modules(manager, scene, application_logic, folder):
    """Make the logics of slicer-core known as Slicer's loadable modules."""
    for name, class_name in LOGICS.items():
        logic = getattr(slicer, class_name)()
        if hasattr(logic, "SetModuleShareDirectory"):
            logic.SetModuleShareDirectory(folder)
        logic.SetMRMLApplicationLogic(application_logic)
        logic.SetMRMLScene(scene)
        # slices find their colours only through a module logic named exactly "Colors"
        application_logic.SetModuleLogic(name, logic)
        manager.add(name, Module(name, logic))
    slicer.modules.colors.logic().AddDefaultColorNodes()


def load_module(path, select=True):
    """Import a scripted module as Slicer does at its start.

    Args:
        path: of the module's .py file.
        select: also open it, as a user does in the module selector.

    Returns:
        the module and its widget (None when not selected).
    """
    from .application import boot

    app = boot()
    path = Path(path).resolve()
    name = path.stem
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    python = importlib.util.module_from_spec(spec)
    sys.modules[name] = python
    spec.loader.exec_module(python)
    module = ScriptedModule(str(path))
    instance = getattr(python, name)(module)
    setattr(slicer.modules, f"{name}Instance", instance)
    app.moduleManager().add(name, module)
    if hasattr(instance, "setup"):
        instance.setup()

    def make_widget():
        parent = slicer.qSlicerScriptedLoadableModuleWidget()
        parent.setObjectName(f"{name}ModuleWidget")
        parent.setLayout(QtWidgets.QVBoxLayout())
        parent.setMRMLScene(slicer.mrmlScene)
        widget = getattr(python, f"{name}Widget")(parent)
        parent.__dict__["_host_widget"] = widget
        setattr(slicer.modules, f"{name}Widget", widget)
        widget.setup()
        parent.layout().addStretch(1)
        return parent

    module._make_widget = make_widget
    return module, (select_module(name) if select else None)


def select_module(name):
    """Leave the present module and enter another; returns the widget object of its Python class.

    Args:
        name: of a module, or "" to leave the present one only.
    """
    app = slicer.app
    current = app.host_current
    if current is not None:
        app.host_current = None
        current.isEntered = False
        if hasattr(current._host_widget, "exit"):
            current._host_widget.exit()
    if not name:
        return None
    parent = app.moduleManager().module(name).widgetRepresentation()
    if parent is None:  # a core module, for instance Data: the host has no panel for it
        app.host_window.show_panel(QtWidgets.QWidget(), name)
        return None
    app.host_window.show_panel(parent, app.moduleManager().module(name).title or name)
    parent.isEntered = True
    app.host_current = parent
    if hasattr(parent._host_widget, "enter"):
        parent._host_widget.enter()
    check_shortcuts()
    return parent._host_widget
