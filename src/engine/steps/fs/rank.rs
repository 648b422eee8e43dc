//! In which order files with hits are shown: what a reader looks for first, from the looks of a path alone.

use std::path::{Component, Path};

/// Endings of prose and of data.
const PROSE: &[&str] = &["adoc", "csv", "json", "lock", "md", "rst", "txt"];

/// Folders of what stands beside the code.
const ASIDE: &[&str] =
    &["__tests__", "example", "examples", "fixture", "fixtures", "spec", "specs", "test", "tests"];

/// Files that define what is looked for come first, then code before prose and data, code before its tests and examples,
/// high folders before deep ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    uses: bool,
    is_prose: bool,
    is_aside: bool,
    depth: usize,
}

impl Rank {
    /// Of the file at `path`, relative to its root.
    pub(super) fn of(path: &Path, defines: bool) -> Self {
        let has = |known: &[&str], name: Option<&str>| name.is_some_and(|name| known.contains(&name));
        let folders = path.parent().into_iter().flat_map(Path::components);
        let (mut is_aside, mut depth) = (false, 0);
        for folder in folders {
            if let Component::Normal(name) = folder {
                is_aside |= has(ASIDE, name.to_str());
                depth += 1;
            }
        }
        let is_prose = has(PROSE, path.extension().and_then(|ending| ending.to_str()));
        Self { uses: !defines, is_prose, is_aside, depth }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_defines_comes_first_then_code_then_what_stands_beside_it() {
        let in_order = [
            ("docs/deep/tides.md", true),
            ("berth.rs", false),
            ("src/berth.rs", false),
            ("src/a/b/c.rs", false),
            ("src/tests/berth.rs", false),
            ("examples/a/berth.rs", false),
            ("README.md", false),
            ("src/berth.json", false),
            ("tests/berth.txt", false),
        ];
        let ranks: Vec<Rank> =
            in_order.iter().map(|(path, defines)| Rank::of(Path::new(path), *defines)).collect();
        assert!(ranks.is_sorted(), "{ranks:#?}");
        // A file's own name is no folder's.
        assert!(Rank::of(Path::new("tests"), false) < Rank::of(Path::new("tests/a"), false));
    }
}
