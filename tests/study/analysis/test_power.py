"""Simulated power: right at the level without an effect, reproducible, growing with the study."""

import json
import math

import numpy as np
import pytest

from pasta.cli.main import main
from pasta.study.analysis.power import (
    TESTS,
    Plan,
    PlanError,
    _calibrated,
    drawn_times,
    simulate,
)

NULL = {
    "sensitivity": (0.75, 0.75),
    "specificity": (0.9, 0.9),
    "saved": 0.0,
    "timed_cases": 20,
    "negatives": 60,
}


def by_test(frame):
    return frame.set_index("test")


def test_without_an_effect_tests_over_readers_keep_their_level():
    plan = Plan(**NULL, reader_arm_sd=0.3, time_reader_arm_sd=0.2)
    found = by_test(simulate([plan], simulations=200, seed=1))
    for test in ("recall, t over readers", "time, t over readers"):
        assert found.loc[test, "value"] <= 12  # 5 % and four Monte-Carlo errors
    # what the paper's model ignores: readers gain differently
    assert found.loc["time, paper's mixed model", "value"] > 15


def test_without_differing_gains_the_models_keep_their_level():
    plan = Plan(**NULL, reader_arm_sd=0.0, time_reader_arm_sd=0.0)
    found = by_test(simulate([plan], simulations=200, seed=2))
    for test in TESTS:
        assert found.loc[test, "value"] <= 12, test


def test_power_grows_with_readers_and_effect():
    common = {"negatives": 40, "positives": 10, "timed_cases": 10, "sensitivity": (0.6, 0.8)}
    small, large = (Plan(readers=n, **common) for n in (2, 8))
    found = simulate([small, large], simulations=100, seed=3)
    power = found.pivot_table(index="test", columns="n_readers", values="value")
    assert power.loc["recall, CMH", 8] > power.loc["recall, CMH", 2] + 20
    assert power.loc["time, t over readers", 8] > power.loc["time, t over readers", 2]


def test_the_result_does_not_depend_on_the_number_of_processes():
    plan = Plan(readers=2, positives=6, negatives=10, timed_cases=6)
    one = simulate([plan], simulations=30, seed=7)
    two = simulate([plan], simulations=30, seed=7, jobs=2)
    assert one.equals(two)


def test_monte_carlo_error_is_that_of_a_share():
    found = simulate([Plan(readers=2, positives=8, negatives=8, timed_cases=6)], simulations=40)
    for row in found.to_dict("records"):
        share = row["value"] / 100
        assert row["mc_error"] == pytest.approx(100 * math.sqrt(share * (1 - share) / 40))
        assert row["low"] <= row["value"] <= row["high"]
        assert row["n_simulations"] == 40


def test_shares_are_drawn_as_asked_for_whatever_the_spread():
    rng = np.random.default_rng(0)
    effects = rng.normal(0, 1.5, 200_000)
    logit = _calibrated(0.9, 1.5)
    assert np.mean(1 / (1 + np.exp(-(logit + effects)))) == pytest.approx(0.9, abs=0.002)


def test_drawn_times_are_halves_without_overlap():
    drawn = drawn_times(Plan(positives=5, negatives=5), np.random.default_rng(0))
    both = drawn.groupby(["reader", "case"])["assisted"].nunique()
    assert (both == 1).all()  # no reader sees a case in both arms
    arms = drawn.groupby(["case", "assisted"]).size()
    assert set(arms) == {2}  # every case is read twice solo and twice assisted


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"sensitivity": (0.7, 1.0)}, "sensitivity: 100 %"),
        ({"readers": 1}, "readers: 1 cannot be halved"),
        ({"saved": 1.0}, "time saved: 100 %"),
        ({"read_share": (0.0, 1.0)}, "read share: 0"),
        ({"case_sd": -1}, "case sd: an SD cannot be below 0"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(values, words):
    with pytest.raises(PlanError, match=words):
        Plan(**values)


def test_the_command_prints_and_writes_the_table(tmp_path, capsys):
    path = tmp_path / "power.json"
    words = ["study", "power", "--readers", "2,4", "--positives", "6", "--simulations", "10"]
    assert main([*words, "--timed-cases", "5", "-o", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "recall, CMH" in printed
    assert len(json.loads(path.read_text())) == 2 * len(TESTS)
    assert main([*words, "--timed-cases", "5", "-o", str(path.with_suffix(".pdf"))]) == 0
    assert path.with_suffix(".pdf").read_bytes().startswith(b"%PDF")


def test_the_command_refuses_in_one_line(tmp_path, capsys):
    assert main(["study", "power", "--sensitivity", "70", "120"]) == 2
    assert "sensitivity: 120 % is not between 0 and 100 %" in capsys.readouterr().err
    assert main(["study", "power", "-o", str(tmp_path / "no" / "x.csv")]) == 2
    assert "its folder is not there" in capsys.readouterr().err
