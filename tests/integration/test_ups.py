"""UPS-RS: the state machine of workitems, the lock, and searches (PS3.4 CC, PS3.18 11)."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from archive import Archive
from http_server import client, problem, serving
from workitems import KIND, Manager, code, new_uid, performed, workitem

from api.config import ApiConfig


@pytest.fixture
def ups(http: httpx.Client) -> Manager:
    return Manager(http)


def test_create_and_retrieve(ups: Manager, http: httpx.Client) -> None:
    answer = ups.send("POST", "", workitem("1.2.3"), workitem="1.2.826.7")
    assert answer.status_code == 201
    assert answer.headers["location"] == f"{str(http.base_url).rstrip('/')}/dicom-web/workitems/1.2.826.7"
    assert answer.headers["warning"] == '299 sangloc "Worklist Label was set"'
    found = ups.get("1.2.826.7")
    sent = workitem("1.2.3")
    assert {tag: found[tag] for tag in sent} == sent
    assert found["00080016"]["Value"] == ["1.2.840.10008.5.1.4.34.6.1"]
    assert found["00080018"]["Value"] == ["1.2.826.7"]
    assert found["00741202"]["Value"] == ["DEFAULT"]
    problem(ups.send("POST", "", workitem("1.2.3"), workitem="1.2.826.7"), 409)
    problem(ups.send("GET", "/1.2.826.8"), 404)


@pytest.mark.parametrize("query", ["?1.2.826.9", "?AffectedSOPInstanceUID=1.2.826.9", "?workitem=1.2.826.9", ""])
def test_the_uid_comes_in_many_ways(ups: Manager, http: httpx.Client, query: str) -> None:
    model = workitem() | ({} if query else {"00001000": {"vr": "UI", "Value": ["1.2.826.9"]}})
    answer = http.post(f"/dicom-web/workitems{query}", json=model, headers={"Content-Type": KIND})
    assert (answer.status_code, answer.headers["location"].rpartition("/")[2]) == (201, "1.2.826.9")


def test_a_uid_is_made_where_none_is_given(ups: Manager) -> None:
    answer = ups.send("POST", "", workitem())
    uid = answer.headers["location"].rpartition("/")[2]
    assert uid.startswith("2.25.")
    assert ups.state(uid) == "SCHEDULED"


WRONG: dict[str, tuple[Any, str]] = {
    "state": (workitem(t00741000={"vr": "CS", "Value": ["COMPLETED"]}), "Procedure Step State"),
    "no state": (workitem(t00741000=None), "Procedure Step State"),
    "priority": (workitem(t00741200={"vr": "CS", "Value": ["URGENT"]}), "Scheduled Procedure Step Priority"),
    "no label": (workitem(t00741204=None), "Procedure Step Label"),
    "no start": (workitem(t00404005={"vr": "DT"}), "Start DateTime"),
    "start": (workitem(t00404005={"vr": "DT", "Value": ["tomorrow"]}), "00404005[0]"),
    "start out of range": (workitem(t00404005={"vr": "DT", "Value": ["20261399"]}), "00404005[0]"),
    "transaction": (workitem(t00081195={"vr": "UI", "Value": ["1.2"]}), "0008,1195"),
    "vr": (workitem(t00741204={"vr": "SH", "Value": ["x"]}), "00741204"),
    "value": (workitem(t00741204={"vr": "LO", "Value": "x"}), "00741204"),
    "performed": (workitem() | performed(), "0074,1216"),
    "other uid": (workitem(t00080018={"vr": "UI", "Value": ["1.2.999"]}), "SOP Instance UID"),
    "bulk": (workitem(t00420011={"vr": "OB", "BulkDataURI": "x"}), "00420011"),
    "text": ("x", "A data set"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_workitem_is_refused_with_its_reason(ups: Manager, name: str) -> None:
    model, reason = WRONG[name]
    uid = new_uid()
    said = problem(ups.send("POST", "", model, workitem=uid), 400)
    assert reason in str(said["detail"])
    problem(ups.send("GET", f"/{uid}"), 404)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"[{},{}]", b"5", b"\xff"])
def test_other_json(http: httpx.Client, content: bytes) -> None:
    problem(http.post("/dicom-web/workitems", content=content, headers={"Content-Type": KIND}), 400)


def test_other_media_types_and_uids(ups: Manager, http: httpx.Client) -> None:
    problem(http.post("/dicom-web/workitems", content=b"x", headers={"Content-Type": "application/dicom+xml"}), 415)
    problem(ups.send("POST", "", workitem(), workitem="1.x"), 400)
    problem(ups.send("GET", "/..%2f..%2fetc"), 404)
    problem(http.get("/dicom-web/workitems/1.2", headers={"Accept": "image/png"}), 406)


def test_the_life_of_a_workitem(ups: Manager) -> None:
    uid = ups.create(workitem())
    problem(ups.change(uid, "COMPLETED"), 409)  # not in progress yet
    problem(ups.change(uid, "SCHEDULED"), 400)
    problem(ups.send("PUT", f"/{uid}/state", {"00741000": {"vr": "CS", "Value": ["IN PROGRESS"]}}), 400)
    assert ups.change(uid, "IN PROGRESS").status_code == 200
    assert ups.state(uid) == "IN PROGRESS"
    assert "00081195" not in ups.get(uid), "the lock is nobody's business"
    problem(ups.change(uid, "IN PROGRESS", "1.2.4"), 409)  # somebody else has it
    problem(ups.change(uid, "COMPLETED", "1.2.4"), 409)
    problem(ups.change(uid, "COMPLETED"), 409)  # without a result
    problem(ups.send("POST", f"/{uid}", performed()), 400)  # without the lock
    problem(ups.send("POST", f"/{uid}", performed(), **{"transaction-uid": "1.2.4"}), 409)
    assert ups.send("POST", f"/{uid}", performed(), **{"transaction-uid": "1.2.3"}).status_code == 200
    assert ups.change(uid, "COMPLETED").status_code == 200
    again = ups.change(uid, "COMPLETED")
    assert (again.status_code, again.headers["warning"]) == (
        200,
        '299 sangloc "The UPS is already in the requested state of COMPLETED"',
    )
    problem(ups.change(uid, "CANCELED"), 409)
    problem(ups.change(uid, "IN PROGRESS", "1.2.5"), 409)
    problem(ups.send("POST", f"/{uid}", performed(), **{"transaction-uid": "1.2.3"}), 409)
    problem(ups.change(new_uid(), "IN PROGRESS"), 404)


def test_what_an_update_may_change(ups: Manager) -> None:
    uid = ups.create(workitem())
    assert ups.send("POST", f"/{uid}", {"00741204": {"vr": "LO", "Value": ["Nội soi"]}}).status_code == 200
    assert ups.get(uid)["00741204"]["Value"] == ["Nội soi"]
    for change in (
        {"00741000": {"vr": "CS", "Value": ["COMPLETED"]}},
        {"00100020": {"vr": "LO", "Value": ["P2"]}},
        {"00080018": {"vr": "UI", "Value": ["1.2"]}},
        {"00404005": {"vr": "DT", "Value": [""]}},
    ):
        problem(ups.send("POST", f"/{uid}", change), 400)
    problem(ups.send("POST", f"/{uid}", performed()), 409)
    problem(ups.send("POST", f"/{new_uid()}", {}), 404)


def test_cancellation(ups: Manager) -> None:
    uid = ups.create(workitem())
    reason = {"00741238": {"vr": "LT", "Value": ["Wrong patient"]}}
    assert ups.send("POST", f"/{uid}/cancelrequest", reason, requestor="RIS").status_code == 202
    found = ups.get(uid)
    assert found["00741000"]["Value"] == ["CANCELED"]
    assert found["00741002"]["Value"][0]["00741238"]["Value"] == ["Wrong patient"]
    again = ups.send("POST", f"/{uid}/cancelrequest")
    problem(again, 409)
    assert "already in the requested state" in again.headers["warning"]
    claimed = ups.create(workitem())
    ups.change(claimed, "IN PROGRESS")
    assert ups.send("POST", f"/{claimed}/cancelrequest").status_code == 202
    assert ups.state(claimed) == "IN PROGRESS", "whoever performs it decides"
    assert ups.change(claimed, "CANCELED").status_code == 200
    assert ups.state(claimed) == "CANCELED"
    done = ups.create(workitem())
    ups.change(done, "IN PROGRESS")
    ups.send("POST", f"/{done}", performed(), **{"transaction-uid": "1.2.3"})
    ups.change(done, "COMPLETED")
    problem(ups.send("POST", f"/{done}/cancelrequest"), 409)


def test_search(ups: Manager, http: httpx.Client) -> None:
    first = ups.create(workitem("1.2.3"))
    second = ups.create(
        workitem(
            "1.2.4",
            "1.2.5",
            t00100010={"vr": "PN", "Value": [{"Alphabetic": "Trần^Bình"}]},
            t00100020={"vr": "LO", "Value": ["P2"]},
            t00404005={"vr": "DT", "Value": ["20260215"]},
            t00404018={"vr": "SQ", "Value": [code("OTHER")]},
            t00741200={"vr": "CS", "Value": ["LOW"]},
        )
    )
    ups.change(second, "IN PROGRESS")
    for parameters, found in (
        ({}, [second, first]),
        ({"limit": "1"}, [second]),
        ({"limit": "1", "offset": "1"}, [first]),
        ({"offset": "9"}, []),
        ({"ProcedureStepState": "SCHEDULED"}, [first]),
        ({"00741000": "IN PROGRESS"}, [second]),
        ({"PatientID": "P2"}, [second]),
        ({"PatientID": "P*"}, [second, first]),
        ({"PatientName": "tran*"}, [second]),
        ({"ScheduledProcedureStepPriority": "HIGH"}, [first]),
        ({"ProcedureStepLabel": "Read*"}, [second, first]),
        ({"ScheduledProcedureStepStartDateTime": "20260102101500+0700"}, [first]),
        ({"ScheduledProcedureStepStartDateTime": "202601010000+0000-202601030000+0000"}, [first]),
        ({"ScheduledProcedureStepStartDateTime": "20260201-"}, [second]),
        ({"ScheduledProcedureStepStartDateTime": "-20260201"}, [first]),
        ({"ScheduledWorkitemCodeSequence.CodeValue": "OTHER"}, [second]),
        ({"00404018.00080100": "REPORT", "PatientID": "P1"}, [first]),
        ({"InputInformationSequence.StudyInstanceUID": "1.2.5"}, [second]),
        ({"SOPInstanceUID": f"{first},{second}"}, [second, first]),
        ({"includefield": "all", "PatientID": "nobody"}, []),
    ):
        assert ups.find(**parameters) == found, parameters  # type: ignore[arg-type]
    for wrong in (
        {"NoSuchKey": "x"},
        {"limit": "-1"},
        {"ScheduledProcedureStepStartDateTime": "soon"},
        {"ScheduledProcedureStepStartDateTime": "-"},
        {"PatientBirthDate": "x"},
    ):
        problem(ups.send("GET", "", **wrong), 400)
    assert http.get("/dicom-web/workitems").headers["x-total-count"] == "2"


def test_who_may(archive: Archive) -> None:
    config = ApiConfig(tokens={"ris": "a-secret-of-enough-characters"})
    with serving(archive.database, archive.store, config) as address:
        with client(address) as http:
            problem(Manager(http).send("POST", "", workitem()), 401)
            problem(Manager(http).send("GET", ""), 401)
        with client(address, "a-secret-of-enough-characters") as http:
            uid = Manager(http).create(workitem())
    with archive.database.autocommit() as connection:
        rows = connection.execute("SELECT actor, action, detail ->> 'workitem_uid' FROM audit").fetchall()
    assert rows == [("ris", "workitem.created", uid)]
