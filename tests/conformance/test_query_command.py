"""`sangloc query`: C-FIND and QIDO-RS from the command line, against this archive and against DCMTK's."""

from __future__ import annotations

import datetime as dt
import json
import logging
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
from http_server import serving
from typer.testing import CliRunner, Result

from api.config import ApiConfig
from pacs.cli import app
from storage.database import Database
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


@pytest.fixture(autouse=True)
def surroundings(conninfo: str, tmp_path: Path, monkeypatch: Any) -> Iterator[None]:
    """The settings of this test's database; the servers of this process say nothing where the command does."""
    for name, value in {
        "SANGLOC_DATABASE_URL": conninfo,
        "SANGLOC_OBJECTS_FOLDER": str(tmp_path / "objects"),
        "SANGLOC_DATA": str(tmp_path / "data"),
        "SANGLOC_DICOM_CALL_TIMEOUT_S": "2",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("pacs.commandline._log_to_stderr", lambda _: None)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


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
    patients = run(targets["dimse"], "--root", "patient", "--level", "patient", "PatientName=nguyen*", "--json")
    assert found(patients, "00100020") == ["P1.1"]
    assert run(targets["dimse"], "--level", "patient").exit_code == 1
    assert run(targets["web"], "--level", "patient").exit_code == 1


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
