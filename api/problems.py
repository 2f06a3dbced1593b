"""Every error as application/problem+json (RFC 9457): one table from error to status.

A problem never carries a stack trace, a query or what the client sent: only what is wrong, for a person.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import orjson
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response

from storage import errors

__all__ = [
    "MEDIA_TYPE",
    "Problem",
    "describe",
    "install",
    "log_failure",
    "problem",
    "problem_of",
    "reason",
    "responses",
]

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 2
_DICOMWEB = "/dicom-web/"  # its table of statuses has no 422 for a request that is malformed (PS3.18 8.5)
_FAILED = "the server failed; the reason is in its log"

# Most particular first: the first class that matches gives the status.
STATUS_OF: tuple[tuple[type[errors.SanglocError], int], ...] = (
    (errors.ObjectTooLarge, 413),
    (errors.InvalidDataSet, 422),
    (errors.Conflict, 409),
    (errors.InvalidInput, 400),
    (errors.NotFound, 404),
    (errors.NotScorable, 422),
    (errors.NotTranscodable, 406),
    (errors.ObjectStoreFull, 507),
    (errors.Unavailable, 503),
    (errors.SanglocError, 500),
)

log = structlog.get_logger()


class InvalidPart(BaseModel):
    """One part of the request that is not as documented."""

    where: str
    message: str


class Problem(BaseModel):
    """RFC 9457 problem details; the type is always about:blank, so the title is the status in words."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str = ""
    errors: list[InvalidPart] | None = None


def problem(
    status: int,
    detail: str = "",
    *,
    headers: Mapping[str, str] | None = None,
    invalid: list[InvalidPart] | None = None,
) -> Response:
    """An answer that says what is wrong."""
    body = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, errors=invalid)
    extra = dict(headers or {})
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        extra.setdefault("Retry-After", str(RETRY_AFTER_S))
    return Response(orjson.dumps(body.model_dump(exclude_none=True)), status, extra, MEDIA_TYPE)


def problem_of(error: Exception) -> Response:
    """The problem for an error of ours; anything else is a 500 that says nothing."""
    for kind, status in STATUS_OF:
        if isinstance(error, kind):
            return problem(status, reason(error) if status < 500 or isinstance(error, errors.Unavailable) else _FAILED)
    return problem(500, _FAILED)


def reason(error: errors.SanglocError) -> str:
    """What may be told of an error: what drivers say of a part that is away (hosts, users, statements) stays here."""
    if isinstance(error, errors.Unavailable) and type(error) is not errors.Unavailable:
        return inspect.getdoc(type(error)) or ""
    return str(error)


def log_failure(error: Exception, route: str) -> None:
    """Where an unexpected error came from; its text may quote a patient's data and is left out."""
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    at = " < ".join(f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}" for frame in reversed(frames))
    log.error("request failed", route=route, error=type(error).__name__, at=at)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problems of one route, for its OpenAPI description."""
    schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {status: {"description": HTTPStatus(status).phrase, "content": {MEDIA_TYPE: schema}} for status in statuses}


def describe(app: FastAPI) -> None:
    """Put the `Problem` schema into the OpenAPI description, in place of FastAPI's own errors."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = plain()
            schemas = schema.setdefault("components", {}).setdefault("schemas", {})
            if schemas.pop("HTTPValidationError", None):
                _drop_unsaid(schema["paths"])
            schemas.pop("ValidationError", None)
            own = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas.update(own.pop("$defs"))
            schemas["Problem"] = own
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _drop_unsaid(paths: dict[str, Any]) -> None:
    """Take out the 422 that FastAPI adds to whatever has parameters, where the route does not name it."""
    for operations in paths.values():
        for operation in operations.values():
            if "HTTPValidationError" in str(operation["responses"].get("422")):
                del operation["responses"]["422"]


async def _ours(request: Request, error: Exception) -> Response:
    if isinstance(error, errors.Unavailable):
        log.warning("request not served", path=request.scope["route"].path, error=type(error).__name__)
    return problem_of(error)


async def _http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return problem(error.status_code, _sentence(error), headers=error.headers)


def _sentence(error: HTTPException) -> str:
    if error.status_code == HTTPStatus.NOT_FOUND and error.detail == HTTPStatus.NOT_FOUND.phrase:
        return "there is nothing at this path"
    return str(error.detail)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
    status = 400 if path.startswith(_DICOMWEB) else 422
    parts = [InvalidPart(where=".".join(map(str, one["loc"])), message=one["msg"]) for one in error.errors()]
    return problem(status, "the request is not as documented", invalid=parts)


def install(app: FastAPI) -> None:
    """Answer every error of `app` as a problem."""
    app.add_exception_handler(errors.SanglocError, _ours)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    describe(app)
