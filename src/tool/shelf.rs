//! The patterns of the process: loaded off the connection's thread when they are first needed, loaded again when a
//! file changed.

use std::{
    sync::{Arc, OnceLock, PoisonError, RwLock},
    time::{Duration, Instant},
};

use tokio::sync::{Mutex, broadcast};

use crate::{
    engine::{EngineError, ErrorKind, Patterns, Routed},
    pattern::{Effect, Mode, Pattern},
    protocol::ServerEvent,
    tool::{Audience, Change},
};

/// Where patterns come from. Every call may block.
pub trait PatternSource: Send + Sync + 'static {
    /// Everything that may run now, and what could not be loaded.
    fn load(&self) -> Loaded;

    /// A number that changes when any file that [`PatternSource::load`] reads changes.
    fn fingerprint(&self) -> u64;
}

/// What a source gave.
#[derive(Clone)]
pub struct Loaded {
    /// What may run.
    pub patterns: Arc<dyn Patterns>,
    /// What is wrong with the rest: one text each, with file and line, for people.
    pub faults: Arc<[String]>,
}

/// Files are looked at again for changes when a pattern is needed and the last look is older than this.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// The patterns in use. Nothing is read before [`Shelf::ready`].
pub struct Shelf {
    source: Arc<dyn PatternSource>,
    stock: RwLock<Option<Stock>>,
    /// One load at a time.
    loading: Mutex<()>,
    events: OnceLock<broadcast::Sender<Change>>,
    look_again: Duration,
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
            None => self.refresh().await,
            Some(looked) => {
                if looked.elapsed() >= self.look_again {
                    let again = Arc::clone(self);
                    tokio::spawn(async move { again.refresh().await });
                }
                Ok(())
            }
        }
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
            let fingerprint = source.fingerprint();
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
            }
        })?;
        for fault in loaded.iter().flat_map(|loaded| loaded.faults.iter()) {
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

/// What clients can see of the patterns.
fn seen(patterns: &dyn Patterns) -> Vec<(String, String)> {
    patterns.all().iter().map(|pattern| (pattern.name.clone(), pattern.hash.clone())).collect()
}

impl Patterns for Shelf {
    fn named(&self, name: &str) -> Option<Arc<Pattern>> {
        self.stock()?.loaded.patterns.named(name)
    }

    fn all(&self) -> Vec<Arc<Pattern>> {
        self.stock().map(|stock| stock.loaded.patterns.all()).unwrap_or_default()
    }

    fn route(&self, query: &str, mode: Mode, admits: &dyn Fn(&Pattern) -> bool) -> Routed {
        match self.stock() {
            Some(stock) => stock.loaded.patterns.route(query, mode, admits),
            None => Routed::Candidates(Vec::new()),
        }
    }

    fn ranked(&self, query: &str) -> Vec<Arc<Pattern>> {
        self.stock().map(|stock| stock.loaded.patterns.ranked(query)).unwrap_or_default()
    }
}
