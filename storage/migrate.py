"""The schema: SQL files in `schema/`, applied in the order of their numbers.

`NNNN_pre.sql` holds what old code tolerates (additions), `NNNN_post.sql` what only new code does (removals).
"""

from __future__ import annotations

import hashlib
from importlib import resources

import structlog

from storage.database import Connection, Database
from storage.errors import SettingsError

__all__ = ["migrate"]

log = structlog.get_logger()

_LOCK = 0x73616E67  # "sang": one migration at a time on a server
_TIMEOUTS = "SELECT set_config('lock_timeout', %s, false), set_config('statement_timeout', %s, false)"


def migrate(database: Database) -> list[str]:
    """Apply what is missing, each file in its own transaction; the names of the files that were applied now.

    Raises:
        SettingsError: the database was migrated by a newer or different sangloc.
        DatabaseUnavailable: it is away, or others hold locks for too long.
    """
    with database.connect() as connection:
        connection.execute(_TIMEOUTS, ("60s", "10min"))
        connection.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))  # freed when the connection closes
        connection.execute(_TIMEOUTS, ("5s", "10min"))
        connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_migrations (name text PRIMARY KEY, sha256 text NOT NULL,"
            " applied_at timestamptz NOT NULL DEFAULT now())"
        )
        files = _files()
        missing = _missing(connection, files)
        for name in missing:
            _apply(connection, name, files[name])
        return missing


def _files() -> dict[str, str]:
    found = [file for file in resources.files("storage.schema").iterdir() if file.name.endswith(".sql")]
    return {file.name: file.read_text("utf-8") for file in sorted(found, key=lambda file: file.name)}


def _missing(connection: Connection, files: dict[str, str]) -> list[str]:
    applied: dict[str, str] = dict(connection.execute("SELECT name, sha256 FROM schema_migrations").fetchall())
    for name, digest in applied.items():
        if name not in files:
            raise SettingsError(f"The database has migration {name}, which this version does not know: it is too old.")
        if digest != _digest(files[name]):
            raise SettingsError(f"Migration {name} is not the one that was applied to the database.")
    return [name for name in files if name not in applied]


def _apply(connection: Connection, name: str, sql: str) -> None:
    with connection.transaction():
        connection.execute(sql.encode())
        connection.execute("INSERT INTO schema_migrations (name, sha256) VALUES (%s, %s)", (name, _digest(sql)))
    log.info("migration applied", name=name)


def _digest(sql: str) -> str:
    return hashlib.sha256(sql.encode()).hexdigest()
