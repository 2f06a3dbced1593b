"""Workitems that ask for our triage: begun when the study is here, completed with its scores, or cancelled."""

from __future__ import annotations

import datetime as dt
import threading
from typing import Any

import httpx
import pytest
from archive import Archive
from running import until
from workitems import Manager, workitem

from pacs import exchange
from pacs.tasks import Exchange
from pacs.ups import task
from pacs.ups.performing import work_off
from storage import jobs


@pytest.fixture
def ups(http: httpx.Client) -> Manager:
    return Manager(http)


def urgency(archive: Archive, sop_uid: str) -> int:
    with archive.database.autocommit() as connection:
        row = connection.execute(
            "SELECT j.urgency FROM jobs AS j JOIN instances AS i ON i.instance_pk = j.instance_fk WHERE i.sop_uid = %s",
            (sop_uid,),
        ).fetchone()
    assert row is not None
    return int(row[0])


def contents(found: dict[str, Any]) -> dict[str, Any]:
    """The content items of the performed procedure by the code of their concept."""
    (item,) = found["00741216"]["Value"]
    return {one["0040A043"]["Value"][0]["00080100"]["Value"][0]: one for one in item["00741212"]["Value"]}


def test_a_study_is_read_as_asked_for(ups: Manager, archive: Archive) -> None:
    study = archive.add()
    uid = ups.create(workitem(study.header.study_uid, analysis=True))
    assert urgency(archive, study.header.sop_uid) == 0
    assert work_off(archive.database) == 1
    assert ups.state(uid) == "IN PROGRESS"
    assert urgency(archive, study.header.sop_uid) == 2, "HIGH is read before others"
    assert work_off(archive.database) == 0, "nothing happens before the score"
    archive.score(study, 0.93)
    assert work_off(archive.database) == 1
    found = ups.get(uid)
    assert found["00741000"]["Value"] == ["COMPLETED"]
    said = contents(found)
    assert said["SOURCE-IMAGE"]["00081199"]["Value"][0]["00081155"]["Value"] == [study.header.sop_uid]
    assert said["MODEL"]["0040A160"]["Value"] == ["chest_xray 0.1.0"]
    assert float(said["ABNORMAL"]["0040A30A"]["Value"][0]) == pytest.approx(0.93)
    assert said["FLAG"]["0040A168"]["Value"][0]["00080100"]["Value"] == ["FLAGGED"]
    (performed,) = found["00741216"]["Value"]
    assert performed["00404019"] == found["00404018"]
    assert performed["00404050"]["Value"][0] <= performed["00404051"]["Value"][0]
    assert ups.change(uid, "CANCELED").status_code == 409


def test_a_study_that_is_read_already_is_done_at_once(ups: Manager, archive: Archive) -> None:
    study = archive.add()
    archive.score(study, 0.1)
    uid = ups.create(workitem(study.header.study_uid, analysis=True, instances=(study.header.sop_uid,)))
    assert work_off(archive.database) + work_off(archive.database) == 2
    assert contents(ups.get(uid))["FLAG"]["0040A168"]["Value"][0]["00080100"]["Value"] == ["NOT-FLAGGED"]


def test_it_waits_for_its_study_its_time_and_its_input(ups: Manager, archive: Archive) -> None:
    later = dt.datetime.now(dt.UTC) + dt.timedelta(days=1)
    study = archive.add(study_uid="1.2.826.55.1")
    waiting = [
        ups.create(workitem("1.2.826.55.2", analysis=True)),
        ups.create(workitem("1.2.826.55.1", analysis=True, t00404041={"vr": "CS", "Value": ["INCOMPLETE"]})),
        ups.create(
            workitem(
                "1.2.826.55.1", analysis=True, t00404005={"vr": "DT", "Value": [later.strftime("%Y%m%d%H%M%S+0000")]}
            )
        ),
        ups.create(workitem(study.header.study_uid)),  # asks for something else
    ]
    assert work_off(archive.database) == 0
    assert {ups.state(uid) for uid in waiting} == {"SCHEDULED"}
    archive.add(study_uid="1.2.826.55.2")
    ups.send("POST", f"/{waiting[1]}", {"00404041": {"vr": "CS", "Value": ["READY"]}})
    assert work_off(archive.database) == 2
    assert [ups.state(uid) for uid in waiting] == ["IN PROGRESS", "IN PROGRESS", "SCHEDULED", "SCHEDULED"]


def test_what_cannot_be_read_is_cancelled_with_the_reason(ups: Manager, archive: Archive) -> None:
    study = archive.add(modality="CT", not_eligible="CT is not read by the model")
    cases = {
        ups.create(workitem(study.header.study_uid, analysis=True)): "CT is not read by the model",
        ups.create(workitem(analysis=True)): "names no study",
        ups.create(
            workitem("1.2.826.55.9", analysis=True, t00404011={"vr": "DT", "Value": ["20200101"]})
        ): "did not come in time",
    }
    work_off(archive.database)
    work_off(archive.database)
    for uid, reason in cases.items():
        found = ups.get(uid)
        assert found["00741000"]["Value"] == ["CANCELED"]
        assert reason in found["00741002"]["Value"][0]["00741238"]["Value"][0]


def test_a_job_that_was_given_up_is_tried_again(ups: Manager, archive: Archive) -> None:
    study = archive.add()
    with archive.database.transaction() as connection:
        (job,) = jobs.claim(connection, "test", 1, 60.0)
        jobs.fail(connection, job.job_pk, "broken", max_attempts=1)
    uid = ups.create(workitem(study.header.study_uid, analysis=True))
    work_off(archive.database)
    assert ups.state(uid) == "IN PROGRESS"
    with archive.database.autocommit() as connection:
        assert jobs.counts(connection) == (1, 0, 0)


def test_our_work_can_be_cancelled(ups: Manager, archive: Archive) -> None:
    uid = ups.create(workitem(archive.add().header.study_uid, analysis=True))
    work_off(archive.database)
    assert ups.send("POST", f"/{uid}/cancelrequest").status_code == 202
    assert ups.state(uid) == "CANCELED"
    assert work_off(archive.database) == 0


def test_the_task_is_woken_by_workitems_and_scores(ups: Manager, archive: Archive) -> None:
    study = archive.add()
    stop = threading.Event()
    process = Exchange(archive.database, archive.store)
    thread = threading.Thread(target=exchange.run, args=(process, stop, [("workitems", task.perform)]))
    thread.start()
    try:
        uid = ups.create(workitem(study.header.study_uid, analysis=True))
        until(lambda: ups.state(uid) == "IN PROGRESS", 10, "begun")
        archive.score(study, 0.7)
        with archive.database.autocommit() as connection:
            connection.execute("SELECT pg_notify('sangloc_worklist', '')")
        until(lambda: ups.state(uid) == "COMPLETED", 10, "completed")
    finally:
        stop.set()
        thread.join(20)
