//! The tokens that are good now: read from their file, compared, and read again when the file changes.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use subtle::{ConditionallySelectable as _, ConstantTimeEq as _};
use tracing::{info, warn};

use super::{
    LocalTokenError, Principal, Projects,
    entries::{self, Fault, TokenEntry},
    grant::Grants,
    local,
};
use crate::scope::Rights;

/// Largest tokens file read, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Where tokens come from.
#[derive(Clone, Debug)]
pub enum TokenSource {
    /// A tokens file with hashes.
    File(PathBuf),
    /// The one token in the user's data folder, made where there is none.
    Local {
        /// The folder.
        data_folder: PathBuf,
        /// Whom it stands for.
        principal: Box<str>,
    },
}

impl TokenSource {
    /// The file.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        match self {
            Self::File(path) => path.clone(),
            Self::Local { data_folder, .. } => local::local_token_path(data_folder),
        }
    }
}

/// Why there are no tokens to compare with.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// The token in the data folder.
    #[error(transparent)]
    Local(#[from] LocalTokenError),
    /// The tokens file is not there.
    #[error("there is no tokens file {}: `tmws token new --principal NAME` makes it", path.display())]
    Absent {
        /// The file.
        path: PathBuf,
    },
    /// The tokens file cannot be read.
    #[error("the tokens file {} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Anybody could write themselves a token.
    #[error("the tokens file {} can be written by everybody: chmod o-w it", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
    },
    /// The tokens file is wrong.
    #[error("{}", listed(path, faults))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Everything that is wrong with it.
        faults: Vec<Fault>,
    },
}

impl TokensError {
    /// The same for everybody to read: no path, nothing of what the file holds.
    const fn for_everybody(&self) -> &'static str {
        match self {
            Self::Absent { .. } => "their file is not there",
            Self::Local(_) | Self::Unreadable { .. } => "their file cannot be read, or not be trusted",
            Self::Exposed { .. } => "their file can be written by everybody",
            Self::Invalid { .. } => "their file is wrong",
        }
    }

    /// Whether it may go over without the file being changed: descriptors had run out, a disk was away.
    const fn may_pass(&self) -> bool {
        matches!(self, Self::Unreadable { .. } | Self::Local(LocalTokenError::Io { .. }))
    }
}

fn listed(path: &Path, faults: &[Fault]) -> String {
    let each: Vec<String> =
        faults.iter().map(|fault| format!("{}:{}: {}", path.display(), fault.line, fault.message)).collect();
    each.join("; ")
}

/// Reads the text of a tokens file.
///
/// # Errors
/// [`TokensError::Absent`], [`TokensError::Unreadable`], [`TokensError::Exposed`].
pub(super) fn read_text(path: &Path) -> Result<String, TokensError> {
    let unreadable = |source| TokensError::Unreadable { path: path.to_owned(), source };
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(TokensError::Absent { path: path.to_owned() });
        }
        Err(error) => return Err(unreadable(error)),
    };
    let refused = |what: &str| unreadable(io::Error::new(io::ErrorKind::InvalidInput, what));
    if !metadata.is_file() {
        return Err(refused("not a regular file"));
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(refused("larger than 1 MiB"));
    }
    if metadata.permissions().mode() & 0o002 != 0 {
        return Err(TokensError::Exposed { path: path.to_owned() });
    }
    if metadata.permissions().mode() & 0o020 != 0 {
        warn!(file = %path.display(), "the tokens file can be written by its group: whoever does, grants themselves access");
    }
    fs::read_to_string(path).map_err(unreadable)
}

/// Reads a tokens file whole; what it may not have meant is logged.
///
/// # Errors
/// [`TokensError`].
pub fn read_tokens(path: &Path, projects: &Projects) -> Result<entries::Tokens, TokensError> {
    let text = read_text(path)?;
    entries::read(&text, projects).map_err(|faults| TokensError::Invalid { path: path.to_owned(), faults })
}

/// Tells one state of a file from the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            file: (metadata.dev(), metadata.ino()),
            bytes: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

/// One token that is good, and whom it stands for.
struct Known {
    entry: TokenEntry,
    principal: Arc<Principal>,
}

/// The file as it was last looked at.
struct Seen {
    stamp: Option<Stamp>,
    /// Why what stands there now is not what is compared with.
    broken: Option<Broken>,
    /// How often it was read again, or could not be for another reason than before.
    reads: u64,
}

/// Why a file is not used.
struct Broken {
    /// For the log.
    error: String,
    for_everybody: &'static str,
    may_pass: bool,
}

/// The tokens that are good now.
pub(super) struct Book {
    source: TokenSource,
    projects: Arc<Projects>,
    clock: fn() -> Timestamp,
    known: RwLock<Arc<[Known]>>,
    seen: Mutex<Seen>,
}

impl Book {
    /// Reads the tokens of `source`; where the local one is not there yet, it is made.
    pub(super) fn open(
        source: TokenSource,
        projects: Arc<Projects>,
        clock: fn() -> Timestamp,
    ) -> Result<Self, TokensError> {
        if let TokenSource::Local { data_folder, .. } = &source {
            local::local_token_or_new(data_folder)?;
        }
        let stamp = Stamp::of(&source.path());
        let book = Self {
            source,
            projects,
            clock,
            known: RwLock::new(Arc::new([])),
            seen: Mutex::new(Seen { stamp, broken: None, reads: 0 }),
        };
        let entries = book.read()?;
        if entries.is_empty() {
            warn!(file = %book.source.path().display(), "the tokens file holds no token: nobody is let in");
        }
        book.put(entries);
        Ok(book)
    }

    fn read(&self) -> Result<Vec<TokenEntry>, TokensError> {
        match &self.source {
            TokenSource::File(path) => {
                let tokens = read_tokens(path, &self.projects)?;
                for warning in &tokens.warnings {
                    warn!(file = %path.display(), line = warning.line, warning = warning.message, "the tokens file may not mean what it says");
                }
                Ok(tokens.entries.into_iter().map(|(_, entry)| entry).collect())
            }
            TokenSource::Local { data_folder, principal } => {
                let path = self.source.path();
                let token = local::local_token(data_folder)?.ok_or(TokensError::Absent { path })?;
                Ok(vec![TokenEntry {
                    hash: Sha256::digest(token.as_bytes()).into(),
                    principal: principal.clone(),
                    agent: None,
                    grants: Grants::everything(),
                    rights: Rights::ALL,
                    expires: None,
                }])
            }
        }
    }

    fn known(&self) -> Arc<[Known]> {
        Arc::clone(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts `entries` in the place of those known. Those that did not change keep their principal; the principals of
    /// those that are gone are revoked. Returns how many came and went.
    fn put(&self, entries: Vec<TokenEntry>) -> (usize, usize) {
        let before = self.known();
        let mut old: HashMap<&[u8; 32], &Known> =
            before.iter().map(|known| (&known.entry.hash, known)).collect();
        let mut came = 0;
        let after: Arc<[Known]> = entries
            .into_iter()
            .map(|entry| {
                if old.get(&entry.hash).is_some_and(|known| known.entry == entry)
                    && let Some(known) = old.remove(&entry.hash)
                {
                    return Known { principal: Arc::clone(&known.principal), entry };
                }
                came += 1;
                Known { principal: Arc::new(Principal::of(&entry)), entry }
            })
            .collect();
        let gone: Vec<&Known> = old.into_values().collect();
        // First nobody new comes in by a token that is gone; then those who did are told.
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&after);
        for known in &gone {
            known.principal.revoke();
        }
        (came, gone.len())
    }

    /// Whom `token` stands for. All tokens are compared, each in constant time.
    pub(super) fn find(&self, token: &[u8]) -> Option<Arc<Principal>> {
        let digest: [u8; 32] = Sha256::digest(token).into();
        let known = self.known();
        let mut place = 0_u32;
        for (number, known) in (1_u32..).zip(known.iter()) {
            place.conditional_assign(&number, known.entry.hash.ct_eq(&digest));
        }
        let found = known.get((place as usize).checked_sub(1)?)?;
        let over = found.entry.expires.is_some() && found.entry.is_expired((self.clock)());
        (!over && !found.principal.is_revoked()).then(|| Arc::clone(&found.principal))
    }

    /// Looks whether tokens are over, and, where the file changed, could not be read before, or `anyway`, reads it again;
    /// a file that cannot be used changes nothing. Returns whether anybody's token is good no more, so that connections must look.
    pub(super) fn refresh(&self, anyway: bool) -> bool {
        let over = self.end_expired();
        let path = self.source.path();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = Stamp::of(&path);
        let may_be_read_now = seen.broken.as_ref().is_some_and(|broken| broken.may_pass);
        if stamp == seen.stamp && !anyway && !may_be_read_now {
            return over;
        }
        match self.read() {
            // Written to meanwhile: the next look sees it whole.
            Ok(_) if Stamp::of(&path) != stamp => over,
            Ok(entries) => {
                let tokens = entries.len();
                let (came, gone) = self.put(entries);
                *seen = Seen { stamp, broken: None, reads: seen.reads + 1 };
                info!(file = %path.display(), tokens, came, gone, "the tokens were read again");
                gone > 0 || self.end_expired() || over
            }
            Err(error) => {
                let (for_everybody, may_pass) = (error.for_everybody(), error.may_pass());
                let error = error.to_string();
                let is_known = !anyway && seen.broken.as_ref().is_some_and(|broken| broken.error == error);
                if !is_known {
                    warn!(
                        error,
                        "the tokens cannot be read again; those read before stay good, withdrawn ones too"
                    );
                }
                let broken = Some(Broken { error, for_everybody, may_pass });
                *seen = Seen { stamp, broken, reads: seen.reads + u64::from(!is_known) };
                over
            }
        }
    }

    /// How often the file was read since the start, whatever came of it.
    pub(super) fn reads(&self) -> u64 {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).reads
    }

    /// Revokes whose token is over. Returns whether there was any.
    fn end_expired(&self) -> bool {
        let known = self.known();
        let mut expiring = known.iter().filter(|known| known.entry.expires.is_some()).peekable();
        if expiring.peek().is_none() {
            return false;
        }
        let now = (self.clock)();
        let mut any = false;
        for known in expiring.filter(|known| known.entry.is_expired(now)) {
            any |= known.principal.revoke();
        }
        any
    }

    /// Why what stands in the file now is not what is compared with, for everybody to read.
    pub(super) fn broken(&self) -> Option<&'static str> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.broken.as_ref().map(|broken| broken.for_everybody)
    }
}
