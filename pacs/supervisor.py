"""The process behind `sangloc up`: starts the parts, watches them, starts again what dies, drains them on stop.

It binds the listening sockets itself and hands them down, so a part that dies loses no connection that waits in the
backlog, and a port that is taken is found before anything runs. It reads no DICOM and serves no request.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal, cast

import structlog

from storage.embedded import EmbeddedPostgres
from storage.errors import SanglocError

__all__ = ["Kind", "Part", "Supervisor", "listen", "stop_on_signals"]

log = structlog.get_logger()

Kind = Literal["receiver", "worker", "exchange", "api"]
_STOP_ORDER: tuple[tuple[Kind, float], ...] = (
    ("receiver", 0.0),
    ("worker", 20.0),
    ("exchange", 10.0),
    ("api", 10.0),
)  # seconds each may take
_TICK_S = 0.1
_START_TIMEOUT_S = 120.0
_STARTS_BEFORE_READY = 3  # a part that dies so often before it was ever ready will not get ready
_BACK_OFF_S = (0.2, 10.0)
_STEADY_S = 30.0  # a part that ran so long has proved itself: the next restart comes at once
_LOG_MAX_BYTES = 20_000_000


@dataclass(slots=True)
class Part:
    """One process: how to start it and how it is doing."""

    kind: Kind
    number: int
    command: Sequence[str]
    descriptors: Sequence[int] = ()
    late: bool = False  # started when the others are ready, which nobody waits for
    process: subprocess.Popen[bytes] | None = None
    channel: socket.socket | None = None
    ready: bool = False
    was_ready: bool = False
    started_at: float = 0.0
    failures: int = 0
    start_after: float = 0.0

    @property
    def name(self) -> str:
        """As it is called in logs: receiver-1."""
        return f"{self.kind}-{self.number}"

    def start(self, environment: Mapping[str, str], logs: Path | None) -> None:
        """Start the process with its lifeline; its output goes to a file in `logs`, or where ours goes."""
        ours, theirs = socket.socketpair()
        with theirs, _output(logs, self.name) as output:
            self.process = subprocess.Popen(  # noqa: S603  this interpreter, this package
                [sys.executable, "-P", "-m", "pacs.cli", *self.command, "--lifeline", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=dict(environment),
                pass_fds=[*self.descriptors, theirs.fileno()],
                start_new_session=True,  # Ctrl-C in the terminal is for the supervisor alone
            )
        ours.setblocking(False)
        self.channel, self.ready, self.started_at = ours, False, time.monotonic()

    def look(self) -> None:
        """Take note of what the part said."""
        if self.channel is not None and not self.ready:
            with contextlib.suppress(OSError):
                self.ready = bool(self.channel.recv(16))
                self.was_ready = self.was_ready or self.ready

    def reap(self) -> int | None:
        """The exit status when the process has just ended; the next start is then due after a back-off."""
        if self.process is None or (status := self.process.poll()) is None:
            return None
        now = time.monotonic()
        self.failures = 0 if now - self.started_at > _STEADY_S else self.failures + 1
        shortest, longest = _BACK_OFF_S
        self.start_after = now + min(longest, shortest * 2 ** max(0, self.failures - 1))
        self.close()
        return status

    def close(self) -> None:
        """Forget the process, which has ended."""
        if self.channel is not None:
            self.channel.close()
        self.process, self.channel, self.ready = None, None, False


@dataclass(slots=True)
class Supervisor:
    """Keeps parts and, where it is embedded, the database running until `stop` is set."""

    parts: Sequence[Part]
    environment: Mapping[str, str]
    say: Callable[[str], None]
    drain_s: float
    on_drain: Callable[[], None]  # closes our copy of the sockets, so that new connections are refused
    logs: Path | None = None
    ready_file: Path | None = None
    ports: Mapping[str, int] = field(default_factory=dict)
    database: EmbeddedPostgres | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    hurry: threading.Event = field(default_factory=threading.Event)
    _announced: bool = False
    _written: str = ""
    _database_after: float = 0.0

    def run(self, on_ready: Callable[[], None] = lambda: None) -> None:
        """Start everything, call `on_ready` once when all are ready, watch until `stop`; then drain and return.

        Raises:
            SanglocError: a part does not start; the message ends with the last lines of its log.
        """
        if self.logs is not None:
            self.logs.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + _START_TIMEOUT_S
        try:
            while not self.stop.is_set():
                self._start_what_is_due()
                self._mind_the_database()
                self._mind_the_parts()
                if not self._announced and all(part.ready for part in self.parts if not part.late):
                    self._announced = True
                    self._start_what_is_due()
                    on_ready()
                if not self._announced and time.monotonic() > deadline:
                    late = next(part for part in self.parts if not part.ready and not part.late)
                    raise SanglocError(
                        f"{late.name} was not ready after {_START_TIMEOUT_S:.0f} s{self._last_words(late)}"
                    )
                self._write_ready_file()
                self.stop.wait(_TICK_S if self._announced else _TICK_S / 4)
        finally:
            self._drain()

    def pids(self) -> dict[str, list[int]]:
        """Process ids by kind of part."""
        found: dict[str, list[int]] = {kind: [] for kind, _ in _STOP_ORDER}
        for part in self.parts:
            if part.process is not None:
                found[part.kind].append(part.process.pid)
        database = self.database.pid if self.database is not None else None
        return found | {"database": [database] if database is not None else []}

    def _start_what_is_due(self) -> None:
        now = time.monotonic()
        for part in self.parts:
            if part.process is None and now >= part.start_after and (self._announced or not part.late):
                part.start(self.environment, self.logs)

    def _mind_the_parts(self) -> None:
        for part in self.parts:
            part.look()
            status = part.reap()
            if status is None:
                continue
            if not self._announced and not part.was_ready and (status == 2 or part.failures >= _STARTS_BEFORE_READY):
                raise SanglocError(f"{part.name} does not start{self._last_words(part)}")
            log.warning("part ended, starting it again", part=part.name, status=status, failures=part.failures)

    def _mind_the_database(self) -> None:
        if self.database is None or self.database.running or time.monotonic() < self._database_after:
            return
        log.warning("database ended, starting it again")
        try:
            self.database.start()
        except SanglocError as error:
            log.error("database does not start", error=str(error))
            self._database_after = time.monotonic() + _BACK_OFF_S[1]

    def _last_words(self, part: Part) -> str:
        if self.logs is None:
            return ""
        path = self.logs / f"{part.name}.log"
        lines = path.read_text("utf-8", "replace").splitlines()[-3:] if path.exists() else []
        return f" (log: {path})" + "".join(f"\n  {line}" for line in lines)

    def _write_ready_file(self) -> None:
        """The contract for outside tools: present while all parts were ready once, replaced when a process changes."""
        if self.ready_file is None or not self._announced:
            return
        text = json.dumps({**self.ports, "pids": self.pids()}) + "\n"
        if text != self._written:
            fresh = self.ready_file.with_suffix(".new")
            fresh.write_text(text)
            fresh.replace(self.ready_file)
            self._written = text

    def _drain(self) -> None:
        if self.ready_file is not None:
            self.ready_file.unlink(missing_ok=True)
        self.on_drain()
        for kind, patience_s in _STOP_ORDER:
            chosen = [part for part in self.parts if part.kind == kind and part.process is not None]
            self._end(chosen, patience_s or self.drain_s + 5)
        if self.database is not None:
            self.database.stop()

    def _end(self, parts: Sequence[Part], patience_s: float) -> None:
        for part in parts:
            assert part.process is not None
            part.process.terminate()
        deadline = time.monotonic() + patience_s
        for part in parts:
            assert part.process is not None
            while part.process.poll() is None and time.monotonic() < deadline and not self.hurry.is_set():
                time.sleep(0.02)
            if part.process.poll() is None:
                log.warning("part did not stop in time", part=part.name)
                part.process.kill()
                part.process.wait()
            part.close()


def listen(host: str, port: int, what: str, *, flag: str) -> socket.socket:
    """A listening socket that parts inherit; port 0 takes a free one.

    No SO_REUSEPORT: all parts share this one socket, and a second program on the same port must be refused, not served
    every other connection.

    Raises:
        SanglocError: the port is taken or not allowed; says which and what to do.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        both = host == "::" and socket.has_dualstack_ipv6()  # :: stands for every address, IPv4 too
        return socket.create_server(address[:2], family=family, backlog=1024, dualstack_ipv6=both)
    except OSError as error:
        raise SanglocError(
            f"The {what} port {port} on {host} cannot be used: {error.strerror or error}. Choose another with {flag} "
            "(0 takes a free one), or find who has it: ss -ltnp"
        ) from None


def stop_on_signals(supervisor: Supervisor) -> None:
    """SIGTERM, SIGINT and SIGHUP drain and stop; a second one stops without waiting for anybody."""

    def obey(number: int, _frame: object) -> None:
        if supervisor.stop.is_set():
            supervisor.hurry.set()
        else:
            supervisor.say(f"{signal.Signals(number).name}: stopping, running associations may finish")
        supervisor.stop.set()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, obey)


@contextlib.contextmanager
def _output(logs: Path | None, name: str) -> Iterator[BinaryIO | None]:
    """The log file to append to; one that has grown too long is started anew with the process."""
    if logs is None:
        yield None
        return
    path = logs / f"{name}.log"
    mode = "ab" if not path.exists() or path.stat().st_size < _LOG_MAX_BYTES else "wb"
    with path.open(mode) as output:
        yield cast("BinaryIO", output)
