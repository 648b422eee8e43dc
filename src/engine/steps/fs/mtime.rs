//! The state of a folder's files as one text, without reading them.

use std::path::Path;

use cap_std::fs::MetadataExt as _;
use sha2::{Digest as _, Sha256};

use super::{
    blocking,
    root::{Bounds, Root},
    walk::{Flow, Walk},
};
use crate::{
    engine::steps::{StepContext, StepError},
    hex::hex,
};

/// A hash of paths, sizes and times of last change of all files beneath `root` that git does not ignore, hidden ones
/// among them; `None` where not all of them could be looked at in time.
///
/// # Errors
/// `cancelled`; `not_found`, `denied` where the folder cannot be opened.
pub(in crate::engine) async fn newest(
    root: &Path,
    context: &StepContext,
) -> Result<Option<String>, StepError> {
    let (root, bounds) = (root.to_owned(), Bounds::of(context));
    blocking(move || {
        let root = Root::open(&root)?;
        let mut hash = Sha256::new();
        let mut is_whole = true;
        let walk = Walk { root: &root, bounds: &bounds, hidden: true };
        let walked = walk.visit(Path::new(""), &mut |met| {
            // The repository's own files change with every look at it.
            if met.path.starts_with(".git") {
                return Ok(Flow::On);
            }
            let Ok(metadata) = met.metadata() else {
                is_whole = false;
                return Ok(Flow::Stop);
            };
            let path = met.path.as_os_str().as_encoded_bytes();
            hash.update((path.len() as u64).to_le_bytes());
            hash.update(path);
            hash.update(metadata.size().to_le_bytes());
            for number in [metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()] {
                hash.update(number.to_le_bytes());
            }
            Ok(Flow::On)
        })?;
        Ok((is_whole && !walked.cut && walked.unreadable == 0).then(|| hex(&hash.finalize()[..16])))
    })
    .await
}
