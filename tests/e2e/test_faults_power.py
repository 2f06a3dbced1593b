"""A power cut in the middle of ingest. kill -9 does not show what was never synced: the page cache survives it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import dicom_client
import psycopg
import pytest
from running import SANGLOC, acknowledged, check_archive, until


@pytest.mark.timeout(180)
def test_power_cut_loses_nothing_that_was_acknowledged(disk, system, modalities):
    running = system("--receivers", "2", "--no-worker", data=disk.mount / "data")
    senders = modalities(running.port, 8, pixels=100_000)
    until(lambda: len(acknowledged(senders)) > 200, 60, "files are stored")
    pids = {pid for kind in running.pids().values() for pid in kind}
    control = disk.mount / "never-synced"
    control.write_bytes(b"x" * 100_000)

    disk.cut_power()

    for sender in senders:
        sender.stopping.set()
    running.process.kill()
    running.process.wait()
    for pid in pids | _users(disk.mount):
        _kill(pid)
    until(lambda: not _users(disk.mount), 20, "all processes ended")
    for sender in senders:
        sender.join(20)

    disk.power_on()
    assert not control.exists() or control.stat().st_size == 0, "the power cut lost nothing, so it proves nothing"
    (running.data / "ready.json").unlink(missing_ok=True)
    running.start()
    check_archive(running, acknowledged(senders))
    with running.client() as client:
        made = dicom_client.make()
        assert client.store(made.sop_class, made.sop_uid, made.data) == 0


def test_every_sync_precedes_its_answer(tmp_path, conninfo):
    """The same promise by a trace of system calls: fsync of file and folder, the database's answer, then ours."""
    strace = shutil.which("strace")
    if strace is None or subprocess.run([strace, "-o", "/dev/null", "true"], check=False).returncode != 0:
        pytest.skip("strace is missing or may not trace")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    trace = tmp_path / "trace"
    calls = "trace=openat,fsync,fdatasync,network"
    command = [strace, "-D", "-f", "-yy", "-o", str(trace), "-e", calls, *SANGLOC]
    command += ["receive", "--receivers", "1", "--dicom-port", str(port)]
    environment = {**os.environ, "SANGLOC_DATABASE_URL": conninfo, "SANGLOC_OBJECTS_FOLDER": str(tmp_path / "objects")}
    process = subprocess.Popen(command, env=environment, cwd=tmp_path)
    try:
        until(lambda: _listens(port) or process.poll() is not None, 60, "the receiver listens")
        assert process.poll() is None
        with dicom_client.Client(port) as client:
            for _ in range(4):
                made = dicom_client.make(pixels=300_000)
                assert client.store(made.sop_class, made.sop_uid, made.data) == 0
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    until(lambda: re.search(rf"(?m)^{process.pid} .*exited", trace.read_text("utf-8", "replace")), 10, "trace ends")
    lines = trace.read_text("utf-8", "replace").splitlines()
    threads = {line.split()[0] for line in lines if _event(line, port) == "c"}  # a thread does one thing after another
    story = "".join(_event(line, port) for line in lines if line.split()[0] in threads)
    with psycopg.connect(conninfo) as connection:
        assert connection.execute("SELECT count(*) FROM instances").fetchone() == (4,)
    assert re.fullmatch("d*(cfsd+a){4}d*", story), story


def _event(line: str, port: int) -> str:
    """c: an object is made, f: it is synced, s: so is its folder, d: the database spoke, a: we answer the modality."""
    if "openat(" in line and ".dcm" in line and "O_EXCL" in line:
        return "c"
    if "sync(" in line and "objects/" in line:
        return "f" if ".dcm" in line else "s" if re.search(r"objects/\w\w/\w\w>", line) else ""
    if "recvfrom(" in line and "UNIX" in line:
        return "d"
    if re.search(rf'(sendto|sendmsg)\(\d+<TCP:\[127\.0\.0\.1:{port}->[^>]*>[^"]*"\\4', line):
        return "a"
    return ""


def _users(folder: Path) -> set[int]:
    """Processes with something open under a folder, or working in it."""
    found = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        for link in (entry / "cwd", *_entries(entry / "fd")):
            try:
                target = str(link.readlink())
            except OSError:
                continue
            if target.startswith(f"{folder}/") or target == str(folder):
                found.add(int(entry.name))
    return found


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
