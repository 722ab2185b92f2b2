"""`slicer.parameterNodeWrapper` for str, int, float, bool, Enum, Path, list, dict, node and optional fields.

Values live in the node as text, defaults are written when a wrapper is made, and `connectGui` ties fields to
the widgets that carry a SlicerParameterName. Parameter packs are not there.
"""

import enum
import json
import pathlib
import types
import typing
from typing import Annotated, Any

import slicer
import vtk
from PySide6 import QtWidgets

_UNSET = object()
# As Slicer's guiConnectors have it: the very classes, no subclasses. A pair that is not here is an error there.
_WIDGETS = {
    bool: {"QCheckBox", "ctkCheckBox", "QPushButton", "ctkCheckablePushButton"},
    int: {
        *("QSlider", "QSpinBox", "QDoubleSpinBox", "ctkSliderWidget", "ctkDoubleSlider"),
        *("ctkDoubleSpinBox", "qMRMLSliderWidget", "qMRMLSpinBox", "QComboBox", "ctkComboBox"),
    },
    float: {
        *("QDoubleSpinBox", "ctkSliderWidget", "ctkDoubleSlider", "ctkDoubleSpinBox"),
        *("qMRMLSliderWidget", "qMRMLSpinBox", "QComboBox", "ctkComboBox"),
    },
    str: {"QLineEdit", "QLabel", "QTextEdit", "QComboBox", "ctkComboBox"},
    pathlib.Path: {"ctkPathLineEdit", "ctkDirectoryButton"},
    enum.Enum: {"QComboBox", "ctkComboBox"},
    "node": {"qMRMLNodeComboBox"},
}
_ZERO = {str: "", int: 0, float: 0.0, bool: False, pathlib.Path: pathlib.Path()}


# -------------------------------------------------------------------------------------- annotations
class Default:
    """The value of a field that nobody has set."""

    def __init__(self, value):
        self.value = value


class WithinRange:
    """Refuses numbers outside [minimum, maximum]."""

    def __init__(self, minimum, maximum):
        self.minimum, self.maximum = minimum, maximum

    def __call__(self, value):
        if not self.minimum <= value <= self.maximum:
            msg = f"{value} is not in [{self.minimum}, {self.maximum}]"
            raise ValueError(msg)


class Minimum(WithinRange):
    """Refuses smaller numbers."""

    def __init__(self, minimum):
        super().__init__(minimum, float("inf"))


class Maximum(WithinRange):
    """Refuses larger numbers."""

    def __init__(self, maximum):
        super().__init__(float("-inf"), maximum)


class Choice:
    """Refuses what is not among the choices."""

    def __init__(self, choices):
        self.choices = list(choices)

    def __call__(self, value):
        if value not in self.choices:
            msg = f"{value!r} is not among {self.choices}"
            raise ValueError(msg)


class Decimals:
    """How many decimals a widget shows."""

    def __init__(self, value):
        self.value = value


class SingleStep(Decimals):
    """By how much a widget steps."""


class NotNone:
    """Refuses None."""

    def __call__(self, value):
        if value is None:
            msg = "the value must not be None"
            raise ValueError(msg)


# ------------------------------------------------------------------------------------------- fields
class _Field:
    """One typed parameter of a node."""

    def __init__(self, name: str, annotation: Any, default: Any) -> None:
        self.name, self.annotation = name, annotation
        self.kind, self.checks, self.optional = annotation, (), False
        if typing.get_origin(self.kind) is Annotated:
            self.kind, *self.checks = typing.get_args(self.kind)
        if typing.get_origin(self.kind) in (typing.Union, types.UnionType):
            members = [each for each in typing.get_args(self.kind) if each is not type(None)]
            self.optional = len(members) < len(typing.get_args(self.kind))
            self.kind = members[0] if len(members) == 1 else tuple(members)
        self.base = typing.get_origin(self.kind) or self.kind
        self.is_enum = isinstance(self.base, type) and issubclass(self.base, enum.Enum)
        kinds = self.base if isinstance(self.base, tuple) else (self.base,)
        self.is_node = all(
            isinstance(each, type) and issubclass(each, slicer.vtkMRMLNode) for each in kinds
        )
        self.default = self._default(default)

    def _default(self, given: Any) -> Any:
        if given is not _UNSET:
            return given
        annotated = [check.value for check in self.checks if isinstance(check, Default)]
        if annotated:
            return annotated[0]
        if self.optional or self.is_node:
            return None
        if self.is_enum:
            return next(iter(self.base))
        return _ZERO[self.base] if self.base in _ZERO else self.base()

    def is_in(self, node: Any) -> bool:
        if self.is_node:
            roles = range(node.GetNumberOfNodeReferenceRoles())
            return self.name in [node.GetNthNodeReferenceRole(role) for role in roles]
        return node.GetParameter(self.name) != "" or self.name in node.GetParameterNames()

    def read(self, node: Any) -> Any:
        if self.is_node:
            return node.GetNodeReference(self.name)
        if not self.is_in(node):
            return self.default
        text = node.GetParameter(self.name)
        if self.optional and text == "None":
            return None
        if self.is_enum:
            return self.base[text]
        if self.base is bool:
            return text == "True"
        return self.base(text) if self.base in _ZERO else json.loads(text)

    def write(self, node: Any, value: Any) -> None:
        if self.is_node:
            node.SetNodeReferenceID(
                self.name, value if isinstance(value, str | None) else value.GetID()
            )
            return
        if self.base is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not (self.optional and value is None) and not isinstance(value, self.base):
            msg = f"{self.name}: expected {self.kind}, found {value!r}"
            raise TypeError(msg)
        for check in self.checks:
            if callable(check):
                check(value)
        if self.is_enum and value is not None:
            text = value.name
        elif self.base in _ZERO or value is None:
            text = str(value)
        else:
            text = json.dumps(value)
        node.SetParameter(self.name, text)


# --------------------------------------------------------------------------------------- connectors
class _Connector:
    """Carries one field to a widget and back."""

    ATTRIBUTES = (
        "currentNodeID",
        "currentPath",
        "checked",
        "currentText",
        "value",
        "plainText",
        "text",
    )
    SIGNALS: typing.ClassVar = {
        "currentNodeID": "currentNodeIDChanged",
        "currentPath": "currentPathChanged",
        "checked": "toggled",
        "currentText": "currentTextChanged",
        "value": "valueChanged",
        "plainText": "textChanged",
        "text": "textChanged",
    }

    def __init__(self, field: _Field, widget: Any) -> None:
        self.field, self.widget = field, widget
        kind = "node" if field.is_node else enum.Enum if field.is_enum else field.base
        if type(widget).__name__ not in _WIDGETS.get(kind, ()):
            msg = f"Slicer connects no {kind} ('{field.name}') to a {type(widget).__name__}"
            raise RuntimeError(msg)
        bounds = [check for check in field.checks if isinstance(check, WithinRange)]
        if type(widget).__name__ == "QSlider" and not bounds:
            msg = f"Slicer connects '{field.name}' to a QSlider only if it is Annotated with its range"
            raise RuntimeError(msg)
        fitting = [
            name
            for name in self.ATTRIBUTES
            if hasattr(widget, name) and (name != "checked" or field.base is bool)
        ]
        self.attribute = fitting[0]
        self.signal = getattr(widget, self.SIGNALS[self.attribute])
        for check in field.checks:
            if isinstance(check, WithinRange) and hasattr(widget, "minimum"):
                widget.minimum, widget.maximum = check.minimum, check.maximum
            elif isinstance(check, Choice) and hasattr(widget, "addItems") and widget.count == 0:
                widget.addItems([str(choice) for choice in check.choices])
        if field.is_enum and widget.count == 0:
            widget.addItems([str(each.value) for each in field.base])

    def read(self) -> Any:
        value = getattr(self.widget, self.attribute)
        if self.attribute == "currentNodeID":
            return slicer.mrmlScene.GetNodeByID(value) if value else None
        if self.field.is_enum:
            return next(each for each in self.field.base if str(each.value) == value)
        return self.field.base(value) if self.field.base in _ZERO else value

    def write(self, value: Any) -> None:
        if self.attribute == "currentNodeID":
            value = value.GetID() if value else ""
        elif isinstance(value, enum.Enum):
            value = str(value.value)
        elif value is None:
            return
        elif self.attribute in ("currentPath", "currentText", "text", "plainText"):
            value = str(value)
        if getattr(self.widget, self.attribute) != value:
            setattr(self.widget, self.attribute, value)


# ------------------------------------------------------------------------------------------ wrapper
class _Wrapper:
    """What a decorated class inherits."""

    allParameters: typing.ClassVar[dict[str, _Field]] = {}

    def __init__(self, parameterNode, prefix=None):
        vars(self).update(parameterNode=parameterNode, _connections={}, _next_tag=0, _showing=False)
        for field in self.allParameters.values():
            if not field.is_in(parameterNode):
                field.write(parameterNode, field.default)

    def __setattr__(self, name, value):
        if (
            name not in self.allParameters
            and name not in vars(self)
            and not hasattr(type(self), name)
        ):
            msg = f"no parameter '{name}'"
            raise AttributeError(msg)
        object.__setattr__(self, name, value)

    def _field(self, name):
        if name not in self.allParameters:
            msg = f"no parameter '{name}'; there are {sorted(self.allParameters)}"
            raise ValueError(msg)
        return self.allParameters[name]

    def default(self, name):
        return Default(self._field(name).default)

    def dataType(self, name):
        return self._field(name).annotation

    def isCached(self, name):
        return False

    def getValue(self, name):
        return self._field(name).read(self.parameterNode)

    def setValue(self, name, value):
        self._field(name).write(self.parameterNode, value)

    def connectGui(self, gui):
        if isinstance(gui, QtWidgets.QWidget):
            widgets = gui.findChildren(QtWidgets.QWidget)
        else:
            widgets = [each for each in vars(gui).values() if isinstance(each, QtWidgets.QWidget)]
        names = {each.property("SlicerParameterName"): each for each in widgets}
        return self.connectParametersToGui({name: each for name, each in names.items() if name})

    def connectParametersToGui(self, mapping):
        made = []
        for name, widget in mapping.items():
            connector = _Connector(self._field(name), widget)
            connector.write(self.getValue(name))

            def changed(*_, name=name, connector=connector):
                if not self._showing and self.getValue(name) != connector.read():
                    self.setValue(name, connector.read())

            connector.signal.connect(changed)
            made.append((name, connector, changed))
        observer = self.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self._show(made))
        tag = self._next_tag
        self._next_tag += 1
        self._connections[tag] = (made, observer)
        return tag

    def _show(self, connected):
        if self._showing:
            return
        self._showing = True
        try:
            for name, connector, _ in connected:
                connector.write(self.getValue(name))
        finally:
            self._showing = False

    def disconnectGui(self, tag):
        connected, observer = self._connections.pop(tag, ((), None))
        for _, connector, changed in connected:
            connector.signal.disconnect(changed)
        if observer is not None:
            self.RemoveObserver(observer)

    def StartModify(self):
        return self.parameterNode.StartModify()

    def EndModify(self, was_modified):
        return self.parameterNode.EndModify(was_modified)

    def AddObserver(self, event, callback, priority=0.0):
        return self.parameterNode.AddObserver(event, callback, priority)

    def RemoveObserver(self, tag):
        self.parameterNode.RemoveObserver(tag)

    def Modified(self):
        self.parameterNode.Modified()


def _accessor(field: _Field) -> property:
    return property(
        lambda self: field.read(self.parameterNode),
        lambda self, value: field.write(self.parameterNode, value),
    )


def parameterNodeWrapper(cls=None):
    """Give a class with annotated fields typed access to a parameter node."""
    if cls is None:
        return parameterNodeWrapper
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = {name: _Field(name, hint, vars(cls).get(name, _UNSET)) for name, hint in hints.items()}
    content = {
        name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__")
    }
    content |= {name: _accessor(field) for name, field in fields.items()}
    return type(cls.__name__, (_Wrapper,), {**content, "allParameters": fields})
