"""QIDO-RS (PS3.18 10.6): search for studies, series and instances."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from api.context import Actor, Context, Here, UidPath
from api.dicomweb.attributes import json_model, row_json
from api.dicomweb.media import Offer, accepted, choose
from api.dicomweb.xml import native
from api.problems import responses
from pacs import answers
from pacs.identifiers import Element, Elements
from pacs.query import Options, Parsed, parse
from pacs.query_parameters import Asked, read
from storage import search
from storage.attributes import ATTRIBUTES, BY_KEYWORD, BY_TAG, Attribute, Kind, Level
from storage.errors import DatabaseUnavailable, InvalidInput

__all__ = ["router"]

router = APIRouter(tags=["QIDO-RS"])

_JSON = Offer("application/dicom+json", aliases=("application/json",))
_XML = Offer("application/dicom+xml", multipart=True)
_BOUNDARY = "sangloc-native-dicom-model"  # as an element or a text of such a document, it cannot occur
_MOST_COUNTED = 1_000  # matches; a total beyond it is a lower bound
_COUNTING_MS = 25  # longest statement of the count: among millions of studies, a page is found sooner than its total
_RETRIEVE_URL = 0x00081190
_RETRIEVE = Attribute("RetrieveURL", _RETRIEVE_URL, "UR", Kind.UID, {})
_ROOT = "/dicom-web"

# What is returned without being asked for (PS3.18 tables 10.6.3-3 to 10.6.3-5).
_DEFAULTS: Mapping[Level, tuple[Attribute, ...]] = {
    level: tuple(BY_KEYWORD[keyword] for keyword in keywords.split())
    for level, keywords in {
        Level.STUDY: """StudyDate StudyTime AccessionNumber InstanceAvailability ModalitiesInStudy
            ReferringPhysicianName TimezoneOffsetFromUTC PatientName PatientID PatientBirthDate PatientSex
            StudyInstanceUID StudyID NumberOfStudyRelatedSeries NumberOfStudyRelatedInstances""",
        Level.SERIES: """Modality TimezoneOffsetFromUTC SeriesDescription InstanceAvailability StudyInstanceUID
            SeriesInstanceUID SeriesNumber NumberOfSeriesRelatedInstances PerformedProcedureStepStartDate
            PerformedProcedureStepStartTime RequestAttributesSequence""",
        Level.IMAGE: """SOPClassUID SOPInstanceUID InstanceAvailability TimezoneOffsetFromUTC StudyInstanceUID
            SeriesInstanceUID InstanceNumber Rows Columns BitsAllocated NumberOfFrames""",
    }.items()
}

_IF_KNOWN = {
    BY_KEYWORD[one].tag
    for one in (
        "TimezoneOffsetFromUTC",
        "RequestAttributesSequence",
        "Rows",
        "Columns",
        "BitsAllocated",
        "NumberOfFrames",
    )
}
_STUDY, _SERIES = BY_KEYWORD["StudyInstanceUID"].tag, BY_KEYWORD["SeriesInstanceUID"].tag
_INSTANCE = BY_KEYWORD["SOPInstanceUID"].tag
_PATH = ((_STUDY, "studies"), (_SERIES, "series"), (_INSTANCE, "instances"))

_PARAMETERS: list[dict[str, Any]] = [
    {"name": name, "in": "query", "description": text, "schema": schema}
    for name, text, schema in (
        ("limit", "most matches that are returned", {"type": "integer", "minimum": 0, "maximum": 999_999_999}),
        ("offset", "matches to skip", {"type": "integer", "minimum": 0, "maximum": 999_999_999}),
        ("fuzzymatching", "person names by the beginnings of their words, in any order", {"type": "boolean"}),
        ("emptyvaluematching", 'the value `""` matches what is empty', {"type": "boolean"}),
        ("includefield", "attributes to return besides, by commas; or `all`", {"type": "string"}),
        ("PatientName", "any attribute, by keyword, tag or path: wildcards, ranges, lists", {"type": "string"}),
    )
]
_ROUTE: dict[str, Any] = {
    "responses": {
        200: {
            "description": "Matches, the latest study first. `X-Total-Count` has their number without limit and offset;"
            " with `X-Total-Count-Relation: gte` there are at least so many",
            "content": {_JSON.kind: {}, str(_XML): {}},
        },
        204: {"description": "Nothing matches"},
        **responses(400, 401, 406, 503),
    },
    "openapi_extra": {"parameters": _PARAMETERS},
}


@router.get("/studies", **_ROUTE)
def studies(request: Request, here: Here, _: Actor) -> Response:
    """Studies."""
    return _search(request, here, Level.STUDY, {}, _DEFAULTS[Level.STUDY])


@router.get("/series", **_ROUTE)
def all_series(request: Request, here: Here, _: Actor) -> Response:
    """Series of all studies, with the attributes of their studies."""
    return _search(request, here, Level.SERIES, {}, _DEFAULTS[Level.STUDY] + _DEFAULTS[Level.SERIES])


@router.get("/studies/{study_uid}/series", **_ROUTE)
def series_of_study(request: Request, here: Here, _: Actor, study_uid: UidPath) -> Response:
    """Series of one study."""
    return _search(request, here, Level.SERIES, {_STUDY: study_uid}, _DEFAULTS[Level.SERIES])


@router.get("/instances", **_ROUTE)
def all_instances(request: Request, here: Here, _: Actor) -> Response:
    """Instances of all studies, with the attributes of their studies and series."""
    return _search(request, here, Level.IMAGE, {}, sum(_DEFAULTS.values(), ()))


@router.get("/studies/{study_uid}/instances", **_ROUTE)
def instances_of_study(request: Request, here: Here, _: Actor, study_uid: UidPath) -> Response:
    """Instances of one study, with the attributes of their series."""
    return _search(request, here, Level.IMAGE, {_STUDY: study_uid}, _DEFAULTS[Level.SERIES] + _DEFAULTS[Level.IMAGE])


@router.get("/studies/{study_uid}/series/{series_uid}/instances", **_ROUTE)
def instances_of_series(request: Request, here: Here, _: Actor, study_uid: UidPath, series_uid: UidPath) -> Response:
    """Instances of one series."""
    return _search(request, here, Level.IMAGE, {_STUDY: study_uid, _SERIES: series_uid}, _DEFAULTS[Level.IMAGE])


def _search(
    request: Request, here: Context, level: Level, path: Mapping[int, str], defaults: tuple[Attribute, ...]
) -> Response:
    offer, _ = choose(accepted(request), (_JSON, _XML))
    asked = read(request.query_params.multi_items())
    for tag, uid in path.items():
        if tag in asked.keys:
            raise InvalidInput(f"{BY_TAG[tag].keyword} stands in the path already.")
        asked.keys[tag] = Element("UI", (uid,))
    options = Options(relational=True, combined=True, fuzzy=asked.fuzzy, empty_values=asked.empty_values)
    parsed = parse(asked.keys, level, options)
    warnings = _unsupported(asked, parsed, level)
    parsed = Parsed(parsed.query, _returned(asked, parsed, level, defaults))
    most = here.config.max_results
    limit = most if asked.limit is None else min(asked.limit, most)
    found = answers.find(here.searches, parsed, limit=limit, offset=asked.offset)
    if found.cut and limit == most:
        warnings.append(f"There are more than {limit} matches: ask for the others with limit and offset.")
    headers = _counted(here, found, asked.offset)
    if warnings:
        headers["Warning"] = ", ".join(f'299 sangloc "{text}"' for text in warnings)
    if not len(found):
        return Response(status_code=204, headers=headers)
    service = str(request.base_url).rstrip("/") + _ROOT
    return _response(found, service, offer, headers)


def _unsupported(asked: Asked, parsed: Parsed, level: Level) -> list[str]:
    """What could not be done, for a person (PS3.18 8.3.4)."""
    matched = [tag for tag in parsed.unsupported if any(asked.keys[tag].values)]
    included = [tag for tag in asked.include if tag not in BY_TAG or BY_TAG[tag].level > level]
    said = []
    if matched:
        said.append(f"These attributes are not matched: {_listed(matched)}.")
    if included:
        said.append(f"These attributes are not returned: {_listed(included)}.")
    return said


def _listed(tags: list[int]) -> str:
    return ", ".join(f"{tag:08X}" for tag in sorted(tags))


def _returned(asked: Asked, parsed: Parsed, level: Level, defaults: tuple[Attribute, ...]) -> tuple[Attribute, ...]:
    wanted = dict.fromkeys((*defaults, *parsed.wanted))
    if asked.include_all:
        lowest = Level.PATIENT if level is Level.STUDY else level
        wanted |= dict.fromkeys(one for one in ATTRIBUTES if lowest <= one.level <= level)
    wanted |= dict.fromkeys(BY_TAG[tag] for tag in asked.include if tag in BY_TAG)
    return tuple(one for one in wanted if one.level <= level)


def _counted(here: Context, found: answers.Found, offset: int) -> dict[str, str]:
    """How many matches there are, at a bounded cost."""
    known = offset + len(found)
    if not found.cut and (len(found) or not offset):
        total = search.Total(known, exact=True)
    else:
        try:
            with here.searches.transaction() as connection:
                connection.execute(f"SET LOCAL statement_timeout = {_COUNTING_MS}".encode())
                total = search.total(connection, found.search, at_most=max(_MOST_COUNTED, known))
        except DatabaseUnavailable:  # the matches are there, and were quicker than their number
            total = search.Total(known, exact=False)
    return {"X-Total-Count": str(total.found), "X-Total-Count-Relation": "eq" if total.exact else "gte"}


def _response(found: answers.Found, service: str, offer: Offer, headers: dict[str, str]) -> Response:
    if not offer.multipart:
        return Response(b"[" + b",".join(_json(found, service)) + b"]", headers=headers, media_type=offer.kind)
    part = f"--{_BOUNDARY}\r\nContent-Type: {offer.kind}\r\n\r\n".encode()
    documents = (part + native(model) + b"\r\n" for model in _models(found, service))
    body = b"".join(documents) + f"--{_BOUNDARY}--\r\n".encode()
    return Response(body, headers=headers, media_type=f"{offer}; boundary={_BOUNDARY}")


def _json(found: answers.Found, service: str) -> Iterator[bytes]:
    attributes = found.attributes
    if attributes is None:
        yield from map(orjson.dumps, _models(found, service))
        return
    tags = [one.tag for one in attributes]
    places = [(name, tags.index(tag)) for tag, name in _PATH if tag in tags]
    json = row_json((*attributes, _RETRIEVE), _IF_KNOWN)
    for row in found.rows():
        yield json((*row, service + "".join([f"/{name}/{row[place]}" for name, place in places])))


def _models(found: answers.Found, service: str) -> Iterator[dict[str, Any]]:
    for match in found:
        match[_RETRIEVE_URL] = Element("UR", (_url(match, service),))
        yield json_model({tag: one for tag, one in match.items() if one.values or tag not in _IF_KNOWN})


def _url(match: Elements, service: str) -> str:
    return service + "".join(f"/{name}/{match[tag].values[0]}" for tag, name in _PATH if tag in match)
