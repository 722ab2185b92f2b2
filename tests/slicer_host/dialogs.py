"""Modal dialogs: recorded, answered by the test, never waiting."""

from collections.abc import Callable
from typing import Any

import slicer
from PySide6 import QtWidgets

DIALOG_ANSWERS: list[Callable[[Any], Any]] = []


def _answer(dialog: Any, otherwise: Any) -> Any:
    return DIALOG_ANSWERS.pop(0)(dialog) if DIALOG_ANSWERS else otherwise


def _note(kind: str, text: str) -> None:
    slicer.app.calls.append(("dialog", kind, text))


def _exec(self: Any, *_: Any) -> Any:
    text = self.text if isinstance(self, QtWidgets.QMessageBox) else self.windowTitle
    _note(type(self).__name__, text)
    self.show()
    slicer.app.processEvents()
    result = _answer(self, 0)
    self.hide()
    return result


def _message_box(name: str) -> Any:
    def show(parent: Any, title: str, text: str = "", *_: Any, **__: Any) -> Any:
        _note(f"QMessageBox.{name}", text)
        return _answer(None, QtWidgets.QMessageBox.Cancel)

    return staticmethod(show)


def _chooser(cls: str, name: str, otherwise: Any) -> Any:
    def show(*_: Any, **__: Any) -> Any:
        _note(f"{cls}.{name}", "")
        return _answer(None, otherwise)

    return staticmethod(show)


def install() -> None:
    """Replace everything that would wait for a person."""
    for cls in (
        QtWidgets.QDialog,
        QtWidgets.QMessageBox,
        QtWidgets.QFileDialog,
        QtWidgets.QInputDialog,
    ):
        cls.exec = cls.exec_ = _exec
    for name in ("information", "question", "warning", "critical", "about"):
        setattr(QtWidgets.QMessageBox, name, _message_box(name))
    nothing = {
        "getOpenFileName": "",
        "getSaveFileName": "",
        "getExistingDirectory": "",
        "getOpenFileNames": [],
    }
    for name, otherwise in nothing.items():
        setattr(QtWidgets.QFileDialog, name, _chooser("QFileDialog", name, otherwise))
    for name in ("getText", "getItem", "getInt", "getDouble", "getMultiLineText"):
        setattr(QtWidgets.QInputDialog, name, _chooser("QInputDialog", name, ""))
    # a menu would wait too
    QtWidgets.QMenu.exec = QtWidgets.QMenu.exec_ = lambda self, *_: _note("QMenu", self.title)
