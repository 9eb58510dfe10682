-- Named statements: each begins at its name and is described by the line after it.

-- name: head
-- A conversation's row.
SELECT key, version, created, updated, last_item, items, metadata, generation, owner, turn, expires
FROM conversations WHERE id = :id;

-- name: heads_updated_falling
-- Conversations by the time of their last item, newest first, behind a place.
SELECT id, version, created, updated, last_item, items, metadata, generation, owner, turn, expires
FROM conversations WHERE (updated, id) < (:time, :id) ORDER BY updated DESC, id DESC LIMIT :limit;

-- name: heads_created_falling
-- Conversations by birth, youngest first, behind a place.
SELECT id, version, created, updated, last_item, items, metadata, generation, owner, turn, expires
FROM conversations WHERE (created, id) < (:time, :id) ORDER BY created DESC, id DESC LIMIT :limit;

-- name: heads_created_rising
-- Conversations by birth, oldest first, behind a place.
SELECT id, version, created, updated, last_item, items, metadata, generation, owner, turn, expires
FROM conversations WHERE (created, id) > (:time, :id) ORDER BY created, id LIMIT :limit;

-- name: insert_head
-- A new conversation; its key comes back.
INSERT INTO conversations (id, version, created, updated, last_item, items, metadata, generation, owner, turn, expires)
VALUES (:id, 0, 0, 0, 0, 0, '{}', 0, NULL, NULL, NULL);

-- name: update_head
-- What an append leaves behind.
UPDATE conversations SET version = ?, created = ?, updated = ?, last_item = ?, items = ?, metadata = ?, generation = ?,
    owner = ?, turn = ?, expires = ?
WHERE key = ?;

-- name: renew
-- Let a lease run on, if it is still the same one.
UPDATE conversations SET expires = :expires WHERE id = :id AND generation = :generation AND owner IS NOT NULL;

-- name: insert_event
-- One event.
INSERT INTO events (conversation, seq, time, kind, schema, response, shape, link, tokens, excerpt, flags, item, data, sum)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: insert_mark
-- One mark.
INSERT INTO marks (conversation, mark, seq) VALUES (?, ?, ?);

-- name: insert_key
-- One key.
INSERT INTO keys (conversation, name, digest, first, last) VALUES (?, ?, ?, ?, ?);

-- name: insert_body
-- A body, unless it is there.
INSERT INTO bodies (digest, body) VALUES (?, ?) ON CONFLICT (digest) DO NOTHING;

-- name: key
-- What a key was used for.
SELECT digest, first, last FROM keys WHERE conversation = :conversation AND name = :name;

-- name: key_of
-- The same, by the conversation's id.
SELECT digest, first, last FROM keys
WHERE conversation = (SELECT key FROM conversations WHERE id = :id) AND name = :name;

-- name: body
-- A body by its digest.
SELECT body FROM bodies WHERE digest = :digest;

-- name: rising
-- A conversation's events, oldest first.
SELECT seq, position, time, kind, schema, response, shape, link, tokens, excerpt, flags, item, data, sum
FROM events WHERE conversation = :conversation AND seq > :after AND seq < :before ORDER BY seq LIMIT :limit;

-- name: falling
-- A conversation's events, newest first.
SELECT seq, position, time, kind, schema, response, shape, link, tokens, excerpt, flags, item, data, sum
FROM events WHERE conversation = :conversation AND seq > :after AND seq < :before ORDER BY seq DESC LIMIT :limit;

-- name: linked_rising
-- Calls and outputs of one link, oldest first. Without the plus sign the index would not be found: the link that is
-- looked for would stand in place of the column everywhere.
SELECT seq, position, time, kind, schema, response, shape, link, tokens, excerpt, flags, item, data, sum
FROM events INDEXED BY events_link
WHERE conversation = :conversation AND substr(link, -8) = substr(:link, -8) AND link IS NOT NULL AND +link = :link
    AND seq > :after AND seq < :before
ORDER BY seq LIMIT :limit;

-- name: linked_falling
-- Calls and outputs of one link, newest first.
SELECT seq, position, time, kind, schema, response, shape, link, tokens, excerpt, flags, item, data, sum
FROM events INDEXED BY events_link
WHERE conversation = :conversation AND substr(link, -8) = substr(:link, -8) AND link IS NOT NULL AND +link = :link
    AND seq > :after AND seq < :before
ORDER BY seq DESC LIMIT :limit;

-- name: marked_rising
-- Events with a mark, oldest first.
SELECT e.seq, e.position, e.time, e.kind, e.schema, e.response, e.shape, e.link, e.tokens, e.excerpt, e.flags, e.item,
    e.data, e.sum
FROM marks AS m CROSS JOIN events AS e ON e.conversation = m.conversation AND e.seq = m.seq
WHERE m.conversation = :conversation AND m.mark = :mark AND m.seq > :after AND m.seq < :before
ORDER BY m.seq LIMIT :limit;

-- name: marked_falling
-- Events with a mark, newest first.
SELECT e.seq, e.position, e.time, e.kind, e.schema, e.response, e.shape, e.link, e.tokens, e.excerpt, e.flags, e.item,
    e.data, e.sum
FROM marks AS m CROSS JOIN events AS e ON e.conversation = m.conversation AND e.seq = m.seq
WHERE m.conversation = :conversation AND m.mark = :mark AND m.seq > :after AND m.seq < :before
ORDER BY m.seq DESC LIMIT :limit;
