"""From received instances to the rows that the function `index_instances` of the schema takes (`0002_pre.sql`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from storage import names
from storage.received import InstanceHeader, Received, RequestAttributes

__all__ = ["SeriesPlace", "arrays"]

SeriesPlace = tuple[int, int]
"""The keys of a study and of a series in it."""

_INDEXED_TEXT_MAX = 256  # characters
_URGENCY = {"routine": 0, "urgent": 1, "stat": 2}

_SeriesKey = tuple[str, str]
_Row = dict[str, Any]


def arrays(batch: list[Received], places: Sequence[SeriesPlace | None]) -> list[str | None]:
    """The arguments of the function `index_instances`: each array in the order of its key, without repeats."""
    instances = []
    for received, place in sorted(zip(batch, places, strict=True), key=lambda pair: pair[0].header.sop_uid):
        row = _instance_row(received)
        if place is None:
            row["study_uid"], row["series_uid"] = received.header.study_uid, received.header.series_uid
        else:
            row["study_fk"], row["series_fk"] = place
        instances.append(row)
    arrivals = _arrivals(batch, places)
    if None not in places:
        return [None, None, None, _json(instances), _json(arrivals)]
    patients: dict[str, _Row] = {}
    studies: dict[str, _Row] = {}
    series: dict[_SeriesKey, _Row] = {}
    for received in batch:
        header = received.header
        if header.study_uid not in studies:
            studies[header.study_uid] = study = _study_row(received)
            patient = patients.setdefault(study["patient_key"], _patient_row(study, header))
            patient["study_uids"].append(header.study_uid)
        series.setdefault((header.series_uid, header.study_uid), _series_row(header))
    for arrival in arrivals:
        studies[arrival["study_uid"]].update(arrival)
    levels = [[rows[key] for key in sorted(rows)] for rows in (patients, studies)]
    levels.append([series[key] for key in sorted(series)])
    return [_json(rows) for rows in (*levels, instances, arrivals)]


def _arrivals(batch: list[Received], places: Sequence[SeriesPlace | None]) -> list[_Row]:
    """What the instances of a batch bring to the worklist rows of their studies, in the order of the studies' UIDs."""
    arrivals: dict[str, _Row] = {}
    for received, place in zip(batch, places, strict=True):
        eligible, urgency = not received.not_eligible, _URGENCY[received.priority]
        known = arrivals.get(received.header.study_uid)
        if known is None:
            arrivals[received.header.study_uid] = {
                "study_fk": place and place[0],
                "study_uid": received.header.study_uid,
                "received_at": received.received_at,
                "latest_due_at": received.latest_due_at,
                "urgency": urgency,
                "eligible": eligible,
                "not_eligible": received.not_eligible,
                "modalities": _modalities(received),
                "quiet": received.quiet,
            }
            continue
        known["received_at"] = min(known["received_at"], received.received_at)
        known["latest_due_at"] = min(known["latest_due_at"], received.latest_due_at)
        known["urgency"] = max(known["urgency"], urgency)
        known["modalities"] = sorted({*known["modalities"], *_modalities(received)})
        known["quiet"] = known["quiet"] and received.quiet
        if eligible:
            known["eligible"], known["not_eligible"] = True, ""
    return [arrivals[key] for key in sorted(arrivals)]


def _modalities(received: Received) -> list[str]:
    modality = _indexable(received.header.modality)
    return [modality] if modality else []


def _instance_row(received: Received) -> _Row:
    header = received.header
    return {
        "sop_uid": header.sop_uid,
        "sop_class": header.sop_class,
        "transfer_syntax": header.transfer_syntax,
        "instance_number": _integer(header.instance_number),
        "rows": _integer(header.rows),
        "columns": _integer(header.columns),
        "bits_allocated": _integer(header.bits_allocated),
        "frames": _integer(header.frames),
        "photometric": header.photometric,
        "view_position": header.view_position,
        "image_type": header.image_type,
        "content_date": header.content_date,
        "content_time": header.content_time,
        "acquisition_date": header.acquisition_date,
        "acquisition_time": header.acquisition_time,
        "object_key": received.object_key,
        "object_size": received.object_size,
        "dataset_offset": received.dataset_offset,
        "sha256": received.sha256.hex(),
        "source_aet": received.source_aet,
        "source_address": received.source_address,
        "received_at": received.received_at,
        "urgency": _URGENCY[received.priority],
        "not_eligible": received.not_eligible,
    }


def _study_row(received: Received) -> _Row:
    header = received.header
    patient_id, issuer = _indexable(header.patient_id), _indexable(header.issuer)
    words = names.words(header.patient_name)
    return {
        "study_uid": header.study_uid,
        # A backslash cannot occur in either part (PS3.5 6.2, LO).
        "patient_key": f"{issuer}\\{patient_id}" if patient_id else f"study:{header.study_uid}",
        "patient_id": patient_id,
        "patient_name": header.patient_name,
        "patient_name_key": " ".join(words),
        "name_words": words,
        "patient_birth_date": header.patient_birth_date,
        "patient_sex": header.patient_sex,
        "patient_age": header.patient_age,
        "study_date": header.study_date,
        "study_time": header.study_time,
        "accession_number": _indexable(header.accession_number),
        "study_id": header.study_id,
        "study_description": header.study_description,
        "referring_physician": header.referring_physician,
        "institution_name": header.institution_name,
        "timezone_offset": header.timezone_offset,
        "site": _indexable(received.site),
        "source_aet": received.source_aet,
        "source_address": received.source_address,
    }


def _patient_row(study: _Row, header: InstanceHeader) -> _Row:
    return {
        "patient_key": study["patient_key"],
        "patient_id": study["patient_id"],
        "issuer": _indexable(header.issuer),
        "patient_name": header.patient_name,
        "patient_birth_date": header.patient_birth_date,
        "patient_sex": header.patient_sex,
        "other_ids": header.other_patient_ids,
        "study_uids": [],
    }


def _series_row(header: InstanceHeader) -> _Row:
    return {
        "study_uid": header.study_uid,
        "series_uid": header.series_uid,
        "modality": _indexable(header.modality),
        "series_number": _integer(header.series_number),
        "series_description": header.series_description,
        "body_part": header.body_part,
        "laterality": header.laterality,
        "protocol_name": header.protocol_name,
        "series_date": header.series_date,
        "series_time": header.series_time,
        "pps_start_date": header.pps_start_date,
        "pps_start_time": header.pps_start_time,
        "performing_physician": header.performing_physician,
        "station_name": header.station_name,
        "manufacturer": header.manufacturer,
        "manufacturer_model": header.manufacturer_model,
        "institution_name": header.institution_name,
        "request_attributes": [_request(one) for one in header.request_attributes],
    }


def _request(one: RequestAttributes) -> _Row:
    """What is known of it, by the keywords of `storage.attributes`."""
    values = {
        "ScheduledProcedureStepID": one.scheduled_step,
        "RequestedProcedureID": one.requested_procedure,
        "AccessionNumber": one.accession_number,
    }
    return {keyword: value for keyword, value in values.items() if value}


def _indexable(text: str) -> str:
    """A B-tree entry holds 2,704 bytes; the VRs of what is indexed allow 64 characters at most."""
    return text[:_INDEXED_TEXT_MAX]


def _integer(value: int | None) -> int | None:
    """A number that the column can hold: senders write anything into IS."""
    return value if value is None or -(2**31) <= value < 2**31 else None


def _json(rows: list[_Row]) -> str:
    """The rows as JSON without what PostgreSQL's text cannot hold: NUL and lone surrogates."""
    try:
        text = orjson.dumps(rows, default=str)
    except TypeError:  # a lone surrogate
        text = b"\\u0000"
    if b"\\u0000" in text:
        rows = [{key: _clean(value) for key, value in row.items()} for row in rows]
        text = orjson.dumps(rows, default=str)
    return text.decode()


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return str(value).replace("\0", "").encode(errors="replace").decode()
    if isinstance(value, dict):
        return {key: _clean(each) for key, each in value.items()}
    return [_clean(each) for each in value] if isinstance(value, (list, tuple)) else value
