"""What models said, as DICOM objects of our own: which are due, and which were written.

Scores are looked at behind a cursor (`storage.routing.Horizon` says how far all of them are committed). What is due
then stands in a row for each score and kind of object, until that row names the SOP instance that was written: a
process that is killed in between loses nothing, and writes nothing twice, for UIDs follow from what an object is about.
"""

# ruff: noqa: S608 - the statements are put together from constants only

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any, Literal, LiteralString, NamedTuple

from psycopg.rows import class_row, dict_row

from storage.database import Connection
from storage.errors import NotFound

__all__ = [
    "KINDS", "Due", "Kind", "Result", "Written", "claim", "drop_due", "enqueue", "failed", "known", "later",
    "map_key", "mapped", "next_due_s", "of_study", "pass_over", "pending", "skipped", "source_of", "written",
    "written_for",
]  # fmt: skip

Kind = Literal["sr", "pr", "sc"]
KINDS: dict[str, tuple[Kind, ...]] = {"none": (), "sr": ("sr",), "all": ("sr", "pr", "sc")}
"""What the setting `report.objects` asks for."""

_BATCH = 1_000  # scores that are looked at in one transaction
_MAX_ATTEMPTS = 6
_MAX_REASON = 500  # characters


class Due(NamedTuple):
    """The objects of one score that one process has taken on."""

    score_pk: int
    kinds: tuple[Kind, ...]


class Result(NamedTuple):
    """One object that was or is to be written."""

    kind: Kind
    state: Literal["waiting", "written", "skipped", "dead"]
    sop_uid: str  # '' until it is written
    series_uid: str
    source_sop_uid: str  # of the image
    model_name: str
    model_version: str
    reason: str
    changed_at: dt.datetime


class Written(NamedTuple):
    """One object that can be retrieved."""

    study_uid: str
    series_uid: str
    sop_class: str
    sop_uid: str


# Asked for by a workitem: then the answer is wanted whatever it is. Else only what is flagged: an object that says
# "not flagged" in the patient's record would be read as a negative.
_ENQUEUE = """
INSERT INTO results (score_fk, kind)
SELECT c.score_pk, kind FROM scores AS c
JOIN instances AS i ON i.instance_pk = c.instance_fk JOIN studies AS s ON s.study_pk = i.study_fk
CROSS JOIN unnest(%(kinds)s::text[]) WITH ORDINALITY AS k (kind, place)
WHERE c.score_pk > %(after)s AND c.score_pk <= %(until)s AND NOT c.shadow AND NOT i.hidden
    AND i.received_at > now() - make_interval(secs => %(max_age_s)s)
    AND (c.flagged OR EXISTS (SELECT FROM workitems AS w WHERE w.study_uids @> ARRAY[s.study_uid]
        AND w.performer <> '' AND w.state = 'IN PROGRESS'))
ORDER BY c.score_pk, place ON CONFLICT DO NOTHING"""


def enqueue(connection: Connection, until: int, kinds: Sequence[Kind], max_age_s: float) -> bool:
    """Note what is due of the scores up to `until`, or of a batch of them; whether more are left. In a transaction.

    Args:
        connection: in a transaction of its own.
        until: the last `score_pk` before which no score can appear any more.
        kinds: what is written of each score; none: the cursor moves on and nothing is due.
        max_age_s: images that came longer ago get no objects, so that a new model over the archive floods nobody.
    """
    row = connection.execute("SELECT score_pk FROM results_cursor FOR UPDATE").fetchone()
    assert row is not None
    after = row[0]
    if until <= after:
        return False
    reached = min(until, after + _BATCH) if kinds else until
    if kinds:
        values = {"kinds": list(kinds), "after": after, "until": reached, "max_age_s": max_age_s}
        connection.execute(_ENQUEUE, values)
    connection.execute("UPDATE results_cursor SET score_pk = %s", (reached,))
    return reached < until


def drop_due(connection: Connection, keep: Sequence[Kind], reason: str) -> None:
    """Give up what is due of other kinds than those that the settings ask for now."""
    connection.execute(
        "UPDATE results SET state = 'skipped', reason = %s, changed_at = now()"
        " WHERE state = 'waiting' AND kind <> ALL(%s)",
        (reason, list(keep)),
    )


def pass_over(connection: Connection) -> None:
    """Give the cursor the last score: nothing of what was scored till now will be written."""
    connection.execute(
        "UPDATE results_cursor SET score_pk = latest FROM (SELECT max(score_pk) AS latest FROM scores) AS s"
        " WHERE score_pk < latest"
    )


def next_due_s(connection: Connection) -> float | None:
    """Seconds until something is due, 0 for now; None where nothing waits."""
    row = connection.execute(
        "SELECT GREATEST(0, extract(epoch FROM min(run_after) - now()))::float FROM results WHERE state = 'waiting'"
    ).fetchone()
    return None if row is None else row[0]


_CLAIM = """
UPDATE results SET run_after = now() + make_interval(secs => %(lease_s)s), attempts = attempts + 1
WHERE result_pk = ANY(ARRAY(
    SELECT result_pk FROM results WHERE state = 'waiting' AND run_after <= now() AND score_fk = (
        SELECT score_fk FROM results WHERE state = 'waiting' AND run_after <= now() ORDER BY result_pk LIMIT 1)
    FOR UPDATE SKIP LOCKED))
RETURNING score_fk, kind"""


def claim(connection: Connection, lease_s: float) -> Due | None:
    """The objects of the oldest score of which any is due, held for `lease_s` seconds; None when there are none."""
    found = connection.execute(_CLAIM, {"lease_s": lease_s}).fetchall()
    if not found:
        return None
    return Due(found[0][0], tuple(kind for kind in KINDS["all"] if kind in {row[1] for row in found}))


def source_of(connection: Connection, score_pk: int) -> dict[str, Any] | None:
    """The score with its findings, its image and what the index says of patient and study; None for a hidden image.

    Patient and study are as they stand now, after whatever people corrected.
    """
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(_SOURCE, (score_pk,)).fetchone()


_SOURCE = """
SELECT c.score_pk, c.model_name, c.model_version, c.weights_sha256, c.engine, c.probability, c.threshold, c.flagged,
    c.listed, c.scored_at, c.map_key, c.notes,
    s.study_uid, s.patient_id, p.issuer, s.patient_name, s.patient_birth_date, s.patient_sex, s.patient_age,
    s.study_date, s.study_time, s.accession_number, s.study_id, s.description, s.referring_physician,
    s.timezone_offset, e.series_uid, e.modality, i.sop_uid, i.sop_class, i.transfer_syntax, i.instance_number,
    i.rows, i.columns, i.object_key, i.dataset_offset
FROM scores AS c JOIN instances AS i ON i.instance_pk = c.instance_fk JOIN series AS e ON e.series_pk = i.series_fk
JOIN studies AS s ON s.study_pk = e.study_fk JOIN patients AS p ON p.patient_pk = s.patient_fk
WHERE c.score_pk = %s AND NOT (i.hidden OR e.hidden OR s.hidden)"""


def written(connection: Connection, score_pk: int, kind: Kind, *, sop_uid: str, series_uid: str) -> None:
    """Note that an object was written: its instance is stored, durable and visible."""
    connection.execute(
        "UPDATE results SET state = 'written', sop_uid = %s, series_uid = %s, reason = '', changed_at = now()"
        " WHERE score_fk = %s AND kind = %s",
        (sop_uid, series_uid, score_pk, kind),
    )


def skipped(connection: Connection, score_pk: int, kinds: Sequence[Kind], reason: str) -> None:
    """Note why objects will not be written."""
    connection.execute(
        "UPDATE results SET state = 'skipped', reason = %s, changed_at = now()"
        " WHERE score_fk = %s AND kind = ANY(%s) AND state = 'waiting'",
        (reason[:_MAX_REASON], score_pk, list(kinds)),
    )


def failed(connection: Connection, score_pk: int, kinds: Sequence[Kind], reason: str, backoff_s: float) -> None:
    """Note a failure: tried again after `backoff_s`, doubled for each earlier try, and given up after six tries."""
    connection.execute(
        "UPDATE results SET state = CASE WHEN attempts >= %s THEN 'dead' ELSE state END, reason = %s,"
        " run_after = now() + make_interval(secs => %s * 2 ^ (attempts - 1)), changed_at = now()"
        " WHERE score_fk = %s AND kind = ANY(%s) AND state = 'waiting'",
        (_MAX_ATTEMPTS, reason.replace("\0", "")[:_MAX_REASON], backoff_s, score_pk, list(kinds)),
    )


def later(connection: Connection, score_pk: int, kinds: Sequence[Kind], seconds: float) -> None:
    """Give back what was claimed, for a later time; it counts as no try."""
    connection.execute(
        "UPDATE results SET run_after = now() + make_interval(secs => %s), attempts = GREATEST(0, attempts - 1)"
        " WHERE score_fk = %s AND kind = ANY(%s) AND state = 'waiting'",
        (seconds, score_pk, list(kinds)),
    )


def known(connection: Connection, sop_uid: str) -> Literal["", "here", "removed"]:
    """Whether an object with this UID is stored already, or was removed by somebody."""
    row = connection.execute(
        "SELECT EXISTS (SELECT FROM removed_instances WHERE sop_uid = %s),"
        " (SELECT hidden FROM instances WHERE sop_uid = %s)",
        (sop_uid, sop_uid),
    ).fetchone()
    assert row is not None
    if row[0] or row[1]:
        return "removed"
    return "" if row[1] is None else "here"


def pending(connection: Connection, sop_uids: Sequence[str]) -> bool:
    """Whether objects about these images are still to be written, or may yet become due."""
    row = connection.execute(
        "SELECT EXISTS (SELECT FROM instances AS i JOIN scores AS c ON c.instance_fk = i.instance_pk AND NOT c.shadow"
        " WHERE i.sop_uid = ANY(%s) AND (c.score_pk > (SELECT score_pk FROM results_cursor)"
        " OR EXISTS (SELECT FROM results WHERE score_fk = c.score_pk AND state = 'waiting')))",
        (list(sop_uids),),
    ).fetchone()
    return row is not None and row[0]


def written_for(connection: Connection, sop_uids: Sequence[str]) -> list[Written]:
    """The visible objects about these images, where they stand now."""
    rows = connection.execute(
        "SELECT s.study_uid, e.series_uid, o.sop_class, o.sop_uid FROM instances AS i"
        " JOIN scores AS c ON c.instance_fk = i.instance_pk JOIN results AS r ON r.score_fk = c.score_pk"
        " JOIN instances AS o ON o.sop_uid = r.sop_uid AND NOT o.hidden JOIN series AS e ON e.series_pk = o.series_fk"
        " JOIN studies AS s ON s.study_pk = e.study_fk WHERE i.sop_uid = ANY(%s) AND r.state = 'written'"
        " ORDER BY r.result_pk",
        (list(sop_uids),),
    )
    return [Written(*row) for row in rows]


def of_study(connection: Connection, study_uid: str) -> list[Result]:
    """Every object about the study's images that is due, was written, or will not be; newest first."""
    with connection.cursor(row_factory=class_row(Result)) as cursor:
        return cursor.execute(
            "SELECT r.kind, r.state, r.sop_uid, r.series_uid, i.sop_uid AS source_sop_uid, c.model_name,"
            " c.model_version, r.reason, r.changed_at FROM studies AS s JOIN scores AS c ON c.study_fk = s.study_pk"
            " JOIN instances AS i ON i.instance_pk = c.instance_fk JOIN results AS r ON r.score_fk = c.score_pk"
            " WHERE s.study_uid = %s AND NOT s.hidden AND NOT i.hidden AND NOT c.shadow ORDER BY r.result_pk DESC",
            (study_uid,),
        ).fetchall()


_MAPPED: LiteralString = " AND NOT c.shadow AND c.map_key <> '' AND c.notes::text NOT LIKE '%%turned upright%%'"


def mapped(connection: Connection, study_uid: str) -> list[str]:
    """The study's images of which maps are stored that lie over the film as it is stored."""
    rows = connection.execute(
        "SELECT DISTINCT i.sop_uid FROM studies AS s JOIN scores AS c ON c.study_fk = s.study_pk"
        " JOIN instances AS i ON i.instance_pk = c.instance_fk"
        " WHERE s.study_uid = %s AND NOT s.hidden AND NOT i.hidden" + _MAPPED + " ORDER BY 1",
        (study_uid,),
    )
    return [uid for (uid,) in rows]


def map_key(connection: Connection, sop_uid: str) -> str:
    """The object with the newest maps of an image; raises `NotFound` without any, and where the film was turned."""
    row = connection.execute(
        "SELECT c.map_key FROM instances AS i JOIN scores AS c ON c.instance_fk = i.instance_pk"
        " WHERE i.sop_uid = %s AND NOT i.hidden" + _MAPPED + " ORDER BY c.score_pk DESC LIMIT 1",
        (sop_uid,),
    ).fetchone()
    if row is None:
        raise NotFound(f"No maps are stored that fit instance {sop_uid}.")
    return str(row[0])
