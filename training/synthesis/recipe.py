"""What replays one lesion: the recipe, its parameters, and what comes out of applying it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pasta.errors import LabelError, PastaError, ReportError
from pasta.labels import label_named
from pasta.report.attributes import PREDICTED, option_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from training.synthesis.templates import Template

VERSION = 1
MAX_BYTES = 4096  # of a recipe's JSON; usual ones have 600-900
FAMILIES = ("solid", "wall", "stone")
Triple = tuple[float, float, float]
Box = tuple[slice, slice, slice]

# name: (default, meaning); what stands at its default is not written
PARAMETERS: Mapping[str, tuple[float, str]] = {
    "hu": (0.0, "mean HU of the lesion"),
    "texture_hu": (0.0, "standard deviation of its texture"),
    "margin_mm": (0.6, "width w of the edge 1 / (1 + exp(d / w)); 10 to 90 % takes 4.4 w"),
    "rough": (0.0, "amplitude of the surface noise, in radii"),
    "lobes": (0.0, "number of ellipsoids joined; 0 and 1 are one"),
    "kappa": (0.0, "share of its volume by which it pushes tissue aside"),
    "outside_mm": (0.0, "how far outside its organ it may lie"),
    "replaces": (0.0, "1 if it may take voxels of neighbouring organs, which benign ones never do"),
    "gap": (0.0, "1 if a film of fat is kept between it and its neighbours"),
    "spicules": (0.0, "height of spicules, in radii"),
    "necrosis": (0.0, "share of the radius that is necrotic"),
    "necrosis_hu": (18.0, "HU of the necrosis"),
    "rim_hu": (0.0, "HU added in a rim 1.5 mm wide"),
    "calcium_hu": (0.0, "HU added in specks of calcium"),
    "septa_hu": (0.0, "HU added in septa"),
    "halo_mm": (0.0, "width of a ground-glass halo"),
    "halo_hu": (-500.0, "HU of the halo"),
    "cavity": (0.0, "share of the radius that is air"),
    "noise_hu": (8.0, "standard deviation of the noise"),
    "noise_mm": (0.8, "sigma of the Gaussian that correlates the noise"),
    "thickness_mm": (0.0, "of a wall"),
    "extent_mm": (0.0, "geodesic radius of a patch, half the length of a ring"),
    "shoulder": (0.25, "share of the extent over which a wall rises"),
    "annular": (0.0, "1 for a ring around a tube"),
    "eccentric": (0.0, "how much thinner a ring is on its far side, 0-1"),
    "ulcer": (0.0, "depth of an ulcer in the middle, 0-1"),
    "outward_mm": (0.0, "how far a wall grows outwards"),
    "mucosa_hu": (0.0, "HU added along the lumen"),
    "strands_hu": (0.0, "HU added in strands outside"),
    "reach_mm": (0.0, "radius of the part of the organ that a wall may touch"),
    "axis_i": (0.0, "direction of the tube"),
    "axis_j": (0.0, "direction of the tube"),
    "axis_k": (1.0, "direction of the tube"),
    "power": (2.6, "of the superellipsoid of a stone"),
    "facets": (0.0, "planes that cut a stone"),
    "lamination": (0.0, "relative swing of the layers of a stone"),
    "core_hu": (0.0, "HU added in the middle of a stone, for rimmed ones negative"),
    "branches": (0.0, "arms of a staghorn"),
}


class RecipeError(PastaError, ValueError):
    """A recipe is damaged, does not fit its template, or cannot be drawn."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that is needed to draw one lesion into its template again.

    Attributes:
        label: lesion type, such as "liver_tumor".
        template: id of the template.
        seed: of shape and texture.
        family: "solid", "wall" or "stone".
        centre: voxel (i, j, k) of the template.
        axes_mm: semi-axes of the ellipsoid of the same volume.
        rotation: unit quaternion (w, x, y, z); rows of its matrix are the axes.
        numbers: by the names of `PARAMETERS`; what is left out has its default.
        wish: the five attributes that it was drawn for.
    """

    label: str
    template: str
    seed: int
    family: str
    centre: tuple[int, int, int]
    axes_mm: Triple
    rotation: tuple[float, float, float, float]
    numbers: Mapping[str, float] = field(default_factory=dict)
    wish: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> float:
        """Value of a parameter."""
        return self.numbers.get(name, PARAMETERS[name][0])

    @property
    def organ(self) -> str:
        """Name of the organ."""
        return label_named(self.label).organ

    @property
    def radius_mm(self) -> float:
        """Of the ball of the same volume."""
        a, b, c = self.axes_mm
        return float((a * b * c) ** (1 / 3))

    def to_json(self) -> str:
        """Write as one line of JSON."""
        document = {
            "version": VERSION,
            "label": self.label,
            "template": self.template,
            "seed": self.seed,
            "family": self.family,
            "centre": list(self.centre),
            "axes_mm": list(self.axes_mm),
            "rotation": list(self.rotation),
            "numbers": {k: v for k, v in self.numbers.items() if v != PARAMETERS[k][0]},
            "wish": {name: self.wish[name] for name in PREDICTED if name in self.wish},
        }
        return json.dumps(document, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes, where: str = "recipe") -> Recipe:
        """Read a recipe and check every field.

        Args:
            text: what `to_json` wrote.
            where: named in messages, such as "recipes.jsonl line 12".

        Raises:
            RecipeError: if it is not a recipe of this version.
        """
        if len(text) > MAX_BYTES:
            msg = f"{where}: {len(text)} bytes, a recipe has at most {MAX_BYTES}. Draw it again."
            raise RecipeError(msg)
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            msg = f"{where}: not JSON, probably cut off. Draw it again."
            raise RecipeError(msg) from error
        if not isinstance(document, dict) or document.get("version") != VERSION:
            msg = f"{where}: not a recipe of version {VERSION}. Draw it again."
            raise RecipeError(msg)
        try:
            return _checked(document)
        except (KeyError, TypeError, ValueError) as error:
            what = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
            msg = f"{where}: {what.rstrip('.')}. Draw it again."
            raise RecipeError(msg) from error


def _numbers(value: Any, count: int, name: str) -> tuple[float, ...]:
    if not isinstance(value, list) or len(value) != count:
        msg = f"{name} must be {count} numbers"
        raise ValueError(msg)
    return tuple(_number(part, name) for part in value)


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        msg = f"{name} is {value!r}, expected a number"
        raise ValueError(msg)
    return float(value)


def _checked(document: Mapping[str, Any]) -> Recipe:
    known = {"version", "label", "template", "seed", "family", "centre", "axes_mm", "rotation",
             "numbers", "wish"}  # fmt: skip
    unknown = set(document) - known
    if unknown:
        msg = f"unknown field {min(unknown)!r}"
        raise ValueError(msg)
    try:
        label = label_named(str(document["label"]))
        wish = {
            str(name): option_of(str(name), str(option))
            for name, option in dict(document["wish"]).items()
        }
    except (LabelError, ReportError) as error:
        raise ValueError(str(error)) from error
    if label.kind != "lesion":
        msg = f"label {label.name!r} is not a lesion"
        raise ValueError(msg)
    if document["family"] not in FAMILIES:
        msg = f"family is {document['family']!r}, expected one of {', '.join(FAMILIES)}"
        raise ValueError(msg)
    seed = document["seed"]
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        msg = f"seed is {seed!r}, expected a whole number"
        raise ValueError(msg)
    centre = _numbers(document["centre"], 3, "centre")
    axes = _numbers(document["axes_mm"], 3, "axes_mm")
    if min(axes) <= 0 or max(axes) > 200 or any(c != int(c) for c in centre):
        msg = "centre must be whole voxels and axes_mm between 0 and 200 mm"
        raise ValueError(msg)
    numbers = {}
    for name, value in dict(document["numbers"]).items():
        if name not in PARAMETERS:
            msg = f"unknown parameter {name!r}"
            raise ValueError(msg)
        numbers[name] = _number(value, name)
    if not 0 < numbers.get("margin_mm", 0.6) < 20:
        msg = f"margin_mm is {numbers['margin_mm']}, expected 0 to 20"
        raise ValueError(msg)
    w, x, y, z = _numbers(document["rotation"], 4, "rotation")
    if w * w + x * x + y * y + z * z < 1e-6:
        msg = "rotation is zero"
        raise ValueError(msg)
    return Recipe(
        label.name,
        str(document["template"]),
        seed,
        document["family"],
        (int(centre[0]), int(centre[1]), int(centre[2])),
        (axes[0], axes[1], axes[2]),
        (w, x, y, z),
        numbers,
        wish,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """A lesion as drawn, in its box of the template.

    Attributes:
        box: voxels of the template.
        hu: (I, J, K) int16, the volume with the lesion.
        mask: (I, J, K) bool, the lesion: alpha of one half or more.
        labels: (I, J, K) uint8, labelmap with organs displaced and the lesion's label value.
        alpha: (I, J, K) float32, share of the lesion in each voxel.
        displaced: (I, J, K) bool, voxels that the lesion pushed aside.
    """

    box: Box
    hu: NDArray[np.int16]
    mask: NDArray[np.bool_]
    labels: NDArray[np.uint8]
    alpha: NDArray[np.float32]
    displaced: NDArray[np.bool_]


@dataclass(eq=False)
class Canvas:
    """A volume and labelmap that lesions are drawn into one after the other.

    Attributes:
        hu: (I, J, K) int16.
        labels: (I, J, K) uint8, organs and the lesions drawn so far.
    """

    hu: NDArray[np.int16]
    labels: NDArray[np.uint8]

    @classmethod
    def of(cls, template: Template) -> Canvas:
        """Copy a template."""
        return cls(np.array(template.hu), np.array(template.labels))

    def put(self, result: Result) -> None:
        """Add a lesion; it must have been drawn on this canvas."""
        self.hu[result.box] = result.hu
        self.labels[result.box] = result.labels


def matrix(rotation: tuple[float, float, float, float]) -> NDArray[np.float32]:
    """Rotation matrix of a quaternion, which need not have unit length."""
    w, x, y, z = (part / math.sqrt(sum(p * p for p in rotation)) for part in rotation)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ],
        dtype=np.float32,
    )


def rounded(numbers: Mapping[str, float]) -> dict[str, float]:
    """Round parameters to what is written, and leave out those at their default."""
    short = {name: float(f"{value:.5g}") for name, value in numbers.items()}
    return {name: value for name, value in short.items() if value != PARAMETERS[name][0]}
