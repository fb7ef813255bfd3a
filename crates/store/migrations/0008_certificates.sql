-- Certificates of hosts. Of each host there may be one that a person gave and one that was ordered; a newer one of
-- a kind takes the place of the older.

CREATE TABLE certificates (
    organization_id TEXT NOT NULL REFERENCES organizations (id),
    -- The host that it was ordered or given for; may be a wildcard.
    host TEXT NOT NULL,
    -- `acme` or `user`
    source TEXT NOT NULL,
    -- All names that it is for, a JSON array.
    names TEXT NOT NULL,
    issuer TEXT NOT NULL,
    -- SHA-256 of the chain.
    digest TEXT NOT NULL,
    chain TEXT NOT NULL,
    -- Sealed with a key that is not in this database.
    sealed_key TEXT NOT NULL,
    not_before_ms BIGINT NOT NULL,
    not_after_ms BIGINT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    PRIMARY KEY (organization_id, host, source)
);

-- How ordering goes, per host.
CREATE TABLE certificate_orders (
    organization_id TEXT NOT NULL REFERENCES organizations (id),
    host TEXT NOT NULL,
    -- In a row.
    failures BIGINT NOT NULL,
    -- Why the last one failed, for people.
    reason TEXT,
    -- No sooner than this.
    next_at_ms BIGINT NOT NULL,
    -- A person asked for it now.
    forced BIGINT NOT NULL,
    PRIMARY KEY (organization_id, host)
);

-- What was ordered lately: authorities bound how often, and so do we.
CREATE TABLE certificate_order_log (
    organization_id TEXT NOT NULL REFERENCES organizations (id),
    host TEXT NOT NULL,
    began_at_ms BIGINT NOT NULL,
    failed BIGINT NOT NULL,
    PRIMARY KEY (organization_id, host, began_at_ms)
);

-- What an authority may ask for just now.
CREATE TABLE challenges (
    organization_id TEXT NOT NULL REFERENCES organizations (id),
    token TEXT NOT NULL,
    host TEXT NOT NULL,
    kind TEXT NOT NULL,
    key_authorization TEXT NOT NULL,
    PRIMARY KEY (organization_id, token)
);

-- Accounts at authorities, by the address of their directory. What is sealed holds the account's key.
CREATE TABLE acme_accounts (
    organization_id TEXT NOT NULL REFERENCES organizations (id),
    directory_url TEXT NOT NULL,
    sealed_credentials TEXT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    PRIMARY KEY (organization_id, directory_url)
);
