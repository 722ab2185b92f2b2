import numpy as np
import pytest

from pasta.active import farthest_first, hybrid, k_center_greedy, ranks, shuffled


def test_k_center_follows_a_case_drawn_by_hand():
    #   0   1         4 5              10      on a line; the case at 0 is labelled
    points = [[1.0], [4.0], [5.0], [10.0]]
    # farthest from 0: 10. Then nearest distances are 1, 4, 5: the case at 5. Then 1 and 1: the lower
    assert k_center_greedy(points, [[0.0]], 4) == [3, 2, 0, 1]


def test_k_center_begins_in_the_middle_where_nothing_is_labelled():
    # mean (2.4, 2.4): nearest is (2, 3), farthest from that (9, 9), then (0, 0) before (1, 0)
    points = [[0, 0], [1, 0], [0, 0], [2, 3], [9, 9]]
    assert k_center_greedy(points, np.zeros((0, 2)), 3) == [3, 4, 0]


def test_a_case_like_a_labelled_one_comes_last():
    assert farthest_first([[3.0, 4.0], [0.0, 0.0]], [[0.0, 0.0]]).tolist() == [5.0, 0.0]


def test_hybrid_puts_first_what_is_high_in_both():
    # ranks of uncertainty 0, 1/3, 2/3, 1; of distance 1/3, 1, 2/3, 0: the sums' halves by hand
    mixed = hybrid([0.1, 0.2, 0.3, 900.0], [2.0, 9.0, 5.0, 1.0])
    np.testing.assert_allclose(mixed, [1 / 6, 2 / 3, 2 / 3, 1 / 2])
    only = hybrid([0.1, 0.2, 0.3, 900.0], [2.0, 9.0, 5.0, 1.0], weight=1.0)
    assert np.argsort(-only).tolist() == [3, 2, 1, 0]


def test_equal_scores_get_equal_ranks():
    assert ranks([5, 1, 5]).tolist() == [0.75, 0.0, 0.75]


def test_a_random_order_depends_on_the_seed_alone():
    ids = [f"case-{n}" for n in range(20)]
    assert shuffled(ids, 3) == shuffled(ids[::-1], 3)
    assert shuffled(ids, 3) != shuffled(ids, 4)


def test_a_weight_beyond_one_is_refused():
    with pytest.raises(ValueError, match="expected 0 to 1"):
        hybrid([1], [1], 1.5)
