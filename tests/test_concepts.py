"""The coded concepts against the tables of DICOM PS3.16 that pydicom carries."""

import pytest
from pydicom.sr._concepts_dict import concepts as pydicom_concepts

from pasta.concepts import ATTRIBUTE_CONCEPTS, LOCAL_SCHEME, OPTION_CONCEPTS, QUANTITIES, Concept
from pasta.report import ATTRIBUTES

NAMES = list(ATTRIBUTE_CONCEPTS.values())
ANSWERS = [concept for options in OPTION_CONCEPTS.values() for concept in options.values()]
ALL = [*NAMES, *ANSWERS, *(quantity.concept for quantity in QUANTITIES.values())]
PUBLIC = [concept for concept in ALL if concept.code.scheme != LOCAL_SCHEME]


def dicom_meanings(scheme: str, value: str) -> list[str]:
    return [codes[value][0] for codes in pydicom_concepts[scheme].values() if value in codes]


def test_every_option_of_every_attribute_has_a_code():
    for attribute in ATTRIBUTES:
        if attribute.options:
            assert attribute.name in ATTRIBUTE_CONCEPTS
            assert tuple(OPTION_CONCEPTS[attribute.name]) == attribute.options
    assert {"size_z", "size_x", "size_y", "volume"} <= set(QUANTITIES)


@pytest.mark.parametrize("concept", PUBLIC, ids=lambda concept: concept.code.value)
def test_a_public_code_means_in_dicom_what_we_say(concept: Concept):
    meanings = dicom_meanings(concept.code.scheme, concept.code.value)
    assert meanings, "not in the DICOM tables"
    ours = set(concept.code.meaning.lower().replace("(", "").replace(")", "").split())
    # organs have an "endo-" twin under the same code; densities are worded otherwise by SNOMED
    theirs = set(" ".join(meanings).lower().replace("(", "").replace(")", "").split())
    stems = {word[:5] for word in theirs} | {word[-4:] for word in theirs}
    assert any(word[:5] in stems or word[-4:] in stems for word in ours)


def test_units_are_ucum_codes_known_to_dicom():
    for quantity in QUANTITIES.values():
        assert quantity.unit.scheme == "UCUM"
        assert dicom_meanings("UCUM", quantity.unit.value)


def test_local_codes_fit_a_dicom_short_string_and_are_private():
    local = [concept.code for concept in ALL if concept.code.scheme == LOCAL_SCHEME]
    assert len({code.value for code in local}) == len(local) > 0
    assert LOCAL_SCHEME.startswith("99")  # PS3.3 8.2: private coding schemes
    for code in local:
        assert len(code.value) <= 16  # VR SH
        assert len(code.meaning) <= 64  # VR LO


def test_answers_to_one_question_are_distinct():
    for options in OPTION_CONCEPTS.values():
        codes = {(concept.code.scheme, concept.code.value) for concept in options.values()}
        assert len(codes) == len(options)


def test_proximity_is_not_coded_as_invasion():
    # reader study note, section 5.1: Present, Absent and RadLex invasion would overstate
    for concept in OPTION_CONCEPTS["invasion"].values():
        assert concept.code.scheme == LOCAL_SCHEME
