import os
import shutil
import socket

import pytest

from pasta.cli.doctor import examined
from pasta.cli.main import main
from pasta.networks.checkpoint import PACKAGED_MODELS


def findings(studies=None, config=None):
    return {found.what: found for found in examined(studies, config)}


@pytest.fixture
def settings(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    path = tmp_path / "pasta.toml"
    path.write_text(f"[server]\nport = {port}\n")
    return path


def test_a_machine_that_can_serve_has_nothing_bad(settings, tmp_path, capsys):
    (tmp_path / "studies").mkdir()
    assert main(["doctor", str(tmp_path / "studies"), "--config", str(settings)]) == 0
    printed = capsys.readouterr().out
    for what in ("settings", "Python", "packages", "device", "weights", "port", "studies", "disk"):
        assert what in printed
    assert not [line for line in printed.splitlines() if line.startswith("bad")]


def test_a_mistake_in_the_settings_does_not_hide_the_rest(tmp_path):
    (tmp_path / "pasta.toml").write_text('[server]\nport = "many"\n')
    found = findings(config=tmp_path / "pasta.toml")
    assert found["settings"].verdict == "bad"
    assert "pasta.toml:2" in found["settings"].text
    assert found["Python"].verdict == "ok"


def test_a_port_in_use_is_told(tmp_path):
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        (tmp_path / "pasta.toml").write_text(f"[server]\nport = {port}\n")
        found = findings(config=tmp_path / "pasta.toml")["port"]
    assert found.verdict == "bad"
    assert "choose another server.port" in found.text


def test_damaged_weights_are_told(tmp_path):
    shutil.copytree(PACKAGED_MODELS / "screening", tmp_path / "models" / "screening")
    (file,) = (tmp_path / "models" / "screening").glob("*.safetensors")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    (tmp_path / "pasta.toml").write_text('[models]\nfolder = "models"\n')
    found = findings(config=tmp_path / "pasta.toml")["weights"]
    assert found.verdict == "bad"
    assert "SHA-256" in found.text


def test_a_folder_that_is_not_there_and_tokens_open_to_others_are_told(settings, tmp_path):
    assert findings(str(tmp_path / "none"), settings)["studies"].verdict == "bad"
    tokens = tmp_path / ".pasta" / "tokens"
    tokens.parent.mkdir()
    tokens.write_text("x")
    os.chmod(tokens, 0o644)  # noqa: PTH101
    assert findings(str(tmp_path), settings)["tokens"].verdict == "bad"


def test_a_pacs_that_does_not_answer_is_told(settings, tmp_path, monkeypatch):
    monkeypatch.setenv("PASTA_PACS_CACHE", str(tmp_path))
    pytest.importorskip("dicomweb_client")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{probe.getsockname()[1]}/dicom-web"
    assert findings(address, settings)["PACS"].verdict == "bad"
