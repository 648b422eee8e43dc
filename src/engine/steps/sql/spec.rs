//! What the configuration says of a database.

use std::{fmt, path::PathBuf, time::Duration};

use crate::scope::ProjectId;

/// Rows of an answer unless the configuration says otherwise.
pub const ROWS_DEFAULT: usize = 200;
/// Most rows that a configuration may allow.
pub const ROWS_MAX: usize = 10_000;
/// Longest query unless the configuration says otherwise.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
/// Longest query that a configuration may allow.
pub const TIMEOUT_MAX: Duration = Duration::from_mins(10);

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides `text`.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, to connect with.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// Where a database is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An SQLite file, absolute.
    Sqlite(PathBuf),
    /// A PostgreSQL server: `postgres://user:password@host:port/database`.
    Postgres(Secret),
    /// Either of them, as this variable of the environment says when it is first needed.
    Variable(String),
}

impl Address {
    /// Reads `sqlite:/absolute/path` or `postgres://host/database`.
    ///
    /// # Errors
    /// What would be right, without the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("sqlite:") {
            let path = path.strip_prefix("//").filter(|rest| rest.starts_with('/')).unwrap_or(path);
            let plain = path.starts_with('/') && !path.contains(['?', '#', '\0']);
            return plain
                .then(|| Self::Sqlite(path.into()))
                .ok_or_else(|| "must be an absolute path, as in sqlite:/absolute/path".to_owned());
        }
        let rest = text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://"));
        // The host is named: what is left out would be taken from the environment of whoever starts the server.
        let named = rest.is_some_and(|rest| {
            let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
            authority.rsplit('@').next().is_some_and(|host| !host.is_empty() && !host.starts_with(':'))
        });
        if !named {
            return Err("must be sqlite:/absolute/path or postgres://user@host:port/database".to_owned());
        }
        Ok(Self::Postgres(Secret::new(text)))
    }

    /// What kind of database it is, as far as that is said.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "sqlite",
            Self::Postgres(_) => "postgres",
            Self::Variable(_) => "from the environment",
        }
    }
}

/// A query of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedQuery {
    /// Its name.
    pub name: String,
    /// What it tells, for a model.
    pub description: String,
    /// Its text, with `$1`, `$2` (PostgreSQL) or `?1`, `?2` (SQLite) where values go.
    pub sql: String,
    /// Names of these values, in order.
    pub params: Vec<String>,
}

/// A database that steps may read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceSpec {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub address: Address,
    /// File with the password, where that is not in the address. Read when it is first needed.
    pub password_file: Option<PathBuf>,
    /// Projects whose calls may read it. Absent: every project of the local user, none of a shared server.
    pub projects: Option<Vec<ProjectId>>,
    /// Rows of one answer at most.
    pub rows: usize,
    /// Longest query.
    pub timeout: Duration,
    /// Queries by name, in the order of their names.
    pub queries: Vec<NamedQuery>,
}

impl SourceSpec {
    /// A database at `address`, with defaults.
    #[must_use]
    pub fn new(name: impl Into<String>, address: Address) -> Self {
        Self {
            name: name.into(),
            address,
            password_file: None,
            projects: None,
            rows: ROWS_DEFAULT,
            timeout: TIMEOUT_DEFAULT,
            queries: Vec::new(),
        }
    }

    /// Whether calls of `project` may read it; `local`: on stdio and the command line.
    #[must_use]
    pub fn is_offered(&self, project: &ProjectId, local: bool) -> bool {
        self.projects.as_ref().map_or(local, |projects| projects.contains(project))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_absolute_and_names_its_host_and_is_never_printed() {
        for good in ["sqlite:/srv/app.db", "sqlite:///srv/app.db"] {
            assert_eq!(Address::parse(good), Ok(Address::Sqlite("/srv/app.db".into())), "{good}");
        }
        let address = Address::parse("postgres://reader:hunter2@db.example:5432/app").unwrap();
        assert!(!format!("{address:?}").contains("hunter2"));
        for bad in [
            "",
            "sqlite:",
            "sqlite:app.db",
            "sqlite::memory:",
            "sqlite:/srv/app.db?mode=rwc",
            "sqlite:/srv/a\0b",
            "postgres://",
            "postgres:///app",
            "postgres://reader:hunter2@/app",
            "postgres://reader@:5432/app",
            "mysql://host/app",
            "/srv/app.db",
        ] {
            let refused = Address::parse(bad).unwrap_err();
            assert!(!refused.contains("hunter2"), "{bad}");
        }
    }

    #[test]
    fn a_shared_server_offers_nothing_that_names_no_project() {
        let (web, api) = (ProjectId::parse("web").unwrap(), ProjectId::parse("api").unwrap());
        let open = SourceSpec::new("app", Address::Sqlite("/srv/app.db".into()));
        let named = SourceSpec { projects: Some(vec![web.clone()]), ..open.clone() };
        for (spec, project, local, offered) in [
            (&open, &web, true, true),
            (&open, &web, false, false),
            (&named, &web, true, true),
            (&named, &web, false, true),
            (&named, &api, true, false),
            (&named, &api, false, false),
        ] {
            assert_eq!(spec.is_offered(project, local), offered);
        }
    }
}
