"""HL7 messages as they were answered; their content is not kept."""

from __future__ import annotations

import datetime as dt
from typing import Literal

from fastapi import APIRouter
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, field_validator

from api.context import Actor, Before, Here, Limit
from api.problems import responses
from storage import messages

__all__ = ["router"]

router = APIRouter(prefix="/api/hl7-messages", tags=["orders"])


class Message(BaseModel):
    """One message; `answers` counts how often it came."""

    model_config = ConfigDict(from_attributes=True)

    number: int = Field(validation_alias=AliasChoices("number", "message_pk"))
    sender: str = Field(description="MSH-3 and MSH-4")
    control_id: str = Field(description="MSH-10")
    kind: str = Field(description="MSH-9, such as ORM^O01")
    sha256: str = Field(description="of its bytes")
    size: int
    address: str
    code: Literal["AA", "AE", "AR"] = Field(description="accepted, error in it, rejected")
    reason: str
    orders: list[int]
    answers: int
    received_at: dt.datetime

    @field_validator("sha256", mode="before")
    @classmethod
    def _hex(cls, value: bytes) -> str:
        return value.hex()


class Messages(BaseModel):
    """A page, newest first."""

    items: list[Message]
    next: int | None


@router.get("", responses=responses(401, 422, 503))
def page(
    here: Here, _: Actor, code: Literal["AA", "AE", "AR"] | None = None, cursor: Before = None, limit: Limit = 50
) -> Messages:
    """Messages, newest first; those with this answer if given."""
    with here.database.autocommit() as connection:
        found = messages.page(connection, code=code, before=cursor, limit=limit)
    last = found[-1].message_pk if len(found) == limit else None
    return Messages(items=[Message.model_validate(one) for one in found], next=last)
