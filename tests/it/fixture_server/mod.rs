//! The fixture service (`compat/fixture`) over the real driver, core and gate: whatever it answers is valid in every
//! revision, and says what the conformance suite and the recorded conversations expect.

mod answers;
mod asking;
mod peer;
mod tasks;

#[path = "../../../compat/fixture/mod.rs"]
mod fixture;

use super::network::{Server, Setup};
use fixture::Fixture;

async fn server() -> Server {
    Server::with(Setup { service: Some(Fixture::new()), ..Setup::default() }).await
}
