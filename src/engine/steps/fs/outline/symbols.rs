//! The symbols of one text: a scan by lines that knows braces or indentation, strings and comments, and no grammar.

use std::path::Path;

use super::{
    language::{Language, Look, NO_NAMES, Place, looks},
    mask::mask,
};

/// Longest signature shown, in characters.
const SIGNATURE_CHARS_MAX: usize = 180;
/// Furthest that a signature goes, in bytes.
const SIGNATURE_BYTES_MAX: usize = 1500;
/// Longest line that may begin a definition, in bytes: what is longer was not written by hand.
const LINE_BYTES_MAX: usize = 2000;

/// A definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Symbol {
    /// From 1.
    pub(super) line: usize,
    /// How many types it stands within.
    pub(super) depth: usize,
    pub(super) name: String,
    /// On one line, without body.
    pub(super) signature: String,
}

/// The symbols of `text`, which is the file `path`, in their order; `None` for a language that is not known.
pub(super) fn symbols(path: &Path, text: &str) -> Option<(Language, Vec<Symbol>)> {
    let language = Language::of(path)?;
    let found = match language {
        Language::Markdown => headings(text),
        Language::Python | Language::Ruby => indented(text, language),
        _ => braced(path, text, language),
    };
    Some((language, found))
}

fn headings(text: &str) -> Vec<Symbol> {
    let mut fence: Option<&str> = None;
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let trimmed = line.trim_start();
        let mark = ["```", "~~~"].into_iter().find(|mark| trimmed.starts_with(mark));
        match (fence, mark) {
            (None, Some(mark)) => fence = Some(mark),
            (Some(open), Some(mark)) if open == mark => fence = None,
            _ => {}
        }
        let level = line.bytes().take_while(|&byte| byte == b'#').count();
        if fence.is_none() && (1..=6).contains(&level) && line.as_bytes().get(level) == Some(&b' ') {
            let name = line[level..].trim().trim_end_matches('#').trim_end();
            found.push(Symbol {
                line: index + 1,
                depth: level - 1,
                name: name.to_owned(),
                signature: cut(line.trim_end()),
            });
        }
    }
    found
}

/// Lines of a masked text: where each begins and ends.
fn lines(masked: &[u8]) -> impl Iterator<Item = (usize, usize)> {
    let mut start = 0;
    std::iter::from_fn(move || {
        if start >= masked.len() {
            return None;
        }
        let end =
            masked[start..].iter().position(|&byte| byte == b'\n').map_or(masked.len(), |at| start + at);
        let line = (start, end);
        start = end + 1;
        Some(line)
    })
}

fn indented(text: &str, language: Language) -> Vec<Symbol> {
    let masked = mask(text, language);
    let mut found = Vec::new();
    // Indentation of what encloses the line, and whether definitions in it count.
    let mut around: Vec<(usize, bool)> = Vec::new();
    let mut brackets = 0_usize;
    for (index, (start, end)) in lines(&masked).enumerate() {
        let line = &masked[start..end];
        let indent = line.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        let inside = brackets > 0;
        if language == Language::Python {
            for byte in line {
                match byte {
                    b'(' | b'[' | b'{' => brackets += 1,
                    b')' | b']' | b'}' => brackets = brackets.saturating_sub(1),
                    _ => {}
                }
            }
        }
        let Ok(code) = std::str::from_utf8(&line[indent..]) else { continue };
        let code = code.trim_end();
        // What is blank, a decorator or goes on with a bracket encloses nothing.
        if code.is_empty() || inside {
            continue;
        }
        if code != "end" {
            while around.last().is_some_and(|(above, _)| *above >= indent) {
                around.pop();
            }
        }
        let counts = around.iter().all(|(_, holds)| *holds);
        // What a line says of itself stands at its beginning.
        let begins = &code[..code.floor_char_boundary(LINE_BYTES_MAX)];
        let look = looks(language).iter().find_map(|look| Some((look, look.regex.captures(begins)?)));
        let Some((look, captures)) = look else { continue };
        if counts && code.len() <= LINE_BYTES_MAX {
            let name = captures.name("name").map_or("", |name| name.as_str());
            let stop = signature_end(&masked, start + indent, look.ends);
            found.push(Symbol {
                line: index + 1,
                depth: around.len(),
                name: name.to_owned(),
                signature: clean(&text[start + indent..text.floor_char_boundary(stop)], language),
            });
        }
        around.push((indent, look.holds));
    }
    found
}

fn braced(path: &Path, text: &str, language: Language) -> Vec<Symbol> {
    let masked = mask(text, language);
    let header =
        path.extension().and_then(|ending| ending.to_str()).is_some_and(|ending| ending.starts_with('h'));
    let mut found: Vec<Symbol> = Vec::new();
    // One entry a brace that is open.
    let mut braces: Vec<Body> = Vec::new();
    let mut opaque = 0_usize;
    let mut parens = 0_usize;
    // Where the brace of the last definition is, and what it opens.
    let mut awaited: Option<(usize, Body)> = None;
    // Where the signature of the last definition ends: the lines up to there are it.
    let mut taken = 0;
    for (index, (start, end)) in lines(&masked).enumerate() {
        let line = &masked[start..end];
        let indent = line.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        if opaque == 0 && parens == 0 && start >= taken && end - start <= LINE_BYTES_MAX {
            let depth = braces.iter().filter(|body| **body == Body::Members).count();
            if let Some((look, name)) = definition(&masked[start + indent..end], language, depth) {
                let stop = signature_end(
                    &masked,
                    start + indent + visibility(&masked[start + indent..end]),
                    look.ends,
                );
                let closing = masked.get(stop).copied().unwrap_or(b'\n');
                if wanted(language, look, closing, header, depth, indent, &masked[start + indent..stop]) {
                    let tests = language == Language::Rust && matches!(name.as_str(), "tests" | "test");
                    taken = stop;
                    let c_block =
                        language == Language::C && masked[start + indent..stop].starts_with(b"extern \"");
                    if !c_block {
                        found.push(Symbol {
                            line: index + 1,
                            depth,
                            signature: clean(&text[start + indent..text.floor_char_boundary(stop)], language),
                            name,
                        });
                    }
                    let brace = if closing == b'{' { Some(stop) } else { None };
                    let body = if look.holds && !tests { Body::Members } else { Body::Opaque };
                    awaited = brace.map(|brace| (brace, body));
                }
            } else if language == Language::Rust
                && let Some(brace) =
                    wrapped(&masked[start + indent..end], braces.last() == Some(&Body::Wrapped))
            {
                awaited = Some((start + indent + brace, Body::Wrapped));
            }
        }
        for (offset, byte) in line.iter().enumerate() {
            match byte {
                b'{' => {
                    let body = awaited
                        .filter(|(at, _)| *at == start + offset)
                        .map_or(Body::Opaque, |(_, body)| body);
                    opaque += usize::from(body == Body::Opaque);
                    braces.push(body);
                }
                b'}' => {
                    if braces.pop() == Some(Body::Opaque) {
                        opaque -= 1;
                    }
                    // A bracket left open within what closes was none.
                    if opaque == 0 {
                        parens = 0;
                    }
                }
                b'(' if opaque == 0 => parens += 1,
                b')' if opaque == 0 => parens = parens.saturating_sub(1),
                _ => {}
            }
        }
    }
    found
}

/// What stands between two braces.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Body {
    /// Definitions in it do not count.
    Opaque,
    /// Definitions in it count as its members.
    Members,
    /// Definitions in it count as if the braces were not there.
    Wrapped,
}

/// Where the brace is of a macro of Rust that is called where items stand, so that its body holds items: `cfg_rt! {`,
/// and within one the branches of `cfg_if!`.
fn wrapped(line: &[u8], within: bool) -> Option<usize> {
    let line = line.trim_ascii_end();
    let before = line.strip_suffix(b"{")?.trim_ascii_end();
    let brace = line.len() - 1;
    if within && (before.starts_with(b"if #[") || before.starts_with(b"} else")) {
        return Some(brace);
    }
    let name = before.strip_suffix(b"!")?;
    let is_path = name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"_:".contains(byte));
    (is_path && name.first().is_some_and(|byte| byte.is_ascii_alphabetic() || *byte == b'_')).then_some(brace)
}

/// The definition that a line of code begins.
fn definition(line: &[u8], language: Language, depth: usize) -> Option<(&'static Look, String)> {
    let code = std::str::from_utf8(line).ok()?;
    let first = code.bytes().next()?;
    let begins = first.is_ascii_alphabetic() || b"_#@~*[$".contains(&first);
    if !begins {
        return None;
    }
    looks(language).iter().find_map(|look| {
        let fits = match look.place {
            Place::Anywhere => true,
            Place::Top => depth == 0 || language == Language::C,
            Place::Member => depth > 0,
        };
        let captures = fits.then(|| look.regex.captures(code)).flatten()?;
        let name = captures.name("name").map_or("", |name| name.as_str()).trim();
        (captures.name("kind").is_some() || !NO_NAMES.contains(&name)).then(|| (look, name.to_owned()))
    })
}

/// Whether what looks like a definition is one that is listed.
fn wanted(
    language: Language,
    look: &Look,
    closing: u8,
    header: bool,
    depth: usize,
    indent: usize,
    signature: &[u8],
) -> bool {
    let text = String::from_utf8_lossy(signature);
    match language {
        Language::C => {
            let function = look.ends == b"{;" || look.ends == b"{" && look.place == Place::Top;
            // A prototype says something in a header, or of a class; a call looks the same in a body.
            let first = text.split_whitespace().next().unwrap_or_default();
            let starts = !matches!(
                first,
                "return" | "else" | "case" | "goto" | "delete" | "using" | "typedef" | "throw" | "new"
            );
            let assigns = text
                .split('(')
                .next()
                .is_some_and(|before| before.contains('=') && !before.contains("operator"));
            !function
                || (closing == b'{' || look.ends == b"{;" && closing == b';' && (header || depth > 0))
                    && starts
                    && !assigns
        }
        Language::Script => {
            // A call in the body of a class does not happen; a member that ends without a body is TypeScript's.
            look.place != Place::Member
                || closing == b'{'
                || closing == b'>'
                || depth > 0 && text.contains(')')
        }
        Language::Java => !text
            .split('(')
            .next()
            .is_some_and(|before| before.contains('=') || before.starts_with("return ")),
        Language::Go => indent == 0,
        _ => true,
    }
}

/// Bytes of Rust's `pub(…)` at the beginning of a line, whose bracket ends no signature.
fn visibility(line: &[u8]) -> usize {
    if line.starts_with(b"pub(") {
        line.iter().position(|&byte| byte == b')').map_or(0, |at| at + 1)
    } else {
        0
    }
}

/// Where the signature that begins at `from` ends: the first of `ends` outside brackets. One that is too long ends
/// anywhere, also within a character.
fn signature_end(masked: &[u8], from: usize, ends: &[u8]) -> usize {
    let mut depth = 0_usize;
    let limit = masked.len().min(from + SIGNATURE_BYTES_MAX);
    for at in from..limit {
        let byte = masked[at];
        // An arrow ends what is written with one; elsewhere it is a part of a type.
        if depth == 0 && ends.contains(&byte) {
            let arrow = byte == b'>' && masked[at - usize::from(at > from)] != b'=';
            let compared = byte == b'=' && matches!(masked.get(at + 1), Some(b'>' | b'='));
            if !arrow && !compared {
                return at;
            }
        }
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth = depth.saturating_sub(1),
            // A bracket that never closes ends with the block that follows.
            b'{' if depth == 0 => return at,
            _ => {}
        }
    }
    // Nothing ends it: the line does.
    masked[from..limit].iter().position(|&byte| byte == b'\n').map_or(limit, |at| from + at)
}

/// On one line, without comments at its ends and without what only opens a body.
fn clean(text: &str, language: Language) -> String {
    let mut out = String::with_capacity(text.len().min(200));
    for line in text.lines() {
        let line = match language {
            Language::Python | Language::Ruby | Language::Shell => line.split(" #").next().unwrap_or(line),
            Language::Sql => line.split("--").next().unwrap_or(line),
            _ => line.split(" //").next().unwrap_or(line),
        };
        for word in line.split_whitespace() {
            if !(out.is_empty() || out.ends_with('(') || word.starts_with(')') && out.ends_with(',')) {
                out.push(' ');
            }
            if word.starts_with(')') && out.ends_with(',') {
                out.pop();
            }
            out.push_str(word);
        }
    }
    let out = out.trim_end_matches([' ', '=', '{', '(']);
    // What a special member of C++ is said to be is no part of its signature.
    let out = [" = default", " = delete", " = 0"].iter().find_map(|end| out.strip_suffix(end)).unwrap_or(out);
    cut(if language == Language::Sql || language == Language::Shell {
        out.trim_end_matches("()")
    } else {
        out
    }
    .trim_end())
}

fn cut(text: &str) -> String {
    crate::engine::steps::data_clip(text, SIGNATURE_CHARS_MAX)
}
