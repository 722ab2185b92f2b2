"""Small templates of plain bodies: all ten organs in fat, a spine and muscle to compare with."""

import numpy as np
import pytest
from scipy import ndimage

from training.synthesis.templates import TISSUES, Template

SHAPE = (150, 130, 130)
LABEL = {
    "lung": 1, "liver": 2, "gallbladder": 3, "pancreas": 4, "esophagus": 5, "stomach": 6,
    "colorectum": 7, "kidney": 8, "bladder": 9, "bone": 10,
}  # fmt: skip
HU = {
    "lung": -850, "liver": 110, "gallbladder": 8, "pancreas": 92, "esophagus": 55, "stomach": 20,
    "colorectum": 20, "kidney": 150, "bladder": 6, "bone": 230,
}  # fmt: skip


def _ball(at, centre, radii):
    return sum(((a - c) / r) ** 2 for a, c, r in zip(at, centre, radii, strict=True)) < 1


def body(template_id="scene", seed=0, noise=8.0, slice_mm=1.0, contrast=True):
    """All ten organs, each with fat around it; walls of hollow ones are 3 mm."""
    at = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in SHAPE), indexing="ij")
    hu = np.full(SHAPE, -100.0, np.float32)
    labels = np.zeros(SHAPE, np.uint8)
    tissues = np.full(SHAPE, TISSUES["fat"], np.uint8)
    shapes = {
        "lung": _ball(at, (36, 40, 108), (24, 24, 18)),
        "liver": _ball(at, (40, 48, 58), (34, 36, 28)),
        "gallbladder": _ball(at, (96, 20, 58), (13, 13, 20)),
        "pancreas": _ball(at, (112, 62, 44), (28, 13, 13)),
        "esophagus": (at[0] - 84) ** 2 + (at[1] - 60) ** 2 < 9**2,
        "stomach": _ball(at, (122, 32, 96), (22, 26, 26)),
        "colorectum": (at[0] - 84) ** 2 + (at[1] - 100) ** 2 < 13**2,
        "kidney": _ball(at, (30, 100, 50), (20, 20, 32)),
        "bladder": _ball(at, (40, 36, 14), (26, 26, 13)),
        "bone": _ball(at, (120, 100, 50), (20, 20, 44)),
    }
    rng = np.random.default_rng(seed)
    for name, inside in shapes.items():
        inside = inside & (labels == 0)
        labels[inside], hu[inside], tissues[inside] = LABEL[name], HU[name], 0
    hollow = ("gallbladder", "stomach", "colorectum", "bladder")
    for name in hollow:
        inside = labels == LABEL[name]
        wall = inside & ~ndimage.binary_erosion(inside, iterations=3, border_value=1)
        hu[wall] = 60
    hu = ndimage.gaussian_filter(hu, 0.6)
    hu += noise * ndimage.gaussian_filter(rng.standard_normal(SHAPE).astype(np.float32), 0.7) / 0.3
    return Template.from_arrays(
        template_id, np.rint(hu).astype(np.int16), labels, tissues,
        slice_mm=slice_mm, contrast=contrast,
    )  # fmt: skip


@pytest.fixture(scope="session")
def scene():
    """The plain body, with contrast agent."""
    return body()


@pytest.fixture(scope="session")
def make_scene():
    """Make plain bodies of other noise, slices or contrast."""
    return body
