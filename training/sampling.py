"""Patches of training cases: cropped at random, turned and scaled, lesions drawn, intensities varied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional

from pasta.labels import LESIONS, label_of
from pasta.preprocessing.intensity import AIR_HU, normalized
from training.synthesis.lesions import add_lesions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pasta.spec import ModelSpec
    from training.cases import Case

_LESIONS_OF_ORGAN: dict[int, list[str]] = {}
for _lesion in LESIONS:
    _organ = next(value for value in range(1, 11) if label_of(value).name == _lesion.organ)
    _LESIONS_OF_ORGAN.setdefault(_organ, []).append(_lesion.name)


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How far patches are varied.

    Attributes:
        scale: smallest and largest zoom of the anatomy.
        degrees: largest rotation about each axis.
        lesion_share: of the patches that get lesions drawn.
        noise_hu: largest standard deviation of added noise.
        shift_hu: largest offset.
        gain: largest relative change of contrast.
    """

    scale: tuple[float, float] = (0.65, 1.2)
    degrees: float = 12.0
    lesion_share: float = 0.6
    noise_hu: float = 18.0
    shift_hu: float = 12.0
    gain: float = 0.1


def _rotation(degrees: NDArray[np.float64]) -> NDArray[np.float64]:
    out = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        i, j = [other for other in range(3) if other != axis]
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        out = out @ turn
    return out


def draw_turn(
    augmentation: Augmentation, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draw a rotation matrix and a zoom of each axis."""
    zoom = np.exp(rng.uniform(*np.log(augmentation.scale))) * rng.uniform(0.93, 1.07, size=3)
    turn = _rotation(rng.uniform(-augmentation.degrees, augmentation.degrees, size=3))
    return turn, zoom


def extracted(
    source: Case,
    centre: NDArray[np.float64],
    matrix: NDArray[np.float64],
    shape: tuple[int, int, int],
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Cut a turned and scaled patch; outside the volume is air and background.

    Args:
        source: case.
        centre: voxel of the case at the centre of the patch.
        matrix: (3, 3), offsets in the patch to offsets in the case, voxels.
        shape: of the patch.

    Returns:
        HU (linear) and labels (nearest).
    """
    offset = centre - matrix @ ((np.asarray(shape) - 1) / 2)
    # only the part of the case that the patch can reach
    corners = np.array(
        [(i, j, k) for i in (0, shape[0]) for j in (0, shape[1]) for k in (0, shape[2])]
    )
    reach = corners @ matrix.T + offset
    low = np.clip(np.floor(reach.min(axis=0)).astype(int) - 2, 0, None)
    high = np.minimum(np.ceil(reach.max(axis=0)).astype(int) + 3, source.hu.shape)
    low = np.minimum(low, high - 2)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    hu = torch.from_numpy(source.hu[box].astype(np.float32) - AIR_HU)
    labels = torch.from_numpy(source.labels[box].astype(np.float32))
    size = torch.tensor(hu.shape, dtype=torch.float64)
    # grid_sample: normalised coordinates, last axis first, -1 and 1 at the outer voxel edges
    in_voxels = torch.from_numpy(np.ascontiguousarray(matrix))
    start = torch.from_numpy(offset - low)
    target = torch.tensor(shape, dtype=torch.float64)
    theta = torch.empty(3, 4, dtype=torch.float64)
    theta[:, :3] = in_voxels * (target[None] / 2) * (2 / size)[:, None]
    middle = in_voxels @ ((target - 1) / 2) + start
    theta[:, 3] = (2 * middle + 1) / size - 1
    reverse = torch.tensor([2, 1, 0])
    theta[:, :3] = theta[reverse][:, reverse]
    theta[:, 3] = theta[reverse, 3]
    grid = functional.affine_grid(
        theta[None].to(torch.float32), [1, 1, *shape], align_corners=False
    )
    patch = functional.grid_sample(hu[None, None], grid, align_corners=False)[0, 0] + AIR_HU
    nearest = functional.grid_sample(labels[None, None], grid, mode="nearest", align_corners=False)[
        0, 0
    ]
    return patch.numpy(), nearest.to(torch.uint8).numpy()


def sample_patch(
    source: Case, spec: ModelSpec, augmentation: Augmentation, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw one training patch.

    Args:
        source: case on the model's grid.
        spec: of the model: patch, spacing, intensity.
        augmentation: how far to vary.
        rng: source of randomness.

    Returns:
        (1, I, J, K) float32 network input, (I, J, K) uint8 target with 255 where nothing is known.
    """
    shape = np.asarray(source.hu.shape)
    if source.places and rng.random() < 0.75:
        places = source.places[int(rng.choice(sorted(source.places)))]
        centre = places[rng.integers(len(places))] + rng.normal(0, 8, size=3)
    else:
        centre = rng.uniform(0.15, 0.85, size=3) * shape
    turn, zoom = draw_turn(augmentation, rng)
    hu, labels = extracted(source, centre.astype(float), turn / zoom, spec.patch_shape)
    if rng.random() < augmentation.lesion_share:
        hosts = [
            name
            for value, names in _LESIONS_OF_ORGAN.items()
            if label_of(value).name in source.labelled and np.any(labels == value)
            for name in names
        ]
        if hosts:
            count = int(rng.choice([1, 2, 3], p=[0.5, 0.3, 0.2]))
            chosen = [hosts[rng.integers(len(hosts))] for _ in range(count)]
            hu, labels, _ = add_lesions(hu, labels, chosen, spec.spacing_mm[0], rng)
    hu = vary_intensity(hu, augmentation, rng)
    x = normalized(torch.from_numpy(np.ascontiguousarray(hu, dtype=np.float32)), spec.intensity)
    return x[None], torch.from_numpy(np.ascontiguousarray(labels))


def vary_intensity(
    hu: NDArray[np.float32], augmentation: Augmentation, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Vary sharpness, slice thickness, noise, offset and contrast of a patch."""
    if rng.random() < 0.3:
        hu = ndimage.gaussian_filter(hu, rng.uniform(0.2, 0.8))
    if rng.random() < 0.2:
        hu = ndimage.uniform_filter1d(hu, int(rng.integers(2, 4)), axis=2)
    if rng.random() < 0.4:
        noise = rng.standard_normal(hu.shape).astype(np.float32)
        hu = hu + np.float32(rng.uniform(0, augmentation.noise_hu)) * noise
    if rng.random() < 0.5:
        gain = 1 + rng.uniform(-augmentation.gain, augmentation.gain)
        shift = rng.uniform(-augmentation.shift_hu, augmentation.shift_hu)
        hu = (hu * np.float32(gain) + np.float32(shift)).astype(np.float32)
    return np.asarray(hu, dtype=np.float32)


def choose_case(cases: Sequence[Case], shares: dict[str, float], rng: np.random.Generator) -> Case:
    """Choose a kind of case by its share, then a case of that kind."""
    kinds = sorted({case.kind for case in cases})
    weight = np.array([shares.get(kind, 0.0) for kind in kinds])
    kind = kinds[rng.choice(len(kinds), p=weight / weight.sum())]
    of_kind = [case for case in cases if case.kind == kind]
    return of_kind[rng.integers(len(of_kind))]
