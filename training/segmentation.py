"""Train the segmentation network: a loop that may be stopped and resumed at any step."""

from __future__ import annotations

import logging
import queue
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from pasta.networks.unet import PastaUNet
from training.losses import NUM_CLASSES, NUM_TARGETS, partial_label_loss
from training.sampling import Augmentation, choose_case, sample_patch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pasta.spec import ModelSpec
    from training.cases import Case

log = logging.getLogger(__name__)
PREFETCH = 4


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast to learn.

    Attributes:
        steps: in all; one step sees `batch` patches.
        batch: patches a step, an even number for each worker: convolutions of two patches at once on
            one thread cost half of those of one patch (oneDNN takes over from two on).
        workers: threads that each compute the gradient of their share of the batch.
        learning_rate: highest; linear warm-up, then a cosine to 1 % of it.
        warmup: steps.
        weight_decay: of AdamW.
        average: decay of the moving average of the weights, which is what gets used.
        coarse_weight: of the loss at half resolution (deep supervision).
        fine_every: until `fine_from`, only every so many steps go through the finest decoder level,
            which costs as much as all levels below it; the others learn at half resolution.
        fine_from: step from which all go through it.
        second_from: step from which a second phase runs: the rate starts again at its highest (0: no
            second phase), the finest encoder level stays as it is, and rare labels count more.
        checkpoint_seconds: between checkpoints.
    """

    steps: int
    batch: int = 4
    workers: int = 2
    learning_rate: float = 2e-3
    warmup: int = 40
    weight_decay: float = 1e-4
    average: float = 0.995
    coarse_weight: float = 0.5
    fine_every: int = 4
    fine_from: int = 700
    second_from: int = 0
    checkpoint_seconds: float = 180.0

    def is_second(self, step: int) -> bool:
        """Tell whether a step belongs to the second phase."""
        return 0 < self.second_from <= step

    def is_fine(self, step: int) -> bool:
        """Tell whether a step goes through the finest level."""
        return step >= self.fine_from or step % self.fine_every == 0

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        start = self.second_from if self.is_second(step) else self.warmup
        end = self.steps if self.is_second(step) or not self.second_from else self.second_from
        done = min(1.0, (step - start) / max(1, end - start))
        return self.learning_rate * (0.01 + 0.99 * 0.5 * (1 + float(np.cos(np.pi * done))))


def class_weights(*, second: bool = False) -> torch.Tensor:
    """Weigh targets in the cross-entropy: lesions and small organs count more than background."""
    weight = torch.ones(NUM_TARGETS)
    weight[1:11] = 2.0
    weight[11:NUM_CLASSES] = 3.0
    if second:
        weight[3:10] = 6.0  # all organs but lung, liver and bone, which are learned by then
        weight[11:NUM_CLASSES] = 10.0
    return weight


class _Stop:
    """Turns SIGTERM and SIGINT into a flag, so that the step in hand ends with a checkpoint."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Stop:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def _ask(self, *_: object) -> None:
        self.asked = True

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def _patches(
    cases: Sequence[Case],
    spec: ModelSpec,
    shares: dict[str, float],
    augmentation: Augmentation,
    seed: int,
    step: int,
    batch: int,
) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Draw the batch of one step; it depends on seed and step alone, so a resumed run is the same."""
    rng = np.random.default_rng((seed, step))
    out = []
    for _ in range(batch):
        source = choose_case(cases, shares, rng)
        x, target = sample_patch(source, spec, augmentation, rng)
        out.append((x, target, torch.from_numpy(source.allowed)))
    return out


def train_segmentation(
    cases: Sequence[Case],
    spec: ModelSpec,
    schedule: Schedule,
    augmentation: Augmentation,
    shares: dict[str, float],
    seed: int,
    checkpoint: Path,
    *,
    until: int | None = None,
) -> PastaUNet:
    """Train, or go on from the checkpoint if there is one.

    Args:
        cases: on the grid of the spec.
        spec: width, patch, intensity.
        schedule: length and rates.
        augmentation: how far patches are varied.
        shares: of the kinds of cases.
        seed: of weights and patches.
        checkpoint: file that is written every few minutes, at the end, and on SIGTERM.
        until: stop after this many steps; the schedule's length by default.

    Returns:
        Network with the averaged weights.
    """
    torch.manual_seed(seed)
    network = PastaUNet(NUM_CLASSES, spec.width)
    network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    network.deep_supervision = True
    average = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay
    )
    start = 0
    if checkpoint.exists():
        stored = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(stored["network"])
        average = stored["average"]
        optimizer.load_state_dict(stored["optimizer"])
        start = int(stored["step"])
    last = min(schedule.steps, until if until is not None else schedule.steps)
    parameters = list(network.parameters())
    size = schedule.batch // schedule.workers

    def _shares_of(batch: list[Any]) -> list[list[Any]]:
        return [batch[at : at + size] for at in range(0, len(batch), size)]

    ready: queue.Queue[Any] = queue.Queue(PREFETCH)
    leave = threading.Event()

    def feed() -> None:
        for step in range(start, last):
            if leave.is_set():
                return
            batch: Any
            try:
                batch = _patches(cases, spec, shares, augmentation, seed, step, schedule.batch)
            except Exception as error:  # noqa: BLE001 - raised again in the training thread
                batch = error
            while not leave.is_set():
                try:
                    ready.put(batch, timeout=1)
                    break
                except queue.Full:
                    continue

    feeder = threading.Thread(target=feed, daemon=True)
    feeder.start()
    saved = time.monotonic()
    step, smooth = start, 0.0
    # threads, one core each: 2 OpenMP threads on shared cores wait for each other at every layer
    torch.set_num_threads(1)
    with (
        _Stop() as stop,
        ThreadPoolExecutor(
            schedule.workers, initializer=torch.set_num_threads, initargs=(1,)
        ) as pool,
        tqdm(total=last, initial=start, mininterval=20, unit="step") as bar,
    ):
        for step in range(start + 1, last + 1):
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate(step - 1)
            batch = ready.get()
            if isinstance(batch, Exception):
                raise batch
            work = partial(
                _gradients,
                network,
                weight=class_weights(second=schedule.is_second(step)),
                schedule=schedule,
                fine=schedule.is_fine(step),
            )
            network.conv_blocks_context[0].requires_grad_(not schedule.is_second(step))
            results = list(pool.map(work, _shares_of(batch)))
            value = sum(loss for loss, _ in results) / len(batch)
            learned = [p for p in parameters if p.requires_grad]
            for place, parameter in enumerate(learned):
                parameter.grad = torch.stack([grads[place] for _, grads in results]).sum(
                    dim=0
                ) / len(batch)
            torch.nn.utils.clip_grad_norm_(learned, 12.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            decay = min(schedule.average, step / (step + 10))
            with torch.no_grad():
                for name, parameter in network.state_dict().items():
                    average[name].lerp_(parameter, 1 - decay)
            smooth = value if smooth == 0 else 0.98 * smooth + 0.02 * value
            bar.update()
            bar.set_postfix(loss=f"{smooth:.3f}", refresh=False)
            if time.monotonic() - saved > schedule.checkpoint_seconds:
                _save(checkpoint, network, average, optimizer, step)
                saved = time.monotonic()
            if stop.asked:
                break
        leave.set()
    feeder.join()
    _save(checkpoint, network, average, optimizer, step)
    if stop.asked:
        raise KeyboardInterrupt
    network.load_state_dict(average)
    network.deep_supervision = False
    network.eval()
    return network


def half_resolution_logits(network: PastaUNet, x: torch.Tensor) -> torch.Tensor:
    """Compute the logits of the decoder level at stride 2, without the level above it."""
    skips = []
    for context in network.conv_blocks_context[:-1]:
        x = context(x)
        skips.append(x)
    x = network.conv_blocks_context[-1](x)
    levels = list(zip(network.tu, network.conv_blocks_localization, strict=True))
    for up, localization in levels[:-1]:
        x = localization(torch.cat((up(x), skips.pop()), dim=1))
    return network.seg_outputs[len(levels) - 2](x)  # type: ignore[no-any-return]


def _gradients(
    network: PastaUNet, batch: list[Any], weight: torch.Tensor, schedule: Schedule, fine: bool
) -> tuple[float, list[torch.Tensor]]:
    """Compute the summed loss of some patches and its gradient, without touching `.grad`."""
    x = torch.stack([x for x, _, _ in batch]).contiguous(memory_format=torch.channels_last_3d)
    outputs = network(x)[:2] if fine else [half_resolution_logits(network, x)]
    loss = torch.zeros(())
    for place, (_, target, allowed) in enumerate(batch):
        loss = loss + partial_label_loss(
            outputs[-1][place], target[::2, ::2, ::2], allowed, weight
        ) * (schedule.coarse_weight if fine else 1.0)
        if fine:
            loss = loss + partial_label_loss(outputs[0][place], target, allowed, weight)
    parameters = [p for p in network.parameters() if p.requires_grad]
    grads = torch.autograd.grad(loss, parameters, allow_unused=True)
    return float(loss.detach()), [
        torch.zeros_like(p) if g is None else g for p, g in zip(parameters, grads, strict=True)
    ]


def _save(
    path: Path,
    network: torch.nn.Module,
    average: dict[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    step: int,
) -> None:
    part = path.with_name(path.name + ".part")
    document = {
        "network": network.state_dict(),
        "average": average,
        "optimizer": optimizer.state_dict(),
        "step": step,
    }
    torch.save(document, part)
    part.replace(path)
