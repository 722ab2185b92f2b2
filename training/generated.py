"""Patches with PASTA-Gen lesions, drawn on the fly on a model's own grid."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from pasta.errors import PastaError
from pasta.labels import LESIONS, ORGANS, label_named
from pasta.preprocessing.intensity import normalized
from training.cases import Case
from training.losses import allowed_classes
from training.sampling import Augmentation, draw_turn, extracted, vary_intensity
from training.synthesis.cases import box_around, drawn
from training.synthesis.planning import opened
from training.synthesis.recipes import draw
from training.synthesis.templates import TemplateStore

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from pasta.spec import ModelSpec
    from training.synthesis.recipe import Recipe

ROOM = 1.25  # the piece drawn is larger than the patch, so that it can be turned and scaled
ATTEMPTS = 12


class GeneratedError(PastaError, ValueError):
    """A template store cannot give patches."""


class GeneratedLesions:
    """Draws lesions into templates and patches around them.

    A patch is a function of the generator alone, and nothing but templates lies on the disk.

    Args:
        store: folder of templates (`python -m training.synthesis templates`).
        spec: of the model: spacing (whole mm), patch, intensity; its axes must be LPS.
        types: share of each lesion type; all 15 alike by default.

    Raises:
        GeneratedError: if no template takes any of the types, or the spacing is no whole mm.
    """

    def __init__(
        self, store: Path, spec: ModelSpec, types: Mapping[str, float] | None = None
    ) -> None:
        spacing = set(spec.spacing_mm)
        if len(spacing) != 1 or not min(spacing).is_integer():
            msg = f"spacing {spec.spacing_mm} mm: expected a whole number, alike along all axes."
            raise GeneratedError(msg)
        self.spec, self.store = spec, store.resolve()
        self.factor = int(min(spacing))
        templates = TemplateStore(self.store)
        self.hosts: dict[str, list[str]] = {}
        for name in types or [lesion.name for lesion in LESIONS]:
            organ = label_named(name).organ
            hosts = [i for i in templates.ids() if opened(self.store, i).usable(organ)[0]]
            if hosts:
                self.hosts[name] = hosts
        if not self.hosts:
            msg = f"{store}: no template takes any of the lesion types. Import or render templates."
            raise GeneratedError(msg)
        share = np.array([(types or {}).get(name, 1.0) for name in self.hosts])
        self._shares = share / share.sum()
        self._allowed = allowed_classes([organ.name for organ in ORGANS])
        self._augmentation = replace(Augmentation(), scale=(0.85, 1.2))

    def recipe(self, rng: np.random.Generator) -> Recipe:
        """Draw one lesion into one template."""
        names = sorted(self.hosts)
        shares = [self._shares[list(self.hosts).index(name)] for name in names]
        problem = ""
        for _ in range(ATTEMPTS):
            name = names[rng.choice(len(names), p=shares)]
            hosts = self.hosts[name]
            try:
                return draw(name, opened(self.store, hosts[rng.integers(len(hosts))]), rng)
            except PastaError as error:
                problem = str(error)
        msg = f"{self.store}: no lesion could be drawn in {ATTEMPTS} attempts ({problem})"
        raise GeneratedError(msg)

    def piece(
        self, rng: np.random.Generator
    ) -> tuple[NDArray[np.int16], NDArray[np.uint8], Recipe]:
        """Draw a piece on the model's grid with a lesion near its middle: HU, labels, recipe."""
        for _ in range(ATTEMPTS):
            recipe = self.recipe(rng)
            template = opened(self.store, recipe.template)
            size = [round(n * ROOM) * self.factor for n in self.spec.patch_shape]
            shift = rng.normal(0, 0.08, 3) * size
            box = box_around(template.shape, (np.array(recipe.centre) + shift).tolist(), size)
            try:
                made = drawn(template, [recipe], box)
            except PastaError:
                continue
            hu = torch.from_numpy(made.hu.astype(np.float32))[None, None]
            small = functional.avg_pool3d(hu, self.factor)[0, 0].numpy()
            middle = self.factor // 2
            labels = made.labels[
                middle :: self.factor, middle :: self.factor, middle :: self.factor
            ]
            labels = labels[tuple(slice(0, n) for n in small.shape)]
            return np.rint(small).astype(np.int16), np.ascontiguousarray(labels), recipe
        msg = f"{self.store}: no lesion could be rendered in {ATTEMPTS} attempts."
        raise GeneratedError(msg)

    def patch(self, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Draw one patch.

        Returns:
            (1, I, J, K) network input, (I, J, K) uint8 target, (27, 26) allowed classes.
        """
        hu, labels, recipe = self.piece(rng)
        host = Case(recipe.template, "generated", hu, labels, (), (), self._allowed, {})
        turn, zoom = draw_turn(self._augmentation, rng)
        centre = (np.array(hu.shape) - 1) / 2 + rng.normal(0, 3, 3)
        moved, target = extracted(host, centre, turn / zoom, self.spec.patch_shape)
        moved = vary_intensity(moved, self._augmentation, rng)
        x = normalized(torch.from_numpy(np.ascontiguousarray(moved)), self.spec.intensity)
        return x[None], torch.from_numpy(target), torch.from_numpy(self._allowed)
