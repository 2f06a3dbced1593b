"""What ingest hands to the index: the header of an instance, and the instance with its durable object."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Literal, NamedTuple

from storage.uid import InstanceUID, SeriesUID, StudyUID

__all__ = ["InstanceHeader", "Outcome", "Received", "RequestAttributes"]


class RequestAttributes(NamedTuple):
    """One item of the Request Attributes Sequence (0040,0275): which request a series answers; '' where absent."""

    scheduled_step: str
    requested_procedure: str
    accession_number: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceHeader:
    """What the index keeps of one data set: text decoded to str, dates parsed, '' or None where absent.

    Person names are 'alphabetic=ideographic=phonetic' with trailing empty groups dropped.
    Made by `pacs.header.HeaderReader`; attributes are those of PS3.4 C.6 and what an X-ray department filters on.
    """

    sop_class: str
    sop_uid: InstanceUID
    study_uid: StudyUID
    series_uid: SeriesUID
    transfer_syntax: str
    # patient
    patient_id: str = ""
    issuer: str = ""
    patient_name: str = ""
    patient_birth_date: dt.date | None = None
    patient_sex: str = ""
    patient_age: str = ""
    other_patient_ids: tuple[str, ...] = ()
    # study
    study_date: dt.date | None = None
    study_time: str = ""
    accession_number: str = ""
    study_id: str = ""
    study_description: str = ""
    referring_physician: str = ""
    timezone_offset: str = ""
    requested_priority: str = ""  # (0040,1003) or (0032,000C) where sent: STAT, HIGH, ROUTINE, ...
    # series
    modality: str = ""
    series_number: int | None = None
    series_description: str = ""
    body_part: str = ""
    laterality: str = ""
    protocol_name: str = ""
    series_date: dt.date | None = None
    series_time: str = ""
    pps_start_date: dt.date | None = None
    pps_start_time: str = ""
    performing_physician: str = ""
    station_name: str = ""
    manufacturer: str = ""
    manufacturer_model: str = ""
    institution_name: str = ""
    request_attributes: tuple[RequestAttributes, ...] = ()
    # instance
    instance_number: int | None = None
    rows: int | None = None
    columns: int | None = None
    bits_allocated: int | None = None
    frames: int | None = None
    photometric: str = ""
    view_position: str = ""
    image_type: str = ""
    content_date: dt.date | None = None
    content_time: str = ""
    acquisition_date: dt.date | None = None
    acquisition_time: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """One durable object with its header, ready for the index."""

    header: InstanceHeader
    object_key: str
    object_size: int  # bytes of the whole Part 10 file
    dataset_offset: int
    sha256: bytes  # 32 bytes, of the data set behind the file meta
    source_aet: str
    source_address: str
    received_at: dt.datetime
    site: str
    priority: Literal["stat", "urgent", "routine"]
    latest_due_at: dt.datetime  # arrival plus the site's maximum wait for that priority
    not_eligible: str = ""  # why no model will read it; '' asks for a job
    quiet: bool = False  # it brings nothing to read: a study that was read stays off the list


Outcome = Literal["stored", "duplicate", "conflict"]  # new; same bytes as before; other bytes than before
