-- Events are looked for by what they are about, by who asked for what led to them, and by the request that
-- did. Until now that was read out of each document, of the newest few thousand.

ALTER TABLE events ADD COLUMN kind TEXT NOT NULL DEFAULT '';
-- `user NAME` or `token NAME`; nothing when Mainstay or a machine acted by itself, as it mostly does.
ALTER TABLE events ADD COLUMN person TEXT;
ALTER TABLE events ADD COLUMN request_id TEXT;

-- `json(…)` makes JSON of text on both databases. PostgreSQL cannot take an escaped NUL out of it; a space
-- in its place changes none of what is read here.
UPDATE events SET
    kind = json(REPLACE(document, '\u0000', '\u0020')) ->> 'kind',
    person = CASE
        WHEN json(REPLACE(document, '\u0000', '\u0020')) -> 'cause' -> 'actor' ->> 'kind' IN ('user', 'token')
        THEN (json(REPLACE(document, '\u0000', '\u0020')) -> 'cause' -> 'actor' ->> 'kind') || ' '
             || (json(REPLACE(document, '\u0000', '\u0020')) -> 'cause' -> 'actor' ->> 'name')
    END,
    request_id = json(REPLACE(document, '\u0000', '\u0020')) -> 'cause' ->> 'request_id';

CREATE INDEX events_by_kind ON events (organization_id, kind, sequence);
CREATE INDEX events_by_person ON events (organization_id, person, sequence) WHERE person IS NOT NULL;
CREATE INDEX events_by_request ON events (organization_id, request_id, sequence) WHERE request_id IS NOT NULL;
