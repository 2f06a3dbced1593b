"""Reprocessing: one model over what is stored already, or over a part of it. Its state, as people see and change it.

`storage.reprocessing_queue` walks over the archive and hands the images out. An image that has a score of the same
weights and version is passed over: such scores are unique, so nothing is ever scored twice.
"""

from __future__ import annotations

# ruff: noqa: S608 - the statements are put together from constants only
import contextlib
import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from storage import audit
from storage.database import Connection
from storage.errors import Conflict, InvalidInput, NotFound

__all__ = [
    "CHOSEN", "Chosen", "Ended", "ModelRef", "Reprocessing", "Selection", "State", "all_of_them", "by_number", "cancel",
    "choose", "chosen_values", "ended_items", "pause", "resume", "start",
]  # fmt: skip

State = Literal["running", "paused", "done", "cancelled"]
_COUNTED_KEYS = 50_000  # instances that one statement looks at
_UIDS = 1_000  # looked up by one statement
_NAMED = 5


class ModelRef(NamedTuple):
    """One version of a model."""

    name: str
    version: str
    weights_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which images: those that fit everything that is given. Hidden ones never."""

    date_from: dt.date | None = None  # of the study, both included; studies without a date fit no dates
    date_to: dt.date | None = None
    modalities: tuple[str, ...] = ()  # of the series
    sites: tuple[str, ...] = ()  # of the study
    uids: tuple[str, ...] = ()  # of studies, series or instances
    refused: bool = False  # also those that an earlier model or gate did not read; only CR and DX objects

    def __post_init__(self) -> None:
        if self.date_from and self.date_to and self.date_to < self.date_from:
            raise InvalidInput(f"No study is from {self.date_from} or later and from {self.date_to} or earlier.")

    def as_json(self) -> dict[str, Any]:
        """What was asked, without what was not; UIDs are counted."""
        given = {name: value for name, value in asdict(self).items() if value}
        asked = {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}
        asked |= {name: str(asked[name]) for name in ("date_from", "date_to") if name in asked}
        return asked | ({"uids": len(self.uids)} if self.uids else {})


class Chosen(NamedTuple):
    """What a reprocessing is to look at."""

    model: ModelRef
    selection: Selection
    shadow: bool  # no site has the model active
    total: int  # images
    last_pk: int  # the walk over the archive ends there; 0 where UIDs are given
    instance_pks: tuple[int, ...]  # of the UIDs


@dataclass(frozen=True, slots=True, kw_only=True)
class Reprocessing:
    """How far one reprocessing is."""

    reprocessing_pk: int
    state: State
    problem: str
    model_name: str
    model_version: str
    weights_sha256: str
    shadow: bool
    selection: dict[str, Any]
    images_per_s: float | None
    when_idle: bool
    total: int
    scored: int
    refused: int
    failed: int
    pace: float  # images a second, lately
    started_by: str
    started_at: dt.datetime
    changed_at: dt.datetime
    ended_at: dt.datetime | None

    @property
    def ended(self) -> int:
        """Images that are done with."""
        return self.scored + self.refused + self.failed

    @property
    def left_s(self) -> float | None:
        """Seconds to its end at the pace of now; None where that is not known."""
        if self.state != "running" or self.pace < 0.01:  # nothing goes on
            return None
        return max(0, self.total - self.ended) / self.pace


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """An image that got no score, and why."""

    item_pk: int
    study_uid: str
    sop_uid: str
    state: Literal["refused", "failed"]
    attempts: int
    reason: str


# Conditions on instances AS i that a selection, and the weights, stand for; uids are looked up on their own.
CHOSEN = """
    JOIN series AS e ON e.series_pk = i.series_fk JOIN studies AS s ON s.study_pk = i.study_fk
    WHERE NOT i.hidden AND (i.triage <> 'not_eligible'
            OR (%(refused)s AND i.sop_class = ANY('{1.2.840.10008.5.1.4.1.1.1,1.2.840.10008.5.1.4.1.1.1.1}')))
        AND (%(date_from)s::date IS NULL OR s.study_date >= %(date_from)s)
        AND (%(date_to)s::date IS NULL OR s.study_date <= %(date_to)s)
        AND (%(modalities)s::text[] = '{}' OR e.modality = ANY(%(modalities)s))
        AND (%(sites)s::text[] = '{}' OR s.site = ANY(%(sites)s))
        AND NOT EXISTS (SELECT FROM scores AS c WHERE c.instance_fk = i.instance_pk AND c.weights_sha256 = %(weights)s
            AND c.model_version = %(version)s AND (%(shadow)s OR NOT c.shadow))"""

_COLUMNS = (
    "reprocessing_pk, state, problem, model_name, model_version, weights_sha256, shadow, selection, images_per_s,"
    " when_idle, total, scored, refused, failed, pace, started_by, started_at, changed_at, ended_at"
)
_BY_UID = f"""
SELECT i.instance_pk FROM instances AS i {CHOSEN} AND i.instance_pk = ANY(ARRAY(
    SELECT instance_pk FROM instances WHERE sop_uid = ANY(%(uids)s)
    UNION SELECT instance_pk FROM instances JOIN series ON series_pk = series_fk WHERE series_uid = ANY(%(uids)s)
    UNION SELECT instance_pk FROM studies JOIN series ON series.study_fk = study_pk JOIN instances
        ON series_fk = series_pk WHERE study_uid = ANY(%(uids)s)))"""
_UNKNOWN = """
SELECT uid FROM unnest(%s::text[]) AS uid
WHERE NOT EXISTS (SELECT FROM instances WHERE sop_uid = uid) AND NOT EXISTS (SELECT FROM series WHERE series_uid = uid)
    AND NOT EXISTS (SELECT FROM studies WHERE study_uid = uid)"""


def chosen_values(selection: dict[str, Any], model: ModelRef, *, shadow: bool) -> dict[str, Any]:
    """The values of `CHOSEN` for a selection as it is stored; a score in shadow counts only for a run in shadow."""
    return {
        "date_from": selection.get("date_from"), "date_to": selection.get("date_to"),
        "modalities": list(selection.get("modalities", ())), "sites": list(selection.get("sites", ())),
        "refused": bool(selection.get("refused")), "weights": model.weights_sha256, "version": model.version,
        "shadow": shadow,
    }  # fmt: skip


def choose(
    connection: Connection,
    model: ModelRef,
    selection: Selection,
    *,
    shadow: bool = False,
    counting: Callable[[int, int], None] = lambda _seen, _of: None,
) -> Chosen:
    """Which images a reprocessing is to look at, and how many those are; short statements, each on its own.

    Args:
        connection: in autocommit, so that nothing is held up meanwhile.
        model: what is to score.
        selection: which images.
        shadow: no site has the model active.
        counting: told how many of the archive's keys were looked at, and of how many.

    Raises:
        InvalidInput: UIDs that are not here.
    """
    values = chosen_values(selection.as_json(), model, shadow=shadow)
    if selection.uids:
        found = _looked_up(connection, selection.uids, values)
        return Chosen(model, selection, shadow, len(found), 0, tuple(found))
    row = connection.execute("SELECT coalesce(max(instance_pk), 0) FROM instances").fetchone()
    last = int(row[0]) if row else 0
    return Chosen(model, selection, shadow, _count(connection, last, values, counting), last, ())


def start(
    connection: Connection, chosen: Chosen, actor: str, *, images_per_s: float | None = None, when_idle: bool = True
) -> Reprocessing:
    """Begin, in the caller's transaction; the workers go on with it after its commit.

    Args:
        connection: of the transaction.
        chosen: from `choose`.
        actor: who asks.
        images_per_s: at most so many.
        when_idle: only while no live image waits or is read; else live images only go first.

    Raises:
        InvalidInput: the rate is not above 0.
        Conflict: the same model is at work on the archive already.
    """
    if images_per_s is not None and not images_per_s > 0:
        raise InvalidInput("The rate must be above 0 images a second.")
    model, asked = chosen.model, chosen.selection.as_json()
    with _once(model.name, model.version):
        row = connection.execute(
            "INSERT INTO reprocessings (model_name, model_version, weights_sha256, shadow, selection, images_per_s,"
            " when_idle, total, walked_pk, last_pk, started_by) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, 0, %s, %s)"
            " RETURNING reprocessing_pk",
            (*model, chosen.shadow, Jsonb(asked), images_per_s, when_idle, chosen.total, chosen.last_pk, actor),
        ).fetchone()
    assert row is not None
    connection.execute(
        "INSERT INTO reprocessing_items (reprocessing_fk, instance_fk)"
        " SELECT %s, instance_pk FROM instances WHERE instance_pk = ANY(%s) ORDER BY instance_pk",
        (row[0], list(chosen.instance_pks)),
    )
    _audit(connection, actor, "started", row[0], {"model": f"{model.name} {model.version}", "selection": asked})
    return by_number(connection, row[0])


def pause(connection: Connection, number: int, actor: str, problem: str = "") -> Reprocessing:
    """Hand nothing more out; what is in hand is finished. Raises `NotFound`, and `Conflict` where it does not run."""
    _change(connection, number, actor, "paused", of=("running",), problem=problem)
    return by_number(connection, number)


def resume(connection: Connection, number: int, actor: str, *, failed: bool = False) -> Reprocessing:
    """Go on after a pause; with `failed`, also with images that were given up. Raises `NotFound` and `Conflict`."""
    _change(connection, number, actor, "running", of=("paused", "done") if failed else ("paused",))
    connection.execute(
        "UPDATE reprocessings SET paced_at = clock_timestamp(), pace = 0, ended_at = NULL WHERE reprocessing_pk = %s",
        (number,),
    )
    if failed:
        connection.execute(
            "WITH again AS (UPDATE reprocessing_items SET state = 'waiting', attempts = 0, run_after = now(),"
            " reason = '' WHERE reprocessing_fk = %(pk)s AND state = 'failed' RETURNING 1)"
            " UPDATE reprocessings SET failed = failed - (SELECT count(*) FROM again) WHERE reprocessing_pk = %(pk)s",
            {"pk": number},
        )
    return by_number(connection, number)


def cancel(connection: Connection, number: int, actor: str) -> Reprocessing:
    """End it; scores that were made stay. What is in hand is not recorded any more. Raises `NotFound`, `Conflict`."""
    _change(connection, number, actor, "cancelled", of=("running", "paused"))
    connection.execute("UPDATE reprocessings SET ended_at = clock_timestamp() WHERE reprocessing_pk = %s", (number,))
    connection.execute(  # a worker that records one of them just now holds its row, and wants ours next
        "DELETE FROM reprocessing_items WHERE item_pk = ANY(ARRAY(SELECT item_pk FROM reprocessing_items"
        " WHERE reprocessing_fk = %s AND state IN ('waiting', 'running') FOR UPDATE SKIP LOCKED))",
        (number,),
    )
    return by_number(connection, number)


def by_number(connection: Connection, number: int) -> Reprocessing:
    """One reprocessing; raises `NotFound`."""
    with connection.cursor(row_factory=class_row(Reprocessing)) as cursor:
        found = cursor.execute(
            f"SELECT {_COLUMNS} FROM reprocessings WHERE reprocessing_pk = %s".encode(), (number,)
        ).fetchone()
    if found is None:
        raise NotFound(f"There is no reprocessing {number}.")
    return found


def all_of_them(connection: Connection, limit: int = 20) -> list[Reprocessing]:
    """The latest ones, newest first."""
    with connection.cursor(row_factory=class_row(Reprocessing)) as cursor:
        sql = f"SELECT {_COLUMNS} FROM reprocessings ORDER BY reprocessing_pk DESC LIMIT %s"
        return cursor.execute(sql.encode(), (limit,)).fetchall()


def ended_items(connection: Connection, number: int, *, after: int = 0, limit: int = 50) -> list[Ended]:
    """Images that got no score, and why; those behind the item `after`."""
    with connection.cursor(row_factory=class_row(Ended)) as cursor:
        return cursor.execute(
            "SELECT x.item_pk, s.study_uid, i.sop_uid, x.state, x.attempts, x.reason FROM reprocessing_items AS x"
            " JOIN instances AS i ON i.instance_pk = x.instance_fk JOIN studies AS s ON s.study_pk = i.study_fk"
            " WHERE x.reprocessing_fk = %s AND x.state IN ('refused', 'failed') AND NOT i.hidden AND x.item_pk > %s"
            " ORDER BY x.item_pk LIMIT %s",
            (number, after, limit),
        ).fetchall()


@contextlib.contextmanager
def _once(name: str, version: str) -> Iterator[None]:
    try:
        yield
    except psycopg.errors.UniqueViolation as error:
        raise Conflict(f"{name} {version} is being run over the archive already: resume that, or cancel it.") from error


def _count(connection: Connection, last: int, values: dict[str, Any], counting: Callable[[int, int], None]) -> int:
    """Images that are chosen, counted in short statements."""
    sql = f"SELECT count(*) FROM instances AS i {CHOSEN} AND i.instance_pk > %(after)s AND i.instance_pk <= %(upto)s"
    total = 0
    for after in range(0, last, _COUNTED_KEYS):
        counting(after, last)
        upto = min(after + _COUNTED_KEYS, last)
        row = connection.execute(sql.encode(), {**values, "after": after, "upto": upto}).fetchone()
        total += row[0] if row else 0
    return total


def _looked_up(connection: Connection, uids: Sequence[str], values: dict[str, Any]) -> list[int]:
    """The instances that UIDs stand for, of those that are chosen; raises `InvalidInput` for UIDs that are not here."""
    found: set[int] = set()
    unknown: list[str] = []
    for n in range(0, len(uids), _UIDS):
        some = list(uids[n : n + _UIDS])
        found |= {pk for (pk,) in connection.execute(_BY_UID.encode(), {**values, "uids": some})}
        unknown += [uid for (uid,) in connection.execute(_UNKNOWN, (some,))]
    if unknown:
        more = f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
        raise InvalidInput(f"Not in this archive: {', '.join(unknown[:_NAMED])}{more}.")
    return sorted(found)


def _change(
    connection: Connection, number: int, actor: str, state: State, *, of: Sequence[State], problem: str = ""
) -> None:
    with _once("this model", "in this version"):
        found = connection.execute(
            "UPDATE reprocessings SET state = %s, problem = %s, changed_at = clock_timestamp()"
            " WHERE reprocessing_pk = %s AND state = ANY(%s) RETURNING 1",
            (state, problem, number, list(of)),
        ).fetchone()
    if found is None:
        now = by_number(connection, number).state
        raise Conflict(f"Reprocessing {number} is {now}, so it cannot become {state}.")
    _audit(connection, actor, state, number, {"problem": problem} if problem else {})


def _audit(connection: Connection, actor: str, what: str, number: int, detail: dict[str, Any]) -> None:
    audit.add(connection, actor, f"reprocessing.{what}", "", {"reprocessing": number, **detail})
