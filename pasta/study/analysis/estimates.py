"""Means, proportions and their intervals; the models of an outcome over arms, readers, cases."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import optimize, stats

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float64]

CONFIDENCE = 0.95
_BOUNDARY = 1e-6  # variance of the groups over that of the residuals, below which it is zero
_LARGEST_ERROR = 50.0  # of a log odds ratio: beyond, the arms are separated


@dataclass(frozen=True, slots=True)
class Estimate:
    """An estimate with its 95 % interval and p value; NaN where not estimable, `why` says so."""

    value: float
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan
    n: int = 0
    df: float = math.nan
    singular: bool = False
    converged: bool = True
    why: str = ""


def nothing(why: str, n: int = 0) -> Estimate:
    """An estimate that could not be made, with the reason."""
    return Estimate(math.nan, n=n, why=why, converged=False)


def mean_of(values: Sequence[float] | pd.Series) -> Estimate:
    """Compute mean and t interval; the p value tests a mean of zero. NaN are left out."""
    known = np.asarray(values, dtype=float)
    known = known[np.isfinite(known)]
    n = len(known)
    if n == 0:
        return nothing("no values")
    mean = float(known.mean())
    if n == 1:
        return Estimate(mean, n=1, why="one value has no interval")
    error = float(known.std(ddof=1)) / math.sqrt(n)
    if error == 0:
        return Estimate(mean, mean, mean, math.nan, n, n - 1, why="all values are equal")
    margin = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * error
    p = float(2 * stats.t.sf(abs(mean) / error, n - 1))
    return Estimate(mean, mean - margin, mean + margin, p, n, n - 1)


def proportion_of(hits: int, total: int) -> Estimate:
    """Compute a proportion with its Wilson interval."""
    from statsmodels.stats.proportion import proportion_confint

    if total == 0:
        return nothing("nothing to count")
    low, high = proportion_confint(hits, total, alpha=1 - CONFIDENCE, method="wilson")
    return Estimate(hits / total, float(low), float(high), n=total)


def design(frame: pd.DataFrame, terms: Sequence[str], factors: Sequence[str] = ()) -> FloatArray:
    """Build a design matrix: the terms as they are, a constant, and each factor but its first level.

    Args:
        frame: one row a read.
        terms: numeric columns; the first is what a model estimates.
        factors: columns of words; one with a single level adds nothing.
    """
    columns = [frame[term].to_numpy(dtype=float) for term in terms]
    columns.append(np.ones(len(frame)))
    for factor in factors:
        values = frame[factor].to_numpy()
        columns += [(values == level).astype(float) for level in sorted(set(values))[1:]]
    return np.column_stack(columns)


def mixed_model(
    frame: pd.DataFrame,
    outcome: str,
    terms: Sequence[str],
    groups: str,
    factors: Sequence[str] = (),
) -> Estimate:
    """Fit statsmodels' linear mixed model with one random intercept by REML; Wald z test.

    Args:
        frame: one row a read.
        outcome: column.
        terms: numeric fixed effects; the first is estimated.
        groups: column of the random intercept.
        factors: fixed effects of words.

    Returns:
        `singular` tells that the groups' variance was estimated as zero, so that the fit is an
        ordinary regression.
    """
    from statsmodels.regression.mixed_linear_model import MixedLM

    if frame[groups].nunique() < 2:
        return nothing(f"fewer than two {groups}s", len(frame))
    x, y = design(frame, terms, factors), frame[outcome].to_numpy(dtype=float)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            # powell: the default optimisers fail at the boundary, where two readers often lie
            fit = MixedLM(y, x, frame[groups].to_numpy()).fit(reml=True, method=["powell"])
        except (np.linalg.LinAlgError, ValueError) as error:
            return _unfitted(error, len(frame))
    said = any("singular" in str(w.message) or "boundary" in str(w.message) for w in heard)
    if not float(fit.scale) > 0:
        return nothing("the reads do not vary within arm and " + groups, len(frame))
    ratio = float(np.asarray(fit.cov_re)[0, 0]) / float(fit.scale)
    if not math.isfinite(float(fit.bse_fe[0])):  # at the boundary itself: ordinary least squares
        from statsmodels.regression.linear_model import OLS

        return _first_of(OLS(y, x).fit(use_t=False), len(frame), singular=True)
    found = _first_of(fit, len(frame), singular=said or ratio < _BOUNDARY)
    return replace(found, converged=bool(fit.converged))


def random_intercept(
    frame: pd.DataFrame,
    outcome: str,
    terms: Sequence[str],
    groups: str,
    factors: Sequence[str] = (),
) -> Estimate:
    """Fit a linear model with one random intercept by REML, for many groups (cases).

    The same model as `mixed_model`, with errors' t quantiles. The ratio of the two variances is the
    only number to search for; the rest is closed-form in sums over groups, some hundred times faster
    than a general optimiser and safe at the boundary.

    Args:
        frame: one row a read.
        outcome: column.
        terms: numeric fixed effects; the first is estimated.
        groups: column of the random intercept.
        factors: fixed effects of words.
    """
    codes = np.unique(frame[groups].to_numpy(), return_inverse=True)[1]
    y = frame[outcome].to_numpy(dtype=float)
    return restricted_likelihood(design(frame, terms, factors), y, codes)


def restricted_likelihood(x: FloatArray, y: FloatArray, codes: NDArray[np.integer]) -> Estimate:
    """Fit `random_intercept` to arrays.

    Args:
        x: (N, K) fixed effects, such as from `design`.
        y: (N,) outcome.
        codes: (N,) group of each read, from 0.

    Returns:
        The estimate of the first column of `x`.
    """
    n, rank = x.shape
    if n <= rank or np.linalg.matrix_rank(x) < rank:
        return nothing("too few reads for the model", n)
    sizes = np.bincount(codes).astype(float)
    both = np.column_stack([x, y])
    sums = np.zeros((len(sizes), rank + 1))
    np.add.at(sums, codes, both)
    products = both.T @ both

    def solved(ratio: float) -> tuple[float, FloatArray, FloatArray, float]:
        """Minus twice the restricted log likelihood, estimates, their covariance, variance."""
        weights = ratio / (1 + sizes * ratio)
        inner = products - (sums * weights[:, None]).T @ sums
        information, cross = inner[:rank, :rank], inner[:rank, rank]
        estimates: FloatArray = np.asarray(np.linalg.solve(information, cross), dtype=float)
        variance = max(float(inner[rank, rank] - estimates @ cross), 0.0) / (n - rank)
        deviance = (
            (n - rank) * math.log(max(variance, 1e-300))
            + float(np.log1p(sizes * ratio).sum())
            + float(np.linalg.slogdet(information)[1])
        )
        covariances: FloatArray = variance * np.linalg.inv(information)
        return deviance, estimates, covariances, variance

    best = optimize.minimize_scalar(
        lambda log_ratio: solved(math.exp(log_ratio))[0], bounds=(-14, 9), method="bounded"
    )
    singular = solved(0.0)[0] <= float(best.fun) + 1e-9
    _, estimates, covariances, variance = solved(0.0 if singular else math.exp(float(best.x)))
    if variance <= 0:
        return nothing("all values are equal", n)
    error = math.sqrt(covariances[0, 0])
    margin = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - rank)) * error
    value = float(estimates[0])
    p = float(2 * stats.t.sf(abs(value) / error, n - rank))
    return Estimate(value, value - margin, value + margin, p, n, n - rank, singular)


def robust_regression(
    frame: pd.DataFrame,
    outcome: str,
    terms: Sequence[str],
    clusters: str | None = None,
    factors: Sequence[str] = (),
) -> Estimate:
    """Fit ordinary least squares with robust errors: clustered, or HC3 where `clusters` is None."""
    from statsmodels.regression.linear_model import OLS

    n = len(frame)
    x = design(frame, terms, factors)
    if n < 4 or n <= x.shape[1] or np.linalg.matrix_rank(x) < x.shape[1]:
        return nothing("too few reads for the model", n)
    kind: dict[str, Any] = {"cov_type": "HC3", "use_t": True}
    if clusters is not None:
        codes = np.unique(frame[clusters].to_numpy(), return_inverse=True)[1]
        if codes.max() < 1:
            return nothing(f"fewer than two {clusters}s", n)
        kind = {"cov_type": "cluster", "cov_kwds": {"groups": codes}, "use_t": True}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a leverage of one shows as NaN, which is told
        found = _first_of(OLS(frame[outcome].to_numpy(dtype=float), x).fit(**kind), n)
    return found if math.isfinite(found.low) else nothing("too few reads for an error", n)


def gamma_regression(
    frame: pd.DataFrame,
    outcome: str,
    terms: Sequence[str],
    clusters: str,
    factors: Sequence[str] = (),
) -> Estimate:
    """Fit a Gamma model with log link, errors clustered; the estimate is a log ratio of means."""
    from statsmodels.genmod.families import Gamma, links
    from statsmodels.genmod.generalized_linear_model import GLM

    codes = np.unique(frame[clusters].to_numpy(), return_inverse=True)[1]
    x, y = design(frame, terms, factors), frame[outcome].to_numpy(dtype=float)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            fit = GLM(y, x, family=Gamma(links.Log())).fit(
                cov_type="cluster", cov_kwds={"groups": codes}
            )
            return _first_of(fit, len(frame))
        except (np.linalg.LinAlgError, ValueError) as error:
            return _unfitted(error, len(frame))


def clustered_logit(
    frame: pd.DataFrame,
    outcome: str,
    terms: Sequence[str],
    clusters: str,
    factors: Sequence[str] = (),
) -> Estimate:
    """Fit a logistic model by GEE, independence working correlation; the estimate is a log odds.

    Reads of the same case are not independent; the sandwich errors allow for that.
    """
    from statsmodels.genmod.cov_struct import Independence
    from statsmodels.genmod.families import Binomial
    from statsmodels.genmod.generalized_estimating_equations import GEE

    n = len(frame)
    if n == 0 or frame[terms[0]].nunique() < 2:
        return nothing("one arm has no reads that tell", n)
    if frame.groupby(terms[0])[outcome].nunique().min() < 2:
        return nothing("an arm has one outcome only", n)
    codes = np.unique(frame[clusters].to_numpy(), return_inverse=True)[1]
    x, y = design(frame, terms, factors), frame[outcome].to_numpy(dtype=float)
    order = np.argsort(codes, kind="stable")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # separation shows in the error, which is looked at below
        try:
            fit = GEE(
                y[order], x[order], codes[order], family=Binomial(), cov_struct=Independence()
            ).fit()
            found = _first_of(fit, n)
        except (np.linalg.LinAlgError, ValueError) as error:
            return _unfitted(error, n)
    if not (math.isfinite(found.low) and 0 < found.high - found.low < 4 * _LARGEST_ERROR):
        return nothing("the arms are separated", n)
    return found


def _first_of(fit: Any, n: int, *, singular: bool = False) -> Estimate:
    low, high = (float(x) for x in np.asarray(fit.conf_int())[0])
    value, p = float(np.asarray(fit.params)[0]), float(np.asarray(fit.pvalues)[0])
    return Estimate(value, low, high, p, n, singular=singular)


def _unfitted(error: Exception, n: int) -> Estimate:
    return nothing(f"the model could not be fitted ({type(error).__name__})", n)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p values for their number by Holm's steps; NaN stay NaN and do not count."""
    from statsmodels.stats.multitest import multipletests

    p = np.asarray(p_values, dtype=float)
    known = np.isfinite(p)
    adjusted = np.full(len(p), math.nan)
    if known.any():
        adjusted[known] = multipletests(p[known], method="holm")[1]
    return [float(x) for x in adjusted]
