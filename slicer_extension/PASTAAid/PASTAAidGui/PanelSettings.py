"""The module's page in Slicer's settings; values live in Slicer's settings, never in a scene."""

from pathlib import Path

import ctk
import qt
import slicer
from PASTAAidLib.settings import Settings
from slicer.i18n import tr as _

PREFIX = "PASTAAid/"
FIELDS = (
    "url",
    "token",
    "reader",
    "level",
    "tag",
    "arm",
    "clock_visible",
    "idle_seconds",
    "autosave_seconds",
    "run_ai_on_open",
    "strategy",
    "cache_gb",
)


def dataFolder() -> Path:
    """Say where drafts, logs and fetched CTs lie."""
    stored = slicer.util.settingsValue(f"{PREFIX}folder", "")
    if stored:
        return Path(stored)
    place = qt.QStandardPaths.writableLocation(qt.QStandardPaths.AppLocalDataLocation)
    return Path(place) / "PASTAAid"


def readSettings() -> Settings:
    """Read the settings of this computer.

    Raises:
        SettingsError: naming the field and the mend.
    """
    store = qt.QSettings()
    values = {name: store.value(PREFIX + name) for name in FIELDS if store.contains(PREFIX + name)}
    return Settings.from_values(values, dataFolder())


def writeSettings(**values) -> None:
    """Keep settings of this computer."""
    store = qt.QSettings()
    for name, value in values.items():
        store.setValue(PREFIX + name, value)


class SettingsPanel(ctk.ctkSettingsPanel):
    """One page: server, reader, study arm, clock, autosave."""

    def __init__(self, path: str, *arguments) -> None:
        ctk.ctkSettingsPanel.__init__(self, *arguments)
        page = slicer.util.loadUI(path)
        ui = self.ui = slicer.util.childWidgetVariables(page)
        layout = qt.QVBoxLayout(self)
        layout.addWidget(page)
        layout.addStretch(1)
        ui.levelCombo.addItems(["", "junior", "senior"])
        ui.armCombo.addItems(["assisted", "solo"])
        ui.armCombo.setToolTip(_("assisted: with AI. solo: without any AI."))
        defaults = Settings(folder=dataFolder())
        ui.urlEdit.text = defaults.url
        ui.tagEdit.text = defaults.tag
        ui.runAICheck.checked = defaults.run_ai_on_open
        ui.clockCheck.checked = defaults.clock_visible
        ui.idleSpin.value = int(defaults.idle_seconds)
        ui.autosaveSpin.value = int(defaults.autosave_seconds)
        ui.cacheSpin.value = defaults.cache_gb
        text = ("text", "textChanged(QString)")
        chosen = ("currentText", "currentTextChanged(QString)")
        for name, widget, (shown, signal) in (
            ("url", ui.urlEdit, text),
            ("token", ui.tokenEdit, text),
            ("reader", ui.readerEdit, text),
            ("level", ui.levelCombo, chosen),
            ("tag", ui.tagEdit, text),
            ("arm", ui.armCombo, chosen),
            ("idle_seconds", ui.idleSpin, ("value", "valueChanged(int)")),
            ("autosave_seconds", ui.autosaveSpin, ("value", "valueChanged(int)")),
            ("cache_gb", ui.cacheSpin, ("value", "valueChanged(double)")),
        ):
            self.registerProperty(PREFIX + name, widget, shown, str(qt.SIGNAL(signal)))
        self._mappers = []
        for name, widget in (("run_ai_on_open", ui.runAICheck), ("clock_visible", ui.clockCheck)):
            mapper = ctk.ctkBooleanMapper(widget, "checked", str(qt.SIGNAL("toggled(bool)")))
            self._mappers.append(mapper)
            self.registerProperty(
                PREFIX + name, mapper, "valueAsInt", str(qt.SIGNAL("valueAsIntChanged(int)"))
            )
