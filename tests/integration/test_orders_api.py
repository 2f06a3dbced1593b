"""Orders over HTTP."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from archive import Archive
from http_server import client, problem, serving
from ordering import order, promise

from api.config import ApiConfig


def placed(http: httpx.Client, *steps: dict[str, Any], **over: Any) -> dict[str, Any]:
    answer = http.post("/api/orders", json=order(*steps, **over))
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"] == f"/api/orders/{answer.json()['number']}"
    body: dict[str, Any] = answer.json()
    return body


def test_place_change_show(http: httpx.Client):
    made = placed(http, {"step_id": "S1"}, accession_number="A1", priority="HIGH")
    assert (made["status"], made["announced"], made["complete"]) == ("SCHEDULED", True, False)
    (procedure,) = made["order"]["procedures"]
    assert procedure["study_uid"].startswith("2.25.")
    number = made["number"]
    changed = http.patch(
        f"/api/orders/{number}",
        json={"priority": "STAT", "procedures": [{"steps": [{"step_id": "S1", "ae_title": "XRAY1"}]}]},
    )
    assert changed.status_code == 200
    shown = http.get(f"/api/orders/{number}").json()
    assert shown == changed.json()
    assert shown["order"]["procedures"][0]["steps"][0]["ae_title"] == "XRAY1"
    assert [event["action"] for event in shown["history"]] == ["order.new", "order.changed"]
    assert ["priority", "HIGH", "STAT"] in shown["history"][1]["changes"]
    assert {event["actor"] for event in shown["history"]} == {"local"}


def test_statuses(http: httpx.Client):
    number = placed(http)["number"]

    def put(status: str) -> httpx.Response:
        return http.put(f"/api/orders/{number}/status", json={"status": status})

    assert put("ON_HOLD").json()["status"] == "ON_HOLD"
    assert put("SCHEDULED").json()["status"] == "SCHEDULED"
    assert put("CANCELLED").json()["status"] == "CANCELLED"
    assert put("CANCELLED").status_code == 200
    assert "cancelled" in str(problem(put("COMPLETED"), 409)["detail"])
    assert "cancelled" in str(problem(http.patch(f"/api/orders/{number}", json={"priority": "LOW"}), 409)["detail"])
    assert http.get("/api/audit").json()["items"][0]["action"] == "order.cancelled"


def test_pages_and_filters(http: httpx.Client):
    numbers = [placed(http, accession_number=f"A{n}", placer_number=f"P{n}")["number"] for n in range(3)]
    http.put(f"/api/orders/{numbers[0]}/status", json={"status": "CANCELLED"})

    def listed(**query: Any) -> list[int]:
        return [one["number"] for one in http.get("/api/orders", params=query).json()["items"]]

    page = http.get("/api/orders", params={"limit": 2}).json()
    assert [one["number"] for one in page["items"]] == numbers[:0:-1]
    assert listed(limit=2, cursor=page["next"]) == numbers[:1]
    assert listed(status="CANCELLED") == numbers[:1]
    assert listed(accession="A1") == listed(placer_number="P1") == numbers[1:2]
    assert listed(patient_id="BN1") == numbers[::-1]
    assert listed(patient_id="nobody") == []
    problem(http.get("/api/orders", params={"pacient_id": "BN1"}), 422)


@pytest.mark.parametrize(
    ("over", "where"),
    [
        ({"patient": {"id": "1"}}, "body.patient.name"),
        ({"priority": "SOON"}, "body.priority"),
        ({"procedures": []}, "body.procedures"),
        ({"surprise": 1}, "body.surprise"),
    ],
)
def test_what_is_no_order_is_refused(http: httpx.Client, over: dict[str, Any], where: str):
    found: Any = problem(http.post("/api/orders", json=order() | over), 422)
    assert where in [part["where"] for part in found["errors"]]


def test_changes_that_make_no_order_are_refused(http: httpx.Client):
    number = placed(http)["number"]
    assert "patient.name" in str(
        problem(http.patch(f"/api/orders/{number}", json={"patient": {"name": None}}), 400)["detail"]
    )
    problem(http.patch(f"/api/orders/{number}", json={"patient": {"name": "a\\b"}}), 422)
    problem(http.patch(f"/api/orders/{number}", json={"nothing": 1}), 422)
    problem(http.patch("/api/orders/999", json={"priority": "STAT"}), 404)
    problem(http.get("/api/orders/999"), 404)


def test_a_placer_number_is_taken_once(http: httpx.Client):
    number = placed(http, placer_number="P1")["number"]
    answer = http.post("/api/orders", json=order(placer_number="P1"))
    assert f"order {number}" in str(problem(answer, 409)["detail"])


def test_an_order_shows_the_study_that_came_for_it_and_hastens_it(archive: Archive, http: httpx.Client):
    received = archive.add(accession_number="A1", patient_id="BN1")
    config = ApiConfig(order_promise=promise)
    with serving(archive.database, archive.store, config) as address, client(address) as promising:
        made = placed(promising, accession_number="A1", priority="STAT")
    (study,) = made["studies"]
    assert (study["study_uid"], study["priority"], study["instance_count"]) == (received.header.study_uid, "stat", 1)
    (item,) = http.get("/api/worklist").json()["items"]
    assert (item["priority"], item["due_at"]) == ("stat", study["due_at"])


def test_orders_need_the_token(archive: Archive):
    config = ApiConfig(tokens={"ris": "a secret of sixteen or more"})
    with serving(archive.database, archive.store, config) as address:
        with client(address) as nobody:
            problem(nobody.get("/api/orders"), 401)
            problem(nobody.post("/api/orders", json=order()), 401)
        with client(address, "a secret of sixteen or more") as ris:
            number = placed(ris)["number"]
            assert ris.get(f"/api/orders/{number}").json()["history"][0]["actor"] == "ris"
