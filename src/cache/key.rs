//! What an answer depends on, as one value.

use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::{
    hex::hex,
    pattern::CacheScopeRule,
    scope::{ProjectId, Scope},
};

/// Names an answer: whose it is, and everything it depends on, as a hash.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Key {
    project: ProjectId,
    digest: [u8; 32],
}

impl Key {
    /// The key of an answer that whoever `reach` means, as seen from `scope`, may share, made of `parts` in their order.
    /// `has_session`: what the principal's sessions are answered may differ ([`crate::store::Mark::has_session`]).
    /// `None` where nothing may be kept, or where the reach is a session and there is none.
    #[must_use]
    pub fn new<'a>(
        scope: &'a Scope,
        reach: CacheScopeRule,
        has_session: bool,
        parts: impl IntoIterator<Item = &'a [u8]>,
    ) -> Option<Self> {
        let none = "";
        let (project, principal, agent, session) = match reach {
            CacheScopeRule::Never | CacheScopeRule::Call => return None,
            CacheScopeRule::Session => {
                (scope.project().as_str(), scope.principal(), scope.agent(), scope.session()?)
            }
            CacheScopeRule::Principal => {
                let session = if has_session { scope.session() } else { None };
                (scope.project().as_str(), scope.principal(), scope.agent(), session.unwrap_or(none))
            }
            CacheScopeRule::Project => (scope.project().as_str(), none, none, none),
            CacheScopeRule::Public => (none, none, none, none),
        };
        let mut digest = Sha256::new();
        let scoped = [project, principal, agent, session].map(str::as_bytes);
        for part in scoped.into_iter().chain(parts) {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        let project = if project.is_empty() { ProjectId::personal() } else { scope.project().clone() };
        Some(Self { project, digest: digest.finalize().into() })
    }

    /// The project that it is kept with.
    #[must_use]
    pub const fn project(&self) -> &ProjectId {
        &self.project
    }

    /// Everything else, as a hash.
    #[must_use]
    pub const fn digest(&self) -> &[u8; 32] {
        &self.digest
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.project, hex(&self.digest))
    }
}
