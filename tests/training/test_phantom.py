"""The phantom: anatomy in its place, lesions in their organs, the same voxels for the same seed."""

from __future__ import annotations

import numpy as np
import pytest

from pasta.errors import LabelError
from pasta.io import find_volumes, read_labelmap, read_volume
from pasta.labels import LESIONS, ORGANS, label_named
from training.synthesis.phantom import SAMPLES, draw_phantom, main, render_phantom

SPACING_MM = 5.0


@pytest.fixture(scope="module", params=["non-contrast", "portal venous"])
def phantom(request):
    """Draw a whole trunk with all lesion types."""
    names = [lesion.name for lesion in LESIONS]
    recipe = draw_phantom(np.random.default_rng(3), phase=request.param, lesions=names)
    return (recipe, *render_phantom(recipe, SPACING_MM))


def positions_mm(labelmap, name):
    """RAS positions of the voxels of a label."""
    voxels = np.argwhere(labelmap.voxels == label_named(name).value)
    return voxels @ labelmap.affine[:3, :3].T + labelmap.affine[:3, 3]


def test_every_organ_is_painted_with_a_plausible_volume(phantom):
    _, _, labelmap = phantom
    millilitres = {
        organ.name: (labelmap.voxels == organ.value).sum() * SPACING_MM**3 / 1000
        for organ in ORGANS
    }
    assert 2500 < millilitres["lung"] < 8500
    assert 800 < millilitres["liver"] < 2600
    assert 100 < millilitres["kidney"] < 500
    assert 1200 < millilitres["bone"] < 4500
    assert min(millilitres.values()) > 8


def test_grid_is_lps_and_labelmap_shares_it(phantom):
    _, ct, labelmap = phantom
    assert ct.grid.axcodes == "LPS"
    assert ct.grid.matches(labelmap.grid)
    np.testing.assert_allclose(ct.grid.spacing_mm, SPACING_MM)
    assert ct.voxels.dtype == np.int16
    assert labelmap.voxels.dtype == np.uint8


def test_organs_lie_on_their_side_of_the_patient(phantom):
    _, _, labelmap = phantom
    center = {
        organ.name: positions_mm(labelmap, organ.name).mean(axis=0) for organ in ORGANS
    }  # RAS: x to the right, y to the front, z to the head
    assert center["liver"][0] > 30
    assert center["stomach"][0] < -10
    assert center["gallbladder"][0] > 10
    assert center["lung"][2] > center["liver"][2] > center["bladder"][2]
    assert center["kidney"][1] < center["liver"][1] < center["gallbladder"][1]
    assert abs(center["kidney"][0]) < 25  # one on either side


def test_tissues_have_the_attenuation_of_a_ct(phantom):
    recipe, ct, labelmap = phantom

    def median(name):
        return np.median(ct.voxels[labelmap.voxels == label_named(name).value])

    assert -920 < median("lung") < -780
    assert median("bone") > 150
    assert -10 < median("bladder") < 40
    venous = recipe.phase == "portal venous"
    assert median("liver") > 80 if venous else median("liver") < 75
    assert median("kidney") > 100 if venous else median("kidney") < 60
    assert ct.voxels[0, 0].max() < -800  # air around the body
    assert ct.acquisition.contrast is venous


def test_every_lesion_lies_in_or_at_its_organ(phantom):
    _, _ct, labelmap = phantom
    for lesion in LESIONS:
        mask = labelmap.voxels == lesion.value
        if lesion.name in {"gallstone", "kidney_stone"} and not mask.any():
            continue  # thinner than a voxel of 5 mm
        assert mask.any(), lesion.name
        places = positions_mm(labelmap, lesion.name)
        host = positions_mm(labelmap, lesion.organ)
        nearest = np.sqrt(((places[:, None] - host[None]) ** 2).sum(-1).min(axis=1))
        assert nearest.min() <= 1.8 * SPACING_MM, lesion.name


def test_lesions_differ_from_their_organ(phantom):
    _, ct, labelmap = phantom
    liver = np.median(ct.voxels[labelmap.voxels == label_named("liver").value])
    tumor = np.median(ct.voxels[labelmap.voxels == label_named("liver_tumor").value])
    cyst = np.median(ct.voxels[labelmap.voxels == label_named("kidney_cyst").value])
    assert abs(tumor - liver) > 10
    assert cyst < 40


def test_same_recipe_gives_the_same_voxels_and_another_seed_others():
    first, again, other = (
        render_phantom(draw_phantom(np.random.default_rng(seed), range_mm=(-20, 40)), 6.0)
        for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(first[0].voxels, again[0].voxels)
    np.testing.assert_array_equal(first[1].voxels, again[1].voxels)
    assert first[0].voxels.shape != other[0].voxels.shape or not np.array_equal(
        first[0].voxels, other[0].voxels
    )


def test_anatomy_does_not_move_with_the_spacing():
    recipe = draw_phantom(np.random.default_rng(8), lesions=(), range_mm=(-120, 60))
    fine, coarse = (render_phantom(recipe, spacing)[1] for spacing in (4.0, (6.0, 6.0, 8.0)))
    for name in ("liver", "kidney"):
        np.testing.assert_allclose(
            positions_mm(fine, name).mean(axis=0), positions_mm(coarse, name).mean(axis=0), atol=5
        )


def test_unknown_lesion_is_refused_by_name():
    with pytest.raises(LabelError, match="liver_tumour"):
        draw_phantom(np.random.default_rng(0), lesions=["liver_tumour"])


@pytest.mark.slow
def test_sample_study_is_written_once_and_its_answers_are_not_listed(tmp_path):
    assert main(["--out", str(tmp_path), "--seed", "7"]) == 0
    listed = find_volumes(tmp_path)
    assert [path.name for path in listed] == sorted(f"{s.name}.nii.gz" for s in SAMPLES)
    stamps = [path.stat().st_mtime_ns for path in listed]
    assert main(["--out", str(tmp_path), "--seed", "7"]) == 0
    assert [path.stat().st_mtime_ns for path in listed] == stamps
    for path, sample in zip(sorted(listed), sorted(SAMPLES, key=lambda s: s.name), strict=True):
        volume = read_volume(path)
        labelmap = read_labelmap(tmp_path / "labels" / path.name, volume.grid)
        present = set(np.unique(labelmap.voxels))
        assert {label_named(name).value for name in sample.lesions} <= present
