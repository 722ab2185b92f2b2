"""Estimates find the effects that a made study was drawn with."""

import math

import numpy as np
import pandas as pd
import pytest

from pasta.study.analysis import behaviour, quality, ratings, roc, screening, times
from pasta.study.analysis.agreement import agreement
from pasta.study.analysis.sections.flow import reads_that_count


@pytest.fixture(scope="module")
def counted(export):
    return reads_that_count(export)


@pytest.fixture(scope="module")
def screened(counted):
    return counted[counted["task"] == "screen"]


def test_rates_and_gains_are_those_drawn(screened, made):
    effects = made.Effects()
    averages = screening.averages(screening.count_reads(screened))
    pooled = averages[(averages["average"] == "pooled") & (averages["level"] == "all")]
    drawn = {"recall": effects.sensitivity, "specificity": effects.specificity}
    for measure, pair in drawn.items():
        for arm, share in zip(("solo", "assisted"), pair, strict=True):
            rows = pooled[(pooled["measure"] == measure) & (pooled["arm"] == arm)]
            hits = (rows["value"] * rows["n"]).sum() / rows["n"].sum()
            spread = 100 * math.sqrt(share * (1 - share) / rows["n"].sum())
            assert abs(hits - 100 * share) < 4 * spread, (measure, arm)


def test_bootstraps_over_cases_lie_around_the_difference(screened):
    counts = screening.count_reads(screened)
    found = screening.improvements(counts, screened, 1)
    row = found[(found["organ"] == "liver") & (found["level"] == "all")].set_index("measure")
    low, high = (float(x) for x in row.loc["recall", "bootstrap_cases"].split(" to "))
    assert low < row.loc["recall", "value"] < high
    assert high - low < 60
    again = screening.improvements(counts, screened, 1)
    pd.testing.assert_frame_equal(found, again)


def test_time_saved_is_that_drawn(counted, made):
    timed = counted[counted["task"].isin(["segment", "report"])]
    found = times.reductions(timed, 0)
    default = found[(found["method"] == "default") & (found["level"] != "all")]
    drawn = [
        100 * (made.Effects().saved_by(row["level"]) if row["part"] == "masks" else 0.3)
        for row in default.to_dict("records")
    ]
    inside = (default["low"] <= drawn) & (default["high"] >= drawn)
    assert len(default) == 12
    assert inside.sum() >= 10  # 95 % intervals of twelve cells
    assert np.abs(default["value"] - drawn).max() < 8
    assert set(default["model"]) == {"log s, readers fixed, cases random"}


def test_where_no_case_is_read_twice_errors_are_clustered(counted):
    one = counted[(counted["part"] == "masks") & (counted["reader"] == "J1")]
    found = times.reductions(one[one["organ"] == "liver"], 0).set_index("method")
    assert found.loc["default", "model"] == "log s, readers fixed, errors clustered by case"
    assert found.loc["paper replica", "why"] == "fewer than two readers"
    assert math.isnan(found.loc["paper replica", "value"])
    assert found.loc["default", "low"] < 60 < found.loc["default", "high"]


def test_every_method_is_there_and_the_replica_warns(counted):
    masks = counted[(counted["part"] == "masks") & (counted["organ"] == "liver")]
    found = times.reductions(masks, 0)
    assert set(found["method"]) == {
        "pooled means",
        "paper replica",
        "default",
        "t over readers",
        "arm by reader",
        "gamma",
    }
    juniors = found[found["level"] == "junior"].set_index("method")
    assert juniors.loc["pooled means", "value"] == pytest.approx(60, abs=8)
    assert juniors.loc["paper replica", "p"] < 1e-6
    assert any("singular" in caveat for caveat in times.CAVEATS)


def test_flagged_and_outlying_reads_are_only_left_out_where_said(counted):
    masks = counted[(counted["part"] == "masks") & (counted["organ"] == "liver")].copy()
    masks.loc[masks.index[0], "seconds"] = 1e5
    masks.loc[masks.index[1], "idle_seconds"] = 40.0
    found = times.sensitivity(masks)
    left_out = found.groupby("variant")["n_left_out"].sum()
    assert left_out["without outliers beyond 3 IQR"] == 2  # in its level and in all
    assert left_out["without reads with idle time, lost focus or a suspend"] == 2
    assert left_out["from load start to case complete (primary)"] == 0


def test_dice_gains_are_those_drawn_in_points_and_relative(export):
    found = quality.mask_improvements(export.masks)
    dice = found[(found["measure"] == "dice") & (found["level"] == "junior")]
    points = dice[dice["unit"] == "points"]
    assert np.abs(points["value"] - 9).max() < 5
    relative = dice[dice["unit"] == "relative %"]
    by_hand = 100 * (relative["assisted"] / relative["solo"] - 1)
    assert list(relative["value"]) == pytest.approx(list(by_hand))


def test_accuracy_is_over_the_five_attributes_of_the_paper(export):
    accuracies = quality.report_accuracy(export.attributes)
    assert set(accuracies["n_attributes"]) == {5}
    means = accuracies.groupby("arm")["accuracy"].mean()
    assert means["assisted"] == pytest.approx(0.9, abs=0.02)
    assert means["solo"] == pytest.approx(0.8, abs=0.02)
    tested = quality.attribute_tests(export.attributes)
    odds = (0.9 / 0.1) / (0.8 / 0.2)
    assert np.exp(np.log(tested["value"]).mean()) == pytest.approx(odds, rel=0.2)


def test_a_blank_attribute_is_wrong_and_one_without_reference_is_left_out(export):
    some = export.attributes.head(2).copy()
    some.loc[some.index[0], "value"] = ""
    some.loc[some.index[1], "reference"] = ""
    assert list(quality.graded(some)["right"]) == [0.0]


def test_follow_rates_are_told_apart_by_whether_the_ai_is_right(screened):
    found = behaviour.decisions_with_ai(screened)
    n = found.groupby("measure")["n"].sum()
    assisted = (screened["arm"] == "assisted").sum()
    assert n["AI followed, AI right"] + n["AI followed, AI wrong"] == assisted
    # readers were drawn without heed to the AI: they follow it as often as they are right with it
    right = found[found["measure"] == "AI followed, AI right"]
    wrong = found[found["measure"] == "AI followed, AI wrong"]
    assert (right["value"] > 80).all()
    assert (wrong["value"] < 40).all()


def test_a_decision_before_the_ai_counts_as_a_switch(screened):
    read = screened[screened["arm"] == "assisted"].iloc[0]
    other = int(1 - read["decision"])
    events = pd.DataFrame(
        [
            {"seq": 1, "type": "decision", "payload": f'{{"tumour": {other}}}'},
            {"seq": 2, "type": "ai_shown", "payload": "{}"},
            {"seq": 3, "type": "decision", "payload": '{"tumour": "yes"}'},
        ]
    ).assign(session_id=read["session_id"], case=read["case"])
    found, why = behaviour.switches(events, screened)
    assert not why
    assert found.set_index("measure").loc["decision changed after the AI was shown", "value"] == 100
    nothing, why = behaviour.switches(events.iloc[1:], screened)
    assert nothing.empty
    assert "no reader decided before the AI was shown" in why


def test_learning_finds_a_slope_that_is_there():
    rng = np.random.default_rng(0)
    position = np.arange(1, 101)
    seconds = 100 * position ** np.log2(0.9) * np.exp(rng.normal(0, 0.1, 100))
    reads = pd.DataFrame({"position": position, "seconds": seconds}).assign(
        part="masks", organ="liver", level="junior", reader="J1", arm="solo"
    )
    found = behaviour.learning(reads).iloc[0]
    assert found["low"] < -10 < found["high"]
    assert found["unit"] == "relative % per doubling"


def test_realism_tells_real_from_synthetic_by_what_was_drawn(export):
    found = ratings.ratings(export, "realism")
    assert set(found["lesion"]) == {"liver_tumor", "liver_cyst", "kidney_stone"}
    apart = ratings.told_apart(found).set_index(["lesion", "measure"])
    row = apart.loc["all", "real minus synthetic"]
    assert row["low"] < 0.15 < row["high"]
    means = ratings.realism(found)
    assert set(means[means["measure"] == "mean rating"]["n"]) == {20}
    consistency = ratings.consistency(ratings.ratings(export, "consistency"))
    assert set(consistency["question"]) == {"all", *quality.PREDICTED}


def test_readers_who_ignore_each_other_agree_by_the_truth_alone(screened):
    frame = screened.assign(unit=screened["case"], code=screened["decision"], scale="nominal")
    found = agreement(frame, ["organ", "arm"], 0)
    alpha = found[found["unit"] == "alpha"]
    assert (alpha["value"] > 0.2).all()
    assert (alpha["low"] <= alpha["value"]).all()


def test_mrmc_runs_where_the_design_is_crossed(made, tmp_path):
    from pasta.study.analysis.export import read_export

    effects = made.Effects(positives=10, negatives=20, most_read=None, crossed=True)
    path = made.write_export(tmp_path / "e.zip", made.made_tables(effects, 3, per_arm=0))
    reads = reads_that_count(read_export(path))
    frame, reasons = roc.mrmc(reads)
    assert not reasons
    assert set(frame["organ"]) == {"liver", "pancreas", "kidney"}
    assert (frame["n"] == 60).all()
    assert (frame["value"] > 0).all()  # assisted readers were drawn better


def test_mrmc_says_why_not_where_readers_read_halves(screened):
    frame, reasons = roc.mrmc(screened)
    assert frame.empty
    assert len(reasons) == 3
    assert all("not fully crossed" in reason and "iMRMC" in reason for reason in reasons)
