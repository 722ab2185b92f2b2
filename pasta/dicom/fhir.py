"""A report as FHIR R4 DiagnosticReport, lesions as contained Observations; no patient identity in it."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from pasta import RESEARCH_USE_ONLY, __version__
from pasta.concepts import ATTRIBUTE_CONCEPTS, LOCAL_SCHEME, OPTION_CONCEPTS, QUANTITIES, Concept
from pasta.dicom.source import model_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pasta.dicom.statements import Lesion, Statements
    from pasta.labels import Code

# HL7's names for DICOM's coding schemes
SYSTEMS: Mapping[str, str] = {
    "SCT": "http://snomed.info/sct",
    "DCM": "http://dicom.nema.org/resources/ontology/DCM",
    "UCUM": "http://unitsofmeasure.org",
    "RADLEX": "http://radlex.org",
    LOCAL_SCHEME: "urn:pasta-aid:codes",
}
_CATEGORY = "http://terminology.hl7.org/CodeSystem/v2-0074"
_OBSERVATION_CATEGORY = "http://terminology.hl7.org/CodeSystem/observation-category"
_ACT_REASON = "http://terminology.hl7.org/CodeSystem/v3-ActReason"


def diagnostic_report(
    statements: Statements, *, subject: str = "", issued: str = "", pdf: bytes | None = None
) -> dict[str, Any]:
    """Build the resource.

    It is "preliminary" whoever made it, and tagged for research in `meta.security` (HRESCH).

    Args:
        statements: the report.
        subject: reference such as "Patient/123"; left out if empty, for the site to fill in.
        issued: FHIR instant, such as "2026-01-31T12:00:00+00:00".
        pdf: to be attached.
    """
    observations = [_observation(lesion, subject) for lesion in statements.lesions]
    report: dict[str, Any] = {
        "resourceType": "DiagnosticReport",
        "meta": {"security": [_coding(_ACT_REASON, "HRESCH", "healthcare research")]},
        "language": "en",
        "contained": [*observations, _device(statements)],
        "status": "preliminary",
        "category": [{"coding": [_coding(_CATEGORY, "RAD", "Radiology")]}],
        "code": {
            "coding": [_coding("http://loinc.org", "18748-4", "Diagnostic imaging study")],
            "text": "Structured CT report. " + RESEARCH_USE_ONLY,
        },
        "conclusion": f"{statements.impression} {RESEARCH_USE_ONLY}",
    }
    if observations:
        report["result"] = [{"reference": f"#{item['id']}"} for item in observations]
    if statements.reader:
        report["resultsInterpreter"] = [{"display": f"reader {statements.reader} (pseudonym)"}]
    if subject:
        report["subject"] = {"reference": subject}
    if issued:
        report["issued"] = issued
    if pdf is not None:
        report["presentedForm"] = [
            {
                "contentType": "application/pdf",
                "data": base64.b64encode(pdf).decode(),
                "title": "Structured CT report, research use only",
            }
        ]
    return report


def _device(statements: Statements) -> dict[str, Any]:
    name, serial = model_text(statements.models)
    return {
        "resourceType": "Device",
        "id": "software",
        "manufacturer": "PASTA-AID",
        "deviceName": [{"name": "PASTA-AID (AI, research use only)", "type": "manufacturer-name"}],
        "modelNumber": name,
        "serialNumber": serial,
        "version": [{"value": f"pasta-aid {__version__}"}],
    }


def _observation(lesion: Lesion, subject: str) -> dict[str, Any]:
    components = [
        {
            "code": _concept(ATTRIBUTE_CONCEPTS[name]),
            "valueCodeableConcept": _concept(OPTION_CONCEPTS[name][value], value),
        }
        for name, value in lesion.values.items()
        if value is not None and name not in ("size", "location")
    ]
    quantities: dict[str, float] = {}
    if lesion.size_mm is not None:
        quantities |= zip(("size_z", "size_x", "size_y"), lesion.size_mm, strict=True)
    if lesion.volume_ml is not None:
        quantities["volume"] = 1000 * lesion.volume_ml
    components += [_quantity(name, value) for name, value in quantities.items()]
    observation: dict[str, Any] = {
        "resourceType": "Observation",
        "id": f"lesion-{lesion.number}",
        "status": "preliminary",
        "category": [{"coding": [_coding(_OBSERVATION_CATEGORY, "imaging", "Imaging")]}],
        "code": {"coding": [_coded(lesion.label.type)], "text": lesion.label.title},
        "device": {"reference": "#software"},
        "note": [{"text": lesion.comment}],
        "component": components,
    }
    location = lesion.values["location"]
    if location is not None:
        observation["bodySite"] = _concept(OPTION_CONCEPTS["location"][location], location)
    if subject:
        observation["subject"] = {"reference": subject}
    return observation


def _quantity(name: str, value: float) -> dict[str, Any]:
    quantity = QUANTITIES[name]
    return {
        "code": _concept(quantity.concept),
        "valueQuantity": {
            "value": round(value, 3),
            "unit": quantity.unit.value,
            "system": SYSTEMS["UCUM"],
            "code": quantity.unit.value,
        },
    }


def _concept(concept: Concept, text: str = "") -> dict[str, Any]:
    return {"coding": [_coded(concept.code)], "text": text or concept.code.meaning}


def _coded(code: Code) -> dict[str, str]:
    return _coding(SYSTEMS[code.scheme], code.value, code.meaning)


def _coding(system: str, code: str, display: str) -> dict[str, str]:
    return {"system": system, "code": code, "display": display}
