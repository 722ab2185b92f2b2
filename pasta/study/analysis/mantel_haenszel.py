"""Cochran-Mantel-Haenszel tests of 2 x 2 tables, one a reader: as published, corrected, exact."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray

_TIE = 1 + 1e-7  # as R's mantelhaen.test: probabilities this near count as equal


@dataclass(frozen=True, slots=True)
class StratifiedTest:
    """What a stratified 2 x 2 comparison gives; NaN where it is not estimable.

    Attributes:
        p: two-sided, without continuity correction, hypergeometric variance. This is what the paper
            prints; R's `mantelhaen.test` corrects unless told otherwise.
        p_corrected: the same with continuity correction.
        p_exact: two-sided exact conditional p; sums all tables no likelier than the one seen.
        p_mid: twice the smaller tail, the table seen with half its weight (mid-p).
        odds_ratio: Mantel-Haenszel, first row against second row.
        low: of its 95 % interval (Robins, Breslow and Greenland).
        high: of its 95 % interval.
        p_homogeneity: Breslow-Day, of equal odds ratios over strata.
        informative: names of the strata that say anything: no margin of theirs is zero.
        silent: names of the others.
    """

    p: float
    p_corrected: float
    p_exact: float
    p_mid: float
    odds_ratio: float
    low: float
    high: float
    p_homogeneity: float
    informative: tuple[str, ...]
    silent: tuple[str, ...]


def stratified_test(tables: Mapping[str, ArrayLike]) -> StratifiedTest:
    """Compare two arms over strata.

    Args:
        tables: by stratum (reader) a (2, 2) table of counts: rows assisted and solo, columns
            the two outcomes (TP and FN for recall, TP and FP for precision).

    Returns:
        The tests; all NaN where no stratum is informative.

    Raises:
        ValueError: if a table is not (2, 2) or holds a negative or fractional count.

    >>> table = stratified_test({"J1": [[9, 1], [5, 3]], "J2": [[10, 1], [7, 3]]})
    >>> round(table.odds_ratio, 2), table.silent
    (4.79, ())
    """
    from statsmodels.stats.contingency_tables import StratifiedTable

    arrays = {name: _checked(name, table) for name, table in tables.items()}
    told = {name: bool(t.sum(0).all() and t.sum(1).all()) for name, t in arrays.items()}
    informative = tuple(name for name, tells in told.items() if tells)
    silent = tuple(name for name, tells in told.items() if not tells)
    if not informative:
        nan = math.nan
        return StratifiedTest(nan, nan, nan, nan, nan, nan, nan, nan, informative, silent)
    used = [arrays[name] for name in informative]
    with np.errstate(divide="ignore", invalid="ignore"):
        table = StratifiedTable([t.astype(float) for t in used])
        odds_ratio = float(table.oddsratio_pooled)
        low, high = (float(x) for x in table.oddsratio_pooled_confint())
        p, corrected = (
            float(table.test_null_odds(correction=correction).pvalue)
            for correction in (False, True)
        )
        # with a silent stratum, or one stratum, the statistic has no distribution
        equal = math.nan
        if not silent and len(used) > 1:
            equal = float(table.test_equal_odds().pvalue)
    if not (math.isfinite(odds_ratio) and odds_ratio > 0):  # a cell is empty in every stratum
        odds_ratio = low = high = math.nan
    exact, mid = _exact(used)
    return StratifiedTest(
        p, corrected, exact, mid, odds_ratio, low, high, equal, informative, silent
    )


def _checked(name: str, table: ArrayLike) -> NDArray[np.int64]:
    array = np.asarray(table)
    whole: NDArray[np.int64] = np.rint(array.astype(float)).astype(np.int64)
    if array.shape != (2, 2) or (whole < 0).any() or not np.array_equal(whole, array):
        msg = f"stratum {name}: expected a 2 x 2 table of counts, found {array.tolist()}."
        raise ValueError(msg)
    return whole


def _exact(tables: list[NDArray[np.int64]]) -> tuple[float, float]:
    """Exact conditional p values: the upper left cells' sum is a sum of hypergeometric numbers."""
    distribution = np.ones(1)
    least = 0
    for table in tables:
        total, row, column = int(table.sum()), int(table[0].sum()), int(table[:, 0].sum())
        first, last = max(0, row + column - total), min(row, column)
        weights = stats.hypergeom.pmf(np.arange(first, last + 1), total, column, row)
        distribution = np.convolve(distribution, weights)
        least += first
    place = sum(int(table[0, 0]) for table in tables) - least
    seen = distribution[place]
    exact = float(distribution[distribution <= seen * _TIE].sum())
    tail = min(distribution[:place].sum(), distribution[place + 1 :].sum()) + seen / 2
    return min(1.0, exact), float(min(1.0, 2 * tail))


def cmh_p(tables: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute many uncorrected Cochran-Mantel-Haenszel p values at once, for simulations.

    Args:
        tables: (N, strata, 2, 2) counts.

    Returns:
        (N,) two-sided p; NaN where no stratum is informative.
    """
    total = tables.sum(axis=(2, 3))
    row, column = tables[..., 0, :].sum(-1), tables[..., :, 0].sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = row * column / total
        variance = row * (total - row) * column * (total - column) / (total**2 * (total - 1))
        expected, variance = (np.where(total > 1, x, 0.0) for x in (expected, variance))
        seen = np.where(total > 1, tables[..., 0, 0], 0.0)
        statistic = (seen - expected).sum(-1) ** 2 / variance.sum(-1)
    return np.asarray(stats.chi2.sf(statistic, 1), dtype=float)
