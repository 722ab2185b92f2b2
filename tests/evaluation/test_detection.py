import numpy as np
import pytest

from pasta.evaluation.detection import lesions_found


def test_a_lesion_counts_as_found_from_a_tenth_of_its_voxels_on():
    reference = np.zeros((20, 20, 20), bool)
    reference[1:6, 1:5, 1:2] = True  # 20 voxels
    reference[10:15, 10:14, 10:11] = True  # 20 voxels
    prediction = np.zeros_like(reference)
    prediction[1:2, 1:3, 1:2] = True  # 2 of 20: a tenth
    prediction[10:11, 10:11, 10:11] = True  # 1 of 20
    assert lesions_found(prediction, reference) == (1, 2)


def test_parts_that_meet_at_a_corner_are_one_lesion():
    reference = np.zeros((4, 4, 4), bool)
    reference[0, 0, 0] = reference[1, 1, 1] = True
    assert lesions_found(reference, reference) == (1, 1)


def test_nothing_predicted_finds_nothing_and_an_empty_reference_has_no_lesions():
    empty = np.zeros((4, 4, 4), bool)
    lesion = empty.copy()
    lesion[0, 0, 0] = True
    assert lesions_found(empty, lesion) == (0, 1)
    assert lesions_found(lesion, empty) == (0, 0)


def test_masks_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match="shape"):
        lesions_found(np.zeros((2, 2, 2), bool), np.zeros((2, 2, 3), bool))
