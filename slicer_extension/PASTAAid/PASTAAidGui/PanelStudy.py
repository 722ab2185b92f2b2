"""The tab of a reader study: log in, which case this is, the questions, the time left."""

from collections.abc import Callable
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from PASTAAidGui import Theme
from PASTAAidGui.FlowAssistant import SCREENING
from PASTAAidGui.FlowStudy import DEGREES
from PASTAAidGui.PanelAI import percentText

LONGEST_TEXT = 2000  # characters; the server takes more
LOW_SECONDS = 60  # from here on the time left is shown in the colour of a warning
CHECKED = (
    "QPushButton:checked { background-color: #30205c; color: white; font-weight: bold; }"
    "QPushButton { padding: 6px 4px; }"
)


class PanelStudy:
    """Shows a session and its questions.

    Args:
        root: widget of PASTAAidStudy.ui.
        flow: of the module.
    """

    def __init__(self, root, flow) -> None:
        self.flow = flow
        self.ui = ui = slicer.util.childWidgetVariables(root)
        self._block: tuple | None = None  # that the questions were built for
        self._shown: list[Callable[[], None]] = []
        self._widgets: list = []
        self._showing = False
        ui.findButton.connect("clicked(bool)", lambda _on: flow.study.find())
        ui.loginButton.connect("clicked(bool)", lambda _on: self.onLogIn())
        ui.codeEdit.connect("returnPressed()", self.onLogIn)
        ui.endButton.connect("clicked(bool)", lambda _on: flow.study.end())
        ui.endButton.setToolTip(
            _("What is answered is kept; a case in progress comes again with the next session.")
        )
        ui.retryButton.connect("clicked(bool)", lambda _on: flow.study.retry())

    def onLogIn(self) -> None:
        """Log in with what the fields say; the code does not stay in its field."""
        ui = self.ui
        code, study = ui.codeEdit.text.strip(), ui.studyCombo.currentData
        ui.codeEdit.text = ""
        self.flow.study.logIn(study or "", code)

    def show(self) -> None:
        """Show everything."""
        study, ui = self.flow.study, self.ui
        ui.loginBox.visible = not study.active
        ui.endButton.visible = ui.questionBox.visible = study.active
        ui.retryButton.visible = study.active and self.flow.reading is None
        self._listStudies()
        if not study.active:
            ui.seatLabel.text = Theme.escaped(study.over)
            ui.positionLabel.text = ui.missingLabel.text = ui.leftLabel.text = ""
            ui.aiLabel.text = ""
            return
        seat = study.seat
        arm = _("with AI") if seat.arm == "assisted" else _("without AI")
        parts = [seat.part, *([] if study.hides("organ") else [seat.organ]), arm]
        ui.seatLabel.text = Theme.escaped(" · ".join(part for part in parts if part))
        if study.case is not None:
            title = Theme.escaped(study.title(study.case.code))
            ui.positionLabel.text = f"<span style='font-size:14pt'><b>{title}</b></span>"
        self._build()
        self._showing = True
        try:
            for shown in self._shown:
                shown()
        finally:
            self._showing = False
        ui.questionBox.enabled = self.flow.canRead
        reading = self.flow.reading
        missing = study.refusal() if reading is not None and reading.displayed else ""
        ui.missingLabel.text = Theme.coloured(Theme.escaped(missing), Theme.QUIET)
        ui.aiLabel.text = self._screened()
        self.showTime()

    def _screened(self) -> str:
        """What the AI's screening says of the organ, where this arm shows it."""
        flow, seat = self.flow, self.flow.study.seat
        document = flow.reading.documents.get(SCREENING) if flow.reading is not None else None
        for organ in (document or {}).get("organs", ()) if flow.assisted else ():
            if organ.get("organ") == seat.organ:
                probability = organ.get("probability")
                if probability is None:
                    text = Theme.escaped(organ.get("sentence") or "")
                else:
                    text = percentText(probability, organ.get("spread"))
                return Theme.coloured(
                    _("AI, probability of a tumour: {text}").format(text=text), Theme.AI
                )
        return ""

    def showTime(self) -> None:
        """Show how much of the block's time is left."""
        study = self.flow.study
        left = study.leftSeconds if study.active and not study.hides("time_left") else None
        text = ""
        if left is not None:
            text = _("{minutes:02d}:{seconds:02d} left").format(
                minutes=int(left) // 60, seconds=int(left) % 60
            )
            if left < LOW_SECONDS:
                text = Theme.coloured(text, Theme.WARNING, bold=True)
        if self.ui.leftLabel.text != text:
            self.ui.leftLabel.text = text

    def _listStudies(self) -> None:
        combo, listed = self.ui.studyCombo, self.flow.study.listed
        if [combo.itemData(place) for place in range(combo.count)] == [each for each, _t in listed]:
            return
        combo.clear()
        for study, title in listed:
            combo.addItem(title or study, study)

    # questions

    def _build(self) -> None:
        """Make the widgets of the questions, once a session."""
        seat = self.flow.study.seat
        if self._block == (seat.session_id, seat.questions):
            return
        self._block = (seat.session_id, seat.questions)
        layout = self.ui.questionBox.layout()
        for widget in self._widgets:
            layout.removeWidget(widget)
            widget.hide()
            widget.deleteLater()
        self._widgets, self._shown = [], []
        makers = {
            "yes_no": self._yesNo,
            "score": self._score,
            "likert": self._likert,
            "choice": self._choice,
            "text": self._text,
        }
        for question in seat.questions:
            box = qt.QWidget()
            rows = qt.QVBoxLayout(box)
            rows.setContentsMargins(0, 0, 0, 0)
            label = qt.QLabel(question.text)
            label.setWordWrap(True)
            rows.addWidget(label)
            makers.get(question.type, self._elsewhere)(question, rows)
            layout.addWidget(box)
            self._widgets.append(box)

    def _buttons(self, question, rows, choices: list[tuple[Any, str, str]]) -> None:
        """One row of buttons, one of which is down; a choice is (value, text, tool tip)."""
        row = qt.QWidget()
        line = qt.QHBoxLayout(row)
        line.setContentsMargins(0, 0, 0, 0)
        line.setSpacing(3)
        buttons = []
        for value, text, tip in choices:
            button = qt.QPushButton(text)
            button.setCheckable(True)
            button.setStyleSheet(CHECKED)
            button.setToolTip(tip)
            button.setFocusPolicy(qt.Qt.TabFocus)
            button.connect("clicked(bool)", lambda _on, value=value: self._set(question, value))
            line.addWidget(button)
            buttons.append((button, value))
        rows.addWidget(row)

        def shown() -> None:
            answer = self.flow.study.answers.get(question.id)
            for button, value in buttons:
                button.setChecked(answer == value)

        self._shown.append(shown)

    def _yesNo(self, question, rows) -> None:
        self._buttons(question, rows, [(0, _("No"), _("F5 to F7")), (1, _("Yes"), _("F8 to F10"))])

    def _score(self, question, rows) -> None:
        choices = [(degree, str(degree), f"F{place + 5}") for place, degree in enumerate(DEGREES)]
        self._buttons(question, rows, choices)
        box = qt.QSpinBox()
        box.setRange(-1, 100)
        box.setSpecialValueText(_("not given"))
        box.setSuffix(_(" of 100"))
        box.connect(
            "valueChanged(int)",
            lambda value: self._set(question, value if value >= 0 else None),
        )
        rows.addWidget(box)
        self._shown.append(lambda: box.setValue(int(self.flow.study.answers.get(question.id, -1))))

    def _likert(self, question, rows) -> None:
        low = question.minimum if question.minimum is not None else 1
        high = question.maximum if question.maximum is not None else 5
        choices = [
            (value, str(value), f"F{value - low + 5}" if value - low < len(DEGREES) else "")
            for value in range(low, high + 1)
        ]
        self._buttons(question, rows, choices)

    def _choice(self, question, rows) -> None:
        combo = qt.QComboBox()
        combo.addItem(_("choose"), "")
        for option in question.options:
            combo.addItem(option, option)
        combo.connect(
            "activated(int)", lambda place: self._set(question, combo.itemData(place) or None)
        )
        rows.addWidget(combo)
        answers = self.flow.study
        self._shown.append(
            lambda: combo.setCurrentIndex(
                max(0, combo.findData(answers.answers.get(question.id, "")))
            )
        )

    def _text(self, question, rows) -> None:
        edit = qt.QLineEdit()
        edit.setMaxLength(LONGEST_TEXT)
        edit.connect("editingFinished()", lambda: self._set(question, edit.text.strip() or None))
        rows.addWidget(edit)

        def shown() -> None:
            text = str(self.flow.study.answers.get(question.id, ""))
            if not edit.hasFocus() and edit.text != text:
                edit.text = text

        self._shown.append(shown)

    def _elsewhere(self, question, rows) -> None:
        words = {
            "mask": _("Draw in the tab Edit."),
            "attributes": _("Fill in the tab Report."),
        }
        label = qt.QLabel(Theme.coloured(words.get(question.type, ""), Theme.QUIET))
        rows.addWidget(label)

    def _set(self, question, value: Any) -> None:
        if self._showing:
            return
        self.flow.study.setAnswer(question, value)
        self.show()
