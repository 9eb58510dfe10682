-- Named statements: each begins at its name and is described by the line after it. {schema} is where the tables are.

-- name: settings
-- What holds for one writing transaction: how long it waits for locks, and whether its commit waits for the disk.
SELECT set_config('lock_timeout', %(patience)s, true), set_config('synchronous_commit', CASE
    WHEN %(durable)s = 'no' THEN 'off' WHEN current_setting('synchronous_commit') = 'off' THEN 'on'
    ELSE current_setting('synchronous_commit') END, true);

-- name: lock
-- The heads of conversations, locked in the order of their ids, so that no two transactions wait for each other.
SELECT id, version, created, updated, last_item, items, metadata, generation, owner, turn, expires, parent, fork_at,
    deleted, place
FROM {schema}.conversations WHERE id = ANY(%(ids)b) ORDER BY id FOR UPDATE;

-- name: moment
-- This server's clock, the place in the feed of what this transaction writes, the transaction's own number, and the
-- version of the tables.
SELECT extract(epoch FROM clock_timestamp())::double precision, base + pg_current_xact_id()::text::bigint,
    pg_current_xact_id()::text, version
FROM {schema}.schema_version;

-- name: version
-- The version of the tables.
SELECT version FROM {schema}.schema_version;

-- name: fate
-- What became of a transaction.
SELECT pg_xact_status(%(xid)s::text::xid8);

-- name: used_keys
-- What keys were used for.
SELECT k.conversation, k.name, k.digest, k.first, k.last
FROM unnest(%(conversations)b::text[], %(names)b::text[]) AS a (conversation, name)
JOIN {schema}.keys AS k ON k.conversation = a.conversation AND k.name = a.name;

-- name: linked_to
-- What conversations have under some links: of their own events, and of those that they share. Of each link the newest
-- 64 are looked at, which is `answers.LATEST`; of the empty one all, for its calls are answered in their order. What is
-- said aside does not count.
SELECT a.conversation, a.link, e.seq, e.shape, e.flags
FROM unnest(%(conversations)b::text[], %(links)b::text[]) AS a (conversation, link)
CROSS JOIN LATERAL (
    SELECT a.conversation, 1, 9223372036854775807
    UNION ALL
    SELECT s.owner, s.first, s.last FROM {schema}.spans AS s WHERE s.conversation = a.conversation
) AS p (owner, first, last)
CROSS JOIN LATERAL (
    SELECT seq, shape, flags FROM {schema}.events
    WHERE conversation = p.owner AND right(link, 8) = right(a.link, 8) AND link = a.link
        AND seq >= p.first AND seq <= p.last AND flags & 4 = 0
    ORDER BY seq DESC LIMIT CASE WHEN a.link <> '' THEN 64 END
) AS e;

-- name: held_bodies
-- Which bodies conversations refer to already.
SELECT r.conversation, r.digest
FROM unnest(%(conversations)b::text[], %(digests)b::bytea[]) AS a (conversation, digest)
JOIN {schema}.refs AS r ON r.conversation = a.conversation AND r.seq = 0 AND r.digest = a.digest;

-- name: trunk
-- How many items a fork begins with, and the seq of the last of them.
WITH parts AS MATERIALIZED (
    SELECT owner, first, least(last, %(at)s) AS last
    FROM {schema}.spans WHERE conversation = %(parent)s AND first <= %(at)s
    UNION ALL
    SELECT id, coalesce(fork_at, 0) + 1, least(version, %(at)s)
    FROM {schema}.conversations WHERE id = %(parent)s AND coalesce(fork_at, 0) < %(at)s
)
SELECT
    (SELECT e.items FROM parts AS p JOIN {schema}.events AS e ON e.conversation = p.owner AND e.seq = p.last
     WHERE p.last = %(at)s),
    (SELECT max(i.seq) FROM parts AS p CROSS JOIN LATERAL (
        SELECT e.seq FROM {schema}.events AS e
        WHERE e.conversation = p.owner AND e.seq >= p.first AND e.seq <= p.last AND e.kind IS NULL
            AND e.flags & 4 = 0  -- asides are not counted
        ORDER BY e.seq DESC LIMIT 1) AS i);

-- name: insert_heads
-- New conversations.
INSERT INTO {schema}.conversations (id, version, created, updated, last_item, items, metadata, generation, owner, turn,
    expires, parent, fork_at, deleted, place)
SELECT * FROM unnest(%(id)b::text[], %(version)b::bigint[], %(created)b::bigint[], %(updated)b::bigint[],
    %(last_item)b::bigint[], %(items)b::bigint[], %(metadata)b::bytea[], %(generation)b::bigint[], %(owner)b::text[],
    %(turn)b::bigint[], %(expires)b::double precision[], %(parent)b::text[], %(fork_at)b::bigint[],
    %(deleted)b::boolean[], %(place)b::bigint[]);

-- name: update_heads
-- What appends leave behind.
UPDATE {schema}.conversations AS c
SET version = n.version, created = n.created, updated = n.updated, last_item = n.last_item, items = n.items,
    metadata = n.metadata, generation = n.generation, owner = n.owner, turn = n.turn, expires = n.expires,
    deleted = n.deleted, place = n.place
FROM unnest(%(id)b::text[], %(version)b::bigint[], %(created)b::bigint[], %(updated)b::bigint[],
    %(last_item)b::bigint[], %(items)b::bigint[], %(metadata)b::bytea[], %(generation)b::bigint[], %(owner)b::text[],
    %(turn)b::bigint[], %(expires)b::double precision[], %(parent)b::text[], %(fork_at)b::bigint[],
    %(deleted)b::boolean[], %(place)b::bigint[])
    AS n (id, version, created, updated, last_item, items, metadata, generation, owner, turn, expires, parent, fork_at,
    deleted, place)
WHERE c.id = n.id;

-- name: insert_events
-- Events, numbered in this order.
INSERT INTO {schema}.events (conversation, seq, place, time, kind, schema, response, shape, link, tokens, excerpt,
    flags, items, sum, item, data)
SELECT * FROM unnest(%(conversation)b::text[], %(seq)b::bigint[], %(place)b::bigint[], %(time)b::bigint[],
    %(kind)b::text[], %(schema)b::bigint[], %(response)b::bigint[], %(shape)b::text[], %(link)b::text[],
    %(tokens)b::bigint[], %(excerpt)b::bigint[], %(flags)b::bigint[], %(items)b::bigint[], %(sum)b::bigint[],
    %(item)b::bytea[], %(data)b::bytea[]);

-- name: insert_marks
-- Marks.
INSERT INTO {schema}.marks (conversation, mark, seq)
SELECT * FROM unnest(%(conversation)b::text[], %(mark)b::text[], %(seq)b::bigint[]);

-- name: insert_keys
-- Keys.
INSERT INTO {schema}.keys (conversation, name, digest, first, last)
SELECT * FROM unnest(%(conversation)b::text[], %(name)b::text[], %(digest)b::text[], %(first)b::bigint[],
    %(last)b::bigint[]);

-- name: insert_refs
-- References to bodies.
INSERT INTO {schema}.refs (conversation, seq, digest)
SELECT * FROM unnest(%(conversation)b::text[], %(seq)b::bigint[], %(digest)b::bytea[]) ON CONFLICT DO NOTHING;

-- name: insert_fields
-- What conversations are found by.
INSERT INTO {schema}.fields (conversation, field)
SELECT * FROM unnest(%(conversation)b::text[], %(field)b::bytea[]) ON CONFLICT DO NOTHING;

-- name: delete_fields
-- What conversations are not found by any more.
DELETE FROM {schema}.fields AS f USING unnest(%(conversation)b::text[], %(field)b::bytea[]) AS n (conversation, field)
WHERE f.conversation = n.conversation AND f.field = n.field;

-- name: insert_bodies
-- Bodies, unless they are there; in the order of their digests, so that no two transactions wait for each other.
INSERT INTO {schema}.bodies (digest, body)
SELECT * FROM unnest(%(digest)b::bytea[], %(body)b::bytea[]) ON CONFLICT (digest) DO NOTHING;

-- name: hold_bodies
-- Keep bodies from being removed until this transaction's references to them can be seen.
SELECT digest FROM {schema}.bodies WHERE digest = ANY(%(digests)b) ORDER BY digest FOR KEY SHARE;

-- name: insert_spans
-- What a fork shares: what its parent shares, and the parent's own events.
INSERT INTO {schema}.spans (conversation, owner, first, last)
SELECT %(id)s, owner, first, least(last, %(at)s)
FROM {schema}.spans WHERE conversation = %(parent)s AND first <= %(at)s
UNION ALL
SELECT %(id)s, id, coalesce(fork_at, 0) + 1, %(at)s
FROM {schema}.conversations WHERE id = %(parent)s AND coalesce(fork_at, 0) < %(at)s;

-- name: renew
-- Let a lease run on, if it is still the same one.
UPDATE {schema}.conversations SET expires = extract(epoch FROM clock_timestamp()) + %(seconds)s
WHERE id = %(id)s AND generation = %(generation)s AND owner IS NOT NULL
    AND EXISTS (SELECT FROM {schema}.schema_version WHERE version = %(version)s);

-- name: erase_events
-- Overwrite events.
UPDATE {schema}.events AS e
SET item = n.item, data = n.data, flags = n.flags, sum = n.sum, tokens = 0, excerpt = NULL
FROM unnest(%(conversation)b::text[], %(seq)b::bigint[], %(item)b::bytea[], %(data)b::bytea[], %(flags)b::bigint[],
    %(sum)b::bigint[]) AS n (conversation, seq, item, data, flags, sum)
WHERE e.conversation = n.conversation AND e.seq = n.seq;

-- name: let_go
-- The references of some events; what they referred to comes back.
DELETE FROM {schema}.refs AS r USING unnest(%(conversation)b::text[], %(seq)b::bigint[]) AS n (conversation, seq)
WHERE r.conversation = n.conversation AND r.seq = n.seq RETURNING r.digest;

-- name: lock_bodies
-- Bodies that may go, locked in order: whoever holds one is waited for.
SELECT digest FROM {schema}.bodies WHERE digest = ANY(%(digests)b) ORDER BY digest FOR UPDATE;

-- name: drop_bodies
-- Those that nothing refers to go.
DELETE FROM {schema}.bodies AS b WHERE b.digest = ANY(%(digests)b)
    AND NOT EXISTS (SELECT FROM {schema}.refs AS r WHERE r.digest = b.digest);

-- name: delete_keys
-- All of a conversation's keys.
DELETE FROM {schema}.keys WHERE conversation = %(id)s;

-- name: delete_spans
-- What a fork shares.
DELETE FROM {schema}.spans WHERE conversation = %(id)s;

-- name: shared
-- Up to which of its own events a conversation is shared, by whom.
SELECT conversation, last FROM {schema}.spans WHERE owner = %(id)s ORDER BY conversation;

-- name: delete_events
-- Events between two seqs.
DELETE FROM {schema}.events WHERE conversation = %(id)s AND seq > %(after)s AND seq < %(before)s;

-- name: delete_marks
-- Marks between two seqs.
DELETE FROM {schema}.marks WHERE conversation = %(id)s AND seq > %(after)s AND seq < %(before)s;

-- name: delete_refs
-- References of events between two seqs, and of the conversation if nobody shares it; what they referred to comes back.
DELETE FROM {schema}.refs
WHERE conversation = %(id)s AND ((seq > %(after)s AND seq < %(before)s) OR (seq = 0 AND %(after)s = 0))
RETURNING digest;

-- name: note_unused
-- Since when nothing refers to a body, as far as can be seen now.
UPDATE {schema}.bodies AS b SET unused = extract(epoch FROM clock_timestamp())
WHERE unused IS NULL AND NOT EXISTS (SELECT FROM {schema}.refs AS r WHERE r.digest = b.digest);

-- name: note_used
-- Something refers to them again.
UPDATE {schema}.bodies AS b SET unused = NULL
WHERE unused IS NOT NULL AND EXISTS (SELECT FROM {schema}.refs AS r WHERE r.digest = b.digest);

-- name: unused_bodies
-- Bodies that nothing has referred to for some seconds, locked in order.
SELECT digest FROM {schema}.bodies WHERE unused <= extract(epoch FROM clock_timestamp()) - %(seconds)s
ORDER BY digest FOR UPDATE;

-- name: head
-- A conversation's row; of its lease, what remains.
SELECT id, version, created, updated, last_item, items, metadata, generation, owner, turn,
    expires - extract(epoch FROM clock_timestamp())::double precision, parent, fork_at, deleted
FROM {schema}.conversations WHERE id = %(id)s;

-- name: heads_updated_falling
-- Conversations by the time of their last item, newest first, behind a place.
SELECT id, version, created, updated, last_item, items, metadata, generation, owner, turn,
    expires - extract(epoch FROM clock_timestamp())::double precision, parent, fork_at, deleted
FROM {schema}.conversations WHERE NOT deleted AND (updated, id) < (%(time)s, %(id)s)
ORDER BY updated DESC, id DESC LIMIT %(limit)s;

-- name: heads_created_falling
-- Conversations by birth, youngest first, behind a place.
SELECT id, version, created, updated, last_item, items, metadata, generation, owner, turn,
    expires - extract(epoch FROM clock_timestamp())::double precision, parent, fork_at, deleted
FROM {schema}.conversations WHERE NOT deleted AND (created, id) < (%(time)s, %(id)s)
ORDER BY created DESC, id DESC LIMIT %(limit)s;

-- name: heads_created_rising
-- Conversations by birth, oldest first, behind a place.
SELECT id, version, created, updated, last_item, items, metadata, generation, owner, turn,
    expires - extract(epoch FROM clock_timestamp())::double precision, parent, fork_at, deleted
FROM {schema}.conversations WHERE NOT deleted AND (created, id) > (%(time)s, %(id)s)
ORDER BY created, id LIMIT %(limit)s;

-- name: having
-- What stands for {fields} in the statements below, once for each value: which to begin with is the planner's choice.
JOIN {schema}.fields AS f# ON f#.conversation = c.id AND f#.field = %(f#)b

-- name: found_updated_falling
-- The same of those whose metadata has some values.
SELECT c.id, version, created, updated, last_item, items, metadata, generation, owner, turn,
    expires - extract(epoch FROM clock_timestamp())::double precision, parent, fork_at, deleted
FROM {schema}.conversations AS c {fields} WHERE NOT deleted AND (updated, c.id) < (%(time)s, %(id)s)
ORDER BY updated DESC, c.id DESC LIMIT %(limit)s;

-- name: found_created_falling
-- The same by birth, youngest first.
SELECT c.id, version, created, updated, last_item, items, metadata, generation, owner, turn,
    expires - extract(epoch FROM clock_timestamp())::double precision, parent, fork_at, deleted
FROM {schema}.conversations AS c {fields} WHERE NOT deleted AND (created, c.id) < (%(time)s, %(id)s)
ORDER BY created DESC, c.id DESC LIMIT %(limit)s;

-- name: found_created_rising
-- The same by birth, oldest first.
SELECT c.id, version, created, updated, last_item, items, metadata, generation, owner, turn,
    expires - extract(epoch FROM clock_timestamp())::double precision, parent, fork_at, deleted
FROM {schema}.conversations AS c {fields} WHERE NOT deleted AND (created, c.id) > (%(time)s, %(id)s)
ORDER BY created, c.id LIMIT %(limit)s;

-- name: forks
-- Conversations that share events of one's own.
SELECT c.id, version, created, updated, last_item, items, metadata, generation, c.owner, turn,
    expires - extract(epoch FROM clock_timestamp())::double precision, parent, fork_at, deleted
FROM {schema}.spans AS s JOIN {schema}.conversations AS c ON c.id = s.conversation
WHERE s.owner = %(id)s ORDER BY s.conversation;

-- name: spans
-- Whose events conversations share.
SELECT conversation, owner, first, last FROM {schema}.spans WHERE conversation = ANY(%(ids)b)
ORDER BY conversation, first;

-- name: key
-- What a key was used for.
SELECT digest, first, last FROM {schema}.keys WHERE conversation = %(id)s AND name = %(name)s;

-- name: keys
-- What keys were used for, behind a name.
SELECT name, digest, first, last FROM {schema}.keys WHERE conversation = %(id)s AND name > %(after)s
ORDER BY name LIMIT %(limit)s;

-- name: body
-- A body by its digest.
SELECT body FROM {schema}.bodies WHERE digest = %(digest)b;

-- name: rising
-- A conversation's events, oldest first.
SELECT seq, place, number, time, kind, schema, response, shape, link, tokens, excerpt, flags, item, data, sum
FROM {schema}.events WHERE conversation = %(owner)s AND seq >= %(first)s AND seq <= %(last)s
ORDER BY seq LIMIT %(limit)s;

-- name: falling
-- A conversation's events, newest first.
SELECT seq, place, number, time, kind, schema, response, shape, link, tokens, excerpt, flags, item, data, sum
FROM {schema}.events WHERE conversation = %(owner)s AND seq >= %(first)s AND seq <= %(last)s
ORDER BY seq DESC LIMIT %(limit)s;

-- name: linked_rising
-- Calls and outputs of one link, oldest first.
SELECT seq, place, number, time, kind, schema, response, shape, link, tokens, excerpt, flags, item, data, sum
FROM {schema}.events WHERE conversation = %(owner)s AND right(link, 8) = right(%(word)s, 8) AND link = %(word)s
    AND seq >= %(first)s AND seq <= %(last)s
ORDER BY seq LIMIT %(limit)s;

-- name: linked_falling
-- Calls and outputs of one link, newest first.
SELECT seq, place, number, time, kind, schema, response, shape, link, tokens, excerpt, flags, item, data, sum
FROM {schema}.events WHERE conversation = %(owner)s AND right(link, 8) = right(%(word)s, 8) AND link = %(word)s
    AND seq >= %(first)s AND seq <= %(last)s
ORDER BY seq DESC LIMIT %(limit)s;

-- name: marked_rising
-- Events with a mark, oldest first.
SELECT e.seq, place, number, time, kind, schema, response, shape, link, tokens, excerpt, flags, item, data, sum
FROM {schema}.marks AS m JOIN {schema}.events AS e ON e.conversation = m.conversation AND e.seq = m.seq
WHERE m.conversation = %(owner)s AND m.mark = %(word)s AND m.seq >= %(first)s AND m.seq <= %(last)s
ORDER BY m.seq LIMIT %(limit)s;

-- name: marked_falling
-- Events with a mark, newest first.
SELECT e.seq, place, number, time, kind, schema, response, shape, link, tokens, excerpt, flags, item, data, sum
FROM {schema}.marks AS m JOIN {schema}.events AS e ON e.conversation = m.conversation AND e.seq = m.seq
WHERE m.conversation = %(owner)s AND m.mark = %(word)s AND m.seq >= %(first)s AND m.seq <= %(last)s
ORDER BY m.seq DESC LIMIT %(limit)s;

-- name: feed
-- The store's events behind a place, up to the oldest transaction that still runs: it may yet write earlier ones.
SELECT e.seq, e.place, number, time, kind, schema, response, shape, link, tokens, excerpt, flags, item, data, sum,
    e.conversation, c.metadata
FROM {schema}.events AS e JOIN {schema}.conversations AS c
    ON c.id = e.conversation AND (NOT c.deleted OR e.seq = c.version)
WHERE (e.place, e.number) > (%(place)s, %(number)s) AND e.place < (
    SELECT base + pg_snapshot_xmin(pg_current_snapshot())::text::bigint FROM {schema}.schema_version)
ORDER BY e.place, e.number LIMIT %(limit)s;

-- name: feed_end
-- The place of the feed's last event.
SELECT e.place, number
FROM {schema}.events AS e JOIN {schema}.conversations AS c
    ON c.id = e.conversation AND (NOT c.deleted OR e.seq = c.version)
WHERE e.place < (
    SELECT base + pg_snapshot_xmin(pg_current_snapshot())::text::bigint FROM {schema}.schema_version)
ORDER BY e.place DESC, e.number DESC LIMIT 1;

-- name: stand
-- Read under a name, unless somebody else does.
INSERT INTO {schema}.readers AS r (name, owner, expires)
SELECT %(name)s::text, %(owner)s::text, extract(epoch FROM clock_timestamp()) + %(seconds)s
FROM {schema}.schema_version WHERE version = %(version)s
ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, expires = excluded.expires
WHERE r.owner = excluded.owner OR r.expires <= extract(epoch FROM clock_timestamp())
RETURNING position;

-- name: beyond
-- Whether a place is behind the end: a tombstone stays of what was removed, so no place that was there ever is.
SELECT (%(place)s, %(number)s) <= (
    SELECT e.place, e.number FROM {schema}.events AS e ORDER BY e.place DESC, e.number DESC LIMIT 1) IS NOT TRUE;

-- name: ack
-- A reader's place, unless it is behind the end.
UPDATE {schema}.readers SET position = %(position)s WHERE name = %(name)s AND owner = %(owner)s
    AND EXISTS (SELECT FROM {schema}.schema_version WHERE version = %(version)s)
    AND (%(place)s, %(number)s) <= (
        SELECT e.place, e.number FROM {schema}.events AS e ORDER BY e.place DESC, e.number DESC LIMIT 1);

-- name: resign
-- Let somebody else read under a name.
UPDATE {schema}.readers SET expires = 0 WHERE name = %(name)s AND owner = %(owner)s
    AND EXISTS (SELECT FROM {schema}.schema_version WHERE version = %(version)s);

-- name: vacuum
-- Take rows that nobody can see any more out of their pages.
VACUUM (TRUNCATE false, SKIP_LOCKED true) {schema}.events, {schema}.marks, {schema}.refs, {schema}.bodies,
    {schema}.keys, {schema}.fields, {schema}.conversations;

-- name: hint
-- Tell whoever listens that something was appended.
SELECT set_config('synchronous_commit', 'off', true), pg_notify(%(channel)s, '');
