"""Destinations, rules and queues over HTTP and on the command line."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from archive import Archive
from http_server import problem
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from pacs import cli
from storage import audit, commitment, forwarding, peers
from storage.commitment import Asked
from storage.database import Database
from storage.destinations import Window, by_name
from storage.errors import InvalidInput
from storage.routing import Horizon, apply_rules

WANTED = {"peer": "province", "method": "dimse"}


@pytest.fixture(autouse=True)
def peer(database: Database) -> None:
    with database.transaction() as connection:
        made = peers.Peer(name="province", aet="PROVINCE", host="127.0.0.1", port=104, dicomweb_url="http://p/web")
        peers.put(connection, made, "test")


def put(http: httpx.Client, name: str = "there", **over: Any) -> httpx.Response:
    return http.put(f"/api/forwarding/destinations/{name}", json=WANTED | over)


def queue(http: httpx.Client, state: str = "waiting", **more: Any) -> dict[str, Any]:
    answer = http.get("/api/forwarding/destinations/there/queue", params={"state": state, **more})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def route(database: Database) -> None:
    with database.transaction() as connection:
        marks = Horizon().look(connection)
        assert marks is not None
        apply_rules(connection, marks, 60)


def test_a_destination_is_added_changed_paused_and_removed(
    http: httpx.Client, database: Database, archive: Archive
) -> None:
    windows = [{"from": "22:00", "until": "06:00", "bytes_per_s": 1_000_000}, {"from": "06:00", "until": "22:00"}]
    assert put(http, windows=windows, timezone="Asia/Ho_Chi_Minh", parallel=3, commitment=True).status_code == 204
    (item,) = http.get("/api/forwarding").json()["items"]
    assert {key: item[key] for key in ("name", "peer", "method", "paused", "waiting", "dead", "failures")} == {
        "name": "there", "peer": "province", "method": "dimse", "paused": False, "waiting": 0, "dead": 0, "failures": 0,
    }  # fmt: skip
    with database.autocommit() as connection:
        stored = by_name(connection, "there")
    assert (stored.parallel, stored.commitment, stored.timezone) == (3, True, "Asia/Ho_Chi_Minh")
    assert [(f"{one.start:%H:%M}", f"{one.until:%H:%M}", one.bytes_per_s) for one in stored.windows] == [
        ("22:00", "06:00", 1_000_000), ("06:00", "22:00", None),
    ]  # fmt: skip
    assert http.post("/api/forwarding/destinations/there/pause").status_code == 204
    assert http.get("/api/forwarding").json()["items"][0]["paused"] is True
    assert http.post("/api/forwarding/destinations/there/resume").status_code == 204
    problem(put(http, method="ian"), 409)
    assert http.delete("/api/forwarding/destinations/there").status_code == 204
    problem(http.delete("/api/forwarding/destinations/there"), 404)
    with database.autocommit() as connection:
        actions = [entry.action for entry in reversed(audit.page(connection))]
    assert actions == [
        "peer.added", "forwarding.destination", "forwarding.paused", "forwarding.resumed", "forwarding.removed",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("over", "status"),
    [
        ({"peer": "nobody"}, 400),
        ({"timezone": "Mars/Olympus"}, 400),
        ({"method": "pigeon"}, 422),
        ({"windows": [{"from": "25:00", "until": "06:00"}]}, 422),
        ({"windows": [{"from": "05:00", "until": "06:00", "bytes_per_s": 10}]}, 422),
        ({"parallel": 0}, 422),
        ({"nonsense": 1}, 422),
    ],
)
def test_what_makes_no_sense_is_refused(http: httpx.Client, over: dict[str, Any], status: int) -> None:
    problem(put(http, **over), status)
    assert http.get("/api/forwarding").json()["items"] == []


def test_rules_are_listed_and_fill_the_queue(http: httpx.Client, database: Database, archive: Archive) -> None:
    put(http)
    problem(http.post("/api/forwarding/rules", json={"destination": "nowhere"}), 404)
    made = http.post("/api/forwarding/rules", json={"destination": "there", "modalities": ["CT"], "urgency": 3})
    assert made.status_code == 201
    number = made.json()["number"]
    assert made.headers["location"] == f"/api/forwarding/rules/{number}"
    assert http.get("/api/forwarding/rules").json()["items"] == [made.json()]
    archive.add(modality="DX")
    sent = archive.add(modality="CT", not_eligible="CT")
    route(database)
    (entry,) = queue(http)["items"]
    assert (entry["sop_uid"], entry["state"], entry["attempts"]) == (sent.header.sop_uid, "waiting", 0)
    assert http.delete(f"/api/forwarding/rules/{number}").status_code == 204
    problem(http.delete(f"/api/forwarding/rules/{number}"), 404)
    assert len(queue(http)["items"]) == 1  # what is queued stays


def test_a_person_sends_retries_and_cancels(http: httpx.Client, database: Database, archive: Archive) -> None:
    put(http, max_attempts=1)
    study = archive.add().header.study_uid
    archive.add(study_uid=study)
    address = "/api/forwarding/destinations/there"
    assert http.post(f"{address}/studies/{study}").json() == {"entries": 2}
    problem(http.post(f"{address}/studies/1.2.3"), 404)
    first, second = queue(http)["items"]
    assert queue(http, limit=1)["next"] == first["number"]
    assert queue(http, limit=1, cursor=first["number"])["items"] == [second]
    with database.transaction() as connection:
        destination = by_name(connection, "there")
        forwarding.refused(connection, destination, first["number"], "refused with status A900")
        forwarding.done(connection, destination, [second["number"]], 1000)
    assert [entry["error"] for entry in queue(http, "dead")["items"]] == ["refused with status A900"]
    assert http.post(f"{address}/queue/retry").json() == {"entries": 1}
    assert len(queue(http)["items"]) == 1
    assert http.post(f"{address}/queue/{first['number']}/cancel").json() == {"entries": 1}
    problem(http.post(f"{address}/queue/{first['number']}/retry"), 404)
    problem(http.post(f"{address}/queue/{second['number']}/cancel"), 404)  # it is there: nothing to cancel
    assert http.post(f"{address}/studies/{study}").json() == {"entries": 2}  # again, all of it


def test_queues_and_commitments_are_measured(http: httpx.Client, database: Database, archive: Archive) -> None:
    put(http)
    archive.add()
    with database.transaction() as connection:
        study = archive.add().header.study_uid
        forwarding.enqueue_study(connection, "there", study, "ana")
        asked = [Asked("1.2.3", "1.2.4")]
        pk = commitment.ask(connection, "CT1", "1.2.5", asked, requester_address="", called="SANGLOC", hold_s=60)
        commitment.record(connection, pk, [0x0112])
    found = {
        (sample.name, sample.labels.get("destination"), sample.labels.get("state")): sample.value
        for family in text_string_to_metric_families(http.get("/metrics").text)
        for sample in family.samples
    }
    assert found["sangloc_forwarding_queue", "there", "waiting"] == 1
    assert found["sangloc_forwarding_queue", "there", "dead"] == 0
    assert found["sangloc_forwarding_sent_instances_total", "there", None] == 0
    assert found["sangloc_commitments", None, "waiting"] == 1
    (told,) = http.get("/api/commitments").json()["items"]
    assert (told["requester"], told["state"], told["instances"], told["failed"]) == ("CT1", "waiting", 1, 1)
    assert http.post(f"/api/commitments/{told['number']}/retry").status_code == 204
    assert http.get("/api/commitments").json()["items"][0]["failed"] is None
    problem(http.post("/api/commitments/999/retry"), 404)


def run(conninfo: str, *arguments: str, fails: int = 0) -> str:
    done = CliRunner().invoke(cli.app, ["forwarding", *arguments], env={"SANGLOC_DATABASE_URL": conninfo})
    assert done.exit_code == fails, (done.output, done.exception)
    return done.output


def test_the_command_line_does_the_same(conninfo: str, archive: Archive, database: Database) -> None:
    assert run(conninfo, "status") == ""
    window = ("--window", "22:00-06:00@200000", "--window", "06:00-22:00")
    run(conninfo, "destination", "there", "--peer", "province", *window)
    with database.autocommit() as connection:
        assert by_name(connection, "there").windows[0].bytes_per_s == 200_000
    for wrong in ("8-9", "08:00-09:00@fast"):
        done = CliRunner().invoke(
            cli.app, ["forwarding", "destination", "there", "--peer", "province", "--window", wrong],
            env={"SANGLOC_DATABASE_URL": conninfo},
        )  # fmt: skip
        assert isinstance(done.exception, InvalidInput)
    assert run(conninfo, "rule", "there", "--modality", "CT", "--flagged") == "rule 1\n"
    assert run(conninfo, "rules") == "1: to there: modalities ['CT'], flagged_only\n"
    study = archive.add().header.study_uid
    assert run(conninfo, "study", "there", study) == "1 entries\n"
    (entry,) = json.loads(run(conninfo, "queue", "there", "--json"))
    assert entry["study_uid"] == study
    assert f"{entry['number']} waiting {entry['sop_uid']}" in run(conninfo, "queue", "there")
    assert run(conninfo, "cancel", "there", str(entry["number"])) == "1 entries\n"
    assert run(conninfo, "retry", "there") == "0 entries\n"
    run(conninfo, "pause", "there")
    assert "there (dimse to province): paused; 0 waiting" in run(conninfo, "status")
    assert json.loads(run(conninfo, "status", "--json"))[0]["paused"] is True
    run(conninfo, "resume", "there")
    run(conninfo, "remove-rule", "1")
    run(conninfo, "remove", "there")
    assert run(conninfo, "status") == ""


@pytest.mark.parametrize(
    ("start", "until", "inside", "outside"),
    [("08:00", "17:00", "08:00 16:59", "07:59 17:00"), ("22:00", "06:00", "22:00 00:00 05:59", "06:00 21:59")],
)
def test_windows_pass_midnight(start: str, until: str, inside: str, outside: str) -> None:
    import datetime as dt

    window = Window(dt.time.fromisoformat(start), dt.time.fromisoformat(until), None)
    assert all(window.holds(dt.time.fromisoformat(at)) for at in inside.split())
    assert not any(window.holds(dt.time.fromisoformat(at)) for at in outside.split())
    assert Window(dt.time(5), dt.time(5), None).holds(dt.time(4))
