-- From schema 1 to 2: forks, deletion, metadata to be found by, references to bodies, readers of the feed.

-- A process of the release before, which may still run, looks for columns that are no longer there: all that it does with
-- conversations is refused from here on, before anything is written.
ALTER TABLE conversations RENAME TO conversations_1;
DROP INDEX conversations_updated;
DROP INDEX conversations_created;
CREATE TABLE conversations (
    key INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    version INTEGER NOT NULL,
    created INTEGER NOT NULL,
    updated INTEGER NOT NULL,
    last_item INTEGER NOT NULL,
    items INTEGER NOT NULL,
    about INTEGER,
    generation INTEGER NOT NULL,
    owner TEXT,
    turn INTEGER,
    until REAL,
    parent TEXT,
    at INTEGER,
    origin INTEGER,
    deleted INTEGER NOT NULL
);
CREATE INDEX conversations_updated ON conversations (updated, id) WHERE deleted = 0;
CREATE INDEX conversations_created ON conversations (created, id) WHERE deleted = 0;
CREATE INDEX conversations_origin ON conversations (origin) WHERE origin IS NOT NULL;
CREATE TABLE metadata (
    key INTEGER PRIMARY KEY,
    json BLOB NOT NULL
);
INSERT INTO metadata (key, json)
SELECT key, CAST(metadata AS BLOB) FROM conversations_1 WHERE CAST(metadata AS TEXT) <> '{}' ORDER BY key;
INSERT INTO conversations (key, id, version, created, updated, last_item, items, about, generation, owner, turn, until,
    deleted)
SELECT key, id, version, created, updated, last_item, items,
    CASE WHEN CAST(metadata AS TEXT) <> '{}' THEN key END, generation, owner, turn, expires, 0
FROM conversations_1 ORDER BY key;

CREATE TABLE facets (
    facet INTEGER NOT NULL,
    time INTEGER NOT NULL,
    id TEXT NOT NULL,
    PRIMARY KEY (facet, time, id)
) WITHOUT ROWID;
-- As `facet` in sqlite_facets.py has it: a name and a value as one text, and a number made of its first characters.
INSERT OR IGNORE INTO facets (facet, time, id)
SELECT (
        WITH RECURSIVE made (number, rest) AS (
            VALUES (7, substr(j.key || char(31) || CASE j.type
                WHEN 'text' THEN 't' || j.value
                WHEN 'true' THEN 'b1'
                WHEN 'false' THEN 'b0'
                WHEN 'null' THEN 'z'
                ELSE CASE typeof(j.value) WHEN 'integer' THEN 'n' || j.value ELSE printf('n%.10g', j.value) END
            END, 1, 500))
            UNION ALL
            SELECT (number * 1000003 + unicode(rest)) % 8796093022151, substr(rest, 2) FROM made WHERE rest <> ''
        )
        SELECT 2 * number FROM made WHERE rest = ''
    ), c.created, c.id
FROM conversations_1 AS c CROSS JOIN json_each(CAST(c.metadata AS TEXT)) AS j
WHERE j.type NOT IN ('object', 'array');
INSERT INTO facets (facet, time, id)
SELECT f.facet + 1, c.updated, c.id FROM facets AS f CROSS JOIN conversations AS c ON c.id = f.id;
DROP TABLE conversations_1;

CREATE TABLE counts (
    conversation INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    items INTEGER NOT NULL,
    last_item INTEGER NOT NULL,
    PRIMARY KEY (conversation, seq)
) WITHOUT ROWID;
INSERT INTO counts (conversation, seq, items, last_item)
SELECT conversation, seq, items, last_item
FROM (
    SELECT conversation, seq, count(*) FILTER (WHERE kind IS NULL) OVER path AS items,
        coalesce(max(CASE WHEN kind IS NULL THEN seq END) OVER path, 0) AS last_item
    FROM events INDEXED BY events_seq WINDOW path AS (PARTITION BY conversation ORDER BY seq)
)
WHERE seq % 64 = 0;

CREATE TABLE refs (
    conversation INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    digest BLOB NOT NULL,
    PRIMARY KEY (conversation, seq, digest)
) WITHOUT ROWID;
-- Until now bodies were the settings of requests alone.
INSERT INTO refs (conversation, seq, digest)
SELECT DISTINCT r.conversation, 0, b.digest
FROM bodies AS b CROSS JOIN (
    SELECT DISTINCT m.conversation, json_extract(CAST(e.data AS TEXT), '$.settings') AS digest
    FROM marks AS m CROSS JOIN events AS e ON e.conversation = m.conversation AND e.seq = m.seq
    WHERE m.mark IN ('request', 'aside')
) AS r ON r.digest = lower(hex(b.digest));
CREATE INDEX refs_digest ON refs (digest);
INSERT INTO refs (conversation, seq, digest)
SELECT 0, CAST(strftime('%s', 'now') AS INTEGER) * 1000000, digest FROM bodies
WHERE NOT EXISTS (SELECT 1 FROM refs WHERE refs.digest = bodies.digest);

CREATE TABLE readers (
    name TEXT NOT NULL PRIMARY KEY,
    owner TEXT NOT NULL,
    until REAL NOT NULL,
    position INTEGER
) WITHOUT ROWID;
