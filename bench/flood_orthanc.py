"""Orthanc with the same studies as a flooded archive: each instance by C-STORE, without pixels; kept for later runs."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import dicom_client
import psycopg

from bench.systems import OPEN, Running, orthanc

SENDERS = 4
VERSION = 1
_QUICK = {"SyncStorageArea": False, "StoreMD5ForAttachments": False, "DicomThreadsCount": SENDERS, **OPEN}
_ROWS = """
SELECT i.sop_uid, i.sop_class, i.instance_number, e.series_uid, e.modality, e.series_number, e.description, e.body_part,
    s.study_uid, s.patient_id, s.patient_name, s.patient_birth_date, s.patient_sex, s.study_date, s.study_time,
    s.accession_number, s.study_id, s.description, s.referring_physician, s.institution_name
FROM instances AS i JOIN series AS e ON e.series_pk = i.series_fk JOIN studies AS s ON s.study_pk = i.study_fk
ORDER BY i.instance_pk"""
_TAGS = (
    (0x00080018, "UI"), (0x00080016, "UI"), (0x00200013, "IS"), (0x0020000E, "UI"), (0x00080060, "CS"),
    (0x00200011, "IS"), (0x0008103E, "LO"), (0x00180015, "CS"), (0x0020000D, "UI"), (0x00100020, "LO"),
    (0x00100010, "PN"), (0x00100030, "DA"), (0x00100040, "CS"), (0x00080020, "DA"), (0x00080030, "TM"),
    (0x00080050, "SH"), (0x00200010, "SH"), (0x00081030, "LO"), (0x00080090, "PN"), (0x00080080, "LO"),
)  # fmt: skip


def flooded_orthanc(folder: Path, studies: int, conninfo: str) -> Path:
    """Orthanc's folder with the studies of the database; made where it is missing, at some 400 instances a second."""
    marker, wanted = folder / "flood.json", {"version": VERSION, "studies": studies}
    if marker.exists() and json.loads(marker.read_text()) == wanted:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with psycopg.connect(conninfo) as connection:
        rows = connection.execute(_ROWS).fetchall()
    begun = time.monotonic()
    with orthanc(folder, nodelay=True, keep=True, **_QUICK) as running:
        _store(running, rows)
    print(f"  {len(rows)} instances to Orthanc in {time.monotonic() - begun:.0f} s", flush=True)
    marker.write_text(json.dumps(wanted))
    return folder


def _store(running: Running, rows: Sequence[Sequence[Any]]) -> None:
    fork = multiprocessing.get_context("fork")
    senders = [fork.Process(target=_send, args=(running, rows[number::SENDERS])) for number in range(SENDERS)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    if any(sender.exitcode for sender in senders):
        raise RuntimeError("Orthanc did not take all instances")


def _send(running: Running, rows: Sequence[Sequence[Any]]) -> None:
    contexts = [(sop_class, dicom_client.EXPLICIT) for sop_class in sorted({row[1] for row in rows})]
    with dicom_client.Client(running.port, running.aet, contexts=contexts) as client:
        for row in rows:
            if status := client.store(row[1], row[0], b"".join(_elements(row))):
                raise RuntimeError(f"status {status:04X} for {row[0]}")


def _elements(row: Sequence[Any]) -> Iterator[bytes]:
    yield dicom_client.element(0x00080005, "CS", b"ISO_IR 192")
    for (tag, vr), value in sorted(zip(_TAGS, row, strict=True), key=lambda pair: pair[0]):
        text = f"{value:%Y%m%d}" if vr == "DA" else str(value)
        yield dicom_client.element(tag, vr, text.encode())
