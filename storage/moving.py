"""Series and instances that go to another study: split, merge, and the way back.

Rows move, bytes stay: the `home_*` columns of a series keep what the bytes say, its `corrections` what goes out. A
whole series that leaves its home leaves an empty hidden row there that points to the new place, and a merged study
points to the other one, so that what comes later finds its way (`storage/arrivals.py`). The new place is always a new
row: receivers remember keys of series, and find out by the missing key that they have to look again.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from psycopg.types.json import Jsonb

from storage import changes, corrections, rows
from storage.changes import By, Change
from storage.corrections import ORIGINAL, SERIES_UID, STUDY_UID, Json
from storage.database import Connection
from storage.errors import Conflict, InvalidInput, NotFound
from storage.removal import Scope
from storage.rows import Row

__all__ = ["bring_back", "leave_pointer", "merge_studies", "new_uid", "split"]


def new_uid() -> str:
    """A UID of our own making (PS3.5 B.2)."""
    return f"2.25.{uuid.uuid4().int}"


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a series goes."""

    study: Row
    series_uid: str | None = None  # None: as it is if that is free, else a new one


def split(connection: Connection, scope: Scope, into: str | None, by: By) -> Change:
    """Move a series, or instances of a study, to another study or (`into` is None) to a new one of the same patient.

    Instances that are moved without the rest of their series get a Series Instance UID of their own.

    Raises:
        NotFound: study, series or instances are not there.
        Conflict: nothing would be left, or nothing would change.
    """
    source = rows.study(connection, scope.study_uid)
    if into == scope.study_uid:
        raise Conflict("The study is the same.")
    groups = _groups(connection, source, scope)
    target = rows.study(connection, into) if into else _new_study(connection, source)
    moves = [_carry(connection, source, each, _Place(target), pks) for each, pks in groups]
    _take_due_time(connection, source, target)
    detail = {"from": source["study_uid"], "into": target["study_uid"], "created": into is None, "moves": moves}
    return _recorded(connection, "split", by, [source, target], detail)


def merge_studies(connection: Connection, old: str, into: str, by: By) -> Change:
    """Move all series of a study to another one, now and when more come; the study itself is not shown any more.

    Raises: `NotFound`, `Conflict`.
    """
    if old == into:
        raise Conflict("A study cannot be merged into itself.")
    source, target = rows.study(connection, old), rows.study(connection, into)
    held = rows.series_row(connection, source["study_pk"])
    moves = [_carry(connection, source, each, _Place(target), None) for each in held]
    pointed = connection.execute(
        "UPDATE studies SET moved_to = %(into)s WHERE study_pk = %(old)s OR moved_to = %(old)s RETURNING study_uid",
        {"old": source["study_pk"], "into": target["study_pk"]},
    ).fetchall()
    _take_due_time(connection, source, target)
    forwarded = sorted(uid for (uid,) in pointed if uid != old)
    detail = {"from": old, "into": into, "created": False, "moves": moves, "forwarded": forwarded}
    return _recorded(connection, "merge_studies", by, [source, target], detail)


def bring_back(connection: Connection, detail: dict[str, Any]) -> list[int]:
    """Undo the moves of a split or merge; keys of the studies to settle. A study that was made is taken away."""
    connection.execute("UPDATE studies SET moved_to = NULL WHERE study_uid = %s", (detail["from"],))
    source, target = rows.study(connection, detail["from"]), rows.study(connection, detail["into"])
    connection.execute(
        "UPDATE studies SET moved_to = %s WHERE study_uid = ANY(%s)", (source["study_pk"], detail.get("forwarded", []))
    )
    for move in reversed(detail["moves"]):
        found = rows.series_row(connection, target["study_pk"], move["to"])
        if not found:
            continue  # purged since
        row = found[0] | {"edits": move["edits"]}
        rows.write_series(connection, row["series_pk"], {"edits": move["edits"]})
        stays = rows.series_row(connection, source["study_pk"], move["series"])
        if stays:
            _refill(connection, row["series_pk"], stays[0]["series_pk"], source["study_pk"])
        else:
            _carry(connection, target, row, _Place(source, move["series"]), None, noted=False)
    if detail["created"] and not rows.series_row(connection, target["study_pk"]):
        connection.execute("DELETE FROM series WHERE study_fk = %s", (target["study_pk"],))
        connection.execute("DELETE FROM studies WHERE study_pk = %s", (target["study_pk"],))
        return [source["study_pk"]]
    return [source["study_pk"], target["study_pk"]]


def leave_pointer(connection: Connection, series_pk: int, study_pk: int, series_uid: str) -> None:
    """An empty hidden row at (study, series UID) that points to the series."""
    others = {
        "study_fk": study_pk, "series_uid": series_uid, "hidden": True, "moved_to": series_pk, "edits": None,
        "home_study_uid": None, "home_series_uid": None, "corrections": None,
    }  # fmt: skip
    _copy(connection, "series", series_pk, others)


def _copy(connection: Connection, table: Literal["studies", "series"], pk: int, others: dict[str, Any]) -> int:
    """A copy of a row with other values for some columns; its key."""
    key = {"studies": "study_pk", "series": "series_pk"}[table]
    found = connection.execute("SELECT copy_row(%s, %s, %s, %s)", (table, key, pk, Jsonb(others))).fetchone()
    assert found is not None
    copied: int = found[0]
    return copied


def _recorded(
    connection: Connection, kind: changes.Kind, by: By, studies: Sequence[Row], detail: dict[str, Any]
) -> Change:
    study_pks = [study["study_pk"] for study in studies]
    rows.derive(connection, study_pks)
    changes.settle(connection, study_pks)
    return changes.record(connection, kind, by, [study["study_uid"] for study in studies], detail=detail)


def _groups(connection: Connection, source: Row, scope: Scope) -> list[tuple[Row, list[int] | None]]:
    """The series to move, each with the keys of its instances to move (None: all)."""
    if not scope.sop_uids:
        if scope.series_uid is None:
            raise InvalidInput("A split needs a series or instances.")
        found = rows.series_row(connection, source["study_pk"], scope.series_uid)
        if not found:
            raise NotFound(f"There is no series {scope.series_uid} in study {scope.study_uid}.")
        return [(found[0], None)]
    groups: list[tuple[Row, list[int] | None]] = []
    wanted = set(scope.sop_uids)
    for each in rows.series_row(connection, source["study_pk"], scope.series_uid):
        held = connection.execute(
            "SELECT instance_pk, sop_uid FROM instances WHERE series_fk = %s ORDER BY instance_pk", (each["series_pk"],)
        ).fetchall()
        chosen = [pk for pk, uid in held if uid in wanted]
        wanted -= {uid for _, uid in held}
        if chosen:
            groups.append((each, None if len(chosen) == len(held) else chosen))
    if wanted:
        raise NotFound(f"{len(wanted)} of the instances are not in study {scope.study_uid}.")
    return groups


def _new_study(connection: Connection, source: Row) -> Row:
    uid = new_uid()
    others = {"study_uid": uid, "hidden": False, "moved_to": None, "as_sent": None}
    values = {"new": _copy(connection, "studies", source["study_pk"], others), "old": source["study_pk"], "uid": uid}
    connection.execute(
        "INSERT INTO name_words (word, study_fk, words, study_date)"
        " SELECT word, %(new)s, words, study_date FROM name_words WHERE study_fk = %(old)s",
        values,
    )
    connection.execute(
        "INSERT INTO worklist (study_fk, study_uid, state, arrived_at, latest_due_at, due_at, status, reason, site,"
        " study_date, modalities, priority) SELECT %(new)s, %(uid)s, coalesce(hidden_state, state), arrived_at,"
        " latest_due_at, due_at, 'not_eligible', '', site, study_date, modalities, priority FROM worklist"
        " WHERE study_fk = %(old)s",
        values,
    )
    return rows.study(connection, uid)


def _take_due_time(connection: Connection, source: Row, target: Row) -> None:
    """Nobody waits longer because of a move: the target is due no later than the source, and unread if that was."""
    connection.execute(
        "UPDATE worklist AS t SET due_at = LEAST(t.due_at, s.due_at),"
        " latest_due_at = LEAST(t.latest_due_at, s.latest_due_at),"
        " state = CASE WHEN s.state = 'open' AND t.state = 'read' THEN 'open' ELSE t.state END"
        " FROM worklist AS s WHERE s.study_fk = %s AND t.study_fk = %s",
        (source["study_pk"], target["study_pk"]),
    )


def _carry(
    connection: Connection, source: Row, row: Row, place: _Place, instance_pks: list[int] | None, *, noted: bool = True
) -> Json:
    """Move a series or some of its instances; what the history must know to bring them back."""
    target, old_pk = place.study, row["series_pk"]
    home = (row["home_study_uid"] or source["study_uid"], row["home_series_uid"] or row["series_uid"])
    uid = place.series_uid or _free_uid(connection, target, row, home, whole=instance_pks is None)
    at_home = (target["study_uid"], uid) == home
    if at_home:
        connection.execute(
            "DELETE FROM series WHERE study_fk = %s AND series_uid = %s AND moved_to IS NOT NULL",
            (target["study_pk"], uid),
        )
    others = {
        "study_fk": target["study_pk"], "series_uid": uid, "hidden": False, "corrections": None,
        "edits": _noting(row, source, uid) if noted else row["edits"],
        "home_study_uid": None if at_home else home[0], "home_series_uid": None if at_home else home[1],
    }  # fmt: skip
    new_pk = _copy(connection, "series", old_pk, others)
    _refill(connection, old_pk, new_pk, target["study_pk"], instance_pks)
    if instance_pks is None and row["home_study_uid"] is None:
        leave_pointer(connection, new_pk, source["study_pk"], row["series_uid"])
    return {"series": row["series_uid"], "to": uid, "whole": instance_pks is None, "edits": row["edits"]}


def _free_uid(connection: Connection, target: Row, row: Row, home: tuple[str, str], *, whole: bool) -> str:
    wanted: str = home[1] if home[0] == target["study_uid"] else row["series_uid"]
    taken = connection.execute(
        "SELECT FROM series WHERE study_fk = %s AND series_uid = %s AND (moved_to IS NULL OR %s)",
        (target["study_pk"], wanted, home[0] != target["study_uid"]),
    ).fetchone()
    return new_uid() if taken is not None or not whole else wanted


def _noting(row: Row, source: Row, uid: str) -> Json:
    """The series' edits with a note of the UIDs that it had."""
    before = {STUDY_UID: {"vr": "UI", "Value": [source["study_uid"]]}}
    if uid != row["series_uid"]:
        before[SERIES_UID] = {"vr": "UI", "Value": [row["series_uid"]]}
    edits = dict(row["edits"] or {})
    items = [*edits.get(ORIGINAL, {}).get("Value", []), corrections.original_item(before)]
    return edits | {ORIGINAL: {"vr": "SQ", "Value": items}}


def _refill(
    connection: Connection, old_pk: int, new_pk: int, study_pk: int, instance_pks: list[int] | None = None
) -> None:
    """Instances of one series become those of another; the emptied one goes, and what pointed to it points there."""
    moved = connection.execute(
        "SELECT instance_pk FROM instances WHERE series_fk = %s AND (%s::bigint[] IS NULL OR instance_pk = ANY(%s))"
        " ORDER BY instance_pk FOR NO KEY UPDATE",
        (old_pk, instance_pks, instance_pks),
    ).fetchall()
    values = {"series": new_pk, "study": study_pk, "keys": [pk for (pk,) in moved]}
    connection.execute(
        "UPDATE instances SET series_fk = %(series)s, study_fk = %(study)s WHERE instance_pk = ANY(%(keys)s)", values
    )
    connection.execute("UPDATE scores SET study_fk = %(study)s WHERE instance_fk = ANY(%(keys)s)", values)
    if instance_pks is None:
        connection.execute("UPDATE series SET moved_to = %s WHERE moved_to = %s", (new_pk, old_pk))
        connection.execute("DELETE FROM series WHERE series_pk = %s", (old_pk,))
