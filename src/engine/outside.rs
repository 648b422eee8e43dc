//! What steps reach beyond the store and the workspace: shared by all runs of a process, opened when first used.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    figures::Figures,
    steps::{http, llm, mcp, sql},
};
use crate::{
    cache::{REDIS_NOTE, SecondLayer as _, Told, redis::Redis},
    embedding::{Embeddings, WORDS_ALONE},
    resilience::{BackendKind, Backends, Standing},
    scope::Scope,
};

/// The ways out of the process. By default none is configured.
#[derive(Debug, Default)]
pub struct Outside {
    /// For `http.get`.
    pub http: http::Http,
    /// The databases of `sql.*`.
    pub sql: sql::Sources,
    /// The servers of `mcp.*`.
    pub mcp: mcp::Servers,
    /// The models of `llm.complete`.
    pub llm: llm::Models,
    /// What calls cost, for `server.stats`.
    pub figures: Figures,
    /// The guards of all that the process depends on.
    pub backends: Arc<Backends>,
    /// What makes the vectors of memories, where that is known.
    pub embeddings: Option<Arc<Embeddings>>,
    /// The layer of the cache that instances share, where there is one.
    pub redis: Option<Arc<Redis>>,
}

impl Outside {
    /// Longest that [`Outside::close`] may take.
    pub const CLOSE_MAX: Duration = Duration::from_millis(1_200);

    /// What of it does not work now, as far as that concerns calls of `scope`: one text each, its part first.
    #[must_use]
    pub fn degraded(&self, scope: &Scope) -> Vec<String> {
        let concerns = |standing: &Standing| {
            let name = &*standing.backend.name;
            match standing.backend.kind {
                BackendKind::Database | BackendKind::Redis | BackendKind::Model => true,
                BackendKind::Source => self.sql.offers(scope.project(), name),
                BackendKind::Server => self.mcp.offers(scope, name),
                // Which hosts others read from is theirs to know.
                BackendKind::Host => false,
            }
        };
        let ailing = self.backends.ailing(Instant::now()).into_iter().filter(concerns);
        let ailing = ailing.map(|standing| standing.to_string());
        let unread =
            self.sql.ailing(scope.project()).map(|(name, reason)| format!("database {name}: {reason}"));
        let words_alone = self.embeddings.as_ref().is_some_and(|embeddings| embeddings.is_ailing());
        let words_alone = words_alone.then(|| WORDS_ALONE.to_owned());
        let redis = self.redis.as_ref().and_then(|redis| match redis.told() {
            Told::Ailing(reason) => Some(format!("{REDIS_NOTE}{reason}")),
            Told::Unused | Told::Well => None,
        });
        ailing.chain(unread).chain(words_alone).chain(redis).collect()
    }

    /// Ends what is open: connections, and the processes of child servers. Nothing can be used afterwards.
    pub async fn close(&self) {
        let closing = async { tokio::join!(self.mcp.close(), self.sql.close()) };
        let _ = tokio::time::timeout(Self::CLOSE_MAX, closing).await;
    }
}
