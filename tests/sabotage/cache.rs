//! R: of `src/accept/scenarios/cache`.

use tmws::accept::stage::{Sabotage, Where};

use super::{Row, spoil};

/// What counts the writes of a project counts no more than one. Run once for each instance.
const STOPPED: &str = "
CREATE OR REPLACE FUNCTION tmws.stop() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.value := OLD.value;
    RETURN NEW;
END
$$;
CREATE OR REPLACE TRIGGER stop BEFORE UPDATE ON tmws.generation FOR EACH ROW EXECUTE FUNCTION tmws.stop()";

/// The pattern that R9 asks for, as it comes with TMWS.
const BY_TAG: &str = include_str!("../../src/pattern/builtin/memory.by-tag.yaml");

pub(super) fn rows() -> Vec<Row> {
    vec![
        Row {
            id: "R1",
            how: "the second of the servers that should share a store has one of its own",
            red: &["two servers: what A has, at B", "two servers: after it, at B"],
            sabotage: Sabotage {
                setup: Some(|setup, number| {
                    if number == 1 {
                        setup.store = Where::File;
                    }
                }),
                ..Sabotage::default()
            },
            ..Row::default()
        },
        Row {
            id: "R2",
            how: "a proxy between the second server and Redis holds a part of what Redis tells of changes back for 250 ms",
            red: &["p95"],
            sabotage: Sabotage {
                redis: Some(|proxy, number| {
                    if number == 1 {
                        spoil::late_news::<250>(proxy);
                    }
                }),
                ..Sabotage::default()
            },
            ..Row::default()
        },
        Row {
            id: "R3",
            how: "a trigger in the database keeps the count of writes from rising, by which answers are known to be old",
            red: &["stale"],
            sabotage: Sabotage { sql: Some(STOPPED), ..Sabotage::default() },
            ..Row::default()
        },
        Row {
            id: "R4",
            how: "answers are kept a tenth longer than they should be",
            red: &["deviation"],
            sabotage: Sabotage {
                setup: Some(|setup, _| {
                    spoil::in_pattern(setup, "accept.kept-3000", "ttl: 3000ms", "ttl: 3300ms");
                    spoil::in_pattern(setup, "accept.kept-4000", "ttl: 4000ms", "ttl: 4400ms");
                }),
                ..Sabotage::default()
            },
            ..Row::default()
        },
        Row {
            id: "R5",
            how: "a proxy before Redis turns its word for being full into one for any error",
            red: &["a full Redis that refuses is degraded, and says why"],
            sabotage: Sabotage {
                redis: Some(|proxy, _| spoil::replace_in_answers(proxy, "-OOM ", "-ERR ")),
                ..Sabotage::default()
            },
            ..Row::default()
        },
        Row {
            id: "R6",
            how: "a proxy before the servers ends the connections of their clients once Redis is gone",
            red: &["failed"],
            sabotage: Sabotage { clients: Some(spoil::cut_without_redis), ..Sabotage::default() },
            ..Row::default()
        },
        Row {
            id: "R7",
            how: "a proxy before Redis lets nobody through for 12 s after Redis was killed",
            red: &["used_again"],
            sabotage: Sabotage { redis: Some(spoil::closed_once_ended::<12>), ..Sabotage::default() },
            ..Row::default()
        },
        Row {
            id: "R8",
            how: "the cluster waits for 17 s before it takes a server for lost",
            red: &["recovered"],
            sabotage: Sabotage { redis_lines: &["cluster-node-timeout 17000"], ..Sabotage::default() },
            ..Row::default()
        },
        Row {
            id: "R9",
            how: "a pattern of the same name takes the place of the one that is asked for, and its answers are not kept",
            red: &["hit_rate"],
            sabotage: Sabotage {
                setup: Some(|setup, _| {
                    setup.patterns.push(("memory.by-tag.yaml".to_owned(), BY_TAG.to_owned()));
                    spoil::in_pattern(setup, "memory.by-tag", "scope: principal", "scope: never");
                }),
                ..Sabotage::default()
            },
            ..Row::default()
        },
    ]
}
