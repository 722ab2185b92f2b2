"""The main job: refusals in one sentence, checks that can fail, a whole run with a known model."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pasta.cli import demo
from pasta.cli.main import main
from pasta.client import Answer, Client, ServerError
from pasta.geometry import Volume
from pasta.inference.result import labels_found
from pasta.io import write_labelmap
from pasta.labels import LABELS
from pasta.networks.checkpoint import save_model
from pasta.networks.unet import PastaClassifier, PastaUNet
from pasta.report import CaseFacts, Finding, Report, head_options
from pasta.spec import ModelSpec, Segmental, ZScore
from training.synthesis.phantom import draw_phantom, render_phantom

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def repository(monkeypatch):
    """Run as from the repository's folder."""
    monkeypatch.chdir(REPOSITORY)


def test_folder_without_ct_is_refused(repository, tmp_path, capsys):
    assert main(["demo", str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert "holds no CT" in capsys.readouterr().err


def test_missing_folder_is_refused(repository, tmp_path, capsys):
    assert main(["demo", str(tmp_path / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_busy_port_is_refused_with_the_way_out(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(demo.PastaError, match=r"another port: make run PORT="):
            demo._refuse_busy_port(taken.getsockname()[1])


def test_outside_of_the_repository_it_says_where_to_go(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["demo"]) == 2
    assert "folder of the repository" in capsys.readouterr().err


@pytest.fixture
def case(tmp_path):
    """A CT and answers that are right."""
    volume = Volume(np.zeros((8, 9, 5), dtype=np.int16), np.diag([-1.0, -1, 3, 1]), sha256="ab")
    labels = np.zeros(volume.voxels.shape, dtype=np.uint8)
    labels[2:5, 2:5, 1:3] = 2
    labelmap = Volume(labels, volume.affine)
    write_labelmap(labelmap, tmp_path / "sent.nii.gz")
    common = {"input_sha256": "ab", "notice": "n", "model": [{}]}
    report = Report(
        CaseFacts((8, 9, 5), (1, 1, 3), "LPS"), Finding("Enhanced CT", source="measured")
    )
    answers = {
        "segmentation": Answer(
            {**common, "labels": labels_found(labelmap)}, (tmp_path / "sent.nii.gz").read_bytes()
        ),
        "screening": Answer({**common, "organs": [{}]}),
        "report": Answer({**common, "report": report.to_document()}),
    }
    return volume, answers


def test_right_answers_pass(case, tmp_path):
    volume, answers = case
    mask = demo.checked(volume, answers, tmp_path / "case")
    assert np.unique(mask.voxels).tolist() == [0, 2]


def test_mask_on_another_grid_fails(case, tmp_path):
    volume, answers = case
    moved = Volume(volume.voxels, np.diag([1.0, -1, 3, 1]), sha256="ab")
    with pytest.raises(demo.PastaError, match="not the CT's own"):
        demo.checked(moved, answers, tmp_path / "case")


@pytest.mark.parametrize(
    ("task", "change", "message"),
    [
        ("segmentation", {"labels": []}, "its labels are not"),
        ("screening", {"input_sha256": "cd"}, "another input"),
        ("screening", {"organs": []}, "names no organ"),
        ("report", {"model": []}, "lacks its notice"),
        ("report", {"report": {"schema": "other"}}, "schema"),
    ],
)
def test_wrong_documents_fail(case, tmp_path, task, change, message):
    volume, answers = case
    answer = answers[task]
    answers[task] = Answer({**answer.document, **change}, answer.image)
    with pytest.raises(demo.PastaError, match=message):
        demo.checked(volume, answers, tmp_path / "case")


def save_small_models(folder):
    """Write random models of width 8: quick, and their answers are of the right form."""
    common = {
        "version": "1",
        "width": 8,
        "patch_shape": (64, 64, 64),
        "spacing_mm": (6.0, 6.0, 6.0),
    }
    channels = ("background", *(label.name for label in LABELS))
    segmentation = ModelSpec(
        name="s", task="segmentation", title="s", channels=channels,
        intensity=ZScore((-1000.0, 1000.0), 0.0, 500.0), **common,
    )  # fmt: skip
    save_model([PastaUNet(len(channels), width=8)], segmentation, folder / "segmentation")
    screening = ModelSpec(
        name="c", task="screening", title="c", intensity=Segmental(), organs=("liver",), **common
    )
    save_model([PastaClassifier(2, width=8)], screening, folder / "screening")
    attributes = ModelSpec(
        name="a", task="attributes", title="a", intensity=Segmental(),
        attributes=head_options(), **common,
    )  # fmt: skip
    save_model(
        [PastaClassifier(attributes.num_outputs, width=8)], attributes, folder / "attributes"
    )


@pytest.fixture
def command(tmp_path):
    """The command, its environment and its port: a small phantom, small models."""
    studies = tmp_path / "studies"
    studies.mkdir()
    recipe = draw_phantom(np.random.default_rng(4), range_mm=(-100, 60))
    from pasta.io.nifti import write_nifti

    write_nifti(render_phantom(recipe, (5.0, 5.0, 8.0))[0], studies / "small.nii.gz")
    save_small_models(tmp_path / "models")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, "-m", "pasta.cli.main", "demo", str(studies), "--port", str(port)]
    words += ["--output", str(tmp_path / "out")]
    return words, {**os.environ, "PASTA_MODELS": str(tmp_path / "models")}, port


@pytest.mark.slow
def test_whole_run_writes_checked_results_and_stops(command, tmp_path):
    words, environment, port = command
    done = subprocess.run(
        [*words, "--oneshot"], cwd=REPOSITORY, env=environment, capture_output=True, text=True,
        timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "out" / "small"
    names = {path.name for path in folder.iterdir()}
    assert {"mask.nii.gz", "mask.seg.nrrd", "report.txt", "overview.png"} <= names
    assert json.loads((folder / "screening.json").read_text())["organs"][0]["organ"] == "liver"
    assert "3D Slicer" in done.stdout
    with pytest.raises(ServerError):
        Client(f"http://127.0.0.1:{port}").images()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_server_dies_with_the_command(command, number):
    words, environment, port = command
    client = Client(f"http://127.0.0.1:{port}")
    process = subprocess.Popen(
        words, cwd=REPOSITORY, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        assert eventually(lambda: bool(client.images()), 240)
    finally:
        process.send_signal(number)
        process.wait(60)

    def gone():
        try:
            client.images()
        except ServerError:
            return True
        return False

    assert eventually(gone, 30)


def eventually(happens, seconds):
    """Wait until something happens."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(ServerError):
            if happens():
                return True
        time.sleep(0.5)
    return False
