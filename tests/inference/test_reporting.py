"""The report of one CT: components, patches, folds, the meter beside the network."""

import json
from contextlib import nullcontext
from dataclasses import replace

import jsonschema
import nibabel as nib
import numpy as np
import pytest
import torch

from pasta.errors import CancelledError, CheckpointError, LabelError
from pasta.geometry import Acquisition, Volume, reoriented
from pasta.inference.reporting import describe
from pasta.networks.checkpoint import save_model
from pasta.networks.unet import PastaClassifier
from pasta.preprocessing.intensity import AIR_HU, normalized
from pasta.preprocessing.patches import Patches
from pasta.preprocessing.resampling import to_model_grid
from pasta.report import PREDICTED, SCHEMA_FILE, head_options, to_document
from pasta.spec import ModelSpec, Segmental

SPACING = (1.2, 1.2, 3.0)


def spec_of(published=False, patch=32, **changes) -> ModelSpec:
    fields = {
        "name": "attributes-test",
        "version": "0",
        "task": "attributes",
        "title": "test",
        "width": 8,
        "spacing_mm": (1.0, 1.0, 1.0),
        "patch_shape": (patch, patch, patch),
        "intensity": Segmental(),
        "attributes": head_options(published=published),
    }
    return ModelSpec(**{**fields, **changes})


def network_saying(logits, slope=0.0, width=8):
    """A classifier whose output is `logits`; the first one depends on the image by `slope`."""
    torch.manual_seed(0)
    network = PastaClassifier(len(logits), width)
    with torch.no_grad():
        for layer in (network.head[0], network.head[2], network.head[4]):
            layer.weight.zero_()
            layer.bias.zero_()
        network.head[0].weight[0, 0] = 1.0
        network.head[2].weight[0, 0] = 1.0
        network.head[4].weight[0, 0] = slope
        network.head[4].bias.copy_(torch.tensor(logits))
    return network


THIRTEEN = [2.0, 1.0, 0.0, -1.0, 3.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 2.0, -2.0]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    return save_model([network_saying(THIRTEEN)], spec_of(), folder, half=False)


@pytest.fixture
def case():
    """A liver with two tumours, a cyst, a speck and a kidney beside it."""
    shape = (80, 70, 32)
    affine = np.diag([-SPACING[0], -SPACING[1], SPACING[2], 1.0])
    affine[:3, 3] = (50.0, 40.0, -30.0)
    x, y, z = np.meshgrid(
        *[np.arange(n) * s for n, s in zip(shape, SPACING, strict=True)], indexing="ij"
    )
    hu = np.full(shape, 100.0) + 5 * np.random.default_rng(0).standard_normal(shape)
    labels = np.full(shape, 2, np.uint8)
    labels[x > 80] = 8

    def ball(centre, radius, value, delta):
        inside = sum((a - c) ** 2 for a, c in zip((x, y, z), centre, strict=True)) <= radius**2
        hu[inside] += delta
        labels[inside] = value

    ball((24.0, 24.0, 45.0), 9.0, 12, -40)
    ball((50.4, 60.0, 48.0), 12.0, 12, -40)
    ball((60.0, 20.4, 48.0), 8.0, 21, -90)
    labels[3, 3, 3] = 12
    return Volume(hu.astype(np.float32), affine), Volume(labels, affine)


def softmax(logits):
    e = np.exp(np.array(logits) - max(logits))
    return e / e.sum()


def test_every_component_is_described_once_largest_first(case, model):
    report = describe(*case, model, device="cpu")
    assert [lesion.label for lesion in report.lesions] == ["liver_tumor"] * 2 + ["liver_cyst"]
    assert [lesion.number for lesion in report.lesions] == [1, 2, 3]
    volumes = [lesion.volume_ml for lesion in report.lesions]
    np.testing.assert_allclose(volumes, [4.19 * r**3 / 1000 for r in (12, 9, 8)], rtol=0.06)
    assert report.case.specks_dropped == 1
    assert "1 marked speck" in report.warnings[0]
    assert set(report.case.organ_volumes_ml) == {"liver", "kidney"}


def test_place_and_size_are_those_of_the_lesion(case, model):
    volume, _ = case
    first = describe(*case, model, device="cpu").lesions[0]
    centre = np.array([50.4, 60.0, 48.0]) / SPACING
    np.testing.assert_allclose(first.centre_voxel, centre, atol=0.1)
    np.testing.assert_allclose(
        first.centre_mm, nib.affines.apply_affine(volume.affine, centre), atol=0.2
    )
    np.testing.assert_allclose(first.size_mm, (24, 24, 24), atol=3.0)
    lows, highs = np.array(first.box).T
    np.testing.assert_allclose((lows + highs - 1) / 2, centre, atol=0.51)
    assert first.findings["location"].value == "Liver"
    assert first.findings["location"].source == "mask"


@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "PIR", "SLA"])
def test_orientation_of_the_file_changes_voxel_coordinates_only(case, model, axcodes):
    expected = describe(*case, model, device="cpu")
    turned = [reoriented(volume, axcodes) for volume in case]
    report = describe(*turned, model, device="cpu")
    for lesion, wanted in zip(report.lesions, expected.lesions, strict=True):
        assert (
            replace(
                lesion, box=wanted.box, centre_voxel=wanted.centre_voxel, centre_mm=wanted.centre_mm
            )
            == wanted
        )
        np.testing.assert_allclose(lesion.centre_mm, wanted.centre_mm, atol=0.011)
        box = tuple(slice(*bounds) for bounds in lesion.box)
        value = 12 if lesion.label == "liver_tumor" else 21
        marked = turned[1].voxels[box] == value
        assert marked.sum() == lesion.voxels
        assert all(marked.any(axis=axes).all() for axes in ((1, 2), (0, 2), (0, 1)))


def test_probabilities_are_softmax_per_attribute_by_option(case, model):
    lesion = describe(*case, model, device="cpu").lesions[0]
    start = 0
    for name, options in head_options().items():
        expected = softmax(THIRTEEN[start : start + len(options)])
        finding = lesion.findings[name]
        np.testing.assert_allclose(list(finding.probabilities.values()), expected, atol=0.01)
        assert tuple(finding.probabilities) == options
        assert finding.value == options[int(np.argmax(expected))]
        assert finding.source == "network"
        start += len(options)


def test_folds_are_averaged_as_probabilities(case, tmp_path):
    other = [-logit for logit in THIRTEEN]
    folds = [network_saying(THIRTEEN), network_saying(other)]
    model = save_model(folds, spec_of(), tmp_path, half=False)
    finding = describe(*case, model, device="cpu").lesions[0].findings["shape"]
    expected = (softmax(THIRTEEN[:4]) + softmax(other[:4])) / 2
    np.testing.assert_allclose(list(finding.probabilities.values()), expected, atol=0.01)


def test_the_empty_fifth_shape_of_published_heads_takes_no_part(case, tmp_path):
    logits = [*THIRTEEN[:4], 50.0, *THIRTEEN[4:]]  # the unused output would win everything
    model = save_model([network_saying(logits)], spec_of(published=True), tmp_path, half=False)
    found = describe(*case, model, device="cpu").lesions[0].findings
    shape = found["shape"].probabilities
    np.testing.assert_allclose(list(shape.values()), softmax(THIRTEEN[:4]), atol=0.01)
    assert "" not in shape
    density = found["density"].probabilities
    np.testing.assert_allclose(list(density.values()), softmax(THIRTEEN[4:7]), atol=0.01)


def test_the_network_sees_the_patch_around_each_lesion(case, tmp_path, monkeypatch):
    # bf16 rounds by more than the steep slope below can bear
    monkeypatch.setattr("pasta.inference.reporting.fast_precision", lambda _device: nullcontext())
    network = network_saying(THIRTEEN, slope=1.0)
    patches = Patches(case[0], spec_of())
    centres = [lesion.centre_mm for lesion in describe(*case, None).lesions]
    with torch.no_grad():
        seen = [float(network(patches.around(c)[None, None])[0, 0]) for c in centres]
        gain = 3 / (max(seen) - min(seen))
        network.head[4].weight[0, 0] = gain
        network.head[4].bias[0] = -gain * (np.mean(seen) - THIRTEEN[0])
    model = save_model([network], spec_of(), tmp_path, half=False)
    lesions = describe(*case, model, device="cpu").lesions
    first = [lesion.findings["shape"].probabilities["Round-like"] for lesion in lesions]
    assert max(first) - min(first) > 0.2  # another patch, another answer
    for lesion, found in zip(lesions, first, strict=True):
        with torch.no_grad():
            logits = network(patches.around(lesion.centre_mm)[None, None])[0, :4]
        assert found == pytest.approx(float(logits.softmax(0)[0]), abs=0.01)


def test_measurement_stands_beside_the_prediction_and_disagreement_is_flagged(case, model):
    findings = describe(*case, model, device="cpu").lesions[0].findings
    assert findings["density"].measured.value == "Hypodense"
    assert findings["density"].measured.numbers["delta_hu"] == pytest.approx(-40, abs=3)
    assert findings["density"].disagrees is False
    assert findings["heterogeneity"].value == "Heterogeneous"  # logits 0 and 1
    assert findings["heterogeneity"].measured.value == "Homogeneous"
    assert findings["heterogeneity"].disagrees is True


def test_without_weights_nothing_is_predicted(case):
    report = describe(*case, None)
    for lesion in report.lesions:
        for name in PREDICTED:
            finding = lesion.findings[name]
            assert finding.value is None
            assert finding.source == "none"
            assert finding.note == "no attribute weights"
            assert finding.probabilities == {}
        assert lesion.findings["density"].measured.value == "Hypodense"
    assert any("no attribute weights" in warning for warning in report.warnings)


def test_document_follows_the_schema(case, model):
    schema = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    for chosen in (model, None):
        document = json.loads(json.dumps(to_document(describe(*case, chosen)), allow_nan=False))
        jsonschema.validate(document, schema)


def test_patch_is_the_resampled_ct_around_the_lesion_and_air_beyond_it(case):
    volume, _ = case
    spec = spec_of(axcodes="RAS")
    patches = Patches(volume, spec)
    whole, plan = to_model_grid(volume, spec)
    centre = np.array(plan.model.shape) // 2
    middle = nib.affines.apply_affine(plan.model.affine, centre + 0.5)
    part = whole[tuple(slice(c - 15, c + 17) for c in centre)]
    torch.testing.assert_close(patches.around(middle), normalized(part, spec.intensity))
    corner = patches.around(nib.affines.apply_affine(plan.model.affine, (0, 0, 0)))
    air = float(normalized(torch.tensor(AIR_HU), spec.intensity))
    assert corner.shape == spec.patch_shape
    assert bool((corner[:15] == air).all())
    torch.testing.assert_close(corner[16, 16, 16], normalized(whole[0, 0, 0], spec.intensity))


def test_contrast_tag_wins_and_hu_stand_beside_it(case, model):
    volume, labelmap = case
    tag = "ContrastBolusAgent (0018,0010)"
    tagged = replace(volume, acquisition=Acquisition(contrast=True, contrast_source=tag))
    report = describe(tagged, labelmap, model, device="cpu")
    assert report.enhancement.value == "Enhanced CT"
    assert report.enhancement.source == f"DICOM {tag}"
    assert report.lesions[0].findings["enhancement"] == report.enhancement


def test_without_a_tag_or_a_trunk_the_enhancement_is_unknown(case, model):
    finding = describe(*case, model, device="cpu").enhancement
    assert finding.value is None
    assert finding.source == "none"
    assert "trunk" in finding.measured.note


def test_a_lesion_at_the_border_is_said_to_be_cut_off(case, model):
    volume, labelmap = case
    top = Volume(labelmap.voxels[:, :, :17], labelmap.affine)
    cut = Volume(volume.voxels[:, :, :17], volume.affine)
    lesion = describe(cut, top, model, device="cpu").lesions[0]
    assert lesion.cut_off
    assert any("cut off" in warning for warning in lesion.warnings)
    assert not describe(volume, labelmap, model, device="cpu").lesions[0].cut_off


def test_a_lesion_larger_than_the_patch_is_said_to_be(case, tmp_path):
    spec = spec_of(spacing_mm=(0.5, 0.5, 0.5))
    model = save_model([network_saying(THIRTEEN)], spec, tmp_path, half=False)
    lesions = describe(*case, model, device="cpu").lesions
    assert any("larger than the 16 mm patch" in warning for warning in lesions[0].warnings)


def test_a_label_in_another_organ_states_both(case, model):
    volume, labelmap = case
    labels = labelmap.voxels.copy()
    labels[:, :, :1] = 3
    labels[labels == 21] = 22  # a gallstone in the liver; the gallbladder is elsewhere
    lesion = describe(volume, Volume(labels, volume.affine), model, device="cpu").lesions[-1]
    location = lesion.findings["location"]
    assert location.value == "Liver"
    assert "gallbladder" in location.note
    assert "liver" in location.note


def test_a_mask_of_lesions_alone_takes_the_location_from_the_label(case, model):
    volume, labelmap = case
    labels = np.where(labelmap.voxels > 10, labelmap.voxels, 0)
    lesion = describe(volume, Volume(labels, volume.affine), model, device="cpu").lesions[0]
    assert lesion.findings["location"].value == "Liver"
    assert lesion.findings["location"].source == "label"


def test_nothing_marked_gives_an_empty_report(case, model):
    volume, labelmap = case
    empty = Volume(np.zeros_like(labelmap.voxels), volume.affine)
    report = describe(volume, empty, model, device="cpu")
    assert report.lesions == ()
    assert "No lesion is marked" in report.text()


def test_progress_rises_to_one_and_cancelling_goes_through(case, model):
    seen = []
    describe(*case, model, device="cpu", progress=lambda f, stage: seen.append((f, stage)))
    fractions = [fraction for fraction, _ in seen]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert len(fractions) >= 4  # three lesions

    def stop(fraction, stage):
        if fraction > 0.5:
            raise CancelledError

    with pytest.raises(CancelledError):
        describe(*case, model, device="cpu", progress=stop)


def test_another_grid_wrong_values_and_floats_are_refused(case, model):
    volume, labelmap = case
    shifted = labelmap.affine.copy()
    shifted[0, 3] += 5
    with pytest.raises(LabelError, match="grid"):
        describe(volume, Volume(labelmap.voxels, shifted), model)
    with pytest.raises(LabelError, match="39"):
        describe(volume, Volume(labelmap.voxels + np.uint8(18), labelmap.affine), model)
    with pytest.raises(LabelError, match="float"):
        describe(volume, Volume(labelmap.voxels.astype(np.float32), labelmap.affine), model)


def test_weights_of_another_task_or_vocabulary_are_refused(case, tmp_path):
    spec = spec_of(task="screening", organs=("liver",), attributes={})
    screening = save_model([PastaClassifier(2, 8)], spec, tmp_path / "s", half=False)
    with pytest.raises(CheckpointError, match="screening"):
        describe(*case, screening, device="cpu")
    odd = spec_of(attributes={"shape": ("Round-like", "Oval")})
    model = save_model([PastaClassifier(2, 8)], odd, tmp_path / "o", half=False)
    with pytest.raises(CheckpointError, match="Oval"):
        describe(*case, model, device="cpu")


def test_attributes_that_a_model_lacks_are_left_open(case, tmp_path):
    spec = spec_of(attributes={"density": head_options()["density"]})
    model = save_model([network_saying([0.0, 5.0, 0.0])], spec, tmp_path, half=False)
    findings = describe(*case, model, device="cpu").lesions[0].findings
    assert findings["density"].value == "Isodense"
    assert findings["shape"].value is None
    assert findings["shape"].note == "not predicted by this model"


def test_real_gallbladder_with_real_organs_is_reported_on_its_own_grid(real_data, model):
    folder = real_data / "ct" / "ts_example"
    image = nib.load(folder / "ct.nii.gz")
    organs = np.asarray(nib.load(folder / "organs.nii.gz").dataobj)
    # bile read as a cyst: the largest fluid at hand whose outline is known
    labels = np.select([organs == 4, organs == 5, (organs == 2) | (organs == 3)], [21, 2, 8], 0)
    volume = Volume(np.asarray(image.dataobj), image.affine)
    report = describe(volume, Volume(labels.astype(np.uint8), image.affine), model, device="cpu")
    assert report.enhancement.value == "Non-contrast CT"
    assert report.enhancement.source == "measured"
    lesion = report.lesions[0]
    assert lesion.findings["location"].value == "Liver"
    assert lesion.findings["density"].measured.value == "Hypodense"
    assert lesion.volume_ml == pytest.approx((organs == 4).sum() * 0.027, rel=0.05)


@pytest.mark.gpu
def test_gpu_gives_the_same_probabilities(case, model):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    cpu = describe(*case, model, device="cpu").lesions
    gpu = describe(*case, model, device="cuda").lesions
    for a, b in zip(cpu, gpu, strict=True):
        for name in PREDICTED:
            np.testing.assert_allclose(
                list(a.findings[name].probabilities.values()),
                list(b.findings[name].probabilities.values()),
                atol=0.02,
            )
