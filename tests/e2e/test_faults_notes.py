"""kill -9 around rejection notes: what was acknowledged has taken effect, and what was stored takes effect later."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading

import dicom_client
import httpx
import pytest
from dicom_client import CT, EXPLICIT
from notes import KEY_OBJECT, code, data_set, note
from running import System, until

_ROUNDS = 6  # each receiver that is killed comes back later than the one before
_HEALS_S = 40  # a new receiver, and the exchange process looks


def stored_image(system: System) -> dicom_client.Made:
    made = dicom_client.make(study_uid=dicom_client.new_uid(), sop_class=CT, pixels=2000, patient="P1")
    with system.client() as client:
        assert client.store(CT, made.sop_uid, made.data) == 0
    return made


def send(system: System, uid: str, data: bytes) -> int | None:
    """The status of one C-STORE of a note; None when the association broke."""
    with contextlib.suppress(OSError, dicom_client.BrokenError, dicom_client.RefusedError):
        client = system.client(contexts=((KEY_OBJECT, EXPLICIT),), timeout_s=15)
        try:
            return client.store(KEY_OBJECT, uid, data)
        finally:
            client.close()
    return None


def is_hidden(system: System, uid: str) -> bool:
    return system.query("SELECT hidden FROM instances WHERE sop_uid = %s", uid) == [(True,)]


def new_receiver(system: System, killed: int) -> bool:
    return any(pid != killed for pid in system.pids().get("receiver", []))


@pytest.mark.timeout(240)
def test_an_acknowledged_note_has_taken_effect_whenever_its_receiver_is_killed(system):
    running = system("--receivers", "1", "--no-worker")
    chance, acknowledged, left = random.Random(4), 0, []
    for round_number in range(_ROUNDS):
        made = stored_image(running)
        uid = dicom_client.new_uid()
        data = data_set(note(uid, "1.2.3", [made.sop_uid], code("113037")))
        pid = running.pids()["receiver"][0]
        killer = threading.Timer(chance.uniform(0.0, 0.03), os.kill, (pid, signal.SIGKILL))
        killer.start()
        status = send(running, uid, data)
        killer.join()
        until(lambda pid=pid: new_receiver(running, pid), 20, "a new receiver")
        if status == 0:
            acknowledged += 1
            assert is_hidden(running, made.sop_uid)
        elif round_number % 2:
            until(lambda uid=uid, data=data: send(running, uid, data) == 0, 20, "the resend is acknowledged")
            assert is_hidden(running, made.sop_uid), "a resend is acknowledged when it has taken effect"
        elif running.query("SELECT FROM instances WHERE sop_uid = %s", uid):
            left.append(made.sop_uid)  # stored, and nobody was told: it takes effect all the same
    until(lambda: all(is_hidden(running, uid) for uid in left), _HEALS_S, f"{left} hidden")
    assert running.query("SELECT FROM rejection_notes WHERE state = 'waiting'") == []
    assert acknowledged < _ROUNDS, "no receiver was killed in time"


@pytest.mark.timeout(120)
def test_a_rejection_is_told_although_the_exchange_process_is_killed(system):
    running = system("--receivers", "1", "--no-worker")
    made = stored_image(running)
    ((study,),) = running.query("SELECT study_uid FROM studies")
    os.kill(running.pids()["exchange"][0], signal.SIGKILL)
    body = {"study_uid": study, "reason": "quality"}
    answer = httpx.post(f"http://127.0.0.1:{running.facts()['http']}/api/changes/reject", json=body, timeout=20).json()
    assert is_hidden(running, made.sop_uid)
    until(lambda: is_hidden(running, answer["note_uid"]), _HEALS_S, "the note is written")
    assert running.query("SELECT state FROM rejection_notes") == [("applied",)]
