"""Keys that Slicer has taken, and a check that a module's shortcuts leave them alone.

A second QShortcut on a taken key makes Qt call neither ("ambiguous shortcut overload"), so in Slicer the
key would be dead for both. Read from Slicer's sources: qSlicerMainWindow, qSlicerModuleSelectorToolBar,
qMRMLSegmentEditorWidget, qMRMLMarkupsToolBar, qMRMLSequenceBrowserPlayWidget, vtkMRMLSliceIntersectionWidget,
vtkMRMLCameraWidget and the segment editor effects.
"""

from typing import Any

import slicer
from PySide6 import QtGui, QtWidgets

from .pythonqt import HOST_ERRORS

_APPLICATION = (
    "Ctrl+O Ctrl+S Ctrl+W Ctrl+Z Ctrl+Y Ctrl+X Ctrl+C Ctrl+V Ctrl+H Ctrl+F Ctrl+Left Ctrl+Right Alt+Left "
    "Alt+Right Ctrl+0 Ctrl+1 Ctrl+2 Ctrl+3 Ctrl+4 Ctrl+5 Ctrl+6 Ctrl+` Ctrl+Q Ctrl+Shift+Z Alt+F Alt+E "
    "Alt+V Alt+H"
)
_SEGMENT_EDITOR = (
    "1 2 3 4 5 6 7 8 9 0 Shift+1 Shift+2 Shift+3 Shift+4 Shift+5 Shift+6 Shift+7 Shift+8 Shift+9 Shift+0 "
    "Esc Space Z Y I Q W , . / * < > A S D X Return Enter Backspace Del"
)
_VIEWS = (
    "Left Right Up Down Shift+Left Shift+Right Shift+Up Shift+Down F B G T V Shift+V R [ ] { } Ctrl+B + - "
    "Home End PgDown Ins Shift+Home Shift+End Shift+PgDown"
)
_TOOLBARS = (
    "Ctrl+Shift+A Ctrl+Shift+T Ctrl+Shift+Space Ctrl+Shift+Down Ctrl+Shift+Left Ctrl+Shift+Right"
)

RESERVED_KEYS: dict[str, str] = {
    key: owner
    for owner, keys in (
        ("the markups and sequences toolbars", _TOOLBARS),
        ("the slice and 3D views", _VIEWS),
        ("the segment editor", _SEGMENT_EDITOR),
        ("the application", _APPLICATION),
    )
    for key in keys.split()
}
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
