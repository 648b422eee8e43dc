//! `tmws record` from outside: what passes is unchanged, what is written down is what passed, without secrets.

mod own;
mod proxy;
mod stdio;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use tmws::transcript::{Direction, Entry, Transcript};

/// A wait that is longer than this is a failure.
const PATIENCE: Duration = Duration::from_secs(30);

/// The one recording in `folder`.
fn recording(folder: &Path) -> (PathBuf, Transcript) {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    let file = files.remove(0);
    let text = fs::read_to_string(&file).unwrap();
    (file, Transcript::validate(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
}

/// What one side said.
fn said(transcript: &Transcript, by: Direction) -> Vec<&Entry> {
    transcript.entries.iter().filter(|entry| entry.dir == by).collect()
}

/// What happened.
fn events(transcript: &Transcript) -> Vec<&str> {
    transcript.entries.iter().filter_map(|entry| entry.event.as_deref()).collect()
}
