//! What `schemas/released.toml` says of the schema files, and where the files say otherwise.
//!
//! The build script refuses to build with a fault; a test spoils copies and finds each one. Line ends do not count: a
//! checkout may have written `\r\n`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
};

use sha2::{Digest as _, Sha256};

/// The list, from the root of the package.
pub(crate) const MANIFEST: &str = "schemas/released.toml";

/// Folders whose files the list names, with the ending that counts: the schemas, and the instances on which a new version
/// is held against an older one. A package may leave the second out.
pub(crate) const FOLDERS: [(&str, &str); 2] = [("schemas", "json"), ("fixtures/schemas", "jsonl")];

/// What the list holds; paths start at the root of the package and have `/` between their parts.
#[derive(Debug, Default)]
pub(crate) struct Manifest {
    /// Files that may still change.
    pub(crate) pending: BTreeSet<String>,
    /// Released files: the release that froze each, and the SHA-256 of its text.
    pub(crate) released: BTreeMap<String, (String, String)>,
}

impl Manifest {
    /// Reads the few forms that `scripts/release-schemas` writes: a list of pending paths, and a table a release.
    ///
    /// # Errors
    /// The line that is none of them, or that names a path a second time.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut manifest = Self::default();
        let mut release = None;
        for (number, line) in text.lines().enumerate() {
            let refuse = |why: &str| Err(format!("{MANIFEST}:{}: {why}", number + 1));
            let line = line.trim();
            if line.is_empty()
                || line.starts_with('#')
                || line == "]"
                || line == "pending = ["
                || line == "pending = []"
            {
                continue;
            }
            if let Some(name) = line.strip_prefix("[release.\"").and_then(|rest| rest.strip_suffix("\"]")) {
                release = Some(name.to_owned());
                continue;
            }
            let parts: Vec<&str> = line.split('"').collect();
            let path = match (parts.as_slice(), &release) {
                (["", path, ","], None) => {
                    if !manifest.pending.insert((*path).to_owned()) {
                        return refuse("names the file a second time");
                    }
                    path
                }
                (["", path, " = ", hash, ""], Some(release)) if hash.len() == 64 => {
                    let entry = (release.clone(), (*hash).to_owned());
                    if manifest.released.insert((*path).to_owned(), entry).is_some() {
                        return refuse("names the file a second time");
                    }
                    path
                }
                _ => return refuse("is neither a pending file nor a released one with its SHA-256"),
            };
            if manifest.pending.contains(*path) && manifest.released.contains_key(*path) {
                return refuse("names the file as released and as pending");
            }
        }
        Ok(manifest)
    }
}

/// Something that is not as the list says.
#[derive(Debug)]
pub(crate) struct Fault {
    /// The file, what is wrong with it and what to do.
    pub(crate) text: String,
    /// A promise is broken: nothing may be built. What is merely not listed yet fails a test.
    pub(crate) is_fatal: bool,
}

fn fatal(text: String) -> Fault {
    Fault { text, is_fatal: true }
}

fn slight(text: String) -> Fault {
    Fault { text, is_fatal: false }
}

/// Everything that is not as the list says. Empty where all is well.
pub(crate) fn faults(root: &Path) -> Vec<Fault> {
    let text = match fs::read_to_string(root.join(MANIFEST)) {
        Ok(text) => text,
        Err(error) => return vec![fatal(format!("{MANIFEST} cannot be read: {error}; restore it"))],
    };
    let manifest = match Manifest::parse(&text) {
        Ok(manifest) => manifest,
        Err(fault) => return vec![fatal(format!("{fault}; `scripts/release-schemas` writes this file"))],
    };
    let mut found = Vec::new();
    let mut present = BTreeSet::new();
    let mut absent_folders = Vec::new();
    for (folder, ending) in FOLDERS {
        if root.join(folder).is_dir() {
            if let Err(error) = files(root, folder, ending, &mut present) {
                found.push(fatal(format!("{folder} cannot be read: {error}")));
            }
        } else {
            absent_folders.push(format!("{folder}/"));
        }
    }
    for path in &present {
        if !manifest.pending.contains(path) && !manifest.released.contains_key(path) {
            found.push(slight(format!(
                "{path} is not listed in {MANIFEST}: run `scripts/release-schemas --pending`, which lists it as not yet \
                 released"
            )));
        }
    }
    let is_expected = |path: &str| {
        present.contains(path)
            || absent_folders.iter().any(|folder| folder != "schemas/" && path.starts_with(folder))
    };
    for path in manifest.pending.iter().filter(|path| !is_expected(path)) {
        found.push(slight(format!(
            "{path} is listed in {MANIFEST} as pending and is not there: restore it, or take the line out"
        )));
    }
    for (path, (release, hash)) in &manifest.released {
        if !is_expected(path) {
            found.push(fatal(format!(
                "{path} was released with {release} and is gone: restore it; a released file stays"
            )));
        } else if present.contains(path) {
            match digest(&root.join(path)) {
                Ok(actual) if actual == *hash => {}
                Ok(_) => found.push(fatal(format!(
                    "{path} has changed since its release with {release}: restore it and {}",
                    remedy(path)
                ))),
                Err(error) => found.push(fatal(format!("{path} cannot be read: {error}"))),
            }
        }
    }
    found
}

/// What to do instead of changing a released file.
fn remedy(path: &str) -> &'static str {
    if path.starts_with("schemas/mcp/") {
        "loosen the definition by an entry with a tripwire in src/schema/errata.rs; it may not be tightened"
    } else if path.starts_with("schemas/") {
        "put the change into a file of the next version beside it (v2…), which accepts all that this one does"
    } else {
        "put further instances into a file of their own beside it"
    }
}

/// Hexadecimal SHA-256 of a file's text, with `\n` as the end of every line.
///
/// # Errors
/// The file cannot be read.
pub(crate) fn digest(path: &Path) -> io::Result<String> {
    let bytes = fs::read(path)?;
    let mut hash = Sha256::new();
    for (index, part) in bytes.split(|byte| *byte == b'\n').enumerate() {
        if index > 0 {
            hash.update(b"\n");
        }
        let is_last = part.as_ptr_range().end == bytes.as_ptr_range().end;
        hash.update(if is_last { part } else { part.strip_suffix(b"\r").unwrap_or(part) });
    }
    let digit = |half: u8| char::from_digit(u32::from(half), 16).unwrap_or_default();
    Ok(hash.finalize().iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect())
}

fn files(root: &Path, folder: &str, ending: &str, found: &mut BTreeSet<String>) -> io::Result<()> {
    for entry in fs::read_dir(root.join(folder))? {
        let entry = entry?;
        let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            files(root, &path, ending, found)?;
        } else if Path::new(&path).extension().is_some_and(|extension| extension == ending) {
            found.insert(path);
        }
    }
    Ok(())
}
