"""The 25 labels of PASTA: 10 organs and the 15 lesion types in them. Standard library only.

Values: paper, Supplementary Table 9. Codes: SNOMED CT as used by DICOM SEG (PS3.16) and Slicer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pasta.errors import LabelError

BACKGROUND = "background"


@dataclass(frozen=True, slots=True)
class Code:
    """A coded concept: value, coding scheme designator, meaning (DICOM PS3.3, 8.8)."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Label:
    """One of the 25 labels.

    Attributes:
        value: label value in labelmaps, 1-25; 0 is background.
        name: key in files, URLs and specs, such as "liver_tumor".
        title: name shown to people, such as "Liver tumor".
        kind: "organ" or "lesion".
        organ: name of the organ; an organ's own name for organs.
        malignant: True for tumours, cancers and metastases, False for organs, cysts and stones.
        color: sRGB, 0-255.
        category: coded segment category.
        type: coded segment type.
        region: coded anatomic region, lesions only.
    """

    value: int
    name: str
    title: str
    kind: Literal["organ", "lesion"]
    organ: str
    malignant: bool
    color: tuple[int, int, int]
    category: Code
    type: Code
    region: Code | None = None


_ANATOMY = Code("123037004", "SCT", "Anatomical Structure")
_TISSUE = Code("85756007", "SCT", "Tissue")
_ABNORMAL = Code("49755003", "SCT", "Morphologically Altered Structure")
_NEOPLASM = Code("108369006", "SCT", "Neoplasm")
_PRIMARY = Code("86049000", "SCT", "Neoplasm, Primary")
_SECONDARY = Code("14799000", "SCT", "Neoplasm, Secondary")
_CYST = Code("367643001", "SCT", "Cyst")
_CALCULUS = Code("56381008", "SCT", "Calculus")


def _organ(
    value: int, name: str, title: str, color: tuple[int, int, int], code: str, meaning: str
) -> Label:
    category = _TISSUE if name == "bone" else _ANATOMY  # as in Slicer's terminology
    return Label(
        value, name, title, "organ", name, False, color, category, Code(code, "SCT", meaning)
    )


ORGANS: tuple[Label, ...] = (
    _organ(1, "lung", "Lung", (128, 174, 216), "39607008", "Lung"),
    _organ(2, "liver", "Liver", (186, 110, 74), "10200004", "Liver"),
    _organ(3, "gallbladder", "Gallbladder", (110, 160, 70), "28231008", "Gallbladder"),
    _organ(4, "pancreas", "Pancreas", (236, 190, 110), "15776009", "Pancreas"),
    _organ(5, "esophagus", "Esophagus", (196, 140, 180), "32849002", "Esophagus"),
    _organ(6, "stomach", "Stomach", (216, 132, 105), "69695003", "Stomach"),
    _organ(7, "colorectum", "Colon & rectum", (160, 120, 90), "14742008", "Large intestine"),
    _organ(8, "kidney", "Kidney", (180, 90, 100), "64033007", "Kidney"),
    _organ(9, "bladder", "Bladder", (220, 200, 90), "89837001", "Bladder"),
    _organ(10, "bone", "Bone", (230, 220, 190), "272673000", "Bone"),
)
_REGIONS = {organ.name: organ.type for organ in ORGANS}


def _lesion(
    value: int, name: str, title: str, organ: str, color: tuple[int, int, int], code: Code
) -> Label:
    malignant = code in {_NEOPLASM, _PRIMARY, _SECONDARY}
    return Label(
        value, name, title, "lesion", organ, malignant, color, _ABNORMAL, code, _REGIONS[organ]
    )


LESIONS: tuple[Label, ...] = (
    _lesion(11, "lung_tumor", "Lung tumor", "lung", (255, 60, 60), _NEOPLASM),
    _lesion(12, "liver_tumor", "Liver tumor", "liver", (255, 90, 0), _NEOPLASM),
    _lesion(13, "gallbladder_cancer", "Gallbladder cancer", "gallbladder", (255, 0, 110), _PRIMARY),
    _lesion(14, "pancreatic_tumor", "Pancreatic tumor", "pancreas", (255, 0, 200), _NEOPLASM),
    _lesion(15, "esophageal_cancer", "Esophageal cancer", "esophagus", (200, 0, 255), _PRIMARY),
    _lesion(16, "gastric_cancer", "Gastric cancer", "stomach", (255, 70, 150), _PRIMARY),
    _lesion(17, "colorectal_cancer", "Colorectal cancer", "colorectum", (230, 0, 60), _PRIMARY),
    _lesion(18, "kidney_tumor", "Kidney tumor", "kidney", (255, 140, 0), _NEOPLASM),
    _lesion(19, "bladder_cancer", "Bladder cancer", "bladder", (255, 80, 80), _PRIMARY),
    _lesion(20, "bone_metastasis", "Bone metastasis", "bone", (160, 0, 255), _SECONDARY),
    _lesion(21, "liver_cyst", "Liver cyst", "liver", (0, 200, 255), _CYST),
    _lesion(22, "gallstone", "Gallstone", "gallbladder", (255, 255, 0), _CALCULUS),
    _lesion(23, "pancreatic_cyst", "Pancreatic cyst", "pancreas", (0, 255, 200), _CYST),
    _lesion(24, "kidney_cyst", "Kidney cyst", "kidney", (0, 150, 255), _CYST),
    _lesion(25, "kidney_stone", "Kidney stone", "kidney", (255, 255, 120), _CALCULUS),
)

LABELS: tuple[Label, ...] = ORGANS + LESIONS
_BY_NAME = {label.name: label for label in LABELS}
_BY_VALUE = {label.value: label for label in LABELS}


def label_named(name: str) -> Label:
    """Look a label up by its name.

    Raises:
        LabelError: if no label has this name; the message lists those that exist.
    """
    try:
        return _BY_NAME[name]
    except KeyError:
        msg = f"unknown label {name!r}; known are {', '.join(_BY_NAME)}."
        raise LabelError(msg) from None


def label_of(value: int) -> Label:
    """Look a label up by its value in labelmaps.

    Raises:
        LabelError: if the value is not 1-25.
    """
    try:
        return _BY_VALUE[value]
    except KeyError:
        msg = f"unknown label value {value}; labelmaps hold 0 (background) and 1-{len(LABELS)}."
        raise LabelError(msg) from None


def organ_named(name: str) -> Label:
    """Look an organ up by its name.

    Raises:
        LabelError: if no organ has this name; the message lists the ten organs.
    """
    for organ in ORGANS:
        if organ.name == name:
            return organ
    msg = f"unknown organ {name!r}; known are {', '.join(organ.name for organ in ORGANS)}."
    raise LabelError(msg)


def lesions_of(organ: str) -> tuple[Label, ...]:
    """List the lesion types of one organ, by ascending label value."""
    return tuple(lesion for lesion in LESIONS if lesion.organ == organ_named(organ).name)
