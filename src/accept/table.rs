//! The table: 47 scenarios, their figures and thresholds. The run, the report, the exit code and the docs read it.

use super::scenario::{
    Area::{Data, Performance, Protocol, Security},
    Better::{Less, More},
    FigureRow,
    Need::{self, OwnPostgres, OwnRedis, Postgres, Redis},
    Row,
};

/// All scenarios, in the order in which they run.
pub const SCENARIOS: [Row; 47] = [
    row(
        ("M1", "50 agents at once", "50 agents call infrastructure, memory and hybrid patterns, mixed"),
        (Performance, &[Postgres, Redis], (4, 38)),
        &[figure("success", "%", More, Some(95.0), Some(90.0)), figure("average", "ms", Less, Some(300.0), Some(300.0))],
    ),
    row(
        ("M2", "200 agents at once", "200 agents do the same"),
        (Performance, &[Postgres, Redis], (5, 44)),
        &[figure("success", "%", More, Some(95.0), Some(90.0))],
    ),
    row(
        ("M3", "the same question from many", "many agents ask the same thing at the same moment"),
        (Performance, NONE, (1, 1)),
        &[],
    ),
    row(
        ("M4", "readers and writers of one memory", "agents write one memory while others read it"),
        (Data, &[Postgres], (1, 6)),
        &[],
    ),
    row(
        ("M5", "a pool of 10, 50 at once", "50 calls at once over 10 database connections"),
        (Performance, &[Postgres], (2, 4)),
        &[figure("errors", "", Less, Some(0.0), Some(0.0))],
    ),
    row(
        ("M6", "the same rows in opposite order", "writers touch the same memories in opposite orders"),
        (Data, &[Postgres], (2, 7)),
        &[figure("deadlocks", "", Less, Some(0.0), Some(0.0))],
    ),
    row(
        ("M7", "the same request ids everywhere", "every session uses the same request ids"),
        (Security, NONE, (1, 2)),
        &[figure("crossed", "", Less, Some(0.0), Some(0.0))],
    ).vital(),
    row(
        ("M8", "one greedy connection", "one connection asks as fast as it can while others work"),
        (Performance, NONE, (8, 23)),
        &[figure("others", "x", Less, Some(3.0), Some(3.0))],
    ),
    row(
        ("M9", "1,000 connects and disconnects", "clients come and go, politely and not"),
        (Performance, NONE, (3, 3)),
        &[figure("tasks", "", Less, Some(0.0), Some(0.0)), figure("descriptors", "", Less, Some(0.0), Some(0.0)), figure("handles", "", Less, Some(0.0), Some(0.0))],
    ),
    row(
        ("W1", "every legacy revision over WebSocket", "handshake, list, call, ping, cancel and progress in each"),
        (Protocol, NONE, (1, 1)),
        &[],
    ).of_any_server(),
    row(
        ("W2", "2026-07-28 over WebSocket", "discover, call, listen, and a call that asks back"),
        (Protocol, NONE, (1, 1)),
        &[],
    ).of_any_server(),
    row(
        ("W3", "both eras on one connection", "legacy and modern requests, interleaved"),
        (Protocol, NONE, (1, 1)),
        &[],
    ).of_any_server(),
    row(
        ("W4", "ten clients of one agent", "ten connections of one principal work at the same time"),
        (Protocol, NONE, (1, 1)),
        &[figure("served", "", More, Some(10.0), Some(10.0))],
    ).of_any_server(),
    row(
        ("W5", "sessions are isolated", "two principals, and two sessions of one: log level, subscriptions, handles, scratch, memory; and the audit log"),
        (Security, &[Postgres], (2, 2)),
        &[figure("crossed", "", Less, Some(0.0), Some(0.0))],
    ).vital(),
    row(
        ("W6", "recorded old clients", "recordings of real clients are replayed against the fixture server"),
        (Protocol, NONE, (3, 3)),
        &[figure("replayed", "%", More, Some(100.0), Some(100.0))],
    ),
    row(
        ("W7", "malformed frames", "each wrong frame gets its code, silence or close, as listed"),
        (Protocol, NONE, (1, 1)),
        &[],
    ).of_any_server(),
    row(
        ("W8", "a reader that stops reading", "one client asks and does not read"),
        (Performance, NONE, (6, 9)),
        &[figure("growth", "MB", Less, Some(64.0), Some(128.0)), figure("others", "x", Less, Some(3.0), Some(5.0))],
    ),
    row(
        ("W9", "shutdown under load", "the server is told to end while calls run"),
        (Protocol, NONE, (1, 1)),
        &[figure("exit", "s", Less, Some(5.0), Some(5.0))],
    ),
    row(
        ("W10", "wrong Origin, Host, token, project", "each is refused before the upgrade"),
        (Security, NONE, (1, 1)),
        &[],
    ).vital(),
    row(
        ("D1", "50 vector searches at once, 100,000 memories", "50 agents search by meaning at the same time"),
        (Performance, &[Postgres], (3, 36)),
        &[figure("average", "ms", Less, Some(200.0), Some(200.0)), figure("p95", "ms", Less, Some(500.0), Some(500.0)), figure("success", "%", More, Some(96.0), Some(96.0))],
    ),
    row(
        ("D2", "the index is used", "the plan of the search is looked at"),
        (Performance, &[Postgres], (20, 30)),
        &[],
    ).full_only(),
    row(
        ("D3", "isolation of transactions", "dirty reads and lost updates are looked for; serialization failures are provoked"),
        (Data, &[Postgres], (3, 6)),
        &[figure("lost", "", Less, Some(0.0), Some(0.0)), figure("dirty", "", Less, Some(0.0), Some(0.0))],
    ).vital(),
    row(
        ("D4", "a failure inside a write", "writes are broken off at every place that can be reached from outside"),
        (Data, &[OwnPostgres], (4, 16)),
        &[figure("remains", "", Less, Some(0.0), Some(0.0))],
    ).vital(),
    row(
        ("D5", "the pool after 1,000 calls", "connections of the database are counted before and after"),
        (Performance, &[Postgres], (2, 2)),
        &[figure("leaked", "", Less, Some(0.0), Some(0.0))],
    ),
    row(
        ("D6", "migration from every earlier schema", "files of every released schema, with data, are migrated"),
        (Data, NONE, (4, 5)),
        &[],
    ).vital(),
    row(
        ("D7", "a newer schema than the program's", "stores of an unknown newer schema are refused and left alone"),
        (Data, &[Postgres], (3, 3)),
        &[],
    ).vital(),
    row(
        ("D8", "SQLite and PostgreSQL are alike", "the same calls to both"),
        (Data, &[Postgres], (3, 13)),
        &[figure("recall_sqlite", "", More, Some(0.95), Some(0.95)), figure("recall_postgres", "", More, Some(0.95), Some(0.95))],
    ),
    row(
        ("R1", "miss, hit, invalidate, miss", "one answer through the life of its cache entry"),
        (Data, &[Redis], (1, 1)),
        &[],
    ),
    row(
        ("R2", "invalidation across three instances", "how long an entry outlives its invalidation elsewhere"),
        (Performance, &[Redis], (1, 1)),
        &[figure("p95", "ms", Less, Some(50.0), Some(200.0))],
    ),
    row(
        ("R3", "coherency under writes", "readers and writers at three instances look for stale answers"),
        (Data, &[OwnRedis], (9, 51)),
        &[figure("stale", "", Less, Some(0.0), Some(0.0))],
    ).vital(),
    row(
        ("R4", "time to live", "entries end when they should"),
        (Performance, &[Redis], (5, 11)),
        &[figure("deviation", "%", Less, Some(5.0), Some(5.0))],
    ),
    row(
        ("R5", "Redis is full", "maxmemory is reached"),
        (Data, &[OwnRedis], (2, 2)),
        &[figure("errors", "", Less, Some(0.0), Some(0.0))],
    ),
    row(
        ("R6", "Redis is killed", "it is killed under load"),
        (Data, &[OwnRedis], (4, 13)),
        &[figure("failed", "", Less, Some(0.0), Some(0.0))],
    ),
    row(
        ("R7", "Redis is back", "it is used again, without a restart of the servers"),
        (Performance, &[OwnRedis], (4, 20)),
        &[figure("used_again", "s", Less, Some(5.0), Some(5.0))],
    ),
    row(
        ("R8", "a master of a cluster is killed", "six nodes, one master killed under load"),
        (Data, &[OwnRedis], (9, 21)),
        &[figure("failed", "", Less, Some(0.0), Some(0.0)), figure("recovered", "s", Less, Some(15.0), Some(15.0))],
    ),
    row(
        ("R9", "hit rate", "Zipf 1.1 over 1,000 keys in 100 projects, 5 % writes"),
        (Performance, &[Redis], (2, 12)),
        &[figure("hit_rate", "%", More, Some(80.0), Some(60.0)), figure("control", "%", Less, Some(0.0), Some(0.0)), figure("one_project", "%", More, None, None)],
    ),
    row(
        ("P1", "latency by type", "matching, infrastructure, memory and hybrid calls, one after the other"),
        (Performance, &[Postgres, Redis], (3, 11)),
        &[figure("matching_p95", "ms", Less, Some(10.0), Some(20.0)), figure("infrastructure_p95", "ms", Less, Some(50.0), Some(100.0)), figure("memory_p95", "ms", Less, Some(100.0), Some(200.0)), figure("hybrid_p95", "ms", Less, Some(200.0), Some(400.0))],
    ),
    row(
        ("P2", "end to end over WebSocket", "mixed calls, measured at the client"),
        (Performance, &[Postgres, Redis], (6, 44)),
        &[figure("p50", "ms", Less, Some(100.0), Some(100.0)), figure("p95", "ms", Less, Some(250.0), Some(500.0)), figure("p99", "ms", Less, Some(400.0), Some(400.0))],
    ),
    row(
        ("P3", "sustained rate", "calls as fast as they are answered, for the whole run"),
        (Performance, &[Postgres, Redis], (8, 55)),
        &[figure("rate", "calls/s", More, Some(100.0), Some(50.0)), figure("least", "calls/s", More, Some(100.0), Some(50.0)), figure("most", "calls/s", More, None, None)],
    ),
    row(
        ("P4", "100 workers", "100 workers call without a pause"),
        (Performance, &[Postgres, Redis], (10, 87)),
        &[figure("success", "%", More, Some(95.0), Some(95.0)), figure("growth", "MB", Less, Some(32.0), Some(64.0))],
    ),
    row(
        ("P5", "fewer tokens", "the task set of the token report"),
        (Performance, NONE, (8, 8)),
        &[figure("median", "%", More, Some(40.0), Some(30.0))],
    ),
    row(
        ("P6", "resources at 100 calls a second", "of the server's process, its database and its Redis"),
        (Performance, &[Postgres, Redis], (7, 54)),
        &[figure("cpu", "%", Less, Some(80.0), Some(80.0)), figure("rss", "MB", Less, Some(2048.0), Some(2048.0)), figure("database_connections", "", Less, Some(25.0), Some(25.0)), figure("redis_memory", "MB", Less, Some(1024.0), Some(1024.0)), figure("rate", "calls/s", More, Some(95.0), Some(95.0))],
    ),
    row(
        ("E1", "the database is lost in mid-call", "it is killed under reads and writes"),
        (Data, &[OwnPostgres], (7, 13)),
        &[figure("crashes", "", Less, Some(0.0), Some(0.0)), figure("lost_writes", "", Less, Some(0.0), Some(0.0))],
    ).vital(),
    row(
        ("E2", "the database is restarted", "the server finds it again, without a restart of its own"),
        (Data, &[OwnPostgres], (7, 11)),
        &[figure("recovered", "s", Less, Some(10.0), Some(10.0))],
    ),
    row(
        ("E3", "a pattern that never ends", "programs and hosts that never answer are ended at their limit"),
        (Performance, NONE, (5, 5)),
        &[],
    ),
    row(
        ("E4", "a circuit breaker", "it opens, half-opens and closes, and the metrics say so"),
        (Data, &[OwnRedis], (3, 3)),
        &[],
    ),
    row(
        ("E5", "part of a hybrid fails; nothing matches", "a partial answer is marked; candidates and related memories are handed back"),
        (Protocol, NONE, (2, 2)),
        &[],
    ),
];

const NONE: &[Need] = &[];

const fn figure(
    name: &'static str,
    unit: &'static str,
    better: super::scenario::Better,
    target: Option<f64>,
    critical: Option<f64>,
) -> FigureRow {
    FigureRow { name, unit, better, target, critical }
}

type Named = (&'static str, &'static str, &'static str);

const fn row(
    (id, title, what): Named,
    (area, needs, seconds): (super::scenario::Area, &'static [Need], (u32, u32)),
    figures: &'static [FigureRow],
) -> Row {
    Row {
        id,
        title,
        what,
        area,
        needs,
        figures,
        is_vital: false,
        is_of_any_server: false,
        is_full_only: false,
        seconds,
    }
}

impl Row {
    const fn vital(self) -> Self {
        Self { is_vital: true, ..self }
    }

    const fn of_any_server(self) -> Self {
        Self { is_of_any_server: true, ..self }
    }

    const fn full_only(self) -> Self {
        Self { is_full_only: true, ..self }
    }
}

/// The scenario called `id`, in any case of its letter.
#[must_use]
pub fn find(id: &str) -> Option<&'static Row> {
    static ROWS: [Row; 47] = SCENARIOS;
    ROWS.iter().find(|row| row.id.eq_ignore_ascii_case(id))
}

/// The scenarios that `patterns` name: an id, or the beginning of one and `*`. All of them where none is given.
///
/// # Errors
/// A pattern that names none.
pub fn chosen(patterns: &[String]) -> Result<Vec<&'static Row>, String> {
    static ROWS: [Row; 47] = SCENARIOS;
    let names = |pattern: &str, row: &Row| match pattern.strip_suffix('*') {
        Some(begin) => row.id.to_ascii_uppercase().starts_with(&begin.to_ascii_uppercase()),
        None => row.id.eq_ignore_ascii_case(pattern),
    };
    if let Some(unknown) = patterns.iter().find(|pattern| !ROWS.iter().any(|row| names(pattern, row))) {
        return Err(format!(
            "{unknown} names no scenario; they are called M1 to M9, W1 to W10, D1 to D8, R1 to R9, P1 to P6, E1 to E5, and `R*` is all of R"
        ));
    }
    Ok(ROWS
        .iter()
        .filter(|row| patterns.is_empty() || patterns.iter().any(|pattern| names(pattern, row)))
        .collect())
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
