//! The steps, one module a family. What each takes is its row in [`STEPS`](crate::pattern::STEPS); what each gives is
//! said at the top of its module.

mod arguments;
mod control;
mod data;
pub mod exec;
mod family;
pub mod fs;
pub mod git;
pub mod http;
mod lanes;
pub mod llm;
pub mod mcp;
mod memory;
mod parse;
mod process;
mod server;
mod session;
mod span;
pub mod sql;

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

use self::lanes::Lanes;
use super::{Asker, EngineError, ErrorKind, MemoryListener, Outside};
use crate::{
    pattern::{Family, Permissions, StepRow},
    resilience::{BackendKind, Shut},
    scope::Scope,
    store::SharedStore,
};

pub(super) use control::{Foreach, first_case};
pub(super) use data::clip as data_clip;
pub(super) use fs::{has_path, newest};
pub(super) use git::head::head as git_head;
pub(super) use span::traced;

/// So long before its deadline a step may end what it waits for, so that its own typed answer still arrives.
pub(super) const ENDS_EARLY: Duration = Duration::from_millis(10);

/// What surrounds one step.
#[derive(Clone)]
pub struct StepContext {
    /// Whose run it is.
    pub scope: Scope,
    /// The store, opened when first used.
    pub store: SharedStore,
    /// Told of memories that the step touches.
    pub listener: Option<Arc<dyn MemoryListener>>,
    /// Roots that the pattern's permissions grant: canonical path as the expression sees it, and the directory.
    pub roots: BTreeMap<String, PathBuf>,
    /// What the pattern may touch.
    pub permissions: Arc<Permissions>,
    /// Ways out of the process.
    pub outside: Arc<Outside>,
    /// Asks whoever made the call.
    pub asker: Arc<dyn Asker>,
    /// Names the step within the run, places in loops included.
    pub id: String,
    /// The time of the run.
    pub now: Timestamp,
    /// When the step must have ended.
    pub deadline: Instant,
    /// Cancelled when the run is.
    pub cancel: CancellationToken,
    /// Bytes that the step may still produce.
    pub bytes_max: usize,
}

/// What a step produced.
#[derive(Clone, Debug, PartialEq)]
pub struct StepOutput {
    /// Seen by expressions as `.steps.<id>`.
    pub value: Value,
    /// Bytes it read or produced on the way, for the receipt.
    pub bytes: u64,
}

impl StepOutput {
    /// A value that was made, not read: its bytes are those of its JSON.
    #[must_use]
    pub fn of(value: Value) -> Self {
        let bytes = json_bytes(&value) as u64;
        Self { value, bytes }
    }
}

/// Why a step failed: data for `on_error: continue`, else the end of the run.
#[derive(Clone, Debug, PartialEq)]
pub struct StepError {
    /// The code.
    pub kind: ErrorKind,
    /// What happened, where, what to do. No secret, no foreign data.
    pub message: String,
    /// Worth trying again after so long.
    pub retry_after: Option<Duration>,
}

impl StepError {
    /// An error.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), retry_after: None }
    }

    /// The same, worth trying again after so long.
    #[must_use]
    pub fn again_after(self, retry_after: Option<Duration>) -> Self {
        Self { retry_after, ..self }
    }

    /// The error of a run that ended with step `id`.
    #[must_use]
    pub fn into_engine_error(self, id: &str) -> EngineError {
        EngineError {
            kind: self.kind,
            message: self.message,
            part: Some(id.to_owned()),
            retry_after: self.retry_after,
            receipt: None,
        }
    }
}

impl From<Shut> for StepError {
    fn from(shut: Shut) -> Self {
        let kind = match shut.backend.kind {
            _ if shut.is_busy => ErrorKind::Busy,
            BackendKind::Database | BackendKind::Redis => ErrorKind::StoreUnavailable,
            BackendKind::Model => ErrorKind::Busy,
            BackendKind::Source | BackendKind::Server | BackendKind::Host => ErrorKind::ProgramFailed,
        };
        Self::new(kind, shut.to_string()).again_after(Some(shut.retry_after))
    }
}

/// Who reads files, as many at once as there are processors for each.
static FILES: Lanes = Lanes::new();

/// Runs one step on its own: `with` is evaluated, permissions were checked. Not for the control steps that hold other
/// steps ([`BLOCKS`]): those are the run's own.
///
/// # Errors
/// What the step says.
pub async fn run(
    row: &StepRow,
    ctx: &StepContext,
    with: &Map<String, Value>,
) -> Result<StepOutput, StepError> {
    match row.family {
        Family::Memory => memory::run(row.uses, ctx, with).await,
        Family::Data => data::run(row.uses, ctx, with).await,
        Family::Control => control::run(row.uses, ctx, with).await,
        Family::Session => session::run(row.uses, ctx, with).await,
        Family::Fs => {
            let _place = FILES.enter(&ctx.scope).await;
            fs::run(row.uses, ctx, with).await
        }
        Family::Git => git::run(row.uses, ctx, with).await,
        Family::Exec => exec::run(row.uses, ctx, with).await,
        Family::Http => http::run(row.uses, ctx, with).await,
        Family::Sql => sql::run(row.uses, ctx, with).await,
        Family::Mcp => mcp::run(row.uses, ctx, with).await,
        Family::Llm => llm::run(row.uses, ctx, with).await,
        Family::Server => server::run(row.uses, ctx, with),
    }
}

/// Control steps that hold other steps.
pub const BLOCKS: &[&str] = &["control.parallel", "control.foreach", "control.switch"];

/// A row of the table that no module knows: our bug.
fn unknown_step(uses: &str) -> StepError {
    StepError::new(ErrorKind::Internal, format!("{uses}: no such step in this build"))
}

/// Length of the compact JSON of `value`, without making it.
pub(super) fn json_bytes(value: &impl Serialize) -> usize {
    struct Counter(usize);
    impl io::Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut counter = Counter(0);
    match serde_json::to_writer(&mut counter, value) {
        Ok(()) => counter.0,
        Err(_) => usize::MAX,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        pattern::STEPS,
        scope::ProjectId,
        store::{SqliteOptions, SqliteStore},
    };

    #[tokio::test]
    async fn every_row_of_the_table_is_implemented() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(SqliteOptions::new(folder.path().join("store.db"))).await.unwrap();
        let ctx = StepContext {
            scope: Scope::mint(ProjectId::personal(), "local", "default", None),
            store: Arc::new(store),
            listener: None,
            roots: BTreeMap::new(),
            permissions: Arc::default(),
            outside: Arc::default(),
            asker: Arc::new(crate::engine::NobodyToAsk),
            id: "step".to_owned(),
            now: "2026-03-01T12:00:00Z".parse().unwrap(),
            deadline: Instant::now() + Duration::from_mins(1),
            cancel: CancellationToken::new(),
            bytes_max: 1 << 20,
        };
        for row in STEPS.iter().filter(|row| !BLOCKS.contains(&row.uses)) {
            match run(row, &ctx, &Map::new()).await {
                Ok(_) => assert!(row.required.is_empty(), "{} went well without what it requires", row.uses),
                Err(error) => assert_ne!(error.kind, ErrorKind::Internal, "{}: {}", row.uses, error.message),
            }
        }
        for block in BLOCKS {
            assert!(StepRow::find(block).is_some_and(|row| row.family == Family::Control), "{block}");
        }
    }

    #[test]
    fn the_length_of_json_is_that_of_its_text() {
        let value = serde_json::json!({"a": [1, "é\n", null], "b": {"c": 1.5}});
        assert_eq!(json_bytes(&value), value.to_string().len());
        assert_eq!(StepOutput::of(value.clone()).bytes, value.to_string().len() as u64);
    }
}
