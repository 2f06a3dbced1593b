"""The two statements of `storage.indexing`, put together from their common parts."""

# ruff: noqa: S608 - the statements are put together from constants only

from __future__ import annotations

from typing import LiteralString

__all__ = ["INDEX_KNOWN", "INDEX_NEW"]

_INSTANCE_COLUMNS: LiteralString = """
    sop_uid text, sop_class text, transfer_syntax text, instance_number integer, rows integer, columns integer,
    bits_allocated integer, frames integer, photometric text, view_position text, image_type text, content_date date,
    content_time text, acquisition_date date, acquisition_time text, object_key text, object_size bigint,
    dataset_offset integer, sha256 text, source_aet text, source_address text, received_at timestamptz,
    not_eligible text, urgency smallint, latest_due_at timestamptz"""

_FULL_COLUMNS: LiteralString = f"""n integer, {_INSTANCE_COLUMNS},
    patient_key text, patient_id text, issuer text, patient_name text, patient_name_key text, name_words text[],
    patient_birth_date date, patient_sex text, patient_age text, other_ids text[], study_uid text, study_date date,
    study_time text, accession_number text, study_id text, study_description text, referring_physician text,
    timezone_offset text, site text, requested_priority text, series_uid text, modality text, series_number integer,
    series_description text, body_part text, laterality text, protocol_name text, series_date date, series_time text,
    pps_start_date date, pps_start_time text, performing_physician text, station_name text, manufacturer text,
    manufacturer_model text, institution_name text"""

# Instances and their jobs, from the rows of `placed`.
_STORE: LiteralString = """
stored AS (
    INSERT INTO instances (sop_uid, series_fk, study_fk, sop_class, transfer_syntax, instance_number, rows, columns,
        bits_allocated, frames, photometric, view_position, image_type, content_date, content_time, acquisition_date,
        acquisition_time, object_key, object_size, dataset_offset, sha256, source_aet, source_address, received_at,
        triage, triage_reason)
    SELECT sop_uid, series_fk, study_fk, sop_class, transfer_syntax, instance_number, rows, columns,
        bits_allocated, frames, photometric, view_position, image_type, content_date, content_time, acquisition_date,
        acquisition_time, object_key, object_size, dataset_offset, decode(sha256, 'hex'), source_aet, source_address,
        received_at, CASE WHEN not_eligible = '' THEN 'waiting' ELSE 'not_eligible' END, not_eligible
    FROM placed ORDER BY sop_uid
    ON CONFLICT (sop_uid) DO NOTHING
    RETURNING instance_pk, sop_uid, series_fk, study_fk, triage
),
asked AS (
    INSERT INTO jobs (instance_fk, urgency)
    SELECT instance_pk, (SELECT urgency FROM placed WHERE placed.sop_uid = stored.sop_uid)
    FROM stored WHERE triage = 'waiting'
),"""

# A study that is known already: back on the list if it was read, to be scored if it gets its first eligible instance,
# due earlier if the new instance is more urgent. Never due later.
_REVISE: LiteralString = """
arrived AS (
    SELECT study_fk, bool_or(triage = 'waiting') AS eligible, min(latest_due_at) AS due, max(urgency) AS urgency
    FROM stored JOIN placed USING (sop_uid, study_fk) GROUP BY study_fk
),
changed AS MATERIALIZED (
    SELECT w.study_fk, arrived.eligible, arrived.due, arrived.urgency
    FROM arrived CROSS JOIN LATERAL (SELECT * FROM worklist WHERE worklist.study_fk = arrived.study_fk OFFSET 0) AS w
    WHERE w.state = 'read' OR arrived.due < w.latest_due_at OR (arrived.eligible AND w.status = 'not_eligible')
    ORDER BY w.study_fk
),
revised AS (
    UPDATE worklist AS w SET
        state = 'open',
        status = CASE WHEN c.eligible AND w.status = 'not_eligible' THEN 'waiting' ELSE w.status END,
        reason = CASE WHEN c.eligible AND w.status = 'not_eligible' THEN '' ELSE w.reason END,
        due_at = LEAST(w.due_at, c.due),
        latest_due_at = LEAST(w.latest_due_at, c.due),
        priority = CASE WHEN c.due < w.latest_due_at THEN (ARRAY['routine', 'urgent', 'stat'])[c.urgency + 1]
                   ELSE w.priority END,
        changed_at = now()
    FROM changed AS c WHERE w.study_fk = c.study_fk
)"""

INDEX_KNOWN: LiteralString = f"""
-- Instances of known series; gives back the SOP instance UIDs that were new.
WITH placed AS MATERIALIZED (
    SELECT * FROM json_to_recordset(%s) AS r (study_fk bigint, series_fk bigint, {_INSTANCE_COLUMNS})
),{_STORE}{_REVISE}
SELECT sop_uid FROM stored"""

INDEX_NEW: LiteralString = f"""
-- Instances with all that is missing above them; for each row: its number, whether the instance was known before, and
-- the keys of study and series if it was stored now.
-- Scalar subqueries look each key up by its index, however many rows the planner expects.
WITH given AS MATERIALIZED (
    SELECT r.*,
        (SELECT instance_pk FROM instances WHERE instances.sop_uid = r.sop_uid) AS instance_pk,
        (SELECT patient_pk FROM patients WHERE patients.patient_key = r.patient_key) AS patient_pk,
        (SELECT study_pk FROM studies WHERE studies.study_uid = r.study_uid) AS study_pk
    FROM json_to_recordset(%s) AS r ({_FULL_COLUMNS})
),
incoming AS MATERIALIZED (
    SELECT given.*, (SELECT series_pk FROM series
        WHERE series.series_uid = given.series_uid AND series.study_fk = given.study_pk) AS series_pk
    FROM given WHERE instance_pk IS NULL
),
new_patients AS (
    INSERT INTO patients (patient_key, patient_id, issuer, name, birth_date, sex, other_ids)
    SELECT DISTINCT ON (patient_key) patient_key, patient_id, issuer, patient_name, patient_birth_date, patient_sex,
        other_ids
    FROM incoming WHERE patient_pk IS NULL AND study_pk IS NULL ORDER BY patient_key, n
    ON CONFLICT (patient_key) DO NOTHING
    RETURNING patient_pk, patient_key
),
first_of_study AS MATERIALIZED (
    SELECT DISTINCT ON (study_uid) incoming.*, coalesce(incoming.patient_pk, new_patients.patient_pk) AS patient_fk
    FROM incoming LEFT JOIN new_patients USING (patient_key) WHERE study_pk IS NULL ORDER BY study_uid, n
),
new_studies AS (
    INSERT INTO studies (study_uid, patient_fk, patient_id, patient_name, patient_name_key, patient_birth_date,
        patient_sex, patient_age, study_date, study_time, accession_number, study_id, description, referring_physician,
        institution_name, timezone_offset, site, requested_priority)
    SELECT study_uid, patient_fk, patient_id, patient_name, patient_name_key, patient_birth_date, patient_sex,
        patient_age, study_date, study_time, accession_number, study_id, study_description, referring_physician,
        institution_name, timezone_offset, site, requested_priority
    FROM first_of_study WHERE patient_fk IS NOT NULL ORDER BY study_uid
    ON CONFLICT (study_uid) DO NOTHING
    RETURNING study_pk, study_uid
),
named AS (
    INSERT INTO name_words (word, study_fk)
    SELECT unnest(name_words), new_studies.study_pk FROM new_studies JOIN first_of_study USING (study_uid)
),
in_study AS MATERIALIZED (
    SELECT incoming.*, coalesce(incoming.study_pk, new_studies.study_pk) AS study_fk
    FROM incoming LEFT JOIN new_studies USING (study_uid)
),
new_series AS (
    INSERT INTO series (series_uid, study_fk, modality, series_number, description, body_part, laterality,
        protocol_name, series_date, series_time, pps_start_date, pps_start_time, performing_physician, station_name,
        manufacturer, manufacturer_model, institution_name)
    SELECT DISTINCT ON (series_uid, study_fk) series_uid, study_fk, modality, series_number, series_description,
        body_part, laterality, protocol_name, series_date, series_time, pps_start_date, pps_start_time,
        performing_physician, station_name, manufacturer, manufacturer_model, institution_name
    FROM in_study WHERE series_pk IS NULL AND study_fk IS NOT NULL ORDER BY series_uid, study_fk, n
    ON CONFLICT (series_uid, study_fk) DO NOTHING
    RETURNING series_pk, series_uid, study_fk
),
placed AS MATERIALIZED (
    SELECT * FROM (
        SELECT in_study.*, coalesce(in_study.series_pk, new_series.series_pk) AS series_fk
        FROM in_study LEFT JOIN new_series USING (series_uid, study_fk)
    ) AS found WHERE series_fk IS NOT NULL
),{_STORE}{_REVISE},
listed AS (
    INSERT INTO worklist (study_fk, study_uid, arrived_at, latest_due_at, due_at, status, reason, site, study_date,
        priority)
    SELECT new_studies.study_pk, study_uid, arrival.received_at, arrival.due, arrival.due,
        CASE WHEN arrival.eligible THEN 'waiting' ELSE 'not_eligible' END,
        CASE WHEN arrival.eligible THEN '' ELSE f.not_eligible END, f.site, f.study_date,
        (ARRAY['routine', 'urgent', 'stat'])[arrival.urgency + 1]
    FROM new_studies JOIN first_of_study AS f USING (study_uid) JOIN (
        SELECT study_uid, min(received_at) AS received_at, min(latest_due_at) AS due, max(urgency) AS urgency,
            bool_or(not_eligible = '') AS eligible
        FROM incoming GROUP BY study_uid
    ) AS arrival USING (study_uid)
    ORDER BY new_studies.study_pk
),
audited AS (
    INSERT INTO audit (actor, action, study_uid, detail)
    SELECT source_aet, 'study.arrived', study_uid, jsonb_build_object('source_address', source_address,
        'due_at', latest_due_at, 'priority', requested_priority, 'site', site)
    FROM new_studies JOIN first_of_study USING (study_uid)
)
SELECT given.n, given.instance_pk IS NOT NULL, stored.study_fk, stored.series_fk
FROM given LEFT JOIN stored USING (sop_uid)"""
