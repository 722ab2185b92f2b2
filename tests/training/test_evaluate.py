import numpy as np

from pasta.geometry import Volume
from training.evaluate import main, measured, structures


def test_organs_count_with_their_lesions_and_unknown_voxels_do_not_count():
    reference = np.array([2, 12, 255, 0], np.uint8).reshape(4, 1, 1)
    prediction = np.array([12, 2, 2, 0], np.uint8).reshape(4, 1, 1)
    volume = Volume(np.zeros((4, 1, 1)), np.eye(4))
    case = measured("case", volume, prediction, reference, {"liver", "liver_tumor"})
    assert case.dice == {"liver": 1.0, "liver_tumor": 0.0}
    assert case.found == {"liver_tumor": (0, 1)}
    assert structures(["kidney"]) == {"kidney": (8, 18, 24, 25)}


def test_no_picture_of_a_case_whose_licence_allows_no_derivatives(tmp_path, capsys):
    assert main(["ircadb_01_NC-ND", "--picture", str(tmp_path / "x.png")]) == 2
    assert "derivatives" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_unknown_case_is_named_with_what_exists(tmp_path, capsys, monkeypatch):
    from training import evaluate

    monkeypatch.setattr("pasta.networks.checkpoint.load_model", lambda folder: folder)
    monkeypatch.setattr("pasta.inference.segmentation.Segmenter", lambda *_, **__: None)
    assert evaluate.main(["nobody", "--data", str(tmp_path)]) == 2
    assert "sample_portal_venous" in capsys.readouterr().err
