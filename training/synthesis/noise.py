"""The noise bank: periodic Gaussian fields; to take some of it is indexing, not filtering."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft

Floats = NDArray[np.float32]
PERIOD = 128
SIGMAS_MM = (0.8, 1.5, 3.0, 6.0, 12.0)
_SEED = 20260107
_STEPS = 512  # fields are rounded to 1/512: what the last bits of a Fourier transform say is gone


@cache
def _field(index: int) -> Floats:
    """Filter one field, unit variance; 8 MB each, made when first asked for."""
    # integers, not normals: the same on every machine; the filter makes them Gaussian
    white = np.random.default_rng((_SEED, index)).integers(-1024, 1025, (PERIOD,) * 3)
    cycles = fft.fftfreq(PERIOD), fft.fftfreq(PERIOD), fft.rfftfreq(PERIOD)
    i, j, k = np.meshgrid(*cycles, indexing="ij", sparse=True)
    kernel = np.exp(-2 * np.pi**2 * SIGMAS_MM[index] ** 2 * (i**2 + j**2 + k**2))
    values = fft.irfftn(fft.rfftn(white.astype(np.float64)) * kernel, s=(PERIOD,) * 3)
    values -= values.mean()
    field: Floats = (np.rint(values / values.std() * _STEPS) / _STEPS).astype(np.float32)
    field.setflags(write=False)
    return field


def taken(shape: tuple[int, ...], sigma_mm: float, rng: np.random.Generator) -> Floats:
    """Take a random piece of noise, turned and flipped at random.

    Args:
        shape: (I, J, K), voxels of 1 mm.
        sigma_mm: of the Gaussian that made it; the nearest of `SIGMAS_MM` is taken.
        rng: source of randomness; only its integers are used.

    Returns:
        float32, zero mean and unit variance over the bank. Read only.
    """
    nearest = int(np.argmin(np.abs(np.log(np.array(SIGMAS_MM) / max(sigma_mm, 0.1)))))
    piece = _field(nearest).transpose(((0, 1, 2), (1, 2, 0), (2, 0, 1))[int(rng.integers(3))])
    for axis, wanted in enumerate(shape):
        start, backwards = int(rng.integers(PERIOD)), bool(rng.integers(2))
        along = (slice(None),) * axis
        pieces = []
        while wanted > 0:
            n = min(PERIOD - start, wanted)
            pieces.append(piece[(*along, slice(start, start + n))])
            start, wanted = 0, wanted - n
        piece = pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=axis)
        if backwards:
            piece = piece[(*along, slice(None, None, -1))]
    return np.ascontiguousarray(piece)
