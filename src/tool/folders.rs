//! The patterns of the binary, of the user's folders and of the repository's own.

use std::{
    collections::hash_map::DefaultHasher,
    fs,
    hash::{Hash as _, Hasher as _},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use super::{Loaded, PatternSource, Promotion};
use crate::{
    engine::{Patterns, Routed},
    pattern::{
        Mode, Origin, Pattern,
        library::{Library, SourceFile},
        lint::{Unreadable, read_files},
        router::{Among, Explanation, Route},
        trust::Trust,
    },
};

/// Largest file of trusted patterns, in bytes.
const TRUST_BYTES_MAX: u64 = 4 << 20;

/// Finds out the canonical workspace root; `None` where there is none.
pub type FindRoot = Box<dyn Fn() -> Option<PathBuf> + Send + Sync>;

/// Where pattern files are. Nothing is read before [`PatternSource::load`].
pub struct Folders {
    /// The user's, the first of which need not exist; a later one shadows an earlier one.
    pub user: Vec<PathBuf>,
    /// The repository's own, none of which need exist; each file needs trust.
    pub project: Vec<PathBuf>,
    /// The root that the repository's own lie in.
    pub root: FindRoot,
    /// What the user trusted, in the user's own folder.
    pub trust: Option<PathBuf>,
    /// Which patterns are tools of their own.
    pub promotion: Promotion,
    /// The library as loaded last: a file that does not load any more keeps its last good version.
    pub library: Mutex<Arc<Library>>,
}

/// Pattern files as read, and what could not be.
#[derive(Default)]
pub struct Files {
    /// Texts with their origins.
    pub files: Vec<SourceFile>,
    /// Files that cannot be read.
    pub unreadable: Vec<Unreadable>,
    /// What is wrong with folders: one text each, with the path.
    pub faults: Vec<String>,
}

impl Folders {
    /// Reads the pattern files of all folders.
    #[must_use]
    pub fn read(&self) -> Files {
        let mut files = Files::default();
        for (index, folder) in self.user.iter().enumerate() {
            files.take(folder, &Origin::User(folder.clone()), index == 0);
        }
        files.append(self.read_project());
        files
    }

    /// Reads the pattern files of the repository alone.
    #[must_use]
    pub fn read_project(&self) -> Files {
        let mut files = Files::default();
        let Some(root) = (self.root)() else { return files };
        for folder in self.project_folders(&root) {
            // A link must not make a stranger's folder the repository's.
            match folder.canonicalize() {
                Ok(real) if real.starts_with(&root) => {
                    files.take(&real, &Origin::Project(root.clone()), true);
                }
                Ok(_) => files.faults.push(format!("{}: leads out of the repository", folder.display())),
                Err(_) => {}
            }
        }
        files
    }

    /// What the user trusted. A file that cannot be read trusts nothing.
    ///
    /// # Errors
    /// What is wrong with it, with its path.
    pub fn read_trust(&self) -> Result<Trust, String> {
        let Some(path) = &self.trust else { return Ok(Trust::default()) };
        let text = match read_small(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Trust::default()),
            Err(error) => return Err(format!("{}: {error}", path.display())),
        };
        Trust::parse(&text).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// The canonical root that project patterns are pinned to.
    #[must_use]
    pub fn canonical_root(&self) -> Option<PathBuf> {
        (self.root)()
    }

    fn project_folders(&self, root: &Path) -> Vec<PathBuf> {
        let own = root.join(".tmws").join("patterns");
        let mut folders = vec![own];
        folders.extend(self.project.iter().cloned());
        folders
    }
}

impl Files {
    fn take(&mut self, folder: &Path, origin: &Origin, may_be_absent: bool) {
        match read_files(folder, origin) {
            Ok((files, unreadable)) => {
                self.files.extend(files);
                self.unreadable.extend(unreadable);
            }
            Err(error) if may_be_absent && error.kind() == io::ErrorKind::NotFound && !folder.exists() => {}
            Err(error) => self.faults.push(format!("{}: {error}", folder.display())),
        }
    }

    fn append(&mut self, other: Self) {
        self.files.extend(other.files);
        self.unreadable.extend(other.unreadable);
        self.faults.extend(other.faults);
    }
}

impl PatternSource for Folders {
    fn load(&self) -> Loaded {
        let Files { mut files, unreadable, mut faults } = self.read();
        let trust = self.read_trust().unwrap_or_else(|fault| {
            faults.push(fault);
            Trust::default()
        });
        let mut library = self.library.lock().unwrap_or_else(PoisonError::into_inner);
        for Unreadable { file, reason } in unreadable {
            let kept = library.last_good(&file);
            let rest = if kept.is_some() { "; its last good version runs on" } else { "" };
            faults.push(format!("{file}: {reason}{rest}"));
            files.extend(kept);
        }
        *library = Arc::new(library.reload(&files, &trust));
        let report = library.report();
        faults.extend(report.errors.iter().map(ToString::to_string));
        faults.extend(report.kept.iter().map(|file| format!("{file}: its last good version runs on")));
        faults.extend(report.untrusted.iter().map(|untrusted| {
            let why = if untrusted.changed { "changed since it was trusted" } else { "not trusted" };
            format!("{}: {why}; look at it and run `tmws pattern trust`", untrusted.file)
        }));
        let (promoted, not_promoted) = self.promotion.apply(&library);
        faults.extend(not_promoted);
        Loaded {
            patterns: Arc::new(Shelved(Arc::clone(&library))),
            promoted: promoted.into(),
            faults: faults.into(),
        }
    }

    fn promotes(&self) -> bool {
        !self.promotion.names.is_empty()
    }

    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let project = (self.root)().map(|root| self.project_folders(&root)).unwrap_or_default();
        for folder in self.user.iter().chain(&project) {
            let mut files: Vec<_> = fs::read_dir(folder)
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| {
                    // Of what a link leads to, which may change as well.
                    let path = entry.path();
                    let state = fs::metadata(&path).ok().as_ref().map(state);
                    (path, state)
                })
                .collect();
            files.sort();
            files.hash(&mut hasher);
        }
        let trust = self.trust.as_ref().and_then(|path| fs::metadata(path).ok());
        trust.as_ref().map(state).hash(&mut hasher);
        hasher.finish()
    }
}

/// What of a file changes when its content does, or when another file takes its place.
#[cfg(unix)]
fn state(metadata: &fs::Metadata) -> (u64, u64, [i64; 4], u64) {
    use std::os::unix::fs::MetadataExt as _;
    let times = [metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()];
    (metadata.dev(), metadata.ino(), times, metadata.len())
}

#[cfg(not(unix))]
fn state(metadata: &fs::Metadata) -> (Option<std::time::SystemTime>, u64) {
    (metadata.modified().ok(), metadata.len())
}

/// A library as the engine asks it.
pub struct Shelved(Arc<Library>);

impl Shelved {
    /// The patterns of one load.
    #[must_use]
    pub fn of(library: Library) -> Self {
        Self(Arc::new(library))
    }
}

impl Patterns for Shelved {
    fn named(&self, name: &str) -> Option<Arc<Pattern>> {
        self.0.named(name)
    }

    fn versions(&self, name: &str) -> Vec<Arc<Pattern>> {
        self.0.versions(name).to_vec()
    }

    fn all(&self) -> Vec<Arc<Pattern>> {
        self.0.all()
    }

    fn route(&self, query: &str, mode: Mode, among: Among<'_>) -> Routed {
        match self.0.route_among(query, mode, among) {
            Route::Run { pattern, inputs, by } => Routed::Match { pattern, input: inputs, by },
            Route::Candidates(candidates) => Routed::Candidates(
                candidates.into_iter().map(|candidate| (candidate.pattern, candidate.inputs)).collect(),
            ),
        }
    }

    fn ranked(&self, query: &str) -> Vec<Arc<Pattern>> {
        self.0.ranked(query)
    }

    fn explain(&self, query: &str, mode: Mode, among: Among<'_>) -> Option<Explanation> {
        Some(self.0.explain(query, mode, among))
    }
}

fn read_small(path: &Path) -> io::Result<String> {
    if fs::metadata(path)?.len() > TRUST_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "larger than 4 MiB"));
    }
    fs::read_to_string(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_read_any_more_keeps_its_last_good_version() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("digest.yaml");
        let text = crate::pattern::BUILTINS.iter().find(|(name, _)| name.contains("session.open")).unwrap().1;
        fs::write(&file, text).unwrap();
        let folders = Folders {
            user: vec![folder.path().to_owned()],
            project: Vec::new(),
            root: Box::new(|| None),
            trust: None,
            promotion: Promotion::default(),
            library: Mutex::default(),
        };
        let origin = |loaded: &Loaded| loaded.patterns.named("session.open").unwrap().origin.clone();
        let own = Origin::User(folder.path().to_owned());
        assert_eq!(origin(&folders.load()), own);
        fs::write(&file, b"\xff").unwrap();
        let loaded = folders.load();
        assert_eq!(origin(&loaded), own);
        assert!(
            loaded.faults.iter().any(|fault| fault.ends_with("its last good version runs on")),
            "{:?}",
            loaded.faults
        );
        fs::remove_file(&file).unwrap();
        assert_eq!(origin(&folders.load()), Origin::BuiltIn);
    }
}
