"""C-FIND, asked by pynetdicom, by DCMTK's findscu and by a client that misbehaves (PS3.4 C.4.1)."""

from __future__ import annotations

import datetime as dt
import re
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydicom import Dataset
from pynetdicom import AE
from pynetdicom.pdu_primitives import SOPClassExtendedNegotiation
from raw_dicom import Raw

from pacs.dimse.command import encode
from pacs.identifiers import CHARACTER_SET, Element, read, write
from storage.database import Database
from storage.received import RequestAttributes
from storage.studies import Indexer

PATIENT_ROOT, STUDY_ROOT = "1.2.840.10008.5.1.4.1.2.1.1", "1.2.840.10008.5.1.4.1.2.2.1"
IMPLICIT, EXPLICIT, BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
STUDIES: list[dict[str, Any]] = [
    {"study_uid": "1.1", "patient_id": "A", "patient_name": "Nguyễn^Văn An", "study_date": dt.date(2026, 1, 1)},
    {"study_uid": "1.2", "patient_id": "A", "patient_name": "NGUYEN^VAN AN", "study_date": dt.date(2026, 1, 3)},
    {"study_uid": "1.3", "patient_id": "B", "patient_name": "Müller^Jörg", "study_date": dt.date(2026, 1, 2)},
]


@pytest.fixture
def filled(database: Database, make_received: Callable[..., Any]) -> Database:
    """Three studies; the first has two series, with two instances and one."""
    indexer = Indexer(database)
    for study in STUDIES:
        common = {
            **study,
            "study_time": "101530",
            "accession_number": "ACC" + study["study_uid"],
            "timezone_offset": "+0700",
        }
        for series, modality, count in (
            (("1", "CT", 2), ("2", "SR", 1)) if study["study_uid"] == "1.1" else (("1", "DX", 1),)
        ):
            uid = f"{study['study_uid']}.{series}"
            for number in range(1, count + 1):
                received = make_received(
                    **common,
                    series_uid=uid,
                    sop_uid=f"{uid}.{number}",
                    modality=modality,
                    series_number=int(series),
                    instance_number=number,
                    request_attributes=(RequestAttributes(f"SPS{uid}", "RP1", ""),),
                )
                indexer.index([received])
    return database


@pytest.fixture
def ask(filled: Database, receiver: Any) -> Iterator[Callable[..., list[tuple[int, Dataset | None]]]]:
    """Send a query of keys by keyword; statuses with identifiers."""
    opened = []

    def find(
        level: str,
        *,
        root: str = STUDY_ROOT,
        syntax: str = EXPLICIT,
        options: bytes = b"",
        charset: str = "ISO_IR 192",
        **keys: Any,
    ) -> list[tuple[int, Dataset | None]]:
        ae = AE("FINDER")
        ae.add_requested_context(root, syntax)
        item = SOPClassExtendedNegotiation()
        item.sop_class_uid, item.service_class_application_information = root, options
        association = ae.associate("127.0.0.1", receiver.port, ae_title="SANGLOC", ext_neg=[item] if options else None)
        assert association.is_established
        opened.append(association)
        query = Dataset()
        query.SpecificCharacterSet = charset
        query.QueryRetrieveLevel = level
        for keyword, value in keys.items():
            setattr(query, keyword, value)
        return [(status.Status, data) for status, data in association.send_c_find(query, root)]

    yield find
    for association in opened:
        association.release()


def uids(answers: list[tuple[int, Dataset | None]], keyword: str = "StudyInstanceUID") -> list[str]:
    """The unique keys of the matches, after checking that a success ends them."""
    *pending, (last, nothing) = answers
    assert (last, nothing) == (0, None)
    return [getattr(data, keyword) for _, data in pending]


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG])
def test_studies_with_all_that_is_asked_for(ask: Any, syntax: str):
    (first, data), *_ = ask(
        "STUDY", syntax=syntax, StudyInstanceUID="1.1", PatientName="", ModalitiesInStudy="", SOPClassesInStudy="",
        StudyDate="", NumberOfStudyRelatedSeries=None, NumberOfStudyRelatedInstances=None, RetrieveAETitle="",
        InstanceAvailability="",
    )  # fmt: skip
    assert first == 0xFF00
    assert data.PatientName == "Nguyễn^Văn An"
    assert data.ModalitiesInStudy == ["CT", "SR"]
    assert (data.NumberOfStudyRelatedSeries, data.NumberOfStudyRelatedInstances) == (2, 3)
    assert (data.RetrieveAETitle, data.InstanceAvailability, data.QueryRetrieveLevel) == ("SANGLOC", "ONLINE", "STUDY")
    assert data.SOPClassesInStudy == "1.2.840.10008.5.1.4.1.1.1.1"
    assert data.StudyDate == "20260101"
    assert len(data) == 11


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        ({}, ["1.2", "1.3", "1.1"]),
        ({"PatientName": "nguyen*"}, ["1.2", "1.1"]),
        ({"PatientName": "NGUYỄN^VĂN AN"}, ["1.2", "1.1"]),
        ({"PatientName": "mull?r^*"}, ["1.3"]),
        ({"PatientName": "an nguyen"}, []),
        ({"StudyDate": "20260102-"}, ["1.2", "1.3"]),
        ({"StudyTime": "1000-1100", "StudyDate": "-20260102"}, ["1.3", "1.1"]),
        ({"StudyInstanceUID": ["1.1", "1.3", "9"]}, ["1.3", "1.1"]),
        ({"ModalitiesInStudy": "SR"}, ["1.1"]),
        ({"AccessionNumber": "ACC1.?", "PatientID": "A"}, ["1.2", "1.1"]),
    ],
)
def test_matching(ask: Any, keys: dict[str, Any], found: list[str]):
    assert uids(ask("STUDY", **keys)) == found


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG])
def test_a_series_by_its_scheduled_step(ask: Any, syntax: str):
    key = Dataset()
    key.ScheduledProcedureStepID, key.RequestedProcedureID = "SPS1.1.2", ""
    answers = ask("SERIES", syntax=syntax, StudyInstanceUID="1.1", RequestAttributesSequence=[key])
    assert uids(answers, "SeriesInstanceUID") == ["1.1.2"]
    data = answers[0][1]
    assert data is not None
    (item,) = data.RequestAttributesSequence
    assert (item.ScheduledProcedureStepID, item.RequestedProcedureID) == ("SPS1.1.2", "RP1")
    key.RequestedProcedureID = "RP2"
    assert uids(ask("SERIES", syntax=syntax, StudyInstanceUID="1.1", RequestAttributesSequence=[key])) == []


def test_fuzzy_names_where_negotiated(ask: Any):
    assert uids(ask("STUDY", PatientName="an nguyễn", options=b"\0\0\1")) == ["1.2", "1.1"]


def test_patient_root_goes_down_to_instances(ask: Any):
    answers = ask("PATIENT", root=PATIENT_ROOT, PatientID="", PatientName="nguyen*", NumberOfPatientRelatedStudies=None,
                  NumberOfPatientRelatedSeries=None, NumberOfPatientRelatedInstances=None)  # fmt: skip
    assert uids(answers, "PatientID") == ["A"]
    data = answers[0][1]
    assert data is not None
    counts = (
        data.NumberOfPatientRelatedStudies,
        data.NumberOfPatientRelatedSeries,
        data.NumberOfPatientRelatedInstances,
    )
    assert counts == (2, 3, 4)
    assert uids(ask("STUDY", root=PATIENT_ROOT, PatientID="A")) == ["1.2", "1.1"]
    series = ask(
        "SERIES", root=PATIENT_ROOT, PatientID="A", StudyInstanceUID="1.1", NumberOfSeriesRelatedInstances=None
    )
    assert uids(series, "SeriesInstanceUID") == ["1.1.1", "1.1.2"]
    assert series[0][1] is not None
    assert series[0][1].NumberOfSeriesRelatedInstances == 2
    images = ask(
        "IMAGE", root=PATIENT_ROOT, PatientID="A", StudyInstanceUID="1.1", SeriesInstanceUID="1.1.1", InstanceNumber="2"
    )
    assert uids(images, "SOPInstanceUID") == ["1.1.1.2"]


@pytest.mark.parametrize(
    ("level", "root", "keys", "status", "comment"),
    [
        ("SERIES", STUDY_ROOT, {}, 0xA900, "StudyInstanceUID"),
        ("IMAGE", STUDY_ROOT, {"StudyInstanceUID": "1.1"}, 0xA900, "SeriesInstanceUID"),
        ("STUDY", PATIENT_ROOT, {}, 0xA900, "PatientID"),
        ("PATIENT", STUDY_ROOT, {}, 0xA900, "Level"),
        ("", STUDY_ROOT, {}, 0xA900, "Level"),
        ("FRAME", STUDY_ROOT, {}, 0xA900, "Level"),
        ("STUDY", STUDY_ROOT, {"StudyDate": "2026"}, 0xC000, "StudyDate"),
        ("STUDY", STUDY_ROOT, {"TimezoneOffsetFromUTC": "seven"}, 0xC000, "TimezoneOffsetFromUTC"),
    ],
)
def test_a_query_that_does_not_fit_is_refused(  # noqa: PLR0917
    filled: Database, receiver: Any, level: str, root: str, keys: dict[str, Any], status: int, comment: str
):
    raw = Raw(receiver.port).associate([(root, [IMPLICIT])])
    query = {0x00080052: Element("CS", (level,) if level else ())}
    tags = {"StudyInstanceUID": 0x0020000D, "StudyDate": 0x00080020, "TimezoneOffsetFromUTC": 0x00080201}
    query |= {tags[keyword]: Element("LO", (value,)) for keyword, value in keys.items()}
    found, said = send_find(raw, root, write(query, IMPLICIT))
    raw.release()
    assert (found, comment in said) == (status, True), said


def test_relational_queries_where_negotiated(ask: Any):
    found = ask("SERIES", options=b"\1", Modality="CT", PatientID="A", PatientName="")
    assert uids(found, "SeriesInstanceUID") == ["1.1.1"]
    assert found[0][1] is not None
    assert found[0][1].PatientName == "Nguyễn^Văn An"
    assert uids(ask("STUDY", options=b"\1", Modality="SR")) == ["1.1"]


def test_a_key_that_is_not_supported_is_told(ask: Any):
    answers = ask("STUDY", StudyInstanceUID="1.1", StudyComments="")
    assert [status for status, _ in answers] == [0xFF01, 0]
    assert "StudyComments" not in answers[0][1]


@pytest.mark.parametrize(
    ("charset", "name", "answered"),
    [
        ("ISO_IR 100", "M\xfcller*", "ISO_IR 100"),
        ("ISO_IR 192", "Müller*", "ISO_IR 192"),
        ("ISO_IR 100", "Nguyen*", "ISO_IR 192"),
    ],
)
def test_character_sets(ask: Any, charset: str, name: str, answered: str):
    answers = ask("STUDY", charset=charset, PatientName=name)
    last = answers[-2][1]
    assert last is not None
    assert last.SpecificCharacterSet == answered
    assert last.PatientName in ("Müller^Jörg", "Nguyễn^Văn An")


def test_dates_in_the_time_zone_of_the_query(ask: Any):
    """10:15:30 of January 1 in Hanoi is 22:15:30 of December 31 in New York."""
    answers = ask("STUDY", TimezoneOffsetFromUTC="-0500", StudyDate="20251231", StudyTime="2215")
    assert uids(answers) == ["1.1"]
    data = answers[0][1]
    assert data is not None
    assert (data.StudyDate, data.StudyTime, data.TimezoneOffsetFromUTC) == ("20251231", "221530", "-0500")


# ---- big results, cancelled and half-read answers


@pytest.fixture
def many(filled: Database) -> Database:
    """20,000 studies more."""
    columns = (
        "patient_fk, patient_id, patient_name, patient_name_key, patient_sex, patient_age, study_date, study_time,"
        " accession_number, study_id, description, referring_physician, institution_name, timezone_offset, site,"
        " requested_priority, modalities"
    )
    with filled.transaction() as connection:
        connection.execute(
            f"INSERT INTO studies (study_uid, {columns})"
            f" SELECT '2.' || n, 1, 'M', 'Many', 'many', '', '', '2020-01-01',"
            " '', '', '', repeat('x', 60), '', '', '', '', 'routine', '{}' FROM generate_series(1, 20000) AS n"
        )
    return filled


def find_rq(root: str, message: int = 7) -> bytes:
    return encode({0x0002: root.encode(), 0x0100: 0x0020, 0x0110: message, 0x0700: 0, 0x0800: 1})


def send_find(raw: Raw, root: str, identifier: bytes) -> tuple[int, str]:
    """Status and comment of the first response."""
    raw.sock.sendall(raw.pdv(1, 3, find_rq(root)) + raw.pdv(1, 2, identifier))
    return raw.answer()


def studies_query(uid: str = "") -> bytes:
    """All studies, or one."""
    keys = {0x00080052: Element("CS", ("STUDY",)), 0x00100010: Element("PN"), 0x00081030: Element("LO")}
    return write({**keys, 0x0020000D: Element("UI", (uid,) if uid else ())}, IMPLICIT)


def statuses(raw: Raw, most: int = 100_000) -> list[int]:
    """The statuses of responses, to the one that is not pending."""
    found: list[int] = []
    while len(found) < most:
        kind, body = raw.pdu()
        assert kind == 4, f"PDU {kind}"
        if body[5] & 1:
            at = body.index(b"\0\0\0\x09\x02\0\0\0")
            found.append(struct.unpack_from("<H", body, at + 8)[0])
            if found[-1] not in (0xFF00, 0xFF01):
                break
    return found


def test_a_result_that_is_too_large_is_cut_with_a_warning(many: Database, start_receiver: Any):
    running = start_receiver(find_max_results=500)
    raw = Raw(running.port).associate([(STUDY_ROOT, [IMPLICIT])])
    raw.sock.sendall(raw.pdv(1, 3, find_rq(STUDY_ROOT)) + raw.pdv(1, 2, studies_query()))
    found = statuses(raw)
    assert found == [0xFF00] * 500 + [0xB001]
    raw.release()


def test_a_cancel_ends_the_answers(many: Database, start_receiver: Any):
    running = start_receiver(find_max_results=100_000)
    raw = Raw(running.port, timeout_s=30).associate([(STUDY_ROOT, [IMPLICIT])])
    raw.sock.sendall(raw.pdv(1, 3, find_rq(STUDY_ROOT)) + raw.pdv(1, 2, studies_query()))
    assert statuses(raw, 10) == [0xFF00] * 10
    raw.sock.sendall(raw.pdv(1, 3, encode({0x0100: 0x0FFF, 0x0120: 7, 0x0800: 0x0101})))
    found = statuses(raw)
    assert found[-1] == 0xFE00
    assert len(found) < 20_000
    raw.sock.sendall(raw.pdv(1, 3, find_rq(STUDY_ROOT)) + raw.pdv(1, 2, studies_query("1.1")))
    assert statuses(raw) == [0xFF00, 0]
    raw.release()


def test_pynetdicom_cancels(many: Database, start_receiver: Any):
    running = start_receiver(find_max_results=100_000)
    ae = AE()
    ae.add_requested_context(STUDY_ROOT)
    association = ae.associate("127.0.0.1", running.port, ae_title="SANGLOC")
    query = Dataset()
    query.QueryRetrieveLevel, query.StudyDescription, query.PatientName = "STUDY", "", ""
    found = []
    for status, _ in association.send_c_find(query, STUDY_ROOT, msg_id=9):
        found.append(status.Status)
        if len(found) == 3:
            association.send_c_cancel(9, None, STUDY_ROOT)
    association.release()
    assert found[-1] == 0xFE00
    assert len(found) < 20_000


def test_a_peer_that_reads_half_and_goes_away_ends_its_query(many: Database, start_receiver: Any, eventually: Any):
    running = start_receiver(find_max_results=100_000)
    raw = Raw(running.port).associate([(STUDY_ROOT, [IMPLICIT])])
    raw.sock.sendall(raw.pdv(1, 3, find_rq(STUDY_ROOT)) + raw.pdv(1, 2, studies_query()))
    assert statuses(raw, 10) == [0xFF00] * 10
    raw.close()
    eventually(lambda: not running.receiver._running())


def test_a_peer_that_reads_nothing_holds_no_connection_of_the_database(many: Database, start_receiver: Any, ask: Any):
    running = start_receiver(find_max_results=100_000, find_connections=1)
    stalled = [Raw(running.port).associate([(STUDY_ROOT, [IMPLICIT])]) for _ in range(4)]
    for raw in stalled:
        raw.sock.sendall(raw.pdv(1, 3, find_rq(STUDY_ROOT)) + raw.pdv(1, 2, studies_query()))
        assert statuses(raw, 1) == [0xFF00]
    raw = Raw(running.port).associate([(STUDY_ROOT, [IMPLICIT])])
    began = time.monotonic()
    raw.sock.sendall(raw.pdv(1, 3, find_rq(STUDY_ROOT)) + raw.pdv(1, 2, studies_query("1.1")))
    assert statuses(raw) == [0xFF00, 0]
    assert time.monotonic() - began < 5
    for each in (*stalled, raw):
        each.close()


def test_a_query_that_takes_too_long_is_ended(many: Database, start_receiver: Any):
    running = start_receiver(find_timeout_s=0.001)
    raw = Raw(running.port).associate([(STUDY_ROOT, [IMPLICIT])])
    raw.sock.sendall(raw.pdv(1, 3, find_rq(STUDY_ROOT)) + raw.pdv(1, 2, studies_query()))
    assert statuses(raw) == [0xA700]
    raw.release()


# ---- malformed requests


@pytest.mark.parametrize(
    ("identifier", "status"),
    [
        (b"\x08\0\x52\0\xff", 0xC000),
        (b"garbage!" * 4, 0xC000),
        (b"", 0xA900),
        (b"\x08\0\x52\0\x20\0\0\0STUDY ", 0xC000),
    ],
    ids=["cut", "garbage", "empty", "too long"],
)
def test_a_malformed_identifier_is_answered(filled: Database, receiver: Any, identifier: bytes, status: int):
    raw = Raw(receiver.port).associate([(STUDY_ROOT, [IMPLICIT])])
    assert send_find(raw, STUDY_ROOT, identifier)[0] == status
    assert send_find(raw, STUDY_ROOT, studies_query())[0] == 0xFF00
    raw.close()


@pytest.mark.parametrize("sop_class", [STUDY_ROOT, "1.2.840.10008.5.1.4.31"])
@pytest.mark.parametrize("tag", [0x00400100, 0x0020000D, 0x00100010])
def test_a_key_with_a_vr_of_another_kind_is_answered(filled: Database, receiver: Any, sop_class: str, tag: int):
    raw = Raw(receiver.port).associate([(sop_class, ["1.2.840.10008.1.2.1"])])
    keys = {0x00080052: Element("CS", ("SERIES",)), tag: Element("US", (5,))}
    status, comment = send_find(raw, sop_class, write(keys, "1.2.840.10008.1.2.1"))
    assert (status, "has VR US" in comment) == (0xC000, True)
    raw.release()


def test_a_giant_identifier_is_refused_and_the_association_lives(filled: Database, receiver: Any):
    raw = Raw(receiver.port).associate([(STUDY_ROOT, [IMPLICIT])])
    raw.sock.sendall(raw.pdv(1, 3, find_rq(STUDY_ROOT)))
    piece = b"\0" * 65_536
    for n in range(32):
        raw.sock.sendall(raw.pdv(1, 2 if n == 31 else 0, piece))
    assert raw.answer()[0] == 0xC000
    assert send_find(raw, STUDY_ROOT, studies_query())[0] == 0xFF00
    raw.close()


def test_requests_without_identifier_or_of_another_class_are_refused(filled: Database, receiver: Any):
    raw = Raw(receiver.port).associate([(STUDY_ROOT, [IMPLICIT])])
    raw.sock.sendall(raw.pdv(1, 3, encode({0x0002: STUDY_ROOT.encode(), 0x0100: 0x0020, 0x0110: 7, 0x0800: 0x0101})))
    assert raw.answer()[0] == 0xC001
    assert send_find(raw, PATIENT_ROOT, studies_query())[0] == 0x0122
    raw.release()


def test_extended_negotiation_is_answered_with_what_is_served(filled: Database, receiver: Any):
    uid = STUDY_ROOT.encode()
    user = struct.pack(">BxHH", 0x56, 2 + len(uid) + 7, len(uid)) + uid + b"\1\1\1\1\1\1\1"
    raw = Raw(receiver.port).associate([(STUDY_ROOT, [IMPLICIT])], user=user)
    assert struct.pack(">H", len(uid)) + uid + b"\1\1\1\1\0\1\1" in raw.accept
    raw.release()


# ---- DCMTK


def test_findscu(filled: Database, receiver: Any, dcmtk: Any):
    done = dcmtk("findscu", "-S", "-aec", "SANGLOC", "-k", "QueryRetrieveLevel=STUDY", "-k", "PatientName=NGUYEN*",
                 "-k", "StudyInstanceUID", "-k", "ModalitiesInStudy", "-k", "NumberOfStudyRelatedInstances", "-v",
                 "127.0.0.1", receiver.port)  # fmt: skip
    text = done.stdout + done.stderr
    assert done.returncode == 0, text
    assert re.findall(r"UI \[(1\.\d)[\s\0]*\]", text) == ["1.2", "1.1"]
    assert "CS [CT\\SR" in text
    assert "IS [3" in text


def test_findscu_that_cancels(many: Database, start_receiver: Any, dcmtk: Any):
    running = start_receiver(find_max_results=100_000)
    done = dcmtk("findscu", "-S", "-aec", "SANGLOC", "--cancel", "3", "-k", "QueryRetrieveLevel=STUDY", "-k",
                 "StudyDescription", "-k", "StudyInstanceUID", "127.0.0.1", running.port, "-v")  # fmt: skip
    text = done.stdout + done.stderr
    assert "Cancel" in text
    assert text.count("Find Response") < 20_000


def test_the_answers_are_valid_identifiers(filled: Database, receiver: Any):
    """Strictly read: tags in order, each value of even length, nothing but what was asked for."""
    raw = Raw(receiver.port).associate([(STUDY_ROOT, [EXPLICIT])])
    keys = {
        0x00080052: Element("CS", ("STUDY",)),
        0x00080020: Element("DA"),
        0x00100010: Element("PN"),
        0x00201208: Element("IS"),
    }
    raw.sock.sendall(raw.pdv(1, 3, find_rq(STUDY_ROOT)) + raw.pdv(1, 2, write(keys, EXPLICIT)))
    seen = []
    while True:
        _, body = raw.pdu()
        if body[5] == 3 and b"\0\0\0\x09\x02\0\0\0\0\0" in body:
            break
        if not body[5] & 1:
            seen.append(read(body[6:], EXPLICIT))
    tags = [0x00080020, 0x00080052, 0x00100010, 0x0020000D, 0x00201208]
    assert [[tag for tag in one if tag != CHARACTER_SET] for one in seen] == [tags] * 3
    assert [CHARACTER_SET in one for one in seen] == [False, True, True]  # only where text is not ASCII
    raw.release()
