import math

import numpy as np
import pytest

from pasta.evaluation.overlap import dice, dice_of_labels, mean_dice


def block(start, stop, shape=(10, 10, 10)):
    mask = np.zeros(shape, bool)
    mask[start:stop] = True
    return mask


def test_two_blocks_that_share_half_have_a_dice_worked_out_by_hand():
    # 400 and 600 voxels, 300 of them shared: 2 * 300 / 1000
    assert dice(block(0, 4), block(1, 7)) == pytest.approx(0.6)


def test_equal_masks_have_dice_one_and_disjoint_masks_zero():
    assert dice(block(2, 5), block(2, 5)) == 1
    assert dice(block(0, 3), block(3, 6)) == 0


def test_one_empty_mask_gives_zero_whichever_it_is():
    assert dice(block(0, 0), block(0, 3)) == 0
    assert dice(block(0, 3), block(0, 0)) == 0


def test_two_empty_masks_say_nothing_and_stay_out_of_the_mean():
    assert math.isnan(dice(block(0, 0), block(0, 0)))
    assert mean_dice([0.5, math.nan, 1.0]) == pytest.approx(0.75)
    assert math.isnan(mean_dice([math.nan]))


def test_masks_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match="shape"):
        dice(block(0, 1), block(0, 1, (10, 10, 11)))


def test_a_labelmap_in_place_of_a_mask_is_refused():
    with pytest.raises(ValueError, match="boolean"):
        dice(np.full((2, 2, 2), 2), block(0, 1, (2, 2, 2)))


def test_structures_may_be_unions_and_unknown_voxels_do_not_count():
    prediction = np.array([2, 2, 12, 0, 2, 2])
    reference = np.array([2, 12, 12, 2, 255, 0])
    # known: 5 voxels; liver with tumour: predicted 4, reference 4, shared 3
    scores = dice_of_labels(prediction, reference, {"liver": (2, 12), "tumor": (12,)}, ignore=255)
    assert scores["liver"] == pytest.approx(2 * 3 / 8)
    assert scores["tumor"] == pytest.approx(2 * 1 / 3)
