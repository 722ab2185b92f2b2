import numpy as np
import pytest
import torch

from pasta.networks.unet import PastaClassifier, PastaUNet
from pasta.report.attributes import head_options
from pasta.spec import ModelSpec, ZScore
from training.cases import case
from training.heads import (
    FROZEN_LEVELS,
    HeadSchedule,
    attribute_sample,
    attribute_targets,
    encoder_of,
    hosts_of,
    screening_sample,
    stem_of,
    top,
    train_head,
)
from training.synthesis.lesions import DrawnLesion, LesionRecipe

LIVER, KIDNEY, LIVER_TUMOR = 2, 8, 12


def spec(task, **kind):
    return ModelSpec(
        name="tiny",
        version="0",
        task=task,
        title="tiny",
        width=2,
        spacing_mm=(3.0, 3.0, 3.0),
        patch_shape=(32, 32, 32),
        intensity=ZScore((-1000, 600), 0, 200),
        **kind,
    )


def block(hidden=(), tumour=False):
    hu = np.full((40, 40, 40), -100, np.int16)
    labels = np.zeros(hu.shape, np.uint8)
    labels[8:32, 8:32, 8:32] = LIVER
    hu[labels == LIVER] = 110
    if tumour:
        labels[15:20, 15:20, 15:20] = LIVER_TUMOR
    return case("block", "real", hu, labels, ["liver"], hidden)


def test_a_crop_with_a_tumour_is_positive_and_one_without_negative():
    screening = spec("screening", organs=("liver",))
    seen = set()
    for seed in range(8):
        x, target = screening_sample(block(), "liver", screening, np.random.default_rng(seed))
        assert x.shape == screening.patch_shape
        seen.add(target[0])
    assert seen == {0, 1}
    for seed in range(3):  # one that is there already counts, drawn or not
        rng = np.random.default_rng(seed)
        assert screening_sample(block(tumour=True), "liver", screening, rng)[1] == [1]


def test_a_case_that_may_hide_a_tumour_is_no_host_for_screening():
    assert len(hosts_of([block(), block(hidden=["liver_cyst"])], "liver")) == 2
    assert hosts_of([block(hidden=["liver_tumor"])], "liver") == []
    assert hosts_of([block()], "kidney") == []


def lesion(label, hu, **changes):
    fields = {
        "seed": 0,
        "centre": (5, 5, 5),
        "semi_axes_mm": (9.0, 9.0, 9.0),
        "shape": 0,
        "thickness_mm": 9.0,
        "heterogeneous": True,
        "margin_mm": 0.5,
        "invasive": False,
    }
    volume = np.full((10, 10, 10), hu, np.float32)
    recipe = LesionRecipe(label=label, hu=hu, **(fields | changes))
    return DrawnLesion(recipe, np.ones(volume.shape, bool), 110.0), volume


@pytest.mark.parametrize(
    ("label", "hu", "changes", "expected"),
    [
        ("liver_tumor", 60.0, {}, [0, 0, 1, 0, 0]),
        ("liver_tumor", 115.0, {"margin_mm": 2.5, "invasive": True}, [0, 1, 1, 1, 1]),
        ("gastric_cancer", 90.0, {"shape": 2}, [2, 2, 1, 0, 0]),  # against muscle, not the lumen
        ("liver_cyst", 5.0, {"heterogeneous": False}, [0, 0, 0, 0, 0]),
    ],
)
def test_attributes_of_a_drawn_lesion(label, hu, changes, expected):
    options = head_options()
    targets = attribute_targets(*lesion(label, hu, **changes))
    assert targets == expected
    assert all(t < len(o) for t, o in zip(targets, options.values(), strict=True))


def test_the_lesion_lies_in_the_middle_of_its_patch():
    attributes = spec("attributes", attributes=head_options())
    middles, corners = [], []
    for seed in range(10):
        sample = attribute_sample(block(), "liver_cyst", attributes, np.random.default_rng(seed))
        assert sample is not None
        middles.append(float(sample[0][14:18, 14:18, 14:18].mean()))
        corners.append(float(sample[0].max()))
    # cysts of about 10 HU in a liver of 110 HU (0.55); the smallest fill a part of the middle
    assert np.mean(middles) < 0.4
    assert min(corners) > 0.4


def test_the_encoder_is_that_of_the_segmentation_and_its_stem_stays_frozen():
    torch.manual_seed(0)
    network = PastaUNet(4, 2)
    classifier = encoder_of(network, 2)
    assert isinstance(classifier, PastaClassifier)
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    for name, value in network.state_dict().items():
        if name in before:
            torch.testing.assert_close(before[name], value)
    x = torch.randn(6, 1, 32, 32, 32)
    with torch.no_grad():
        maps = stem_of(classifier)(x)
        torch.testing.assert_close(top(classifier, maps), classifier(x))
    train_head(classifier, maps, torch.tensor([[0], [1]] * 3), (2,), HeadSchedule(6, 2, 3), 0)
    for name, value in classifier.state_dict().items():
        level = int(name.split(".")[1]) if name.startswith("conv") else FROZEN_LEVELS
        assert torch.equal(before[name], value) == (level < FROZEN_LEVELS) or "bias" in name
