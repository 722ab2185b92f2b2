"""The 25 labels against Supplementary Table 9 of the paper, typed by hand."""

import pytest

from pasta.errors import LabelError
from pasta.labels import LABELS, LESIONS, ORGANS, label_named, label_of, lesions_of

TABLE_9 = {
    1: ("Lung", None),
    2: ("Liver", None),
    3: ("Gallbladder", None),
    4: ("Pancreas", None),
    5: ("Esophagus", None),
    6: ("Stomach", None),
    7: ("Colon & rectum", None),
    8: ("Kidney", None),
    9: ("Bladder", None),
    10: ("Bone", None),
    11: ("Lung tumor", "lung"),
    12: ("Liver tumor", "liver"),
    13: ("Gallbladder cancer", "gallbladder"),
    14: ("Pancreatic tumor", "pancreas"),
    15: ("Esophageal cancer", "esophagus"),
    16: ("Gastric cancer", "stomach"),
    17: ("Colorectal cancer", "colorectum"),
    18: ("Kidney tumor", "kidney"),
    19: ("Bladder cancer", "bladder"),
    20: ("Bone metastasis", "bone"),
    21: ("Liver cyst", "liver"),
    22: ("Gallstone", "gallbladder"),
    23: ("Pancreatic cyst", "pancreas"),
    24: ("Kidney cyst", "kidney"),
    25: ("Kidney stone", "kidney"),
}


def test_values_titles_and_organs_are_those_of_table_9():
    assert len(LABELS) == 25
    assert (len(ORGANS), len(LESIONS)) == (10, 15)
    for value, (title, organ) in TABLE_9.items():
        label = label_of(value)
        assert (label.title, label.kind) == (title, "lesion" if organ else "organ")
        assert label.organ == (organ or label.name)


def test_benign_lesions_are_cysts_and_stones():
    assert {label.value for label in LESIONS if not label.malignant} == {21, 22, 23, 24, 25}


def test_names_and_colours_tell_the_labels_apart():
    assert len({label.name for label in LABELS}) == 25
    assert len({label.color for label in LABELS}) == 25


def test_the_lesions_of_an_organ_come_by_value():
    assert [lesion.value for lesion in lesions_of("kidney")] == [18, 24, 25]


def test_unknown_labels_are_refused_with_the_known_ones():
    with pytest.raises(LabelError, match=r"unknown label 'spleen'; known are lung, liver"):
        label_named("spleen")
    with pytest.raises(LabelError, match="unknown organ 'liver_tumor'"):
        lesions_of("liver_tumor")
    with pytest.raises(LabelError, match="unknown label value 26"):
        label_of(26)
