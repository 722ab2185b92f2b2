"""Blending a lesion into its host: edge, displacement, exact mean, noise, point spread."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from pasta.labels import label_named
from pasta.neighbourhood import SOLID_HU
from training.synthesis.host import FIRST_LESION
from training.synthesis.noise import taken
from training.synthesis.recipe import Result
from training.synthesis.tables import Curve, Floats, blurred, border, falling, steady

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from training.synthesis.host import Host
    from training.synthesis.recipe import Recipe
    from training.synthesis.templates import Template

REACH = 2.2  # radii up to which tissue is pushed aside
PSF_MM = 0.45  # in-plane, on top of the edge that is drawn
GAP_MM = 2.0  # of fat or healthy wall, from which the meter sees no contact
ILL_DEFINED_MM = 1.2  # edges wider than that are
SLICE_PSF = 0.42  # sigma along z over slice thickness
LOWEST_HU, HIGHEST_HU = -1024, 3071
NEAR_MM = 3.0
EDGE_WIDTHS = 4.0  # an edge fades out over so many widths
FAINT = 0.018  # share of the lesion that is not drawn: beyond four widths of its edge
_FIXED = np.zeros(256, bool)  # what is not pushed aside: bone, and lesions drawn before
_FIXED[[label_named("bone").value, *range(FIRST_LESION, 256)]] = True
_FACES_AND_EDGES = ndimage.generate_binary_structure(3, 2)


def psf(template: Template) -> tuple[float, float, float]:
    """Sigma of the point spread of a template in mm, along i, j, k."""
    return PSF_MM, PSF_MM, max(PSF_MM, SLICE_PSF * template.slice_mm)


def coordinates(host: Host, centre: tuple[int, int, int]) -> tuple[Floats, Floats, Floats]:
    """Offsets from a voxel in mm along i, j, k; they broadcast to the box."""
    i, j, k = (
        np.arange(part.start - c, part.stop - c, dtype=np.float32)
        for part, c in zip(host.box, centre, strict=True)
    )
    return i[:, None, None], j[None, :, None], k[None, None, :]


def pushed(
    host: Host, rho: Floats, centre: tuple[int, int, int], kappa: float
) -> NDArray[np.bool_]:
    """Push tissue aside without compressing it: r_source^3 = r^3 - kappa, in ellipsoidal radii.

    Bone and lesions drawn before stay where they are. The host's arrays are changed in place.

    Returns:
        (I, J, K) bool, voxels whose tissue came from elsewhere.
    """
    moved = (rho < REACH) & (rho > 0.5) & ~_FIXED[host.labels]
    if kappa <= 0 or not moved.any():
        return np.zeros(rho.shape, bool)

    def ratio(r: NDArray[np.float64]) -> NDArray[np.float64]:
        source = np.cbrt(np.maximum(r**3 - kappa, 0)) / np.maximum(r, 1e-6)
        fade = np.clip((REACH - r) / (REACH - 1), 0, 1)
        out: NDArray[np.float64] = 1 - (1 - source) * fade * fade * (3 - 2 * fade)
        return out

    scale = Curve(ratio, 0, REACH, 4096)(rho[moved])
    places = np.argwhere(moved)
    middle = np.array(
        [c - part.start for c, part in zip(centre, host.box, strict=True)], np.float32
    )
    source = (places.astype(np.float32) - middle) * scale[:, None] + middle
    far = ((source - places) ** 2).sum(axis=1) > 0.01
    places, source = places[far], source[far]
    limits = np.array(rho.shape, np.float32) - 1
    source = np.clip(source, 0, limits)
    nearest = tuple(np.rint(source).astype(np.int32).T)
    kept = ~_FIXED[host.labels[nearest]]
    places, source = places[kept], source[kept]
    nearest = tuple(np.rint(source).astype(np.int32).T)
    here = tuple(places.T)
    host.hu[here] = ndimage.map_coordinates(host.hu, source.T, order=1, mode="nearest")
    for array in (host.labels, host.tissues, host.depth, host.blocked):
        array[here] = array[nearest]
    changed = np.zeros(rho.shape, bool)
    changed[here] = True
    return changed


def beyond(forbidden: NDArray[np.bool_]) -> Floats:
    """Signed distance in mm to what a lesion may not take: positive there; good within 2.5 mm."""
    return border(blurred(forbidden.astype(np.float32), (1.0, 1.0, 1.0)))


def show_outside(host: Host, near_mm: float) -> None:
    """Let what lies outside an organ be seen through its outermost tissue, in place.

    An ill-defined edge blends a lesion with its host. Where that is the wall it grew from, which
    looks like the lesion, the edge would look sharp; so the fat or organ next to it is put there.
    """
    outside = (host.labels != host.organ) & (host.hu > -250)
    rim = (host.labels == host.organ) & (host.depth > -near_mm)
    weight = blurred(outside.astype(np.float32), (3, 3, 3))
    total = blurred(np.where(outside, host.hu, 0).astype(np.float32), (3, 3, 3))
    seen = total / np.maximum(weight, np.float32(1e-3))
    host.hu[...] = np.where(rim & (weight > 1e-3), seen, host.hu)


def one_piece(mask: NDArray[np.bool_], distance: Floats) -> NDArray[np.bool_]:
    """Keep the connected part that holds the deepest voxel."""
    parts, count = ndimage.label(mask)
    if count <= 1:
        return mask
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    deepest = parts[np.unravel_index(int(np.argmin(distance)), distance.shape)]
    kept: NDArray[np.bool_] = parts == (deepest if deepest else int(sizes.argmax()))
    return kept


def noise_of(
    recipe: Recipe, shape: tuple[int, ...], template: Template, rng: np.random.Generator
) -> Floats:
    """Noise as strong and as correlated as the host's, smoother across thick slices."""
    noise = taken(shape, recipe["noise_mm"], rng)
    across = SLICE_PSF * template.slice_mm
    if template.slice_mm > 1.5:
        sigma = recipe["noise_mm"]
        noise = blurred(noise, (0, 0, across))
        noise = noise * np.float32(1 / np.sqrt(sigma / np.sqrt(sigma**2 + across**2)))
    return noise * np.float32(recipe["noise_hu"])


def composed(
    recipe: Recipe,
    template: Template,
    host: Host,
    alpha: Floats,
    layer: Floats,
    distance: Floats,
    forbidden: NDArray[np.bool_],
    displaced: NDArray[np.bool_],
    rng: np.random.Generator,
    *,
    exact: NDArray[np.bool_] | None = None,
    brightest: bool = False,
) -> Result:
    """Blend a layer into its host.

    Args:
        recipe: of the lesion.
        template: it is drawn into.
        host: the box, tissue already pushed aside.
        alpha: share of the lesion in each voxel.
        layer: HU of the lesion.
        distance: to its surface in mm, negative inside.
        forbidden: voxels that stay out of the mask.
        displaced: voxels that the lesion pushed aside.
        rng: for the noise.
        exact: voxels whose visible mean becomes that of the recipe; None takes its core.
        brightest: keep what is brighter than the lesion (vessels of the lung).
    """
    spread = psf(template)
    alpha = blurred(alpha, (0.0, 0.0, float(np.sqrt(spread[2] ** 2 - PSF_MM**2))))
    mask = one_piece((alpha >= 0.5) & ~forbidden, distance)
    alpha = np.where(mask, alpha, np.minimum(alpha, np.float32(0.499)))
    alpha[(alpha < FAINT) | (steps_away(mask) > fading_mm(recipe))] = 0
    core = ndimage.binary_erosion(mask, _FACES_AND_EDGES)  # what the meter takes the mean of
    if core.sum() < 30:
        core = mask
    if exact is not None and (core & exact).any():
        core &= exact
    if core.any():  # one step makes the mean that is seen the one that was asked for
        a = alpha[core].astype(np.float64)
        shown = (1 - a) * host.hu[core] + a * layer[core]
        solid = shown > SOLID_HU
        if brightest and 2 * solid.sum() >= solid.size:
            a, shown = a[solid], shown[solid]
            seen = float(np.median(shown))
        else:
            seen = float(shown.mean())
        layer = layer + np.float32(steady((recipe["hu"] - seen) / max(float(a.mean()), 0.3)))
    # averaged independent noise would be too weak: what is missing is added
    rest = 1 - alpha
    noise = noise_of(recipe, alpha.shape, template, rng)
    out = rest * host.hu + alpha * layer + np.sqrt(np.maximum(1 - rest * rest, 0)) * noise
    if brightest:
        out = np.where((alpha < 0.97) & (host.hu > out) & ~mask, host.hu, out)
    out = np.where(alpha > 0, out, host.hu)
    hu = np.clip(np.rint(out), LOWEST_HU, HIGHEST_HU).astype(np.int16)
    labels = host.labels.copy()
    labels[mask] = label_named(recipe.label).value
    return Result(host.box, hu, mask, labels, alpha, displaced)


def steps_away(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Distance to a mask in voxels, the largest of those along i, j, k; quick to find."""
    out: NDArray[np.int32] = ndimage.distance_transform_cdt(~mask, "chessboard")
    return out


def fading_mm(recipe: Recipe) -> float:
    """How far from its mask a lesion may change HU: 3 mm and four widths of its edge."""
    return NEAR_MM + EDGE_WIDTHS * recipe["margin_mm"]


def edge(distance: Floats, width: float) -> Floats:
    """Share of a body by the distance to its surface."""
    return falling(distance / np.float32(width))
