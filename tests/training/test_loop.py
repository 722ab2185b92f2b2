import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from training.loop import CHECKPOINT, Schedule, TrainingError, fit, read_curve


def draw(rng):
    x = torch.from_numpy(rng.standard_normal(4).astype("float32"))
    return x, x.sum()[None]


def loss(network, samples):
    x = torch.stack([a for a, _ in samples])
    y = torch.stack([b for _, b in samples])
    return ((network(x) - y) ** 2).mean()


def network():
    torch.manual_seed(1)
    return torch.nn.Linear(4, 1)


def schedule(**changes):
    values = {"steps": 40, "batch": 4, "optimizer": "adam", "average": 0.9, "precision": "32"}
    return Schedule(**(values | changes))


def stopping_after(steps):
    left = iter(range(steps - 1, -1, -1))
    return lambda: next(left) == 0


def test_a_run_stopped_and_gone_on_with_gives_the_same_curve_and_weights(tmp_path):
    whole, parts = network(), network()
    assert fit(whole, draw, loss, schedule(), tmp_path / "whole", seed=3, device="cpu").finished
    ended = fit(
        parts, draw, loss, schedule(), tmp_path / "parts", seed=3, device="cpu",
        stop=stopping_after(13),
    )  # fmt: skip
    assert (ended.step, ended.finished) == (13, False)
    parts = network()
    assert fit(parts, draw, loss, schedule(), tmp_path / "parts", seed=3, device="cpu").finished
    assert torch.equal(whole.weight, parts.weight)
    assert read_curve(tmp_path / "whole") == read_curve(tmp_path / "parts")


RUN = """
import sys, time
sys.path[:0] = sys.argv[2:]
from pathlib import Path
import test_loop as t
from training.loop import Schedule, fit
s = t.schedule(steps=400, checkpoint_seconds=0.0)
def slow(network, samples):
    time.sleep(0.002)
    return t.loss(network, samples)
fit(t.network(), t.draw, slow, s, Path(sys.argv[1]), seed=3, device="cpu")
"""


def test_a_run_killed_at_random_gives_the_same_curve(tmp_path):
    here, root = os.path.dirname(__file__), os.getcwd()  # noqa: PTH109, PTH120
    command = [sys.executable, "-c", RUN, str(tmp_path / "killed"), here, root]
    rng = np.random.default_rng(0)
    for _ in range(4):
        child = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not (tmp_path / "killed" / CHECKPOINT).exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(float(rng.uniform(0, 2)))
        child.send_signal(signal.SIGKILL)
        child.wait()
    whole = network()
    final = schedule(steps=400, checkpoint_seconds=0.0)
    fit(network(), draw, loss, final, tmp_path / "killed", seed=3, device="cpu")
    fit(whole, draw, loss, final, tmp_path / "whole", seed=3, device="cpu")
    assert read_curve(tmp_path / "whole") == read_curve(tmp_path / "killed")


def test_an_interrupt_of_all_processes_ends_the_run_with_a_checkpoint(tmp_path):
    here, root = os.path.dirname(__file__), os.getcwd()  # noqa: PTH109, PTH120
    code = RUN.replace("checkpoint_seconds=0.0", "checkpoint_seconds=1e9")
    command = [sys.executable, "-c", code, str(tmp_path / "run"), here, root]
    child = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "tensorboard").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    os.killpg(child.pid, signal.SIGINT)
    assert child.wait(timeout=30) == 0
    assert torch.load(tmp_path / "run" / CHECKPOINT, weights_only=True)["step"] < 400


def test_accumulated_batches_give_the_step_of_one_large_batch(tmp_path):
    large, small = network(), network()
    fit(large, draw, loss, schedule(average=0.0), tmp_path / "a", seed=3, device="cpu")
    parts = schedule(batch=2, accumulate=2, average=0.0)
    fit(small, draw, loss, parts, tmp_path / "b", seed=3, device="cpu")
    torch.testing.assert_close(large.weight, small.weight)


def test_a_batch_that_does_not_fit_goes_through_in_parts_and_says_so(tmp_path):
    def tight(net, samples):
        if len(samples) > 1:
            message = "DefaultCPUAllocator: can't allocate memory"
            raise RuntimeError(message)
        return loss(net, samples)

    notes = []
    cut, whole = network(), network()
    fit(
        cut, draw, tight, schedule(), tmp_path / "cut", seed=3, device="cpu",
        progress=lambda state: notes.append(state.note),
    )  # fmt: skip
    fit(whole, draw, loss, schedule(), tmp_path / "whole", seed=3, device="cpu")
    torch.testing.assert_close(cut.weight, whole.weight)
    assert notes[0] == "Out of memory: the batch of 4 goes through in 4 parts."


def test_the_best_validated_weights_are_kept_and_patience_ends_the_run(tmp_path):
    seen = {}

    def validate(net, step):
        seen[step] = net.weight.detach().clone()
        return {"score": 1.0 if step == 10 else 0.5}

    net = network()
    rules = schedule(validate_every=5, select="score", patience=2)
    ended = fit(net, draw, loss, rules, tmp_path, seed=3, device="cpu", validate=validate)
    assert ended.best == (1.0, 10)
    assert ended.step == 20
    assert torch.equal(net.weight, seen[10])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "schedule.steps: 0"),
        ({"optimizer": "lion"}, "schedule.optimizer: 'lion'"),
        ({"decay": "step"}, "schedule.decay: 'step'"),
    ],
)
def test_a_schedule_that_makes_no_sense_names_its_field(changes, message):
    with pytest.raises(TrainingError, match=message):
        schedule(**changes)


def test_a_checkpoint_of_another_run_or_a_damaged_one_is_refused(tmp_path):
    fit(network(), draw, loss, schedule(), tmp_path, seed=3, device="cpu")
    with pytest.raises(TrainingError, match="another schedule or seed"):
        fit(network(), draw, loss, schedule(), tmp_path, seed=4, device="cpu")
    (tmp_path / CHECKPOINT).write_bytes(b"not a checkpoint")
    with pytest.raises(TrainingError, match="damaged checkpoint"):
        fit(network(), draw, loss, schedule(), tmp_path, seed=3, device="cpu")


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path):
    with pytest.raises(TrainingError, match="the loss is nan"):
        fit(
            network(), draw, lambda net, s: loss(net, s) * float("nan"), schedule(), tmp_path,
            seed=3, device="cpu",
        )  # fmt: skip


def test_torchrun_averages_the_gradients_of_two_processes(tmp_path):
    code = tmp_path / "run.py"
    code.write_text(
        RUN.replace("s = t.schedule(steps=400, checkpoint_seconds=0.0)",
                    "s = t.schedule(batch=2, average=0.0)")
    )  # fmt: skip
    here, root = os.path.dirname(__file__), os.getcwd()  # noqa: PTH109, PTH120
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        str(code), str(tmp_path / "two"), here, root,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    one = network()
    fit(one, draw, loss, schedule(average=0.0), tmp_path / "one", seed=3, device="cpu")
    stored = torch.load(tmp_path / "two" / CHECKPOINT, weights_only=True)
    torch.testing.assert_close(stored["network"]["weight"], one.weight.detach())
