//! The patterns of the process: loaded off the connection's thread when they are first needed, loaded again when a
//! file changed.
//!
//! Files are looked at, not watched: a look costs some tens of microseconds and nothing between two looks, works on
//! every file system, and finds what an editor renamed, a folder that was made again and a link that leads elsewhere
//! alike. Watching would take a thread and one of the few inotify instances of a user in each process, of which a user of
//! many agents has many.

use std::{
    sync::{
        Arc, OnceLock, PoisonError, RwLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{Mutex, broadcast};

use crate::{
    engine::{EngineError, ErrorKind, Patterns, Routed},
    pattern::{
        Effect, Mode, Pattern,
        router::{Among, Explanation},
    },
    protocol::ServerEvent,
    tool::{Audience, Change, Promoted},
};

/// Where patterns come from. Every call may block.
pub trait PatternSource: Send + Sync + 'static {
    /// Everything that may run now, and what could not be loaded.
    fn load(&self) -> Loaded;

    /// A number that changes when any file that [`PatternSource::load`] reads changes.
    fn fingerprint(&self) -> u64;

    /// Whether any pattern is to be a tool of its own: the list of tools waits for the patterns then.
    fn promotes(&self) -> bool {
        false
    }
}

/// What a source gave.
#[derive(Clone)]
pub struct Loaded {
    /// What may run.
    pub patterns: Arc<dyn Patterns>,
    /// Those of them that are tools of their own, in the order configured.
    pub promoted: Arc<[Promoted]>,
    /// What is wrong with the rest: one text each, with file and line, for people.
    pub faults: Arc<[String]>,
}

/// Files are looked at again for changes when a pattern is needed and the last look is older than this.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Files that change are left alone until they stay the same for so long, so that a storm of changes is one.
const SETTLE: Duration = Duration::from_millis(50);
/// After so many looks at files that never stay the same they are read as they are.
const SETTLE_LOOKS_MAX: usize = 20;
/// Shortest pause between two looks that nobody asked for.
const WATCH_PAUSE_MIN: Duration = Duration::from_millis(10);

/// The patterns in use. Nothing is read before [`Shelf::ready`].
pub struct Shelf {
    source: Arc<dyn PatternSource>,
    stock: RwLock<Option<Stock>>,
    /// One load at a time.
    loading: Mutex<()>,
    events: OnceLock<broadcast::Sender<Change>>,
    look_again: Duration,
    is_watching: AtomicBool,
}

#[derive(Clone)]
struct Stock {
    loaded: Loaded,
    fingerprint: u64,
    looked: Instant,
}

impl Shelf {
    /// An empty shelf in front of `source`.
    #[must_use]
    pub fn new(source: Arc<dyn PatternSource>) -> Arc<Self> {
        Self::looking_again_after(LOOK_AGAIN, source)
    }

    /// An empty shelf that looks for changes when the last look is older than `look_again`.
    #[must_use]
    pub fn looking_again_after(look_again: Duration, source: Arc<dyn PatternSource>) -> Arc<Self> {
        Arc::new(Self {
            look_again,
            source,
            stock: RwLock::default(),
            loading: Mutex::default(),
            events: OnceLock::new(),
            is_watching: AtomicBool::new(false),
        })
    }

    /// Changes are told to `events`.
    pub fn announce_to(&self, events: broadcast::Sender<Change>) {
        // A second service on the same shelf would not be told; there is one a process.
        let _ = self.events.set(events);
    }

    /// Waits until the patterns are loaded, once; later calls are ready at once and only look for changes now and then,
    /// in the background.
    ///
    /// # Errors
    /// `internal` where loading panicked.
    pub async fn ready(self: &Arc<Self>) -> Result<(), EngineError> {
        let looked = self.stock().map(|stock| stock.looked);
        match looked {
            None => {
                self.refresh().await?;
                self.watch();
                Ok(())
            }
            Some(looked) => {
                if looked.elapsed() >= self.look_again {
                    let again = Arc::clone(self);
                    tokio::spawn(async move { again.refresh().await });
                }
                Ok(())
            }
        }
    }

    /// From now on looks for changes where somebody listens for them, for as long as there is this shelf.
    fn watch(self: &Arc<Self>) {
        if self.events.get().is_none() || self.is_watching.swap(true, Ordering::Relaxed) {
            return;
        }
        let pause = self.look_again.max(WATCH_PAUSE_MIN);
        let held: Weak<Self> = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(pause).await;
                let Some(own) = held.upgrade() else { return };
                let is_heard = own.events.get().is_some_and(|events| events.receiver_count() > 0);
                if is_heard && let Err(error) = own.refresh().await {
                    tracing::warn!(error = error.message, "changes of patterns were not looked for");
                }
            }
        });
    }

    /// The patterns that a model may run, by name.
    ///
    /// # Errors
    /// As [`Shelf::ready`].
    pub async fn readable(self: &Arc<Self>) -> Result<Vec<Arc<Pattern>>, EngineError> {
        self.ready().await?;
        Ok(self.all().into_iter().filter(|pattern| pattern.effect == Effect::ReadOnly).collect())
    }

    /// Loads the patterns if they never were or if a file changed, and tells who listens.
    ///
    /// # Errors
    /// As [`Shelf::ready`].
    pub async fn refresh(self: &Arc<Self>) -> Result<(), EngineError> {
        let _one = self.loading.lock().await;
        let before = self.stock();
        // Whoever waited for the lock finds the work done.
        if before.as_ref().is_some_and(|stock| stock.looked.elapsed() < self.look_again) {
            return Ok(());
        }
        let source = Arc::clone(&self.source);
        let known = before.as_ref().map(|stock| stock.fingerprint);
        let (fingerprint, loaded) = tokio::task::spawn_blocking(move || {
            let mut fingerprint = source.fingerprint();
            if known.is_some_and(|known| known != fingerprint) {
                fingerprint = settled(&*source, fingerprint);
            }
            let loaded = (known != Some(fingerprint)).then(|| source.load());
            (fingerprint, loaded)
        })
        .await
        .map_err(|error| {
            tracing::error!(%error, "loading patterns failed");
            EngineError {
                kind: ErrorKind::Internal,
                message: "the patterns could not be loaded; the server's log has the details".to_owned(),
                part: None,
                retry_after: None,
                receipt: None,
            }
        })?;
        // What was said at an earlier load is not said again.
        let said: &[String] = before.as_ref().map_or(&[], |stock| &stock.loaded.faults);
        for fault in
            loaded.iter().flat_map(|loaded| loaded.faults.iter()).filter(|fault| !said.contains(fault))
        {
            tracing::warn!(fault, "a pattern was not loaded");
        }
        let changed = match (&before, &loaded) {
            (Some(before), Some(after)) => seen(&*before.loaded.patterns) != seen(&*after.patterns),
            _ => false,
        };
        if let Some(loaded) = loaded.or_else(|| before.map(|stock| stock.loaded)) {
            let stock = Stock { loaded, fingerprint, looked: Instant::now() };
            *self.stock.write().unwrap_or_else(PoisonError::into_inner) = Some(stock);
        }
        if changed {
            self.announce();
        }
        Ok(())
    }

    /// Whether any pattern is to be a tool of its own.
    pub fn promotes(&self) -> bool {
        self.source.promotes()
    }

    /// The patterns that are tools of their own, in the order configured, as of the last load.
    pub fn promoted(&self) -> Arc<[Promoted]> {
        self.stock().map_or_else(|| Arc::from([]), |stock| stock.loaded.promoted)
    }

    /// What could not be loaded, as of the last load.
    pub fn faults(&self) -> Arc<[String]> {
        self.stock().map_or_else(|| Arc::from([]), |stock| stock.loaded.faults)
    }

    fn announce(&self) {
        tracing::info!("patterns were loaded again");
        for event in [ServerEvent::ToolsChanged, ServerEvent::PromptsChanged, ServerEvent::ResourcesChanged] {
            if let Some(events) = self.events.get() {
                // No listener is no fault.
                let _ = events.send(Change { audience: Audience::Everyone, event });
            }
        }
    }

    fn stock(&self) -> Option<Stock> {
        self.stock.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The fingerprint of `source` once it stays the same. Blocks.
fn settled(source: &dyn PatternSource, mut fingerprint: u64) -> u64 {
    for _ in 0..SETTLE_LOOKS_MAX {
        std::thread::sleep(SETTLE);
        let now = source.fingerprint();
        if now == fingerprint {
            break;
        }
        fingerprint = now;
    }
    fingerprint
}

/// What clients can see of the patterns.
fn seen(patterns: &dyn Patterns) -> Vec<(String, String)> {
    patterns.all().iter().map(|pattern| (pattern.name.clone(), pattern.hash.clone())).collect()
}

impl Patterns for Shelf {
    fn named(&self, name: &str) -> Option<Arc<Pattern>> {
        self.stock()?.loaded.patterns.named(name)
    }

    fn versions(&self, name: &str) -> Vec<Arc<Pattern>> {
        self.stock().map(|stock| stock.loaded.patterns.versions(name)).unwrap_or_default()
    }

    fn all(&self) -> Vec<Arc<Pattern>> {
        self.stock().map(|stock| stock.loaded.patterns.all()).unwrap_or_default()
    }

    fn route(&self, query: &str, mode: Mode, among: Among<'_>) -> Routed {
        match self.stock() {
            Some(stock) => stock.loaded.patterns.route(query, mode, among),
            None => Routed::Candidates(Vec::new()),
        }
    }

    fn ranked(&self, query: &str) -> Vec<Arc<Pattern>> {
        self.stock().map(|stock| stock.loaded.patterns.ranked(query)).unwrap_or_default()
    }

    fn explain(&self, query: &str, mode: Mode, among: Among<'_>) -> Option<Explanation> {
        self.stock()?.loaded.patterns.explain(query, mode, among)
    }
}
