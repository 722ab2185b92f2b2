import numpy as np
import pytest

from pasta.errors import LabelError
from pasta.evaluation.agreement import agreement
from pasta.geometry import Volume
from pasta.labels import label_named

AFFINE = np.diag([-1.0, -1.0, 4.0, 1.0])
LIVER, TUMOR = label_named("liver").value, label_named("liver_tumor").value


def labelmap(*boxes, affine=AFFINE):
    voxels = np.zeros((20, 20, 10), np.uint8)
    for value, box in boxes:
        voxels[box] = value
    return Volume(voxels, affine)


def test_a_box_moved_by_half_shares_half():
    one = labelmap((LIVER, np.s_[0:8, 2:10, 2:6]))
    other = labelmap((LIVER, np.s_[4:12, 2:10, 2:6]))
    (liver,) = agreement(one, other).structures
    assert liver.dice == pytest.approx(0.5)  # by hand: 2 * 4 / (8 + 8)
    assert liver.volume_ml == pytest.approx((1.024, 1.024))  # 8 * 8 * 4 voxels of 4 mm3
    assert liver.difference_ml == 0


def test_a_surface_within_two_mm_agrees_wholly():
    one = labelmap((LIVER, np.s_[4:10, 4:10, 2:6]))
    two_off = labelmap((LIVER, np.s_[6:12, 4:10, 2:6]))
    (liver,) = agreement(one, two_off).structures
    assert liver.surface_dice == 1
    assert liver.dice == pytest.approx(4 / 6)


def test_a_lesion_that_one_of_two_lacks_is_full_disagreement():
    one = labelmap((LIVER, np.s_[2:12, 2:12, 2:8]))
    other = labelmap((LIVER, np.s_[2:12, 2:12, 2:8]), (TUMOR, np.s_[14:16, 2:4, 2:4]))
    found = agreement(one, other)
    by_name = {each.name: each for each in found.structures}
    assert (by_name["liver_tumor"].dice, by_name["liver_tumor"].surface_dice) == (0, 0)
    assert by_name["liver_tumor"].difference_ml == pytest.approx(0.032)
    assert found.disagreement == pytest.approx(0.5)


def test_structures_in_neither_are_not_compared_and_two_empty_ones_agree():
    assert agreement(labelmap(), labelmap()).structures == ()
    assert agreement(labelmap(), labelmap()).disagreement == 0


def test_only_named_structures_count():
    one = labelmap((LIVER, np.s_[0:4, 0:4, 0:4]), (TUMOR, np.s_[6:8, 0:4, 0:4]))
    other = labelmap((LIVER, np.s_[0:4, 0:4, 0:4]))
    assert agreement(one, other, ["liver"]).disagreement == 0


def test_labelmaps_of_other_grids_are_refused():
    with pytest.raises(LabelError, match="not on one grid"):
        agreement(labelmap(), labelmap(affine=np.diag([-1.0, -1.0, 5.0, 1.0])))
