"""`sangloc up` and `sangloc down`: one data folder, one running system."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from pydantic import SecretStr

from pacs import parts
from pacs.settings import Settings
from pacs.sources import PREFIX, environment
from pacs.supervisor import Part, Supervisor, listen, stop_on_signals
from storage.embedded import EmbeddedPostgres
from storage.errors import DatabaseUnavailable, SanglocError
from storage.migrate import migrate

__all__ = ["READY_FILE", "database_at_hand", "down", "receive", "running_pid", "up"]

READY_FILE = "ready.json"
_LOCK_FILE = "sangloc.lock"
_DATABASE_PATIENCE_S = 60.0


def up(settings: Settings, say: Callable[[str], None]) -> None:
    """Run everything on the data folder of the settings until SIGTERM or SIGINT.

    Raises:
        SanglocError: the folder is in use, a port is taken, the database is away, or a part does not start.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # until the supervisor takes over: leave by the way we came
    with _lock(settings.data), contextlib.ExitStack() as stack:
        (settings.data / READY_FILE).unlink(missing_ok=True)  # of a supervisor that was killed
        dicom = stack.enter_context(listen(settings.dicom.host, settings.dicom.port, "DICOM", flag="--dicom-port"))
        http = stack.enter_context(listen(settings.http.host, settings.http.port, "HTTP", flag="--http-port"))
        hl7 = _hl7_listener(settings, stack)
        embedded = None
        if settings.database.url is None:
            embedded = EmbeddedPostgres(settings.data / "postgres")
            stack.callback(embedded.stop)
            settings = _with_database(settings, embedded.start())
        _migrate(settings, say)
        parts.object_store(settings).check()
        ports = {"dicom": dicom.getsockname()[1], "http": http.getsockname()[1]}
        listening = contextlib.ExitStack()
        listening.callback(dicom.close)
        if hl7 is not None:
            ports["hl7"] = hl7.getsockname()[1]
            listening.callback(hl7.close)
        supervisor = Supervisor(
            parts=[
                *_receivers(settings, dicom.fileno()),
                *(Part("worker", 1 + n, ["triage"]) for n in range(settings.worker.count)),
                _exchange(hl7),
                Part("api", 1, ["serve", "--listen-fd", str(http.fileno())], [http.fileno()]),
            ],
            environment=_child_environment(settings),
            logs=settings.data / "logs",
            ready_file=settings.data / READY_FILE,
            ports=ports,
            database=embedded,
            drain_s=settings.dicom.drain_timeout_s,
            say=say,
            on_drain=listening.close,
        )
        stop_on_signals(supervisor)
        supervisor.run(lambda: say(_ready_line(settings, ports)))


def receive(settings: Settings, say: Callable[[str], None]) -> None:
    """Run only receivers, one a core behind one port, against the database and object store of the settings."""
    parts.database(settings, "receiver").check()
    parts.object_store(settings).check()
    with listen(settings.dicom.host, settings.dicom.port, "DICOM", flag="--dicom-port") as dicom:
        port = dicom.getsockname()[1]
        supervisor = Supervisor(
            parts=_receivers(settings, dicom.fileno()),
            environment=_child_environment(settings),
            drain_s=settings.dicom.drain_timeout_s,
            say=say,
            on_drain=dicom.close,
        )
        stop_on_signals(supervisor)
        supervisor.run(lambda: say(f"receiving as {settings.dicom.ae_title} on port {port}"))


def down(data: Path, timeout_s: float) -> int:
    """Ask the system on `data` to drain and stop, wait for it, and return its process id.

    Raises:
        SanglocError: nothing runs there, or it did not stop in time.
    """
    pid = running_pid(data)
    if pid is None:
        raise SanglocError(f"no sangloc runs on {data}")
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + timeout_s
    while running_pid(data) == pid:
        if time.monotonic() > deadline:
            raise SanglocError(f"sangloc (process {pid}) did not stop within {timeout_s:.0f} s; see {data / 'logs'}")
        time.sleep(0.05)
    return pid


def running_pid(data: Path) -> int | None:
    """Process id of the supervisor that holds the folder, None when nobody does."""
    try:
        descriptor = os.open(data / _LOCK_FILE, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return int(os.read(descriptor, 20) or b"0")
    finally:
        os.close(descriptor)
    return None


@contextlib.contextmanager
def database_at_hand(settings: Settings) -> Iterator[Settings]:
    """The settings with a database that answers: the given one, that of the system that runs on the folder, or the
    folder's own, started for as long as the context lasts.
    """
    if settings.database.url is not None:
        yield settings
        return
    embedded = EmbeddedPostgres(settings.data / "postgres")
    if running_pid(settings.data) is not None:
        yield _with_database(settings, embedded.conninfo)
        return
    with _lock(settings.data):
        try:
            settings = _with_database(settings, embedded.start())
            migrate(parts.database(settings, "migrate"))
            yield settings
        finally:
            embedded.stop()


@contextlib.contextmanager
def _lock(data: Path) -> Iterator[None]:
    """Hold the folder; the kernel lets go of it when the process ends in whatever way."""
    try:
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(data / _LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise SanglocError(f"the data folder {data} cannot be used: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise SanglocError(
            f"sangloc already runs on {data} (process {running_pid(data)}); stop it with: sangloc down --data {data}"
        ) from None
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        yield
    finally:
        os.close(descriptor)


def _hl7_listener(settings: Settings, stack: contextlib.ExitStack) -> socket.socket | None:
    """The socket for HL7 messages, where the settings ask for one."""
    if settings.hl7.port is None:
        return None
    return stack.enter_context(listen(settings.hl7.host, settings.hl7.port, "HL7", flag="SANGLOC_HL7_PORT"))


def _exchange(hl7: socket.socket | None) -> Part:
    if hl7 is None:
        return Part("exchange", 1, ["exchange"], late=True)
    return Part("exchange", 1, ["exchange", "--listen-fd", str(hl7.fileno())], [hl7.fileno()], late=True)


def _receivers(settings: Settings, listen_fd: int) -> list[Part]:
    count = settings.dicom.receivers or parts.cores()
    return [Part("receiver", 1 + n, ["receive", "--listen-fd", str(listen_fd)], [listen_fd]) for n in range(count)]


def _with_database(settings: Settings, conninfo: str) -> Settings:
    chosen = settings.database.model_copy(update={"url": SecretStr(conninfo)})
    return settings.model_copy(update={"database": chosen})


def _child_environment(settings: Settings) -> Mapping[str, str]:
    """Ours without other settings; the children read neither our file nor our flags."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    absolute = settings.model_copy(update={"data": settings.data.absolute()})
    # Without the cap glibc makes an arena for each thread and the receivers' memory creeps up.
    return kept | environment(absolute) | {"SANGLOC_CONFIG": "", "MALLOC_ARENA_MAX": "2", "PYTHONUNBUFFERED": "1"}


def _migrate(settings: Settings, say: Callable[[str], None]) -> None:
    """Bring the schema up to date; a database that is not there yet gets a minute to come."""
    deadline, told = time.monotonic() + _DATABASE_PATIENCE_S, False
    database = parts.database(settings, "migrate")
    while True:
        try:
            migrate(database)
        except DatabaseUnavailable as error:
            if time.monotonic() > deadline:
                raise
            if not told:
                say(f"waiting for the database: {str(error).splitlines()[0]}")
            told = True
            time.sleep(1.0)
        else:
            database.close()
            return


def _ready_line(settings: Settings, ports: Mapping[str, int]) -> str:
    host = settings.http.host if settings.http.host not in {"0.0.0.0", "::"} else "127.0.0.1"  # noqa: S104  shown, not bound
    return (
        f"sangloc is ready: DICOM {settings.dicom.ae_title} on port {ports['dicom']}, worklist http://{host}:{ports['http']}/"
        f" (stop: Ctrl-C or sangloc down --data {settings.data})"
    )
