"""Does size matter: queries and C-STORE at 10,000,000 instances against few, both archives asked by turns.

The large one is made once (`bench/flood.py`, about 6 minutes and 16 GB) and kept. Keys are asked for once before they
are measured, and what that took is kept as "first time"; before C-STORE the indexes are read once. So what is compared
is the work of the index, and what a cold disk adds stands beside it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import dicom_client
import psycopg

from bench.flood import flooded
from bench.lean import Answered, Ask, measure
from bench.query import (
    COUNTS,
    KINDS,
    STUDIES,
    Case,
    Study,
    archive,
    brief,
    by_turns,
    connector,
    conninfo_of,
    finds,
    paths,
    sample,
)
from bench.systems import Running, sangloc
from bench.table import Row
from storage.names import fold

MANY, QUICK_MANY = 5_000_000, 50_000
FEW = 5_000  # studies, with 10,000 instances
ROUNDS = 6
STORE_BYTES = 100_000
ASKED = 600  # studies whose keys are asked for
EXACT = ("PatientID", "accession")
ENOUGH_FREE = 30e9  # bytes of disk


def run(work: Path, *, quick: bool) -> list[Row]:
    """Queries at 5,000,000 studies against 50,000."""
    many = QUICK_MANY if quick else MANY
    if not _room(work, many):
        return []
    seconds = 4.0 if quick else 12.0
    with archive(work, STUDIES // 10 if quick else STUDIES) as small, archive(work, many) as large:
        systems = {"few": small, "many": large}
        rows = [row for kind in EXACT for how in ("find", "web") for row in _ratios(kind, how, systems, seconds)]
        for case, goal in _others(conninfo_of(large)):
            found = measure(connector(large, case.how), [case.messages], seconds)
            print(f"  {case.name}: {brief(found)}", flush=True)
            name = f"{case.name}, {many:,} studies, 1 client, p95"
            rows.append(Row("scale", name, found.ms(95), "ms", goal=goal, at_most=True, detail=found.detail()))
    return rows


def run_ingest(work: Path, *, quick: bool) -> list[Row]:
    """C-STORE answers at 10,000,000 instances against 10,000."""
    many = QUICK_MANY if quick else MANY
    if not _room(work, many):
        return []
    few = flooded(work / "state-few", FEW)
    lots = flooded(work / "state-many", many) if quick else flooded(work / "data" / f"flood-{many}", many)
    rows = []
    with sangloc(few, "--no-worker", keep=True) as small, sangloc(lots, "--no-worker", keep=True) as large:
        _warm(large)
        for senders in (1, 4):
            found = {label: Answered() for label in ("few", "many")}
            for _ in range(4 if quick else 12):
                for label, running in (("few", small), ("many", large)):
                    found[label].add(_store(running, senders, 2.0))
            case = f"C-STORE of {STORE_BYTES // 1000} kB, {2 * many:,} instances, {senders} sender(s), p95"
            print(f"  {case}: {brief(found['many'])}; with {2 * FEW:,}: {brief(found['few'])}", flush=True)
            detail = {label: answered.detail() for label, answered in found.items()}
            against = f"ours at {2 * FEW:,}"
            value, peer = found["many"].ms(95), found["few"].ms(95)
            rows.append(Row("scale", case, value, "ms", against, peer, 1.2, at_most=True, detail=detail))
    for folder in (few, lots) if quick else (few,):  # the large one keeps what came: some thousand more do not count
        shutil.rmtree(folder, ignore_errors=True)
    return rows


def _ratios(kind: str, how: str, systems: dict[str, Running], seconds: float) -> Iterator[Row]:
    cases, first = {}, {}
    for label, running in systems.items():
        asked = sample(conninfo_of(running), ASKED)
        messages = finds(asked, KINDS[kind]) if how == "find" else paths(asked, KINDS[kind], limit="1000")
        cases[label] = (running, Case(kind, how, messages))
        first[label] = measure(connector(running, how), [messages], 60)
    for clients in (1, 8):
        found = by_turns(cases, clients, seconds, ROUNDS)
        name = f"{'C-FIND' if how == 'find' else 'QIDO-RS'}, {kind}, {clients} client{'s' if clients > 1 else ''}, p95"
        print(f"  {name}: {brief(found['many'])}; with few: {brief(found['few'])}", flush=True)
        detail = {label: answered.detail() for label, answered in found.items()}
        detail |= {f"{label}, first time": answered.detail() for label, answered in first.items()}
        value, peer = found["many"].ms(95), found["few"].ms(95)
        yield Row("scale", name, value, "ms", "ours at 50,000 studies", peer, 1.2, at_most=True, detail=detail)


def _others(conninfo: str) -> Iterator[tuple[Case, float | None]]:
    asked = sample(conninfo, ASKED)

    def bare(study: Study) -> dict[str, str]:
        return {"PatientName": fold(study.prefix)}

    def dated(study: Study) -> dict[str, str]:
        return {**bare(study), "StudyDate": f"{int(study.date[:4]) - 1}{study.date[4:]}-{study.date}"}

    page = {"limit": "50", "fuzzymatching": "true"}
    yield Case("QIDO-RS, name without accents and a year of dates, first 50", "web", paths(asked, dated, **page)), 100
    yield Case("QIDO-RS, name without accents, first 50", "web", paths(asked, bare, **page)), None
    yield Case("QIDO-RS, one day, first 100", "web", paths(asked, KINDS["one day"], limit="100")), None
    yield Case("QIDO-RS, 100 most recent with counts", "web", paths(asked, lambda _: {}, limit="100", **COUNTS)), None
    yield Case("C-FIND, one day, all answers", "find", finds(asked, KINDS["one day"])), None


def _store(running: Running, senders: int, seconds: float) -> Answered:
    """Answers to new instances, four a study, on one association each."""

    def connect() -> Ask:
        client = dicom_client.Client(running.port, running.aet)

        def ask(made: dicom_client.Made) -> int:
            if status := client.store(made.sop_class, made.sop_uid, made.data):
                raise RuntimeError(f"status {status:04X}")
            return 1

        return ask

    return measure(connect, [_instances(int(100 * seconds)) for _ in range(senders)], seconds)


def _instances(count: int) -> list[dicom_client.Made]:
    made = []
    for number in range(count):
        if number % 4 == 0:
            study = dicom_client.new_uid()
        made.append(dicom_client.make(study_uid=study, patient=study[-12:], pixels=STORE_BYTES))
    return made


def _warm(running: Running) -> None:
    """Read the files of the indexes once."""
    with psycopg.connect(conninfo_of(running)) as connection:
        indexes = connection.execute("SELECT pg_relation_filepath(oid) FROM pg_class WHERE relkind = 'i'").fetchall()
    block = bytearray(1 << 20)
    for (name,) in indexes:
        first = running.data / "postgres" / "data" / name
        for file in first.parent.glob(f"{first.name}*"):  # pieces of 1 GB
            with file.open("rb", buffering=0) as source:
                while source.readinto(block):
                    pass


def _room(work: Path, studies: int) -> bool:
    if (work / "data" / f"flood-{studies}").exists():
        return True
    disk = os.statvfs(work)
    free = disk.f_bavail * disk.f_frsize
    if studies >= MANY and free < ENOUGH_FREE:
        print(f"  left out: {free / 1e9:.0f} GB are free, {ENOUGH_FREE / 1e9:.0f} GB are wanted")
        return False
    return True
