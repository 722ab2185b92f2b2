"""A CT-like trunk from nothing but code: drawn anatomy, texture, noise, lesions and their labels.

No data of any patient enters. `draw_phantom` draws a recipe, `render_phantom` paints it at any
spacing; the same recipe and spacing give the same voxels.

    python -m training.synthesis.phantom --out studies --seed 7
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from tqdm import tqdm

from pasta.errors import OutputError, PastaError
from pasta.geometry import Acquisition, FloatArray, Spacing, Volume
from pasta.io import write_labelmap
from pasta.io.nifti import write_nifti
from pasta.labels import LESIONS, label_named
from training.synthesis.abdomen import paint_abdomen
from training.synthesis.canvas import Body
from training.synthesis.phantom_lesions import LesionRecipe, draw_lesion, paint_lesion
from training.synthesis.shapes import Floats, NoiseBank, lattice_noise, named_rng
from training.synthesis.skeleton import paint_skeleton
from training.synthesis.trunk import paint_lungs, paint_trunk

Phase = Literal["non-contrast", "portal venous"]
PHASES: tuple[Phase, ...] = ("non-contrast", "portal venous")
TRUNK_MM = (-405.0, 285.0)
AIR_HU, LOWEST_HU, HIGHEST_HU = -1000, -1024, 3071
POSED = (
    "heart",
    "liver",
    "spleen",
    "pancreas",
    "gallbladder",
    "esophagus",
    "stomach",
    "colorectum",
    "kidney left",
    "kidney right",
    "bladder",
)


@dataclass(frozen=True, slots=True)
class Pose:
    """How an organ departs from its place and size in the canonical body."""

    offset_mm: tuple[float, float, float]
    scale: float


@dataclass(frozen=True, slots=True)
class PhantomRecipe:
    """What replays a phantom.

    Attributes:
        seed: of all textures, of the deformation and of small shapes.
        phase: contrast phase.
        sex: changes breasts and pelvic organs.
        size: the body relative to the canonical adult, along left, back and head.
        fat_mm: thickness of the fat under the skin of the flank.
        belly_mm: how far the abdomen swells with inner fat.
        breath_mm: height of the diaphragm.
        deformation_mm: standard deviation of a smooth random displacement.
        enhancement: of the portal venous phase, 1 is usual.
        hu_jitter: standard deviation by which tissues vary between people.
        steatosis: 0 none, 1 a liver darker by 18 HU.
        bone_hu: of trabecular bone.
        noise_hu: standard deviation of the noise of the scanner.
        psf_mm: standard deviation of the blur of the scanner.
        table: True to show the couch.
        poses: of each organ.
        lesions: in the order of painting.
        range_mm: lowest and highest canonical height shown.
    """

    seed: int
    phase: Phase
    sex: Literal["female", "male"]
    size: tuple[float, float, float]
    fat_mm: float
    belly_mm: float
    breath_mm: float
    deformation_mm: float
    enhancement: float
    hu_jitter: float
    steatosis: float
    bone_hu: float
    noise_hu: float
    psf_mm: float
    table: bool
    poses: Mapping[str, Pose]
    lesions: tuple[LesionRecipe, ...]
    range_mm: tuple[float, float] = TRUNK_MM


def draw_phantom(
    rng: np.random.Generator,
    *,
    phase: Phase | None = None,
    lesions: Sequence[str] | None = None,
    range_mm: tuple[float, float] = TRUNK_MM,
) -> PhantomRecipe:
    """Draw a phantom.

    Args:
        rng: source of all choices.
        phase: contrast phase, drawn if None.
        lesions: label name of each lesion wanted; None draws two to six of any types.
        range_mm: lowest and highest canonical height; 0 is the twelfth thoracic vertebra, the
            diaphragm lies at about 50, the pubic symphysis at -350.

    Raises:
        LabelError: if a lesion name is unknown.
    """
    chosen: Phase = phase or PHASES[int(rng.integers(2))]
    if lesions is None:
        names = [lesion.name for lesion in LESIONS]
        lesions = [str(name) for name in rng.choice(names, size=int(rng.integers(2, 7)))]
    fat = float(rng.uniform(8, 34))
    overall = rng.normal(1, 0.05)
    size = np.clip(overall * rng.normal(1, 0.025, 3), 0.84, 1.16)
    poses = {
        name: Pose(
            offset_mm=_triple(rng.normal(0, 3.0, 3)),
            scale=float(np.clip(rng.normal(1, 0.07), 0.8, 1.2)),
        )
        for name in POSED
    }
    return PhantomRecipe(
        seed=int(rng.integers(2**31)),
        phase=chosen,
        sex="female" if rng.random() < 0.5 else "male",
        size=_triple(size),
        fat_mm=fat,
        belly_mm=float(np.clip(0.6 * fat - 4 + rng.normal(0, 5), -6, 26)),
        breath_mm=float(rng.normal(0, 9)),
        deformation_mm=float(rng.uniform(2.0, 5.0)),
        enhancement=float(rng.uniform(0.75, 1.2)),
        hu_jitter=4.0,
        steatosis=float(max(rng.normal(-0.4, 0.8), 0)),
        bone_hu=float(rng.uniform(140, 240)),
        noise_hu=float(rng.uniform(8, 22)),
        psf_mm=float(rng.uniform(0.6, 0.95)),
        table=bool(rng.random() < 0.75),
        poses=poses,
        lesions=tuple(draw_lesion(rng, label_named(name).name, chosen) for name in lesions),
        range_mm=range_mm,
    )


def render_phantom(
    recipe: PhantomRecipe, spacing_mm: Spacing | float = 2.0
) -> tuple[Volume, Volume]:
    """Paint a phantom.

    Args:
        recipe: what to paint.
        spacing_mm: of the voxels, one number or three.

    Returns:
        The CT, int16 HU, and its labelmap, uint8 with the values of `pasta.labels`; both LPS.
        Lesions whose organ lies outside the range are left out.
    """
    spacing = np.broadcast_to(np.asarray(spacing_mm, dtype=float), (3,))
    body, affine = _empty_body(recipe, spacing)
    trunk = paint_trunk(body)
    paint_lungs(body, trunk)
    paint_abdomen(body, trunk)
    paint_skeleton(body, trunk)
    for lesion in recipe.lesions:
        paint_lesion(body, lesion)
    hu = _scan(recipe, body, spacing)
    acquisition = Acquisition(
        contrast=recipe.phase != "non-contrast",
        contrast_source="the recipe of the phantom",
        slice_thickness_mm=float(spacing[2]),
    )
    return Volume(hu, affine, acquisition), Volume(body.labels, affine)


def _triple(values: FloatArray) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])


def _empty_body(recipe: PhantomRecipe, spacing: FloatArray) -> tuple[Body, FloatArray]:
    """Lay the grid and its deformed canonical coordinates."""
    size = np.array(recipe.size)
    half = np.array([172.0, 120.0]) + recipe.fat_mm * 1.3 + 4
    half[1] += 0.7 * recipe.belly_mm + 8 * recipe.table
    extent = np.append(2 * half, recipe.range_mm[1] - recipe.range_mm[0])
    shape = np.maximum(np.ceil(extent * size / spacing).astype(int), 1)
    start = np.append(-(shape[:2] - 1) / 2 * spacing[:2], recipe.range_mm[0] * size[2])
    axes = [
        ((start[n] + spacing[n] * np.arange(shape[n])) / size[n]).astype(np.float64)
        for n in range(3)
    ]
    at = []
    for n, axis in enumerate(axes):
        line = axis.astype(np.float32).reshape([-1 if m == n else 1 for m in range(3)])
        rng = named_rng(recipe.seed, f"deformation {n}")
        field = lattice_noise(rng, axes, 70.0) + np.float32(0.4) * lattice_noise(rng, axes, 34.0)
        # half along the spine: heights are shared with undeformed profiles
        strength = np.float32(recipe.deformation_mm * (2.0 if n < 2 else 1.2))
        at.append(line + strength * field)
    # the skin lies off the middle of the canonical body: more muscle behind than in front
    at[1] = at[1] + np.float32(6.0)
    body = Body(
        recipe=recipe,
        at=(at[0], at[1], at[2]),
        z=axes[2].astype(np.float32)[None, None, :],
        spacing_mm=_triple(spacing / size),
        bank=NoiseBank.draw(named_rng(recipe.seed, "textures"), _triple(spacing / size)),
        hu=np.full(tuple(shape), AIR_HU, dtype=np.float32),
        labels=np.zeros(tuple(shape), dtype=np.uint8),
    )
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    affine[:3, 3] = -start[0], -start[1], start[2]
    return body, affine


def _scan(recipe: PhantomRecipe, body: Body, spacing: FloatArray) -> NDArray[np.int16]:
    """Blur, noise and rounding of a scanner."""
    hu = body.hu
    if recipe.table:
        _paint_table(hu, spacing)
    hu = ndimage.gaussian_filter(hu, recipe.psf_mm / spacing, truncate=3)
    hu += _scanner_noise(recipe, hu.shape, spacing)
    scan: NDArray[np.int16] = np.clip(np.rint(hu), LOWEST_HU, HIGHEST_HU).astype(np.int16)
    return scan


def _paint_table(hu: Floats, spacing: FloatArray) -> None:
    """A couch: two thin shells of carbon fibre with foam between, right under the back."""
    solid = np.flatnonzero((hu > -300).any(axis=(0, 2)))
    if not len(solid):
        return
    x = (np.arange(hu.shape[0]) - (hu.shape[0] - 1) / 2) * spacing[0]
    y = (np.arange(hu.shape[1]) - solid[-1] - 1) * spacing[1]
    depth = y[None, :] + 0.0011 * x[:, None] ** 2
    plate = np.where(np.abs(depth - 1.5) < 1.2, -200.0, -1000.0)
    plate = np.where((depth >= 2.7) & (depth < 26), -930.0, plate)
    plate[np.abs(x) > 200] = -1000
    np.maximum(hu, plate[:, :, None].astype(np.float32), out=hu, where=hu < -600)


def _scanner_noise(recipe: PhantomRecipe, shape: tuple[int, ...], spacing: FloatArray) -> Floats:
    """Noise of filtered back-projection: little at low frequencies, correlated within slices."""
    rng = named_rng(recipe.seed, "scanner")
    count = 24  # slices repeat, shifted: new noise for each would take longer than the anatomy
    white = rng.standard_normal((count, shape[0], shape[1]), dtype=np.float32)
    fx = np.fft.fftfreq(shape[0], d=spacing[0])[:, None]
    fy = np.fft.rfftfreq(shape[1], d=spacing[1])[None, :]
    f = np.sqrt(fx**2 + fy**2)
    ramp = (f * np.exp(-((f / 0.38) ** 2)) + 0.006).astype(np.float32)
    slices = np.fft.irfftn(np.fft.rfftn(white, axes=(1, 2)) * ramp, s=shape[:2], axes=(1, 2))
    slices *= recipe.noise_hu / slices.std()
    noise = np.empty(shape, dtype=np.float32)
    for k in range(shape[2]):
        shift = rng.integers(0, shape[:2])
        noise[:, :, k] = np.roll(slices[int(rng.integers(count))], shift, axis=(0, 1))
    return noise


@dataclass(frozen=True, slots=True)
class SampleStudy:
    """One CT of the sample study."""

    name: str
    phase: Phase
    lesions: tuple[str, ...]


SAMPLES = (
    SampleStudy(
        "sample_portal_venous",
        "portal venous",
        ("liver_tumor", "liver_tumor", "kidney_tumor", "lung_tumor", "kidney_cyst", "gallstone"),
    ),
    SampleStudy(
        "sample_non_contrast",
        "non-contrast",
        ("pancreatic_tumor", "liver_cyst", "kidney_stone", "bone_metastasis"),
    ),
)
SAMPLE_SPACING_MM = (1.6, 1.6, 3.0)


def write_samples(out: Path, seed: int, *, overwrite: bool = False) -> list[Path]:
    """Write the sample study: CTs into `out`, their labelmaps into `out/labels`.

    Servers pass over a folder called "labels": the answers are not among the questions.

    Args:
        out: made if missing.
        seed: of the phantoms; the same seed gives the same files.
        overwrite: draw again what is there already.

    Returns:
        Paths of the CTs.

    Raises:
        OutputError: if a file cannot be written.
    """
    paths = []
    try:
        (out / "labels").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"{out}: cannot be made ({error.strerror}). Choose another folder with --out."
        raise OutputError(msg) from error
    with tqdm(SAMPLES, desc="sample study", unit="CT", disable=None) as bar:
        for number, sample in enumerate(bar):
            bar.set_postfix_str(sample.name)
            path = out / f"{sample.name}.nii.gz"
            paths.append(path)
            if path.exists() and not overwrite:
                continue
            rng = np.random.default_rng([seed, number])
            recipe = draw_phantom(rng, phase=sample.phase, lesions=sample.lesions)
            ct, labelmap = render_phantom(recipe, SAMPLE_SPACING_MM)
            write_labelmap(labelmap, out / "labels" / path.name)
            write_nifti(ct, path)  # last: a CT that exists is a sample that is complete
    return paths


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command."""
    parser = argparse.ArgumentParser(prog="training.synthesis.phantom", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path, default=Path("studies"), help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=7, help="default: %(default)s")
    parser.add_argument("--overwrite", action="store_true", help="draw again what is there")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Write the sample study; exit status 2 for a foreseen error."""
    args = build_parser().parse_args(argv)
    try:
        for path in write_samples(args.out, args.seed, overwrite=args.overwrite):
            print(path)
    except PastaError as error:
        print(f"training.synthesis.phantom: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
