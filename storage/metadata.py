"""Where the metadata of a series is kept, and whether it is still that of the series as it stands now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import LiteralString

from psycopg.rows import class_row

from storage.database import Connection

__all__ = ["SeriesVersion", "keep", "seen", "settled", "versions"]

_FORM = "1"  # of the stored JSON: another one makes all that is kept old


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesVersion:
    """One series as it stands now; `version` changes with its instances, their objects and the corrections."""

    series_pk: int
    series_uid: str
    study_uid: str
    instances: int
    version: str
    object_key: str | None  # of its metadata, None where there is none of this version


# Instances are told apart by the keys of their objects, which are random and used once.
_VERSIONS: LiteralString = """
WITH now AS (
    SELECT e.series_pk, e.series_uid, e.series_number, s.study_uid, i.instances,
        concat_ws('-', %(form)s::text, i.instances, to_hex(i.mark),
            md5(concat_ws('/', coalesce(s.corrections, '{}'), coalesce(e.corrections, '{}')))) AS version
    FROM studies AS s JOIN series AS e ON e.study_fk = s.study_pk
    CROSS JOIN LATERAL (
        SELECT count(*) AS instances, coalesce(bit_xor(hashtextextended(object_key, 0)), 0) AS mark
        FROM instances WHERE series_fk = e.series_pk AND NOT hidden OFFSET 0
    ) AS i
    WHERE s.study_uid = %(study)s AND (%(series)s::text IS NULL OR e.series_uid = %(series)s)
        AND NOT s.hidden AND NOT e.hidden AND i.instances > 0
)
SELECT now.series_pk, now.series_uid, now.study_uid, now.instances, now.version, kept.object_key
FROM now LEFT JOIN series_metadata AS kept ON kept.series_fk = now.series_pk AND kept.version = now.version
ORDER BY now.series_number NULLS LAST, now.series_pk"""

_END: LiteralString = """
SELECT max(instance_pk) FROM (
    SELECT instance_pk FROM instances
    WHERE instance_pk > %(seen)s AND received_at < now() - make_interval(secs => %(settle_s)s)
    ORDER BY instance_pk LIMIT %(limit)s
) AS fresh"""
# Series that still grow are left out: their newest instances come behind the end, and bring them here again.
_SETTLED: LiteralString = """
SELECT study_uid, series_uid
FROM (SELECT DISTINCT series_fk FROM instances WHERE instance_pk > %(seen)s AND instance_pk <= %(end)s) AS f
CROSS JOIN LATERAL (
    SELECT count(*) AS instances, max(received_at) AS latest FROM instances WHERE series_fk = f.series_fk OFFSET 0
) AS i
JOIN series ON series_pk = f.series_fk JOIN studies ON study_pk = study_fk
WHERE i.instances >= %(least)s AND i.latest < now() - make_interval(secs => %(settle_s)s)"""


def versions(connection: Connection, study_uid: str, series_uid: str | None = None) -> list[SeriesVersion]:
    """The series of a study (or the one that is named) that have instances to show, by series number."""
    with connection.cursor(row_factory=class_row(SeriesVersion)) as cursor:
        return cursor.execute(_VERSIONS, {"form": _FORM, "study": study_uid, "series": series_uid}).fetchall()


def keep(connection: Connection, series_pk: int, version: str, object_key: str) -> str | None:
    """Name the object that holds the metadata of a series; the key of the object that did so before, if any."""
    row = connection.execute(
        "WITH before AS (SELECT object_key FROM series_metadata WHERE series_fk = %(series)s)"
        " INSERT INTO series_metadata (series_fk, version, object_key) VALUES (%(series)s, %(version)s, %(key)s)"
        " ON CONFLICT (series_fk) DO UPDATE SET version = excluded.version, object_key = excluded.object_key,"
        " built_at = now() RETURNING (SELECT object_key FROM before)",
        {"series": series_pk, "version": version, "key": object_key},
    ).fetchone()
    return row[0] if row else None


def settled(
    connection: Connection, *, settle_s: float, least: int, limit: int = 5000
) -> tuple[int | None, list[tuple[str, str]]]:
    """Study and series UID of series that got instances since `seen` and nothing for `settle_s`, and the next mark.

    Looks through at most `limit` instances. The mark is None when there was nothing new.
    """
    values: dict[str, object] = {"settle_s": settle_s, "least": least, "limit": limit}
    row = connection.execute("SELECT instance_pk FROM series_metadata_seen").fetchone()
    values["seen"] = row[0] if row else 0
    row = connection.execute(_END, values).fetchone()
    values["end"] = end = row[0] if row else None
    return end, connection.execute(_SETTLED, values).fetchall() if end is not None else []


def seen(connection: Connection, mark: int) -> None:
    """Note how far `settled` has looked; a mark never goes back."""
    connection.execute("UPDATE series_metadata_seen SET instance_pk = greatest(instance_pk, %s)", (mark,))
