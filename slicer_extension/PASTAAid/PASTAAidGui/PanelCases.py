"""The tab of cases: connection, worklist, search, next by active learning, a CT of this computer."""

import qt
import slicer
from slicer.i18n import tr as _

from PASTAAidGui import Theme

STATUS, CASE, READERS, MINE = range(4)


class PanelCases:
    """Shows the worklist and hands choices to the flow.

    Args:
        root: widget of PASTAAidCases.ui.
        flow: of the module.
        saveSetting: writes one setting and applies it, called with name and value.
    """

    def __init__(self, root, flow, saveSetting) -> None:
        self.root = root
        self.ui = slicer.util.childWidgetVariables(root)
        self.flow = flow
        self._saveSetting = saveSetting
        ui = self.ui
        for value, text in (("assisted", _("with AI")), ("solo", _("without AI"))):
            ui.armCombo.addItem(text, value)
        for value, text in (
            ("", _("all")),
            ("new", _("new")),
            ("in work", _("in work")),
            ("done", _("done")),
            ("mine", _("by me")),
        ):
            ui.statusCombo.addItem(text, value)
        ui.caseTable.setHorizontalHeaderLabels([_("Status"), _("Case"), _("Readers"), _("Mine")])
        header = ui.caseTable.horizontalHeader()
        header.setSectionResizeMode(CASE, qt.QHeaderView.Stretch)
        header.setHighlightSections(False)
        ui.caseTable.setColumnWidth(STATUS, 92)
        ui.caseTable.setColumnWidth(READERS, 92)
        ui.caseTable.setColumnWidth(MINE, 56)
        ui.caseTable.verticalHeader().setDefaultSectionSize(22)
        self.showSettings()
        ui.testButton.connect("clicked(bool)", self.onTest)
        ui.connectButton.connect("clicked(bool)", self.onConnect)
        ui.searchEdit.connect("textChanged(QString)", lambda _text: self.showWorklist())
        ui.statusCombo.connect("currentIndexChanged(int)", lambda _index: self.showWorklist())
        ui.refreshButton.connect("clicked(bool)", lambda _on: self.flow.cases.refresh())
        ui.caseTable.connect("cellDoubleClicked(int,int)", lambda row, _column: self._openRow(row))
        ui.openButton.connect("clicked(bool)", lambda _on: self._openRow(ui.caseTable.currentRow()))
        ui.learningButton.connect("clicked(bool)", self.onLearning)
        ui.sendButton.connect("clicked(bool)", self.onSend)
        ui.dicomButton.connect("clicked(bool)", lambda _on: slicer.util.selectModule("DICOM"))
        ui.dicomButton.setToolTip(
            _("Load a series there, then come back and choose it above. Nothing is sent yet.")
        )

    def showSettings(self) -> None:
        """Fill the fields from the settings."""
        settings, ui = self.flow.settings, self.ui
        ui.urlEdit.text = settings.url
        ui.tokenEdit.text = settings.token
        ui.readerEdit.text = settings.reader
        ui.armCombo.setCurrentIndex(ui.armCombo.findData(settings.arm))

    def _applied(self) -> bool:
        """Take the fields over; False if one of them is refused, which the status line tells."""
        ui = self.ui
        return self._saveSetting(
            url=ui.urlEdit.text.strip(),
            token=ui.tokenEdit.text.strip(),
            reader=ui.readerEdit.text.strip(),
            arm=ui.armCombo.currentData,
        )

    def onTest(self, _checked=False) -> None:
        """Test the connection with what the fields say."""
        if self._applied():
            self.flow.cases.test()

    def onConnect(self, _checked=False) -> None:
        """Connect with what the fields say."""
        if self._applied():
            self.flow.cases.connect()

    def onLearning(self, _checked=False) -> None:
        """Let the server choose."""
        self.flow.cases.nextByLearning(self.ui.strategyCombo.currentText or "first")

    def onSend(self, _checked=False) -> None:
        """Ask for consent and send the chosen volume."""
        self.flow.cases.offer(self.ui.volumeSelector.currentNode())

    def _openRow(self, row: int) -> None:
        item = self.ui.caseTable.item(row, CASE)
        if item is not None:
            self.flow.cases.open(item.text())

    def showConnection(self) -> None:
        """Show what the last check found."""
        check, ui = self.flow.check, self.ui
        ui.strategyCombo.clear()
        ui.strategyCombo.addItems(list(self.flow.strategies))
        if check is None:
            ui.checkLabel.text = ""
            return
        sentence = check.sentence if check.ok else f"{check.sentence} {check.mend}"
        lines = [Theme.coloured(Theme.escaped(sentence), Theme.GOOD if check.ok else Theme.ERROR)]
        for name, reason in sorted(check.models.items()):
            lines.append(f"{name}: {Theme.escaped(reason) if reason else _('ready')}")
        ui.checkLabel.text = "<br>".join(lines)
        ui.connectionBox.collapsed = self.flow.connected
        ui.connectionBox.text = (
            _("Connection: {url}, reader {reader}").format(
                url=self.flow.settings.url, reader=self.flow.settings.reader or "-"
            )
            if self.flow.connected
            else _("Connection")
        )

    def showWorklist(self) -> None:
        """Fill the table; what was chosen stays chosen, else the open case, else the first."""
        ui = self.ui
        before = ui.caseTable.item(ui.caseTable.currentRow(), CASE)
        cases = self.flow.worklist.filtered(ui.searchEdit.text, ui.statusCombo.currentData or None)
        words = {"new": _("new"), "in work": _("in work"), "done": _("done")}
        current = self.flow.reading.caseId if self.flow.reading else None
        chosen = before.text() if before is not None else current
        table = ui.caseTable
        table.setRowCount(len(cases))
        for row, case in enumerate(cases):
            texts = (
                words.get(case.status, case.status),
                case.id,
                ", ".join(case.in_work_by if case.status == "in work" else case.readers),
                _("v{version}").format(version=case.my_version) if case.mine else "",
            )
            for column, text in enumerate(texts):
                item = qt.QTableWidgetItem(text)
                font = item.font()
                font.setBold(case.id == current)
                item.setFont(font)
                table.setItem(row, column, item)
        if cases:
            ids = [case.id for case in cases]
            table.selectRow(ids.index(chosen) if chosen in ids else 0)
        ui.openButton.enabled = bool(cases)
        ui.learningButton.enabled = self.flow.connected
