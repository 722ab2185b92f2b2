"""Each of the 15 types: size, attenuation, edge and place as asked for."""

import numpy as np
import pytest
from scipy import ndimage

from pasta.labels import LESIONS, label_named
from pasta.report.attributes import HYPERDENSE, HYPODENSE, ISODENSE, WALL
from training.synthesis.guards import broken_rules
from training.synthesis.priors import CYSTS, PRIORS, STONES, draw_hu
from training.synthesis.recipe import RecipeError
from training.synthesis.recipes import apply, draw

TYPES = [lesion.name for lesion in LESIONS]


@pytest.mark.parametrize("label", TYPES)
def test_a_lesion_lies_at_its_organ_with_its_label(label, scene):
    organ = label_named(label_named(label).organ).value
    for seed in range(3):
        recipe = draw(label, scene, np.random.default_rng(seed))
        result = apply(recipe, scene)
        assert (result.labels[result.mask] == label_named(label).value).all()
        before = scene.labels[result.box]
        near = ndimage.binary_dilation(result.mask, iterations=2)
        assert (before[near] == organ).any()
        assert (result.hu[result.mask] != scene.hu[result.box][result.mask]).any()


@pytest.mark.parametrize("label", ["liver_tumor", "kidney_tumor", "liver_cyst", "bone_metastasis"])
def test_solid_lesions_have_the_size_asked_for(label, scene):
    for seed in range(4):
        recipe = draw(label, scene, np.random.default_rng(seed), {"diameter_mm": 18})
        volume = apply(recipe, scene).mask.sum()
        assert (6 * volume / np.pi) ** (1 / 3) == pytest.approx(18, rel=0.1)


@pytest.mark.parametrize("label", ["liver_tumor", "liver_cyst", "kidney_tumor", "pancreatic_cyst"])
def test_the_visible_mean_is_that_of_the_recipe(label, scene):
    for seed in range(4):
        recipe = draw(label, scene, np.random.default_rng(seed), {"diameter_mm": 20})
        result = apply(recipe, scene)
        core = ndimage.binary_erosion(result.mask, ndimage.generate_binary_structure(3, 2))
        if recipe["calcium_hu"] == 0:
            assert result.hu[core].mean() == pytest.approx(recipe["hu"], abs=4)


def test_an_ill_defined_edge_is_wider_than_a_sharp_one(scene):
    widths = {}
    for option in ("Well-defined margin", "Ill-defined margin"):
        wish = {"surface": option, "diameter_mm": 26, "density": HYPODENSE}
        recipe = draw("liver_tumor", scene, np.random.default_rng(4), wish)
        alpha = apply(recipe, scene).alpha
        widths[option] = int(((alpha > 0.1) & (alpha < 0.9)).sum())
    assert widths["Ill-defined margin"] > 1.8 * widths["Well-defined margin"]


@pytest.mark.parametrize("label", ["gastric_cancer", "esophageal_cancer", "colorectal_cancer"])
def test_wall_lesions_follow_the_wall(label, scene):
    drawn = 0
    for seed in range(4):
        recipe = draw(label, scene, np.random.default_rng(seed), {"shape": WALL})
        assert recipe.family == "wall"
        result = apply(recipe, scene)
        depth = scene.distances(recipe.organ)[result.box][result.mask]
        assert depth.max() <= recipe["outward_mm"] * 1.6 + 2
        assert (depth >= -recipe["thickness_mm"] * 1.4 - 1).all()
        drawn += 1
    assert drawn == 4


def test_gallstones_sink_and_kidney_stones_stay_inside(scene):
    box = scene.organ_box("gallbladder")
    middle = (box[1].start + box[1].stop) / 2
    for seed in range(4):
        recipe = draw("gallstone", scene, np.random.default_rng(seed), {"diameter_mm": 6})
        assert recipe.centre[1] > middle  # j runs to the back
        for label in STONES:
            stone = apply(draw(label, scene, np.random.default_rng(seed)), scene)
            organ = label_named(label_named(label).organ).value
            assert (scene.labels[stone.box][stone.mask] == organ).all()


def test_kidney_lesions_may_bulge_out_of_the_kidney(scene):
    outside = []
    for seed in range(12):
        result = apply(
            draw("kidney_cyst", scene, np.random.default_rng(seed), {"diameter_mm": 14}), scene
        )
        outside.append(float((scene.labels[result.box][result.mask] != 8).mean()))
    assert max(outside) > 0.2
    assert min(outside) < 0.2


@pytest.mark.parametrize("label", [*CYSTS, *STONES])
def test_benign_lesions_never_take_a_neighbours_voxels(label, scene):
    for seed in range(8):
        try:
            recipe = draw(label, scene, np.random.default_rng(seed))
        except RecipeError:
            continue
        assert broken_rules(recipe, apply(recipe, scene), scene) == []


@pytest.mark.parametrize("label", TYPES)
def test_no_attenuation_is_drawn_that_would_read_as_either(label):
    rng = np.random.default_rng(0)
    reference = 230.0 if label == "bone_metastasis" else 60.0 if label != "gallstone" else 8.0
    for density, share in PRIORS[label].shares("density").items():
        if share <= 0:
            continue
        for _ in range(40):
            delta = draw_hu(label, density, reference, contrast=False, rng=rng) - reference
            if density == ISODENSE:
                assert abs(delta) <= 7
            else:
                assert (delta >= 13) if density == HYPERDENSE else (delta <= -13)
