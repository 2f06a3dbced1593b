"""Key object documents as other systems write them: rejection notes and ordinary ones."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from pydicom import DataElement, Dataset, config
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

KEY_OBJECT = "1.2.840.10008.5.1.4.1.1.88.59"


def code(value: str, meaning: str = "title", scheme: str = "DCM") -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def note(uid: str, study_uid: str, rejected: list[str], title: Dataset, **over: Any) -> Dataset:
    """A key object document with this title about instances of one series."""
    data = Dataset()
    data.SpecificCharacterSet = "ISO_IR 192"
    data.SOPClassUID, data.SOPInstanceUID = KEY_OBJECT, uid
    data.StudyInstanceUID, data.SeriesInstanceUID = study_uid, f"{uid}.1"
    data.PatientID, data.PatientName, data.Modality = "BN1", "Nguyễn^Văn An", "KO"
    data.StudyDate = data.StudyTime = data.AccessionNumber = data.StudyID = data.ReferringPhysicianName = ""
    data.SeriesNumber = data.InstanceNumber = 1
    data.ConceptNameCodeSequence = [title]
    data.ValueType, data.ContinuityOfContent = "CONTAINER", "SEPARATE"
    series = Dataset()
    series.SeriesInstanceUID = "1.2.3"
    series.ReferencedSOPSequence = []
    for sop in rejected:
        item = Dataset()
        item.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
        item.add(DataElement(0x00081155, "UI", sop, validation_mode=config.IGNORE))
        series.ReferencedSOPSequence.append(item)
    study = Dataset()
    study.StudyInstanceUID, study.ReferencedSeriesSequence = study_uid, [series]
    data.CurrentRequestedProcedureEvidenceSequence = [study]
    for name, value in over.items():
        setattr(data, name, value)
    return data


def data_set(document: Dataset) -> bytes:
    """Its bytes in Explicit VR Little Endian, without file meta."""
    document.file_meta = FileMetaDataset()
    document.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = BytesIO()
    document.save_as(buffer, enforce_file_format=True)
    whole = buffer.getvalue()
    return whole[144 + int.from_bytes(whole[140:144], "little") :]
