//! The commit that `HEAD` means, read from the files of a repository: no process, no walk.

use std::{io, path::Path};

use super::discover::{layout, read_small};

/// Longest file of one ref, in bytes.
const REF_BYTES_MAX: u64 = 4 << 10;
/// Longest file of packed refs, in bytes.
const PACKED_BYTES_MAX: u64 = 32 << 20;
/// Refs that name each other at most.
const LINKS_MAX: usize = 5;

/// The ref and the commit that `HEAD` of the repository at `root` means, as `refs/heads/main 0123…`; without a commit
/// before the first one. `None` where that is not written in files (another way of keeping refs), or not readable.
pub(in crate::engine) fn head(root: &Path) -> Option<String> {
    let layout = layout(root).ok()?;
    // A repository with reftables has a HEAD that names no real branch.
    if layout.common_dir.join("reftable").exists() {
        return None;
    }
    let mut name = String::from("HEAD");
    let mut told = String::new();
    for _ in 0..LINKS_MAX {
        let own = layout.git_dir.join(&name);
        let text = match text_of(&own) {
            Ok(None) if layout.git_dir != layout.common_dir => text_of(&layout.common_dir.join(&name)),
            text => text,
        };
        let text = match text.ok()? {
            Some(text) => text,
            None => match packed(&layout.common_dir, &name).ok()? {
                Some(hash) => hash,
                None if name == "HEAD" => return None,
                // The branch has no commit yet.
                None => return Some(told),
            },
        };
        let Some(next) = text.strip_prefix("ref:") else {
            let is_hash = text.len() >= 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            return is_hash.then(|| format!("{told} {text}"));
        };
        next.trim().clone_into(&mut name);
        let is_inside =
            name.starts_with("refs/") && !name.split('/').any(|part| part == ".." || part.is_empty());
        if !is_inside {
            return None;
        }
        told.clone_from(&name);
    }
    None
}

/// What one ref's file says; `None` where there is none.
fn text_of(path: &Path) -> io::Result<Option<String>> {
    let bytes = match read_small(path, REF_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        // A folder of that name: branches below it.
        Err(_) if path.is_dir() => return Ok(None),
        Err(error) => return Err(error),
    };
    let text = String::from_utf8(bytes).map_err(|_| io::ErrorKind::InvalidData)?;
    Ok(Some(text.trim().to_owned()))
}

/// The commit of `name` among the packed refs.
fn packed(common_dir: &Path, name: &str) -> io::Result<Option<String>> {
    let bytes = match read_small(&common_dir.join("packed-refs"), PACKED_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let line = bytes.split(|byte| *byte == b'\n').find_map(|line| {
        let (hash, rest) = line.split_at_checked(line.iter().position(|byte| *byte == b' ')?)?;
        (rest.strip_prefix(b" ")? == name.as_bytes()).then_some(hash)
    });
    Ok(line.map(|hash| String::from_utf8_lossy(hash).into_owned()))
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, process::Command};

    use super::*;

    fn git(folder: &Path, arguments: &[&str]) -> String {
        let output = Command::new("git")
            .current_dir(folder)
            .args(["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main"])
            .args(arguments)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .output()
            .unwrap();
        assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    #[test]
    fn it_is_what_git_says_however_the_ref_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let top: PathBuf = folder.path().canonicalize().unwrap();
        let (repo, tree) = (top.join("repo"), top.join("tree"));
        assert_eq!(head(&top), None, "no repository");
        git(&top, &["init", "-q", "repo"]);
        assert_eq!(head(&repo).as_deref(), Some("refs/heads/main"), "no commit yet");
        let check = |folder: &Path, branch: &str| {
            let hash = git(folder, &["rev-parse", "HEAD"]);
            assert_eq!(head(folder), Some(format!("{branch} {hash}")));
        };
        git(&repo, &["commit", "-q", "--allow-empty", "-m", "one"]);
        check(&repo, "refs/heads/main");
        git(&repo, &["pack-refs", "--all"]);
        check(&repo, "refs/heads/main");
        git(&repo, &["commit", "-q", "--allow-empty", "-m", "two"]);
        check(&repo, "refs/heads/main");
        git(&repo, &["checkout", "-q", "-b", "a/b"]);
        check(&repo, "refs/heads/a/b");
        git(&repo, &["worktree", "add", "-q", "../tree", "-b", "side"]);
        check(&tree, "refs/heads/side");
        git(&tree, &["commit", "-q", "--allow-empty", "-m", "three"]);
        git(&repo, &["pack-refs", "--all"]);
        check(&tree, "refs/heads/side");
        git(&repo, &["checkout", "-q", "--detach"]);
        check(&repo, "");
        std::fs::write(repo.join(".git/HEAD"), "ref: ../../etc/passwd\n").unwrap();
        assert_eq!(head(&repo), None, "leads out");
        std::fs::write(repo.join(".git/HEAD"), "ref: HEAD\n").unwrap();
        assert_eq!(head(&repo), None, "in a circle");
    }
}
