"""Signed distances of simple shapes, and noise: what a phantom is made of. NumPy only.

Coordinates are in mm of a canonical body (x to the left, y to the back, z to the head); negative
distances lie inside. Distances of ellipsoids are first-order, good near the surface.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Points = Sequence[Sequence[float]] | NDArray[np.float64]
Box = tuple[slice, slice, slice]
Point = tuple[float, float, float]
Coordinates = tuple[Floats, Floats, Floats]
FAR_MM = 1e3
NOISE_PERIOD_VOXELS = 96
NOISE_SIGMAS_MM = (1.0, 2.0, 4.0, 8.0, 16.0)


def named_rng(seed: int, name: str) -> np.random.Generator:
    """Make the generator of one named part, so that parts do not disturb one another."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def ellipsoid(
    at: Coordinates, center: Point, radii_mm: Point, rotation: NDArray[np.float64] | None = None
) -> Floats:
    """Distance to an ellipsoid; rows of `rotation` are its axes."""
    x, y, z = (axis - np.float32(c) for axis, c in zip(at, center, strict=True))
    if rotation is not None:
        r = rotation.astype(np.float32)
        x, y, z = (r[n, 0] * x + r[n, 1] * y + r[n, 2] * z for n in range(3))
    a, b, c = (np.float32(radius) for radius in radii_mm)
    unit = np.sqrt((x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2)
    slope = np.sqrt((x / a**2) ** 2 + (y / b**2) ** 2 + (z / c**2) ** 2)
    distance: Floats = unit * (unit - 1) / np.maximum(slope, np.float32(1e-6))
    return np.where(unit < 1e-3, -min(a, b, c), distance).astype(np.float32)


def segment(at: Coordinates, start: Point, end: Point, radii_mm: tuple[float, float]) -> Floats:
    """Distance to a straight piece of tube whose radius runs from one value to the other."""
    ends = np.array([start, end], dtype=np.float32)
    along = ends[1] - ends[0]
    length2 = max(float(along @ along), 1e-6)
    x, y, z = (axis - c for axis, c in zip(at, ends[0], strict=True))
    t = np.clip((x * along[0] + y * along[1] + z * along[2]) / np.float32(length2), 0, 1)
    across = np.sqrt((x - t * along[0]) ** 2 + (y - t * along[1]) ** 2 + (z - t * along[2]) ** 2)
    distance: Floats = across - (radii_mm[0] + t * np.float32(radii_mm[1] - radii_mm[0]))
    return distance


def smooth_path(points: Points, per_piece: int = 4) -> NDArray[np.float64]:
    """Refine a path of (x, y, z, radius) points with a Catmull-Rom spline."""
    knots = np.asarray(points, dtype=float)
    padded = np.vstack([2 * knots[0] - knots[1], knots, 2 * knots[-1] - knots[-2]])
    t = np.linspace(0, 1, per_piece, endpoint=False)[:, None]
    pieces = []
    for p0, p1, p2, p3 in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        pieces.append(
            0.5
            * (
                2 * p1
                + (p2 - p0) * t
                + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2
                + (3 * p1 - p0 - 3 * p2 + p3) * t**3
            )
        )
    return np.vstack([*pieces, knots[-1:]])


def smooth_union(first: Floats, second: Floats, blend_mm: float) -> Floats:
    """Union of two shapes whose seam is rounded over `blend_mm`."""
    k = np.float32(blend_mm)
    h = np.maximum(k - np.abs(first - second), 0) / k
    union: Floats = np.minimum(first, second) - h * h * k * np.float32(0.25)
    return union


def logistic(x: Floats) -> Floats:
    """Smooth step from 0 to 1 without overflow."""
    step: Floats = 1 / (1 + np.exp(-np.clip(x, -30, 30)))
    return step


@dataclass(frozen=True, slots=True)
class NoiseBank:
    """Periodic Gaussian noise of several widths, unit variance; taking some costs a copy."""

    sigmas_mm: tuple[float, ...]
    fields: tuple[Floats, ...]

    @classmethod
    def draw(cls, rng: np.random.Generator, spacing_mm: Sequence[float]) -> NoiseBank:
        """Filter white noise for a voxel spacing."""
        n = NOISE_PERIOD_VOXELS
        cycles = np.meshgrid(
            *(np.fft.fftfreq(n, d=s) for s in spacing_mm[:2]),
            np.fft.rfftfreq(n, d=spacing_mm[2]),
            indexing="ij",
            sparse=True,
        )
        square = cycles[0] ** 2 + cycles[1] ** 2 + cycles[2] ** 2
        fields = []
        for sigma in NOISE_SIGMAS_MM:
            kernel = np.exp(-2 * np.pi**2 * sigma**2 * square).astype(np.float32)
            white = np.fft.rfftn(rng.standard_normal((n, n, n), dtype=np.float32))
            noise = np.fft.irfftn(white * kernel, s=(n, n, n), axes=(0, 1, 2))
            noise -= noise.mean()
            fields.append((noise / noise.std()).astype(np.float32))
        return cls(NOISE_SIGMAS_MM, tuple(fields))

    def take(self, rng: np.random.Generator, sigma_mm: float, shape: Sequence[int]) -> Floats:
        """Cut a random piece out of the field whose width is nearest, flipped at random."""
        if 0 in shape:  # outside the range shown
            return np.zeros(tuple(shape), dtype=np.float32)
        nearest = int(np.argmin(np.abs(np.log(np.array(self.sigmas_mm) / sigma_mm))))
        field = self.fields[nearest]
        piece = field[tuple(slice(None, None, int(rng.choice((-1, 1)))) for _ in range(3))]
        for axis, wanted in enumerate(shape):
            n = piece.shape[axis]
            start = int(rng.integers(n))
            # blocks, not an index per voxel: five times faster on a whole trunk
            blocks = [
                piece[(slice(None),) * axis + (slice(low, low + length),)]
                for low, length in _wrapped(start, wanted, n)
            ]
            piece = blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=axis)
        return piece


def _wrapped(start: int, wanted: int, period: int) -> list[tuple[int, int]]:
    """Split `wanted` periodic places after `start` into (low, length) blocks of one period."""
    blocks = []
    while wanted > 0:
        length = min(period - start, wanted)
        blocks.append((start, length))
        start, wanted = 0, wanted - length
    return blocks


def lattice_noise(
    rng: np.random.Generator, axes_mm: Sequence[NDArray[np.float64]], knot_mm: float
) -> Floats:
    """Smooth noise on a grid (cubic B-spline), the same in mm whatever the spacing."""
    # 24 knots cover 24 x knot_mm about the origin: beyond, the noise repeats by reflection
    knots: Floats = rng.standard_normal((24, 24, 24)).astype(np.float32)
    places = [axis / knot_mm + 11.5 for axis in axes_mm]
    for dim, place in enumerate(places):
        moved = np.moveaxis(knots, dim, -1)
        flat = moved.reshape(-1, moved.shape[-1])
        weights = _spline_weights(place, moved.shape[-1])
        knots = np.moveaxis((flat @ weights).reshape(*moved.shape[:-1], -1), -1, dim)
    return np.ascontiguousarray(knots, dtype=np.float32)


def _spline_weights(place: NDArray[np.float64], count: int) -> Floats:
    """Uniform cubic B-spline weights (count, len(place)) with mirrored ends."""
    weights = np.zeros((count, len(place)), dtype=np.float32)
    base = np.floor(place).astype(int)
    t = place - base
    parts = (
        (1 - t) ** 3 / 6,
        (3 * t**3 - 6 * t**2 + 4) / 6,
        (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6,
        t**3 / 6,
    )
    for offset, part in zip((-1, 0, 1, 2), parts, strict=True):
        index = np.abs(base + offset) % (2 * count - 2)
        index = np.where(index >= count, 2 * count - 2 - index, index)
        np.add.at(weights, (index, np.arange(len(place))), part.astype(np.float32))
    return weights


def rotation_matrix(rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw a rotation, all equally likely."""
    q, r = np.linalg.qr(rng.standard_normal((3, 3)))
    turned: NDArray[np.float64] = q * np.sign(np.diag(r))
    return turned
