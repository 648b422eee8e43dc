//! The report: `index.html`, `junit.xml`, `metrics.json`, `summary.md`.
//!
//! Everything that a run tells is rid of secrets first ([`Secrets`]); each file is written beside its place and moved
//! there, so that nobody reads half of one.

mod html;
mod junit;
mod latency;
mod metrics;
mod previous;
#[cfg(test)]
mod sample;
mod secrets;
mod summary;
mod svg;
#[cfg(test)]
mod tests;
mod text;
#[cfg(test)]
mod xml;

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

pub use self::{
    previous::Previous,
    secrets::{Secrets, without_secrets},
    text::{duration, with_unit},
};
use super::{AcceptError, Run};

/// The page.
pub const PAGE: &str = "index.html";
/// For machines, and for the next run.
pub const METRICS: &str = "metrics.json";

/// Writes the report of `run` into `folder`, which is made where it is not there; where its page lies.
///
/// # Errors
/// A file cannot be written; or `metrics.json` would not fit its schema, which is a bug: the other files are there then.
pub fn write(
    run: &Run,
    secrets: &Secrets,
    previous: Option<&Previous>,
    folder: &Path,
) -> Result<PathBuf, AcceptError> {
    let mut run = run.clone();
    secrets.hide(&mut run);
    let failed =
        |path: &Path, source| AcceptError::File { what: format!("writing {}", path.display()), source };
    fs::create_dir_all(folder).map_err(|error| failed(folder, error))?;
    let put = |name: &str, text: &str| {
        let path = folder.join(name);
        replace(&path, text).map_err(|error| failed(&path, error))
    };
    put(PAGE, &html::of(&run, previous))?;
    put("junit.xml", &junit::of(&run))?;
    put("summary.md", &summary::of(&run, previous))?;
    put(METRICS, &format!("{:#}\n", metrics::of(&run)?))?;
    Ok(folder.join(PAGE))
}

/// What a run decided, with what qualifies it: `GO (PARTIAL)`.
#[must_use]
pub fn standing(run: &Run) -> String {
    html::standing(run)
}

/// Why a scenario ended as it did, where none of its checks says so already.
fn why(result: &super::scenario::Result) -> Option<&str> {
    let is_told =
        |why: &str| result.seen.checks.iter().any(|check| !check.held && why.starts_with(&check.what));
    result.why.as_deref().filter(|why| !is_told(why))
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let beside = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let written = fs::File::create(&beside)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}
