"""`pasta_screening`: probability of a tumour per organ, on non-contrast CT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from monailabel.interfaces.tasks.infer_v2 import InferType

from lib.infers.base import Inputs, Outcome, PastaTask, refuse_image
from lib.options import RequestError
from pasta.io import write_image
from pasta.labels import ORGANS

if TYPE_CHECKING:
    from pasta.inference.pipeline import Pipeline


class Screening(PastaTask):
    """Estimate per organ how probable a tumour is; the evidence map on request."""

    name = "pasta_screening"
    kind = InferType.CLASSIFICATION
    description = "Tumour probability per organ, non-contrast CT (research use only)"
    needs = ("segmentation", "screening")
    options: ClassVar[dict[str, Any]] = {
        "organs": ["all", *(organ.name for organ in ORGANS)],
        "evidence": False,
    }

    def work(self, pipeline: Pipeline, inputs: Inputs) -> Outcome:
        options = inputs.options
        if not options.evidence:
            refuse_image(inputs, self.name, "for the evidence map set evidence to true.")
        if options.evidence and options.extension == ".seg.nrrd":
            msg = "the evidence map is no segmentation: set result_extension to .nii.gz or .nrrd."
            raise RequestError(msg)
        result = pipeline.screening(
            inputs.volume, options.organs, inputs.labelmap, options.evidence, inputs.progress
        )
        file = None
        if result.evidence is not None and inputs.output != "json":
            file = inputs.folder / f"result{options.extension}"
            write_image(result.evidence, file)
        return Outcome(result.document(), file, result.labelmap)
