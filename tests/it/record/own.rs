//! Recordings of our own server (`compat/record`) as files; `tests/transcripts` plays them.

use std::{
    fs,
    path::{Path, PathBuf},
};

fn recordings(transport: &str) -> Vec<PathBuf> {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("compat/transcripts")];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let is_jsonl = path.extension().is_some_and(|extension| extension == "jsonl");
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() {
                folders.push(path);
            } else if is_jsonl && name.starts_with(&format!("own-{transport}")) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn nothing_of_a_machine_stands_in_a_recording() {
    for transport in ["stdio", "ws", "http", "sse"] {
        for path in recordings(transport) {
            let text = fs::read_to_string(&path).unwrap();
            for hint in ["/tmp/", "/root", "/home/", "/Users/", "/work/", "TMWS_"] {
                assert!(!text.contains(hint), "{}: {hint}", path.display());
            }
        }
    }
}
