"""Statistics against published numbers, other implementations, and cases worked by hand."""

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.inter_rater import cohens_kappa

from pasta.study.analysis.agreement import krippendorff_alpha, weighted_kappa
from pasta.study.analysis.estimates import mixed_model, random_intercept
from pasta.study.analysis.mantel_haenszel import stratified_test
from pasta.study.analysis.quality import macro_f1
from pasta.study.analysis.roc import components, covariance, crossed, obuchowski_rockette

# empirical areas of the data set VanDyke: two treatments, five readers, 114 cases
VAN_DYKE = np.array(
    [
        [0.91964573, 0.85877617, 0.90386473, 0.97310789, 0.82979066],
        [0.94782609, 0.90531401, 0.92173913, 0.99935588, 0.92995169],
    ]
)
# DeLong (co)variances that MRMCaov 0.3.0 prints for it: error, Cov1, Cov2, Cov3
VAN_DYKE_COVARIANCES = (0.0007921325, 0.0003420090, 0.0003395265, 0.0002358497)


def structured(error, cov1, cov2, cov3, arms=2, readers=5):
    full = np.full((arms, readers, arms, readers), cov3)
    for a in range(arms):
        full[a, :, a, :] = cov2
        for r in range(readers):
            full[:, r, :, r] = cov1
    for a in range(arms):
        for r in range(readers):
            full[a, r, a, r] = error
    return full


def test_obuchowski_rockette_gives_what_mrmcaov_prints_for_van_dyke():
    found = obuchowski_rockette(VAN_DYKE, structured(*VAN_DYKE_COVARIANCES))
    assert found.f == pytest.approx(4.484854, rel=1e-5)
    assert found.df == pytest.approx(15.06611, rel=1e-5)
    assert found.p == pytest.approx(0.05123303, rel=1e-5)
    interval = (found.difference, found.low, found.high)
    assert interval == pytest.approx((-0.04380032, -0.0878671960, 0.0002665519), abs=2e-8)
    assert (found.error, found.cov1, found.cov2, found.cov3) == pytest.approx(VAN_DYKE_COVARIANCES)


def test_obuchowski_rockette_keeps_its_level_without_a_difference():
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(200):
        truth = np.arange(60) < 30
        case = rng.normal(0, 1, 60) + 1.5 * truth
        scores = case + rng.normal(0, 0.5, (4, 1)) * truth + rng.normal(0, 1, (2, 4, 60))
        flat = scores.reshape(8, 60)
        areas = np.array([components(row, truth)[0] for row in flat]).reshape(2, 4)
        test = obuchowski_rockette(areas, covariance(flat, truth).reshape(2, 4, 2, 4))
        hits += test.p < 0.05
    assert hits <= 20  # 5 % of 200 is 10, its standard deviation 3


def test_area_and_its_variance_by_hand():
    # positives 3, 2 and negatives 1, 2: 3 beats both, 2 beats one and ties one
    area, over, under = components([3, 2, 1, 2], [True, True, False, False])
    assert area == 0.875
    assert over.tolist() == [1.0, 0.75]
    assert under.tolist() == [1.0, 0.75]
    variance = covariance(np.array([[3.0, 2, 1, 2]]), [True, True, False, False])
    assert variance == pytest.approx(0.03125 / 2 + 0.03125 / 2)


def test_a_design_that_is_not_crossed_says_so():
    reads = pd.DataFrame(
        [
            {"reader": r, "arm": a, "case": f"{r}{a}{k}", "score": k, "positive": k % 2}
            for r in ("J1", "J2")
            for a in ("solo", "assisted")
            for k in range(4)
        ]
    )
    assert "not fully crossed: 16 of 64" in crossed(reads)


def test_random_intercept_equals_statsmodels():
    rng = np.random.default_rng(2)
    case = np.repeat(np.arange(40), 3)
    frame = pd.DataFrame(
        {
            "case": case,
            "assisted": rng.integers(0, 2, 120).astype(float),
            "reader": list("abc") * 40,
        }
    )
    frame["y"] = rng.normal(0, 1, 40)[case] + 0.4 * frame["assisted"] + rng.normal(0, 0.7, 120)
    mine = random_intercept(frame, "y", ["assisted"], "case", ["reader"])
    theirs = mixed_model(frame, "y", ["assisted"], "case", ["reader"])
    assert mine.value == pytest.approx(theirs.value, abs=1e-5)
    width = (mine.high - mine.low) / (theirs.high - theirs.low)
    # t against normal quantiles; theirs come out of a Hessian in the variance, too
    assert width == pytest.approx(1.981 / 1.960, abs=4e-3)


def test_random_intercept_tells_when_cases_do_not_differ():
    rng = np.random.default_rng(3)
    frame = pd.DataFrame({"case": np.arange(60) // 2, "assisted": np.arange(60) % 2.0})
    frame["y"] = -0.1 * frame["case"] % 2 + rng.normal(0, 1, 60)
    frame.loc[frame.index[1::2], "y"] = -frame.loc[frame.index[::2], "y"].to_numpy()
    found = random_intercept(frame, "y", ["assisted"], "case")
    assert found.singular


def test_krippendorffs_alpha_of_his_own_example():
    # K. Krippendorff, Computing Krippendorff's Alpha-Reliability, 2011, section C
    nan = np.nan
    ratings = np.array(
        [
            [1, 2, 3, 3, 2, 1, 4, 1, 2, nan, nan, nan],
            [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, nan, 3],
            [nan, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, nan],
            [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, nan],
        ]
    )
    found = [krippendorff_alpha(ratings, s) for s in ("nominal", "ordinal", "interval")]
    assert found == pytest.approx([0.743, 0.815, 0.849], abs=5e-4)


def test_alpha_of_one_value_only_is_not_estimable():
    assert np.isnan(krippendorff_alpha(np.ones((3, 8))))


@pytest.mark.parametrize(("weights", "theirs"), [(None, None), ("quadratic", "quadratic")])
def test_kappa_equals_statsmodels(weights, theirs):
    rng = np.random.default_rng(0)
    first = rng.integers(1, 6, 80).astype(float)
    second = np.clip(first + rng.integers(-1, 2, 80), 1, 5)
    table = np.zeros((5, 5))
    np.add.at(table, (first.astype(int) - 1, second.astype(int) - 1), 1)
    expected = cohens_kappa(table, wt=theirs, return_results=False)
    assert weighted_kappa(first, second, weights) == pytest.approx(expected)


def test_macro_f1_counts_options_that_only_one_side_uses():
    # a: 2 of 2 and 3 said; b: never said, so 0
    assert macro_f1(["a", "a", "a"], ["a", "a", "b"]) == pytest.approx((0.8 + 0) / 2)


def test_strata_without_information_change_nothing():
    tables = {"J1": [[9, 1], [5, 3]], "S1": [[15, 1], [11, 2]]}
    more = stratified_test(tables | {"J2": [[7, 0], [9, 0]], "S2": [[0, 0], [3, 4]]})
    alone = stratified_test(tables)
    assert (more.p, more.p_exact, more.odds_ratio) == pytest.approx(
        (alone.p, alone.p_exact, alone.odds_ratio)
    )
    assert more.silent == ("J2", "S2")


def test_nothing_to_compare_is_not_estimable():
    found = stratified_test({"J1": [[5, 0], [7, 0]]})
    assert np.isnan(found.p)
    assert np.isnan(found.odds_ratio)
    with pytest.raises(ValueError, match="stratum J1: expected a 2 x 2 table of counts"):
        stratified_test({"J1": [[5, -1], [7, 0]]})
