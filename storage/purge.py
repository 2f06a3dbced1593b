"""When the grace time of a deletion or rejection is over: rows go in one transaction, objects after its commit.

The keys of the objects are written in that transaction (`purged_objects`), so that a crash in between leaves nothing
behind. The history and the audit log stay. Rejected UIDs stay known as well: what comes again under them is hidden.
"""

from __future__ import annotations

from collections.abc import Sequence

from storage import audit
from storage.database import Connection
from storage.removal import RETURNING

__all__ = ["doomed_objects", "forget_objects", "is_due", "purge"]

_BATCH = 200  # instances: ingest waits for some 20 ms
_ACTOR = "sangloc"

_EXPIRED = "c.purge_after <= now() AND c.purged_at IS NULL AND c.restored_at IS NULL"
_DOOMED = f"""
SELECT DISTINCT i.instance_pk, i.object_key, i.series_fk, i.study_fk, i.sop_uid
FROM changes AS c JOIN removed_instances AS r ON r.change_fk = c.change_pk JOIN instances AS i ON i.sop_uid = r.sop_uid
WHERE {_EXPIRED} AND i.hidden AND NOT EXISTS (
    SELECT FROM removed_instances AS x JOIN changes AS o ON o.change_pk = x.change_fk
    WHERE x.sop_uid = r.sop_uid AND (o.purge_after IS NULL OR o.purge_after > now()))
    AND NOT EXISTS (SELECT FROM jobs WHERE instance_fk = i.instance_pk AND state = 'running')
ORDER BY i.instance_pk LIMIT {_BATCH}"""  # noqa: S608 - constants


def is_due(connection: Connection) -> bool:
    """Whether the grace time of anything is over."""
    sql = f"SELECT EXISTS (SELECT FROM changes AS c WHERE {_EXPIRED})"  # noqa: S608 - constants
    return connection.execute(sql.encode()).fetchone() == (True,)


def purge(connection: Connection) -> int:
    """Remove the rows of some instances whose grace time is over, in a transaction of `changes.begin`; how many.

    Empty series, studies and patients go along; keys of objects are left in `purged_objects`.
    """
    doomed = connection.execute(_DOOMED.encode()).fetchall()
    connection.execute(
        "INSERT INTO purged_objects SELECT unnest(%s::text[]) ON CONFLICT DO NOTHING", ([row[1] for row in doomed],)
    )
    for study_pk in sorted({row[3] for row in doomed}):
        uids = sorted(row[4] for row in doomed if row[3] == study_pk)
        found = connection.execute("SELECT study_uid FROM studies WHERE study_pk = %s", (study_pk,)).fetchone()
        audit.add(connection, _ACTOR, "study.purged", found[0] if found else "", {"sop_uids": uids})
    connection.execute("DELETE FROM instances WHERE instance_pk = ANY(%s)", ([row[0] for row in doomed],))
    _drop_empty(connection, sorted({row[2] for row in doomed}), sorted({row[3] for row in doomed}))
    _close(connection)
    return len(doomed)


def _drop_empty(connection: Connection, series_pks: Sequence[int], study_pks: Sequence[int]) -> None:
    """Series without instances, studies without series, patients without studies; pointers to them, too."""
    empty = connection.execute(
        "SELECT series_pk FROM series WHERE series_pk = ANY(%s) AND moved_to IS NULL"
        " AND NOT EXISTS (SELECT FROM instances WHERE series_fk = series_pk)",
        (list(series_pks),),
    ).fetchall()
    keys = [pk for (pk,) in empty]
    connection.execute("DELETE FROM series WHERE moved_to = ANY(%s)", (keys,))
    connection.execute("DELETE FROM series WHERE series_pk = ANY(%s)", (keys,))
    gone = connection.execute(
        "SELECT study_pk FROM studies WHERE study_pk = ANY(%s)"
        " AND NOT EXISTS (SELECT FROM series WHERE study_fk = study_pk)",
        (list(study_pks),),
    ).fetchall()
    patients = connection.execute(  # with those that were merged into one that is gone: later instances make a new one
        "DELETE FROM studies WHERE study_pk = ANY(%(keys)s) OR moved_to = ANY(%(keys)s) RETURNING patient_fk",
        {"keys": [pk for (pk,) in gone]},
    ).fetchall()
    connection.execute(
        "DELETE FROM patients AS p WHERE patient_pk = ANY(%s) AND merged_into IS NULL"
        " AND NOT EXISTS (SELECT FROM studies WHERE patient_fk = p.patient_pk)"
        " AND NOT EXISTS (SELECT FROM patients AS o WHERE o.merged_into = p.patient_pk)",
        ([pk for (pk,) in patients],),
    )


def _close(connection: Connection) -> None:
    """Changes of which nothing is left are done; UIDs that may come again are forgotten."""
    closed = connection.execute(
        f"UPDATE changes AS c SET purged_at = clock_timestamp() WHERE {_EXPIRED} AND NOT EXISTS ("  # noqa: S608
        " SELECT FROM removed_instances AS r JOIN instances AS i ON i.sop_uid = r.sop_uid"
        " WHERE r.change_fk = c.change_pk) RETURNING change_pk, kind = 'delete' OR reason = ANY(%s)".encode(),
        (list(RETURNING),),
    ).fetchall()
    connection.execute(
        "DELETE FROM removed_instances WHERE change_fk = ANY(%s)", ([pk for pk, forgets in closed if forgets],)
    )


def doomed_objects(connection: Connection, limit: int = 1_000) -> list[str]:
    """Keys of objects that are to be deleted: no row names them any more."""
    found = connection.execute("SELECT object_key FROM purged_objects ORDER BY object_key LIMIT %s", (limit,))
    return [key for (key,) in found]


def forget_objects(connection: Connection, keys: Sequence[str]) -> None:
    """These objects are deleted."""
    connection.execute("DELETE FROM purged_objects WHERE object_key = ANY(%s)", (list(keys),))
