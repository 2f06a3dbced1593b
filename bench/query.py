"""C-FIND and QIDO-RS among 50,000 studies, ours beside Orthanc with the same studies; 1 client and 8.

Both run at the same time and are asked by turns, the same queries in the same order.
"""

from __future__ import annotations

import random
import shutil
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psycopg

from bench.flood import flooded
from bench.flood_orthanc import flooded_orthanc
from bench.lean import Answered, Ask, find_client, find_message, http_client, measure
from bench.systems import DICOMWEB, OPEN, Running, orthanc, sangloc
from bench.table import Row
from storage.embedded import EmbeddedPostgres

STUDIES, QUICK_STUDIES = 50_000, 5_000
CLIENTS = (1, 8)
ROUNDS = 2
MOST = 2_000  # queries a client has at hand
ORTHANC = "Orthanc"

# What a viewer's list shows: returned by default in QIDO-RS (PS3.18 Table 10.6.3-3), asked for in C-FIND.
RETURNED = (
    0x00080020, 0x00080030, 0x00080050, 0x00080061, 0x00080090, 0x00081030, 0x00100010, 0x00100020, 0x00100030,
    0x00100040, 0x0020000D, 0x00200010, 0x00201206, 0x00201208,
)  # fmt: skip
TAGS = {
    "PatientID": 0x00100020, "AccessionNumber": 0x00080050, "StudyDate": 0x00080020, "PatientName": 0x00100010,
}  # fmt: skip
COUNTS = {"includefield": "00080061,00201206,00201208"}


@dataclass(frozen=True)
class Study:
    """The keys of a study that is asked for."""

    patient_id: str
    accession: str
    date: str
    name: str

    @property
    def prefix(self) -> str:
        """Family name, middle name and two letters of the given name."""
        family, rest = self.name.split("^")
        middle, given = rest.split(" ", 1)
        return f"{family}^{middle} {given[:2]}*"

    @property
    def word_prefix(self) -> str:
        """Family and middle name: without a blank, which Orthanc's QIDO does not understand in any encoding."""
        return f"{self.name.split(' ')[0]}*"


Keys = Callable[[Study], dict[str, str]]
KINDS: dict[str, Keys] = {
    "PatientID": lambda s: {"PatientID": s.patient_id},
    "accession": lambda s: {"AccessionNumber": s.accession},
    "one day": lambda s: {"StudyDate": f"{s.date}-{s.date}"},
    "name prefix": lambda s: {"PatientName": s.prefix},
}


def finds(studies: list[Study], keys: Keys) -> list[bytes]:
    """C-FIND messages."""
    return [find_message({TAGS[name]: value for name, value in keys(s).items()}, RETURNED) for s in studies]


def paths(studies: list[Study], keys: Keys, **more: str) -> list[bytes]:
    """QIDO-RS paths at study level."""
    return [f"/dicom-web/studies?{urllib.parse.urlencode({**keys(s), **more}, safe='*^,')}".encode() for s in studies]


def sample(conninfo: str, count: int, *, ascii_names: bool = False) -> list[Study]:
    """So many studies of the database at random, the same ones each time.

    Orthanc's QIDO does not undo percent-encoding: it can be asked for names of ASCII letters only.
    """
    letters = "[A-Za-z]" if ascii_names else "[^ ^]"
    with psycopg.connect(conninfo) as connection:
        total = connection.execute("SELECT max(study_pk) FROM studies").fetchone()
        numbers = random.Random(7).sample(range(1, total[0] + 1), min(total[0], 40 * count))  # type: ignore[index]
        rows = connection.execute(
            "SELECT patient_id, accession_number, to_char(study_date, 'YYYYMMDD'), patient_name FROM studies"
            " WHERE study_pk = ANY(%s) AND patient_id LIKE 'BN%%' AND patient_name ~ %s"
            " ORDER BY md5(study_uid) LIMIT %s",
            (numbers, rf"^{letters}+\^{letters}+ {letters}", count),
        ).fetchall()
    return [Study(*row) for row in rows]


@contextmanager
def archive(work: Path, studies: int) -> Iterator[Running]:
    """Ours, running on a flooded folder that stays."""
    folder = flooded(work / "data" / f"flood-{studies}", studies)
    with sangloc(folder, "--no-worker", keep=True) as running:
        yield running


def conninfo_of(running: Running) -> str:
    """Of the database of an archive of ours."""
    return EmbeddedPostgres(running.data / "postgres").conninfo


def run(work: Path, *, quick: bool, peers: bool) -> list[Row]:
    """A row a kind and number of clients against Orthanc; those of one client also against the clock."""
    studies = QUICK_STUDIES if quick else STUDIES
    seconds = 2.0 if quick else 5.0
    with archive(work, studies) as ours:
        cases = list(_cases(conninfo_of(ours)))
        if not (peers and shutil.which("Orthanc") and DICOMWEB[0].exists()):
            return [row for n in CLIENTS for case in cases for row in _rows(case, n, {"": ours}, seconds)]
        folder = flooded_orthanc(work / "data" / f"orthanc-{studies}", studies, conninfo_of(ours))
        with orthanc(folder, nodelay=True, keep=True, plugins=DICOMWEB, **OPEN) as theirs:
            both = {"": ours, ORTHANC: theirs}
            return [row for n in CLIENTS for case in cases for row in _rows(case, n, both, seconds)]


@dataclass(frozen=True)
class Case:
    """A kind of question with its queries."""

    name: str
    how: str  # find | web
    messages: list[bytes]


def _cases(conninfo: str) -> Iterator[Case]:
    asked, plain = sample(conninfo, MOST), sample(conninfo, MOST, ascii_names=True)
    for kind, keys in KINDS.items():
        yield Case(f"C-FIND, {kind}", "find", finds(asked, keys))
        if kind == "name prefix":
            yield Case(f"QIDO-RS, {kind}", "web", paths(plain, lambda s: {"PatientName": s.word_prefix}, limit="1000"))
        else:
            yield Case(f"QIDO-RS, {kind}", "web", paths(asked, keys, limit="1000"))
    yield Case("QIDO-RS, 100 most recent with counts", "web", paths(asked, lambda _: {}, limit="100", **COUNTS))


def connector(running: Running, how: str) -> Callable[[], Ask]:
    """A client of C-FIND or QIDO-RS."""
    return partial(find_client, running.port, running.aet) if how == "find" else partial(http_client, running.http)


def by_turns(
    systems: Mapping[str, tuple[Running, Case]], clients: int, seconds: float, rounds: int = ROUNDS
) -> dict[str, Answered]:
    """What each system answered, asked by turns; each client has queries of its own, other ones in each round."""
    found = {label: Answered() for label in systems}
    for turn in range(rounds):
        for label, (running, case) in systems.items():
            share = len(case.messages) // clients
            start = turn * share // rounds
            lists = [case.messages[n * share + start : (n + 1) * share] for n in range(clients)]
            found[label].add(measure(connector(running, case.how), lists, seconds / rounds))
    return found


def _rows(case: Case, clients: int, systems: dict[str, Running], seconds: float) -> list[Row]:
    found = by_turns({label: (running, case) for label, running in systems.items()}, clients, seconds)
    ours, theirs = found[""], found.get(ORTHANC)
    detail: dict[str, Any] = {"sangloc": ours.detail()} | ({ORTHANC: theirs.detail()} if theirs else {})
    what = f"{case.name}, {clients} client{'s' if clients > 1 else ''}, p95"
    print(f"  {what}: {brief(ours)}" + (f"; Orthanc {brief(theirs)}" if theirs else ""), flush=True)
    recent = "recent" in case.name
    limit = (30.0 if clients == 1 else 200.0) if recent else (10.0 if clients == 1 else None)
    rows = [Row("query", what, ours.ms(95), "ms", goal=limit, at_most=True, detail=detail)] if limit else []
    if theirs:
        ratio = None if recent else 0.1
        rows.append(Row("query", what, ours.ms(95), "ms", ORTHANC, theirs.ms(95), ratio, at_most=True, detail=detail))
    return rows


def brief(answered: Answered) -> str:
    """For the eye: p50 and p95, and how much was answered."""
    each = answered.answers / len(answered.times)
    return f"{answered.ms(50):.1f} / {answered.ms(95):.1f} ms, {each:.1f} answers to {len(answered.times)} queries"
