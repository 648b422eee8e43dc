//! D: of `src/accept/scenarios/data`.

use std::fs;

use tmws::accept::stage::Sabotage;

use super::{Row, spoil};

/// D1: what each search is checked by takes its time, in a store as large as that of this scenario alone.
const SLOW_POLICY: &str = "\
CREATE OR REPLACE FUNCTION public.accept_slow() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
    IF (SELECT reltuples FROM pg_class WHERE oid = 'tmws.memory_vector'::regclass) > 4000 THEN
        PERFORM pg_sleep(0.15);
    END IF;
    RETURN true;
END $$;
DROP POLICY IF EXISTS accept_slow ON tmws.memory_vector;
CREATE POLICY accept_slow ON tmws.memory_vector AS RESTRICTIVE FOR SELECT USING ((SELECT public.accept_slow()))";

/// D2: the index that is made for some thousand vectors at once is not valid.
const INVALID_INDEX: &str = "\
CREATE OR REPLACE FUNCTION public.accept_invalid() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
    IF (SELECT count(*) FROM tmws.memory_vector) BETWEEN 2000 AND 4000 THEN
        UPDATE pg_catalog.pg_index SET indisvalid = false WHERE indexrelid IN
            (SELECT objid FROM pg_event_trigger_ddl_commands() WHERE object_identity LIKE 'tmws.memory\\_vector\\_by\\_%');
    END IF;
END $$;
DROP EVENT TRIGGER IF EXISTS accept_invalid;
CREATE EVENT TRIGGER accept_invalid ON ddl_command_end WHEN TAG IN ('CREATE INDEX')
    EXECUTE FUNCTION public.accept_invalid()";

/// D3: an update that is lost.
const LOST_TAGS: &str = "\
CREATE OR REPLACE FUNCTION public.accept_lost() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    NEW.tags := OLD.tags;
    RETURN NEW;
END $$;
DROP TRIGGER IF EXISTS accept_lost ON tmws.memory;
CREATE TRIGGER accept_lost BEFORE UPDATE ON tmws.memory FOR EACH ROW
    WHEN (cardinality(OLD.tags) >= 6 AND cardinality(NEW.tags) > cardinality(OLD.tags))
    EXECUTE FUNCTION public.accept_lost()";

/// D4: a write that is stored in part; by the names that the writers of this scenario give what they write.
const WITHOUT_WORDS: &str = "\
CREATE OR REPLACE FUNCTION public.accept_wordless() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF EXISTS (SELECT FROM unnest(NEW.words) WHERE lexeme ~ '^r[0-9]+w[0-3]n[0-9]+$') THEN
        RETURN NULL;
    END IF;
    RETURN NEW;
END $$;
DROP TRIGGER IF EXISTS accept_wordless ON tmws.memory_text;
CREATE TRIGGER accept_wordless BEFORE INSERT ON tmws.memory_text FOR EACH ROW EXECUTE FUNCTION public.accept_wordless()";

/// D8: an e and its accent become one letter.
const COMPOSED: &str = "\
CREATE OR REPLACE FUNCTION public.accept_composed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    NEW.content := decode(replace(encode(NEW.content, 'hex'), '65cc81', 'c3a9'), 'hex');
    RETURN NEW;
END $$;
DROP TRIGGER IF EXISTS accept_composed ON tmws.memory;
CREATE TRIGGER accept_composed BEFORE INSERT ON tmws.memory FOR EACH ROW EXECUTE FUNCTION public.accept_composed()";

/// D6: what was migrated is no longer what it was.
fn change_what_was_migrated(store: &str, arguments: &[&str]) -> std::io::Result<()> {
    let Some(file) = store.strip_prefix("sqlite:").filter(|_| arguments == ["migrate", "--json"]) else {
        return Ok(());
    };
    let mut bytes = fs::read(file)?;
    spoil::replace(&mut bytes, b"it replaces the first one", b"it replaces the first owl");
    fs::write(file, bytes)
}

pub(super) fn rows() -> Vec<Row> {
    let by_sql = |sql| Sabotage { sql: Some(sql), ..Sabotage::default() };
    vec![
        Row {
            id: "D1",
            how: "a policy of row-level security on the vectors, which takes 150 ms of each search once there are more than \
                  4,000 of them",
            red: &["average"],
            sabotage: by_sql(SLOW_POLICY),
            ..Row::default()
        },
        Row {
            id: "D2",
            how: "the index of the vectors is marked as not valid when it is made for 2,000 to 4,000 of them at once",
            red: &["scans of the HNSW index"],
            sabotage: by_sql(INVALID_INDEX),
            ..Row::default()
        },
        Row {
            id: "D3",
            how: "a trigger that loses a tag which is added to a memory with six or more",
            red: &["lost", "the same text with 12 tags, stored at once at two servers"],
            sabotage: by_sql(LOST_TAGS),
            ..Row::default()
        },
        Row {
            id: "D4",
            how: "a trigger that leaves out the words of what half of the writers store",
            red: &["remains", "PostgreSQL: memories that are there in part"],
            sabotage: by_sql(WITHOUT_WORDS),
            ..Row::default()
        },
        Row {
            id: "D5",
            how: "the server may open 20 connections to the database, where the scenario says 6",
            red: &["leaked", "connections at once"],
            sabotage: Sabotage {
                setup: Some(|setup, _| spoil::setting(setup, "limits.database_connections", "20")),
                ..Sabotage::default()
            },
            ..Row::default()
        },
        Row {
            id: "D6",
            how: "two letters of one memory are changed in each file that `tmws migrate` has brought to the newest schema",
            red: &[
                "schema 1: the rows of memory",
                "schema 2: the rows of memory",
                "schema 3: the rows of memory",
            ],
            sabotage: Sabotage { by_hand: Some(change_what_was_migrated), ..Sabotage::default() },
            ..Row::default()
        },
        Row {
            id: "D7",
            how: "the version of the newer schema is taken out of the database before the server asks for it",
            red: &["PostgreSQL: remember", "PostgreSQL: every table, row for row"],
            sabotage: by_sql("DELETE FROM tmws.schema_version WHERE version = 4711"),
            ..Row::default()
        },
        Row {
            id: "D8",
            how: "a trigger in the database that makes one letter of an e and the accent behind it",
            red: &["calls that both answer equally, but for ids and times"],
            sabotage: by_sql(COMPOSED),
            ..Row::default()
        },
    ]
}
