import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from pasta.geometry import Grid, Volume, reoriented, resampled_grid
from pasta.preprocessing.resampling import grid_map, resampled

PAIRS = ("RL", "AP", "SI")
ALL_48 = [
    "".join(PAIRS[axis][flip] for axis, flip in zip(order, flips, strict=True))
    for order in itertools.permutations(range(3))
    for flips in itertools.product((0, 1), repeat=3)
]
RADIUS_MM = 20.0
CENTRE_MM = np.array([11.3, -42.7, 105.2])
FIELD_MM = 56.0
ISOTROPIC, THICK = (0.9, 0.9, 0.9), (0.7, 0.7, 5.0)


def grid_around_ball(axcodes="RAS", spacing=ISOTROPIC, rotation=None):
    """Grid whose field of view holds the ball with some space round it."""
    axes = np.zeros((3, 3))
    for column, code in enumerate(axcodes):
        row = next(n for n, pair in enumerate(PAIRS) if code in pair)
        axes[row, column] = 1 if code in "RAS" else -1
    if rotation is not None:
        axes = rotation.as_matrix() @ axes
    shape = tuple(int(np.ceil(FIELD_MM / s)) for s in spacing)
    affine = np.eye(4)
    affine[:3, :3] = axes * spacing
    affine[:3, 3] = CENTRE_MM + 1.1 - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(affine, shape)


def world(grid):
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1)
    return index @ grid.affine[:3, :3].T + grid.affine[:3, 3]


def depth_mm(grid):
    """Signed distance to the surface of the ball, positive inside."""
    return RADIUS_MM - np.linalg.norm(world(grid) - CENTRE_MM, axis=-1)


def dice(a, b):
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


def ball_through_model_grid(native):
    plan = grid_map(native, "LPS", (1.0, 1.0, 1.0))
    logits = torch.from_numpy(np.tanh(depth_mm(plan.model) / 2).astype(np.float32))
    turned = (resampled(logits, plan.backward_weights()) > 0).numpy()
    back = reoriented(Volume(turned, plan.turned.affine), native.axcodes)
    np.testing.assert_allclose(back.affine, native.affine, atol=1e-9)
    return back.voxels


def assert_ball_comes_back(native, least_dice):
    found, drawn = ball_through_model_grid(native), depth_mm(native) > 0
    assert found.shape == native.shape
    assert dice(found, drawn) >= least_dice
    centres = world(native)
    off = np.linalg.norm(centres[found].mean(axis=0) - centres[drawn].mean(axis=0))
    assert off <= 0.25


@pytest.mark.parametrize("axcodes", ALL_48)
def test_a_ball_comes_back_on_isotropic_grids_of_any_axis_order(axcodes):
    native = grid_around_ball(axcodes)
    assert native.axcodes == axcodes
    assert_ball_comes_back(native, 0.99)
    centre = world(native)[ball_through_model_grid(native)].mean(axis=0)
    assert np.linalg.norm(centre - CENTRE_MM) <= 0.25


@pytest.mark.parametrize("axcodes", ALL_48)
def test_a_ball_comes_back_on_thick_slices_of_any_axis_order(axcodes):
    assert_ball_comes_back(grid_around_ball(axcodes, THICK), 0.97)


angles = st.tuples(*[st.floats(-180, 180)] * 3)


@settings(max_examples=30, deadline=None)
@given(angles, st.sampled_from([(ISOTROPIC, 0.99), ((1.0,) * 3, 0.99), (THICK, 0.97)]))
def test_a_ball_comes_back_on_oblique_grids(angle, case):
    spacing, least_dice = case
    rotation = Rotation.from_euler("xyz", angle, degrees=True)
    assert_ball_comes_back(grid_around_ball("RAS", spacing, rotation), least_dice)


spacings = st.tuples(*[st.floats(0.3, 8.0)] * 3)
shapes = st.tuples(*[st.integers(1, 60)] * 3)


@given(angles, shapes, spacings, spacings)
def test_field_of_view_keeps_its_corner_and_its_far_edge_within_half_a_voxel(
    angle, shape, present, wanted
):
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angle, degrees=True).as_matrix() * present
    affine[:3, 3] = 10, -20, 30
    grid = Grid(affine, shape)
    out = resampled_grid(grid, wanted)
    np.testing.assert_allclose(out.spacing_mm, wanted, rtol=1e-9)
    first, last = np.full(3, -0.5), lambda g: np.asarray(g.shape) - 0.5
    at = lambda g, index: g.affine[:3, :3] @ index + g.affine[:3, 3]
    np.testing.assert_allclose(at(out, first), at(grid, first), atol=1e-9)
    extent, new_extent = np.multiply(shape, present), np.multiply(out.shape, wanted)
    moved = np.abs(new_extent - extent)
    assert np.all((moved <= np.multiply(wanted, 0.5) + 1e-9) | (np.asarray(out.shape) == 1))
    directions = (at(out, last(out)) - at(grid, first)) @ (affine[:3, :3] / present)
    np.testing.assert_allclose(directions, new_extent, atol=1e-6)


@given(angles, st.tuples(*[st.integers(2, 40)] * 3), spacings)
def test_resampling_to_its_own_spacing_changes_no_grid(angle, shape, present):
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angle, degrees=True).as_matrix() * present
    grid = Grid(affine, shape)
    there = resampled_grid(grid, grid.spacing_mm)
    assert there.matches(grid, 1e-6)
    twice = resampled_grid(resampled_grid(grid, np.divide(present, 2)), present)
    assert twice.matches(grid, 1e-6)


@pytest.mark.parametrize("spacing", [(1, 1, 0), (1, -1, 1), (1, 1, np.nan), (1, 1)])
def test_a_spacing_that_is_not_positive_is_refused(spacing):
    with pytest.raises(ValueError, match="three finite positive numbers"):
        resampled_grid(Grid(np.eye(4), (4, 4, 4)), spacing)


@pytest.mark.parametrize("axcodes", ALL_48)
def test_reorienting_keeps_every_voxel_in_its_place(axcodes):
    rotation = Rotation.from_euler("xyz", (8, -11, 17), degrees=True)
    grid = grid_around_ball("LPS", (4.0, 5.0, 7.0), rotation)
    volume = Volume(np.arange(np.prod(grid.shape)).reshape(grid.shape), grid.affine)
    turned = reoriented(volume, axcodes)
    assert turned.grid.axcodes == axcodes
    assert np.shares_memory(turned.voxels, volume.voxels)
    for value in (0, 17, 201, volume.voxels.size - 1):
        here = np.argwhere(volume.voxels == value)[0]
        there = np.argwhere(turned.voxels == value)[0]
        np.testing.assert_allclose(
            turned.affine @ [*there, 1], volume.affine @ [*here, 1], atol=1e-9
        )


@pytest.mark.parametrize("axcodes", ["RAR", "RA", "XYZ", "RASL"])
def test_axis_codes_that_name_no_patient_axes_are_refused(axcodes):
    with pytest.raises(ValueError, match="expected one each"):
        reoriented(Volume(np.zeros((2, 2, 2)), np.eye(4)), axcodes)


def test_grids_match_within_the_tolerance_only():
    grid = Grid(np.diag([0.8, 0.8, 5.0, 1]), (512, 512, 40))
    moved = grid.affine.copy()
    moved[0, 3] += 0.02
    assert grid.matches(Grid(grid.affine + 1e-9, grid.shape))
    assert not grid.matches(Grid(moved, grid.shape))
    assert grid.matches(Grid(moved, grid.shape), tolerance_mm=0.05)
    assert not grid.matches(Grid(grid.affine, (512, 512, 41)))
    # a spacing off by 0.0001 mm is 0.05 mm at the far corner
    assert not grid.matches(Grid(np.diag([0.8001, 0.8, 5.0, 1]), grid.shape))


def test_volume_of_an_oblique_voxel_is_the_product_of_its_spacings():
    rotation = Rotation.from_euler("xyz", (30, 40, 50), degrees=True)
    assert grid_around_ball("PIR", THICK, rotation).voxel_volume_mm3 == pytest.approx(0.7 * 0.7 * 5)
