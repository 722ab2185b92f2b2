"""`pasta_report`: eight attributes of every lesion."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monailabel.interfaces.tasks.infer_v2 import InferType

from lib.infers.base import Inputs, Outcome, PastaTask, refuse_image

if TYPE_CHECKING:
    from pasta.inference.pipeline import Pipeline


class Report(PastaTask):
    """Describe the lesions of one CT volume: those in a given labelmap, or segmented first."""

    name = "pasta_report"
    kind = InferType.OTHERS
    description = "Structured report of each lesion (research use only)"
    needs = ("segmentation", "attributes")

    def work(self, pipeline: Pipeline, inputs: Inputs) -> Outcome:
        refuse_image(inputs, self.name, "ask pasta_diagnosis for mask and report.")
        result = pipeline.report(
            inputs.volume, inputs.labelmap, inputs.options.organs, inputs.progress
        )
        return Outcome(result.document(), None, result.labelmap)
