"""Event reports of workitems over WebSocket: who has subscribed hears of it, once connected, and nobody else."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from archive import Archive
from http_server import client, problem, serving
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from workitems import ALL, FILTERED, Manager, new_uid, performed, workitem

from api.config import ApiConfig


@pytest.fixture
def ups(http: httpx.Client) -> Manager:
    return Manager(http)


def channel(http: httpx.Client, aet: str = "VIEWER", **headers: str) -> ClientConnection:
    address = str(http.base_url).replace("http", "ws", 1).rstrip("/")
    return connect(f"{address}/dicom-web/subscribers/{aet}", additional_headers=headers, open_timeout=10)


def heard(socket: ClientConnection) -> tuple[str, int, str]:
    """Workitem, event type, and state ('' where none is told) of the next report."""
    report: dict[str, Any] = json.loads(socket.recv(timeout=10))
    assert report["00000002"]["Value"] == ["1.2.840.10008.5.1.4.34.6.4"]
    state = report.get("00741000", {}).get("Value", [""])[0]
    return report["00001000"]["Value"][0], report["00001002"]["Value"][0], state


def subscribe(ups: Manager, uid: str, aet: str = "VIEWER", **parameters: str) -> httpx.Response:
    answer = ups.send("POST", f"/{uid}/subscribers/{aet}", **parameters)
    assert answer.status_code == 201, answer.text
    return answer


@pytest.fixture
def socket(http: httpx.Client) -> Iterator[ClientConnection]:
    with channel(http) as opened:
        yield opened


def test_the_events_of_one_workitem(ups: Manager, http: httpx.Client, socket: ClientConnection) -> None:
    uid, other = ups.create(workitem()), ups.create(workitem())
    answer = subscribe(ups, uid)
    assert answer.headers["content-location"] == f"ws{str(http.base_url)[4:].rstrip('/')}/dicom-web/subscribers/VIEWER"
    assert heard(socket) == (uid, 1, "SCHEDULED")
    ups.change(other, "IN PROGRESS")
    ups.change(uid, "IN PROGRESS")
    assert heard(socket) == (uid, 1, "IN PROGRESS")
    progress = {"00741002": {"vr": "SQ", "Value": [{"00741004": {"vr": "DS", "Value": [50]}}]}}
    ups.send("POST", f"/{uid}", progress | performed(), **{"transaction-uid": "1.2.3"})
    assert heard(socket) == (uid, 3, "")
    ups.send("POST", f"/{uid}/cancelrequest", {"00741238": {"vr": "LT", "Value": ["no need"]}})
    assert heard(socket) == (uid, 2, "")
    ups.change(uid, "COMPLETED")
    assert heard(socket) == (uid, 1, "COMPLETED")


def test_reports_wait_for_their_subscriber(ups: Manager, http: httpx.Client) -> None:
    subscribe(ups, ALL)
    first, second = ups.create(workitem()), ups.create(workitem())
    with channel(http) as socket:
        assert [heard(socket) for _ in range(2)] == [(first, 1, "SCHEDULED"), (second, 1, "SCHEDULED")]
    ups.change(first, "IN PROGRESS")
    with channel(http) as socket:
        assert heard(socket) == (first, 1, "IN PROGRESS")
        with pytest.raises(TimeoutError):
            socket.recv(timeout=0.3)


def test_all_but_some(ups: Manager, socket: ClientConnection) -> None:
    subscribe(ups, ALL)
    loud, quiet = ups.create(workitem()), ups.create(workitem())
    assert ups.send("DELETE", f"/{quiet}/subscribers/VIEWER").status_code == 200
    assert ups.send("POST", f"/{ALL}/subscribers/VIEWER/suspend").status_code == 200
    later = ups.create(workitem())
    for uid in (quiet, later, loud):
        ups.change(uid, "IN PROGRESS")
    assert [heard(socket)[0] for _ in range(3)] == [loud, quiet, loud]
    assert ups.send("DELETE", f"/{ALL}/subscribers/VIEWER").status_code == 200
    ups.change(loud, "CANCELED")
    subscribe(ups, quiet)
    assert heard(socket) == (quiet, 1, "IN PROGRESS")


def test_a_filter(ups: Manager, socket: ClientConnection) -> None:
    subscribe(ups, FILTERED, ScheduledProcedureStepPriority="LOW")
    subscribe(ups, FILTERED, "OTHER", filter="PatientID=P9&ProcedureStepLabel=Read*", deletionlock="true")
    ups.create(workitem())
    low = ups.create(workitem(t00741200={"vr": "CS", "Value": ["LOW"]}))
    assert heard(socket)[0] == low


@pytest.mark.parametrize(
    ("uid", "parameters"),
    [
        (FILTERED, {}),
        (FILTERED, {"NoSuchKey": "x"}),
        (ALL, {"PatientID": "x"}),
        (ALL, {"deletionlock": "maybe"}),
    ],
)
def test_subscriptions_that_make_no_sense(ups: Manager, uid: str, parameters: dict[str, str]) -> None:
    problem(ups.send("POST", f"/{uid}/subscribers/VIEWER", **parameters), 400)


def test_what_is_not_there(ups: Manager) -> None:
    problem(ups.send("POST", f"/{new_uid()}/subscribers/VIEWER"), 404)
    problem(ups.send("DELETE", f"/{ALL}/subscribers/VIEWER"), 404)
    problem(ups.send("POST", f"/{ALL}/subscribers/VIEWER/suspend"), 404)
    problem(ups.send("POST", f"/{ups.create(workitem())}/subscribers/VIEWER/suspend"), 400)
    problem(ups.send("POST", f"/{ALL}/subscribers/much-too-long-a-title"), 400)


def test_a_newer_channel_takes_over(ups: Manager, http: httpx.Client) -> None:
    subscribe(ups, ALL)
    with channel(http) as before, channel(http) as after:
        with pytest.raises(ConnectionClosed) as closed:
            before.recv(timeout=10)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4000
        uid = ups.create(workitem())
        assert heard(after)[0] == uid


def test_who_may_listen(archive: Archive) -> None:
    config = ApiConfig(tokens={"ris": "a-secret-of-enough-characters"}, max_event_clients=1)
    with serving(archive.database, archive.store, config) as address, client(address) as http:
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "Basic a-secret-of-enough-characters"},
        ):
            with pytest.raises(InvalidStatus) as refused:
                channel(http, **headers)
            assert refused.value.response.status_code == 401
        allowed = {"Authorization": "Bearer a-secret-of-enough-characters"}
        with channel(http, **allowed):
            with pytest.raises(InvalidStatus) as refused:
                channel(http, "ANOTHER", **allowed)
            assert refused.value.response.status_code == 503


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://elsewhere.example"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Host": "evil.example"}, 421),
    ],
)
def test_pages_of_other_sites_may_not_listen(http: httpx.Client, headers: dict[str, str], status: int) -> None:
    import socket

    url = http.base_url
    plain = {"Host": f"{url.host}:{url.port}"} | headers
    with socket.create_connection((url.host, url.port or 80), 10) as raw:
        lines = "".join(f"{name}: {value}\r\n" for name, value in plain.items())
        raw.sendall(
            f"GET /dicom-web/subscribers/X HTTP/1.1\r\n{lines}Upgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: MDEyMzQ1Njc4OTAxMjM0NQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        assert raw.recv(100).startswith(f"HTTP/1.1 {status}".encode())


def test_a_stopping_server_closes_the_channel(archive: Archive) -> None:
    with contextlib.ExitStack() as stack:
        with serving(archive.database, archive.store) as address, client(address) as http:
            socket = stack.enter_context(channel(http))
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=10)
