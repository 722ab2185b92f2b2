"""The loop: what is reported is what the meter reads, and unmet wishes say why."""

import numpy as np
import pytest

from pasta.report.attributes import (
    ATTRIBUTE_NAMES,
    CLOSE,
    HYPERDENSE,
    HYPODENSE,
    ISODENSE,
    PREDICTED,
    PUNCTATE,
)
from pasta.report.document import from_document
from training.synthesis.check import balanced_accuracy, main, mean_variance, texture_features
from training.synthesis.loop import accepted, full_report, lesion_report, measure
from training.synthesis.recipes import apply
from training.synthesis.templates import TemplateStore


@pytest.mark.parametrize("label", ["liver_tumor", "gastric_cancer", "kidney_stone", "lung_tumor"])
def test_the_report_is_what_the_meter_reads_of_a_replay(label, scene):
    kept = accepted(label, scene, np.random.default_rng(1))
    again = measure(kept.recipe, apply(kept.recipe, scene), scene)
    assert set(ATTRIBUTE_NAMES) <= set(kept.report)
    for name in PREDICTED:
        assert kept.report[name] == again.attributes[name].value
    assert kept.report["size_mm"] == pytest.approx(again.size_mm, abs=0.06)
    assert 1 <= kept.attempts <= 5
    for name, (intended, found) in kept.relabelled.items():
        assert kept.recipe.wish[name] == intended
        assert kept.report[name] == found


@pytest.mark.parametrize("density", [HYPODENSE, ISODENSE, HYPERDENSE])
def test_a_wish_for_density_is_met(density, scene):
    wish = {"density": density, "diameter_mm": 24}
    for seed in range(3):
        kept = accepted("liver_tumor", scene, np.random.default_rng(seed), wish)
        assert kept.report["density"] == density
        assert "density" not in kept.unmet
        assert kept.report["diameter_mm"] == pytest.approx(24, abs=3.7)


def test_a_wish_that_no_lesion_of_the_type_has_is_told_in_the_report(scene):
    kept = accepted("liver_cyst", scene, np.random.default_rng(0), {"invasion": CLOSE})
    assert kept.report["invasion"] != CLOSE
    assert "no liver_cyst is drawn as" in kept.report["unmet"]["invasion"]
    kept = accepted("liver_tumor", scene, np.random.default_rng(0), {"shape": PUNCTATE})
    assert "shape" in kept.unmet


def test_the_report_becomes_a_document_of_pasta_report(scene):
    kept = accepted("kidney_tumor", scene, np.random.default_rng(2))
    lesion = lesion_report(kept.recipe, kept.result, kept.measurements, scene)
    report = full_report([lesion], scene)
    assert from_document(report.to_document()).lesions[0].values == lesion.values
    assert "Kidney tumor" in report.text()
    where = np.array(lesion.centre_voxel)
    inside = scene.affine[:3, :3] @ where + scene.affine[:3, 3]
    np.testing.assert_allclose(lesion.centre_mm, inside)


def test_balanced_accuracy_weighs_options_alike():
    from collections import Counter

    pairs = Counter({("a", "a"): 90, ("a", "b"): 10, ("b", "b"): 1, ("b", "a"): 1})
    assert balanced_accuracy(pairs) == pytest.approx((0.9 + 0.5) / 2)


def test_variety_is_greater_where_textures_differ():
    rng = np.random.default_rng(0)
    mask = np.ones((12, 12, 12), bool)
    alike = [texture_features(rng.normal(40, 5, mask.shape), mask) for _ in range(8)]
    other = [
        texture_features(rng.normal(rng.uniform(-50, 90), rng.uniform(2, 40), mask.shape), mask)
        for _ in range(8)
    ]
    assert alike[0].shape == (28,)
    ours, plain = mean_variance(other, alike)
    assert ours > 2 * plain


def test_the_check_command_prints_every_number(scene, tmp_path, capsys):
    store = TemplateStore(tmp_path / "store")
    store.put(scene, np.zeros(scene.shape, np.uint8))
    out = tmp_path / "check.json"
    status = main(
        ["--store", str(store.folder), "--per-type", "2", "--looped", "1", "--out", str(out),
         "--types", "liver_cyst", "gallstone", "gastric_cancer"]
    )  # fmt: skip
    printed = capsys.readouterr().out
    assert status == 0
    for words in ("balanced accuracy", "benign lesions", "median CPU ms", "replays that differ: 0"):
        assert words in printed
    assert out.exists()


def test_the_check_command_says_that_a_store_is_empty(tmp_path, capsys):
    assert main(["--store", str(tmp_path)]) == 2
    assert "no templates" in capsys.readouterr().err
