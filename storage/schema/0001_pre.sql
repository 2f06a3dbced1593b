-- The first schema. COLLATE "C" everywhere that is compared or sorted by prefix: the same order on every server.

CREATE TABLE patients (
    patient_pk   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    patient_key  text COLLATE "C" NOT NULL UNIQUE,   -- issuer\id, or study:UID where no Patient ID was sent
    patient_id   text COLLATE "C" NOT NULL,
    issuer       text COLLATE "C" NOT NULL,
    name         text NOT NULL,                      -- alphabetic=ideographic=phonetic, as first received
    birth_date   date,
    sex          text NOT NULL,
    other_ids    text[] NOT NULL DEFAULT '{}',
    created_at   timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX patients_patient_id ON patients (patient_id);

-- Patient attributes stand here as each study sent them: a wrong Patient ID must not put another person's name on a study.
CREATE TABLE studies (
    study_pk            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    study_uid           text COLLATE "C" NOT NULL UNIQUE,
    patient_fk          bigint NOT NULL REFERENCES patients,
    patient_id          text COLLATE "C" NOT NULL,
    patient_name        text NOT NULL,               -- alphabetic=ideographic=phonetic, for display
    patient_name_key    text COLLATE "C" NOT NULL,   -- the different folded words of the name, in its order
    patient_birth_date  date,
    patient_sex         text NOT NULL,
    patient_age         text NOT NULL,
    study_date          date,
    study_time          text NOT NULL,               -- HHMMSS.FFFFFF as sent
    accession_number    text COLLATE "C" NOT NULL,
    study_id            text NOT NULL,
    description         text NOT NULL,
    referring_physician text NOT NULL,
    institution_name    text NOT NULL,
    timezone_offset     text NOT NULL,
    site                text COLLATE "C" NOT NULL,   -- from the site table in the settings, else ''
    requested_priority  text NOT NULL,               -- stat | urgent | routine
    modalities          text[] NOT NULL,             -- of its series
    hidden              boolean NOT NULL DEFAULT false, -- rejected or deleted: no read path shows it
    corrections         jsonb,                       -- DICOM JSON attributes (PS3.18 F.2) that override those of every object of the study on its way out
    created_at          timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX studies_patient ON studies (patient_fk);
CREATE INDEX studies_patient_id ON studies (patient_id, study_pk);
CREATE INDEX studies_accession ON studies (accession_number, study_pk);
CREATE INDEX studies_date ON studies (study_date DESC NULLS LAST, study_pk DESC);

-- One row for each folded word of a patient's name, so that any order of words is found by plain prefix scans. The
-- scan of one word tests the others inside the index.
CREATE TABLE name_words (
    word      text COLLATE "C" NOT NULL,
    study_fk  bigint NOT NULL REFERENCES studies ON DELETE CASCADE,
    words     text COLLATE "C" NOT NULL,             -- patient_name_key of the study
    PRIMARY KEY (word, study_fk) INCLUDE (words)
);
CREATE INDEX name_words_study ON name_words (study_fk, word);

CREATE TABLE series (
    series_pk           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    series_uid          text COLLATE "C" NOT NULL,
    study_fk            bigint NOT NULL REFERENCES studies,
    modality            text COLLATE "C" NOT NULL,
    series_number       integer,
    description         text NOT NULL,
    body_part           text COLLATE "C" NOT NULL,
    laterality          text NOT NULL,
    protocol_name       text NOT NULL,
    series_date         date,
    series_time         text NOT NULL,
    pps_start_date      date,
    pps_start_time      text NOT NULL,
    performing_physician text NOT NULL,
    station_name        text COLLATE "C" NOT NULL,
    manufacturer        text COLLATE "C" NOT NULL,
    manufacturer_model  text COLLATE "C" NOT NULL,
    institution_name    text COLLATE "C" NOT NULL,
    hidden              boolean NOT NULL DEFAULT false,
    corrections         jsonb,                       -- as in studies, for the objects of the series
    created_at          timestamptz NOT NULL DEFAULT now(),
    UNIQUE (series_uid, study_fk)                    -- some senders use one series UID in two studies
);
CREATE INDEX series_study ON series (study_fk, modality);
CREATE INDEX series_modality ON series (modality, study_fk);

CREATE TABLE instances (
    instance_pk        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sop_uid            text COLLATE "C" NOT NULL UNIQUE,
    series_fk          bigint NOT NULL REFERENCES series,
    study_fk           bigint NOT NULL,             -- of the series: no foreign key and no index of its own, each costs
    sop_class          text COLLATE "C" NOT NULL,
    transfer_syntax    text COLLATE "C" NOT NULL,
    instance_number    integer,
    rows               integer,
    columns            integer,
    bits_allocated     integer,
    frames             integer,
    photometric        text NOT NULL,
    view_position      text COLLATE "C" NOT NULL,
    image_type         text NOT NULL,               -- values joined by \
    content_date       date,
    content_time       text NOT NULL,
    acquisition_date   date,
    acquisition_time   text NOT NULL,
    object_key         text COLLATE "C" NOT NULL,
    object_size        bigint NOT NULL,             -- bytes of the whole Part 10 file
    dataset_offset     integer NOT NULL,            -- where the data set starts behind the file meta
    sha256             bytea NOT NULL,              -- of the data set, that is of object[dataset_offset:]
    source_aet         text NOT NULL,
    source_address     text NOT NULL,
    received_at        timestamptz NOT NULL DEFAULT now(),
    urgency            smallint NOT NULL,           -- that was asked for with it: 0 routine, 1 urgent, 2 stat
    triage             text NOT NULL,               -- waiting | scored | not_eligible | failed
    triage_reason      text NOT NULL DEFAULT '',
    hidden             boolean NOT NULL DEFAULT false
);
CREATE INDEX instances_series ON instances (series_fk);

-- What came in and could not be served: other bytes under a known UID, or data that cannot be indexed. For a person to look at.
CREATE TABLE set_aside (
    set_aside_pk    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind            text NOT NULL,                  -- conflict | invalid
    reason          text NOT NULL,
    sop_uid         text COLLATE "C" NOT NULL,      -- as sent; may be invalid, so escaped
    object_key      text NOT NULL,
    object_size     bigint NOT NULL,
    dataset_offset  integer NOT NULL,
    sha256          bytea NOT NULL,
    source_aet      text NOT NULL,
    source_address  text NOT NULL,
    received_at     timestamptz NOT NULL DEFAULT now(),
    resolved_at     timestamptz,
    UNIQUE (kind, sop_uid, sha256)                  -- a resend of the same offending bytes is kept once
);

CREATE TABLE jobs (
    job_pk       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    instance_fk  bigint NOT NULL UNIQUE REFERENCES instances ON DELETE CASCADE,
    state        text NOT NULL DEFAULT 'waiting',   -- waiting | running | dead; done jobs are deleted
    urgency      smallint NOT NULL DEFAULT 0,       -- 0 routine, 1 urgent, 2 stat: higher first
    attempts     integer NOT NULL DEFAULT 0,
    run_after    timestamptz NOT NULL DEFAULT now(),
    leased_until timestamptz,
    worker       text,
    error        text NOT NULL DEFAULT '',
    created_at   timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX jobs_waiting ON jobs (urgency DESC, job_pk) WHERE state = 'waiting';
CREATE INDEX jobs_running ON jobs (leased_until) WHERE state = 'running';
CREATE INDEX jobs_dead ON jobs (job_pk) WHERE state = 'dead';

-- One run of one model over one instance: where every shown number comes from.
CREATE TABLE scores (
    score_pk        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    instance_fk     bigint NOT NULL REFERENCES instances ON DELETE CASCADE,
    study_fk        bigint NOT NULL REFERENCES studies ON DELETE CASCADE,
    model_name      text NOT NULL,
    model_version   text NOT NULL,
    weights_sha256  text NOT NULL,
    engine          text NOT NULL,                  -- torch-cuda | openvino | torch-cpu
    probability     real NOT NULL,                  -- calibrated, abnormal
    threshold       real NOT NULL,                  -- of the site at that time
    flagged         boolean NOT NULL,
    decode_ms       real NOT NULL,
    inference_ms    real NOT NULL,
    scored_at       timestamptz NOT NULL DEFAULT now(),
    UNIQUE (instance_fk, weights_sha256)
);
CREATE INDEX scores_study ON scores (study_fk);

CREATE TABLE findings (
    score_fk     bigint NOT NULL REFERENCES scores ON DELETE CASCADE,
    name         text COLLATE "C" NOT NULL,
    probability  real NOT NULL,
    threshold    real NOT NULL,
    PRIMARY KEY (score_fk, name)
);

-- ORDER BY due_at, study_uid is the whole policy. due_at only ever moves forward in the queue (GREATEST is never used).
CREATE TABLE worklist (
    study_fk     bigint PRIMARY KEY REFERENCES studies ON DELETE CASCADE,
    study_uid    text COLLATE "C" NOT NULL,
    state        text NOT NULL DEFAULT 'open',      -- open | read
    arrived_at   timestamptz NOT NULL,
    latest_due_at timestamptz NOT NULL,             -- arrival plus the site's maximum wait: due_at never exceeds it
    due_at       timestamptz NOT NULL,
    status       text COLLATE "C" NOT NULL,         -- waiting | scored | not_eligible | failed
    reason       text NOT NULL DEFAULT '',
    flagged      boolean NOT NULL DEFAULT false,
    probability  real,
    model        text NOT NULL DEFAULT '',          -- name version of the model behind probability
    findings     jsonb NOT NULL DEFAULT '[]',       -- [{name, probability, threshold}] at or above their strict thresholds, strongest first
    score_fk     bigint REFERENCES scores ON DELETE SET NULL,
    site         text COLLATE "C" NOT NULL,
    study_date   date,
    modalities   text[] NOT NULL,                   -- as in studies: a walk in due order tests it here
    priority     text COLLATE "C" NOT NULL,         -- the most urgent that was asked for: stat | urgent | routine
    scored_at    timestamptz,                       -- when the first score became visible
    read_at      timestamptz,
    read_by      text NOT NULL DEFAULT '',
    changed_at   timestamptz NOT NULL DEFAULT now()
);
-- The columns behind the order are filters that a walk answers inside the index, whatever their combination.
CREATE INDEX worklist_order ON worklist (due_at, study_uid, flagged, status, site, study_date) WHERE state = 'open';
CREATE INDEX worklist_arrival ON worklist (arrived_at, study_uid, flagged, status, site, study_date) WHERE state = 'open';
CREATE INDEX worklist_read ON worklist (read_at, study_uid) WHERE state = 'read';

-- A worker is alive while seen_at is recent; the worklist says "arrival order" when none with a model is.
CREATE TABLE workers (
    worker       text PRIMARY KEY,                  -- host:pid:start
    model        text NOT NULL,                     -- name version, '' when none could be loaded
    weights_sha256 text NOT NULL,
    engine       text NOT NULL,
    problem      text NOT NULL DEFAULT '',          -- why there is no model
    started_at   timestamptz NOT NULL DEFAULT now(),
    seen_at      timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE audit (
    audit_pk  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at        timestamptz NOT NULL DEFAULT now(),
    actor     text NOT NULL,                        -- AE title, token name, worker, or command line user
    action    text NOT NULL,                        -- e.g. instance.stored, instance.conflict, study.read, study.due
    study_uid text NOT NULL DEFAULT '',
    detail    jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX audit_study ON audit (study_uid, audit_pk);
