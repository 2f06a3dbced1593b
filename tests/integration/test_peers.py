"""The registry of peers: rows, the HTTP API, and its changes in the audit log."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from http_server import client, problem, serving

from api.config import ApiConfig
from storage import audit
from storage.database import Database
from storage.errors import InvalidInput, NotFound
from storage.peers import Peer, all_peers, by_aet, by_name, put, remove

DIMSE = {"aet": "WS1", "host": "10.0.0.5", "port": 104}


def test_a_peer_is_found_by_its_name_and_its_title(database: Database) -> None:
    with database.transaction() as connection:
        assert put(connection, Peer(name="workstation", **DIMSE), "test")
        assert put(
            connection, Peer(name="cloud", dicomweb_url="https://x.example/dicom-web", dicomweb_token="t"), "test"
        )
        assert not put(connection, Peer(name="workstation", **{**DIMSE, "port": 11112}, tls=True), "test")
        found = by_aet(connection, "WS1 ")
        assert found == by_name(connection, "workstation")
        assert (found.port, found.tls) == (11112, True)
        assert [peer.name for peer in all_peers(connection)] == ["cloud", "workstation"]
        assert by_aet(connection, "") is by_aet(connection, "WS2") is by_name(connection, "nobody") is None
        remove(connection, "cloud", "test")
        with pytest.raises(NotFound):
            remove(connection, "cloud", "test")
    with database.autocommit() as connection:
        entries = audit.page(connection)
    assert [(one.actor, one.action) for one in reversed(entries)] == [
        ("test", "peer.added"), ("test", "peer.added"), ("test", "peer.changed"), ("test", "peer.removed")
    ]  # fmt: skip
    assert "dicomweb_token" not in str([one.detail for one in entries])
    assert "'t'" not in repr(Peer(name="cloud", dicomweb_url="https://x.example", dicomweb_token="t"))


def test_one_title_is_one_destination(database: Database) -> None:
    with database.transaction() as connection:
        put(connection, Peer(name="one", **DIMSE), "test")
    with pytest.raises(InvalidInput, match="WS1"), database.transaction() as connection:
        put(connection, Peer(name="two", **DIMSE), "test")
    with database.transaction() as connection:  # those without a title do not collide
        put(connection, Peer(name="a", dicomweb_url="http://a.example"), "test")
        put(connection, Peer(name="b", dicomweb_url="http://b.example"), "test")


@pytest.mark.parametrize(
    "facts",
    [
        {"name": "x"},
        {"name": "../x", **DIMSE},
        {"name": "", **DIMSE},
        {"name": "x", **DIMSE, "aet": "A" * 17},
        {"name": "x", **DIMSE, "aet": "A\\B"},
        {"name": "x", **DIMSE, "aet": " A"},
        {"name": "x", **DIMSE, "host": ""},
        {"name": "x", **DIMSE, "host": "a b"},
        {"name": "x", **DIMSE, "port": 0},
        {"name": "x", **DIMSE, "port": 65536},
        {"name": "x", "dicomweb_url": "ftp://x"},
        {"name": "x", "dicomweb_url": "http://user:secret@x/"},
        {"name": "x", "dicomweb_url": "http://x/?a=b"},
        {"name": "x", "dicomweb_url": "http://x:99999/"},
        {"name": "x", **DIMSE, "comment": "a\nb"},
    ],
)
def test_what_cannot_be_an_address_is_refused(facts: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        Peer(**facts)


@pytest.mark.parametrize("host", ["10.1.2.3", "::1", "fe80::1%eth0", "pacs.hospital.example", "PACS-1"])
def test_hosts_of_every_kind(host: str) -> None:
    assert Peer(name="x", **{**DIMSE, "host": host}).host == host


def test_the_api_adds_shows_changes_and_removes(http: httpx.Client) -> None:
    body = {**DIMSE, "dicomweb_url": "https://ws.example/dw", "dicomweb_token": "secret", "comment": "phòng 3"}
    added = http.put("/api/peers/ws", json=body)
    assert added.status_code == 201
    shown = {"name": "ws", **DIMSE, "tls": False, "dicomweb_url": "https://ws.example/dw", "comment": "phòng 3",
             "has_token": True}  # fmt: skip
    assert added.json() == shown
    assert http.get("/api/peers").json() == {"items": [shown]}
    changed = http.put("/api/peers/ws", json={**DIMSE, "port": 105})
    assert (changed.status_code, changed.json()["port"], changed.json()["has_token"]) == (200, 105, True)
    assert not http.put("/api/peers/ws", json={**DIMSE, "dicomweb_token": ""}).json()["has_token"]
    assert http.get("/api/peers/ws").json()["port"] == 104
    assert http.delete("/api/peers/ws").status_code == 204
    problem(http.get("/api/peers/ws"), 404)
    problem(http.delete("/api/peers/ws"), 404)
    actions = [one["action"] for one in http.get("/api/audit").json()["items"]]
    assert actions == ["peer.removed", "peer.changed", "peer.changed", "peer.added"]


def test_the_api_refuses_what_is_no_peer(http: httpx.Client) -> None:
    problem(http.put("/api/peers/ws", json={}), 400)
    problem(http.put("/api/peers/ws", json={**DIMSE, "port": "x"}), 422)
    problem(http.put("/api/peers/ws", json={**DIMSE, "unknown": 1}), 422)
    problem(http.put("/api/peers/a%2Fb", json=DIMSE), 404)
    http.put("/api/peers/one", json=DIMSE)
    problem(http.put("/api/peers/two", json=DIMSE), 400)


def test_the_registry_is_behind_the_login(archive: Any) -> None:
    config = ApiConfig(tokens={"me": "a-long-secret-token"})
    with serving(archive.database, archive.store, config) as address, client(address) as stranger:
        assert stranger.get("/api/peers").status_code == 401
        assert stranger.put("/api/peers/ws", json=DIMSE).status_code == 401
        assert stranger.delete("/api/peers/ws").status_code == 401
