//! Reads a repository's own configuration without following or running anything, and says what in it is refused.
//!
//! The reader accepts what git accepts and nothing more (git-config(1), "Syntax"): what it cannot read with certainty is
//! refused, so that git never sees a setting that was not looked at here.

/// One setting: the name as git prints it (section and key in lower case), and its value, if it has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) name: String,
    pub(super) value: Option<String>,
}

/// A line that is not configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadLine(pub(super) usize);

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    line: usize,
}

impl Reader<'_> {
    /// The next byte; the end reads as a newline, and `\r\n` as one newline.
    fn next(&mut self) -> u8 {
        let Some(&byte) = self.bytes.get(self.at) else {
            self.at += 1;
            return b'\n';
        };
        self.at += 1;
        if byte == b'\r' && self.bytes.get(self.at) == Some(&b'\n') {
            self.at += 1;
            self.line += 1;
            return b'\n';
        }
        if byte == b'\n' {
            self.line += 1;
        }
        byte
    }

    const fn ended(&self) -> bool {
        self.at > self.bytes.len()
    }

    fn bad<T>(&self) -> Result<T, BadLine> {
        Err(BadLine(self.line))
    }

    fn section(&mut self) -> Result<String, BadLine> {
        let mut name = Vec::new();
        loop {
            let byte = self.next();
            match byte {
                b']' => return text(&name).ok_or(BadLine(self.line)),
                b'\n' => return self.bad(),
                _ if is_space(byte) => return self.subsection(name),
                _ if is_key(byte) || byte == b'.' => name.push(byte.to_ascii_lowercase()),
                _ => return self.bad(),
            }
        }
    }

    fn subsection(&mut self, mut name: Vec<u8>) -> Result<String, BadLine> {
        let mut byte = b' ';
        while is_space(byte) {
            if byte == b'\n' {
                return self.bad();
            }
            byte = self.next();
        }
        if byte != b'"' {
            return self.bad();
        }
        name.push(b'.');
        loop {
            match self.next() {
                b'\n' => return self.bad(),
                b'"' => break,
                b'\\' => match self.next() {
                    b'\n' => return self.bad(),
                    byte => name.push(byte),
                },
                byte => name.push(byte),
            }
        }
        if self.next() != b']' {
            return self.bad();
        }
        text(&name).ok_or(BadLine(self.line))
    }

    fn setting(&mut self, section: &str, first: u8) -> Result<Setting, BadLine> {
        let mut key = vec![first.to_ascii_lowercase()];
        let mut byte = self.next();
        while is_key(byte) {
            key.push(byte.to_ascii_lowercase());
            byte = self.next();
        }
        while byte == b' ' || byte == b'\t' {
            byte = self.next();
        }
        let value = match byte {
            b'\n' => None,
            b'=' => Some(self.value()?),
            _ => return self.bad(),
        };
        let key = text(&key).ok_or(BadLine(self.line))?;
        Ok(Setting { name: format!("{section}.{key}"), value })
    }

    fn value(&mut self) -> Result<String, BadLine> {
        let mut value = Vec::new();
        let (mut quoted, mut comment) = (false, false);
        // How much of `value` stays when trailing white space goes.
        let mut kept = 0;
        loop {
            let byte = self.next();
            if byte == b'\n' {
                if quoted {
                    return self.bad();
                }
                value.truncate(kept);
                return text(&value).ok_or(BadLine(self.line));
            }
            if comment {
                continue;
            }
            if is_space(byte) && !quoted {
                if !value.is_empty() {
                    value.push(byte);
                }
                continue;
            }
            match byte {
                b';' | b'#' if !quoted => {
                    comment = true;
                    continue;
                }
                b'\\' => match self.next() {
                    b'\n' => continue,
                    b't' => value.push(b'\t'),
                    b'b' => value.push(8),
                    b'n' => value.push(b'\n'),
                    escaped @ (b'\\' | b'"') => value.push(escaped),
                    _ => return self.bad(),
                },
                b'"' => quoted = !quoted,
                _ => value.push(byte),
            }
            kept = value.len();
        }
    }
}

const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

const fn is_key(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-'
}

fn text(bytes: &[u8]) -> Option<String> {
    (!bytes.contains(&0)).then(|| String::from_utf8_lossy(bytes).into_owned())
}

/// All settings of one file, in order.
///
/// # Errors
/// The number of a line that is no configuration.
pub(super) fn parse(bytes: &[u8]) -> Result<Vec<Setting>, BadLine> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut reader = Reader { bytes, at: 0, line: 1 };
    let mut section: Option<String> = None;
    let mut settings = Vec::new();
    let mut comment = false;
    loop {
        let byte = reader.next();
        if byte == b'\n' {
            if reader.ended() {
                return Ok(settings);
            }
            comment = false;
            continue;
        }
        if comment || is_space(byte) {
            continue;
        }
        match (byte, &section) {
            (b'#' | b';', _) => comment = true,
            (b'[', _) => section = Some(reader.section()?),
            (_, Some(section)) if byte.is_ascii_alphabetic() => settings.push(reader.setting(section, byte)?),
            _ => return reader.bad(),
        }
    }
}

/// Extensions of the repository format that reading does not stumble over (gitrepository-layout(5)).
const EXTENSIONS: &[&str] = &[
    "compatobjectformat",
    "noop",
    "noop-v1",
    "objectformat",
    "partialclone",
    "preciousobjects",
    "refstorage",
    "relativeworktrees",
    "worktreeconfig",
];

/// Why a repository with this setting is refused; `None` where it does no harm or is overridden on the command line.
pub(super) fn refusal(setting: &Setting) -> Option<&'static str> {
    let name = setting.name.as_str();
    let (section, rest) = name.split_once('.')?;
    let key = rest.rsplit_once('.').map_or(rest, |(_, key)| key);
    match section {
        "include" | "includeif" => Some("it includes other configuration files"),
        "filter" if matches!(key, "clean" | "smudge" | "process") => {
            Some("it runs a program on every file read")
        }
        "hook" => Some("it runs programs on events"),
        "extensions" if !EXTENSIONS.contains(&rest) => {
            Some("this extension of the repository format is not known")
        }
        _ => None,
    }
}

/// A truth value as git reads it.
pub(super) fn is_true(value: Option<&str>) -> bool {
    value.is_none_or(|value| ["true", "yes", "on", "1"].iter().any(|word| value.eq_ignore_ascii_case(word)))
}

#[cfg(test)]
mod tests {
    use std::{io::Write, process::Command};

    use proptest::prelude::*;

    use super::*;

    fn names(text: &str) -> Vec<(String, Option<String>)> {
        parse(text.as_bytes()).unwrap().into_iter().map(|setting| (setting.name, setting.value)).collect()
    }

    /// What git itself reads in a file: `None` where it refuses.
    fn git_reads(text: &[u8]) -> Option<Vec<(String, Option<String>)>> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text).unwrap();
        let output = Command::new("git")
            .args(["config", "--no-includes", "--list", "-z", "--file"])
            .arg(file.path())
            .current_dir("/")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .output()
            .unwrap();
        output.status.success().then(|| {
            String::from_utf8_lossy(&output.stdout)
                .split_terminator('\0')
                .map(|entry| match entry.split_once('\n') {
                    Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                    None => (entry.to_owned(), None),
                })
                .collect()
        })
    }

    #[test]
    fn settings_are_read_as_git_reads_them() {
        for text in [
            "[core]\n\tbare = false\n",
            "[core] bare\n",
            "[Include]\nPath=x\n",
            "[includeIf \"gitdir:/a\\\"b/\"] path = \"x ; y\" # comment\n",
            "[a.B.c]\nD-e = 1 \\\n 2  \n",
            "\u{feff}[a]\r\nb = \"c\\td\\\\\" e\r\n",
            "# only\n; comments\n",
            "[a]b=c\n[filter \"x\"]clean=y",
            "",
            "[a \"\"]\nx = y",
            "[a]\nx =\n",
            "[a]\n x = a  b   \n y = \" q \" \n",
        ] {
            assert_eq!(Some(names(text)), git_reads(text.as_bytes()), "{text:?}");
        }
    }

    #[test]
    fn what_is_not_configuration_is_refused_with_its_line() {
        for (text, line) in [
            ("[a\nx = 1\n", 2),
            ("[a]\nx y\n", 2),
            ("[a]\nx = \"open\n", 3),
            ("[a]\nx = \\q\n", 2),
            ("[a \"b\"\n", 2),
        ] {
            let refused = parse(text.as_bytes()).unwrap_err();
            assert_eq!(refused, BadLine(line), "{text:?}");
            assert_eq!(git_reads(text.as_bytes()), None, "{text:?}");
        }
        // git takes these; here they are refused, for nobody writes them.
        assert_eq!(parse(b"x = 1\n"), Err(BadLine(1)));
        assert!(parse(b"[a]\nx = \0\n").is_err());
    }

    #[test]
    fn settings_that_run_or_include_are_refused() {
        for (text, refused) in [
            ("[include]path=x", true),
            ("[INCLUDEIF \"onbranch:x\"]path=x", true),
            ("[filter \"lfs\"]\nprocess = git-lfs", true),
            ("[filter.lfs]\nSmudge = x", true),
            ("[filter \"lfs\"]\nrequired = true", false),
            ("[hook \"x\"]\ncommand = y", true),
            ("[extensions]\nfuture = 1", true),
            ("[extensions]\nworktreeConfig = true", false),
            ("[core]\nfsmonitor = /bin/x", false),
            ("[includes]\npath = x", false),
        ] {
            let settings = parse(text.as_bytes()).unwrap();
            assert_eq!(settings.iter().any(|setting| refusal(setting).is_some()), refused, "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        /// Never reads less than git: what git accepts is either read the same or refused.
        #[test]
        fn no_setting_is_seen_by_git_alone(text in r#"(\[(a|include|filter)[ .]?("x\\?"|b)?\]|[a-z]{1,3} ?=? ?|"|\\n|\\|\n|\r\n|\r|#|;| |\t|x|1|\[|\]){0,24}"#) {
            if let (Some(theirs), Ok(ours)) = (git_reads(text.as_bytes()), parse(text.as_bytes())) {
                let ours: Vec<_> = ours.into_iter().map(|setting| (setting.name, setting.value)).collect();
                prop_assert_eq!(ours, theirs);
            }
        }
    }
}
