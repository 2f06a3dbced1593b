"""Changes over HTTP: each with a reason, tried first, noted in history and audit log, and seen by every other route."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from archive import Archive
from changed import contradictions, rows
from http_server import client, problem, serving

from api.config import ApiConfig

WHY = {"reason": "a mistake at registration"}


@pytest.fixture
def study(archive: Archive) -> str:
    first = archive.add(study_uid="1.1", series_uid="1.1.1", sop_uid="1.1.1.1", patient_id="BN1")
    archive.add(study_uid="1.1", series_uid="1.1.2", sop_uid="1.1.2.1", patient_id="BN1", modality="CR")
    return first.header.study_uid


def post(http: httpx.Client, path: str, **body: Any) -> dict[str, Any]:
    answer = http.post(f"/api/changes/{path}", json=WHY | body)
    assert answer.status_code == 200, answer.text
    done: dict[str, Any] = answer.json()
    return done


def listed(http: httpx.Client) -> list[str]:
    return [item["study_uid"] for item in http.get("/api/worklist").json()["items"]]


def test_a_deletion_is_tried_made_seen_and_taken_back(http: httpx.Client, archive: Archive, study: str) -> None:
    tried = post(http, "delete", study_uid=study, dry_run=True)
    assert (tried["number"], tried["detail"]["instances"]) == (None, 2)
    assert listed(http) == [study]
    made = post(http, "delete", study_uid=study, comment="twice")
    assert (made["kind"], made["actor"], made["reason"], made["comment"]) == ("delete", "local", WHY["reason"], "twice")
    assert made["purge_after"] > made["at"]
    assert listed(http) == []
    for path in (
        "/api/studies/1.1",
        "/api/instances/1.1.1.1",
        "/api/instances/1.1.1.1/file",
        "/api/studies/1.1/findings",
    ):
        problem(http.get(path), 404)
    assert http.get("/api/studies").json()["items"] == []
    post(http, "restore", change=made["number"])
    assert listed(http) == [study]
    assert http.get("/api/instances/1.1.1.1/file").status_code == 200
    items = http.get("/api/changes", params={"study_uid": study}).json()["items"]
    assert [item["kind"] for item in items] == ["restore", "delete"]
    assert items[1]["restored_at"] is not None
    audit = http.get("/api/audit", params={"study_uid": study}).json()["items"]
    assert [entry["action"] for entry in audit[:1]] == ["instance.downloaded"]
    assert [entry["action"] for entry in audit if entry["action"].startswith("change")] == [
        "change.restore", "change.delete",
    ]  # fmt: skip
    assert contradictions(archive.database) == []


def test_a_rejection_asks_for_a_note(http: httpx.Client, archive: Archive, study: str) -> None:
    made = post(http, "reject", study_uid=study, sop_uids=["1.1.1.1"], reason="quality")
    assert rows(archive.database, "SELECT sop_uid, state FROM rejection_notes") == [(made["note_uid"], "due")]
    assert http.get("/api/studies/1.1").json()["modalities"] == ["CR"]
    problem(http.post("/api/changes/reject", json={"study_uid": study, "reason": "ugly"}), 422)


def test_corrections_are_shown_everywhere(http: httpx.Client, archive: Archive, study: str) -> None:
    archive.add(study_uid="2.1", patient_id="BN2", patient_name="Trần^Bình")
    post(http, "update-study", study_uid=study, attributes={"AccessionNumber": "NEW1", "StudyDate": "20250203"})
    post(http, "update-series", study_uid=study, series_uid="1.1.1", attributes={"SeriesDescription": "đứng"})
    post(http, "update-patient", patient={"patient_id": "BN1"}, attributes={"PatientName": "Lê^An"})
    shown = http.get("/api/studies/1.1").json()
    assert (shown["accession_number"], shown["study_date"], shown["patient_name"]) == ("NEW1", "2025-02-03", "Lê An")
    assert shown["series"][0]["description"] == "đứng"
    assert http.get("/api/worklist", params={"name": "le an"}).json()["items"][0]["accession_number"] == "NEW1"
    merged = post(http, "merge-patients", patient={"patient_id": "BN1"}, into={"patient_id": "BN2"})
    assert merged["before"]["studies"]["1.1"]["patient_id"] == "BN1"
    assert http.get("/api/studies/1.1").json()["patient_name"] == "Trần Bình"
    problem(http.post(f"/api/changes/{merged['number'] - 1}/undo", json=WHY), 409)
    post(http, f"{merged['number']}/undo")
    assert http.get("/api/studies/1.1").json()["patient_id"] == "BN1"
    post(http, "move-study", study_uid=study, into={"patient_id": "BN3"}, attributes={"PatientName": "Mai"})
    assert http.get("/api/studies/1.1").json()["patient_id"] == "BN3"
    assert contradictions(archive.database) == []


def test_series_find_their_way_between_studies(http: httpx.Client, archive: Archive, study: str) -> None:
    made = post(http, "split", study_uid=study, series_uid="1.1.2")
    new = made["detail"]["into"]
    assert http.get(f"/api/studies/{new}").json()["modalities"] == ["CR"]
    assert http.get("/api/instances/1.1.2.1").json()["study_uid"] == new
    post(http, "merge-studies", study_uid=new, into=study)
    problem(http.get(f"/api/studies/{new}"), 404)
    assert http.get("/api/instances/1.1.2.1").json()["study_uid"] == study
    assert contradictions(archive.database) == []


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("delete", {"study_uid": "1.1"}, 422),
        ("delete", {"study_uid": "1.1", "reason": "  "}, 422),
        ("delete", {"study_uid": "../x", **WHY}, 422),
        ("delete", {"study_uid": "1.1", "why": "", **WHY}, 422),
        ("delete", {"study_uid": "9.9", **WHY}, 404),
        ("delete", {"study_uid": "1.1", "sop_uids": ["1.1.1.1", "9.9"], **WHY}, 404),
        ("restore", {"study_uid": "1.1", **WHY}, 404),
        ("restore", {**WHY}, 400),
        ("restore", {"change": 77, **WHY}, 404),
        ("restore", {"change": 2**63, **WHY}, 422),
        ("update-patient", {"patient": {"patient_id": "none"}, "attributes": {"PatientSex": "F"}, **WHY}, 404),
        ("update-patient", {"patient": {"patient_id": "a\\b"}, "attributes": {"PatientSex": "F"}, **WHY}, 400),
        ("update-study", {"study_uid": "1.1", "attributes": {"StudyDate": "tomorrow"}, **WHY}, 400),
        ("update-study", {"study_uid": "1.1", "attributes": {"PatientID": "X"}, **WHY}, 400),
        ("merge-patients", {"patient": {"patient_id": "BN1"}, "into": {"patient_id": "BN1"}, **WHY}, 409),
        ("merge-patients", {"patient": {"patient_id": "BN1"}, "into": {"patient_id": "none"}, **WHY}, 404),
        ("merge-studies", {"study_uid": "1.1", "into": "1.1", **WHY}, 409),
        ("split", {"study_uid": "1.1", **WHY}, 400),
        ("split", {"study_uid": "1.1", "series_uid": "9", **WHY}, 404),
        ("77/undo", {**WHY}, 404),
    ],
)
def test_what_cannot_be_done_is_said_and_changes_nothing(
    http: httpx.Client, study: str, path: str, body: dict[str, Any], status: int
) -> None:
    problem(http.post(f"/api/changes/{path}", json=body), status)
    assert http.get("/api/changes").json()["items"] == []
    assert listed(http) == [study]


def test_only_who_has_a_token_changes_anything(archive: Archive, study: str) -> None:
    secret = "0123456789abcdef0123"
    config = ApiConfig(tokens={"dr.minh": secret})
    with serving(archive.database, archive.store, config) as address:
        with client(address) as stranger:
            problem(stranger.post("/api/changes/delete", json={"study_uid": study, **WHY}), 401)
        with client(address, secret) as doctor:
            assert doctor.post("/api/changes/delete", json={"study_uid": study, **WHY}).json()["actor"] == "dr.minh"


def test_history_is_paged(http: httpx.Client, archive: Archive, study: str) -> None:
    for number in range(5):
        post(http, "update-study", study_uid=study, attributes={"StudyID": str(number)})
    seen, before = [], None
    while True:
        params = {"limit": 2, **({"before": before} if before else {})}
        page = http.get("/api/changes", params=params).json()
        seen += [item["after"]["studies"]["1.1"]["study_id"] for item in page["items"]]
        before = page["next"]
        if before is None:
            break
    assert seen == ["4", "3", "2", "1", "0"]
