"""The `pasta` command tells foreseen errors in one line and never hides others."""

import subprocess
import sys

import pytest

from pasta.cli import weights
from pasta.cli.main import main
from pasta.errors import VolumeError


def test_help_answers_without_loading_torch():
    code = (
        "import sys\nfrom pasta.cli.main import build_parser\n"
        "text = build_parser(['predict', '--help']).format_help()\n"
        "assert 'weights' in text and 'predict' in text\n"
        "assert not {'torch', 'numpy', 'pasta.cli.weights'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_foreseen_error_is_one_line_and_status_2(tmp_path, capsys):
    assert main(["weights", "inspect", str(tmp_path / "none.pth")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("pasta weights: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "status"), [(VolumeError("ct: bad."), 2), (KeyboardInterrupt(), 130)]
)
def test_the_exit_status_tells_how_it_ended(error, status, monkeypatch, capsys):
    def run(args):
        raise error

    monkeypatch.setattr(weights, "run", run)
    assert main(["weights", "inspect", "x"]) == status
    assert capsys.readouterr().err in ("pasta weights: ct: bad.\n", "pasta weights: interrupted.\n")


def test_an_unforeseen_error_keeps_its_traceback(monkeypatch):
    def run(args):
        raise ZeroDivisionError

    monkeypatch.setattr(weights, "run", run)
    with pytest.raises(ZeroDivisionError):
        main(["weights", "inspect", "x"])


@pytest.mark.parametrize("words", [[], ["unknown"], ["weights"], ["weights", "import", "f.pth"]])
def test_wrong_words_end_with_status_2(words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "usage: pasta" in capsys.readouterr().err
