"""C-GET and C-MOVE, ours beside Orthanc with the same objects: MB/s that arrive, 1 client and 8.

Both run at the same time, store first what is then asked for, and are asked by turns. The destination of C-MOVE is
DCMTK's storescp, which throws away what it gets. C-GET's client is ours for both: nothing is decoded in it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pydicom
from dcmtk import find

from bench.data import CT, DX, Profile, prepare
from bench.lean import Answered, Ask, measure
from bench.push import push
from bench.systems import OPEN, TUNED, Running, free_port, orthanc, sangloc, wait_port
from bench.table import Row
from pacs import identifiers
from pacs.dimse import command as dimse
from pacs.dimse.contexts import STUDY_ROOT_GET, STUDY_ROOT_MOVE
from pacs.dimse.policy import CallerPolicy
from pacs.dimse.proposal import Proposal
from pacs.dimse.requestor import EXPLICIT, IMPLICIT, Requestor
from storage import peers
from storage.database import Database
from storage.embedded import EmbeddedPostgres
from storage.peers import Peer

PROFILES = (Profile("ct-series", 6, 100, "ct"), Profile("cxr-raw-get", 12, 2, "raw"))
WHAT = {"ct-series": "100-instance CT series", "cxr-raw-get": "15 MB instances"}
CLIENTS = (1, 8)
ROUNDS = 4
DESTINATION = "MOVEDST"
_BUFFER_BYTES = 1 << 17
_PENDING = 0xFF00

System = tuple[str, Running]


def run(work: Path, *, quick: bool, peers: bool) -> list[Row]:
    """A row for each kind of objects, service and number of clients."""
    rows: list[Row] = []
    for profile in PROFILES:
        files = prepare(profile, work / "data")
        with (
            _destination() as port,
            _systems(work, port, have_peers=peers and bool(shutil.which("Orthanc"))) as systems,
        ):
            for _, running in systems:
                push(running.port, running.aet, files, senders=2, option=profile.option, nagle=False)
            studies = _studies(files)
            rows += [
                _row(profile, service, clients, systems, studies, quick=quick)
                for service in SERVICES
                for clients in CLIENTS
            ]
    return rows


def _row(
    profile: Profile, service: str, clients: int, systems: list[System], studies: list[tuple[str, int]], *, quick: bool
) -> Row:
    found = {name: Answered() for name, _ in systems}
    queries = [[studies[(c + n) % len(studies)] for n in range(2000)] for c in range(clients)]
    for _ in range(1 if quick else ROUNDS):
        for name, running in systems:
            found[name].add(
                measure(partial(SERVICES[service], running.port, running.aet), queries, 1.5 if quick else 3.0)
            )
    speeds = {name: one.answers / 1e6 / (sum(one.times) / clients) for name, one in found.items()}
    case = f"{service} {WHAT[profile.name]}, {clients} client{'s' * (clients > 1)}"
    print("  " + case + ":  " + "  ".join(f"{name} {speed:.0f} MB/s" for name, speed in speeds.items()), flush=True)
    theirs = speeds.get("Orthanc")
    return Row("retrieve", case, speeds["sangloc"], "MB/s", "Orthanc" if theirs else "", theirs, 1.0, detail=speeds)


def get_client(port: int, aet: str) -> Ask:
    """C-GET of a study on one association; gives its bytes."""
    proposals = [
        Proposal(STUDY_ROOT_GET, (IMPLICIT,)),
        *(Proposal(uid, (EXPLICIT,), as_scp=True) for uid in (CT, DX)),
    ]
    association = _associate(port, aet, proposals)
    wire = association.wire

    def ask(study: tuple[str, int]) -> int:
        message = association.send(1, _request(STUDY_ROOT_GET, dimse.C_GET_RQ), _identifier(study[0]))
        size = 0
        while True:
            context_id, raw = wire.command()
            command = dimse.decode(context_id, raw)
            if command.field == dimse.C_STORE_RQ:
                size += wire.data_set(context_id, lambda _: None, 1 << 40)
                wire.send_message(context_id, dimse.response(command, 0), association.peer_max_pdu_bytes)
            elif command.number(dimse.STATUS) != _PENDING:
                if command.number(dimse.STATUS) or command.responded_to != message or not size:
                    raise RuntimeError(f"C-GET status {command.number(dimse.STATUS):04X}")
                return size

    return ask


def move_client(port: int, aet: str) -> Ask:
    """C-MOVE of a study to the destination; gives its bytes."""
    association = _associate(port, aet, [Proposal(STUDY_ROOT_MOVE, (IMPLICIT,))])

    def ask(study: tuple[str, int]) -> int:
        request = _request(STUDY_ROOT_MOVE, dimse.C_MOVE_RQ) | {0x0600: DESTINATION.encode() + b" "}
        association.send(1, request, _identifier(study[0]))
        while True:
            command, _ = association.receive()
            if command.number(dimse.STATUS) != _PENDING:
                if command.number(dimse.STATUS):
                    raise RuntimeError(f"C-MOVE status {command.number(dimse.STATUS):04X}")
                return study[1]

    return ask


SERVICES: dict[str, Callable[[int, str], Ask]] = {"C-GET": get_client, "C-MOVE": move_client}


def _associate(port: int, aet: str, proposals: list[Proposal]) -> Requestor:
    peer = Peer(name="archive", aet=aet, host="127.0.0.1", port=port)
    policy = CallerPolicy(ae_title="BENCH", max_pdu_bytes=_BUFFER_BYTES, timeout_s=60)
    return Requestor(peer, policy, proposals).__enter__()


def _request(sop_class: str, field: int) -> dict[int, int | bytes]:
    return {dimse.AFFECTED_SOP_CLASS: sop_class.encode(), dimse.COMMAND_FIELD: field, 0x0700: 0}


def _identifier(study_uid: str) -> bytes:
    element = identifiers.Element
    return identifiers.write(
        {0x00080052: element("CS", ["STUDY"]), 0x0020000D: element("UI", [study_uid])}, IMPLICIT, ""
    )


def _studies(files: list[Path]) -> list[tuple[str, int]]:
    """Each study with the bytes of its files."""
    found: dict[str, int] = {}
    for folder in sorted({file.parent for file in files}):
        inside = sorted(folder.glob("*.dcm"))
        uid = str(pydicom.dcmread(inside[0], stop_before_pixels=True).StudyInstanceUID)
        found[uid] = sum(file.stat().st_size for file in inside)
    return list(found.items())


@contextmanager
def _systems(work: Path, destination: int, *, have_peers: bool) -> Iterator[list[System]]:
    with sangloc(work / "state", "--no-worker") as ours:
        database = Database(EmbeddedPostgres(ours.data / "postgres").conninfo)
        with database.transaction() as connection:
            peer = Peer(name="bench", aet=DESTINATION, host="127.0.0.1", port=destination)
            peers.put(connection, peer, "bench")
        database.close()
        if not have_peers:
            yield [("sangloc", ours)]
            return
        modalities = {DESTINATION: [DESTINATION, "127.0.0.1", destination]}
        with orthanc(work / "peer", nodelay=True, **{**OPEN, **TUNED, "DicomModalities": modalities}) as theirs:
            yield [("sangloc", ours), ("Orthanc", theirs)]


@contextmanager
def _destination() -> Iterator[int]:
    port = free_port()
    command = [find("storescp") or "storescp", "--fork", "--ignore", "+xa", "-pdu", "131072", "-aet", DESTINATION]
    environment = {**os.environ, "TCP_NODELAY": "1"}
    process = subprocess.Popen(
        [*command, str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )
    try:
        wait_port(port)
        yield port
    finally:
        process.terminate()
        process.wait()
