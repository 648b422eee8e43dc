//! What several sabotages do.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::Value;
use tmws::accept::{
    client::Target,
    metrics::get,
    proxy::{Proxy, Way},
    stage::{ADMIN, Setup},
};

/// Everything passes so many milliseconds later, in each direction.
pub(crate) fn late<const MILLISECONDS: u64>(proxy: &Arc<Proxy>, _: usize) {
    proxy.delay(Duration::from_millis(MILLISECONDS));
}

/// Nothing passes for so many milliseconds, then everything for as many, and so on.
pub(crate) fn in_turns<const MILLISECONDS: u64>(proxy: &Arc<Proxy>, _: usize) {
    let proxy = Arc::downgrade(proxy);
    tokio::spawn(async move {
        let mut turns = tokio::time::interval(Duration::from_millis(MILLISECONDS));
        let mut is_frozen = false;
        loop {
            turns.tick().await;
            let Some(proxy) = proxy.upgrade() else { return };
            proxy.freeze(is_frozen);
            is_frozen = !is_frozen;
        }
    });
}

/// A setting of a server, over the one that its scenario gave.
pub(crate) fn setting(setup: &mut Setup, name: &'static str, value: &str) {
    setup.settings.retain(|(known, _)| *known != name);
    setup.settings.push((name, value.to_owned()));
}

/// Replaces `from` by `to`, which is as long, in what comes from a server.
pub(crate) fn replace_in_answers(proxy: &Proxy, from: &'static str, to: &'static str) {
    replace_where(proxy, Way::Back, "", from, to);
}

/// Replaces `from` by `to`, which is as long, in the pieces that go one way and hold `mark`.
pub(crate) fn replace_where(
    proxy: &Proxy,
    changed: Way,
    mark: &'static str,
    from: &'static str,
    to: &'static str,
) {
    assert_eq!(from.len(), to.len(), "frames say how long they are");
    proxy.edit(Some(Arc::new(move |way, piece: &mut Vec<u8>| {
        if way == changed && holds(piece, mark) {
            replace(piece, from.as_bytes(), to.as_bytes());
        }
    })));
}

/// Whether `piece` holds `text`.
pub(crate) fn holds(piece: &[u8], text: &str) -> bool {
    text.is_empty() || piece.windows(text.len()).any(|window| window == text.as_bytes())
}

/// Replaces `from` by `to`, which is as long: how often.
pub(crate) fn replace(piece: &mut [u8], from: &[u8], to: &[u8]) -> usize {
    let mut replaced = 0;
    let mut at = 0;
    while let Some(found) = piece[at..].windows(from.len()).position(|window| window == from) {
        at += found;
        piece[at..at + to.len()].copy_from_slice(to);
        at += to.len();
        replaced += 1;
    }
    replaced
}

/// Replaces `from` by `to` in the pattern of that name, where a server has it.
pub(crate) fn in_pattern(setup: &mut Setup, name: &str, from: &str, to: &str) {
    let file = format!("{name}.yaml");
    for (_, text) in setup.patterns.iter_mut().filter(|(known, _)| *known == file) {
        assert!(text.contains(from), "{name} says {from:?}");
        *text = text.replace(from, to);
    }
}

/// A moment after which a sabotage looks again.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Everything passes so many milliseconds later, in each direction, while more than `CONNECTIONS` are open.
pub(crate) fn late_in_a_crowd<const CONNECTIONS: usize, const MILLISECONDS: u64>(
    proxy: &Arc<Proxy>,
    _: usize,
) {
    let crowded = Arc::downgrade(proxy);
    proxy.hold(Some(Arc::new(move |_, _| {
        let is_crowded = crowded.upgrade().is_some_and(|proxy| proxy.open() > CONNECTIONS);
        Duration::from_millis(if is_crowded { MILLISECONDS } else { 0 })
    })));
}

/// Once all that was open has ended, nobody gets through for so many seconds.
pub(crate) fn closed_once_ended<const SECONDS: u64>(proxy: &Arc<Proxy>, _: usize) {
    let (mut was_open, mut until) = (false, None);
    watch(proxy, move |proxy| match until {
        None => {
            was_open |= proxy.open() > 0;
            if was_open && proxy.open() == 0 {
                proxy.close(true);
                until = Some(Instant::now() + Duration::from_secs(SECONDS));
            }
            false
        }
        Some(until) if Instant::now() < until => false,
        Some(_) => {
            proxy.close(false);
            true
        }
    });
}

/// Looks at a proxy again and again, until it is gone or `is_done`.
fn watch(proxy: &Arc<Proxy>, mut is_done: impl FnMut(&Proxy) -> bool + Send + 'static) {
    let proxy = Arc::downgrade(proxy);
    tokio::spawn(async move {
        while let Some(proxy) = proxy.upgrade() {
            if is_done(&proxy) {
                return;
            }
            drop(proxy);
            tokio::time::sleep(LOOK_EVERY).await;
        }
    });
}

/// What a server says of its Redis is heard by all within this.
const HEARD: Duration = Duration::from_millis(700);

/// Ends the connections of all clients soon after the server says of its Redis that it is gone.
pub(crate) fn cut_without_redis(proxy: &Arc<Proxy>, _: usize) {
    let url = format!("http://{}/", proxy.address());
    let target = Target::parse(&url, Some(ADMIN.token())).expect("an address with a port");
    let proxy = Arc::downgrade(proxy);
    tokio::spawn(async move {
        for awaited in ["ready", "degraded"] {
            while redis_of(&target).await.as_deref() != Some(awaited) {
                if proxy.upgrade().is_none() {
                    return;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        // Who else asks for it hears it first.
        tokio::time::sleep(HEARD).await;
        if let Some(proxy) = proxy.upgrade() {
            proxy.cut();
        }
    });
}

/// What a server says of its Redis.
async fn redis_of(target: &Target) -> Option<String> {
    let (_, text) = get(target, "/readyz").await.ok()?;
    let told: Value = serde_json::from_str(&text).ok()?;
    Some(told["dependencies"]["redis"]["status"].as_str()?.to_owned())
}

/// Of each seven times that Redis tells of changes three come so many milliseconds later.
pub(crate) fn late_news<const MILLISECONDS: u64>(proxy: &Proxy) {
    let told = AtomicUsize::new(0);
    proxy.hold(Some(Arc::new(move |way, piece| {
        let is_news = way == Way::Back && holds(piece, "invalidate");
        let is_held = is_news && told.fetch_add(1, Ordering::Relaxed) % 7 < 3;
        Duration::from_millis(if is_held { MILLISECONDS } else { 0 })
    })));
}
