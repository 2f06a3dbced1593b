"""Reprocessing: images per second of one worker over what is stored, and what it costs the time to a flag.

A whole system (`sangloc up`, one worker). The archive is made by index rows of many studies that share a few objects,
so the films come from the page cache. Live films come by C-STORE at random moments, first alone, then while
`sangloc reprocess` runs; the time goes from the answer to the C-STORE to the score in the worklist of the API.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import http.client
import io
import json
import random
import statistics
import subprocess
import time
import urllib.parse
from pathlib import Path
from typing import Any

import dicom_client
import pydicom
from pydicom.uid import generate_uid

from bench.data import DX, PROFILES, prepare
from bench.latency import percentile
from bench.systems import BIN, Running, sangloc, wait
from bench.table import Row
from storage import reprocessing
from storage.database import Database
from storage.embedded import EmbeddedPostgres
from storage.objects.directory import DirectoryStore
from storage.objects.keys import new_key
from storage.studies import InstanceHeader, Received, index_instances
from storage.uid import InstanceUID, SeriesUID, StudyUID

KINDS = {"raw": ("cxr-raw", "15 MB films"), "jls": ("cxr-jls", "the same as JPEG-LS")}
_GAP_S = (0.3, 1.2)  # between live films
_FILES = 4


def run(work: Path, *, quick: bool) -> list[Row]:
    """Bulk alone by kind, then the time to a flag without and beside it."""
    films = {kind: _frontal(profile, work) for kind, (profile, _) in KINDS.items()}
    images, flags = (24, 6) if quick else (240, 60)
    with sangloc(work / "state", "--workers", "1") as running:
        archive = Archive(running)
        for film in films["raw"][:3]:  # warms up
            _time_to_flag(running, film)
        alone = {kind: archive.all_of_it(films[kind], images) for kind in KINDS}
        idle = [_time_to_flag(running, random.choice(films["raw"])) for _ in range(flags)]
        beside, pace = archive.beside(films["raw"], flags)
        memory = archive.worker_memory_mb()
        archive.database.close()
    rows = [Row("reprocess", f"{words}, one worker", alone[kind], "images/s") for kind, (_, words) in KINDS.items()]
    detail = {"p50_s": statistics.median(beside), "p50_idle_s": statistics.median(idle), "max_s": max(beside),
              "bulk_images_per_s": pace, "studies": flags, "worker_peak_mb": memory}  # fmt: skip
    case = f"15 MB film, time to flag while reprocessing runs ({pace:.1f} images/s), p95"
    ours, without = percentile(beside, 95), percentile(idle, 95)
    return [*rows, Row("reprocess", case, ours, "s", "without", without, detail=detail)]


class Archive:
    """What is stored in the system under test, by its database."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.database = Database(EmbeddedPostgres(running.data / "postgres").conninfo)
        self.store = DirectoryStore(running.data / "objects")

    def all_of_it(self, films: list[Path], images: int) -> float:
        """Images per second over so many images, from start to end."""
        self.fill(films, images)
        number = self._start()
        wait(lambda: self.now(number).state == "done", 600, "the end of the reprocessing")
        ended = self.now(number)
        if ended.scored != images or ended.ended_at is None:
            raise RuntimeError(f"{ended.scored} of {images} images were scored")
        return images / (ended.ended_at - ended.started_at).total_seconds()

    def beside(self, films: list[Path], flags: int) -> tuple[list[float], float]:
        """Times to a flag while a reprocessing runs, and the images per second that it made meanwhile."""
        self.fill(films, flags * 60)
        number = self._start()
        wait(lambda: self.now(number).scored > 20, 60, "the reprocessing")
        before, begun = self.now(number).scored, time.perf_counter()
        times = [_time_to_flag(self.running, random.choice(films)) for _ in range(flags)]
        after = self.now(number)
        if after.state != "running":
            raise RuntimeError("the reprocessing ended too early: give it more images")
        pace = (after.scored - before) / (time.perf_counter() - begun)
        with self.database.transaction() as connection:
            reprocessing.cancel(connection, number, "bench")
        return times, pace

    def fill(self, files: list[Path], images: int) -> None:
        """So many studies of one image that no model has read; they share the objects of the files."""
        objects = [self._put(file) for file in files]
        for start in range(0, images, 100):
            batch = [_received(objects[n % len(objects)]) for n in range(start, min(start + 100, images))]
            with self.database.transaction() as connection:
                index_instances(connection, batch)
                connection.execute("DELETE FROM jobs WHERE state = 'waiting'")

    def now(self, number: int) -> reprocessing.Reprocessing:
        """How far it is."""
        with self.database.autocommit() as connection:
            return reprocessing.by_number(connection, number)

    def worker_memory_mb(self) -> float:
        """The most that the worker ever had resident."""
        status = Path(f"/proc/{self.running.pids['worker'][0]}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024

    def _start(self) -> int:
        command = [BIN / "sangloc", "reprocess", "start", "--data", self.running.data, "--json"]
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True)
        return int(json.loads(done.stdout)["reprocessing_pk"])

    def _put(self, file: Path) -> dict[str, Any]:
        part10 = file.read_bytes()
        offset = 144 + int.from_bytes(part10[140:144], "little")  # behind the file meta (PS3.10 7.1)
        ds = pydicom.dcmread(file, stop_before_pixels=True)
        key = new_key(ds.StudyInstanceUID)
        with self.store.writer(key) as writer:
            writer.write([part10])
            writer.commit()
        return {"object_key": key, "object_size": len(part10), "dataset_offset": offset,
                "sha256": hashlib.sha256(memoryview(part10)[offset:]).digest(),
                "syntax": str(ds.file_meta.TransferSyntaxUID), "rows": ds.Rows, "columns": ds.Columns}  # fmt: skip


def _received(stored: dict[str, Any]) -> Received:
    now, facts = dt.datetime.now(dt.UTC), dict(stored)
    header = InstanceHeader(
        sop_class=DX, sop_uid=InstanceUID(generate_uid()), study_uid=StudyUID(generate_uid()),
        series_uid=SeriesUID(generate_uid()), transfer_syntax=facts.pop("syntax"), modality="DX", body_part="CHEST",
        view_position="PA", photometric="MONOCHROME2", rows=facts.pop("rows"), columns=facts.pop("columns"),
        bits_allocated=16,
    )  # fmt: skip
    return Received(header=header, received_at=now, site="", source_aet="BENCH", source_address="127.0.0.1",
                    priority="routine", latest_due_at=now + dt.timedelta(hours=8), **facts)  # fmt: skip


def _frontal(profile: str, work: Path) -> list[Path]:
    return [file for file in prepare(PROFILES[profile], work / "data") if file.name == "0000.dcm"][:_FILES]


def _time_to_flag(running: Running, film: Path) -> float:
    """Seconds from the answer to the C-STORE of a new study to its score in the worklist."""
    ds = pydicom.dcmread(film)
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.PatientID = generate_uid(), generate_uid(), generate_uid()[-16:]
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, ds, enforce_file_format=True)
    part10 = buffer.getvalue()
    query = urllib.parse.urlencode({"patient_id": ds.PatientID})
    connection = http.client.HTTPConnection("127.0.0.1", running.http, timeout=30)

    def scored() -> bool:
        connection.request("GET", f"/api/worklist?{query}")
        return any(item["status"] == "scored" for item in json.loads(connection.getresponse().read())["items"])

    with dicom_client.Client(running.port) as client:
        time.sleep(random.uniform(*_GAP_S))
        if client.store(ds.SOPClassUID, ds.SOPInstanceUID, part10[144 + int.from_bytes(part10[140:144], "little") :]):
            raise RuntimeError("not stored")
        start = time.perf_counter()
        wait(scored, 60, "a score")
        seconds = time.perf_counter() - start
    connection.close()
    return seconds
