"""How long a command and a receiver take to be there."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import time
from pathlib import Path

import dicom_client

from bench.systems import BIN, free_port, wait
from bench.table import Row
from storage.database import Database
from storage.embedded import EmbeddedPostgres
from storage.migrate import migrate


def run(work: Path, *, quick: bool) -> list[Row]:
    """`sangloc --help`, and `sangloc receive` until it answers an echo, on a database that is up."""
    repeats = 3 if quick else 7
    subprocess.run([BIN / "sangloc", "--help"], check=True, stdout=subprocess.DEVNULL)
    helps = [_timed_help() for _ in range(repeats)]
    folder = work / "state"
    shutil.rmtree(folder, ignore_errors=True)
    server = EmbeddedPostgres(folder / "postgres")
    try:
        database = Database(server.start())
        migrate(database)
        database.close()
        ready = [_timed_receiver(server.conninfo, folder) for _ in range(repeats)]
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
    return [
        Row("start", "sangloc --help, median", statistics.median(helps), "s", goal=0.3, at_most=True),
        Row("start", "receiver answers an echo, median", statistics.median(ready), "s", goal=3, at_most=True),
    ]


def _timed_help() -> float:
    start = time.perf_counter()
    subprocess.run([BIN / "sangloc", "--help"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def _timed_receiver(conninfo: str, folder: Path) -> float:
    port = free_port()
    settings = {"SANGLOC_DATABASE_URL": conninfo, "SANGLOC_OBJECTS_FOLDER": str(folder / "objects")}
    command = [BIN / "sangloc", "receive", "--dicom-port", str(port)]
    start = time.perf_counter()
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **settings}, cwd=folder)
    try:
        wait(lambda: _answers(port), 30, "sangloc receive")
        return time.perf_counter() - start
    finally:
        process.terminate()
        process.wait(30)


def _answers(port: int) -> bool:
    try:
        with dicom_client.Client(port, timeout_s=5) as client:
            return client.echo() == 0
    except (OSError, dicom_client.BrokenError):
        return False
