-- Everything that a store keeps: memories with their words and vectors, sessions, results, tasks.
--
-- Every time is microseconds since 1970-01-01T00:00:00Z. Who may see a row stands in one word of it:
--   reader  of a memory and all that hangs on it: exactly who reads it
--             p… hash of the project, u… of the principal (its project `personal`), s… of the principal (`shared`),
--             a… of audience, principal and agent, c… of audience, principal and session
--   realm   of sessions and results: p… or u…
--   owner   of tasks: hash of realm and principal
-- `audience` (p…, u…, s…) is what changes are counted by.
--
-- Row-level security is the second wall: whatever a statement asks for, it meets rows of the readers, the realm and the
-- owner that its transaction named, and without a name none. Jobs for the whole store say so: `tmws.whole`.

-- Single values of the whole store: `state_key`.
CREATE TABLE tmws.meta (
    key   text PRIMARY KEY,
    value bytea NOT NULL
);

-- Memory writes per audience; bumped in the transaction of the write, which keeps the row locked until it ends.
CREATE TABLE tmws.generation (
    audience text COLLATE "C" PRIMARY KEY,
    value    bigint NOT NULL
);

-- Counts a write, and tells whoever listens once it is committed.
CREATE FUNCTION tmws.bump(whose text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    counted bigint;
BEGIN
    INSERT INTO tmws.generation AS g (audience, value) VALUES (whose, 1)
    ON CONFLICT (audience) DO UPDATE SET value = g.value + 1
    RETURNING g.value INTO counted;
    PERFORM pg_notify('tmws_changed', whose || ' ' || counted);
    RETURN counted;
END
$$;

CREATE TABLE tmws.memory (
    -- Order in which the store took them; never reused, so that pages of an export stay true.
    seq           bigint GENERATED ALWAYS AS IDENTITY,
    -- Where an id is unique: p… or u…, also for shared rows.
    realm         text COLLATE "C" NOT NULL,
    id            text COLLATE "C" NOT NULL,
    reader        text COLLATE "C" NOT NULL,
    audience      text COLLATE "C" NOT NULL,
    project       text NOT NULL,
    visibility    text COLLATE "C" NOT NULL CHECK (visibility IN ('session', 'agent', 'project', 'shared')),
    principal     text NOT NULL,
    agent         text NOT NULL,
    session       text,
    importance    double precision NOT NULL CHECK (importance BETWEEN 0.0 AND 1.0),
    kind          text COLLATE "C" NOT NULL,
    trust         text COLLATE "C" NOT NULL CHECK (trust IN ('user', 'agent', 'external')),
    supersedes    text COLLATE "C",
    superseded_by text COLLATE "C",
    created       bigint NOT NULL,
    updated       bigint NOT NULL,
    recalled      bigint,
    expires       bigint,
    -- SHA-256 of the content with its white space folded.
    content_hash  bytea NOT NULL,
    -- Sorted.
    tags          text[] COLLATE "C" NOT NULL,
    -- UTF-8. Not `text`, which holds no NUL.
    content       bytea NOT NULL,
    -- What filters ask of candidates of a search stands in the index: a thousand of them are a thousand pages of the table.
    PRIMARY KEY (seq) INCLUDE (reader, importance, kind, created, expires, superseded_by),
    UNIQUE (realm, id)
);
CREATE INDEX memory_by_id ON tmws.memory (id);
CREATE INDEX memory_by_reader ON tmws.memory (reader, seq);
CREATE INDEX memory_by_hash ON tmws.memory (content_hash);
CREATE INDEX memory_by_expiry ON tmws.memory (expires) WHERE expires IS NOT NULL;

-- A session that has memories of its own is among the generations, with a value that says nothing.
CREATE FUNCTION tmws.note_session() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO tmws.generation (audience, value) VALUES (NEW.reader, 1) ON CONFLICT (audience) DO NOTHING;
    RETURN NULL;
END
$$;
CREATE TRIGGER note_session AFTER INSERT ON tmws.memory
    FOR EACH ROW WHEN (NEW.visibility = 'session') EXECUTE FUNCTION tmws.note_session();

-- The words of memories, for the index only. Without row-level security: under it no index on words is used (`@@` is
-- not leakproof), so it is only ever read joined with `memory`, which has it.
CREATE TABLE tmws.memory_text (
    seq    bigint PRIMARY KEY REFERENCES tmws.memory (seq) ON DELETE CASCADE,
    reader text COLLATE "C" NOT NULL,
    -- Stems of the words, and lexemes with a sign before them: @ the reader, # hash of a tag, = hash of the kind.
    words  tsvector NOT NULL,
    -- How many words that was.
    length integer NOT NULL
);
-- Every search reads what is not merged yet from end to end: it is kept short.
CREATE INDEX memory_text_by_words ON tmws.memory_text USING gin (words)
    WITH (fastupdate = on, gin_pending_list_limit = 256);

-- What was forgotten: never its content.
CREATE TABLE tmws.tombstone (
    seq          bigint PRIMARY KEY,
    realm        text COLLATE "C" NOT NULL,
    id           text COLLATE "C" NOT NULL,
    reader       text COLLATE "C" NOT NULL,
    forgotten    bigint NOT NULL,
    forgotten_by text NOT NULL,
    UNIQUE (realm, id)
);

-- Models whose vectors are kept; vectors of different ones are never compared.
CREATE TABLE tmws.embedding_model (
    id        integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name      text NOT NULL,
    dimension integer NOT NULL CHECK (dimension BETWEEN 1 AND 16000),
    hash      text NOT NULL,
    -- When a process last used it.
    used      bigint NOT NULL,
    UNIQUE (name, dimension, hash)
);

-- Each model gets an index of its own: `memory_vector_by_<id>`, made with the first of its vectors.
CREATE TABLE tmws.memory_vector (
    seq       bigint NOT NULL REFERENCES tmws.memory (seq) ON DELETE CASCADE,
    model     integer NOT NULL REFERENCES tmws.embedding_model (id) ON DELETE CASCADE,
    reader    text COLLATE "C" NOT NULL,
    embedding vector NOT NULL,
    PRIMARY KEY (model, seq)
);
CREATE INDEX memory_vector_by_memory ON tmws.memory_vector (seq);

-- Sessions: the handle itself is never stored, only its SHA-256.
CREATE TABLE tmws.session (
    handle_hash bytea PRIMARY KEY,
    realm       text COLLATE "C" NOT NULL,
    principal   text NOT NULL,
    opened      bigint NOT NULL,
    touched     bigint NOT NULL,
    -- Order of opening.
    seq         bigint GENERATED ALWAYS AS IDENTITY,
    -- JSON object.
    scratch     text NOT NULL
);
CREATE INDEX session_by_use ON tmws.session (realm, touched, seq);
CREATE INDEX session_by_age ON tmws.session (touched);

-- Sessions of a transport that were ended before their time; their names are signed texts that would still be read well.
-- The name itself is never stored, only its SHA-256.
CREATE TABLE tmws.ended_session (
    name_hash bytea PRIMARY KEY,
    realm     text COLLATE "C" NOT NULL,
    principal text NOT NULL,
    expires   bigint NOT NULL
);
CREATE INDEX ended_session_by_realm ON tmws.ended_session (realm, expires);
CREATE INDEX ended_session_by_expiry ON tmws.ended_session (expires);

-- Results behind handles, immutable.
CREATE TABLE tmws.result (
    seq         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    handle_hash bytea NOT NULL UNIQUE,
    realm       text COLLATE "C" NOT NULL,
    principal   text NOT NULL,
    expires     bigint NOT NULL,
    pattern     text NOT NULL,
    -- JSON.
    value       text NOT NULL
);
CREATE INDEX result_by_age ON tmws.result (realm, seq);
CREATE INDEX result_by_expiry ON tmws.result (expires);

-- Tasks: calls that outlive their answer, and the process that runs them.
CREATE TABLE tmws.task (
    seq      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- Not hashed, unlike a handle: its owner may list it. It opens nothing to anybody else.
    id       text COLLATE "C" NOT NULL UNIQUE,
    owner    text COLLATE "C" NOT NULL,
    -- The design that it was made under; to the other it does not exist.
    era      text COLLATE "C" NOT NULL CHECK (era IN ('legacy', 'modern')),
    is_final boolean NOT NULL,
    expires  bigint NOT NULL,
    -- Until when its process is known to run it.
    lease    bigint NOT NULL,
    -- JSON.
    body     text NOT NULL
);
CREATE INDEX task_by_owner ON tmws.task (owner, seq);
CREATE INDEX task_by_expiry ON tmws.task (expires);

-- The second wall. A sub-select is evaluated once a statement, not once a row.
DO $$
DECLARE
    walled record;
BEGIN
    FOR walled IN
        SELECT * FROM (VALUES
            ('memory', 'reader = ANY ((SELECT string_to_array(current_setting(''tmws.readers'', true), '',''))::text[])'),
            ('memory_vector', 'reader = ANY ((SELECT string_to_array(current_setting(''tmws.readers'', true), '',''))::text[])'),
            ('tombstone', 'reader = ANY ((SELECT string_to_array(current_setting(''tmws.readers'', true), '',''))::text[])'),
            ('session', 'realm = (SELECT current_setting(''tmws.realm'', true))'),
            ('ended_session', 'realm = (SELECT current_setting(''tmws.realm'', true))'),
            ('result', 'realm = (SELECT current_setting(''tmws.realm'', true))'),
            ('task', 'owner = (SELECT current_setting(''tmws.owner'', true))')
        ) AS t (name, rule)
    LOOP
        EXECUTE format('ALTER TABLE tmws.%I ENABLE ROW LEVEL SECURITY', walled.name);
        EXECUTE format('ALTER TABLE tmws.%I FORCE ROW LEVEL SECURITY', walled.name);
        EXECUTE format(
            'CREATE POLICY scope ON tmws.%I USING (%s OR (SELECT current_setting(''tmws.whole'', true)) = ''on'')',
            walled.name, walled.rule
        );
    END LOOP;
END
$$;

-- Whole-store clearing, a few rows at a time; rows that another transaction has in hand are passed over. Each opens the
-- wall for itself alone. (`SET tmws.whole` at the function would be shorter, and only a superuser may make that.)
CREATE FUNCTION tmws.purge_memory(before bigint, most integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    asked text := coalesce(current_setting('tmws.whole', true), '');
BEGIN
    PERFORM set_config('tmws.whole', 'on', true);
    DELETE FROM tmws.memory WHERE seq IN (
        SELECT seq FROM tmws.memory WHERE expires <= before ORDER BY expires LIMIT most FOR UPDATE SKIP LOCKED);
    PERFORM set_config('tmws.whole', asked, true);
END
$$;
CREATE FUNCTION tmws.purge_session(before bigint, most integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    asked text := coalesce(current_setting('tmws.whole', true), '');
BEGIN
    PERFORM set_config('tmws.whole', 'on', true);
    DELETE FROM tmws.session WHERE handle_hash IN (
        SELECT handle_hash FROM tmws.session WHERE touched <= before LIMIT most FOR UPDATE SKIP LOCKED);
    PERFORM set_config('tmws.whole', asked, true);
END
$$;
CREATE FUNCTION tmws.purge_ended_session(before bigint, most integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    asked text := coalesce(current_setting('tmws.whole', true), '');
BEGIN
    PERFORM set_config('tmws.whole', 'on', true);
    DELETE FROM tmws.ended_session WHERE name_hash IN (
        SELECT name_hash FROM tmws.ended_session WHERE expires <= before LIMIT most FOR UPDATE SKIP LOCKED);
    PERFORM set_config('tmws.whole', asked, true);
END
$$;
CREATE FUNCTION tmws.purge_result(before bigint, most integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    asked text := coalesce(current_setting('tmws.whole', true), '');
BEGIN
    PERFORM set_config('tmws.whole', 'on', true);
    DELETE FROM tmws.result WHERE seq IN (
        SELECT seq FROM tmws.result WHERE expires <= before LIMIT most FOR UPDATE SKIP LOCKED);
    PERFORM set_config('tmws.whole', asked, true);
END
$$;
CREATE FUNCTION tmws.purge_task(before bigint, most integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    asked text := coalesce(current_setting('tmws.whole', true), '');
BEGIN
    PERFORM set_config('tmws.whole', 'on', true);
    DELETE FROM tmws.task WHERE seq IN (
        SELECT seq FROM tmws.task WHERE expires <= before LIMIT most FOR UPDATE SKIP LOCKED);
    PERFORM set_config('tmws.whole', asked, true);
END
$$;
