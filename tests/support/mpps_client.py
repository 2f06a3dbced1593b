"""A modality that reports what it performs (MPPS), made of pynetdicom."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE
from pynetdicom.sop_class import ModalityPerformedProcedureStep

DX = "1.2.840.10008.5.1.4.1.1.1.1"


def item(**values: Any) -> Dataset:
    """A data set by keywords; None leaves an attribute away. Wrong values are meant."""
    made = Dataset()
    with disable_value_validation():
        for name, value in values.items():
            if value is not None:
                setattr(made, name, value)
    return made


def scheduled(study_uid: str, step_id: str = "", accession: str = "", procedure_id: str = "") -> Dataset:
    """What the modality took from the worklist."""
    return item(
        StudyInstanceUID=study_uid,
        AccessionNumber=accession,
        ScheduledProcedureStepID=step_id,
        RequestedProcedureID=procedure_id,
        ReferencedStudySequence=[],
    )


def beginning(*steps: Dataset, **over: Any) -> Dataset:
    """The attributes of an N-CREATE (PS3.4 table F.7.2-1)."""
    values: dict[str, Any] = {
        "SpecificCharacterSet": "ISO_IR 192",
        "ScheduledStepAttributesSequence": list(steps),
        "PatientName": "Nguyễn^Văn An",
        "PatientID": "BN1",
        "PatientBirthDate": "19610430",
        "PatientSex": "M",
        "PerformedProcedureStepID": "PPS1",
        "PerformedStationAETitle": "XRAY1",
        "PerformedProcedureStepStartDate": "20261122",
        "PerformedProcedureStepStartTime": "080100",
        "PerformedProcedureStepStatus": "IN PROGRESS",
        "Modality": "DX",
        "PerformedSeriesSequence": [],
    }
    return item(**values | over)


def ending(instances: Iterable[str] = (), status: str = "COMPLETED", **over: Any) -> Dataset:
    """The attributes of the last N-SET, with one series of these instances."""
    references = [item(ReferencedSOPClassUID=DX, ReferencedSOPInstanceUID=uid) for uid in instances]
    series = item(ProtocolName="Chest PA", SeriesInstanceUID=generate_uid(), ReferencedImageSequence=references)
    values: dict[str, Any] = {
        "PerformedProcedureStepStatus": status,
        "PerformedProcedureStepEndDate": "20261122",
        "PerformedProcedureStepEndTime": "081000",
        "PerformedSeriesSequence": [series],
    }
    return item(**values | over)


class Modality:
    """One association for MPPS; each method gives the response's command set."""

    def __init__(self, port: int, ae_title: str = "XRAY1") -> None:
        ae = AE(ae_title)
        ae.add_requested_context(ModalityPerformedProcedureStep)
        self._association = ae.associate("127.0.0.1", port, ae_title="SANGLOC")
        assert self._association.is_established

    def create(self, data: Dataset, sop_uid: str | None) -> Dataset:
        status, _ = self._association.send_n_create(data, ModalityPerformedProcedureStep, sop_uid)
        return status

    def set(self, data: Dataset, sop_uid: str) -> Dataset:
        status, _ = self._association.send_n_set(data, ModalityPerformedProcedureStep, sop_uid)
        return status

    def release(self) -> None:
        self._association.release()

    def __enter__(self) -> Modality:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def tags(status: Dataset) -> Sequence[int]:
    """Attribute Identifier List (0000,1005) of a response."""
    value = status.get("AttributeIdentifierList")
    return [] if value is None else [int(tag) for tag in (value if isinstance(value, Iterable) else [value])]
