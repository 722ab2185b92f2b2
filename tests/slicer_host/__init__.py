"""A headless host for Slicer modules: real MRML and real rendering, PySide6 in the place of PythonQt.

What is genuine comes from the slicer-core wheel: scene, nodes, module logics, segment editor logic,
layout logic, slice logics, displayable managers, interactor styles and `slicer.util`. What is not in
that wheel (Qt bindings, CTK, qMRML widgets, the application) is written here from scratch after its
documented behaviour. It is no Slicer: `slicer_extension/README.md` says what was checked where.

How to use it, one process per test file:

    from tests.slicer_host import HOST_ERRORS, boot, load_module, spin

    boot()  # before `import qt`, `import ctk` or any module's code; once per process, later calls are free
    module, widget = load_module("slicer_extension/PASTAAid/PASTAAid.py")
    widget.ui.someButton.click()
    spin(0.1)  # lets the event loop run
    assert HOST_ERRORS == []

- HOST_ERRORS: every exception in a slot, an observer or a timer, and every keyboard shortcut that
  clashes with one of Slicer's, as (type, value, traceback).
- REPORT: names of widgets, signals and attributes that neither Qt nor the host knows; empty when all is well.
- DIALOG_ANSWERS: callables(dialog) -> result, taken one by one by modal dialogs; with none left a dialog
  is dismissed. Each is noted in `slicer.app.calls` as ("dialog", kind, text).
- hostPaint(ras, radius_mm, erase=False) of a qMRMLSegmentEditorWidget: what a stroke does in Slicer.
- HOST_SLICER_PY: a folder Base/Python of a Slicer checkout. Its genuine base classes, i18n, packaging
  and parameterNodeWrapper then take the place of the host's: a check that both behave the same.
"""

from .application import boot, screenshot, spin, startup_completed
from .dialogs import DIALOG_ANSWERS
from .modules import load_module, select_module
from .pythonqt import HOST_ERRORS, REPORT
from .shortcuts import RESERVED_KEYS, check_shortcuts

__all__ = [
    "DIALOG_ANSWERS",
    "HOST_ERRORS",
    "REPORT",
    "RESERVED_KEYS",
    "boot",
    "check_shortcuts",
    "load_module",
    "screenshot",
    "select_module",
    "spin",
    "startup_completed",
]
