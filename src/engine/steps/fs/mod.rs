//! `fs.*`: reads files beneath granted roots, and nothing else on the machine.
//!
//! Every path is opened relative to a directory handle that cannot be left (`cap_std`): `..`, absolute paths and symlinks
//! that point outside are answered `denied`. Only regular files are opened, never a pipe or a device. Content that holds
//! credentials by its nature (`secret`) is closed. Results have a fixed order, and what a cap or the deadline cut off is
//! said with `truncated`.

mod findings;
mod glob;
mod grep;
mod mtime;
mod outline;
mod rank;
mod read;
pub(super) mod root;
mod secret;
mod symbol;
mod walk;

use std::path::Path;

use serde_json::{Map, Value};

pub(in crate::engine) use self::mtime::newest;
use self::{
    glob::{Listing, Tree},
    grep::Search,
    outline::Outline,
    read::{Looking, Reading},
    root::{Bounds, Root},
};
pub(super) use self::{
    root::{relative, shown},
    secret::reason as secret_reason,
};
use super::{StepContext, StepError, StepOutput, arguments::Arguments};
use crate::engine::ErrorKind;

/// Whether something stands at `path` beneath `root`; what leads outside is not there.
pub(in crate::engine) fn has_path(root: &Path, path: &Path) -> bool {
    let found = || Root::open(root)?.locate(&relative(&path.to_string_lossy())?);
    found().is_ok()
}

/// Runs the step called `uses` with its evaluated `with`.
///
/// | step | value |
/// |---|---|
/// | `fs.read` | `{path, from, to, bytes, text, truncated, next?, lossy?, binary?}`: lines `from..=to`, counted from 1; `bytes` is the file's size. With `tail` the last lines of any file up to 16 MiB, without numbers: `{path, bytes, text, truncated, lossy?}`, `truncated` where the beginning is left out |
/// | `fs.glob` | `{n, files: [path], unreadable, truncated}`: `n` counts all matches |
/// | `fs.grep` | `{n, files_n, files: [{path, n, hits: [{line, text, symbol?, before?, after?}]}], searched, skipped: {binary?, large?, secret?, unreadable?}, truncated}`; with `lines`, hits are texts (`LINE: TEXT [SYMBOL]`), those that define what is looked for first, and so are files: then code before prose and data, code before tests and examples, high folders before deep ones |
/// | `fs.stat` | `{path, exists, kind, bytes, modified}`: `kind` is `file`, `folder` or `other` |
/// | `fs.outline` | `{n, files_n, files: [{path, language, lines, bytes, n, symbols: [{line, depth, name, signature}]}], skipped, truncated}` |
/// | `fs.tree` | `{path, n, folders: [{path, n}], files: [name], unreadable, truncated}`: `n` counts files at any depth |
///
/// # Errors
/// `denied` for what is not granted, leads outside or is closed; `not_found`; `invalid_input`; `cancelled`.
pub async fn run(
    uses: &str,
    context: &StepContext,
    with: &Map<String, Value>,
) -> Result<StepOutput, StepError> {
    let arguments = Arguments::new(uses, with);
    let bounds = Bounds::of(context);
    let bytes_max = context.bytes_max;
    match uses {
        "fs.read" => {
            let reading = Reading::read(&arguments, context)?;
            blocking(move || reading.run(&bounds, bytes_max)).await
        }
        "fs.glob" => {
            let listing = Listing::read(&arguments, context)?;
            blocking(move || listing.run(&bounds, bytes_max)).await
        }
        "fs.grep" => {
            let search = Search::read(&arguments, context)?;
            blocking(move || search.run(&bounds, bytes_max)).await
        }
        "fs.stat" => {
            let looking = Looking::read(&arguments, context)?;
            blocking(move || looking.run()).await
        }
        "fs.outline" => {
            let outline = Outline::read(&arguments, context)?;
            blocking(move || outline.run(&bounds, bytes_max)).await
        }
        "fs.tree" => {
            let tree = Tree::read(&arguments, context)?;
            blocking(move || tree.run(&bounds, bytes_max)).await
        }
        _ => Err(StepError::new(ErrorKind::Internal, format!("{uses} is not a step of family fs"))),
    }
}

/// Runs `work` where it may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StepError> + Send + 'static,
) -> Result<T, StepError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| {
        Err(StepError::new(ErrorKind::Internal, "a file step ended unexpectedly; the log has the details"))
    })
}
