"""The crop of an organ: hand-computed boxes, the published padding and shrinking, the way back."""

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional

from pasta.geometry import Grid, Volume, reoriented
from pasta.preprocessing.crops import crop_around, placed
from pasta.preprocessing.intensity import normalized
from pasta.preprocessing.resampling import to_model_grid
from pasta.spec import ModelSpec, Segmental, ZScore


def screening_spec(axcodes="LPS", spacing_mm=(1.0, 1.0, 1.0), patch=(64, 64, 64), **kwargs):
    fields = {"margin_mm": 10.0, "intensity": Segmental(), **kwargs}
    return ModelSpec(
        name="crop",
        version="1",
        task="screening",
        title="crop",
        width=2,
        spacing_mm=spacing_mm,
        patch_shape=patch,
        axcodes=axcodes,
        organs=("kidney",),
        **fields,
    )


@pytest.fixture
def grid():
    """0.8 x 1 x 2.5 mm; i runs to the right, j to the back, k downwards."""
    affine = np.diag([0.8, -1.0, -2.5, 1.0])
    affine[:3, 3] = (-30.0, 20.0, 500.0)
    grid = Grid(affine, (100, 90, 40))
    assert grid.axcodes == "RPI"
    return grid


BOUNDS = ((30, 50), (40, 60), (12, 20))


def test_the_box_is_the_hand_computed_one(grid):
    # to the left, i is 50..70 of 0.8 mm = 40..56 mm; upwards, k is 20..28 of 2.5 mm = 50..70 mm
    crop = crop_around(grid, BOUNDS, screening_spec())
    assert crop.box == ((30, 66), (30, 70), (40, 80))
    # centres inside: turned i 37..81 and k 16..31, turned back
    assert crop.native_box == ((18, 63), (30, 70), (8, 24))
    expected = [
        (-30 + 0.8 * (17.5 - 0.5), -30 + 0.8 * (62.5 - 0.5)),
        (20 - 69.5, 20 - 29.5),
        (500 - 2.5 * 23.5, 500 - 2.5 * 7.5),
    ]
    np.testing.assert_allclose(crop.bounds_mm, expected, atol=1e-9)


def test_the_box_follows_the_axes_and_spacing_of_the_model(grid):
    crop = crop_around(grid, BOUNDS, screening_spec("SAL", (2.0, 2.0, 2.0)))
    assert crop.plan.model.shape == (50, 45, 40)
    # S: 40..80 mm; A: j turned is 30..50 of 1 mm, with margin 20..60 mm; L: 30..66 mm
    assert crop.box == ((20, 40), (10, 30), (15, 33))
    assert crop.native_box == ((18, 63), (30, 70), (8, 24))


def test_the_box_is_cut_at_the_field_of_view(grid):
    crop = crop_around(grid, ((0, 5), (85, 90), (1, 39)), screening_spec(margin_mm=24.0))
    assert crop.box == ((80 - 28, 80), (90 - 29, 90), (0, 100))
    assert crop.native_box == ((0, 35), (61, 90), (0, 40))


def anisotropic_ct(grid):
    generator = np.random.default_rng(0)
    coarse = generator.normal(0, 300, (10, 9, 8))
    voxels = coarse.repeat(10, 0).repeat(10, 1).repeat(5, 2).astype(np.int16)
    return Volume(voxels, grid.affine)


@pytest.mark.parametrize(
    ("patch", "intensity"),
    [
        ((64, 64, 64), Segmental()),  # all padded
        ((32, 32, 32), Segmental()),  # all shrunk
        ((32, 48, 32), ZScore((-900.0, 900.0), 10.0, 300.0)),  # some of each
    ],
)
def test_the_patch_is_that_of_the_published_transforms(patch, intensity, grid):
    spec = screening_spec(patch=patch, intensity=intensity)
    volume = anisotropic_ct(grid)
    crop = crop_around(grid, BOUNDS, spec)
    whole, _ = to_model_grid(volume, spec)
    x = normalized(whole[tuple(slice(a, b) for a, b in crop.box)], intensity)
    air = normalized(torch.tensor(-1000.0), intensity).item()
    pads = []
    for length, size in zip(x.shape, patch, strict=True):  # Pad2Shape of the public code
        before = (size - length) // 2
        pads = [*np.clip([before, size - length - before], 0, 100000).tolist(), *pads]
    x = functional.pad(x, pads, value=air)
    wanted = functional.interpolate(x[None, None], patch, mode="trilinear")[0, 0]
    torch.testing.assert_close(crop.patch(volume, spec), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("axcodes", ["LPS", "SAL", "IRP"])
@pytest.mark.parametrize("patch", [(32, 32, 32), (64, 64, 64)])
def test_a_map_comes_back_to_where_its_cells_were_seen(axcodes, patch, grid):
    spec = screening_spec(axcodes, patch=patch)
    crop = crop_around(grid, BOUNDS, spec)
    # a volume that says where its voxels are, and cells that read it at voxels 0, 16, 32...
    place = np.indices(grid.shape).reshape(3, -1).T @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    for axis in range(3):
        volume = Volume(place[:, axis].reshape(grid.shape), grid.affine)
        exact = screening_spec(
            axcodes,
            patch=patch,
            intensity=Segmental((-1e3, 1e3), (-1e3, 1e3)),  # the identity
        )
        cells = crop.patch(volume, exact)[::2, ::2, ::2]
        block = crop.to_native(cells, spec)
        native = volume.voxels[tuple(slice(a, b) for a, b in crop.native_box)]
        inner = tuple(slice(4, -4) if n > 20 else slice(2, -2) for n in native.shape)
        assert np.abs(block - native)[inner].max() < 0.02


def test_the_greater_value_stands_where_boxes_overlap(grid):
    whole = np.zeros(grid.shape, np.float32)
    spec = screening_spec()
    first = crop_around(grid, BOUNDS, spec)
    second = crop_around(grid, ((40, 60), (40, 60), (12, 20)), spec)
    for crop, value in ((first, 0.75), (second, 0.5)):
        shape = [b - a for a, b in crop.native_box]
        placed(np.full(shape, value, np.float32), crop, whole)
    assert whole[20, 50, 15] == 0.75
    assert whole[50, 50, 15] == 0.75
    assert whole[70, 50, 15] == 0.5
    assert whole[5, 50, 15] == 0


def test_any_orientation_of_the_file_gives_the_same_patch(grid):
    spec = screening_spec("SAL", patch=(32, 64, 48))
    volume = anisotropic_ct(grid)
    wanted = crop_around(grid, BOUNDS, spec).patch(volume, spec)
    marked = np.zeros(grid.shape, np.uint8)
    marked[30:50, 40:60, 12:20] = 1
    for order in itertools.permutations(("RL", "AP", "IS")):
        for codes in itertools.product(*order):
            axcodes = "".join(codes)
            turned = reoriented(volume, axcodes)
            found = np.argwhere(reoriented(Volume(marked, grid.affine), axcodes).voxels)
            i, j, k = zip(found.min(axis=0), found.max(axis=0) + 1, strict=True)
            patch = crop_around(turned.grid, (i, j, k), spec).patch(turned, spec)
            torch.testing.assert_close(patch, wanted, atol=1e-5, rtol=0)
