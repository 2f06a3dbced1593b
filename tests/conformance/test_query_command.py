"""`sangloc query`: C-FIND and QIDO-RS from the command line, against this archive and against DCMTK's."""

from __future__ import annotations

import datetime as dt
import json
import logging
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from destinations import Faulty
from http_server import serving
from images import ROOT, image, pixels
from ordering import place
from orthanc import orthanc
from typer.testing import CliRunner, Result

from api.config import ApiConfig
from pacs.cli import app
from storage.database import Database
from storage.errors import PeerUnavailable
from storage.studies import Indexer


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Logs of the servers in this process would stand among what the command prints."""
    monkeypatch.setattr("pacs.commandline._log_to_stderr", lambda _: None)
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.configure(**before)


@pytest.fixture
def targets(
    database: Database, store: Any, receiver: Any, make_received: Callable[..., Any]
) -> Iterator[dict[str, str]]:
    """Both ways to three studies of two patients; the first has two instances."""
    indexer = Indexer(database)
    studies = (("1.1", 1, "Nguyễn^Văn An"), ("1.1", 2, "Nguyễn^Văn An"), ("1.2", 1, "Trần^Bình"), ("1.3", 1, "Lê"))
    for uid, number, name in studies:
        received = make_received(
            study_uid=uid,
            series_uid=f"{uid}.1",
            sop_uid=f"{uid}.1.{number}",
            patient_name=name,
            patient_id=f"P{uid}",
            study_date=dt.date(2026, 1, int(uid[-1])),
            modality="CT",
            study_description="Ngực [thẳng]",
        )
        indexer.index([received])
    with serving(database, store, ApiConfig()) as address:
        yield {"dimse": f"SANGLOC@127.0.0.1:{receiver.port}", "web": f"{address}/dicom-web"}


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["query", *arguments])


def found(result: Result, tag: str = "0020000D") -> list[Any]:
    assert result.exit_code == 0, result.output
    return [one[tag]["Value"][0] for one in json.loads(result.stdout)]


@pytest.mark.parametrize("way", ["dimse", "web"])
@pytest.mark.parametrize(
    ("arguments", "tag", "values"),
    [
        ([], "0020000D", ["1.3", "1.2", "1.1"]),
        (["PatientName=nguyen*"], "0020000D", ["1.1"]),
        (["PatientName=an nguyen", "--fuzzy"], "0020000D", ["1.1"]),
        (["StudyDate=20260102-", "PatientName"], "00100010", [{"Alphabetic": "Lê"}, {"Alphabetic": "Trần^Bình"}]),
        (["00100020=P1.2"], "0020000D", ["1.2"]),
        (["StudyInstanceUID=1.1,1.3", "NumberOfStudyRelatedInstances"], "00201208", [1, 2]),
        (["PatientID=nobody"], "0020000D", []),
        (["--level", "series", "StudyInstanceUID=1.1", "NumberOfSeriesRelatedInstances"], "00201209", [2]),
        (["--level", "image", "StudyInstanceUID=1.1", "SeriesInstanceUID=1.1.1"], "00080018", ["1.1.1.1", "1.1.1.2"]),
        (["--level", "series", "PatientID=P1.2"], "0020000E", ["1.2.1"]),
    ],
)
def test_the_same_is_found_both_ways(
    targets: dict[str, str], way: str, arguments: list[str], tag: str, values: list[Any]
):
    answers = found(run(targets[way], "--json", *arguments), tag)
    assert [int(one) if isinstance(values[0], int) else one for one in answers] == values


@pytest.mark.parametrize("way", ["dimse", "web"])
def test_a_table_for_people(targets: dict[str, str], way: str):
    result = run(targets[way], "PatientName=nguyen*", "StudyDescription", "StudyDate")
    assert result.exit_code == 0
    head, row, count = result.stdout.splitlines()
    assert head.split() == ["PatientName", "StudyDescription", "StudyDate", "StudyInstanceUID"]
    assert row.split() == ["Nguyễn^Văn", "An", "Ngực", "[thẳng]", "20260101", "1.1"]
    assert count == "1 found"


@pytest.mark.parametrize("way", ["dimse", "web"])
def test_no_more_than_the_limit(targets: dict[str, str], way: str):
    result = run(targets[way], "--limit", "2", "--json")
    assert found(result) == ["1.3", "1.2"]
    assert "more than 2 matches" in result.stderr
    assert not run(targets[way], "--limit", "3", "--json").stderr


def test_patients_by_patient_root(targets: dict[str, str]):
    patients = run(targets["dimse"], "--level", "patient", "-k", "PatientName=nguyen*", "--json")
    assert found(patients, "00100020") == ["P1.1"]
    assert run(targets["web"], "--level", "patient").exit_code == 2


@pytest.mark.parametrize(
    "arguments", [["StudyDat=2026"], ["limit=1"], ["PatientName.=1"], ["-l", "frame"], ["-n", "0"]]
)
def test_what_is_asked_wrongly_is_exit_status_2(targets: dict[str, str], arguments: list[str]):
    assert [run(targets[way], *arguments).exit_code for way in ("dimse", "web")] == [2, 2]


@pytest.mark.parametrize("mode", ["reject", "mute", "abort", "die"])
def test_a_peer_that_fails_ends_the_command(mode: str):
    with Faulty(mode) as faulty:
        start = time.monotonic()
        done = run(f"DEST@127.0.0.1:{faulty.port}", "--timeout", "1", "--json")
    assert isinstance(done.exception, PeerUnavailable)
    assert (done.exit_code, done.stdout, time.monotonic() - start < 8) == (1, "", True)


def test_orthanc_both_ways(tmp_path: Path):
    with orthanc(tmp_path, DicomAlwaysAllowFind=True) as peer:
        for number in range(3):
            film = image(pixels(), StudyInstanceUID=f"{ROOT}.77.{number}", AccessionNumber=f"A{number}", PatientID="T")
            assert peer.api.post("/instances", content=film).status_code == 200
        for target in (f"ORTHANC@127.0.0.1:{peer.dicom}", peer.dicomweb):
            assert sorted(found(run(target, "PatientID=T", "--json"))) == [f"{ROOT}.77.{n}" for n in range(3)]
            assert found(run(target, "AccessionNumber=A1", "--json")) == [f"{ROOT}.77.1"]
            assert len(found(run(target, "--limit", "2", "--json"))) == 2
        assert found(run(f"ORTHANC@127.0.0.1:{peer.dicom}", "-l", "patient", "--json"), "00100020") == ["T"]


@pytest.mark.parametrize(
    ("way", "arguments", "said"),
    [
        ("dimse", ["StudyDate=yesterday"], "C000"),
        ("web", ["StudyDate=yesterday"], "400"),
        ("dimse", ["NoSuchAttribute=1"], "NoSuchAttribute"),
        ("dimse", ["limit=1"], "options"),
        ("web", ["StudyComments=x"], "not matched"),
        ("dimse", ["StudyComments=x"], "Not all keys"),
    ],
)
def test_what_goes_wrong_is_told(targets: dict[str, str], way: str, arguments: list[str], said: str):
    result = run(targets[way], *arguments)
    assert said in result.output + str(result.exception or "")


def test_a_peer_that_is_not_there(targets: dict[str, str], unused_port: int):
    for target in (f"SANGLOC@127.0.0.1:{unused_port}", f"http://127.0.0.1:{unused_port}/dicom-web"):
        assert run(target).exit_code == 1
    assert run(targets["dimse"].replace("SANGLOC", "OTHER")).exit_code == 1


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_the_worklist(database: Database, receiver: Any):
    target = f"SANGLOC@127.0.0.1:{receiver.port}"
    for number, modality in enumerate(("CT", "DX", "DX")):
        step = {"step_id": f"S{number}", "modality": modality, "start": f"2026-11-2{number}T08:00:00"}
        place(database, step, accession_number=f"A{number}", patient={"id": "P", "name": "Trần^An"})
    done = run(target, "--worklist", "Modality=DX", "ScheduledProcedureStepStartDate=20261122", "--json")
    assert found(done, "00080050") == ["A2"]
    table = run(target, "--worklist", "ScheduledProcedureStepSequence.Modality=CT").stdout.splitlines()
    assert table[0].split()[:2] == ["ScheduledProcedureStepStartDate", "ScheduledProcedureStepStartTime"]
    assert ("20261120  " in table[1], "Trần^An" in table[1], table[2]) == (True, True, "1 found")
    assert run("http://127.0.0.1:1/dicom-web", "--worklist").exit_code == 2
