import nibabel as nib
import numpy as np
import pytest

from pasta.errors import LabelError
from pasta.labels import label_named
from training.synthesis.__main__ import main
from training.synthesis.rendered import draw_rendering, read_structures, render_template
from training.synthesis.templates import TISSUES, TemplateStore

LIVER = label_named("liver").value


def ball(shape, centre, radius):
    grid = np.indices(shape)
    return sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)) <= radius**2


@pytest.fixture
def label_map(tmp_path):
    """Liver, stomach, aorta and a vertebra of TotalSegmentator v1 at 4 mm."""
    values = np.zeros((26, 22, 14), np.uint8)
    for value, centre, radius in (
        (5, (8, 9, 7), 6),
        (6, (19, 9, 7), 5),
        (7, (15, 15, 7), 2),
        (20, (13, 18, 7), 3),
    ):
        values[ball(values.shape, centre, radius)] = value
    path = tmp_path / "total.nii.gz"
    nib.save(nib.Nifti1Image(values, np.diag([-4.0, -4.0, 4.0, 1.0])), path)
    return path


@pytest.fixture
def structures(label_map):
    return read_structures(label_map, "totalsegmentator_v1")


def rendered(structures, seed, **wanted):
    recipe = draw_rendering(np.random.default_rng(seed), **wanted)
    return render_template("r", *structures, recipe)


def test_rendered_template_has_its_organs_in_their_attenuation(structures):
    template, total = rendered(structures, 1, contrast=True, random_hu=False)
    assert set(template.organs) == {"liver", "stomach", "bone"}
    liver = template.labels == LIVER
    assert 75 < np.median(template.hu[liver]) < 150  # portal venous
    assert (total[liver] == 5).all()
    aorta = template.hu[template.tissues == TISSUES["aorta"]]
    assert aorta.mean() > 80
    assert template.contrast
    assert np.median(template.hu[template.tissues == TISSUES["fat"]]) == pytest.approx(-100, abs=20)
    assert (template.hu[0, :20] < -900).all()  # air around; the couch lies behind
    assert template.shape[2] == pytest.approx(11 * 4, abs=4)  # slices of the map that hold organs


def test_without_contrast_agent_the_blood_is_dark(structures):
    template, _ = rendered(structures, 2, contrast=False, random_hu=False)
    assert not template.contrast
    assert template.hu[template.tissues == TISSUES["aorta"]].mean() < 80


def test_same_recipe_gives_the_same_voxels(structures):
    first, _ = rendered(structures, 3, contrast=True)
    second, _ = rendered(structures, 3, contrast=True)
    other, _ = rendered(structures, 4, contrast=True)
    np.testing.assert_array_equal(first.hu, second.hu)
    assert first.shape != other.shape or (first.hu != other.hu).any()


def test_domain_randomised_livers_have_any_attenuation(structures):
    medians = []
    for seed in range(2):
        template, _ = rendered(structures, seed, contrast=True, random_hu=True)
        medians.append(np.median(template.hu[template.labels == LIVER]))
    assert np.ptp(medians) > 30


def test_label_map_of_another_scheme_is_told(label_map):
    names = label_map.with_name("names.json")
    names.write_text('{"5": "liver"}')
    with pytest.raises(LabelError, match=r"label values 6, 7, 20 are not in"):
        read_structures(label_map, str(names))


@pytest.mark.slow
def test_command_renders_both_phases(label_map, tmp_path, capsys):
    store = str(tmp_path / "store")
    arguments = ["templates", "--store", store, "render", "--labelmap", str(label_map)]
    assert main([*arguments, "--scheme", "totalsegmentator_v1", "--licence", "MIT"]) == 0
    assert "without contrast agent" in capsys.readouterr().out
    assert [t.contrast for t in TemplateStore(store)] == [True, False]
    assert main([*arguments, "--scheme", "totalsegmentator_v1"]) == 0
    assert "is there" in capsys.readouterr().out


@pytest.mark.slow
def test_published_label_map_becomes_a_template(real_data):
    path = (
        real_data / "pasta_annotations/lesiondiffusion_demo/Bladder_cancer/totalseg_health.nii.gz"
    )
    structures = read_structures(path, "totalsegmentator_v1")
    template, total = rendered(structures, 5, contrast=True, random_hu=False)
    assert template.usable("bladder") == (True, "")
    assert {18, 104} <= set(np.unique(total).tolist())


@pytest.mark.slow
def test_drawn_body_has_all_ten_organs(tmp_path):
    from training.synthesis.rendered import phantom_template

    template, _ = phantom_template("p", np.random.default_rng(0), contrast=True)
    assert len(template.organs) == 10
