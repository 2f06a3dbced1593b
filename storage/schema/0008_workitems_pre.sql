-- Unified Procedure Steps (PS3.4 CC): one document each, in the DICOM JSON model, with what is looked for beside it.
CREATE TABLE workitems (
    workitem_pk     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    workitem_uid    text COLLATE "C" NOT NULL UNIQUE,
    state           text COLLATE "C" NOT NULL DEFAULT 'SCHEDULED',  -- | IN PROGRESS | COMPLETED | CANCELED
    transaction_uid text COLLATE "C",               -- the lock of who performs it: never told
    performer       text COLLATE "C" NOT NULL DEFAULT '',   -- 'sangloc': we perform it ourselves
    ready           boolean NOT NULL,               -- Input Readiness State is READY
    start_at        timestamptz NOT NULL,           -- Scheduled Procedure Step Start DateTime
    expires_at      timestamptz,                    -- Scheduled Procedure Step Expiration DateTime
    label           text COLLATE "C" NOT NULL,
    worklist_label  text COLLATE "C" NOT NULL,
    patient_id      text COLLATE "C" NOT NULL,
    study_uids      text[] COLLATE "C" NOT NULL,    -- of the Input Information Sequence
    attributes      jsonb NOT NULL,                 -- all but the transaction UID
    created_by      text NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    changed_at      timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX workitems_state ON workitems (state, workitem_pk);
CREATE INDEX workitems_patient ON workitems (patient_id, workitem_pk);
CREATE INDEX workitems_studies ON workitems USING gin (study_uids);
CREATE INDEX workitems_ours ON workitems (workitem_pk) WHERE performer <> '' AND state IN ('SCHEDULED', 'IN PROGRESS');

-- Who wants to hear of which workitem: one, all, or those that a filter matches (PS3.4 CC.2.3).
CREATE TABLE workitem_subscriptions (
    subscriber      text COLLATE "C" NOT NULL,      -- AE title
    workitem_uid    text COLLATE "C" NOT NULL,      -- or the well-known UID of all, or of those that the filter matches
    filter          jsonb NOT NULL DEFAULT '[]',    -- [[name, value]] as in a search
    deletion_lock   boolean NOT NULL DEFAULT false,
    muted           boolean NOT NULL DEFAULT false, -- unsubscribed from this one, though subscribed to all
    suspended_at    timestamptz,                    -- workitems that are made later are not meant
    created_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (subscriber, workitem_uid)
);
CREATE INDEX workitem_subscriptions_of ON workitem_subscriptions (workitem_uid);

-- Event reports that wait for their subscriber to be connected.
CREATE TABLE workitem_events (
    event_pk        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    subscriber      text COLLATE "C" NOT NULL,
    report          jsonb NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX workitem_events_of ON workitem_events (subscriber, event_pk);
