-- Memories, their index, sessions and results.
--
-- Every time is microseconds since 1970-01-01T00:00:00Z. A row's `audience` says who may read it at most and is what
-- every read is narrowed by (also inside the full-text index):
--   p… hash of the project            rows of a project
--   u… hash of the principal          rows of that principal's project `personal`
--   s… hash of the principal          rows with visibility `shared`
-- Within an audience, visibilities `agent` and `session` are walls.

-- "TMWS": tells our files from others. The version lets an older binary refuse a newer file.
PRAGMA application_id = 1414354771;
PRAGMA user_version = 1;

-- Single values of the whole store: `state_key`.
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- Memory writes per audience; bumped in the transaction of the write.
CREATE TABLE generation (
    audience TEXT PRIMARY KEY,
    value    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE memory (
    -- Order in which the store took them; never reused, so that pages of an export stay true.
    seq           INTEGER PRIMARY KEY AUTOINCREMENT,
    -- Where an id is unique: p… or u…, also for shared rows.
    realm         TEXT NOT NULL,
    id            TEXT NOT NULL,
    audience      TEXT NOT NULL,
    project       TEXT NOT NULL,
    visibility    TEXT NOT NULL CHECK (visibility IN ('session', 'agent', 'project', 'shared')),
    principal     TEXT NOT NULL,
    agent         TEXT NOT NULL,
    session       TEXT,
    importance    REAL NOT NULL CHECK (importance BETWEEN 0.0 AND 1.0),
    kind          TEXT NOT NULL,
    trust         TEXT NOT NULL CHECK (trust IN ('user', 'agent', 'external')),
    supersedes    TEXT,
    superseded_by TEXT,
    created       INTEGER NOT NULL,
    updated       INTEGER NOT NULL,
    expires       INTEGER,
    -- SHA-256 of the content with its white space folded.
    content_hash  BLOB NOT NULL,
    -- JSON array, sorted; `memory_tag` has the same for filters.
    tags          TEXT NOT NULL,
    -- What is long comes last: filters need not read past it.
    content       TEXT NOT NULL,
    -- Parts of identifiers and pairs of letters of scripts without spaces, for the index only.
    words         TEXT NOT NULL,
    UNIQUE (realm, id)
) STRICT;
CREATE INDEX memory_by_id ON memory (id);
CREATE INDEX memory_by_audience ON memory (audience, seq);
CREATE INDEX memory_by_hash ON memory (content_hash);
CREATE INDEX memory_by_expiry ON memory (expires) WHERE expires IS NOT NULL;

CREATE TABLE memory_tag (
    seq INTEGER NOT NULL REFERENCES memory (seq) ON DELETE CASCADE,
    tag TEXT NOT NULL,
    PRIMARY KEY (seq, tag)
) STRICT, WITHOUT ROWID;
CREATE INDEX memory_tag_by_tag ON memory_tag (tag, seq);

-- What was forgotten: never its content.
CREATE TABLE tombstone (
    seq          INTEGER PRIMARY KEY,
    realm        TEXT NOT NULL,
    id           TEXT NOT NULL,
    audience     TEXT NOT NULL,
    visibility   TEXT NOT NULL,
    principal    TEXT NOT NULL,
    agent        TEXT NOT NULL,
    session      TEXT,
    forgotten    INTEGER NOT NULL,
    forgotten_by TEXT NOT NULL,
    UNIQUE (realm, id)
) STRICT;

-- The index keeps no text of its own. Words are found in every grammatical form of English, and without diacritics. `secure-delete` takes the words of a deleted row out of it at once.
CREATE VIRTUAL TABLE memory_fts USING fts5 (
    content, tags, words, audience,
    content = 'memory', content_rowid = 'seq',
    tokenize = 'porter unicode61 remove_diacritics 2',
    prefix = '3'
);
INSERT INTO memory_fts (memory_fts, rank) VALUES ('secure-delete', 1);

CREATE TRIGGER memory_inserted AFTER INSERT ON memory BEGIN
    INSERT INTO memory_fts (rowid, content, tags, words, audience)
    VALUES (new.seq, new.content, new.tags, new.words, new.audience);
END;
CREATE TRIGGER memory_deleted AFTER DELETE ON memory BEGIN
    INSERT INTO memory_fts (memory_fts, rowid, content, tags, words, audience)
    VALUES ('delete', old.seq, old.content, old.tags, old.words, old.audience);
END;
CREATE TRIGGER memory_tags_updated AFTER UPDATE OF tags ON memory BEGIN
    INSERT INTO memory_fts (memory_fts, rowid, content, tags, words, audience)
    VALUES ('delete', old.seq, old.content, old.tags, old.words, old.audience);
    INSERT INTO memory_fts (rowid, content, tags, words, audience)
    VALUES (new.seq, new.content, new.tags, new.words, new.audience);
END;

-- Sessions: the handle itself is never stored, only its SHA-256.
CREATE TABLE session (
    handle_hash BLOB PRIMARY KEY,
    realm       TEXT NOT NULL,
    principal   TEXT NOT NULL,
    opened      INTEGER NOT NULL,
    touched     INTEGER NOT NULL,
    -- JSON object.
    scratch     TEXT NOT NULL
) STRICT;
CREATE INDEX session_by_use ON session (realm, touched);

-- Results behind handles, immutable.
CREATE TABLE result (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    handle_hash BLOB NOT NULL UNIQUE,
    realm       TEXT NOT NULL,
    principal   TEXT NOT NULL,
    expires     INTEGER NOT NULL,
    pattern     TEXT NOT NULL,
    -- JSON.
    value       TEXT NOT NULL
) STRICT;
CREATE INDEX result_by_age ON result (realm, seq);
