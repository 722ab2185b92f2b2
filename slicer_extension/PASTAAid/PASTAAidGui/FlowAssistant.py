"""The AI's side of the flow: run, cancel, show. In a reading without AI none of it works."""

import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import qt
import slicer
from slicer.i18n import tr as _

from pasta.errors import CancelledError

if TYPE_CHECKING:
    from PASTAAidGui.Flow import Flow

SEGMENTATION, SCREENING = "pasta_segmentation", "pasta_screening"
REPORT, DIAGNOSIS = "pasta_report", "pasta_diagnosis"


def titles() -> dict[str, str]:
    """Name the tasks as the reader knows them."""
    return {
        DIAGNOSIS: _("Diagnosis"),
        SEGMENTATION: _("Segmentation"),
        SCREENING: _("Screening"),
        REPORT: _("Report"),
    }


class Assistant:
    """Runs one task at a time in the background and brings its answer into the reading."""

    def __init__(self, flow: "Flow") -> None:
        self.flow = flow
        self.running: str | None = None
        self._evidence = (False, 0.5)

    def refusal(self, model: str) -> str:
        """Say why a task cannot be run; empty if it can."""
        flow = self.flow
        if not flow.assisted:
            return _("This reading is without AI.")
        if flow.check is None or not flow.connected:
            return _("Not connected.")
        return flow.check.models.get(model, _("This server does not have it."))

    def run(self, model: str) -> None:
        """Run a task on the open case; the reader may go on meanwhile."""
        flow = self.flow
        reading = flow.reading
        if not flow.assisted or reading is None or not reading.displayed or self.running:
            return
        refusal = self.refusal(model)
        if refusal:
            flow.say(
                _("{title} cannot run: {reason}").format(title=titles()[model], reason=refusal),
                _("Ask who runs the server; you can go on reading without it."),
                "warning",
            )
            return
        mask = None
        folder = Path(tempfile.mkdtemp(prefix="pasta-ai-", dir=flow.settings.folder))
        if model == REPORT:
            mask = folder / "mask.nii.gz"
            flow.masks.toLabelmap(reading.segmentationNode, reading.volumeNode, mask)
        parameters = {"evidence": True, "result_extension": ".nii.gz"} if model == SCREENING else {}
        connection = flow.connection
        self.running = model
        started = time.monotonic()
        flow.note("ai_request", model=model)
        reading.clock.wait_start("ai")
        flow.setProgress("ai", titles()[model])
        flow.changed("ai")

        def work(task):
            answer = connection.run(model, reading.caseId, parameters, mask, task)
            image = None
            if answer.image is not None:
                image = folder / "answer.nii.gz"
                image.write_bytes(answer.image)
            return answer.document, image

        def over() -> None:
            self.running = None
            if flow.reading is reading and reading.timing is None:
                reading.clock.wait_end("ai")
            flow.setProgress("ai", None)
            flow.changed("ai")
            qt.QTimer.singleShot(0, flow.study.runAI)

        def done(result) -> None:
            over()
            document, image = result
            if flow.reading is reading and reading.timing is None:
                flow.note("ai_ready", model=model, latency_s=round(time.monotonic() - started, 3))
                self._take(reading, model, document, image)
            shutil.rmtree(folder, ignore_errors=True)

        def failed(error: BaseException) -> None:
            over()
            shutil.rmtree(folder, ignore_errors=True)
            if flow.reading is not reading:
                return
            if isinstance(error, CancelledError):
                flow.say(_("Cancelled."))
            else:
                flow.note("ai_failed", model=model)
                flow.tell(error)
                flow.study.notBrought(model, error)

        flow.background.start(
            "ai",
            work,
            done=done,
            failed=failed,
            progress=lambda fraction, stage: flow.setProgress(
                "ai", f"{titles()[model]}: {stage}", fraction
            ),
        )

    def cancel(self) -> None:
        """Stop the task that runs, here and on the server."""
        if self.running:
            self.flow.background.cancel("ai")

    def _take(self, reading, model: str, document: dict, image: Path | None) -> None:
        flow = self.flow
        if model in (DIAGNOSIS, SEGMENTATION) and (reading.edited or flow.paused):
            kept = flow.settings.folder / "answers"
            kept.mkdir(exist_ok=True)
            path = kept / "answer.nii.gz"
            image.replace(path)
            from PASTAAidGui.Flow import Question  # Flow imports this module

            flow.ask(
                Question(
                    "replace",
                    _("The AI is ready, but you have edits. Replace your mask and report by its?"),
                    _("Replace mine"),
                    _("Keep mine"),
                    lambda: self._show(reading, model, document, path),
                    lambda: flow.note("ai_declined", model=model),
                )
            )
            return
        self._show(reading, model, document, image)

    def _show(self, reading, model: str, document: dict, image: Path | None) -> None:
        flow = self.flow
        if flow.reading is not reading:
            return
        reading.documents[model] = document
        if model == SCREENING:
            self._takeEvidence(reading, image)
        elif model == REPORT:
            self._takeReport(reading, document)
        else:
            report = document if model == DIAGNOSIS else None
            flow.editing.takeMask(reading, image, report)
            reading.report = flow.newReport(report)
            if model == SEGMENTATION:
                flow.editing.listLesions(reading, origin="ai")
            reading.edited = False
            reading.maskDirty = reading.reportDirty = True  # a draft keeps the answer too
        flow.note("ai_shown", model=model)
        flow.say(self.sentence(model, reading, document), kind="good")
        flow.changed("ai")
        flow.changed("report")

    def sentence(self, model: str, reading, document: dict) -> str:
        """Sum an answer up in one sentence."""
        if model == SCREENING:
            organs = [organ for organ in document.get("organs", []) if organ.get("probability")]
            return _("Screening is ready: {count} organs assessed.").format(count=len(organs))
        count = len(reading.report.lesions)
        if not count and model != REPORT:
            return _("{title} is ready: no lesion found. This does not exclude one.").format(
                title=titles()[model]
            )
        return _("{title} is ready; lesions: {count}.").format(title=titles()[model], count=count)

    def _takeReport(self, reading, document: dict) -> None:
        """Bring the attributes of lesions that the reader drew; what a person set stays."""
        changes = reading.report.remeasured(document)
        reading.changes = [
            self.flow.editing.changeText(change) for change in changes if change.old is not None
        ]
        reading.reportDirty = True

    def _takeEvidence(self, reading, image: Path | None) -> None:
        if image is None:
            return
        flow = self.flow
        if reading.evidenceNode is not None:
            flow.views.hideEvidence()
            slicer.mrmlScene.RemoveNode(reading.evidenceNode)
        reading.evidenceNode = slicer.util.loadVolume(
            str(image), {"name": _("AI evidence"), "show": False, "singleFile": True}
        )
        self.showEvidence(*self._evidence)

    def showEvidence(self, on: bool, opacity: float) -> None:
        """Lay the evidence map over the CT, or take it away."""
        self._evidence = (on, opacity)
        reading = self.flow.reading
        if reading is None or reading.evidenceNode is None:
            return
        if on and self.flow.assisted:
            self.flow.views.showEvidence(reading.evidenceNode, opacity)
        else:
            self.flow.views.hideEvidence()
