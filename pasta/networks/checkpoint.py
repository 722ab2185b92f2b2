"""Model folders: `spec.json` and one safetensors file per fold, loaded strictly or not at all."""

from __future__ import annotations

import hashlib
import os
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from pasta.errors import CheckpointError, OutputError
from pasta.networks.unet import PastaClassifier, PastaUNet
from pasta.spec import SPEC_FILE, ModelSpec, WeightsFile

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import nn

MODELS_VARIABLE = "PASTA_MODELS"
PACKAGED_MODELS = Path(__file__).resolve().parents[1] / "weights"
PREFIXES = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile


@dataclass(frozen=True, slots=True)
class Model:
    """A model folder whose specification is read and whose weight files exist.

    Attributes:
        spec: what the weights expect and return.
        folder: holds `spec.json` and the weights.
    """

    spec: ModelSpec
    folder: Path

    def networks(self, device: torch.device) -> list[nn.Module]:
        """Load every fold.

        Args:
            device: where the networks will run.

        Returns:
            One network per fold, float32, in eval mode.

        Raises:
            CheckpointError: if a file is missing or damaged (its SHA-256 is not that of the
                specification), or a tensor is missing, extra, of the wrong shape or not finite.
        """
        return [self._network(file).to(device).eval() for file in self.spec.weights]

    def provenance(self) -> dict[str, Any]:
        """Say which weights these are, for every result made with them; JSON-ready."""
        return {
            "name": self.spec.name,
            "version": self.spec.version,
            "task": self.spec.task,
            "weights_sha256": [file.sha256 for file in self.spec.weights],
            "folds": len(self.spec.weights),
        }

    def _network(self, file: WeightsFile) -> nn.Module:
        path = self.folder / file.file
        try:
            data = path.read_bytes()
        except OSError as error:
            msg = f"{path}: not readable ({error.strerror}). Import or copy the model again."
            raise CheckpointError(msg) from error
        found = hashlib.sha256(data).hexdigest()
        if found != file.sha256:
            msg = (
                f"{path}: SHA-256 is {found}, {SPEC_FILE} says {file.sha256}. The file was damaged "
                "or exchanged; import or copy the model again."
            )
            raise CheckpointError(msg)
        try:
            state = load_safetensors(data)
        except (SafetensorError, ValueError, KeyError) as error:
            msg = f"{path}: not a safetensors file ({error}). Import the model again."
            raise CheckpointError(msg) from error
        del data
        with torch.device("meta"):
            network = build_network(self.spec)
        fitting = fitting_state(state, network, str(path))
        network.load_state_dict(
            {name: tensor.to(torch.float32) for name, tensor in fitting.items()},
            strict=True,
            assign=True,  # the network has no storage of its own yet
        )
        return network


@dataclass(frozen=True, slots=True)
class ModelSet:
    """The models that a pipeline works with; None or absent where there are none.

    Attributes:
        segmentation: of the 25 labels or some of them.
        screening: by organ; one model may stand for several organs.
        attributes: of the structured report.
    """

    segmentation: Model | None = None
    screening: Mapping[str, Model] = field(default_factory=dict)
    attributes: Model | None = None

    @property
    def weights_sha256(self) -> dict[str, str]:
        """Name the weights of each model by one hash.

        Returns:
            By the model's name: SHA-256 of its file; of several folds, that of theirs, one a line.
        """
        models = (self.segmentation, *self.screening.values(), self.attributes)
        return {
            model.spec.name: _combined([file.sha256 for file in model.spec.weights])
            for model in models
            if model
        }


def _combined(digests: Sequence[str]) -> str:
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def build_network(spec: ModelSpec) -> nn.Module:
    """Build the network that a specification describes, with fresh random weights."""
    kind = PastaUNet if spec.task == "segmentation" else PastaClassifier
    return kind(spec.num_outputs, spec.width, spec.in_channels)


def stripped_name(name: str) -> str:
    """Drop what DistributedDataParallel and torch.compile put before a tensor's name."""
    while name.startswith(PREFIXES):
        name = name.split(".", 1)[1]
    return name


def fitting_state(
    state: Mapping[str, torch.Tensor], network: nn.Module, source: str
) -> dict[str, torch.Tensor]:
    """Check that tensors are exactly those of a network.

    Args:
        state: tensors by name.
        network: on any device, "meta" too.
        source: file or object that errors name.

    Returns:
        The tensors, in the order of the network.

    Raises:
        CheckpointError: naming the first tensor that is missing, extra, of the wrong shape, not
            floating point or not finite.
    """
    wanted = network.state_dict()
    kind = type(network).__name__
    for name, target in wanted.items():
        if name not in state:
            msg = (
                f"{source}: tensor {name} {_shape(target)} of {kind} is missing. These weights "
                "belong to another network; inspect the file with `pasta weights inspect`."
            )
            raise CheckpointError(msg)
        tensor = state[name]
        if tensor.shape != target.shape:
            msg = (
                f"{source}: tensor {name} has shape {_shape(tensor)}, {kind} wants "
                f"{_shape(target)}. Width, classes or channels differ from the specification."
            )
            raise CheckpointError(msg)
        if not tensor.is_floating_point():
            msg = f"{source}: tensor {name} is {tensor.dtype}, expected floating point."
            raise CheckpointError(msg)
        if not bool(torch.isfinite(tensor).all()):
            msg = (
                f"{source}: tensor {name} holds values that are not finite. The training diverged "
                "or the file is damaged; take an earlier checkpoint."
            )
            raise CheckpointError(msg)
    extra = [name for name in state if name not in wanted]
    if extra:
        msg = (
            f"{source}: tensor {extra[0]} {_shape(state[extra[0]])} is not part of {kind} "
            f"({len(extra)} such). These weights belong to another network."
        )
        raise CheckpointError(msg)
    return {name: state[name] for name in wanted}


def load_model(folder: Path) -> Model:
    """Read the specification of a model folder and check that its weight files exist.

    Raises:
        CheckpointError: if `spec.json` is missing or wrong, names no weights, or a file is missing.
    """
    spec = ModelSpec.load(folder)
    if not spec.weights:
        msg = f"{folder / SPEC_FILE}: names no weights. Import or train the model again."
        raise CheckpointError(msg)
    for file in spec.weights:
        if not (folder / file.file).is_file():
            msg = (
                f"{folder / file.file}: not found, though {SPEC_FILE} names it. Copy the whole "
                "model folder, or import the weights again with `pasta weights import`."
            )
            raise CheckpointError(msg)
    return Model(spec, folder)


def save_model(
    networks: Sequence[nn.Module], spec: ModelSpec, folder: Path, *, half: bool = True
) -> Model:
    """Write a model folder; what was there before stays whole until the new model is.

    Weight files carry part of their hash in their name, so that an interrupted save never leaves
    the old `spec.json` beside new weights.

    Args:
        networks: one per fold; `module.` and `_orig_mod.` wrappers are taken off.
        spec: its `weights` are replaced.
        folder: made where it is missing.
        half: store float16 instead of float32.

    Returns:
        The saved model.

    Raises:
        CheckpointError: if a network does not fit the specification or is not finite in the wanted
            precision.
        OutputError: if the folder cannot be written.
    """
    states = [
        {stripped_name(name): tensor for name, tensor in network.state_dict().items()}
        for network in networks
    ]
    return save_states(states, spec, folder, half=half)


def save_states(
    states: Sequence[Mapping[str, torch.Tensor]],
    spec: ModelSpec,
    folder: Path,
    *,
    half: bool,
    sources: Sequence[str] = (),
) -> Model:
    """Write a model folder from tensors by name, one mapping per fold; see `save_model`.

    Args:
        states: tensors of each fold.
        spec: its `weights` are replaced.
        folder: made where it is missing.
        half: store float16 instead of float32.
        sources: what errors name, one per fold.
    """
    if not states:
        msg = f"model {spec.name}: no network to save."
        raise CheckpointError(msg)
    with torch.device("meta"):
        network = build_network(spec)
    dtype = torch.float16 if half else torch.float32
    try:
        folder.mkdir(parents=True, exist_ok=True)
        before = _weight_names(folder)
        files = []
        for fold, state in enumerate(states):
            source = sources[fold] if sources else f"fold {fold} of model {spec.name}"
            stored = {
                name: tensor.detach().to("cpu", dtype).contiguous().clone()
                for name, tensor in fitting_state(state, network, source).items()
            }
            fitting_state(stored, network, f"{source} as {dtype}")  # float16 overflows at 65504
            data = save_safetensors(stored, {"format": "pt"})
            digest = hashlib.sha256(data).hexdigest()
            name = f"fold{fold}-{digest[:8]}.safetensors"
            with _atomic(folder / name) as path:
                path.write_bytes(data)
            files.append(WeightsFile(name, digest))
        saved = replace(spec, weights=tuple(files))
        with _atomic(folder / SPEC_FILE) as path:
            saved.save(path.parent)
        for name in before - {file.file for file in files}:
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        msg = f"{folder}: the model cannot be written ({error.strerror}). Free space or choose -o."
        raise OutputError(msg) from error
    return Model(saved, folder)


def find_models(folder: Path | None = None) -> ModelSet:
    """Collect the models of a folder that holds one model folder per subfolder.

    Args:
        folder: None takes the folder that the environment variable PASTA_MODELS names, else the
            weights that come with the package. A folder that is itself a model counts as one.

    Returns:
        The models; nothing where the package has no weights.

    Raises:
        CheckpointError: if the named folder is missing or holds no model, a model is broken, or two
            models serve the same purpose.
    """
    if folder is None:
        named = os.environ.get(MODELS_VARIABLE, "")
        folder = Path(named) if named else PACKAGED_MODELS
    if folder == PACKAGED_MODELS and not folder.is_dir():
        return ModelSet()
    if not folder.is_dir():
        msg = f"{folder}: no such folder. Set {MODELS_VARIABLE} to a folder of model folders."
        raise CheckpointError(msg)
    children = sorted(path for path in folder.iterdir() if path.is_dir())
    candidates = [folder, *(path for path in children if not path.name.startswith("."))]
    models = [load_model(path) for path in candidates if (path / SPEC_FILE).is_file()]
    if not models and folder != PACKAGED_MODELS:
        msg = (
            f"{folder}: holds no model folder with a {SPEC_FILE}. Import weights with "
            f"`pasta weights import FILE -o {folder}/NAME`."
        )
        raise CheckpointError(msg)
    by_purpose: dict[str, Model] = {}
    for model in models:
        for purpose in _purposes(model.spec):
            if purpose in by_purpose:
                msg = (
                    f"{folder}: {by_purpose[purpose].folder.name} and {model.folder.name} are both "
                    f"for {purpose}. Keep one of them."
                )
                raise CheckpointError(msg)
            by_purpose[purpose] = model
    screening = {
        organ: model
        for model in models
        if model.spec.task == "screening"
        for organ in model.spec.organs
    }
    return ModelSet(by_purpose.get("segmentation"), screening, by_purpose.get("attributes"))


def _purposes(spec: ModelSpec) -> list[str]:
    if spec.task != "screening":
        return [spec.task]
    return [f"screening of the {organ}" for organ in spec.organs]


def _weight_names(folder: Path) -> set[str]:
    """Name the weight files of the model that a folder holds, if any."""
    try:
        return {file.file for file in ModelSpec.load(folder).weights}
    except CheckpointError:
        return set()


def _shape(tensor: torch.Tensor) -> str:
    return f"({', '.join(str(n) for n in tensor.shape)})"


@contextmanager
def _atomic(path: Path) -> Iterator[Path]:
    """Give a path to write to; fsync and rename it to `path` when the block succeeds."""
    with tempfile.TemporaryDirectory(prefix=".part-", dir=path.parent) as scratch:
        written = Path(scratch) / path.name
        yield written
        _flush(written)
        written.replace(path)
        _flush(path.parent)  # the rename itself


def _flush(path: Path) -> None:
    """Ask the disk to hold what was written to a file or folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
