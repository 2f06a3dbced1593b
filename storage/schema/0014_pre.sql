-- Which requests a series answers (Request Attributes Sequence): [{ScheduledProcedureStepID, RequestedProcedureID,
-- AccessionNumber}], each where known. Written by `index_instances` with a new series.
ALTER TABLE series ADD COLUMN request_attributes jsonb NOT NULL DEFAULT '[]';

-- Without a pending list: nobody who stores has to write that of others. Series without requests cost nothing.
CREATE INDEX series_requests ON series USING gin (request_attributes jsonb_path_ops) WITH (fastupdate = off)
WHERE request_attributes <> '[]';

-- The function is that of 0002 but for this; a text that is not found once ends the migration.
DO $do$
DECLARE
    body text := pg_get_functiondef('index_instances(json, json, json, json, json)'::regprocedure);
    pair text[];
BEGIN
    FOREACH pair SLICE 1 IN ARRAY ARRAY[
        ['performing_physician, station_name, manufacturer, manufacturer_model, institution_name)
            SELECT series_uid',
         'performing_physician, station_name, manufacturer, manufacturer_model, institution_name,
                request_attributes)
            SELECT series_uid'],
        ['                institution_name
            FROM json_to_recordset(given_series)',
         '                institution_name, coalesce(request_attributes, ''[]'')
            FROM json_to_recordset(given_series)'],
        ['institution_name text)
            ON CONFLICT (series_uid', 'institution_name text, request_attributes jsonb)
            ON CONFLICT (series_uid']
    ] LOOP
        IF length(body) - length(replace(body, pair[1], '')) <> length(pair[1]) THEN
            RAISE 'index_instances does not hold once: %', pair[1];
        END IF;
        body := replace(body, pair[1], pair[2]);
    END LOOP;
    EXECUTE body;
END $do$;
