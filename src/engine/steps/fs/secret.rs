//! What no `fs.*` or `git.*` step shows the content of: files that hold credentials by their nature.
//!
//! The list is fixed and errs on the side of refusing; it is part of the contract of the steps (`docs/patterns.md`).

use std::{
    borrow::Cow,
    path::{Component, Path},
};

use memchr::memmem;

/// Folders whose whole content is closed.
const FOLDERS: &[&str] = &[".git", ".ssh", ".gnupg", ".aws", ".azure", ".kube", ".docker", ".password-store"];

/// Names, in lower case, that are closed.
const NAMES: &[&str] = &[
    ".git-credentials",
    ".htpasswd",
    ".my.cnf",
    ".netrc",
    ".npmrc",
    ".pgpass",
    ".pypirc",
    ".vault-token",
    "_netrc",
    "credentials.json",
    "secrets.json",
    "secrets.toml",
    "secrets.yaml",
    "secrets.yml",
];

/// Endings, in lower case, that are closed.
const ENDINGS: &[&str] = &[
    ".jks",
    ".kdbx",
    ".key",
    ".keystore",
    ".p12",
    ".p8",
    ".pem",
    ".pfx",
    ".pkcs12",
    ".ppk",
    ".tfstate",
    ".tfstate.backup",
];

/// Beginnings, in lower case, that are closed (the public half of a key pair, `.pub`, is open).
const BEGINNINGS: &[&str] = &["id_rsa", "id_dsa", "id_ecdsa", "id_ed25519"];

/// Endings of `.env.*` files that hold no values by custom.
const ENV_TEMPLATES: &[&str] = &[".example", ".sample", ".template", ".dist", ".defaults"];

/// Why the content of `path` (relative to its root, symlinks resolved) is closed; `None` where it is open.
#[expect(clippy::case_sensitive_file_extension_comparisons, reason = "the name is in lower case")]
pub(in crate::engine::steps) fn reason(path: &Path) -> Option<&'static str> {
    let shown = path.to_string_lossy();
    let lower = if shown.bytes().any(|byte| byte.is_ascii_uppercase() || !byte.is_ascii()) {
        Cow::Owned(shown.to_lowercase())
    } else {
        shown
    };
    let mut parts = Path::new(&*lower).components().filter_map(|component| match component {
        Component::Normal(name) => name.to_str(),
        _ => None,
    });
    let name = parts.next_back()?;
    if FOLDERS.contains(&name) || parts.any(|part| FOLDERS.contains(&part)) {
        return Some("it belongs to a folder that holds credentials or repository internals");
    }
    let env = name == ".env" || name == ".envrc" || name.starts_with(".env.") || name.ends_with(".env");
    if env && !ENV_TEMPLATES.iter().any(|ending| name.ends_with(ending)) {
        return Some("environment files hold credentials");
    }
    let key = BEGINNINGS.iter().any(|beginning| name.starts_with(beginning)) && !name.ends_with(".pub");
    if key || NAMES.contains(&name) || ENDINGS.iter().any(|ending| name.ends_with(ending)) {
        return Some("files of this name hold keys or credentials");
    }
    None
}

/// Whether `head`, the beginning of a file, is that of a private key.
pub(super) fn is_private_key(head: &[u8]) -> bool {
    let head = &head[..head.len().min(512)];
    memmem::find(head, b"-----BEGIN ").is_some_and(|at| {
        let line = head[at..].split(|&byte| byte == b'\n').next().unwrap_or_default();
        line.windows(16).any(|window| window == b"PRIVATE KEY-----" || window == b"PRIVATE KEY BLOC")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_credentials_are_closed_and_their_neighbours_open() {
        for closed in [
            ".env",
            "a/.env",
            ".env.local",
            "prod.env",
            ".ENV",
            ".envrc",
            ".git/config",
            "sub/.git",
            ".git",
            "deploy.pem",
            "certs/server.KEY",
            "id_rsa",
            "id_ed25519_work",
            ".npmrc",
            "x/.aws/credentials",
            ".ssh/known_hosts",
            "terraform.tfstate",
            "config/secrets.yml",
        ] {
            assert!(reason(Path::new(closed)).is_some(), "{closed}");
        }
        for open in [
            ".env.example",
            "environment.rs",
            "env.ts",
            "id_rsa.pub",
            ".gitignore",
            ".github/workflows/ci.yml",
            "keyboard.rs",
            "monkey",
            "key",
            "secrets.rs",
            "README.md",
            "",
        ] {
            assert_eq!(reason(Path::new(open)), None, "{open}");
        }
    }

    #[test]
    fn a_private_key_is_known_by_its_first_line() {
        assert!(is_private_key(b"-----BEGIN OPENSSH PRIVATE KEY-----\nabc"));
        assert!(is_private_key(b"-----BEGIN RSA PRIVATE KEY-----"));
        assert!(is_private_key(b"-----BEGIN PGP PRIVATE KEY BLOCK-----\n"));
        assert!(!is_private_key(b"-----BEGIN CERTIFICATE-----\nPRIVATE KEY-----"));
        assert!(!is_private_key(b"fn main() {}"));
    }
}
