"""Prometheus: what the database counts, and how long requests take."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator

from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from api.context import Actor
from api.events import Events
from api.problems import responses
from api.queues import ForwardingQueues
from storage.database import Database
from storage.errors import Unavailable

__all__ = ["Metrics", "router"]

router = APIRouter(tags=["operation"])

_FRESH_S = 5.0
_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0)

# One statement, so that a scrape is one round trip; every count runs over an index.
_COUNTS = """
SELECT (SELECT count(*) FROM studies WHERE NOT hidden), (SELECT count(*) FROM instances WHERE NOT hidden),
       (SELECT count(*) FROM jobs WHERE state = 'waiting'), (SELECT count(*) FROM jobs WHERE state = 'running'),
       (SELECT count(*) FROM jobs WHERE state = 'dead'),
       (SELECT coalesce(extract(epoch FROM now() - min(created_at)), 0) FROM jobs WHERE state <> 'dead'),
       (SELECT count(*) FROM worklist WHERE state = 'open'),
       (SELECT count(*) FROM worklist WHERE state = 'open' AND flagged),
       (SELECT count(*) FROM set_aside WHERE resolved_at IS NULL),
       (SELECT count(*) FROM workers WHERE model <> '' AND seen_at > now() - make_interval(secs => %s))
"""


class Metrics:
    """The registry of one application."""

    def __init__(self, database: Database, events: Events, stale_worker_s: float) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Counts(database, events, stale_worker_s))
        self._registry.register(ForwardingQueues(database, _FRESH_S))
        self._seconds = Histogram(
            "sangloc_http_request_seconds",
            "Time from request to the end of its answer",
            ("method", "route", "status"),
            buckets=_BUCKETS,
            registry=self._registry,
        )

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answered request; unknown methods share a label, so that a client cannot make labels."""
        known = method if method in ("GET", "POST", "PUT", "DELETE", "HEAD") else "other"
        self._seconds.labels(known, route, str(status)).observe(seconds)

    def text(self) -> bytes:
        """The exposition format, version 0.0.4."""
        return generate_latest(self._registry)


class _Counts(Collector):
    def __init__(self, database: Database, events: Events, stale_worker_s: float) -> None:
        self._database = database
        self._events = events
        self._stale_worker_s = stale_worker_s
        self._lock = threading.Lock()
        self._kept: tuple[float, tuple[float, ...] | None] = (-_FRESH_S, None)

    def describe(self) -> Iterable[Metric]:
        """Nothing in advance: registering must not need the database."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Gauges from the database, at most some seconds old; `sangloc_database_up` alone when it is away."""
        counts = self._counts()
        yield GaugeMetricFamily("sangloc_database_up", "Whether the database answered", value=float(counts is not None))
        yield GaugeMetricFamily("sangloc_event_streams", "Open worklist event streams", value=self._events.clients)
        if counts is None:
            return
        studies, instances, waiting, running, dead, oldest, opened, flagged, aside, workers = counts
        yield GaugeMetricFamily("sangloc_studies", "Studies in the index", value=studies)
        yield GaugeMetricFamily("sangloc_instances", "Instances in the index", value=instances)
        jobs = GaugeMetricFamily("sangloc_jobs", "Triage jobs", labels=["state"])
        for state, number in (("waiting", waiting), ("running", running), ("dead", dead)):
            jobs.add_metric([state], number)
        yield jobs
        yield GaugeMetricFamily("sangloc_jobs_oldest_seconds", "Age of the oldest job that is not dead", value=oldest)
        yield GaugeMetricFamily("sangloc_worklist_open", "Studies to read", value=opened)
        yield GaugeMetricFamily("sangloc_worklist_flagged", "Flagged studies to read", value=flagged)
        yield GaugeMetricFamily("sangloc_set_aside", "Objects set aside and not resolved", value=aside)
        yield GaugeMetricFamily("sangloc_workers_alive", "Workers alive with a model", value=workers)

    def _counts(self) -> tuple[float, ...] | None:
        with self._lock:
            at, counts = self._kept
            if time.monotonic() - at >= _FRESH_S:
                try:
                    with self._database.autocommit() as connection:
                        row = connection.execute(_COUNTS, (self._stale_worker_s,)).fetchone()
                    counts = tuple(float(value) for value in row or ())
                except Unavailable:
                    counts = None
                self._kept = (time.monotonic(), counts)
            return counts


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {"description": "Prometheus text format", "content": {_CONTENT_TYPE: {"schema": {"type": "string"}}}},
        **responses(401),
    },
)
def metrics(request: Request, _: Actor) -> Response:
    """What Prometheus scrapes; counts are at most five seconds old."""
    return Response(request.app.state.metrics.text(), headers={"Content-Type": _CONTENT_TYPE})
