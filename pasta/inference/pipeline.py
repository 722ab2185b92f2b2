"""The whole job: a CT through segmentation, screening and report, with provenance.

One pipeline holds the loaded networks; it is not meant for two threads at once.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from pasta.errors import CheckpointError, LabelError
from pasta.inference.device import chosen_device
from pasta.inference.progress import Progress, Stopwatch, part_of, silent
from pasta.inference.reporting import describe
from pasta.inference.result import (
    Provenance,
    ReportResult,
    ScreeningResult,
    SegmentationResult,
)
from pasta.inference.screening import screen
from pasta.inference.segmentation import Segmenter
from pasta.labels import organ_named

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pasta.geometry import Volume
    from pasta.networks.checkpoint import Model, ModelSet

SEGMENT_SHARE = 0.8  # of the progress bar, where another stage follows


class Pipeline:
    """The tasks of PASTA-AID on one set of models.

    Every task takes a CT in HU of any orientation and spacing, and answers on its own grid.

    Args:
        models: from `find_models`; a task whose model is missing refuses with the reason.
        device: "auto", "cpu", "cuda" or "cuda:N".
        overlap: of sliding windows.
        mirror: average over eight flips; eight times slower.

    Raises:
        DeviceError: if the device is not there.
    """

    def __init__(
        self,
        models: ModelSet,
        *,
        device: str = "auto",
        overlap: float = 0.5,
        mirror: bool = False,
    ) -> None:
        self.models = models
        self.device = chosen_device(device)
        self._overlap = overlap
        self._mirror = mirror

    def warm_up(self) -> None:
        """Load the segmentation networks and run them once, so that the first CT does not wait.

        Raises:
            CheckpointError: if there are no segmentation weights, or they do not fit.
        """
        self._segmenter.warm_up()

    @cached_property
    def _segmenter(self) -> Segmenter:
        return Segmenter(
            _required(self.models.segmentation, "segmentation"),
            device=str(self.device),
            overlap=self._overlap,
            mirror=self._mirror,
        )

    def segmentation(
        self,
        volume: Volume,
        organs: Sequence[str] | None = None,
        progress: Progress | None = None,
    ) -> SegmentationResult:
        """Label organs and lesions.

        Args:
            volume: CT.
            organs: restrict to these and their lesions; None labels all 25.
            progress: rises to 1.

        Raises:
            CheckpointError: if there are no segmentation weights, or they do not fit.
            LabelError: if an organ is unknown or not labelled by the model.
            CancelledError: if `progress` raises it.
        """
        watch = Stopwatch()
        labelmap = self._labelled(volume, organs, progress or silent, watch)
        model = self._segmenter.model
        return SegmentationResult(labelmap, _provenance([model], volume, watch))

    def screening(
        self,
        volume: Volume,
        organs: Sequence[str] | None = None,
        labelmap: Volume | None = None,
        evidence: bool = False,
        progress: Progress | None = None,
    ) -> ScreeningResult:
        """Estimate the probability of a tumour per organ, on a non-contrast CT.

        Args:
            volume: CT.
            organs: to screen; None screens all that have a model.
            labelmap: organs as marked by someone; None uses the segmentation network.
            evidence: also compute the class activation map.
            progress: rises to 1.

        Raises:
            CheckpointError: if weights are missing or do not fit.
            LabelError: if an organ is unknown or has no screening model.
            CancelledError: if `progress` raises it.
        """
        progress = progress or silent
        offered = self.models.screening
        if not offered:
            _required(None, "screening")
        for organ in organs or ():
            if organ_named(organ).name not in offered:
                msg = f"no screening model for the {organ}; there is one for {', '.join(offered)}."
                raise LabelError(msg)
        wanted = list(organs) if organs else list(offered)
        models = {organ: offered[organ] for organ in wanted}
        used = list({id(model): model for model in models.values()}.values())
        watch = Stopwatch()
        if labelmap is None:
            share = part_of(progress, 0.0, SEGMENT_SHARE)
            labelmap = self._labelled(volume, wanted, share, watch)
            used.insert(0, self._segmenter.model)
        with watch.stage("screening"):
            findings = screen(
                volume,
                labelmap,
                models,
                wanted,
                device=self.device,
                evidence=evidence,
                progress=part_of(progress, SEGMENT_SHARE, 1.0),
            )
        progress(1.0, "done")
        provenance = _provenance(used, volume, watch, findings.warnings)
        return ScreeningResult(findings.document(), labelmap, findings.evidence, provenance)

    def report(
        self,
        volume: Volume,
        labelmap: Volume | None = None,
        organs: Sequence[str] | None = None,
        progress: Progress | None = None,
    ) -> ReportResult:
        """Describe every lesion by the eight attributes.

        Args:
            volume: CT.
            labelmap: lesions as marked by someone; None segments first.
            organs: restrict the segmentation to these organs.
            progress: rises to 1.

        Raises:
            CheckpointError: if weights are missing or do not fit.
            LabelError: if an organ is unknown, or the labelmap is not on the CT's grid.
            CancelledError: if `progress` raises it.
        """
        progress = progress or silent
        attributes = _required(self.models.attributes, "attributes")
        watch = Stopwatch()
        used = [attributes]
        start = 0.0
        if labelmap is None:
            start = SEGMENT_SHARE
            labelmap = self._labelled(volume, organs, part_of(progress, 0.0, start), watch)
            used.insert(0, self._segmenter.model)
        elif not labelmap.grid.matches(volume.grid):
            msg = "the labelmap is not on the grid of the CT; resample it to the CT first."
            raise LabelError(msg)
        with watch.stage("report"):
            report = describe(
                volume,
                labelmap,
                attributes,
                device=self.device,
                progress=part_of(progress, start, 1.0),
            )
        progress(1.0, "done")
        provenance = _provenance(used, volume, watch, report.warnings)
        return ReportResult(report, labelmap, provenance)

    def diagnosis(
        self,
        volume: Volume,
        organs: Sequence[str] | None = None,
        progress: Progress | None = None,
    ) -> ReportResult:
        """Segment, then report: the diagnosis-aid use case in one call.

        Raises:
            CheckpointError, LabelError, CancelledError: as `report`.
        """
        return self.report(volume, None, organs, progress)

    def _labelled(
        self,
        volume: Volume,
        organs: Sequence[str] | None,
        progress: Progress,
        watch: Stopwatch,
    ) -> Volume:
        with watch.stage("load"):
            segmenter = self._segmenter
        with watch.stage("segmentation"):
            return segmenter.segment(volume, organs, progress)


def _required(model: Model | None, task: str) -> Model:
    if model is None:
        msg = (
            f"no {task} weights found: import some with `pasta weights import`, "
            "or point PASTA_MODELS at a folder of models."
        )
        raise CheckpointError(msg)
    return model


def _provenance(
    models: Sequence[Model], volume: Volume, watch: Stopwatch, warnings: Sequence[str] = ()
) -> Provenance:
    both = dict.fromkeys((*volume.warnings, *warnings))  # each once, in order
    return Provenance(models, volume.sha256, tuple(both), dict(watch.seconds))
