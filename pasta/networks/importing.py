"""Turning published checkpoint files into a model folder."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pasta.errors import CheckpointError
from pasta.labels import BACKGROUND, LABELS, label_named
from pasta.networks.checkpoint import Model, save_states
from pasta.networks.published import UNUSED_BY_CLASSIFIER, Checkpoint, inspect_checkpoint
from pasta.report import head_options
from pasta.spec import ModelSpec, Segmental, Task, ZScore

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import torch

# PASTA's stage-1 fingerprint was never released. These are the foreground statistics of
# TotalSegmentator's nnU-Net plans (its 104 structures cover nearly all organs of PASTA, lung and
# bone included, and PASTA's healthy scans were labelled with it): near, not equal.
DEFAULT_INTENSITY = ZScore((-1024.0, 276.0), -370.0, 436.6)
DEFAULT_INTENSITY_SOURCE = (
    "foreground statistics of TotalSegmentator's nnU-Net plans, because those of PASTA's "
    "pretraining were never released"
)
CLASSIFICATION_AXCODES = "SAL"  # the public loader turns to LAS, then to (z, y, x)
PATCH_SHAPES: Mapping[Task, tuple[int, int, int]] = {
    "segmentation": (128, 128, 128),
    "screening": (128, 128, 128),
    "attributes": (96, 96, 96),
}
UNKNOWN_LICENSE = "Not stated in the file; see where it was published."


def import_checkpoint(
    paths: Sequence[Path],
    folder: Path,
    *,
    task: Task | None = None,
    labels: Sequence[str] = (),
    organs: Sequence[str] = (),
    intensity: ZScore | None = None,
    default_intensity: bool = False,
    axcodes: str | None = None,
    name: str = "",
    title: str = "",
    license_name: str = UNKNOWN_LICENSE,
    half: bool = True,
) -> Model:
    """Import published weights as a model folder.

    Args:
        paths: one file per fold of an ensemble.
        folder: of the model, made where it is missing; an older model in it is replaced.
        task: None takes the one that the files were surely made for.
        labels: segmentation: names of the foreground classes, in the order of their values; not
            needed for the 25 labels of PASTA or where the file names them.
        organs: screening: organs whose tumours the files were trained on.
        intensity: segmentation: clip, mean and standard deviation of the training's foreground; not
            needed where the file has them.
        default_intensity: accept `DEFAULT_INTENSITY` where they are unknown.
        axcodes: directions of the network's input axes, where they differ from the public code.
        name: of the model, shown in every result.
        title: one line for people.
        license_name: of the weights.
        half: store float16.

    Returns:
        The saved model.

    Raises:
        CheckpointError: if a file is no published checkpoint, does not fit the task or the other
            folds, or something that only the user can know is not given.
        OutputError: if the folder cannot be written.
    """
    if not paths:
        msg = "no checkpoint file given."
        raise CheckpointError(msg)
    folds = [inspect_checkpoint(path) for path in paths]
    first = folds[0]
    chosen = task or first.task
    if chosen is None:
        msg = (
            f"{first.path}: {first.num_classes} classes and {first.num_outputs} head outputs do "
            "not tell what it is for. Say so with --task."
        )
        raise CheckpointError(msg)
    for fold in folds:
        _check_fold(fold, first, chosen)
    common: dict[str, Any] = {
        "name": name or f"pasta-{chosen}",
        "version": f"import-{first.sha256[:8]}",
        "task": chosen,
        "title": title or f"Imported PASTA {chosen} weights, {len(folds)} fold(s)",
        "width": first.width,
        "in_channels": first.in_channels,
        "patch_shape": PATCH_SHAPES[chosen],
        "license": license_name,
        "trained_on": "Not stated in the file; see where it was published.",
    }
    if chosen == "segmentation":
        spec = ModelSpec(
            **{**common, "patch_shape": first.patch_shape or PATCH_SHAPES[chosen]},
            spacing_mm=first.spacing_mm,
            axcodes=axcodes or first.axcodes,
            intensity=_intensity(first, intensity, default_intensity=default_intensity),
            channels=_channels(first, labels),
        )
    else:
        if chosen == "screening" and not organs:
            msg = f"{first.path}: say with --organs whose tumours it was trained to find."
            raise CheckpointError(msg)
        spec = ModelSpec(
            **common,
            spacing_mm=(1.0, 1.0, 1.0),
            axcodes=axcodes or CLASSIFICATION_AXCODES,
            intensity=Segmental(),
            organs=tuple(organs) if chosen == "screening" else (),
            attributes=(
                head_options(published=first.num_outputs == 14) if chosen == "attributes" else {}
            ),
        )
    return save_states(
        [_used(fold, chosen) for fold in folds],
        spec,
        folder,
        half=half,
        sources=[str(fold.path) for fold in folds],
    )


def _check_fold(fold: Checkpoint, first: Checkpoint, task: Task) -> None:
    """Refuse a file that cannot serve the task or is not of the same kind as the first."""
    if fold.in_channels != 1:
        msg = f"{fold.path}: the network takes {fold.in_channels} channels, a CT has one."
        raise CheckpointError(msg)
    outputs = fold.num_classes if task == "segmentation" else fold.num_outputs
    wanted = {"segmentation": None, "screening": (2,), "attributes": (13, 14)}[task]
    if outputs is None:
        part = "segmentation heads" if task == "segmentation" else "an MLP head"
        msg = f"{fold.path}: {task} needs {part}, and the file has none."
        raise CheckpointError(msg)
    if wanted is not None and outputs not in wanted:
        sizes = " or ".join(str(n) for n in wanted)
        msg = f"{fold.path}: the MLP head has {outputs} outputs, {task} wants {sizes}."
        raise CheckpointError(msg)

    def kind(checkpoint: Checkpoint) -> tuple[object, ...]:
        if task != "segmentation":
            return (checkpoint.width, checkpoint.num_outputs)
        return (
            checkpoint.width,
            checkpoint.num_classes,
            checkpoint.class_names,
            checkpoint.intensity,
            checkpoint.axcodes,
            checkpoint.spacing_mm,
            checkpoint.patch_shape,
        )

    if kind(fold) != kind(first):
        msg = (
            f"{fold.path}: differs from {first.path.name} in width, classes or preprocessing. "
            "Folds of one ensemble must be alike; import the file on its own."
        )
        raise CheckpointError(msg)


def _channels(checkpoint: Checkpoint, labels: Sequence[str]) -> tuple[str, ...]:
    classes = checkpoint.num_classes or 0
    if labels:
        given = [label_named(name).name for name in labels]
        if len(given) != classes - 1 or len(set(given)) != len(given):
            msg = (
                f"{checkpoint.path}: has {classes} classes with background, so --labels must name "
                f"{classes - 1} different labels, not {', '.join(given)}."
            )
            raise CheckpointError(msg)
        return (BACKGROUND, *given)
    if checkpoint.num_classes == checkpoint.num_outputs:
        msg = (
            f"{checkpoint.path}: {classes} segmentation classes equal the outputs of the MLP head, "
            "so the segmentation heads are probably untrained. Use --task attributes or screening; "
            "if you know better, name the classes with --labels."
        )
        raise CheckpointError(msg)
    if not checkpoint.channels:
        inside = (
            f" (the file calls them {', '.join(checkpoint.class_names)})"
            if checkpoint.class_names
            else ""
        )
        msg = (
            f"{checkpoint.path}: has {classes} classes with background{inside}. Name the "
            f"{classes - 1} labels in order with --labels, such as --labels lung,lung_tumor; "
            f"known are {', '.join(label.name for label in LABELS)}."
        )
        raise CheckpointError(msg)
    return checkpoint.channels


def _intensity(checkpoint: Checkpoint, given: ZScore | None, *, default_intensity: bool) -> ZScore:
    chosen = given or checkpoint.intensity or (DEFAULT_INTENSITY if default_intensity else None)
    if chosen is None:
        low, high = DEFAULT_INTENSITY.clip_hu
        msg = (
            f"{checkpoint.path}: does not say how HU were normalised. Give --clip-hu LOW HIGH, "
            "--mean-hu and --std-hu of its training, or accept with --default-intensity "
            f"{low:g} to {high:g}, mean {DEFAULT_INTENSITY.mean_hu:g}, sd "
            f"{DEFAULT_INTENSITY.std_hu:g} ({DEFAULT_INTENSITY_SOURCE})."
        )
        raise CheckpointError(msg)
    low, high = chosen.clip_hu
    numbers = (low, high, chosen.mean_hu, chosen.std_hu)
    if not all(math.isfinite(n) for n in numbers) or low >= high or chosen.std_hu <= 0:
        msg = (
            f"{checkpoint.path}: normalisation clip {low:g} to {high:g}, mean {chosen.mean_hu:g}, "
            f"sd {chosen.std_hu:g} is impossible; clip must rise and sd be positive."
        )
        raise CheckpointError(msg)
    return chosen


def _used(checkpoint: Checkpoint, task: Task) -> dict[str, torch.Tensor]:
    """Leave out, by name, what the task's network does not have; all else must fit."""
    unused = ("head.",) if task == "segmentation" else UNUSED_BY_CLASSIFIER
    return {name: t for name, t in checkpoint.state.items() if not name.startswith(unused)}
