"""`pasta_diagnosis`: segmentation, then the report of what was found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monailabel.interfaces.tasks.infer_v2 import InferType

from lib.infers.base import Inputs, Outcome, PastaTask, write_mask

if TYPE_CHECKING:
    from pasta.inference.pipeline import Pipeline


class Diagnosis(PastaTask):
    """Segment a CT volume and report its lesions: mask and JSON in one answer."""

    name = "pasta_diagnosis"
    kind = InferType.SEGMENTATION
    description = "Segmentation and structured report in one call (research use only)"
    needs = ("segmentation", "attributes")

    def work(self, pipeline: Pipeline, inputs: Inputs) -> Outcome:
        result = pipeline.diagnosis(inputs.volume, inputs.options.organs, inputs.progress)
        file = write_mask(result.labelmap, inputs)
        return Outcome(result.document(), file, result.labelmap)
