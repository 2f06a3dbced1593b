"""Forwarding: how fast a district's full queue empties into a province's archive when the line is back.

The province is a sangloc each time. Ours beside Orthanc's C-STORE of the same instances (`/modalities/{name}/store`,
one association), and ours over four associations and by STOW-RS. All files are there before the clock runs.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.data import PROFILES, prepare
from bench.push import push
from bench.systems import BIN, Running, orthanc, sangloc
from bench.table import Row
from storage import destinations, peers
from storage.database import Database
from storage.embedded import EmbeddedPostgres

CASES = (("1 association", "dimse", 1), ("4 associations", "dimse", 4), ("STOW-RS, 4 connections", "stow", 4))


def run(work: Path, *, quick: bool, peers: bool) -> list[Row]:
    """MB/s of each way."""
    rows = []
    for name in ("ct",) if quick else ("ct", "cxr-jls"):
        files = prepare(PROFILES[name], work / "data")[: 200 if quick else None]
        size = sum(file.stat().st_size for file in files) / 1e6
        option = PROFILES[name].option
        theirs = None
        if peers and shutil.which("Orthanc"):
            theirs = size / _orthanc_seconds(work, files, option)
        for number, (what, method, parallel) in enumerate(CASES):
            ours = size / _seconds(work, files, option, method, parallel)
            goal = 1.0 if theirs is not None and number == 0 else None
            rows.append(Row("forward", f"{name}, {what}", ours, "MB/s", "Orthanc, 1 association", theirs, goal))
    return rows


@contextmanager
def _province(work: Path) -> Iterator[Running]:
    environment = {"SANGLOC_DICOM_AE_TITLE": "PROVINCE"}
    with sangloc(work / "province", "--no-worker", environment=environment) as running:
        yield running


def _seconds(work: Path, files: list[Path], option: str, method: str, parallel: int) -> float:
    with _province(work) as province, sangloc(work / "district", "--no-worker") as district:
        database = Database(EmbeddedPostgres(district.data / "postgres").conninfo)
        there = peers.Peer(
            name="province", aet="PROVINCE", host="127.0.0.1", port=province.port,
            dicomweb_url=f"http://127.0.0.1:{province.http}/dicom-web",
        )  # fmt: skip
        with database.transaction() as connection:
            peers.put(connection, there, "bench")
        _command(district, "destination", "province", "--peer", "province", "--method", method, "--parallel", parallel)
        _command(district, "pause", "province")
        _command(district, "rule", "province")
        push(district.port, "SANGLOC", files, senders=4, option=option, nagle=False)
        _wait(database, waiting=len(files))
        start = time.monotonic()
        with database.transaction() as connection:
            destinations.pause(connection, "province", "bench", paused=False)
        with database.autocommit() as connection:
            destinations.notify(connection)
        _wait(database, waiting=0)
        seconds = time.monotonic() - start
        database.close()
        return seconds


def _command(district: Running, *arguments: object) -> None:
    command = [BIN / "sangloc", "forwarding", *map(str, arguments), "--data", district.data]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _wait(database: Database, *, waiting: int) -> None:
    deadline = time.monotonic() + 600
    while True:
        with database.autocommit() as connection:
            (found,) = destinations.status(connection)
        if found.dead or time.monotonic() > deadline:
            raise RuntimeError(f"forwarding does not get on: {found}")
        if found.waiting == waiting:
            return
        time.sleep(0.02)


def _orthanc_seconds(work: Path, files: list[Path], option: str) -> float:
    with _province(work) as province:
        there = {"province": ["PROVINCE", "127.0.0.1", province.port]}
        with orthanc(work / "orthanc", nodelay=True, DicomModalities=there) as district:
            push(district.port, "ORTHANC", files, senders=4, option=option, nagle=False)
            api = f"http://127.0.0.1:{district.http}"
            with urllib.request.urlopen(f"{api}/instances") as answer:
                held = json.load(answer)
            body = json.dumps({"Resources": held, "Synchronous": True, "Timeout": 600}).encode()
            start = time.monotonic()
            request = urllib.request.Request(f"{api}/modalities/province/store", body, method="POST")
            with urllib.request.urlopen(request, timeout=600) as answer:
                told = json.load(answer)
            if told["FailedInstancesCount"]:
                raise RuntimeError(f"Orthanc: {told}")
            return time.monotonic() - start
