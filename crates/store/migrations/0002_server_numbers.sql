-- A server's number is a byte no longer: see docs/rfd/0007. The limit moves from the schema to the code
-- that gives numbers out. SQLite cannot change a column's check, so the table is made anew, with those
-- that refer to it, which would otherwise be emptied when the old one goes.

CREATE TABLE new_servers (
    id TEXT PRIMARY KEY,
    organization_id TEXT NOT NULL REFERENCES organizations (id),
    name TEXT NOT NULL,
    -- From 1: mesh and container addresses follow from it.
    number BIGINT NOT NULL CHECK (number >= 1),
    public_key TEXT NOT NULL,
    secret TEXT NOT NULL,
    facts TEXT NOT NULL,
    agent_version TEXT NOT NULL,
    security_mode TEXT NOT NULL,
    binding TEXT NOT NULL,
    registered_at_ms BIGINT NOT NULL,
    last_seen_at_ms BIGINT,
    online BIGINT NOT NULL DEFAULT 0,
    UNIQUE (organization_id, name),
    UNIQUE (organization_id, number)
);
INSERT INTO new_servers
SELECT id, organization_id, name, number, public_key, secret, facts, agent_version, security_mode, binding,
       registered_at_ms, last_seen_at_ms, online
FROM servers;

CREATE TABLE new_nonces (
    server_id TEXT NOT NULL REFERENCES new_servers (id) ON DELETE CASCADE,
    nonce TEXT NOT NULL,
    expires_at_ms BIGINT NOT NULL,
    PRIMARY KEY (server_id, nonce)
);
INSERT INTO new_nonces SELECT server_id, nonce, expires_at_ms FROM nonces;

CREATE TABLE new_desired_states (
    server_id TEXT PRIMARY KEY REFERENCES new_servers (id) ON DELETE CASCADE,
    organization_id TEXT NOT NULL REFERENCES organizations (id),
    generation BIGINT NOT NULL,
    digest TEXT NOT NULL,
    document TEXT NOT NULL
);
INSERT INTO new_desired_states SELECT server_id, organization_id, generation, digest, document FROM desired_states;

CREATE TABLE new_observed_states (
    server_id TEXT PRIMARY KEY REFERENCES new_servers (id) ON DELETE CASCADE,
    organization_id TEXT NOT NULL REFERENCES organizations (id),
    received_at_ms BIGINT NOT NULL,
    document TEXT NOT NULL
);
INSERT INTO new_observed_states SELECT server_id, organization_id, received_at_ms, document FROM observed_states;

DROP TABLE nonces;
DROP TABLE desired_states;
DROP TABLE observed_states;
DROP TABLE servers;
ALTER TABLE new_servers RENAME TO servers;
ALTER TABLE new_nonces RENAME TO nonces;
ALTER TABLE new_desired_states RENAME TO desired_states;
ALTER TABLE new_observed_states RENAME TO observed_states;
CREATE INDEX nonces_by_expiry ON nonces (expires_at_ms);
