-- How much services and servers used when. A row holds ten or twelve points of one service or server; rows are
-- places in a ring that are written over when time comes round to them, so nothing has to be deleted and the
-- table ends to grow after a week.

CREATE TABLE metric_chunks (
    -- Id of a service or a server.
    subject TEXT NOT NULL,
    organization_id TEXT NOT NULL REFERENCES organizations (id),
    -- How long a point is.
    step_ms BIGINT NOT NULL,
    -- Which place of the ring.
    place BIGINT NOT NULL,
    -- What is in it now.
    begins_at_ms BIGINT NOT NULL,
    points TEXT NOT NULL,
    PRIMARY KEY (subject, step_ms, place)
);
