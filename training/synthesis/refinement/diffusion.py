"""The denoising network of the paper (Methods 1.5), its noise schedule, and its weights on disk."""

from __future__ import annotations

import hashlib
import json
import math
import tomllib
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet
from monai.networks.schedulers.ddpm import DDPMScheduler
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from pasta.errors import CheckpointError, OutputError, PastaError
from pasta.io.files import atomic_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import nn

    from pasta.geometry import Shape

HALF_RANGE_HU = 1000.0  # -1000 to 1000 HU become -1 to 1, so sigma 0.026 of t = 5 is 26 HU
TIMESTEPS = 1000
STEPS_ALLOWED = (0, 5, 10, 50, 100)
WEIGHTS_FILE, RUN_FILE = "weights.safetensors", "run.json"
INPUTS = 2  # noisy CT and organ mask


class RefinementError(PastaError, ValueError):
    """A run file is wrong, or a volume cannot be refined."""


@dataclass(frozen=True, slots=True)
class Run:
    """One training run of the denoising network, as read from TOML.

    Attributes:
        seed: of weights, patches and noise.
        steps: in all.
        patch: edge of a training patch and of a sliding window, voxels of 1 mm.
        batch: patches a step.
        channels: of the levels of the U-Net; the paper's base is 16.
        residual_blocks: at each level.
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        average: decay of the moving average of the weights, which is what gets used (Ho et al. 2020).
        rendered: train on painted templates too, not only on CT.
        checkpoint_seconds: between checkpoints.
    """

    seed: int
    steps: int
    patch: int
    batch: int
    channels: tuple[int, ...] = (16, 32, 64, 128)
    residual_blocks: int = 1
    learning_rate: float = 1e-4
    weight_decay: float = 1e-5
    average: float = 0.999
    rendered: bool = False
    checkpoint_seconds: float = 300.0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            RefinementError: naming the field.
        """
        stride = 2 ** (len(self.channels) - 1)
        problems = {
            "seed": self.seed < 0,
            "steps": self.steps < 1,
            "batch": self.batch < 1,
            "residual_blocks": self.residual_blocks < 1,
            "channels": len(self.channels) < 2 or any(n < 1 for n in self.channels),
            f"patch (a multiple of {stride})": self.patch < stride or self.patch % stride > 0,
            "learning_rate": not 0 < self.learning_rate < 1,
            "weight_decay": not 0 <= self.weight_decay < 1,
            "average": not 0 <= self.average < 1,
            "checkpoint_seconds": not self.checkpoint_seconds >= 0,
        }
        for name, wrong in problems.items():
            if wrong:
                msg = f"run: {name} is out of range. Correct it in the run file."
                raise RefinementError(msg)

    @property
    def window(self) -> Shape:
        """Shape of patches and windows."""
        return self.patch, self.patch, self.patch

    @classmethod
    def read(cls, path: Path) -> Run:
        """Read a TOML run file.

        Raises:
            RefinementError: if it cannot be read, or a field is unknown, missing or out of range.
        """
        try:
            document = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            msg = f"{path}: not a readable TOML file ({error}). Name a run file with --config."
            raise RefinementError(msg) from error
        return cls.from_document(document, str(path))

    @classmethod
    def from_document(cls, document: Mapping[str, Any], where: str) -> Run:
        """Build from a TOML or JSON document.

        Raises:
            RefinementError: if a field is unknown, missing, of a wrong type or out of range.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(document) - known)
        if unknown:
            msg = f"{where}: unknown field {unknown[0]!r}. Remove it; known: {', '.join(sorted(known))}."
            raise RefinementError(msg)
        values = dict(document)
        if isinstance(values.get("channels"), list):
            values["channels"] = tuple(values["channels"])
        kinds: dict[str, Any] = {
            "int": int,
            "float": (int, float),
            "bool": bool,
            "tuple[int, ...]": tuple,
        }
        for field in fields(cls):
            value = values.get(field.name)
            wrong = value is not None and not isinstance(value, kinds[str(field.type)])
            if wrong or (isinstance(value, bool) and field.type != "bool"):
                msg = f"{where}: {field.name} is {value!r}, expected {field.type}. Correct it."
                raise RefinementError(msg)
        if any(not isinstance(n, int) for n in values.get("channels", ())):
            msg = f"{where}: channels must be whole numbers. Correct them."
            raise RefinementError(msg)
        try:
            return cls(**values)
        except TypeError as error:
            msg = f"{where}: seed, steps, patch and batch are needed. Add the missing one."
            raise RefinementError(msg) from error
        except RefinementError as error:
            msg = f"{where}: {error}"
            raise RefinementError(msg) from error


def build_network(run: Run) -> nn.Module:
    """Build the U-Net: (B, 2, I, J, K) noisy CT and organ mask and (B,) time step to noise.

    Group normalisation replaces MONAI's 32 groups by as many as the channels have in common. MONAI
    puts one attention block in the middle, whose cost at a window of 128 (16^3 tokens) is small.

    Raises:
        RefinementError: if einops is not installed.
    """
    groups = math.gcd(32, *run.channels)
    try:
        network: nn.Module = DiffusionModelUNet(
            spatial_dims=3,
            in_channels=INPUTS,
            out_channels=1,
            num_res_blocks=run.residual_blocks,
            channels=run.channels,
            attention_levels=[False] * len(run.channels),
            norm_num_groups=groups,
            num_head_channels=groups,
        )
    except ImportError as error:  # of einops, by MONAI
        msg = "the network needs einops, which is not installed. Run `pip install einops`."
        raise RefinementError(msg) from error
    return network


def noise_schedule() -> DDPMScheduler:
    """T = 1000, beta linear from 1e-4 to 0.02 (Ho et al. 2020); predictions of x0 stay in [-1, 1]."""
    return DDPMScheduler(
        num_train_timesteps=TIMESTEPS, schedule="linear_beta", beta_start=1e-4, beta_end=0.02
    )


def sigma_hu(steps: int) -> float:
    """Standard deviation of the noise after so many steps, HU.

    >>> [round(sigma_hu(t)) for t in (0, 5, 10, 50, 100)]
    [0, 26, 44, 170, 321]
    """
    if steps == 0:
        return 0.0
    return HALF_RANGE_HU * math.sqrt(1 - float(noise_schedule().alphas_cumprod[steps - 1]))


def scaled(hu: torch.Tensor) -> torch.Tensor:
    """Map -1000 to 1000 HU to -1 to 1, cut off beyond."""
    return (hu.float() / HALF_RANGE_HU).clamp_(-1, 1)


def save_weights(
    folder: Path, state: Mapping[str, torch.Tensor], run: Run, about: Mapping[str, Any]
) -> None:
    """Write `weights.safetensors` and then `run.json`, which names the weights by their hash.

    Raises:
        OutputError: if they cannot be written.
    """
    stored = {name: value.detach().float().cpu().contiguous() for name, value in state.items()}
    data = save_safetensors(stored, {"format": "pt"})
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"{folder}: cannot be made ({error.strerror}). Choose another --out."
        raise OutputError(msg) from error
    with atomic_file(folder / WEIGHTS_FILE) as file:
        file.write(data)
    document = {"run": asdict(run), "sha256": hashlib.sha256(data).hexdigest(), **about}
    with atomic_file(folder / RUN_FILE) as file:
        file.write(json.dumps(document, indent=1).encode())


def load_weights(folder: Path) -> tuple[nn.Module, Run]:
    """Read a trained network and its run.

    Raises:
        CheckpointError: if a file is missing, damaged, of another run, or does not fit the network.
    """
    try:
        document = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
        data = (folder / WEIGHTS_FILE).read_bytes()
        run = Run.from_document(document["run"], str(folder / RUN_FILE))
        expected = document["sha256"]
    except FileNotFoundError as error:
        name = error.filename
        msg = f"{name}: not found. Train first: python -m training.synthesis.refinement train."
        raise CheckpointError(msg) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = f"{folder / RUN_FILE}: damaged ({error}). Copy the folder again or train again."
        raise CheckpointError(msg) from error
    if hashlib.sha256(data).hexdigest() != expected:
        msg = f"{folder / WEIGHTS_FILE}: not the weights that {RUN_FILE} names. Copy both again."
        raise CheckpointError(msg)
    network = build_network(run)
    try:
        network.load_state_dict(load_safetensors(data), strict=True)
    except (SafetensorError, RuntimeError) as error:
        msg = f"{folder / WEIGHTS_FILE}: does not fit the network of {RUN_FILE}. Train again."
        raise CheckpointError(msg) from error
    return network.eval(), run
