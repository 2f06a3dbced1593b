"""From what was committed to the queues of destinations, by rules.

Rules are applied behind a cursor over `instance_pk`, so ingest does nothing for forwarding. Keys are given before they
are committed, so a key can appear after a higher one was seen: the cursor only passes keys of which every transaction
that may still bring a lower one has ended (`Horizon`). Nothing is skipped, and nothing is queued twice: the queue has
one row for an instance and a destination, and keeps it when it is done.
"""

# ruff: noqa: S608 - the statements are put together from constants only

from __future__ import annotations

from typing import LiteralString, NamedTuple

from storage.database import Connection

__all__ = ["Horizon", "Marks", "apply_rules"]

_BATCH = 5_000  # keys that are looked at in one transaction


class Marks(NamedTuple):
    """Keys up to which everything is committed or never will be."""

    instance_pk: int
    score_pk: int


class Horizon:
    """Finds marks without locking anybody out; keeps its question between two looks.

    A writer holds its table lock before it is given a key, and lets go of it after its commit is visible. So when every
    transaction that held such a lock after the last key was read has ended, all keys up to that one are settled.
    """

    def __init__(self) -> None:
        self._asked: tuple[Marks, set[str]] | None = None

    def look(self, connection: Connection) -> Marks | None:
        """Marks once they are settled, else None: look again a moment later."""
        if self._asked is None:
            marks = connection.execute(_LAST_KEYS).fetchone()
            assert marks is not None
            self._asked = (Marks(*marks), _writers(connection))
        else:
            self._asked[1].intersection_update(_writers(connection))
        marks_asked, writers = self._asked
        if writers:
            return None
        self._asked = None
        return marks_asked


_LAST_KEYS = """
SELECT coalesce(pg_sequence_last_value(pg_get_serial_sequence('instances', 'instance_pk')), 0),
    coalesce(pg_sequence_last_value(pg_get_serial_sequence('scores', 'score_pk')), 0)"""


def _writers(connection: Connection) -> set[str]:
    found = connection.execute(
        "SELECT virtualtransaction FROM pg_locks WHERE locktype = 'relation' AND mode = 'RowExclusiveLock' AND granted"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        " AND relation IN ('instances'::regclass, 'scores'::regclass)"
    )
    return {holder for (holder,) in found}


# ---- rules

_MATCHING: LiteralString = """
JOIN LATERAL (SELECT * FROM series WHERE series_pk = i.series_fk AND NOT hidden OFFSET 0) AS e ON true
JOIN LATERAL (SELECT * FROM studies WHERE study_pk = i.study_fk AND NOT hidden OFFSET 0) AS s ON true
JOIN forwarding_rules AS r ON r.enabled
    AND (r.source_aets = '{}' OR i.source_aet = ANY(r.source_aets))
    AND (r.modalities = '{}' OR e.modality = ANY(r.modalities))
    AND (r.sites = '{}' OR s.site = ANY(r.sites))
    AND (r.sop_classes = '{}' OR i.sop_class = ANY(r.sop_classes))
    AND (NOT r.flagged_only OR EXISTS (SELECT FROM worklist WHERE study_fk = i.study_fk AND flagged))
JOIN forwarding_destinations AS d ON d.destination_pk = r.destination_fk
LEFT JOIN peers AS p ON p.name = d.peer
WHERE NOT i.hidden AND (p.aet IS NULL OR p.aet = '' OR i.source_aet <> p.aet)"""  # nobody gets back what he sent
_NEW: LiteralString = (
    "FROM (SELECT * FROM instances WHERE instance_pk > %(after)s AND instance_pk <= %(until)s) AS i " + _MATCHING
)
_FLAGGED: LiteralString = (
    "FROM (SELECT i.* FROM (SELECT DISTINCT study_fk FROM scores WHERE score_pk > %(after)s AND score_pk <= %(until)s"
    " AND flagged) AS c JOIN series AS n ON n.study_fk = c.study_fk JOIN instances AS i ON i.series_fk = n.series_pk)"
    " AS i " + _MATCHING + " AND r.flagged_only"
)
_ONE_RULE: LiteralString = " AND r.rule_pk = %(rule)s"


def apply_rules(connection: Connection, marks: Marks, settle_s: float) -> bool:
    """Queue what the rules want, up to `marks` or a batch of it; whether more is left. Call it in a transaction.

    Args:
        connection: in a transaction of its own.
        marks: from `Horizon`.
        settle_s: a study is announced when nothing came to it for so long.
    """
    row = connection.execute("SELECT instance_pk, score_pk FROM forwarding_cursor FOR UPDATE").fetchone()
    assert row is not None
    reached = Marks(*row)
    rules = connection.execute("SELECT count(*) FROM forwarding_rules WHERE enabled").fetchone()
    if rules == (0,):
        _move(connection, reached, Marks(max(marks[0], reached[0]), max(marks[1], reached[1])))
        return False
    until = Marks(*(max(at, min(mark, at + _BATCH)) for at, mark in zip(reached, marks, strict=True)))
    if until.instance_pk > reached.instance_pk:
        _queue(connection, _NEW, settle_s, after=reached.instance_pk, until=until.instance_pk)
    if until.score_pk > reached.score_pk:
        _queue(connection, _FLAGGED, settle_s, after=reached.score_pk, until=until.score_pk)
    _move(connection, reached, until)
    return _fill_back(connection, settle_s) or until.instance_pk < marks.instance_pk or until.score_pk < marks.score_pk


def _move(connection: Connection, reached: Marks, until: Marks) -> None:
    if until != reached:
        connection.execute("UPDATE forwarding_cursor SET instance_pk = %s, score_pk = %s", until)


def _fill_back(connection: Connection, settle_s: float) -> bool:
    """One batch of what was there before a rule was made; whether any rule has more."""
    behind = connection.execute(
        "SELECT rule_pk, backfill_at, backfill_until FROM forwarding_rules"
        " WHERE enabled AND backfill_at < backfill_until ORDER BY rule_pk LIMIT 1"
    ).fetchone()
    if behind is None:
        return False
    rule, after, last = behind
    until = min(last, after + _BATCH)
    _queue(connection, _NEW + _ONE_RULE, settle_s, after=after, until=until, rule=rule)
    connection.execute("UPDATE forwarding_rules SET backfill_at = %s WHERE rule_pk = %s", (until, rule))
    return True


def _queue(connection: Connection, found: LiteralString, settle_s: float, **range_of: int) -> None:
    connection.execute(
        "INSERT INTO forwarding_queue (destination_fk, instance_fk, urgency)"
        " SELECT r.destination_fk, i.instance_pk, max(r.urgency) "
        + found
        + " AND d.method <> 'ian' GROUP BY 1, 2 ORDER BY 2, 1 ON CONFLICT (instance_fk, destination_fk) DO NOTHING",
        range_of,
    )
    connection.execute(
        "INSERT INTO availability_notices (destination_fk, study_fk, run_after)"
        " SELECT DISTINCT r.destination_fk, i.study_fk, now() + make_interval(secs => %(settle_s)s) "
        + found
        + " AND d.method = 'ian' ORDER BY 2, 1 ON CONFLICT (study_fk, destination_fk) DO UPDATE SET state = 'waiting',"
        " run_after = excluded.run_after, attempts = 0, error = '', changed_at = now()",
        {**range_of, "settle_s": settle_s},
    )
