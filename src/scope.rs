//! The key of isolation: which project, principal, agent and session a call belongs to.

use std::{fmt, sync::Arc};

use sha2::{Digest, Sha256};

/// A server-wide project id: `personal`, or `p_` and 32 hexadecimal digits.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProjectId(Box<str>);

impl ProjectId {
    /// The project of whoever has no workspace.
    #[must_use]
    pub fn personal() -> Self {
        Self("personal".into())
    }

    /// The project of a workspace: a hash of `canonical_path` (the git common directory, else the root), never of
    /// anything that a repository's files or its origin can choose.
    #[must_use]
    pub fn of_path(canonical_path: &std::path::Path) -> Self {
        let digest = Sha256::digest(canonical_path.as_os_str().as_encoded_bytes());
        let half = u128::from_be_bytes(digest[..16].try_into().expect("SHA-256 has 32 bytes"));
        Self(format!("p_{half:032x}").into())
    }

    /// A project named by configuration: letters, digits, `_`, `-`, `.`, at most 64 bytes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let valid = !text.is_empty()
            && text.len() <= 64
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
        valid.then(|| Self(text.into()))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ProjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ProjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who may see and do what in one call. Bound by the server, never chosen by a model; minted only in `session`
/// (and by the command line for the local user). Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Scope(Arc<Parts>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Parts {
    project: ProjectId,
    principal: Box<str>,
    agent: Box<str>,
    session: Option<Box<str>>,
}

impl Scope {
    /// A scope. Only `session` and the composition roots call this.
    #[must_use]
    pub fn mint(project: ProjectId, principal: &str, agent: &str, session: Option<&str>) -> Self {
        let session = session.map(Into::into);
        Self(Arc::new(Parts { project, principal: principal.into(), agent: agent.into(), session }))
    }

    /// The same scope within `session` (an opaque key; for a handle, the hash of it).
    #[must_use]
    pub fn with_session(&self, session: &str) -> Self {
        Self(Arc::new(Parts { session: Some(session.into()), ..Parts::clone(&self.0) }))
    }

    /// The project that memories belong to.
    #[must_use]
    pub fn project(&self) -> &ProjectId {
        &self.0.project
    }

    /// Who calls: from a token, or `local`.
    #[must_use]
    pub fn principal(&self) -> &str {
        &self.0.principal
    }

    /// Which agent of the principal: unauthenticated, `default` unless said.
    #[must_use]
    pub fn agent(&self) -> &str {
        &self.0.agent
    }

    /// The session, where there is one.
    #[must_use]
    pub fn session(&self) -> Option<&str> {
        self.0.session.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_id_depends_on_the_path_alone() {
        let id = ProjectId::of_path(std::path::Path::new("/srv/a/.git"));
        assert_eq!(id.as_str().len(), 34);
        assert_eq!(id, ProjectId::of_path(std::path::Path::new("/srv/a/.git")));
        assert_ne!(id, ProjectId::of_path(std::path::Path::new("/srv/b/.git")));
        assert_eq!(ProjectId::parse(id.as_str()), Some(id));
        assert_eq!(ProjectId::parse("a/b"), None);
    }
}
