"""Studies and series: looked up as C-FIND does, and shown with what they hold."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict

from api.context import Actor, Here, Limit, Text, UidPath
from api.instances import Instance
from api.problems import responses
from storage import names, studies
from storage.errors import NotFound

__all__ = ["router"]

router = APIRouter(prefix="/api", tags=["studies"])


class StudyHead(BaseModel):
    """One study as the index keeps it; the name as people write it."""

    model_config = ConfigDict(from_attributes=True)

    study_uid: str
    patient_id: str
    issuer: str
    patient_name: str
    patient_birth_date: dt.date | None
    patient_sex: str
    patient_age: str
    study_date: dt.date | None
    study_time: str
    accession_number: str
    study_id: str
    description: str
    referring_physician: str
    institution_name: str
    timezone_offset: str
    site: str
    requested_priority: str
    created_at: dt.datetime
    modalities: list[str]
    series_count: int
    instance_count: int


class Series(BaseModel):
    """One series with its instances."""

    model_config = ConfigDict(from_attributes=True)

    series_uid: str
    modality: str
    series_number: int | None
    description: str
    body_part: str
    laterality: str
    protocol_name: str
    series_date: dt.date | None
    series_time: str
    performing_physician: str
    station_name: str
    manufacturer: str
    manufacturer_model: str
    institution_name: str
    instances: list[Instance] = []


class Study(StudyHead):
    """One study with its series."""

    series: list[Series]


class Found(BaseModel):
    """Studies that match, the latest first; `more` when the limit cut some off."""

    items: list[StudyHead]
    more: bool


@router.get("/studies", responses=responses(401, 422, 503))
def find(
    *,
    here: Here,
    _: Actor,
    patient_id: Text = None,
    accession: Text = None,
    name: Annotated[Text, Query(description="beginnings of words of the name, in any order, accents optional")] = None,
    modality: Text = None,
    date_from: Annotated[dt.date | None, Query(description="study date, included")] = None,
    date_to: Annotated[dt.date | None, Query(description="study date, included")] = None,
    limit: Limit = 50,
) -> Found:
    """Studies that match all that is given, the latest first."""
    with here.database.autocommit() as connection:
        found = studies.find_studies(
            connection,
            patient_id=patient_id,
            accession=accession,
            name=name,
            modality=modality,
            date_from=date_from,
            date_to=date_to,
            limit=limit + 1,
        )
    return Found(items=[_head(one) for one in found[:limit]], more=len(found) > limit)


@router.get("/studies/{study_uid}", responses=responses(401, 404, 422, 503))
def study(here: Here, _: Actor, study_uid: UidPath) -> Study:
    """One study with its series and instances."""
    with here.database.autocommit() as connection:
        head = _head(studies.study(connection, study_uid))
        below = {one.series_uid: Series.model_validate(one) for one in studies.series_of(connection, study_uid)}
        for one in studies.instances_of(connection, study_uid):
            if one.series_uid in below:  # else it came between the two statements
                below[one.series_uid].instances.append(Instance.model_validate(one))
    return Study(**head.model_dump(), series=list(below.values()))


@router.get("/studies/{study_uid}/series/{series_uid}", responses=responses(401, 404, 422, 503))
def series(here: Here, _: Actor, study_uid: UidPath, series_uid: UidPath) -> Series:
    """One series with its instances; below its study, because some senders use one series UID in two studies."""
    with here.database.autocommit() as connection:
        found = [one for one in studies.series_of(connection, study_uid) if one.series_uid == series_uid]
        instances = studies.instances_of(connection, study_uid, series_uid)
    if not found:
        raise NotFound(f"There is no series {series_uid} in study {study_uid}.")
    shown = Series.model_validate(found[0])
    shown.instances = [Instance.model_validate(one) for one in instances]
    return shown


def _head(found: studies.Study) -> StudyHead:
    head = StudyHead.model_validate(found)
    head.patient_name = names.display(found.patient_name)
    return head
