-- Vectors of memories, the models that made them, and when memories were last recalled.

PRAGMA user_version = 3;

-- Vectors of one model only are ever compared.
CREATE TABLE model (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    name      TEXT NOT NULL,
    -- Numbers of a vector.
    dimension INTEGER NOT NULL CHECK (dimension > 0),
    -- SHA-256 of what the model is made of, hexadecimal.
    hash      TEXT NOT NULL,
    -- When a process last used it, to about an hour.
    used      INTEGER NOT NULL,
    UNIQUE (name, dimension, hash)
) STRICT;

CREATE TABLE vector (
    -- Order in which vectors were stored; never reused, so that whoever knows those up to one asks for those after it.
    change INTEGER PRIMARY KEY AUTOINCREMENT,
    -- Erased with its memory.
    seq    INTEGER NOT NULL REFERENCES memory (seq) ON DELETE CASCADE,
    model  INTEGER NOT NULL,
    -- `small` times this is about `exact`.
    scale  REAL NOT NULL,
    -- One signed byte a number.
    small  BLOB NOT NULL,
    -- Four bytes a number, IEEE 754, little-endian.
    exact  BLOB NOT NULL,
    UNIQUE (seq, model)
) STRICT;

-- Whether a session has memories of its own.
CREATE INDEX memory_by_session ON memory (audience, session, principal) WHERE visibility = 'session';

-- Not in `memory`: its rows are large, and this changes with every search.
CREATE TABLE recall (
    seq INTEGER PRIMARY KEY REFERENCES memory (seq) ON DELETE CASCADE,
    at  INTEGER NOT NULL
) STRICT;

-- Sessions of a transport that were ended before their time; their names are signed texts that would still be read well.
-- The name itself is never stored, only its SHA-256.
CREATE TABLE ended_session (
    name_hash BLOB PRIMARY KEY,
    realm     TEXT NOT NULL,
    principal TEXT NOT NULL,
    expires   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX ended_session_by_expiry ON ended_session (expires);
CREATE INDEX ended_session_by_realm ON ended_session (realm, expires);

-- The index without one of beginnings, which every write paid for and only the search for a word of three letters used.
DROP TABLE memory_fts;
CREATE VIRTUAL TABLE memory_fts USING fts5 (
    content, tags, words, audience,
    content = 'memory', content_rowid = 'seq',
    tokenize = 'porter unicode61 remove_diacritics 2'
);
INSERT INTO memory_fts (memory_fts, rank) VALUES ('secure-delete', 1);
INSERT INTO memory_fts (memory_fts) VALUES ('rebuild');
