-- How far an image is from what the model knows, what was put right in it, where the findings are; models in shadow.

ALTER TABLE scores
    ADD COLUMN outlier  real,                            -- percentile among known films, above 100 beyond them all
    ADD COLUMN shadow   boolean NOT NULL DEFAULT false,  -- compared by those who run the models, never shown
    ADD COLUMN notes    text[] NOT NULL DEFAULT '{}',    -- what the input gate put right, for a person
    ADD COLUMN map_key  text COLLATE "C" NOT NULL DEFAULT '';  -- object with the maps of what was found; '' without

-- The same weights may be calibrated again, as another version: scored beside each other.
ALTER TABLE scores DROP CONSTRAINT scores_instance_fk_weights_sha256_key;
ALTER TABLE scores ADD CONSTRAINT scores_once UNIQUE (instance_fk, weights_sha256, model_version);

-- The object of the maps goes with its row.
CREATE FUNCTION purge_map() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO purged_objects (object_key) VALUES (OLD.map_key) ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
CREATE TRIGGER scores_purged AFTER DELETE ON scores FOR EACH ROW WHEN (OLD.map_key <> '') EXECUTE FUNCTION purge_map();

-- As in 0009, except that a score in shadow is not shown.
CREATE OR REPLACE FUNCTION settle_studies(given bigint[]) RETURNS void LANGUAGE plpgsql AS $$
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
            WHERE c.study_fk = s.study_pk AND NOT c.shadow AND NOT instances.hidden
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
