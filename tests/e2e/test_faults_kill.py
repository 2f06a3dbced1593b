"""kill -9 of each part in turn while 8 modalities push: nothing acknowledged is lost, the system heals by itself."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from running import acknowledged, check_archive, until


@pytest.mark.timeout(240)
def test_kill_of_every_part_in_turn(system, modalities):
    """ARCHITECTURE promise 1: what was acknowledged survives the death of any process at any moment."""
    noise_is_read = {"SANGLOC_TRIAGE_GATE": "false", "SANGLOC_WORKER_LEASE_S": "5"}
    running = system("--receivers", "2", "--workers", "1", environment=noise_is_read)
    senders = modalities(running.port, 8, chest_every=40, pause_s=0.02)
    until(lambda: all(len(s.acknowledged) >= 3 for s in senders), 30, "every sender stored something")
    for kind in ("receiver", "worker", "api", "database", "receiver", "database"):
        before, victim = running.pids(), running.pids()[kind][0]
        os.kill(victim, signal.SIGKILL)

        def healed(kind=kind, victim=victim, before=before):
            now = running.pids().get(kind, [])
            return len(now) == len(before[kind]) and victim not in now

        until(healed, 20, f"a new {kind}")
        counts = [len(s.acknowledged) for s in senders]
        until(
            lambda counts=counts: all(len(s.acknowledged) > n + 2 for s, n in zip(senders, counts, strict=True)),
            30,
            f"every sender goes on after the death of the {kind}",
        )
    until(lambda: running.get("/api/worklist")["items"], 20, "the API answers again")
    for sender in senders:
        sender.stopping.set()
    for sender in senders:
        sender.join(20)
    assert set().union(*(s.refused for s in senders)) <= {0xA700}
    check_archive(running, acknowledged(senders))
    asked = "SELECT count(*), count(*) FILTER (WHERE triage = 'scored') FROM instances WHERE triage != 'not_eligible'"
    until(lambda: not running.query("SELECT FROM jobs"), 60, "jobs of the dead worker are taken over and done")
    ((films, scored),) = running.query(asked)
    assert films == scored > 0
    assert running.stop() == 0


@pytest.mark.timeout(120)
def test_killed_supervisor_leaves_nothing_that_blocks_the_next_start(system, modalities):
    running = system("--receivers", "2", "--no-worker")
    senders = modalities(running.port, 4)
    until(lambda: len(acknowledged(senders)) > 40, 20, "files are stored")
    pids = [pid for kind in running.pids().values() for pid in kind]
    running.process.kill()
    running.process.wait()
    for sender in senders:
        sender.stopping.set()
    until(lambda: not any(_runs(pid) for pid in pids[:-1]), 20, "the parts follow their supervisor")
    (running.data / "ready.json").unlink(missing_ok=True)
    running.start()
    for sender in senders:
        sender.join(20)
    check_archive(running, acknowledged(senders))


@pytest.mark.timeout(120)
def test_sigterm_in_the_middle_of_ingest_drains(system, modalities):
    """Running associations may finish what they send; new ones are refused; nothing acknowledged is lost."""
    running = system("--receivers", "2", "--no-worker")
    port = running.port
    open_one = running.client()
    senders = modalities(port, 4)
    until(lambda: len(acknowledged(senders)) > 40, 20, "files are stored")
    start = time.monotonic()
    running.process.send_signal(signal.SIGTERM)
    for sender in senders:
        sender.stopping.set()
    open_one.close()
    assert running.process.wait(40) == 0
    assert time.monotonic() - start < 20
    assert not (running.data / "ready.json").exists()
    for sender in senders:
        sender.join(20)
    running.start()
    check_archive(running, acknowledged(senders))


def _runs(pid: int) -> bool:
    try:
        with Path(f"/proc/{pid}/stat").open("rb") as file:
            return file.read().rsplit(b")", 1)[1].split()[0] != b"Z"
    except FileNotFoundError:
        return False
