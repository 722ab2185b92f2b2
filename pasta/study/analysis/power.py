"""Simulated power: how often a planned study would find the effect that is assumed.

Studies are drawn as the tool would run them: counterbalanced halves, each case read by half of the
readers solo and by the other half assisted, readers, their gains and cases random on the logit (or log
time) scale.
"""

from __future__ import annotations

import json
import math
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import optimize, special, stats

from pasta.errors import OutputError, PastaError
from pasta.study.analysis.estimates import proportion_of, restricted_likelihood
from pasta.study.analysis.mantel_haenszel import cmh_p
from pasta.study.analysis.printed import half_up
from pasta.study.analysis.tables import rows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

TESTS = (
    "recall, CMH",
    "recall, t over readers",
    "precision, CMH",
    "precision, t over readers",
    "time, default model",
    "time, t over readers",
    "time, paper's mixed model",
)
OUTPUTS = (".csv", ".json", ".pdf", ".svg")
_CHUNK = 25  # studies of one job; their seeds do not depend on the number of jobs
_NODES = np.polynomial.hermite_e.hermegauss(40)


class PlanError(PastaError, ValueError):
    """A plan cannot be: a share outside 0-100 %, too few readers."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A study to simulate, of one organ.

    Attributes:
        readers: how many; an even number balances the halves.
        positives: cases with a lesion on a reader's list, in each arm.
        negatives: cases without, likewise.
        read_share: share of the list that is read in time, solo and assisted.
        sensitivity: solo and assisted, over readers and cases.
        specificity: solo and assisted.
        seconds: geometric mean of a case's time, solo.
        saved: share of the time that assistance saves.
        timed_cases: timed cases a reader and arm; None takes all those read.
        reader_sd: between readers, logit.
        reader_arm_sd: between readers' gains, logit.
        case_sd: between cases, logit.
        time_reader_sd: between readers, log time.
        time_reader_arm_sd: between readers' gains, log time.
        time_case_sd: between cases, log time.
        time_sd: of what is left, log time.
    """

    readers: int = 4
    positives: int = 30
    negatives: int = 150
    read_share: tuple[float, float] = (1.0, 1.0)
    sensitivity: tuple[float, float] = (0.70, 0.85)
    specificity: tuple[float, float] = (0.95, 0.97)
    seconds: float = 120.0
    saved: float = 0.2
    timed_cases: int | None = None
    reader_sd: float = 0.4
    reader_arm_sd: float = 0.2
    case_sd: float = 1.0
    time_reader_sd: float = 0.2
    time_reader_arm_sd: float = 0.1
    time_case_sd: float = 0.3
    time_sd: float = 0.3

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        for name in ("sensitivity", "specificity"):
            for share in getattr(self, name):
                if not 0 < share < 1:
                    msg = f"{name}: {100 * share:g} % is not between 0 and 100 %; name a share inside."
                    raise PlanError(msg)
        for share in self.read_share:
            if not 0 < share <= 1:
                msg = f"read share: {share:g} is not above 0 and at most 1."
                raise PlanError(msg)
        if not 0 <= self.saved < 1:
            msg = f"time saved: {100 * self.saved:g} % is not in 0 to 100 %."
            raise PlanError(msg)
        if self.readers < 2:
            msg = f"readers: {self.readers} cannot be halved; plan two or more."
            raise PlanError(msg)
        if self.seconds <= 0:
            msg = f"seconds: {self.seconds:g} is no time; name the seconds of a solo read."
            raise PlanError(msg)
        for field in fields(self):
            if field.name.endswith("_sd") and getattr(self, field.name) < 0:
                msg = f"{field.name.replace('_', ' ')}: an SD cannot be below 0."
                raise PlanError(msg)


def simulate(
    plans: Sequence[Plan],
    *,
    simulations: int,
    alpha: float = 0.05,
    seed: int = 0,
    jobs: int = 1,
    progress: Callable[[int], object] = lambda _done: None,
) -> pd.DataFrame:
    """Estimate the power of several plans.

    Args:
        plans: studies.
        simulations: studies drawn of each plan.
        alpha: two-sided level.
        seed: of everything drawn; the result does not depend on `jobs`.
        jobs: processes.
        progress: called with the number of studies done since it was called last.

    Returns:
        One row per plan and test: n_readers, n_positives, n_negatives, n_cases (a reader and arm),
        test, value (% of simulations with p < alpha) with its Wilson interval, mc_error (Monte-Carlo
        standard error, points), n (simulations in which the test was estimable), n_simulations.

    Raises:
        PlanError: if simulations, alpha or jobs cannot be.
    """
    if simulations < 1 or jobs < 1 or not 0 < alpha < 1:
        msg = "expected at least one simulation and one job, and a level between 0 and 1."
        raise PlanError(msg)
    work = [
        (number, plan, chunk, min(_CHUNK, simulations - chunk * _CHUNK))
        for number, plan in enumerate(plans)
        for chunk in range(math.ceil(simulations / _CHUNK))
    ]
    found: dict[tuple[int, int], NDArray[np.float64]] = {}
    draw = partial(_chunk, seed)
    if jobs == 1:
        for item in work:
            found[item[0], item[2]] = draw(*item)
            progress(item[3])
    else:
        with ProcessPoolExecutor(jobs) as pool:
            waiting = {pool.submit(draw, *item): item for item in work}
            for future in as_completed(waiting):
                item = waiting[future]
                found[item[0], item[2]] = future.result()
                progress(item[3])
    records: list[dict[str, Any]] = []
    for number, plan in enumerate(plans):
        p_values = np.concatenate([found[key] for key in sorted(found) if key[0] == number])
        for test, column in zip(TESTS, p_values.T, strict=True):
            known = np.isfinite(column)
            # a study whose test is not estimable has not found the effect
            share = proportion_of(int((column[known] < alpha).sum()), len(column))
            error = math.sqrt(share.value * (1 - share.value) / len(column))
            records.append(
                {
                    "n_readers": plan.readers,
                    "n_positives": plan.positives,
                    "n_negatives": plan.negatives,
                    "n_cases": plan.positives + plan.negatives,
                    "test": test,
                    "value": 100 * share.value,
                    "low": 100 * share.low,
                    "high": 100 * share.high,
                    "unit": "%",
                    "mc_error": 100 * error,
                    "n_estimable": int(known.sum()),
                    "n_simulations": len(column),
                }
            )
    columns = (
        "n_readers n_positives n_negatives n_cases test value low high unit mc_error n_estimable "
        "n_simulations"
    )
    return rows(records, columns)


def _chunk(seed: int, number: int, plan: Plan, chunk: int, size: int) -> NDArray[np.float64]:
    rng = np.random.default_rng([seed, number, chunk])
    return np.array([study(plan, rng) for _ in range(size)])


def study(plan: Plan, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw one study and test it.

    Returns:
        One p value for each of `TESTS`; NaN where not estimable.
    """
    recall, precision = _drawn_counts(plan, rng)
    both = cmh_p(np.stack([recall, precision]).astype(float))
    times = drawn_times(plan, rng)
    log_s, assisted = (times[name].to_numpy(dtype=float) for name in ("log_s", "assisted"))
    reader = times["reader"].to_numpy()
    readers = (reader[:, None] == np.arange(plan.readers)).astype(float)
    cases = times["case"].to_numpy()
    default = restricted_likelihood(np.column_stack([assisted, readers]), log_s, cases)
    ones = np.column_stack([assisted, np.ones(len(times))])
    replica = restricted_likelihood(ones, np.exp(log_s), reader)
    gains = [
        log_s[(reader == r) & (assisted == 1)].mean()
        - log_s[(reader == r) & (assisted == 0)].mean()
        for r in range(plan.readers)
    ]
    return np.array(
        [
            both[0],
            _paired_p(recall),
            both[1],
            _paired_p(precision),
            default.p,
            _t_p(np.array(gains)),
            replica.p,
        ]
    )


def _drawn_counts(
    plan: Plan, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Tables (readers, arms assisted and solo, 2) of TP and FN, and of TP and FP."""
    skill, gain = (
        rng.normal(0, plan.reader_sd, plan.readers),
        rng.normal(0, plan.reader_arm_sd, plan.readers),
    )
    spread = math.sqrt(plan.reader_sd**2 + plan.reader_arm_sd**2 / 4 + plan.case_sd**2)
    hits = np.zeros((2, plan.readers, 2, 2), dtype=np.int64)  # class, reader, arm, (yes, no)
    for kind, (count, rates) in enumerate(
        (
            (plan.positives, plan.sensitivity),
            (plan.negatives, tuple(1 - share for share in plan.specificity)),
        )
    ):
        cases = rng.normal(0, plan.case_sd, (2, count))  # of the two halves
        # a sharp reader calls more positives positive and fewer negatives
        sign = 1 if kind == 0 else -1
        for reader in range(plan.readers):
            for arm in (0, 1):
                half = (reader + arm) % 2
                read = max(1, round(plan.read_share[arm] * count))
                shown = rng.permutation(count)[:read]
                logit = (
                    _calibrated(rates[arm], spread)
                    + sign * (skill[reader] + (arm - 0.5) * gain[reader])
                    + cases[half, shown]
                )
                yes = int((rng.random(read) < special.expit(logit)).sum())
                hits[kind, reader, 1 - arm] = yes, read - yes
    recall = hits[0]
    precision = np.stack([hits[0, ..., 0], hits[1, ..., 0]], axis=-1)
    return recall, precision


_KNOWN: dict[tuple[float, float], float] = {}


def _calibrated(share: float, sd: float) -> float:
    """Find the logit whose mean share over normal effects of this SD is `share`.

    Without it a sensitivity of 90 % would be drawn as about 87 %, as effects pull to the middle.
    """
    key = (share, sd)
    if key not in _KNOWN:
        nodes, weights = _NODES

        def excess(logit: float) -> float:
            mean = float((weights * special.expit(logit + sd * nodes)).sum() / weights.sum())
            return mean - share

        _KNOWN[key] = float(optimize.brentq(excess, -40, 40))
    return _KNOWN[key]


def drawn_times(plan: Plan, rng: np.random.Generator) -> pd.DataFrame:
    """Draw one study's times: columns reader (from 0), case, assisted (0 or 1), log_s."""
    count = plan.positives + plan.negatives
    gain_mean = math.log(1 - plan.saved)
    speed = rng.normal(0, plan.time_reader_sd, plan.readers)
    gain = rng.normal(0, plan.time_reader_arm_sd, plan.readers)
    numbers = [
        max(2, round(share * count)) if plan.timed_cases is None else plan.timed_cases
        for share in plan.read_share
    ]
    pool = max(numbers) if plan.timed_cases is not None else max(count, *numbers)
    cases = rng.normal(0, plan.time_case_sd, (2, pool))
    frames = []
    for reader in range(plan.readers):
        for arm, number in enumerate(numbers):
            half = (reader + arm) % 2
            shown = rng.permutation(pool)[:number]
            log_s = (
                math.log(plan.seconds)
                + speed[reader]
                + arm * (gain_mean + gain[reader])
                + cases[half, shown]
                + rng.normal(0, plan.time_sd, number)
            )
            frames.append(
                pd.DataFrame(
                    {
                        "reader": reader,
                        "case": half * pool + shown,
                        "assisted": float(arm),
                        "log_s": log_s,
                    }
                )
            )
    return pd.concat(frames, ignore_index=True)


def _paired_p(tables: NDArray[np.int64]) -> float:
    """Paired t of the readers' shares, assisted minus solo; NaN where a share has no reads."""
    total = tables.sum(axis=-1)
    if (total == 0).any():
        return math.nan
    share = tables[..., 0] / total
    return _t_p(share[:, 0] - share[:, 1])


def _t_p(differences: NDArray[np.float64]) -> float:
    n = len(differences)
    if n < 2 or np.ptp(differences) < 1e-12:  # all readers gain the same: no error to test against
        return math.nan
    t = float(differences.mean() / (differences.std(ddof=1) / math.sqrt(n)))
    return float(2 * stats.t.sf(abs(t), n - 1))


def text_of(frame: pd.DataFrame, alpha: float) -> str:
    """Lay the result out as text, one line a plan and test."""
    lines = [
        f"Power: % of simulated studies with p < {alpha:g} (Monte-Carlo standard error, points)",
        f"{'readers':>7} {'positives':>9} {'negatives':>9}  {'test':<28} {'power':>6} {'error':>6}"
        f"  {'not estimable':>13}",
    ]
    for row in frame.to_dict("records"):
        missing = 100 * (1 - row["n_estimable"] / row["n_simulations"])
        lines.append(
            f"{row['n_readers']:>7} {row['n_positives']:>9} {row['n_negatives']:>9}  "
            f"{row['test']:<28} {half_up(row['value'], 1):>6} {half_up(row['mc_error'], 1):>6}  "
            f"{half_up(missing, 1) + ' %':>13}"
        )
    lines.append(
        "Positives and negatives: a reader and arm. A test that is not estimable counts as not found."
    )
    return "\n".join(lines)


def check_output(path: Path) -> None:
    """Refuse a file that the table cannot go to, before hours of simulation.

    Raises:
        OutputError: if its name ends in none of `OUTPUTS`, or its folder is not there.
    """
    if path.suffix not in OUTPUTS:
        msg = f"{path}: give a file that ends in {', '.join(OUTPUTS)}."
        raise OutputError(msg)
    if not path.parent.is_dir():
        msg = f"{path}: its folder is not there. Make it first."
        raise OutputError(msg)


def write_power(frame: pd.DataFrame, path: Path) -> None:
    """Write the table as CSV or JSON, or the curves as PDF or SVG, by the name's ending.

    Raises:
        OutputError: if the file cannot be written.
    """
    if path.suffix == ".csv":
        data = frame.to_csv(index=False, lineterminator="\n").encode()
    elif path.suffix == ".json":
        data = (json.dumps(frame.to_dict("records"), indent=1) + "\n").encode()
    else:
        from pasta.study.analysis import figures

        drawn = figures.power_curves(frame)
        data = figures.pdf_bytes(drawn) if path.suffix == ".pdf" else figures.svg_bytes(drawn)
    try:
        path.write_bytes(data)
    except OSError as error:
        msg = f"{path}: cannot be written ({error.strerror}). Choose another with --output."
        raise OutputError(msg) from error
