//! All patterns that may run now: which file wins, which is trusted, which triggers collide.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{
    BUILTINS, Mode, Origin, Pattern, Version,
    loader::{LoadError, Loaded, hash, load, load_built_in},
    router::{Among, CANDIDATES_MAX, Explanation, Route, Router, TriggerIndex},
    trust::Trust,
};

/// The text of one pattern file, read by whoever may read files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// As named in errors; unique.
    pub file: String,
    /// Its text.
    pub text: String,
    /// Where it came from.
    pub origin: Origin,
}

/// A project pattern that does not run because nobody trusted it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Untrusted {
    /// The file.
    pub file: String,
    /// SHA-256 of its text, hexadecimal.
    pub hash: String,
    /// It was trusted before, with another content.
    pub changed: bool,
}

/// What a (re)load came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Everything wrong, ordered by file and place.
    pub errors: Vec<LoadError>,
    /// Files whose last good version runs on, because their new one does not load.
    pub kept: Vec<String>,
    /// Project patterns waiting for `tmws pattern trust`.
    pub untrusted: Vec<Untrusted>,
    /// Patterns of an earlier scope that another of the same name shadows: (name, file that lost).
    pub shadowed: Vec<(String, String)>,
    /// The set of patterns, or one of them, is not what it was.
    pub changed: bool,
}

/// Patterns by name, and how words find one. A value: reloading makes another.
#[derive(Debug, Default)]
pub struct Library {
    /// The last good version of every file, in the order of their scopes.
    loaded: Vec<Arc<Loaded>>,
    by_name: BTreeMap<String, Arc<Pattern>>,
    /// Every version of each name that is in use: of later scopes first, of one scope the newest first. The first is the
    /// one of `by_name`.
    versions: BTreeMap<String, Vec<Arc<Pattern>>>,
    router: Router,
    report: Report,
}

impl Library {
    /// The patterns that ship in the binary, alone.
    #[must_use]
    pub fn built_in() -> Self {
        Self::default().reload(&[], &Trust::default())
    }

    /// The built-in patterns and those in `files`.
    #[must_use]
    pub fn load(files: &[SourceFile], trust: &Trust) -> Self {
        Self::default().reload(files, trust)
    }

    /// The library that the built-in patterns and `files` make now. A file that does not load any more keeps its last
    /// good version; a file that is not there any more is gone. See [`Library::report`].
    #[must_use]
    pub fn reload(&self, files: &[SourceFile], trust: &Trust) -> Self {
        let mut report = Report::default();
        let mut loaded: Vec<Arc<Loaded>> = Vec::new();
        let known: HashMap<&str, &Arc<Loaded>> =
            self.loaded.iter().map(|loaded| (loaded.file.as_str(), loaded)).collect();
        let built_in = BUILTINS.iter().map(|(file, text)| (*file, *text, Origin::BuiltIn));
        let given = files.iter().map(|file| (file.file.as_str(), file.text.as_str(), file.origin.clone()));
        for (file, text, origin) in built_in.chain(given) {
            let before = known.get(file).copied();
            if let Origin::Project(root) = &origin
                && !trust.allows(root, file, text)
            {
                report.untrusted.push(Untrusted {
                    file: file.to_owned(),
                    hash: hash(text),
                    changed: trust.knows(root, file),
                });
                continue;
            }
            if let Some(before) =
                before.filter(|before| *before.pattern.source == *text && before.pattern.origin == origin)
            {
                loaded.push(before.clone());
                continue;
            }
            let result = match origin {
                Origin::BuiltIn => load_built_in(file, text),
                origin => load(file, text, origin),
            };
            match result {
                Ok(fresh) => loaded.push(Arc::new(fresh)),
                Err(errors) => {
                    report.errors.extend(errors);
                    if let Some(before) = before {
                        report.kept.push(file.to_owned());
                        loaded.push(before.clone());
                    }
                }
            }
        }
        loaded.sort_by(|a, b| (&a.pattern.origin, &a.file).cmp(&(&b.pattern.origin, &b.file)));
        let chosen = choose(&loaded, &mut report);
        let patterns: Vec<Arc<Pattern>> = chosen.iter().map(|loaded| loaded.pattern.clone()).collect();
        let by_name: BTreeMap<_, _> =
            patterns.iter().map(|pattern| (pattern.name.clone(), pattern.clone())).collect();
        report.changed = by_name.len() != self.by_name.len()
            || by_name.iter().any(|(name, pattern)| {
                self.by_name.get(name).is_none_or(|before| before.hash != pattern.hash)
            });
        report.errors.sort();
        let versions = versions(&loaded, &by_name);
        Self { loaded, by_name, versions, router: Router::new(patterns), report }
    }

    /// What the load that made this library came to.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// The last good version of `file`, as it was read.
    #[must_use]
    pub fn last_good(&self, file: &str) -> Option<SourceFile> {
        let loaded = self.loaded.iter().find(|loaded| loaded.file == file)?;
        Some(SourceFile {
            file: file.to_owned(),
            text: loaded.pattern.source.to_string(),
            origin: loaded.pattern.origin.clone(),
        })
    }

    /// All patterns, ordered by name.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Pattern>> {
        self.by_name.values().cloned().collect()
    }

    /// The pattern called `name`: `repo.digest`, or pinned to the beginning of its version as in `repo.digest@1`.
    ///
    /// # Errors
    /// See [`ResolveError`].
    pub fn resolve(&self, name: &str) -> Result<Arc<Pattern>, ResolveError> {
        let (name, pin) = match name.split_once('@') {
            Some((name, pin)) => (name, Some(pin)),
            None => (name, None),
        };
        let Some(pattern) = self.by_name.get(name) else {
            let near = crate::nearest::nearest(name, self.by_name.keys().map(String::as_str));
            return Err(ResolveError::Unknown { name: clip(name), near: near.map(str::to_owned) });
        };
        let Some(pin) = pin else { return Ok(pattern.clone()) };
        let versions = self.versions(name);
        versions.iter().find(|pattern| pins(pin, pattern.version)).cloned().ok_or_else(|| {
            ResolveError::Version {
                name: name.to_owned(),
                versions: versions.iter().map(|pattern| pattern.version).collect(),
                pin: clip(pin),
            }
        })
    }

    /// Every version of the pattern `name`: first the one that the bare name means.
    #[must_use]
    pub fn versions(&self, name: &str) -> &[Arc<Pattern>] {
        self.versions.get(name).map_or(&[], Vec::as_slice)
    }

    /// What replaces `pattern`, where it is deprecated and that is there.
    #[must_use]
    pub fn replacement(&self, pattern: &Pattern) -> Option<Arc<Pattern>> {
        let name = pattern.deprecated.as_ref()?.replaced_by.as_deref()?;
        self.resolve(name).ok()
    }

    /// The pattern called exactly `name`, without a pin.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<Arc<Pattern>> {
        self.by_name.get(name).cloned()
    }

    /// Finds the pattern that `query` means.
    #[must_use]
    pub fn route(&self, query: &str, mode: Mode) -> Route {
        self.route_among(query, mode, Among::ALL)
    }

    /// As [`Library::route`], as if the patterns and paths that `among` refuses were not there. Neither is one that is deprecated,
    /// where its replacement is: that is what is offered first where a trigger of the deprecated one matches.
    #[must_use]
    pub fn route_among(&self, query: &str, mode: Mode, among: Among<'_>) -> Route {
        let admits = among.admits;
        let may_be_routed = |pattern: &Pattern| self.may_be_routed(pattern, admits);
        let route = self.router.route_among(query, mode, Among { admits: &may_be_routed, ..among });
        let Route::Candidates(mut candidates) = route else { return route };
        for (matched, _) in self.router.matching(query).into_iter().rev() {
            let replaced = admits(&matched) && matched.deprecated.is_some();
            let Some(next) =
                self.replacement(&matched).filter(|next| replaced && self.may_be_routed(next, admits))
            else {
                continue;
            };
            if let Some(candidate) = self.router.candidate(&next, query, mode) {
                candidates.retain(|known| known.pattern.name != next.name);
                candidates.insert(0, candidate);
            }
        }
        candidates.truncate(CANDIDATES_MAX);
        Route::Candidates(candidates)
    }

    /// Whether `admits` lets `pattern` in, and not what replaces it.
    fn may_be_routed(&self, pattern: &Pattern, admits: &dyn Fn(&Pattern) -> bool) -> bool {
        admits(pattern) && self.replacement(pattern).is_none_or(|replacement| !admits(&replacement))
    }

    /// Why `query` runs what it runs among the patterns and paths that `among` lets in.
    #[must_use]
    pub fn explain(&self, query: &str, mode: Mode, among: Among<'_>) -> Explanation {
        let may_be_routed = |pattern: &Pattern| self.may_be_routed(pattern, among.admits);
        self.router.explain(query, mode, Among { admits: &may_be_routed, ..among })
    }

    /// All patterns ordered by how well they fit `query`, best first, deprecated ones last; those that do not fit at all are
    /// left out.
    #[must_use]
    pub fn ranked(&self, query: &str) -> Vec<Arc<Pattern>> {
        let mut ranked = self.router.ranked(query);
        ranked.sort_by_key(|pattern| pattern.deprecated.is_some());
        ranked
    }

    /// At most `limit` patterns: the best for `query`, or the first by name.
    #[must_use]
    pub fn find(&self, query: Option<&str>, limit: usize) -> Vec<Arc<Pattern>> {
        let mut found = match query.map(str::trim).filter(|query| !query.is_empty()) {
            Some(query) => self.ranked(query),
            None => self.all(),
        };
        found.truncate(limit);
        found
    }

    /// The patterns named in `promoted` with the names of their tools, in the order of the tools' names.
    ///
    /// Beside them every name that is unknown or whose tool's name is taken (`reserved` are those of the other tools).
    #[must_use]
    pub fn promote(
        &self,
        promoted: &[String],
        reserved: &[&str],
    ) -> (Vec<(String, Arc<Pattern>)>, Vec<PromoteError>) {
        let mut tools: BTreeMap<String, Arc<Pattern>> = BTreeMap::new();
        let mut errors = Vec::new();
        for name in promoted {
            match self.resolve(name) {
                Ok(pattern) => {
                    let tool = tool_name(&pattern.name);
                    match tools.get(&tool) {
                        Some(other) if other.name == pattern.name => {}
                        Some(other) => errors.push(PromoteError::Collision {
                            tool,
                            name: pattern.name.clone(),
                            other: format!("the pattern `{}`", other.name),
                        }),
                        None if reserved.contains(&tool.as_str()) => errors.push(PromoteError::Collision {
                            tool,
                            name: pattern.name.clone(),
                            other: "a tool of the server".to_owned(),
                        }),
                        None => drop(tools.insert(tool, pattern)),
                    }
                }
                Err(error) => errors.push(PromoteError::Unknown(error)),
            }
        }
        (tools.into_iter().collect(), errors)
    }
}

/// Why a name means no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// Nothing is called so.
    #[error("there is no pattern `{name}`{}", near.as_ref().map_or_else(String::new, |near| format!(": did you mean `{near}`?")))]
    Unknown {
        /// As asked.
        name: String,
        /// The nearest name there is.
        near: Option<String>,
    },
    /// It has other versions.
    #[error("the pattern `{name}` is here in version {}, not {pin}", listed(versions))]
    Version {
        /// The pattern.
        name: String,
        /// Its versions, the one that the bare name means first.
        versions: Vec<Version>,
        /// As asked.
        pin: String,
    },
}

/// Why a pattern cannot be a tool of its own.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PromoteError {
    /// No such pattern.
    #[error("{0}")]
    Unknown(ResolveError),
    /// The name is taken.
    #[error("the pattern `{name}` cannot be promoted: {other} is already the tool `{tool}`")]
    Collision {
        /// Name of the tool.
        tool: String,
        /// Name of the pattern.
        name: String,
        /// Who has the name.
        other: String,
    },
}

/// Name of the tool that a promoted pattern becomes.
#[must_use]
pub fn tool_name(pattern: &str) -> String {
    pattern.replace(['.', '-'], "_")
}

fn clip(text: &str) -> String {
    text.chars().take(80).collect()
}

/// `2.0.0, 1.4.0`.
fn listed(versions: &[Version]) -> String {
    versions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// All versions of each name in `by_name`, as [`Library::versions`] orders them.
fn versions(
    loaded: &[Arc<Loaded>],
    by_name: &BTreeMap<String, Arc<Pattern>>,
) -> BTreeMap<String, Vec<Arc<Pattern>>> {
    by_name
        .iter()
        .map(|(name, first)| {
            let mut rest: Vec<&Arc<Pattern>> = loaded
                .iter()
                .map(|file| &file.pattern)
                .filter(|pattern| pattern.name == *name && pattern.version != first.version)
                .collect();
            rest.sort_by_key(|pattern| std::cmp::Reverse((scope(&pattern.origin), pattern.version)));
            // Of one version in two scopes, the later scope's is the one.
            rest.dedup_by_key(|pattern| pattern.version);
            (name.clone(), [first].into_iter().chain(rest).cloned().collect())
        })
        .collect()
}

/// Whether `pin` (`1`, `1.2` or `1.2.0`) is the beginning of `version`.
#[must_use]
pub fn pins(pin: &str, version: Version) -> bool {
    let parts: Vec<Option<u32>> = pin.split('.').map(|part| part.parse().ok()).collect();
    let version = [version.major, version.minor, version.patch];
    (1..=3).contains(&parts.len()) && parts.iter().zip(version).all(|(part, number)| *part == Some(number))
}

/// Picks one file a name and leaves out those whose triggers cannot be told from others'.
fn choose(loaded: &[Arc<Loaded>], report: &mut Report) -> Vec<Arc<Loaded>> {
    let mut by_name: BTreeMap<&str, Vec<&Arc<Loaded>>> = BTreeMap::new();
    for file in loaded {
        by_name.entry(&file.pattern.name).or_default().push(file);
    }
    let mut chosen: Vec<Arc<Loaded>> = Vec::new();
    for (name, files) in by_name {
        let newest = |file: &&Arc<Loaded>| (scope(&file.pattern.origin), file.pattern.version);
        let Some(winner) = files.iter().copied().max_by_key(newest) else {
            continue;
        };
        // The newest of the latest scope. Of two files with one version in one scope, the first by file name stays, and
        // the other is an error.
        let rank = |file: &Loaded| (scope(&file.pattern.origin), file.pattern.version);
        let first = files.iter().find(|file| rank(file) == rank(winner)).copied().unwrap_or(winner);
        for file in &files {
            let file = *file;
            if Arc::ptr_eq(file, first) {
                continue;
            }
            let twin = files
                .iter()
                .take_while(|earlier| !Arc::ptr_eq(earlier, file))
                .find(|earlier| rank(earlier) == rank(file));
            if let Some(twin) = twin {
                report.errors.push(file.error(
                    "/name",
                    format!("the name `{name}` is taken by {} in the same version", twin.file),
                    Some("rename one of them, or give it another version".to_owned()),
                ));
            } else if scope(&file.pattern.origin) != scope(&first.pattern.origin) {
                report.shadowed.push((name.to_owned(), file.file.clone()));
            }
        }
        chosen.push(first.clone());
    }
    let colliding = collisions(&chosen, report);
    chosen.retain(|file| !colliding.contains(&file.pattern.name));
    chosen
}

/// Names of the patterns to leave out: their triggers match an example of another with the same priority.
///
/// Of two that collide the one of the later scope is left out (of one scope, the later by name), so that a new file
/// never breaks what worked before.
fn collisions(chosen: &[Arc<Loaded>], report: &mut Report) -> Vec<String> {
    // Built-in patterns do not collide with each other: a test sees to it.
    if chosen.iter().all(|file| file.pattern.origin == Origin::BuiltIn) {
        return Vec::new();
    }
    let mut order: Vec<&Arc<Loaded>> = chosen.iter().collect();
    order.sort_by_key(|file| (scope(&file.pattern.origin), file.pattern.name.clone()));
    let patterns: Vec<Arc<Pattern>> = order.iter().map(|file| file.pattern.clone()).collect();
    let triggers = TriggerIndex::new(&patterns);
    // By (later, earlier): whose example it is, and which.
    let mut pairs: BTreeMap<(usize, usize), (usize, usize)> = BTreeMap::new();
    for (owner, pattern) in patterns.iter().enumerate().rev() {
        for (example, query) in pattern.triggers.match_examples.iter().enumerate() {
            for (other, _) in triggers.find(query) {
                if other != owner && patterns[other].triggers.priority == pattern.triggers.priority {
                    pairs.entry((owner.max(other), owner.min(other))).or_insert((owner, example));
                }
            }
        }
    }
    let mut left_out: Vec<String> = Vec::new();
    for ((later, earlier), (owner, example)) in pairs {
        let names = [&patterns[later].name, &patterns[earlier].name];
        if names.into_iter().any(|name| left_out.contains(name)) {
            continue;
        }
        let query: String = patterns[owner].triggers.match_examples[example].chars().take(80).collect();
        let (pointer, message) = if owner == later {
            (
                format!("/triggers/examples/match/{example}"),
                format!("this example also matches a trigger of `{}`, with the same priority", names[1]),
            )
        } else {
            (
                "/triggers".to_owned(),
                format!(
                    "a trigger also matches \"{query}\", an example of `{}`, with the same priority",
                    names[1]
                ),
            )
        };
        let hint = Some("narrow a trigger, or give them different priorities".to_owned());
        report.errors.push(order[later].error(&pointer, message, hint));
        left_out.push(names[0].clone());
    }
    left_out
}

const fn scope(origin: &Origin) -> u8 {
    match origin {
        Origin::BuiltIn => 0,
        Origin::User(_) => 1,
        Origin::Project(_) => 2,
    }
}

#[cfg(test)]
mod tests;
