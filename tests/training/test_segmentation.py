import numpy as np
import pytest
import torch

from pasta.labels import BACKGROUND, LABELS
from pasta.networks.unet import PastaUNet
from pasta.spec import ModelSpec, ZScore
from training.cases import Case, case
from training.loop import Schedule
from training.losses import NUM_CLASSES
from training.sampling import Augmentation, extracted, sample_patch
from training.segmentation import class_weights, segmentation_loss, train_segmentation

SPEC = ModelSpec(
    name="tiny",
    version="0",
    task="segmentation",
    title="tiny",
    width=2,
    spacing_mm=(3.0, 3.0, 3.0),
    patch_shape=(64, 64, 64),
    intensity=ZScore((-1000, 600), 0, 200),
    channels=(BACKGROUND, *(label.name for label in LABELS)),
)


@pytest.fixture
def liver_case():
    rng = np.random.default_rng(0)
    hu = rng.normal(-100, 20, (50, 44, 40)).astype(np.int16)
    labels = np.zeros(hu.shape, np.uint8)
    labels[10:40, 10:34, 8:32] = 2
    hu[labels == 2] += 200
    return case("block", "real", hu, labels, ["liver"], ["liver_cyst"])


def draw_from(source):
    def draw(rng):
        x, target = sample_patch(source, SPEC, Augmentation(), rng)
        return x, target, torch.from_numpy(source.allowed)

    return draw


def test_the_network_learns_a_block_and_a_resumed_run_ends_with_the_same_weights(
    liver_case, tmp_path
):
    def trained(folder, stop):
        torch.manual_seed(4)
        network = PastaUNet(NUM_CLASSES, SPEC.width)
        schedule = Schedule(2, learning_rate=1e-3, optimizer="adamw", precision="32", workers=0)
        train_segmentation(
            network, draw_from(liver_case), schedule, tmp_path / folder, seed=4, stop=stop
        )
        return network.state_dict()

    whole = trained("whole", lambda: False)
    stopped = trained("resumed", lambda: True)
    resumed = trained("resumed", lambda: False)
    for name, tensor in whole.items():
        torch.testing.assert_close(resumed[name], tensor)
    assert any(not torch.equal(stopped[name], tensor) for name, tensor in whole.items())


def test_the_loss_falls_with_better_logits_at_every_level(liver_case):
    class Fixed(torch.nn.Module):
        def __init__(self, share):
            super().__init__()
            self.share = torch.nn.Parameter(torch.tensor(share))

        def forward(self, x):
            truth = torch.nn.functional.one_hot(target.long().clamp(max=25), NUM_CLASSES)
            logits = truth.movedim(-1, 0)[None].float() * self.share
            return [logits[..., ::step, ::step, ::step] for step in (1, 2, 4)]

    x, target, allowed = draw_from(liver_case)(np.random.default_rng(0))
    target[target == 26] = 0
    good, poor = (
        float(segmentation_loss(Fixed(share), [(x, target, allowed)], class_weights()))
        for share in (20.0, 1.0)
    )
    assert good < 0.01 < poor


def test_an_unturned_patch_holds_the_very_voxels_of_its_case(liver_case):
    hu, labels = extracted(liver_case, np.array([24.5, 21.5, 19.5]), np.eye(3), (32, 32, 32))
    np.testing.assert_allclose(hu, liver_case.hu[9:41, 6:38, 4:36], atol=0.05)
    np.testing.assert_array_equal(labels, liver_case.labels[9:41, 6:38, 4:36])


def test_beyond_the_field_of_view_is_air_and_background(liver_case):
    hu, labels = extracted(liver_case, np.array([0.0, 21.5, 19.5]), np.eye(3), (32, 32, 32))
    assert hu[:14].max() < -990
    assert labels[:14].max() == 0


def test_a_patch_turns_with_its_labels(liver_case):
    turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    hu, labels = extracted(liver_case, np.array([24.5, 21.5, 19.5]), turn, (32, 32, 32))
    plain_hu, plain = extracted(liver_case, np.array([24.5, 21.5, 19.5]), np.eye(3), (32, 32, 32))
    np.testing.assert_array_equal(labels, np.rot90(plain, -1, axes=(0, 1)))
    np.testing.assert_allclose(hu, np.rot90(plain_hu, -1, axes=(0, 1)), atol=0.1)


def test_the_same_seed_draws_the_same_patch_and_another_seed_another(liver_case):
    first, second, other = (
        sample_patch(liver_case, SPEC, Augmentation(), np.random.default_rng(seed))
        for seed in (1, 1, 2)
    )
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert not torch.equal(first[0], other[0])


def test_a_case_comes_back_from_its_file_as_it_was(liver_case, tmp_path):
    liver_case.save(tmp_path / "case.npz")
    back = Case.load(tmp_path / "case.npz")
    np.testing.assert_array_equal(back.hu, liver_case.hu)
    np.testing.assert_array_equal(back.labels, liver_case.labels)
    np.testing.assert_array_equal(back.allowed, liver_case.allowed)
    assert (back.name, back.kind, back.labelled) == ("block", "real", ("liver",))
