//! The key of isolation: which project, principal, agent and session a call belongs to.

use std::{fmt, sync::Arc};

use sha2::{Digest, Sha256};

/// A server-wide project id: `personal`, or `p_` and 32 hexadecimal digits.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProjectId(Arc<str>);

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

/// What [`is_agent_name`] takes, for those who are told.
pub const AGENT_NAME: &str = "1 to 64 letters, digits, `_`, `-`, `.` or `:`";

/// Whether an agent may be called `text`, wherever the name comes from: [`AGENT_NAME`].
#[must_use]
pub fn is_agent_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 64
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.:".contains(&byte))
}

/// What a caller may do, as granted by its token. A set; the empty set may list and discover, nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rights(u8);

impl Rights {
    /// Nothing beyond listing.
    pub const NONE: Self = Self(0);
    /// `pattern:run`: run read-only patterns and read their results.
    pub const PATTERN_RUN: Self = Self(1);
    /// `memory:read`: read memories, by patterns and as resources.
    pub const MEMORY_READ: Self = Self(2);
    /// `memory:write`: store and forget memories.
    pub const MEMORY_WRITE: Self = Self(4);
    /// `admin`: metrics and the state of the server.
    pub const ADMIN: Self = Self(8);
    /// `pattern:execute`: run those patterns that execute programs or reach beyond the server to write, as far as the
    /// configuration offers them as tools.
    pub const PATTERN_EXECUTE: Self = Self(16);
    /// Everything: the local user.
    pub const ALL: Self = Self(31);

    /// Each single right with its name in token files and in `WWW-Authenticate`.
    pub const NAMED: [(Self, &'static str); 5] = [
        (Self::PATTERN_RUN, "pattern:run"),
        (Self::PATTERN_EXECUTE, "pattern:execute"),
        (Self::MEMORY_READ, "memory:read"),
        (Self::MEMORY_WRITE, "memory:write"),
        (Self::ADMIN, "admin"),
    ];

    /// The right named `name`.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::NAMED.iter().find(|(_, of)| *of == name).map(|(right, _)| *right)
    }

    /// Whether all of `needed` are in this set.
    #[must_use]
    pub const fn include(self, needed: Self) -> bool {
        self.0 & needed.0 == needed.0
    }

    /// Both sets together.
    #[must_use]
    pub const fn with(self, more: Self) -> Self {
        Self(self.0 | more.0)
    }

    /// This set without `fewer`.
    #[must_use]
    pub const fn without(self, fewer: Self) -> Self {
        Self(self.0 & !fewer.0)
    }

    /// The names of the rights in this set.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMED.into_iter().filter(move |(right, _)| self.include(*right)).map(|(_, name)| name)
    }
}

impl fmt::Display for Rights {
    /// The names, separated by spaces.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, name) in self.names().enumerate() {
            write!(f, "{}{name}", if index == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}

/// Who may see and do what in one call. Bound by the server, never chosen by a model; minted only in `session`
/// (and by the command line for the local user). Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Scope(Arc<Parts>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Parts {
    project: ProjectId,
    principal: Arc<str>,
    agent: Arc<str>,
    session: Option<Arc<str>>,
    rights: Rights,
}

impl Scope {
    /// A scope with every right. Only `session` and the composition roots call this.
    #[must_use]
    pub fn mint(project: ProjectId, principal: &str, agent: &str, session: Option<&str>) -> Self {
        let session = session.map(Into::into);
        Self(Arc::new(Parts {
            project,
            principal: principal.into(),
            agent: agent.into(),
            session,
            rights: Rights::ALL,
        }))
    }

    /// The same scope with these rights and no others.
    #[must_use]
    pub fn with_rights(&self, rights: Rights) -> Self {
        Self(Arc::new(Parts { rights, ..Parts::clone(&self.0) }))
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

    /// What the caller may do.
    #[must_use]
    pub fn rights(&self) -> Rights {
        self.0.rights
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
