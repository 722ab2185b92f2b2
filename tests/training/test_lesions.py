import numpy as np
import pytest
from scipy import ndimage

from pasta.labels import LESIONS, label_named
from training.synthesis.lesions import WALL, add_lesions, apply_recipe, draw_recipe

SPACING = 2.0


@pytest.fixture
def host():
    """A fatty block with each organ in turn as a ball of 60 mm."""

    def make(organ, hu):
        rng = np.random.default_rng(1)
        grid = np.indices((56, 56, 56)) - 27.5
        inside = (grid**2).sum(axis=0) < 15**2
        volume = np.where(inside, hu, -100).astype(np.float32)
        volume += rng.normal(0, 4, volume.shape).astype(np.float32)
        labels = np.where(inside, label_named(organ).value, 0).astype(np.uint8)
        return volume, labels

    return make


HOST_HU = {"lung": -850, "bone": 220, "gallbladder": 8, "liver": 110, "kidney": 160}


@pytest.mark.parametrize("lesion", LESIONS, ids=lambda lesion: lesion.name)
def test_every_lesion_type_lies_in_its_organ_and_changes_nothing_far_away(lesion, host):
    volume, labels = host(lesion.organ, HOST_HU.get(lesion.organ, 60))
    rng = np.random.default_rng(3)
    out, out_labels, drawn = add_lesions(volume, labels, [lesion.name], SPACING, rng)
    assert drawn
    assert set(np.unique(out_labels)) <= {0, label_named(lesion.organ).value, lesion.value}
    mask = out_labels == lesion.value
    assert mask.any()
    assert mask[labels > 0].any()
    assert ndimage.label(mask | (labels > 0), structure=np.ones((3, 3, 3)))[1] == 1
    far = ndimage.distance_transform_edt(~mask) * SPACING > 25
    np.testing.assert_allclose(out[far], volume[far], atol=6.0)


@pytest.mark.parametrize("name", ["liver_cyst", "liver_tumor", "gallstone", "bone_metastasis"])
def test_the_drawn_attenuation_is_the_one_of_the_recipe(name, host):
    organ = label_named(name).organ
    volume, labels = host(organ, HOST_HU[organ])
    for seed in range(4):
        recipe = draw_recipe(name, volume, labels, SPACING, np.random.default_rng(seed))
        out, _, drawn = apply_recipe(recipe, volume, labels, SPACING)
        core = ndimage.binary_erosion(drawn.mask, iterations=2)
        if core.sum() > 30 and not recipe.heterogeneous:
            assert out[core].mean() == pytest.approx(recipe.hu, abs=8)


def test_benign_lesions_leave_neighbouring_organs_alone(host):
    volume, labels = host("kidney", 160)
    labels[30:, :, :][labels[30:, :, :] > 0] = label_named("liver").value
    liver = labels == label_named("liver").value
    for seed in range(8):
        rng = np.random.default_rng(seed)
        _, out_labels, _ = add_lesions(volume, labels, ["kidney_cyst"], SPACING, rng)
        assert (out_labels[liver] == label_named("liver").value).all()


def test_the_same_recipe_gives_the_same_volume(host):
    volume, labels = host("liver", 110)
    recipe = draw_recipe("liver_tumor", volume, labels, SPACING, np.random.default_rng(5))
    first, second = (apply_recipe(recipe, volume, labels, SPACING) for _ in range(2))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def test_an_organ_that_is_not_there_gets_no_lesion(host):
    volume, labels = host("liver", 110)
    assert draw_recipe("kidney_tumor", volume, labels, SPACING, np.random.default_rng(0)) is None


def test_a_thickened_wall_stays_near_the_surface(host):
    volume, labels = host("bladder", 8)
    for seed in range(30):
        recipe = draw_recipe("bladder_cancer", volume, labels, SPACING, np.random.default_rng(seed))
        if recipe.shape == WALL and not recipe.invasive:
            _, _, drawn = apply_recipe(recipe, volume, labels, SPACING)
            depth = ndimage.distance_transform_edt(labels > 0) * SPACING
            assert depth[drawn.mask].max() < 2 * recipe.thickness_mm
            break
    else:
        pytest.fail("no wall among 30 bladder cancers")
