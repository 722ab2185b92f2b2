import numpy as np
import pytest
import torch

from pasta.labels import BACKGROUND, LABELS, label_named
from pasta.spec import ModelSpec, ZScore
from training.generated import GeneratedError, GeneratedLesions
from training.synthesis.templates import TemplateStore

SPEC = ModelSpec(
    name="tiny",
    version="0",
    task="segmentation",
    title="tiny",
    width=2,
    spacing_mm=(2.0, 2.0, 2.0),
    patch_shape=(64, 64, 64),
    intensity=ZScore((-1000, 600), 0, 200),
    channels=(BACKGROUND, *(label.name for label in LABELS)),
)


@pytest.fixture
def store(tmp_path, scene):
    folder = TemplateStore(tmp_path / "store")
    folder.put(scene, np.zeros(scene.shape, np.uint8))
    return folder.folder


def test_a_patch_shows_a_lesion_and_is_a_function_of_its_seed(store):
    generated = GeneratedLesions(store, SPEC, {"liver_tumor": 1.0})
    first, again = (generated.patch(np.random.default_rng(5)) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one, other)
    x, target, allowed = first
    assert x.shape == (1, 64, 64, 64)
    assert target.shape == (64, 64, 64)
    assert allowed.shape == (27, 26)


def test_lesions_lie_in_the_middle_of_the_piece_on_the_grid_of_the_model(store):
    generated = GeneratedLesions(store, SPEC, {"liver_tumor": 1.0})
    found = 0
    for seed in range(5):
        hu, labels, recipe = generated.piece(np.random.default_rng(seed))
        assert hu.shape == labels.shape
        assert recipe.label == "liver_tumor"
        found += bool((labels == label_named("liver_tumor").value).any())
    assert found == 5


def test_a_store_without_the_organ_says_so(store):
    empty = TemplateStore(store.parent / "empty")
    with pytest.raises(GeneratedError, match="no template takes any"):
        GeneratedLesions(empty.folder, SPEC)
