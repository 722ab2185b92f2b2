"""Means, proportions and their intervals; the models of an outcome over arms, readers, cases."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

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


def mixed_model(frame: pd.DataFrame, formula: str, groups: str, term: str) -> Estimate:
    """Fit a linear mixed model with one random intercept by REML; Wald z test of one term.

    Args:
        frame: one row a read.
        formula: fixed effects, such as "seconds ~ assisted".
        groups: column of the random intercept.
        term: of the fixed effects, whose estimate is returned.

    Returns:
        `singular` tells that the groups' variance was estimated as zero, so that the fit is an
        ordinary regression.
    """
    from statsmodels.formula.api import mixedlm

    if frame[groups].nunique() < 2:
        return nothing(f"fewer than two {groups}s", len(frame))
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            # powell: the default optimisers fail at the boundary, where two readers often lie
            fit = mixedlm(formula, frame, groups=groups).fit(reml=True, method=["powell"])
        except (np.linalg.LinAlgError, ValueError) as error:
            return nothing(f"the model could not be fitted ({type(error).__name__})", len(frame))
    ratio = float(np.asarray(fit.cov_re)[0, 0]) / float(fit.scale)
    said = any("singular" in str(w.message) or "boundary" in str(w.message) for w in heard)
    singular = said or ratio < _BOUNDARY
    if ratio < _BOUNDARY and not math.isfinite(float(fit.bse[term])):
        return _least_squares(frame, formula, term, singular=True)
    low, high = (float(x) for x in fit.conf_int().loc[term])
    return Estimate(
        float(fit.params[term]),
        low,
        high,
        float(fit.pvalues[term]),
        len(frame),
        singular=singular,
        converged=bool(fit.converged),
    )


def random_intercept(frame: pd.DataFrame, formula: str, groups: str, term: str) -> Estimate:
    """Fit a linear model with one random intercept by REML, for many groups (cases).

    The same model as `mixed_model`, with errors' t quantiles. The ratio of the two variances is the
    only number to search for; the rest is closed-form in sums over groups, some hundred times faster
    than a general optimiser and safe at the boundary.

    Args:
        frame: one row a read.
        formula: fixed effects.
        groups: column of the random intercept.
        term: of the fixed effects, whose estimate is returned.
    """
    from statsmodels.formula.api import ols

    model = ols(formula, frame)
    x, y = np.asarray(model.exog, dtype=float), np.asarray(model.endog, dtype=float)
    n, rank = x.shape
    if n <= rank or np.linalg.matrix_rank(x) < rank:
        return nothing("too few reads for the model", n)
    codes = frame[groups].astype("category").cat.codes.to_numpy()
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
        estimates = np.linalg.solve(information, cross)
        variance = max(float(inner[rank, rank] - estimates @ cross), 0.0) / (n - rank)
        deviance = (
            (n - rank) * math.log(max(variance, 1e-300))
            + float(np.log1p(sizes * ratio).sum())
            + float(np.linalg.slogdet(information)[1])
        )
        return deviance, estimates, variance * np.linalg.inv(information), variance

    best = optimize.minimize_scalar(
        lambda log_ratio: solved(math.exp(log_ratio))[0], bounds=(-14, 9), method="bounded"
    )
    singular = solved(0.0)[0] <= float(best.fun) + 1e-9
    _, estimates, covariances, variance = solved(0.0 if singular else math.exp(float(best.x)))
    if variance <= 0:
        return nothing("all values are equal", n)
    at = model.exog_names.index(term)
    error = math.sqrt(covariances[at, at])
    margin = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - rank)) * error
    value = float(estimates[at])
    p = float(2 * stats.t.sf(abs(value) / error, n - rank))
    return Estimate(value, value - margin, value + margin, p, n, n - rank, singular)


def _least_squares(
    frame: pd.DataFrame, formula: str, term: str, *, singular: bool = False
) -> Estimate:
    from statsmodels.formula.api import ols

    fit = ols(formula, frame).fit(use_t=False)
    low, high = (float(x) for x in fit.conf_int().loc[term])
    return Estimate(
        float(fit.params[term]), low, high, float(fit.pvalues[term]), len(frame), singular=singular
    )


def robust_regression(
    frame: pd.DataFrame, formula: str, term: str, clusters: str | None
) -> Estimate:
    """Fit ordinary least squares with robust errors: clustered, or HC3 where `clusters` is None."""
    from statsmodels.formula.api import ols

    if len(frame) < 4:
        return nothing("fewer than four reads", len(frame))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a zero leverage shows as NaN, which is told
        if clusters is None:
            fit = ols(formula, frame).fit(cov_type="HC3", use_t=True)
        else:
            codes = frame[clusters].astype("category").cat.codes
            fit = ols(formula, frame).fit(
                cov_type="cluster", cov_kwds={"groups": codes}, use_t=True
            )
    low, high = (float(x) for x in fit.conf_int().loc[term])
    if not math.isfinite(low):
        return nothing("too few reads for an error", len(frame))
    return Estimate(
        float(fit.params[term]),
        low,
        high,
        float(fit.pvalues[term]),
        len(frame),
        float(fit.df_resid),
    )


def gamma_regression(frame: pd.DataFrame, formula: str, term: str, clusters: str) -> Estimate:
    """Fit a Gamma model with log link, errors clustered; the estimate is a log ratio of means."""
    import statsmodels.api as sm
    from statsmodels.formula.api import glm

    family = sm.families.Gamma(sm.families.links.Log())
    codes = frame[clusters].astype("category").cat.codes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            fit = glm(formula, frame, family=family).fit(
                cov_type="cluster", cov_kwds={"groups": codes}
            )
        except (np.linalg.LinAlgError, ValueError) as error:
            return nothing(f"the model could not be fitted ({type(error).__name__})", len(frame))
    low, high = (float(x) for x in fit.conf_int().loc[term])
    return Estimate(float(fit.params[term]), low, high, float(fit.pvalues[term]), len(frame))


def clustered_logit(frame: pd.DataFrame, formula: str, term: str, clusters: str) -> Estimate:
    """Fit a logistic model by GEE, independence working correlation; the estimate is a log odds.

    Reads of the same case are not independent; the sandwich errors allow for that.
    """
    import statsmodels.api as sm
    from statsmodels.formula.api import gee

    outcome = formula.split("~", maxsplit=1)[0].strip()
    if frame.empty or frame[outcome].nunique() < 2 or frame["assisted"].nunique() < 2:
        return nothing("all reads have the same outcome, or one arm has none", len(frame))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # separation shows in the error, which is looked at below
        try:
            fit = gee(
                formula,
                clusters,
                frame,
                family=sm.families.Binomial(),
                cov_struct=sm.cov_struct.Independence(),
            ).fit()
        except (np.linalg.LinAlgError, ValueError) as error:
            return nothing(f"the model could not be fitted ({type(error).__name__})", len(frame))
    value, error_of = float(fit.params[term]), float(fit.bse[term])
    apart = frame.groupby("assisted")[outcome].nunique().min() < 2
    if apart or not math.isfinite(value) or not 0 < error_of < _LARGEST_ERROR:
        return nothing("an arm has one outcome only", len(frame))
    low, high = (float(x) for x in fit.conf_int().loc[term])
    return Estimate(value, low, high, float(fit.pvalues[term]), len(frame))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p values for their number by Holm's steps; NaN stay NaN and do not count."""
    from statsmodels.stats.multitest import multipletests

    p = np.asarray(p_values, dtype=float)
    known = np.isfinite(p)
    adjusted = np.full(len(p), math.nan)
    if known.any():
        adjusted[known] = multipletests(p[known], method="holm")[1]
    return [float(x) for x in adjusted]
