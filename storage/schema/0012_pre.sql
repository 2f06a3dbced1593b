-- Models: their versions, what they were judged by at each site, and which of them is at work where.

-- The weights and what belongs to them are one object (a zip of the bundle folder) that never changes.
CREATE TABLE model_versions (
    model_pk       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name           text COLLATE "C" NOT NULL,
    version        text COLLATE "C" NOT NULL,
    weights_sha256 text COLLATE "C" NOT NULL UNIQUE, -- a score names its model by it, so two models cannot share weights
    origin         text NOT NULL,                   -- monai | torchxrayvision | torchvision
    source         text NOT NULL,                   -- folder, file or URL that it came from
    findings       text[] NOT NULL,                 -- Abnormal first
    card           text NOT NULL,                   -- Markdown
    object_key     text COLLATE "C" NOT NULL,
    object_size    bigint NOT NULL,
    sha256         bytea NOT NULL,                  -- of the object
    imported_by    text NOT NULL,
    imported_at    timestamptz NOT NULL DEFAULT now(),
    UNIQUE (name, version)
);

-- Calibration and thresholds that were fitted on the films of one site ('': of all sites together).
CREATE TABLE model_fits (
    fit_pk          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    model_fk        bigint NOT NULL REFERENCES model_versions,
    site            text COLLATE "C" NOT NULL,
    manifest        text NOT NULL,
    manifest_sha256 text NOT NULL,
    splits          text[] NOT NULL,
    films           integer NOT NULL,
    positives       integer NOT NULL,
    fit             jsonb NOT NULL,                 -- {calibration, abnormal_calibration, operating_points, operating_point}
    made_by         text NOT NULL,
    made_at         timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX model_fits_model ON model_fits (model_fk, site, fit_pk);

CREATE TABLE model_evaluations (
    evaluation_pk   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    model_fk        bigint NOT NULL REFERENCES model_versions,
    site            text COLLATE "C" NOT NULL,
    fit_fk          bigint REFERENCES model_fits,   -- whose thresholds were judged; NULL: the bundle's own
    manifest        text NOT NULL,
    manifest_sha256 text NOT NULL,
    splits          text[] NOT NULL,
    films           integer NOT NULL,
    positives       integer NOT NULL,
    report          jsonb NOT NULL,
    made_by         text NOT NULL,
    made_at         timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX model_evaluations_model ON model_evaluations (model_fk, site, evaluation_pk);

-- What is at work: a row without ended_at. A roll-back ends a row and writes the one before it anew.
CREATE TABLE model_activations (
    activation_pk bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    site          text COLLATE "C" NOT NULL,        -- '': every site without one of its own
    mode          text NOT NULL CHECK (mode IN ('active', 'shadow')),
    model_fk      bigint NOT NULL REFERENCES model_versions,
    fit_fk        bigint REFERENCES model_fits,     -- NULL only in shadow: the bundle's own thresholds
    evaluation_fk bigint REFERENCES model_evaluations,
    previous_fk   bigint REFERENCES model_activations, -- what a roll-back returns to; NULL: the model of the settings
    action        text NOT NULL,                    -- activate | rollback
    made_by       text NOT NULL,
    made_at       timestamptz NOT NULL DEFAULT now(),
    ended_by      text NOT NULL DEFAULT '',
    ended_at      timestamptz,
    CHECK (mode = 'shadow' OR (fit_fk IS NOT NULL AND evaluation_fk IS NOT NULL))
);
CREATE UNIQUE INDEX model_activations_active ON model_activations (site) WHERE mode = 'active' AND ended_at IS NULL;
CREATE UNIQUE INDEX model_activations_shadow ON model_activations (site, model_fk)
    WHERE mode = 'shadow' AND ended_at IS NULL;

-- Counts changes of what is at work, so that a worker sees with one row whether it runs what it should.
CREATE TABLE model_roster (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    revision bigint NOT NULL DEFAULT 0
);
INSERT INTO model_roster DEFAULT VALUES;
