"""Receiver memory over many associations: echoes, small stores, broken associations and bare TCP probes."""

from __future__ import annotations

import random
import socket
import threading
from pathlib import Path

import dicom_client

from bench.systems import Running, sangloc
from bench.table import Row

CLIENTS = 4
PROBES = 0.3  # bare TCP connections
BROKEN = 0.1  # associations that are never released
STORES = 0.3  # of the others


def run(work: Path, *, quick: bool) -> list[Row]:
    """RSS of each receiver at the end of the first fifth and at the end of all."""
    count = 2_000 if quick else 20_000
    with sangloc(work / "state", "--no-worker") as running:
        _associate(running, count // 5)
        early = _rss(running)
        _associate(running, count - count // 5)
        late = _rss(running)
    change = max(abs(b / a - 1) for a, b in zip(early, late, strict=True))
    detail = {"early_mb": early, "late_mb": late, "associations": count}
    case = f"{count:,} associations"
    return [
        Row("memory", f"{case}, largest receiver", max(late), "MB RSS", goal=150, at_most=True, detail=detail),
        Row("memory", f"{case}, change", 100 * change, "%", goal=5, at_most=True, detail=detail),
    ]


def _associate(running: Running, count: int) -> None:
    failures: list[BaseException] = []

    def client(number: int, share: int) -> None:
        dice = random.Random(number)
        try:
            for _ in range(share):
                _one(running.port, dice)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=client, args=(n, count // CLIENTS)) for n in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def _one(port: int, dice: random.Random) -> None:
    kind = dice.random()
    if kind < PROBES:
        socket.create_connection(("127.0.0.1", port)).close()
        return
    client = dicom_client.Client(port)
    if kind < PROBES + BROKEN:
        client.close()
        return
    if dice.random() < STORES:
        made = dicom_client.make(pixels=20_000)
        status = client.store(made.sop_class, made.sop_uid, made.data)
    else:
        status = client.echo()
    client.release()
    if status:
        raise RuntimeError(f"status {status:04X}")


def _rss(running: Running) -> list[float]:
    """Megabytes of each receiver process."""
    found = []
    for pid in running.pids["receiver"]:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        found.append(next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1000)
    return found
