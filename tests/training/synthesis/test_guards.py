"""The guards find what is broken, and let pass what is drawn."""

from dataclasses import replace

import numpy as np
import pytest

from pasta.labels import LESIONS
from training.synthesis.guards import broken_rules, replaced_voxels
from training.synthesis.recipe import RecipeError
from training.synthesis.recipes import apply, draw


@pytest.fixture(scope="module")
def cyst(scene):
    recipe = draw("liver_cyst", scene, np.random.default_rng(3), {"diameter_mm": 12})
    return recipe, apply(recipe, scene)


@pytest.mark.parametrize("label", [lesion.name for lesion in LESIONS])
def test_lesions_as_drawn_break_no_rule(label, scene):
    for seed in range(3):
        try:
            recipe = draw(label, scene, np.random.default_rng(seed))
        except RecipeError:
            continue
        assert broken_rules(recipe, apply(recipe, scene), scene) == []


def test_changes_far_away_are_found(scene, make_scene):
    recipe = draw("bone_metastasis", scene, np.random.default_rng(1), {"diameter_mm": 10})
    result = apply(recipe, scene)
    hu = result.hu.copy()
    hu[0, 0, 0] += 5
    assert "tissue far from the lesion has other HU" in broken_rules(
        recipe, replace(result, hu=hu), scene
    )


def test_two_components_are_found(scene, cyst):
    recipe, result = cyst
    mask, alpha = result.mask.copy(), result.alpha.copy()
    mask[0, 0, 0], alpha[0, 0, 0] = True, 1
    assert "more than one component" in broken_rules(
        recipe, replace(result, mask=mask, alpha=alpha), scene
    )


def test_a_mask_that_is_not_alpha_is_found(scene, cyst):
    recipe, result = cyst
    assert "the mask is not where alpha is one half or more" in broken_rules(
        recipe, replace(result, alpha=np.zeros_like(result.alpha)), scene
    )


def test_attenuation_no_scanner_gives_is_found(scene, cyst):
    recipe, result = cyst
    hu = result.hu.copy()
    hu[result.mask] = 4000
    assert any("HU outside" in rule for rule in broken_rules(recipe, replace(result, hu=hu), scene))


def test_a_neighbours_voxel_under_a_benign_mask_is_found(scene):
    recipe = draw("gallstone", scene, np.random.default_rng(1))
    result = apply(recipe, scene)
    outside = np.argwhere(scene.labels[result.box] == 2)
    if not len(outside):  # no liver in the box: take fat's neighbour, the stone's own border
        labels = scene.labels.copy()
        labels[result.box][result.mask] = 2
        other = replace(scene, labels=labels, _fields={}, _full=scene._full)
        assert replaced_voxels(recipe, result, other) > 0
        return
    mask = result.mask.copy()
    mask[tuple(outside[0])] = True
    assert replaced_voxels(recipe, replace(result, mask=mask), scene) > 0


def test_lesions_drawn_before_are_kept_free(scene, cyst):
    recipe, result = cyst
    blocked = np.ones(scene.shape, bool)
    there = replace(scene, blocked=blocked)
    assert any("before" in rule for rule in broken_rules(
        recipe, replace(result, displaced=np.zeros_like(result.mask)), there))  # fmt: skip
