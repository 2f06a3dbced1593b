"""QIDO-RS over HTTP (PS3.18 10.6): resources, parameters, forms of the answer, and what is refused."""

from __future__ import annotations

import datetime as dt
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import psycopg
import pytest
from archive import Archive
from http_server import client, problem, serving
from psycopg.conninfo import make_conninfo

from api.config import ApiConfig
from storage.database import Database
from storage.objects.directory import DirectoryStore
from storage.received import RequestAttributes
from storage.studies import Indexer

NATIVE = "{http://dicom.nema.org/PS3.19/models/NativeDICOM}"
STUDIES = {
    "1.1": {
        "patient_id": "A", "patient_name": "Nguyễn^Văn An=阮^文安", "study_date": dt.date(2026, 1, 1), "modality": "CT",
    },
    "1.2": {"patient_id": "A", "patient_name": "NGUYEN^VAN AN", "study_date": dt.date(2026, 1, 3), "modality": "DX"},
    "1.3": {"patient_id": "B", "patient_name": "Trần^Bình", "study_date": dt.date(2026, 1, 2), "modality": "DX"},
}  # fmt: skip
REQUIRED = {
    "studies": "00080020 00080030 00080050 00080056 00080061 00080090 00081190 00100010 00100020 00100030 00100040"
    " 0020000D 00200010 00201206 00201208",
    "series": "00080056 00080060 0008103E 00081190 0020000D 0020000E 00200011 00201209 00400244 00400245",
    "instances": "00080016 00080018 00080056 00081190 0020000D 0020000E 00200013 00280010 00280011 00280100",
}


def fill(archive: Archive) -> None:
    """Three studies; the first has two series, one with two instances."""
    for uid, study in STUDIES.items():
        for number in (1, 2) if uid == "1.1" else (1,):
            archive.add(study_uid=uid, series_uid=f"{uid}.1", sop_uid=f"{uid}.1.{number}", instance_number=number,
                        series_number=1, study_time="101530", referring_physician="Lê^Hoa", **study)  # fmt: skip
    asked = (RequestAttributes("SPS1", "RP1", "A1"), RequestAttributes("SPS2", "RP2", ""))
    other = {**STUDIES["1.1"], "modality": "SR", "request_attributes": asked}
    archive.add(study_uid="1.1", series_uid="1.1.2", sop_uid="1.1.2.1", series_number=2, **other)


@pytest.fixture(scope="module")
def server(postgres: str, migrated_template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a server over these studies, which no test changes."""
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE qido TEMPLATE {migrated_template}")
    database = Database(make_conninfo(postgres, dbname="qido"), max_connections=16)
    archive = Archive(database, DirectoryStore(tmp_path_factory.mktemp("qido") / "objects"))
    fill(archive)
    with serving(database, archive.store) as address, client(address) as opened:
        yield opened
    database.close()
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("DROP DATABASE qido WITH (FORCE)")


@pytest.fixture
def qido(server: httpx.Client) -> Any:
    """GET below /dicom-web."""
    return lambda path, **more: server.get(f"/dicom-web{path}", **more)


def values(answer: httpx.Response, tag: str) -> list[Any]:
    """One value of each match."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/dicom+json"
    return [one[tag]["Value"][0] for one in answer.json()]


@pytest.mark.parametrize(
    ("path", "kind", "tag", "found"),
    [
        ("/studies", "studies", "0020000D", ["1.2", "1.3", "1.1"]),
        ("/series", "series", "0020000E", ["1.2.1", "1.3.1", "1.1.1", "1.1.2"]),
        ("/instances", "instances", "00080018", ["1.2.1.1", "1.3.1.1", "1.1.1.1", "1.1.1.2", "1.1.2.1"]),
        ("/studies/1.1/series", "series", "0020000E", ["1.1.1", "1.1.2"]),
        ("/studies/1.1/instances", "instances", "00080018", ["1.1.1.1", "1.1.1.2", "1.1.2.1"]),
        ("/studies/1.1/series/1.1.1/instances", "instances", "00080018", ["1.1.1.1", "1.1.1.2"]),
    ],
)
def test_the_six_resources(qido: Any, path: str, kind: str, tag: str, found: list[str]):
    answer = qido(path)
    assert values(answer, tag) == found
    assert answer.headers["x-total-count"] == str(len(found))
    assert answer.headers["x-total-count-relation"] == "eq"
    assert "warning" not in answer.headers
    for one in answer.json():
        assert set(REQUIRED[kind].split()) <= one.keys()
        assert list(one) == sorted(one)
        if path == f"/{kind}":  # below all studies, with what is above
            assert set(REQUIRED["studies"].split()) <= one.keys()


def test_the_attributes_of_a_study(qido: Any):
    (one,) = qido("/studies?StudyInstanceUID=1.1").json()
    assert one["00100010"] == {"vr": "PN", "Value": [{"Alphabetic": "Nguyễn^Văn An", "Ideographic": "阮^文安"}]}
    assert one["00080061"] == {"vr": "CS", "Value": ["CT", "SR"]}
    assert (one["00201206"]["Value"], one["00201208"]["Value"]) == ([2], [3])
    assert one["00080020"] == {"vr": "DA", "Value": ["20260101"]}
    assert one["00200010"] == {"vr": "SH"}
    assert one["00081190"]["Value"][0].endswith("/dicom-web/studies/1.1")
    assert "00080201" not in one  # not known


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("RequestAttributesSequence.ScheduledProcedureStepID=SPS1", True),
        ("00400275.00400009=SPS2&RequestAttributesSequence.RequestedProcedureID=RP2", True),
        ("RequestAttributesSequence.ScheduledProcedureStepID=SPS1,SPS9", False),  # a comma is text in SH
        ("RequestAttributesSequence.ScheduledProcedureStepID=SPS9%5CSPS1", True),
        ("RequestAttributesSequence.RequestedProcedureID=RP?", True),
        ("RequestAttributesSequence.AccessionNumber=A1", True),
        ("RequestAttributesSequence.ScheduledProcedureStepID=SPS1&RequestAttributesSequence.RequestedProcedureID=RP2",
         False),  # not in one item
        ("RequestAttributesSequence.ScheduledProcedureStepID=sps1", False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/series", "/studies/1.1/series"])
def test_series_by_what_was_requested(qido: Any, path: str, query: str, found: bool):
    answer = qido(f"{path}?{query}")
    if not found:
        assert answer.status_code == 204
        return
    assert values(answer, "0020000E") == ["1.1.2"]
    assert answer.json()[0]["00400275"] == {
        "vr": "SQ",
        "Value": [
            {"00080050": {"vr": "SH", "Value": ["A1"]}, "00400009": {"vr": "SH", "Value": ["SPS1"]},
             "00401001": {"vr": "SH", "Value": ["RP1"]}},
            {"00400009": {"vr": "SH", "Value": ["SPS2"]}, "00401001": {"vr": "SH", "Value": ["RP2"]}},
        ],
    }  # fmt: skip
    assert "warning" not in answer.headers


def test_a_series_without_requests_does_not_speak_of_them(qido: Any):
    assert all("00400275" not in one for one in qido("/series?Modality=DX").json())


def test_the_address_of_an_instance_can_be_retrieved(qido: Any, server: httpx.Client):
    url = qido("/instances?SOPInstanceUID=1.3.1.1").json()[0]["00081190"]["Value"][0]
    assert url.endswith("/dicom-web/studies/1.3/series/1.3.1/instances/1.3.1.1")
    assert server.get(url, headers={"Accept": "*/*"}).status_code == 200


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("PatientID=A", ["1.2", "1.1"]),
        ("00100020=A", ["1.2", "1.1"]),
        ("0020000d=1.1", ["1.1"]),
        ("PatientName=nguyen*", ["1.2", "1.1"]),
        ("PatientName=" + quote("Nguyễn^Văn An"), ["1.2", "1.1"]),
        ("PatientName=an%20nguyen&fuzzymatching=true", ["1.2", "1.1"]),
        ("PatientName=" + quote("阮") + "*", ["1.1"]),
        ("StudyDate=20260102-20260103", ["1.2", "1.3"]),
        ("StudyDate=20260103-&StudyTime=09-", ["1.2"]),
        ("StudyInstanceUID=1.1,1.3", ["1.3", "1.1"]),
        ("StudyInstanceUID=1.1%5C1.3", ["1.3", "1.1"]),
        ("StudyInstanceUID=1.1&StudyInstanceUID=1.3", ["1.3", "1.1"]),
        ("ModalitiesInStudy=SR,MR", ["1.1"]),
        ("ModalitiesInStudy=D*", ["1.2", "1.3"]),
        ("SeriesInstanceUID=1.3.1", ["1.3"]),
        ("ReferringPhysicianName=" + quote("le hoa"), ["1.2", "1.3", "1.1"]),
        ("StudyID=%22%22&emptyvaluematching=true&PatientID=B", ["1.3"]),
        ("OtherPatientIDsSequence.PatientID=X", []),
        ("00101002.00100020=X", []),
        ("PatientID=nobody", []),
        ("limit=1", ["1.2"]),
        ("limit=1&offset=1", ["1.3"]),
        ("limit=0", []),
        ("offset=3", []),
    ],
)
def test_matching(qido: Any, query: str, found: list[str]):
    answer = qido(f"/studies?{query}")
    if found:
        assert values(answer, "0020000D") == found
    else:
        assert (answer.status_code, answer.content) == (204, b"")


@pytest.mark.parametrize(
    ("query", "total"),
    [("limit=1", 3), ("limit=2&offset=1", 3), ("limit=0", 3), ("offset=9", 3), ("limit=1&PatientID=A", 2)],
)
def test_the_total_does_not_depend_on_the_page(qido: Any, query: str, total: int):
    answer = qido(f"/studies?{query}")
    assert (answer.headers["x-total-count"], answer.headers["x-total-count-relation"]) == (str(total), "eq")


def test_included_fields(qido: Any):
    plain = qido("/studies?StudyInstanceUID=1.1").json()[0]
    more = qido(
        "/studies?StudyInstanceUID=1.1&includefield=StudyDescription,00101010&includefield=SOPClassesInStudy"
    ).json()[0]
    assert more.keys() - plain.keys() == {"00081030", "00101010", "00080062"}
    everything = qido("/studies?StudyInstanceUID=1.1&includefield=all").json()[0]
    assert everything.keys() > more.keys()
    assert "00201200" in everything
    series = qido("/studies/1.1/series?includefield=all").json()[0]
    assert {"00180015", "00081010"} < series.keys()
    assert "00100010" not in series
    assert "00100010" in qido("/studies/1.1/series?includefield=PatientName").json()[0]


def test_what_is_not_supported_is_told(qido: Any):
    answer = qido("/studies?StudyComments=x&PatientID=A&includefield=Modality,PatientComments")
    assert values(answer, "0020000D") == ["1.2", "1.1"]
    warnings = answer.headers["warning"]
    assert re.findall(r'299 \S+ "([^"]*)"', warnings) == [
        "These attributes are not matched: 00324000.",
        "These attributes are not returned: 00080060, 00104000.",
    ]


@pytest.mark.parametrize(
    "path",
    [
        "/studies?PatientNam=A",
        "/studies?StudyDate=yesterday",
        "/studies?StudyInstanceUID=x",
        "/studies?limit=-1",
        "/studies?limit=many",
        "/studies?offset=1e3",
        "/studies?limit=99999999999",
        "/studies?fuzzymatching=perhaps",
        "/studies?includefield=nothing",
        "/studies?OtherPatientIDsSequence=X",
        "/studies?PatientName.PatientID=X",
        "/studies?a.b.c.d.e=X",
        "/studies?SeriesNumber=one",
        "/studies?TimezoneOffsetFromUTC=7",
        "/studies/1.1/series?StudyInstanceUID=1.2",
        "/studies?" + "&".join(f"0009{n:04X}=1" for n in range(201)),
        "/studies?PatientID=" + "x" * 300,
    ],
)
def test_a_malformed_request_is_a_problem(qido: Any, path: str):
    said = problem(qido(path), 400)
    assert said["detail"]


@pytest.mark.parametrize(
    "value", ["%00", "%ff", "%F0%9F%98%80", "'", "%25", "_", "%5C", "%22", "*%00*", "%27%3B--", "A%0D%0AX:1"]
)
@pytest.mark.parametrize("keyword", ["PatientID", "PatientName", "StudyDescription", "StudyInstanceUID", "StudyDate"])
def test_odd_characters_match_nothing_and_break_nothing(qido: Any, keyword: str, value: str):
    assert qido(f"/studies?{keyword}={value}").status_code in (200, 204, 400)
    assert qido(f"/studies?{keyword}={value}&fuzzymatching=true").status_code in (200, 204, 400)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "application/dicom+json"),
        ("*/*", "application/dicom+json"),
        ("application/json", "application/dicom+json"),
        ("application/dicom+json;q=0.5, text/html", "application/dicom+json"),
        ('multipart/related; type="application/dicom+xml"', "multipart/related"),
        ('multipart/related; type="application/dicom+xml", application/dicom+json;q=0.9', "multipart/related"),
    ],
)
def test_content_negotiation(qido: Any, accept: str, kind: str):
    answer = qido("/studies", headers={"Accept": accept})
    assert answer.headers["content-type"].startswith(kind)


def test_what_cannot_be_given_is_refused(qido: Any):
    problem(qido("/studies", headers={"Accept": "text/html"}), 406)
    problem(qido("/studies?accept=image/png"), 406)


def test_xml_says_the_same_as_json(qido: Any):
    parts = qido("/studies?includefield=all", headers={"Accept": 'multipart/related; type="application/dicom+xml"'})
    boundary = re.search(r"boundary=(\S+)", parts.headers["content-type"])
    assert boundary
    assert 'type="application/dicom+xml"' in parts.headers["content-type"]
    pieces = parts.content.split(b"--" + boundary[1].encode())
    assert (pieces[0], pieces[-1]) == (b"", b"--\r\n")
    models = [ET.fromstring(piece.partition(b"\r\n\r\n")[2]) for piece in pieces[1:-1]]
    for model, one in zip(models, qido("/studies?includefield=all").json(), strict=True):
        assert {each.get("tag"): each.get("vr") for each in model} == {tag: each["vr"] for tag, each in one.items()}
        texts = {each.get("tag"): [value.text for value in each.iter(f"{NATIVE}Value")] for each in model}
        for tag, each in one.items():
            if each["vr"] not in ("PN", "SQ"):
                assert texts[tag] == [str(value) for value in each.get("Value", [])]
        name = model.find(
            f"{NATIVE}DicomAttribute[@keyword='PatientName']/{NATIVE}PersonName/{NATIVE}Alphabetic/{NATIVE}FamilyName"
        )
        assert name is not None
        assert name.text == one["00100010"]["Value"][0]["Alphabetic"].split("^")[0]


def test_a_result_that_is_too_large_is_cut_with_a_warning(archive: Archive, make_received: Any):
    indexer = Indexer(archive.database)
    for n in range(12):
        indexer.index([make_received(study_uid=f"1.{n}")])
    with serving(archive.database, archive.store, ApiConfig(max_results=10)) as address, client(address) as http:
        answer = http.get("/dicom-web/studies")
        assert len(answer.json()) == 10
        assert "limit and offset" in answer.headers["warning"]
        assert answer.headers["x-total-count"] == "12"
        assert len(http.get("/dicom-web/studies?offset=10").json()) == 2
        assert len(http.get("/dicom-web/studies?limit=50").json()) == 10


def test_a_search_that_takes_too_long_is_unavailable(archive: Archive):
    config = ApiConfig(search_timeout_s=0.001)
    for n in range(50):
        archive.add(study_description="x" * n)
    with serving(archive.database, archive.store, config) as address, client(address) as http:
        said = problem(http.get("/dicom-web/instances?StudyDescription=*y*&includefield=all"), 503)
    assert "SELECT" not in str(said)


def test_hidden_studies_are_not_found(archive: Archive, http: httpx.Client):
    fill(archive)
    with archive.database.transaction() as connection:
        connection.execute(
            "UPDATE instances SET hidden = true WHERE study_fk IN"
            " (SELECT study_pk FROM studies WHERE study_uid = '1.2')"
        )
        connection.execute("UPDATE series SET hidden = true WHERE series_uid = '1.2.1'")
        connection.execute("UPDATE studies SET hidden = true WHERE study_uid = '1.2'")
        connection.execute("UPDATE instances SET hidden = true WHERE sop_uid = '1.1.1.2'")
    assert values(http.get("/dicom-web/studies"), "0020000D") == ["1.3", "1.1"]
    assert values(http.get("/dicom-web/studies?PatientID=A"), "00201208") == [2]
    assert http.get("/dicom-web/studies/1.2/series").status_code == 204
    assert values(http.get("/dicom-web/studies/1.1/series/1.1.1/instances"), "00080018") == ["1.1.1.1"]


def test_a_token_is_needed(archive: Archive):
    with serving(archive.database, archive.store, ApiConfig(tokens={"pacs": "s" * 20})) as address:
        with client(address) as http:
            problem(http.get("/dicom-web/studies"), 401)
        with client(address, "s" * 20) as http:
            assert http.get("/dicom-web/studies").status_code == 204
