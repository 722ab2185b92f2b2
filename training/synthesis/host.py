"""The part of a template that a lesion is drawn into, and what is known of the tissue there."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from pasta.geometry import Volume
from pasta.labels import LESIONS, label_named
from pasta.neighbourhood import Scan
from training.synthesis.templates import TISSUES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from training.synthesis.recipe import Box, Canvas
    from training.synthesis.templates import Template

FAT_HU = -30.0
DEFAULT_MUSCLE_HU = 55.0
_FREE = [TISSUES[name] for name in ("none", "fat", "soft")]
_SOFT = [TISSUES[name] for name in ("none", "fat", "soft", "muscle", "vein", "portal_vein")]
# organs that an invasive tumour may grow into; bone, lung and bladder keep their voxels
_INVADED = ["liver", "gallbladder", "pancreas", "stomach", "colorectum", "kidney"]


def _table(values: list[int]) -> NDArray[np.bool_]:
    table = np.zeros(256, bool)
    table[values] = True
    return table


_IS_FREE, _IS_SOFT = _table(_FREE), _table(_SOFT)
_IS_INVADED = _table([label_named(name).value for name in _INVADED])
_LESION_ORGAN = np.arange(256, dtype=np.uint8)
for _lesion in LESIONS:
    _LESION_ORGAN[_lesion.value] = label_named(_lesion.organ).value
FIRST_LESION = LESIONS[0].value


def box_around(
    centre: tuple[int, int, int], half: tuple[int, int, int] | list[int], shape: tuple[int, ...]
) -> Box:
    """Bounds around a voxel, cut to the volume."""
    i, j, k = (
        slice(max(0, min(c, n - 1) - h), max(0, min(n, c + h + 1)))
        for c, h, n in zip(centre, half, shape, strict=True)
    )
    return i, j, k


@dataclass(eq=False)
class Host:
    """Arrays of one box of a template, free to be written to.

    Attributes:
        box: in the template.
        organ: label value of the lesion's organ.
        hu: (I, J, K) float32.
        labels: (I, J, K) uint8, lesions drawn before included.
        tissues: (I, J, K) uint8, `templates.TISSUES`.
        depth: (I, J, K) int8, signed distance to the organ, negative inside.
        blocked: (I, J, K) bool, nothing may be drawn here.
    """

    box: Box
    organ: int
    hu: NDArray[np.float32]
    labels: NDArray[np.uint8]
    tissues: NDArray[np.uint8]
    depth: NDArray[np.int8]
    blocked: NDArray[np.bool_]

    @classmethod
    def read(cls, template: Template, organ: str, box: Box, canvas: Canvas | None = None) -> Host:
        """Copy a box of a template, or of what was already drawn into it."""
        source = template if canvas is None else canvas
        labels = np.array(source.labels[box])
        blocked = template.blocked[box] | (labels >= FIRST_LESION)
        return cls(
            box,
            label_named(organ).value,
            source.hu[box].astype(np.float32),
            labels,
            np.array(template.tissues[box]),
            np.array(template.distances(organ)[box]),
            blocked,
        )

    def inner(self, box: Box) -> Host:
        """View of a smaller box, given in voxels of this one."""
        i, j, k = (
            slice(outer.start + part.start, outer.start + part.stop)
            for part, outer in zip(box, self.box, strict=True)
        )
        arrays = (self.hu, self.labels, self.tissues, self.depth, self.blocked)
        hu, labels, tissues, depth, blocked = (array[box] for array in arrays)
        return Host((i, j, k), self.organ, hu, labels, tissues, depth, blocked)  # type: ignore[arg-type]

    def neighbours(self) -> NDArray[np.bool_]:
        """Voxels of other organs, and of tissues that have a name of their own."""
        own = self.labels == self.organ
        named = ~_IS_FREE[self.tissues] & (self.labels == 0)
        return np.asarray(named | ((self.labels != 0) & ~own))

    def solid_outside(self) -> NDArray[np.bool_]:
        """Voxels outside the organ that the meter would call a neighbour: labelled, or no fat."""
        own = self.labels == self.organ
        named: NDArray[np.bool_] = ~own & (self.labels != 0)
        film = (self.labels == 0) & (self.hu > FAT_HU)
        # the partly filled border of the organ itself is no neighbour: the meter opens it away
        return np.asarray(named | ndimage.binary_opening(film, iterations=2))

    def forbidden(
        self, outside_mm: float, *, replaces: bool, air: bool = False
    ) -> NDArray[np.bool_]:
        """Voxels that a lesion may not take.

        Args:
            outside_mm: how far outside the organ it may lie; there it takes fat and unnamed tissue.
            replaces: it may also take muscle, veins and soft organs.
            air: air inside the organ may be taken.
        """
        own = self.labels == self.organ
        if outside_mm <= 0:
            return np.asarray(~own | self.blocked)
        free = (self.labels == 0) & _IS_FREE[self.tissues]
        if replaces:
            free |= (self.labels == 0) & _IS_SOFT[self.tissues]
            free |= _IS_INVADED[self.labels]
        free &= self.depth <= outside_mm
        free &= self.hu > -250  # air and gas are never filled
        inside = own if air else own & (self.hu > -500)
        return np.asarray(~(inside | free) | self.blocked)


@dataclass(frozen=True, slots=True)
class Noise:
    """Noise of the tissue of one organ: standard deviation, sigma of its correlation in mm."""

    hu: float
    mm: float


class Surroundings:
    """What a template says of its tissues, computed once: muscle, noise, voxels to start from.

    Args:
        template: read only.
    """

    def __init__(self, template: Template) -> None:
        self._template = weakref.ref(template)
        self.scan = Scan(
            Volume(template.hu, template.affine), Volume(template.labels, template.affine)
        )
        self._noise: dict[str, Noise] = {}
        self._voxels: dict[str, NDArray[np.int32]] = {}

    @property
    def template(self) -> Template:
        """The template, which must be alive."""
        template = self._template()
        if template is None:
            msg = "the template is gone"
            raise ReferenceError(msg)
        return template

    def muscle_hu(self, box: Box) -> float:
        """HU of back muscle at the height of a box, as the meter will read it."""
        muscle = self.scan.muscle(box)
        if muscle is not None:
            return muscle.hu
        named = self.template.tissues == TISSUES["muscle"]
        return float(np.median(self.template.hu[named])) if named.any() else DEFAULT_MUSCLE_HU

    def noise(self, organ: str) -> Noise:
        """Noise of an organ, edges and vessels rejected by the median absolute deviation."""
        if organ not in self._noise:
            self._noise[organ] = self._measured_noise(organ)
        return self._noise[organ]

    def muscle_texture_hu(self, box: Box) -> float:
        """Spread of back muscle at the height of a box, which the meter takes off a lesion's."""
        muscle = self.scan.muscle(box)
        return muscle.noise_hu or 0.0 if muscle is not None else 0.0

    def _measured_noise(self, organ: str) -> Noise:
        voxels = self.voxels(organ)
        depth = self.template.distances(organ)
        deep = voxels[np.argsort(depth[tuple(voxels.T)], kind="stable")]
        spreads, lags = [], []
        for place in deep[:: max(1, len(deep) // 12)][:5]:
            box = box_around(tuple(place), [9, 9, 9], self.template.shape)
            hu = self.template.hu[box].astype(np.float32)
            inside = depth[box] <= -2
            if inside.sum() < 200:
                inside = depth[box] <= 0
            residue = hu - ndimage.gaussian_filter(hu, 2.0)
            values = residue[inside]
            spread = 1.4826 * float(np.median(np.abs(values - np.median(values))))
            if spread < 1e-3:
                continue
            clipped = np.clip(residue, -3 * spread, 3 * spread)
            both = inside[1:] & inside[:-1]
            a, b = clipped[1:][both], clipped[:-1][both]
            product = float((a * b).mean() / max(1e-6, float((a * a).mean())))
            spreads.append(1.08 * spread)
            lags.append(product)
        if not spreads:
            return Noise(0.0, 0.8)
        lag = float(np.clip(np.median(lags), 0.02, 0.94))
        # a field correlated by a Gaussian of sigma s has exp(-1 / 4 s^2) one voxel away
        return Noise(
            float(np.clip(np.median(spreads), 0, 60)), float(np.sqrt(-1 / (4 * np.log(lag))))
        )

    def voxels(self, organ: str) -> NDArray[np.int32]:
        """Up to 6000 voxels of an organ, the same ones every time.

        Raises:
            TemplateError: if the organ is not in the template.
        """
        if organ not in self._voxels:
            box = self.template.organ_box(organ)
            inside = self.template.labels[box] == label_named(organ).value
            flat = np.flatnonzero(inside)
            picked = np.random.default_rng(0).permutation(len(flat))[:6000]
            places = np.stack(np.unravel_index(flat[np.sort(picked)], inside.shape), axis=1)
            self._voxels[organ] = (places + [part.start for part in box]).astype(np.int32)
        return self._voxels[organ]


_KNOWN: weakref.WeakKeyDictionary[Template, Surroundings] = weakref.WeakKeyDictionary()


def surroundings(template: Template) -> Surroundings:
    """Facts of a template, kept as long as the template lives."""
    found = _KNOWN.get(template)
    if found is None:
        found = _KNOWN[template] = Surroundings(template)
    return found
