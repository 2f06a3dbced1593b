"""The modality worklist, asked by DCMTK's findscu -W and by pynetdicom (PS3.4 K)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.sop_class import ModalityWorklistInformationFind

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from dicom_client import EXPLICIT, IMPLICIT
from ordering import DESK, ME, place, study_uid_of

from pacs import modalityworklist
from storage.database import Database

Dcmtk = Callable[..., subprocess.CompletedProcess[str]]
Ask = Callable[..., list[Dataset]]
STEP = "(0040,0100)[0]."

# Every attribute that PS3.4 table K.6-1 wants returned: of type 1 and of type 2.
TYPE_1 = ("StudyInstanceUID", "RequestedProcedureID", "PatientName", "PatientID", "RequestedProcedureDescription")
TYPE_2 = (
    "AccessionNumber", "ReferencedStudySequence", "ReferencedPatientSequence", "RequestingPhysician",
    "ReferringPhysicianName", "AdmissionID", "CurrentPatientLocation", "PatientBirthDate", "PatientSex",
    "PatientWeight", "ConfidentialityConstraintOnPatientDataDescription", "PatientState", "PregnancyStatus",
    "MedicalAlerts", "Allergies", "SpecialNeeds", "RequestedProcedurePriority", "PatientTransportArrangements",
)  # fmt: skip
STEP_TYPE_1 = (
    "ScheduledStationAETitle", "ScheduledProcedureStepStartDate", "ScheduledProcedureStepStartTime", "Modality",
    "ScheduledProcedureStepDescription", "ScheduledProcedureStepID",
)  # fmt: skip
STEP_TYPE_2 = (
    "ScheduledPerformingPhysicianName", "ScheduledStationName", "ScheduledProcedureStepLocation", "PreMedication",
    "RequestedContrastAgent", "ScheduledProtocolCodeSequence", "ScheduledProcedureStepStatus",
)  # fmt: skip


_FULL_STEP = {
    "step_id": "S1", "modality": "CT", "ae_title": "CT1", "station_name": "CT ROOM", "location": "TANG 2",
    "protocol": [{"value": "P1", "scheme": "99X", "meaning": "Ngực"}], "contrast_agent": "Iod",
    "premedication": "không",
}  # fmt: skip
_FULL_ORDER: dict[str, Any] = {
    "accession_number": "A1", "accession_issuer": "RIS", "admission_id": "V1", "priority": "STAT",
    "placer_number": "PL1",
    "referring_physician": "Trần^B", "requesting_physician": "Lê^C", "requesting_service": "KHOA NỘI",
    "comments": "một\nhai",
    "patient": {
        "id": "BN1", "issuer": "HIS", "name": "Nguyễn^An", "birth_date": "1961-04-30", "sex": "F", "weight_kg": 61.5,
        "size_m": 1.62, "medical_alerts": "x", "allergies": "y", "pregnancy_status": 3, "location": "G2",
    },
}  # fmt: skip


@pytest.fixture
def ask(receiver: Any) -> Ask:
    """Asks as a modality does; the identifiers of the pending answers."""

    def asks(identifier: Dataset | None = None, step: dict[str, Any] | None = None, **keys: Any) -> list[Dataset]:
        return query(receiver.port, identifier, step, **keys)[0]

    return asks


def query(
    port: int,
    identifier: Dataset | None = None,
    step: dict[str, Any] | None = None,
    *,
    caller: str = "XRAY1",
    **keys: Any,
) -> tuple[list[Dataset], list[int]]:
    """Identifiers and statuses of all answers; keys by keyword, those of the step in `step`."""
    asked = identifier or Dataset()
    for name, value in keys.items():
        setattr(asked, name, value)
    if step is not None:
        item = Dataset()
        for name, value in step.items():
            setattr(item, name, value)
        asked.ScheduledProcedureStepSequence = [item]
    ae = AE(caller)
    ae.add_requested_context(ModalityWorklistInformationFind)
    association = ae.associate("127.0.0.1", port, ae_title="SANGLOC")
    assert association.is_established
    answers = list(association.send_c_find(asked, ModalityWorklistInformationFind))
    association.release()
    return [found for _, found in answers if found is not None], [status.Status for status, _ in answers]


def steps_of(found: list[Dataset]) -> list[str]:
    return [one.ScheduledProcedureStepSequence[0].ScheduledProcedureStepID for one in found]


@pytest.fixture
def plan(database: Database) -> dict[str, int]:
    """A day's plan: orders by the ID of their step."""
    steps = {
        "CT-8": {"modality": "CT", "ae_title": "CT1", "start": "2026-11-22T08:00:00"},
        "CT-10": {"modality": "CT", "ae_title": "CT1", "start": "2026-11-22T10:30:00"},
        "CT-23": {"modality": "CT", "ae_title": "CT2", "start": "2026-11-23T08:00:00"},
        "DX-8": {"modality": "DX", "start": "2026-11-22T08:00:00", "performing_physician": "Lê^Văn C"},
    }
    people = {"CT-8": ("BN1", "Nguyễn^Văn An"), "CT-10": ("BN2", "Đặng^Thị Bình"), "CT-23": ("BN3", "Müller^Jörg")}
    found = {}
    for n, (step_id, step) in enumerate(steps.items()):
        patient, name = people.get(step_id, ("BN4", "Trần^An=陳^安"))
        found[step_id] = place(
            database, {"step_id": step_id, **step}, accession_number=f"A{n}", patient={"id": patient, "name": name}
        )
    return found


@pytest.mark.parametrize(
    ("step", "keys", "found"),
    [
        ({}, {}, ["CT-8", "DX-8", "CT-10", "CT-23"]),  # by start
        ({"Modality": "CT"}, {}, ["CT-8", "CT-10", "CT-23"]),
        ({"ScheduledStationAETitle": "CT1"}, {}, ["CT-8", "DX-8", "CT-10"]),  # DX-8 is for any station
        ({"ScheduledStationAETitle": "CT1", "Modality": "CT"}, {}, ["CT-8", "CT-10"]),
        ({"ScheduledStationAETitle": "CT*", "Modality": "CT"}, {}, ["CT-8", "CT-10", "CT-23"]),
        ({"ScheduledProcedureStepStartDate": "20261122"}, {}, ["CT-8", "DX-8", "CT-10"]),
        ({"ScheduledProcedureStepStartDate": "20261123-"}, {}, ["CT-23"]),
        (
            {"ScheduledProcedureStepStartDate": "20261122-20261123", "ScheduledProcedureStepStartTime": "0900-0830"},
            {},
            ["CT-10", "CT-23"],  # from 9:00 of the first day to 8:30 of the second
        ),
        ({"ScheduledPerformingPhysicianName": "le*"}, {}, ["DX-8"]),
        ({"ScheduledProcedureStepID": "CT-?"}, {}, ["CT-8"]),
        ({}, {"PatientName": "nguyen*"}, ["CT-8"]),
        ({}, {"PatientName": "DANG^THI BINH"}, ["CT-10"]),
        ({}, {"PatientName": "*an*"}, ["CT-8", "DX-8", "CT-10"]),
        ({}, {"PatientName": "陳*", "SpecificCharacterSet": "ISO_IR 192"}, ["DX-8"]),
        ({}, {"PatientID": "BN2"}, ["CT-10"]),
        ({}, {"PatientID": "BN?"}, ["CT-8", "DX-8", "CT-10", "CT-23"]),
        ({}, {"AccessionNumber": "A2"}, ["CT-23"]),
        ({"Modality": "CT"}, {"AccessionNumber": "A3"}, []),
        ({}, {"RequestedProcedurePriority": "STAT"}, []),
    ],
)
def test_matching(plan: dict[str, int], ask: Ask, step: dict[str, str], keys: dict[str, str], found: list[str]):
    answers = ask(step={"ScheduledProcedureStepID": "", **step}, **keys)
    assert steps_of(answers) == found


def test_the_unique_identifiers_of_an_order(plan: dict[str, int], ask: Ask, database: Database):
    uids = [study_uid_of(database, plan[step]) for step in ("CT-8", "CT-23")]
    assert steps_of(ask(step={"ScheduledProcedureStepID": ""}, StudyInstanceUID=uids)) == ["CT-8", "CT-23"]
    procedure = f"P{plan['CT-10']}-1"
    assert steps_of(ask(step={"ScheduledProcedureStepID": ""}, RequestedProcedureID=procedure)) == ["CT-10"]


def test_all_attributes_of_the_standard_come_back(database: Database, ask: Ask):
    place(database, _FULL_STEP, **_FULL_ORDER)
    others = ("RequestedProcedureCodeSequence", "PatientSize", "IssuerOfPatientID", "IssuerOfAccessionNumberSequence",
              "ImagingServiceRequestComments")  # fmt: skip
    keys: dict[str, Any] = dict.fromkeys((*TYPE_1, *TYPE_2, *others))
    (found,) = ask(step=dict.fromkeys((*STEP_TYPE_1, *STEP_TYPE_2)), **keys)
    (step,) = found.ScheduledProcedureStepSequence
    for name in TYPE_1:
        assert found.get(name), name
    for name in STEP_TYPE_1:
        assert step.get(name), name
    assert all(name in found for name in TYPE_2)
    assert all(name in step for name in STEP_TYPE_2)
    assert (found.PatientWeight, found.PatientSize, found.PregnancyStatus) == (61.5, 1.62, 3)
    assert found.RequestedProcedurePriority == "STAT"
    assert found.IssuerOfAccessionNumberSequence[0].LocalNamespaceEntityID == "RIS"
    assert found.ImagingServiceRequestComments == "một\r\nhai"
    assert step.ScheduledProtocolCodeSequence[0].CodeMeaning == "Ngực"
    assert (step.ScheduledProcedureStepStartDate, step.ScheduledProcedureStepStartTime) == ("20261122", "080000")
    assert str(found.PatientName) == "Nguyễn^An"


def test_only_what_was_asked_for_comes_back(plan: dict[str, int], ask: Ask):
    (found,) = ask(PatientID="BN1")
    assert [element.keyword for element in found] == ["PatientID"]
    (found,) = ask(PatientID="BN1", step={"Modality": ""})
    assert [element.keyword for element in found.ScheduledProcedureStepSequence[0]] == ["Modality"]
    whole = Dataset()
    whole.ScheduledProcedureStepSequence = []
    (found,) = ask(whole, PatientID="BN1")
    assert {*STEP_TYPE_1, *STEP_TYPE_2} <= {element.keyword for element in found.ScheduledProcedureStepSequence[0]}


def test_a_key_that_nobody_supports_is_said(receiver: Any, plan: dict[str, int]):
    _, statuses = query(receiver.port, PatientID="BN1", PatientReligiousPreference="")
    assert statuses == [0xFF01, 0x0000]
    _, statuses = query(receiver.port, PatientID="BN1")
    assert statuses == [0xFF00, 0x0000]


@pytest.mark.parametrize(
    ("asked", "patient", "answered"),
    [
        (None, "BN1", "ISO_IR 192"),  # no set was asked for, and ASCII has no such letters
        ("ISO_IR 192", "BN1", "ISO_IR 192"),
        ("ISO_IR 100", "BN3", "ISO_IR 100"),
        ("ISO_IR 100", "BN1", "ISO_IR 192"),
    ],
)
def test_character_sets(plan: dict[str, int], ask: Ask, asked: str | None, patient: str, answered: str):
    keys = {} if asked is None else {"SpecificCharacterSet": asked}
    (found,) = ask(PatientID=patient, PatientName="", **keys)
    assert found.SpecificCharacterSet == answered
    assert str(found.PatientName) == {"BN1": "Nguyễn^Văn An", "BN3": "Müller^Jörg"}[patient]


def test_a_step_for_any_station_is_that_of_who_asks(plan: dict[str, int], receiver: Any):
    step = {"Modality": "DX", "ScheduledStationAETitle": ""}
    for caller in ("XRAY1", "XRAY2"):
        (found,), _ = query(receiver.port, step=step, caller=caller)
        assert found.ScheduledProcedureStepSequence[0].ScheduledStationAETitle == caller


def test_what_is_over_is_not_listed(plan: dict[str, int], ask: Ask, database: Database):
    with database.transaction() as connection:
        DESK.withdraw(connection, plan["CT-8"], ME, "CANCELLED")
        DESK.progress(connection, plan["CT-10"], ME, "ON_HOLD")
        DESK.progress(connection, plan["CT-23"], ME, "COMPLETED")
    assert steps_of(ask(step={"ScheduledProcedureStepID": ""})) == ["DX-8"]


@pytest.mark.parametrize(
    ("step", "keys"),
    [
        ({"ScheduledProcedureStepStartDate": "2026"}, {}),
        ({"ScheduledProcedureStepStartDate": "20261322"}, {}),
        ({"ScheduledProcedureStepStartTime": "0900"}, {}),  # without a date
        ({"ScheduledProcedureStepStartDate": "20261122", "ScheduledProcedureStepStartTime": "99"}, {}),
        ({}, {"PatientBirthDate": "yesterday"}),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_values_that_make_no_sense(plan: dict[str, int], receiver: Any, step: dict[str, str], keys: dict[str, str]):
    found, statuses = query(receiver.port, step=step, **keys)
    assert found == []
    assert statuses == [0xC000]


def test_two_items_in_the_sequence(plan: dict[str, int], receiver: Any):
    asked = Dataset()
    asked.ScheduledProcedureStepSequence = [Dataset(), Dataset()]
    assert query(receiver.port, asked)[1] == [0xC000]


def test_the_answer_is_bounded(plan: dict[str, int], start_receiver: Callable[..., Any]):
    found, statuses = query(start_receiver(find_max_results=2).port, step={"ScheduledProcedureStepID": ""})
    assert steps_of(found) == ["CT-8", "DX-8"]
    assert statuses == [0xFF00, 0xFF00, 0xB001]


def test_more_steps_than_are_read_at_a_time(database: Database, ask: Ask):
    steps = [{"step_id": f"S{n:03}", "start": f"2026-11-22T{n // 60:02}:{n % 60:02}:00"} for n in range(50)]
    for _ in range(9):
        place(database, *steps)
    found = steps_of(ask(step={"ScheduledProcedureStepID": ""}))
    assert len(found) == 450
    assert found == sorted(found)


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT])
def test_findscu(plan: dict[str, int], receiver: Any, dcmtk: Dcmtk, tmp_path: Path, syntax: str):
    option = "-xi" if syntax == IMPLICIT else "-xe"
    keys = ["-k", "PatientName=nguyen*", "-k", "PatientID", "-k", "StudyInstanceUID", "-k", f"{STEP}Modality=CT",
            "-k", f"{STEP}ScheduledStationAETitle=CT1", "-k", f"{STEP}ScheduledProcedureStepStartDate=20261122",
            "-k", f"{STEP}ScheduledProcedureStepStartTime", "-k", f"{STEP}ScheduledProcedureStepID"]  # fmt: skip
    result = dcmtk(
        "findscu",
        "-v",
        "-W",
        option,
        "-X",
        "-od",
        tmp_path,
        "-aet",
        "CT1",
        "-aec",
        "SANGLOC",
        *keys,
        "127.0.0.1",
        receiver.port,
    )
    assert result.returncode == 0, result.stderr
    assert "Received Final Find Response (Success)" in result.stderr
    (written,) = tmp_path.glob("rsp*.dcm")
    assert str(dcmread(written).PatientName) == "Nguyễn^Văn An"
    dumped = dcmtk("dcmdump", "-Un", "+P", "0010,0010", "+P", "0040,0009", written)
    assert dumped.returncode == 0, dumped.stderr
    assert "CT-8" in dumped.stdout


def test_findscu_cancels(database: Database, receiver: Any, dcmtk: Dcmtk):
    steps = [{"step_id": f"S{n}"} for n in range(50)]
    for _ in range(20):
        place(database, *steps)
    result = dcmtk(
        "findscu", "-v", "-W", "--cancel", "1", "-aec", "SANGLOC", "-k", "PatientName", "127.0.0.1", receiver.port
    )
    assert result.returncode == 0, result.stderr
    assert "Received Final Find Response (Cancel" in result.stderr or "(Success)" in result.stderr


def test_a_query_that_no_index_helps_ends(database: Database, receiver: Any, monkeypatch: pytest.MonkeyPatch):
    """It looks at so many steps, and says that there may be more."""
    monkeypatch.setattr(modalityworklist, "_MAX_EXAMINED", 200)
    for _ in range(9):
        place(database, *({"step_id": f"S{n}"} for n in range(50)))
    found, statuses = query(receiver.port, step={"ScheduledPerformingPhysicianName": "nobody"})
    assert (found, statuses) == ([], [0xB001])
