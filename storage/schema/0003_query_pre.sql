-- What queries need beyond the tables: order by date within a name, counts without touching rows, times as times.

-- The date of the study stands beside each word: the latest studies with a word, or those of a range of dates, are one
-- piece of the index, and the other words are tested inside it.
ALTER TABLE name_words ADD COLUMN study_date date;
UPDATE name_words SET study_date = studies.study_date FROM studies WHERE study_pk = study_fk;
ALTER TABLE name_words DROP CONSTRAINT name_words_pkey;
DROP INDEX name_words_study;
ALTER TABLE name_words ADD PRIMARY KEY (study_fk, word);
CREATE INDEX name_words_word ON name_words (word, study_date DESC NULLS LAST, study_fk DESC) INCLUDE (words);

-- Names that begin so; the same names are kept once.
CREATE INDEX studies_name ON studies (patient_name_key);

CREATE FUNCTION redate_name_words() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE name_words SET study_date = NEW.study_date WHERE study_fk = NEW.study_pk;
    RETURN NULL;
END $$;
CREATE TRIGGER studies_redated AFTER UPDATE OF study_date ON studies FOR EACH ROW
WHEN (OLD.study_date IS DISTINCT FROM NEW.study_date) EXECUTE FUNCTION redate_name_words();

-- The latest studies first, without those that are not shown.
DROP INDEX studies_date;
CREATE INDEX studies_date ON studies (study_date DESC NULLS LAST, study_pk DESC) WHERE NOT hidden;

-- Instances and SOP classes of a series are counted in the index alone; equal keys are kept once (deduplication).
DROP INDEX instances_series;
CREATE INDEX instances_series ON instances (series_fk, hidden, sop_class);

-- TM as sent (PS3.5 6.2: HHMMSS.FFFFFF, shorter, or HH:MM:SS of ACR-NEMA); NULL where it is none.
CREATE FUNCTION time_of(sent text) RETURNS time LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN sent ~ '^([01][0-9]|2[0-3])(:?[0-5][0-9](:?([0-5][0-9]|60)(\.[0-9]{1,6})?)?)?$'
    THEN (rpad(left(replace(sent, ':', ''), 4), 4, '0')::time
        + make_interval(secs => coalesce(nullif(substr(replace(sent, ':', ''), 5), ''), '0')::double precision))
END;

-- Date and time of a study that is `zone_offset` (&ZZXX) from UTC, in a zone of `zone` minutes east of it; as they are
-- where either is not known. A date without a time is its midnight, and stays that day.
CREATE FUNCTION moment_of(day date, sent_time text, zone_offset text, zone integer) RETURNS timestamp
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN zone IS NOT NULL AND zone_offset ~ '^[+-][01][0-9][0-5][0-9]$' AND time_of(sent_time) IS NOT NULL
    THEN day + time_of(sent_time) + make_interval(mins =>
        zone - (left(zone_offset, 1) || '1')::integer * (substr(zone_offset, 2, 2)::integer * 60 + right(zone_offset, 2)::integer))
    ELSE day + coalesce(time_of(sent_time), time '00:00')
END;
