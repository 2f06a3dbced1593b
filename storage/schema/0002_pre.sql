-- The name of an urgency, for people and for the worklist.
CREATE FUNCTION priority_name(urgency smallint) RETURNS text LANGUAGE sql IMMUTABLE
RETURN (ARRAY['routine', 'urgent', 'stat'])[urgency + 1];

CREATE FUNCTION joined(these text[], those text[]) RETURNS text[] LANGUAGE sql IMMUTABLE
RETURN ARRAY(SELECT DISTINCT unnest(these || those) ORDER BY 1);

-- What ingest does for a batch, in one round trip. A function, because its plain statements with kept plans cost a third
-- of one large statement with many WITH parts; and each of them sees what others committed a moment before.
--
-- The caller gives each array without repeats and in the order of its key, and locks are taken in that order: patients,
-- studies, series, studies again, instances, worklist (by study_pk, as workers do). So writers of the same study wait for
-- each other, but never in a circle.
-- Instances of known series come with their keys, and then the first three arrays are NULL.
--
-- Changes (0009_changes_pre.sql) take alone the advisory lock that is shared here. What meets a change (hidden series,
-- rejected instances, merged patients) raises object_not_in_prerequisite_state: the caller comes again with that lock.
CREATE FUNCTION index_instances(
    given_patients json,    -- those of the studies below; study_uids: the studies that would be theirs
    given_studies json,     -- with what a new study brings to name_words, worklist and audit
    given_series json,
    given_instances json,
    arrivals json           -- for each study: the most urgent of its instances, for the worklist row that stands already
) RETURNS TABLE (stored_uid text, stored_study bigint, stored_series bigint)
LANGUAGE plpgsql AS $$
DECLARE
    given record;
    new_pk bigint;
    new_series bigint[] := '{}';
    changed_studies bigint[] := '{}';
    changed_series bigint[] := '{}';
    removed boolean := false;
BEGIN
    removed := pg_advisory_xact_lock_shared(1935765096)::text <> '';  -- false; an assignment costs a third of PERFORM
    IF given_studies IS NOT NULL THEN
        INSERT INTO patients (patient_key, patient_id, issuer, name, birth_date, sex, other_ids)
        SELECT patient_key, patient_id, issuer, patient_name, patient_birth_date, patient_sex, other_ids
        FROM json_to_recordset(given_patients) AS r (patient_key text, patient_id text, issuer text, patient_name text,
            patient_birth_date date, patient_sex text, other_ids text[], study_uids text[])
        WHERE (SELECT count(*) FROM studies WHERE study_uid = ANY(r.study_uids)) < cardinality(r.study_uids)
        ON CONFLICT (patient_key) DO NOTHING;

        FOR given IN SELECT * FROM json_to_recordset(given_studies) AS r (study_uid text, patient_key text,
            patient_id text, patient_name text, patient_name_key text, name_words text[], patient_birth_date date,
            patient_sex text, patient_age text, study_date date, study_time text, accession_number text, study_id text,
            study_description text, referring_physician text, institution_name text, timezone_offset text, site text,
            source_aet text, source_address text, received_at timestamptz, latest_due_at timestamptz, urgency smallint,
            not_eligible text, modalities text[])
        LOOP
            INSERT INTO studies (study_uid, patient_fk, patient_id, patient_name, patient_name_key, patient_birth_date,
                patient_sex, patient_age, study_date, study_time, accession_number, study_id, description,
                referring_physician, institution_name, timezone_offset, site, requested_priority, modalities)
            SELECT given.study_uid, patient_pk, given.patient_id, given.patient_name, given.patient_name_key,
                given.patient_birth_date, given.patient_sex, given.patient_age, given.study_date, given.study_time,
                given.accession_number, given.study_id, given.study_description, given.referring_physician,
                given.institution_name, given.timezone_offset, given.site, priority_name(given.urgency),
                given.modalities
            FROM patients WHERE patient_key = given.patient_key
            ON CONFLICT (study_uid) DO NOTHING
            RETURNING study_pk INTO new_pk;
            CONTINUE WHEN new_pk IS NULL;
            removed := removed OR EXISTS (
                SELECT FROM patients WHERE patient_key = given.patient_key AND merged_into IS NOT NULL);
            INSERT INTO name_words (word, study_fk, words, study_date)
            SELECT word, new_pk, given.patient_name_key, given.study_date FROM unnest(given.name_words) AS word;
            INSERT INTO worklist (study_fk, study_uid, arrived_at, latest_due_at, due_at, status, reason, site,
                study_date, priority, modalities)
            VALUES (new_pk, given.study_uid, given.received_at, given.latest_due_at, given.latest_due_at,
                CASE given.not_eligible WHEN '' THEN 'waiting' ELSE 'not_eligible' END, given.not_eligible, given.site,
                given.study_date, priority_name(given.urgency), given.modalities);
            INSERT INTO audit (actor, action, study_uid, detail)
            VALUES (given.source_aet, 'study.arrived', given.study_uid, jsonb_build_object(
                'source_address', given.source_address, 'due_at', given.latest_due_at,
                'priority', priority_name(given.urgency), 'site', given.site));
        END LOOP;

        FOR new_pk IN INSERT INTO series (series_uid, study_fk, modality, series_number, description, body_part,
                laterality, protocol_name, series_date, series_time, pps_start_date, pps_start_time,
                performing_physician, station_name, manufacturer, manufacturer_model, institution_name)
            SELECT series_uid, (SELECT study_pk FROM studies WHERE studies.study_uid = r.study_uid), modality,
                series_number, series_description, body_part, laterality, protocol_name, series_date, series_time,
                pps_start_date, pps_start_time, performing_physician, station_name, manufacturer, manufacturer_model,
                institution_name
            FROM json_to_recordset(given_series) AS r (study_uid text, series_uid text, modality text,
                series_number integer, series_description text, body_part text, laterality text, protocol_name text,
                series_date date, series_time text, pps_start_date date, pps_start_time text,
                performing_physician text, station_name text, manufacturer text, manufacturer_model text,
                institution_name text)
            ON CONFLICT (series_uid, study_fk) DO NOTHING
            RETURNING series_pk
        LOOP
            new_series := new_series || new_pk;
        END LOOP;

        FOR given IN SELECT * FROM json_to_recordset(arrivals) AS r (study_uid text, modalities text[])
        LOOP
            UPDATE studies SET modalities = joined(modalities, given.modalities)
            WHERE study_uid = given.study_uid AND NOT modalities @> given.modalities;
        END LOOP;
    END IF;

    FOR given IN INSERT INTO instances (sop_uid, series_fk, study_fk, sop_class, transfer_syntax, instance_number, rows,
            columns, bits_allocated, frames, photometric, view_position, image_type, content_date, content_time,
            acquisition_date, acquisition_time, object_key, object_size, dataset_offset, sha256, source_aet,
            source_address, received_at, urgency, triage, triage_reason, hidden)
        SELECT sop_uid,
            coalesce(r.series_fk, (SELECT series_pk FROM series WHERE series.series_uid = r.series_uid AND
                series.study_fk = (SELECT study_pk FROM studies WHERE studies.study_uid = r.study_uid))),
            coalesce(r.study_fk, (SELECT study_pk FROM studies WHERE studies.study_uid = r.study_uid)),
            sop_class, transfer_syntax, instance_number, rows, columns, bits_allocated, frames, photometric,
            view_position, image_type, content_date, content_time, acquisition_date, acquisition_time, object_key,
            object_size, dataset_offset, decode(sha256, 'hex'), source_aet, source_address, received_at, urgency,
            CASE not_eligible WHEN '' THEN 'waiting' ELSE 'not_eligible' END, not_eligible,
            (SELECT true FROM removed_instances AS x WHERE x.sop_uid = r.sop_uid LIMIT 1) IS NOT NULL  -- never hashed
        FROM json_to_recordset(given_instances) AS r (study_fk bigint, series_fk bigint, study_uid text,
            series_uid text, sop_uid text, sop_class text, transfer_syntax text, instance_number integer, rows integer,
            columns integer, bits_allocated integer, frames integer, photometric text, view_position text,
            image_type text, content_date date, content_time text, acquisition_date date, acquisition_time text,
            object_key text, object_size bigint, dataset_offset integer, sha256 text, source_aet text,
            source_address text, received_at timestamptz, urgency smallint, not_eligible text)
        ON CONFLICT (sop_uid) DO NOTHING
        RETURNING instance_pk, sop_uid, sop_class, study_fk, series_fk, urgency, triage, hidden
    LOOP
        IF given.hidden THEN
            removed := true;
        ELSE
            changed_studies := changed_studies || given.study_fk;
            changed_series := changed_series || given.series_fk;
            IF given.triage = 'waiting' THEN
                INSERT INTO jobs (instance_fk, urgency) VALUES (given.instance_pk, given.urgency);
            END IF;
        END IF;
        IF given.sop_class = '1.2.840.10008.5.1.4.1.1.88.59' THEN  -- a key object document: it may reject others
            INSERT INTO rejection_notes (sop_uid) VALUES (given.sop_uid) ON CONFLICT DO NOTHING;
        END IF;
        new_series := array_remove(new_series, given.series_fk);
        stored_uid := given.sop_uid;
        stored_study := given.study_fk;
        stored_series := given.series_fk;
        RETURN NEXT;
    END LOOP;
    IF cardinality(new_series) > 0 THEN
        RAISE serialization_failure USING MESSAGE = 'an instance is known under another series: no empty series is made';
    END IF;
    IF given_studies IS NOT NULL AND NOT removed THEN  -- a known series is not hidden where its study is shown
        removed := EXISTS (SELECT FROM studies WHERE hidden AND study_pk = ANY(changed_studies));
    END IF;
    IF removed OR EXISTS (SELECT FROM series WHERE hidden AND series_pk = ANY(changed_series)) THEN
        IF current_setting('sangloc.alone', true) IS DISTINCT FROM 'on' THEN
            RAISE object_not_in_prerequisite_state USING MESSAGE = 'the batch meets a change';
        END IF;
    END IF;

    -- A study that is known already: back on the list if it was read, to be scored if this is its first eligible
    -- instance, due earlier if the new instance is more urgent. Never due later.
    FOR given IN SELECT r.*, coalesce(r.study_fk, (SELECT study_pk FROM studies WHERE studies.study_uid = r.study_uid)) AS pk
        FROM json_to_recordset(arrivals) AS r (study_fk bigint, study_uid text,
            latest_due_at timestamptz, urgency smallint, eligible boolean, modalities text[])
        ORDER BY pk  -- whatever the UIDs: a merged study's point to another
    LOOP
        new_pk := given.pk;
        CONTINUE WHEN new_pk <> ALL (changed_studies);
        UPDATE worklist SET
            state = 'open',
            status = CASE WHEN given.eligible AND status = 'not_eligible' THEN 'waiting' ELSE status END,
            reason = CASE WHEN given.eligible AND status = 'not_eligible' THEN '' ELSE reason END,
            priority = CASE WHEN given.latest_due_at < latest_due_at THEN priority_name(given.urgency) ELSE priority END,
            due_at = LEAST(due_at, given.latest_due_at),
            latest_due_at = LEAST(latest_due_at, given.latest_due_at),
            modalities = joined(modalities, given.modalities),
            changed_at = now()
        WHERE study_fk = new_pk AND (state <> 'open' OR given.latest_due_at < latest_due_at
            OR (given.eligible AND status = 'not_eligible') OR NOT modalities @> given.modalities);
    END LOOP;
END $$;
