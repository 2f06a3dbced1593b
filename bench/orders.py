"""The modality worklist beside DCMTK's wlmscpfs with the same steps, 1 client and 8; and orders by HL7 over MLLP.

DCMTK's worklist is a folder of files. They are made of our own answers, so both have the same to match and to give.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path

from hl7_client import Sender, orm, pid
from pydicom import Dataset
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE

from bench.lean import IMPLICIT, Answered, Ask, find_client, measure, request
from bench.systems import Running, free_port, sangloc, wait_port
from bench.table import Row
from pacs.identifiers import Element, vr_of, write

WORKLIST = "1.2.840.10008.5.1.4.31"  # Modality Worklist Information Model - FIND (PS3.4 K.6.1.4)
STEPS, QUICK_STEPS = 1_000, 200
DAYS, MODALITIES = 20, ("CR", "CT", "DX", "MR", "US")
CLIENTS = (1, 8)
ROUNDS = 4
DCMTK = "wlmscpfs"
AET = "WORKLIST"
_STEP, _MODALITY, _DATE, _PATIENT = 0x00400100, 0x00080060, 0x00400002, 0x00100020
RETURNED = (
    0x00080050, 0x00080090, 0x00100010, _PATIENT, 0x00100030, 0x00100040, 0x0020000D, 0x00321060, 0x00401001,
)  # fmt: skip
RETURNED_OF_STEP = (_MODALITY, 0x00400001, _DATE, 0x00400003, 0x00400006, 0x00400007, 0x00400009, 0x00400010)

Keys = Mapping[int, str]


def run(work: Path, *, quick: bool, peers: bool) -> list[Row]:
    """p95 of each kind of query, then orders a second."""
    steps, seconds = (QUICK_STEPS, 2.0) if quick else (STEPS, 5.0)
    hl7 = free_port()
    with sangloc(work / "state", "--no-worker", environment={"SANGLOC_HL7_PORT": str(hl7)}) as ours:
        wait_port(hl7)
        _fill(hl7, steps)
        with _wlmscpfs(work / "wlmscpfs", ours) if peers and shutil.which(DCMTK) else _nobody() as theirs:
            systems = {"": (ours.port, ours.aet)} | ({DCMTK: (theirs, AET)} if theirs else {})
            rows = [row for n in CLIENTS for kind in KINDS for row in _worklist(kind, n, systems, steps, seconds)]
        return rows + [_orders(hl7, clients, seconds) for clients in CLIENTS]


# ---- the worklist


def _step(number: int) -> tuple[str, str]:
    """Modality and day of a step."""
    return MODALITIES[number // DAYS % len(MODALITIES)], f"202611{number % DAYS + 1:02d}"


KINDS = {
    "one patient": lambda number: ({_PATIENT: f"BN{number:06d}"}, {}),
    "a modality's day": lambda number: ({}, {_MODALITY: _step(number)[0], _DATE: _step(number)[1]}),
}


def _order(number: int) -> bytes:
    modality, day = _step(number)
    study_uid = f"1.2.826.0.1.3680043.9999.5.{number + 1}"
    return orm(
        placer=f"PL{number}", accession=f"A{number:06d}", modality=modality, start=f"{day}{8 + number % 10:02d}30",
        patient=pid(f"BN{number:06d}", f"Nguyễn^Văn {number:04d}"), study_uid=study_uid,
    )  # fmt: skip


def _fill(port: int, steps: int) -> None:
    with Sender(port, timeout_s=60) as sender:
        for number in range(steps):
            answer = sender.ask(_order(number))
            if answer.code != "AA":
                raise RuntimeError(answer.text)


def _identifier(keys: Keys, of_step: Keys) -> bytes:
    """The identifier of a query, implicit VR little endian."""
    step = {tag: _key(tag, of_step.get(tag, "")) for tag in RETURNED_OF_STEP}
    asked = {tag: _key(tag, keys.get(tag, "")) for tag in RETURNED}
    return write({**asked, _STEP: Element("SQ", [step])}, IMPLICIT, "ISO_IR 192")


def _key(tag: int, value: str) -> Element:
    return Element(vr_of(tag), (value,) if value else ())


def _worklist(
    kind: str, clients: int, systems: Mapping[str, tuple[int, str]], steps: int, seconds: float
) -> Iterator[Row]:
    messages = [request(WORKLIST, _identifier(*KINDS[kind](number * 7919 % steps))) for number in range(2_000)]
    found = {label: Answered() for label in systems}
    for turn in range(ROUNDS):
        for label, (port, aet) in systems.items():
            lists = [messages[(turn * clients + n) * 50 % 1_000 :] for n in range(clients)]
            connect = partial(find_client, port, aet, WORKLIST)
            found[label].add(measure(connect, lists, seconds / ROUNDS))
    ours, theirs = found[""], found.get(DCMTK)
    case = f"worklist C-FIND, {kind}, {steps} steps, {clients} client{'s' if clients > 1 else ''}, p95"
    detail = {label or "sangloc": one.detail() for label, one in found.items()}
    if theirs and abs(detail[DCMTK]["answers_each"] - detail["sangloc"]["answers_each"]) > 1:
        raise RuntimeError(f"the two do not answer the same: {detail}")
    yield Row(
        "orders", case, ours.ms(95), "ms", DCMTK if theirs else "", theirs.ms(95) if theirs else None,
        1.0 if theirs else None, at_most=True, detail=detail,
    )  # fmt: skip


@contextmanager
def _nobody() -> Iterator[int]:
    yield 0


@contextmanager
def _wlmscpfs(folder: Path, ours: Running) -> Iterator[int]:
    """DCMTK's worklist with our steps; its port."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / AET).mkdir(parents=True)
    (folder / AET / "lockfile").touch()
    for number, answer in enumerate(_answers(ours)):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = WORKLIST, generate_uid()
        file = folder / AET / f"{number:05d}.wl"
        FileDataset(file, answer, preamble=bytes(128), file_meta=meta).save_as(file, enforce_file_format=True)
    port = free_port()
    command = [DCMTK, "-q", "-dfr", "-csk", "-dhl", "-dfp", str(folder), str(port)]
    with subprocess.Popen(command, env={**os.environ, "TCP_NODELAY": "1"}) as process:
        try:
            wait_port(port)
            yield port
        finally:
            process.terminate()


def _answers(running: Running) -> list[Dataset]:
    """Every step as we answer it."""
    ae = AE("BENCH")
    ae.add_requested_context(WORKLIST)
    association = ae.associate("127.0.0.1", running.port, ae_title=running.aet)
    asked = read_dataset(BytesIO(_identifier({}, {})), is_implicit_VR=True, is_little_endian=True)
    found = [answer for _, answer in association.send_c_find(asked, WORKLIST) if answer is not None]
    association.release()
    return found


# ---- orders


def _orders(port: int, clients: int, seconds: float) -> Row:
    """New orders a second; each is answered when it is committed."""
    lists = [[_order(1_000_000 * (clients + n) + m) for m in range(4_000)] for n in range(clients)]
    found = measure(partial(_mllp, port), lists, seconds)
    longest = max(sum(found.times) / clients, 1e-9)  # each sends without a pause
    case = f"new orders by HL7 over MLLP, {clients} sender{'s' if clients > 1 else ''}"
    return Row("orders", case, len(found.times) / longest, "messages/s", detail=found.detail())


def _mllp(port: int) -> Ask:
    sender = Sender(port, timeout_s=60)

    def ask(message: bytes) -> int:
        answer = sender.ask(message)
        if answer.code != "AA":
            raise RuntimeError(answer.text)
        return 1

    return ask
