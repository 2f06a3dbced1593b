"""Orders: what is to be done, for whom, when and where; they fill the modality worklist."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

from fastapi import APIRouter, Path, Response
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, create_model

from api.context import Actor, Before, Context, Here, Limit, Text
from api.problems import responses
from pacs.ordering import Desk, Origin, no_promise
from storage import orders, performed
from storage.ordered import Order, OrderStatus

__all__ = ["router"]

router = APIRouter(prefix="/api", tags=["orders"])

_UID = r"^(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))*$"
Number = Annotated[int, Path(ge=1, le=2**63 - 1, description="`number` of the order")]


def _partial(model: type[BaseModel]) -> type[BaseModel]:
    """The same model with nothing required: what is not named does not change, null takes a value away."""
    changed: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        kind: Any = field.annotation
        if get_origin(kind) is list and issubclass(get_args(kind)[0], BaseModel) and name in ("procedures", "steps"):
            kind = list[_partial(get_args(kind)[0])]  # type: ignore[misc]
        elif name == "patient":
            kind = _partial(kind)
        if field.metadata:
            kind = Annotated[kind, *field.metadata]
        changed[name] = (kind | None, None)
    made: type[BaseModel] = create_model(f"{model.__name__}Change", __config__=ConfigDict(extra="forbid"), **changed)
    return made


if TYPE_CHECKING:
    OrderChange = Order
else:
    OrderChange = _partial(Order)


class Head(BaseModel):
    """An order with its state."""

    model_config = ConfigDict(from_attributes=True)

    number: int = Field(validation_alias=AliasChoices("number", "order_pk"))
    status: OrderStatus
    announced: bool = Field(description="false: a change or cancel came, the new order itself not yet")
    created_at: dt.datetime
    changed_at: dt.datetime
    order: Order


class Study(BaseModel):
    """A study that arrived for an order."""

    model_config = ConfigDict(from_attributes=True)

    study_uid: str
    accession_number: str
    study_date: dt.date | None
    description: str
    modalities: list[str]
    arrived_at: dt.datetime
    due_at: dt.datetime
    priority: str
    state: str
    instance_count: int


class Performed(BaseModel):
    """A performed procedure step, as the modality reported it (MPPS)."""

    model_config = ConfigDict(from_attributes=True)

    sop_uid: str
    status: str
    source_aet: str
    modality: str
    step_id: str
    study_uids: list[str]
    orders: list[int]
    referenced: int = Field(description="instances that the modality says it made")
    arrived: int = Field(description="those of them that are here")
    complete: bool = Field(description="it is over and all of them are here")
    created_at: dt.datetime
    changed_at: dt.datetime
    complete_at: dt.datetime | None


class Event(BaseModel):
    """One thing that happened to an order; `changes` are path, value before, value after."""

    model_config = ConfigDict(from_attributes=True)

    at: dt.datetime
    actor: str
    action: str
    message: int | None = Field(
        validation_alias="message_pk", description="`number` of the HL7 message that brought it"
    )
    changes: list[list[Any]]


class Whole(Head):
    """An order with what became of it."""

    complete: bool = Field(description="it was performed and all images that the modalities speak of are here")
    studies: list[Study]
    performed: list[Performed]
    history: list[Event]


class Orders(BaseModel):
    """A page, newest first."""

    items: list[Head]
    next: int | None


class PerformedSteps(BaseModel):
    """A page, newest first."""

    items: list[Performed]
    next: int | None


class NewStatus(BaseModel):
    """What an order shall be."""

    model_config = ConfigDict(extra="forbid")

    status: OrderStatus


def _desk(here: Context) -> Desk:
    return Desk(here.config.order_promise or no_promise)


@router.get("/orders", responses=responses(401, 422, 503))
def page(
    *,
    here: Here,
    _: Actor,
    status: OrderStatus | None = None,
    patient_id: Text = None,
    accession: Text = None,
    placer_number: Text = None,
    study_uid: Text = None,
    cursor: Before = None,
    limit: Limit = 50,
) -> Orders:
    """Orders, newest first."""
    with here.database.autocommit() as connection:
        found = orders.page(
            connection,
            status=status,
            patient_id=patient_id,
            accession=accession,
            placer_number=placer_number,
            study_uid=study_uid,
            before=cursor,
            limit=limit,
        )
    last = found[-1].order_pk if len(found) == limit else None
    return Orders(items=[Head.model_validate(one) for one in found], next=last)


@router.post("/orders", status_code=201, responses=responses(400, 401, 403, 409, 413, 422, 503))
def create(here: Here, actor: Actor, body: Order, response: Response) -> Whole:
    """Place an order. What has no study UID, procedure ID or step ID is given one; audited."""
    desk = _desk(here)
    with here.database.transaction() as connection:
        number = desk.new(connection, body.model_dump(mode="json", exclude_unset=True), Origin(actor))
    desk.committed(here.database, [number], actor)
    response.headers["Location"] = f"/api/orders/{number}"
    return _whole(here, number)


@router.get("/orders/{number}", responses=responses(401, 404, 422, 503))
def show(here: Here, _: Actor, number: Number) -> Whole:
    """One order with its history, the studies that arrived for it and what modalities reported."""
    return _whole(here, number)


@router.patch("/orders/{number}", responses=responses(400, 401, 403, 404, 409, 413, 422, 503))
def change(here: Here, actor: Actor, number: Number, body: OrderChange) -> Whole:
    """Change what is named; procedures and steps are found by their IDs, others are added. Audited, with history."""
    desk = _desk(here)
    with here.database.transaction() as connection:
        desk.change(connection, number, body.model_dump(mode="json", exclude_unset=True), Origin(actor))
    desk.committed(here.database, [number], actor)
    return _whole(here, number)


@router.put("/orders/{number}/status", responses=responses(400, 401, 403, 404, 409, 413, 422, 503))
def change_status(here: Here, actor: Actor, number: Number, body: NewStatus) -> Whole:
    """Cancel, discontinue, hold, release or complete an order; what is over does not come back. Audited."""
    desk = _desk(here)
    with here.database.transaction() as connection:
        if body.status == "CANCELLED" or body.status == "DISCONTINUED":  # noqa: PLR1714 - narrows the type
            desk.withdraw(connection, number, Origin(actor), body.status)
        else:
            desk.progress(connection, number, Origin(actor), body.status)
    desk.committed(here.database, [number], actor)
    return _whole(here, number)


@router.get("/performed-steps", responses=responses(401, 422, 503))
def performed_steps(
    here: Here,
    _: Actor,
    study_uid: Text = None,
    complete: bool | None = None,
    cursor: Before = None,
    limit: Limit = 50,
) -> PerformedSteps:
    """What modalities reported (MPPS), newest first, with how much of it has arrived."""
    with here.database.autocommit() as connection:
        found = performed.page(connection, study_uid=study_uid, complete=complete, before=cursor, limit=limit)
    last = found[-1].performed_pk if len(found) == limit else None
    return PerformedSteps(items=[Performed.model_validate(one) for one in found], next=last)


def _whole(here: Context, number: int) -> Whole:
    with here.database.autocommit() as connection:
        stored = orders.get(connection, number)
        steps = performed.of_order(connection, number)
        return Whole(
            **Head.model_validate(stored).model_dump(),
            complete=stored.status == "COMPLETED" and bool(steps) and all(step.complete for step in steps),
            studies=[Study.model_validate(one) for one in orders.studies(connection, number)],
            performed=[Performed.model_validate(one) for one in steps],
            history=[Event.model_validate(one) for one in orders.history(connection, number)],
        )
