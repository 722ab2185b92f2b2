"""`pasta serve`: settings are checked before anything starts, and the process is the server's."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from pasta.cli.main import main
from pasta.client import Client, ServerError

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def studies(tmp_path):
    folder = tmp_path / "images of a study"  # with a space, which stock MONAI Label cannot take
    folder.mkdir()
    voxels = np.random.default_rng(0).integers(-1000, 400, (20, 20, 20)).astype(np.int16)
    nib.save(nib.Nifti1Image(voxels, np.diag([-3.0, -3, 3, 1])), folder / "ct.nii.gz")
    return folder


def test_wrong_settings_are_told_with_their_lines(studies, tmp_path, capsys):
    config = tmp_path / "pasta.toml"
    config.write_text('[server]\nport = "8000"\nhots = "a"\n')
    assert main(["serve", str(studies), "--config", str(config)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert "pasta.toml:2: server.port: " in said[0]
    assert said[1].startswith("pasta.toml:3: server.hots: unknown key")


def test_an_open_address_needs_a_second_word(studies, capsys):
    assert main(["serve", str(studies), "--host", "0.0.0.0"]) == 2
    assert "add network = true" in capsys.readouterr().err


def test_settings_that_are_in_order_can_be_checked_without_a_start(studies, tmp_path, capsys):
    config = tmp_path / "pasta.toml"
    config.write_text("[server]\nport = 8123\n")
    assert main(["serve", str(studies), "--config", str(config), "--check"]) == 0
    assert "http://127.0.0.1:8123" in capsys.readouterr().out
    assert not (studies / ".pasta").exists()


def test_a_missing_folder_is_refused(tmp_path, capsys):
    assert main(["serve", str(tmp_path / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_it_serves_until_it_is_told_to_stop(studies, tmp_path):
    pytest.importorskip("monailabel", reason="the server extra is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, "-m", "pasta.cli.main", "serve", str(studies), "--port", str(port)]
    environment = {**os.environ, "PASTA_DEVICE": "cpu", "PASTA_MODELS": str(tmp_path)}
    log = tmp_path / "serve.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            words, cwd=REPOSITORY, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        client, images = Client(f"http://127.0.0.1:{port}"), []
        end = time.monotonic() + 200
        while not images and process.poll() is None and time.monotonic() < end:
            try:
                images = client.images()
            except ServerError:
                time.sleep(0.3)
        assert [image["id"] for image in images] == ["ct"], log.read_text()[-3000:]
        assert "tokens: " in log.read_text()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    with pytest.raises(ServerError):
        client.images()
    assert list((studies / ".pasta" / "run").iterdir()) == []
