"""Training patches of the denoising network: CT of a template with the mask of one organ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from pasta.labels import label_named
from training.synthesis.cases import box_around
from training.synthesis.refinement.diffusion import RefinementError, Run, scaled
from training.synthesis.templates import AIR_HU, MIN_ORGAN_MM3

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from training.synthesis.templates import Template, TemplateStore

TRIES = 64  # voxels of an organ's bounds looked at until one lies in the organ


@dataclass(frozen=True, slots=True)
class Source:
    """A template with the organs that patches are centred on."""

    template: Template
    organs: tuple[str, ...]


def sources(store: TemplateStore, run: Run) -> list[Source]:
    """List the templates of a run.

    Raises:
        RefinementError: if there is none with an organ.
        TemplateError: if one is damaged.
    """
    found = []
    for template in store:
        organs = tuple(
            name for name, facts in template.organs.items() if facts.volume_mm3 > MIN_ORGAN_MM3
        )
        if organs and (run.rendered or not template.rendered):
            found.append(Source(template, organs))
    if not found:
        kind = "template" if run.rendered else "template of a real CT"
        msg = f"{store.folder}: no {kind} with an organ. Import cases with `templates import`."
        raise RefinementError(msg)
    return found


def draw_patch(
    among: list[Source], patch: int, rng: np.random.Generator
) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
    """Draw a template, an organ and a place in it.

    Args:
        among: of `sources`.
        patch: edge in voxels; beyond the scan is air.
        rng: source of randomness.

    Returns:
        (I, J, K) HU and the mask of the organ.
    """
    source = among[int(rng.integers(len(among)))]
    template, organ = source.template, source.organs[int(rng.integers(len(source.organs)))]
    value, bounds = label_named(organ).value, template.organs[organ].box
    low = np.array([part.start for part in bounds])
    high = np.array([part.stop for part in bounds])
    for place in rng.integers(low, high, (TRIES, 3)):
        centre = place
        if template.labels[tuple(place)] == value:
            break
    box = box_around(template.shape, centre.tolist(), (patch,) * 3)
    hu = np.full((patch,) * 3, AIR_HU, np.int16)
    mask = np.zeros((patch,) * 3, bool)
    labels = template.labels[box]
    inside = tuple(slice(0, n) for n in labels.shape)
    hu[inside], mask[inside] = template.hu[box], labels == value
    return hu, mask


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step learns from.

    Attributes:
        image: (B, 1, I, J, K) CT in [-1, 1].
        organ: (B, 1, I, J, K) 0 or 1.
        noise: (B, 1, I, J, K) standard normal.
        times: (B,) int64 time steps.
    """

    image: torch.Tensor
    organ: torch.Tensor
    noise: torch.Tensor
    times: torch.Tensor


def draw_batch(among: list[Source], run: Run, step: int, timesteps: int) -> Batch:
    """Draw the batch of one step; it depends on seed and step alone, so a resumed run is the same."""
    rng = np.random.default_rng((run.seed, step))
    drawn = [draw_patch(among, run.patch, rng) for _ in range(run.batch)]
    image = scaled(torch.from_numpy(np.stack([hu for hu, _ in drawn]))[:, None])
    organ = torch.from_numpy(np.stack([mask for _, mask in drawn]))[:, None].float()
    noise = torch.from_numpy(rng.standard_normal(tuple(image.shape), dtype=np.float32))
    times = torch.from_numpy(rng.integers(0, timesteps, run.batch))
    return Batch(image, organ, noise, times)
