"""ModelSpec: what a set of weights expects and returns. Saved as `spec.json` beside the weights.

A *model* is a folder: `spec.json` and one `.safetensors` file per fold of the ensemble.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pasta.errors import CheckpointError
from pasta.labels import BACKGROUND, LABELS, label_named, organ_named

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SCHEMA_VERSION = 1
SPEC_FILE = "spec.json"
Task = Literal["segmentation", "screening", "attributes"]
TASKS: tuple[Task, ...] = ("segmentation", "screening", "attributes")
_THREE_AXES = [[r, a, s] for r in (0, 1) for a in (2, 3) for s in (4, 5)]  # within "RLAPSI"
PASTA_AXCODES = "LPS"  # paper, Methods 1.2; official classification code reads "SAL" instead


@dataclass(frozen=True, slots=True)
class ZScore:
    """Clip HU, subtract the mean, divide by the standard deviation (nnU-Net's CTNormalization)."""

    clip_hu: tuple[float, float]
    mean_hu: float
    std_hu: float
    kind: Literal["zscore"] = "zscore"


@dataclass(frozen=True, slots=True)
class Segmental:
    """Piecewise linear map of HU (PASTA's classification code); constant beyond both ends."""

    points_hu: tuple[float, ...] = (-1000.0, -200.0, 200.0, 1000.0)
    values: tuple[float, ...] = (0.0, 0.2, 0.9, 1.0)
    kind: Literal["segmental"] = "segmental"


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """One fold: file name inside the model folder and the SHA-256 of its bytes, in hex."""

    file: str
    sha256: str


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Everything needed to feed a network and to read its output.

    Attributes:
        name: short, no spaces; shown in every result.
        version: of the weights.
        task: what the output means.
        title: one line for people.
        width: channels of the finest level of the network.
        in_channels: 1 for CT.
        axcodes: directions of the array axes of the network's input ("LPS": right to left,
            anterior to posterior, inferior to superior).
        spacing_mm: voxel spacing of the network's input, along its axes.
        patch_shape: voxels of the network's input.
        intensity: HU to network input.
        antialias: average, not only interpolate, where resampling makes voxels larger.
        channels: segmentation: label name of each output channel, "background" first.
        organs: screening: organs whose tumours this model was trained on.
        attributes: attributes: options of each attribute, in the order of the head's outputs; an
            empty option is an output that the published 14-way head has but never uses.
        margin_mm: screening: added around the organ (paper, Methods 6: 24 voxels of 1 mm).
        weights: one file per fold.
        license: SPDX expression or a sentence.
        trained_on: sentence naming the data.
    """

    name: str
    version: str
    task: Task
    title: str
    width: int
    spacing_mm: tuple[float, float, float]
    patch_shape: tuple[int, int, int]
    intensity: ZScore | Segmental
    in_channels: int = 1
    axcodes: str = PASTA_AXCODES
    antialias: bool = False
    channels: tuple[str, ...] = ()
    organs: tuple[str, ...] = ()
    attributes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    margin_mm: float = 24.0
    weights: tuple[WeightsFile, ...] = ()
    license: str = ""
    trained_on: str = ""

    def __post_init__(self) -> None:
        """Refuse a specification that contradicts itself."""
        problem = _problem(self)
        if problem:
            msg = f"model specification {self.name!r}: {problem}"
            raise CheckpointError(msg)

    @property
    def num_outputs(self) -> int:
        """Output channels of the network."""
        if self.task == "segmentation":
            return len(self.channels)
        if self.task == "screening":
            return 2  # no tumour, tumour (paper, Methods 6)
        return sum(len(options) for options in self.attributes.values())

    @property
    def label_values(self) -> tuple[int, ...]:
        """Label value (Supplementary Table 9) of each output channel; 0 for background."""
        return tuple(0 if name == BACKGROUND else label_named(name).value for name in self.channels)

    def save(self, folder: Path) -> None:
        """Write `spec.json` into the model folder."""
        document = {"schema_version": SCHEMA_VERSION, **dataclasses.asdict(self)}
        (folder / SPEC_FILE).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> ModelSpec:
        """Read `spec.json` of a model folder.

        Raises:
            CheckpointError: if the file is missing, not JSON, of another schema version, or a field
                is unknown, missing or wrong.
        """
        path = folder / SPEC_FILE
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            msg = f"{path}: not found. A model folder holds {SPEC_FILE} and its .safetensors files."
            raise CheckpointError(msg) from None
        except (OSError, ValueError) as error:
            msg = f"{path}: not readable as JSON ({error}). Import the weights again."
            raise CheckpointError(msg) from error
        try:
            return cls.from_document(document)
        except CheckpointError as error:
            msg = f"{path}: {error}"
            raise CheckpointError(msg) from None

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> ModelSpec:
        """Build a specification from its JSON document.

        Raises:
            CheckpointError: as for `load`.
        """
        fields = dict(document)
        version = fields.pop("schema_version", None)
        if version != SCHEMA_VERSION:
            msg = f"schema_version is {version!r}, this release reads {SCHEMA_VERSION}."
            raise CheckpointError(msg)
        try:
            intensity = dict(fields.pop("intensity"))
            kind = {"zscore": ZScore, "segmental": Segmental}[intensity.get("kind", "")]
            attributes = fields.pop("attributes", {})
            return cls(
                intensity=kind(**_tuples(intensity)),
                attributes={name: tuple(options) for name, options in attributes.items()},
                weights=tuple(WeightsFile(**file) for file in fields.pop("weights", ())),
                **_tuples(fields),
            )
        except (AttributeError, KeyError, TypeError) as error:
            msg = f"a field is unknown, missing or of the wrong type ({error})."
            raise CheckpointError(msg) from error


def _tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
    }


def _problem(spec: ModelSpec) -> str:
    """Name what is wrong with a specification, or return an empty string."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", spec.name):
        return "name may hold letters, digits, dot, dash and underscore only."
    if spec.task not in TASKS:
        return f"task is {spec.task!r}, expected one of {', '.join(TASKS)}."
    if spec.width < 1 or spec.in_channels < 1:
        return "width and in_channels must be positive."
    if sorted(map("RLAPSI".find, spec.axcodes)) not in _THREE_AXES:
        return f"axcodes is {spec.axcodes!r}, expected one each of R/L, A/P and S/I, such as LPS."
    if len(spec.spacing_mm) != 3 or min(spec.spacing_mm) <= 0:
        return f"spacing_mm is {spec.spacing_mm}, expected three positive numbers."
    if len(spec.patch_shape) != 3 or any(n < 32 or n % 16 for n in spec.patch_shape):
        return f"patch_shape is {spec.patch_shape}, expected three multiples of 16, 32 or more."
    if spec.task == "segmentation":
        if any(n % 32 for n in spec.patch_shape):
            return f"patch_shape is {spec.patch_shape}, the UNet needs multiples of 32."
        if max(spec.patch_shape) < 64:  # stride 32 would leave one voxel to normalise
            return f"patch_shape is {spec.patch_shape}, the UNet needs 64 along one axis or more."
        if spec.channels[:1] != (BACKGROUND,) or len(spec.channels) < 2:
            return f"channels must start with {BACKGROUND!r} and name at least one label."
        unknown = set(spec.channels[1:]) - {label.name for label in LABELS}
        if unknown:
            return f"channels name unknown labels: {', '.join(sorted(unknown))}."
    if spec.task == "screening" and not spec.organs:
        return "organs must name the organs that the model screens."
    for organ in spec.organs:
        organ_named(organ)
    if spec.task == "attributes" and not spec.attributes:
        return "attributes must list the options of each attribute."
    for file in spec.weights:
        if "/" in file.file or "\\" in file.file or not file.file.endswith(".safetensors"):
            return f"weights file {file.file!r} must be a .safetensors name without a folder."
    return ""
