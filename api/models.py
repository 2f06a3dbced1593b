"""The registry of models: which there are, how they were judged, which is at work. Changed by `sangloc models`."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path
from pydantic import BaseModel, ConfigDict

from api.context import Actor, Here
from api.problems import responses
from storage import activations, models, workers

__all__ = ["router"]

router = APIRouter(prefix="/api/models", tags=["models"])

Title = Annotated[
    str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}(@[A-Za-z0-9][A-Za-z0-9._-]{0,63})?$",
              description="NAME@VERSION, or NAME where it has one version")
]  # fmt: skip


class _Stored(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class KnownModel(_Stored):
    """One version of a model. Its thresholds and figures are of sites, and are told with the model itself."""

    name: str
    version: str
    weights_sha256: str
    origin: str
    source: str
    findings: list[str]
    imported_by: str
    imported_at: dt.datetime


class AtWork(_Stored):
    """A model at work at a site; the site '' is every site without a model of its own."""

    site: str
    mode: Literal["active", "shadow"]
    name: str
    version: str
    made_by: str
    made_at: dt.datetime


class Once(AtWork):
    """The same, now or once."""

    action: Literal["activate", "rollback"]
    ended_by: str
    ended_at: dt.datetime | None


class Running(_Stored):
    """What a worker says of itself; a model that cannot be loaded is a problem, and what ran before runs on."""

    worker: str
    model: str
    engine: str
    problem: str


class Models(BaseModel):
    """All versions, what is at work (nothing: the model of the settings everywhere), and what workers run."""

    items: list[KnownModel]
    at_work: list[AtWork]
    workers: list[Running]


class Judged(_Stored):
    """Labelled films of a site."""

    site: str
    manifest: str
    manifest_sha256: str
    splits: list[str]
    films: int
    positives: int
    made_by: str
    made_at: dt.datetime


class Fitted(Judged):
    """Calibration and thresholds for a site."""

    fit_pk: int
    fit: dict[str, Any]


class Evaluated(Judged):
    """Figures at a site; `fit_fk` names the thresholds, null: the bundle's own."""

    fit_fk: int | None
    report: dict[str, Any]


class OneModel(KnownModel):
    """One version with its card (Markdown), fits, evaluations and activations, each the latest first."""

    card: str
    fits: list[Fitted]
    evaluations: list[Evaluated]
    activations: list[Once]


@router.get("", responses=responses(401, 422, 503))
def everyone(here: Here, _: Actor) -> Models:
    """The models, and which of them is at work where."""
    with here.database.transaction() as connection:
        return Models(
            items=[KnownModel.model_validate(one) for one in models.all_versions(connection)],
            at_work=[AtWork.model_validate(one) for one in activations.current(connection)],
            workers=[
                Running.model_validate(one) for one in workers.alive(connection, stale_s=here.config.stale_worker_s)
            ],
        )


@router.get("/{title}", responses=responses(400, 401, 404, 422, 503))
def one(here: Here, _: Actor, title: Title) -> OneModel:
    """One version, with all that is known of how good it is at which site."""
    with here.database.transaction() as connection:
        found = models.find(connection, title)
        return OneModel(
            **KnownModel.model_validate(found).model_dump(),
            card=found.card,
            fits=[Fitted.model_validate(each) for each in models.fits(connection, found.model_pk)],
            evaluations=[Evaluated.model_validate(each) for each in models.evaluations(connection, found.model_pk)],
            activations=[
                Once.model_validate(each)
                for each in activations.history(connection)
                if (each.name, each.version) == (found.name, found.version)
            ],
        )
