//! `git.blame`: who last changed which lines, without the lines themselves.

use std::{collections::HashMap, ffi::OsString};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    commits::{clip, date, short},
    discover::Repository,
    history::authors,
    program, revision,
};
use crate::engine::{
    ErrorKind, relative,
    steps::{StepContext, StepError, StepOutput, arguments::Arguments, fs},
};

/// Most output of git, in bytes.
const STDOUT_BYTES_MAX: usize = 16 << 20;
/// Most ranges listed.
const RANGES_MAX: usize = 500;
const LINE_MAX: usize = 10_000_000;
/// The author shown for lines that are not committed.
const UNCOMMITTED: &str = "(not committed)";

/// `git.blame`, arguments checked.
pub(super) struct Blame {
    path: String,
    arguments: Vec<OsString>,
    has_revision: bool,
}

impl Blame {
    /// Reads the arguments: the whole file, `from_line..=to_line`, or the single `lines`.
    pub(super) fn read(arguments: &Arguments<'_>) -> Result<Self, StepError> {
        let path = fs::relative(arguments.text("path")?)?;
        if path.as_os_str().is_empty() {
            return Err(arguments.refuse("path", "names the root itself; give a file"));
        }
        if let Some(why) = fs::secret_reason(&path) {
            return Err(StepError::new(
                ErrorKind::Denied,
                format!("{} is not looked at: {why}", fs::shown(&path)),
            ));
        }
        let mut list: Vec<OsString> =
            ["blame", "--porcelain", "--no-textconv", "--no-progress"].map(Into::into).into();
        let from = arguments.count_or_none("from_line", 1, LINE_MAX)?;
        let to = arguments.count_or_none("to_line", 1, LINE_MAX)?;
        let lines = arguments.counts("lines", 1, LINE_MAX, 200)?;
        if lines.is_some() && (from.is_some() || to.is_some()) {
            return Err(arguments.refuse("lines", "goes without `from_line` and `to_line`"));
        }
        if from.is_some() || to.is_some() {
            let from = from.unwrap_or(1);
            let to = to.map(|to| to.to_string()).unwrap_or_default();
            list.extend(["-L".into(), format!("{from},{to}").into()]);
        }
        for line in lines.unwrap_or_default() {
            list.extend(["-L".into(), format!("{line},{line}").into()]);
        }
        let rev = arguments.text_or_none("rev")?;
        if let Some(rev) = rev {
            list.push(revision(arguments, "rev", rev)?.into());
        }
        list.push("--".into());
        list.push(path.clone().into_os_string());
        Ok(Self { path: fs::shown(&path), arguments: list, has_revision: rev.is_some() })
    }

    /// Runs the step.
    pub(super) async fn run(
        self,
        repository: &Repository,
        context: &StepContext,
    ) -> Result<StepOutput, StepError> {
        let mut arguments = self.arguments.clone();
        if repository.bare && !self.has_revision {
            let at = arguments.iter().position(|argument| argument == "--").unwrap_or(arguments.len());
            arguments.insert(at, "HEAD".into());
        }
        let answer = program::run(repository, &arguments, STDOUT_BYTES_MAX, context).await?;
        let now = context.now;
        fs::blocking(move || Ok(self.output(&answer, now))).await
    }

    fn output(&self, answer: &program::Answer, now: Timestamp) -> StepOutput {
        let text = String::from_utf8_lossy(&answer.stdout);
        let (commits, ranges) = parse(&text);
        let shown: Vec<Value> = ranges
            .iter()
            .take(RANGES_MAX)
            .map(|range| {
                let commit = &commits[range.hash];
                let at = commit.seconds.and_then(|at| Timestamp::from_second(at).ok());
                json!({
                    "from": range.from, "to": range.to, "short": short(range.hash), "date": commit.seconds.map(date),
                    "at": at, "age": at.map(|at| relative::age(at, now)),
                    "author": commit.author, "subject": clip(commit.subject, 72),
                })
            })
            .collect();
        let lines = |range: &Range<'_>| range.to + 1 - range.from;
        let value = json!({
            "path": self.path,
            "n": ranges.iter().map(lines).sum::<usize>(),
            "authors": authors(ranges.iter().map(|range| (commits[range.hash].author, lines(range)))),
            "ranges": shown,
            "truncated": answer.cut || ranges.len() > RANGES_MAX,
        });
        StepOutput { value, bytes: answer.stdout.len() as u64 }
    }
}

#[derive(Default)]
struct Origin<'a> {
    author: &'a str,
    /// Unknown for lines that are not committed.
    seconds: Option<i64>,
    subject: &'a str,
}

struct Range<'a> {
    hash: &'a str,
    from: usize,
    to: usize,
}

/// Reads the porcelain format: per line a header and, at a commit's first line, what is known of it.
fn parse(text: &str) -> (HashMap<&str, Origin<'_>>, Vec<Range<'_>>) {
    let mut commits: HashMap<&str, Origin<'_>> = HashMap::new();
    let mut ranges: Vec<Range<'_>> = Vec::new();
    let mut hash = "";
    for line in text.split('\n') {
        if line.starts_with('\t') || line.is_empty() {
            continue;
        }
        let (key, value) = line.split_once(' ').unwrap_or((line, ""));
        if key.len() >= 40 && key.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            hash = key;
            commits.entry(hash).or_default();
            let Some(number) = value.split(' ').nth(1).and_then(|number| number.parse::<u32>().ok()) else {
                continue;
            };
            let number = number as usize;
            match ranges.last_mut() {
                Some(range) if range.hash == hash && range.to + 1 == number => range.to = number,
                _ => ranges.push(Range { hash, from: number, to: number }),
            }
            continue;
        }
        let Some(commit) = commits.get_mut(hash) else { continue };
        match key {
            _ if hash.bytes().all(|byte| byte == b'0') => commit.author = UNCOMMITTED,
            "author" => commit.author = value,
            "committer-time" => commit.seconds = value.parse().ok(),
            "summary" => commit.subject = value,
            _ => {}
        }
    }
    (commits, ranges)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_of_one_commit_in_a_row_are_one_range() {
        let hash = "a".repeat(40);
        let text = format!(
            "{hash} 1 1 2\nauthor Ada\ncommitter-time 1700000000\nsummary first\nfilename x\n\tone\n{hash} 2 2\n\tauthor no\n{hash} 9 4 1\n\tfour\n"
        );
        let (commits, ranges) = parse(&text);
        assert_eq!(ranges.iter().map(|range| (range.from, range.to)).collect::<Vec<_>>(), [(1, 2), (4, 4)]);
        let commit = &commits[hash.as_str()];
        assert_eq!((commit.author, commit.seconds, commit.subject), ("Ada", Some(1_700_000_000), "first"));
    }

    proptest! {
        #[test]
        fn nothing_that_a_program_prints_can_panic(text in r"(([0a]{40}|author|committer-time|summary|\t|x| |\n|[0-9]{1,20})[ \n]?){0,40}") {
            let (commits, ranges) = parse(&text);
            for range in &ranges {
                prop_assert!(commits.contains_key(range.hash) && range.from <= range.to);
            }
        }
    }
}
