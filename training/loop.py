"""The one training loop: pretraining, fine-tuning in the app, few-shot runs and heads all use it.

Lightning Fabric carries devices, mixed precision and several processes (`torchrun`); this module adds
what makes a run the same run after it was killed: samples that depend on seed and number alone, and
checkpoints written whole.
"""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from lightning_fabric import Fabric
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from pasta.errors import PastaError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

log = logging.getLogger(__name__)
FORMAT = 1
CHECKPOINT, BEST, CURVE = "checkpoint.pt", "best.pt", "curve.jsonl"

Draw = Callable[[np.random.Generator], Any]
Loss = Callable[["nn.Module", Sequence[Any]], torch.Tensor]
Validate = Callable[["nn.Module", int], Mapping[str, float]]


class TrainingError(PastaError, ValueError):
    """A run cannot be started or gone on with as asked."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast to learn.

    Attributes:
        steps: of the optimiser, in all.
        batch: samples a process and step see at once.
        accumulate: batches whose gradients make one step.
        learning_rate: highest.
        decay: "poly" (power 0.9, as nnU-Net) or "cosine" (to 1 %), both after a linear `warmup`.
        warmup: steps.
        optimizer: "sgd" (Nesterov, momentum 0.99, as nnU-Net), "adam" or "adamw".
        weight_decay: of the optimiser.
        clip: largest norm of the gradient; 12 as nnU-Net.
        average: decay of the moving average of the weights, which is what gets used; 0 for none.
        precision: "auto" takes bf16 where the device has it in hardware, else "32".
        workers: processes that draw samples; 0 draws them in the loop itself.
        validate_every: steps; 0 never.
        select: name of a validated value whose best weights are kept (highest wins).
        patience: validations without a better selected value before the run ends; 0 for ever.
        checkpoint_seconds: between checkpoints.
    """

    steps: int
    batch: int = 2
    accumulate: int = 1
    learning_rate: float = 1e-2
    decay: Literal["poly", "cosine"] = "poly"
    warmup: int = 0
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    weight_decay: float = 3e-5
    clip: float = 12.0
    average: float = 0.0
    precision: Literal["auto", "32", "bf16"] = "auto"
    workers: int = 1
    validate_every: int = 0
    select: str = ""
    patience: int = 0
    checkpoint_seconds: float = 180.0

    def __post_init__(self) -> None:
        """See that the values make sense.

        Raises:
            TrainingError: naming the field.
        """
        for name in ("steps", "batch", "accumulate"):
            if getattr(self, name) < 1:
                msg = f"schedule.{name}: {getattr(self, name)}, expected 1 or more."
                raise TrainingError(msg)
        for name, allowed in (
            ("decay", ("poly", "cosine")),
            ("optimizer", ("sgd", "adam", "adamw")),
            ("precision", ("auto", "32", "bf16")),
        ):
            if getattr(self, name) not in allowed:
                msg = f"schedule.{name}: {getattr(self, name)!r}, expected one of {', '.join(allowed)}."
                raise TrainingError(msg)

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))
        if self.decay == "poly":
            return self.learning_rate * float((1 - done) ** 0.9)
        return self.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


@dataclass(frozen=True, slots=True)
class Progress:
    """What a run tells of itself after each step.

    Attributes:
        step: steps done.
        steps: in all.
        loss: smoothed over about 50 steps.
        rate: learning rate.
        seconds_left: at the speed so far.
        busy: share of the time that was not spent waiting for samples.
        note: something to tell people, such as a smaller batch.
    """

    step: int
    steps: int
    loss: float
    rate: float
    seconds_left: float
    busy: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class Fitted:
    """How a run ended.

    Attributes:
        step: steps done.
        finished: False if it was asked to stop; the same call goes on.
        best: best selected value, with the step it was reached at.
        busy: share of the time that was not spent waiting for samples.
    """

    step: int
    finished: bool
    best: tuple[float, int] | None
    busy: float


class Stop:
    """Turns SIGTERM and SIGINT into a question that a loop asks after each step.

    Outside the main thread, where Python takes no signals, `ask` is the only way to set it.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        """Take over the signals."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self.ask)
        return self

    def ask(self, *_: object) -> None:
        """Ask for the end after the step in hand."""
        self.asked = True

    def __call__(self) -> bool:
        """Tell whether the end was asked for."""
        return self.asked

    def __exit__(self, *_: object) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)


class _Draws(Dataset[Any]):
    """Samples by number: each depends on the seed and its number alone."""

    def __init__(self, draw: Draw, seed: int) -> None:
        self.draw, self.seed = draw, seed

    def __getitem__(self, number: int) -> Any:
        return self.draw(np.random.default_rng((self.seed, number)))


def fit(
    network: nn.Module,
    draw: Draw,
    loss: Loss,
    schedule: Schedule,
    folder: Path,
    *,
    seed: int,
    stop: Callable[[], bool] | None = None,
    progress: Callable[[Progress], None] | None = None,
    validate: Validate | None = None,
    device: str | None = None,
    title: str = "training",
) -> Fitted:
    """Train a network in place, or go on from the folder's checkpoint if there is one.

    Killed at any moment and started again, a run gives the curve of a run that was never stopped, for
    a sample is a function of the seed and its number. With `torchrun`, every process draws its own
    samples and gradients are averaged (DDP). `schedule.steps` may be changed on the way; anything else
    that the curve depends on may not.

    Args:
        network: to train; holds the averaged (or, with `select`, the best) weights afterwards.
        draw: a sample from a generator; runs in worker processes.
        loss: mean loss of a list of samples, computed through the network it is given.
        schedule: length, rates, precision.
        folder: gets `checkpoint.pt`, `curve.jsonl`, TensorBoard's events, and `best.pt` with `select`.
        seed: of the samples and of dropout.
        stop: asked after each step; by default SIGTERM and SIGINT end the run with a checkpoint.
        progress: called after each step, in the main process.
        validate: values of the averaged weights, every `validate_every` steps.
        device: "cpu", "cuda", "cuda:1"; the best there is by default.
        title: of the progress bar.

    Returns:
        How it ended.

    Raises:
        TrainingError: if the checkpoint is of another run or damaged, or the loss is not finite.
    """
    fabric = _fabric(schedule.precision, device)
    fabric.launch()
    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    optimizer = _optimizer(network, schedule)
    wrapped, optimizer = fabric.setup(network, optimizer)
    average = {k: v.detach().clone() for k, v in wrapped.state_dict().items()}
    start, best = 0, None
    stored = _read(folder / CHECKPOINT, schedule, seed)
    if stored is not None:
        wrapped.load_state_dict(stored["network"])
        optimizer.load_state_dict(stored["optimizer"])
        average = {k: v.to(fabric.device) for k, v in stored["average"].items()}
        start, best = int(stored["step"]), stored["best"]
    loader = _loader(draw, seed, schedule, start, fabric)
    with Stop() as signals:
        asked = stop or signals
        run = _Run(fabric, wrapped, optimizer, average, schedule, folder, seed, best)
        end = run.steps(loader, loss, start, asked, progress, validate, title)
    final = run.average
    if schedule.select and (folder / BEST).exists():
        final = torch.load(folder / BEST, weights_only=True, map_location=fabric.device)
    wrapped.load_state_dict(final)
    network.to("cpu" if device is None else device)
    return Fitted(end, end >= schedule.steps or run.ended_early, run.best, run.busy)


class _Run:
    """State of a run between its steps."""

    def __init__(
        self,
        fabric: Fabric,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: dict[str, torch.Tensor],
        schedule: Schedule,
        folder: Path,
        seed: int,
        best: tuple[float, int] | None,
    ) -> None:
        self.fabric, self.network, self.optimizer = fabric, network, optimizer
        self.average, self.schedule, self.folder, self.seed = average, schedule, folder, seed
        self.best = best
        self.pieces = 1
        self.waited = self.worked = 0.0
        self.ended_early = False
        self.note = ""

    @property
    def busy(self) -> float:
        """Share of the time not spent waiting for samples."""
        total = self.waited + self.worked
        return self.worked / total if total else 1.0

    def steps(
        self,
        loader: Iterator[list[Any]],
        loss: Loss,
        start: int,
        asked: Callable[[], bool],
        progress: Callable[[Progress], None] | None,
        validate: Validate | None,
        title: str,
    ) -> int:
        """Do the steps that are left; returns how many are done."""
        schedule, main = self.schedule, self.fabric.is_global_zero
        curve = _Curve(self.folder, start) if main else None
        smooth, step, saved, began = math.nan, start, time.monotonic(), time.monotonic()
        with tqdm(
            total=schedule.steps, initial=start, desc=title, unit="step", disable=not main
        ) as bar:
            while step < schedule.steps:
                rate = schedule.rate(step)
                for group in self.optimizer.param_groups:
                    group["lr"] = rate
                value = self._step(loader, loss, step)
                step += 1
                smooth = value if math.isnan(smooth) else 0.98 * smooth + 0.02 * value
                left = (time.monotonic() - began) / (step - start) * (schedule.steps - step)
                state = Progress(step, schedule.steps, smooth, rate, left, self.busy, self.note)
                self.note = ""
                values: Mapping[str, float] = {}
                if validate and schedule.validate_every and step % schedule.validate_every == 0:
                    values = self._validated(validate, step)
                bar.update()
                bar.set_postfix(loss=f"{smooth:.3f}", busy=f"{self.busy:.0%}", refresh=False)
                if curve is not None:
                    curve.add(step, {"loss": value, "rate": rate, **values})
                    if progress:
                        progress(state)
                ending = self._agreed(asked()) or self.ended_early
                if ending or time.monotonic() - saved > schedule.checkpoint_seconds:
                    self._save(step, curve)
                    saved = time.monotonic()
                if ending:
                    break
        self._save(step, curve)
        if curve is not None:
            curve.close()
        return step

    def _step(self, loader: Iterator[list[Any]], loss: Loss, step: int) -> float:
        """One step of the optimiser; a batch that does not fit the memory is cut in pieces."""
        total = 0.0
        for _ in range(self.schedule.accumulate):
            before = time.monotonic()
            samples = next(loader)
            after = time.monotonic()
            self.waited += after - before
            total += self._gradients(loss, samples, step)
            self.worked += time.monotonic() - after
        before = time.monotonic()
        self.fabric.clip_gradients(self.network, self.optimizer, max_norm=self.schedule.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        decay = min(self.schedule.average, (step + 1) / (step + 11))
        with torch.no_grad():
            for name, value in self.network.state_dict().items():
                self.average[name].lerp_(value, 1 - decay)
        self.worked += time.monotonic() - before
        return total / self.schedule.accumulate

    def _gradients(self, loss: Loss, samples: list[Any], step: int) -> float:
        while True:
            size = -(-len(samples) // self.pieces)
            parts = [samples[at : at + size] for at in range(0, len(samples), size)]
            total = 0.0
            try:
                for part in parts:
                    share = len(part) / len(samples)
                    value = loss(self.network, part) * share
                    self.fabric.backward(value / self.schedule.accumulate)
                    total += float(value.detach())
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not _out_of_memory(error) or self.pieces >= len(samples):
                    raise
                # gradients of the parts that did fit are of this step's samples: begin the step anew
                if self.schedule.accumulate > 1:
                    msg = f"step {step}: out of memory. Halve schedule.batch, double schedule.accumulate."
                    raise TrainingError(msg) from error
                self.optimizer.zero_grad(set_to_none=True)
                self.pieces *= 2
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                self.note = f"Out of memory: the batch of {len(samples)} goes through in {self.pieces} parts."
                log.warning("%s", self.note)
                continue
            if not math.isfinite(total):
                msg = f"step {step}: the loss is {total}. Lower schedule.learning_rate, or train with precision 32."
                raise TrainingError(msg)
            return total

    def _validated(self, validate: Validate, step: int) -> Mapping[str, float]:
        """Validate the averaged weights; keep them if they are the best so far."""
        trained = {k: v.clone() for k, v in self.network.state_dict().items()}
        self.network.load_state_dict(self.average)
        self.network.eval()
        values = dict(validate(self.network, step))
        self.network.train()
        self.network.load_state_dict(trained)
        name = self.schedule.select
        if name:
            if name not in values:
                msg = f"schedule.select: {name!r} is not validated here; there is {', '.join(values)}."
                raise TrainingError(msg)
            if self.best is None or values[name] > self.best[0]:
                self.best = (float(values[name]), step)
                if self.fabric.is_global_zero:
                    _write(self.folder / BEST, self.average)
            elif self.schedule.patience and (
                step - self.best[1] >= self.schedule.patience * self.schedule.validate_every
            ):
                self.ended_early = True
        return values

    def _agreed(self, asked: bool) -> bool:
        """Stop in all processes at the same step."""
        if self.fabric.world_size == 1:
            return asked
        flag = torch.tensor(float(asked), device=self.fabric.device)
        return bool(self.fabric.all_reduce(flag, reduce_op="sum") > 0)  # type: ignore[operator]

    def _save(self, step: int, curve: _Curve | None) -> None:
        if self.fabric.is_global_zero:
            if curve is not None:
                curve.flush()
            document = {
                "format": FORMAT,
                "run": _fingerprint(self.schedule, self.seed),
                "step": step,
                "best": self.best,
                "network": self.network.state_dict(),
                "average": self.average,
                "optimizer": self.optimizer.state_dict(),
            }
            _write(self.folder / CHECKPOINT, document)
        self.fabric.barrier()


class _Curve:
    """`curve.jsonl` and TensorBoard; lines beyond the step that a run goes on from are dropped."""

    def __init__(self, folder: Path, start: int) -> None:
        path = folder / CURVE
        kept = [line for line in read_curve(folder) if line["step"] <= start]
        part = path.with_name(path.name + ".part")
        part.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        part.replace(path)
        self._file = path.open("a", encoding="utf-8")
        from torch.utils.tensorboard import SummaryWriter

        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def flush(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._board.flush()

    def close(self) -> None:
        self._file.close()
        self._board.close()


def read_curve(folder: Path) -> list[dict[str, float]]:
    """Read the curve of a run: one entry a step; a line cut off by a kill is left out."""
    lines = []
    path = folder / CURVE
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                break
    return lines


def _fabric(precision: str, device: str | None) -> Fabric:
    accelerator, devices = "auto", int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    chosen: Any = devices
    if device is not None:
        kind = torch.device(device)
        accelerator = kind.type
        chosen = [kind.index] if kind.index is not None else devices
    if precision == "auto":
        on_gpu = accelerator != "cpu" and torch.cuda.is_available()
        bf16 = torch.cuda.is_bf16_supported() if on_gpu else _cpu_has_bf16()
        precision = "bf16" if bf16 else "32"
    nodes = int(os.environ.get("WORLD_SIZE", "1")) // max(1, devices)
    return Fabric(
        accelerator=accelerator,
        devices=chosen,
        num_nodes=max(1, nodes),
        precision="bf16-mixed" if precision == "bf16" else "32-true",
    )


def _cpu_has_bf16() -> bool:
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _optimizer(network: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    learned = [p for p in network.parameters() if p.requires_grad]
    if not learned:
        msg = "no parameter of the network is to be trained; unfreeze some."
        raise TrainingError(msg)
    rate, decay = schedule.learning_rate, schedule.weight_decay
    if schedule.optimizer == "sgd":
        return torch.optim.SGD(learned, rate, momentum=0.99, nesterov=True, weight_decay=decay)
    kind = torch.optim.Adam if schedule.optimizer == "adam" else torch.optim.AdamW
    return kind(learned, lr=rate, weight_decay=decay)


def _loader(
    draw: Draw, seed: int, schedule: Schedule, start: int, fabric: Fabric
) -> Iterator[list[Any]]:
    per_step = schedule.accumulate * fabric.world_size
    batches = [
        [number * schedule.batch + place for place in range(schedule.batch)]
        for step in range(start, schedule.steps)
        for number in range(
            step * per_step + fabric.global_rank, (step + 1) * per_step, fabric.world_size
        )
    ]
    workers = schedule.workers
    loader: DataLoader[Any] = DataLoader(
        _Draws(draw, seed),
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=list,
        prefetch_factor=4 if workers else None,
        multiprocessing_context="fork" if workers else None,
        worker_init_fn=_leave_signals_to_the_loop,
    )
    return iter(loader)


def _leave_signals_to_the_loop(_: int) -> None:
    # Ctrl-C goes to all processes; a worker that dies of it would end the run without a checkpoint
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _fingerprint(schedule: Schedule, seed: int) -> str:
    # not the length: a run may be made longer or shorter on the way
    fixed = ("batch", "accumulate", "learning_rate", "decay", "warmup", "optimizer")
    return json.dumps([seed, *(getattr(schedule, name) for name in fixed)])


def _read(path: Path, schedule: Schedule, seed: int) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        stored: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        run, form = stored["run"], stored["format"]
    except Exception as error:
        msg = f"{path}: damaged checkpoint ({type(error).__name__}). Move it away to start the run anew."
        raise TrainingError(msg) from error
    if form != FORMAT or run != _fingerprint(schedule, seed):
        msg = f"{path}: of a run with another schedule or seed. Choose a new folder, or repeat its settings."
        raise TrainingError(msg)
    return stored


def _write(path: Path, document: object) -> None:
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        torch.save(document, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
