"""A task: wiring between a request of MONAI Label and one method of the pipeline."""

from __future__ import annotations

import math
import shutil
import tempfile
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from lib.options import EXTENSIONS, Options, RequestError
from pasta.inference.progress import silent
from pasta.io import read_labelmap, read_volume, write_labelmap
from pasta.labels import LABELS, ORGANS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lib.models import Models
    from pasta.geometry import Volume
    from pasta.inference.pipeline import Pipeline
    from pasta.inference.progress import Progress


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a task works on.

    Attributes:
        volume: the CT.
        labelmap: drawn by someone or kept from before; None if none was given.
        options: checked parameters.
        output: what the client wants back: "image", "json" or "all".
        folder: for files; gone after the answer.
        progress: raises CancelledError to stop.
    """

    volume: Volume
    labelmap: Volume | None
    options: Options
    output: str
    folder: Path
    progress: Progress


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a task answers.

    Attributes:
        document: JSON-ready.
        file: mask or map, in the folder of the inputs.
        labelmap: what may be kept as a label.
    """

    document: dict[str, Any]
    file: Path | None = None
    labelmap: Volume | None = None


class PastaTask(InferTask):
    """One task on one CT volume; answers on the voxel grid of that volume."""

    name: ClassVar[str]
    kind: ClassVar[InferType]
    description: ClassVar[str]
    needs: ClassVar[tuple[str, ...]]
    options: ClassVar[dict[str, Any]] = {"organs": ["all", *(organ.name for organ in ORGANS)]}

    def __init__(self, models: Models) -> None:
        labels = {label.name: label.value for label in LABELS}
        super().__init__(self.kind, labels, 3, self.description, dict(self.options))
        self.models = models

    def is_valid(self) -> bool:
        return True  # listed even without weights; then it refuses, and `info` says why

    def info(self) -> dict[str, Any]:
        refusal = self.refusal()
        return {**super().info(), "ready": not refusal, "refusal": refusal}

    def refusal(self, *, labelmap: bool = False) -> str:
        """Say why this task cannot run now; empty if it can."""
        needs = [name for name in self.needs if not (labelmap and name == "segmentation")]
        return self.models.refusal(tuple(needs))

    @abstractmethod
    def work(self, pipeline: Pipeline, inputs: Inputs) -> Outcome:
        """Run the pipeline and write what belongs in a file."""

    def run(self, inputs: Inputs) -> Outcome:
        """Do the task with the weights that are on the disk now.

        Raises:
            CheckpointError: if weights are missing or do not fit.
            PastaError: as the pipeline.
        """
        outcome = self.work(self.models.pipeline(inputs.options.device), inputs)
        return Outcome(finite(outcome.document), outcome.file, outcome.labelmap)

    def __call__(self, request: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
        """Run as MONAI Label's own code does (batch inference); the caller removes the file."""
        folder = Path(tempfile.mkdtemp())
        try:
            volume = read_volume(Path(request["image"]))
            label = request.get("label")
            labelmap = read_labelmap(Path(label), volume.grid) if label else None
            options = Options(device=str(request.get("device") or "auto"))
            outcome = self.run(Inputs(volume, labelmap, options, "all", folder, silent))
            if outcome.file is None:
                return None, outcome.document
            kept = folder.with_name(f"{folder.name}-{outcome.file.name}")
            outcome.file.rename(kept)
            return str(kept), outcome.document
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def write_mask(labelmap: Volume, inputs: Inputs) -> Path | None:
    """Write a mask in the format asked for; None if only JSON is wanted."""
    if inputs.output == "json":
        return None
    path = inputs.folder / f"result{inputs.options.extension}"
    write_labelmap(labelmap, path)
    return path


def refuse_image(inputs: Inputs, name: str, way_out: str) -> None:
    """Refuse `output=image` of a task that has none.

    Raises:
        RequestError: with the way out.
    """
    if inputs.output == "image":
        msg = f"{name} answers JSON only; {way_out}"
        raise RequestError(msg)


def finite(value: Any) -> Any:
    """Replace NaN and infinity, which JSON has not, by null."""
    if isinstance(value, dict):
        return {str(key): finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


__all__ = ["EXTENSIONS", "Inputs", "Outcome", "PastaTask", "finite", "refuse_image", "write_mask"]
