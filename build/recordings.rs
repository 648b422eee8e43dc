//! Lists the recorded conversations of clients of others, so that `tmws accept` has them wherever it is installed.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

/// Where they lie.
const FOLDER: &str = "compat/transcripts";

/// Writes `recordings.rs` to `out`: name and text of each recording of a client of somebody else with a server of MCP.
/// Left out: recordings of our own server, of the client that is played by hand, and of the old dialect.
pub(crate) fn list(root: &Path, out: &Path) {
    println!("cargo:rerun-if-changed=build/recordings.rs");
    println!("cargo:rerun-if-changed={FOLDER}");
    let folder = root.join(FOLDER);
    let mut found = Vec::new();
    files(&folder, &mut found);
    found.sort();
    let mut text = String::from("&[\n");
    for path in found {
        let Ok(name) = path.strip_prefix(&folder) else { continue };
        let name = name.with_extension("").to_string_lossy().replace('\\', "/");
        let parts: Vec<&str> = name.split('/').collect();
        let [client, revision, scenario] = parts[..] else { continue };
        if client.starts_with("by-hand-") || revision == "old" || scenario.starts_with("own-") {
            continue;
        }
        let _ = writeln!(text, "    ({name:?}, include_str!({:?})),", path.to_string_lossy());
    }
    text.push_str("]\n");
    fs::write(out.join("recordings.rs"), text).expect("the folder for generated files can be written");
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "jsonl") {
            found.push(path);
        }
    }
}
