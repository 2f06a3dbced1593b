"""What every route is given: the parts of the process, who asks, and the shape of common parameters."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, HTTPException, Path, Query, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from api.config import ApiConfig
from api.looks import Looks
from api.pictures import Pictures
from api.reports import Reports

if TYPE_CHECKING:
    import anyio

    from api.events import Events
    from pacs.ingest import Ingest
    from storage.database import Database
    from storage.objects import ObjectStore

__all__ = [
    "LOCAL_ACTOR",
    "Actor",
    "Before",
    "Context",
    "Cursor",
    "Here",
    "Intake",
    "Limit",
    "Text",
    "UidPath",
    "actor_of",
    "authenticated",
    "known_parameters",
]

LOCAL_ACTOR = "local"
"""The actor in the audit log while there are no tokens."""

# PS3.5 9.1 as a pattern, so that the OpenAPI description says it too.
_UID = r"^(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))*$"

UidPath = Annotated[str, Path(pattern=_UID, max_length=64, description="A DICOM UID (PS3.5 9.1)")]
Text = Annotated[str | None, Query(max_length=200, pattern=r"^[^\u0000]*$")]
"""Free text to search by; PostgreSQL has no NUL."""
Cursor = Annotated[str | None, Query(max_length=500, pattern=r"^[A-Za-z0-9_-]+$", description="`next` of a page")]
Before = Annotated[int | None, Query(ge=1, le=2**63 - 1, description="`next` of a page")]
Limit = Annotated[int, Query(ge=1, le=200)]


@dataclass(frozen=True, slots=True)
class Intake:
    """The way in of the API process."""

    ingest: Ingest
    requests: anyio.CapacityLimiter  # that store at a time
    threads: anyio.CapacityLimiter  # that write


@dataclass(frozen=True, slots=True)
class Context:
    """The parts of one API process."""

    database: Database
    store: ObjectStore
    config: ApiConfig
    events: Events
    rendering: anyio.CapacityLimiter
    searches: Database  # the same index, for queries: they have connections of their own
    intake: Intake | None = None  # None: nothing is stored here
    looks: Looks = field(default_factory=Looks)
    pictures: Pictures = field(init=False)
    reports: Reports = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "reports", Reports(self.database))
        object.__setattr__(self, "pictures", Pictures(self.config.picture_cache_bytes))


def _context(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


async def _here(request: Request) -> Context:  # async: a plain function would be sent to the thread pool
    return _context(request)


Here = Annotated[Context, Depends(_here)]

_bearer = HTTPBearer(auto_error=False, description="A token from the settings; none is needed while none is set.")


async def authenticated(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
) -> str:
    """The name of the token that the request carries; 401 without a known one."""
    name = actor_of(_context(request).config, credentials.credentials if credentials is not None else "")
    if name is None:
        raise HTTPException(401, "a bearer token of this server is needed", {"WWW-Authenticate": "Bearer"})
    return name


def actor_of(config: ApiConfig, secret: str) -> str | None:
    """The name of the token with this secret, None where there is none."""
    if not config.tokens:
        return LOCAL_ACTOR
    presented = _digest(secret) if secret else ""
    # Every token is compared, and digests are compared, so that the time tells nothing.
    known = [name for name, one in config.tokens.items() if hmac.compare_digest(_digest_of(one), presented)]
    return known[0] if known else None


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _digest_of(configured: str) -> str:
    return configured[7:].lower() if configured.startswith("sha256:") else _digest(configured)


Actor = Annotated[str, Depends(authenticated)]


async def known_parameters(request: Request) -> None:
    """Refuse parameters that the route does not have: a filter that is misspelt must not show every patient."""
    dependant = getattr(request.scope.get("route"), "dependant", None)
    if dependant is None:
        return
    known = {field.alias for field in dependant.query_params}
    unknown = [name for name in request.query_params if name not in known]
    if unknown:
        raise RequestValidationError(
            [{"loc": ("query", name), "msg": "there is no such parameter", "type": "unknown"} for name in unknown]
        )
