//! Keys that nobody can guess.

use std::io;

/// 32 bytes of the system's randomness.
///
/// # Errors
/// Where the system has none.
pub fn key() -> io::Result<[u8; 32]> {
    let mut key = [0; 32];
    getrandom::fill(&mut key).map_err(io::Error::other)?;
    Ok(key)
}
