"""Train the screening and the attribute head on the encoder of the segmentation network.

The three finest encoder levels stay as the segmentation left them: their maps are computed once per
sample and kept. The two levels above them and the head are trained on these maps.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from tqdm import tqdm

from pasta.evaluation.ranking import auroc
from pasta.geometry import Volume
from pasta.labels import label_named, lesions_of
from pasta.networks.unet import PastaClassifier, PastaUNet
from pasta.preprocessing.crops import crop_around
from pasta.preprocessing.intensity import AIR_HU, normalized
from pasta.spec import ModelSpec
from training.sampling import Augmentation, draw_turn, extracted, vary_intensity
from training.synthesis.lesions import DrawnLesion, add_lesions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from training.cases import Case

log = logging.getLogger(__name__)
FROZEN_LEVELS = 3
SOFT_TISSUE_HU = 55.0  # muscle: the reference of lesions in hollow organs and lung
DENSITY_HU = 10.0  # within this of the reference is isodense
ILL_DEFINED_MM = 1.2
BENIGN_SHARE = 0.4
_NO_PARENCHYMA = {"lung", "esophagus", "stomach", "colorectum", "bladder", "gallbladder"}
Sample = tuple[torch.Tensor, list[int]]


@dataclass(frozen=True, slots=True)
class HeadSchedule:
    """How a head is trained: samples drawn once, passes over them, rates."""

    samples: int
    epochs: int
    batch: int = 16
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2


def screening_sample(
    source: Case, organ: str, spec: ModelSpec, rng: np.random.Generator
) -> Sample | None:
    """Draw one organ crop, with or without drawn tumours; cysts and stones come with both.

    Args:
        source: case on a grid of the spec's spacing; the organ is labelled in it.
        organ: to crop.
        spec: of the screening model.
        rng: source of randomness.

    Returns:
        Network input and [0] or [1] for a tumour; None where the organ is too small.
    """
    values = [label_named(organ).value, *(lesion.value for lesion in lesions_of(organ))]
    known = [source.places[v] for v in values if v in source.places]
    if not known:
        return None
    places = np.concatenate(known)
    turn, zoom = draw_turn(Augmentation(degrees=8.0, scale=(0.85, 1.2)), rng)
    low, high = places.min(axis=0), places.max(axis=0) + 1
    margin = spec.margin_mm / spec.spacing_mm[0] + 6
    i, j, k = (int(n) for n in np.ceil((high - low) * zoom + 2 * margin))
    hu, labels = extracted(source, (low + high - 1) / 2, turn / zoom, (i, j, k))
    lesions = lesions_of(organ)
    benign = [lesion.name for lesion in lesions if not lesion.malignant]
    tumours = [lesion.name for lesion in lesions if lesion.malignant]
    names = []
    if rng.random() < 0.5:
        names += [str(rng.choice(tumours)) for _ in range(int(rng.integers(1, 3)))]
    if benign and rng.random() < BENIGN_SHARE:
        names += [str(rng.choice(benign)) for _ in range(int(rng.integers(1, 3)))]
    hu, labels, _ = add_lesions(hu, labels, names, spec.spacing_mm[0], rng)
    present = bool(np.isin(labels, [label_named(name).value for name in tumours]).any())
    hu = vary_intensity(hu, Augmentation(), rng)
    spacing = np.array(spec.spacing_mm)
    volume = Volume(hu, np.diag([-spacing[0], -spacing[1], spacing[2], 1.0]))
    found = np.argwhere(np.isin(labels, values))
    if len(found) * float(spacing.prod()) < 4000:
        return None
    bounds = [
        (int(a), int(b) + 1) for a, b in zip(found.min(axis=0), found.max(axis=0), strict=True)
    ]
    crop = crop_around(volume.grid, (bounds[0], bounds[1], bounds[2]), spec)
    return crop.patch(volume, spec), [int(present)]


def attribute_targets(lesion: DrawnLesion, hu: NDArray[np.float32]) -> list[int]:
    """Say the five attributes of a drawn lesion as option indices, in report order.

    Shape, heterogeneity, surface and invasion are those it was drawn with; density compares the
    drawn attenuation with the tissue around it (hollow organs and lung: with muscle).
    """
    recipe = lesion.recipe
    reference = lesion.host_hu
    if label_named(recipe.label).organ in _NO_PARENCHYMA and recipe.label != "gallstone":
        reference = SOFT_TISSUE_HU
    difference = float(hu[lesion.mask].mean()) - reference
    density = 0 if difference < -DENSITY_HU else 2 if difference > DENSITY_HU else 1
    surface = int(recipe.margin_mm > ILL_DEFINED_MM)
    return [recipe.shape, density, int(recipe.heterogeneous), surface, int(recipe.invasive)]


def attribute_sample(
    source: Case, name: str, spec: ModelSpec, rng: np.random.Generator
) -> Sample | None:
    """Draw one lesion and cut the patch around it.

    Args:
        source: case on a grid of the spec's spacing; the lesion's organ is labelled in it.
        name: of the lesion.
        spec: of the attribute model.
        rng: source of randomness.

    Returns:
        Network input and the five option indices; None where the lesion does not fit.
    """
    places = source.places.get(label_named(label_named(name).organ).value)
    if places is None:
        return None
    turn, zoom = draw_turn(Augmentation(degrees=15.0, scale=(0.85, 1.15)), rng)
    patch = np.array(spec.patch_shape)
    i, j, k = (int(n) for n in patch + 24)
    centre = places[rng.integers(len(places))].astype(float)
    hu, labels = extracted(source, centre, turn / zoom, (i, j, k))
    hu, labels, drawn = add_lesions(hu, labels, [name], spec.spacing_mm[0], rng)
    if not drawn or np.count_nonzero(drawn[0].mask) < 8:
        return None
    targets = attribute_targets(drawn[0], hu)
    hu = vary_intensity(hu, Augmentation(), rng)
    found = np.argwhere(drawn[0].mask)
    middle = (found.min(axis=0) + found.max(axis=0)) / 2 + rng.normal(0, 1.5, size=3)
    start = np.rint(middle - patch / 2).astype(int)
    padded = np.pad(hu, [(n, n) for n in patch], constant_values=AIR_HU)
    window = padded[tuple(slice(s + n, s + 2 * n) for s, n in zip(start, patch, strict=True))]
    x = normalized(torch.from_numpy(np.ascontiguousarray(window, dtype=np.float32)), spec.intensity)
    return x, targets


def drawn_maps(
    draw: Callable[[np.random.Generator], Sample | None],
    count: int,
    stem: nn.Module,
    rng: np.random.Generator,
    title: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw samples and compute the maps of the frozen levels.

    Args:
        draw: gives a sample, or None to try again.
        count: of the samples.
        stem: frozen levels.
        rng: source of randomness.
        title: of the progress bar.

    Returns:
        (N, C, I, J, K) float16 maps and (N, groups) targets.
    """
    maps: list[torch.Tensor] = []
    targets: list[list[int]] = []
    waiting: list[torch.Tensor] = []
    with tqdm(total=count, desc=title, mininterval=10) as bar, torch.inference_mode():
        while len(targets) < count:
            sample = draw(rng)
            if sample is None:
                continue
            waiting.append(sample[0])
            targets.append(sample[1])
            bar.update()
            if len(waiting) == 2 or len(targets) == count:
                x = torch.stack(waiting)[:, None].contiguous(memory_format=torch.channels_last_3d)
                maps.append(stem(x).to(torch.float16))
                waiting = []
    return torch.cat(maps), torch.tensor(targets)


def encoder_of(network: PastaUNet, num_outputs: int) -> PastaClassifier:
    """Build a classifier whose encoder is that of a segmentation network, its head fresh."""
    width = network.conv_blocks_context[0].blocks[0].conv.out_channels  # type: ignore[union-attr, index]
    classifier = PastaClassifier(num_outputs, int(width))
    state = network.state_dict()
    own = classifier.state_dict()
    classifier.load_state_dict(
        {name: own[name] if name.startswith("head") else state[name] for name in own}
    )
    return classifier


def train_head(
    classifier: PastaClassifier,
    maps: torch.Tensor,
    targets: torch.Tensor,
    groups: Sequence[int],
    schedule: HeadSchedule,
    seed: int,
) -> None:
    """Train the upper encoder levels and the head in place.

    Args:
        classifier: its first `FROZEN_LEVELS` levels made the maps and are left alone.
        maps: of `drawn_maps`.
        targets: (N, groups) option indices.
        groups: options of each group, in the order of the outputs.
        schedule: passes and rates.
        seed: of the order of the samples.
    """
    torch.manual_seed(seed)
    trained = [*classifier.conv_blocks_context[FROZEN_LEVELS:].parameters()]
    trained += classifier.head.parameters()
    optimizer = torch.optim.AdamW(
        trained, lr=schedule.learning_rate, weight_decay=schedule.weight_decay
    )
    batches = -(-len(targets) // schedule.batch)
    rates = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, schedule.learning_rate, total_steps=batches * schedule.epochs
    )
    weights = [
        _balance(torch.bincount(targets[:, group], minlength=size).float())
        for group, size in enumerate(groups)
    ]
    order = torch.Generator().manual_seed(seed)
    for _ in tqdm(range(schedule.epochs), desc="head", mininterval=10):
        for chosen in torch.split(torch.randperm(len(targets), generator=order), schedule.batch):
            logits = top(classifier, maps[chosen].float())
            loss = torch.stack(
                [
                    functional.cross_entropy(part, targets[chosen, group], weight=weights[group])
                    for group, part in enumerate(torch.split(logits, list(groups), dim=1))
                ]
            ).mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            rates.step()
    classifier.eval()


def _balance(counts: torch.Tensor) -> torch.Tensor:
    """Weigh options by the inverse square root of their number; those never seen by 1."""
    weight = counts.clamp(min=1).rsqrt()
    return torch.where(counts > 0, weight / weight[counts > 0].mean(), torch.ones(()))


def top(classifier: PastaClassifier, maps: torch.Tensor) -> torch.Tensor:
    """Compute logits from the maps of the frozen levels."""
    for level in classifier.conv_blocks_context[FROZEN_LEVELS:]:
        maps = level(maps)
    return classifier.head(maps.mean(dim=(2, 3, 4)))  # type: ignore[no-any-return]


def stem_of(classifier: PastaClassifier) -> nn.Module:
    """Give the frozen levels, as `drawn_maps` wants them."""
    stem = nn.Sequential(*classifier.conv_blocks_context[:FROZEN_LEVELS])
    return stem.to(memory_format=torch.channels_last_3d).eval()  # type: ignore[call-overload, no-any-return]


@torch.inference_mode()
def measured_head(
    classifier: PastaClassifier,
    maps: torch.Tensor,
    targets: torch.Tensor,
    groups: Sequence[int],
) -> list[dict[str, float]]:
    """Measure each group on samples not trained on: balanced accuracy, and the AUROC of two."""
    logits = torch.cat([top(classifier, part.float()) for part in torch.split(maps, 16)])
    out = []
    for group, part in enumerate(torch.split(logits, list(groups), dim=1)):
        truth = targets[:, group]
        right = part.argmax(dim=1) == truth
        recalls = [float(right[truth == c].float().mean()) for c in torch.unique(truth)]
        entry = {"balanced_accuracy": sum(recalls) / len(recalls), "samples": float(len(truth))}
        if groups[group] == 2:
            entry["auroc"] = auroc((part[:, 1] - part[:, 0]).numpy(), (truth == 1).numpy())
        out.append(entry)
    return out


def hosts_of(cases: Iterable[Case], organ: str) -> list[Case]:
    """List cases in which an organ is labelled and no tumour of it may be hidden."""
    tumours = {lesion.name for lesion in lesions_of(organ) if lesion.malignant}
    value = label_named(organ).value
    return [
        case
        for case in cases
        if organ in case.labelled and not tumours & set(case.hidden) and value in case.places
    ]
