"""Rejection notes that we write when a person rejects: key object selection documents (PS3.3 A.35.4, IHE RAD-66).

A note is stored like any other object, so forwarding tells other archives. That one is due stands in the database
(`rejection_notes`) since the transaction of the rejection; it is written by the exchange process.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from io import BytesIO
from typing import Any

import structlog
from psycopg.rows import dict_row
from pydicom import Dataset
from pydicom.filebase import DicomFileLike
from pydicom.filewriter import write_dataset
from pydicom.uid import ExplicitVRLittleEndian

from pacs.ingest import KEY_OBJECT, Arrival, Ingest
from pacs.rejection import apply as apply_note
from storage.database import Database
from storage.moving import new_uid
from storage.objects import ObjectStore
from storage.removal import REASONS, RejectionPolicy

__all__ = ["build_note", "write_due"]

log = structlog.get_logger()

_NEVER = dt.timedelta(days=365)  # a note makes nothing urgent
_WAVEFORMS = "1.2.840.10008.5.1.4.1.1.9."

Row = dict[str, Any]


def write_due(database: Database, store: ObjectStore, ae_title: str, policy: RejectionPolicy) -> int:
    """Write the notes that rejections ask for; how many. Raises `Unavailable`; a note that failed is tried again."""
    with database.autocommit() as connection:
        due = connection.execute(
            "SELECT sop_uid, change_fk FROM rejection_notes WHERE state = 'due' ORDER BY noted_at"
        ).fetchall()
    for note_uid, change_pk in due:
        found = _rejected(database, change_pk)
        if found:
            _store(database, store, ae_title, build_note(note_uid, found))
            apply_note(database, store, note_uid, policy)
            log.info("rejection note written", sop_uid=note_uid, instances=len(found))
        else:  # restored meanwhile
            with database.autocommit() as connection:
                connection.execute("DELETE FROM rejection_notes WHERE sop_uid = %s AND state = 'due'", (note_uid,))
    return len(due)


def _rejected(database: Database, change_pk: int) -> list[Row]:
    with database.autocommit() as connection, connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(
            "SELECT s.study_uid, s.patient_id, p.issuer, s.patient_name, s.patient_birth_date, s.patient_sex,"
            " s.study_date, s.study_time, s.accession_number, s.study_id, s.description, s.referring_physician,"
            " e.series_uid, i.sop_uid, i.sop_class, i.rows, c.reason, c.comment, c.at"
            " FROM changes AS c JOIN removed_instances AS r ON r.change_fk = c.change_pk"
            " JOIN instances AS i ON i.sop_uid = r.sop_uid JOIN series AS e ON e.series_pk = i.series_fk"
            " JOIN studies AS s ON s.study_pk = e.study_fk JOIN patients AS p ON p.patient_pk = s.patient_fk"
            " WHERE c.change_pk = %s ORDER BY s.study_uid, e.series_uid, i.instance_number NULLS LAST, i.sop_uid",
            (change_pk,),
        ).fetchall()


def build_note(note_uid: str, rejected: Sequence[Row]) -> Dataset:
    """The document that rejects these instances of one study (rows of the index, by series)."""
    row = rejected[0]
    note = Dataset()
    note.SpecificCharacterSet = "ISO_IR 192"
    note.SOPClassUID, note.SOPInstanceUID = KEY_OBJECT, note_uid
    note.StudyDate, note.StudyTime = _date(row["study_date"]), row["study_time"]
    note.ContentDate, note.ContentTime = row["at"].strftime("%Y%m%d"), row["at"].strftime("%H%M%S")
    note.TimezoneOffsetFromUTC = "+0000"
    note.AccessionNumber, note.StudyID = row["accession_number"][:16], row["study_id"][:16]
    note.StudyDescription = row["description"][:64]
    note.ReferringPhysicianName = row["referring_physician"]
    note.Modality, note.Manufacturer = "KO", "sangloc"
    note.SeriesDescription = "Rejection note"
    note.PatientName, note.PatientID = row["patient_name"], row["patient_id"]
    if row["issuer"]:
        note.IssuerOfPatientID = row["issuer"]
    note.PatientBirthDate, note.PatientSex = _date(row["patient_birth_date"]), row["patient_sex"]
    note.StudyInstanceUID, note.SeriesInstanceUID = row["study_uid"], new_uid()
    note.SeriesNumber, note.InstanceNumber = 1, 1
    note.ReferencedPerformedProcedureStepSequence = []
    _content(note, rejected)
    return note


def _content(note: Dataset, rejected: Sequence[Row]) -> None:
    """Evidence and content tree (PS3.16 TID 2010)."""
    code = REASONS[rejected[0]["reason"]]
    note.ValueType, note.ContinuityOfContent = "CONTAINER", "SEPARATE"
    note.ConceptNameCodeSequence = [_code(code.value, code.meaning)]
    template = Dataset()
    template.MappingResource, template.TemplateIdentifier = "DCMR", "2010"
    note.ContentTemplateSequence = [template]
    note.CurrentRequestedProcedureEvidenceSequence = [_evidence(rejected)]
    note.ContentSequence = [*_description(rejected[0]["comment"]), *(_reference(row) for row in rejected)]


def _evidence(rejected: Sequence[Row]) -> Dataset:
    study = Dataset()
    study.StudyInstanceUID = rejected[0]["study_uid"]
    study.ReferencedSeriesSequence = []
    for series_uid in dict.fromkeys(row["series_uid"] for row in rejected):
        series = Dataset()
        series.SeriesInstanceUID = series_uid
        series.ReferencedSOPSequence = [_sop(row) for row in rejected if row["series_uid"] == series_uid]
        study.ReferencedSeriesSequence.append(series)
    return study


def _description(comment: str) -> Iterable[Dataset]:
    if comment:
        item = Dataset()
        item.RelationshipType, item.ValueType = "CONTAINS", "TEXT"
        item.ConceptNameCodeSequence = [_code("113012", "Key Object Description")]
        item.TextValue = comment
        yield item


def _reference(row: Row) -> Dataset:
    item = Dataset()
    item.RelationshipType = "CONTAINS"
    waveform = row["sop_class"].startswith(_WAVEFORMS)
    item.ValueType = "IMAGE" if row["rows"] else "WAVEFORM" if waveform else "COMPOSITE"
    item.ReferencedSOPSequence = [_sop(row)]
    return item


def _sop(row: Row) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = row["sop_class"], row["sop_uid"]
    return item


def _code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item


def _date(date: dt.date | None) -> str:
    return "" if date is None else date.strftime("%Y%m%d")


def _store(database: Database, store: ObjectStore, ae_title: str, note: Dataset) -> None:
    ingest = Ingest(
        database, store, screen=lambda _: "a rejection note", arrival=lambda _h, at, _s: Arrival("routine", at + _NEVER)
    )
    buffer = BytesIO()
    file = DicomFileLike(buffer)
    file.is_implicit_VR, file.is_little_endian = False, True
    write_dataset(file, note)
    try:
        with ingest.receive(
            sop_class=KEY_OBJECT,
            sop_uid=note.SOPInstanceUID,
            transfer_syntax=ExplicitVRLittleEndian,
            source_aet=ae_title,
            source_address="",
        ) as incoming:
            incoming.write([buffer.getvalue()])
            incoming.commit()
    finally:
        ingest.close()
