//! Who is on the other side of a connection, and the scope that its calls run in.

use std::sync::{Arc, LazyLock};

use crate::{
    revision::Era,
    scope::{ProjectId, Rights, Scope},
};

/// The scopes of a connection's calls: with its implicit session (legacy era), and without one (modern era). They share
/// their names.
#[derive(Clone)]
struct Scopes {
    legacy: Scope,
    modern: Scope,
}

impl Scopes {
    fn mint(project: ProjectId, principal: &str, agent: &str, session: &str, rights: Rights) -> Self {
        let modern = Scope::mint(project, principal, agent, None).with_rights(rights);
        Self { legacy: modern.with_session(session), modern }
    }
}

type LazyScopes = LazyLock<Scopes, Box<dyn FnOnce() -> Scopes + Send>>;

/// The owner of one connection. Scopes are minted here and nowhere else on the server's side. Cheap to clone.
#[derive(Clone)]
pub struct Identity(Owner);

#[derive(Clone)]
enum Owner {
    Known(Scopes),
    Later(Arc<LazyScopes>),
}

impl Identity {
    /// An owner whose project is known. `session` is the connection's implicit one: unguessable, it dies with the
    /// connection.
    #[must_use]
    pub fn known(project: ProjectId, principal: &str, agent: &str, session: &str, rights: Rights) -> Self {
        Self(Owner::Known(Scopes::mint(project, principal, agent, session, rights)))
    }

    /// An owner whose project is found out when the first call needs it (start-up does no I/O). `session` is the
    /// connection's implicit one: unguessable, it dies with the connection.
    pub fn new(
        project: impl FnOnce() -> ProjectId + Send + 'static,
        principal: &str,
        agent: &str,
        session: &str,
        rights: Rights,
    ) -> Self {
        let [principal, agent, session] = [principal, agent, session].map(str::to_owned);
        let mint = move || Scopes::mint(project(), &principal, &agent, &session, rights);
        Self(Owner::Later(Arc::new(LazyLock::new(Box::new(mint)))))
    }

    /// The scope of one call. A legacy connection is a session; a modern request has none unless it names a handle.
    #[must_use]
    pub fn scope(&self, era: Era) -> Scope {
        let scopes = match &self.0 {
            Owner::Known(scopes) => scopes,
            Owner::Later(scopes) => scopes,
        };
        match era {
            Era::Legacy => scopes.legacy.clone(),
            Era::Modern => scopes.modern.clone(),
        }
    }
}
