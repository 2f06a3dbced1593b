"""What the retrieve transactions have in common: their resources, who asks, and what to say of what is not there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Path, Request

from api.context import Context, UidPath
from pacs.retrieve import Selection, StoredInstance
from storage.errors import NotFound
from storage.retrieval import details

__all__ = [
    "INSTANCE",
    "SERIES",
    "STUDY",
    "FrameList",
    "InstanceUids",
    "address",
    "get",
    "missing",
    "one",
    "origin",
    "selection",
]

STUDY = "/studies/{study_uid}"
SERIES = STUDY + "/series/{series_uid}"
INSTANCE = SERIES + "/instances/{sop_uid}"


async def _instance_uids(study_uid: UidPath, series_uid: UidPath, sop_uid: UidPath) -> tuple[str, str, str]:
    return study_uid, series_uid, sop_uid


_ONE = """
SELECT instance_pk FROM instances AS i JOIN series AS e ON series_pk = series_fk
JOIN studies AS s ON study_pk = e.study_fk
WHERE sop_uid = %s AND series_uid = %s AND study_uid = %s AND NOT (i.hidden OR e.hidden OR s.hidden)"""

InstanceUids = Annotated[tuple[str, str, str], Depends(_instance_uids)]
"""Study, series and SOP Instance UID of the path."""


async def _frame_list(
    frames: Annotated[str, Path(pattern=r"^[1-9][0-9]{0,8}(,[1-9][0-9]{0,8})*$", max_length=10_000)],
) -> list[int]:
    return [int(number) for number in frames.split(",")]


FrameList = Annotated[list[int], Depends(_frame_list)]
"""Frame numbers of the path, from 1."""


def get(router: APIRouter, path: str, **options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A route for GET, and for HEAD, which RFC 9110 9.3.2 asks for and the OpenAPI description need not repeat."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        router.add_api_route(path, function, methods=["GET"], **options)
        router.add_api_route(path, function, methods=["HEAD"], include_in_schema=False, **options)
        return function

    return register


def origin(request: Request) -> str:
    """Scheme, host and port as the client sees them, and the path below which a proxy shows us; no slash at its end."""
    base = request.base_url
    host, port = request.scope.get("server") or ("", None)
    if base.port is None and base.hostname == host and port not in (80, 443, None):
        base = base.replace(port=port)  # dicomweb-client leaves the port out of its Host header
    return str(base).rstrip("/")


def address(request: Request) -> str:
    """The address of the DICOMweb service as the client sees it, without a slash at its end."""
    return origin(request) + request.url.path.partition("/studies")[0]


def selection(here: Context, study_uid: str, series_uid: str | None = None, sop_uid: str | None = None) -> Selection:
    """The instances of a resource.

    Raises:
        HTTPException: 410, they were deleted or rejected.
        NotFound: there is no such thing.
    """
    found = Selection(here.database, study_uid=study_uid, series_uid=series_uid, sop_uids=sop_uid)
    if not len(found):
        raise missing(here, study_uid, series_uid, sop_uid)
    return found


def one(here: Context, study_uid: str, series_uid: str, sop_uid: str) -> StoredInstance:
    """The instance of a resource; errors as in `selection`. Viewers ask for them by the thousand."""
    with here.database.autocommit() as connection:
        row = connection.execute(_ONE, (sop_uid, series_uid, study_uid)).fetchone()
        found = details(connection, row) if row else []
    if not found:
        raise missing(here, study_uid, series_uid, sop_uid)
    return found[0]


def missing(here: Context, study_uid: str, series_uid: str | None, sop_uid: str | None) -> Exception:
    """Gone for what was there once, Not Found for the rest (PS3.18 8.5)."""
    with here.database.autocommit() as connection:
        row = connection.execute(
            "SELECT FROM studies AS s JOIN series AS e ON e.study_fk = s.study_pk"
            " JOIN instances AS i ON i.series_fk = e.series_pk WHERE s.study_uid = %(study)s"
            " AND (%(series)s::text IS NULL OR e.series_uid = %(series)s)"
            " AND (%(sop)s::text IS NULL OR i.sop_uid = %(sop)s) LIMIT 1",
            {"study": study_uid, "series": series_uid, "sop": sop_uid},
        ).fetchone()
    what = "instance" if sop_uid else "series" if series_uid else "study"
    if row is not None:
        return HTTPException(410, f"the {what} was deleted or rejected")
    return NotFound(f"There is no such {what}.")
