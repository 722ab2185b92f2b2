"""How numbers are printed: half-up, with the words for what cannot be computed. No arithmetic."""

from __future__ import annotations

import math
from decimal import ROUND_HALF_UP, Decimal

NOT_ESTIMABLE = "not estimable"
_NOISE_DIGITS = 9  # of a mean of ratios: 96.25 may come as 96.24999999999999
_SMALLEST_P = 0.001


def half_up(value: float, digits: int) -> str:
    """Round as journals do, 96.25 to 96.3; Python's own rounding gives 96.2.

    Args:
        value: the unrounded number.
        digits: after the point.

    Returns:
        The digits, or "not estimable" for NaN and infinities.

    >>> half_up(96.25, 1), half_up(47.25, 1), half_up(-0.04, 1), half_up(float("nan"), 1)
    ('96.3', '47.3', '0.0', 'not estimable')
    """
    if not math.isfinite(value):
        return NOT_ESTIMABLE
    steps = Decimal(1).scaleb(-digits)
    rounded = Decimal(repr(round(float(value), _NOISE_DIGITS))).quantize(steps, ROUND_HALF_UP)
    return str(abs(rounded) if rounded == 0 else rounded)


def p_text(p: float) -> str:
    """Print a p value with three digits, below that "<0.001".

    >>> p_text(0.0433), p_text(0.00004), p_text(0.00096), p_text(float("nan"))
    ('0.043', '<0.001', '<0.001', 'not estimable')
    """
    if not math.isfinite(p):
        return NOT_ESTIMABLE
    return "<0.001" if p < _SMALLEST_P else half_up(p, 3)


def interval_text(value: float, low: float, high: float, digits: int) -> str:
    """Print an estimate with its interval, "1.5 (1.2 to 1.9)"; alone where there is no interval."""
    if not math.isfinite(value):
        return NOT_ESTIMABLE
    if not (math.isfinite(low) and math.isfinite(high)):
        return half_up(value, digits)
    return f"{half_up(value, digits)} ({half_up(low, digits)} to {half_up(high, digits)})"
