import math

import pytest

from pasta.evaluation.ranking import auroc


def test_pairs_counted_by_hand_give_the_area():
    # positives .9 and .3 against negatives .5, .3 and .1: 3 + (0 + .5 + 1) of 6 pairs
    assert auroc([0.9, 0.5, 0.3, 0.3, 0.1], [True, False, True, False, False]) == pytest.approx(
        4.5 / 6
    )


def test_perfect_and_inverted_order_give_one_and_zero():
    assert auroc([3, 2, 1], [True, False, False]) == 1
    assert auroc([1, 2, 3], [True, False, False]) == 0


def test_one_class_alone_says_nothing():
    assert math.isnan(auroc([1, 2], [True, True]))


def test_a_score_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="finite"):
        auroc([1, math.nan], [True, False])
