-- Orders: what is to be done, for whom, when and where. An order is one document (`content`, shape: storage/ordered.py);
-- its columns and `order_steps` repeat what is searched by, and are written with it in one transaction.
CREATE TABLE orders (
    order_pk         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    status           text COLLATE "C" NOT NULL,     -- SCHEDULED | ON_HOLD | IN_PROGRESS | COMPLETED | DISCONTINUED | CANCELLED
    placer_number    text COLLATE "C" NOT NULL,
    placer_issuer    text COLLATE "C" NOT NULL,
    filler_number    text COLLATE "C" NOT NULL,
    filler_issuer    text COLLATE "C" NOT NULL,
    accession_number text COLLATE "C" NOT NULL,
    patient_id       text COLLATE "C" NOT NULL,
    patient_issuer   text COLLATE "C" NOT NULL,
    patient_name_key text COLLATE "C" NOT NULL,     -- the folded words of the name, as in studies
    urgency          smallint NOT NULL,             -- that was asked for: 0 routine, 1 urgent, 2 stat
    max_wait         interval,                      -- of that priority at the site: a study of the order is due no later after its arrival
    announced        boolean NOT NULL,              -- false: known from a change or cancel that overtook the new order
    content          jsonb NOT NULL,
    created_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    changed_at       timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE UNIQUE INDEX orders_placer ON orders (placer_number, placer_issuer) WHERE placer_number <> '';
CREATE INDEX orders_filler ON orders (filler_number, filler_issuer) WHERE filler_number <> '';
CREATE INDEX orders_accession ON orders (accession_number, order_pk) WHERE accession_number <> '';
CREATE INDEX orders_patient ON orders (patient_id, order_pk);
CREATE INDEX orders_status ON orders (status, order_pk);
CREATE INDEX orders_changed ON orders (changed_at);

CREATE TABLE order_steps (
    step_pk       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_fk      bigint NOT NULL REFERENCES orders ON DELETE CASCADE,
    procedure_id  text COLLATE "C" NOT NULL,
    step_id       text COLLATE "C" NOT NULL,
    study_uid     text COLLATE "C" NOT NULL,
    ae_title      text COLLATE "C" NOT NULL,         -- '': any station
    modality      text COLLATE "C" NOT NULL,
    start_at      timestamp NOT NULL,                -- on the clocks of the hospital
    status        text COLLATE "C" NOT NULL,         -- SCHEDULED | ARRIVED | READY | IN_PROGRESS | COMPLETED | DISCONTINUED | CANCELLED
    listed        boolean NOT NULL,                  -- on the modality worklist
    UNIQUE (order_fk, procedure_id, step_id)
);
CREATE INDEX order_steps_study ON order_steps (study_uid);
CREATE INDEX order_steps_step ON order_steps (step_id);
CREATE INDEX order_steps_listed ON order_steps (start_at, step_pk, ae_title, modality) WHERE listed;

-- What happened to an order, in its order: [field, before, after] of everything that changed.
CREATE TABLE order_history (
    history_pk  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_fk    bigint NOT NULL REFERENCES orders ON DELETE CASCADE,
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor       text NOT NULL,
    action      text NOT NULL,                       -- order.new | order.changed | order.cancelled | ...
    message_fk  bigint,                              -- of hl7_messages, where one brought it
    changes     jsonb NOT NULL
);
CREATE INDEX order_history_order ON order_history (order_fk, history_pk);

-- Every HL7 message that was answered; its content is not kept, only its digest.
CREATE TABLE hl7_messages (
    message_pk   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sender       text COLLATE "C" NOT NULL,          -- MSH-3 and MSH-4
    control_id   text COLLATE "C" NOT NULL,          -- MSH-10
    sha256       bytea NOT NULL,
    size         integer NOT NULL,                   -- bytes
    kind         text COLLATE "C" NOT NULL,          -- MSH-9, such as ORM^O01
    address      text NOT NULL,
    code         text NOT NULL,                      -- AA | AE | AR
    reason       text NOT NULL,                      -- as answered; never a name
    orders       bigint[] NOT NULL,                  -- that it made or changed
    answers      integer NOT NULL DEFAULT 1,         -- more than 1: it came again
    received_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (sender, control_id, sha256)
);

-- Modality performed procedure steps (PS3.4 F.7).
CREATE TABLE performed_steps (
    performed_pk  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sop_uid       text COLLATE "C" NOT NULL UNIQUE,
    status        text COLLATE "C" NOT NULL,         -- IN PROGRESS | COMPLETED | DISCONTINUED
    source_aet    text NOT NULL,
    modality      text COLLATE "C" NOT NULL,
    step_id       text COLLATE "C" NOT NULL,         -- Performed Procedure Step ID
    study_uids    text[] COLLATE "C" NOT NULL,
    instance_uids text[] COLLATE "C" NOT NULL,       -- that its series refer to
    content       jsonb NOT NULL,                    -- DICOM JSON (PS3.18 F.2)
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    changed_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    complete_at   timestamptz                        -- when it was final and every instance had arrived
);
CREATE INDEX performed_steps_study ON performed_steps USING gin (study_uids);
CREATE INDEX performed_steps_awaited ON performed_steps (changed_at) WHERE complete_at IS NULL AND status <> 'IN PROGRESS';

CREATE TABLE performed_links (
    performed_fk  bigint NOT NULL REFERENCES performed_steps ON DELETE CASCADE,
    step_fk       bigint NOT NULL REFERENCES order_steps ON DELETE CASCADE,
    PRIMARY KEY (performed_fk, step_fk)
);
CREATE INDEX performed_links_step ON performed_links (step_fk);

-- The studies of an order: by the UID that it planned, or by accession number where the patient is not another one.
CREATE FUNCTION studies_of_order(wanted bigint) RETURNS SETOF bigint LANGUAGE sql STABLE AS $$
    SELECT study_pk FROM studies
    WHERE study_uid = ANY(ARRAY(SELECT study_uid FROM order_steps WHERE order_fk = wanted))
    UNION
    SELECT s.study_pk FROM orders AS o JOIN studies AS s ON s.accession_number = o.accession_number
    WHERE o.order_pk = wanted AND o.accession_number <> '' AND (s.patient_id = o.patient_id OR s.patient_id = '')
$$;

-- A study that arrives takes the priority of its orders: due earlier where they are more urgent, never later. Only new
-- studies have a new row here, so nothing of this is paid for each instance.
CREATE FUNCTION take_order_priority() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    theirs bigint[];
    ordered record;
BEGIN
    theirs := ARRAY(
        SELECT order_fk FROM order_steps WHERE study_uid = NEW.study_uid
        UNION ALL
        SELECT p.order_pk FROM studies AS s JOIN orders AS p ON p.accession_number = s.accession_number
        WHERE s.study_pk = NEW.study_fk AND s.accession_number <> '' AND p.accession_number <> ''
            AND (s.patient_id = p.patient_id OR s.patient_id = '')
    );
    IF theirs = '{}' THEN
        RETURN NEW;
    END IF;
    SELECT max(urgency) AS urgency, min(max_wait) AS max_wait, min(order_pk) AS order_pk INTO ordered
    FROM orders WHERE status <> 'CANCELLED' AND order_pk = ANY(theirs);
    IF ordered.order_pk IS NULL THEN
        RETURN NEW;
    END IF;
    IF priority_name(ordered.urgency) <> NEW.priority AND (ordered.urgency = 2 OR NEW.priority = 'routine') THEN
        NEW.priority := priority_name(ordered.urgency);
    END IF;
    NEW.latest_due_at := LEAST(NEW.latest_due_at, NEW.arrived_at + ordered.max_wait);
    NEW.due_at := LEAST(NEW.due_at, NEW.latest_due_at);
    INSERT INTO audit (actor, action, study_uid, detail) VALUES ('order', 'study.ordered', NEW.study_uid,
        jsonb_build_object('order', ordered.order_pk, 'priority', NEW.priority, 'due_at', NEW.due_at));
    RETURN NEW;
END
$$;
CREATE TRIGGER worklist_order BEFORE INSERT ON worklist FOR EACH ROW EXECUTE FUNCTION take_order_priority();

-- The same for studies that are here when an order comes or changes. Gives those that are due earlier now.
CREATE FUNCTION hasten_studies(of_order bigint) RETURNS TABLE (hastened_uid text, now_due_at timestamptz)
LANGUAGE plpgsql AS $$
DECLARE
    asked record;
    theirs bigint[];
BEGIN
    SELECT urgency, max_wait INTO asked FROM orders WHERE order_pk = of_order AND status <> 'CANCELLED';
    theirs := ARRAY(SELECT studies_of_order(of_order));
    IF asked.urgency IS NULL OR theirs = '{}' THEN
        RETURN;
    END IF;
    UPDATE jobs SET urgency = asked.urgency
    WHERE urgency < asked.urgency AND state = 'waiting' AND instance_fk = ANY(ARRAY(
        SELECT instance_pk FROM instances JOIN series ON series_pk = series_fk WHERE series.study_fk = ANY(theirs)));
    RETURN QUERY UPDATE worklist SET
        priority = CASE WHEN asked.urgency = 2 OR priority = 'routine' THEN priority_name(asked.urgency) ELSE priority END,
        latest_due_at = LEAST(latest_due_at, arrived_at + asked.max_wait),
        due_at = LEAST(due_at, arrived_at + asked.max_wait),
        changed_at = now()
    WHERE study_fk = ANY(theirs) AND latest_due_at > arrived_at + asked.max_wait
    RETURNING study_uid, due_at;
END
$$;
