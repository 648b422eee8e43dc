//! The regex of a trigger: checked when its file is loaded, compiled when a query needs it.

use regex_automata::{
    meta::{Config, Regex},
    util::{captures::Captures, syntax},
};
use regex_syntax::hir::{Capture, Class, Hir, HirKind, Repetition};

/// A linear-time regex that is known to compile. Holds its text alone: thousands are loaded, few are ever needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TriggerRegex(Box<str>);

/// A compiled one, for short texts: no lazy automata, which would cost more memory than they save time.
#[derive(Clone, Debug)]
pub(crate) struct CompiledRegex(Option<Regex>);

impl TriggerRegex {
    /// A regex.
    ///
    /// # Errors
    /// Where it does not compile; the loader's errors say more.
    pub fn new(source: &str) -> Result<Self, regex::Error> {
        regex::Regex::new(source).map(|_| Self::checked(source))
    }

    /// `source`, which the loader has compiled before.
    pub(crate) fn checked(source: &str) -> Self {
        Self(source.into())
    }

    /// As written in the file.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Compiles it for `text`: for ASCII alone where that is enough, which is many times smaller and quicker.
    pub(crate) fn compile_for(&self, text: &str) -> CompiledRegex {
        if self.is_plain_for(text)
            && let Ok(regex) = self.build(syntax::Config::new().unicode(false).utf8(false))
        {
            return CompiledRegex(Some(regex));
        }
        let built = self.build(syntax::Config::new());
        if let Err(error) = &built {
            tracing::error!(regex = &*self.0, %error, "a regex that was checked does not compile; it matches nothing");
        }
        CompiledRegex(built.ok())
    }

    /// Whether the regex means on `text` the same with and without Unicode: both are ASCII, and the regex names no
    /// character by its number or property. What the classes have beyond ASCII cannot occur then.
    pub(crate) fn is_plain_for(&self, text: &str) -> bool {
        text.is_ascii()
            && self.0.is_ascii()
            && !["\\u", "\\U", "\\x", "\\p", "\\P"].iter().any(|escape| self.0.contains(escape))
    }

    fn build(&self, syntax: syntax::Config) -> Result<Regex, String> {
        let config = Config::new().hybrid(false).dfa(false).onepass(false).auto_prefilter(false);
        let parsed = syntax::parse_with(&self.0, &syntax).map_err(|error| error.to_string())?;
        let marked = marked(&parsed, &mut 1, false);
        Regex::builder().configure(config).build_from_hir(&marked).map_err(|error| error.to_string())
    }
}

impl CompiledRegex {
    /// Whether it matches anywhere in `text`.
    pub(crate) fn is_match(&self, text: &str) -> bool {
        self.0.as_ref().is_some_and(|regex| regex.is_match(text))
    }

    /// Where it matches first, and its named groups that took part, in the order of the regex.
    pub(crate) fn captures(&self, text: &str) -> Option<Found> {
        let regex = self.0.as_ref()?;
        let mut captures: Captures = regex.create_captures();
        regex.captures(text, &mut captures);
        let whole = captures.get_match()?;
        let mut found = Found { whole: (whole.start(), whole.end()), groups: Vec::new(), open: Vec::new() };
        for (_, group, name) in captures.group_info().all_names() {
            let (Some(name), Some(span)) = (name, captures.get_group(group)) else { continue };
            if name.starts_with(OPEN) {
                found.open.push((span.start, span.end));
            } else {
                found.groups.push((name.to_owned(), (span.start, span.end)));
            }
        }
        Some(found)
    }
}

/// Begins the names of groups that [`marked`] adds; no group of a file may be called so.
const OPEN: char = '0';

/// `regex` with a group around whatever it leaves open outside of named groups, such as `.{0,20}` or `[a-z-]+`: it matches
/// the same.
fn marked(regex: &Hir, next: &mut u32, is_within: bool) -> Hir {
    let group = |index: u32, name: Option<Box<str>>, sub: Hir| {
        Hir::capture(Capture { index, name, sub: Box::new(sub) })
    };
    let open = |index: u32| Some(format!("{OPEN}{index}").into_boxed_str());
    let mut number = || {
        *next += 1;
        *next - 1
    };
    match regex.kind() {
        HirKind::Class(_) if !is_within && is_open(regex) => {
            let index = number();
            group(index, open(index), regex.clone())
        }
        HirKind::Repetition(repetition) => {
            let repeated =
                |sub: Hir| Hir::repetition(Repetition { sub: Box::new(sub), ..repetition.clone() });
            // Of a group that is repeated only the last turn would be known.
            let is_one = repetition.max == Some(1) && !matches!(repetition.sub.kind(), HirKind::Class(_));
            if is_within || is_one || !is_open(&repetition.sub) {
                return repeated(marked(&repetition.sub, next, is_within));
            }
            let index = number();
            group(index, open(index), repeated(marked(&repetition.sub, next, true)))
        }
        HirKind::Capture(capture) => {
            let index = number();
            group(
                index,
                capture.name.clone(),
                marked(&capture.sub, next, is_within || capture.name.is_some()),
            )
        }
        HirKind::Concat(parts) => {
            Hir::concat(parts.iter().map(|part| marked(part, next, is_within)).collect())
        }
        HirKind::Alternation(branches) => {
            Hir::alternation(branches.iter().map(|branch| marked(branch, next, is_within)).collect())
        }
        HirKind::Empty | HirKind::Literal(_) | HirKind::Look(_) | HirKind::Class(_) => regex.clone(),
    }
}

/// Whether a part of a regex may stand for any word.
fn is_open(regex: &Hir) -> bool {
    match regex.kind() {
        HirKind::Class(Class::Unicode(class)) => ['j', 'q']
            .iter()
            .all(|char| class.iter().any(|range| (range.start()..=range.end()).contains(char))),
        HirKind::Class(Class::Bytes(class)) => [b'j', b'q']
            .iter()
            .all(|byte| class.iter().any(|range| (range.start()..=range.end()).contains(byte))),
        HirKind::Repetition(repetition) => is_open(&repetition.sub),
        HirKind::Capture(capture) => is_open(&capture.sub),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => parts.iter().any(is_open),
        HirKind::Empty | HirKind::Literal(_) | HirKind::Look(_) => false,
    }
}

/// A match, as byte spans of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) whole: (usize, usize),
    pub(crate) groups: Vec<(String, (usize, usize))>,
    /// What the regex leaves open outside of those.
    pub(crate) open: Vec<(usize, usize)>,
}

impl Found {
    /// What the regex's own words matched: the match without groups and what is open.
    pub(crate) fn literal(&self) -> Vec<(usize, usize)> {
        let mut others: Vec<_> =
            self.groups.iter().map(|(_, span)| *span).chain(self.open.iter().copied()).collect();
        others.sort_unstable();
        let mut spans = Vec::new();
        let mut from = self.whole.0;
        for (start, end) in others {
            if from < start {
                spans.push((from, start));
            }
            from = from.max(end);
        }
        if from < self.whole.1 {
            spans.push((from, self.whole.1));
        }
        spans
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_regex_leaves_open_is_told_from_its_own_words() {
        for (regex, text, literal, groups) in [
            (r"(?i)\blist\b.{0,20}\btodos?\b", "please list Ada's todos", vec!["list", "todos"], vec![]),
            (r"(?i)the (?:[a-z-]+ )?log\b", "digest the nginx log", vec!["the ", " log"], vec![]),
            (
                r"of (?P<what>\w+)(?: in (?P<path>\S+))?",
                "uses of fits in src",
                vec!["of ", " in "],
                vec!["fits", "src"],
            ),
            (r"a(?:\w+ )*b (what|who)\b", "ax y b who", vec!["a", "b who"], vec![]),
            (r"(?P<name>[^?!]+)\?", "who is it?", vec!["?"], vec!["who is it"]),
            (r"\d+[hdw] ago", "12d ago", vec!["12d ago"], vec![]),
        ] {
            let found = TriggerRegex::new(regex).unwrap().compile_for(text).captures(text).expect(regex);
            let said = |spans: &[(usize, usize)]| -> Vec<String> {
                spans.iter().map(|(start, end)| text[*start..*end].to_owned()).collect()
            };
            assert_eq!(said(&found.literal()), literal, "{regex}");
            assert_eq!(
                said(&found.groups.iter().map(|(_, span)| *span).collect::<Vec<_>>()),
                groups,
                "{regex}"
            );
        }
    }

    #[test]
    fn groups_keep_their_names_and_a_match_is_the_same() {
        let regex = TriggerRegex::new(r"(?i)(a|b).{0,9}(?P<second>c\w*)(?:(?P<third>\d)|.)").unwrap();
        for text in ["b ü cde1", "b xx cde1", "A  c9?"] {
            let expected = regex::Regex::new(regex.as_str()).unwrap().captures(text).unwrap();
            let found = regex.compile_for(text).captures(text).unwrap();
            assert_eq!(
                found.whole,
                (expected.get(0).unwrap().start(), expected.get(0).unwrap().end()),
                "{text}"
            );
            let expected: Vec<_> = ["second", "third"]
                .iter()
                .filter_map(|name| {
                    Some(((*name).to_owned(), (expected.name(name)?.start(), expected.name(name)?.end())))
                })
                .collect();
            assert_eq!(found.groups, expected, "{text}");
        }
    }
}
