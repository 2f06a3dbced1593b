"""Who may ask, from where, and how much: tokens, loopback, Host and Origin, sizes and slow clients."""

from __future__ import annotations

import hashlib
import re
import socket
import time
from urllib.parse import urlsplit

import httpx
import pytest
from archive import Archive
from http_server import client, problem, serving
from structlog.testing import capture_logs

from api import server
from api.config import ApiConfig, check_safe
from storage.errors import SettingsError

SECRET = "a-secret-of-enough-characters"
TOKENS = {"dr.an": SECRET, "gateway": "sha256:" + hashlib.sha256(b"another-long-secret").hexdigest()}

OPEN_TO_ALL = {"/health/live", "/health/ready"}


def test_every_resource_asks_for_a_token(archive: Archive) -> None:
    with serving(archive.database, archive.store, ApiConfig(tokens=TOKENS)) as address:
        with httpx.Client(base_url=address) as http:
            described = http.get("/openapi.json").json()["paths"]
        operations = [
            (method.upper(), re.sub(r"\{[^}]*\}", "1", path))
            for path, methods in described.items()
            for method in methods
            if path not in OPEN_TO_ALL
        ]
        assert len(operations) > 20
        for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic Zm9vOmJhcg=="}):
            with httpx.Client(base_url=address, headers=header) as http:
                for method, path in operations:
                    answer = http.request(method, path, timeout=20)
                    assert answer.status_code == 401, (method, path, answer.text)
                    assert answer.headers["www-authenticate"] == "Bearer"
                problem(http.get("/api/studies"), 401)
                assert http.get("/health/live").status_code == http.get("/health/ready").status_code == 200
                assert http.get("/").status_code == http.get("/web/app.js").status_code == 200


def test_every_resource_is_described_as_guarded(http: httpx.Client) -> None:
    described = http.get("/openapi.json").json()["paths"]
    unguarded = {
        (path, method)
        for path, methods in described.items()
        for method, operation in methods.items()
        if not operation.get("security")
    }
    assert {path for path, _ in unguarded} == OPEN_TO_ALL


def test_secrets_and_digests_are_known_and_the_name_is_the_actor(archive: Archive) -> None:
    uid = archive.add().header.study_uid
    with serving(archive.database, archive.store, ApiConfig(tokens=TOKENS)) as address:
        for secret, name in ((SECRET, "dr.an"), ("another-long-secret", "gateway")):
            with client(address, secret) as http:
                for state in ("read", "open"):
                    assert http.put(f"/api/worklist/{uid}/state", json={"state": state}).status_code == 200
                log = http.get("/api/audit", params={"study_uid": uid}).json()["items"]
                assert [entry["actor"] for entry in log[:2]] == [name, name]
        with client(address, TOKENS["gateway"]) as http:  # the digest itself is no secret
            problem(http.get("/api/worklist"), 401)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "pacs.example", ""])
def test_without_tokens_only_loopback_is_served(archive: Archive, host: str) -> None:
    with pytest.raises(SettingsError, match="loopback"):
        check_safe(host, ApiConfig())
    with pytest.raises(SettingsError, match="loopback"):
        server.run(archive.database, archive.store, ApiConfig(), host=host, port=0)
    check_safe(host, ApiConfig(tokens=TOKENS))


def test_an_inherited_socket_is_held_to_the_same_rule(archive: Archive) -> None:
    with socket.create_server(("0.0.0.0", 0)) as listener, pytest.raises(SettingsError, match="loopback"):
        server.run(archive.database, archive.store, ApiConfig(), listen_fd=listener.detach())


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.5", "localhost", "::1", "[::1]"])
def test_loopback_needs_no_token(host: str) -> None:
    check_safe(host, ApiConfig())


@pytest.mark.parametrize("tokens", [{"a": "short"}, {"": SECRET}, {"a": "sha256:abc"}, {"a": "sha256:" + "g" * 64}])
def test_weak_tokens_are_refused(tokens: dict[str, str]) -> None:
    with pytest.raises(SettingsError) as told:
        check_safe("127.0.0.1", ApiConfig(tokens=tokens))
    assert all(secret not in str(told.value) for secret in tokens.values() if secret)


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "", "[::2]", "a:b:c"]
)
def test_without_tokens_a_name_that_was_pointed_at_us_is_refused(http: httpx.Client, host: str) -> None:
    problem(http.get("/api/worklist", headers={"Host": host}), 421)
    problem(http.get("/", headers={"Host": host}), 421)


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:8080"])
def test_loopback_names_are_answered(http: httpx.Client, host: str) -> None:
    assert http.get("/api/worklist", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_pages_of_other_sites_change_nothing(archive: Archive, http: httpx.Client, headers: dict[str, str]) -> None:
    uid = archive.add().header.study_uid
    problem(http.put(f"/api/worklist/{uid}/state", json={"state": "read"}, headers=headers), 403)
    assert http.get("/api/worklist").json()["items"][0]["state"] == "open"
    own = {"Origin": str(http.base_url).rstrip("/"), "Sec-Fetch-Site": "same-origin"}
    assert http.put(f"/api/worklist/{uid}/state", json={"state": "read"}, headers=own).status_code == 200


def test_nothing_is_shared_with_other_origins_and_no_answer_lacks_its_headers(http: httpx.Client) -> None:
    for path in ("/", "/web/app.js", "/api/worklist", "/nothing", "/api/worklist?limit=0"):
        headers = http.get(path, headers={"Origin": "https://evil.example"}).headers
        assert "access-control-allow-origin" not in headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "server" not in headers
    assert http.get("/api/worklist").headers["cache-control"] == "no-store"


def test_bodies_are_bounded_announced_or_not(archive: Archive) -> None:
    uid = archive.add().header.study_uid
    path = f"/api/worklist/{uid}/state"
    with serving(archive.database, archive.store, ApiConfig(max_body_bytes=100)) as address, client(address) as http:
        problem(http.put(path, content=b"x" * 101), 413)
        problem(http.put(path, content=(b"x" * 60 for _ in range(2))), 413)
        assert http.put(path, json={"state": "read"}).status_code == 200


def test_a_body_that_does_not_come_is_given_up(archive: Archive) -> None:
    head = b"PUT /api/worklist/1.2/state HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with (
        serving(archive.database, archive.store, ApiConfig(body_timeout_s=0.2)) as address,
        socket.create_connection(("127.0.0.1", urlsplit(address).port or 0), timeout=5) as late,
    ):
        late.sendall(head + b"Content-Length: 20\r\n\r\n{")
        assert late.recv(100).startswith(b"HTTP/1.1 408")


def test_a_client_that_takes_nothing_is_cut_off(archive: Archive) -> None:
    uid = archive.add(content=b"\0" * 60_000_000).header.sop_uid
    with (
        serving(archive.database, archive.store, ApiConfig(send_timeout_s=0.3)) as address,
        socket.create_connection(("127.0.0.1", urlsplit(address).port or 0), timeout=5) as idle,
        client(address) as http,
        capture_logs() as logs,
    ):
        idle.sendall(f"GET /api/instances/{uid}/file HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        deadline = time.monotonic() + 10
        while "/file" not in http.get("/metrics").text:  # a request is counted when it has ended
            assert time.monotonic() < deadline, "the request never ended"
        assert sum(len(part) for part in iter(lambda: idle.recv(1 << 20), b"")) < 60_000_000
    assert not [entry for entry in logs if entry["log_level"] == "error"]


def test_silent_and_endless_headers_are_cut_off(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_HEADER_S", 0.3)
    with serving(archive.database, archive.store) as address:
        port = urlsplit(address).port or 0
        with socket.create_connection(("127.0.0.1", port), timeout=5) as silent:
            assert silent.recv(10) == b""
        with socket.create_connection(("127.0.0.1", port), timeout=5) as dribbling:
            dribbling.sendall(b"GET / HTTP/1.1\r\nHost: loc")
            assert dribbling.recv(10) == b""
        with socket.create_connection(("127.0.0.1", port), timeout=5) as endless:
            endless.sendall(b"GET / HTTP/1.1\r\nX: " + b"y" * 70_000)
            assert endless.recv(100).startswith(b"HTTP/1.1 400")
        with socket.create_connection(("127.0.0.1", port), timeout=5) as garbage:
            garbage.sendall(b"\x01\x00\x00\x00\x00\xcd\x00\x01 A-ASSOCIATE\r\n\r\n")
            answer = garbage.recv(1000)
            assert answer.startswith(b"HTTP/1.1 400")
            assert b"application/problem+json" in answer
        with client(address) as http:
            assert http.get("/health/live").status_code == 200


def test_an_unexpected_error_tells_nothing_and_logs_no_patient(archive: Archive, http: httpx.Client) -> None:
    archive.add(patient_name="Bí^Mật")
    with archive.database.transaction() as connection:
        connection.execute("ALTER TABLE worklist RENAME COLUMN reason TO gone")
    with capture_logs() as logs:
        body = problem(http.get("/api/worklist", params={"name": "Bí Mật"}), 500)
    assert body["detail"] == "the server failed; the reason is in its log"
    (entry,) = [entry for entry in logs if entry["log_level"] == "error"]
    assert entry["route"] == "/api/worklist"
    assert entry["error"] == "UndefinedColumn"
    assert "Mật" not in str(logs)
