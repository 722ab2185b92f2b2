"""Surface distances agree with boxes measured by hand and with MONAI."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasta.evaluation.surface import hausdorff95, surface_dice, surface_distances

SPACING = (2.0, 1.0, 3.0)


def box(low, high, shape=(20, 20, 12)):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    return mask


def test_a_box_moved_along_one_axis_is_that_far_away():
    one, other = box((4, 4, 4), (9, 9, 9)), box((4, 4, 6), (9, 9, 11))
    there, back = surface_distances(one, other, SPACING)
    assert there.max() == back.max() == pytest.approx(6.0)  # two slices of 3 mm
    assert hausdorff95(one, other, SPACING) == pytest.approx(6.0)


def test_single_voxels_by_hand():
    one, other = box((5, 5, 5), (6, 6, 6)), box((6, 8, 5), (7, 9, 6))
    distance = math.hypot(2.0, 3.0)
    assert hausdorff95(one, other, SPACING) == pytest.approx(distance)
    assert surface_dice(one, other, SPACING, 3.6) == 0
    assert surface_dice(one, other, SPACING, 3.7) == 1


def test_a_mask_agrees_with_itself():
    mask = box((3, 3, 3), (8, 8, 8))
    assert surface_dice(mask, mask, SPACING, 0.0) == 1
    assert hausdorff95(mask, mask, SPACING) == 0


def test_a_mask_at_the_edge_of_the_volume_has_a_surface_there():
    mask = box((0, 0, 0), (20, 20, 12))
    there, _ = surface_distances(mask, mask, SPACING)
    assert there.size == 20 * 20 * 12 - 18 * 18 * 10


def test_empty_masks_have_fixed_rules():
    mask, empty = box((3, 3, 3), (8, 8, 8)), np.zeros((20, 20, 12), bool)
    assert surface_dice(mask, empty, SPACING) == surface_dice(empty, mask, SPACING) == 0
    assert math.isnan(surface_dice(empty, empty, SPACING))
    assert math.isnan(hausdorff95(mask, empty, SPACING))
    assert math.isnan(hausdorff95(empty, empty, SPACING))


@pytest.mark.parametrize("other", [np.zeros((20, 20, 11), bool), np.zeros((20, 20, 12), np.uint8)])
def test_wrong_arrays_are_refused(other):
    with pytest.raises(ValueError, match=r"shape|boolean"):
        surface_distances(box((3, 3, 3), (8, 8, 8)), other, SPACING)


corners = st.tuples(*(st.integers(1, 8) for _ in range(3)))
sizes = st.tuples(*(st.integers(1, 6) for _ in range(3)))


@pytest.mark.filterwarnings("ignore::FutureWarning")  # MONAI's own
@given(corners, sizes, corners, sizes, st.sampled_from([0.5, 1.0, 2.0, 4.5]))
@settings(max_examples=25, deadline=None)
def test_numbers_are_those_of_monai(low, size, other_low, other_size, tolerance):
    metrics = pytest.importorskip("monai.metrics")
    torch = pytest.importorskip("torch")
    one = box(low, np.add(low, size), (18, 18, 18))
    other = box(other_low, np.add(other_low, other_size), (18, 18, 18))
    pair = [torch.from_numpy(mask[None, None].astype(np.float32)) for mask in (one, other)]
    keywords = {"include_background": True, "spacing": SPACING}
    wanted = metrics.compute_surface_dice(*pair, [tolerance], **keywords).item()
    assert surface_dice(one, other, SPACING, tolerance) == pytest.approx(wanted, abs=1e-6)
    wanted = metrics.compute_hausdorff_distance(*pair, percentile=95, **keywords).item()
    assert hausdorff95(one, other, SPACING) == pytest.approx(wanted, rel=1e-5)
