"""The private PostgreSQL, as whoever runs these tests and, where that is root, as others."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from storage.embedded import EmbeddedPostgres
from storage.errors import DatabaseUnavailable, SettingsError

REPO = Path(__file__).parents[2]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become others")


@pytest.fixture
def server(fast_path: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(fast_path / "db")
    yield server
    server.stop()


def wait_for(done: Callable[[], bool], timeout_s: float = 15) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def one(conninfo: str, sql: str) -> object:
    with psycopg.connect(conninfo, connect_timeout=5) as connection:
        row = connection.execute(sql.encode()).fetchone()
        assert row is not None
        return row[0]


def make_table(conninfo: str) -> None:
    with psycopg.connect(conninfo) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS n")


def test_it_is_durable_and_keeps_its_rows_over_a_restart(server: EmbeddedPostgres) -> None:
    conninfo = server.start()
    for setting in ("fsync", "synchronous_commit", "full_page_writes"):
        assert one(conninfo, f"SHOW {setting}") == "on"
    assert one(conninfo, "SHOW listen_addresses") == ""
    make_table(conninfo)
    pid = server.pid
    assert pid is not None
    server.stop()
    assert not is_alive(pid)
    assert (server.running, server.pid) == (False, None)
    assert server.start() == conninfo
    assert one(conninfo, "SELECT n FROM kept") == 7
    assert server.start() == conninfo  # a second call does nothing


def test_a_second_start_on_a_running_database_is_refused(server: EmbeddedPostgres) -> None:
    conninfo = server.start()
    with pytest.raises(SettingsError, match="already run by another process"):
        EmbeddedPostgres(server.directory).start()
    assert one(conninfo, "SELECT 1") == 1


def test_it_starts_again_after_kill_9_of_the_postmaster_with_busy_backends(server: EmbeddedPostgres) -> None:
    conninfo = server.start()
    make_table(conninfo)
    busy = psycopg.connect(conninfo)
    busy.execute("INSERT INTO kept VALUES (8)")
    sleeper = psycopg.connect(conninfo, autocommit=True)
    sleeper.pgconn.send_query(b"SELECT pg_sleep(600)")
    backends = [busy.info.backend_pid, sleeper.info.backend_pid]
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    wait_for(lambda: not server.running)
    assert server.start() == conninfo
    assert one(conninfo, "SELECT sum(n) FROM kept") == 7
    assert not any(map(is_alive, backends))
    busy.close()
    sleeper.close()


def test_it_takes_over_from_a_parent_that_was_killed(server: EmbeddedPostgres) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from storage.embedded import EmbeddedPostgres\n"
        "server = EmbeddedPostgres(Path(sys.argv[1])); server.start(); print(server.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run(
        [sys.executable, "-c", script, server.directory], cwd=REPO, stdout=subprocess.PIPE, check=False, timeout=60
    )
    assert killed.returncode == -signal.SIGKILL
    orphan = int(killed.stdout)
    assert is_alive(orphan)
    assert one(server.start(), "SELECT 1") == 1
    assert not is_alive(orphan)


@pytest.mark.parametrize("pid", [str(os.getpid()), None], ids=["recycled", "empty"])
def test_lock_files_left_by_a_power_cut_are_no_hindrance(server: EmbeddedPostgres, pid: str | None) -> None:
    server.start()
    locks = [server.directory / "data" / "postmaster.pid", server.directory / "run" / ".s.PGSQL.5432.lock"]
    contents = [lock.read_text().splitlines()[1:] for lock in locks]
    server.stop()
    for lock, lines in zip(locks, contents, strict=True):
        lock.write_text("\n".join([pid, *lines]) if pid else "")
        shutil.chown(lock, (server.directory / "data").stat().st_uid)
    assert one(server.start(), "SELECT 1") == 1


def test_an_interrupted_creation_is_begun_anew(server: EmbeddedPostgres) -> None:
    half = server.directory / "data.new" / "base"
    half.mkdir(parents=True)
    (half.parent / "PG_VERSION").write_text("18\n")
    assert one(server.start(), "SELECT 1") == 1
    assert not half.exists()


def test_a_folder_that_was_deleted_under_a_running_database_can_be_used_again(server: EmbeddedPostgres) -> None:
    server.start()
    orphan = server.pid
    assert orphan is not None
    shutil.rmtree(server.directory)
    second = EmbeddedPostgres(server.directory)
    assert one(second.start(), "SELECT 1") == 1
    wait_for(lambda: not server.running)
    assert one(second.conninfo, "SELECT 1") == 1
    second.stop()


def test_another_major_version_is_refused(server: EmbeddedPostgres) -> None:
    server.start()
    server.stop()
    (server.directory / "data" / "PG_VERSION").write_text("16\n")
    with pytest.raises(SettingsError, match="made by PostgreSQL 16"):
        server.start()


def test_a_folder_that_is_no_database_is_refused_and_kept(server: EmbeddedPostgres) -> None:
    (server.directory / "data").mkdir(parents=True)
    (server.directory / "data" / "thesis.txt").write_text("precious")
    with pytest.raises(SettingsError, match="is no database"):
        server.start()
    assert (server.directory / "data" / "thesis.txt").read_text() == "precious"


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "db").write_text("")
    with pytest.raises(SettingsError, match="cannot be used"):
        EmbeddedPostgres(tmp_path / "db").start()


def test_a_start_that_fails_shows_the_log_and_frees_the_folder(server: EmbeddedPostgres) -> None:
    server.start()
    server.stop()
    configuration = server.directory / "data" / "postgresql.conf"
    sound = configuration.read_text()
    configuration.write_text("no_such_setting = 1\n")
    with pytest.raises(DatabaseUnavailable, match="no_such_setting"):
        server.start()
    configuration.write_text(sound)
    assert one(server.start(), "SELECT 1") == 1


def test_a_long_path_is_no_hindrance(fast_path: Path) -> None:
    server = EmbeddedPostgres(fast_path / ("long" * 30))
    try:
        assert one(server.start(), "SELECT 1") == 1
    finally:
        server.stop()
        shutil.rmtree(server._socket_directory)


def test_a_socket_folder_made_by_somebody_else_is_refused(fast_path: Path) -> None:
    server = EmbeddedPostgres(fast_path / ("long" * 30))
    sockets = server._socket_directory
    sockets.mkdir(mode=0o777)
    sockets.chmod(0o777)
    try:
        with pytest.raises(SettingsError, match="alone"):
            server.start()
    finally:
        shutil.rmtree(sockets)


def capabilities(pid: int) -> int:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("CapEff"))
    return int(line.split()[1], 16)


@as_root
@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_as_root_the_server_is_unprivileged_also_below_closed_folders(
    server: EmbeddedPostgres, fast_path: Path, mode: int
) -> None:
    fast_path.chmod(mode)
    assert one(server.start(), "SELECT 1") == 1
    assert server.pid is not None
    assert Path(f"/proc/{server.pid}").stat().st_uid == 65534
    dac_override = 1 << 1
    assert capabilities(server.pid) in ({0, dac_override} if mode == 0o755 else {dac_override})


@as_root
def test_another_user_is_not_let_in_even_past_the_folder(server: EmbeddedPostgres) -> None:
    conninfo = server.start()
    past = [
        "setpriv",
        "--reuid=1",
        "--regid=1",
        "--clear-groups",
        "--inh-caps=+dac_override",
        "--ambient-caps=+dac_override",
    ]
    script = f"import psycopg; psycopg.connect({conninfo!r})"
    refused = subprocess.run(
        [*past, sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=30
    )
    assert "Peer authentication failed" in refused.stderr


@as_root
def test_an_ordinary_user_runs_it_as_itself_and_root_can_take_over(fast_path: Path) -> None:
    fast_path.chmod(0o777)
    become = ["setpriv", "--reuid=1", "--regid=1", "--clear-groups"]
    read_anywhere = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]  # Python may lie below /root
    script = (
        "import os, sys, psycopg; from pathlib import Path; from storage.embedded import EmbeddedPostgres\n"
        "server = EmbeddedPostgres(Path(sys.argv[1])); connection = psycopg.connect(server.start())\n"
        "connection.execute('CREATE TABLE kept AS SELECT 7 AS n'); connection.commit(); connection.close()\n"
        "print(os.stat(f'/proc/{server.pid}').st_uid); server.stop()"
    )
    done = subprocess.run(
        [*become, *read_anywhere, sys.executable, "-c", script, fast_path / "db"],
        cwd=REPO, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
    server = EmbeddedPostgres(fast_path / "db")
    try:
        assert one(server.start(), "SELECT n FROM kept") == 7
        assert Path(f"/proc/{server.pid}").stat().st_uid == 1
    finally:
        server.stop()


@as_root
def test_an_ordinary_user_is_told_that_the_database_belongs_to_another(
    server: EmbeddedPostgres, fast_path: Path
) -> None:
    fast_path.chmod(0o777)
    server.start()
    server.stop()
    server.directory.chmod(0o777)
    (server.directory / "lock").chmod(0o666)
    script = (
        "import sys; from pathlib import Path; from storage.embedded import EmbeddedPostgres\n"
        "EmbeddedPostgres(Path(sys.argv[1])).start()"
    )
    become = ["setpriv", "--reuid=1", "--regid=1", "--clear-groups", "--inh-caps=+dac_read_search"]
    refused = subprocess.run(
        [*become, "--ambient-caps=+dac_read_search", sys.executable, "-c", script, server.directory],
        cwd=REPO, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert "belongs to another user" in refused.stderr
