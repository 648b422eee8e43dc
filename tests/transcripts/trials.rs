//! One trial for each transcript, and those about all of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use libtest_mimic::{Failed, Trial};
use tmws::{
    replay::{Options, play},
    revision::Revision,
    transcript::{Transcript, Transport},
};

use crate::{
    expected::{self, Entry},
    normal::normal,
    own, server,
};

/// Nothing here takes so long on a healthy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// The transports that clients of a revision have, as the names of scenarios begin, and so the recordings that there
/// must be. No client in use speaks 2026-07-28 over WebSocket; `sse` is HTTP+SSE, which 2024-11-05 has for HTTP and which
/// newer clients fall back to.
const TRANSPORTS: &[(Revision, &[&str])] = &[
    (Revision::V2024_11_05, &["stdio", "ws", "sse"]),
    (Revision::V2025_03_26, &["stdio", "ws", "http"]),
    (Revision::V2025_06_18, &["stdio", "ws", "http"]),
    (Revision::V2025_11_25, &["stdio", "ws", "http", "sse"]),
    (Revision::V2026_07_28, &["stdio", "http"]),
];

/// Where the results of lists stand, beside the transcripts.
const LISTS: &str = "lists";
/// The same of our own server.
const OWN_LISTS: &str = "own-lists";

/// The client of `compat/record/by_hand.py`, which does one thing at a time.
const BY_HAND: &str = "by-hand";

/// `compat`.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("compat")
}

/// One recording.
#[derive(Clone)]
struct Recording {
    /// `<client>-<version>/<revision>/<scenario>`.
    name: String,
    path: PathBuf,
    revision: Revision,
}

impl Recording {
    /// Whether our own server was recorded, with its own tools.
    fn is_own(&self) -> bool {
        self.scenario().starts_with("own-")
    }

    fn scenario(&self) -> &str {
        self.name.rsplit('/').next().unwrap_or_default()
    }

    /// The transport, as the scenario says it.
    fn transport(&self) -> &str {
        let scenario = self.scenario();
        scenario.strip_prefix("own-").unwrap_or(scenario).split('-').next().unwrap_or_default()
    }
}

/// Every trial.
pub(crate) fn all() -> Vec<Trial> {
    let recordings = recordings();
    let entries = expected::entries();
    let mut trials: Vec<Trial> = recordings
        .iter()
        .map(|recording| {
            let (recording, entries) = (recording.clone(), entries.clone());
            Trial::test(recording.name.clone(), move || replay(&recording, &entries))
        })
        .collect();
    let names: Vec<String> = recordings.iter().map(|recording| recording.name.clone()).collect();
    trials.push(Trial::test("every_expected_failure_is_of_a_transcript_and_has_its_reason", move || {
        told(&expected::faults(&entries, &names))
    }));
    let of = recordings.clone();
    trials.push(Trial::test("every_revision_is_there_on_every_transport_of_its_clients", move || {
        coverage(&of)
    }));
    trials.push(Trial::test("every_transcript_is_valid_and_stands_where_it_belongs", move || {
        places(&recordings)
    }));
    trials
}

fn told(faults: &[String]) -> Result<(), Failed> {
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n").into()) }
}

/// Every file under `compat/transcripts`.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push(path);
        }
    }
}

fn recordings() -> Vec<Recording> {
    let folder = root().join("transcripts");
    let mut found = Vec::new();
    files(&folder, &mut found);
    // Those of the old dialect are played against a server that speaks it (`tests/it/network/dialect_transcripts.rs`).
    let is_mcp = |path: &Path| path.parent().is_some_and(|folder| !folder.ends_with("old"));
    found.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl") && is_mcp(path));
    let recording = |path: PathBuf| {
        let name = path.strip_prefix(&folder).unwrap().with_extension("");
        let name = name.to_str().unwrap().replace('\\', "/");
        let parts: Vec<&str> = name.split('/').collect();
        let [_, revision, _] = parts[..] else {
            panic!("{name} is no <client>-<version>/<revision>/<scenario>")
        };
        let revision = Revision::parse(revision).unwrap_or_else(|| panic!("{name}: no revision"));
        Recording { name: name.clone(), path, revision }
    };
    found.into_iter().map(recording).collect()
}

fn read(recording: &Recording) -> Result<Transcript, String> {
    let text = fs::read_to_string(&recording.path).unwrap();
    Transcript::validate(&text).map_err(|error| format!("{}: {error}", recording.name))
}

/// Plays one transcript.
fn replay(recording: &Recording, entries: &[Entry]) -> Result<(), Failed> {
    let transcript = read(recording)?;
    let options = Options { timeout: PATIENCE, is_exact: false };
    let report = if recording.is_own() {
        own::replay(&transcript, recording.transport(), &options)
    } else {
        server::beside(transcript.header.transport, async |against| {
            play(&transcript, against, &options).await
        })
    };
    let report = report.map_err(|error| error.to_string())?;
    let faults = expected::judge(&recording.name, &report, entries);
    if !faults.is_empty() {
        return Err(format!("{}\n{}", faults.join("\n"), report.to_text(false)).into());
    }
    let lists = if recording.is_own() { OWN_LISTS } else { LISTS };
    let normal = normal(&report, transcript.header.transport, lists, transcript.header.client == BY_HAND);
    let text = if recording.is_own() { own::redacted(&normal.text) } else { normal.text };
    snapshot(recording.path.parent().unwrap(), recording.scenario(), &text);
    for list in normal.lists {
        snapshot(&root().join("transcripts").join(lists).join(list.revision), &list.name, &list.text);
    }
    Ok(())
}

fn snapshot(folder: &Path, name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(folder);
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

fn coverage(recordings: &[Recording]) -> Result<(), Failed> {
    let mut seen: BTreeMap<Revision, BTreeSet<String>> = BTreeMap::new();
    for recording in recordings {
        seen.entry(recording.revision).or_default().insert(recording.transport().to_owned());
    }
    let mut faults = Vec::new();
    for revision in Revision::ALL {
        let wanted = TRANSPORTS.iter().find(|(of, _)| *of == revision).map(|(_, transports)| *transports);
        for transport in wanted.unwrap_or_default() {
            if !seen.get(&revision).is_some_and(|seen| seen.contains(*transport)) {
                faults.push(format!("there is no transcript of {revision} over {transport}"));
            }
        }
    }
    told(&faults)
}

/// The header agrees with the place, the revision is the one that was spoken, and no snapshot is left over.
fn places(recordings: &[Recording]) -> Result<(), Failed> {
    let mut faults = Vec::new();
    for recording in recordings {
        let header = match read(recording) {
            Ok(transcript) => transcript.header,
            Err(fault) => {
                faults.push(fault);
                continue;
            }
        };
        let client = format!("{}-{}/", header.client, header.version);
        let transport = match header.transport {
            Transport::Stdio => "stdio",
            Transport::Http => "http",
            Transport::Ws => "ws",
        };
        // Of our own server the mode of the client may follow.
        let is_there = match (recording.is_own(), recording.transport()) {
            (true, "sse") => transport == "http" && header.variant.starts_with("own"),
            (true, own) => transport == own && header.variant.starts_with("own"),
            (false, _) => recording.scenario() == format!("{transport}-{}", header.variant),
        };
        if !recording.name.starts_with(&client) || !is_there {
            let said = format!("{client}… over {transport}, {}", header.variant);
            faults.push(format!("{}: the header says {said}", recording.name));
        }
    }
    let mut found = Vec::new();
    files(&root().join("transcripts"), &mut found);
    let snapshots: String = found
        .iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "snap"))
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    let is_left_over = |path: &PathBuf| {
        let name = path.strip_prefix(root().join("transcripts")).unwrap().with_extension("");
        let is_list = name.starts_with(LISTS) || name.starts_with(OWN_LISTS);
        let is_used = if is_list {
            snapshots.contains(&format!("as in {}\"", name.display()))
        } else {
            path.with_extension("jsonl").exists()
        };
        path.extension().is_some_and(|extension| extension == "snap") && !is_used
    };
    let left_over = found.iter().filter(|path| is_left_over(path));
    faults.extend(left_over.map(|path| format!("{} belongs to no transcript", path.display())));
    told(&faults)
}
