"""`pasta weights`: from a published file to a model folder, as a user does it."""

import pytest
import torch

from pasta.cli.main import main
from pasta.networks.checkpoint import find_models, load_model
from pasta.networks.unet import PastaUNet
from pasta.spec import ZScore


@pytest.fixture
def lung_file(tmp_path):
    """A flat file of three classes, as fine-tuned checkpoints have."""
    path = tmp_path / "lung.pth"
    torch.save(PastaUNet(3, width=2).state_dict(), path)
    return path


LUNG = ["--labels", "lung,lung_tumor"]
INTENSITY = ["--clip-hu", "-1000", "300", "--mean-hu", "-250.5", "--std-hu", "400"]


def test_inspect_says_what_is_inside_and_what_is_missing(lung_file, capsys):
    assert main(["weights", "inspect", str(lung_file)]) == 0
    out = capsys.readouterr().out
    assert "width 2, 1 in-channel(s)" in out
    assert "3 with background" in out
    assert "--labels naming the foreground classes in order and --clip-hu" in out


def test_import_writes_a_model_that_the_pipeline_finds(lung_file, tmp_path, capsys):
    folder = tmp_path / "models" / "lung"
    words = ["weights", "import", str(lung_file), "-o", str(folder), *LUNG, *INTENSITY]
    assert main([*words, "--name", "lung-ft", "--axcodes", "LPS", "--license", "MIT"]) == 0
    assert "(complete)" in capsys.readouterr().out
    spec = find_models(tmp_path / "models").segmentation.spec
    assert (spec.name, spec.axcodes, spec.license) == ("lung-ft", "LPS", "MIT")
    assert spec.intensity == ZScore((-1000.0, 300.0), -250.5, 400.0)
    assert spec.channels == ("background", "lung", "lung_tumor")
    assert main(["weights", "inspect", str(folder)]) == 0
    assert "background, lung, lung_tumor" in capsys.readouterr().out


def test_a_model_is_replaced_only_when_asked(lung_file, tmp_path, capsys):
    words = ["weights", "import", str(lung_file), "-o", str(tmp_path / "m"), *LUNG, *INTENSITY]
    assert main(words) == 0
    before = load_model(tmp_path / "m")
    assert main([*words, "--full-precision"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert load_model(tmp_path / "m") == before
    assert main([*words, "--full-precision", "--overwrite"]) == 0
    assert load_model(tmp_path / "m") != before


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([*LUNG], "--default-intensity"),
        ([*LUNG, "--mean-hu", "0"], "give all three"),
        ([*LUNG, "--clip-hu", "5", "5", "--mean-hu", "0", "--std-hu", "1"], "is impossible"),
        ([*LUNG, "--clip-hu", "0", "nan", "--mean-hu", "0", "--std-hu", "1"], "is impossible"),
        ([*INTENSITY], "--labels lung,lung_tumor"),
        (["--labels", "lung,spleen", *INTENSITY], "unknown label 'spleen'"),
        ([*LUNG, *INTENSITY, "--axcodes", "LRS"], "axcodes is 'LRS'"),
        ([*LUNG, *INTENSITY, "--name", "a b"], "name may hold"),
        (["--task", "screening", "--organs", "liver"], "needs an MLP head"),
    ],
)
def test_what_is_missing_or_wrong_is_said(words, sentence, lung_file, tmp_path, capsys):
    assert main(["weights", "import", str(lung_file), "-o", str(tmp_path / "m"), *words]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "m" / "spec.json").exists()


def test_one_bad_file_does_not_hide_the_good_one(lung_file, tmp_path, capsys):
    assert main(["weights", "inspect", str(tmp_path / "no.pth"), str(lung_file)]) == 2
    out, err = capsys.readouterr()
    assert "lung.pth" in out
    assert "no.pth" in err
