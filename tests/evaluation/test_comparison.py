import math

import numpy as np
import pytest
from scipy import stats

from pasta.evaluation.classification import accuracy, balanced_accuracy, concordance, macro_f1
from pasta.evaluation.comparison import bootstrap, permutation_better, wilcoxon_better
from pasta.evaluation.ranking import auroc


def test_scores_of_a_hand_drawn_case():
    reference = [0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2]
    predicted = [0, 0, 1, 2, 1, 0, 2, 2, 2, 1, 0]
    assert accuracy(predicted, reference) == 5 / 11
    assert balanced_accuracy(predicted, reference) == pytest.approx((2 / 4 + 1 / 3 + 2 / 4) / 3)
    assert macro_f1(predicted, reference) == pytest.approx((4 / 8 + 2 / 6 + 4 / 8) / 3)


def test_concordance_counts_pairs_whose_first_end_is_an_event():
    # pairs: (a, b), (a, c), (a, d), (c, d); b is censored before c and d
    risk, time, event = [0.9, 0.1, 0.3, 0.3], [1, 2, 3, 4], [True, False, True, False]
    assert concordance(risk, time, event) == (3 + 0.5) / 4
    assert math.isnan(concordance([1, 2], [1, 2], [False, False]))


def test_the_interval_of_a_mean_is_that_of_scipy_where_each_patient_has_one_case():
    values = np.random.default_rng(0).normal(size=40)
    found = bootstrap(lambda cases: float(values[cases].mean()), range(40), seed=1, resamples=8000)
    other = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=8000, rng=np.random.default_rng(2)
    ).confidence_interval
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((other.low, other.high), abs=0.02)


def test_cases_of_one_patient_widen_the_interval():
    values = np.repeat(np.random.default_rng(0).normal(size=10), 10)
    alone = bootstrap(lambda cases: float(values[cases].mean()), range(100), seed=1)
    together = bootstrap(
        lambda cases: float(values[cases].mean()), [n // 10 for n in range(100)], seed=1
    )
    assert together.high - together.low > 2 * (alone.high - alone.low)


def test_resamples_of_one_class_are_counted_not_hidden():
    scores, truth = np.array([0.2, 0.4, 0.9]), np.array([False, False, True])
    found = bootstrap(lambda c: auroc(scores[c], truth[c]), "abc", seed=0, resamples=500)
    assert found.value == 1.0
    assert found.undefined > 50


def test_wilcoxon_is_one_sided_and_leaves_out_missing_pairs():
    baseline = np.linspace(0, 1, 12)
    better = baseline + np.linspace(0.01, 0.1, 12)
    assert wilcoxon_better(better, baseline) == pytest.approx(1 / 2**12)
    assert wilcoxon_better(baseline, better) == 1.0
    better[3] = np.nan
    assert wilcoxon_better(better, baseline) == pytest.approx(1 / 2**11)
    assert wilcoxon_better(baseline, baseline) == 1.0


def test_permutation_agrees_with_scipy_on_a_mean_and_is_fair_to_equals():
    rng = np.random.default_rng(3)
    baseline = rng.normal(size=30)
    candidate = baseline + rng.normal(0.25, 1, size=30)
    found = permutation_better(lambda x: float(x.mean()), candidate, baseline, seed=1)
    other = stats.permutation_test(
        (candidate, baseline), lambda a, b: a.mean() - b.mean(), permutation_type="samples",
        alternative="greater", n_resamples=9999, rng=np.random.default_rng(2),
    ).pvalue  # fmt: skip
    assert found == pytest.approx(other, abs=0.015)
    assert permutation_better(lambda x: float(x.mean()), baseline, baseline, seed=1) == 1.0
