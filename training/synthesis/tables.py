"""Functions of one number as tables, so that a recipe replays to the last bit on every machine.

NumPy picks its `exp` and `cos` by the processor and they differ in the last bit. Sums, products and
square roots do not. So everything else comes from a table whose entries are rounded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, special

Floats = NDArray[np.float32]
DIGITS = 6  # of table entries: far above the last bit of float64, far below one HU


class Curve:
    """A function tabulated between two ends and constant beyond them.

    Args:
        function: of a float64 array.
        low: first argument of the table.
        high: last argument.
        steps: entries less one.
    """

    def __init__(
        self, function: Callable[[NDArray[np.float64]], Any], low: float, high: float, steps: int
    ) -> None:
        self._low, self._scale, self._last = (
            np.float32(low),
            np.float32(steps / (high - low)),
            steps,
        )
        values = function(np.linspace(low, high, steps + 1))
        self._values = np.round(values, DIGITS).astype(np.float32)

    def __call__(self, x: Floats) -> Floats:
        """Look up every entry of an array."""
        place = (x - self._low) * self._scale + np.float32(0.5)
        np.clip(place, 0, self._last, out=place)
        out: Floats = self._values[place.astype(np.int32)]
        return out


falling = Curve(lambda t: 1 / (1 + np.exp(t)), -16, 16, 8192)  # logistic, 1 to 0
bell = Curve(lambda t: np.exp(-(t**2)), -4, 4, 4096)
smoothstep = Curve(lambda t: t * t * (3 - 2 * t), 0, 1, 2048)
# signed distance in sigma from the border of a half space, of its Gaussian-blurred indicator
border = Curve(lambda v: special.ndtri(np.clip(v, 1e-4, 1 - 1e-4)), 0, 1, 4096)


def blurred(values: Floats, sigmas: tuple[float, float, float]) -> Floats:
    """Blur by a Gaussian whose weights are rounded; axes with a sigma below 0.2 voxels are kept."""
    out = values
    for axis, sigma in enumerate(sigmas):
        if sigma < 0.2:
            continue
        reach = int(3 * sigma + 0.5) or 1
        weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
        weights = np.round(weights / weights.sum(), 9)
        out = ndimage.correlate1d(out, weights, axis=axis, mode="nearest")
    return out


def steady(value: float, digits: int = 3) -> float:
    """Round a sum over voxels: its last bits depend on the order in which a machine adds."""
    return round(float(value), digits)


def scaled(texture: Floats, where: NDArray[np.bool_], deviation: float) -> Floats:
    """Scale a texture so that, blurred by 1.2 mm, it has a standard deviation and zero mean.

    That is how the meter sees it: `pasta.meter.heterogeneity_of`.
    """
    values = blurred(texture, (1.2, 1.2, 1.2))[where].astype(np.float64)
    if values.size < 20:
        return texture * np.float32(deviation)
    spread = steady(float(values.std()), 5)
    return (texture - np.float32(steady(values.mean(), 5))) * np.float32(
        deviation / max(spread, 0.15)
    )
