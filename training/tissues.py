"""Tissues of TotalSegmentator label maps, as this project renders and labels them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pasta.labels import label_named

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

TISSUES = (
    "outside",
    "spleen",
    "kidney",
    "gallbladder",
    "liver",
    "stomach",
    "artery",
    "vein",
    "pancreas",
    "adrenal",
    "lung",
    "bone",
    "esophagus",
    "trachea",
    "heart",
    "bowel",
    "colon",
    "muscle",
    "bladder",
    "prostate",
    "spinal_cord",
    "cartilage",
)
TISSUE_VALUE = {name: value for value, name in enumerate(TISSUES)}

LABEL_OF_TISSUE: dict[str, str] = {
    "kidney": "kidney",
    "gallbladder": "gallbladder",
    "liver": "liver",
    "stomach": "stomach",
    "pancreas": "pancreas",
    "lung": "lung",
    "bone": "bone",
    "esophagus": "esophagus",
    "colon": "colorectum",
    "bladder": "bladder",
}

_SIDES = ("left", "right")
# TotalSegmentator v1, values 1-104
TOTALSEGMENTATOR_V1: dict[int, str] = dict(
    enumerate(
        (
            *("spleen", "kidney_right", "kidney_left", "gallbladder", "liver", "stomach", "aorta"),
            *("inferior_vena_cava", "portal_vein_and_splenic_vein", "pancreas"),
            *("adrenal_gland_right", "adrenal_gland_left"),
            *("lung_upper_lobe_left", "lung_lower_lobe_left", "lung_upper_lobe_right"),
            *("lung_middle_lobe_right", "lung_lower_lobe_right"),
            *(f"vertebrae_L{n}" for n in range(5, 0, -1)),
            *(f"vertebrae_T{n}" for n in range(12, 0, -1)),
            *(f"vertebrae_C{n}" for n in range(7, 0, -1)),
            *("esophagus", "trachea", "heart_myocardium", "heart_atrium_left"),
            *("heart_ventricle_left", "heart_atrium_right", "heart_ventricle_right"),
            *("pulmonary_artery", "brain", "iliac_artery_left", "iliac_artery_right"),
            *("iliac_vena_left", "iliac_vena_right", "small_bowel", "duodenum", "colon"),
            *(f"rib_{side}_{n}" for side in _SIDES for n in range(1, 13)),
            *(f"{bone}_{side}" for bone in ("humerus", "scapula", "clavicula") for side in _SIDES),
            *(f"{bone}_{side}" for bone in ("femur", "hip") for side in _SIDES),
            *("sacrum", "face"),
            *(f"gluteus_{part}_{s}" for part in ("maximus", "medius", "minimus") for s in _SIDES),
            *(f"{muscle}_{side}" for muscle in ("autochthon", "iliopsoas") for side in _SIDES),
            "urinary_bladder",
        ),
        start=1,
    )
)

# TotalSegmentator v2, values 1-117 (`--fast` and `--fastest` number alike)
TOTALSEGMENTATOR_V2: dict[int, str] = dict(
    enumerate(
        (
            *("spleen", "kidney_right", "kidney_left", "gallbladder", "liver", "stomach"),
            *("pancreas", "adrenal_gland_right", "adrenal_gland_left", "lung_upper_lobe_left"),
            *("lung_lower_lobe_left", "lung_upper_lobe_right", "lung_middle_lobe_right"),
            *("lung_lower_lobe_right", "esophagus", "trachea", "thyroid_gland", "small_bowel"),
            *("duodenum", "colon", "urinary_bladder", "prostate", "kidney_cyst_left"),
            *("kidney_cyst_right", "sacrum", "vertebrae_S1"),
            *(f"vertebrae_L{n}" for n in range(5, 0, -1)),
            *(f"vertebrae_T{n}" for n in range(12, 0, -1)),
            *(f"vertebrae_C{n}" for n in range(7, 0, -1)),
            *("heart", "aorta", "pulmonary_vein", "brachiocephalic_trunk"),
            *("subclavian_artery_right", "subclavian_artery_left"),
            *("common_carotid_artery_right", "common_carotid_artery_left"),
            *("brachiocephalic_vein_left", "brachiocephalic_vein_right", "atrial_appendage_left"),
            *("superior_vena_cava", "inferior_vena_cava", "portal_vein_and_splenic_vein"),
            *(f"iliac_{vessel}_{side}" for vessel in ("artery", "vena") for side in _SIDES),
            *(f"{bone}_{side}" for bone in ("humerus", "scapula", "clavicula") for side in _SIDES),
            *(f"{bone}_{side}" for bone in ("femur", "hip") for side in _SIDES),
            "spinal_cord",
            *(f"gluteus_{part}_{s}" for part in ("maximus", "medius", "minimus") for s in _SIDES),
            *(f"{muscle}_{side}" for muscle in ("autochthon", "iliopsoas") for side in _SIDES),
            *("brain", "skull"),
            *(f"rib_{side}_{n}" for side in _SIDES for n in range(1, 13)),
            *("sternum", "costal_cartilages"),
        ),
        start=1,
    )
)

_PREFIXES: dict[str, str] = {
    "kidney": "kidney",
    "thyroid": "muscle",
    "pulmonary_vein": "vein",
    **dict.fromkeys(("brachiocephalic_vein", "superior_vena_cava"), "vein"),
    **dict.fromkeys(("brachiocephalic_trunk", "subclavian_artery", "common_carotid"), "artery"),
    "atrial_appendage": "heart",
    **dict.fromkeys(("skull", "sternum"), "bone"),
    "aorta": "artery",
    "iliac_artery": "artery",
    "pulmonary_artery": "artery",
    "inferior_vena_cava": "vein",
    "portal_vein": "vein",
    "iliac_vena": "vein",
    "adrenal": "adrenal",
    "lung": "lung",
    **dict.fromkeys(
        ("vertebrae", "rib", "humerus", "scapula", "clavicula", "femur", "hip", "sacrum", "face"),
        "bone",
    ),
    "heart": "heart",
    "small_bowel": "bowel",
    "duodenum": "bowel",
    **dict.fromkeys(("gluteus", "autochthon", "iliopsoas"), "muscle"),
    "urinary_bladder": "bladder",
    "costal_cartilages": "cartilage",
    "brain": "spinal_cord",
}


def tissue_of(structure: str) -> str:
    """Name the tissue of a TotalSegmentator structure ("vertebrae_L1" is "bone").

    Raises:
        KeyError: if the structure is unknown.
    """
    if structure in TISSUE_VALUE:
        return structure
    for prefix, tissue in _PREFIXES.items():
        if structure.startswith(prefix):
            return tissue
    raise KeyError(structure)


def tissue_map(values: NDArray[np.uint8], names: Mapping[int, str]) -> NDArray[np.uint8]:
    """Turn a TotalSegmentator labelmap into tissue values.

    Args:
        values: labelmap.
        names: structure name of each value; values not named become "outside".

    Returns:
        Indices into `TISSUES`.
    """
    table = np.zeros(256, np.uint8)
    for value, name in names.items():
        table[value] = TISSUE_VALUE[tissue_of(name)]
    return table[values]


def label_map(tissues: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Turn tissue values into label values of the ten organs; all else is background."""
    table = np.zeros(256, np.uint8)
    for tissue, label in LABEL_OF_TISSUE.items():
        table[TISSUE_VALUE[tissue]] = label_named(label).value
    return table[tissues]
