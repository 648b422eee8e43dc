//! E: What fails, and what becomes of it.

mod breaker;
mod endless;
mod look;
mod partial;
mod store;

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
        "E1" => store::lost(stage, seen).await,
        "E2" => store::back(stage, seen).await,
        "E3" => endless::ended(stage, seen).await,
        "E4" => breaker::cycle(stage, seen).await,
        "E5" => partial::marked(stage, seen).await,
        _ => Err(Broken::new(row.title, "a scenario", "this release does not run it")),
    }
}
