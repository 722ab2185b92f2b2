"""slicer.ScriptedLoadableModule, slicer.i18n and slicer.packaging, after their documented behaviour.

With HOST_SLICER_PY set to Base/Python of a Slicer checkout the genuine files take their places.
"""

import importlib.util
import logging
import os
import sys
import types
import unittest
from pathlib import Path

import slicer
from PySide6 import QtGui, QtWidgets

_NODE_CLASS = "vtkMRMLScriptedModuleNode"


class ScriptedLoadableModule:
    """Base of the class that describes a module."""

    def __init__(self, parent):
        self.parent = parent
        self.moduleName = type(self).__name__
        for suffix in (".svg", ".png"):
            icon = Path(parent.path).parent / "Resources" / "Icons" / (self.moduleName + suffix)
            if icon.is_file():
                parent.icon = QtGui.QIcon(str(icon))
                break
        slicer.selfTests[self.moduleName] = self.runTest

    def resourcePath(self, name):
        return str(Path(self.parent.path).parent / "Resources" / name)

    def getDefaultModuleDocumentationLink(self, docPage=None):
        url = slicer.app.moduleDocumentationUrl(self.moduleName)
        return f'<p>For more information see the <a href="{url}">online documentation</a>.</p>'

    def runTest(self, msec=100, **arguments):
        test = getattr(sys.modules[type(self).__module__], f"{self.moduleName}Test")()
        test.messageDelay = msec
        test.runTest(**arguments)


class ScriptedLoadableModuleWidget:
    """Base of the class that fills a module's panel."""

    def __init__(self, parent=None):
        self.moduleName = type(self).__name__.removesuffix("Widget")
        self.developerMode = False
        alone = parent is None
        if alone:
            parent = slicer.qMRMLWidget()
            parent.setLayout(QtWidgets.QVBoxLayout())
            parent.setMRMLScene(slicer.mrmlScene)
        self.parent, self.layout = parent, parent.layout()
        if alone:
            self.setup()
            parent.show()
        slicer.app.moduleManager().connect(
            "moduleAboutToBeUnloaded(QString)", self._about_to_be_unloaded
        )

    def _about_to_be_unloaded(self, name):
        if name == self.moduleName:
            self.cleanup()
            slicer.app.moduleManager().disconnect(
                "moduleAboutToBeUnloaded(QString)", self._about_to_be_unloaded
            )

    def resourcePath(self, name):
        return str(Path(slicer.util.modulePath(self.moduleName)).parent / "Resources" / name)

    def setup(self):
        """For subclasses."""

    def cleanup(self):
        """For subclasses."""

    def onReload(self):
        slicer.util.reloadScriptedModule(self.moduleName)


class ScriptedLoadableModuleLogic:
    """Base of the class that computes; owns the module's parameter node."""

    def __init__(self, parent=None):
        self.moduleName = type(self).__name__.removesuffix("Logic")
        self.isSingletonParameterNode = True

    def getParameterNode(self):
        if self.isSingletonParameterNode:
            node = slicer.mrmlScene.GetSingletonNode(self.moduleName, _NODE_CLASS)
            found = [node] if node else []
        else:
            found = self.getAllParameterNodes()
        return found[0] if found else self.createParameterNode()

    def getAllParameterNodes(self):
        nodes = slicer.util.getNodesByClass(_NODE_CLASS)
        return [node for node in nodes if node.GetAttribute("ModuleName") == self.moduleName]

    def createParameterNode(self):
        node = slicer.mrmlScene.CreateNodeByClass(_NODE_CLASS)
        node.UnRegister(None)  # the scene holds it from here on
        if self.isSingletonParameterNode:
            node.SetSingletonTag(self.moduleName)
        node.SetModuleName(self.moduleName)
        node.SetAttribute("ModuleName", self.moduleName)
        node.SetName(slicer.mrmlScene.GenerateUniqueName(self.moduleName))
        return slicer.mrmlScene.AddNode(node)


class ScriptedLoadableModuleTest(unittest.TestCase):
    """Base of a module's self-test; may be made without the name of a method."""

    def __init__(self, *_, **__):
        super().__init__("runTest")
        self.enableScreenshots, self.messageDelay = False, 0

    def delayDisplay(self, message, requestedDelay=None, msec=None):
        logging.getLogger(self.__class__.__name__).info(message)
        slicer.app.processEvents()

    def takeScreenshot(self, *_, **__):
        """Not in tests."""

    def runTest(self):
        for name in [name for name in dir(self) if name.startswith("test")]:
            self.setUp()
            getattr(self, name)()
            self.tearDown()


# ------------------------------------------------------------------------------- i18n and packaging
def tr(text):
    return text


def translate(context, text):
    return text


def _load_requirements(path):
    lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line and not line.startswith(("#", "-"))]


def _pip_ensure(requirements, requester="", **_):
    slicer.app.calls.append(("pip_ensure", requester, [str(each) for each in requirements]))


def _pip_install(requirements, **_):
    slicer.app.calls.append(("pip_install", requirements))


def _no_command_line_modules(*_, **__):
    msg = "command-line modules are programs of the Slicer application and not in slicer-core"
    raise NotImplementedError(msg)


def _module(name, **content):
    made = types.ModuleType(f"slicer.{name}")
    vars(made).update(content)
    sys.modules[made.__name__] = made
    setattr(slicer, name, made)


def _genuine(folder, name):
    path = folder / "slicer" / name
    package = path.is_dir()
    spec = importlib.util.spec_from_file_location(
        f"slicer.{name}",
        path / "__init__.py" if package else path.with_suffix(".py"),
        submodule_search_locations=[str(path)] if package else None,
    )
    made = importlib.util.module_from_spec(spec)
    sys.modules[made.__name__] = made
    setattr(slicer, name, made)
    spec.loader.exec_module(made)


def install():
    """Make the modules importable, genuine ones where HOST_SLICER_PY names them."""
    from . import parameter_nodes

    _module("cli", run=_no_command_line_modules, runSync=_no_command_line_modules)
    genuine = os.environ.get("HOST_SLICER_PY")
    if genuine:
        for name in ("i18n", "packaging", "ScriptedLoadableModule", "parameterNodeWrapper"):
            _genuine(Path(genuine), name)
        return
    _module("i18n", tr=tr, translate=translate)
    _module(
        "packaging",
        pip_ensure=_pip_ensure,
        load_requirements=_load_requirements,
        pip_check=lambda requirements: True,
        pip_install=_pip_install,
    )
    bases = (
        ScriptedLoadableModule,
        ScriptedLoadableModuleWidget,
        ScriptedLoadableModuleLogic,
        ScriptedLoadableModuleTest,
    )
    names = [base.__name__ for base in bases]
    _module("ScriptedLoadableModule", **dict(zip(names, bases, strict=True)), __all__=names)
    public = {name: value for name, value in vars(parameter_nodes).items() if name[0] != "_"}
    _module("parameterNodeWrapper", **public)
