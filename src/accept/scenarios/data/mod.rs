//! D: What is kept.
//!
//! Everything is seen from outside: answers of the server, rows of the database, bytes of the file.

mod alike;
mod broken_off;
mod isolation;
mod migration;
mod newer;
mod pool;
mod probe;
mod recall;
mod search;
mod seed;
mod sql;

use crate::accept::{
    scenario::{Broken, Row, Seen},
    stage::Stage,
};

/// Runs one of them.
///
/// # Errors
/// What broke it off.
pub(super) async fn run(row: &'static Row, stage: &Stage, seen: &mut Seen) -> Result<(), Broken> {
    match row.id {
        "D1" => search::many_at_once(stage, seen).await,
        "D2" => search::index_is_used(stage, seen).await,
        "D3" => isolation::run(stage, seen).await,
        "D4" => broken_off::run(stage, seen).await,
        "D5" => pool::run(stage, seen).await,
        "D6" => migration::run(stage, seen).await,
        "D7" => newer::run(stage, seen).await,
        "D8" => alike::run(stage, seen).await,
        _ => Err(Broken::new(row.title, "a scenario", "this release does not run it")),
    }
}
