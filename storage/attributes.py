"""The attributes that the index keeps, each with its place in DICOM and in the tables: one line each.

`C-FIND`, `QIDO-RS` and the conformance statement are all made from this table.
"""

from __future__ import annotations

# ruff: noqa: S608 - the statements are put together from constants only
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final

__all__ = ["ATTRIBUTES", "BY_KEYWORD", "BY_TAG", "PAIRS", "UNIQUE_KEYS", "Attribute", "Kind", "Level", "nested"]


class Level(IntEnum):
    """A level of the Query/Retrieve information models (PS3.4 C.6.1.1)."""

    PATIENT = 1
    STUDY = 2
    SERIES = 3
    IMAGE = 4


class Kind(StrEnum):
    """How the column holds the value, which is how it is matched."""

    UID = "uid"  # text, compared whole
    TEXT = "text"  # text, with wildcards
    NAME = "name"  # person name: alphabetic=ideographic=phonetic
    DATE = "date"  # date or NULL
    TIME = "time"  # HHMMSS.FFFFFF as sent
    NUMBER = "number"  # integer or NULL
    TEXTS = "texts"  # array of texts
    JOINED = "joined"  # texts joined by backslashes
    ITEMS = "items"  # jsonb: a list of items, of texts by keyword
    COUNTED = "counted"  # computed when it is asked for; never matched
    FIXED = "fixed"  # the same for all; never matched


@dataclass(frozen=True, slots=True, eq=False)
class Attribute:
    """One attribute; `columns` has its SQL by the level from which on it is that.

    The tables are `p` patients, `s` studies, `e` series, `i` instances; `counts` has what is in a study.
    """

    keyword: str
    tag: int
    vr: str
    kind: Kind
    columns: Mapping[Level, str]

    @property
    def level(self) -> Level:
        """The highest level at which it can be returned."""
        return min(self.columns)

    def place(self, level: Level) -> Level:
        """The level whose row has it in a query of `level`: the nearest one, or one below if none above has it."""
        return max((one for one in self.columns if one <= level), default=self.level)

    def column(self, level: Level) -> str:
        """Its SQL in a query of this level; '' where it lies below."""
        return self.columns[self.place(level)] if self.level <= level else ""


_P, _S, _E, _I = Level

_STUDIES = "SELECT study_pk FROM studies WHERE patient_fk = p.patient_pk AND NOT hidden"
_SERIES = "SELECT series_pk FROM series WHERE study_fk = {} AND NOT hidden"
_COUNT = "(SELECT count(*)::int FROM ({}) AS b)"
_INSTANCES = (
    "(SELECT coalesce(sum((SELECT count(*) FROM instances WHERE series_fk = b.pk AND NOT hidden)), 0)::int"
    " FROM ({}) AS b (pk))"
)
_OF_PATIENT = "SELECT series_pk FROM series WHERE study_fk = ANY(ARRAY(" + _STUDIES + ")) AND NOT hidden"
_OF_STUDY = _SERIES.format("s.study_pk")
_SOP_CLASSES = (
    "ARRAY(SELECT DISTINCT sop_class FROM instances WHERE series_fk = ANY(ARRAY(" + _OF_STUDY + ")) AND NOT hidden"
    " ORDER BY sop_class)"
)
_ONLINE = "'ONLINE'"
_OTHER_IDS = "(SELECT jsonb_agg(jsonb_build_object('PatientID', id)) FROM unnest(p.other_ids) AS id)"

ATTRIBUTES: Final = tuple(
    Attribute(keyword, tag, vr, Kind(kind), columns)
    for keyword, tag, vr, kind, columns in (
        # patient; a study has these as it sent them
        ("PatientName", 0x00100010, "PN", "name", {_P: "p.name", _S: "s.patient_name"}),
        ("PatientID", 0x00100020, "LO", "text", {_P: "p.patient_id", _S: "s.patient_id"}),
        ("IssuerOfPatientID", 0x00100021, "LO", "text", {_P: "p.issuer"}),
        ("PatientBirthDate", 0x00100030, "DA", "date", {_P: "p.birth_date", _S: "s.patient_birth_date"}),
        ("PatientSex", 0x00100040, "CS", "text", {_P: "p.sex", _S: "s.patient_sex"}),
        ("OtherPatientIDs", 0x00101000, "LO", "texts", {_P: "p.other_ids"}),
        ("OtherPatientIDsSequence", 0x00101002, "SQ", "items", {_P: _OTHER_IDS}),
        ("NumberOfPatientRelatedStudies", 0x00201200, "IS", "counted", {_P: _COUNT.format(_STUDIES)}),
        ("NumberOfPatientRelatedSeries", 0x00201202, "IS", "counted", {_P: _COUNT.format(_OF_PATIENT)}),
        ("NumberOfPatientRelatedInstances", 0x00201204, "IS", "counted", {_P: _INSTANCES.format(_OF_PATIENT)}),
        # study
        ("StudyInstanceUID", 0x0020000D, "UI", "uid", {_S: "s.study_uid"}),
        ("StudyDate", 0x00080020, "DA", "date", {_S: "s.study_date"}),
        ("StudyTime", 0x00080030, "TM", "time", {_S: "s.study_time"}),
        ("AccessionNumber", 0x00080050, "SH", "text", {_S: "s.accession_number"}),
        ("StudyID", 0x00200010, "SH", "text", {_S: "s.study_id"}),
        ("StudyDescription", 0x00081030, "LO", "text", {_S: "s.description"}),
        ("ReferringPhysicianName", 0x00080090, "PN", "name", {_S: "s.referring_physician"}),
        ("PatientAge", 0x00101010, "AS", "text", {_S: "s.patient_age"}),
        ("TimezoneOffsetFromUTC", 0x00080201, "SH", "text", {_S: "s.timezone_offset"}),
        ("InstitutionName", 0x00080080, "LO", "text", {_S: "s.institution_name", _E: "e.institution_name"}),
        ("ModalitiesInStudy", 0x00080061, "CS", "texts", {_S: "s.modalities"}),
        ("SOPClassesInStudy", 0x00080062, "UI", "counted", {_S: _SOP_CLASSES}),
        ("NumberOfStudyRelatedSeries", 0x00201206, "IS", "counted", {_S: "counts.series"}),
        ("NumberOfStudyRelatedInstances", 0x00201208, "IS", "counted", {_S: "counts.instances"}),
        ("InstanceAvailability", 0x00080056, "CS", "fixed", {_P: _ONLINE}),
        # series
        ("SeriesInstanceUID", 0x0020000E, "UI", "uid", {_E: "e.series_uid"}),
        ("Modality", 0x00080060, "CS", "text", {_E: "e.modality"}),
        ("SeriesNumber", 0x00200011, "IS", "number", {_E: "e.series_number"}),
        ("SeriesDescription", 0x0008103E, "LO", "text", {_E: "e.description"}),
        ("SeriesDate", 0x00080021, "DA", "date", {_E: "e.series_date"}),
        ("SeriesTime", 0x00080031, "TM", "time", {_E: "e.series_time"}),
        ("BodyPartExamined", 0x00180015, "CS", "text", {_E: "e.body_part"}),
        ("Laterality", 0x00200060, "CS", "text", {_E: "e.laterality"}),
        ("ProtocolName", 0x00181030, "LO", "text", {_E: "e.protocol_name"}),
        ("PerformedProcedureStepStartDate", 0x00400244, "DA", "date", {_E: "e.pps_start_date"}),
        ("PerformedProcedureStepStartTime", 0x00400245, "TM", "time", {_E: "e.pps_start_time"}),
        ("PerformingPhysicianName", 0x00081050, "PN", "name", {_E: "e.performing_physician"}),
        ("StationName", 0x00081010, "SH", "text", {_E: "e.station_name"}),
        ("Manufacturer", 0x00080070, "LO", "text", {_E: "e.manufacturer"}),
        ("ManufacturerModelName", 0x00081090, "LO", "text", {_E: "e.manufacturer_model"}),
        ("RequestAttributesSequence", 0x00400275, "SQ", "items", {_E: "e.request_attributes"}),
        ("NumberOfSeriesRelatedInstances", 0x00201209, "IS", "counted",
            {_E: "(SELECT count(*)::int FROM instances WHERE series_fk = e.series_pk AND NOT hidden)"}),
        # instance
        ("SOPInstanceUID", 0x00080018, "UI", "uid", {_I: "i.sop_uid"}),
        ("SOPClassUID", 0x00080016, "UI", "uid", {_I: "i.sop_class"}),
        ("InstanceNumber", 0x00200013, "IS", "number", {_I: "i.instance_number"}),
        ("Rows", 0x00280010, "US", "number", {_I: "i.rows"}),
        ("Columns", 0x00280011, "US", "number", {_I: "i.columns"}),
        ("BitsAllocated", 0x00280100, "US", "number", {_I: "i.bits_allocated"}),
        ("NumberOfFrames", 0x00280008, "IS", "number", {_I: "i.frames"}),
        ("PhotometricInterpretation", 0x00280004, "CS", "text", {_I: "i.photometric"}),
        ("ViewPosition", 0x00185101, "CS", "text", {_I: "i.view_position"}),
        ("ImageType", 0x00080008, "CS", "joined", {_I: "i.image_type"}),
        ("ContentDate", 0x00080023, "DA", "date", {_I: "i.content_date"}),
        ("ContentTime", 0x00080033, "TM", "time", {_I: "i.content_time"}),
        ("AcquisitionDate", 0x00080022, "DA", "date", {_I: "i.acquisition_date"}),
        ("AcquisitionTime", 0x00080032, "TM", "time", {_I: "i.acquisition_time"}),
        ("AvailableTransferSyntaxUID", 0x00083002, "UI", "uid", {_I: "i.transfer_syntax"}),
    )
)  # fmt: skip

BY_TAG: Final = {one.tag: one for one in ATTRIBUTES}
BY_KEYWORD: Final = {one.keyword: one for one in ATTRIBUTES}
UNIQUE_KEYS: Final = {
    Level.PATIENT: BY_KEYWORD["PatientID"],
    Level.STUDY: BY_KEYWORD["StudyInstanceUID"],
    Level.SERIES: BY_KEYWORD["SeriesInstanceUID"],
    Level.IMAGE: BY_KEYWORD["SOPInstanceUID"],
}
_STEMS = ("Study", "Series", "PerformedProcedureStepStart", "Content", "Acquisition")
PAIRS: Final = {stem: (BY_KEYWORD[f"{stem}Date"], BY_KEYWORD[f"{stem}Time"]) for stem in _STEMS}
"""Dates with their times: moments that have a time zone."""

_NESTED: Final = {
    "OtherPatientIDsSequence": {0x00100020: ("PatientID", "LO")},
    "RequestAttributesSequence": {
        0x00080050: ("AccessionNumber", "SH"),
        0x00400009: ("ScheduledProcedureStepID", "SH"),
        0x00401001: ("RequestedProcedureID", "SH"),
    },
}


def nested(attribute: Attribute) -> Mapping[int, tuple[str, str]]:
    """Keyword and VR of what the items of a sequence have, by tag."""
    return _NESTED.get(attribute.keyword, {})
