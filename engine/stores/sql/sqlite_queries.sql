-- Named statements: each begins at its name and is described by the line after it.

-- name: head
-- A conversation's row.
SELECT c.id, c.version, c.created, c.updated, c.last_item, c.items, m.json, c.generation, c.owner, c.turn, c.until,
    c.parent, c.at, c.deleted, c.key, c.origin, c.about
FROM conversations AS c LEFT JOIN metadata AS m ON m.key = c.about
WHERE c.id = :id;

-- name: head_of_key
-- The same, by its key.
SELECT c.id, c.version, c.created, c.updated, c.last_item, c.items, m.json, c.generation, c.owner, c.turn, c.until,
    c.parent, c.at, c.deleted, c.key, c.origin, c.about
FROM conversations AS c LEFT JOIN metadata AS m ON m.key = c.about
WHERE c.key = :key;

-- name: heads_updated_falling
-- Conversations by the time of their last item, newest first, behind a place.
SELECT c.id, c.version, c.created, c.updated, c.last_item, c.items, m.json, c.generation, c.owner, c.turn, c.until,
    c.parent, c.at, c.deleted, c.key, c.origin, c.about
FROM conversations AS c LEFT JOIN metadata AS m ON m.key = c.about
WHERE c.deleted = 0 AND (c.updated, c.id) < (:time, :id) ORDER BY c.updated DESC, c.id DESC LIMIT :limit;

-- name: heads_created_falling
-- Conversations by birth, youngest first, behind a place.
SELECT c.id, c.version, c.created, c.updated, c.last_item, c.items, m.json, c.generation, c.owner, c.turn, c.until,
    c.parent, c.at, c.deleted, c.key, c.origin, c.about
FROM conversations AS c LEFT JOIN metadata AS m ON m.key = c.about
WHERE c.deleted = 0 AND (c.created, c.id) < (:time, :id) ORDER BY c.created DESC, c.id DESC LIMIT :limit;

-- name: heads_created_rising
-- Conversations by birth, oldest first, behind a place.
SELECT c.id, c.version, c.created, c.updated, c.last_item, c.items, m.json, c.generation, c.owner, c.turn, c.until,
    c.parent, c.at, c.deleted, c.key, c.origin, c.about
FROM conversations AS c LEFT JOIN metadata AS m ON m.key = c.about
WHERE c.deleted = 0 AND (c.created, c.id) > (:time, :id) ORDER BY c.created, c.id LIMIT :limit;

-- name: found_falling
-- Those with a facet, from the latest of its times down.
SELECT c.id, c.version, c.created, c.updated, c.last_item, c.items, m.json, c.generation, c.owner, c.turn, c.until,
    c.parent, c.at, c.deleted, c.key, c.origin, c.about
FROM facets AS f CROSS JOIN conversations AS c ON c.id = f.id LEFT JOIN metadata AS m ON m.key = c.about
WHERE f.facet = :facet AND (f.time, f.id) < (:time, :id) ORDER BY f.time DESC, f.id DESC LIMIT :limit;

-- name: found_rising
-- Those with a facet, from the earliest of its times up.
SELECT c.id, c.version, c.created, c.updated, c.last_item, c.items, m.json, c.generation, c.owner, c.turn, c.until,
    c.parent, c.at, c.deleted, c.key, c.origin, c.about
FROM facets AS f CROSS JOIN conversations AS c ON c.id = f.id LEFT JOIN metadata AS m ON m.key = c.about
WHERE f.facet = :facet AND (f.time, f.id) > (:time, :id) ORDER BY f.time, f.id LIMIT :limit;

-- name: also
-- One more condition for the two statements above.
SELECT 1 FROM facets AS o WHERE o.facet = :also AND o.time = c.created AND o.id = f.id;

-- name: facet_size
-- How many conversations have a facet, up to a thousand.
SELECT count(*) FROM (SELECT 1 FROM facets WHERE facet = :facet LIMIT 1000);

-- name: lineage
-- What a fork shares, newest first: whose own the events are, from which seq, and up to which.
WITH RECURSIVE line (key, last) AS (
    VALUES (:origin, :at)
    UNION ALL
    SELECT c.origin, c.at FROM line CROSS JOIN conversations AS c ON c.key = line.key WHERE c.origin IS NOT NULL
)
SELECT line.key, coalesce(c.at, 0) + 1, line.last
FROM line CROSS JOIN conversations AS c ON c.key = line.key;

-- name: sharers
-- Who shares events of a conversation's own, at any depth, and up to which of them.
WITH RECURSIVE sharers (key, last) AS (
    SELECT key, at FROM conversations WHERE origin = :key
    UNION ALL
    SELECT c.key, s.last FROM sharers AS s CROSS JOIN conversations AS c ON c.origin = s.key
)
SELECT c.id, s.last, c.key FROM sharers AS s CROSS JOIN conversations AS c ON c.key = s.key WHERE c.deleted = 0;

-- name: insert_head
-- A new conversation; its key comes back.
INSERT INTO conversations (id, version, created, updated, last_item, items, about, generation, owner, turn, until,
    parent, at, origin, deleted)
VALUES (:id, 0, 0, 0, 0, 0, NULL, 0, NULL, NULL, NULL, :parent, :at, :origin, 0);

-- name: update_head
-- What an append leaves behind.
UPDATE conversations SET version = ?, created = ?, updated = ?, last_item = ?, items = ?, about = ?, generation = ?,
    owner = ?, turn = ?, until = ?, deleted = ?
WHERE key = ?;

-- name: advance_heads
-- What items alone leave behind; the rows are there.
INSERT INTO conversations (key, id, version, updated, last_item, items, created, generation, deleted)
VALUES (?, ?, ?, ?, ?, ?, 0, 0, 0)
ON CONFLICT (key) DO UPDATE SET version = excluded.version, updated = excluded.updated,
    last_item = excluded.last_item, items = excluded.items;

-- name: renew
-- Let a lease run on, if it is still the same one.
UPDATE conversations SET until = :until WHERE id = :id AND generation = :generation AND owner IS NOT NULL;

-- name: insert_metadata
-- New metadata; its key comes back.
INSERT INTO metadata (json) VALUES (:json);

-- name: overwrite_metadata
-- Other metadata in the place of what it is not longer than.
UPDATE metadata SET json = :json WHERE key = :key AND length(json) >= length(:json);

-- name: insert_facet
-- One facet.
INSERT INTO facets (facet, time, id) VALUES (?, ?, ?);

-- name: update_facet
-- Another time for one.
UPDATE facets SET time = ? WHERE facet = ? AND time = ? AND id = ?;

-- name: delete_facet
-- One less.
DELETE FROM facets WHERE facet = ? AND time = ? AND id = ?;

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

-- name: insert_count
-- How many items there are up to an event.
INSERT INTO counts (conversation, seq, items, last_item) VALUES (?, ?, ?, ?);

-- name: insert_ref
-- One reference to a body, unless it is there.
INSERT INTO refs (conversation, seq, digest) VALUES (?, ?, ?) ON CONFLICT (conversation, seq, digest) DO NOTHING;

-- name: insert_body
-- A body, unless it is there.
INSERT INTO bodies (digest, body) VALUES (?, ?) ON CONFLICT (digest) DO NOTHING;

-- name: counted
-- How many items there are up to the last counted event that is not behind another.
SELECT seq, items, last_item FROM counts WHERE conversation = :conversation AND seq <= :at ORDER BY seq DESC LIMIT 1;

-- name: items_between
-- How many items there are among a few events, and the last of them; asides (flag 4) are not counted.
SELECT count(*), max(seq) FROM events
WHERE conversation = :conversation AND seq > :after AND seq <= :at AND kind IS NULL AND flags & 4 = 0;

-- name: key
-- What a key was used for.
SELECT digest, first, last FROM keys WHERE conversation = :conversation AND name = :name;

-- name: key_of
-- The same, by the conversation's id.
SELECT digest, first, last FROM keys
WHERE conversation = (SELECT key FROM conversations WHERE id = :id) AND name = :name;

-- name: keys_of
-- What keys were used for, behind a name.
SELECT name, digest, first, last FROM keys
WHERE conversation = (SELECT key FROM conversations WHERE id = :id) AND name > :after ORDER BY name LIMIT :limit;

-- name: body
-- A body by its digest.
SELECT body FROM bodies WHERE digest = :digest;

-- name: rising
-- A conversation's events, oldest first.
SELECT seq, coalesce(kind, 'item.appended'), schema, response, shape, link, tokens, excerpt, flags,
    CAST(item AS BLOB), CAST(data AS BLOB), CAST(position AS TEXT), time, sum
FROM events WHERE conversation = :conversation AND seq > :after AND seq < :before ORDER BY seq LIMIT :limit;

-- name: falling
-- A conversation's events, newest first.
SELECT seq, coalesce(kind, 'item.appended'), schema, response, shape, link, tokens, excerpt, flags,
    CAST(item AS BLOB), CAST(data AS BLOB), CAST(position AS TEXT), time, sum
FROM events WHERE conversation = :conversation AND seq > :after AND seq < :before ORDER BY seq DESC LIMIT :limit;

-- name: latest
-- The same without position, time and checksum, which windows do not ask for.
SELECT seq, coalesce(kind, 'item.appended'), schema, response, shape, link, tokens, excerpt, flags,
    CAST(item AS BLOB), CAST(data AS BLOB)
FROM events WHERE conversation = :conversation AND seq > :after AND seq < :before ORDER BY seq DESC LIMIT :limit;

-- name: linked_to
-- What conversations' own events up to a seq have under some links, as one list in JSON: it takes one step, however many
-- they are. Up to -1 are all, those too whose seq was changed into a text, which is above all numbers. Of each link the
-- newest 64 are looked at, which is `answers.LATEST`; of the empty one all, for its calls are answered in their order.
-- What is said aside does not count.
WITH wanted (conversation, link, last) AS (VALUES (?, ?, ?))
SELECT json_group_array(json_array(e.conversation, e.link, w.last, e.seq, e.shape, e.flags))
FROM wanted AS w CROSS JOIN events AS e INDEXED BY events_link
WHERE e.conversation = w.conversation AND substr(e.link, -8) = substr(w.link, -8) AND e.link IS NOT NULL
    AND +e.link = w.link AND NOT e.flags & 4 AND e.seq <= iif(w.last < 0, x'', w.last)
    AND e.seq >= CASE w.link WHEN '' THEN 0 ELSE coalesce((
        SELECT o.seq FROM events AS o INDEXED BY events_link
        WHERE o.conversation = w.conversation AND substr(o.link, -8) = substr(w.link, -8) AND o.link IS NOT NULL
            AND +o.link = w.link AND NOT o.flags & 4 AND o.seq <= iif(w.last < 0, x'', w.last)
        ORDER BY o.seq DESC LIMIT 1 OFFSET 63
    ), 0) END;

-- name: linked_rising
-- Calls and outputs of one link, oldest first. Without the plus sign the index would not be found: the link that is
-- looked for would stand in place of the column everywhere.
SELECT seq, coalesce(kind, 'item.appended'), schema, response, shape, link, tokens, excerpt, flags,
    CAST(item AS BLOB), CAST(data AS BLOB), CAST(position AS TEXT), time, sum
FROM events INDEXED BY events_link
WHERE conversation = :conversation AND substr(link, -8) = substr(:link, -8) AND link IS NOT NULL AND +link = :link
    AND seq > :after AND seq < :before
ORDER BY seq LIMIT :limit;

-- name: linked_falling
-- Calls and outputs of one link, newest first.
SELECT seq, coalesce(kind, 'item.appended'), schema, response, shape, link, tokens, excerpt, flags,
    CAST(item AS BLOB), CAST(data AS BLOB), CAST(position AS TEXT), time, sum
FROM events INDEXED BY events_link
WHERE conversation = :conversation AND substr(link, -8) = substr(:link, -8) AND link IS NOT NULL AND +link = :link
    AND seq > :after AND seq < :before
ORDER BY seq DESC LIMIT :limit;

-- name: marks_there
-- Which of some marks a conversation's own events have; they are given as a list in JSON.
SELECT value FROM json_each(:marks) WHERE EXISTS (
    SELECT 1 FROM marks WHERE conversation = :conversation AND mark = value
);

-- name: marked_rising
-- Events with a mark, oldest first.
SELECT e.seq, coalesce(e.kind, 'item.appended'), e.schema, e.response, e.shape, e.link, e.tokens, e.excerpt, e.flags,
    CAST(e.item AS BLOB), CAST(e.data AS BLOB), CAST(e.position AS TEXT), e.time, e.sum
FROM marks AS m CROSS JOIN events AS e ON e.conversation = m.conversation AND e.seq = m.seq
WHERE m.conversation = :conversation AND m.mark = :mark AND m.seq > :after AND m.seq < :before
ORDER BY m.seq LIMIT :limit;

-- name: marked_falling
-- Events with a mark, newest first.
SELECT e.seq, coalesce(e.kind, 'item.appended'), e.schema, e.response, e.shape, e.link, e.tokens, e.excerpt, e.flags,
    CAST(e.item AS BLOB), CAST(e.data AS BLOB), CAST(e.position AS TEXT), e.time, e.sum
FROM marks AS m CROSS JOIN events AS e ON e.conversation = m.conversation AND e.seq = m.seq
WHERE m.conversation = :conversation AND m.mark = :mark AND m.seq > :after AND m.seq < :before
ORDER BY m.seq DESC LIMIT :limit;

-- name: fed
-- The log's events behind a position, each with its conversation and that one's metadata as it is now. Of what was
-- deleted only the tombstone.
SELECT e.seq, coalesce(e.kind, 'item.appended'), e.schema, e.response, e.shape, e.link, e.tokens, e.excerpt, e.flags,
    CAST(e.item AS BLOB), CAST(e.data AS BLOB), CAST(e.position AS TEXT), e.time, e.sum, c.id, m.json
FROM events AS e CROSS JOIN conversations AS c ON c.key = e.conversation LEFT JOIN metadata AS m ON m.key = c.about
WHERE e.position > :after AND (c.deleted = 0 OR e.seq = c.version) ORDER BY e.position LIMIT :limit;

-- name: end
-- The position of the last event.
SELECT max(position) FROM events;

-- name: reader
-- Who reads the feed under a name.
SELECT owner, until, position FROM readers WHERE name = :name;

-- name: stand
-- Read under a name, if nobody else does.
INSERT INTO readers (name, owner, until) VALUES (:name, :owner, :until)
ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, until = excluded.until
WHERE owner = excluded.owner OR until <= :now;

-- name: ack
-- What a reader has done with, if there is as much.
UPDATE readers SET position = :position
WHERE name = :name AND owner = :owner AND :position <= (SELECT max(position) FROM events);

-- name: resign
-- Let somebody else read.
UPDATE readers SET until = 0 WHERE name = :name AND owner = :owner;

-- name: overwrite_event
-- What is left of an erased event.
UPDATE events SET item = ?, data = ?, flags = ?, sum = ?, tokens = 0, excerpt = NULL
WHERE conversation = ? AND seq = ?;

-- name: blank_events
-- Empty events that are about to be removed.
UPDATE events SET item = NULL, data = NULL WHERE conversation = :key AND seq > :after AND seq < :before;

-- name: delete_events
-- Remove events.
DELETE FROM events WHERE conversation = :key AND seq > :after AND seq < :before;

-- name: delete_marks
-- Remove their marks.
DELETE FROM marks WHERE conversation = :key AND seq > :after AND seq < :before;

-- name: delete_counts
-- Remove their counts.
DELETE FROM counts WHERE conversation = :key AND seq > :after AND seq < :before;

-- name: tombstone
-- Whether a conversation was deleted, and where its tombstone is.
SELECT deleted, version FROM conversations WHERE key = :key;

-- name: delete_keys
-- Remove a conversation's keys.
DELETE FROM keys WHERE conversation = :key;

-- name: referred
-- The bodies that events refer to.
SELECT digest FROM refs WHERE conversation = :key AND seq > :after AND seq < :before;

-- name: delete_refs
-- Remove their references.
DELETE FROM refs WHERE conversation = :key AND seq > :after AND seq < :before;

-- name: blank_body
-- Empty a body that nothing refers to.
UPDATE bodies SET body = x'' WHERE digest = :digest AND NOT EXISTS (SELECT 1 FROM refs WHERE refs.digest = :digest);

-- name: delete_body
-- Remove a body that nothing refers to.
DELETE FROM bodies WHERE digest = :digest AND NOT EXISTS (SELECT 1 FROM refs WHERE refs.digest = :digest);

-- name: unused_bodies
-- Bodies that nothing has referred to since a time.
SELECT digest FROM refs WHERE conversation = 0 AND seq <= :time;

-- name: forget_unused
-- Remove what said so.
DELETE FROM refs WHERE conversation = 0 AND seq <= :time;

-- name: content_of_events
-- The content of an event, by its position, and how long it is.
SELECT item, coalesce(length(item), 0) FROM events WHERE position = :number;

-- name: fill_events
-- Fill up the page of an event.
UPDATE events SET item = zeroblob(:size) WHERE position = :number;

-- name: restore_events
-- Give an event its content back.
UPDATE events SET item = :content WHERE position = :number;

-- name: content_of_bodies
-- A body, by its row, and how long it is.
SELECT body, length(body) FROM bodies WHERE rowid = :number;

-- name: fill_bodies
-- Fill up the page of a body.
UPDATE bodies SET body = zeroblob(:size) WHERE rowid = :number;

-- name: restore_bodies
-- Give the body its content back.
UPDATE bodies SET body = :content WHERE rowid = :number;
