//! M: of `src/accept/scenarios/many`.

use tmws::accept::{proxy::Way, stage::Sabotage};

use super::{Row, spoil};

/// One column of the memory that all share stays what it was.
const TORN: &str = "
CREATE FUNCTION tmws.tear() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.importance := OLD.importance;
    RETURN NEW;
END
$$;
CREATE TRIGGER tear BEFORE UPDATE ON tmws.memory FOR EACH ROW
    WHEN (convert_from(OLD.content, 'UTF8') = 'The one memory of all.') EXECUTE FUNCTION tmws.tear()";

/// Who forgets takes time for each memory, and who waits for another learns early that both wait.
const SLOW: &str = "
DO $$ BEGIN
    EXECUTE format('ALTER DATABASE %I SET deadlock_timeout TO ''50ms''', current_database());
END $$;
CREATE FUNCTION tmws.dawdle() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_sleep(0.01);
    RETURN OLD;
END
$$;
CREATE TRIGGER dawdle BEFORE DELETE ON tmws.memory FOR EACH ROW EXECUTE FUNCTION tmws.dawdle()";

pub(super) fn rows() -> Vec<Row> {
    vec![
        Row {
            id: "M1",
            how: "a proxy that holds each frame back for 400 ms stands before the server",
            red: &["average"],
            sabotage: Sabotage { clients: Some(spoil::late::<400>), ..Sabotage::default() },
            ..Row::default()
        },
        Row {
            id: "M2",
            how: "the server takes 100 connections at once",
            red: &["success"],
            sabotage: Sabotage {
                setup: Some(|setup, _| spoil::setting(setup, "limits.connections", "100")),
                ..Sabotage::default()
            },
            ..Row::default()
        },
        Row {
            id: "M3",
            how: "the pattern that all ask for opens a session as well, so that no call of it can share another's run",
            red: &["runs in each round", "answers, as the server counts them"],
            sabotage: Sabotage {
                setup: Some(|setup, _| {
                    let step = "  - {id: found,";
                    let more = format!("  - {{id: opened, uses: session.open}}\n{step}");
                    spoil::in_pattern(setup, "accept.sweep", step, &more);
                    spoil::in_pattern(setup, "accept.sweep", "max_steps: 1", "max_steps: 2");
                }),
                ..Sabotage::default()
            },
            ..Row::default()
        },
        Row {
            id: "M4",
            how: "a trigger in the database loses one of the labels with which the memory of all is written",
            red: &["nothing torn is read"],
            sabotage: Sabotage { sql: Some(TORN), ..Sabotage::default() },
            ..Row::default()
        },
        Row {
            id: "M5",
            how: "the server may open 20 connections to the database",
            red: &["connections of the server to its database, at most"],
            sabotage: Sabotage {
                setup: Some(|setup, _| spoil::setting(setup, "limits.database_connections", "20")),
                ..Sabotage::default()
            },
            ..Row::default()
        },
        Row {
            id: "M6",
            how: "a proxy before the database takes the locks out of the statements that put writers in an order, and \
                  memories are deleted slowly",
            red: &["deadlocks"],
            sabotage: Sabotage {
                database: Some(|proxy, _| {
                    let (lock, none) = ("pg_advisory_xact_lock(key)", "abs(key)  /*without lock*/");
                    spoil::replace_where(proxy, Way::There, "", lock, none);
                }),
                sql: Some(SLOW),
                ..Sabotage::default()
            },
            ..Row::default()
        },
        Row {
            id: "M7",
            how: "a proxy before the server names another session in the answers of one",
            red: &["crossed"],
            sabotage: Sabotage {
                clients: Some(|proxy, _| {
                    spoil::replace_in_answers(proxy, "session-000-end", "session-001-end");
                }),
                ..Sabotage::default()
            },
            ..Row::default()
        },
        Row {
            id: "M8",
            how: "a proxy before the server holds each frame back for 100 ms while more than four connections are open",
            red: &["others"],
            is_alone: true,
            sabotage: Sabotage { clients: Some(spoil::late_in_a_crowd::<4, 100>), ..Sabotage::default() },
        },
        Row {
            id: "M9",
            how: "the server keeps sessions over HTTP for an hour",
            red: &["handles"],
            sabotage: Sabotage {
                setup: Some(|setup, _| spoil::setting(setup, "limits.http_session_idle", "1h")),
                ..Sabotage::default()
            },
            ..Row::default()
        },
    ]
}
