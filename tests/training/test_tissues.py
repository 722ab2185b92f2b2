import numpy as np
import pytest

from training.tissues import TISSUES, TOTALSEGMENTATOR_V1, label_map, tissue_map, tissue_of


def test_totalsegmentator_v1_has_its_104_names_in_their_places():
    # spot checks against the list in the TotalSegmentator v1 README
    assert len(TOTALSEGMENTATOR_V1) == 104
    for value, name in {
        5: "liver",
        10: "pancreas",
        18: "vertebrae_L5",
        42: "esophagus",
        57: "colon",
        58: "rib_left_1",
        81: "rib_right_12",
        88: "femur_left",
        92: "sacrum",
        104: "urinary_bladder",
    }.items():
        assert TOTALSEGMENTATOR_V1[value] == name


def test_every_structure_is_a_tissue():
    assert {tissue_of(name) for name in TOTALSEGMENTATOR_V1.values()} <= set(TISSUES)
    with pytest.raises(KeyError):
        tissue_of("unheard_of")


def test_structures_become_the_label_values_of_their_organs():
    structures = np.array([1, 2, 3, 5, 17, 57, 92, 104, 7], np.uint8)
    labels = label_map(tissue_map(structures, TOTALSEGMENTATOR_V1))
    assert labels.tolist() == [0, 8, 8, 2, 1, 7, 10, 9, 0]
