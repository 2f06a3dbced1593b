"""The application: every resource is one file with a router, listed here."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from importlib.metadata import version

import anyio
from anyio import to_thread
from fastapi import Depends, FastAPI

from api import (
    audit,
    changes,
    dicomweb,
    findings,
    forwarding,
    health,
    instances,
    jobs,
    messages,
    metrics,
    models,
    orders,
    page,
    peers,
    problems,
    reprocessings,
    results,
    set_aside,
    studies,
    worklist,
)
from api.config import ApiConfig, check_safe
from api.context import Context, Intake, known_parameters
from api.events import Events
from api.gate import Gate
from api.metrics import Metrics
from pacs.ingest import Ingest
from storage.database import Database
from storage.objects import ObjectStore

__all__ = ["ApiConfig", "check_safe", "create_app"]

ROUTERS = (
    worklist.router,
    studies.router,
    instances.router,
    findings.router,
    results.router,
    jobs.router,
    reprocessings.router,
    set_aside.router,
    orders.router,
    messages.router,
    forwarding.router,
    peers.router,
    changes.router,
    models.router,
    audit.router,
    health.router,
    metrics.router,
)


def create_app(database: Database, store: ObjectStore, config: ApiConfig, *, ingest: Ingest | None = None) -> FastAPI:
    """The application over an open database and object store, neither of which it closes.

    `ingest` is the way in for STOW-RS; without it nothing is stored. `/dicom-web` is left to the DICOMweb routers.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        searches.close()
        app.state.context.reports.close()
        events.close()
        await to_thread.run_sync(events.join)

    app = FastAPI(
        title="sangloc",
        version=version("sangloc"),
        summary="An imaging archive that reads the queue before the radiologist does",
        docs_url=None,  # its pages load scripts from another site
        redoc_url=None,
        lifespan=lifespan,
    )
    events = Events(database, config)
    searches = Database(
        database.conninfo,
        max_connections=config.search_connections,
        statement_timeout_s=config.search_timeout_s,
    )
    app.state.metrics = Metrics(database, events, config.stale_worker_s)
    app.state.context = Context(
        database,
        store,
        config,
        events,
        anyio.CapacityLimiter(config.render_threads),
        searches,
        _intake(ingest, config) if ingest is not None else None,
    )
    problems.install(app)
    for router in ROUTERS:
        app.include_router(router, dependencies=[Depends(known_parameters)])
    for router in dicomweb.ROUTERS:  # each judges its own parameters, as PS3.18 says
        app.include_router(router, prefix=dicomweb.ROOT)
    app.include_router(page.router)  # a link with a stray parameter still opens the page
    page.mount(app)
    app.add_middleware(Gate, config=config, observe=app.state.metrics.observe)
    return app


def _intake(ingest: Ingest, config: ApiConfig) -> Intake:
    return Intake(ingest, anyio.CapacityLimiter(config.max_store_requests), anyio.CapacityLimiter(config.store_threads))
