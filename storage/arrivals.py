"""Instances that arrive where something was changed: in a hidden series, under rejected UIDs, for studies that were
merged or split, for patients that were merged.

`index_instances` of the schema refuses such a batch; here it is written again while nobody else writes. This is rare,
so it may take some milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from storage import changes, editing, moving, rows
from storage.database import Connection
from storage.received import Received
from storage.uid import SeriesUID, StudyUID

__all__ = ["index_alone"]

Places = dict[str, tuple[int, int]]
_Where = tuple[str, str]  # study UID, series UID


def index_alone(
    connection: Connection, batch: Sequence[Received], insert: Callable[[Connection, list[Received]], Places]
) -> Places:
    """Index a batch in one transaction, each instance where it belongs now; places of the stored ones by their UID.

    Args:
        connection: outside of a transaction, or in one that holds no row that a change may want.
        batch: without repeats.
        insert: writes a batch as it is.
    """
    with connection.transaction():
        changes.begin(connection)
        targets = _Targets(connection)
        placed = [_redirected(each, targets.of(each)) for each in batch]
        stored = insert(connection, placed)
        targets.remember(stored, batch, placed)
        editing.adopt(connection, sorted({each.header.study_uid for each in placed}))
        _renew_purges(connection, list(stored))
        study_pks = sorted({study_pk for study_pk, _ in stored.values()})
        rows.derive(connection, study_pks)
        changes.settle(connection, study_pks)
    return stored


class _Targets:
    """Where series go that were moved, or whose study was merged into another."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._known: dict[_Where, _Where] = {}

    def of(self, received: Received) -> _Where:
        where = (str(received.header.study_uid), str(received.header.series_uid))
        if where not in self._known:
            self._known[where] = self._moved_series(where) or self._merged_study(where) or where
        return self._known[where]

    def _moved_series(self, where: _Where) -> _Where | None:
        return self._connection.execute(
            "SELECT ts.study_uid, t.series_uid FROM studies AS s JOIN series AS e ON e.study_fk = s.study_pk"
            " JOIN series AS t ON t.series_pk = e.moved_to JOIN studies AS ts ON ts.study_pk = t.study_fk"
            " WHERE s.study_uid = %s AND e.series_uid = %s",
            where,
        ).fetchone()

    def _merged_study(self, where: _Where) -> _Where | None:
        """The study into which this one was merged; a series UID that it uses itself is replaced."""
        found = self._connection.execute(
            "SELECT t.study_uid, EXISTS (SELECT FROM series WHERE study_fk = t.study_pk AND series_uid = %s)"
            " FROM studies AS s JOIN studies AS t ON t.study_pk = s.moved_to WHERE s.study_uid = %s",
            (where[1], where[0]),
        ).fetchone()
        if found is None:
            return None
        return found[0], moving.new_uid() if found[1] else where[1]

    def remember(self, stored: Places, batch: Sequence[Received], placed: Sequence[Received]) -> None:
        """Note where the bytes say that a new series belongs, and leave a pointer to it there."""
        for sent, received in zip(batch, placed, strict=True):
            place = stored.get(received.header.sop_uid)
            home = (str(sent.header.study_uid), str(sent.header.series_uid))
            if place is None or self._known[home] == home:
                continue
            is_new = self._connection.execute(
                "UPDATE series SET home_study_uid = %s, home_series_uid = %s WHERE series_pk = %s"
                " AND home_study_uid IS NULL RETURNING (SELECT study_pk FROM studies WHERE study_uid = %s)",
                (*home, place[1], home[0]),
            ).fetchone()
            if is_new is not None:
                moving.leave_pointer(self._connection, place[1], is_new[0], home[1])


def _redirected(received: Received, where: _Where) -> Received:
    header = replace(received.header, study_uid=StudyUID(where[0]), series_uid=SeriesUID(where[1]))
    return replace(received, header=header)


def _renew_purges(connection: Connection, sop_uids: list[str]) -> None:
    """Rejected instances that came after the purge of their rejection are to be purged like those before."""
    connection.execute(
        "UPDATE changes SET purged_at = NULL WHERE purged_at IS NOT NULL"
        " AND change_pk IN (SELECT change_fk FROM removed_instances WHERE sop_uid = ANY(%s))",
        (sop_uids,),
    )
