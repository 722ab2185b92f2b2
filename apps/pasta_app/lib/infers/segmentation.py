"""`pasta_segmentation`: 10 organs and 15 lesion types."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monailabel.interfaces.tasks.infer_v2 import InferType

from lib.infers.base import Inputs, Outcome, PastaTask, write_mask

if TYPE_CHECKING:
    from pasta.inference.pipeline import Pipeline


class Segmentation(PastaTask):
    """Label the organs and lesions of one CT volume, on its voxel grid."""

    name = "pasta_segmentation"
    kind = InferType.SEGMENTATION
    description = "Organs and lesions in CT, 25 labels (research use only)"
    needs = ("segmentation",)

    def work(self, pipeline: Pipeline, inputs: Inputs) -> Outcome:
        result = pipeline.segmentation(inputs.volume, inputs.options.organs, inputs.progress)
        file = write_mask(result.labelmap, inputs)
        return Outcome(result.document(), file, result.labelmap)
