-- Results that we write as DICOM objects: what is due stands here, what was written names its SOP instance.
-- A task goes over `scores` behind a cursor, as forwarding does over instances, so recording a score costs nothing more.
CREATE TABLE results_cursor (
    only_one   boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    score_pk   bigint NOT NULL                      -- up to here every score was looked at
);
INSERT INTO results_cursor (score_pk) SELECT coalesce(max(score_pk), 0) FROM scores;

CREATE TABLE results (
    result_pk    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    score_fk     bigint NOT NULL REFERENCES scores ON DELETE CASCADE,
    kind         text COLLATE "C" NOT NULL,         -- sr: structured report | pr: presentation state | sc: secondary capture
    state        text NOT NULL DEFAULT 'waiting',   -- waiting | written | skipped | dead
    sop_uid      text COLLATE "C" NOT NULL DEFAULT '', -- of what was written
    series_uid   text COLLATE "C" NOT NULL DEFAULT '', -- as it was written; it may have been moved since
    attempts     integer NOT NULL DEFAULT 0,
    run_after    timestamptz NOT NULL DEFAULT now(), -- nobody else touches it before
    reason       text NOT NULL DEFAULT '',          -- of skipped and dead ones, and of the last failure
    created_at   timestamptz NOT NULL DEFAULT now(),
    changed_at   timestamptz NOT NULL DEFAULT now(),
    UNIQUE (score_fk, kind)
);
CREATE INDEX results_due ON results (result_pk) WHERE state = 'waiting';

-- A result of our own brings nothing to read: it must not put a study that was read back on the list. So an arrival may
-- be quiet. The function is that of 0002 but for this; a text that is not found ends the migration.
DO $$
DECLARE
    body text := pg_get_functiondef('index_instances(json, json, json, json, json)'::regprocedure);
    pair text[];
BEGIN
    FOREACH pair SLICE 1 IN ARRAY ARRAY[
        ['urgency smallint, eligible boolean, modalities text[])', 'urgency smallint, eligible boolean, quiet boolean, modalities text[])'],
        ['state = ''open'',', 'state = CASE WHEN given.quiet THEN state ELSE ''open'' END,'],
        ['(state <> ''open'' OR given.latest_due_at', '((state <> ''open'' AND given.quiet IS NOT TRUE) OR given.latest_due_at']
    ] LOOP
        IF length(replace(body, pair[1], '')) <> length(body) - length(pair[1]) THEN
            RAISE 'index_instances does not hold once: %', pair[1];
        END IF;
        body := replace(body, pair[1], pair[2]);
    END LOOP;
    EXECUTE body;
END $$;
