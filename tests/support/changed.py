"""What the tests of changes ask again and again: what is visible, and whether the rows agree with each other."""

from __future__ import annotations

from typing import Any

from storage.changes import By
from storage.database import Database

BY = By(actor="dr.minh", reason="a test", comment="")


def rows(database: Database, sql: str, *values: Any) -> list[tuple[Any, ...]]:
    with database.autocommit() as connection:
        return connection.execute(sql.encode(), values).fetchall()


def visible(database: Database) -> dict[str, tuple[str, str]]:
    """SOP Instance UID to (study, series) of all that is shown."""
    found = rows(
        database,
        "SELECT i.sop_uid, s.study_uid, e.series_uid FROM instances AS i JOIN series AS e ON series_pk = series_fk"
        " JOIN studies AS s ON study_pk = e.study_fk WHERE NOT (i.hidden OR e.hidden OR s.hidden)",
    )
    return {sop: (study, series) for sop, study, series in found}


def contradictions(database: Database) -> list[str]:
    """What the rows of all levels must never say; [] while they agree."""
    checks = {
        "an instance is shown though something removes it": "SELECT sop_uid FROM instances WHERE NOT hidden"
        " AND sop_uid IN"
        " (SELECT sop_uid FROM removed_instances)",
        "an instance is hidden for nothing": "SELECT sop_uid FROM instances WHERE hidden AND sop_uid NOT IN"
        " (SELECT sop_uid FROM removed_instances UNION ALL SELECT sop_uid FROM rejection_notes)",
        "a series' flag": "SELECT series_uid FROM series WHERE hidden = EXISTS (SELECT FROM instances WHERE series_fk ="
        " series_pk AND NOT instances.hidden)",
        "a study's flag": "SELECT study_uid FROM studies WHERE hidden = EXISTS (SELECT FROM series WHERE study_fk ="
        " study_pk AND NOT series.hidden)",
        "a worklist row's state": "SELECT w.study_uid FROM worklist AS w JOIN studies ON study_pk = study_fk WHERE"
        " (state = 'hidden') <> hidden",
        "a study without a worklist row": "SELECT study_uid FROM studies WHERE study_pk NOT IN (SELECT study_fk FROM"
        " worklist)",
        "modalities": "SELECT study_uid FROM studies AS s WHERE NOT hidden AND modalities <> ARRAY(SELECT DISTINCT"
        " modality FROM series WHERE study_fk = study_pk AND NOT series.hidden AND modality <> '' ORDER BY 1)",
        "worklist modalities": "SELECT s.study_uid FROM studies AS s JOIN worklist AS w ON study_fk = study_pk"
        " WHERE NOT"
        " hidden AND (w.modalities <> s.modalities OR w.study_date IS DISTINCT FROM s.study_date)",
        "an instance in two studies": "SELECT sop_uid FROM instances AS i JOIN series ON series_pk = series_fk WHERE"
        " i.study_fk <> series.study_fk",
        "a pointer with instances": "SELECT series_uid FROM series WHERE moved_to IS NOT NULL AND EXISTS (SELECT FROM"
        " instances WHERE series_fk = series_pk)",
        "a pointer to a pointer": "SELECT e.series_uid FROM series AS e JOIN series AS t ON t.series_pk = e.moved_to"
        " WHERE t.moved_to IS NOT NULL",
        "an empty series": "SELECT series_uid FROM series WHERE moved_to IS NULL AND NOT EXISTS (SELECT FROM instances"
        " WHERE series_fk = series_pk)",
        "a waiting job of a hidden instance": "SELECT sop_uid FROM jobs JOIN instances ON instance_pk = instance_fk"
        " WHERE state = 'waiting' AND hidden",
        "a visible instance that waits without a job": "SELECT sop_uid FROM instances WHERE triage = 'waiting' AND NOT"
        " hidden AND instance_pk NOT IN (SELECT instance_fk FROM jobs)",
        "a score in another study": "SELECT score_pk FROM scores JOIN instances ON instance_pk = instance_fk WHERE"
        " scores.study_fk <> instances.study_fk",
        "a flag that no visible score has": "SELECT study_uid FROM worklist AS w WHERE state <> 'hidden' AND flagged <>"
        " EXISTS (SELECT FROM scores AS c JOIN instances ON instance_pk = instance_fk WHERE c.study_fk = w.study_fk AND"
        " c.flagged AND NOT hidden)",
        "words of another name": "SELECT study_uid FROM studies WHERE patient_name_key <> (SELECT coalesce(min(words),"
        " '') FROM name_words WHERE study_fk = study_pk)",
        "a moved series without corrections": "SELECT series_uid FROM series WHERE home_study_uid IS NOT NULL AND"
        " corrections->'0020000D' IS NULL",
        "a study of a patient that was merged": "SELECT study_uid FROM studies JOIN patients ON patient_pk = patient_fk"
        " WHERE merged_into IS NOT NULL",
    }
    return [f"{name}: {row[0]}" for name, sql in checks.items() for row in rows(database, sql)]
