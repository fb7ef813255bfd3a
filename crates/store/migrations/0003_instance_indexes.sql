-- The instances of one service, or of one server, were looked for among all of the organization: of two
-- indexes on one column each SQLite cannot know which is the better. These begin with what is asked for,
-- hold both columns, and have the rows in the order in which they are read.

DROP INDEX instances_by_service;
DROP INDEX instances_by_server;
CREATE INDEX instances_by_service ON instances (service_id, organization_id, ordinal, id);
CREATE INDEX instances_by_server ON instances (server_id, organization_id, service_id, ordinal, id);
