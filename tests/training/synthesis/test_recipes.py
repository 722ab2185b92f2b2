"""Recipes: small, complete, the same to the last bit on any machine; bad ones are refused."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pasta.labels import LESIONS
from pasta.report.attributes import CLOSE, HYPERDENSE
from training.synthesis.recipe import Canvas, Recipe, RecipeError
from training.synthesis.recipes import apply, draw, draw_case, impossible
from training.synthesis.templates import Template

TYPES = [lesion.name for lesion in LESIONS]
ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("label", TYPES)
def test_a_recipe_of_one_kilobyte_replays_bit_for_bit(label, scene):
    recipe = draw(label, scene, np.random.default_rng(5))
    text = recipe.to_json()
    assert len(text) <= 1024
    again = Recipe.from_json(text)
    assert again == recipe
    first, second = apply(recipe, scene), apply(again, scene)
    assert first.box == second.box
    for name in ("hu", "mask", "labels", "alpha"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


@pytest.mark.slow
def test_a_processor_without_wide_vectors_draws_the_same(scene, tmp_path):
    """NumPy's exp differs with the instruction set; drawings must not."""
    np.savez(tmp_path / "scene.npz", hu=scene.hu, labels=scene.labels, tissues=scene.tissues)
    code = (
        "import hashlib, sys, numpy as np\n"
        "from training.synthesis.recipe import Recipe\n"
        "from training.synthesis.recipes import apply\n"
        "from training.synthesis.templates import Template\n"
        f"stored = np.load({str(tmp_path / 'scene.npz')!r})\n"
        "t = Template.from_arrays('scene', stored['hu'], stored['labels'], stored['tissues'])\n"
        "for line in sys.stdin:\n"
        "    r = apply(Recipe.from_json(line), t)\n"
        "    print(hashlib.sha256(r.hu.tobytes() + r.mask.tobytes()).hexdigest())\n"
    )
    recipes = [draw(label, scene, np.random.default_rng(9)) for label in TYPES]
    here = []
    for recipe in recipes:
        result = apply(recipe, scene)
        here.append(hashlib.sha256(result.hu.tobytes() + result.mask.tobytes()).hexdigest())
    found = np._core._multiarray_umath.__cpu_features__
    wide = [n for n in ("AVX2", "FMA3", "AVX512F", "AVX512_SKX", "AVX512_ICL") if found.get(n)]
    dispatched = np._core._multiarray_umath.__cpu_dispatch__
    other = os.environ | {
        "NPY_DISABLE_CPU_FEATURES": " ".join(n for n in wide if n in dispatched),
        "PYTHONPATH": str(ROOT),
    }
    lines = "".join(recipe.to_json() + "\n" for recipe in recipes)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], input=lines, env=other, check=True,
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.stdout.split() == here


def test_the_template_is_not_written_to(scene):
    before = scene.hu.copy(), scene.labels.copy()
    apply(draw("kidney_cyst", scene, np.random.default_rng(1)), scene)
    np.testing.assert_array_equal(scene.hu, before[0])
    np.testing.assert_array_equal(scene.labels, before[1])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"version": 9}, "version"),
        ({"label": "liver"}, "not a lesion"),
        ({"label": "brain_tumor"}, "unknown label"),
        ({"seed": -1}, "seed"),
        ({"seed": None}, "seed"),
        ({"centre": [1, 2]}, "centre"),
        ({"axes_mm": [0, 4, 4]}, "axes_mm"),
        ({"axes_mm": "big"}, "axes_mm"),
        ({"numbers": {"colour": 3}}, "colour"),
        ({"numbers": {"hu": float("nan")}}, "hu"),
        ({"numbers": {"margin_mm": 0}}, "margin_mm"),
        ({"numbers": 3}, ""),
        ({"rotation": [0, 0, 0, 0]}, "rotation"),
        ({"family": "cloud"}, "family"),
        ({"wish": {"shape": "Square"}}, "Square"),
        ({"extra": 1}, "extra"),
    ],
)
def test_a_corrupt_recipe_is_one_clear_error(change, named, scene):
    document = json.loads(draw("liver_tumor", scene, np.random.default_rng(0)).to_json())
    with pytest.raises(RecipeError, match=r"line 3: .*Draw it again\.$") as raised:
        Recipe.from_json(json.dumps(document | change), "plan.jsonl line 3")
    assert named in str(raised.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"version":1}', "\x00", "9" * 9000])
def test_what_is_no_recipe_is_refused(text):
    with pytest.raises(RecipeError, match="Draw it again"):
        Recipe.from_json(text)


def test_a_recipe_for_another_template_is_refused(scene, make_scene):
    recipe = draw("liver_cyst", scene, np.random.default_rng(0))
    with pytest.raises(RecipeError, match="drawn for template 'scene'"):
        apply(recipe, make_scene("other"))


def test_missing_organs_and_organs_too_small_are_named(scene):
    labels = scene.labels.copy()
    labels[labels == 4] = 0
    small = labels == 3
    small[: 96 + 5] = False
    labels[(labels == 3) & ~small] = 0
    poor = Template.from_arrays("poor", scene.hu, labels)
    with pytest.raises(RecipeError, match="pancreas is not in the scan"):
        draw("pancreatic_cyst", poor, np.random.default_rng(0))
    with pytest.raises(RecipeError, match="gallbladder"):
        draw("gallstone", poor, np.random.default_rng(0))
    with pytest.raises(RecipeError, match="liver is too small for 180 mm"):
        draw("liver_tumor", scene, np.random.default_rng(0), {"diameter_mm": 180})


@pytest.mark.parametrize(
    ("wish", "named"),
    [
        ({"colour": "red"}, "colour"),
        ({"shape": "Square"}, "Square"),
        ({"diameter_mm": -3}, "diameter_mm"),
        ({"diameter_mm": "large"}, "diameter_mm"),
    ],
)
def test_a_wish_that_makes_no_sense_is_one_clear_error(wish, named, scene):
    with pytest.raises(RecipeError, match=named):
        draw("liver_tumor", scene, np.random.default_rng(0), wish)


def test_what_a_type_never_has_is_told():
    told = impossible("kidney_cyst", {"invasion": CLOSE, "density": HYPERDENSE})
    assert set(told) == {"invasion"}


def test_lesions_of_one_scan_do_not_overlap(scene):
    recipes, canvas = draw_case("liver_cyst", scene, np.random.default_rng(2), most=4)
    again = Canvas.of(scene)
    masks = np.zeros(scene.shape, int)
    for recipe in recipes:
        result = apply(recipe, scene, again)
        again.put(result)
        masks[result.box] += result.mask
    assert len(recipes) >= 2
    assert masks.max() == 1
    np.testing.assert_array_equal(again.hu, canvas.hu)


def test_nothing_is_drawn_where_a_lesion_was_before(scene):
    blocked = np.zeros(scene.shape, bool)
    blocked[:38] = scene.labels[:38] == 2
    half = Template.from_arrays("half", scene.hu, scene.labels, scene.tissues, blocked=blocked)
    for seed in range(6):
        recipe = draw("liver_tumor", half, np.random.default_rng(seed), {"diameter_mm": 10})
        result = apply(recipe, half)
        assert not (result.mask & blocked[result.box]).any()
