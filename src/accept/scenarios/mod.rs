//! The scenarios: one file a letter. None looks inside of the process under test.

mod cache;
mod data;
mod failure;
mod many;
mod speed;
mod wire;

use super::{
    scenario::{Broken, Row, Seen},
    stage::Stage,
};

/// Runs the scenario of a row. What it saw until then is kept where it breaks off.
///
/// # Errors
/// What broke it off.
pub(super) async fn run(row: &'static Row, stage: &Stage, seen: &mut Seen) -> Result<(), Broken> {
    match row.id.as_bytes().first() {
        Some(b'M') => many::run(row, stage, seen).await,
        Some(b'W') => wire::run(row, stage, seen).await,
        Some(b'D') => data::run(row, stage, seen).await,
        Some(b'R') => cache::run(row, stage, seen).await,
        Some(b'P') => speed::run(row, stage, seen).await,
        _ => failure::run(row, stage, seen).await,
    }
}
