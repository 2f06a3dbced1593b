"""From UIDs to stored objects: what C-GET, C-MOVE, WADO-RS and forwarding send, without what is hidden."""

from __future__ import annotations

import functools
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, LiteralString, NamedTuple

from psycopg.rows import class_row

from storage.database import Connection

__all__ = ["Gone", "Keys", "StoredInstance", "details", "gone", "kinds", "primary_keys", "stored_instances"]

BATCH = 500  # instances whose rows are in memory at a time, about 1 kB each

Keys = str | Sequence[str] | None
"""One UID or ID, several (any of them), or None: not asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredInstance:
    """One stored object and what must be known to send it."""

    sop_class: str
    sop_uid: str
    series_uid: str
    study_uid: str
    transfer_syntax: str
    object_key: str
    object_size: int  # bytes of the whole Part 10 file
    dataset_offset: int  # bytes before the data set
    sha256: bytes  # of the data set as stored
    frames: int = 1
    corrections: dict[str, Any] = field(default_factory=dict)  # DICOM JSON attributes (PS3.18 F.2) that override

    @property
    def dataset_size(self) -> int:
        """Bytes of the data set as stored."""
        return self.object_size - self.dataset_offset


class Gone(NamedTuple):
    """One instance that was deleted or rejected and is not served any more."""

    series_uid: str
    sop_class: str
    sop_uid: str


_FOUND: LiteralString = """
FROM instances AS i JOIN series AS e ON series_pk = i.series_fk JOIN studies AS s ON s.study_pk = e.study_fk
WHERE NOT (i.hidden OR e.hidden OR s.hidden)"""
_CONDITIONS: dict[str, LiteralString] = {
    "sop_uids": "i.sop_uid = ANY(%(sop_uids)s)",
    "series_uid": "e.series_uid = ANY(%(series_uid)s)",
    "study_uid": "s.study_uid = ANY(%(study_uid)s)",
    "patient_id": "s.patient_id = ANY(%(patient_id)s)",
}
# The keys come in order; so do the rows. OFFSET 0 keeps each look-up a look-up.
_DETAILS: LiteralString = """
SELECT i.sop_class, i.sop_uid, e.series_uid, s.study_uid, i.transfer_syntax, i.object_key, i.object_size,
    i.dataset_offset, i.sha256, coalesce(i.frames, 1) AS frames,
    coalesce(s.corrections, '{}') || coalesce(e.corrections, '{}') AS corrections
FROM unnest(%(keys)s::bigint[]) WITH ORDINALITY AS k (pk, place)
CROSS JOIN LATERAL (
    SELECT * FROM instances WHERE instance_pk = k.pk AND (NOT hidden OR (%(notes)s AND EXISTS (
        SELECT FROM rejection_notes AS n WHERE n.sop_uid = instances.sop_uid AND n.state = 'applied'))) OFFSET 0
) AS i
CROSS JOIN LATERAL (SELECT * FROM series WHERE series_pk = i.series_fk OFFSET 0) AS e
CROSS JOIN LATERAL (SELECT * FROM studies WHERE study_pk = e.study_fk OFFSET 0) AS s
ORDER BY k.place"""


def primary_keys(
    connection: Connection,
    *,
    study_uid: Keys = None,
    series_uid: Keys = None,
    sop_uids: Keys = None,
    patient_id: Keys = None,
) -> array[int]:
    """`instance_pk` of all that match everything that is given, by study, series number and instance number.

    Raises:
        ValueError: nothing is given: nobody means the whole archive.
    """
    given = {"study_uid": study_uid, "series_uid": series_uid, "sop_uids": sop_uids, "patient_id": patient_id}
    values = {name: [key] if isinstance(key, str) else list(key) for name, key in given.items() if key is not None}
    if not values:
        raise ValueError("no key is given")
    where: LiteralString = " AND ".join(text for name, text in _CONDITIONS.items() if name in values)
    sql: LiteralString = (
        "SELECT i.instance_pk" + _FOUND + " AND " + where + " ORDER BY s.study_pk, e.series_number NULLS LAST,"
        " e.series_pk, i.instance_number NULLS LAST, i.instance_pk"
    )
    return array("q", (pk for (pk,) in connection.execute(sql, values, prepare=False)))


def kinds(connection: Connection, keys: Sequence[int]) -> list[tuple[str, str]]:
    """The different pairs of SOP class and transfer syntax among these instances, the most frequent first."""
    return connection.execute(
        "SELECT sop_class, transfer_syntax FROM instances WHERE instance_pk = ANY(%s::bigint[])"
        " GROUP BY 1, 2 ORDER BY count(*) DESC, 1, 2",
        (list(keys),),
    ).fetchall()


def details(connection: Connection, keys: Sequence[int], *, notes: bool = False) -> list[StoredInstance]:
    """The instances with these primary keys in their order; those that were hidden or removed meanwhile are missing.

    With `notes`, rejection notes are there though they are hidden: other archives are to learn of them.
    """
    with connection.cursor(row_factory=class_row(StoredInstance)) as cursor:
        return cursor.execute(_DETAILS, {"keys": list(keys), "notes": notes}).fetchall()


def gone(connection: Connection, study_uid: str) -> list[Gone]:
    """What was deleted or rejected of a study and not yet purged, without rejection notes; by series."""
    found = connection.execute(
        "SELECT e.series_uid, i.sop_class, i.sop_uid FROM studies AS s JOIN series AS e ON e.study_fk = s.study_pk"
        " JOIN instances AS i ON i.series_fk = e.series_pk WHERE s.study_uid = %s AND i.hidden AND NOT EXISTS"
        " (SELECT FROM rejection_notes AS n WHERE n.sop_uid = i.sop_uid AND n.state = 'applied')"
        " ORDER BY e.series_pk, i.instance_pk",
        (study_uid,),
    )
    return [Gone(*row) for row in found]


def in_batches(
    keys: Sequence[int], read: Callable[[Sequence[int]], list[StoredInstance]], size: int = BATCH
) -> Iterator[StoredInstance]:
    """The instances of `keys`, read `size` at a time."""
    for start in range(0, len(keys), size):
        yield from read(keys[start : start + size])


def stored_instances(
    connection: Connection,
    *,
    study_uid: Keys = None,
    series_uid: Keys = None,
    sop_uids: Keys = None,
    patient_id: Keys = None,
) -> Iterator[StoredInstance]:
    """All that match everything that is given, by study, series number and instance number; few rows at a time.

    The connection is used between the steps of the iteration: see `pacs.retrieve.Selection` for what does not keep one.
    """
    keys = primary_keys(
        connection, study_uid=study_uid, series_uid=series_uid, sop_uids=sop_uids, patient_id=patient_id
    )
    return in_batches(keys, functools.partial(details, connection))
