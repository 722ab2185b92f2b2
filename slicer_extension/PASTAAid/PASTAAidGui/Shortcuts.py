"""Keys of the reading. None is taken by Slicer, its segment editor, its views or its toolbars."""

from collections.abc import Callable
from dataclasses import dataclass

import qt
import slicer
from slicer.i18n import tr as _


@dataclass(frozen=True)
class Key:
    """One shortcut: sequence, name of what it does, words for the help."""

    sequence: str
    action: str
    text: str


def table() -> list[Key]:
    """List all shortcuts, in the order of the help."""
    return [
        Key("Ctrl+Return", "submit", _("Submit, read back, saved")),
        Key("Ctrl+Shift+N", "next", _("Next case")),
        Key("Ctrl+Shift+P", "previous", _("Previous case")),
        Key("Ctrl+Shift+Return", "acceptAll", _("Accept all AI items")),
        Key("Alt+Return", "accept", _("Accept this lesion")),
        Key("Alt+PgDown", "nextLesion", _("Next lesion, jump to it")),
        Key("Alt+PgUp", "previousLesion", _("Previous lesion")),
        Key("Ctrl+Shift+M", "mask", _("Mask: outline and fill, outline, fill, off")),
        Key("Ctrl+Shift+X", "crosshair", _("Crosshair on or off")),
        Key("Alt+1", "window1", _("Window: soft tissue")),
        Key("Alt+2", "window2", _("Window: lung")),
        Key("Alt+3", "window3", _("Window: bone")),
        Key("Alt+4", "window4", _("Window: liver")),
        Key("Alt+5", "window5", _("Window: brain")),
        Key("Alt+6", "layout1", _("Layout: three in a row")),
        Key("Alt+7", "layout2", _("Layout: axial large")),
        Key("Alt+8", "layout3", _("Layout: four with 3D")),
        Key("Ctrl+Shift+D", "diagnosis", _("Run the diagnosis")),
        Key("Ctrl+Shift+R", "report", _("Go to the report")),
        Key("Ctrl+Shift+E", "edit", _("Go to the editor")),
        Key("Ctrl+Shift+L", "list", _("Go to the worklist")),
        Key("Ctrl+Shift+B", "pause", _("Pause or resume")),
        *(
            Key(f"F{place + 5}", f"grade{place}", text)
            for place, text in enumerate(
                (
                    _("Study: certainly no tumour, or 1"),
                    _("Study: probably no tumour, or 2"),
                    _("Study: rather no tumour, or 3"),
                    _("Study: rather a tumour, or 4"),
                    _("Study: probably a tumour, or 5"),
                    _("Study: certainly a tumour"),
                )
            )
        ),
    ]


class Shortcuts:
    """The keys exist only while the module is entered."""

    def __init__(self, actions: dict[str, Callable[[], None]]) -> None:
        self._actions = actions
        self._made: list = []

    def create(self) -> None:
        """Make the keys work."""
        self.destroy()
        for key in table():
            shortcut = qt.QShortcut(qt.QKeySequence(key.sequence), slicer.util.mainWindow())
            shortcut.connect("activated()", self._actions[key.action])
            self._made.append(shortcut)

    def destroy(self) -> None:
        """Give the keys back."""
        for shortcut in self._made:
            shortcut.setEnabled(False)
            shortcut.setParent(None)
            shortcut.deleteLater()
        self._made.clear()


def helpText() -> str:
    """Write the table of keys as HTML."""
    rows = "".join(f"<tr><td><b>{key.sequence}</b></td><td>{key.text}</td></tr>" for key in table())
    return f"<table cellspacing='4'>{rows}</table>"
