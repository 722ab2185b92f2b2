"""Loads .ui files as Slicer does: stand-ins for CTK and MRML classes, scene connections replayed."""

import xml.etree.ElementTree as ET

from PySide6 import QtCore, QtUiTools, QtWidgets

from .ctk_widgets import WIDGETS
from .pythonqt import REPORT

_NO_WIDGETS = {"Line", "QMenuBar", "QLayoutWidget"}


class HostUiLoader(QtUiTools.QUiLoader):
    """A QUiLoader that knows the host's widgets."""

    def createWidget(self, class_name, parent=None, name=""):
        cls = WIDGETS.get(class_name)
        if (
            cls is None
            and class_name not in self.availableWidgets()
            and class_name not in _NO_WIDGETS
        ):
            REPORT["unknown_widget"].add(class_name)
            cls = QtWidgets.QWidget
        if cls is None:
            return super().createWidget(class_name, parent, name)
        made = cls(parent) if parent is not None else cls()
        made.setObjectName(name)
        return made

    def load(self, device, parent=None):
        root = ET.fromstring(bytes(device.readAll().data()))
        connections = root.find("connections")
        scene_connections = []
        for connection in list(connections) if connections is not None else []:
            sender, signal, receiver = (
                connection.findtext(key) for key in ("sender", "signal", "receiver")
            )
            if signal.startswith("mrmlSceneChanged"):
                connections.remove(connection)  # Qt's own loader cannot connect a Python slot
                scene_connections.append((sender, receiver))
        buffer = QtCore.QBuffer()
        buffer.setData(ET.tostring(root))
        buffer.open(QtCore.QIODevice.ReadOnly)
        top = super().load(buffer, parent)
        if top is None:
            raise RuntimeError(self.errorString())
        named = {each.objectName: each for each in [top, *top.findChildren(QtCore.QObject)]}
        for sender, receiver in scene_connections:
            for name in (sender, receiver):
                if name not in named:
                    msg = f".ui connects mrmlSceneChanged of {sender} to {receiver}: there is no {name}"
                    raise RuntimeError(msg)
            if not hasattr(named[receiver], "setMRMLScene"):
                msg = f".ui connects mrmlSceneChanged to {receiver}, which has no setMRMLScene"
                raise RuntimeError(msg)
            named[sender].__dict__.setdefault("_ui_receivers", []).append(named[receiver])
        top.__dict__["_ui_keep"] = list(
            named.values()
        )  # Python halves must live as long as the C++ ones
        return top
