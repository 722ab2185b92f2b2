"""The tab of the AI: run tasks, probability bars with the spread of the folds, evidence map."""

import qt
import slicer
from slicer.i18n import tr as _

from PASTAAidGui import Theme
from PASTAAidGui.FlowAssistant import DIAGNOSIS, REPORT, SCREENING, SEGMENTATION, titles

BAR_WIDTH, BAR_HEIGHT = 190, 16


class PanelAI:
    """Shows what the AI said; hidden altogether in a reading without AI.

    Args:
        root: widget of PASTAAidAI.ui.
        flow: of the module.
    """

    def __init__(self, root, flow) -> None:
        self.root = root
        self.ui = slicer.util.childWidgetVariables(root)
        self.flow = flow
        ui = self.ui
        self._buttons = {
            DIAGNOSIS: ui.diagnosisButton,
            SEGMENTATION: ui.segmentationButton,
            SCREENING: ui.screeningButton,
            REPORT: ui.reportButton,
        }
        for model, button in self._buttons.items():
            button.connect("clicked(bool)", lambda _on, model=model: flow.assistant.run(model))
        ui.evidenceCheck.connect("toggled(bool)", lambda _on: self._showEvidence())
        ui.evidenceSlider.connect("valueChanged(int)", lambda _value: self._showEvidence())
        self._rows: list = []

    def _showEvidence(self) -> None:
        self.flow.assistant.showEvidence(
            self.ui.evidenceCheck.checked, self.ui.evidenceSlider.value / 100
        )

    def show(self) -> None:
        """Show the state of the tasks and the last answers."""
        flow, ui = self.flow, self.ui
        reading = flow.reading
        ready = flow.canRead and not flow.assistant.running
        for model, button in self._buttons.items():
            refusal = flow.assistant.refusal(model)
            button.enabled = ready and not refusal
            button.setToolTip(refusal or titles()[model])
        refusals = {
            titles()[model]: flow.assistant.refusal(model)
            for model in self._buttons
            if flow.connected and flow.assistant.refusal(model)
        }
        ui.modelsLabel.text = "<br>".join(
            Theme.coloured(Theme.escaped(f"{title}: {reason}"), Theme.WARNING)
            for title, reason in refusals.items()
        )
        documents = reading.documents if reading is not None else {}
        ui.resultLabel.text = self._result(documents)
        self._showBars(documents.get(SCREENING))
        hasMap = reading is not None and reading.evidenceNode is not None
        ui.evidenceCheck.enabled = ui.evidenceSlider.enabled = hasMap

    def _result(self, documents: dict[str, dict]) -> str:
        if self.flow.assistant.running:
            return _("{title} is running; you can read on.").format(
                title=titles()[self.flow.assistant.running]
            )
        lines = []
        for model, document in documents.items():
            names = ", ".join(
                str(item.get("name", "")) for item in document.get("model", []) if item
            )
            lines.append(f"<b>{titles()[model]}</b> {Theme.escaped(names)}")
            lines += [
                Theme.coloured(Theme.escaped(warning), Theme.WARNING)
                for warning in document.get("warnings", [])
            ]
        return "<br>".join(lines)

    def _showBars(self, document: dict | None) -> None:
        ui = self.ui
        for widget in self._rows:
            ui.barsLayout.removeWidget(widget) if hasattr(ui, "barsLayout") else None
            widget.hide()
            widget.deleteLater()
        self._rows = []
        organs = document.get("organs", []) if document else []
        ui.screeningTitle.visible = ui.bars.visible = bool(organs)
        ui.evidenceCheck.visible = ui.evidenceSlider.visible = bool(organs)
        layout = ui.bars.layout()
        for row, organ in enumerate(organs):
            name = qt.QLabel(str(organ["title"]))
            bar, value = qt.QLabel(), qt.QLabel()
            probability, spread = organ.get("probability"), organ.get("spread")
            if probability is None:
                bar.setText(Theme.coloured(Theme.escaped(organ.get("sentence", "")), Theme.QUIET))
                bar.setWordWrap(True)
                layout.addWidget(name, row, 0)
                layout.addWidget(bar, row, 1, 1, 2)
                self._rows += [name, bar]
                value.deleteLater()
                continue
            bar.setPixmap(barPixmap(probability, organ.get("folds", [])))
            value.setText(percentText(probability, spread))
            tip = _("Folds: {folds}").format(
                folds=", ".join(f"{100 * fold:.0f} %" for fold in organ.get("folds", []))
            )
            for widget in (name, bar, value):
                widget.setToolTip(tip)
            layout.addWidget(name, row, 0)
            layout.addWidget(bar, row, 1)
            layout.addWidget(value, row, 2)
            self._rows += [name, bar, value]
        note = ""
        if any(organ.get("spread") for organ in organs):
            note = _("Bar: mean of the folds. Line: lowest to highest fold. Ticks: each fold.")
        elif organs:
            note = _("One network (fold): how much networks differ is not known.")
        ui.barsNote.text = Theme.coloured(note, Theme.QUIET)


def percentText(probability: float, spread: dict | None) -> str:
    """Write a probability with the spread of its folds; never 0 or 100 %: nobody is certain."""
    text = f"{min(max(100 * probability, 1), 99):.0f} %"
    if not spread:
        return f"<b>{text}</b>"
    low, high = 100 * spread["min"], 100 * spread["max"]
    return f"<b>{text}</b> ({low:.0f}-{high:.0f})"


def barPixmap(probability: float, folds):
    """Draw a bar of the mean, with the range of the folds as a line and each fold as a tick."""
    pixmap = qt.QPixmap(BAR_WIDTH, BAR_HEIGHT)
    pixmap.fill(qt.QColor("#e4e4e8"))
    painter = qt.QPainter()
    painter.begin(pixmap)
    middle = BAR_HEIGHT // 2
    painter.fillRect(0, 2, int(probability * BAR_WIDTH), BAR_HEIGHT - 4, qt.QColor("#9f8ad0"))
    if len(folds) > 1:
        painter.setPen(qt.QColor("#30205c"))
        first, last = int(min(folds) * (BAR_WIDTH - 1)), int(max(folds) * (BAR_WIDTH - 1))
        painter.drawLine(first, middle, last, middle)
        for fold in folds:
            place = int(fold * (BAR_WIDTH - 1))
            painter.drawLine(place, 3, place, BAR_HEIGHT - 4)
    painter.end()
    return pixmap
