"""Worklist pages and look-ups among 100,000 open studies, over HTTP with one kept connection."""

from __future__ import annotations

import datetime as dt
import hashlib
import http.client
import json
import math
import random
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.systems import Running, sangloc
from bench.table import Row
from storage.database import Database
from storage.embedded import EmbeddedPostgres
from storage.studies import InstanceHeader, Received, index_instances
from storage.uid import InstanceUID, SeriesUID, StudyUID

DX = "1.2.840.10008.5.1.4.1.1.1.1"
FAMILIES = ("Nguyễn", "Trần", "Lê", "Phạm", "Hoàng", "Đặng", "Bùi", "Đỗ", "Hồ", "Ngô", "Dương", "Lý")
GIVEN = ("An", "Bình", "Châu", "Dũng", "Giang", "Hà", "Hạnh", "Hùng", "Khánh", "Lan", "Linh", "Mai", "Nam", "Phương")
BATCH = 500
DAY = dt.date(2026, 1, 1)


def run(work: Path, *, quick: bool) -> list[Row]:
    """p95 of each kind of question, the slowest kinds last."""
    studies, asked = (10_000, 60) if quick else (100_000, 300)
    with sangloc(work / "state", "--no-worker") as running:
        database = Database(EmbeddedPostgres(running.data / "postgres").conninfo)
        _fill(database, studies)
        database.close()
        found = {kind: _measure(running, kind, studies, asked) for kind in QUESTIONS}
    rows = []
    for kind, times in sorted(found.items(), key=lambda item: percentile(item[1], 95)):
        detail = {"p50_ms": 1000 * percentile(times, 50), "max_ms": 1000 * max(times)}
        case = f"{kind}, {studies:,} open studies, p95"
        rows.append(Row("look-up", case, 1000 * percentile(times, 95), "ms", goal=20, at_most=True, detail=detail))
    return rows


def percentile(values: list[float], percent: float) -> float:
    """Nearest-rank percentile."""
    return sorted(values)[max(0, math.ceil(percent / 100 * len(values)) - 1)]


def _patient(number: int) -> tuple[str, str]:
    dice = random.Random(number)
    return f"BN{number:07d}", f"{dice.choice(FAMILIES)}^{dice.choice(GIVEN)} {dice.choice(GIVEN)}"


QUESTIONS: dict[str, Callable[[random.Random, int], tuple[str, dict[str, object]]]] = {
    "worklist page of 50": lambda _d, _n: ("/api/worklist", {"limit": 50}),
    "worklist, flagged": lambda _d, _n: ("/api/worklist", {"limit": 50, "flagged": "true"}),
    "worklist, modality": lambda _d, _n: ("/api/worklist", {"limit": 50, "modality": "DX"}),
    "worklist, rare modality": lambda _d, _n: ("/api/worklist", {"limit": 50, "modality": "PX"}),
    "worklist, name": lambda d, n: ("/api/worklist", {"limit": 50, "name": _name(d, n)}),
    "worklist, one day": lambda d, _n: ("/api/worklist", {"limit": 50, **_day(d)}),
    "worklist, patient": lambda d, n: ("/api/worklist", {"limit": 50, "patient_id": _patient(d.randrange(n))[0]}),
    "studies by patient": lambda d, n: ("/api/studies", {"patient_id": _patient(d.randrange(n))[0]}),
    "studies by accession": lambda d, n: ("/api/studies", {"accession": f"A{d.randrange(n):08d}"}),
    "studies by name": lambda d, n: ("/api/studies", {"name": _name(d, n)}),
    "studies of one day": lambda d, _n: ("/api/studies", _day(d)),
}


def _name(dice: random.Random, studies: int) -> str:
    return _patient(dice.randrange(studies))[1].replace("^", " ")


def _day(dice: random.Random) -> dict[str, object]:
    day = DAY + dt.timedelta(days=dice.randrange(365))
    return {"date_from": day, "date_to": day}


def _measure(running: Running, kind: str, studies: int, asked: int) -> list[float]:
    dice = random.Random(kind)
    connection = http.client.HTTPConnection("127.0.0.1", running.http, timeout=30)
    times, cursor = [], None
    for _ in range(asked):
        path, keys = QUESTIONS[kind](dice, studies)
        if kind == "worklist page of 50" and cursor:
            keys["cursor"] = cursor  # page after page, deep into the list
        start = time.perf_counter()
        connection.request("GET", f"{path}?{urllib.parse.urlencode(keys)}")
        answer = connection.getresponse()
        body = answer.read()
        times.append(time.perf_counter() - start)
        if answer.status != 200:
            raise RuntimeError(f"{path} {keys}: {answer.status} {body[:300]!r}")
        cursor = json.loads(body).get("next")
    connection.close()
    return times


def _fill(database: Database, studies: int) -> None:
    """Rows as ingest makes them; then a tenth flagged and due earlier, as the worker would have left them."""
    for start in range(0, studies, BATCH):
        with database.transaction() as connection:
            index_instances(connection, list(_received(range(start, start + BATCH))))
    with database.transaction() as connection:
        connection.execute(
            "UPDATE worklist SET status = 'scored', probability = random(), flagged = random() < 0.1,"
            " due_at = due_at - random() * interval '7 hours', scored_at = now()"
        )
    with database.autocommit() as connection:
        connection.execute("VACUUM ANALYZE")


def _received(numbers: range) -> Iterator[Received]:
    at = dt.datetime.now(dt.UTC)
    for number in numbers:
        patient_id, name = _patient(number)
        modality = "PX" if number % 5000 == 0 else "CT" if number % 3 == 0 else "DX"
        header = InstanceHeader(
            sop_class=DX,
            sop_uid=InstanceUID(f"2.25.1{number}"),
            study_uid=StudyUID(f"2.25.2{number}"),
            series_uid=SeriesUID(f"2.25.3{number}"),
            transfer_syntax="1.2.840.10008.1.2.1",
            patient_id=patient_id,
            patient_name=name,
            study_date=DAY + dt.timedelta(days=number % 365),
            accession_number=f"A{number:08d}",
            modality=modality,
        )
        yield Received(
            header=header,
            object_key=f"00/00/{number:032x}.dcm",
            object_size=1000,
            dataset_offset=400,
            sha256=hashlib.sha256(str(number).encode()).digest(),
            source_aet="BENCH",
            source_address="127.0.0.1",
            received_at=at + dt.timedelta(seconds=number / 10),
            site="",
            priority="routine",
            latest_due_at=at + dt.timedelta(hours=8, seconds=number / 10),
        )
