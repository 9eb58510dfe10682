-- The schema of a turnlog database, version 2. Times are integer microseconds since 1970, UTC.

-- One row a conversation: its head, kept in the transaction of every append. It has no content, so that a page may be
-- split or merged without leaving a copy of any.
CREATE TABLE conversations (
    key INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    version INTEGER NOT NULL,
    created INTEGER NOT NULL,
    updated INTEGER NOT NULL,       -- when the last item came
    last_item INTEGER NOT NULL,     -- its seq, 0 when there is none
    items INTEGER NOT NULL,
    about INTEGER,                  -- metadata.key; NULL: it has no metadata
    generation INTEGER NOT NULL,    -- of the lease; grows with every holder
    owner TEXT,                     -- of the turn's lease; NULL: nobody holds it
    turn INTEGER,                   -- the turn that it is held for
    until REAL,                     -- seconds since 1970 by this machine's clock
    parent TEXT,                    -- of a fork: the conversation whose first events it shares, by id
    at INTEGER,                     -- and the seq up to which it does
    origin INTEGER,                 -- conversations.key of that one of its ancestors whose own the event at that seq is
    deleted INTEGER NOT NULL        -- 1: only the tombstone is left, and what forks share
);
CREATE INDEX conversations_updated ON conversations (updated, id) WHERE deleted = 0;
CREATE INDEX conversations_created ON conversations (created, id) WHERE deleted = 0;
CREATE INDEX conversations_origin ON conversations (origin) WHERE origin IS NOT NULL;

-- Metadata as it is now. Rows are emptied, never removed, and never grow, for the same reason.
CREATE TABLE metadata (
    key INTEGER PRIMARY KEY,
    json BLOB NOT NULL
);

-- What conversations are found by: two numbers for each plain value at the top level of their metadata.
CREATE TABLE facets (
    facet INTEGER NOT NULL,
    time INTEGER NOT NULL,          -- when it was created; with an odd number, when its last item came
    id TEXT NOT NULL,
    PRIMARY KEY (facet, time, id)
) WITHOUT ROWID;

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

-- How many items there are up to every 64th event of a conversation, and up to where a fork begins. Conversation 0 has
-- none: a row under it notes that an erasure has yet to sweep what it left.
CREATE TABLE counts (
    conversation INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    items INTEGER NOT NULL,
    last_item INTEGER NOT NULL,
    PRIMARY KEY (conversation, seq)
) WITHOUT ROWID;

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

-- Settings of requests and large content, once by content.
CREATE TABLE bodies (
    digest BLOB PRIMARY KEY,        -- SHA-256
    body BLOB NOT NULL
);

-- What refers to bodies: an event, or under seq 0 a conversation. What nothing refers to is under conversation 0, and
-- the seq says since when.
CREATE TABLE refs (
    conversation INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    digest BLOB NOT NULL,
    PRIMARY KEY (conversation, seq, digest)
) WITHOUT ROWID;
CREATE INDEX refs_digest ON refs (digest);

-- Named readers of the feed.
CREATE TABLE readers (
    name TEXT NOT NULL PRIMARY KEY,
    owner TEXT NOT NULL,            -- who reads under the name
    until REAL NOT NULL,            -- for how long nobody else may
    position INTEGER                -- events.position of the last event that was acknowledged
) WITHOUT ROWID;
