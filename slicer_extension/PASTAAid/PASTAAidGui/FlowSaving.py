"""Nothing is lost: drafts on the disk, recovery after a crash, submission read back."""

import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import qt
from slicer.i18n import tr as _

if TYPE_CHECKING:
    from PASTAAidGui.Flow import Flow, Reading


class Saving:
    """Drafts and submissions of the flow."""

    def __init__(self, flow: "Flow") -> None:
        self.flow = flow
        self._timer = qt.QTimer()
        self._timer.connect("timeout()", self._due)
        self._timer.start(1000)
        self._last = time.monotonic()
        self._failed = False

    def stop(self) -> None:
        """Stop the autosave."""
        self._timer.stop()

    # drafts

    def _due(self) -> None:
        reading = self.flow.reading
        if reading is None or not reading.isDirty:
            self._last = time.monotonic()
        elif time.monotonic() - self._last >= self.flow.settings.autosave_seconds:
            self.autosave()

    def autosave(self) -> bool:
        """Write a draft of what changed; the status line tells when that fails."""
        flow = self.flow
        reading = flow.reading
        if reading is None or not reading.isDirty:
            return True
        self._last = time.monotonic()
        writer = None
        if reading.segmentationNode is not None and (reading.maskDirty or not reading.draftSaved):

            def writer(path: Path) -> None:
                flow.masks.saveDraft(reading.segmentationNode, path)

        try:
            flow.drafts.save(
                reading.caseId, reading.report.to_document(), self._state(reading), writer
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, the reader must hear that nothing is kept
            self._failed = True
            flow.say(
                _("Your edits could not be kept on this computer: {error}").format(error=error),
                _("Free some space on the disk; they stay in memory until then."),
                "error",
            )
            return False
        reading.maskDirty = reading.reportDirty = False
        reading.draftSaved = True
        if self._failed:
            self._failed = False
            flow.say(_("Your edits are kept again."), kind="good")
        flow.changed("draft")
        return True

    def _state(self, reading: "Reading") -> dict:
        return {
            "version": reading.version,
            "edited": reading.edited,
            "arm": self.flow.settings.arm,
            "answers": self.flow.study.answers,
            "documents": reading.documents if self.flow.assisted else {},
        }

    def putAway(self, reading: "Reading") -> bool:
        """Keep a reading that is left unfinished; it comes back with its case.

        Returns:
            False where its edits could not be kept.
        """
        if reading.receipt is not None and not reading.isDirty:
            return True
        worked = reading.edited or bool(self.flow.study.answers)
        if worked and reading.isDirty and not self.autosave():
            return False
        if reading.draftSaved:
            self.flow.drafts.close(reading.caseId)
        return True

    def restore(self, reading: "Reading") -> bool:
        """Bring a draft of this case back, if there is one; False if there is none."""
        flow = self.flow
        draft = flow.drafts.load(reading.caseId)
        if draft is None:
            return False
        state = draft.state or {}
        if state.get("arm") != "solo" and state.get("arm") and not flow.assisted:
            flow.say(_("A draft with AI exists; it stays hidden in this reading without AI."))
            return False
        if draft.mask is not None:
            flow.editing.takeDraft(reading, draft.mask)
        if draft.report:
            reading.report = type(reading.report).from_document(draft.report)
        reading.version = int(state.get("version", reading.version))
        reading.documents = dict(state.get("documents", {})) if flow.assisted else {}
        reading.edited = bool(state.get("edited", True))
        flow.study.restore(dict(state.get("answers", {})))
        reading.draftSaved = True
        flow.note("draft_restored")
        flow.say(
            _("Your unfinished work on {case} is back, as kept at {time}.").format(
                case=flow.study.title(reading.caseId),
                time=str(draft.saved_utc)[:19].replace("T", " "),
            ),
            kind="good",
        )
        flow.changed("report")
        flow.changed("ai")
        return True

    def offerRecovery(self) -> None:
        """Offer what a crash left behind; asked in the panel, nothing modal."""
        flow = self.flow
        drafts = flow.drafts.recoverable()
        if not drafts:
            return
        from PASTAAidGui.Flow import Question  # Flow imports this module

        newest = max(drafts, key=lambda draft: str(draft.saved_utc))
        text = _(
            "Slicer ended while you were reading {case}. Your work up to {time} (UTC) is kept."
        ).format(case=newest.case_id, time=str(newest.saved_utc)[:19].replace("T", " "))
        flow.ask(
            Question(
                "recovery",
                text,
                _("Recover it"),
                _("Later, with its case"),
                lambda: flow.cases.open(newest.case_id),
                lambda: [flow.drafts.close(draft.case_id) for draft in drafts],
            )
        )

    # submission

    def refusal(self) -> str:
        """Say why the reading cannot be submitted; empty if it can."""
        flow = self.flow
        reading = flow.reading
        if reading is None or not reading.displayed:
            return _("No case is open.")
        if flow.study.refusal():
            return flow.study.refusal()
        if flow.paused:
            return _("The reading is paused.")
        if not flow.settings.reader:
            return _("Give your reader pseudonym first.")
        if flow.background.busy("submit"):
            return _("Another submission is on its way.")
        if reading.receipt is not None and not reading.edited:
            return _("It is saved already.")
        return ""

    def submit(self) -> None:
        """Send mask and report, and say "saved" only when they came back the same."""
        flow = self.flow
        reading = flow.reading
        refusal = self.refusal()
        if refusal:
            flow.say(refusal, kind="warning")
            return
        flow.editing.lookNow(reading)
        reading.isDirty and self.autosave()
        folder = Path(tempfile.mkdtemp(prefix="pasta-submit-", dir=flow.settings.folder))
        mask = folder / "mask.nii.gz"
        try:
            flattened = flow.masks.toLabelmap(reading.segmentationNode, reading.volumeNode, mask)
        except Exception as error:  # noqa: BLE001 - the work stays in the scene and in its draft
            shutil.rmtree(folder, ignore_errors=True)
            flow.tell(error)
            return
        flow.editing.place(reading, flattened.boxes)
        if reading.timing is None:
            reading.timing = reading.clock.complete()
        flow.study.submitted(reading)
        document = reading.report.to_document()
        timing = reading.timing.document()
        connection = flow.connection
        told = " ".join(flattened.warnings)
        reading.edited = False
        title = flow.study.title(reading.caseId)
        flow.setProgress("submit", _("Saving {case}").format(case=title))
        flow.say(_("Saving {case} ...").format(case=title))
        flow.changed("clock")

        def over() -> None:
            shutil.rmtree(folder, ignore_errors=True)
            flow.setProgress("submit", None)

        def done(receipt) -> None:
            over()
            reading.receipt = receipt
            reading.version = receipt.version
            flow.drafts.finish(reading.caseId)
            if flow.reading is reading:
                reading.draftSaved = False
                if reading.edited:  # touched while it was sent: that part is not saved yet
                    reading.maskDirty = reading.reportDirty = True
            text = _("Saved: {case}, version {version}, read back and equal.")
            if flow.study.active:  # a study gives nothing back; it tells the hash of what it has
                text = _("Sent: {case}; the server has it.")
            text = text.format(case=title, version=receipt.version)
            if receipt.conflict or told:
                flow.say(text, f"{receipt.conflict} {told}".strip(), "warning")
            else:
                flow.say(text, kind="good")
            flow.cases.refresh(quietly=True)
            flow.changed("saved")
            flow.study.saved()

        def failed(error: BaseException) -> None:
            over()
            reading.edited = True
            flow.tell(error)
            if flow.reading is not reading:
                flow.status.mend += " " + _("{case} is not saved; its draft is kept.").format(
                    case=title
                )
                flow.changed("status")
            flow.study.notSaved(error)
            flow.changed("saved")

        flow.background.start(
            "submit",
            lambda task: connection.submit(
                reading.caseId, mask, document, timing, reading.version, task
            ),
            done=done,
            failed=failed,
            progress=lambda fraction, stage: flow.setProgress("submit", stage, fraction),
        )
