//! Who may come in: tokens, the principals that they stand for, and the projects that those may enter.
//!
//! ```text
//! headers ─ presented        Bearer, Basic, tmws.token.… → a token of bounded length
//!   └ book                   its SHA-256 against every known one, in constant time → Principal
//!       └ entries            the tokens file, read strictly      local   the token of a server without one
//!   └ Access::enter          alias or id → project; grant: how far the token opens it → Entrant
//! ```

mod book;
mod edit;
mod entries;
mod grant;
mod local;
mod presented;

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use hyper::HeaderMap;
use jiff::Timestamp;

use crate::scope::{ProjectId, Rights, is_agent_name};

use book::Book;
pub use book::{TokenSource, TokensError, read_tokens};
pub use edit::{EditError, NewToken, add_token, revoke_tokens};
pub use entries::{
    DEFAULT_RIGHTS, Fault, TokenEntry, Tokens, parse_agent, parse_expires, parse_principal, parse_scope, read,
};
pub use grant::{Grants, Level, Projects};
pub use local::{LocalTokenError, local_token, local_token_or_new, local_token_path, new_token};

/// Whoever a token stands for.
#[derive(Debug)]
pub struct Principal {
    /// Its name: the wall between one person and the next.
    pub name: Box<str>,
    /// The agent, where the token fixes it.
    pub agent: Option<Box<str>>,
    /// What it may do, before the project's own limits.
    pub rights: Rights,
    /// Whether it came with a token. Without tokens, rates are limited per connection.
    pub has_token: bool,
    /// Where, and how far.
    grants: Grants,
    /// The token was withdrawn: connections that it opened are to be closed.
    revoked: AtomicBool,
}

impl Principal {
    /// Whoever comes with the token of `entry`.
    fn of(entry: &TokenEntry) -> Self {
        Self {
            name: entry.principal.clone(),
            agent: entry.agent.clone(),
            rights: entry.rights,
            has_token: true,
            grants: entry.grants.clone(),
            revoked: AtomicBool::new(false),
        }
    }

    /// Whether the token was withdrawn since, or is over.
    #[must_use]
    pub fn is_revoked(&self) -> bool {
        self.revoked.load(Ordering::Acquire)
    }

    /// From now on it is. Returns whether it was not before.
    fn revoke(&self) -> bool {
        !self.revoked.swap(true, Ordering::AcqRel)
    }
}

/// One client that was let in: who, where, and what it may do there.
#[derive(Clone, Debug)]
pub struct Entrant {
    /// Who.
    pub principal: Arc<Principal>,
    /// Which agent of theirs: the token's, else what the client says of itself, else `default`.
    pub agent: Box<str>,
    /// Where.
    pub project: ProjectId,
    /// What it may do in that project.
    pub rights: Rights,
    /// The address it comes from.
    pub peer: IpAddr,
}

/// Why somebody is not let in. The texts never hold what was presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Nothing was presented: 401.
    #[error(
        "a token is needed: send `Authorization: Bearer …` (or put it as the password into the URL: ws://x:TOKEN@host/ws)"
    )]
    NoToken,
    /// What was presented is no token of ours, or no longer: 401.
    #[error("this token is not known here, or no longer: ask for a new one")]
    UnknownToken,
    /// A token of ours, but not for this project: 403, the same for projects that are not there.
    #[error(
        "this token does not open that project: use the path of one that it opens, /p/<project>/mcp or /p/<project>/ws (a path without /p/ is the project `personal`)"
    )]
    Project,
}

/// The door.
pub struct Access {
    door: Door,
    projects: Arc<Projects>,
}

enum Door {
    /// Whoever comes is this one.
    Open(Arc<Principal>),
    /// A token is needed.
    Tokens(Box<Book>),
}

impl Access {
    /// Everybody is the local user (`--no-auth`), in every project.
    #[must_use]
    pub fn open(name: &str) -> Self {
        Self::open_with(name, Projects::default())
    }

    /// The same, with projects that have aliases.
    #[must_use]
    pub fn open_with(name: &str, projects: Projects) -> Self {
        let principal = Principal {
            name: name.into(),
            agent: None,
            rights: Rights::ALL,
            has_token: false,
            grants: Grants::everything(),
            revoked: AtomicBool::new(false),
        };
        Self { door: Door::Open(Arc::new(principal)), projects: Arc::new(projects) }
    }

    /// Whoever comes needs a token of `source`. Tokens end by `clock`.
    ///
    /// # Errors
    /// [`TokensError`]: the file cannot be used.
    pub fn with_tokens(
        source: TokenSource,
        projects: Projects,
        clock: fn() -> Timestamp,
    ) -> Result<Self, TokensError> {
        let projects = Arc::new(projects);
        let book = Book::open(source, Arc::clone(&projects), clock)?;
        Ok(Self { door: Door::Tokens(Box::new(book)), projects })
    }

    /// Whoever the headers of a request speak for: `Authorization` (Bearer, Basic), `Sec-WebSocket-Protocol`.
    ///
    /// # Errors
    /// [`Refused::NoToken`], [`Refused::UnknownToken`].
    pub fn authenticate(&self, headers: &HeaderMap) -> Result<Arc<Principal>, Refused> {
        match &self.door {
            Door::Open(principal) => Ok(Arc::clone(principal)),
            Door::Tokens(book) => match presented::presented(headers) {
                Ok(None) => Err(Refused::NoToken),
                Ok(Some(token)) => book.find(&token).ok_or(Refused::UnknownToken),
                Err(presented::Unusable) => Err(Refused::UnknownToken),
            },
        }
    }

    /// Lets `principal` into the project named in the path (an id or an alias), or into its default one, `personal`.
    /// `agent` is what the client says of itself: believed where the token says nothing else and it is a name.
    ///
    /// # Errors
    /// [`Refused::Project`], whether the token does not open it or there is none.
    pub fn enter(
        &self,
        principal: &Arc<Principal>,
        project: Option<&str>,
        agent: Option<&str>,
        peer: IpAddr,
    ) -> Result<Entrant, Refused> {
        let project = match project {
            None => ProjectId::personal(),
            Some(name) => self.projects.resolve(name).ok_or(Refused::Project)?,
        };
        let level = principal.grants.level(&project).ok_or(Refused::Project)?;
        let said = agent.filter(|agent| is_agent_name(agent));
        let agent = principal.agent.as_deref().or(said).unwrap_or("default").into();
        let rights = level.limit(principal.rights);
        Ok(Entrant { principal: Arc::clone(principal), agent, project, rights, peer })
    }

    /// Whether somebody without a token stays outside.
    #[must_use]
    pub const fn needs_token(&self) -> bool {
        matches!(self.door, Door::Tokens(_))
    }

    /// Looks whether the tokens' file changed (or reads it `anyway`), and whether tokens are over. May read a small
    /// file. Returns whether anybody's token is good no more: their connections are to be woken, so that they close.
    #[must_use]
    pub fn refresh(&self, anyway: bool) -> bool {
        match &self.door {
            Door::Open(_) => false,
            Door::Tokens(book) => book.refresh(anyway),
        }
    }

    /// How often the tokens' file was read again, whatever came of it.
    #[must_use]
    pub fn reads(&self) -> u64 {
        match &self.door {
            Door::Open(_) => 0,
            Door::Tokens(book) => book.reads(),
        }
    }

    /// What is wrong with the tokens' file as it is now, for everybody to read: the log says where. Those read before are
    /// still good.
    #[must_use]
    pub fn degraded(&self) -> Option<&'static str> {
        match &self.door {
            Door::Open(_) => None,
            Door::Tokens(book) => book.broken(),
        }
    }
}

#[cfg(test)]
mod tests;
