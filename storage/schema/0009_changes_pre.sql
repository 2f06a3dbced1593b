-- What people and peers change in what is stored. Bytes never change: instances are hidden, rows get other values, and
-- `corrections` say what goes out instead of what the bytes say.
--
-- Every change takes the advisory lock of `lock_changes` alone; ingest (index_instances) and workers (heed_changes) take
-- it shared: a change never meets a half-written batch, and needs no order of locks of its own.

ALTER TABLE patients ADD merged_into bigint REFERENCES patients;  -- whom this patient turned out to be
CREATE INDEX patients_merged ON patients (merged_into) WHERE merged_into IS NOT NULL;

ALTER TABLE studies
    ADD moved_to bigint REFERENCES studies,         -- merged into that study: what comes under this UID belongs there
    ADD as_sent jsonb;                              -- patient columns as sent, where they were replaced on arrival
CREATE INDEX studies_moved ON studies (moved_to) WHERE moved_to IS NOT NULL;
CREATE INDEX studies_hidden ON studies (study_pk) WHERE hidden;

-- A series that moved to another study leaves an empty hidden row behind, so that what comes later follows it.
ALTER TABLE series
    ADD moved_to bigint REFERENCES series,
    ADD home_study_uid text COLLATE "C",            -- what the bytes of its objects say, where the row says something else
    ADD home_series_uid text COLLATE "C",
    ADD edits jsonb;                                -- corrections of its own; `corrections` has those of a move as well
CREATE INDEX series_moved ON series (moved_to) WHERE moved_to IS NOT NULL;
CREATE INDEX series_hidden ON series (series_pk) WHERE hidden;

-- What the worklist shows of a score, so that it can be found again over what is left visible.
ALTER TABLE scores ADD reason text NOT NULL DEFAULT '', ADD listed jsonb NOT NULL DEFAULT '[]';

-- State 'hidden' takes a study off the list; it comes back in this state.
ALTER TABLE worklist ADD hidden_state text;
CREATE INDEX worklist_score ON worklist (score_fk) WHERE score_fk IS NOT NULL;  -- scores that are purged

CREATE TABLE changes (
    change_pk   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor       text NOT NULL,
    kind        text COLLATE "C" NOT NULL,          -- delete | reject | restore | update_patient | ... (storage/changes.py)
    reason      text NOT NULL,                      -- a code for delete and reject, else a person's words
    comment     text NOT NULL DEFAULT '',
    detail      jsonb NOT NULL DEFAULT '{}',        -- what was asked, what it concerned
    before      jsonb NOT NULL DEFAULT '{}',        -- {studies | series | patients: {key: {column: value}}}: what differs
    after       jsonb NOT NULL DEFAULT '{}',
    note_uid    text COLLATE "C" NOT NULL DEFAULT '', -- SOP Instance UID of the rejection note
    purge_after timestamptz,                        -- delete and reject: when objects and rows go; NULL: never
    restored_at timestamptz,
    purged_at   timestamptz,
    undone_by   bigint REFERENCES changes
);
CREATE INDEX changes_purge ON changes (purge_after) WHERE purged_at IS NULL AND restored_at IS NULL;
CREATE UNIQUE INDEX changes_note ON changes (note_uid) WHERE note_uid <> '';
CREATE INDEX changes_undone ON changes (undone_by) WHERE undone_by IS NOT NULL;

CREATE TABLE changed_studies (
    study_uid  text COLLATE "C" NOT NULL,
    change_fk  bigint NOT NULL REFERENCES changes,
    PRIMARY KEY (study_uid, change_fk)
);
CREATE INDEX changed_studies_change ON changed_studies (change_fk);

-- By SOP instance, whether it is here or not: an instance is hidden while a row names it, also when it comes later.
CREATE TABLE removed_instances (
    sop_uid    text COLLATE "C" NOT NULL,
    change_fk  bigint NOT NULL REFERENCES changes,
    PRIMARY KEY (sop_uid, change_fk)
);
CREATE INDEX removed_instances_change ON removed_instances (change_fk);

-- Key object documents that came in and were not looked into yet (index_instances notes them), and those that reject.
CREATE TABLE rejection_notes (
    sop_uid    text COLLATE "C" PRIMARY KEY,
    state      text NOT NULL DEFAULT 'waiting',     -- waiting | due (ours, to be written) | applied | refused
    error      text NOT NULL DEFAULT '',
    change_fk  bigint REFERENCES changes,
    noted_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX rejection_notes_waiting ON rejection_notes (noted_at) WHERE state IN ('waiting', 'due');

-- Objects whose rows are gone: deleted from the store after the commit that wrote this.
CREATE TABLE purged_objects (
    object_key  text COLLATE "C" PRIMARY KEY
);

-- The metadata object of a series goes with its row (a version that was replaced is deleted by who replaces it).
CREATE FUNCTION purge_metadata() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO purged_objects (object_key) VALUES (OLD.object_key) ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
CREATE TRIGGER series_metadata_purged AFTER DELETE ON series_metadata FOR EACH ROW EXECUTE FUNCTION purge_metadata();

CREATE FUNCTION lock_changes() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(1935765096);
    PERFORM set_config('sangloc.alone', 'on', true);
END $$;

-- First thing in a transaction that writes rows of several instances or studies and is no change.
CREATE FUNCTION heed_changes() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(1935765096);
END $$;

-- A row of `wanted` with other values for some columns, under a new primary key.
CREATE FUNCTION copy_row(wanted regclass, pk text, of_pk bigint, others jsonb) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    columns text := (SELECT string_agg(quote_ident(attname), ', ') FROM pg_attribute
        WHERE attrelid = wanted AND attnum > 0 AND NOT attisdropped AND attgenerated = '' AND attname <> pk);
    copied bigint;
BEGIN
    EXECUTE format('INSERT INTO %1$s (%2$s) SELECT %2$s FROM jsonb_populate_record('
        '(SELECT t FROM %1$s AS t WHERE %3$I = $1), $2) RETURNING %3$I', wanted, columns, pk)
    INTO copied USING of_pk, others;
    RETURN copied;
END $$;

-- Hidden flags, modalities and worklist rows of studies, in line with their visible instances. A series without a
-- visible instance is hidden, and so is a study without a visible series. due_at stays: nobody is pushed back.
CREATE FUNCTION settle_studies(given bigint[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE series SET hidden = NOT hidden
    WHERE study_fk = ANY(given)
        AND hidden = EXISTS (SELECT FROM instances WHERE series_fk = series_pk AND NOT instances.hidden);

    UPDATE studies AS s SET hidden = v.shown IS NULL, modalities = coalesce(v.modalities, s.modalities)
    FROM (
        SELECT pk, (SELECT true FROM series WHERE study_fk = pk AND NOT hidden LIMIT 1) AS shown,
            (SELECT array_agg(DISTINCT modality ORDER BY modality) FROM series
             WHERE study_fk = pk AND NOT hidden AND modality <> '') AS modalities
        FROM unnest(given) AS pk
    ) AS v
    WHERE s.study_pk = v.pk AND (s.hidden <> (v.shown IS NULL) OR s.modalities <> coalesce(v.modalities, s.modalities));

    UPDATE worklist AS w SET
        state = CASE WHEN v.hidden THEN 'hidden' WHEN w.state = 'hidden' THEN coalesce(w.hidden_state, 'open')
            ELSE w.state END,
        hidden_state = CASE WHEN NOT v.hidden THEN NULL WHEN w.state = 'hidden' THEN w.hidden_state ELSE w.state END,
        status = v.status, reason = v.reason, flagged = v.flagged, probability = v.probability, model = v.model,
        findings = v.findings, score_fk = v.score_pk, modalities = v.modalities, study_date = v.study_date,
        scored_at = CASE WHEN v.score_pk IS NULL THEN NULL ELSE coalesce(w.scored_at, clock_timestamp()) END,
        changed_at = clock_timestamp()
    FROM (
        SELECT s.study_pk, s.hidden, s.modalities, s.study_date, b.score_pk, b.probability,
            coalesce(b.flagged, false) AS flagged, coalesce(b.listed, '[]') AS findings,
            coalesce(b.model_name || ' ' || b.model_version, '') AS model,
            CASE WHEN b.score_pk IS NOT NULL THEN 'scored' ELSE coalesce(t.triage, 'not_eligible') END AS status,
            CASE WHEN b.score_pk IS NOT NULL THEN b.reason ELSE coalesce(t.triage_reason, '') END AS reason
        FROM studies AS s
        LEFT JOIN LATERAL (
            SELECT c.* FROM scores AS c JOIN instances ON instance_pk = c.instance_fk
            WHERE c.study_fk = s.study_pk AND NOT instances.hidden
            ORDER BY c.flagged DESC, c.probability DESC, c.score_pk LIMIT 1
        ) AS b ON true
        LEFT JOIN LATERAL (
            SELECT triage, triage_reason FROM series JOIN instances ON series_fk = series_pk
            WHERE series.study_fk = s.study_pk AND NOT instances.hidden
            ORDER BY array_position(ARRAY['scored', 'waiting', 'failed', 'not_eligible'], triage), instance_pk LIMIT 1
        ) AS t ON true
        WHERE s.study_pk = ANY(given)
    ) AS v
    WHERE w.study_fk = v.study_pk AND (
        w.state = 'hidden' OR v.hidden OR (w.status, w.reason, w.flagged, w.model, w.findings, w.modalities)
            <> (v.status, v.reason, v.flagged, v.model, v.findings, v.modalities)
        OR (w.probability, w.score_fk, w.study_date) IS DISTINCT FROM (v.probability, v.score_pk, v.study_date));
END $$;
