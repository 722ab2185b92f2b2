"""Guards on refined volumes, the leak test, and refinement of an exported data set."""

import json

import numpy as np
import pytest
from scipy import ndimage

from pasta.geometry import Volume
from pasta.io import read_volume
from pasta.io.nifti import write_nifti
from pasta.labels import label_named
from pasta.neighbourhood import Scan
from training.synthesis.refinement.guards import guarded, noise_hu
from training.synthesis.refinement.leak import leak_test, ring_features
from training.synthesis.templates import Template, TemplateStore

TUMOR = label_named("liver_tumor").value
LIVER = label_named("liver").value
AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])


@pytest.fixture(scope="module")
def scene():
    """A liver of 100 HU with a sharp round tumour of 24 mm at 60 HU."""
    rng = np.random.default_rng(0)
    distance = np.sqrt(((np.indices((64, 64, 64)) - 31.5) ** 2).sum(axis=0))
    labels = np.full(distance.shape, LIVER, np.uint8)
    labels[distance < 12] = TUMOR
    noise = ndimage.gaussian_filter(rng.normal(0, 20, distance.shape), 0.7)
    hu = 100 - 40 / (1 + np.exp((distance - 12) / 0.5)) + noise
    hu[:2], labels[:2] = -1000, 0  # air
    return np.round(hu).astype(np.int16), labels


def scan_of(labels):
    return lambda hu: Scan(Volume(hu, AFFINE), Volume(labels, AFFINE))


def checked(scene, change):
    hu, labels = scene
    return guarded(hu, (hu + change).astype(np.float32), labels, scan_of(labels), TUMOR)


def test_a_small_change_passes(scene):
    rng = np.random.default_rng(1)
    result = checked(scene, rng.normal(0, 3, scene[0].shape))
    assert result.kept
    assert result.reason == ""
    assert np.abs(result.hu - scene[0]).max() > 0
    assert result.numbers["edge_shift_mm"] < 0.2
    assert result.numbers["contrast_shift_hu"] < 1


def test_changes_are_clamped_to_30_hu_in_the_lesion_and_3_sigma_outside(scene):
    hu, labels = scene
    change = np.zeros(hu.shape)
    change[30, 31, 31], change[31, 31, 32] = 400, -400  # in the tumour
    change[5, 5, 5], change[60, 60, 5] = 400, -400
    result = checked(scene, change)
    assert result.kept
    moved = result.hu.astype(int) - hu
    assert (moved[30, 31, 31], moved[31, 31, 32]) == (30, -30)
    limit = 3 * noise_hu(hu, labels == LIVER)
    assert moved[5, 5, 5] == int(limit)
    assert moved[60, 60, 5] == -int(limit)
    assert result.numbers["clamped"] == pytest.approx(4 / hu.size)


def test_noise_is_that_of_the_organ(scene):
    hu, labels = scene
    flat = ndimage.gaussian_filter(np.random.default_rng(0).normal(0, 20, hu.shape), 0.7)
    assert noise_hu(hu, labels == LIVER) == pytest.approx(flat.std(), rel=0.15)
    assert noise_hu(hu, np.zeros(hu.shape, bool)) == 0


def test_a_moved_edge_is_refused(scene):
    hu, _ = scene
    distance = np.sqrt(((np.indices(hu.shape) - 31.5) ** 2).sum(axis=0))
    # the tumour 2 mm smaller: +40 HU in its outer shell, which the clamp cuts to 30
    result = checked(scene, 40 * ((distance > 9.5) & (distance < 12)))
    assert not result.kept
    assert result.reason == "edge"
    np.testing.assert_array_equal(result.hu, hu)


def test_a_shifted_contrast_is_refused(scene):
    assert checked(scene, 4.0 * (scene[1] == TUMOR)).kept
    result = checked(scene, 8.0 * (scene[1] == TUMOR))
    assert result.reason == "contrast"
    assert result.numbers["contrast_shift_hu"] == pytest.approx(8, abs=0.5)


def test_another_attribute_class_is_refused(scene):
    rng = np.random.default_rng(2)
    blobs = ndimage.gaussian_filter(rng.normal(0, 1, scene[0].shape), 2.5)
    inside = scene[1] == TUMOR
    blobs = (blobs - blobs[inside].mean()) / blobs[inside].std()
    result = checked(scene, np.where(inside, 14 * blobs, 0))
    assert result.reason == "heterogeneity"
    np.testing.assert_array_equal(result.hu, scene[0])


def test_a_volume_without_lesion_is_clamped_alone(scene):
    hu, labels = scene
    healthy = np.where(labels == TUMOR, LIVER, labels).astype(np.uint8)
    refined = (hu + 500).astype(np.float32)
    result = guarded(hu, refined, healthy, scan_of(healthy), 0)
    assert result.kept
    assert len(np.unique(result.hu.astype(int) - hu)) == 1


def backgrounds(count, rng, noise=1.0):
    shape = (36, 36, 36)
    for _ in range(count):
        field = ndimage.gaussian_filter(rng.normal(0, 20 * noise, shape), 0.7)
        yield (100 + field).astype(np.int16)


@pytest.fixture(scope="module")
def mask():
    return np.sqrt(((np.indices((36, 36, 36)) - 17.5) ** 2).sum(axis=0)) < 5


def test_the_leak_test_reads_nothing_of_the_lesion(mask):
    (hu,) = backgrounds(1, np.random.default_rng(0))
    near = ndimage.distance_transform_edt(~mask) <= 3
    far = ndimage.distance_transform_edt(~mask) > 12
    changed = np.where(near | far, 400, hu).astype(np.int16)
    np.testing.assert_allclose(ring_features(changed, mask), ring_features(hu, mask), atol=1e-9)


def test_equal_backgrounds_cannot_be_told_apart(mask):
    rng = np.random.default_rng(1)
    first, second = ([ring_features(hu, mask) for hu in backgrounds(40, rng)] for _ in range(2))
    result = leak_test(first, second, np.random.default_rng(0))
    assert result.low < 0.5 < result.high
    assert result.passed


def test_a_background_smoothed_a_little_is_found_out(mask):
    rng = np.random.default_rng(1)
    first = [ring_features(hu, mask) for hu in backgrounds(40, rng, noise=0.9)]
    second = [ring_features(hu, mask) for hu in backgrounds(40, rng)]
    result = leak_test(first, second, np.random.default_rng(0))
    assert result.low > 0.6
    assert not result.passed


class Brighter:
    """Stands for a trained network: adds some HU everywhere."""

    class run:  # noqa: N801
        patch = 8

    def __init__(self, hu):
        self.hu = hu

    def refined(self, hu, organ, steps, seed):
        return hu.astype(np.float32) + np.where(organ & (hu < 80), self.hu, 0).astype(np.float32)


@pytest.fixture
def data(scene, tmp_path):
    hu, labels = scene
    folder = tmp_path / "data" / "Liver" / "Liver_tumor" / "0001"
    folder.mkdir(parents=True)
    write_nifti(Volume(hu, AFFINE), folder / "img.nii.gz")
    write_nifti(Volume(labels, AFFINE), folder / "classes.nii.gz")
    (folder / "report.json").write_text("[]")
    return tmp_path / "data"


@pytest.mark.parametrize(("added", "outcome"), [(2, "refined"), (20, "kept unrefined: edge")])
def test_an_exported_data_set_is_refined_or_kept_and_counted(data, added, outcome, tmp_path):
    pytest.importorskip("einops", reason="MONAI's DiffusionModelUNet needs einops")
    from training.synthesis.refinement.diffusion import RefinementError
    from training.synthesis.refinement.exported import refine_data

    out = tmp_path / "refined"
    counts = refine_data(Brighter(added), data, out, 5, 0)
    name = "Liver/Liver_tumor/0001"
    result = json.loads((out / name / "refinement.json").read_text())
    assert dict(counts) == {result["outcome"]: 1}
    assert result["outcome"].split(":")[0] == outcome.split(":")[0]
    old, new = (read_volume(folder / name / "img.nii.gz").voxels for folder in (data, out))
    assert np.array_equal(old, new) == (outcome != "refined")
    for file in ("classes.nii.gz", "report.json"):
        assert (out / name / file).read_bytes() == (data / name / file).read_bytes()
    # started again it goes on: what is done stays
    assert refine_data(Brighter(added), data, out, 5, 0) == counts
    with pytest.raises(RefinementError, match="refined with"):
        refine_data(Brighter(added), data, out, 10, 0)
    with pytest.raises(RefinementError, match="is the data set itself"):
        refine_data(Brighter(added), data, data, 5, 0)
    with pytest.raises(RefinementError, match="no Organ/Type/ID"):
        refine_data(Brighter(added), tmp_path / "nothing", out, 5, 0)


def test_a_check_draws_lesions_and_counts_what_the_guards_keep(tmp_path):
    pytest.importorskip("einops", reason="MONAI's DiffusionModelUNet needs einops")
    from training.synthesis.refinement.checking import check, draw_places

    rng = np.random.default_rng(0)
    distance = np.sqrt(((np.indices((76, 76, 76)) - 37.5) ** 2).sum(axis=0))
    noise = ndimage.gaussian_filter(rng.normal(0, 20, distance.shape), 0.7)
    hu = np.where(distance < 34, 100, -90) + noise
    labels = np.where(distance < 34, LIVER, 0).astype(np.uint8)
    template = Template.from_arrays("ball", hu.astype(np.int16), labels)
    store = TemplateStore(tmp_path)
    store.put(template, np.zeros(labels.shape, np.uint8))
    places = draw_places(store, ["liver_cyst"], 2, 44, np.random.default_rng(0))
    assert [place.label for place in places] == ["liver_cyst"] * 2
    for place in places:
        assert place.mask.shape == (44, 44, 44)
        # the twin is the template itself
        assert np.array_equal(place.untouched, template.hu[place.case.box])
        assert not np.array_equal(place.untouched, place.case.hu)
    found = check(Brighter(25), places, [5], 0)["by_t"]["5"]
    # 25 HU more where it is dark: the cyst alone
    assert found["kept"] == 0
    assert set(found["refused_by"]) <= {"contrast", "edge"}
    assert not found["may_be_shipped"]
    assert check(Brighter(1), places, [5], 0)["by_t"]["5"]["kept"] == 1


def test_a_command_says_in_one_line_what_is_wrong(tmp_path, capsys):
    pytest.importorskip("einops", reason="MONAI's DiffusionModelUNet needs einops")
    from training.synthesis.refinement.__main__ import main

    weights = ["--weights", str(tmp_path / "none")]
    assert main(["check", "--store", str(tmp_path), *weights]) == 2
    assert "Train first" in capsys.readouterr().err
    assert main(["train", "--store", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "no template of a real CT" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
