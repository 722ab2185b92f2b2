"""Drawing recipes: intentions from the priors or a wish, then the numbers that carry them out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from pasta.errors import LabelError
from pasta.labels import label_named
from pasta.report.attributes import (
    CLOSE,
    HETEROGENEOUS,
    HYPERDENSE,
    HYPODENSE,
    ILL_DEFINED,
    IRREGULAR,
    PREDICTED,
    ROUND,
    WALL,
    option_of,
)
from training.synthesis.host import box_around, surroundings
from training.synthesis.placement import (
    best_place,
    candidates,
    judged,
    outside_contact,
    ring_hu,
    ring_spread,
)
from training.synthesis.priors import (
    CONTACT_QUANTILES,
    CYSTS,
    PRIORS,
    QUANTILES,
    STONES,
    Prior,
    between,
    draw_hu,
    reference_kind,
)
from training.synthesis.recipe import Canvas, Recipe, RecipeError, Triple, rounded
from training.synthesis.templates import HOLLOW

if TYPE_CHECKING:
    from training.synthesis.templates import Template

ROUND_FROM = 0.84  # sphericity, as the meter has it for hand-drawn masks
DOUBT = 0.03  # around it, no sphericity is aimed at
MAX_SHARE = 0.35  # of its organ that one solid lesion may take
SOLID_ORGANS = ("liver", "kidney", "pancreas")  # where the noise of a scan is read
_ATTEMPTS = 5
CONTACT_SHIFT = {"kidney_tumor": 0.05, "kidney_cyst": -0.08}
AXIS_SHARE = 0.72  # of the scatter of axes; surface noise and the border of the organ add the rest
MAX_TUBE_MM = 18.0  # radius up to which a tumour can ring a tube
Wish = Mapping[str, str | float]


def checked_wish(wish: Wish | None) -> tuple[dict[str, str], float | None]:
    """Split a wish into options of the five attributes and a diameter in mm.

    Raises:
        RecipeError: if it names something else.
    """
    options: dict[str, str] = {}
    diameter: float | None = None
    for name, value in (wish or {}).items():
        if name == "diameter_mm":
            if isinstance(value, str) or not (math.isfinite(value) and value > 0):
                msg = f"wish: diameter_mm is {value!r}, expected a number above 0."
                raise RecipeError(msg)
            diameter = float(value)
        elif name in PREDICTED:
            try:
                options[name] = option_of(name, str(value))
            except ValueError as error:
                raise RecipeError(f"wish: {error}") from error  # noqa: EM102
        else:
            msg = f"wish: {name!r} cannot be wished for; use diameter_mm, {', '.join(PREDICTED)}."
            raise RecipeError(msg)
    return options, diameter


def impossible(label: str, wish: Wish | None) -> dict[str, str]:
    """Which parts of a wish no lesion of the type has, and why."""
    options, _ = checked_wish(wish)
    return {
        name: f"no {label} is drawn as {value!r}"
        for name, value in options.items()
        if PRIORS[label].shares(name).get(value, 0) <= 0
    }


def draw(
    label: str,
    template: Template,
    rng: np.random.Generator,
    wish: Wish | None = None,
    canvas: Canvas | None = None,
) -> Recipe:
    """Draw a recipe of one lesion type for a template.

    Args:
        label: lesion type, such as "liver_tumor".
        template: to draw into; its `usable` organ.
        rng: source of randomness.
        wish: options of some of the five attributes and `diameter_mm`; the rest follows the priors.
            An option that the type never has is passed over (see `impossible`).
        canvas: what was drawn before; its lesions are kept free.

    Raises:
        RecipeError: if the label is no lesion, the organ is missing or not usable, or no place in
            it is large enough.
    """
    try:
        known = label_named(label)
    except LabelError as error:
        raise RecipeError(str(error)) from error
    if label not in PRIORS:
        msg = f"{label} is an organ, not a lesion type; choose one of {', '.join(PRIORS)}."
        raise RecipeError(msg)
    fits, why = template.usable(known.organ)
    if not fits:
        msg = f"template {template.id}: no {label} can be drawn, {why}. Choose another template."
        raise RecipeError(msg)
    options, diameter = checked_wish(wish)
    problem: RecipeError | None = None
    # one size for all attempts but the last: else those that are hard to place would get rare
    size = float(rng.standard_normal())
    for attempt in range(_ATTEMPTS):
        if attempt == _ATTEMPTS - 1:
            size = float(rng.standard_normal())
        try:
            return _drawn(label, template, rng, options, diameter, size, canvas)
        except RecipeError as error:
            problem = error
    msg = f"template {template.id}: no {label} can be drawn, {problem}. Choose another template."
    raise RecipeError(msg) from problem


def _drawn(
    label: str,
    template: Template,
    rng: np.random.Generator,
    options: Mapping[str, str],
    diameter: float | None,
    size_score: float,
    canvas: Canvas | None,
) -> Recipe:
    prior = PRIORS[label]
    organ = label_named(label).organ
    intent = _intentions(prior, options, rng, contrast=template.contrast, label=label)
    share = 0.9 if label == "kidney_tumor" else MAX_SHARE  # most of a large one lies outside
    largest = (6 * share * template.organs[organ].volume_mm3 / math.pi) ** (1 / 3)
    size = diameter or _diameter(prior, size_score, largest, rng)
    if size > largest:
        msg = f"the {organ} is too small for {size:.0f} mm (at most {largest:.0f} mm fit)"
        raise RecipeError(msg)
    axes = _axes(size, 0.1 if organ in HOLLOW else AXIS_SHARE * prior.axis_sd, rng)
    if intent["shape"] == ROUND:  # a long ellipsoid is not round, however smooth
        while ellipsoid_sphericity(axes) < ROUND_FROM + DOUBT + 0.05:
            axes = _axes(size, 0.7 * prior.axis_sd, rng)
    quarter = rng.standard_normal(4)
    w, x, y, z = (round(float(q / np.linalg.norm(quarter)), 4) for q in quarter)
    rotation = (w, x, y, z)
    if intent["shape"] == WALL:
        return _wall(label, template, rng, intent, rotation, canvas)
    if label in STONES:
        return _stone(label, template, rng, intent, axes, rotation, canvas)
    return _solid(label, template, rng, intent, axes, rotation, canvas)


def _intentions(
    prior: Prior,
    options: Mapping[str, str],
    rng: np.random.Generator,
    *,
    contrast: bool,
    label: str,
) -> dict[str, str]:
    intent = {}
    for name in PREDICTED:
        shares = prior.shares(name)
        if name == "density" and label == "kidney_tumor" and not contrast:
            shares = dict(zip(shares, (0.15, 0.45, 0.4), strict=True))  # before contrast agent
        wanted = options.get(name, "")
        if shares.get(wanted, 0) <= 0:
            names, chances = list(shares), np.array(list(shares.values()))
            wanted = names[int(rng.choice(len(names), p=chances / chances.sum()))]
        intent[name] = wanted
    if "shape" not in options and intent["shape"] in (ROUND, IRREGULAR) and label not in STONES:
        psi = between(QUANTILES, prior.sphericity, float(rng.random()), 0.5, 0.98)
        if label in CYSTS or prior.shape[1] > 0:
            intent["shape"] = ROUND if psi >= ROUND_FROM or prior.shape[1] == 0 else IRREGULAR
        intent["psi"] = f"{psi:.4f}"
    return intent


def _diameter(prior: Prior, score: float, largest: float, rng: np.random.Generator) -> float:
    """Size at a standard score of ln D; another one where it is out of range or the organ small."""
    low, high = prior.limits_mm
    mean, spread = prior.diameter
    for _ in range(20):
        size = float(np.exp(mean + spread * score))
        if low <= size <= min(high, largest):
            return size
        score = float(rng.standard_normal())
    return float(np.clip(size, low, max(low, min(high, largest))))


def _axes(diameter: float, spread: float, rng: np.random.Generator) -> Triple:
    """Semi-axes whose logarithms scatter about that of the radius, which stays."""
    scatter = rng.normal(0, spread, 3)
    a, b, c = (round(float(v), 3) for v in diameter / 2 * np.exp(scatter - scatter.mean()))
    return a, b, c


def ellipsoid_sphericity(axes: Triple) -> float:
    """Sphericity of an ellipsoid (Thomsen's formula, 1 %)."""
    a, b, c = axes
    p = 1.6075
    area: float = 4 * math.pi * (((a * b) ** p + (a * c) ** p + (b * c) ** p) / 3) ** (1 / p)
    return float(math.pi ** (1 / 3) * (8 * math.pi * a * b * c) ** (2 / 3) / area)


# measured on ellipsoids of 16 to 28 mm: share of sphericity that surface noise takes
ROUGH_LOSS = (0.0, 0.008, 0.027, 0.05, 0.08, 0.135, 0.2, 0.29, 0.38)
ROUGH_AMPLITUDE = (0.02, 0.06, 0.10, 0.14, 0.18, 0.24, 0.32, 0.42, 0.55)
LOBES_LOSS = 0.09  # what joining ellipsoids takes before any noise
ROUND_LOSS = 0.05  # more than that leaves dents: solidity below the meter's 0.88


def roughness(sphericity: float, axes: Triple, *, lobes: bool = False) -> float:
    """Amplitude of the surface noise that brings an ellipsoid down to a sphericity."""
    loss = 1 - sphericity / ellipsoid_sphericity(axes) - (LOBES_LOSS if lobes else 0)
    radius = float(np.prod(axes)) ** (1 / 3)
    # voxels smooth small bodies, and the widest noise of the bank is fine for large ones
    scale = float(np.interp(radius, (4, 5, 8, 14, 24, 40), (2.4, 1.9, 1.15, 1.0, 1.12, 1.15)))
    return float(scale * np.interp(loss, ROUGH_LOSS, ROUGH_AMPLITUDE))


def _sphericity(
    intent: Mapping[str, str], prior: Prior, axes: Triple, rng: np.random.Generator
) -> float:
    """Sphericity to aim at, never in doubt between round-like and irregular."""
    psi = float(intent.get("psi", 0)) or between(
        QUANTILES, prior.sphericity, float(rng.random()), 0.5, 0.98
    )
    if intent["shape"] == ROUND:
        if psi < ROUND_FROM:
            psi = float(rng.uniform(ROUND_FROM + DOUBT, max(prior.sphericity[-1], 0.92)))
        return max(psi, ROUND_FROM + DOUBT, (1 - ROUND_LOSS) * ellipsoid_sphericity(axes))
    if psi > ROUND_FROM:
        psi = float(rng.uniform(min(prior.sphericity[0], 0.7), ROUND_FROM - DOUBT))
    return min(psi, ROUND_FROM - DOUBT)


def _noise(template: Template, organ: str) -> dict[str, float]:
    known = surroundings(template)
    # fat between the lobes of a pancreas, or medulla beside cortex, is not noise: liver if there
    where = [o for o in SOLID_ORGANS if o in template.organs]
    noise = known.noise(where[0] if where else organ)
    strength = noise.hu if where else min(noise.hu, 15.0)
    return {"noise_hu": strength, "noise_mm": noise.mm}


def _reference(
    label: str, template: Template, centre: tuple[int, int, int], axes: Triple,
    rotation: tuple[float, float, float, float], canvas: Canvas | None,
) -> float:  # fmt: skip
    known = surroundings(template)
    if reference_kind(label) == "muscle":
        return known.muscle_hu(box_around(centre, [10, 10, 10], template.shape))
    organ = label_named(label).organ
    found = ring_hu(template, organ, centre, axes, rotation, canvas)
    if found is not None:
        return found
    voxels = known.voxels(organ)
    return float(np.median(template.hu[tuple(voxels.T)]))


def _margin(
    label: str, intent: Mapping[str, str], radius: float, rng: np.random.Generator
) -> float:
    if intent["surface"] == ILL_DEFINED:
        widest = 3.0 if label in ("liver_tumor", "pancreatic_tumor", "gallbladder_cancer") else 2.6
        least = 2.3 if label_named(label).organ in (*HOLLOW, "pancreas") else 1.9
        return min(float(rng.uniform(least, max(widest, least + 0.5))), max(0.8, 0.3 * radius))
    return float(rng.uniform(0.5, 0.7) if label in CYSTS else rng.uniform(0.5, 0.8))


def _texture(
    label: str, intent: Mapping[str, str], hu: float, plain_hu: float, rng: np.random.Generator
) -> float:
    """Standard deviation of the texture; `plain_hu` is that of the tissue it is judged against."""
    if intent["heterogeneity"] != HETEROGENEOUS:
        return 0.0 if label in (*CYSTS, *STONES) else float(rng.uniform(0, 2))
    if hu > 300:
        return float(rng.uniform(50, 110))
    return math.hypot(
        float(rng.uniform(8, 14)), min(1.15 * plain_hu, 40.0)
    )  # beyond that of plain tissue


def _plain(
    label: str, template: Template, centre: tuple[int, int, int], axes: Triple,
    rotation: tuple[float, float, float, float],
) -> float:  # fmt: skip
    """Spread of the HU of plain tissue, at the scale of texture."""
    known, organ = surroundings(template), label_named(label).organ
    if organ in HOLLOW or organ in ("lung", "bone"):
        return known.muscle_texture_hu(box_around(centre, [10, 10, 10], template.shape))
    return ring_spread(template, organ, centre, axes, rotation)


def _solid(
    label: str,
    template: Template,
    rng: np.random.Generator,
    intent: dict[str, str],
    axes: Triple,
    rotation: tuple[float, float, float, float],
    canvas: Canvas | None,
) -> Recipe:
    prior = PRIORS[label]
    organ = label_named(label).organ
    radius = float(np.prod(axes)) ** (1 / 3)
    close = intent["invasion"] == CLOSE
    contact = between(CONTACT_QUANTILES, prior.contact, float(rng.random()), 0.1, 1.0)
    # on curved, displaced organs the measured share differs from that at a plane
    contact = float(np.clip(contact + CONTACT_SHIFT.get(label, 0.0), 0.1, 1.0))
    contact = min(contact, 0.85) if close else contact
    if intent["shape"] == ROUND and organ in ("liver", "lung", "bone"):
        contact = max(contact, 0.93)  # cut by the capsule it would not be round
    centre = _site(label, template, rng, axes, rotation, canvas, contact, close=close)
    reference = _reference(label, template, centre, axes, rotation, canvas)
    hu = draw_hu(label, intent["density"], reference, contrast=template.contrast, rng=rng)
    psi = _sphericity(intent, prior, axes, rng)
    if organ in HOLLOW:  # thin arms along a wall would be a thickening
        psi = max(psi, 0.78)
    numbers: dict[str, float] = {
        "hu": hu,
        "texture_hu": _texture(
            label, intent, hu, _plain(label, template, centre, axes, rotation), rng
        ),
        "margin_mm": _margin(label, intent, radius, rng),
        "rough": roughness(psi, axes),
        "kappa": float(rng.uniform(*prior.kappa)),
        "outside_mm": _outside(label, radius, rng, close=close),
        "replaces": float(close and label_named(label).malignant),
        "gap": float(not close),
        **_noise(template, organ),
    }
    if intent["shape"] == ROUND:
        numbers["rough"] = min(numbers["rough"], 0.13)
    elif organ in HOLLOW:
        numbers["rough"] = min(numbers["rough"], 0.24)
    elif radius > 6 and rng.random() < 0.5:
        numbers["lobes"] = float(rng.integers(2, 6))
        numbers["rough"] = roughness(psi, axes, lobes=True)
        numbers["kappa"] = min(numbers["kappa"], 0.1)  # pushed in ellipsoids, which it is not
    numbers |= _specials(label, intent, hu, radius, rng)
    return Recipe(
        label, template.id, int(rng.integers(2**31)), "solid", centre, axes, rotation,
        rounded(numbers), {name: intent[name] for name in PREDICTED},
    )  # fmt: skip


def _site(
    label: str,
    template: Template,
    rng: np.random.Generator,
    axes: Triple,
    rotation: tuple[float, float, float, float],
    canvas: Canvas | None,
    contact: float,
    *,
    close: bool,
) -> tuple[int, int, int]:
    organ = label_named(label).organ
    radius = float(np.prod(axes)) ** (1 / 3)
    if organ in HOLLOW:  # sessile: part of the mass lies in the lumen, its base in the wall
        wanted, filled = (-1.1 * radius - 1, -0.6 * radius), 0.75
    elif contact >= 0.97:
        wanted, filled = (-127.0, -0.8 * radius), 0.8
    else:
        # of a ball at a plane the share (1 - t / R) / 2 lies on one side, t from the plane
        level = radius * (1 - 2 * contact)
        wanted, filled = (level - 1.5, level + 1.5), 0.0 if organ == "kidney" else 0.35
    found = candidates(template, organ, rng, depth=wanted)
    if len(found) < 8:
        deepest = float(
            template.distances(organ)[tuple(surroundings(template).voxels(organ).T)].min()
        )
        found = candidates(template, organ, rng, depth=(-127, max(0.6 * deepest, -0.5 * radius)))
        filled = min(filled, 0.5)
    places = judged(template, organ, found, axes, rotation, canvas)
    return best_place(places, contact=contact, close=close, rng=rng, least_filled=filled)


def _outside(label: str, radius: float, rng: np.random.Generator, *, close: bool) -> float:
    if label in ("kidney_tumor", "kidney_cyst"):
        return 99.0
    if label in ("pancreatic_tumor", "pancreatic_cyst"):
        return 1.2 * radius
    if label == "gallbladder_cancer":
        return float(rng.uniform(4, 10)) if close else 2.0
    if not close:
        return 0.0
    if label == "bone_metastasis":
        return float(rng.uniform(4, 10))
    return float(rng.uniform(3, 7))


def _specials(
    label: str, intent: Mapping[str, str], hu: float, radius: float, rng: np.random.Generator
) -> dict[str, float]:
    """What only some types have: necrosis, rims, calcium, halos, spicules, septa."""
    more: dict[str, float] = {}
    mixed = intent["heterogeneity"] == HETEROGENEOUS
    chance = rng.random(6)
    if label == "lung_tumor":
        more["spicules"] = float(rng.uniform(0.15, 0.35)) if (
            intent["shape"] == IRREGULAR and radius > 5 and chance[0] < 0.6) else 0.0  # fmt: skip
        if intent["density"] == HYPODENSE and chance[1] < 0.6:
            more |= {"hu": float(rng.uniform(-620, -350)), "texture_hu": float(rng.uniform(35, 70))}
        elif chance[1] < 0.2:
            more |= {"halo_mm": float(rng.uniform(3, 8)), "halo_hu": float(rng.uniform(-680, -420))}
        if mixed and radius > 20 and chance[2] < 0.5:
            more |= {
                "necrosis": float(rng.uniform(0.4, 0.6)),
                "necrosis_hu": float(rng.uniform(8, 22)),
            }
        elif radius > 9 and chance[3] < 0.08:
            more["cavity"] = float(rng.uniform(0.3, 0.6))
    elif label == "liver_tumor" and mixed:
        if chance[0] < 0.45 and radius > 5:
            more["rim_hu"] = float(rng.uniform(10, 28))
        if radius > 11 and chance[1] < 0.5 and intent["density"] == HYPODENSE:
            more |= {
                "necrosis": float(rng.uniform(0.35, 0.6)),
                "necrosis_hu": float(rng.uniform(10, 25)),
            }
        if chance[2] < 0.05 and radius > 7:
            more["calcium_hu"] = float(rng.uniform(150, 400))
    elif label == "kidney_tumor" and mixed:
        if radius > 20 and chance[0] < 0.6:
            more |= {
                "necrosis": float(rng.uniform(0.4, 0.65)),
                "necrosis_hu": float(rng.uniform(12, 30)),
            }
        if chance[1] < 0.1 and radius > 8:
            more["calcium_hu"] = float(rng.uniform(150, 400))
    elif label == "bladder_cancer" and chance[0] < 0.05:
        more["calcium_hu"] = float(rng.uniform(150, 350))
    elif label == "pancreatic_tumor" and mixed and radius > 14 and chance[0] < 0.25:
        more |= {
            "necrosis": float(rng.uniform(0.3, 0.5)),
            "necrosis_hu": float(rng.uniform(12, 25)),
        }
    elif label == "pancreatic_cyst" and mixed:
        more |= {"septa_hu": float(rng.uniform(25, 45)), "texture_hu": 0.0}
    elif label == "bone_metastasis" and intent["density"] == HYPERDENSE:
        more["texture_hu"] = float(rng.uniform(60, 120))
    if more.get("necrosis"):  # the rest must be brighter, so that the mean stays what was drawn
        more["necrosis_hu"] = min(more["necrosis_hu"], max(5.0, hu - 8))
    return more


def _wall(
    label: str,
    template: Template,
    rng: np.random.Generator,
    intent: dict[str, str],
    rotation: tuple[float, float, float, float],
    canvas: Canvas | None,
) -> Recipe:
    prior = PRIORS[label]
    organ = label_named(label).organ
    close = intent["invasion"] == CLOSE
    thickness = float(np.clip(np.exp(rng.normal(*prior.thickness)), 6, 30))
    tube = organ in ("esophagus", "colorectum")
    annular = tube and rng.random() < 0.6
    if tube:
        half_length = 3.2 if organ == "esophagus" else 2.88  # ln mm, half of the measured lengths
        extent = float(np.exp(rng.normal(half_length, 0.33)))
    else:
        extent = float(np.exp(rng.normal({"stomach": 3.1}.get(organ, 2.9), 0.3)))
    extent = float(np.clip(extent, 9, 45))
    found = candidates(template, organ, rng, depth=(-1, 0))
    axes = (extent * 0.6 + 2,) * 3
    places = judged(template, organ, found, axes, rotation, canvas)
    other = outside_contact(template, organ, found, extent, canvas)
    places = replace(places, other=other, contact=np.full(len(found), 0.4))
    centre = best_place(places, contact=0.4, close=close, rng=rng)
    local, axis = _tube(template, organ, centre, extent)
    annular = annular and local <= MAX_TUBE_MM
    inward = min(thickness, 0.8 * local)
    outward = float(np.clip(thickness - inward, 0, 6)) + (
        float(rng.uniform(2.5, 5)) if close else float(rng.uniform(0.3, 1.0)))  # fmt: skip
    extent = max(extent, 1.35 * (inward + outward) if not annular else 0.8 * thickness)
    reference = _reference(label, template, centre, axes, rotation, canvas)
    hu = draw_hu(label, intent["density"], reference, contrast=template.contrast, rng=rng)
    chance = rng.random(4)
    numbers = {
        "hu": hu,
        "texture_hu": _texture(label, intent, hu, _plain(label, template, centre, axes, rotation), rng),
        "margin_mm": _margin(label, intent, 30, rng),
        "thickness_mm": inward,
        "extent_mm": extent,
        "shoulder": float(rng.uniform(0.15, 0.35)),
        "annular": float(annular),
        "eccentric": float(rng.uniform(0, 0.5)) if annular else 0.0,
        "ulcer": float(rng.uniform(0.5, 1)) if organ == "stomach" and chance[0] < 0.5 else 0.0,
        "outward_mm": outward,
        "mucosa_hu": float(rng.uniform(12, 30)) if organ == "stomach" and template.contrast else 0.0,
        "strands_hu": float(rng.uniform(40, 90)) if close and chance[1] < 0.7 else 0.0,
        "reach_mm": float(min(45, 2.2 * local + outward + 4)) if annular else 0.0,
        "axis_i": axis[0], "axis_j": axis[1], "axis_k": axis[2],
        "replaces": float(close),
        "gap": float(not close),
        **_noise(template, organ),
    }  # fmt: skip
    size = round(extent, 3)
    return Recipe(
        label, template.id, int(rng.integers(2**31)), "wall", centre, (size, size, size), rotation,
        rounded(numbers), {name: intent[name] for name in PREDICTED},
    )  # fmt: skip


def _tube(
    template: Template, organ: str, centre: tuple[int, int, int], extent: float
) -> tuple[float, Triple]:
    """Radius of a hollow organ near a voxel of its wall, and the direction it runs in there."""
    reach = round(min(30.0, max(14.0, extent)))
    box = box_around(centre, [reach] * 3, template.shape)
    depth = template.distances(organ)[box]
    radius = max(3.0, float(-depth.min()))
    voxels = np.argwhere((depth < 0) & (depth <= 0.5 * depth.min()))
    if len(voxels) < 10:
        return radius, (0.0, 0.0, 1.0)
    _, directions = np.linalg.eigh(np.cov(voxels.T.astype(np.float64)))
    i, j, k = (round(float(part), 3) for part in directions[:, -1])
    return radius, (i, j, k)


def _stone(
    label: str,
    template: Template,
    rng: np.random.Generator,
    intent: dict[str, str],
    axes: Triple,
    rotation: tuple[float, float, float, float],
    canvas: Canvas | None,
) -> Recipe:
    organ = label_named(label).organ
    largest = max(axes)
    if label == "gallstone":  # it sinks: the backmost place it fits into
        found = candidates(template, organ, rng, depth=(-largest - 3.5, -largest - 0.6))
        order = np.argsort(-found[:, 1], kind="stable")[: max(6, len(found) // 8)]
    else:  # sinus and calyces: around the middle of its kidney
        found = candidates(template, organ, rng, depth=(-30, -largest - 2.0))
        voxels = surroundings(template).voxels(organ)
        middle = voxels[:, 0].mean()
        centres = [
            side.mean(axis=0) if len(side) else voxels.mean(axis=0)
            for side in (voxels[voxels[:, 0] < middle], voxels[voxels[:, 0] >= middle])
        ]
        away = np.min([np.sqrt(((found - c) ** 2).sum(axis=1)) for c in centres], axis=0)
        order = np.argsort(away, kind="stable")[: max(6, len(found) // 4)]
    places = judged(template, organ, found[order], axes, rotation, canvas)
    centre = best_place(places, contact=1.0, close=False, rng=rng, least_filled=0.9)
    reference = _reference(label, template, centre, axes, rotation, canvas)
    hu = draw_hu(label, intent["density"], reference, contrast=template.contrast, rng=rng)
    kind = rng.random()
    numbers = {
        "hu": hu,
        "power": float(rng.uniform(2.2, 3.5)),
        "facets": float(rng.integers(3, 11)),
        "texture_hu": 0.0,
        "branches": float(label == "kidney_stone" and largest > 4 and kind < 0.03) * 3,
        **_noise(template, organ),
    }
    if label == "gallstone" and hu > 150 and intent["heterogeneity"] == HETEROGENEOUS:
        if kind < 0.75:
            numbers["lamination"] = float(rng.uniform(0.08, 0.25))
        else:
            numbers["core_hu"] = -0.7 * hu
    return Recipe(
        label, template.id, int(rng.integers(2**31)), "stone", centre, axes, rotation,
        rounded(numbers), {name: intent[name] for name in PREDICTED},
    )  # fmt: skip
