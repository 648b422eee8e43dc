//! Trust in project patterns: pinned by root, file, content and the permissions that were shown.
//!
//! The pins live in the user's configuration folder, never in a repository; reading and writing that file is the
//! caller's, here is what it holds.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{
    Effect, Pattern, Permissions,
    loader::{LoadError, hash, load},
};

/// What a user trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    pins: Vec<Pin>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Pin {
    root: PathBuf,
    file: String,
    hash: String,
    permissions: Vec<String>,
}

/// What to show to a user who is asked to trust a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustQuestion {
    /// The pattern's name.
    pub name: String,
    /// What it does.
    pub description: String,
    /// What it may touch, one line each, in a fixed order.
    pub permissions: Vec<String>,
    /// SHA-256 of the file, hexadecimal.
    pub hash: String,
}

/// Why a trust file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// Not of the form that [`Trust::to_text`] writes.
    #[error("the trust file is not readable ({0}): repair or remove it; until then no project pattern runs")]
    Format(String),
    /// The pattern file does not load.
    #[error("{}", .0.first().map_or_else(String::new, ToString::to_string))]
    Pattern(Vec<LoadError>),
    /// The file is not what was shown.
    #[error("the file has changed since it was shown: look at it again")]
    Changed,
}

impl Trust {
    /// Reads what [`Trust::to_text`] wrote; an empty text trusts nothing.
    ///
    /// # Errors
    /// [`TrustError::Format`].
    pub fn parse(text: &str) -> Result<Self, TrustError> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let file: Value =
            serde_json::from_str(text).map_err(|error| TrustError::Format(error.to_string()))?;
        if file["version"] != json!(1) {
            return Err(TrustError::Format("version 1 expected".to_owned()));
        }
        let pins =
            file["trusted"].as_array().ok_or_else(|| TrustError::Format("no list `trusted`".to_owned()))?;
        let pins = pins.iter().enumerate().map(|(index, pin)| {
            let text = |name: &str| {
                pin[name]
                    .as_str()
                    .map(str::to_owned)
                    .ok_or_else(|| TrustError::Format(format!("entry {index} has no `{name}`")))
            };
            let permissions = pin["permissions"].as_array().into_iter().flatten();
            Ok(Pin {
                root: text("root")?.into(),
                file: text("file")?,
                hash: text("hash")?,
                permissions: permissions.filter_map(Value::as_str).map(str::to_owned).collect(),
            })
        });
        Ok(Self { pins: pins.collect::<Result<_, _>>()? })
    }

    /// The text of the trust file.
    #[must_use]
    pub fn to_text(&self) -> String {
        let pins: Vec<Value> = self
            .pins
            .iter()
            .map(|pin| {
                json!({
                    "root": pin.root.to_string_lossy(), "file": pin.file, "hash": pin.hash,
                    "permissions": pin.permissions,
                })
            })
            .collect();
        let mut text =
            serde_json::to_string_pretty(&json!({"version": 1, "trusted": pins})).unwrap_or_default();
        text.push('\n');
        text
    }

    /// Whether the file `file` of the project with the canonical root `root` may run with this content.
    #[must_use]
    pub fn allows(&self, root: &Path, file: &str, text: &str) -> bool {
        let Some(pin) = self.pin(root, file) else { return false };
        // The permissions follow from the content; they are compared too, so that a release that grants more for the
        // same words asks again.
        pin.hash == hash(text)
            && question(root, file, text).is_ok_and(|question| question.permissions == pin.permissions)
    }

    /// Whether the file was trusted with any content.
    #[must_use]
    pub fn knows(&self, root: &Path, file: &str) -> bool {
        self.pin(root, file).is_some()
    }

    fn pin(&self, root: &Path, file: &str) -> Option<&Pin> {
        self.pins.iter().find(|pin| pin.root == root && pin.file == file)
    }

    /// Trusts `file` of the project with the canonical root `root`, as it was `shown`.
    ///
    /// # Errors
    /// [`TrustError::Changed`] where `text` is not what was shown; [`TrustError::Pattern`] where it does not load.
    pub fn pin_file(
        &mut self,
        root: &Path,
        file: &str,
        text: &str,
        shown: &TrustQuestion,
    ) -> Result<(), TrustError> {
        if question(root, file, text)? != *shown {
            return Err(TrustError::Changed);
        }
        self.forget(root, file);
        self.pins.push(Pin {
            root: root.to_owned(),
            file: file.to_owned(),
            hash: shown.hash.clone(),
            permissions: shown.permissions.clone(),
        });
        self.pins.sort_by(|a, b| (&a.root, &a.file).cmp(&(&b.root, &b.file)));
        Ok(())
    }

    /// Trusts `file` no longer; whether it was trusted.
    pub fn forget(&mut self, root: &Path, file: &str) -> bool {
        let before = self.pins.len();
        self.pins.retain(|pin| pin.root != root || pin.file != file);
        self.pins.len() != before
    }
}

/// What a user should see before trusting `file`.
///
/// # Errors
/// [`TrustError::Pattern`] where it does not load.
pub fn question(root: &Path, file: &str, text: &str) -> Result<TrustQuestion, TrustError> {
    let loaded = load(file, text, super::Origin::Project(root.to_owned())).map_err(TrustError::Pattern)?;
    let Pattern { name, description, permissions, effect, hash, .. } = &*loaded.pattern;
    Ok(TrustQuestion {
        name: name.clone(),
        description: description.clone(),
        permissions: describe(permissions, *effect),
        hash: hash.clone(),
    })
}

fn describe(permissions: &Permissions, effect: Effect) -> Vec<String> {
    let mut lines = Vec::new();
    if !permissions.fs_read.is_empty() {
        lines.push("reads files of the workspace".to_owned());
    }
    if !permissions.git.is_empty() {
        lines.push(format!("reads the repository: git {}", permissions.git.join(", ")));
    }
    if permissions.memory_read {
        lines.push("reads memories".to_owned());
    }
    if permissions.memory_write {
        lines.push("writes memories".to_owned());
    }
    for argv in permissions.exec.values() {
        lines.push(format!("runs {}", argv.join(" ")));
    }
    for (names, does) in [
        (&permissions.http, "fetches from"),
        (&permissions.sql, "reads the database"),
        (&permissions.mcp, "calls to read"),
        (&permissions.mcp_write, "calls to write"),
    ] {
        if !names.is_empty() {
            lines.push(format!("{does} {}", names.join(", ")));
        }
    }
    if permissions.llm {
        lines.push("has a language model complete texts".to_owned());
    }
    if effect == Effect::Executes && permissions.exec.is_empty() {
        lines.push("runs programs".to_owned());
    }
    if lines.is_empty() {
        lines.push("touches nothing outside the call".to_owned());
    }
    lines
}
