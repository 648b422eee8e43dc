//! Argv templates of `permissions.exec`: words, of which some are whole placeholders.
//!
//! `{name}` takes one argument of the step, `{name?}` one that may be absent, `{name:path}` and `{name:path?}` a path
//! below the step's root. A placeholder is a whole word: it becomes one word of the argv, or none.

/// One word of a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word<'t> {
    /// As it is.
    Literal(&'t str),
    /// One argument.
    Slot(Slot<'t>),
}

/// A placeholder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot<'t> {
    /// Name of the argument.
    pub name: &'t str,
    /// The word may be left out.
    pub optional: bool,
    /// The argument is a path that must lie below the step's root.
    pub path: bool,
}

/// Programs that interpret an option as program text.
const SHELLS: &[&str] =
    &["ash", "bash", "busybox", "csh", "dash", "fish", "ksh", "mksh", "sh", "tcsh", "zsh"];

/// Programs that start others under terms of their own: another environment, user, session or machine.
const LAUNCHERS: &[&str] = &[
    "at",
    "batch",
    "chroot",
    "doas",
    "env",
    "nohup",
    "nsenter",
    "parallel",
    "pkexec",
    "runuser",
    "screen",
    "script",
    "setpriv",
    "setsid",
    "ssh",
    "start-stop-daemon",
    "su",
    "sudo",
    "systemd-run",
    "tmux",
    "unshare",
    "watch",
    "xargs",
];

impl<'t> Word<'t> {
    /// Reads one word.
    #[must_use]
    pub fn of(text: &'t str) -> Self {
        slot(text).map_or(Self::Literal(text), Self::Slot)
    }
}

/// The placeholder that `text` is.
fn slot(text: &str) -> Option<Slot<'_>> {
    let inner = text.strip_prefix('{')?.strip_suffix('}')?;
    let (inner, optional) = inner.strip_suffix('?').map_or((inner, false), |inner| (inner, true));
    let (name, path) = inner.strip_suffix(":path").map_or((inner, false), |name| (name, true));
    let is_name = name.starts_with(|char: char| char.is_ascii_lowercase())
        && name.chars().all(|char| char.is_ascii_lowercase() || char.is_ascii_digit() || char == '_');
    is_name.then_some(Slot { name, optional, path })
}

/// Whether a placeholder stands within a longer word.
fn holds_slot(text: &str) -> bool {
    text.char_indices().filter(|(_, char)| *char == '{').any(|(start, _)| {
        text[start..].find('}').is_some_and(|end| slot(&text[start..=start + end]).is_some())
    })
}

/// The placeholders of `argv`, in their order.
pub fn slots(argv: &[String]) -> impl Iterator<Item = Slot<'_>> {
    argv.iter().filter_map(|word| slot(word))
}

/// What is wrong with a template: index of the word, and a fragment that says so.
#[must_use]
pub fn faults(argv: &[String]) -> Vec<(usize, String)> {
    let mut faults = Vec::new();
    let Some(program) = argv.first() else { return vec![(0, "a template names a program".to_owned())] };
    if let Some(fault) = program_fault(program) {
        faults.push((0, fault));
    }
    let file = program.rsplit('/').next().unwrap_or(program);
    for (index, word) in argv.iter().enumerate().skip(1) {
        if word.contains('\0') {
            faults.push((index, "a word cannot hold a NUL character".to_owned()));
        } else if slot(word).is_none() && holds_slot(word) {
            faults.push((
                index,
                "a placeholder is a whole word: an argument becomes one word of its own".to_owned(),
            ));
        } else if SHELLS.contains(&file) && is_command_option(word) {
            faults.push((
                index,
                format!("`{file}` with program text in an option is not run: name the program itself"),
            ));
        }
    }
    faults
}

fn program_fault(program: &str) -> Option<String> {
    let file = program.rsplit('/').next().unwrap_or(program);
    if program.contains('{') || program.contains('}') {
        return Some("the first word is the program, never a placeholder".to_owned());
    }
    if program.starts_with('-') || program.contains('\0') || file.is_empty() || [".", ".."].contains(&file) {
        return Some("the first word is a program, such as cargo".to_owned());
    }
    if program.contains('/') && !program.starts_with('/') {
        return Some(
            "a program is named by its name alone, or by an absolute path: none of the workspace is run"
                .to_owned(),
        );
    }
    LAUNCHERS
        .contains(&file)
        .then(|| format!("`{file}` starts other programs under terms of its own: name the program itself"))
}

/// Whether `word` is `-c`, or short options with a `c` among them.
fn is_command_option(word: &str) -> bool {
    word.strip_prefix(['-', '+']).is_some_and(|short| !short.starts_with('-') && short.contains('c'))
        || word == "--command"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argv(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn placeholders_are_whole_words() {
        let slot = |name, optional, path| Word::Slot(Slot { name, optional, path });
        for (text, word) in [
            ("{filter}", slot("filter", false, false)),
            ("{filter?}", slot("filter", true, false)),
            ("{file:path}", slot("file", false, true)),
            ("{file_2:path?}", slot("file_2", true, true)),
            ("{Filter}", Word::Literal("{Filter}")),
            ("{}", Word::Literal("{}")),
            ("{print $1}", Word::Literal("{print $1}")),
            ("--color", Word::Literal("--color")),
        ] {
            assert_eq!(Word::of(text), word);
        }
    }

    #[test]
    fn a_template_that_could_run_something_else_is_refused() {
        for (words, index, part) in [
            (&["{program}", "x"][..], 0, "never a placeholder"),
            (&["-x"], 0, "is a program"),
            (&["./gradlew", "test"], 0, "none of the workspace"),
            (&["tools/run"], 0, "none of the workspace"),
            (&["/usr/bin/"], 0, "is a program"),
            (&["sudo", "make"], 0, "terms of its own"),
            (&["/usr/bin/env", "make"], 0, "terms of its own"),
            (&["sh", "-c", "{text}"], 1, "program text"),
            (&["/bin/bash", "-lc", "make"], 1, "program text"),
            (&["make", "CC={cc}"], 1, "whole word"),
            (&["make", "x{a?}"], 1, "whole word"),
            (&["make", "a\0b"], 1, "NUL"),
        ] {
            let faults = faults(&argv(words));
            assert!(
                faults.iter().any(|(at, text)| *at == index && text.contains(part)),
                "{words:?}: {faults:?}"
            );
        }
        assert_eq!(faults(&[]).len(), 1);
        for words in [
            &["cargo", "test", "--color", "never", "{filter?}"][..],
            &["awk", "{print $1}", "{file:path}"],
            &["bash", "scripts/check.sh", "{what}"],
            &["/usr/bin/make", "-s", "test"],
        ] {
            assert_eq!(faults(&argv(words)), [], "{words:?}");
        }
    }
}
