//! Why a command failed, as a person reads it: `tmws: failed to …: cause`, then a hint.

use std::{fmt, io};

use crate::{config::ConfigError, engine::EngineError, exit::Exit, store::StoreError};

/// The end of a command that did not do what was asked.
#[derive(Debug)]
pub struct Failure {
    /// How the process ends.
    pub exit: Exit,
    action: String,
    cause: String,
    hint: Option<String>,
}

impl Failure {
    /// Failed to `action` because of `cause`; both are lower-case fragments.
    pub fn new(exit: Exit, action: impl Into<String>, cause: impl Into<String>) -> Self {
        Self { exit, action: action.into(), cause: cause.into(), hint: None }
    }

    /// What to do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Stdout could not be written. Whoever closed it early has read enough: no failure.
    pub(super) fn of_stdout(error: &io::Error) -> Self {
        let exit = if error.kind() == io::ErrorKind::BrokenPipe { Exit::Ok } else { Exit::Failed };
        Self::new(exit, "write to stdout", error.to_string())
    }

    /// Failed to `action` in the engine.
    pub(super) fn of_engine(action: impl Into<String>, error: &EngineError) -> Self {
        let cause = match &error.part {
            Some(part) => format!("{} ({}, {part})", error.message, error.kind.code()),
            None => format!("{} ({})", error.message, error.kind.code()),
        };
        Self::new(error.kind.into(), action, cause)
    }

    /// Failed to `action` in the store.
    pub(super) fn of_store(action: impl Into<String>, error: &StoreError) -> Self {
        if let StoreError::Internal(source) = error {
            tracing::error!(error = source.as_ref() as &dyn std::error::Error, "store failed");
        }
        Self::new(error.into(), action, error.to_string())
    }

    /// Failed to `action` on a file or stream.
    pub(super) fn of_io(action: impl Into<String>, error: &io::Error) -> Self {
        Self::new(Exit::Failed, action, error.to_string())
    }
}

impl From<&ConfigError> for Failure {
    fn from(error: &ConfigError) -> Self {
        Self::new(Exit::Config, "read the configuration", error.to_string())
            .with_hint("`tmws schema show config` prints every key; `tmws doctor` each value with its origin")
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tmws: failed to {}: {}", self.action, self.cause)?;
        if let Some(hint) = &self.hint {
            write!(f, "\nhint: {hint}")?;
        }
        Ok(())
    }
}
