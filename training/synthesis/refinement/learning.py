"""Train the denoising network: a loop that may be killed and goes on from its last checkpoint."""

from __future__ import annotations

import csv
import io
import json
import pickle
import platform
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import monai
import torch
from torch.nn.functional import l1_loss
from tqdm import tqdm

from pasta.errors import CheckpointError, OutputError
from pasta.inference.device import fast_precision
from pasta.io.files import atomic_file
from training.loop import Stop
from training.synthesis.refinement.diffusion import (
    RUN_FILE,
    TIMESTEPS,
    RefinementError,
    Run,
    build_network,
    noise_schedule,
    save_weights,
)
from training.synthesis.refinement.patches import Batch, draw_batch, sources

if TYPE_CHECKING:
    from pathlib import Path

    from training.synthesis.templates import TemplateStore

CHECKPOINT_FILE, LOSSES_FILE = "checkpoint.pt", "losses.csv"
AHEAD = 3  # batches drawn while the network learns
SMOOTH = 0.98
Log = Callable[[str, float, int], None]


def train(
    store: TemplateStore,
    run: Run,
    out: Path,
    device: torch.device,
    *,
    until: int | None = None,
    log: Log | None = None,
) -> list[float]:
    """Train, or go on from the checkpoint in `out` if there is one.

    The loss is the L1 distance of predicted and added noise (paper, Methods 1.5). A step depends on
    the run's seed and its own number alone, so a run that was killed gives the same curve.

    Args:
        store: of templates.
        run: settings.
        out: folder of checkpoint, `losses.csv` and, once all steps are done, the weights.
        device: where to learn; float32 on a CPU, bf16 on a GPU, or on an older one float16 with
            a scaled loss.
        until: stop after this many steps; the run's length by default.
        log: called with "loss", its value and the step, such as a TensorBoard writer's method.

    Returns:
        The loss of every step so far.

    Raises:
        RefinementError: if no template fits, or the loss is no longer finite.
        CheckpointError: if the checkpoint is damaged or of another run.
        OutputError: if the folder cannot be written.
        KeyboardInterrupt: after SIGINT or SIGTERM, once the step in hand is saved.
    """
    among = sources(store, run)
    trained_on = {
        source.template.id: str(store.document(source.template.id).get("sha256", ""))
        for source in among
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"{out}: cannot be made ({error.strerror}). Choose another --out."
        raise OutputError(msg) from error
    learner = Learner(run, device, trained_on)
    learner.restore(out / CHECKPOINT_FILE)
    last = min(run.steps, run.steps if until is None else until)
    first = learner.step
    saved, smooth = time.monotonic(), learner.losses[-1] if learner.losses else 0.0
    draw = partial(draw_batch, among, run, timesteps=TIMESTEPS)
    with (
        Stop() as stop,
        ThreadPoolExecutor(1) as pool,
        tqdm(total=last, initial=first, mininterval=5, unit="step") as bar,
    ):
        ready: list[Future[Batch]] = [
            pool.submit(draw, step=step) for step in range(first, min(last, first + AHEAD))
        ]
        try:
            for step in range(first, last):
                batch = ready.pop(0).result()
                if step + AHEAD < last:
                    ready.append(pool.submit(draw, step=step + AHEAD))
                loss = learner.learn(batch)
                smooth = loss if smooth == 0 else SMOOTH * smooth + (1 - SMOOTH) * loss
                bar.update()
                bar.set_postfix(loss=f"{smooth:.4f}", refresh=False)
                if log:
                    log("loss", loss, step)
                if time.monotonic() - saved > run.checkpoint_seconds:
                    learner.save(out)
                    saved = time.monotonic()
                if stop.asked:
                    break
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    if learner.step > first:
        learner.save(out)
    if stop.asked:
        raise KeyboardInterrupt
    if learner.step >= run.steps:
        about = {"templates": trained_on, "device": device.type, "versions": versions()}
        save_weights(out, learner.average, run, about)
    return learner.losses


def _precision(device: torch.device) -> AbstractContextManager[object]:
    """Reduced precision on a GPU only.

    With torch 2.13 on a CPU the bf16 gradients of 3-D convolutions came out as 0 in steps 2 to 4 and
    as NaN in step 6 of the run in `configs/refinement_cpu.toml`; the float32 ones are right.
    """
    return fast_precision(device) if device.type == "cuda" else nullcontext()


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "monai": str(monai.__version__),
    }


class Learner:
    """Network, optimiser and moving average of a run, between two steps.

    Args:
        run: settings.
        device: where to learn.
        trained_on: templates and their hashes; a checkpoint of others is refused.
    """

    def __init__(self, run: Run, device: torch.device, trained_on: dict[str, str]) -> None:
        torch.manual_seed(run.seed)
        self.run, self.device = run, device
        self.network = build_network(run).to(device).train()
        self.average = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=run.learning_rate, weight_decay=run.weight_decay
        )
        half = device.type == "cuda" and not torch.cuda.is_bf16_supported()
        self.scaler = torch.amp.GradScaler(device.type, enabled=half)
        self.schedule = noise_schedule()
        self.losses: list[float] = []
        # how long it runs and how often it is saved may change between two starts
        same = {k: v for k, v in asdict(run).items() if k not in ("steps", "checkpoint_seconds")}
        self.identity = json.dumps({"run": same, "templates": trained_on}, sort_keys=True)

    @property
    def step(self) -> int:
        """Steps done."""
        return len(self.losses)

    def learn(self, batch: Batch) -> float:
        """Do one step.

        Returns:
            The loss.

        Raises:
            RefinementError: if it is not finite.
        """
        image, organ, noise, times = (
            part.to(self.device) for part in (batch.image, batch.organ, batch.noise, batch.times)
        )
        noisy = self.schedule.add_noise(image, noise, times)
        with _precision(self.device):
            predicted = self.network(torch.cat((noisy, organ), dim=1), times)
        loss = l1_loss(predicted.float(), noise)
        value = float(loss.detach())
        if value != value or value == float("inf"):
            msg = f"step {self.step}: the loss is {value}. Lower learning_rate and start anew."
            raise RefinementError(msg)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.losses.append(value)
        decay = min(self.run.average, self.step / (self.step + 10))
        with torch.no_grad():
            for name, parameter in self.network.state_dict().items():
                self.average[name].lerp_(parameter, 1 - decay)
        return value

    def save(self, out: Path) -> None:
        """Write the checkpoint, then the curve that belongs to it.

        Raises:
            OutputError: if they cannot be written.
        """
        document = {
            "identity": self.identity,
            "network": self.network.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "losses": torch.tensor(self.losses, dtype=torch.float64),
        }
        with atomic_file(out / CHECKPOINT_FILE) as file:
            torch.save(document, file)
        text = io.StringIO()
        table = csv.writer(text)
        table.writerow(("step", "loss"))
        table.writerows((step, f"{loss:.9g}") for step, loss in enumerate(self.losses))
        with atomic_file(out / LOSSES_FILE) as file:
            file.write(text.getvalue().encode())

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint, if there is one.

        Raises:
            CheckpointError: if it is damaged, or of another run or other templates.
        """
        if not path.exists():
            if (path.parent / RUN_FILE).exists():
                msg = f"{path.parent}: holds weights without a checkpoint. Choose another --out."
                raise CheckpointError(msg)
            return
        try:
            stored: dict[str, Any] = torch.load(path, weights_only=True, map_location=self.device)
            identity = stored["identity"]
        except (OSError, RuntimeError, EOFError, KeyError, pickle.UnpicklingError) as error:
            msg = f"{path}: damaged. Delete it to start anew."
            raise CheckpointError(msg) from error
        if identity != self.identity:
            msg = f"{path}: of another run or other templates. Choose another --out, or delete it."
            raise CheckpointError(msg)
        self.network.load_state_dict(stored["network"])
        self.average = stored["average"]
        self.optimizer.load_state_dict(stored["optimizer"])
        self.scaler.load_state_dict(stored["scaler"])
        self.losses = [float(value) for value in stored["losses"]]
