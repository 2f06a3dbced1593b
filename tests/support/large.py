"""A database of thousands of studies, and how many of its rows a query touches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from storage.database import Connection, Database

__all__ = ["filled", "touched"]


@contextmanager
def filled(postgres: str, template: str, name: str, sql: str, **values: Any) -> Iterator[Database]:
    """A database of this name, filled by the statements, to be read only; dropped afterwards."""
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    database = Database(make_conninfo(postgres, dbname=name))
    with psycopg.ClientCursor(psycopg.connect(database.conninfo, autocommit=True)) as cursor, cursor.connection:
        cursor.execute(sql, values)
        cursor.execute("VACUUM ANALYZE")
    yield database
    database.close()
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def touched(connection: Connection, query: Callable[[], object]) -> tuple[int, int]:
    """Rows that a query reads by whole-table scans, and rows that it fetches through indexes."""
    sql = "SELECT sum(seq_tup_read)::int, sum(idx_tup_fetch)::int FROM pg_stat_xact_user_tables"
    before = connection.execute(sql).fetchone()
    query()
    after = connection.execute(sql).fetchone()
    assert before is not None
    assert after is not None
    return after[0] - before[0], after[1] - before[1]
