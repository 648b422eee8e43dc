//! W: What goes over the wire.

mod both;
mod ending;
mod gate;
mod isolation;
mod legacy;
mod malformed;
mod malformed_table;
mod modern;
mod peer;
mod raw;
mod recorded;
mod refused;
mod stalled;
mod together;

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
        "W1" => legacy::run(stage, seen).await,
        "W2" => modern::run(stage, seen).await,
        "W3" => both::run(stage, seen).await,
        "W4" => together::run(stage, seen).await,
        "W5" => isolation::run(stage, seen).await,
        "W6" => recorded::run(stage, seen).await,
        "W7" => malformed::run(stage, seen).await,
        "W8" => stalled::run(stage, seen).await,
        "W9" => ending::run(stage, seen).await,
        "W10" => refused::run(stage, seen).await,
        _ => Err(Broken::new(row.title, "a scenario", "this release does not run it")),
    }
}
