-- The address of a container in its server's network, as a number; NULL for what has none. The index is what
-- keeps two instances from having the same one, whatever races.
ALTER TABLE instances ADD COLUMN address BIGINT;
CREATE UNIQUE INDEX instances_by_address ON instances (server_id, address);

-- The newest document that all servers of an organization share.
CREATE TABLE fleet_states (
    organization_id TEXT PRIMARY KEY REFERENCES organizations (id),
    generation BIGINT NOT NULL,
    digest TEXT NOT NULL,
    document TEXT NOT NULL
);
