//! Whether the server is ready, and what it depends on.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use serde_json::{Map, Value, json};
use tokio::{sync::Mutex, time::timeout};

use crate::{
    scope::{ProjectId, Scope},
    store::{SharedStore, StoreError},
};

/// Whoever asks again within so long is told the same: probes do not load what they look at.
const KEPT: Duration = Duration::from_secs(1);
/// A dependency that says nothing for so long is not well.
const CHECK_MAX: Duration = Duration::from_millis(500);
const SILENT: &str = "it does not answer";

/// Something that the server cannot do without, or not do well.
#[async_trait]
pub trait Dependency: Send + Sync {
    /// Its name in reports: lower-case words with `_`.
    fn name(&self) -> &'static str;

    /// Whether nothing can be served without it; else the server is degraded without it.
    fn is_essential(&self) -> bool;

    /// Looks at it, cheaply.
    ///
    /// # Errors
    /// What is wrong with it, for everybody to read: no secrets, no paths.
    async fn check(&self) -> Result<(), String>;
}

/// How something stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// All is well.
    Ready,
    /// Not all that is served can be.
    Degraded,
    /// Nothing can be served.
    Unavailable,
}

impl Standing {
    /// As written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::Unavailable => "unavailable",
        }
    }
}

/// What was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The worst of all.
    pub standing: Standing,
    /// Each dependency with its reason, where it is not well.
    pub dependencies: Vec<(&'static str, Standing, Option<String>)>,
}

impl Report {
    /// The same as JSON: `{"status": …, "dependencies": {name: {"status": …, "reason"?}}}`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let dependencies: Map<String, Value> = self
            .dependencies
            .iter()
            .map(|(name, standing, reason)| {
                let mut told = json!({"status": standing.as_str()});
                if let Some(reason) = reason {
                    told["reason"] = json!(reason);
                }
                ((*name).to_owned(), told)
            })
            .collect();
        json!({"status": self.standing.as_str(), "dependencies": dependencies})
    }
}

/// All dependencies of one server.
#[derive(Default)]
pub struct Health {
    dependencies: Vec<Box<dyn Dependency>>,
    /// The last report. Who asks while it is made waits for it.
    last: Mutex<Option<(Instant, Arc<Report>)>>,
}

impl Health {
    /// The same with one more.
    #[must_use]
    pub fn with(mut self, dependency: impl Dependency + 'static) -> Self {
        self.dependencies.push(Box::new(dependency));
        self
    }

    /// How all stand; at most a second old.
    pub async fn report(&self) -> Arc<Report> {
        let mut last = self.last.lock().await;
        if let Some((made, report)) = &*last
            && made.elapsed() < KEPT
        {
            return Arc::clone(report);
        }
        let mut dependencies = Vec::with_capacity(self.dependencies.len());
        for dependency in &self.dependencies {
            let found = match timeout(CHECK_MAX, dependency.check()).await {
                Ok(found) => found,
                Err(_) => Err(SILENT.to_owned()),
            };
            let standing = match (&found, dependency.is_essential()) {
                (Ok(()), _) => Standing::Ready,
                (Err(_), false) => Standing::Degraded,
                (Err(_), true) => Standing::Unavailable,
            };
            dependencies.push((dependency.name(), standing, found.err()));
        }
        let standing = dependencies.iter().map(|(_, standing, _)| *standing).max().unwrap_or(Standing::Ready);
        let report = Arc::new(Report { standing, dependencies });
        *last = Some((Instant::now(), Arc::clone(&report)));
        report
    }
}

/// A dependency that tells at once.
pub struct Checked {
    name: &'static str,
    is_essential: bool,
    check: Box<dyn Fn() -> Result<(), String> + Send + Sync>,
}

impl Checked {
    /// Without it nothing is served.
    pub fn essential(
        name: &'static str,
        check: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        Self { name, is_essential: true, check: Box::new(check) }
    }

    /// Without it less is served.
    pub fn helpful(
        name: &'static str,
        check: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        Self { name, is_essential: false, check: Box::new(check) }
    }
}

#[async_trait]
impl Dependency for Checked {
    fn name(&self) -> &'static str {
        self.name
    }

    fn is_essential(&self) -> bool {
        self.is_essential
    }

    async fn check(&self) -> Result<(), String> {
        (self.check)()
    }
}

/// The store: without it patterns that need no memory are still served.
pub struct StoreCheck {
    store: SharedStore,
    scope: Scope,
}

impl StoreCheck {
    /// A look at `store`.
    #[must_use]
    pub fn new(store: SharedStore) -> Self {
        Self { store, scope: Scope::mint(ProjectId::personal(), "health", "health", None) }
    }
}

#[async_trait]
impl Dependency for StoreCheck {
    fn name(&self) -> &'static str {
        "store"
    }

    fn is_essential(&self) -> bool {
        false
    }

    async fn check(&self) -> Result<(), String> {
        let reads_and_writes = async {
            self.store.generation(&self.scope).await?;
            self.store.check().await
        };
        reads_and_writes.await.map_err(|error| without_path(&error).to_owned())
    }
}

/// What is wrong with the store: its own text names the file, which is for its users.
const fn without_path(error: &StoreError) -> &'static str {
    match error {
        StoreError::Locked => "it is locked by another process",
        StoreError::Busy => "too many calls wait for it",
        StoreError::ReadOnly { .. } => "it is read-only",
        StoreError::Corrupt { .. } => "it is damaged or no TMWS store",
        StoreError::NewerVersion { .. } => "a newer tmws wrote it",
        StoreError::Unsuitable { .. } => "it is too old, or misses what it needs",
        StoreError::LoginRefused { .. } => "it refuses the role or the password that it is given",
        StoreError::DiskFull { .. } => "its disk is full",
        StoreError::Unavailable { .. } => "it cannot be opened or reached",
        StoreError::Invalid { .. } | StoreError::UnknownHandle | StoreError::Internal(_) => {
            "it failed unexpectedly; the server's log has the details"
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    struct Silent;

    #[async_trait]
    impl Dependency for Silent {
        fn name(&self) -> &'static str {
            "silent"
        }

        fn is_essential(&self) -> bool {
            false
        }

        async fn check(&self) -> Result<(), String> {
            std::future::pending().await
        }
    }

    #[tokio::test]
    async fn the_worst_dependency_decides_and_reports_are_kept() {
        let looks = Arc::new(AtomicUsize::new(0));
        let looked = Arc::clone(&looks);
        let well = Checked::essential("well", move || {
            looked.fetch_add(1, Ordering::Relaxed);
            Ok(())
        });
        let health = Health::default().with(well).with(Checked::helpful("ill", || Err("no".to_owned())));
        let report = health.report().await;
        assert_eq!(
            report.to_json(),
            json!({"status": "degraded", "dependencies": {
                "well": {"status": "ready"}, "ill": {"status": "degraded", "reason": "no"},
            }})
        );
        health.report().await;
        assert_eq!(looks.load(Ordering::Relaxed), 1, "the second report is the first");
        let health = Health::default()
            .with(Checked::helpful("ill", || Err("no".to_owned())))
            .with(Checked::essential("dead", || Err("gone".to_owned())));
        assert_eq!(health.report().await.standing, Standing::Unavailable);
        assert_eq!(Health::default().report().await.standing, Standing::Ready);
    }

    #[tokio::test]
    async fn what_does_not_answer_is_not_waited_for() {
        let report = Health::default().with(Silent).report().await;
        assert_eq!(report.dependencies, [("silent", Standing::Degraded, Some(SILENT.to_owned()))]);
    }
}
