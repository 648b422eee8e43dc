//! Changing a tokens file by hand of the command line: entries come and go, everything else of the file stays as it is.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest as _, Sha256};

use super::{
    Projects, TokensError,
    book::read_text,
    entries::{self, TokenEntry, Tokens},
    local,
};
use crate::hex::hex;

/// What a new file begins with.
const HEAD: &str = "\
# Tokens that `tmws serve` accepts (setting `tokens_file`), read again whenever this file changes.
# `tmws token new` adds one and prints it once: here stands only its hash.
#
# sha256     SHA-256 of the token, 64 hexadecimal digits
# principal  who: the wall between one person and the next
# agent      optional: fixes the agent, which is else what the client says
# projects   id or alias = \"read\" or \"write\", `*` for every project; without it `personal` alone
# scopes     pattern:run, memory:read, memory:write, admin; without it the first two
# expires    optional: a date, or a time with its zone
";

/// Fewest digits of a hash that name a token.
const PREFIX_MIN: usize = 6;

/// Why a tokens file was not changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// It cannot be used as it is.
    #[error(transparent)]
    Tokens(#[from] TokensError),
    /// What was asked for is wrong.
    #[error("{0}")]
    Refused(String),
    /// It cannot be written.
    #[error("the tokens file {} cannot be written: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is right, and written in a form that is not changed by a program.
    #[error("the tokens file {} does not hold each token under a line `[[token]]` of its own: change it by hand", path.display())]
    Form {
        /// The file.
        path: PathBuf,
    },
}

/// A token to be made.
#[derive(Clone, Debug, Default)]
pub struct NewToken {
    /// Who.
    pub principal: String,
    /// The agent, to fix it.
    pub agent: Option<String>,
    /// `NAME`, `NAME=read` or `NAME=write`; empty for `personal` alone.
    pub projects: Vec<String>,
    /// Names of scopes; empty for [`DEFAULT_RIGHTS`](super::DEFAULT_RIGHTS).
    pub scopes: Vec<String>,
    /// Until when.
    pub expires: Option<Timestamp>,
}

impl NewToken {
    /// Its entry, as text of the file.
    fn entry(&self, token: &str, projects: &Projects) -> Result<String, String> {
        let Self { principal, agent, projects: listed, scopes, expires } = self;
        let principal = entries::parse_principal(principal)?;
        let hash = hex(&Sha256::digest(token.as_bytes()));
        let mut text = format!("\n[[token]]\nsha256 = \"{hash}\"\nprincipal = \"{principal}\"\n");
        if let Some(agent) = agent {
            let agent = entries::parse_agent(agent)?;
            text.extend(["agent = \"", &agent, "\"\n"]);
        }
        if !listed.is_empty() {
            let mut grants = super::Grants::none();
            let mut pairs = Vec::new();
            for project in listed {
                // The name as given, so that an alias stays one.
                let name = grants.add(project, projects)?;
                let level = if project.ends_with("=write") { "write" } else { "read" };
                pairs.push(format!("\"{name}\" = \"{level}\""));
            }
            text.extend(["projects = { ", &pairs.join(", "), " }\n"]);
        }
        if !scopes.is_empty() {
            let scopes: Vec<String> = scopes
                .iter()
                .map(|scope| entries::parse_scope(scope).map(|_| format!("\"{scope}\"")))
                .collect::<Result<_, _>>()?;
            text.extend(["scopes = [", &scopes.join(", "), "]\n"]);
        }
        if let Some(expires) = expires {
            text.extend(["expires = ", &expires.to_string(), "\n"]);
        }
        Ok(text)
    }
}

/// Makes a token, adds its hash to the file (which is made, for this user alone, where it is not there), and returns it.
/// Nobody can tell it again.
///
/// # Errors
/// [`EditError`]; the file is then as it was.
pub fn add_token(
    path: &Path,
    new: &NewToken,
    projects: &Projects,
) -> Result<(String, TokenEntry), EditError> {
    let failed = |source| EditError::Io { path: path.to_owned(), source };
    let token = local::new_token().map_err(failed)?;
    let entry = new.entry(&token, projects).map_err(EditError::Refused)?;
    let _lock = lock(path).map_err(failed)?;
    let before = match read_text(path) {
        Ok(text) => Some(text),
        Err(TokensError::Absent { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let known = parse(path, before.as_deref().unwrap_or(""), projects)?;
    let mut text = before.clone().unwrap_or_else(|| HEAD.to_owned());
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(&entry);
    let mut after = parse(path, &text, projects)?;
    let added = match after.entries.pop() {
        Some((_, added)) if without_lines(&after) == without_lines(&known) => added,
        _ => return Err(EditError::Form { path: path.to_owned() }),
    };
    match before {
        Some(_) => replace(path, &text).map_err(failed)?,
        None => local::write_new(path, text.as_bytes()).map_err(failed)?,
    }
    Ok((token, added))
}

/// Takes the tokens of the principal `which`, or the one whose hash begins so, out of the file, and returns them.
///
/// # Errors
/// [`EditError`]; the file is then as it was.
pub fn revoke_tokens(path: &Path, which: &str, projects: &Projects) -> Result<Vec<TokenEntry>, EditError> {
    let failed = |source| EditError::Io { path: path.to_owned(), source };
    let _lock = lock(path).map_err(failed)?;
    let text = read_text(path)?;
    let known = parse(path, &text, projects)?;
    let all: Vec<&TokenEntry> = without_lines(&known);
    let chosen = choose(&all, which).map_err(EditError::Refused)?;
    let left: Vec<&TokenEntry> = all
        .iter()
        .enumerate()
        .filter(|(index, _)| !chosen.contains(index))
        .map(|(_, entry)| *entry)
        .collect();
    let form = || EditError::Form { path: path.to_owned() };
    let text = cut(&text, all.len(), &chosen).ok_or_else(form)?;
    let after = parse(path, &text, projects).map_err(|_| form())?;
    if without_lines(&after) != left {
        return Err(form());
    }
    replace(path, &text).map_err(failed)?;
    Ok(chosen.iter().map(|index| all[*index].clone()).collect())
}

/// Which of `all` are meant by `which`.
fn choose(all: &[&TokenEntry], which: &str) -> Result<Vec<usize>, String> {
    let having = |test: &dyn Fn(&TokenEntry) -> bool| -> Vec<usize> {
        all.iter().enumerate().filter(|(_, entry)| test(entry)).map(|(index, _)| index).collect()
    };
    let by_name = having(&|entry| &*entry.principal == which);
    let digits = which.len() >= PREFIX_MIN && which.bytes().all(|byte| byte.is_ascii_hexdigit());
    let prefix = which.to_ascii_lowercase();
    let by_hash = if digits { having(&|entry| hex(&entry.hash).starts_with(&prefix)) } else { Vec::new() };
    match (by_name.is_empty(), by_hash.len()) {
        (false, 0) => Ok(by_name),
        (true, 1) => Ok(by_hash),
        (true, 0) => Err(format!(
            "no token is of a principal of that name, nor begins its hash so (at least {PREFIX_MIN} digits)"
        )),
        (true, several) => Err(format!("the hashes of {several} tokens begin so: give more digits")),
        (false, _) => {
            Err("a principal is called so, and a hash begins so: give more digits of the hash".to_owned())
        }
    }
}

/// `text` without the entries `chosen` of its `count`, each under its own `[[token]]`.
fn cut(text: &str, count: usize, chosen: &[usize]) -> Option<String> {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let is_head = |line: &str| {
        let bare = line.split('#').next().unwrap_or("");
        bare.split_whitespace().collect::<String>() == "[[token]]"
    };
    let heads: Vec<usize> = (0..lines.len()).filter(|index| is_head(lines[*index])).collect();
    if heads.len() != count {
        return None;
    }
    let mut keep = vec![true; lines.len()];
    for &entry in chosen {
        let start = *heads.get(entry)?;
        let mut end = heads.get(entry + 1).copied().unwrap_or(lines.len());
        // Comments above the next entry are the next entry's.
        while end > start + 1
            && (lines[end - 1].trim().is_empty() || lines[end - 1].trim_start().starts_with('#'))
        {
            end -= 1;
        }
        keep[start..end].fill(false);
    }
    Some(lines.iter().zip(keep).filter(|(_, keep)| *keep).map(|(line, _)| *line).collect())
}

fn parse(path: &Path, text: &str, projects: &Projects) -> Result<Tokens, TokensError> {
    entries::read(text, projects).map_err(|faults| TokensError::Invalid { path: path.to_owned(), faults })
}

fn without_lines(tokens: &Tokens) -> Vec<&TokenEntry> {
    tokens.entries.iter().map(|(_, entry)| entry).collect()
}

/// One change of a folder's tokens at a time: two at once could lose one, or bring back what was withdrawn.
fn lock(path: &Path) -> io::Result<File> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let folder = File::open(folder)?;
    flock(&folder, FlockOperation::LockExclusive)?;
    Ok(folder)
}

/// Puts `text` in the place of the file, keeping whose it is and who may read it.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    // A link stays one.
    let path = fs::canonicalize(path)?;
    let before = fs::metadata(&path)?;
    local::replace(&path, text.as_bytes(), |draft| {
        let now = draft.metadata()?;
        if (now.uid(), now.gid()) != (before.uid(), before.gid()) {
            std::os::unix::fs::fchown(draft, Some(before.uid()), Some(before.gid()))?;
        }
        draft.set_permissions(before.permissions())
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::{access::book::read_tokens, scope::ProjectId};

    fn projects() -> Projects {
        let mut projects = Projects::default();
        projects.add(ProjectId::parse("p_web").unwrap(), Some("web"));
        projects
    }

    fn new(principal: &str) -> NewToken {
        NewToken { principal: principal.to_owned(), ..NewToken::default() }
    }

    #[test]
    fn what_is_added_is_read_back_and_the_token_stands_nowhere() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config/tokens.toml");
        let full = NewToken {
            principal: "ada@example".to_owned(),
            agent: Some("reviewer".to_owned()),
            projects: vec!["web=write".to_owned(), "*".to_owned()],
            scopes: vec!["pattern:run".to_owned(), "memory:write".to_owned()],
            expires: Some("2030-01-01T00:00:00Z".parse().unwrap()),
        };
        let (first, entry) = add_token(&path, &full, &projects()).unwrap();
        assert_eq!(entry.hash, <[u8; 32]>::from(Sha256::digest(first.as_bytes())));
        assert_eq!(entry.grants.to_string(), "p_web=write, *=read");
        assert_eq!(entry.rights.to_string(), "pattern:run memory:write");
        assert_eq!(entry.expires, full.expires);
        let (second, _) = add_token(&path, &new("bob"), &projects()).unwrap();
        assert_ne!(first, second);
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains(&first) && !text.contains(&second), "{text}");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let tokens = read_tokens(&path, &projects()).unwrap();
        assert_eq!((tokens.entries.len(), tokens.warnings), (2, Vec::new()));
        assert_eq!(tokens.entries[0].1, entry);
    }

    #[test]
    fn what_is_wrong_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.toml");
        for (new, expected) in [
            (new("two words"), "a principal is named by"),
            (NewToken { agent: Some("\"".to_owned()), ..new("ada") }, "an agent is named by"),
            (
                NewToken { projects: vec!["web=all".to_owned()], ..new("ada") },
                "a project is open to `read` or `write`",
            ),
            (
                NewToken { projects: vec!["web".to_owned(), "p_web=write".to_owned()], ..new("ada") },
                "the project `p_web` stands twice",
            ),
            (
                NewToken { scopes: vec!["memory:wirte".to_owned()], ..new("ada") },
                "unknown scope `memory:wirte`; did you mean `memory:write`?",
            ),
        ] {
            let error = add_token(&path, &new, &projects()).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
        assert!(!path.exists());
        fs::write(&path, "nonsense").unwrap();
        assert!(matches!(add_token(&path, &new("ada"), &projects()), Err(EditError::Tokens(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "nonsense");
    }

    #[test]
    fn a_withdrawn_token_leaves_the_rest_of_the_file_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.toml");
        let hash = |digit: &str| digit.repeat(64);
        let entry = |digit: &str, who: &str| {
            format!("[[token]]\nsha256 = \"{}\"\nprincipal = \"{who}\"\n", hash(digit))
        };
        let text = format!(
            "# head\n\n{}\n# of bob\n{}projects = [\n  \"web\",\n]\n\n# of ada again\n{}# tail\n",
            entry("a", "ada"),
            entry("b", "bob"),
            entry("c", "ada")
        );
        let revoked = |which: &str| {
            fs::write(&path, &text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
            let gone = revoke_tokens(&path, which, &projects());
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
            (
                gone.map(|gone| gone.len()).map_err(|error| error.to_string()),
                fs::read_to_string(&path).unwrap(),
            )
        };
        let (gone, left) = revoked("bob");
        assert_eq!(gone, Ok(1));
        assert_eq!(
            left,
            format!(
                "# head\n\n{}\n# of bob\n\n# of ada again\n{}# tail\n",
                entry("a", "ada"),
                entry("c", "ada")
            )
        );
        let (gone, left) = revoked("ada");
        assert_eq!(gone, Ok(2));
        assert!(left.contains("principal = \"bob\"") && !left.contains("ada\""), "{left}");
        assert_eq!(revoked("CCCCCC").0, Ok(1));
        for which in ["nobody", "ccccc", "dddddd"] {
            let (gone, left) = revoked(which);
            assert!(gone.unwrap_err().starts_with("no token is of a principal of that name"), "{which}");
            assert_eq!(left, text);
        }
    }

    #[test]
    fn a_file_of_another_form_is_left_to_its_author() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.toml");
        let text = format!("token = [{{ sha256 = \"{}\", principal = \"ada\" }}]\n", "a".repeat(64));
        fs::write(&path, &text).unwrap();
        assert!(matches!(revoke_tokens(&path, "ada", &projects()), Err(EditError::Form { .. })));
        assert!(add_token(&path, &new("bob"), &projects()).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
}
