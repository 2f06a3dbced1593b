"""Forwarding by STOW-RS, notices and commitment: to another sangloc, to pynetdicom, and to Orthanc both ways."""

from __future__ import annotations

import dataclasses
import http.server
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import pytest
from district import ROOT, District
from http_server import serving
from orthanc import orthanc
from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from raw_dicom import CT, data_set

from api.config import ApiConfig
from pacs.announcing import AVAILABILITY
from pacs.dimse.policy import ReceiverPolicy
from pacs.dimse.server import Receiver
from storage import changes, forwarding, peers, removal
from storage.database import Database
from storage.removal import Scope

SECRET = "a-secret-of-enough-characters"
BY = changes.By(actor="ana", reason="blurred")


@pytest.fixture
def district_port(district: District) -> Iterator[int]:
    """The district's own receiver, where reports come to."""
    listen = socket.create_server(("127.0.0.1", 0))
    port = listen.getsockname()[1]
    stop = threading.Event()
    receiver = Receiver(district.ingest, ReceiverPolicy(ae_title="DISTRICT"), listen)
    thread = threading.Thread(target=receiver.run, args=(stop,))
    thread.start()
    yield port
    stop.set()
    thread.join(30)


# ---- STOW-RS


def test_stow_to_another_sangloc_is_bit_by_bit(
    *,
    district: District,
    database: Database,
    store: Any,
    ingest: Any,
    stored: Callable[[str], bytes | None],
    eventually: Callable[..., None],
) -> None:
    with serving(database, store, ApiConfig(tokens={"district": SECRET}), ingest) as address:
        district.send_to(0, url=f"{address}/dicom-web", method="stow", parallel=2, max_attempts=1)
        uids = district.add(40, size=10_000)
        district.run()
        eventually(lambda: "401" in district.status().last_error)  # without its token
        with district.database.transaction() as connection:
            peer = peers.by_name(connection, "province")
            assert peer is not None
            peers.put(connection, dataclasses.replace(peer, dicomweb_token=SECRET), "test")
        eventually(lambda: district.sent() == 40)
    for uid in uids:
        body = stored(uid)
        assert body is not None
        with district.database.autocommit() as connection:
            row = connection.execute("SELECT object_key FROM instances WHERE sop_uid = %s", (uid,)).fetchone()
        assert row is not None
        assert district.ingest.store.read(row[0]).endswith(body)
    assert district.status().dead == 0


@dataclass
class Web:
    """A STOW-RS server that answers what a test wants."""

    answer: Callable[[int, list[str]], tuple[int, bytes]]
    requests: list[list[str]] = field(default_factory=list)  # SOP Instance UIDs of each
    address: str = ""


@pytest.fixture
def web() -> Iterator[Web]:
    made = Web(lambda _count, _uids: (200, b""))

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            boundary = self.headers["Content-Type"].rpartition("boundary=")[2].encode()
            parts = [part.split(b"\r\n\r\n", 1)[1][:-2] for part in body.split(b"--" + boundary)[1:-1]]
            made.requests.append([str(dcmread(BytesIO(part)).SOPInstanceUID) for part in parts])
            status, told = made.answer(len(made.requests), made.requests[-1])
            self.send_response(status)
            self.send_header("Content-Type", "application/dicom+json")
            self.send_header("Content-Length", str(len(told)))
            self.end_headers()
            self.wfile.write(told)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    made.address = f"http://127.0.0.1:{server.server_address[1]}/web/"
    yield made
    server.shutdown()
    server.server_close()
    thread.join(10)


def listed(stored: list[str], failed: dict[str, int]) -> bytes:
    """The body of a STOW-RS answer (PS3.18 table I.2-1)."""

    def references(uids: Any) -> list[dict[str, Any]]:
        return [{"00081155": {"vr": "UI", "Value": [uid]}} for uid in uids]

    failures = references(failed)
    for one, reason in zip(failures, failed.values(), strict=True):
        one["00081197"] = {"vr": "US", "Value": [reason]}
    told = {"00081199": {"vr": "SQ", "Value": references(stored)}, "00081198": {"vr": "SQ", "Value": failures}}
    return json.dumps(told).encode()


def test_each_instance_of_a_partial_success_has_its_own_outcome(
    district: District, web: Web, eventually: Callable[..., None]
) -> None:
    bad = f"{ROOT}.3.2"
    web.answer = lambda _count, uids: (202, listed([uid for uid in uids if uid != bad], {bad: 0xA900}))
    district.send_to(0, url=web.address, method="stow", max_attempts=1)
    district.add(3)
    district.run()
    eventually(lambda: district.sent() == 2 and district.status().dead == 1)
    assert district.entries("dead")[0].sop_uid == bad
    assert "A900" in district.entries("dead")[0].error
    assert len(web.requests) == 1


def test_a_request_that_is_refused_as_a_whole_is_sent_one_by_one(
    district: District, web: Web, eventually: Callable[..., None]
) -> None:
    bad = f"{ROOT}.3.2"
    web.answer = lambda _count, uids: (413, b"") if bad in uids else (200, b"<xml/>")
    district.send_to(0, url=web.address, method="stow", max_attempts=1)
    district.add(3)
    district.run()
    eventually(lambda: district.sent() == 2 and district.status().dead == 1)
    assert "413" in district.entries("dead")[0].error


@pytest.mark.parametrize("status", [500, 503, 404, 202], ids=["fault", "away", "nothing there", "unreadable list"])
def test_an_answer_that_tells_nothing_is_a_failure_of_the_line(
    district: District, web: Web, eventually: Callable[..., None], status: int
) -> None:
    web.answer = lambda count, uids: (status, b"what?") if count < 3 else (200, listed(uids, {}))
    district.send_to(0, url=web.address, method="stow", max_attempts=1)
    district.add(2)
    district.run()
    eventually(lambda: district.sent() == 2)
    assert str(status) in district.status().last_error
    assert district.status().dead == 0


# ---- notices


def test_a_settled_study_is_announced(district: District, eventually: Callable[..., None]) -> None:
    told: list[Dataset] = []

    def create(event: Any) -> tuple[int, None]:
        told.append(event.attribute_list)
        return 0x0110 if len(told) == 1 else 0x0000, None

    ae = AE("ANY")
    ae.add_supported_context(AVAILABILITY)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_N_CREATE, create)])
    try:
        district.send_to(server.server_address[1], method="ian")
        uids = district.add(3)
        district.run(settle_s=0.5)
        eventually(lambda: len(told) == 1)  # refused: tried again later, and shown meanwhile
        eventually(lambda: [one.attempts for one in district.entries("waiting")] == [1])
        with district.database.transaction() as connection:
            forwarding.retry(connection, "province", "ana", district.entries("waiting")[0].number)
        eventually(lambda: district.sent() == 1)
    finally:
        server.shutdown()
    notice = told[-1]
    assert notice.StudyInstanceUID == f"{ROOT}.1.1"
    assert notice.ReferencedPerformedProcedureStepSequence == []
    found = [one for series in notice.ReferencedSeriesSequence for one in series.ReferencedSOPSequence]
    assert sorted(one.ReferencedSOPInstanceUID for one in found) == sorted(uids)
    assert {(one.ReferencedSOPClassUID, one.InstanceAvailability, one.RetrieveAETitle) for one in found} == {
        (CT, "ONLINE", "DISTRICT")
    }


def test_what_was_rejected_is_told_to_be_unavailable(district: District, eventually: Callable[..., None]) -> None:
    told: list[Dataset] = []

    def create(event: Any) -> tuple[int, None]:
        told.append(event.attribute_list)
        if len(told) == 1:  # while the first notice is under way
            reject(lost)
        return 0x0000, None

    def reject(uid: str) -> int:
        scope = Scope(study_uid=f"{ROOT}.1.1", sop_uids=(uid,))
        return changes.write(
            district.database, lambda connection: removal.remove(connection, "delete", scope, BY, grace=None)
        ).change_pk

    def availability() -> dict[str, tuple[str, str]]:
        references = [one for series in told[-1].ReferencedSeriesSequence for one in series.ReferencedSOPSequence]
        return {
            one.ReferencedSOPInstanceUID: (one.InstanceAvailability, one.get("RetrieveURL", "")) for one in references
        }

    ae = AE("ANY")
    ae.add_supported_context(AVAILABILITY)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_N_CREATE, create)])
    try:
        district.send_to(server.server_address[1], method="ian")
        kept, lost = district.add(2)
        district.run(settle_s=0.2, retrieve_url="http://archive.example/dicom-web/")
        eventually(lambda: len(told) >= 2)
        place = f"http://archive.example/dicom-web/studies/{ROOT}.1.1/series/"
        assert availability()[lost] == ("UNAVAILABLE", "")
        assert availability()[kept][0] == "ONLINE"
        assert availability()[kept][1].startswith(place)
        assert availability()[kept][1].endswith(f"/instances/{kept}")
        number = reject(kept)
        eventually(lambda: {one for one, _ in availability().values()} == {"UNAVAILABLE"})
        changes.write(district.database, lambda connection: removal.restore_change(connection, number, BY))
        eventually(lambda: availability()[kept][0] == "ONLINE")
        assert availability()[lost][0] == "UNAVAILABLE"
    finally:
        server.shutdown()


# ---- commitment by the destination


def test_what_is_forwarded_is_committed_by_another_sangloc_on_the_line_that_was_opened(
    receiver: Any, district: District, eventually: Callable[..., None], database: Database
) -> None:
    """The province needs no way back to the district: its report comes over the district's association."""
    district.send_to(receiver.port, commitment=True)
    district.add(5)
    district.run()
    eventually(lambda: len(district.entries("committed")) == 5)
    assert district.status().uncommitted == 0
    with database.autocommit() as connection:
        assert connection.execute("SELECT state FROM commitments").fetchall() == [("reported",)]


def test_what_the_destination_has_lost_is_sent_again(
    receiver: Any, district: District, eventually: Callable[..., None], database: Database, store: Any
) -> None:
    district.send_to(receiver.port, commitment=True, paused=True)
    (lost,) = district.add(1)
    with district.database.transaction() as connection:  # as if it had been sent
        forwarding.enqueue_study(connection, "province", f"{ROOT}.1.1", "test")
        connection.execute("UPDATE forwarding_queue SET state = 'sent'")
    district.send_to(receiver.port, commitment=True)
    district.run()
    eventually(lambda: len(district.entries("committed")) == 1)
    (entry,) = district.entries("committed")
    assert (entry.sop_uid, entry.attempts) == (lost, 1)
    with database.autocommit() as connection:
        assert connection.execute("SELECT sop_uid FROM instances").fetchall() == [(lost,)]


# ---- Orthanc


def test_orthanc_takes_what_we_forward_by_both_ways(
    district: District, tmp_path: Any, eventually: Callable[..., None]
) -> None:
    with orthanc(tmp_path / "orthanc") as peer:
        district.send_to(peer.dicom, aet="ORTHANC", name="dimse")
        district.run()
        uids = district.add(8)
        eventually(lambda: district.sent("dimse") == 8)
        assert peer.uids() == sorted(uids)
        with district.database.autocommit() as connection:
            row = connection.execute("SELECT object_key FROM instances WHERE sop_uid = %s", (uids[0],)).fetchone()
        assert row is not None
        assert dcmread(BytesIO(peer.file(uids[0]))) == dcmread(BytesIO(district.ingest.store.read(row[0])))
        if not peer.api.get("/plugins").json():
            pytest.skip("needs Orthanc's DICOMweb plugin")
        district.send_to(0, name="stow", url=peer.dicomweb, method="stow")
        uids += district.add(8, study="2")
        eventually(lambda: district.sent("stow") == 8)
        eventually(lambda: peer.uids() == sorted(uids))


def test_orthanc_commits_what_we_forward_and_reports_on_its_own_association(
    district: District, district_port: int, tmp_path: Any, eventually: Callable[..., None]
) -> None:
    with orthanc(tmp_path / "orthanc", {"district": ["DISTRICT", "127.0.0.1", district_port]}) as peer:
        district.send_to(peer.dicom, aet="ORTHANC", commitment=True)
        district.add(3)
        district.run()
        eventually(lambda: len(district.entries("committed")) == 3)


def test_orthanc_asks_us_to_commit(
    receiver: Any, raw: Callable[..., Any], tmp_path: Any, eventually: Callable[..., None]
) -> None:
    """Orthanc closes its association and waits for ours."""
    from pacs import exchange as process
    from pacs.reporting import report_commitments
    from pacs.tasks import Exchange

    uid = f"{ROOT}.5.1"
    client = raw().associate()
    assert client.store(uid, data_set(uid, f"{ROOT}.1.5", b"\0" * 100))[0] == 0
    client.release()
    stop = threading.Event()
    parts = Exchange(receiver.ingest.database, receiver.ingest.store)
    thread = threading.Thread(target=process.run, args=(parts, stop, (("commitment", report_commitments),)))
    thread.start()
    try:
        with orthanc(tmp_path / "orthanc", {"us": ["SANGLOC", "127.0.0.1", receiver.port]}) as peer:
            with receiver.ingest.database.transaction() as connection:
                them = peers.Peer(name="orthanc", aet="ORTHANC", host="127.0.0.1", port=peer.dicom)
                peers.put(connection, them, "test")
            asked = {"DicomInstances": [[CT, uid], [CT, "1.2.3.404"]]}
            job = peer.api.post("/modalities/us/storage-commitment", json=asked).json()

            def report() -> dict[str, Any]:
                return peer.api.get(job["Path"]).json()

            eventually(lambda: report()["Status"] != "Pending")
            assert report()["Status"] == "Failure"
            assert [one["SOPInstanceUID"] for one in report()["Success"]] == [uid]
            (failure,) = report()["Failures"]
            assert (failure["SOPInstanceUID"], failure["FailureReason"]) == ("1.2.3.404", 0x0112)
    finally:
        stop.set()
        thread.join(20)
