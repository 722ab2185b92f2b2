import numpy as np
import pytest
import torch

from pasta.labels import label_named
from training.losses import CERTAIN, IGNORE, NUM_CLASSES, allowed_classes, partial_label_loss


def value(name):
    return label_named(name).value


def allowed(labelled, hidden=()):
    return torch.from_numpy(allowed_classes(labelled, hidden))


@pytest.fixture
def logits():
    torch.manual_seed(0)
    return torch.randn(NUM_CLASSES, 4, 4, 4, dtype=torch.float64, requires_grad=True)


def test_an_organ_that_nobody_drew_costs_nothing_against_background(logits):
    target = torch.zeros(4, 4, 4, dtype=torch.uint8)
    table = allowed(["liver"])
    loss = partial_label_loss(logits, target, table)
    swapped = logits.detach().clone()
    swapped[[0, value("kidney")]] = swapped[[value("kidney"), 0]]
    assert partial_label_loss(swapped, target, table).item() == pytest.approx(loss.item())


def test_classes_merged_with_background_get_the_gradient_of_their_sum_only(logits):
    target = torch.zeros(4, 4, 4, dtype=torch.uint8)
    everything = allowed([])  # nothing labelled: any class is right anywhere
    partial_label_loss(logits, target, everything).backward()
    assert logits.grad.abs().max() < 1e-12


def test_a_labelled_organ_is_punished_where_it_is_absent(logits):
    target = torch.zeros(4, 4, 4, dtype=torch.uint8)
    partial_label_loss(logits, target, allowed(["liver"])).backward()
    assert (logits.grad[value("liver")] > 0).all()
    kidney, background = logits.grad[value("kidney")], logits.grad[0]
    # merged classes all rise in proportion to their share of the merged probability
    share = torch.softmax(logits.detach(), dim=0)
    torch.testing.assert_close(kidney / share[value("kidney")], background / share[0])


def test_background_that_is_certain_punishes_every_class(logits):
    target = torch.full((4, 4, 4), CERTAIN, dtype=torch.uint8)
    partial_label_loss(logits, target, allowed([])).backward()
    assert (logits.grad[1:] > 0).all()


def test_voxels_where_nothing_is_known_have_no_gradient(logits):
    target = torch.full((4, 4, 4), value("liver"), dtype=torch.uint8)
    target[2:] = IGNORE
    partial_label_loss(logits, target, allowed(["liver"])).backward()
    assert logits.grad[:, 2:].abs().max() == 0
    assert logits.grad[:, :2].abs().max() > 0
    logits.grad = None
    partial_label_loss(logits, torch.full((4, 4, 4), IGNORE), allowed(["liver"])).backward()
    assert logits.grad.abs().max() == 0


def test_a_tumour_may_hide_in_a_liver_but_a_drawn_one_may_not_be_called_liver(logits):
    table = allowed(["liver"], ["liver_tumor"])
    target = torch.full((4, 4, 4), value("liver"), dtype=torch.uint8)
    sure = torch.full((NUM_CLASSES, 4, 4, 4), -20.0)
    sure[value("liver_tumor")] = 20
    assert partial_label_loss(sure, target, table) < 1e-3
    assert partial_label_loss(sure, target, allowed(["liver"])) > 5
    drawn = torch.full((4, 4, 4), value("liver_tumor"), dtype=torch.uint8)
    called_liver = torch.full((NUM_CLASSES, 4, 4, 4), -20.0)
    called_liver[value("liver")] = 20
    assert partial_label_loss(called_liver, drawn, table) > 5


def test_dice_counts_a_drawn_tumour_as_part_of_the_liver_it_may_hide_in():
    table = allowed(["liver"], ["liver_tumor"])
    target = torch.full((4, 4, 4), value("liver"), dtype=torch.uint8)
    target[:2] = value("liver_tumor")
    perfect = torch.full((NUM_CLASSES, 4, 4, 4), -20.0)
    perfect.scatter_(0, target.long()[None], 20.0)
    assert partial_label_loss(perfect, target, table).item() == pytest.approx(0, abs=1e-4)


def test_known_lesions_follow_their_organ_unless_hidden():
    table = allowed_classes(["liver", "lung_tumor"], ["liver_cyst"])
    assert not table[0, value("liver_tumor")]
    assert not table[0, value("lung_tumor")]
    assert table[0, value("lung")]
    np.testing.assert_array_equal(
        np.flatnonzero(table[value("liver")]), [value("liver"), value("liver_cyst")]
    )
