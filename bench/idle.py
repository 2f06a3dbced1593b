"""Answers while 100 idle associations and 100 silent TCP connections are open."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import dicom_client

from bench.systems import sangloc
from bench.table import Row

IDLE, SILENT = 100, 100


def run(work: Path, *, quick: bool) -> list[Row]:
    """The slowest association with an echo, and with a store."""
    count = 10 if quick else 50
    with sangloc(work / "state", "--no-worker") as running:
        held = [dicom_client.Client(running.port) for _ in range(IDLE)]
        silent = [socket.create_connection(("127.0.0.1", running.port)) for _ in range(SILENT)]
        echoes, stores = [], []
        for _ in range(count):
            made = dicom_client.make(pixels=500_000)
            start = time.perf_counter()
            with dicom_client.Client(running.port) as client:
                client.echo()
                echoes.append(time.perf_counter() - start)
                start = time.perf_counter()
                client.store(made.sop_class, made.sop_uid, made.data)
                stores.append(time.perf_counter() - start)
        for one in held:
            one.close()
        for connection in silent:
            connection.close()
    case = f"{IDLE} idle associations, {SILENT} silent connections"
    return [
        Row("idle", f"{case}: associate and echo, slowest", 1000 * max(echoes), "ms", goal=100, at_most=True),
        Row("idle", f"{case}: store of 0.5 MB, slowest", 1000 * max(stores), "ms", goal=100, at_most=True),
    ]
