"""Prometheus: the queues of forwarding and of storage commitment, by destination."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from storage import commitment, destinations
from storage.commitment import Counts
from storage.database import Database
from storage.destinations import Status
from storage.errors import Unavailable

__all__ = ["ForwardingQueues"]


class ForwardingQueues(Collector):
    """Asks the database at most every `fresh_s` seconds, and says nothing while it is away."""

    def __init__(self, database: Database, fresh_s: float) -> None:
        self._database, self._fresh_s = database, fresh_s
        self._lock = threading.Lock()
        self._kept: tuple[float, tuple[Sequence[Status], Counts] | None] = (-fresh_s, None)

    def describe(self) -> Iterable[Metric]:
        """Nothing in advance: registering must not need the database."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Gauges and counters, each with the destination as its label."""
        found = self._look()
        if found is None:
            return
        queues, commitments = found
        waiting = GaugeMetricFamily("sangloc_forwarding_queue", "Entries of a queue", labels=["destination", "state"])
        oldest = GaugeMetricFamily("sangloc_forwarding_oldest_seconds", "Age of the oldest that waits", labels=_BY)
        failures = GaugeMetricFamily("sangloc_forwarding_line_failures", "Failures of a line in a row", labels=_BY)
        sent = CounterMetricFamily("sangloc_forwarding_sent_instances", "Instances that were taken", labels=_BY)
        size = CounterMetricFamily("sangloc_forwarding_sent_bytes", "Their bytes", labels=_BY)
        for one in queues:
            for state, count in (("waiting", one.waiting), ("dead", one.dead), ("uncommitted", one.uncommitted)):
                waiting.add_metric([one.name, state], count)
            oldest.add_metric([one.name], one.oldest_s)
            failures.add_metric([one.name], one.failures)
            sent.add_metric([one.name], one.sent_instances)
            size.add_metric([one.name], one.sent_bytes)
        yield from (waiting, oldest, failures, sent, size)
        asked = GaugeMetricFamily("sangloc_commitments", "Storage commitments that peers asked for", labels=["state"])
        asked.add_metric(["waiting"], commitments.waiting)
        asked.add_metric(["dead"], commitments.dead)
        yield asked
        yield GaugeMetricFamily(
            "sangloc_commitments_oldest_seconds", "Age of the oldest that is not reported", value=commitments.oldest_s
        )

    def _look(self) -> tuple[Sequence[Status], Counts] | None:
        with self._lock:
            at, found = self._kept
            if time.monotonic() - at >= self._fresh_s:
                try:
                    with self._database.autocommit() as connection:
                        found = destinations.status(connection), commitment.counts(connection)
                except Unavailable:
                    found = None
                self._kept = (time.monotonic(), found)
            return found


_BY = ["destination"]
