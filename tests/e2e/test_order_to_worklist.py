"""From the hospital's order to the reading list: MLLP, modality worklist, C-STORE, MPPS, on a whole system."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import dicom_client
from dcmtk import find
from hl7_client import Ack, Sender, orm
from mpps_client import Modality, beginning, ending, scheduled
from running import System, until

HL7 = {"SANGLOC_HL7_PORT": "0"}


def ask_worklist(system: System, folder: Path) -> list[Any]:
    """What findscu -W gets for a DX station today, as data sets."""
    findscu = find("findscu")
    if findscu is None:
        pytest.skip("needs DCMTK's findscu")
    folder.mkdir()
    keys = ["SpecificCharacterSet", "PatientName", "PatientID", "PatientBirthDate", "AccessionNumber",
            "StudyInstanceUID", "RequestedProcedureID", "RequestedProcedurePriority", "(0040,0100)[0].Modality=DX",
            "(0040,0100)[0].ScheduledProcedureStepStartDate=20261122", "(0040,0100)[0].ScheduledProcedureStepID",
            "(0040,0100)[0].ScheduledStationAETitle=XRAY1"]  # fmt: skip
    options = [part for key in keys for part in ("-k", key)]
    subprocess.run(
        [findscu, "-W", "-X", "-od", folder, "-aec", "SANGLOC", *options, "127.0.0.1", str(system.port)],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    return [dcmread(file) for file in sorted(folder.glob("rsp*.dcm"))]


def hl7(system: System, data: bytes) -> Ack:
    """One message to the system; the exchange process starts last."""

    def connected() -> Sender | None:
        with contextlib.suppress(OSError):
            return Sender(int(system.facts()["hl7"]), 30)
        return None

    with until(connected, 30, "the HL7 port is open") as sender:
        ack: Ack = sender.ask(data)
        return ack


def test_an_order_from_mllp_to_the_reading_list(system: Callable[..., System], tmp_path: Path):
    running = system(environment=HL7)
    for made in (dicom_client.make(sop_class=dicom_client.DX), dicom_client.make(sop_class=dicom_client.DX)):
        with running.client() as client:  # two routine studies came before
            assert client.store(made.sop_class, made.sop_uid, made.data) == 0

    ack = hl7(running, orm(priority="S", accession="XQ100", obr19="RP1", obr20="SPS1"))
    assert ack.code == "AA"

    (entry,) = ask_worklist(running, tmp_path / "answers")
    step = entry.ScheduledProcedureStepSequence[0]
    assert str(entry.PatientName) == "Nguyễn^Văn^An"
    assert (entry.AccessionNumber, entry.RequestedProcedurePriority) == ("XQ100", "STAT")

    performed = generate_uid()
    with Modality(running.port) as modality:
        key = scheduled(entry.StudyInstanceUID, step.ScheduledProcedureStepID, entry.AccessionNumber)
        assert modality.create(beginning(key), performed).Status == 0
        with running.client() as client:
            image = dicom_client.make(study_uid=entry.StudyInstanceUID, sop_class=dicom_client.DX, patient="BN77")
            assert client.store(image.sop_class, image.sop_uid, image.data) == 0
        assert modality.set(ending([image.sop_uid]), performed).Status == 0

    listed = running.get("/api/worklist")["items"]
    mine = next(item for item in listed if item["study_uid"] == entry.StudyInstanceUID)
    assert mine["priority"] == "stat"
    others = [item for item in listed if item["study_uid"] != entry.StudyInstanceUID]
    assert all(mine["due_at"] < item["due_at"] for item in others)
    shown = running.get("/api/orders/1")
    assert (shown["status"], shown["complete"]) == ("COMPLETED", True)
    assert [study["study_uid"] for study in shown["studies"]] == [entry.StudyInstanceUID]
    assert [step["status"] for step in shown["performed"]] == ["COMPLETED"]
    assert [event["action"] for event in shown["history"]] == ["order.new", "order.in_progress", "order.completed"]
    assert ask_worklist(running, tmp_path / "afterwards") == []


def test_what_comes_late_is_followed(system: Callable[..., System]):
    """An image that comes after its MPPS completes the study; an order that turns STAT brings the study forward."""
    running = system(environment=HL7)
    image = dicom_client.make(sop_class=dicom_client.DX, patient="BN77")
    assert hl7(running, orm(priority="R", study_uid=image.study_uid)).code == "AA"
    performed = generate_uid()
    with Modality(running.port) as modality:
        assert modality.create(beginning(scheduled(image.study_uid)), performed).Status == 0
        assert modality.set(ending([image.sop_uid]), performed).Status == 0
    assert running.get("/api/orders/1")["complete"] is False
    with running.client() as client:
        assert client.store(image.sop_class, image.sop_uid, image.data) == 0

    def complete() -> bool:
        (step,) = running.get(f"/api/performed-steps?study_uid={image.study_uid}")["items"]
        return step["complete_at"] is not None

    until(complete, 30, "the exchange process notes that the study is complete")
    assert running.get("/api/orders/1")["complete"] is True
    events = [entry["action"] for entry in running.get(f"/api/audit?study_uid={image.study_uid}")["items"]]
    assert "study.complete" in events

    (before,) = running.get("/api/worklist")["items"]
    assert before["priority"] == "routine"
    assert hl7(running, orm("XO", priority="S")).code == "AA"
    (after,) = running.get("/api/worklist")["items"]
    assert after["priority"] == "stat"
    assert after["due_at"] < before["due_at"]


def test_messages_outlive_the_process_that_takes_them(system: Callable[..., System]):
    """kill -9 of the exchange: the socket stays, the message waits, a repetition has no second effect."""
    running = system(environment=HL7)
    first = orm(header={"control": "M1"})
    assert hl7(running, first).code == "AA"
    (pid,) = running.pids()["exchange"]
    with Sender(int(running.facts()["hl7"]), 60) as waiting:
        os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(OSError):
            waiting.ask(first)  # this connection was the process's: it is cut, and the sender connects again
    ack = hl7(running, first)
    assert (ack.code, ack.reason) == ("AA", "order 1 placed (again)")
    assert hl7(running, orm(placer="PL2")).code == "AA"
    assert [one["number"] for one in running.get("/api/orders")["items"]] == [2, 1]
    until(lambda: running.pids()["exchange"] not in ([], [pid]), 30, "the exchange process is started again")
    codes = {one["control_id"]: (one["code"], one["kind"]) for one in running.get("/api/hl7-messages")["items"]}
    assert codes["M1"] == ("AA", "ORM^O01")


def test_without_a_port_nothing_listens_for_hl7(system: Callable[..., System]):
    assert "hl7" not in system().facts()
