"""Denoising network: training that resumes, sliding-window SDEdit, weights on disk."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("einops", reason="MONAI's DiffusionModelUNet needs einops")

from pasta.errors import CheckpointError
from training.synthesis.refinement.diffusion import (
    RefinementError,
    Run,
    build_network,
    load_weights,
    noise_schedule,
    save_weights,
    sigma_hu,
)
from training.synthesis.refinement.learning import train
from training.synthesis.refinement.patches import draw_batch, draw_patch, sources
from training.synthesis.refinement.sdedit import Refiner
from training.synthesis.templates import Template, TemplateStore

CPU = torch.device("cpu")
RUN = Run(
    seed=3, steps=8, patch=8, batch=2, channels=(8, 16), learning_rate=3e-3, average=0.5,
    checkpoint_seconds=60,
)  # fmt: skip
REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    rng = np.random.default_rng(0)
    grid = np.indices((40, 36, 32)) - np.array([20, 18, 16])[:, None, None, None]
    organ = (grid**2).sum(axis=0) < 13**2
    hu = np.where(organ, 100, -80) + rng.normal(0, 12, organ.shape)
    labels = np.where(organ, 2, 0).astype(np.uint8)
    out = TemplateStore(tmp_path_factory.mktemp("store"))
    for name, rendered in (("scan", False), ("painted", True)):
        template = Template.from_arrays(name, hu.astype(np.int16), labels, rendered=rendered)
        out.put(template, np.zeros(organ.shape, np.uint8))
    return out


def curve(folder):
    with (folder / "losses.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def test_noise_after_t_steps_is_that_of_the_linear_schedule():
    # 1 - prod(1 - beta), beta linear from 1e-4 to 0.02 in 1000 steps, by hand
    beta = np.linspace(1e-4, 0.02, 1000)
    for t in (5, 10, 50, 100):
        assert sigma_hu(t) == pytest.approx(1000 * np.sqrt(1 - np.prod(1 - beta[:t])), rel=1e-3)
    assert sigma_hu(0) == 0


def test_patches_show_an_organ_and_its_mask(store):
    among = sources(store, RUN)
    assert [source.template.id for source in among] == ["scan"]
    assert len(sources(store, replace(RUN, rendered=True))) == 2
    for seed in range(8):
        hu, mask = draw_patch(among, 8, np.random.default_rng(seed))
        assert hu.shape == mask.shape == (8, 8, 8)
        assert mask.any()
        assert hu[mask].mean() > 60
    wide, mask = draw_patch(among, 48, np.random.default_rng(0))
    assert wide[-1, -1, -1] == -1000  # beyond the scan is air
    assert not mask[-1].any()


def test_a_batch_depends_on_seed_and_step_alone(store):
    among = sources(store, RUN)
    first, again, other = (draw_batch(among, RUN, step, 1000) for step in (4, 4, 5))
    assert torch.equal(first.image, again.image)
    assert torch.equal(first.noise, again.noise)
    assert torch.equal(first.times, again.times)
    assert not torch.equal(first.noise, other.noise)


def test_a_run_that_was_stopped_gives_the_same_curve_and_weights(store, tmp_path):
    whole = train(store, RUN, tmp_path / "whole", CPU)
    assert len(train(store, RUN, tmp_path / "parts", CPU, until=3)) == 3
    assert not (tmp_path / "parts" / "weights.safetensors").exists()
    parts = train(store, RUN, tmp_path / "parts", CPU)
    assert parts == whole
    assert curve(tmp_path / "parts") == curve(tmp_path / "whole")
    first, again = (load_weights(tmp_path / name)[0].state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.slow
def test_a_killed_process_goes_on_from_its_last_checkpoint(store, tmp_path):
    config = tmp_path / "run.toml"
    config.write_text(
        "seed = 3\nsteps = 20\npatch = 8\nbatch = 2\nchannels = [8, 16]\ncheckpoint_seconds = 0\n"
    )
    command = [sys.executable, "-m", "training.synthesis.refinement", "train", "--store"]
    command += [str(store.folder), "--config", str(config), "--device", "cpu", "--out"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen([*command, str(killed)], cwd=REPOSITORY, env=environment)
    while not (killed / "losses.csv").exists() or len(curve(killed)) < 5:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "weights.safetensors").exists()
    for folder in (killed, whole):
        subprocess.run([*command, str(folder)], cwd=REPOSITORY, env=environment, check=True)
    assert len(curve(whole)) == 20
    assert curve(killed) == curve(whole)


def test_the_loss_falls(store, tmp_path):
    losses = train(store, replace(RUN, steps=60), tmp_path, CPU)
    assert np.mean(losses[-15:]) < 0.8 * np.mean(losses[:10])


def test_a_checkpoint_of_another_run_is_refused(store, tmp_path):
    train(store, RUN, tmp_path, CPU, until=1)
    with pytest.raises(CheckpointError, match="another run"):
        train(store, replace(RUN, learning_rate=1e-4), tmp_path, CPU)
    (tmp_path / "checkpoint.pt").write_bytes(b"PK damaged")
    with pytest.raises(CheckpointError, match="damaged"):
        train(store, RUN, tmp_path, CPU)


def test_damaged_weights_are_refused(tmp_path):
    save_weights(tmp_path, build_network(RUN).state_dict(), RUN, {})
    assert load_weights(tmp_path)[1] == RUN
    document = json.loads((tmp_path / "run.json").read_text())
    document["run"]["channels"] = [8, 8]
    (tmp_path / "run.json").write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match="does not fit"):
        load_weights(tmp_path)
    with (tmp_path / "weights.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(CheckpointError, match="not the weights"):
        load_weights(tmp_path)
    with pytest.raises(CheckpointError, match="not found"):
        load_weights(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed = 1", "are needed"),
        ("seed = 1\nsteps = 1\npatch = 10\nbatch = 1", "patch"),
        ("seed = 1\nsteps = 1\npatch = 8\nbatch = 1\nspeed = 2", "unknown field 'speed'"),
        ("seed = 1\nsteps = true\npatch = 8\nbatch = 1", "steps is True"),
        ("seed = ", "not a readable TOML"),
    ],
)
def test_a_wrong_run_file_is_named_with_its_field(text, message, tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(RefinementError, match=message):
        Run.read(path)


@pytest.mark.parametrize("name", ["refinement.toml", "refinement_cpu.toml"])
def test_run_files_are_valid(name):
    assert Run.read(REPOSITORY / "training" / "configs" / name).channels[0] == 16


def test_a_store_without_real_ct_is_refused(tmp_path):
    with pytest.raises(RefinementError, match="no template of a real CT"):
        sources(TemplateStore(tmp_path), RUN)


class Oracle(torch.nn.Module):
    """Knows the clean image, 40 HU everywhere, and so the noise."""

    def __init__(self):
        super().__init__()
        self.windows, self.times = 0, []

    def forward(self, x, times):
        self.windows += len(x)
        self.times.append(int(times[0]))
        share = noise_schedule().alphas_cumprod[times][:, None, None, None, None]
        return (x[:, :1] - share.sqrt() * 0.04) / (1 - share).sqrt()


@pytest.mark.parametrize("shape", [(20, 13, 9), (5, 8, 30)])
def test_with_the_true_noise_the_clean_image_comes_back(shape):
    oracle = Oracle()
    refiner = Refiner(oracle, RUN, CPU)
    hu, organ = np.full(shape, 40, np.int16), np.ones(shape, bool)
    out = refiner.refined(hu, organ, 5, seed=1)
    assert out.shape == shape
    np.testing.assert_allclose(out, 40, atol=0.02)
    assert sorted(set(oracle.times)) == [0, 1, 2, 3, 4]
    assert oracle.windows > 5 * 2  # more than one window each time


def test_refinement_repeats_with_its_seed_and_t_0_changes_nothing():
    torch.manual_seed(0)
    refiner = Refiner(build_network(RUN), RUN, CPU)
    hu = np.random.default_rng(0).normal(50, 10, (12, 12, 12)).astype(np.int16)
    organ = np.ones(hu.shape, bool)
    np.testing.assert_array_equal(refiner.refined(hu, organ, 0, 1), hu)
    first, again, other = (refiner.refined(hu, organ, 5, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    with pytest.raises(RefinementError, match="t is 7"):
        refiner.refined(hu, organ, 7, 1)
    with pytest.raises(RefinementError, match="shape"):
        refiner.refined(hu, organ[1:], 5, 1)


def test_what_lies_beyond_1000_hu_keeps_its_difference():
    hu = np.full((8, 8, 8), 40, np.int16)
    hu[4, 4, 4] = 1800
    out = Refiner(Oracle(), RUN, CPU).refined(hu, hu > 0, 5, 0)
    assert out[4, 4, 4] == pytest.approx(1800 + (40 - 1000), abs=1)
