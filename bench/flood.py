"""An archive with as many studies as wanted, made straight in its database: rows without objects.

    python -m bench.flood --studies 5000000     # about 10,000,000 instances

The folder stays under `bench/run/data` and is a data folder of `sangloc up`. It is made again when it is another
schema's; migrations that came since are applied to it. Studies come in the order of their dates, with two instances
each on average: radiographs of one or two views, ultrasound, mammography, CT. Two patients in five studies are new.
"""

from __future__ import annotations

import argparse
import datetime as dt
import hashlib
import json
import os
import random
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import psycopg

from bench.flood_rows import FILL, TABLES, names, profiles
from storage import embedded
from storage.database import Database
from storage.migrate import migrate

VERSION = 1  # of the rows
PER_DAY, MOST_DAYS, LAST_DAY = 100, 5_475, dt.date(2026, 6, 30)  # 15 years, or fewer with fewer studies
CHUNK = 1_000_000  # studies a statement
OPEN_STUDIES = 2_000  # at most, the latest ones: the others were read
ROOT = Path(__file__).resolve().parents[1]

# The server while it fills: nothing is there to lose, and a table that a transaction emptied needs no log.
_FAST = {
    "fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "wal_level": "minimal",
    "max_wal_senders": "0", "max_wal_size": "16GB", "checkpoint_timeout": "1h", "autovacuum": "off",
    "shared_buffers": "1GB", "maintenance_work_mem": "1500MB", "work_mem": "256MB", "synchronize_seqscans": "off",
}  # fmt: skip


def flooded(folder: Path, studies: int) -> Path:
    """The data folder with that many studies; made where it is missing, brought to the schema of today."""
    marker = folder / "flood.json"
    known = json.loads(marker.read_text()) if marker.exists() else {}
    today = _migrations()
    wanted = {"version": VERSION, "studies": studies}
    same = all(today.get(name) == digest for name, digest in known.get("migrations", {}).items())
    if same and all(known.get(key) == value for key, value in wanted.items()):
        if known["migrations"] != today:
            with _server(folder) as conninfo:
                _to_schema(conninfo)
    else:
        shutil.rmtree(folder, ignore_errors=True)
        with _server(folder) as conninfo:
            fill(conninfo, studies)
    marker.write_text(json.dumps({**wanted, "migrations": today}))
    return folder


def fill(conninfo: str, studies: int, *, quiet: bool = False) -> None:
    """Migrate the empty database and fill it; `studies` is a multiple of 5."""
    database = Database(conninfo)
    migrate(database)
    database.close()
    say = (lambda _: None) if quiet else _Clock().say
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("SET client_min_messages = warning")
        _helpers(connection, studies)
        with _without_indexes(connection, say):
            for table in TABLES:
                _fill_table(connection, table, studies)
                say(table)
        connection.execute("DROP TABLE flood_names, flood_profiles")
        connection.execute("VACUUM (FREEZE, ANALYZE)")
        say("VACUUM")


def _fill_table(connection: psycopg.Connection[Any], table: str, studies: int) -> None:
    """In one transaction, so that the rows need no log."""
    days = min(MOST_DAYS, max(1, studies // PER_DAY))
    values = {
        "studies": studies, "days": days, "first_day": LAST_DAY - dt.timedelta(days=days - 1),
        "open_from": studies - min(OPEN_STUDIES, studies // 10),
    }  # fmt: skip
    with connection.transaction():
        connection.execute(f"TRUNCATE {table}")
        for start in range(0, studies, CHUNK):
            part = {**values, "start": start, "end": min(start + CHUNK, studies) - 1}
            connection.execute(FILL[table], part, prepare=False)
    connection.execute(f"ANALYZE {table}")
    identity = connection.execute(
        "SELECT column_name FROM information_schema.columns WHERE table_name = %s AND is_identity = 'YES'", (table,)
    ).fetchone()
    if identity is not None:
        connection.execute(
            f"SELECT setval(pg_get_serial_sequence('{table}', '{identity[0]}'), max({identity[0]})) FROM {table}"
        )


def _helpers(connection: psycopg.Connection[Any], studies: int) -> None:
    connection.execute("CREATE TABLE flood_names (number int PRIMARY KEY, name text, key text, sex text)")
    with connection.cursor().copy("COPY flood_names FROM STDIN") as copy:
        for row in names(min(20_000, max(100, studies)), random.Random(18)):
            copy.write_row(row)
    connection.execute(
        "CREATE TABLE flood_profiles (dice int, modality text, study_description text, series_number int, images int,"
        " series_description text, body_part text, views text[], sop_class text, transfer_syntax text, rows int,"
        " columns int, bits int, photometric text, image_type text, object_size bigint, modalities text[])"
    )
    with connection.cursor().copy("COPY flood_profiles FROM STDIN") as copy:
        for line in profiles():
            copy.write_row(line)
    connection.execute("ANALYZE flood_names, flood_profiles")


@contextmanager
def _without_indexes(connection: psycopg.Connection[Any], say: Any) -> Iterator[None]:
    """Keys, indexes and triggers of the tables are dropped, and made again behind the rows."""
    tables = [f"public.{table}" for table in TABLES]
    constraints = connection.execute(
        "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = ANY"
        " ('{f,p,u}') AND (conrelid = ANY(%(tables)s::regclass[]) OR confrelid = ANY(%(tables)s::regclass[]))"
        " ORDER BY contype <> 'f', oid",  # foreign keys stand on the others
        {"tables": tables},
    ).fetchall()
    for table, name, _ in constraints:
        connection.execute(f'ALTER TABLE {table} DROP CONSTRAINT "{name}"')
    indexes = connection.execute(
        "SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index"
        " WHERE indrelid = ANY(%s::regclass[]) ORDER BY indexrelid",
        (tables,),
    ).fetchall()
    for name, _ in indexes:
        connection.execute(f"DROP INDEX {name}")
    for table in tables:
        connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
    yield
    for table, name, definition in (c for c in constraints if not c[2].startswith("FOREIGN")):
        connection.execute(f'ALTER TABLE {table} ADD CONSTRAINT "{name}" {definition}')
        say(name)
    for name, definition in indexes:
        connection.execute(definition)
        say(name)
    for table, name, definition in (c for c in constraints if c[2].startswith("FOREIGN")):
        connection.execute(f'ALTER TABLE {table} ADD CONSTRAINT "{name}" {definition}')
    for table in tables:
        connection.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER")
    say("foreign keys")


@contextmanager
def _server(folder: Path) -> Iterator[str]:
    """The folder's own PostgreSQL with the settings for filling; all is on the disk when it has stopped."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = dict(embedded._SETTINGS)
    embedded._SETTINGS.update(_FAST)
    server = embedded.EmbeddedPostgres(folder / "postgres")
    try:
        conninfo = server.start()
        yield conninfo
        with psycopg.connect(conninfo, autocommit=True) as connection:
            connection.execute("CHECKPOINT")
    finally:
        server.stop()
        embedded._SETTINGS.clear()
        embedded._SETTINGS.update(kept)
        os.sync()


def _to_schema(conninfo: str) -> None:
    database = Database(conninfo)
    applied = migrate(database)
    database.close()
    print(f"  applied {', '.join(applied) or 'nothing'}", flush=True)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")


def _migrations() -> dict[str, str]:
    files = [file for file in resources.files("storage.schema").iterdir() if file.name.endswith(".sql")]
    return {file.name: hashlib.sha256(file.read_text("utf-8").encode()).hexdigest() for file in files}


class _Clock:
    def __init__(self) -> None:
        self._begun = self._last = time.monotonic()

    def say(self, what: str) -> None:
        now = time.monotonic()
        print(f"  {now - self._begun:7.1f} s  {what} ({now - self._last:.1f} s)", flush=True)
        self._last = now


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=50_000, help="a multiple of 5")
    parser.add_argument("--folder", type=Path, help="data folder (bench/run/data/flood-STUDIES)")
    options = parser.parse_args()
    os.nice(19)  # it may take long: others go first
    folder = options.folder or ROOT / "bench" / "run" / "data" / f"flood-{options.studies}"
    print(flooded(folder.resolve(), options.studies))


if __name__ == "__main__":
    main()
