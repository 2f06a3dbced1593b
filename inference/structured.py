"""The structured report of a score: a Comprehensive 3D SR after TID 1500, as the IHE AI Results profile wants it.

One measurement group for each finding: its code, tracking UID, the algorithm (TID 4019), probability and threshold, and
the region of the image where there is a map. The report is unverified and preliminary, and says what it is for.
"""

from __future__ import annotations

from typing import Any, Final

import highdicom as hd
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom import Dataset
from pydicom.sr.codedict import codes

from inference.codes import PRIVATE, PRIVATE_UID, Term
from inference.report import Analysis, Found, common, finished, local, stable_uid, tracking_uid

__all__ = ["structured_report"]

_ONE: Final = codes.UCUM.NoUnits


def structured_report(image: Dataset, analysis: Analysis) -> Dataset:
    """The Comprehensive 3D SR (PS3.3 A.35.13, PS3.16 TID 1500)."""
    at = local(analysis.scored_at, image)
    content = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(
            observer_device_context=hd.sr.ObserverContext(
                observer_type=codes.DCM.Device,
                observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
                    uid=stable_uid("device", analysis.ae_title),
                    name=analysis.ae_title,
                    manufacturer_name="sangloc",
                    model_name=analysis.model_name,
                    serial_number=analysis.weights_sha256[:16],
                ),
            )
        ),
        procedure_reported=_coded("399208008", "SCT", "Plain chest X-ray"),
        imaging_measurements=[_group(image, analysis, found) for found in analysis.findings],
        title=codes.DCM.ImagingMeasurementReport,
        referenced_images=[image] if {"PatientOrientation", "ImagerPixelSpacing"} <= set(image.dir()) else None,
    )
    made = hd.sr.Comprehensive3DSR(
        evidence=[image],
        content=content,
        is_complete=True,
        is_final=False,
        is_verified=False,
        content_date=at.date(),
        content_time=at.time(),
        coding_schemes=[_private_scheme()],
        **common("sr", image, analysis),
    )
    return finished(made, image, analysis)


def _group(image: Dataset, analysis: Analysis, found: Found) -> Any:
    """One finding (TID 1410 with a region, else TID 1501)."""
    flag = ("FLAGGED", "Flagged") if analysis.flagged else ("NOT-FLAGGED", "Not flagged: no negative finding")
    common: dict[str, Any] = {
        "tracking_identifier": hd.sr.TrackingIdentifier(
            uid=tracking_uid(analysis, found.name), identifier=f"{analysis.model_name} {found.term.english}"
        ),
        "finding_type": _concept(found.term),
        "algorithm_id": _algorithm(analysis),
        "measurements": [
            hd.sr.Measurement(name=codes.DCM.Probability, value=_rounded(found.probability), unit=_ONE),
            hd.sr.Measurement(name=codes.DCM.ThresholdValue, value=_rounded(found.threshold), unit=_ONE),
        ],
        "qualitative_evaluations": [
            _evaluation(("FLAG", "Triage flag"), flag),
            _evaluation(("USE", "Intended use"), ("TRIAGE-ONLY", "Order of reading only, not for diagnosis")),
        ],
    }
    if found.region is None:
        images = [hd.sr.SourceImageForMeasurementGroup.from_source_image(image)]
        return hd.sr.MeasurementsAndQualitativeEvaluations(source_images=images, **common)
    region = hd.sr.ImageRegion(
        graphic_type=hd.sr.GraphicTypeValues.POLYLINE,
        graphic_data=found.region.corners(image.Rows, image.Columns),
        source_image=hd.sr.SourceImageForRegion.from_source_image(image),
    )
    return hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        referenced_region=region, geometric_purpose=codes.SCT.BoundedBy, **common
    )


def _algorithm(analysis: Analysis) -> hd.sr.AlgorithmIdentification:
    """Who says so (TID 4019): name, version, and what made the numbers."""
    return hd.sr.AlgorithmIdentification(
        name=analysis.model_name,
        version=analysis.model_version,
        family=codes.DCM.ArtificialIntelligence,
        manufacturer="sangloc",
        parameters=[
            f"weights SHA-256 {analysis.weights_sha256}",
            f"engine {analysis.engine}",
            *(f"image {note}" for note in analysis.notes),
        ],
    )


def _evaluation(name: tuple[str, str], value: tuple[str, str]) -> hd.sr.QualitativeEvaluation:
    return hd.sr.QualitativeEvaluation(
        name=_coded(name[0], PRIVATE, name[1]), value=_coded(value[0], PRIVATE, value[1])
    )


def _concept(found: Term) -> hd.sr.CodedConcept:
    return _coded(found.value, found.scheme, found.meaning)


def _coded(value: str, scheme: str, meaning: str) -> hd.sr.CodedConcept:
    return hd.sr.CodedConcept(value=value, scheme_designator=scheme, meaning=meaning)


def _private_scheme() -> CodingSchemeIdentificationItem:
    item = CodingSchemeIdentificationItem(
        designator=PRIVATE, name="sangloc", responsible_organization="the sangloc project"
    )
    item.CodingSchemeUID = PRIVATE_UID
    return item


def _rounded(value: float) -> float:
    return round(min(1.0, max(0.0, value)), 4)
