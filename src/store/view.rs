//! What a scope may see, as the values that rows are compared with.

use sha2::{Digest as _, Sha256};

use super::{Trust, Visibility};
use crate::{hex::hex, scope::Scope};

/// A scope as the values that rows are compared with.
#[derive(Clone, Debug)]
pub(super) struct View {
    /// Audience of the project's rows; also the realm in which its ids are unique.
    pub(super) realm: String,
    /// Audience of the principal's project `personal`.
    pub(super) personal: String,
    /// Audience of the principal's shared rows.
    pub(super) shared: String,
    pub(super) project: String,
    pub(super) principal: String,
    pub(super) agent: String,
    pub(super) session: Option<String>,
}

impl View {
    pub(super) fn of(scope: &Scope) -> Self {
        Self {
            realm: realm(scope.project().as_str(), scope.principal()),
            personal: realm("personal", scope.principal()),
            shared: tagged('s', scope.principal()),
            project: scope.project().as_str().to_owned(),
            principal: scope.principal().to_owned(),
            agent: scope.agent().to_owned(),
            session: scope.session().map(str::to_owned),
        }
    }

    /// The [`reader`] of what only its session sees, where there is one.
    pub(super) fn session_reader(&self) -> Option<String> {
        let session = self.session.as_ref()?;
        Some(walled('c', &[&self.realm, &self.principal, session]))
    }

    /// Every `reader` of rows that this scope sees: see [`reader`].
    pub(super) fn readers(&self) -> Vec<String> {
        let mut readers = vec![self.realm.clone()];
        if self.personal != self.realm {
            readers.push(self.personal.clone());
        }
        readers.push(self.shared.clone());
        for audience in readers.clone().into_iter().filter(|audience| *audience != self.shared) {
            readers.push(walled('a', &[&audience, &self.principal, &self.agent]));
        }
        readers.extend(self.session_reader());
        readers
    }
}

/// Where the ids of `project`'s memories are unique; `personal` is one per principal.
pub(super) fn realm(project: &str, principal: &str) -> String {
    if project == "personal" { tagged('u', principal) } else { tagged('p', project) }
}

/// Who may read a row at most.
pub(super) fn audience(project: &str, principal: &str, visibility: Visibility) -> String {
    match visibility {
        Visibility::Shared => tagged('s', principal),
        Visibility::Session | Visibility::Agent | Visibility::Project => realm(project, principal),
    }
}

/// Exactly who reads a memory, in one word: its audience, and for the visibilities that are walls, a hash of who is
/// inside. [`View::readers`] has those that a scope sees.
pub(super) fn reader(memory: &super::Memory) -> String {
    let audience = audience(&memory.project, &memory.principal, memory.visibility);
    match memory.visibility {
        Visibility::Project | Visibility::Shared => audience,
        Visibility::Agent => walled('a', &[&audience, &memory.principal, &memory.agent]),
        // Without a session nobody is inside.
        Visibility::Session => {
            walled('c', &[&audience, &memory.principal, memory.session.as_deref().unwrap_or_default()])
        }
    }
}

/// Whose tasks: one principal's in one realm.
pub(super) fn owner(view: &View) -> String {
    walled('o', &[&view.realm, &view.principal])
}

/// A letter and 128 bits of a hash: one word for the index, whatever the name is made of.
fn tagged(kind: char, name: &str) -> String {
    format!("{kind}{}", hex(&Sha256::digest(name.as_bytes())[..16]))
}

/// The same of several names. Each goes in with its length, so that no two lists of names are one text.
fn walled(kind: char, names: &[&str]) -> String {
    let mut hash = Sha256::new();
    for name in names {
        hash.update((name.len() as u64).to_be_bytes());
        hash.update(name.as_bytes());
    }
    format!("{kind}{}", hex(&hash.finalize()[..16]))
}

pub(super) const fn visibility_text(visibility: Visibility) -> &'static str {
    match visibility {
        Visibility::Session => "session",
        Visibility::Agent => "agent",
        Visibility::Project => "project",
        Visibility::Shared => "shared",
    }
}

/// The visibility of that name, where there is one.
pub(super) fn visibility(text: &str) -> Option<Visibility> {
    [Visibility::Session, Visibility::Agent, Visibility::Project, Visibility::Shared]
        .into_iter()
        .find(|visibility| visibility_text(*visibility) == text)
}

pub(super) const fn trust_text(trust: Trust) -> &'static str {
    match trust {
        Trust::User => "user",
        Trust::Agent => "agent",
        Trust::External => "external",
    }
}

/// The trust of that name, where there is one.
pub(super) fn trust(text: &str) -> Option<Trust> {
    [Trust::User, Trust::Agent, Trust::External].into_iter().find(|trust| trust_text(*trust) == text)
}
