//! Projects by their names, and how far a token opens each.

use std::fmt;

use crate::{
    nearest,
    scope::{ProjectId, Rights},
};

/// The projects that this server knows, by id and alias.
#[derive(Clone, Debug, Default)]
pub struct Projects(Vec<(ProjectId, Option<Box<str>>)>);

impl Projects {
    /// Adds a project. Whoever configures them keeps names apart.
    pub fn add(&mut self, id: ProjectId, alias: Option<&str>) {
        self.0.push((id, alias.map(Into::into)));
    }

    /// The project that `name` means: an alias, else an id, known here or not. `None` where it can be neither.
    #[must_use]
    pub fn resolve(&self, name: &str) -> Option<ProjectId> {
        let by_alias = self.0.iter().find(|(_, alias)| alias.as_deref() == Some(name));
        by_alias.map(|(id, _)| id.clone()).or_else(|| ProjectId::parse(name))
    }

    /// Whether `name` is an id or an alias known here, or needs none to be known.
    pub(super) fn knows(&self, name: &str) -> bool {
        name == EVERY || name == ProjectId::personal().as_str() || self.names().any(|known| known == name)
    }

    /// Every id and alias.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().flat_map(|(id, alias)| [Some(id.as_str()), alias.as_deref()]).flatten()
    }
}

/// Every project, in a token's list.
const EVERY: &str = "*";

/// How far a project is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Level {
    /// Nothing of it may be changed.
    Read,
    /// Whatever the token's scopes allow.
    Write,
}

impl Level {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Read, Self::Write];

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }

    /// What remains of `rights` in a project that is open so far.
    #[must_use]
    pub const fn limit(self, rights: Rights) -> Rights {
        match self {
            Self::Read => rights.without(Rights::MEMORY_WRITE).without(Rights::PATTERN_EXECUTE),
            Self::Write => rights,
        }
    }
}

/// Which projects a token opens, and how far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grants {
    every: Option<Level>,
    listed: Vec<(ProjectId, Level)>,
}

impl Grants {
    /// No project.
    #[must_use]
    pub const fn none() -> Self {
        Self { every: None, listed: Vec::new() }
    }

    /// The principal's own project alone.
    #[must_use]
    pub fn personal() -> Self {
        Self { every: None, listed: vec![(ProjectId::personal(), Level::Write)] }
    }

    /// Every project there is or will be.
    #[must_use]
    pub const fn everything() -> Self {
        Self { every: Some(Level::Write), listed: Vec::new() }
    }

    /// Adds what `text` says, `NAME` (to read), `NAME=read` or `NAME=write`, and returns the name.
    ///
    /// # Errors
    /// What would be right, a fragment.
    pub fn add<'a>(&mut self, text: &'a str, projects: &Projects) -> Result<&'a str, String> {
        let (name, level) = match text.rsplit_once('=') {
            None => (text, Level::Read),
            Some((name, level)) => {
                let known = Level::ALL.into_iter().find(|known| known.as_str() == level);
                let level = known.ok_or_else(|| {
                    format!(
                        "a project is open to `read` or `write`{}",
                        nearest::hint(level, super::entries::levels())
                    )
                })?;
                (name, level)
            }
        };
        if name == EVERY {
            return match self.every.replace(level) {
                None => Ok(name),
                Some(_) => Err("`*` stands twice among the projects".to_owned()),
            };
        }
        let id = projects.resolve(name).ok_or(
            "a project is an id or an alias of 1 to 64 letters, digits, `_`, `-` or `.`, or `*` for every project",
        )?;
        if self.listed.iter().any(|(listed, _)| *listed == id) {
            return Err(format!("the project `{id}` stands twice among the projects"));
        }
        self.listed.push((id, level));
        Ok(name)
    }

    /// How far `project` is open; what is listed by name beats `*`.
    #[must_use]
    pub fn level(&self, project: &ProjectId) -> Option<Level> {
        self.listed.iter().find(|(listed, _)| listed == project).map(|(_, level)| *level).or(self.every)
    }

    /// Whether any project may be written to.
    pub(super) fn can_write(&self) -> bool {
        self.each().any(|(_, level)| level == Level::Write)
    }

    /// Each project with its level, `*` last.
    pub fn each(&self) -> impl Iterator<Item = (&str, Level)> {
        let listed = self.listed.iter().map(|(id, level)| (id.as_str(), *level));
        listed.chain(self.every.map(|level| (EVERY, level)))
    }
}

impl fmt::Display for Grants {
    /// `a=read, b=write`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, level)) in self.each().enumerate() {
            write!(f, "{}{name}={}", if index == 0 { "" } else { ", " }, level.as_str())?;
        }
        Ok(())
    }
}
