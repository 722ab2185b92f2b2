"""Coded concepts for reports: what DICOM SR and other machines call our attributes and options.

Codes were looked up in DICOM PS3.16 (context groups named beside them) and in published templates.
Where no code says what PASTA's option says, a private one of scheme 99PASTA stands, as DICOM PS3.3
section 8.2 allows; a near but broader code is marked `exact=False` with what is lost. Codes of organs
and lesion types are in `pasta.labels`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pasta.labels import ORGANS, Code
from pasta.report.attributes import (
    CLOSE,
    ENHANCED,
    HETEROGENEOUS,
    HOMOGENEOUS,
    HYPERDENSE,
    HYPODENSE,
    ILL_DEFINED,
    IRREGULAR,
    ISODENSE,
    LOCATIONS,
    NON_CONTRAST,
    NOT_CLOSE,
    PUNCTATE,
    ROUND,
    WALL,
    WELL_DEFINED,
)

LOCAL_SCHEME = "99PASTA"


@dataclass(frozen=True, slots=True)
class Concept:
    """A code for one of our terms.

    Attributes:
        code: to be written.
        source: where the code was found, such as "CID 6131".
        exact: whether the code means neither more nor less than our term.
        note: what is lost or to be watched.
        alternatives: other codes for the same term, to be understood when read.
    """

    code: Code
    source: str
    exact: bool = True
    note: str = ""
    alternatives: tuple[Code, ...] = ()


@dataclass(frozen=True, slots=True)
class Quantity:
    """A coded measurement with its UCUM unit."""

    concept: Concept
    unit: Code


def _local(value: str, meaning: str, note: str) -> Concept:
    return Concept(Code(value, LOCAL_SCHEME, meaning), "local", note=note)


_MAMMOGRAPHY = "value set of mammography; the meaning is broad enough for CT"

# The question: concept name of each attribute. The size has one per axis, see QUANTITIES.
ATTRIBUTE_CONCEPTS: Mapping[str, Concept] = {
    "enhancement": _local("ENH", "Enhancement status", "no exact public code found"),
    "location": Concept(Code("363698007", "SCT", "Finding Site"), "CID 9000"),
    "shape": Concept(
        Code("300842002", "SCT", "Shape"),
        "CID 6333",
        alternatives=(Code("112015", "DCM", "Border shape"),),
    ),
    "density": Concept(Code("111035", "DCM", "Lesion Density"), "PS3.16 annex D"),
    "heterogeneity": Concept(Code("112010", "DCM", "Texture Descriptor"), "PS3.16 annex D"),
    "surface": Concept(Code("112007", "DCM", "Border definition"), "PS3.16 annex D"),
    "invasion": _local(
        "INV",
        "Relationship with surrounding structures",
        "PASTA's options mean proximity; RadLex RID39257 (invasion) would overstate",
    ),
}

# The answer: concept code of each option.
OPTION_CONCEPTS: Mapping[str, Mapping[str, Concept]] = {
    "enhancement": {
        ENHANCED: _local(
            "ENH-YES",
            "Enhanced CT",
            "NCIt C113842 and C81175 are of an enhancing lesion, not of an enhanced scan",
        ),
        NON_CONTRAST: Concept(Code("399331006", "SCT", "CT without contrast"), "CID 10014"),
    },
    "location": {
        LOCATIONS[organ.name]: Concept(organ.type, "Slicer DICOM-Master terminology")
        for organ in ORGANS
    },
    "shape": {
        ROUND: Concept(Code("42700002", "SCT", "Round"), "CID 6119"),
        IRREGULAR: Concept(Code("49608001", "SCT", "Irregular"), "CID 6119"),
        WALL: _local("SHP-WALL", "Wall thickening", "no public code verified"),
        PUNCTATE: Concept(
            Code("255288007", "SCT", "Nodular"), "CID 6132", exact=False, note="punctate is lost"
        ),
    },
    "density": {
        HYPODENSE: Concept(
            Code("129746008", "SCT", "Low density (not containing fat) lesion"),
            "CID 6008",
            exact=False,
            note=f"{_MAMMOGRAPHY}, but it excludes fat",
        ),
        ISODENSE: Concept(
            Code("129745007", "SCT", "Equal density (isodense) lesion"),
            "CID 6008",
            exact=False,
            note=_MAMMOGRAPHY,
        ),
        HYPERDENSE: Concept(
            Code("129744006", "SCT", "High density lesion"),
            "CID 6008",
            exact=False,
            note=_MAMMOGRAPHY,
        ),
    },
    "heterogeneity": {
        HOMOGENEOUS: Concept(Code("112160", "DCM", "Homogeneous"), "CID 6131"),
        HETEROGENEOUS: Concept(
            Code("112161", "DCM", "Inhomogeneous"),
            "CID 6131",
            alternatives=(Code("RID6060", "RADLEX", "Heterogeneous"),),
        ),
    },
    "surface": {
        WELL_DEFINED: Concept(
            Code("260409000", "SCT", "Well defined"),
            "CID 6120",
            alternatives=(Code("RID5707", "RADLEX", "Circumscribed margin"),),
        ),
        ILL_DEFINED: Concept(
            Code("300841009", "SCT", "Poorly defined"),
            "CID 6120",
            alternatives=(Code("RID5709", "RADLEX", "Indistinct margin"),),
        ),
    },
    "invasion": {
        NOT_CLOSE: _local(
            "INV-NO",
            "No close relationship with surrounding structures",
            "SCT 272519000 (Absent) would overstate",
        ),
        CLOSE: _local(
            "INV-CLOSE",
            "Close relationship with adjacent structures",
            "SCT 52101004 (Present) would overstate",
        ),
    },
}

_MM = Code("mm", "UCUM", "millimeter")
# Three items all named Length would come back without their axes.
QUANTITIES: Mapping[str, Quantity] = {
    "size_z": Quantity(Concept(Code("121207", "DCM", "Height"), "CID 7470"), _MM),
    "size_x": Quantity(Concept(Code("103355008", "SCT", "Width"), "CID 7470"), _MM),
    "size_y": Quantity(Concept(Code("131197000", "SCT", "Depth"), "CID 7470"), _MM),
    "volume": Quantity(
        Concept(Code("118565006", "SCT", "Volume"), "CID 7472"),
        Code("mm3", "UCUM", "cubic millimeter"),
    ),
    "tumor_probability": Quantity(
        Concept(
            Code("111047", "DCM", "Probability of cancer"),
            "CID 6048",
            alternatives=(Code("122157", "DCM", "Probability"),),
        ),
        Code("%", "UCUM", "percent"),
    ),
}


@dataclass(frozen=True, slots=True)
class Question:
    """A coded question with its coded answers, by our words for them."""

    question: Concept
    answers: Mapping[str, Concept]


_NO_PUBLIC = "no public code found"
# What screening says of an organ beside the probability, or instead of it.
SCREENING_STATUS = Question(
    _local("SCR", "Screening status", _NO_PUBLIC),
    {
        "screened": _local("SCR-DONE", "Organ screened", _NO_PUBLIC),
        "absent": _local("SCR-ABSENT", "Organ not in the scan", _NO_PUBLIC),
        "cut_off": _local("SCR-CUT", "Organ cut off by the scan", _NO_PUBLIC),
        "too_small": _local("SCR-SMALL", "Organ too small to be screened", _NO_PUBLIC),
    },
)

# TID 1500 needs one group or more; a report without lesions says so in one of its own.
NO_LESION = Question(
    _local("LES", "Lesions marked", _NO_PUBLIC),
    {"none": _local("LES-NONE", "No lesion marked in the scan", "does not exclude one")},
)
