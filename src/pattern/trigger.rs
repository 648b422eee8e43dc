//! The regex of a trigger: checked when its file is loaded, compiled when a query needs it.

use regex_automata::{
    meta::{Config, Regex},
    util::{captures::Captures, syntax},
};

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

    fn build(&self, syntax: syntax::Config) -> Result<Regex, Box<regex_automata::meta::BuildError>> {
        let config = Config::new().hybrid(false).dfa(false).onepass(false).auto_prefilter(false);
        Regex::builder().configure(config).syntax(syntax).build(&self.0).map_err(Box::new)
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
        let groups = captures
            .group_info()
            .all_names()
            .filter_map(|(_, group, name)| {
                let span = captures.get_group(group)?;
                Some((name?.to_owned(), (span.start, span.end)))
            })
            .collect();
        Some(Found { whole: (whole.start(), whole.end()), groups })
    }
}

/// A match, as byte spans of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) whole: (usize, usize),
    pub(crate) groups: Vec<(String, (usize, usize))>,
}
