-- One schema for SQLite and PostgreSQL: TEXT and BIGINT only. Booleans are 0 and 1, times are
-- milliseconds, documents are JSON. Every table carries the organization that owns the row.

CREATE TABLE organizations (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    created_at_ms BIGINT NOT NULL,
    -- Touched first by every write transaction: the row lock puts an organization's writers in line.
    writes BIGINT NOT NULL DEFAULT 0
);

CREATE TABLE counters (
    organization_id TEXT NOT NULL REFERENCES organizations (id),
    name TEXT NOT NULL,
    value BIGINT NOT NULL,
    PRIMARY KEY (organization_id, name)
);

CREATE TABLE projects (
    id TEXT PRIMARY KEY,
    organization_id TEXT NOT NULL REFERENCES organizations (id),
    name TEXT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    UNIQUE (organization_id, name)
);

CREATE TABLE users (
    id TEXT PRIMARY KEY,
    organization_id TEXT NOT NULL REFERENCES organizations (id),
    name TEXT NOT NULL UNIQUE,
    password_hash TEXT NOT NULL,
    created_at_ms BIGINT NOT NULL
);

CREATE TABLE sessions (
    hash TEXT PRIMARY KEY,
    organization_id TEXT NOT NULL REFERENCES organizations (id),
    user_id TEXT NOT NULL REFERENCES users (id),
    created_at_ms BIGINT NOT NULL,
    expires_at_ms BIGINT NOT NULL
);

CREATE TABLE tokens (
    id TEXT PRIMARY KEY,
    organization_id TEXT NOT NULL REFERENCES organizations (id),
    hash TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    purpose TEXT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    expires_at_ms BIGINT,
    used_at_ms BIGINT,
    revoked_at_ms BIGINT
);
CREATE INDEX tokens_by_organization ON tokens (organization_id, created_at_ms);

CREATE TABLE credentials (
    organization_id TEXT NOT NULL REFERENCES organizations (id),
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    document TEXT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    PRIMARY KEY (organization_id, name)
);

CREATE TABLE settings (
    organization_id TEXT NOT NULL REFERENCES organizations (id),
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (organization_id, name)
);

CREATE TABLE servers (
    id TEXT PRIMARY KEY,
    organization_id TEXT NOT NULL REFERENCES organizations (id),
    name TEXT NOT NULL,
    -- 1 to 255: mesh and container addresses follow from it.
    number BIGINT NOT NULL CHECK (number BETWEEN 1 AND 255),
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

CREATE TABLE nonces (
    server_id TEXT NOT NULL REFERENCES servers (id) ON DELETE CASCADE,
    nonce TEXT NOT NULL,
    expires_at_ms BIGINT NOT NULL,
    PRIMARY KEY (server_id, nonce)
);
CREATE INDEX nonces_by_expiry ON nonces (expires_at_ms);

CREATE TABLE desired_states (
    server_id TEXT PRIMARY KEY REFERENCES servers (id) ON DELETE CASCADE,
    organization_id TEXT NOT NULL REFERENCES organizations (id),
    generation BIGINT NOT NULL,
    digest TEXT NOT NULL,
    document TEXT NOT NULL
);

CREATE TABLE observed_states (
    server_id TEXT PRIMARY KEY REFERENCES servers (id) ON DELETE CASCADE,
    organization_id TEXT NOT NULL REFERENCES organizations (id),
    received_at_ms BIGINT NOT NULL,
    document TEXT NOT NULL
);

CREATE TABLE stacks (
    id TEXT PRIMARY KEY,
    organization_id TEXT NOT NULL REFERENCES organizations (id),
    project_id TEXT NOT NULL REFERENCES projects (id),
    name TEXT NOT NULL,
    version BIGINT NOT NULL,
    manifest TEXT NOT NULL,
    removing BIGINT NOT NULL DEFAULT 0,
    created_at_ms BIGINT NOT NULL,
    updated_at_ms BIGINT NOT NULL,
    UNIQUE (organization_id, name)
);

CREATE TABLE services (
    id TEXT PRIMARY KEY,
    organization_id TEXT NOT NULL REFERENCES organizations (id),
    stack_id TEXT NOT NULL REFERENCES stacks (id),
    name TEXT NOT NULL,
    intent TEXT NOT NULL,
    replicas BIGINT NOT NULL,
    current_revision_id TEXT,
    previous_revision_id TEXT,
    removing BIGINT NOT NULL DEFAULT 0,
    created_at_ms BIGINT NOT NULL,
    UNIQUE (stack_id, name)
);
CREATE INDEX services_by_organization ON services (organization_id, name);

CREATE TABLE service_env (
    service_id TEXT NOT NULL REFERENCES services (id) ON DELETE CASCADE,
    organization_id TEXT NOT NULL REFERENCES organizations (id),
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (service_id, name)
);

CREATE TABLE revisions (
    id TEXT PRIMARY KEY,
    organization_id TEXT NOT NULL REFERENCES organizations (id),
    service_id TEXT NOT NULL REFERENCES services (id) ON DELETE CASCADE,
    number BIGINT NOT NULL,
    hash TEXT NOT NULL,
    document TEXT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    UNIQUE (service_id, number)
);

CREATE TABLE deployments (
    id TEXT PRIMARY KEY,
    organization_id TEXT NOT NULL REFERENCES organizations (id),
    service_id TEXT NOT NULL REFERENCES services (id) ON DELETE CASCADE,
    -- What it makes live; a revision stays as long as a deployment names it.
    revision_id TEXT NOT NULL REFERENCES revisions (id),
    stage TEXT NOT NULL,
    in_flight BIGINT NOT NULL,
    -- Order within the service; the newest one is what the rollout looks at.
    number BIGINT NOT NULL,
    document TEXT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    UNIQUE (service_id, number)
);
-- One deployment in flight per service, whatever races.
CREATE UNIQUE INDEX deployments_in_flight ON deployments (service_id) WHERE in_flight = 1;
CREATE INDEX deployments_by_revision ON deployments (revision_id);

CREATE TABLE instances (
    id TEXT PRIMARY KEY,
    organization_id TEXT NOT NULL REFERENCES organizations (id),
    service_id TEXT NOT NULL REFERENCES services (id),
    revision_id TEXT NOT NULL REFERENCES revisions (id),
    deployment_id TEXT NOT NULL REFERENCES deployments (id),
    -- No reference: an instance may outlive its server's removal until the rollout forgets it.
    server_id TEXT NOT NULL,
    ordinal BIGINT NOT NULL,
    intent TEXT NOT NULL,
    traffic TEXT NOT NULL,
    traffic_changed_at_ms BIGINT NOT NULL,
    created_at_ms BIGINT NOT NULL
);
CREATE INDEX instances_by_organization ON instances (organization_id);
CREATE INDEX instances_by_service ON instances (service_id);
CREATE INDEX instances_by_deployment ON instances (deployment_id);
CREATE INDEX instances_by_revision ON instances (revision_id);
CREATE INDEX instances_by_server ON instances (server_id);

CREATE TABLE events (
    organization_id TEXT NOT NULL REFERENCES organizations (id),
    sequence BIGINT NOT NULL,
    id TEXT NOT NULL,
    at_ms BIGINT NOT NULL,
    level TEXT NOT NULL,
    stack_id TEXT,
    service_id TEXT,
    deployment_id TEXT,
    server_id TEXT,
    document TEXT NOT NULL,
    PRIMARY KEY (organization_id, sequence),
    UNIQUE (organization_id, id)
);
-- Partial, because most events name only some of these, and few are problems.
CREATE INDEX events_by_stack ON events (organization_id, stack_id, sequence) WHERE stack_id IS NOT NULL;
CREATE INDEX events_by_service ON events (organization_id, service_id, sequence) WHERE service_id IS NOT NULL;
CREATE INDEX events_by_deployment ON events (organization_id, deployment_id, sequence) WHERE deployment_id IS NOT NULL;
CREATE INDEX events_by_server ON events (organization_id, server_id, sequence) WHERE server_id IS NOT NULL;
CREATE INDEX events_by_problem ON events (organization_id, sequence) WHERE level <> 'info';

CREATE TABLE log_streams (
    organization_id TEXT NOT NULL REFERENCES organizations (id),
    source TEXT NOT NULL,
    service_id TEXT NOT NULL,
    server_id TEXT NOT NULL,
    -- The deployment that built, or that made the instance: known here even after the instance is forgotten.
    deployment_id TEXT,
    next_offset BIGINT NOT NULL,
    -- Several servers build for one deployment, each with offsets of its own.
    PRIMARY KEY (organization_id, source, server_id)
);
CREATE INDEX log_streams_by_service ON log_streams (organization_id, service_id);
CREATE INDEX log_streams_by_deployment ON log_streams (organization_id, deployment_id);

CREATE TABLE log_lines (
    organization_id TEXT NOT NULL REFERENCES organizations (id),
    sequence BIGINT NOT NULL,
    source TEXT NOT NULL,
    service_id TEXT NOT NULL,
    at_ms BIGINT NOT NULL,
    stream TEXT NOT NULL,
    text TEXT NOT NULL,
    PRIMARY KEY (organization_id, sequence)
);
-- The time is in both, so that "since" is decided without reading the lines.
CREATE INDEX log_lines_by_source ON log_lines (organization_id, source, sequence, at_ms);
CREATE INDEX log_lines_by_service ON log_lines (organization_id, service_id, sequence, at_ms);
