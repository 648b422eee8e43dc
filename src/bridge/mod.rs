//! `tmws connect`: stdin and stdout on one side, a shared server on the other.
//!
//! One thread, one loop (`relay`), and no schema, store or vocabulary: of each frame only the members are read that
//! tell what it is and whom it answers (`message`). What a new connection must be told again stands in `ledger`. A
//! request that has left is never sent a second time: when its connection is lost, its caller is told so.

mod counted;
mod host;
pub(crate) mod http;
mod ledger;
mod message;
mod plan;
mod refusal;
mod relay;
pub(crate) mod target;
mod websocket;

use std::{ffi::OsString, rc::Rc, time::Duration};

use tokio::{runtime::Builder, task::LocalSet};
use tracing::{debug, error, warn};

pub use target::{Project, TOKEN_VARIABLE, TargetError};

use crate::{
    access,
    config::Config,
    dial::{self, Dialer},
    exit::Exit,
    telemetry,
};
use plan::Plan;
use relay::Relay;
use target::Target;

/// The header that names the agent.
const AGENT_HEADER: &str = "tmws-agent";
/// The second attempt to connect comes after so long, each further one after twice as long.
const BACK_OFF_MIN: Duration = Duration::from_millis(100);
const BACK_OFF_MAX: Duration = Duration::from_secs(5);

/// Joins the server at `url` until the end of input.
///
/// # Errors
/// The address cannot be used.
pub fn connect(
    url: &str,
    project: &Project,
    token: Option<OsString>,
    config: &Config,
) -> Result<Exit, TargetError> {
    let local_token = || {
        let found = access::local_token(config.data_folder.as_deref()?);
        found.inspect_err(|error| warn!(%error, "the local token is not used")).ok().flatten()
    };
    let plan = Plan::new(url, project, token, config, local_token)?;
    let target = plan.target()?;
    if target.exposes_token() {
        warn!(server = %target, "the token travels unencrypted: use wss:// or https://");
    }
    plan.start_anew();
    Ok(relay(target, &plan))
}

/// Goes on where [`connect`] started the program anew; `None` where it did not.
#[must_use]
pub fn resume() -> Option<Exit> {
    let plan = Plan::handed_over()?;
    let target = plan.target().ok()?;
    telemetry::start(&plan.log, plan.log_format).ok()?;
    Some(relay(target, &plan))
}

fn relay(target: Target, plan: &Plan) -> Exit {
    // Resolving a name is all that ever blocks.
    let runtime = Builder::new_current_thread().max_blocking_threads(1).enable_all().build();
    let relayed = runtime.and_then(|runtime| {
        let dialer = Rc::new(Dialer::new(target.tls)?);
        let ended = LocalSet::new()
            .block_on(&runtime, async { Relay::new(Rc::new(target), dialer, plan)?.run().await });
        runtime.shutdown_background();
        ended
    });
    match relayed {
        Ok(exit) => {
            debug!(?exit, "the bridge ended");
            exit
        }
        Err(error) => {
            error!(%error, "the bridge cannot work");
            Exit::Software
        }
    }
}

/// How long to wait before the attempt with this number, the first being 0: with jitter, so that the clients of a
/// server that starts again do not all come at once.
fn back_off(attempt: u32) -> Duration {
    if attempt == 0 {
        return Duration::ZERO;
    }
    let whole = BACK_OFF_MIN.saturating_mul(1 << (attempt - 1).min(16)).min(BACK_OFF_MAX);
    let mut random = [0; 1];
    // Without randomness there is no jitter, and nothing else is amiss.
    let _ = getrandom::fill(&mut random);
    whole / 2 + whole * u32::from(random[0]) / 512
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_come_ever_later_up_to_a_bound() {
        assert_eq!(back_off(0), Duration::ZERO);
        for (attempt, whole) in [(1, 100), (2, 200), (5, 1_600), (7, 5_000), (1_000, 5_000)] {
            let wait = back_off(attempt).as_millis();
            assert!((whole / 2..=whole).contains(&wait), "{attempt}: {wait} ms");
        }
    }
}
