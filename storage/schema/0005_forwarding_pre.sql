-- Storage commitment that peers ask of us (PS3.4 J). What they asked is durable before they are answered; the check and
-- the report follow, by the receiver or by the exchange process, whoever holds `run_after`.
CREATE TABLE commitments (
    commitment_pk     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    requester         text COLLATE "C" NOT NULL,     -- calling AE title
    transaction_uid   text COLLATE "C" NOT NULL,
    requester_address text NOT NULL,
    called            text NOT NULL,                 -- as which we were asked, and as which we report
    sop_classes       text[] NOT NULL,               -- as asked, in its order
    sop_uids          text[] NOT NULL,
    failures          integer[],                     -- Failure Reason (PS3.3 C.14.1.1) of each, 0: committed; NULL: not checked
    state             text NOT NULL DEFAULT 'waiting', -- waiting | reported | dead
    attempts          integer NOT NULL DEFAULT 0,    -- to check and report
    run_after         timestamptz NOT NULL,          -- nobody else touches it before
    error             text NOT NULL DEFAULT '',
    requested_at      timestamptz NOT NULL DEFAULT now(),
    checked_at        timestamptz,
    reported_at       timestamptz,
    UNIQUE (requester, transaction_uid)
);
CREATE INDEX commitments_due ON commitments (run_after) WHERE state = 'waiting';

-- Where copies go: a peer of the registry, and how. What a destination owes and has done stands in its queue.
CREATE TABLE forwarding_destinations (
    destination_pk  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name            text COLLATE "C" NOT NULL UNIQUE,
    peer            text COLLATE "C" NOT NULL,       -- name in peers; may be removed and come back
    method          text NOT NULL,                   -- dimse | stow: instances; ian: notices of studies (PS3.4 R)
    parallel        integer NOT NULL DEFAULT 1,      -- associations or connections at a time
    windows         jsonb NOT NULL DEFAULT '[]',     -- [{from: "22:00", until: "06:00", bytes_per_s: 1000000 | null}], []: always
    timezone        text NOT NULL DEFAULT 'UTC',     -- of the windows
    commitment      boolean NOT NULL DEFAULT false,  -- ask for storage commitment afterwards
    max_attempts    integer NOT NULL DEFAULT 8,      -- for one instance that is refused; a dead line is no attempt
    paused          boolean NOT NULL DEFAULT false,
    -- how it is doing
    retry_at        timestamptz NOT NULL DEFAULT now(), -- a dead line is tried again then
    failures        integer NOT NULL DEFAULT 0,      -- in a row
    last_error      text NOT NULL DEFAULT '',
    last_error_at   timestamptz,
    last_success_at timestamptz,
    sent_instances  bigint NOT NULL DEFAULT 0,
    sent_bytes      bigint NOT NULL DEFAULT 0,
    leased_by       text NOT NULL DEFAULT '',        -- the exchange process that works for it
    leased_until    timestamptz NOT NULL DEFAULT '-infinity'
);

-- What goes there: an empty array means any.
CREATE TABLE forwarding_rules (
    rule_pk         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    destination_fk  bigint NOT NULL REFERENCES forwarding_destinations ON DELETE CASCADE,
    source_aets     text[] NOT NULL DEFAULT '{}',
    modalities      text[] NOT NULL DEFAULT '{}',
    sites           text[] NOT NULL DEFAULT '{}',
    sop_classes     text[] NOT NULL DEFAULT '{}',
    flagged_only    boolean NOT NULL DEFAULT false,  -- studies that a model has flagged, whenever that is
    urgency         smallint NOT NULL DEFAULT 0,     -- higher goes first
    enabled         boolean NOT NULL DEFAULT true,
    backfill_at     bigint NOT NULL DEFAULT 0,       -- instances that were there before: those up to backfill_at are done
    backfill_until  bigint NOT NULL DEFAULT 0,       -- 0: they are left out
    created_at      timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX forwarding_rules_destination ON forwarding_rules (destination_fk);

-- How far rules were applied. One row; whoever applies rules or changes them holds it.
CREATE TABLE forwarding_cursor (
    one          boolean PRIMARY KEY DEFAULT true CHECK (one),
    instance_pk  bigint NOT NULL DEFAULT 0,          -- every instance up to here was looked at
    score_pk     bigint NOT NULL DEFAULT 0
);
INSERT INTO forwarding_cursor DEFAULT VALUES;

CREATE TABLE forwarding_queue (
    queue_pk        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    destination_fk  bigint NOT NULL REFERENCES forwarding_destinations ON DELETE CASCADE,
    instance_fk     bigint NOT NULL REFERENCES instances ON DELETE CASCADE,
    state           text NOT NULL DEFAULT 'waiting', -- waiting | done | dead | cancelled; where commitment is asked for: sent | asked | committed
    urgency         smallint NOT NULL DEFAULT 0,
    attempts        integer NOT NULL DEFAULT 0,
    run_after       timestamptz NOT NULL DEFAULT '-infinity',
    transaction_uid text NOT NULL DEFAULT '',        -- of the commitment that was asked for
    error           text NOT NULL DEFAULT '',
    created_at      timestamptz NOT NULL DEFAULT now(),
    changed_at      timestamptz NOT NULL DEFAULT now(),
    UNIQUE (instance_fk, destination_fk)
);
-- Rows that are done with stand in none of these.
CREATE INDEX forwarding_queue_open ON forwarding_queue (destination_fk, state, urgency DESC, queue_pk)
    WHERE state IN ('waiting', 'dead', 'sent', 'asked');
CREATE INDEX forwarding_queue_asked ON forwarding_queue (transaction_uid) WHERE state = 'asked';

-- Studies whose settling is to be told to destinations of the method ian.
CREATE TABLE availability_notices (
    queue_pk        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    destination_fk  bigint NOT NULL REFERENCES forwarding_destinations ON DELETE CASCADE,
    study_fk        bigint NOT NULL REFERENCES studies ON DELETE CASCADE,
    state           text NOT NULL DEFAULT 'waiting', -- waiting | done | dead | cancelled
    attempts        integer NOT NULL DEFAULT 0,
    run_after       timestamptz NOT NULL,            -- the study has settled then, or the next try
    error           text NOT NULL DEFAULT '',
    created_at      timestamptz NOT NULL DEFAULT now(),
    changed_at      timestamptz NOT NULL DEFAULT now(),
    UNIQUE (study_fk, destination_fk)
);
CREATE INDEX availability_notices_open ON availability_notices (destination_fk, state, run_after) WHERE state IN ('waiting', 'dead');
