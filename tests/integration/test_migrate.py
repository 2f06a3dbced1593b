from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import resources

import pytest

from storage import migrate as module
from storage.database import Database
from storage.errors import SettingsError
from storage.migrate import migrate

SCHEMA = """
SELECT 'column', table_name, column_name, data_type || ' ' || is_nullable || coalesce(column_default, '')
FROM information_schema.columns WHERE table_schema = 'public'
UNION ALL SELECT 'index', tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
UNION ALL SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace
UNION ALL SELECT 'function', proname, '', pg_get_functiondef(oid) FROM pg_proc
    WHERE pronamespace = 'public'::regnamespace
ORDER BY 1, 2, 3"""


@pytest.fixture
def empty(empty_conninfo: str) -> Iterator[Database]:
    opened = Database(empty_conninfo)
    yield opened
    opened.close()


def schema(database: Database) -> list[tuple[str, ...]]:
    with database.autocommit() as connection:
        return connection.execute(SCHEMA).fetchall()


def test_all_files_are_applied_in_order_and_once(empty: Database) -> None:
    files = sorted(file.name for file in resources.files("storage.schema").iterdir() if file.name.endswith(".sql"))
    assert migrate(empty) == files
    made = schema(empty)
    assert migrate(empty) == []
    assert schema(empty) == made
    with empty.autocommit() as connection:
        recorded = connection.execute("SELECT name FROM schema_migrations ORDER BY name").fetchall()
    assert recorded == [(name,) for name in files]


def test_the_files_make_the_schema_that_the_queries_expect(empty: Database) -> None:
    migrate(empty)
    tables = {name for kind, name, *_ in schema(empty) if kind == "column"}
    assert tables >= {
        "patients", "studies", "name_words", "series", "instances", "set_aside", "jobs", "scores", "findings",
        "worklist", "workers", "audit", "schema_migrations", "peers", "changes", "changed_studies", "removed_instances",
        "rejection_notes", "purged_objects",
    }  # fmt: skip


def test_several_processes_that_start_at_once_migrate_once(empty: Database) -> None:
    with ThreadPoolExecutor(4) as pool:
        applied = list(pool.map(lambda _: migrate(empty), range(4)))
    assert sorted(map(len, applied))[:3] == [0, 0, 0]
    assert len(max(applied, key=len)) > 0


def test_a_file_that_fails_leaves_nothing_of_itself(empty: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"0001_pre.sql": "CREATE TABLE one (n int)", "0002_pre.sql": "CREATE TABLE two (n int); SELECT nonsense"}
    monkeypatch.setattr(module, "_files", lambda: files)
    with pytest.raises(Exception, match="nonsense"):
        migrate(empty)
    with empty.autocommit() as connection:
        assert connection.execute("SELECT to_regclass('one')::text, to_regclass('two')::text").fetchone() == (
            "one",
            None,
        )
    files["0002_pre.sql"] = "CREATE TABLE two (n int)"
    assert migrate(empty) == ["0002_pre.sql"]


def test_a_newer_database_is_refused(database: Database) -> None:
    with database.autocommit() as connection:
        connection.execute("INSERT INTO schema_migrations (name, sha256) VALUES ('9999_pre.sql', '')")
    with pytest.raises(SettingsError, match="9999_pre"):
        migrate(database)


def test_a_file_changed_after_it_was_applied_is_refused(database: Database) -> None:
    with database.autocommit() as connection:
        connection.execute("UPDATE schema_migrations SET sha256 = 'other' WHERE name = '0001_pre.sql'")
    with pytest.raises(SettingsError, match="0001_pre"):
        migrate(database)
