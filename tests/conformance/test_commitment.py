"""Storage commitment push model (PS3.4 J) with pynetdicom as the modality: same and new association, faults."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from raw_dicom import CT, data_set

from pacs import committing, reporting
from pacs import exchange as process
from pacs.dimse.status import COMMITMENT_STATUSES
from pacs.reporting import report_commitments
from pacs.tasks import Exchange
from storage import commitment, peers
from storage.database import Database

PUSH, INSTANCE = "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1"
MR = "1.2.840.10008.5.1.4.1.1.4"
ROOT = "1.2.826.0.1.3680043.9999.20"


@dataclass
class Modality:
    """A modality that asks for commitment and takes the report, on its own association or on ours."""

    aet: str = "MODALITY"
    reports: list[tuple[int, Dataset]] = field(default_factory=list)  # event type and information
    status: int = 0x0000  # of our answer to a report
    port: int = 0
    _server: Any = None

    def handler(self, event: Any) -> tuple[int, None]:
        self.reports.append((event.request.EventTypeID, event.event_information))
        return self.status, None

    def listen(self) -> None:
        ae = AE(self.aet)
        ae.add_supported_context(PUSH, scu_role=False, scp_role=True)
        self._server = ae.start_server(
            ("127.0.0.1", self.port), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, self.handler)]
        )
        self.port = self._server.server_address[1]

    def close(self) -> None:
        if self._server is not None:
            self._server.shutdown()

    def associate(self, port: int) -> Any:
        ae = AE(self.aet)
        ae.add_requested_context(PUSH)
        found = ae.associate(
            "127.0.0.1", port, ae_title="SANGLOC", evt_handlers=[(evt.EVT_N_EVENT_REPORT, self.handler)]
        )
        assert found.is_established
        return found

    def ask(self, association: Any, transaction: str, *instances: tuple[str, str], **other: Any) -> int:
        information = Dataset()
        information.TransactionUID = transaction
        information.ReferencedSOPSequence = [reference(*each) for each in instances]
        values = {"action": 1, "instance": INSTANCE, **other}
        answer, _ = association.send_n_action(information, values["action"], PUSH, values["instance"])
        return int(answer.Status)

    def outcome(self) -> tuple[int, str, list[str], dict[str, int]]:
        """Event type, transaction, committed instances, and failure reasons of the others, of the one report."""
        ((event_type, told),) = self.reports
        committed = [item.ReferencedSOPInstanceUID for item in told.get("ReferencedSOPSequence", [])]
        failed = {item.ReferencedSOPInstanceUID: item.FailureReason for item in told.get("FailedSOPSequence", [])}
        return event_type, told.TransactionUID, committed, failed


def reference(sop_class: str, sop_uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, sop_uid
    return item


@pytest.fixture
def modality() -> Iterator[Modality]:
    made = Modality()
    yield made
    made.close()


@pytest.fixture
def stored_uids(raw: Callable[..., Any]) -> list[str]:
    """Three stored instances."""
    client = raw().associate()
    uids = [f"{ROOT}.3.{n}" for n in range(3)]
    for uid in uids:
        assert client.store(uid, data_set(uid, f"{ROOT}.1", b"\1" * 4000))[0] == 0
    client.release()
    return uids


@pytest.fixture
def reporter(database: Database, store: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Starts the exchange process's task, with short pauses."""
    monkeypatch.setattr(reporting, "_AGAIN_S", (0.05, 0.2))
    stop = threading.Event()
    threads: list[threading.Thread] = []

    def start() -> None:
        tasks = (("commitment", report_commitments),)
        threads.append(threading.Thread(target=process.run, args=(Exchange(database, store), stop, tasks)))
        threads[-1].start()

    yield start
    stop.set()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


def state(database: Database) -> list[tuple[str, str]]:
    with database.autocommit() as connection:
        return [(one.transaction_uid, one.state) for one in commitment.page(connection)]


def know(database: Database, modality: Modality) -> None:
    peer = peers.Peer(name="modality", aet=modality.aet, host="127.0.0.1", port=modality.port)
    with database.transaction() as connection:
        peers.put(connection, peer, "test")


def test_the_report_comes_over_the_same_association(
    receiver: Any, stored_uids: list[str], modality: Modality, eventually: Callable[..., None], database: Database
) -> None:
    association = modality.associate(receiver.port)
    assert modality.ask(association, f"{ROOT}.9", *((CT, uid) for uid in stored_uids)) == 0
    eventually(lambda: bool(modality.reports))
    assert modality.outcome() == (1, f"{ROOT}.9", stored_uids, {})
    eventually(lambda: state(database) == [(f"{ROOT}.9", "reported")])
    assert modality.ask(association, f"{ROOT}.10", (CT, stored_uids[0])) == 0  # it serves on
    eventually(lambda: len(modality.reports) == 2)
    association.release()


def test_each_failure_has_its_reason_and_only_read_bytes_are_committed(
    receiver: Any, stored_uids: list[str], modality: Modality, eventually: Callable[..., None], database: Database
) -> None:
    whole, changed, lost = stored_uids
    with database.autocommit() as connection:
        keys = dict(connection.execute("SELECT sop_uid, object_key FROM instances").fetchall())
    objects = receiver.ingest.store
    damaged = bytearray(objects.read(keys[changed]))
    damaged[-1] ^= 1
    Path(objects.path(keys[changed])).write_bytes(damaged)
    objects.delete(keys[lost])
    association = modality.associate(receiver.port)
    wrong_class, unknown = (MR, whole), (CT, f"{ROOT}.404")
    assert modality.ask(association, f"{ROOT}.9", (CT, changed), (CT, lost), unknown) == 0
    eventually(lambda: bool(modality.reports))
    assert modality.outcome() == (2, f"{ROOT}.9", [], {changed: 0x0110, lost: 0x0110, unknown[1]: 0x0112})
    modality.reports.clear()
    assert modality.ask(association, f"{ROOT}.10", wrong_class) == 0
    eventually(lambda: bool(modality.reports))
    assert modality.outcome() == (2, f"{ROOT}.10", [], {whole: 0x0119})
    modality.reports.clear()
    with database.autocommit() as connection:
        connection.execute("UPDATE series SET hidden = true")
    assert modality.ask(association, f"{ROOT}.11", (CT, whole)) == 0
    eventually(lambda: bool(modality.reports))
    assert modality.outcome() == (2, f"{ROOT}.11", [], {whole: 0x0112})  # rejected: the modality must keep its copy
    association.release()


def test_a_modality_that_has_gone_hears_on_a_new_association_when_it_is_there_again(
    *,
    receiver: Any,
    stored_uids: list[str],
    modality: Modality,
    eventually: Callable[..., None],
    database: Database,
    reporter: Callable[[], None],
) -> None:
    association = modality.associate(receiver.port)
    assert modality.ask(association, f"{ROOT}.9", (CT, stored_uids[0])) == 0
    association.release()
    reporter()

    def error() -> str:
        with database.autocommit() as connection:
            return commitment.page(connection)[0].error

    eventually(lambda: "No peer has the AE title MODALITY" in error())
    modality.listen()
    modality.close()  # its port is known, but nobody answers
    know(database, modality)
    eventually(lambda: "does not answer" in error())
    modality.status = 0x0110
    modality.listen()
    eventually(lambda: "status 0110" in error())
    assert state(database) == [(f"{ROOT}.9", "waiting")]
    modality.status = 0x0000
    eventually(lambda: state(database) == [(f"{ROOT}.9", "reported")])
    assert {modality.outcome()[2][0] for modality.reports in [[one] for one in modality.reports]} == {stored_uids[0]}


def test_the_same_request_again_is_reported_again_and_other_instances_are_refused(
    receiver: Any, stored_uids: list[str], modality: Modality, eventually: Callable[..., None], database: Database
) -> None:
    association = modality.associate(receiver.port)
    for count in (1, 2):
        assert modality.ask(association, f"{ROOT}.9", (CT, stored_uids[0])) == 0
        eventually(lambda count=count: len(modality.reports) == count)
    eventually(lambda: state(database) == [(f"{ROOT}.9", "reported")])
    assert modality.ask(association, f"{ROOT}.9", (CT, stored_uids[1])) == 0x0131
    association.release()
    other = Modality("OTHER")
    association = other.associate(receiver.port)  # transaction UIDs of others are no concern of his
    assert other.ask(association, f"{ROOT}.9", (CT, stored_uids[1])) == 0
    eventually(lambda: bool(other.reports))
    association.release()


@pytest.mark.parametrize(
    ("transaction", "instances", "other", "status"),
    [
        (f"{ROOT}.9", [(CT, "1.2.3")], {"action": 2}, 0x0123),
        (f"{ROOT}.9", [(CT, "1.2.3")], {"instance": "1.2.3"}, 0x0112),
        (f"{ROOT}.9", [], {}, 0x0115),
        ("", [(CT, "1.2.3")], {}, 0x0115),
        (f"{ROOT}.9", [(CT, "")], {}, 0x0115),
    ],
    ids=["action", "instance", "nothing asked", "no transaction", "no instance"],
)
def test_a_request_that_makes_no_sense_is_refused_and_leaves_nothing(
    *,
    receiver: Any,
    modality: Modality,
    database: Database,
    transaction: str,
    instances: list[tuple[str, str]],
    other: dict[str, Any],
    status: int,
) -> None:
    association = modality.associate(receiver.port)
    assert modality.ask(association, transaction, *instances, **other) == status
    association.release()
    assert state(database) == []


def test_a_request_is_answered_only_when_it_is_durable(
    receiver: Any, modality: Modality, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    association = modality.associate(receiver.port)
    database.close()  # as if the server were away
    assert modality.ask(association, f"{ROOT}.9", (CT, "1.2.3")) == 0x0213
    association.release()


def test_a_request_whose_receiver_died_is_worked_off_by_the_exchange(
    stored_uids: list[str],
    modality: Modality,
    eventually: Callable[..., None],
    database: Database,
    reporter: Callable[[], None],
) -> None:
    """What the receiver left is found when its hold ends, without a notification."""
    modality.listen()
    know(database, modality)
    started = time.monotonic()
    with database.transaction() as connection:
        asked = [commitment.Asked(CT, uid) for uid in stored_uids]
        commitment.ask(
            connection, "MODALITY", f"{ROOT}.9", asked, requester_address="127.0.0.1", called="SANGLOC", hold_s=1.0
        )
    reporter()
    eventually(lambda: state(database) == [(f"{ROOT}.9", "reported")])
    assert time.monotonic() - started > 0.9
    assert modality.outcome() == (1, f"{ROOT}.9", stored_uids, {})


def test_the_conformance_statement_shows_the_statuses() -> None:
    document = (Path(__file__).parents[2] / "docs" / "conformance.md").read_text()
    rows = [f"| {s.code:04X} | {s.meaning} | {s.clause} | {s.when} |\n" for s in COMMITMENT_STATUSES]
    assert "".join(rows) in document
    reasons = (committing.PROCESSING_FAILURE, committing.NO_SUCH_INSTANCE, committing.CLASS_CONFLICT)
    assert all(f"\n| {reason:04X} | " in document.split("Failure reason")[1] for reason in reasons)
