//! What signals do to a shared server: SIGTERM and SIGINT end it, SIGHUP has the tokens read again.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{MissedTickBehavior, interval, timeout},
};
use tracing::info;

use crate::{audit::Event, transport::Host};

/// So often the tokens' file is looked at, and the tokens' time.
const LOOK: Duration = Duration::from_secs(1);

/// The signals that end the server, from the moment that this was made.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on they no longer end the process.
    pub(super) fn watch() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// The first signal: no new work, calls may answer. After the limit, or at the second: everything is cut off.
    pub(super) async fn end(mut self, host: Arc<Host>) {
        self.next().await;
        let limit = host.network_limits.shutdown;
        info!(?limit, "ending: calls in flight may still answer; a second signal cuts them off");
        host.stopping.cancel();
        host.hub.wake_all();
        let _ = timeout(limit, self.next()).await;
        host.cut_off.cancel();
        host.hub.wake_all();
    }
}

/// SIGHUP, from the moment that this was made.
pub(super) struct Hangups(Signal);

impl Hangups {
    /// From now on it no longer ends the process.
    pub(super) fn watch() -> io::Result<Self> {
        Ok(Self(signal(SignalKind::hangup())?))
    }

    /// Has the tokens read again and the audit log opened again at each SIGHUP, the tokens whenever their file changes too; wakes the connections of those that are
    /// good no more. Until the server ends.
    pub(super) async fn refresh_tokens(mut self, host: Arc<Host>) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let anyway = tokio::select! {
                () = host.stopping.cancelled() => return,
                _ = looks.tick(), if host.access.needs_token() => false,
                _ = self.0.recv() => true,
            };
            if anyway && let Some(audit) = &host.audit {
                audit.reopen();
            }
            // A look is one `stat`; what is read is small and changes seldom.
            let reads = host.access.reads();
            if host.access.refresh(anyway) {
                host.hub.wake_all();
            }
            if let Some(audit) = &host.audit
                && host.access.reads() > reads
            {
                audit.note(Event::TokensReloaded { succeeded: host.access.degraded().is_none() });
            }
        }
    }
}
