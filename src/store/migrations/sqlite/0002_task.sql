-- Tasks: calls that outlive their answer, and the process that runs them.

PRAGMA user_version = 2;

CREATE TABLE task (
    -- Order in which the store took them.
    seq       INTEGER PRIMARY KEY AUTOINCREMENT,
    -- Not hashed, unlike a handle: its owner may list it. It opens nothing to anybody else.
    id        TEXT NOT NULL UNIQUE,
    realm     TEXT NOT NULL,
    principal TEXT NOT NULL,
    -- The design that it was made under; to the other it does not exist.
    era       TEXT NOT NULL CHECK (era IN ('legacy', 'modern')),
    is_final  INTEGER NOT NULL CHECK (is_final IN (0, 1)),
    expires   INTEGER NOT NULL,
    -- Until when its process is known to run it.
    lease     INTEGER NOT NULL,
    -- JSON.
    body      TEXT NOT NULL
) STRICT;
CREATE INDEX task_by_owner ON task (realm, principal, seq);
CREATE INDEX task_by_expiry ON task (expires);
