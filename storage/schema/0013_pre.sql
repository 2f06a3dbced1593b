-- A model over what is stored already. Instances are walked over in the order of their keys, a window at a time: what
-- was chosen of a window becomes items in the transaction that moves `walked_pk`, so that nothing is left out or taken
-- twice. An item is deleted with the score that it asked for. Live triage (`jobs`) is not touched by any of it.
CREATE TABLE reprocessings (
    reprocessing_pk  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    state            text COLLATE "C" NOT NULL DEFAULT 'running', -- running | paused | done | cancelled
    problem          text NOT NULL DEFAULT '',       -- why it was paused by itself
    model_name       text NOT NULL,
    model_version    text NOT NULL,
    weights_sha256   text NOT NULL,
    shadow           boolean NOT NULL,               -- no site had the model active when it started: compared, never shown
    selection        jsonb NOT NULL,                 -- as asked; UIDs of a file are counted only, their items are made at once
    images_per_s     real,                           -- at most; NULL: as fast as it goes
    when_idle        boolean NOT NULL,               -- only while no live image waits or is read
    total            bigint NOT NULL,                -- images that were chosen when it started
    scored           bigint NOT NULL DEFAULT 0,
    refused          bigint NOT NULL DEFAULT 0,      -- the model cannot read them
    failed           bigint NOT NULL DEFAULT 0,      -- given up after several attempts
    walked_pk        bigint NOT NULL,                -- instances up to this key were looked at
    last_pk          bigint NOT NULL,                -- the walk ends here
    next_at          timestamptz NOT NULL DEFAULT clock_timestamp(), -- images_per_s lets nothing go before
    pace             real NOT NULL DEFAULT 0,        -- images a second over the last 10 s or so
    paced_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    started_by       text NOT NULL,
    started_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    changed_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at         timestamptz
);
CREATE INDEX reprocessings_running ON reprocessings (reprocessing_pk) WHERE state = 'running';
CREATE UNIQUE INDEX reprocessings_once ON reprocessings (weights_sha256, model_version)
    WHERE state IN ('running', 'paused');            -- two walks of one model would count each other's scores

CREATE TABLE reprocessing_items (
    item_pk          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    reprocessing_fk  bigint NOT NULL REFERENCES reprocessings ON DELETE CASCADE,
    instance_fk      bigint NOT NULL REFERENCES instances ON DELETE CASCADE,
    state            text COLLATE "C" NOT NULL DEFAULT 'waiting', -- waiting | running | refused | failed
    attempts         integer NOT NULL DEFAULT 0,
    run_after        timestamptz NOT NULL DEFAULT clock_timestamp(),
    leased_until     timestamptz,
    worker           text,
    reason           text NOT NULL DEFAULT '',       -- refused and failed: for a person
    UNIQUE (instance_fk, reprocessing_fk)
);
CREATE INDEX reprocessing_items_waiting ON reprocessing_items (reprocessing_fk, item_pk) WHERE state = 'waiting';
CREATE INDEX reprocessing_items_running ON reprocessing_items (reprocessing_fk, leased_until) WHERE state = 'running';
CREATE INDEX reprocessing_items_ended ON reprocessing_items (reprocessing_fk, item_pk) WHERE state IN ('refused', 'failed');
