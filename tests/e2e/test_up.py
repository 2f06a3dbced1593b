"""`sangloc up`, `down`, `status` and the parts on their own: the contract for outside tools, as the issue words it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dicom_client
import psycopg
import pytest
from rclone_server import ACCESS, SECRET, S3Server
from running import SANGLOC, System, until


def sangloc(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SANGLOC, *arguments],
        env={k: v for k, v in os.environ.items() if not k.startswith("SANGLOC_")} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def store(port: int, **options: Any) -> dicom_client.Made:
    made = dicom_client.make(sop_class=dicom_client.CT, pixels=2000)
    client = dicom_client.Client(port, **options)
    assert client.store(made.sop_class, made.sop_uid, made.data) == 0
    client.release()
    return made


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rsplit(b")", 1)[1].split()[0] != b"Z"
    except FileNotFoundError:
        return False


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def test_the_contract_for_outside_tools(system: Any) -> None:
    running: System = system("--no-worker", "--receivers", "2", "--ae-title", "XRAY")
    facts = running.facts()
    assert set(facts) == {"dicom", "http", "pids"}
    assert {kind: len(pids) for kind, pids in facts["pids"].items()} == {
        "receiver": 2,
        "worker": 0,
        "exchange": 1,
        "api": 1,
        "database": 1,
    }
    assert all(alive(pid) for pids in facts["pids"].values() for pid in pids)
    assert running.words().count("sangloc is ready") == 1

    made = store(running.port, called="XRAY", calling="ANYBODY")
    with pytest.raises(dicom_client.RefusedError):
        dicom_client.Client(running.port, called="SANGLOC")
    page = running.get("/api/worklist")
    assert page["mode"] == "arrival"
    assert page["next"] is None
    (item,) = page["items"]
    assert item["study_uid"] == made.study_uid
    promised = "due_at arrived_at flagged probability findings status reason model patient_name patient_id"
    assert set(promised.split()) <= set(item)

    data = str(running.data)
    second = sangloc("up", "--data", data)
    assert second.returncode == 1
    assert f"already runs on {data} (process {running.process.pid})" in second.stderr
    told = json.loads(sangloc("status", "--data", data, "--json").stdout)
    assert told["status"] == "ready"
    assert told["pids"] == facts["pids"]
    ports = {"SANGLOC_DICOM_PORT": str(facts["dicom"]), "SANGLOC_HTTP_PORT": str(facts["http"])}
    assert sangloc("healthy", "receiver", SANGLOC_DICOM_AE_TITLE="XRAY", **ports).returncode == 0
    assert sangloc("healthy", "api", **ports).returncode == 0
    no_worker = sangloc("healthy", "worker", SANGLOC_DATABASE_URL=running.conninfo)
    assert (no_worker.returncode, no_worker.stderr.count("\n")) == (1, 1)

    assert sangloc("down", "--data", data).returncode == 0
    assert running.process.wait(10) == 0
    assert not (running.data / "ready.json").exists()
    assert not any(alive(pid) for pids in facts["pids"].values() for pid in pids)
    assert sangloc("status", "--data", data).returncode == 1
    gone = sangloc("down", "--data", data)
    assert (gone.returncode, gone.stderr.strip()) == (1, f"sangloc: no sangloc runs on {data}")


@pytest.mark.parametrize("option", ["--dicom-port", "--http-port"])
def test_a_taken_port_is_named_before_anything_starts(option: str, tmp_path: Path) -> None:
    other = "--http-port" if option == "--dicom-port" else "--dicom-port"
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as holder:
        port = str(holder.getsockname()[1])
        done = sangloc("up", "--data", str(tmp_path / "data"), option, port, other, "0")
    assert done.returncode == 1
    assert f"port {port}" in done.stderr
    assert option in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "data" / "postgres").exists()


def test_a_part_that_cannot_start_ends_the_start_with_its_reason(tmp_path: Path) -> None:
    nonsense = tmp_path / "key.pem"
    nonsense.write_text("no key")
    done = sangloc(
        *("up", "--no-worker", "--data", str(tmp_path / "data"), "--dicom-port", "0", "--http-port", "0"),
        SANGLOC_DICOM_TLS_CERTIFICATE=str(nonsense),
        SANGLOC_DICOM_TLS_KEY=str(nonsense),
    )
    assert done.returncode == 1
    assert re.search(r"receiver-\d does not start", done.stderr)
    assert "TLS files cannot be used" in done.stderr
    assert not (tmp_path / "data" / "ready.json").exists()


def test_unsafe_settings_are_refused_with_status_2(tmp_path: Path) -> None:
    done = sangloc("up", "--data", str(tmp_path / "data"), SANGLOC_HTTP_HOST="0.0.0.0")
    assert (done.returncode, done.stdout) == (2, "")
    assert "http.tokens" in done.stderr
    assert not (tmp_path / "data").exists()


def test_a_stop_while_it_starts_leaves_no_database_behind(tmp_path: Path) -> None:
    data = tmp_path / "data"
    command = [*SANGLOC, "up", "--no-worker", "--data", str(data), "--dicom-port", "0", "--http-port", "0"]
    pid_file = data / "postgres" / "data" / "postmaster.pid"
    data.mkdir()
    (data / "ready.json").write_text("{}")  # of a supervisor that was killed
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        until(lambda: pid_file.exists() and pid_file.read_text(), 60, "the database starts")
        assert not (data / "ready.json").exists()
        database = int(pid_file.read_text().split()[0])
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    assert not alive(database)
    assert not (data / "ready.json").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_an_ordinary_user_can_run_it() -> None:
    """The other tests show it for whoever runs them; here root becomes nobody."""
    as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    libraries = os.pathsep.join([sysconfig.get_path("purelib"), str(Path(__file__).parents[2])])
    environment = os.environ | {"PYTHONPATH": libraries}
    trial = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import psycopg, pydantic'], check=True)"
    for python in (sys.executable, "/usr/bin/python3"):  # a virtual environment under /root is closed to others
        command = [*as_nobody, python, "-P"]
        if not subprocess.run([*command, "-c", trial], env=environment, capture_output=True, check=False).returncode:
            break
    else:
        pytest.skip("no interpreter here that other users may run")
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        os.chown(data, 65534, 65534)
        command += ["-m", "pacs.cli", "up", "--no-worker", "--data", folder, "--dicom-port", "0", "--http-port", "0"]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            try:
                until(lambda: (data / "ready.json").exists() or process.poll() is not None, 60, "ready as nobody")
                assert process.poll() is None, process.stdout and process.stdout.read()
                store(json.loads((data / "ready.json").read_text())["dicom"])
            finally:
                process.terminate()
        assert process.returncode == 0


@pytest.fixture
def part(tmp_path: Path) -> Iterator[Any]:
    """Starts single parts; all are ended, and must end well."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        with (tmp_path / f"{arguments[0]}.log").open("wb") as log:
            env = {k: v for k, v in os.environ.items() if not k.startswith("SANGLOC_")} | environment
            started.append(subprocess.Popen([*SANGLOC, *arguments], env=env, stdout=log, stderr=log))
        return started[-1]

    yield start
    for process in reversed(started):
        process.send_signal(signal.SIGTERM)
    assert [process.wait(40) for process in started] == [0] * len(started)


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[S3Server]:
    server = S3Server(tmp_path / "s3")
    server.start()
    yield server
    server.stop()


def test_parts_alone_work_together_over_an_external_database_and_s3(
    empty_conninfo: str, part: Any, s3: S3Server
) -> None:
    """What compose.yaml does, without containers."""
    dicom, http = free_port(), free_port()
    settings = {
        "SANGLOC_DATABASE_URL": empty_conninfo,
        "SANGLOC_OBJECTS_ENDPOINT": s3.endpoint,
        "SANGLOC_OBJECTS_ACCESS_KEY": ACCESS,
        "SANGLOC_OBJECTS_SECRET_KEY": SECRET,
        "SANGLOC_OBJECTS_SECURE": "false",
        "SANGLOC_OBJECTS_BUCKET": "parts-alone",
        "SANGLOC_DICOM_PORT": str(dicom),
        "SANGLOC_HTTP_PORT": str(http),
    }
    assert "0001_pre.sql" in sangloc("migrate", **settings).stdout
    assert "nothing to apply" in sangloc("migrate", **settings).stdout
    part("receive", "--receivers", "2", **settings)
    part("serve", **settings)
    until(lambda: sangloc("healthy", "receiver", **settings).returncode == 0, 60, "the receiver answers")
    until(lambda: sangloc("healthy", "api", **settings).returncode == 0, 60, "the API answers")
    made = store(dicom)
    with psycopg.connect(empty_conninfo) as connection:
        assert connection.execute("SELECT sop_uid FROM instances").fetchall() == [(made.sop_uid,)]
    assert sangloc("healthy", "exchange", **settings).returncode == 1
    part("exchange", **settings)
    until(lambda: sangloc("healthy", "exchange", **settings).returncode == 0, 60, "the exchange is connected")
    part("triage", **settings)
    until(lambda: sangloc("healthy", "worker", **settings).returncode == 0, 60, "the worker is alive")


def test_up_on_an_external_database_starts_none_of_its_own(system: Any, empty_conninfo: str) -> None:
    running: System = system("--no-worker", environment={"SANGLOC_DATABASE_URL": empty_conninfo})
    assert running.pids()["database"] == []
    made = store(running.port)
    with psycopg.connect(empty_conninfo) as connection:
        assert connection.execute("SELECT study_uid FROM studies").fetchall() == [(made.study_uid,)]
    assert not (running.data / "postgres").exists()
    assert running.stop() == 0
