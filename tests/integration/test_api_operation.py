"""Health, metrics, dead jobs, what is set aside, the audit log; and a database that is away."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from archive import Archive
from http_server import client, problem, serving
from prometheus_client.parser import text_string_to_metric_families

from storage import jobs, set_aside
from storage.database import Database


def metric(http: httpx.Client, name: str, **labels: str) -> float:
    for family in text_string_to_metric_families(http.get("/metrics").text):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return sample.value
    raise AssertionError(name)


def parts(answer: httpx.Response) -> dict[str, str]:
    return {part["name"]: part["status"] for part in answer.json()["parts"]}


def test_ready_with_and_without_a_worker(archive: Archive, http: httpx.Client) -> None:
    answer = http.get("/health/ready")
    assert (answer.status_code, answer.json()["status"]) == (200, "ready")
    assert parts(answer) == {"database": "up", "object store": "up", "worker": "down"}
    assert "No model is running" in answer.json()["parts"][2]["reason"]
    archive.worker()
    assert parts(http.get("/health/ready"))["worker"] == "up"


def test_a_database_that_is_away_is_told_quickly_and_without_its_address(store: Any) -> None:
    away = Database("host=127.0.0.1 port=1 user=hidden dbname=hidden")
    with serving(away, store) as address, client(address) as http:
        assert http.get("/health/live").status_code == 200
        answer = http.get("/health/ready")
        assert (answer.status_code, answer.json()["status"]) == (503, "not ready")
        assert parts(answer) == {"database": "down", "object store": "up", "worker": "down"}
        began = time.monotonic()
        for path in ("/api/worklist", "/api/studies/1.2", "/api/instances/1.2/rendered", "/api/audit"):
            body = problem(http.get(path), 503)
            assert body["detail"] == "The database cannot be reached."
            assert "hidden" not in str(body)
        assert time.monotonic() - began < 10
        assert http.get("/api/worklist").headers["retry-after"]
        assert metric(http, "sangloc_database_up") == 0


def test_a_store_that_is_away_is_told(archive: Archive, store: Any, tmp_path: Path) -> None:
    received = archive.add()
    (tmp_path / "objects").rename(tmp_path / "elsewhere")
    (tmp_path / "objects").write_text("not a folder")
    with serving(archive.database, store) as address, client(address) as http:
        answer = http.get("/health/ready")
        assert (answer.status_code, parts(answer)["object store"]) == (503, "down")
        assert str(tmp_path) not in answer.text
        problem(http.get(f"/api/instances/{received.header.sop_uid}/file"), 503)
        assert http.get("/api/worklist").status_code == 200


def test_it_works_again_when_the_database_is_back(archive: Archive, http: httpx.Client) -> None:
    assert http.get("/api/worklist").status_code == 200
    with archive.database.connect() as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    deadline = time.monotonic() + 10
    while (answer := http.get("/api/worklist")).status_code != 200:
        problem(answer, 503)
        assert time.monotonic() < deadline


def test_metrics(archive: Archive, http: httpx.Client) -> None:
    archive.worker()
    archive.score(archive.add(), 0.9)
    archive.add()
    http.get("/api/worklist", params={"name": "Bí Mật"})
    http.get("/api/instances/1.2.3")
    assert metric(http, "sangloc_database_up") == 1
    assert metric(http, "sangloc_studies") == metric(http, "sangloc_instances") == 2
    assert metric(http, "sangloc_jobs", state="waiting") == 1
    assert metric(http, "sangloc_jobs", state="dead") == 0
    assert 0 <= metric(http, "sangloc_jobs_oldest_seconds") < 600
    assert metric(http, "sangloc_worklist_open") == 2
    assert metric(http, "sangloc_worklist_flagged") == metric(http, "sangloc_workers_alive") == 1
    count = "sangloc_http_request_seconds_count"
    assert metric(http, count, route="/api/worklist", status="200") == 1
    assert metric(http, count, route="/api/instances/{sop_uid}", status="404") == 1
    text = http.get("/metrics").text
    assert "1.2.3" not in text
    assert "Mật" not in text


def test_methods_and_paths_make_no_new_series(http: httpx.Client) -> None:
    for number in range(5):
        http.request("PROPFIND", f"/up/{number}")
        http.get(f"/web/{number}")
    assert metric(http, "sangloc_http_request_seconds_count", route="(none)", method="other") == 5
    assert "/up/" not in http.get("/metrics").text


def test_dead_jobs_and_another_try(archive: Archive, http: httpx.Client) -> None:
    received = archive.add()
    with archive.database.transaction() as connection:
        (job,) = jobs.claim(connection, "w", 1, 60)
        jobs.fail(connection, job.job_pk, "decoder gave up", max_attempts=1)
    (dead,) = http.get("/api/jobs/dead").json()["items"]
    assert (dead["error"], dead["sop_uid"], dead["attempts"]) == ("decoder gave up", received.header.sop_uid, 1)
    item = http.get("/api/worklist").json()["items"][0]
    assert (item["status"], item["reason"]) == ("failed", "decoder gave up")
    assert http.post(f"/api/jobs/{job.job_pk}/retry").json() == {"job_pk": job.job_pk}
    assert http.get("/api/jobs/dead").json() == {"items": [], "next": None}
    assert http.get("/api/worklist").json()["items"][0]["status"] == "waiting"
    problem(http.post(f"/api/jobs/{job.job_pk}/retry"), 404)
    assert http.get("/api/audit").json()["items"][0]["actor"] == "local"


@pytest.fixture
def kept(archive: Archive) -> list[str]:
    """Three objects set aside: two conflicts and one that is invalid; their keys."""
    keys = []
    for number, kind in enumerate(("conflict", "invalid", "conflict")):
        received = archive.add(content=b"kept aside %d" % number)
        keys.append(received.object_key)
        with archive.database.transaction() as connection:
            set_aside.add(
                connection, kind=kind, reason="other bytes", sop_uid="1.2.3", object_key=received.object_key,
                object_size=received.object_size, dataset_offset=0, sha256=bytes([number]) * 32, source_aet="XRAY1",
                source_address="127.0.0.1",
            )  # fmt: skip
    return keys


def test_what_is_set_aside_is_listed_and_can_be_fetched(archive: Archive, http: httpx.Client, kept: list[str]) -> None:
    page = http.get("/api/set-aside", params={"limit": 2}).json()
    assert [one["kind"] for one in page["items"]] == ["conflict", "invalid"]
    rest = http.get("/api/set-aside", params={"cursor": page["next"]}).json()
    assert ([one["kind"] for one in rest["items"]], rest["next"]) == (["conflict"], None)
    conflicts = http.get("/api/conflicts").json()["items"]
    assert [one["kind"] for one in conflicts] == ["conflict", "conflict"]
    assert conflicts[0]["sha256"] == "02" * 32
    number = conflicts[0]["number"]
    answer = http.get(f"/api/set-aside/{number}/file")
    assert answer.content == archive.store.read(kept[2])
    assert answer.headers["content-disposition"] == f'attachment; filename="set-aside-{number}.dcm"'
    assert http.post(f"/api/set-aside/{number}/resolve").json()["resolved_at"] is not None
    assert len(http.get("/api/conflicts").json()["items"]) == 1
    assert [one["number"] for one in http.get("/api/conflicts?resolved=true").json()["items"]] == [number]
    problem(http.get("/api/set-aside/999/file"), 404)
    problem(http.post("/api/set-aside/999/resolve"), 404)
    problem(http.get("/api/set-aside/0/file"), 422)


def test_audit_pages_backwards(archive: Archive, http: httpx.Client) -> None:
    for _ in range(3):
        archive.add()
    page = http.get("/api/audit", params={"limit": 2}).json()
    rest = http.get("/api/audit", params={"limit": 2, "cursor": page["next"]}).json()
    assert len(page["items"]) == 2
    assert rest["items"]
    times = [entry["at"] for entry in page["items"] + rest["items"]]
    assert times == sorted(times, reverse=True)


@pytest.mark.parametrize(
    "path",
    ["/nothing", "/api", "/api/worklist/x/y", "/dicom-web/nothing", "/web/nothing.js", "/web/%2e%2e/app.py", "/docs"],
)
def test_paths_that_are_not_there_are_problems(http: httpx.Client, path: str) -> None:
    problem(http.get(path), 404)


def test_wrong_methods_are_problems(http: httpx.Client) -> None:
    answer = http.post("/api/worklist")
    problem(answer, 405)
    assert answer.headers["allow"] == "GET"
    problem(http.post("/"), 405)
    problem(http.post("/web/app.js"), 405)
