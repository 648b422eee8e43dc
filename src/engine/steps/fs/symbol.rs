//! The nearest function, type or heading above a line, by its looks: no parser, a few words per language.

use std::{path::Path, sync::LazyLock};

use regex::bytes::Regex;

/// Lines looked at above a hit.
const LINES_UP_MAX: usize = 600;

static DEFINITION: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(concat!(
        r"^[ \t]*(?:(?:pub(?:\([^)]*\))?|export|default|async|static|public|private|protected|abstract|final|unsafe|",
        r#"const|extern(?:[ \t]+"[^"]*")?|override|virtual|inline|open|internal|sealed|data|suspend)[ \t]+)*"#,
        r"(?:(?:fn|def|class|function\*?|func|fun|impl|struct|enum|trait|interface|mod|module|namespace|object|union)\b|",
        r"macro_rules!|(?:const|let|var)[ \t]+\w+[ \t]*=[ \t]*(?:async[ \t]*)?(?:function\b|\([^)]*\)[ \t]*(?::[^=]+)?=>|\w+[ \t]*=>))",
    ))
    .expect("a constant regex")
});

static C_FUNCTION: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^[A-Za-z_][\w \t*&:<>,~]*\([^;]*$").expect("a constant regex"));

/// How definitions look in a file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Looks {
    /// Most languages: a keyword after modifiers, nested by indentation.
    Code,
    /// As `Code`, and functions at the left margin without a keyword.
    C,
    /// Headings.
    Markdown,
    /// No definitions.
    None,
}

impl Looks {
    /// By the ending of the file's name.
    pub(super) fn of(path: &Path) -> Self {
        match path.extension().and_then(|extension| extension.to_str()).unwrap_or_default() {
            "md" | "markdown" | "mdx" => Self::Markdown,
            "c" | "h" | "cc" | "cpp" | "cxx" | "hh" | "hpp" | "m" | "mm" => Self::C,
            "json" | "jsonl" | "toml" | "yaml" | "yml" | "lock" | "txt" | "rst" | "adoc" | "log" | "csv"
            | "xml" | "html" | "css" | "svg" => Self::None,
            _ => Self::Code,
        }
    }

    fn defines(self, line: &[u8]) -> bool {
        match self {
            Self::Markdown => {
                let level = line.iter().take_while(|&&byte| byte == b'#').count();
                (1..=6).contains(&level) && line.get(level) == Some(&b' ')
            }
            Self::Code => DEFINITION.is_match(line),
            Self::C => DEFINITION.is_match(line) || C_FUNCTION.is_match(line),
            Self::None => false,
        }
    }

    /// The definition that encloses line `index` of `lines`: the nearest one above with a smaller indentation (for
    /// headings: the nearest one). A line that defines something itself counts as enclosed by what is around it.
    pub(super) fn enclosing<'a>(self, lines: &[&'a [u8]], index: usize) -> Option<&'a [u8]> {
        if self == Self::None {
            return None;
        }
        let indentation = indent(lines.get(index)?);
        if indentation == 0 && self != Self::Markdown {
            return None;
        }
        lines[..index]
            .iter()
            .rev()
            .take(LINES_UP_MAX)
            .find(|line| (self == Self::Markdown || indent(line) < indentation) && self.defines(line))
            .copied()
    }
}

/// Width of the leading white space; blank lines count as deeply indented, they enclose nothing.
fn indent(line: &[u8]) -> usize {
    let mut width = 0;
    for byte in line {
        match byte {
            b' ' => width += 1,
            b'\t' => width += 4,
            b'\r' => {}
            _ => return width,
        }
    }
    usize::MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enclosing(name: &str, text: &str, line: usize) -> Option<String> {
        let lines: Vec<&[u8]> = text.split('\n').map(str::as_bytes).collect();
        Looks::of(Path::new(name))
            .enclosing(&lines, line - 1)
            .map(|line| String::from_utf8_lossy(line).trim().to_owned())
    }

    #[test]
    fn the_nearest_enclosing_definition_is_found_in_common_languages() {
        for (name, text, line, expected) in [
            (
                "a.rs",
                "impl A {\n    pub(crate) async fn b(&self) {\n        x();\n    }\n}",
                3,
                Some("pub(crate) async fn b(&self) {"),
            ),
            (
                "a.rs",
                "impl A {\n    fn b() {\n        y();\n    }\n\n    fn c() {\n    }\n}",
                6,
                Some("impl A {"),
            ),
            ("a.py", "class A:\n    def b(self):\n        pass\n\n    x = 1", 5, Some("class A:")),
            ("a.py", "import os\nx = 1", 2, None),
            (
                "a.js",
                "export const go = async (a, b) => {\n  run();\n}",
                2,
                Some("export const go = async (a, b) => {"),
            ),
            ("a.go", "func (s *S) Run() error {\n\treturn nil\n}", 2, Some("func (s *S) Run() error {")),
            ("a.c", "static int go(int a)\n{\n    return a;\n}", 3, Some("static int go(int a)")),
            ("a.md", "# One\ntext\n## Two\nmore", 4, Some("## Two")),
            ("a.json", "{\n  \"class\": 1\n}", 2, None),
            ("a.rst", "a\n class of its own\n   more", 3, None),
        ] {
            assert_eq!(enclosing(name, text, line).as_deref(), expected, "{name}: {text}");
        }
    }
}
