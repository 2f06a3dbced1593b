"""The systems that are measured, each on loopback.

They run in an empty folder that is removed afterwards, or, with `keep`, in one that stays (a filled index).

    with sangloc(work / "state") as running: ...                                       # running.port, .http, .aet
    with orthanc(work / "state", nodelay=True, plugins=DICOMWEB) as running: ...       # and DICOMweb at ORTHANC_WEB
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent
_PLUGINS = Path("/usr/share/orthanc/plugins")
POSTGRES_PLUGIN = _PLUGINS / "libOrthancPostgreSQLIndex.so"
DICOMWEB = (_PLUGINS / "libOrthancDicomWeb.so",)
ORTHANC_WEB = SANGLOC_WEB = "/dicom-web"  # under http://127.0.0.1:{running.http}
# Queries and retrievals: Orthanc answers everybody.
OPEN = {"DicomAlwaysAllowFind": True, "DicomAlwaysAllowGet": True, "DicomAlwaysAllowMove": True}
TUNED = {
    "MaximumPduLength": 131072,
    "StoreMD5ForAttachments": False,
    "MetricsEnabled": False,
    "SaveJobs": False,
    "DicomThreadsCount": 16,
}
UNSAFE = {"SyncStorageArea": False}  # no fsync of the files: not what sangloc promises, but the fastest Orthanc


class Running:
    """A started archive: its DICOM port and AE title, its HTTP port, and the processes that work for it."""

    def __init__(self, aet: str, port: int, http: int, pids: dict[str, list[int]], data: Path) -> None:
        self.aet, self.port, self.http, self.pids, self.data = aet, port, http, pids, data


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextmanager
def sangloc(
    folder: Path,
    *options: str,
    timeout_s: float = 90,
    environment: dict[str, str] | None = None,
    keep: bool = False,
):
    """`sangloc up` on the data folder; ready when it says so in ready.json."""
    data = folder if keep else _empty(folder)
    (data / "ready.json").unlink(missing_ok=True)
    dicom, http = free_port(), free_port()
    command = [BIN / "sangloc", "up", "--data", data, "--dicom-port", str(dicom), "--http-port", str(http), *options]
    log = (folder.parent / "sangloc.log").open("ab")
    with _process(command, log, {**os.environ, **(environment or {})}) as process:
        ready = data / "ready.json"
        wait(lambda: ready.exists() or process.poll() is not None, timeout_s, "sangloc up")
        if not ready.exists():
            raise RuntimeError(f"sangloc up ended with {process.returncode}; see {log.name}")
        facts = json.loads(ready.read_text())
        yield Running("SANGLOC", facts["dicom"], facts["http"], facts["pids"], data)
    if not keep:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def orthanc(
    folder: Path,
    *,
    database: str = "sqlite",
    nodelay: bool,
    plugins: Sequence[Path] = (),
    keep: bool = False,
    **options: Any,
):
    """Debian's Orthanc, with its index in SQLite or in a PostgreSQL of its own with Debian's settings."""
    state = folder if keep else _empty(folder)
    dicom, http = free_port(), free_port()
    settings: dict[str, Any] = {
        "StorageDirectory": str(state / "store"),
        "IndexDirectory": str(state / "store"),
        "DicomAet": "ORTHANC",
        "DicomPort": dicom,
        "HttpPort": http,
        "AuthenticationEnabled": False,
        "Plugins": [str(plugin) for plugin in plugins],
        **options,
    }
    with (state / "log").open("ab") as log:
        if database == "postgres":
            with _postgres(state, log) as port:
                settings["Plugins"].append(str(POSTGRES_PLUGIN))
                index = {"EnableIndex": True, "EnableStorage": False, "Host": "127.0.0.1", "Port": port, "Lock": False}
                settings["PostgreSQL"] = {**index, "Database": "postgres", "Username": "postgres", "Password": ""}
                with _orthanc(settings, state, log, nodelay) as running:
                    yield running
        else:
            with _orthanc(settings, state, log, nodelay) as running:
                yield running
    if not keep:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _orthanc(settings: dict[str, Any], state: Path, log: Any, nodelay: bool):
    (state / "orthanc.json").write_text(json.dumps(settings))
    # DCMTK, in Orthanc too, leaves Nagle's algorithm on unless this variable is set.
    environment = {**os.environ, **({"TCP_NODELAY": "1"} if nodelay else {})}
    with _process(["Orthanc", state / "orthanc.json"], log, environment, signal.SIGKILL) as process:
        wait_port(settings["DicomPort"])
        wait_port(settings["HttpPort"])
        yield Running("ORTHANC", settings["DicomPort"], settings["HttpPort"], {"orthanc": [process.pid]}, state)


@contextmanager
def _postgres(state: Path, log: Any):
    programs = max(Path("/usr/lib/postgresql").glob("*/bin"))
    user: dict[str, Any] = {"cwd": "/"}
    if os.getuid() == 0:
        owner = pwd.getpwnam("postgres")
        user |= {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
        os.chown(state, owner.pw_uid, owner.pw_gid)
    data, port = state / "postgres", free_port()
    initdb = [programs / "initdb", "-D", data, "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8"]
    subprocess.run(initdb, check=True, stdout=log, stderr=log, **user)
    options = ["-p", str(port), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]
    with _process([programs / "postgres", "-D", data, *options], log, None, signal.SIGQUIT, **user):
        wait_port(port)
        yield port


@contextmanager
def _process(
    command: list[Any],
    log: Any,
    environment: dict[str, str] | None,
    stop: signal.Signals = signal.SIGTERM,
    **options: Any,
):
    process = subprocess.Popen(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env=environment,
        **options,
    )
    try:
        yield process
    finally:
        process.send_signal(stop)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait(done: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Poll until `done`; raises TimeoutError."""
    deadline = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come up in {timeout_s} s")
        time.sleep(0.02)


def wait_port(port: int, timeout_s: float = 60) -> None:
    """Wait until somebody listens on the loopback port."""

    def listens() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            return False
        return True

    wait(listens, timeout_s, f"port {port}")


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
