-- The DICOM JSON of a series, made once when it settles. Nothing is told when a series changes: a row whose version is
-- not that of its series is as good as none.
CREATE TABLE series_metadata (
    series_fk    bigint PRIMARY KEY REFERENCES series ON DELETE CASCADE,
    version      text NOT NULL,
    object_key   text COLLATE "C" NOT NULL,         -- gzip of JSON objects with commas between them
    built_at     timestamptz NOT NULL DEFAULT now()
);

-- How far the instances were looked through for series that settled, by instance_pk. One row.
CREATE TABLE series_metadata_seen (
    only_row     boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    instance_pk  bigint NOT NULL
);
INSERT INTO series_metadata_seen (instance_pk) VALUES (0);
