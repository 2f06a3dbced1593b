"""Ingest: files per second that storescu gets acknowledged, ours and the peers' by turns, each with an empty archive.

Without Nagle's algorithm in client and server, but for stock clients, which have it.
"""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from bench.bound import bound
from bench.data import PROFILES, prepare
from bench.push import Pushed, push
from bench.systems import POSTGRES_PLUGIN, TUNED, UNSAFE, Running, orthanc, sangloc
from bench.table import Row

System = Callable[[Path], AbstractContextManager[Running]]
OURS, BOUND = "sangloc", "bound"
_LONG = {"ct": 48, "cxr-jls": 216, "cxr-raw": 72}  # studies for 16 senders
_SETTLE_S = 2.0  # an archive runs for months: nobody is measured while it starts
BEST, POSTGRES = "Orthanc, best", "Orthanc with PostgreSQL, best"


def run(work: Path, names: tuple[str, ...], *, repeats: int, quick: bool, peers: bool) -> list[Row]:
    """4 senders and 1 sender for the named profiles; `quick` takes half of the files."""
    rows: list[Row] = []
    for name in names:
        load = Load(work, name, _files(work, name, quick=quick), 4, repeats)
        measured = _measure(load, _peers(nodelay=True) if peers else {}, with_bound=True)
        rows += _rows(f"{name}, 4 senders", measured, {BEST: 1.2, POSTGRES: 2.0, BOUND: 0.65})
    for name in names:
        found = _files(work, name, quick=quick)
        tuned = {k: v for k, v in _peers(nodelay=True).items() if "tuned" in k and "PostgreSQL" not in k}
        measured = _measure(Load(work, name, found[: len(found) // 2], 1, repeats), tuned if peers else {})
        rows += _rows(f"{name}, 1 sender", measured, {BEST: 1.1})
    return rows


def run_many(work: Path, names: tuple[str, ...], *, repeats: int, quick: bool) -> list[Row]:
    """16 senders against 4, on three times the files: each storescu takes 40 ms of processor time to start."""
    rows: list[Row] = []
    for name in names:
        several = PROFILES[name] if quick else replace(PROFILES[name], name=f"{name}-long", studies=_LONG[name])
        load = Load(work, name, prepare(several, work / "data"), 4, repeats)
        four, sixteen = (_measure(replace(load, senders=senders), {})[OURS] for senders in (4, 16))
        detail = {"four_senders": four, "sixteen": sixteen}
        case = f"{name}, 16 senders"
        rows.append(Row("ingest", case, sixteen, "files/s", "ours, 4 senders", four, 1.0, detail=detail))
    return rows


def run_stock(work: Path, names: tuple[str, ...], *, repeats: int, quick: bool, peers: bool) -> list[Row]:
    """4 stock clients: Nagle's algorithm on, as modalities have it."""
    rows: list[Row] = []
    for name, goal in (("ct", 5.0), ("cxr-jls", 2.5)):
        if name in names:
            load = Load(work, name, _files(work, name, quick=quick), 4, repeats, nagle=True)
            sqlite = {k: v for k, v in _peers(nodelay=False).items() if "PostgreSQL" not in k}
            measured = _measure(load, sqlite if peers else {})
            rows += _rows(f"{name}, 4 stock clients (Nagle on)", measured, {BEST: goal})
    return rows


def _files(work: Path, name: str, *, quick: bool) -> list[Path]:
    found = prepare(PROFILES[name], work / "data")
    return found[: len(found) // 2] if quick else found


def _peers(*, nodelay: bool) -> dict[str, System]:
    if shutil.which("Orthanc") is None:
        return {}
    lite = partial(orthanc, nodelay=nodelay)
    peers: dict[str, System] = {
        "Orthanc default": lite,
        "Orthanc tuned": partial(lite, **TUNED),
        "Orthanc tuned, no fsync": partial(lite, **TUNED, **UNSAFE),
    }
    if POSTGRES_PLUGIN.exists():
        postgres = partial(orthanc, nodelay=nodelay, database="postgres")
        peers |= {"Orthanc PostgreSQL": postgres, "Orthanc PostgreSQL tuned": partial(postgres, **TUNED)}
    return peers


@dataclass(frozen=True)
class Load:
    """What is pushed, and how often."""

    work: Path
    profile: str
    files: list[Path]
    senders: int
    repeats: int
    nagle: bool = False


def _measure(load: Load, peers: dict[str, System], *, with_bound: bool = False) -> dict[str, float]:
    """Median files per second of each system, measured by turns: ours, peer, peer, bound, ours, ..."""
    systems: dict[str, System] = {OURS: lambda folder: sangloc(folder, "--no-worker"), **peers}
    runs: dict[str, list[Pushed]] = {}
    option = PROFILES[load.profile].option
    state = load.work / "state"
    for _ in range(load.repeats):
        for label, system in systems.items():
            with system(state) as running:
                time.sleep(_SETTLE_S)
                pushed = push(
                    running.port, running.aet, load.files, senders=load.senders, option=option, nagle=load.nagle
                )
            runs.setdefault(label, []).append(pushed)
        if with_bound:
            runs.setdefault(BOUND, []).append(bound(load.files, state, load.senders))
    for label, pushed_runs in runs.items():
        rates = "  ".join(f"{p.rate:6.1f}" for p in pushed_runs)
        speed = statistics.median(p.megabytes / p.seconds for p in pushed_runs)
        case = f"{load.profile:8} x{load.senders:<2} {'Nagle' if load.nagle else '     '}"
        print(f"  {case} {label:26} {rates}  ({speed:.0f} MB/s)", flush=True)
    return {label: statistics.median(p.rate for p in pushed_runs) for label, pushed_runs in runs.items()}


def _rows(case: str, measured: dict[str, float], goals: dict[str, float]) -> list[Row]:
    groups = {
        BEST: [k for k in measured if k.startswith("Orthanc") and "PostgreSQL" not in k],
        POSTGRES: [k for k in measured if "PostgreSQL" in k],
        BOUND: [k for k in measured if k == BOUND],
    }
    rows = []
    for against, goal in goals.items():
        if best := max((measured[k] for k in groups[against]), default=None):
            rows.append(Row("ingest", case, measured[OURS], "files/s", against, best, goal, detail=measured))
    return rows or [Row("ingest", case, measured[OURS], "files/s", detail=measured)]
