-- Whom we send to: the AE registry (C-MOVE destinations, forwarding, `sangloc send`), and DICOMweb origins.
CREATE TABLE peers (
    name            text COLLATE "C" PRIMARY KEY,    -- ours, for people and rules
    aet             text COLLATE "C" NOT NULL DEFAULT '', -- '' : no DIMSE
    host            text NOT NULL DEFAULT '',
    port            integer NOT NULL DEFAULT 0,
    tls             boolean NOT NULL DEFAULT false,  -- speak TLS (PS3.15 B.12) to host:port
    dicomweb_url    text NOT NULL DEFAULT '',        -- base of STOW-RS and QIDO-RS; '' : no DICOMweb
    dicomweb_token  text NOT NULL DEFAULT '',        -- bearer token; never shown
    comment         text NOT NULL DEFAULT '',
    changed_at      timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX peers_aet ON peers (aet) WHERE aet <> '';  -- a move destination is one place
