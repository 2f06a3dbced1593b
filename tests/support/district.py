"""A second archive in the same test, whose exchange process runs here: the district's node that feeds others."""

from __future__ import annotations

import contextlib
import datetime as dt
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo
from raw_dicom import CT, data_set

from pacs import forwarding as task
from pacs.ingest import Arrival, Ingest
from pacs.tasks import Exchange, ExchangeConfig
from storage import destinations, forwarding, peers
from storage.database import Database
from storage.destinations import Destination, Rule
from storage.objects.directory import DirectoryStore

EXPLICIT = "1.2.840.10008.1.2.1"
ROOT = "1.2.826.0.1.3680043.9999.30"


@dataclass
class District:
    """An archive whose exchange process runs here."""

    database: Database
    ingest: Ingest
    stop: threading.Event = field(default_factory=threading.Event)
    threads: list[threading.Thread] = field(default_factory=list)
    count: int = 0

    def add(self, number: int = 1, *, study: str = "1", size: int = 2000, source: str = "XRAY") -> list[str]:
        uids = []
        for _ in range(number):
            self.count += 1
            uids.append(f"{ROOT}.3.{self.count}")
            data = data_set(uids[-1], f"{ROOT}.1.{study}", self.count.to_bytes(4, "big") * (size // 4))
            with self.ingest.receive(
                sop_class=CT, sop_uid=uids[-1], transfer_syntax=EXPLICIT, source_aet=source, source_address="127.0.0.1"
            ) as incoming:
                incoming.write([data])
                incoming.commit()
        return uids

    def send_to(self, port: int, *, name: str = "province", url: str = "", **over: Any) -> None:
        """A destination on this machine that gets everything; without a port it has DICOMweb only."""
        dimse = {"aet": over.pop("aet", "SANGLOC"), "host": "127.0.0.1", "port": port} if port else {}
        peer = peers.Peer(name=name, dicomweb_url=url, **dimse)
        with self.database.transaction() as connection:
            peers.put(connection, peer, "test")
            destinations.put(connection, Destination(**{"name": name, "peer": name, "method": "dimse", **over}), "test")
            destinations.add_rule(connection, Rule(destination=name), "test")

    def run(self, **config: Any) -> None:
        exchange = Exchange(self.database, self.ingest.store, ExchangeConfig(ae_title="DISTRICT", **config))

        def forward() -> None:
            exchange.bells.start()
            stopper = threading.Thread(target=lambda: (self.stop.wait(), exchange.bells.close()))
            stopper.start()
            task.forward(exchange, self.stop)
            stopper.join()

        self.threads.append(threading.Thread(target=forward))
        self.threads[-1].start()

    def status(self, name: str = "province") -> destinations.Status:
        with self.database.autocommit() as connection:
            return next(one for one in destinations.status(connection) if one.name == name)

    def entries(self, state: Any, name: str = "province") -> list[forwarding.Entry]:
        with self.database.autocommit() as connection:
            return forwarding.entries(connection, name, state)

    def sent(self, name: str = "province") -> int:
        return self.status(name).sent_instances

    def halt(self) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join(20)
            assert not thread.is_alive()


@contextlib.contextmanager
def district_on(postgres: str, template: str, folder: Path) -> Iterator[District]:
    """An empty archive on a database of its own."""
    name = f"district_{time.time_ns()}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY wal_log")
    database = Database(make_conninfo(postgres, dbname=name), max_connections=16)
    ingest = Ingest(
        database,
        DirectoryStore(folder),
        screen=lambda _: "not a radiograph",
        arrival=lambda _header, at, _site: Arrival("routine", at + dt.timedelta(hours=4)),
    )
    made = District(database, ingest)
    try:
        yield made
    finally:
        made.halt()
        ingest.close()
        database.close()
        with psycopg.connect(postgres, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
