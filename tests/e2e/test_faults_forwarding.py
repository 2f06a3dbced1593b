"""A district's node feeds a province's while processes are killed on both sides: nothing lost, nothing double."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from running import SANGLOC, System, acknowledged, check_archive, until

from storage import destinations, peers
from storage.database import Database


def connect(district: System, province_port: int) -> None:
    """What an administrator does: a peer, a destination, a rule."""
    database = Database(district.conninfo)
    with database.transaction() as connection:
        peer = peers.Peer(name="province", aet="PROVINCE", host="127.0.0.1", port=province_port)
        peers.put(connection, peer, "test")
    database.close()
    run(district, "destination", "province", "--peer", "province", "--parallel", "2")
    run(district, "rule", "province")


def run(system: System, *arguments: str) -> str:
    command = [*SANGLOC, "forwarding", *arguments, "--data", str(system.data)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=system.environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def status(system: System) -> destinations.Status:
    database = Database(system.conninfo)
    try:
        with database.autocommit() as connection:
            (found,) = destinations.status(connection)
    finally:
        database.close()
    return found


def kill(system: System, kind: str) -> None:
    """kill -9 one process of a kind, and wait until the supervisor has put another in its place."""
    victim = system.pids()[kind][0]
    os.kill(victim, signal.SIGKILL)
    until(lambda: system.pids().get(kind) and victim not in system.pids()[kind], 30, f"another {kind}")


@pytest.fixture
def pair(system: Callable[..., System], tmp_path: Path) -> tuple[System, System]:
    province = system(
        "--no-worker",
        "--receivers",
        "1",
        data=tmp_path / "province",
        environment={"SANGLOC_DICOM_AE_TITLE": "PROVINCE"},
    )
    district = system("--no-worker", "--receivers", "1", data=tmp_path / "district")
    connect(district, province.port)
    return district, province


def test_killed_processes_on_both_sides_lose_nothing_and_double_nothing(
    pair: tuple[System, System], modalities: Callable[..., Any]
) -> None:
    district, province = pair
    senders = modalities(district.port, 2, pause_s=0.01)
    until(lambda: status(district).sent_instances > 20, 60, "the first are there")
    kill(district, "exchange")
    kill(district, "database")
    kill(province, "receiver")
    until(lambda: len(acknowledged(senders)) > 100, 60, "more comes in")
    kill(province, "database")
    kill(district, "database")
    for sender in senders:
        sender.stopping.set()
    for sender in senders:
        sender.join(30)
    sent = acknowledged(senders)
    until(lambda: status(district).waiting == 0, 120, "the queue is empty")
    found = status(district)
    assert (found.dead, found.sent_instances) == (0, len(sent))
    check_archive(province, sent)
    assert province.query("SELECT count(*) FROM instances") == [(len(sent),)]
    exchange = district.data / "logs" / "exchange-1.log"
    assert "Traceback" not in exchange.read_text()


def test_a_line_that_was_dead_for_long_is_caught_up_when_it_is_back(
    pair: tuple[System, System], modalities: Callable[..., Any], system: Callable[..., System]
) -> None:
    district, province = pair
    port = province.port
    assert province.stop() == 0
    (sender,) = modalities(district.port, 1)
    until(lambda: len(sender.acknowledged) > 100, 60, "the district goes on receiving")
    sender.stopping.set()
    sender.join(30)
    until(lambda: status(district).failures > 0, 60, "the line is known to be dead")
    assert "does not answer" in run_status(district)
    assert district.stop() == 0
    district.start()  # days later
    again = system(
        "--no-worker", "--dicom-port", str(port), data=province.data, environment={"SANGLOC_DICOM_AE_TITLE": "PROVINCE"}
    )
    run(district, "resume", "province")
    until(lambda: status(district).waiting == 0, 60, "the queue is empty")
    assert status(district).sent_instances == len(sender.acknowledged)
    check_archive(again, sender.acknowledged)


def run_status(system: System) -> str:
    command = [*SANGLOC, "forwarding", "status", "--data", str(system.data)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=system.environment)
    assert done.returncode == 1, done.stderr
    return done.stdout
