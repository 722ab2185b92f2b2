"""PythonQt semantics on PySide6.

PythonQt, which Slicer embeds, differs from PySide6 in ways that module code relies on:

- Every Q_PROPERTY is an attribute (`label.text`); calling it (`label.text()`) is a TypeError. Getters
  that are no properties stay methods (`combo.lineEdit()`), setters stay callable (`label.setText`).
- `obj.connect("clicked(bool)", function)` takes C++ signatures; surplus signal arguments are dropped.
- Enums are ints, and numbers are coerced: any truth value for a bool, a float for an int.
- `qt.QTimer.singleShot` works as a static although `singleShot` is a property too.
- A new attribute on a plain Qt object is an error.
"""

import os

os.environ.setdefault(
    "PYSIDE6_OPTION_PYTHON_ENUM", "0x02"
)  # IntEnum; read when PySide6 is imported
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
if "DISPLAY" not in os.environ:
    os.environ.setdefault(
        "VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow"
    )  # else VTK asks for X first

import functools
import inspect
import logging
import sys
import threading
import types
from collections.abc import Callable
from typing import Any

from PySide6 import QtCore, QtGui, QtNetwork, QtUiTools, QtWidgets

HOST_ERRORS: list[tuple[Any, Any, Any]] = []
REPORT: dict[str, set[str]] = {"unknown_widget": set(), "bad_signal": set(), "unknown_attr": set()}

_LOG = logging.getLogger("slicerhost")
_PACKAGE = __package__ or "slicer_host"
# C++ virtuals: Shiboken looks for an override under this name on the wrapper, which would come back here
_VIRTUAL_GETTERS = {"sizeHint", "minimumSizeHint", "spacing", "duration"}
_OBJECT = QtCore.QObject


# ------------------------------------------------------------------------------------ properties
class _QtProperty:
    """One Q_PROPERTY as an attribute; on the class it stays what it was (a static, a signal)."""

    def __init__(self, name: str, getter: Any, setter: Any, writable: bool) -> None:
        self.name, self.getter, self.setter, self.writable = name, getter, setter, writable
        self.entered: set[int] = set()

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if instance is None:
            return self.getter
        if not callable(self.getter):
            return _OBJECT.property(instance, self.name)
        if self.name not in _VIRTUAL_GETTERS:
            return self.getter(instance)
        if id(instance) in self.entered:
            raise AttributeError(self.name)
        self.entered.add(id(instance))
        try:
            return self.getter(instance)
        finally:
            self.entered.discard(id(instance))

    def __set__(self, instance: Any, value: Any) -> None:
        if not self.writable:
            msg = f"property '{self.name}' of {type(instance).__name__} is not writable"
            raise AttributeError(msg)
        if self.setter is not None and self._set_natively(instance, value):
            return
        if not _OBJECT.setProperty(instance, self.name, value):
            msg = f"cannot set {type(instance).__name__}.{self.name} to {value!r}"
            raise TypeError(msg)

    def _set_natively(self, instance: Any, value: Any) -> bool:
        attempts = [lambda given: given]
        if isinstance(value, bool | int | float):
            attempts += [bool, int, float]
        for convert in attempts:
            try:
                self.setter(instance, convert(value))
            except TypeError:
                continue
            return True
        return False


class _SingleShot:
    """`QTimer.singleShot(ms, f)` on the class, a bool property on an instance."""

    def __init__(self, static: Any) -> None:
        self.static = static

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self._call if instance is None else instance.isSingleShot()

    def _call(self, milliseconds: int, *target: Any) -> None:
        *context, last = target
        self.static(milliseconds, *context, _slot(last) if callable(last) else last)

    def __set__(self, instance: Any, value: Any) -> None:
        instance.setSingleShot(bool(value))


_COERCIONS: dict[str, Callable[[Any], Any]] = {"bool": bool, "int": int, "double": float}


def _coercing(native: Any, convert: Callable[[Any], Any]) -> Callable[..., Any]:
    """Let a setter take what PythonQt takes; the native call is tried first."""

    @functools.wraps(native, assigned=("__name__", "__doc__"), updated=())
    def call(self: Any, *args: Any) -> Any:
        bound = native.__get__(self)
        try:
            return bound(*args)
        except TypeError:
            if len(args) != 1 or (args[0] is None and convert is not bool):
                raise
            return bound(convert(args[0]))

    return call


def _make_properties_attributes(cls: Any) -> None:
    meta = cls.staticMetaObject
    for index in range(meta.propertyOffset(), meta.propertyCount()):
        described = meta.property(index)
        name = described.name()
        capital = name[0].upper() + name[1:]
        current = getattr(cls, name, None)
        if isinstance(vars(cls).get(name), _QtProperty) or isinstance(
            current, QtCore.Property | property
        ):
            continue
        if name == "singleShot":
            setattr(cls, name, _SingleShot(current))
            continue
        getter = (
            current if callable(current) and not isinstance(current, type | QtCore.Signal) else None
        )
        setter_name = "setVisible" if name == "visible" else "set" + capital
        convert = _COERCIONS.get(described.typeName())
        if convert is not None and setter_name in vars(cls):
            setattr(cls, setter_name, _coercing(vars(cls)[setter_name], convert))
        setattr(
            cls,
            name,
            _QtProperty(
                name,
                getter or getattr(cls, "is" + capital, None),
                getattr(cls, setter_name, None),
                described.isWritable(),
            ),
        )


# --------------------------------------------------------------------------- connect, disconnect
def _signal(instance: Any, signature: str) -> Any:
    """Return the bound signal that a C++ signature names."""
    signature = signature.lstrip("12")  # what the SIGNAL() and SLOT() macros put in front
    declared = getattr(type(instance), "__pq_signals__", {})
    compact = signature.replace(" ", "")
    if compact in declared:
        return getattr(instance, declared[compact])
    meta = instance.metaObject()
    normal = bytes(QtCore.QMetaObject.normalizedSignature(signature).data()).decode()
    if meta.indexOfSignal(normal) < 0:
        REPORT["bad_signal"].add(f"{meta.className()}::{normal}")
        msg = f"{meta.className()} has no signal {normal} (PythonQt: connect() returns False)"
        raise AttributeError(msg)
    name, _, types_ = normal.rstrip(")").partition("(")
    bound = getattr(instance, name)
    try:
        return bound[types_] if types_ else bound
    except (KeyError, IndexError, TypeError):
        return bound


def record_error(where: str) -> None:
    """Put the exception being handled into HOST_ERRORS, as PythonQt prints it and carries on."""
    HOST_ERRORS.append(sys.exc_info())
    _LOG.exception("exception in %s", where)


def _slot(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a slot: as many arguments as it takes, exceptions recorded."""
    if inspect.isbuiltin(function):
        return function  # a slot of Qt itself: Qt trims its arguments
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return function
    positional = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
    takes_all = any(each.kind is inspect.Parameter.VAR_POSITIONAL for each in parameters)
    count = None if takes_all else sum(each.kind in positional for each in parameters)

    def call(*args: Any) -> Any:
        try:
            return function(*args[:count])
        except Exception:  # noqa: BLE001 (recorded; tests assert that there are none)
            record_error(f"slot {getattr(function, '__qualname__', function)}")

    return call


def _connection_key(signature: str, function: Any) -> tuple[Any, ...]:
    return (
        signature,
        getattr(function, "__func__", function),
        id(getattr(function, "__self__", None)),
    )


def _connect(self: Any, *args: Any) -> Any:
    if args and isinstance(args[0], _OBJECT):
        return _NATIVE["connect"](
            *args
        )  # PySide's SignalInstance.connect() comes back through here
    signature, *target = args
    bound = _signal(self, signature)
    if len(target) == 1 and callable(target[0]):
        slot = _slot(target[0])
        connections = self.__dict__.setdefault("_pq_connections", {})
        connections.setdefault(_connection_key(signature, target[0]), []).append((bound, slot))
    elif len(target) == 2 and isinstance(target[0], _OBJECT):
        slot = _slot(getattr(target[0], target[1].lstrip("12").split("(")[0]))
    else:
        msg = f"connect{args!r}"
        raise TypeError(msg)
    bound.connect(slot)
    return True


def _disconnect(self: Any, *args: Any) -> Any:
    if args and isinstance(args[0], _OBJECT):
        return _NATIVE["disconnect"](*args)
    connections = self.__dict__.get("_pq_connections", {})
    if len(args) == 2:
        made = connections.get(_connection_key(*args), [])
        found = [made.pop()] if made else []
    elif len(args) == 1:
        found = []
        for key in [key for key in connections if key[0] == args[0]]:
            found += connections.pop(key)
    else:
        msg = f"disconnect{args!r}"
        raise TypeError(msg)
    for bound, slot in found:
        bound.disconnect(slot)
    return bool(found)


_NATIVE = {"connect": _OBJECT.connect, "disconnect": _OBJECT.disconnect}
_HOOKS = {"connect": _connect, "disconnect": _disconnect}
_native_getattribute = _OBJECT.__getattribute__


def _getattribute(self: Any, name: str) -> Any:
    # Shiboken's own lookup returns its built-in connect() for instances, hence a hook at this level
    if name in _HOOKS:
        return functools.partial(_HOOKS[name], self)
    return _native_getattribute(self, name)


def _setattr(self: Any, name: str, value: Any) -> None:
    cls = type(self)
    for base in cls.__mro__:
        if name not in base.__dict__:
            continue
        found = base.__dict__[name]
        if isinstance(found, QtCore.Property):
            if found.fset is None:
                msg = f"property '{name}' of {cls.__name__} is read-only"
                raise AttributeError(msg)
            found.fset(self, value)
            return
        if hasattr(type(found), "__set__"):
            found.__set__(self, value)
            return
        break
    else:
        plain = cls.__module__.startswith(("PySide6", _PACKAGE))  # not subclassed by the module
        caller = sys._getframe(1).f_globals.get("__name__", "")
        ours = caller.startswith(_PACKAGE + ".") and ".test_" not in caller
        if plain and not ours and name[0] != "_" and name not in self.__dict__:
            REPORT["unknown_attr"].add(f"{cls.__name__}.{name}")
            msg = f"PythonQt: '{cls.__name__}' has no attribute '{name}' and takes no new ones"
            raise AttributeError(msg)
    self.__dict__[name] = value


# --------------------------------------------------------------------------------------- install
def _hook_uncaught_exceptions() -> None:
    """VTK observers and PySide slots end in sys.excepthook, worker threads in threading's."""
    shown = sys.excepthook

    def record(kind: Any, value: Any, traceback: Any) -> None:
        HOST_ERRORS.append((kind, value, traceback))
        shown(kind, value, traceback)

    sys.excepthook = record
    threading.excepthook = lambda args: record(args.exc_type, args.exc_value, args.exc_traceback)


def install() -> types.ModuleType:
    """Change PySide6 in place and return the module that Slicer calls `qt`."""
    module = types.ModuleType("qt")
    for part in (QtCore, QtGui, QtWidgets, QtNetwork, QtUiTools):
        for name in dir(part):
            if name[0] != "_":
                setattr(module, name, getattr(part, name))
    classes = {
        cls
        for cls in vars(module).values()
        if isinstance(cls, type) and issubclass(cls, _OBJECT) and hasattr(cls, "staticMetaObject")
    }
    for cls in sorted(classes, key=lambda each: (len(each.__mro__), each.__name__)):
        _make_properties_attributes(cls)
        cls.__setattr__ = (
            _setattr  # each class of Shiboken brings its own, so the base's would not do
        )
    _OBJECT.__getattribute__ = _getattribute
    _OBJECT.name = property(
        lambda self: _OBJECT.property(self, "objectName"),
        lambda self, value: _OBJECT.setProperty(self, "objectName", value),
    )
    _OBJECT.className = lambda self: self.metaObject().className()
    _OBJECT.delete = lambda self: self.deleteLater()
    module.SIGNAL = module.SLOT = lambda signature: signature
    _hook_uncaught_exceptions()
    return module


QT = install()
sys.modules["qt"] = QT
