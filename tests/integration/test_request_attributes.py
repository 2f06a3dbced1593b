"""Which requests a series answers, in the index: looked up, told by the first instance, kept by changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from storage import changes, moving, search
from storage.attributes import BY_KEYWORD, Level
from storage.conditions import filters_of
from storage.criteria import Condition, Items, Patterns, Query, Texts
from storage.database import Database
from storage.received import RequestAttributes
from storage.removal import Scope
from storage.studies import Indexer

REQUESTS = BY_KEYWORD["RequestAttributesSequence"]
Make = Callable[..., Any]


def asked(**matches: tuple[str, ...] | Patterns) -> Condition:
    pairs = {key: value if isinstance(value, Patterns) else Texts(value) for key, value in matches.items()}
    return Condition(REQUESTS, Items(tuple(pairs.items())))


def series_found(database: Database, condition: Condition) -> list[str]:
    query = Query(Level.SERIES, (condition,))
    with database.autocommit() as connection:
        keys = search.keys(connection, search.Search(connection, query), limit=100, offset=0)
        return [row[0] for row in search.rows(connection, Level.SERIES, keys, [BY_KEYWORD["SeriesInstanceUID"]])]


@pytest.fixture
def filled(database: Database, make_received: Make) -> Database:
    """Thirty series of as many studies; a third answers no request."""
    received = [
        make_received(
            study_uid=f"1.{n}", series_uid=f"1.{n}.1", sop_uid=f"1.{n}.1.1",
            request_attributes=(RequestAttributes(f"S{n}", f"R{n // 2}", "A'\"\\x"),) if n % 3 else (),
        )
        for n in range(1, 31)
    ]  # fmt: skip
    Indexer(database).index(received)
    return database


def test_a_step_is_looked_up_in_its_index(filled: Database):
    (found,) = filters_of(asked(ScheduledProcedureStepID=("S4", "S5")), Level.SERIES, None, "k")
    with filled.transaction() as connection:
        connection.execute("SET LOCAL enable_seqscan = off")
        plan = connection.execute(f"EXPLAIN {found.candidates}".encode(), found.values).fetchall()
    assert "series_requests" in str(plan)


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        (asked(ScheduledProcedureStepID=("S4",)), ["1.4.1"]),
        (asked(ScheduledProcedureStepID=("S4",), RequestedProcedureID=("R2", "R9")), ["1.4.1"]),
        (asked(ScheduledProcedureStepID=("S4",), RequestedProcedureID=("R9",)), []),
        (asked(ScheduledProcedureStepID=("S3",)), []),
        (asked(ScheduledProcedureStepID=tuple(f"S{n}" for n in range(1, 31))), 20),  # more than are looked up
        (asked(RequestedProcedureID=Patterns(("R1?",))), 7),
        (asked(AccessionNumber=("A'\"\\x",), ScheduledProcedureStepID=("S1",)), ["1.1.1"]),
        (asked(AccessionNumber=('"}]',)), []),
        (asked(AccessionNumber=("\0\ud800",)), []),
    ],
)
def test_what_is_found(filled: Database, condition: Condition, found: list[str] | int):
    got = series_found(filled, condition)
    assert len(got) == found if isinstance(found, int) else got == found


def test_the_first_instance_of_a_series_tells_and_the_others_cost_nothing(database: Database, make_received: Make):
    indexer = Indexer(database)
    for number, step in enumerate(("FIRST", "OTHER")):
        indexer.index([
            make_received(study_uid="1.1", series_uid="1.1.1", sop_uid=f"1.1.1.{number}",
                          request_attributes=(RequestAttributes(step, "", ""),))
        ])  # fmt: skip
    assert (series_found(database, asked(ScheduledProcedureStepID=("FIRST",))),
            series_found(database, asked(ScheduledProcedureStepID=("OTHER",)))) == (["1.1.1"], [])  # fmt: skip


def test_a_series_that_moves_keeps_its_requests(filled: Database, make_received: Make):
    Indexer(filled).index([make_received(study_uid="1.4", series_uid="1.4.2", sop_uid="1.4.2.1")])
    by = changes.By(actor="ana", reason="wrong study")
    changes.write(
        filled, lambda connection: moving.split(connection, Scope(study_uid="1.4", series_uid="1.4.1"), "1.5", by)
    )
    with filled.autocommit() as connection:
        rows = connection.execute(
            "SELECT study_uid FROM series JOIN studies ON study_pk = study_fk"
            " WHERE request_attributes @> %s AND NOT series.hidden",
            (Jsonb([{"ScheduledProcedureStepID": "S4"}]),),
        ).fetchall()
    assert rows == [("1.5",)]
