//! P: of `src/accept/scenarios/speed`.

use std::{
    fmt::Write as _,
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use sqlx::{Connection as _, PgConnection};
use tmws::accept::stage::{Sabotage, Setup, Where};

use super::{Row, spoil};

/// What one call of a task is made into.
const TIMES: usize = 10;
/// Connections to a database that are none of the server's.
const STRANGERS: usize = 30;

pub(super) fn rows() -> Vec<Row> {
    vec![
        Row {
            id: "P1",
            how: "a proxy that holds each frame back for 15 ms stands before the server",
            red: &["matching_p95"],
            sabotage: Sabotage { clients: Some(spoil::late::<15>), ..Sabotage::default() },
            ..Row::default()
        },
        Row {
            id: "P2",
            how: "a proxy before the server lets nothing pass for 800 ms, again and again",
            red: &["p95", "p99"],
            sabotage: Sabotage { clients: Some(spoil::in_turns::<800>), ..Sabotage::default() },
            ..Row::default()
        },
        Row {
            id: "P3",
            how: "a proxy before the server holds each frame back for 200 ms while more than 8 connections are open",
            red: &["rate", "least"],
            sabotage: Sabotage { clients: Some(spoil::late_in_a_crowd::<8, 200>), ..Sabotage::default() },
            ..Row::default()
        },
        Row {
            id: "P4",
            how: "the server takes five calls a second of one principal",
            red: &["success"],
            sabotage: Sabotage {
                setup: Some(|setup, _| {
                    setup.is_unlimited = false;
                    spoil::setting(setup, "limits.calls_per_second", "5");
                    // What the workload is prepared with comes at once.
                    spoil::setting(setup, "limits.calls_burst", "350");
                }),
                ..Sabotage::default()
            },
            ..Row::default()
        },
        Row {
            id: "P5",
            how: "a third of the tasks is asked for, and they make their first call to TMWS ten times",
            red: &["median"],
            sabotage: Sabotage { task_set: Some(repeating), ..Sabotage::default() },
            ..Row::default()
        },
        Row {
            id: "P6",
            how: "thirty further connections are open to the server's database",
            red: &["database_connections"],
            sabotage: Sabotage { setup: Some(|setup, _| connect(setup)), ..Sabotage::default() },
            ..Row::default()
        },
    ]
}

/// A checkout in `empty` with some of the tasks, which make their first call many times.
fn repeating(found: &Path, empty: &Path) -> io::Result<PathBuf> {
    let folder = empty.join("compat/tokens");
    fs::create_dir_all(&folder)?;
    // Tasks name what they need by its place beside them.
    let checkout = found.ancestors().nth(2).unwrap_or(found);
    symlink(checkout.join("fixtures"), empty.join("fixtures"))?;
    for entry in fs::read_dir(found)? {
        let entry = entry?;
        if entry.file_name() != "tasks.toml" {
            symlink(entry.path(), folder.join(entry.file_name()))?;
        }
    }
    let mut text = String::new();
    let (mut tasks, all) = (0, fs::read_to_string(found.join("tasks.toml"))?);
    for line in all.lines() {
        tasks += usize::from(line == "[[task]]");
        // The middle of a third of them lies where that of all does.
        if !tasks.is_multiple_of(3) {
            continue;
        }
        let first = line.strip_prefix("b = ['execute_pattern").and_then(|rest| rest.split_once('\''));
        let _ = match first {
            Some((first, rest)) => {
                let calls = format!("'execute_pattern{first}', ").repeat(TIMES - 1);
                writeln!(text, "b = [{calls}'execute_pattern{first}'{rest}")
            }
            None => writeln!(text, "{line}"),
        };
    }
    fs::write(folder.join("tasks.toml"), text)?;
    Ok(folder)
}

/// Connects to the database of a server, until the database is removed.
fn connect(setup: &Setup) {
    let Where::Database(url) = setup.store.clone() else { return };
    tokio::spawn(async move {
        let mut open = Vec::new();
        while open.len() < STRANGERS {
            open.push(PgConnection::connect(&url).await.expect("the server has room for more"));
        }
        std::future::pending::<()>().await;
    });
}
