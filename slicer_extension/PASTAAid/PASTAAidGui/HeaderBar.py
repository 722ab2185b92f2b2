"""What is always in sight: case, clock, question, views, progress, status."""

import qt
import slicer
from slicer.i18n import tr as _

from PASTAAidGui import Theme
from PASTAAidGui.Shortcuts import helpText
from PASTAAidGui.Views import PRESETS

LAYOUTS = ("threeRow", "axialLarge", "fourUp")
STUDY_LAYOUTS = ("three-row", "axial-large", "four-up")  # as a protocol names them


class HeaderBar:
    """Upper and lower rim of the panel.

    Args:
        root: widget of PASTAAid.ui.
        flow: of the module.
    """

    def __init__(self, root, flow) -> None:
        self.ui = slicer.util.childWidgetVariables(root)
        self.flow = flow
        ui = self.ui
        ui.layoutCombo.addItems([_("Three in a row"), _("Axial large"), _("Four with 3D")])
        ui.layoutCombo.setToolTip(_("Layout (Alt+6, Alt+7, Alt+8)"))
        self.presets = list(PRESETS)
        titles = {
            "soft tissue": _("Soft tissue"),
            "lung": _("Lung"),
            "bone": _("Bone"),
            "liver": _("Liver"),
            "brain": _("Brain"),
        }
        ui.windowCombo.addItems([titles[name] for name in self.presets])
        ui.windowCombo.setToolTip(_("Window (Alt+1 to Alt+5)"))
        ui.maskButton.setToolTip(_("Mask: outline and fill, outline, fill, off (Ctrl+Shift+M)"))
        ui.opacitySlider.setToolTip(_("Opacity of the masks"))
        ui.crosshairButton.setToolTip(_("Linked crosshair (Ctrl+Shift+X)"))
        ui.nextButton.setToolTip(_("Next case (Ctrl+Shift+N)"))
        ui.previousButton.setToolTip(_("Previous case (Ctrl+Shift+P)"))
        ui.pauseButton.setToolTip(_("Pause with a reason (Ctrl+Shift+B)"))
        ui.acceptAllButton.setToolTip(_("Accept everything of the AI (Ctrl+Shift+Return)"))
        self._menu = qt.QMenu(ui.pauseButton)
        self._actions = []
        for reason, text in (
            ("break", _("Break")),
            ("phone", _("Phone")),
            ("colleague", _("Colleague")),
            ("technical", _("Technical trouble")),
            ("other", _("Other")),
        ):
            action = self._menu.addAction(text)
            action.connect("triggered(bool)", lambda _on, reason=reason: flow.pause(reason))
            self._actions.append(action)
        ui.pauseButton.setMenu(self._menu)
        ui.pauseButton.connect("clicked(bool)", lambda _on: flow.resume())
        self._help = qt.QToolButton(root)
        self._help.text = "?"
        self._help.setToolTip(helpText())
        self._help.connect("clicked(bool)", self.showKeys)
        ui.tabs.setCornerWidget(self._help)
        self._mode = "outline+fill"
        ui.layoutCombo.connect("activated(int)", self.setLayout)
        ui.windowCombo.connect("activated(int)", self.setWindow)
        ui.maskButton.connect("clicked(bool)", lambda _on: self.cycleMask())
        ui.opacitySlider.connect("valueChanged(int)", self.onOpacity)
        ui.crosshairButton.connect("toggled(bool)", lambda on: flow.views.setCrosshair(bool(on)))
        ui.nextButton.connect("clicked(bool)", lambda _on: flow.cases.next())
        ui.previousButton.connect("clicked(bool)", lambda _on: flow.cases.previous())
        ui.cancelButton.connect("clicked(bool)", lambda _on: flow.assistant.cancel())
        ui.yesButton.connect("clicked(bool)", lambda _on: flow.answer(True))
        ui.noButton.connect("clicked(bool)", lambda _on: flow.answer(False))

    # views

    def applyLayout(self) -> None:
        """Show the layout that is chosen."""
        self.flow.views.setLayout(LAYOUTS[self.ui.layoutCombo.currentIndex])

    def setLayout(self, place: int) -> None:
        """Choose a layout by its place."""
        self.ui.layoutCombo.setCurrentIndex(place)
        self.applyLayout()
        self.flow.active()

    def take(self, layout: str, window: str) -> None:
        """Choose layout and window as the protocol of a study names them."""
        if layout in STUDY_LAYOUTS:
            self.setLayout(STUDY_LAYOUTS.index(layout))
        if window in self.presets:
            self.ui.windowCombo.setCurrentIndex(self.presets.index(window))  # each new CT takes it

    def setWindow(self, place: int) -> None:
        """Choose a window by its place."""
        self.ui.windowCombo.setCurrentIndex(place)
        self.flow.views.setWindow(self.presets[place])
        self.flow.note("window_level", preset=self.presets[place])
        self.flow.active()

    def cycleMask(self) -> None:
        """Show the masks in the next way."""
        self._mode = self.flow.views.cycleMaskDisplay()
        self.flow.active()
        self.showMaskMode()

    def showMaskMode(self) -> None:
        """Say how the masks are shown."""
        words = {
            "outline+fill": _("Mask: both"),
            "outline": _("Mask: outline"),
            "fill": _("Mask: fill"),
            "off": _("Mask: off"),
        }
        self.ui.maskButton.text = words.get(self._mode, self._mode)

    def applyWindow(self) -> None:
        """Show a CT that was just opened in the window that is chosen."""
        self.flow.views.setWindow(self.presets[self.ui.windowCombo.currentIndex])
        self.flow.views.setCrosshair(self.ui.crosshairButton.checked)
        self.flow.views.setMaskOpacity(self.ui.opacitySlider.value / 100)

    def onOpacity(self, value: int) -> None:
        """Make the masks more or less transparent."""
        self.flow.views.setMaskOpacity(value / 100)

    def toggleCrosshair(self) -> None:
        """Show or hide the crosshair."""
        self.ui.crosshairButton.checked = not self.ui.crosshairButton.checked

    def togglePause(self) -> None:
        """Pause, or go on."""
        if self.flow.paused:
            self.flow.resume()
        else:
            self.flow.pause("break")

    def showKeys(self, _checked=False) -> None:
        """Show the table of keys beside the button."""
        place = self._help.mapToGlobal(qt.QPoint(0, self._help.height))
        qt.QToolTip.showText(place, helpText(), self._help)

    # what is known

    def show(self) -> None:
        """Show everything."""
        self.showCase()
        self.showClock()
        self.showQuestion()
        self.showProgress()
        self.showStatus()
        self.showMaskMode()

    def showCase(self) -> None:
        """Show which case is open and whether it is saved."""
        flow, ui = self.flow, self.ui
        reading = flow.reading
        if reading is None:
            ui.caseLabel.text = Theme.coloured(_("No case open"), Theme.QUIET)
        else:
            state = ""
            if flow.background.busy("submit"):
                state = Theme.coloured(_("saving"), Theme.WARNING)
            elif reading.receipt is not None and not reading.edited:
                version = _("saved v{version}").format(version=reading.receipt.version)
                state = Theme.coloured(version, Theme.GOOD)
            elif reading.edited:
                state = Theme.coloured(_("not submitted"), Theme.WARNING)
            title = flow.study.title(reading.caseId)
            ui.caseLabel.text = f"<b>{Theme.escaped(title)}</b> {state}"
            ui.caseLabel.setToolTip(title)
        free = not flow.study.active
        ui.nextButton.enabled = free and flow.cases.nextId() is not None
        ui.previousButton.enabled = free and reading is not None
        for widget in (ui.windowCombo, ui.maskButton, ui.opacitySlider, ui.crosshairButton):
            widget.enabled = reading is not None

    def showClock(self) -> None:
        """Show the reading time, if the settings want it seen."""
        flow, ui = self.flow, self.ui
        visible = flow.settings.clock_visible
        reading = flow.reading
        ui.clockLabel.visible = visible
        ui.pauseButton.visible = True
        if flow.paused:
            ui.pauseButton.text = _("Resume")
            ui.pauseButton.setMenu(None)
        else:
            ui.pauseButton.text = _("Pause")
            if ui.pauseButton.menu() is None:
                ui.pauseButton.setMenu(self._menu)
        running = reading is not None and reading.displayed and reading.timing is None
        ui.pauseButton.enabled = running
        seconds = 0
        if reading is not None and reading.displayed:
            seconds = int(
                reading.clock.elapsed_seconds
                if reading.timing is None
                else reading.timing.reading_seconds
            )
        text = f"{seconds // 60:02d}:{seconds % 60:02d}"
        if flow.paused:
            text = Theme.coloured(text, Theme.WARNING, bold=True)
        if ui.clockLabel.text != text:
            ui.clockLabel.text = text

    def showQuestion(self) -> None:
        """Show the oldest question."""
        ui = self.ui
        question = self.flow.questions[0] if self.flow.questions else None
        ui.questionBar.visible = question is not None
        if question is not None:
            ui.questionLabel.text = Theme.escaped(question.text)
            ui.yesButton.text, ui.noButton.text = question.yes, question.no

    def showProgress(self) -> None:
        """Show what the reader may be waiting for."""
        ui = self.ui
        progresses = list(self.flow.progresses.values())
        ui.progressFrame.visible = bool(progresses)
        if not progresses:
            return
        progress = progresses[-1]
        ui.progressBar.value = int(100 * progress.fraction)
        ui.progressBar.setFormat(f"{progress.text} %p%")
        ui.cancelButton.visible = progress.name == "ai"

    def showStatus(self) -> None:
        """Show the sentence and its mend."""
        status = self.flow.status
        text = Theme.escaped(status.text)
        colour = Theme.KINDS.get(status.kind)
        if colour:
            text = Theme.coloured(text, colour, bold=status.kind == "error")
        if status.mend:
            text += " " + Theme.escaped(status.mend)
        self.ui.statusLabel.text = text
