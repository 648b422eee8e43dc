//! `tmws serve`: what keeps it from serving, as a person reads it.

use super::Failure;
use crate::{config::Config, exit::Exit, serve};

/// Serves until a signal.
///
/// # Errors
/// Why nobody was served.
pub(super) fn run(config: &Config) -> Result<Exit, Failure> {
    serve::shared(config).map(|()| Exit::Ok).map_err(|error| {
        let failure = Failure::new(Exit::from(&error), "serve", error.to_string());
        match error.hint() {
            Some(hint) => failure.with_hint(hint),
            None => failure,
        }
    })
}
