-- Services without an instance have to be known for every document that is put together, and were looked
-- for among all services. A service knows its number of instances now, written with them, and an index
-- holds those that have none.

ALTER TABLE services ADD COLUMN instances BIGINT NOT NULL DEFAULT 0;
UPDATE services SET instances = (SELECT COUNT(*) FROM instances WHERE instances.service_id = services.id);
CREATE INDEX services_idle ON services (organization_id, name, id) WHERE instances = 0 AND removing = 0;
