-- The schema of a turnlog database, version 1. Times are integer microseconds since 1970, UTC.

-- One row a conversation: its head, kept in the transaction of every append.
CREATE TABLE conversations (
    key INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    version INTEGER NOT NULL,
    created INTEGER NOT NULL,
    updated INTEGER NOT NULL,       -- when the last item came
    last_item INTEGER NOT NULL,     -- its seq, 0 when there is none
    items INTEGER NOT NULL,
    metadata BLOB NOT NULL,         -- JSON
    generation INTEGER NOT NULL,    -- of the lease; grows with every holder
    owner TEXT,                     -- of the turn's lease; NULL: nobody holds it
    turn INTEGER,                   -- the turn that it is held for
    expires REAL                    -- seconds since 1970 by this machine's clock
);
CREATE INDEX conversations_updated ON conversations (updated, id);
CREATE INDEX conversations_created ON conversations (created, id);

-- The log. A rowid table: rows of this size would overflow the pages of a WITHOUT ROWID one. AUTOINCREMENT, because
-- followers would skip an event that reused the position of a vanished one.
CREATE TABLE events (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    conversation INTEGER NOT NULL,  -- conversations.key
    seq INTEGER NOT NULL,
    time INTEGER NOT NULL,
    kind TEXT,                      -- NULL: item.appended, the kind of most rows
    schema INTEGER NOT NULL,
    response INTEGER,               -- the seq that names the response it belongs to
    shape TEXT,                     -- of an item: its kind, a message's role
    link TEXT,                      -- of a call or output: what pairs the two
    tokens INTEGER NOT NULL,
    excerpt INTEGER,                -- tokens of the excerpt that may stand for it; NULL: there is none
    flags INTEGER NOT NULL,
    item BLOB,                      -- the item's canonical JSON
    data BLOB,                      -- canonical JSON of everything else the event says; NULL: nothing
    sum INTEGER NOT NULL            -- checksum of item and data as they were written
);
-- What makes a version a version: two writers cannot both have it.
CREATE UNIQUE INDEX events_seq ON events (conversation, seq);
-- The end of a link tells it from the others, and takes a third of the room.
CREATE INDEX events_link ON events (conversation, substr(link, -8), seq) WHERE link IS NOT NULL;

-- Where the few events are that must be found without reading the others.
CREATE TABLE marks (
    conversation INTEGER NOT NULL,
    mark TEXT NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (conversation, mark, seq)
) WITHOUT ROWID;

-- Idempotency keys, and the append that each stands for.
CREATE TABLE keys (
    conversation INTEGER NOT NULL,
    name TEXT NOT NULL,
    digest TEXT NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    PRIMARY KEY (conversation, name)
) WITHOUT ROWID;

-- Settings of requests, once by content.
CREATE TABLE bodies (
    digest BLOB PRIMARY KEY,        -- SHA-256
    body BLOB NOT NULL
);
