//! Tables of named entries in the user's file: `[sources.NAME]`, `[servers.NAME]`.

use toml::de::DeValue;

use super::{Config, servers, sources};

/// One kind of table.
pub(super) struct Section {
    /// Its name in the file.
    pub(super) name: &'static str,
    /// Takes the entry `name`; says what is wrong with it, a lower-case fragment without the value of a secret.
    pub(super) take: fn(&mut Config, name: &str, value: &DeValue<'_>) -> Result<(), String>,
}

/// All of them. Never read from a repository's own file.
pub(super) static SECTIONS: &[Section] = &[sources::SECTION, servers::SECTION];
