"""GET /api/worklist as outside tools rely on it, its filters and cursors, and the reading of studies."""

from __future__ import annotations

import datetime as dt
from typing import Any

import httpx
import pytest
from archive import Archive
from http_server import problem

NOW = dt.datetime.now(dt.UTC)


def uids(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [item["study_uid"] for item in answer.json()["items"]]


def test_the_contract(archive: Archive, http: httpx.Client) -> None:
    archive.worker()
    late = archive.add(arrived=NOW)
    flagged = archive.add(arrived=NOW, patient_name="Trần^Thị Mai", study_description="Chest PA")
    score = archive.score(flagged, 0.93, due_min=10, Pneumothorax=0.8, Nodule=0.1)
    page = http.get("/api/worklist").json()
    assert (page["mode"], page["banner"], page["next"]) == ("triage", "", None)
    first, second = page["items"]
    assert first["study_uid"] == flagged.header.study_uid
    assert dt.datetime.fromisoformat(first["due_at"]) == score.due_at
    assert dt.datetime.fromisoformat(first["arrived_at"]) == NOW
    assert first["flagged"] is True
    assert first["probability"] == pytest.approx(0.93, abs=1e-6)
    assert [(one["name"], one["threshold"]) for one in first["findings"]] == [("Abnormal", 0.5), ("Pneumothorax", 0.4)]
    assert (first["status"], first["model"], first["reason"]) == ("scored", "chest_xray 0.1.0", "flagged")
    assert (first["patient_name"], first["patient_id"]) == ("Trần Thị Mai", flagged.header.patient_id)
    assert second["study_uid"] == late.header.study_uid
    assert (second["status"], second["flagged"], second["probability"]) == ("waiting", False, None)


def test_without_a_worker_the_order_is_arrival_and_the_banner_says_so(archive: Archive, http: httpx.Client) -> None:
    first = archive.add(arrived=NOW - dt.timedelta(minutes=2))
    flagged = archive.add(arrived=NOW)
    archive.score(flagged, 0.99, due_min=1)
    page = http.get("/api/worklist")
    assert page.json()["mode"] == "arrival"
    assert "order of arrival" in page.json()["banner"]
    assert uids(page) == [first.header.study_uid, flagged.header.study_uid]
    archive.worker()
    assert uids(http.get("/api/worklist")) == [flagged.header.study_uid, first.header.study_uid]


def test_filters(archive: Archive, http: httpx.Client) -> None:
    archive.worker()
    day = dt.date(2026, 1, 5)
    one = archive.add(patient_name="Nguyễn^Văn An", site="A", modality="CR", study_date=day, accession_number="ACC1")
    two = archive.add(patient_name="Đỗ^Thị Hà", site="B", modality="DX", study_date=day + dt.timedelta(days=1))
    three = archive.add(patient_name="Smith^John", site="B", modality="CT", not_eligible="CT is not read by the model")
    archive.score(two, 0.9)
    name = {received.header.study_uid: number for number, received in enumerate((one, two, three), 1)}

    def found(**parameters: Any) -> set[int]:
        return {name[uid] for uid in uids(http.get("/api/worklist", params=parameters))}

    assert found() == {1, 2, 3}
    assert found(name="van nguyen") == {1}
    assert found(name="do thi ha") == found(name="ĐỖ") == {2}
    assert found(site="B") == {2, 3}
    assert found(modality="CR") == {1}
    assert found(flagged=True) == {2}
    assert found(flagged=False) == {1, 3}
    assert found(status="not_eligible") == {3}
    assert found(date_from="2026-01-05", date_to="2026-01-05") == {1}
    assert found(date_from="2026-01-06", date_to="2026-01-06") == {2}
    assert found(accession="ACC1") == {1}
    assert found(patient_id=three.header.patient_id) == {3}
    assert found(site="B", name="smith") == {3}
    assert found(state="read") == set()


def test_cursors_walk_through_everything_once_in_due_order(archive: Archive, http: httpx.Client) -> None:
    archive.worker()
    wanted = [
        archive.add(arrived=NOW, wait_min=10 + n // 2).header.study_uid  # pairs share a due time
        for n in range(7)
    ]
    seen: list[str] = []
    cursor = None
    while True:
        answer = http.get("/api/worklist", params={"limit": 2, **({"cursor": cursor} if cursor else {})})
        seen += uids(answer)
        cursor = answer.json()["next"]
        if cursor is None:
            break
        assert len(uids(answer)) == 2
    assert sorted(seen) == sorted(wanted)
    due = [item["due_at"] for item in http.get("/api/worklist").json()["items"]]
    assert due == sorted(due)
    assert seen == uids(http.get("/api/worklist"))


@pytest.mark.parametrize("cursor", ["abc", "bm90IGEgY3Vyc29y", "W10", "WzEsMiwzXQ"])
def test_a_cursor_that_is_not_ours_is_a_problem(http: httpx.Client, cursor: str) -> None:
    assert "cursor" in str(problem(http.get("/api/worklist", params={"cursor": cursor}), 400)["detail"])


def test_a_cursor_of_another_order_is_a_problem(archive: Archive, http: httpx.Client) -> None:
    for _ in range(2):
        archive.add()
    cursor = http.get("/api/worklist", params={"limit": 1}).json()["next"]
    archive.worker()
    problem(http.get("/api/worklist", params={"cursor": cursor}), 400)


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=201",
        "limit=x",
        "state=gone",
        "date_from=yesterday",
        "cursor=a%20b",
        "name=%00",
        "flagged=7",
        "patinet_id=1",
    ],
)
def test_wrong_parameters_are_problems_that_name_them(http: httpx.Client, query: str) -> None:
    body = problem(http.get(f"/api/worklist?{query}"), 422)
    (error,) = body["errors"]  # type: ignore[misc]
    assert error["where"] == f"query.{query.split('=', maxsplit=1)[0]}"


def test_reading_a_study_takes_it_off_the_list_and_back(archive: Archive, http: httpx.Client) -> None:
    archive.worker()
    uid = archive.add().header.study_uid
    read = http.put(f"/api/worklist/{uid}/state", json={"state": "read"})
    assert (read.status_code, read.json()["state"], read.json()["read_by"]) == (200, "read", "local")
    assert uids(http.get("/api/worklist")) == []
    assert uids(http.get("/api/worklist", params={"state": "read"})) == [uid]
    again = http.put(f"/api/worklist/{uid}/state", json={"state": "read"})
    assert again.json()["read_at"] == read.json()["read_at"]
    assert http.put(f"/api/worklist/{uid}/state", json={"state": "open"}).json()["read_at"] is None
    assert uids(http.get("/api/worklist")) == [uid]
    log = http.get("/api/audit", params={"study_uid": uid}).json()["items"]
    assert [entry["action"] for entry in log[:2]] == ["study.reopened", "study.read"]
    assert {entry["actor"] for entry in log[:2]} == {"local"}


def test_state_of_what_is_not_there_and_of_what_makes_no_sense(archive: Archive, http: httpx.Client) -> None:
    uid = archive.add().header.study_uid
    problem(http.put("/api/worklist/1.2.3/state", json={"state": "read"}), 404)
    problem(http.put(f"/api/worklist/{uid}/state", json={"state": "lost"}), 422)
    problem(http.put(f"/api/worklist/{uid}/state", json={"state": "read", "by": "me"}), 422)
    problem(http.put(f"/api/worklist/{uid}/state", content=b"{", headers={"Content-Type": "application/json"}), 422)
    problem(http.put("/api/worklist/1.02/state", json={"state": "read"}), 422)
    problem(http.delete(f"/api/worklist/{uid}/state"), 405)


def test_no_text_of_the_api_calls_a_study_normal(archive: Archive, http: httpx.Client) -> None:
    archive.worker()
    archive.score(archive.add(), 0.01)
    text = http.get("/api/worklist").text.lower().replace("abnormal", "")
    assert "normal" not in text
    assert "no finding" not in text
    assert "negative" not in text
