-- The schema of a turnlog database in PostgreSQL, version 1. Times are integer microseconds since 1970, UTC; texts are
-- compared by code point, and a backslash or NUL in them is written \\ or \0 where callers choose them.
--
-- Every key but that of a body begins with the conversation, so that the tables can be distributed by it.

-- Whose tables these are, and which version of them.
CREATE TABLE {schema}.schema_version (
    application text COLLATE "C" NOT NULL PRIMARY KEY CHECK (application = 'turnlog'),
    version integer NOT NULL,
    -- What is added to a transaction's number to give its events their place in the feed: it grows when the tables
    -- are moved to another server, whose transactions count from the beginning again.
    base bigint NOT NULL
);

-- One row a conversation: its head, kept in the transaction of every append.
CREATE TABLE {schema}.conversations (
    id text COLLATE "C" NOT NULL PRIMARY KEY,
    version bigint NOT NULL,
    created bigint NOT NULL,
    updated bigint NOT NULL,        -- when the last item came
    last_item bigint NOT NULL,      -- its seq, 0 when there is none
    items bigint NOT NULL,
    generation bigint NOT NULL,     -- of the lease; grows with every holder
    place bigint NOT NULL,          -- of its last event in the feed
    turn bigint,                    -- the turn that the lease is held for
    expires double precision,       -- seconds since 1970 by this server's clock
    fork_at bigint,                 -- of a fork: the seq up to which it shares its parent's events
    deleted boolean NOT NULL,       -- whether only its tombstone is left
    owner text COLLATE "C",         -- of the turn's lease; NULL: nobody holds it
    parent text COLLATE "C",        -- of a fork
    metadata bytea NOT NULL         -- JSON
) WITH (fillfactor = 80);
CREATE INDEX conversations_updated ON {schema}.conversations (updated, id) WHERE NOT deleted;
CREATE INDEX conversations_created ON {schema}.conversations (created, id) WHERE NOT deleted;

-- Whose events a fork shares, at any depth, and which: one row an ancestor. Never changed, so none is read twice.
CREATE TABLE {schema}.spans (
    conversation text COLLATE "C" NOT NULL,
    owner text COLLATE "C" NOT NULL,
    first bigint NOT NULL,
    last bigint NOT NULL,
    PRIMARY KEY (conversation, first)
);
CREATE INDEX spans_owner ON {schema}.spans (owner, conversation);

-- What conversations are looked up by: a digest of each name and value at the top level of their metadata.
CREATE TABLE {schema}.fields (
    conversation text COLLATE "C" NOT NULL,
    field bytea NOT NULL,
    PRIMARY KEY (conversation, field)
);
CREATE INDEX fields_field ON {schema}.fields (field, conversation);

-- The log.
CREATE TABLE {schema}.events (
    seq bigint NOT NULL,
    place bigint NOT NULL,          -- its transaction's number, at least that of the conversation's event before it
    number bigint GENERATED ALWAYS AS IDENTITY,     -- the order within a place
    time bigint NOT NULL,
    schema bigint NOT NULL,
    response bigint,                -- the seq that names the response it belongs to
    tokens bigint NOT NULL,
    excerpt bigint,                 -- tokens of the excerpt that may stand for it; NULL: there is none
    flags bigint NOT NULL,
    sum bigint NOT NULL,            -- checksum of item and data as they were written
    items bigint NOT NULL,          -- the conversation's items up to here, for forks
    conversation text COLLATE "C" NOT NULL,
    kind text COLLATE "C",          -- NULL: item.appended, the kind of most rows
    shape text COLLATE "C",         -- of an item: its kind, a message's role
    link text COLLATE "C",          -- of a call or output: what pairs the two
    item bytea,                     -- the item's canonical JSON; no jsonb, which keeps neither numbers nor \u0000
    data bytea,                     -- canonical JSON of everything else the event says; NULL: nothing
    -- What makes a version a version: two writers cannot both have it.
    PRIMARY KEY (conversation, seq)
);
-- The end of a link tells it from the others, and any length of it can be indexed.
CREATE INDEX events_link ON {schema}.events (conversation, right(link, 8), seq) WHERE link IS NOT NULL;
CREATE INDEX events_feed ON {schema}.events (place, number);

-- Where the few events are that must be found without reading the others.
CREATE TABLE {schema}.marks (
    conversation text COLLATE "C" NOT NULL,
    mark text COLLATE "C" NOT NULL,
    seq bigint NOT NULL,
    PRIMARY KEY (conversation, mark, seq)
);

-- Idempotency keys, and the append that each stands for.
CREATE TABLE {schema}.keys (
    conversation text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    digest text COLLATE "C" NOT NULL,
    first bigint NOT NULL,
    last bigint NOT NULL,
    PRIMARY KEY (conversation, name)
);

-- Settings of requests, and large content, once by SHA-256.
CREATE TABLE {schema}.bodies (
    digest bytea NOT NULL PRIMARY KEY,
    unused double precision,        -- since when nothing has referred to it, as far as anybody has noticed
    body bytea NOT NULL
);

-- The bodies that an event refers to; under seq 0 those of the conversation.
CREATE TABLE {schema}.refs (
    conversation text COLLATE "C" NOT NULL,
    seq bigint NOT NULL,
    digest bytea NOT NULL,
    PRIMARY KEY (conversation, seq, digest)
);
CREATE INDEX refs_digest ON {schema}.refs (digest);

-- Named readers of the feed: where each stands, and who reads under the name.
CREATE TABLE {schema}.readers (
    name text COLLATE "C" NOT NULL PRIMARY KEY,
    owner text COLLATE "C" NOT NULL,
    expires double precision NOT NULL,
    position text COLLATE "C"
);

INSERT INTO {schema}.schema_version (application, version, base) VALUES ('turnlog', {version}, 0);
