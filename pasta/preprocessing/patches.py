"""The network's input around a point: a patch of fixed size on the model's grid, unresized."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import pad

from pasta.geometry import Spacing, Volume, reoriented
from pasta.preprocessing.intensity import AIR_HU, normalized
from pasta.preprocessing.resampling import grid_map, resampled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pasta.spec import ModelSpec


class Patches:
    """Cuts patches of one CT for one model, each resampled by itself.

    Args:
        volume: CT in HU, any orientation and spacing.
        spec: of the model.
    """

    def __init__(self, volume: Volume, spec: ModelSpec) -> None:
        self.spec = spec
        self.plan = grid_map(volume.grid, spec.axcodes, spec.spacing_mm)
        self._hu = reoriented(volume, spec.axcodes).voxels
        self._weights = self.plan.forward_weights(antialias=spec.antialias)
        self._inverse = np.linalg.inv(self.plan.model.affine)

    @property
    def extent_mm(self) -> Spacing:
        """Of a patch, along the model's axes."""
        i, j, k = (n * s for n, s in zip(self.spec.patch_shape, self.spec.spacing_mm, strict=True))
        return i, j, k

    def around(self, centre_mm: Sequence[float]) -> torch.Tensor:
        """Cut the patch whose centre is nearest to a point.

        Voxels have the values of the whole CT resampled; beyond the field of view there is air, so
        that the point stays in the middle.

        Args:
            centre_mm: RAS+ mm.

        Returns:
            float32 of `spec.patch_shape`, normalised.
        """
        centre = self._inverse @ np.array([*centre_mm, 1.0])
        rows, parts = [], []
        margins: list[int] = []
        for axis, (weights, wanted) in enumerate(
            zip(self._weights, self.spec.patch_shape, strict=True)
        ):
            first = round(float(centre[axis]) - (wanted - 1) / 2)
            length = len(weights)
            start, stop = max(0, min(first, length - 1)), min(length, max(first + wanted, 1))
            margins = [start - first, first + wanted - stop, *margins]  # last axis first
            used = weights[start:stop].any(dim=0).nonzero()
            part = slice(int(used[0]), int(used[-1]) + 1)
            rows.append(weights[start:stop, part])
            parts.append(part)
        crop = np.ascontiguousarray(self._hu[tuple(parts)], dtype=np.float32)
        hu = resampled(torch.from_numpy(crop), (rows[0], rows[1], rows[2]))
        return normalized(pad(hu, margins, value=AIR_HU), self.spec.intensity)
