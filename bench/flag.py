"""Time to flag: from the answer to a study's C-STORE until its score is in the worklist of the API; idle system."""

from __future__ import annotations

import http.client
import json
import statistics
import time
import urllib.parse
from pathlib import Path

import dicom_client
import pydicom

from bench.data import PROFILES, prepare
from bench.latency import percentile
from bench.systems import Running, sangloc, wait
from bench.table import Row


def run(work: Path, *, quick: bool) -> list[Row]:
    """One PA film of 15 MB a study, one study at a time."""
    films = [file for file in prepare(PROFILES["cxr-raw"], work / "data") if file.name == "0000.dcm"]
    with sangloc(work / "state", "--workers", "1") as running:
        times = [_one(running, film) for film in films[: 6 if quick else 24]]
    times = times[1:]  # the first one warms up
    detail = {"p50_s": statistics.median(times), "max_s": max(times), "studies": len(times)}
    case = "15 MB film, C-STORE answered to scored in the worklist, p95"
    return [Row("time to flag", case, percentile(times, 95), "s", goal=1.0, at_most=True, detail=detail)]


def _one(running: Running, film: Path) -> float:
    ds = pydicom.dcmread(film, stop_before_pixels=True)
    raw = film.read_bytes()
    data = raw[144 + int.from_bytes(raw[140:144], "little") :]  # behind the file meta (PS3.10 7.1)
    query = urllib.parse.urlencode({"patient_id": ds.PatientID})
    connection = http.client.HTTPConnection("127.0.0.1", running.http, timeout=30)

    def scored() -> bool:
        connection.request("GET", f"/api/worklist?{query}")
        page = json.loads(connection.getresponse().read())
        return any(item["status"] == "scored" for item in page["items"])

    with dicom_client.Client(running.port) as client:
        if client.store(ds.SOPClassUID, ds.SOPInstanceUID, data):
            raise RuntimeError("not stored")
        start = time.perf_counter()
        wait(scored, 60, "a score")
        seconds = time.perf_counter() - start
    connection.close()
    return seconds
