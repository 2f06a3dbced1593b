"""What models said about instances, and what that makes of a study's row in the worklist.

A study's flag is the maximum over its images. Its due time only ever moves forward in the queue: LEAST, never GREATEST.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import orjson
from psycopg.rows import class_row

from storage.database import Connection
from storage.errors import NotFound

__all__ = [
    "Finding",
    "Score",
    "StoredScore",
    "map_of",
    "name_map",
    "of_study",
    "record_not_eligible",
    "record_scores",
    "settle",
]


class Finding(NamedTuple):
    """One named finding of a model in an image."""

    name: str
    probability: float  # calibrated, 0..1
    threshold: float  # of the site at that time


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One run of one model over one instance."""

    instance_pk: int
    study_pk: int
    study_uid: str
    model_name: str
    model_version: str
    weights_sha256: str
    engine: str  # torch-cuda | openvino | torch-cpu
    probability: float  # calibrated, abnormal
    threshold: float
    flagged: bool
    findings: tuple[Finding, ...]  # all of them
    listed: tuple[Finding, ...]  # those that the worklist shows, in its order
    decode_ms: float
    inference_ms: float
    due_at: dt.datetime
    reason: str  # for a person: why it is due then
    outlier: float | None = None  # percentile among the films that the model knows, above 100 beyond them all
    shadow: bool = False  # of a model that is only compared: the worklist never shows it
    notes: tuple[str, ...] = ()  # what the input gate put right, for a person


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredScore:
    """A score as it stands in the database, with the instance it is about."""

    sop_uid: str
    model_name: str
    model_version: str
    weights_sha256: str
    engine: str
    probability: float
    threshold: float
    flagged: bool
    decode_ms: float
    inference_ms: float
    scored_at: dt.datetime
    outlier: float | None
    shadow: bool
    notes: list[str]
    map_key: str  # of the object with the maps of its findings; '' where none is stored
    findings: list[dict[str, float | str]]  # [{name, probability, threshold}], highest first


_RECORD = """
-- Scores with their findings; the instances become 'scored'. An instance that was deleted meanwhile is left out; the
-- study is the one that it is in now. The rows are locked in their order, as changes lock them. A score in shadow
-- changes its instance in nothing; when its model becomes the active one and says it again, it steps out.
WITH given AS MATERIALIZED (
    SELECT * FROM (
        SELECT *,
            (SELECT study_fk FROM instances WHERE instances.instance_pk = r.instance_pk FOR NO KEY UPDATE) AS study_pk
        FROM json_to_recordset(%s) AS r (instance_pk bigint, model_name text, model_version text,
            weights_sha256 text, engine text, probability real, threshold real, flagged boolean, findings json,
            listed jsonb, reason text, decode_ms real, inference_ms real, outlier real, shadow boolean, notes text[])
        OFFSET 0
    ) AS r WHERE study_pk IS NOT NULL
),
scored AS (
    INSERT INTO scores (instance_fk, study_fk, model_name, model_version, weights_sha256, engine, probability,
        threshold, flagged, decode_ms, inference_ms, listed, reason, outlier, shadow, notes)
    SELECT DISTINCT ON (instance_pk, weights_sha256, model_version) instance_pk, study_pk, model_name, model_version,
        weights_sha256, engine, probability, threshold, flagged, decode_ms, inference_ms, listed, reason, outlier,
        shadow, notes
    FROM given ORDER BY instance_pk, weights_sha256, model_version, shadow
    ON CONFLICT (instance_fk, weights_sha256, model_version) DO UPDATE SET shadow = false,
        threshold = excluded.threshold, flagged = excluded.flagged, listed = excluded.listed, reason = excluded.reason
        WHERE scores.shadow AND NOT excluded.shadow
    RETURNING score_pk, instance_fk, weights_sha256, model_version
),
found AS (
    INSERT INTO findings (score_fk, name, probability, threshold)
    SELECT DISTINCT ON (score_pk, f.name) score_pk, f.name, f.probability, f.threshold
    FROM scored JOIN given ON given.instance_pk = scored.instance_fk AND given.weights_sha256 = scored.weights_sha256
        AND given.model_version = scored.model_version
    CROSS JOIN LATERAL json_to_recordset(given.findings) AS f (name text, probability real, threshold real)
    ON CONFLICT (score_fk, name) DO UPDATE SET threshold = excluded.threshold
)
UPDATE instances SET triage = 'scored', triage_reason = ''
WHERE instance_pk = ANY(ARRAY(SELECT instance_pk FROM given WHERE NOT shadow))
RETURNING instance_pk, study_fk, hidden"""

_LIST = """
-- The highest of the given scores of each study, against what the worklist shows; audited when anything moves.
WITH given AS MATERIALIZED (
    SELECT DISTINCT ON (study_pk) *, min(due_at) OVER (PARTITION BY study_pk) AS due,
        bool_or(flagged) OVER (PARTITION BY study_pk) AS any_flagged
    FROM json_to_recordset(%s) AS r (instance_pk bigint, study_pk bigint, model_name text, model_version text,
        weights_sha256 text, probability real, threshold real, flagged boolean, listed jsonb, due_at timestamptz,
        reason text)
    ORDER BY study_pk, flagged DESC, probability DESC
),
before AS MATERIALIZED (
    SELECT worklist.* FROM worklist WHERE study_fk = ANY(ARRAY(SELECT study_pk FROM given))
    ORDER BY study_fk FOR UPDATE
),
higher AS MATERIALIZED (
    SELECT given.*, given.model_name || ' ' || given.model_version AS model, before.due_at AS due_before,
        before.study_uid, before.probability IS NULL
            OR (given.flagged, given.probability) > (before.flagged, before.probability) AS shows,
        (SELECT score_pk FROM scores
         WHERE instance_fk = given.instance_pk AND scores.weights_sha256 = given.weights_sha256
            AND scores.model_version = given.model_version) AS score_pk
    FROM given JOIN before ON before.study_fk = given.study_pk
),
updated AS (
    UPDATE worklist AS w SET
        status = 'scored',
        due_at = LEAST(w.due_at, h.due),
        flagged = w.flagged OR h.any_flagged,
        probability = CASE WHEN h.shows THEN h.probability ELSE w.probability END,
        model = CASE WHEN h.shows THEN h.model ELSE w.model END,
        findings = CASE WHEN h.shows THEN h.listed ELSE w.findings END,
        score_fk = CASE WHEN h.shows THEN h.score_pk ELSE w.score_fk END,
        reason = CASE WHEN h.shows THEN h.reason ELSE w.reason END,
        scored_at = coalesce(w.scored_at, clock_timestamp()),
        changed_at = clock_timestamp()
    FROM higher AS h WHERE w.study_fk = h.study_pk
)
INSERT INTO audit (actor, action, study_uid, detail)
SELECT model, 'study.scored', study_uid, jsonb_build_object('probability', probability, 'threshold', threshold,
    'flagged', any_flagged, 'weights_sha256', weights_sha256, 'due_before', due_before,
    'due_at', LEAST(due_before, due), 'reason', reason)
FROM higher"""

_SETTLE = """
-- What the worklist says of a study that no model has read: waiting before failed before not eligible.
UPDATE worklist AS w SET status = s.triage, reason = s.triage_reason, changed_at = clock_timestamp()
FROM (
    SELECT triage, triage_reason FROM series JOIN instances ON series_fk = series_pk
    WHERE series.study_fk = %(study)s AND NOT instances.hidden
    ORDER BY array_position(ARRAY['scored', 'waiting', 'failed', 'not_eligible'], triage), instance_pk LIMIT 1
) AS s
WHERE w.study_fk = %(study)s AND s.triage <> 'scored' AND (w.status, w.reason) <> (s.triage, s.triage_reason)"""


def record_scores(connection: Connection, scores: Sequence[Score], *, quiet: Collection[int] = frozenset()) -> None:
    """Write scores and what they make of their studies, in the caller's transaction; not of the studies in `quiet`.

    A score of the same weights and version for the same instance is written once: a job that ran twice changes nothing.
    The score of an instance that was rejected meanwhile is kept, and changes nothing either; so is one in shadow.
    """
    if not scores:
        return
    rows = []
    for score in sorted(scores, key=lambda score: score.instance_pk):
        row = asdict(score)
        findings = sorted(score.findings, key=lambda finding: -finding.probability)
        row["findings"] = [finding._asdict() for finding in findings]
        row["listed"] = [finding._asdict() for finding in score.listed]
        rows.append(row)
    connection.execute("SELECT heed_changes()")
    written = connection.execute(_RECORD, (orjson.dumps(rows).decode(),)).fetchall()
    places = {pk: study_pk for pk, study_pk, hidden in written if not hidden}
    shown = [
        row | {"study_pk": places[row["instance_pk"]]}
        for row in rows
        if not row["shadow"] and places.get(row["instance_pk"], -1) not in {-1, *quiet}
    ]
    connection.execute(_LIST, (orjson.dumps(shown).decode(),))


def record_not_eligible(connection: Connection, instance_pk: int, reason: str) -> None:
    """Write why no model reads an instance; its study shows that unless another image of it is waiting or read."""
    connection.execute("SELECT heed_changes()")
    found = connection.execute(
        "UPDATE instances SET triage = 'not_eligible', triage_reason = %s WHERE instance_pk = %s RETURNING study_fk",
        (reason.replace("\0", ""), instance_pk),
    ).fetchone()
    if found is not None:
        settle(connection, found[0])


def settle(connection: Connection, study_pk: int) -> None:
    """Bring the status and reason that the worklist shows for a study in line with its instances."""
    connection.execute("SELECT FROM worklist WHERE study_fk = %s FOR UPDATE", (study_pk,))
    connection.execute(_SETTLE, {"study": study_pk})


def of_study(connection: Connection, study_uid: str, *, shadow: bool = False) -> list[StoredScore]:
    """All scores of a study's instances, newest first; those of models in shadow only when they are asked for."""
    with connection.cursor(row_factory=class_row(StoredScore)) as cursor:
        return cursor.execute(
            "SELECT i.sop_uid, c.model_name, c.model_version, c.weights_sha256, c.engine, c.probability, c.threshold,"
            " c.flagged, c.decode_ms, c.inference_ms, c.scored_at, c.outlier, c.shadow, c.notes, c.map_key,"
            " coalesce((SELECT jsonb_agg(jsonb_build_object("
            "'name', f.name, 'probability', f.probability, 'threshold', f.threshold) ORDER BY f.probability DESC)"
            " FROM findings AS f WHERE f.score_fk = c.score_pk), '[]') AS findings"
            " FROM studies AS s JOIN scores AS c ON c.study_fk = s.study_pk"
            " JOIN instances AS i ON i.instance_pk = c.instance_fk"
            " WHERE s.study_uid = %s AND NOT s.hidden AND NOT i.hidden AND (%s OR NOT c.shadow)"
            " ORDER BY c.score_pk DESC",
            (study_uid, shadow),
        ).fetchall()


def name_map(connection: Connection, score: Score, object_key: str) -> bool:
    """Name the object that holds a score's maps; False where the score is gone or has its maps already."""
    done = connection.execute(
        "UPDATE scores SET map_key = %s WHERE instance_fk = %s AND weights_sha256 = %s AND model_version = %s"
        " AND map_key = ''",
        (object_key, score.instance_pk, score.weights_sha256, score.model_version),
    )
    return done.rowcount == 1


def map_of(connection: Connection, sop_uid: str) -> str:
    """The key of the newest maps of an instance (`models.maps.unpack` reads the object); raises `NotFound`."""
    found = connection.execute(
        "SELECT c.map_key FROM instances AS i JOIN scores AS c ON c.instance_fk = i.instance_pk"
        " WHERE i.sop_uid = %s AND NOT i.hidden AND NOT c.shadow AND c.map_key <> '' ORDER BY c.score_pk DESC LIMIT 1",
        (sop_uid,),
    ).fetchone()
    if found is None:
        raise NotFound(f"No maps are stored for instance {sop_uid}.")
    return str(found[0])
