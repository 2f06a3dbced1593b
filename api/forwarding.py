"""Copies to other archives: destinations with their queues, rules, and what peers asked us to commit."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from api.context import Actor, Before, Here, Limit, UidPath
from api.problems import responses
from storage import commitment, destinations, forwarding
from storage.destinations import Destination, Method, Rule, Window

__all__ = ["router"]

router = APIRouter(prefix="/api", tags=["forwarding"])

_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
_TIME = r"^([01][0-9]|2[0-3]):[0-5][0-9]$"
Name = Annotated[str, Path(pattern=_NAME, description="`name` of the destination")]
Number = Annotated[int, Path(ge=1, le=2**63 - 1)]
Value = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\x00]*$")]
Values = Annotated[list[Value], Field(max_length=1000)]


class Hours(BaseModel):
    """A window: hours of the day in the destination's time zone, and how fast may be sent in them."""

    model_config = ConfigDict(extra="forbid")

    from_: str = Field(alias="from", pattern=_TIME, examples=["22:00"])
    until: str = Field(pattern=_TIME, description="earlier than `from`: past midnight; equal: all day")
    bytes_per_s: int | None = Field(
        default=None, ge=destinations.LEAST_BYTES_PER_S, le=2**40, description="null: no limit"
    )


class Wanted(BaseModel):
    """How a destination is served."""

    model_config = ConfigDict(extra="forbid")

    peer: str = Field(pattern=_NAME, description="name in the registry of peers")
    method: Method = Field(description="dimse: C-STORE; stow: STOW-RS; ian: notices of studies, no instances")
    parallel: int = Field(default=1, ge=1, le=16, description="associations or connections at a time")
    windows: Annotated[list[Hours], Field(max_length=10)] = Field(default=[], description="none: always open")
    timezone: str = Field(default="UTC", max_length=64, description="of the windows, such as Asia/Ho_Chi_Minh")
    commitment: bool = Field(default=False, description="ask for storage commitment of what was sent")
    max_attempts: int = Field(default=8, ge=1, le=1000, description="for an instance that is refused")
    paused: bool = False


class Queue(BaseModel):
    """A destination and how it is doing; counts are of instances, or of studies for the method ian."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    peer: str
    method: Method
    paused: bool
    waiting: int
    oldest_s: float = Field(description="age of the oldest that waits, seconds")
    dead: int = Field(description="given up; a person retries or cancels them")
    uncommitted: int = Field(description="sent and not yet committed there, where commitment is asked for")
    sent_instances: int
    sent_bytes: int
    failures: int = Field(description="of the line, in a row")
    retry_at: dt.datetime
    last_error: str
    last_error_at: dt.datetime | None
    last_success_at: dt.datetime | None
    working: bool


class Queues(BaseModel):
    """All destinations, by name."""

    items: list[Queue]


class Entry(BaseModel):
    """One row of a queue."""

    model_config = ConfigDict(from_attributes=True)

    number: int
    study_uid: str
    sop_uid: str = Field(description="empty for a notice, which is about a study")
    state: str
    attempts: int
    error: str
    created_at: dt.datetime
    run_after: dt.datetime | None


class Entries(BaseModel):
    """A page, oldest first."""

    items: list[Entry]
    next: int | None


class Changed(BaseModel):
    """How many entries were changed."""

    entries: int


class NewRule(BaseModel):
    """What goes to a destination; an empty list means any."""

    model_config = ConfigDict(extra="forbid", from_attributes=True)

    destination: str = Field(pattern=_NAME)
    source_aets: Values = []
    modalities: Values = []
    sites: Values = []
    sop_classes: Values = []
    flagged_only: bool = Field(default=False, description="only studies that a model has flagged, whenever it does")
    urgency: int = Field(default=0, ge=0, le=9, description="higher goes first")
    enabled: bool = True


class NumberedRule(NewRule):
    """A rule."""

    number: int


class Rules(BaseModel):
    """All rules, oldest first."""

    items: list[NumberedRule]


class Commitment(BaseModel):
    """A request for storage commitment and what came of it."""

    number: int
    requester: str
    transaction_uid: str
    state: str
    instances: int
    failed: int | None = Field(description="null: not checked yet")
    attempts: int
    error: str
    requested_at: dt.datetime
    reported_at: dt.datetime | None


class Commitments(BaseModel):
    """A page, newest first."""

    items: list[Commitment]
    next: int | None


@router.get("/forwarding", responses=responses(401, 422, 503))
def queues(here: Here, _: Actor) -> Queues:
    """Every destination with its queue."""
    with here.database.autocommit() as connection:
        return Queues(items=[Queue.model_validate(one) for one in destinations.status(connection)])


@router.put("/forwarding/destinations/{name}", status_code=204, responses=responses(400, 401, 403, 409, 422, 503))
def put_destination(here: Here, actor: Actor, name: Name, wanted: Wanted) -> None:
    """Add a destination or change it."""
    windows = tuple(
        Window(dt.time.fromisoformat(one.from_), dt.time.fromisoformat(one.until), one.bytes_per_s)
        for one in wanted.windows
    )
    values = wanted.model_dump(exclude={"windows"})
    with here.database.transaction() as connection:
        destinations.put(connection, Destination(name=name, windows=windows, **values), actor)
    _wake(here)


@router.delete("/forwarding/destinations/{name}", status_code=204, responses=responses(401, 403, 404, 422, 503))
def remove_destination(here: Here, actor: Actor, name: Name) -> None:
    """Forget a destination with its rules and its queue."""
    with here.database.transaction() as connection:
        destinations.remove(connection, name, actor)


@router.post("/forwarding/destinations/{name}/pause", status_code=204, responses=responses(401, 403, 404, 422, 503))
def pause(here: Here, actor: Actor, name: Name) -> None:
    """Send nothing there until it is resumed; the queue grows on."""
    _pause(here, actor, name, paused=True)


@router.post("/forwarding/destinations/{name}/resume", status_code=204, responses=responses(401, 403, 404, 422, 503))
def resume(here: Here, actor: Actor, name: Name) -> None:
    """Go on now, whatever the back-off says."""
    _pause(here, actor, name, paused=False)


def _pause(here: Here, actor: str, name: str, *, paused: bool) -> None:
    with here.database.transaction() as connection:
        destinations.pause(connection, name, actor, paused=paused)
    _wake(here)


@router.get("/forwarding/destinations/{name}/queue", responses=responses(401, 404, 422, 503))
def entries(
    here: Here,
    _: Actor,
    name: Name,
    state: Annotated[forwarding.State, Query()] = "waiting",
    cursor: Before = None,
    limit: Limit = 50,
) -> Entries:
    """Entries of a queue in one state."""
    with here.database.autocommit() as connection:
        found = forwarding.entries(connection, name, state, after=cursor or 0, limit=limit)
    last = found[-1].number if len(found) == limit else None
    return Entries(items=[Entry.model_validate(one) for one in found], next=last)


@router.post("/forwarding/destinations/{name}/queue/retry", responses=responses(401, 403, 404, 422, 503))
def retry_all(here: Here, actor: Actor, name: Name) -> Changed:
    """Try everything that was given up again."""
    return _retry(here, actor, name)


@router.post("/forwarding/destinations/{name}/queue/{number}/retry", responses=responses(401, 403, 404, 422, 503))
def retry(here: Here, actor: Actor, name: Name, number: Number) -> Changed:
    """Try one entry that waits or was given up now, from its first attempt."""
    return _retry(here, actor, name, number)


def _retry(here: Here, actor: str, name: str, number: int | None = None) -> Changed:
    with here.database.transaction() as connection:
        count = forwarding.retry(connection, name, actor, number)
    _wake(here)
    return Changed(entries=count)


@router.post("/forwarding/destinations/{name}/queue/{number}/cancel", responses=responses(401, 403, 404, 422, 503))
def cancel(here: Here, actor: Actor, name: Name, number: Number) -> Changed:
    """Give one entry up for good."""
    with here.database.transaction() as connection:
        return Changed(entries=forwarding.cancel(connection, name, actor, number))


@router.post("/forwarding/destinations/{name}/studies/{study_uid}", responses=responses(401, 403, 404, 422, 503))
def send_study(here: Here, actor: Actor, name: Name, study_uid: UidPath) -> Changed:
    """Send a study there whatever the rules say, again if it was sent before."""
    with here.database.transaction() as connection:
        count = forwarding.enqueue_study(connection, name, study_uid, actor)
    _wake(here)
    return Changed(entries=count)


@router.get("/forwarding/rules", responses=responses(401, 422, 503))
def rules(here: Here, _: Actor) -> Rules:
    """What goes where."""
    with here.database.autocommit() as connection:
        found = destinations.all_rules(connection)
    values = [NewRule.model_validate(one).model_dump() | {"number": one.rule_pk} for one in found]
    return Rules(items=[NumberedRule(**each) for each in values])


@router.post("/forwarding/rules", status_code=201, responses=responses(400, 401, 403, 404, 422, 503))
def add_rule(
    here: Here,
    actor: Actor,
    rule: NewRule,
    response: Response,
    backfill: Annotated[bool, Query(description="also for what is there already")] = False,
) -> NumberedRule:
    """Add a rule, for what comes in from now on."""
    with here.database.transaction() as connection:
        number = destinations.add_rule(connection, Rule(**rule.model_dump()), actor, backfill=backfill)
    _wake(here)
    response.headers["Location"] = f"/api/forwarding/rules/{number}"
    return NumberedRule(number=number, **rule.model_dump())


@router.delete("/forwarding/rules/{number}", status_code=204, responses=responses(401, 403, 404, 422, 503))
def remove_rule(here: Here, actor: Actor, number: Number) -> None:
    """Forget a rule; what it has queued stays queued."""
    with here.database.transaction() as connection:
        destinations.remove_rule(connection, number, actor)


@router.get("/commitments", responses=responses(401, 422, 503))
def commitments(here: Here, _: Actor, cursor: Before = None, limit: Limit = 50) -> Commitments:
    """What peers asked us to commit."""
    with here.database.autocommit() as connection:
        found = commitment.page(connection, before=cursor, limit=limit)
    last = found[-1].commitment_pk if len(found) == limit else None
    return Commitments(items=[_commitment(one) for one in found], next=last)


@router.post("/commitments/{number}/retry", status_code=204, responses=responses(401, 403, 404, 422, 503))
def retry_commitment(here: Here, actor: Actor, number: Number) -> None:
    """Check and report again."""
    with here.database.transaction() as connection:
        commitment.retry(connection, number, actor)
    with here.database.autocommit() as connection:
        connection.execute("SELECT pg_notify(%s, '')", (commitment.CHANNEL,))


def _commitment(one: commitment.Commitment) -> Commitment:
    return Commitment(
        number=one.commitment_pk,
        requester=one.requester,
        transaction_uid=one.transaction_uid,
        state=one.state,
        instances=len(one.sop_uids),
        failed=None if one.failures is None else sum(map(bool, one.failures)),
        attempts=one.attempts,
        error=one.error,
        requested_at=one.requested_at,
        reported_at=one.reported_at,
    )


def _wake(here: Here) -> None:
    with here.database.autocommit() as connection:
        destinations.notify(connection)
