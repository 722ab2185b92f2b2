"""A check that a module's shortcuts leave Slicer's keys alone.

A second QShortcut on a taken key makes Qt call neither ("ambiguous shortcut overload"), so in Slicer the
key would be dead for both.
"""

from typing import Any

import slicer
from PySide6 import QtGui, QtWidgets

from .pythonqt import HOST_ERRORS
from .reserved_keys import RESERVED_KEYS

HOST_SHORTCUT = "SlicerHostShortcut"
_reported: set[tuple[str, str]] = set()


class ShortcutClashError(Exception):
    """A module's key that Slicer, or the module itself, uses for something else."""


def _portable(sequence: Any) -> str:
    return QtGui.QKeySequence(sequence).toString(QtGui.QKeySequence.PortableText)


def _module_keys(window: Any) -> list[tuple[str, Any]]:
    found = []
    for shortcut in window.findChildren(QtGui.QShortcut):
        if shortcut.objectName != HOST_SHORTCUT and shortcut.isEnabled():
            found += [(_portable(key), shortcut) for key in shortcut.keys()]  # noqa: SIM118 (Qt's)
    for action in window.findChildren(QtGui.QAction):
        if action.objectName != HOST_SHORTCUT:
            found += [(_portable(key), action) for key in action.shortcuts()]
    for button in window.findChildren(QtWidgets.QAbstractButton):
        if not button.shortcut.isEmpty():
            found.append((_portable(button.shortcut), button))
    return [(key, owner) for key, owner in found if key]


def check_shortcuts() -> list[str]:
    """Look for clashes now; each is told once, in HOST_ERRORS too.

    Returns:
        one sentence per clash that was not told before.
    """
    told = []
    owners: dict[str, list[Any]] = {}
    for key, owner in _module_keys(slicer.util.mainWindow()):
        if owner not in owners.setdefault(key, []):
            owners[key].append(owner)
    for key, using in owners.items():
        sentences = []
        if key in RESERVED_KEYS:
            sentences.append(
                f"shortcut {key} of {using[0].className()} is taken by {RESERVED_KEYS[key]}"
            )
        if len(using) > 1:
            sentences.append(f"shortcut {key} is used {len(using)} times, so that Qt calls none")
        for sentence in sentences:
            if (key, sentence) not in _reported:
                _reported.add((key, sentence))
                told.append(sentence)
                HOST_ERRORS.append((ShortcutClashError, ShortcutClashError(sentence), None))
    return told
