"""ORM^O01, OMI^O23 and ADT as values of an order."""

from __future__ import annotations

import datetime as dt
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from hl7_client import message, order, orm, pid, segment

from pacs.hl7 import fields
from pacs.hl7.message import Failure, Message, header_of, parse
from pacs.hl7.orders import Asked, asked_of, location_of
from pacs.hl7.patients import merges_of, patient_of
from storage.ordered import Order

NOW = dt.datetime(2026, 11, 22, 6, 30)


def read(data: bytes) -> Message:
    header = header_of(data)
    assert header is not None
    return parse(data, header)


def asked(data: bytes) -> list[Asked]:
    return asked_of(read(data), NOW)


def one(data: bytes) -> Asked:
    (found,) = asked(data)
    return found


def refusal(data: bytes) -> Failure:
    with pytest.raises(Failure) as caught:
        asked(data)
    return caught.value


def test_an_order_with_everything():
    found = one(
        orm(
            priority="S",
            study_uid="1.2.3",
            patient=segment(
                "PID",
                {3: "X1^^^CCCD^NI~BN77^^^HIS^PI", 5: "Nguyễn^Văn^An^Jr^BS~阮^文安^^^^^^I", 7: "19610430", 8: "M"},
            ),
            obr4="XR1^Ngực thẳng^L^P1^Chest PA^99X",
            obr13="dị ứng thuốc",
            obr19="RP7",
            obr20="SPS7",
            obr30="WALK",
            obr31="^ho kéo dài",
        )
    )
    assert (found.control, found.placer, found.accession) == ("NW", ("PL1", "HIS"), "A100")
    given_values = found.given
    patient = given_values["patient"]
    assert patient == {
        "id": "BN77",
        "issuer": "HIS",
        "name": "Nguyễn^Văn^An^BS^Jr=阮^文安",
        "birth_date": "1961-04-30",
        "sex": "M",
        "location": "KHOA P3 G2",
        "medical_alerts": "dị ứng thuốc",
    }
    assert given_values["priority"] == "STAT"
    assert given_values["referring_physician"] == "Trần^Thị B"
    assert given_values["requesting_physician"] == "Lê^Văn C"
    assert given_values["admission_id"] == "V123"
    (procedure,) = given_values["procedures"]
    assert procedure == {
        "procedure_id": "RP7",
        "study_uid": "1.2.3",
        "code": {"value": "XR1", "scheme": "L", "meaning": "Ngực thẳng"},
        "description": "Ngực thẳng",
        "reason": "ho kéo dài",
        "transport": "WALK",
        "steps": [
            {
                "step_id": "SPS7",
                "modality": "DX",
                "protocol": [{"value": "P1", "scheme": "99X", "meaning": "Chest PA"}],
                "description": "Chest PA",
                "start": "2026-11-22T10:30:00",
            }
        ],
    }
    Order.model_validate(given_values)


def omi(*ipcs: dict[int, str], control: str = "NW", **what: Any) -> bytes:
    head = order(control, accession="", **what)
    return message("OMI^O23", *head, *(segment("IPC", ipc) for ipc in ipcs))


def test_imaging_procedure_control_gives_steps_their_stations():
    found = one(
        omi(
            {
                1: "A200^RIS",
                2: "RP1",
                3: "1.2.4",
                4: "S1",
                5: "CT",
                6: "C1^Ngực^99",
                7: "CT ROOM",
                8: "TANG2",
                9: "CT1",
            },
            {1: "A200^RIS", 2: "RP1", 3: "1.2.4", 4: "S2", 5: "CT", 9: "CT2"},
            {1: "A200^RIS", 2: "RP2", 3: "1.2.5", 4: "S3", 5: "MR", 9: "MR1"},
        )
    )
    assert found.given["accession_number"] == "A200"
    first, second = found.given["procedures"]
    assert (first["procedure_id"], first["study_uid"]) == ("RP1", "1.2.4")
    assert [(step["step_id"], step["ae_title"], step["modality"]) for step in first["steps"]] == [
        ("S1", "CT1", "CT"),
        ("S2", "CT2", "CT"),
    ]
    assert first["steps"][0]["protocol"] == [{"value": "C1", "scheme": "99", "meaning": "Ngực"}]
    assert (first["steps"][0]["station_name"], first["steps"][0]["location"]) == ("CT ROOM", "TANG2")
    assert [step["modality"] for step in second["steps"]] == ["MR"]


def test_groups_of_one_number_are_one_order_and_others_are_others():
    parts = order(obr20="S1"), order(obr20="S2"), order(placer="PL2", accession="A2")
    data = message("ORM^O01", *parts[0], *parts[1][2:], *parts[2][2:])
    first, second = asked(data)
    assert [step["step_id"] for step in first.given["procedures"][0]["steps"]] == ["S1", "S2"]
    assert second.placer == ("PL2", "HIS")
    assert second.given["patient"] == first.given["patient"]


@pytest.mark.parametrize(
    ("words", "priority"),
    [
        ("S", "STAT"),
        ("A", "HIGH"),
        ("R", "ROUTINE"),
        ("T", "HIGH"),
        ("urgent", "HIGH"),
        ("stat", "STAT"),
        ("P", "MEDIUM"),
    ],
)
def test_priorities(words: str, priority: str):
    assert one(orm(priority=words)).given["priority"] == priority
    assert one(orm(priority="", obr27=f"^^^^^{words}")).given["priority"] == priority
    assert one(orm(priority="", obr5=words)).given["priority"] == priority


def test_a_priority_that_nobody_knows_is_none():
    assert "priority" not in one(orm(priority="Q")).given


@pytest.mark.parametrize(
    ("what", "start"),
    [
        ({"start": "20261122"}, "2026-11-22T00:00:00"),
        ({"start": "202611221030+0700"}, "2026-11-22T10:30:00"),  # the clock of the sender is that of the station
        ({"start": "20261122103059.1234"}, "2026-11-22T10:30:59"),
        ({"start": "", "obr36": "202611230900"}, "2026-11-23T09:00:00"),
        ({"start": "", "obr27": "^^^202611230901"}, "2026-11-23T09:01:00"),
    ],
)
def test_when_it_is_to_begin(what: dict[str, str], start: str):
    assert one(orm(**what)).given["procedures"][0]["steps"][0]["start"] == start


@pytest.mark.parametrize(("sent", "start"), [("20261122070000", "2026-11-22T07:00:00"), ("", "2026-11-22T06:30:00")])
def test_without_a_time_a_new_order_begins_when_it_was_sent(sent: str, start: str):
    found = one(orm(start="", header={"at": sent}))
    assert "start" not in found.given["procedures"][0]["steps"][0]
    assert found.otherwise["start"] == start


def test_accession_numbers_that_are_missing_come_from_the_order_numbers():
    assert one(orm(accession="", placer="PL9")).otherwise["accession_number"] == "PL9"
    assert "accession_number" not in one(orm(accession="", placer="longer than sixteen")).otherwise
    assert "accession_number" not in one(orm(accession="A1")).otherwise


@pytest.mark.parametrize(
    ("section", "modality"), [("dx", "DX"), ("RAD", "DX"), ("RUS", "US"), ("NMR", "MR"), ("CT", "CT"), ("PT", "PT")]
)
def test_modalities(section: str, modality: str):
    assert one(orm(modality=section)).given["procedures"][0]["steps"][0]["modality"] == modality


def test_quotation_marks_delete():
    found = one(orm(patient=pid(birth='""', sex='""'), obr31='""'))
    assert found.given["patient"]["birth_date"] is None
    assert found.given["patient"]["sex"] is None
    assert found.given["procedures"][0]["reason"] is None


@pytest.mark.parametrize("birth", ["1961", "196104", ""])
def test_a_birth_date_that_is_no_day_is_not_made_up(birth: str):
    assert "birth_date" not in one(orm(patient=pid(birth=birth))).given["patient"]


@pytest.mark.parametrize(
    ("data", "number", "location"),
    [
        (message("ORM^O01", pid()), 100, "ORC^1"),
        (message("ORM^O01", pid(), segment("OBR", {4: "X"}), segment("ORC", {1: "NW"})), 100, "OBR^1"),
        (orm(""), 101, "ORC^1^1"),
        (message("ORM^O01", pid(), segment("ORC", {1: "NW"})), 101, "ORC^1^2"),
        (orm(start="2026-11-22"), 102, "TQ1^1^7"),
        (orm(start="20261340"), 102, "TQ1^1^7"),
        (orm(patient=pid(birth="19610431")), 102, "PID^1^7"),
    ],
)
def test_refusals(data: bytes, number: int, location: str):
    found = refusal(data)
    assert (found.code, found.number, found.location) == ("AE", number, location)


@pytest.mark.parametrize(
    ("path", "location"),
    [
        ("patient.name", "PID^1^5"),
        ("patient", "PID^1"),
        ("procedures.0.steps.0.modality", "OBR^1^24"),
        ("procedures.0.study_uid", "ZDS^1^1"),
        ("procedures.0.steps.1.location", "IPC^1^8"),
        ("accession_number", "OBR^1^18"),
        ("something", ""),
    ],
)
def test_where_a_part_of_an_order_comes_from(path: str, location: str):
    assert location_of(path) == location


def test_what_else_is_said_of_a_person():
    found = patient_of(
        read(
            message(
                "ADT^A08",
                pid(),
                segment("PV1", {3: "KHOA", 15: "A0~B6"}),
                segment("AL1", {3: "^Penicillin"}),
                segment("AL1", {3: "LATEX"}),
                segment("OBX", {3: "29463-7^Body weight^LN", 5: "61.5", 6: "kg"}),
                segment("OBX", {3: "X^Body Height", 5: "162", 6: "cm"}),
                segment("OBX", {3: "3141-9", 5: "heavy", 6: "kg"}),
            )
        )
    )
    assert found["pregnancy_status"] == 3
    assert found["allergies"] == "Penicillin, LATEX"
    assert (found["weight_kg"], found["size_m"]) == (61.5, 1.62)


def test_merges():
    data = message("ADT^A40", pid("NEW1"), segment("MRG", {1: "OLD1^^^HIS"}), pid("NEW2"), segment("MRG", {1: "OLD2"}))
    assert [(person["id"], prior) for person, prior in merges_of(read(data))] == [
        ("NEW1", ("OLD1", "HIS")),
        ("NEW2", ("OLD2", "")),
    ]


@pytest.mark.parametrize(
    ("segments", "number"),
    [((pid(),), 100), ((pid(), segment("MRG", {2: "x"})), 101), ((segment("MRG", {1: "OLD"}),), 101)],
)
def test_half_a_merge_is_refused(segments: tuple[str, ...], number: int):
    with pytest.raises(Failure) as caught:
        merges_of(read(message("ADT^A40", *segments)))
    assert caught.value.number == number


def test_names_hold_no_separators_of_dicom():
    found = read(message("ADT^A08", segment("PID", {3: "1", 5: r"Lê\S\Văn=x^An\E\b"})))
    assert fields.name(next(found.all("PID")), 5) == "Lê Văn x^An b"


_TEXTS = st.text(alphabet='NWXOCA0123456789^~&|"\\é.', max_size=12)


@given(st.lists(st.tuples(st.sampled_from(["ORC", "OBR", "IPC", "TQ1", "ZDS", "PID", "PV1", "OBX", "NTE", "MRG"]),
                          st.lists(_TEXTS, max_size=30)), max_size=8))  # fmt: skip
def test_any_segments_are_read_or_refused(segments: list[tuple[str, list[str]]]):
    data = message("ORM^O01", *("|".join((name, *values)) for name, values in segments))
    for work in (asked, lambda raw: merges_of(read(raw)), lambda raw: patient_of(read(raw))):
        try:
            found = work(data)
        except Failure as failure:
            found = str(failure)
        assert found is not None
