//! Who may run which pattern: by its effect, by the caller's rights, by what the project has to work on.

use std::path::Path;

use super::{Caller, EngineError, ErrorKind, Workspace, service, steps};
use crate::{
    pattern::{BindSource, Effect, Pattern},
    scope::{Rights, Scope},
};

/// What one caller may run. A pattern that it may not run is refused by name, and is not there for everything else:
/// no list, no candidate, no match, no hint names it.
#[derive(Clone, Debug)]
pub struct Allowed {
    caller: Caller,
    rights: Rights,
    workspace: Workspace,
}

/// What stands in the way.
enum Obstacle<'a> {
    /// It writes or executes, and the caller may only read.
    Effect,
    /// The scope lacks these.
    Rights(Rights),
    /// It works on a folder, and there is none for this reason.
    Workspace(&'a str),
}

impl Allowed {
    pub(super) fn new(caller: Caller, scope: &Scope, workspace: Workspace) -> Self {
        Self { caller, rights: scope.rights(), workspace }
    }

    /// What the caller's project has to work on.
    pub(super) const fn workspace(&self) -> &Workspace {
        &self.workspace
    }

    /// Whether `path` is in the folder that the caller's project works on. Looks at the disk. Without a folder every path
    /// is: what runs then says what is missing.
    #[must_use]
    pub fn has_path(&self, path: &str) -> bool {
        match &self.workspace {
            Workspace::Root(root) => steps::has_path(root, Path::new(path)),
            Workspace::None { .. } => true,
        }
    }

    /// Whether the caller may run `pattern`.
    #[must_use]
    pub fn admits(&self, pattern: &Pattern) -> bool {
        self.obstacle(pattern).is_none()
    }

    /// # Errors
    /// `denied`, with what is missing.
    pub(super) fn check(&self, pattern: &Pattern) -> Result<(), EngineError> {
        match self.obstacle(pattern) {
            None => Ok(()),
            Some(Obstacle::Effect) => Err(service::effectful(pattern)),
            Some(Obstacle::Rights(missing)) => Err(lacking(&pattern.name, missing)),
            Some(Obstacle::Workspace(reason)) => Err(service::no_workspace(pattern, reason)),
        }
    }

    /// # Errors
    /// `denied` where the caller may run nothing at all.
    pub(super) fn check_any(&self) -> Result<(), EngineError> {
        let missing = self.needed_anyway().without(self.rights);
        if missing == Rights::NONE { Ok(()) } else { Err(lacking("running a pattern", missing)) }
    }

    fn obstacle(&self, pattern: &Pattern) -> Option<Obstacle<'_>> {
        if pattern.effect != Effect::ReadOnly && self.caller == Caller::Model {
            return Some(Obstacle::Effect);
        }
        let missing = self.needed_for(pattern).without(self.rights);
        if missing != Rights::NONE {
            return Some(Obstacle::Rights(missing));
        }
        match &self.workspace {
            Workspace::None { reason } if needs_workspace(pattern) => Some(Obstacle::Workspace(reason)),
            Workspace::None { .. } | Workspace::Root(_) => None,
        }
    }

    /// What every run needs. `remember` and the command line run their own patterns: there the memory's rights decide.
    const fn needed_anyway(&self) -> Rights {
        match self.caller {
            Caller::Model => Rights::PATTERN_RUN,
            // What a promoted pattern needs depends on what it does.
            Caller::Promoted | Caller::Trusted => Rights::NONE,
        }
    }

    fn needed_for(&self, pattern: &Pattern) -> Rights {
        match self.caller {
            Caller::Promoted => rights_to_call(pattern),
            Caller::Model | Caller::Trusted => self.needed_anyway().with(memory_rights(pattern)),
        }
    }
}

/// The rights that calling `pattern` as a tool of its own needs: `pattern:run` where it only reads, `pattern:execute` where
/// it runs programs or writes beyond the store, and those of the memory that it touches.
#[must_use]
pub fn rights_to_call(pattern: &Pattern) -> Rights {
    let reaches_out = pattern.effect == Effect::Executes || !pattern.permissions.mcp_write.is_empty();
    let own = match pattern.effect {
        _ if reaches_out => Rights::PATTERN_EXECUTE,
        Effect::ReadOnly => Rights::PATTERN_RUN,
        Effect::Writes | Effect::Executes => Rights::NONE,
    };
    own.with(memory_rights(pattern))
}

/// The rights that the declared permissions of `pattern` need. Its steps stay within those: the loader checks it, and
/// each step again when it runs.
fn memory_rights(pattern: &Pattern) -> Rights {
    let mut rights = Rights::NONE;
    if pattern.permissions.memory_read {
        rights = rights.with(Rights::MEMORY_READ);
    }
    if pattern.permissions.memory_write {
        rights = rights.with(Rights::MEMORY_WRITE);
    }
    rights
}

/// Whether `pattern` works on a folder: it reads files, asks git, executes, or wants to know the root.
fn needs_workspace(pattern: &Pattern) -> bool {
    pattern.effect == Effect::Executes
        || !pattern.permissions.fs_read.is_empty()
        || !pattern.permissions.git.is_empty()
        || pattern.binds.iter().any(|(_, source)| *source == BindSource::WorkspaceRoot)
}

/// The refusal of something that needs rights which the caller does not have.
#[must_use]
pub fn lacking(what: &str, missing: Rights) -> EngineError {
    EngineError {
        kind: ErrorKind::Denied,
        message: format!(
            "{what} needs the scope `{missing}`, which this token does not grant; use one that does"
        ),
        part: Some("scope".to_owned()),
        retry_after: None,
        receipt: None,
    }
}
