"""The tab of the report: lesions, eight attributes of the chosen one, impression, preview."""

import qt
import slicer
from slicer.i18n import tr as _

from pasta.labels import label_named
from pasta.report.attributes import ATTRIBUTES
from pasta.report.prose import size_text
from pasta.report.reader import SIZE
from PASTAAidGui import Theme
from PASTAAidGui.WheelGuard import WheelGuard

NUMBER, LESION, EXTENT, VOLUME, STATE = range(5)


class PanelReport:
    """Shows the reader's report and takes its changes.

    Args:
        root: widget of PASTAAidReport.ui.
        flow: of the module.
    """

    def __init__(self, root, flow) -> None:
        self.root = root
        self.ui = slicer.util.childWidgetVariables(root)
        self.flow = flow
        self._filling = False
        ui = self.ui
        table = ui.lesionTable
        table.setHorizontalHeaderLabels(["", _("Lesion"), _("Size (Z x X x Y)"), _("ml"), _("By")])
        header = table.horizontalHeader()
        header.setSectionResizeMode(LESION, qt.QHeaderView.Stretch)
        header.setHighlightSections(False)
        for column, width in ((NUMBER, 26), (EXTENT, 118), (VOLUME, 44), (STATE, 72)):
            table.setColumnWidth(column, width)
        table.verticalHeader().setDefaultSectionSize(22)
        table.connect("itemSelectionChanged()", self.onRow)
        self._guard = WheelGuard()
        self.combos: dict[str, object] = {}
        self._labels: dict[str, tuple] = {}
        layout = ui.attributes.layout()
        for row, attribute in enumerate(ATTRIBUTES):
            title, beside = qt.QLabel(attribute.title), qt.QLabel()
            title.setToolTip(attribute.definition)
            combo = qt.QComboBox()
            combo.setObjectName(f"attribute_{attribute.name}")
            combo.setFocusPolicy(qt.Qt.StrongFocus)
            combo.setMinimumWidth(128)
            combo.setSizePolicy(qt.QSizePolicy.Ignored, qt.QSizePolicy.Fixed)
            combo.installEventFilter(self._guard)
            beside.setSizePolicy(qt.QSizePolicy.Ignored, qt.QSizePolicy.Preferred)
            beside.setMinimumHeight(27)
            title.setBuddy(combo)
            combo.connect(
                "activated(int)", lambda _index, name=attribute.name: self.onAttribute(name)
            )
            layout.addWidget(title, row, 0)
            layout.addWidget(combo, row, 1)
            layout.addWidget(beside, row, 2)
            self.combos[attribute.name] = combo
            self._labels[attribute.name] = (title, beside)
        layout.setColumnStretch(1, 5)
        layout.setColumnStretch(2, 6)
        ui.remeasureButton.setToolTip(_("Measure the sizes again from the masks as they are now."))
        ui.remeasureButton.connect("clicked(bool)", lambda _on: flow.editing.remeasure())
        ui.acceptButton.connect("clicked(bool)", lambda _on: self.acceptCurrent())
        ui.impressionEdit.connect("textChanged()", self.onImpression)

    # what the reader does

    def onRow(self) -> None:
        """A click on a lesion opens its report and jumps there."""
        if self._filling or self.flow.reading is None:
            return
        item = self.ui.lesionTable.item(self.ui.lesionTable.currentRow(), NUMBER)
        if item is not None and int(item.text()) != self.flow.reading.selected:
            self.flow.editing.select(int(item.text()))

    def onAttribute(self, name: str) -> None:
        """Take an option that a person chose."""
        if self._filling or self.flow.reading is None or self.flow.reading.selected is None:
            return
        if name == SIZE:
            return
        value = self.combos[name].currentData
        self.flow.editing.setValue(self.flow.reading.selected, name, value or None)

    def acceptCurrent(self) -> None:
        """Accept the chosen lesion and go to the next."""
        if self.flow.reading is not None:
            self.flow.editing.accept(self.flow.reading.selected)

    def onImpression(self) -> None:
        """Take the free text."""
        if not self._filling:
            self.flow.editing.setImpression(self.ui.impressionEdit.plainText)

    def focusFirst(self) -> None:
        """Put the keyboard on the first attribute."""
        self.combos[ATTRIBUTES[0].name].setFocus()

    # what the reader sees

    def show(self) -> None:
        """Show the report as it is."""
        reading = self.flow.reading
        lesions = reading.report.lesions if reading is not None else []
        if reading is not None and lesions:
            numbers = [lesion.number for lesion in lesions]
            if reading.selected not in numbers:
                reading.selected = numbers[0]
        elif reading is not None:
            reading.selected = None
        self._filling = True
        try:
            self._showTable(lesions)
            self._showLesion()
            text = reading.report.impression if reading is not None else ""
            if self.ui.impressionEdit.plainText != text:
                self.ui.impressionEdit.setPlainText(text)
        finally:
            self._filling = False
        self.ui.impressionEdit.enabled = self.flow.canRead
        self.ui.remeasureButton.enabled = self.flow.canRead and bool(lesions)
        self.showPreview()

    def showPreview(self) -> None:
        """Show the text of the report as it would be saved."""
        reading = self.flow.reading
        text = reading.report.text() if reading is not None else ""
        if self.ui.previewEdit.plainText != text:
            bar = self.ui.previewEdit.verticalScrollBar()
            place = bar.value
            self.ui.previewEdit.setPlainText(text)
            bar.setValue(place)

    def _showTable(self, lesions) -> None:
        table = self.ui.lesionTable
        reading = self.flow.reading
        table.setRowCount(len(lesions))
        for row, lesion in enumerate(lesions):
            word, colour = originOf(lesion)
            texts = (
                str(lesion.number),
                label_named(lesion.label).title,
                size_text(lesion.size_mm).removesuffix(" mm") if lesion.size_mm else "-",
                f"{lesion.volume_ml:.1f}" if lesion.volume_ml is not None else "-",
                word,
            )
            for column, text in enumerate(texts):
                item = qt.QTableWidgetItem(text)
                if column == STATE:
                    item.setForeground(qt.QBrush(qt.QColor(colour)))
                if column == LESION:
                    red, green, blue = label_named(lesion.label).color
                    pixmap = qt.QPixmap(10, 10)
                    pixmap.fill(qt.QColor(red, green, blue))
                    item.setIcon(qt.QIcon(pixmap))
                table.setItem(row, column, item)
            if lesion.number == reading.selected:
                table.selectRow(row)

    def showLesion(self) -> None:
        """Show the chosen lesion."""
        self.show()

    def _showLesion(self) -> None:
        reading, ui = self.flow.reading, self.ui
        lesion = None
        if reading is not None:
            lesion = next((x for x in reading.report.lesions if x.number == reading.selected), None)
        ui.acceptButton.enabled = self.flow.canRead and lesion is not None and isOpen(lesion)
        ui.acceptButton.visible = self.flow.assisted
        if lesion is None:
            ui.lesionLabel.text = (
                _("No lesion. Add one in the editor.") if reading is not None else ""
            )
        else:
            ui.lesionLabel.text = "<b>{}</b>".format(
                _("Lesion {number}: {title}").format(
                    number=lesion.number, title=label_named(lesion.label).title
                )
            )
        for attribute in ATTRIBUTES:
            self._showAttribute(attribute, lesion)
        changes = reading.changes if reading is not None else []
        ui.changesLabel.text = _("Changed: {changes}").format(changes=changesText(changes))
        ui.changesLabel.setToolTip("<br>".join(changes))
        ui.changesLabel.visible = bool(changes)

    def _showAttribute(self, attribute, lesion) -> None:
        combo = self.combos[attribute.name]
        title, beside = self._labels[attribute.name]
        combo.enabled = lesion is not None and self.flow.canRead
        combo.clear()
        if lesion is None:
            title.text = attribute.title
            beside.text = ""
            return
        entry = lesion.entries[attribute.name]
        options = attribute.options or tuple(filter(None, [entry.value]))
        if attribute.name != SIZE or not options:  # a size is measured, never chosen
            combo.addItem(_("not stated"), "")
        for option in options:
            combo.addItem(option, option)
        combo.setCurrentIndex(max(combo.findData(entry.value or ""), 0))
        combo.setToolTip(entry.value or "")
        title.text = f"{attribute.title} {self._mark(entry)}"
        beside.text = besideText(entry, self.flow.assisted)
        whole = besideText(entry, self.flow.assisted, longest=200)
        beside.setToolTip("<br>".join(filter(None, [whole, Theme.escaped(entry.note or "")])))

    def _mark(self, entry) -> str:
        if entry.state == "ai" and self.flow.assisted:
            return Theme.coloured("AI", Theme.AI, bold=True)
        if entry.state == "accepted":
            return Theme.coloured("\u2713", Theme.PERSON, bold=True)
        if entry.state == "edited":
            return Theme.coloured("\u270e", Theme.PERSON, bold=True)
        return ""


def changesText(changes) -> str:
    """Name the first changes, and how many more there are."""
    text = "; ".join(changes[:2])
    more = len(changes) - 2
    return _("{text}; and {more} more").format(text=text, more=more) if more > 0 else text


def isOpen(lesion) -> bool:
    """Say whether something of the AI in this lesion waits for a person."""
    return not lesion.reviewed


def originOf(lesion) -> tuple[str, str]:
    """Say in a word and a colour whose a lesion is."""
    if isOpen(lesion):
        return (_("AI") if lesion.origin == "ai" else _("reader, AI")), Theme.AI
    if lesion.origin == "ai":
        return _("accepted"), Theme.PERSON
    return _("reader"), Theme.PERSON


def besideText(entry, assisted: bool, longest: int = 21) -> str:
    """Write the AI's suggestion with its probability and the measured value."""

    def short(text: str) -> str:
        return text if len(text) <= longest else f"{text[: longest - 1].rstrip()}\u2026"

    parts = []
    if assisted and entry.suggestion:
        percent = "" if entry.probability is None else f" {min(99, 100 * entry.probability):.0f} %"
        parts.append(
            Theme.coloured(Theme.escaped(f"AI{percent}: {short(entry.suggestion)}"), Theme.AI)
        )
    if entry.measured:
        text = Theme.escaped(_("measured: {value}").format(value=short(entry.measured)))
        parts.append(Theme.coloured(text, Theme.WARNING if entry.disagrees else Theme.QUIET))
    return "<br>".join(parts)
