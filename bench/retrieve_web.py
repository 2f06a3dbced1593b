"""WADO-RS, ours beside Orthanc with the same objects: objects, metadata, pictures, and the API's memory under load.

Both run at the same time, store first what is then asked for, and are asked by turns. "First" pictures are asked for
with a window of their own each, so that nobody has them ready.
"""

from __future__ import annotations

import http.client
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pydicom

from bench.data import Profile, prepare
from bench.lean import Answered, Ask, measure
from bench.push import push
from bench.systems import DICOMWEB, TUNED, Running, orthanc, sangloc
from bench.table import Row

RAW = Profile("cxr-raw-get", 12, 2, "raw")  # shared with the bench of C-GET
JLS = Profile("cxr-jls-web", 8, 2, "jls")
MANY = Profile("ct-900", 1, 900, "ct")
BIG = Profile("cxr-raw-1g", 1, 70, "raw")
CLIENTS = (1, 8)
ROUNDS = 4
PULLERS = 16
ORTHANC = "Orthanc"
OBJECT = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}
PICTURE = {"Accept": "image/jpeg"}
PATIENCE_S = 120

Query = tuple[str, Mapping[str, str]]


@dataclass(frozen=True)
class Instance:
    """The UIDs of a file."""

    study: str
    series: str
    sop: str

    @property
    def path(self) -> str:
        """Of the instance below the DICOMweb service."""
        return f"/dicom-web/studies/{self.study}/series/{self.series}/instances/{self.sop}"


def run(work: Path, *, quick: bool, peers: bool) -> list[Row]:
    """Rows of objects, metadata, pictures and memory."""
    files = {profile.name: prepare(profile, work / "data") for profile in (RAW, JLS, MANY, BIG)}
    seconds, rounds = (1.5, 1) if quick else (3.0, ROUNDS)
    load = Load(seconds, rounds)
    with _systems(work, have_peers=peers and bool(shutil.which("Orthanc")) and DICOMWEB[0].exists()) as systems:
        for running in systems.values():
            for profile in (RAW, JLS, MANY):
                found = files[profile.name]
                push(running.port, running.aet, found, senders=2, option=profile.option, nagle=False)
        push(systems["sangloc"].port, "SANGLOC", files[BIG.name], senders=2, option=BIG.option, nagle=False)
        raw, jls = _instances(files[RAW.name]), _instances(files[JLS.name])
        return [
            *_objects(systems, raw, load),
            *_metadata(systems, _instances(files[MANY.name][:1])[0].study, load),
            *_pictures(systems, "raw 15 MB", raw, load, 60.0),
            *_pictures(systems, "JPEG-LS", jls, load, 120.0),
            _memory(systems["sangloc"], _instances(files[BIG.name][:1])[0].study, quick=quick),
        ]


@dataclass(frozen=True)
class Load:
    """How long each system is asked in one turn, and how often."""

    seconds: float
    rounds: int

    def by_turns(self, systems: Mapping[str, Running], queries: Sequence[Sequence[Query]]) -> dict[str, Answered]:
        """What each system answered to one client for each list; other queries in each round."""
        found = {name: Answered() for name in systems}
        for turn in range(self.rounds):
            for name, running in systems.items():
                lists = [_share(items, turn, self.rounds) for items in queries]
                found[name].add(measure(partial(web_client, running.http), lists, self.seconds))
        return found


def _share(items: Sequence[Query], turn: int, turns: int) -> Sequence[Query]:
    size = len(items) // turns
    return items[turn * size : (turn + 1) * size]


def web_client(port: int) -> Ask:
    """GET on one kept connection; gives the bytes of the body, which are thrown away."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    buffer = bytearray(1 << 20)

    def answered(path: str, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        connection.request("GET", path, headers=dict(headers))
        return connection.getresponse()

    def ask(query: Query) -> int:
        path, headers = query
        try:
            answer = answered(path, headers)
        except http.client.RemoteDisconnected:  # Orthanc ends a connection that is silent for a second
            connection.close()
            answer = answered(path, headers)
        if answer.status != 200:
            raise RuntimeError(f"{answer.status} for {path}: {answer.read()[:300]!r}")
        size = 0
        while count := answer.readinto(buffer):
            size += count
        return size

    return ask


def _objects(systems: Mapping[str, Running], instances: Sequence[Instance], load: Load) -> Iterator[Row]:
    for clients in CLIENTS:
        paths = [one.path for one in instances]
        queries = [[(paths[(c + n) % len(paths)], OBJECT) for n in range(4000)] for c in range(clients)]
        found = load.by_turns(systems, queries)
        speeds = {name: one.answers / 1e6 / (sum(one.times) / clients) for name, one in found.items()}
        case = f"WADO-RS 15 MB instances, {_clients(clients)}"
        _tell(case, {name: f"{speed:.0f} MB/s" for name, speed in speeds.items()})
        theirs = speeds.get(ORTHANC)
        yield Row(
            "retrieve-web", case, speeds["sangloc"], "MB/s", ORTHANC if theirs else "", theirs, 1.5, detail=speeds
        )


def _metadata(systems: Mapping[str, Running], study: str, load: Load) -> Iterator[Row]:
    path = f"/dicom-web/studies/{study}/metadata"
    for coding in ("identity", "gzip"):
        headers = {"Accept": "application/dicom+json", "Accept-Encoding": coding}
        if coding == "identity":  # makes and keeps the metadata of the series
            measure(partial(web_client, systems["sangloc"].http), [[(path, headers)] * 2], PATIENCE_S)
        found = load.by_turns(systems, [[(path, headers)] * 400])
        yield from _times(f"metadata of 900 instances, {coding}", found, 150.0)


def _pictures(
    systems: Mapping[str, Running], what: str, instances: Sequence[Instance], load: Load, goal: float
) -> Iterator[Row]:
    def first(n: int) -> Query:
        one = instances[n % len(instances)]
        return f"{one.path}/rendered?viewport=512,512&window={1500 + n},3000,linear", PICTURE

    for clients in CLIENTS:
        queries = [[first(8000 * c + n) for n in range(4000)] for c in range(clients)]
        found = load.by_turns(systems, queries)
        yield from _times(f"rendered 512 px, {what}, first, {_clients(clients)}", found, goal if clients == 1 else None)
        again = [[(f"{instances[0].path}/rendered?viewport=512,512", PICTURE)] * 8000] * clients
        found = load.by_turns(systems, again)
        yield from _times(f"rendered 512 px, {what}, again, {_clients(clients)}", found, 5.0 if clients == 1 else None)


def _times(case: str, found: Mapping[str, Answered], goal: float | None) -> Iterator[Row]:
    """p95 against the clock, and beside the peer's."""
    case += ", p95"
    _tell(case, {name: f"{one.ms(50):.1f} / {one.ms(95):.1f} ms" for name, one in found.items()})
    detail: dict[str, Any] = {name: one.detail() for name, one in found.items()}
    ours, theirs = found["sangloc"], found.get(ORTHANC)
    if goal is not None:
        yield Row("retrieve-web", case, ours.ms(95), "ms", goal=goal, at_most=True, detail=detail)
    if theirs:
        yield Row("retrieve-web", case, ours.ms(95), "ms", ORTHANC, theirs.ms(95), detail=detail)


def _memory(running: Running, study: str, *, quick: bool) -> Row:
    """The largest resident size of an API process while clients pull a study of 1 GB each, again and again."""
    watch = Watch(running.pids["api"])
    query = (f"/dicom-web/studies/{study}", OBJECT)
    with watch:
        answered = measure(partial(web_client, running.http), [[query] * 4] * PULLERS, 5.0 if quick else 30.0)
    detail = watch.found()
    detail["MB_per_s"] = answered.answers / 1e6 / (sum(answered.times) / PULLERS)
    case = f"API memory, {PULLERS} clients pull studies of 1 GB"
    _tell(case, {name: f"{value:.0f}" for name, value in detail.items()})
    return Row("retrieve-web", case, detail["most"], "MB", goal=300, at_most=True, detail=detail)


class Watch(threading.Thread):
    """Looks at the resident memory of processes ten times a second; MB of the largest."""

    def __init__(self, pids: Sequence[int]) -> None:
        super().__init__(daemon=True)
        self._pids = pids
        self._over = threading.Event()
        self._seen = [self._resident()]

    def run(self) -> None:
        """Look until the block ends."""
        while not self._over.wait(0.1):
            self._seen.append(self._resident())

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self.join()

    def found(self) -> dict[str, float]:
        """Before, in the middle, at the end, and the most."""
        seen = self._seen
        return {"before": seen[0], "middle": seen[len(seen) // 2], "end": seen[-1], "most": max(seen)}

    def _resident(self) -> float:
        def of(pid: int) -> float:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024

        return max(map(of, self._pids))


def _instances(files: Sequence[Path]) -> list[Instance]:
    heads = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
    return [Instance(str(h.StudyInstanceUID), str(h.SeriesInstanceUID), str(h.SOPInstanceUID)) for h in heads]


@contextmanager
def _systems(work: Path, *, have_peers: bool) -> Iterator[dict[str, Running]]:
    with sangloc(work / "state", "--no-worker") as ours:
        if not have_peers:
            yield {"sangloc": ours}
            return
        with orthanc(work / "peer", nodelay=True, plugins=DICOMWEB, **TUNED) as theirs:
            yield {"sangloc": ours, ORTHANC: theirs}


def _clients(count: int) -> str:
    return f"{count} client{'s' * (count > 1)}"


def _tell(case: str, found: Mapping[str, str]) -> None:
    print(f"  {case}:  " + "  ".join(f"{name} {value}" for name, value in found.items()), flush=True)
