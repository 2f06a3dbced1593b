"""Modality performed procedure steps, reported by pynetdicom (PS3.4 F.7)."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from dicom_client import DX, Client, make
from mpps_client import Modality, beginning, ending, item, scheduled, tags
from ordering import place, read, study_uid_of
from raw_dicom import Raw

from pacs.dimse.command import encode
from pacs.dimse.contexts import MPPS
from storage import audit, orders, performed, worklist
from storage.database import Database

EXPLICIT = "1.2.840.10008.1.2.1"


@pytest.fixture
def modality(receiver: Any) -> Iterator[Modality]:
    with Modality(receiver.port) as opened:
        yield opened


@pytest.fixture
def ordered(database: Database) -> int:
    """An order with two steps of one study."""
    return place(database, {"step_id": "S1"}, {"step_id": "S2"}, accession_number="A1")


def steps(database: Database, number: int) -> dict[str, str]:
    return {step.step_id: step.status for each in read(database, number).order.procedures for step in each.steps}


def only(database: Database) -> performed.Step:
    with database.autocommit() as connection:
        (found,) = performed.page(connection)
    return found


def begun(modality: Modality, database: Database, number: int, *step_ids: str) -> str:
    """The UID of a performed step for these scheduled steps."""
    uid = generate_uid()
    study = study_uid_of(database, number)
    status = modality.create(beginning(*(scheduled(study, step, "A1") for step in step_ids)), uid)
    assert status.Status == 0
    return uid


def test_from_begin_to_end(modality: Modality, database: Database, ordered: int):
    uid = begun(modality, database, ordered, "S1")
    assert steps(database, ordered) == {"S1": "IN_PROGRESS", "S2": "SCHEDULED"}
    assert read(database, ordered).status == "IN_PROGRESS"
    assert (
        modality.set(
            item(SpecificCharacterSet="ISO_IR 192", PerformedProcedureStepDescription="Ngực thẳng"), uid
        ).Status
        == 0
    )
    assert only(database).status == "IN PROGRESS"
    assert modality.set(ending([generate_uid()]), uid).Status == 0
    assert steps(database, ordered) == {"S1": "COMPLETED", "S2": "SCHEDULED"}
    assert read(database, ordered).status == "IN_PROGRESS"  # a step is left
    other = begun(modality, database, ordered, "S2")
    assert modality.set(ending([generate_uid()]), other).Status == 0
    assert read(database, ordered).status == "COMPLETED"
    with database.autocommit() as connection:
        found = performed.of_order(connection, ordered)
        history = orders.history(connection, ordered)
    assert [(each.sop_uid, each.status, each.source_aet, each.modality) for each in found] == [
        (uid, "COMPLETED", "XRAY1", "DX"),
        (other, "COMPLETED", "XRAY1", "DX"),
    ]
    assert [each.action for each in history] == [
        "order.new", "order.in_progress", "order.changed", "order.changed", "order.completed",
    ]  # fmt: skip
    assert {each.actor for each in history[1:]} == {"XRAY1"}


def test_one_performed_step_for_several_scheduled_ones(modality: Modality, database: Database, ordered: int):
    uid = begun(modality, database, ordered, "S1", "S2")
    modality.set(ending([generate_uid()]), uid)
    assert steps(database, ordered) == {"S1": "COMPLETED", "S2": "COMPLETED"}


def test_several_performed_steps_for_a_scheduled_one(modality: Modality, database: Database, ordered: int):
    first, second = (begun(modality, database, ordered, "S1") for _ in range(2))
    modality.set(ending([generate_uid()]), first)
    assert steps(database, ordered)["S1"] == "IN_PROGRESS"
    modality.set(ending([generate_uid()]), second)
    assert steps(database, ordered)["S1"] == "COMPLETED"


@pytest.mark.parametrize(
    "key",
    [
        {"step_id": "S1"},  # with the study UID
        {"study_uid": "1.2.3", "step_id": "S1", "accession": "A1"},  # the modality made a UID of its own
        {"study_uid": "1.2.3", "accession": "A1", "procedure_id": "P{number}-1"},
        {},
    ],
)
def test_how_a_scheduled_step_is_found(modality: Modality, database: Database, ordered: int, key: dict[str, str]):
    given = {name: value.format(number=ordered) for name, value in key.items()}
    step = scheduled(**{"study_uid": study_uid_of(database, ordered), **given})
    assert modality.create(beginning(step), generate_uid()).Status == 0
    assert steps(database, ordered)["S1"] == "IN_PROGRESS"


def test_an_unscheduled_step_is_kept(modality: Modality, database: Database, ordered: int):
    assert modality.create(beginning(scheduled("1.2.3.4")), generate_uid()).Status == 0
    assert (only(database).study_uids, only(database).orders) == (["1.2.3.4"], [])
    assert read(database, ordered).status == "SCHEDULED"


def test_a_discontinued_step(modality: Modality, database: Database, ordered: int):
    uid = begun(modality, database, ordered, "S1", "S2")
    assert modality.set(ending([], "DISCONTINUED", PerformedSeriesSequence=[]), uid).Status == 0
    assert steps(database, ordered) == {"S1": "DISCONTINUED", "S2": "DISCONTINUED"}
    assert read(database, ordered).status == "DISCONTINUED"


def test_a_wrong_worklist_entry_goes_back_on_the_list(modality: Modality, database: Database, ordered: int):
    uid = begun(modality, database, ordered, "S1")
    reason = item(CodeValue="110514", CodingSchemeDesignator="DCM", CodeMeaning="Incorrect worklist entry selected")
    data = ending([], "DISCONTINUED", PerformedProcedureStepDiscontinuationReasonCodeSequence=[reason])
    assert modality.set(data, uid).Status == 0
    assert steps(database, ordered) == {"S1": "SCHEDULED", "S2": "SCHEDULED"}
    assert read(database, ordered).status == "SCHEDULED"
    assert only(database).orders == []


@pytest.mark.parametrize("status", ["COMPLETED", "DISCONTINUED"])
def test_what_is_over_may_not_be_changed(modality: Modality, database: Database, ordered: int, status: str):
    uid = begun(modality, database, ordered, "S1")
    assert modality.set(ending([generate_uid()], status), uid).Status == 0
    for data in (
        item(PerformedProcedureStepDescription="x"),
        ending(),
        item(PerformedProcedureStepStatus="IN PROGRESS"),
    ):
        answer = modality.set(data, uid)
        assert (answer.Status, answer.ErrorID) == (0x0110, 0xA710)
        assert status in answer.ErrorComment
    assert only(database).status == status


def test_duplicates_and_strangers(modality: Modality, database: Database, ordered: int):
    uid = begun(modality, database, ordered, "S1")
    assert modality.create(beginning(scheduled("1.2.3")), uid).Status == 0x0111
    assert only(database).study_uids == [study_uid_of(database, ordered)]
    assert modality.set(ending(), generate_uid()).Status == 0x0112


@pytest.mark.parametrize(
    ("over", "status", "missing"),
    [
        ({"Modality": None}, 0x0120, [0x00080060]),
        ({"Modality": ""}, 0x0121, [0x00080060]),
        ({"PerformedStationAETitle": None, "PerformedProcedureStepID": None}, 0x0120, [0x00400241, 0x00400253]),
        ({"PerformedProcedureStepStartDate": ""}, 0x0121, [0x00400244]),
        ({"ScheduledStepAttributesSequence": None}, 0x0120, [0x00400270]),
        ({"ScheduledStepAttributesSequence": []}, 0x0121, [0x00400270]),
        ({"ScheduledStepAttributesSequence": [Dataset()]}, 0x0120, [0x0020000D]),
        ({"ScheduledStepAttributesSequence": [item(StudyInstanceUID="1.02")]}, 0x0106, [0x0020000D]),
        ({"PerformedProcedureStepStatus": "COMPLETED"}, 0x0106, [0x00400252]),
        ({"PerformedProcedureStepStatus": "BEGUN"}, 0x0106, [0x00400252]),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_what_a_begin_needs(
    modality: Modality, database: Database, over: dict[str, Any], status: int, missing: list[int]
):
    answer = modality.create(beginning(scheduled("1.2.3"), **over), generate_uid())
    assert answer.Status == status
    listed = ", ".join(f"({tag >> 16:04X},{tag & 0xFFFF:04X})" for tag in missing)
    assert answer.ErrorComment.endswith(f": {listed}")
    with database.autocommit() as connection:
        assert performed.page(connection) == []


@pytest.mark.parametrize(
    ("over", "status", "missing"),
    [
        (
            {"PerformedProcedureStepEndDate": None, "PerformedProcedureStepEndTime": None},
            0x0120,
            [0x00400250, 0x00400251],
        ),
        ({"PerformedProcedureStepEndTime": ""}, 0x0121, [0x00400251]),
        ({"PerformedSeriesSequence": []}, 0x0121, [0x00400340]),
        ({"PerformedSeriesSequence": [item(SeriesInstanceUID="1.2")]}, 0x0120, [0x00181030]),
        ({"PerformedSeriesSequence": [item(ProtocolName="x", SeriesInstanceUID="1.02")]}, 0x0106, [0x0020000E]),
        ({"PerformedProcedureStepStatus": "FINISHED"}, 0x0106, [0x00400252]),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_what_an_end_needs(
    modality: Modality, database: Database, over: dict[str, Any], status: int, missing: list[int]
):
    ordered = place(database, {"step_id": "S1"})
    uid = begun(modality, database, ordered, "S1")
    answer = modality.set(ending([generate_uid()], **over), uid)
    assert answer.Status == status
    assert tags(answer) == missing
    assert only(database).status == "IN PROGRESS"
    assert modality.set(ending([generate_uid()]), uid).Status == 0  # and then it is done right


def test_what_an_n_set_may_not_change_stays(modality: Modality, database: Database, ordered: int):
    """Modalities send everything once more; that is no reason to lose what they did."""
    uid = begun(modality, database, ordered, "S1")
    again = beginning(scheduled("9.9.9"), PatientID="OTHER", Modality="CT", PerformedProcedureStepStatus="IN PROGRESS")
    assert modality.set(again, uid).Status == 0
    assert (only(database).modality, only(database).study_uids) == ("DX", [study_uid_of(database, ordered)])


def test_a_step_without_a_uid_is_given_one(receiver: Any, database: Database):
    raw = Raw(receiver.port).associate([(MPPS, [EXPLICIT])])
    rq = encode({0x0002: MPPS.encode(), 0x0100: 0x0140, 0x0110: 7, 0x0800: 1})
    data = make_begin()
    raw.sock.sendall(raw.pdv(1, 3, rq) + raw.pdv(1, 2, data))
    kind, body = raw.pdu()
    raw.close()
    assert kind == 4
    assert only(database).sop_uid.encode() in body


def make_begin() -> bytes:
    return encoded(beginning(scheduled("1.2.3")))


def encoded(data: Dataset) -> bytes:
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_dataset

    out = DicomBytesIO()
    out.is_implicit_VR, out.is_little_endian = False, True
    write_dataset(out, data)
    return out.getvalue()


def with_kind(tag: int, vr: str, value: Any) -> bytes:
    """A begin in which one attribute has another VR than the dictionary's."""
    data = beginning(scheduled("1.2.3"))
    data.add_new(tag, vr, value)
    return encoded(data)


@pytest.mark.parametrize(
    "data",
    [
        with_kind(0x00400252, "US", 7),  # the status as a number
        with_kind(0x00400270, "LO", "scheduled"),  # a text in place of a sequence
        with_kind(0x00100010, "SQ", [Dataset()]),
        with_kind(0x00400340, "AT", 0x00080018),
        with_kind(0x00400254, "OB", b"\xff\xfe"),
    ],
)
def test_attributes_of_another_kind_are_refused_by_name(receiver: Any, database: Database, data: bytes):
    raw = Raw(receiver.port).associate([(MPPS, [EXPLICIT])])
    rq = encode({0x0002: MPPS.encode(), 0x0100: 0x0140, 0x0110: 7, 0x0800: 1, 0x1000: b"1.2.3"})
    raw.sock.sendall(raw.pdv(1, 3, rq) + raw.pdv(1, 2, data))
    status, comment = raw.answer()
    assert (status, " has VR " in comment) == (0x0106, True)
    raw.release()
    with database.autocommit() as connection:
        assert performed.page(connection) == []


@pytest.mark.parametrize("data", [b"\xff" * 40, make_begin()[:-3], b"\x08\0\x60\0ZZ\2\0DX"])
def test_garbage_is_refused_and_the_association_lives(receiver: Any, database: Database, data: bytes):
    raw = Raw(receiver.port).associate([(MPPS, [EXPLICIT])])
    rq = encode({0x0002: MPPS.encode(), 0x0100: 0x0140, 0x0110: 7, 0x0800: 1, 0x1000: b"1.2.3"})
    for _ in range(2):
        raw.sock.sendall(raw.pdv(1, 3, rq) + raw.pdv(1, 2, data))
        status, comment = raw.answer()
        assert status == 0x0106
        assert comment
    raw.release()
    with database.autocommit() as connection:
        assert performed.page(connection) == []


@pytest.mark.parametrize(
    ("elements", "status"),
    [
        ({0x0002: b"1.2.840.10008.1.1", 0x1000: b"1.2.3"}, 0x0119),
        ({0x0002: MPPS.encode(), 0x1000: b"1.02"}, 0x0117),
    ],
)
def test_commands_that_contradict_themselves(receiver: Any, elements: dict[int, bytes], status: int):
    raw = Raw(receiver.port).associate([(MPPS, [EXPLICIT])])
    rq = encode({0x0100: 0x0140, 0x0110: 7, 0x0800: 1, **elements})
    raw.sock.sendall(raw.pdv(1, 3, rq) + raw.pdv(1, 2, make_begin()))
    assert raw.answer()[0] == status
    raw.close()


def test_a_study_is_complete_when_all_it_speaks_of_is_here(
    modality: Modality, receiver: Any, database: Database, ordered: int
):
    study = study_uid_of(database, ordered)
    images = [make(study_uid=study, sop_class=DX) for _ in range(2)]
    uid = begun(modality, database, ordered, "S1", "S2")
    with Client(receiver.port) as client:
        assert client.store(images[0].sop_class, images[0].sop_uid, images[0].data) == 0
    modality.set(ending([image.sop_uid for image in images]), uid)
    found = only(database)
    assert (found.referenced, found.arrived, found.complete, found.complete_at) == (2, 1, False, None)
    with database.transaction() as connection:
        assert performed.note_complete(connection) == []
    with Client(receiver.port) as client:
        assert client.store(images[1].sop_class, images[1].sop_uid, images[1].data) == 0
    with database.transaction() as connection:
        assert performed.note_complete(connection) == [uid]
        assert performed.note_complete(connection) == []
        (event,) = [each for each in audit.page(connection, study_uid=study) if each.action == "study.complete"]
        assert [each.sop_uid for each in performed.page(connection, complete=True, study_uid=study)] == [uid]
    assert event.detail == {"performed_step": uid, "status": "COMPLETED", "instances": 2}
    found = only(database)
    assert (found.arrived, found.complete) == (2, True)
    assert found.complete_at is not None


def test_a_study_that_is_here_already_is_complete_at_once(modality: Modality, receiver: Any, database: Database):
    image = make(sop_class=DX)
    with Client(receiver.port) as client:
        assert client.store(image.sop_class, image.sop_uid, image.data) == 0
    uid = generate_uid()
    modality.create(beginning(scheduled(image.study_uid)), uid)
    modality.set(ending([image.sop_uid]), uid)
    assert only(database).complete_at is not None


def test_many_modalities_at_once(receiver: Any, database: Database):
    """Each reports for its own order: nothing waits for ever, nothing is lost."""
    numbers = [place(database, {"step_id": f"S{n}"}) for n in range(6)]
    failed: list[BaseException] = []

    def work(n: int) -> None:
        try:
            with Modality(receiver.port, f"XRAY{n}") as modality:
                uid = generate_uid()
                step = scheduled(study_uid_of(database, numbers[n]), f"S{n}")
                assert modality.create(beginning(step), uid).Status == 0
                assert modality.set(ending([generate_uid()]), uid).Status == 0
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failed == []
    assert {read(database, number).status for number in numbers} == {"COMPLETED"}


def test_a_status_does_not_change_what_the_order_promises(
    modality: Modality, receiver: Any, database: Database, start_receiver: Callable[..., Any]
):
    """The receiver knows no waits; those of the order stay as they are."""
    number = place(database, {"step_id": "S1"}, accession_number="A1", priority="STAT")
    begun(modality, database, number, "S1")
    stored = read(database, number)
    assert stored.urgency == 2
    assert stored.max_wait is not None
    image = make(study_uid=study_uid_of(database, number), sop_class=DX)
    with Client(receiver.port) as client:
        assert client.store(image.sop_class, image.sop_uid, image.data) == 0
    with database.autocommit() as connection:
        found = worklist.item(connection, image.study_uid)
    assert (found.priority, found.due_at - found.arrived_at) == ("stat", stored.max_wait)
