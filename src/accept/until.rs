//! Waiting for what can only be looked at.

use std::time::{Duration, Instant};

use super::scenario::Broken;

/// Looks every so often until what is seen `holds`, at longest `within`: what was seen last, and whether it held.
///
/// # Errors
/// Looking failed.
pub async fn until<T>(
    within: Duration,
    every: Duration,
    mut look: impl AsyncFnMut() -> Result<T, Broken>,
    mut holds: impl FnMut(&T) -> bool,
) -> Result<(T, bool), Broken> {
    let begun = Instant::now();
    loop {
        let seen = look().await?;
        let held = holds(&seen);
        if held || begun.elapsed() > within {
            return Ok((seen, held));
        }
        tokio::time::sleep(every).await;
    }
}
