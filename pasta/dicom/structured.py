"""DICOM SR, TID 1500: the structured report, and the screening of organs.

One measurement group a lesion (TID 1411 where it has a segment, else TID 1501), one an organ screened.
The location is the finding site, the size three lengths, the other attributes qualitative evaluations;
all codes are those of `pasta.concepts`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code as PydicomCode

from pasta import RESEARCH_USE_ONLY, __version__
from pasta.concepts import (
    ATTRIBUTE_CONCEPTS,
    LOCAL_SCHEME,
    NO_LESION,
    OPTION_CONCEPTS,
    QUANTITIES,
    SCREENING_STATUS,
)
from pasta.dicom.segmentation import SegObject, tracking_id, tracking_uid
from pasta.dicom.source import (
    COMMENT,
    DEVICE,
    MANUFACTURER,
    MEASUREMENT_REPORT,
    PERSON,
    REPORT_SERIES,
    SCREENING_SERIES,
    coded,
    model_text,
    uid_of,
    utf8,
)
from pasta.errors import DicomError, ReportError
from pasta.labels import LESIONS, organ_named

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pydicom

    from pasta.dicom.segments import Segment
    from pasta.dicom.source import Source
    from pasta.dicom.statements import Lesion, Statements

_CT = PydicomCode("77477000", "SCT", "Computed tomography")
_SEG_STORAGE = "1.2.840.10008.5.1.4.1.1.66.4"
_AXES = ("size_z", "size_x", "size_y")
_NEOPLASM = next(lesion for lesion in LESIONS if lesion.name == "liver_tumor").type


def report_sr(
    statements: Statements, source: Source, segments: SegObject | None = None
) -> pydicom.Dataset:
    """Make a DICOM SR of a report.

    The model is the device observer; a reader, if there is one, the person observer under a pseudonym.
    The document is never final nor verified: it is research output.

    Args:
        statements: the report.
        source: the CT series; the object takes over its patient and study.
        segments: the SEG made with the same lesions, for the references; None without a mask.

    Raises:
        DicomError: if the series lacks what an SR needs.
    """
    algorithm = _algorithm(statements.models)
    groups = [_lesion_group(lesion, source, segments, algorithm) for lesion in statements.lesions]
    groups = groups or [_no_lesion(source, algorithm)]
    by = f"reader {statements.reader}" if statements.reader else "AI"
    comment = f"Report by {by}, {'complete' if statements.complete else 'not reviewed'}. "
    return _document(
        groups,
        source,
        (
            "sr",
            statements.text,
            statements.reader,
            *[lesion.comment for lesion in statements.lesions],
            segments and segments.dataset.SOPInstanceUID,
        ),
        series=REPORT_SERIES,
        description=f"PASTA-AID report ({'reader' if statements.reader else 'AI'}, research use only)",
        comment=comment + RESEARCH_USE_ONLY,
        models=statements.models,
        reader=statements.reader,
        complete=statements.complete,
        evidence=[segments.dataset] if segments else [],
    )


def screening_sr(document: Mapping[str, Any], source: Source) -> pydicom.Dataset:
    """Make a DICOM SR of a screening result: the probability of a tumour in each organ.

    Args:
        document: answer of `pasta_screening` (`ScreeningResult.document`).
        source: the CT series; the object takes over its patient and study.

    Raises:
        ReportError: if the document is not a screening result.
        DicomError: if the series lacks what an SR needs.
    """
    try:
        models = document["model"]
        groups = [_organ_group(organ, source, _algorithm(models)) for organ in document["organs"]]
        warnings = [str(text) for text in document.get("warnings", ())]
    except (KeyError, TypeError) as error:
        msg = f"screening: {error} is missing or wrong. Give screening.json as PASTA-AID wrote it."
        raise ReportError(msg) from error
    if not groups:
        msg = "screening: no organ was asked for; there is nothing to report."
        raise ReportError(msg)
    return _document(
        groups,
        source,
        ("screening", json.dumps(document, sort_keys=True)),
        series=SCREENING_SERIES,
        description="PASTA-AID screening (AI, research use only)",
        comment=" ".join(["Screening by AI, not reviewed.", RESEARCH_USE_ONLY, *warnings]),
        models=models,
    )


def _document(
    groups: Sequence[Any],
    source: Source,
    key: tuple[object, ...],
    *,
    series: int,
    description: str,
    comment: str,
    models: Sequence[Mapping[str, Any]],
    reader: str = "",
    complete: bool = False,
    evidence: Sequence[pydicom.Dataset] = (),
) -> pydicom.Dataset:
    report = sr.MeasurementReport(
        observation_context=_observers(models, reader),
        procedure_reported=_CT,
        imaging_measurements=list(groups),
        title=MEASUREMENT_REPORT,
    )
    report[0].ContentSequence.append(_comment(comment))
    uids = (source.series_uid, *key)
    try:
        dataset: pydicom.Dataset = sr.Comprehensive3DSR(
            evidence=[*source.images, *evidence],
            content=report[0],
            series_instance_uid=uid_of("series", *uids),
            series_number=series,
            sop_instance_uid=uid_of("instance", *uids),
            instance_number=1,
            manufacturer=MANUFACTURER,
            is_complete=complete,
            is_final=False,
            is_verified=False,
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # not chained: values of the series may be in the text
        kind = type(error).__name__
        msg = f"the CT series does not allow a DICOM report ({kind}). Export it again."
        raise DicomError(msg) from None
    dataset.SeriesDescription = description
    dataset.ManufacturerModelName = model_text(models)[0][:64]
    dataset.SoftwareVersions = f"pasta-aid {__version__}"
    scheme = Dataset()
    scheme.CodingSchemeDesignator = LOCAL_SCHEME
    scheme.CodingSchemeName = "Codes of PASTA-AID for what has no public code"
    scheme.CodingSchemeResponsibleOrganization = MANUFACTURER
    dataset.CodingSchemeIdentificationSequence = [scheme]
    utf8(dataset)
    return dataset


def _observers(models: Sequence[Mapping[str, Any]], reader: str) -> sr.ObservationContext:
    name, serial = model_text(models)
    device = sr.ObserverContext(
        observer_type=DEVICE,
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=uid_of("device", name, serial),
            name=f"PASTA-AID (AI, research use only), pasta-aid {__version__}",
            manufacturer_name=MANUFACTURER,
            model_name=name,
            serial_number=serial,
        ),
    )
    if not reader:
        return sr.ObservationContext(observer_device_context=device)
    person = sr.ObserverContext(
        observer_type=PERSON,
        observer_identifying_attributes=sr.PersonObserverIdentifyingAttributes(
            name=f"{reader}^Reader"
        ),
    )
    return sr.ObservationContext(
        observer_person_context=person, observer_device_context=device if models else None
    )


def _algorithm(models: Sequence[Mapping[str, Any]]) -> sr.AlgorithmIdentification | None:
    if not models:
        return None
    name, serial = model_text(models)
    return sr.AlgorithmIdentification(
        name=f"PASTA-AID: {name}", version=f"pasta-aid {__version__}, weights {serial}"
    )


def _lesion_group(
    lesion: Lesion, source: Source, segments: SegObject | None, algorithm: Any
) -> Any:
    segment = segments.of_lesion(lesion) if segments else None
    common = {
        "tracking_identifier": sr.TrackingIdentifier(
            uid=tracking_uid(source.series_uid, lesion.number),
            identifier=tracking_id(lesion.number),
        ),
        "finding_category": coded(lesion.label.category),
        "finding_type": coded(lesion.label.type),
        "algorithm_id": algorithm if lesion.origin == "AI" else None,
        "finding_sites": _sites(lesion),
        "measurements": _measurements(lesion),
        "qualitative_evaluations": _evaluations(lesion),
    }
    if segments is not None and segment is not None:
        group = sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
            referenced_segment=_referenced(segments, segment, source), **common
        )
    else:
        group = sr.MeasurementsAndQualitativeEvaluations(
            source_images=_images(source, lesion.box[2] if lesion.box else None), **common
        )
    group[0].ContentSequence.append(_comment(lesion.comment))
    return group


def _no_lesion(source: Source, algorithm: Any) -> Any:
    answer = NO_LESION.answers["none"]
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=uid_of("case", source.series_uid), identifier="PASTA-AID whole scan"
        ),
        algorithm_id=algorithm,
        qualitative_evaluations=[
            sr.QualitativeEvaluation(coded(NO_LESION.question.code), coded(answer.code))
        ],
    )


def _referenced(segments: SegObject, segment: Segment, source: Source) -> sr.ReferencedSegment:
    # by hand: ReferencedSegment.from_segmentation fails on a SEG of one segment
    images = [
        sr.SourceImageForSegmentation(image.SOPClassUID, image.SOPInstanceUID)
        for image in source.images[slice(*segment.slices)]
    ]
    uid = segments.dataset.SOPInstanceUID
    return sr.ReferencedSegment(_SEG_STORAGE, uid, segment.number, source_images=images)


def _images(source: Source, slices: tuple[int, int] | None) -> list[Any] | None:
    if slices is None:
        return None
    return [
        sr.SourceImageForMeasurementGroup(image.SOPClassUID, image.SOPInstanceUID)
        for image in source.images[slice(*slices)]
    ] or None


def _sites(lesion: Lesion) -> list[sr.FindingSite] | None:
    location = lesion.values["location"]
    if location is None:
        return None
    return [sr.FindingSite(coded(OPTION_CONCEPTS["location"][location].code))]


def _measurements(lesion: Lesion) -> list[sr.Measurement]:
    values: dict[str, float] = {}
    if lesion.size_mm is not None:
        values.update(zip(_AXES, lesion.size_mm, strict=True))
    if lesion.volume_ml is not None:
        values["volume"] = lesion.volume_ml * 1000  # mm3
    return [_measurement(name, value) for name, value in values.items()]


def _measurement(name: str, value: float) -> sr.Measurement:
    quantity = QUANTITIES[name]
    return sr.Measurement(
        name=coded(quantity.concept.code), value=round(value, 3), unit=coded(quantity.unit)
    )


def _evaluations(lesion: Lesion) -> list[sr.QualitativeEvaluation]:
    return [
        sr.QualitativeEvaluation(
            name=coded(ATTRIBUTE_CONCEPTS[name].code),
            value=coded(OPTION_CONCEPTS[name][value].code),
        )
        for name, value in lesion.values.items()
        if value is not None and name not in ("location", "size")
    ]


def _organ_group(organ: Mapping[str, Any], source: Source, algorithm: Any) -> Any:
    label = organ_named(organ["organ"])
    probability = organ["probability"]
    box = organ["box_voxels"]
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=uid_of("organ", source.series_uid, label.name),
            identifier=f"PASTA-AID screening of {label.title}",
        ),
        finding_type=coded(_NEOPLASM),
        algorithm_id=algorithm,
        finding_sites=[sr.FindingSite(coded(label.type))],
        measurements=[]
        if probability is None
        else [_measurement("tumor_probability", 100 * probability)],
        qualitative_evaluations=[
            sr.QualitativeEvaluation(
                name=coded(SCREENING_STATUS.question.code),
                value=coded(SCREENING_STATUS.answers[organ["status"]].code),
            )
        ],
        source_images=_images(source, tuple(box[2]) if box else None),
    )
    group[0].ContentSequence.append(_comment(f"{organ['sentence']} {RESEARCH_USE_ONLY}"))
    return group


def _comment(text: str) -> sr.TextContentItem:
    return sr.TextContentItem(
        name=COMMENT,
        value=text,
        relationship_type=sr.RelationshipTypeValues.CONTAINS,
    )
