//! The languages whose symbols are known, and how their definitions look.

use std::{path::Path, sync::LazyLock};

use regex::Regex;

/// A language, or a family of them that look alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Language {
    Rust,
    Python,
    /// JavaScript and TypeScript.
    Script,
    Go,
    /// C and C++.
    C,
    /// Java, Kotlin, C#.
    Java,
    Ruby,
    Shell,
    Sql,
    Markdown,
}

impl Language {
    /// By the ending of the file's name.
    pub(super) fn of(path: &Path) -> Option<Self> {
        Some(match path.extension()?.to_str()? {
            "rs" => Self::Rust,
            "py" | "pyi" => Self::Python,
            "js" | "mjs" | "cjs" | "jsx" | "ts" | "mts" | "cts" | "tsx" => Self::Script,
            "go" => Self::Go,
            "c" | "h" | "cc" | "cpp" | "cxx" | "hh" | "hpp" | "hxx" | "inl" => Self::C,
            "java" | "cs" | "kt" => Self::Java,
            "rb" | "rake" => Self::Ruby,
            "sh" | "bash" | "zsh" => Self::Shell,
            "sql" => Self::Sql,
            "md" | "markdown" | "mdx" => Self::Markdown,
            _ => return None,
        })
    }

    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::Python => "python",
            Self::Script => "javascript",
            Self::Go => "go",
            Self::C => "c",
            Self::Java => "java",
            Self::Ruby => "ruby",
            Self::Shell => "shell",
            Self::Sql => "sql",
            Self::Markdown => "markdown",
        }
    }
}

/// A look of a definition.
pub(super) struct Look {
    /// Matched at the first byte of a line that is no white space. Groups: `name`, and `kind` where it is a word.
    pub(super) regex: Regex,
    /// Where it may stand.
    pub(super) place: Place,
    /// Whether definitions inside it count.
    pub(super) holds: bool,
    /// Ends: a line without any of them is none of this look.
    pub(super) ends: &'static [u8],
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Anywhere,
    /// Not within a type.
    Top,
    /// Directly within a type.
    Member,
}

macro_rules! looks {
    ($name:ident: $($place:ident $holds:literal $ends:literal $regex:expr;)*) => {
        static $name: LazyLock<Vec<Look>> = LazyLock::new(|| vec![$(Look {
            regex: Regex::new($regex).expect("a constant regex"),
            place: Place::$place,
            holds: $holds,
            ends: $ends,
        },)*]);
    };
}

looks! { RUST:
    Anywhere true b"{;" r"^(?:pub(?:\([^)]*\))?\s+)?(?:unsafe\s+)?(?P<kind>impl)\b(?P<name>[^{]*)";
    Anywhere true b"{;" r"^(?:pub(?:\([^)]*\))?\s+)?(?:unsafe\s+|auto\s+)*(?P<kind>trait|mod)\s+(?P<name>\w+)";
    Anywhere false b"{;" r#"^(?:pub(?:\([^)]*\))?\s+)?(?:(?:default|const|async|unsafe|safe|extern(?:\s*"[^"]*")?)\s+)*(?P<kind>fn)\s+(?P<name>\w+)"#;
    Anywhere false b"{;(" r"^(?:pub(?:\([^)]*\))?\s+)?(?P<kind>struct|enum|union)\s+(?P<name>\w+)";
    Anywhere false b"=;" r"^(?:pub(?:\([^)]*\))?\s+)?(?P<kind>type|const|static)\s+(?:mut\s+)?(?P<name>\w+)";
    Anywhere false b"{(" r"^(?P<kind>macro_rules!)\s*(?P<name>\w+)";
}

looks! { SCRIPT:
    Anywhere true b"{" r"^(?:export\s+)?(?:default\s+)?(?:declare\s+)?(?:abstract\s+)?(?P<kind>class|namespace)\s+(?P<name>[\w$.]+)";
    Anywhere true b"{" r"^(?:export\s+)?default\s+(?P<kind>class)\b(?P<name>)";
    Anywhere false b"{;" r"^(?:export\s+)?(?:default\s+)?(?:declare\s+)?(?:async\s+)?(?P<kind>function)\b\s*\*?\s*(?P<name>[\w$]*)";
    Top false b"{" r"^(?:export\s+)?(?:default\s+)?(?:declare\s+)?(?:const\s+)?(?P<kind>interface|enum)\s+(?P<name>[\w$]+)";
    Top false b"=" r"^(?:export\s+)?(?:declare\s+)?(?P<kind>type)\s+(?P<name>[\w$]+)";
    Top false b"=" r"^export\s+(?:declare\s+)?(?P<kind>const|let|var)\s+(?P<name>[\w$]+)";
    Top false b"{>" r"^(?P<kind>const|let|var)\s+(?P<name>[\w$]+)(?:\s*:[^=]+)?\s*=\s*(?:async\s*)?(?:function\b|\([^()]*(?:\([^()]*\)[^()]*)*\)\s*(?::[^=]+)?=>|[\w$]+\s*=>)";
    Top false b"=" r"^(?:module\.)?exports(?:\.(?P<name>[\w$]+))?\s*=[^=]";
    Top false b"{>" r"^(?P<name>[\w$.]+\.prototype\.[\w$]+|[\w$]+(?:\.[\w$]+)+)\s*=\s*(?:async\s*)?function\b";
    Member false b"{;" r"^(?:(?:public|private|protected|static|readonly|async|get|set|abstract|override|declare)\s+)*\*?\s*(?P<name>#?[\w$]+|\[[^\]]*\])\s*(?:<[^>(]*>)?\(";
    Member false b"{>" r"^(?:(?:public|private|protected|static|readonly)\s+)*(?P<name>#?[\w$]+)(?:\s*:[^=]+)?\s*=\s*(?:async\s*)?(?:function\b|\([^()]*\)\s*(?::[^=]+)?=>|[\w$]+\s*=>)";
}

looks! { GO:
    Top false b"{\n" r"^(?P<kind>func)\s+(?:\([^)]*\)\s*)?(?P<name>\w+)";
    Top false b"{=\n" r"^(?P<kind>type)\s+(?P<name>\w+)";
    Top false b"=\n" r"^(?P<kind>var|const)\s+(?P<name>\w+)";
}

looks! { C:
    Anywhere true b"{" r#"^(?P<kind>namespace|extern\s+"[^"]*")\s*(?P<name>[\w:]*)[^;]*$"#;
    Anywhere true b"{" r"^(?:template\s*<[^{;]*>\s*)?(?:typedef\s+)?(?P<kind>class|struct|union)\s+(?:[A-Z_]+\s+)?(?P<name>\w+)(?:\s+final)?\s*(?::[^:;(][^;(]*)?(?:\{.*)?$";
    Anywhere false b"{" r"^(?:typedef\s+)?(?P<kind>enum)(?:\s+class|\s+struct)?\s*(?P<name>\w*)\s*(?::[^{;]*)?(?:\{.*)?$";
    Top false b"\n" r"^#\s*(?P<kind>define)\s+(?P<name>\w+)\(";
    Top false b"{;" r"^(?:template\s*<[^{;]*>\s*)?(?:[A-Za-z_][\w:<>,]*[\s*&]+)+(?P<name>[\w:~]+(?:::operator[^(]+)?)\s*\(";
    Top false b"{" r"^(?P<name>\w+)\s*\([^;=]*$";
    Member false b"{;" r"^(?:template\s*<[^{;]*>\s*)?(?:[A-Za-z_~][\w:<>,]*[\s*&]+)*(?P<name>~?[\w:]+|operator[^(]+)\s*\(";
}

looks! { JAVA:
    Anywhere true b"{" r"^(?:@\w+(?:\([^)]*\))?\s+)*(?:(?:public|private|protected|internal|static|final|abstract|sealed|non-sealed|strictfp|partial|data|open)\s+)*(?P<kind>class|interface|enum|record|@interface|namespace|object|struct)\s+(?P<name>[\w.]+)";
    Anywhere false b"{;=" r"^(?:(?:public|private|protected|internal|override|open|suspend|inline|private|operator)\s+)*(?P<kind>fun)\s+(?:<[^>]*>\s*)?(?P<name>[\w.]+)";
    Member false b"{;" r"^(?:@\w+(?:\([^)]*\))?\s+)*(?:(?:public|private|protected|internal|static|final|abstract|synchronized|native|default|override|virtual|async|sealed)\s+)*(?:<[^>]+>\s+)?[\w.]+(?:<[^()]*>)?(?:\[\])*\??\s+(?P<name>\w+)\s*\(";
    Member false b"{" r"^(?:(?:public|private|protected|internal)\s+)?(?P<name>[A-Z]\w*)\s*\(";
}

looks! { PYTHON:
    Anywhere true b":" r"^(?P<kind>class)\s+(?P<name>\w+)";
    Anywhere false b":" r"^(?:async\s+)?(?P<kind>def)\s+(?P<name>\w+)";
}

looks! { RUBY:
    Anywhere true b"\n;" r"^(?P<kind>class|module)\s+(?P<name>[\w:<]+)";
    Anywhere false b"\n;" r"^(?P<kind>def)\s+(?P<name>[\w.]+[?!=]?)";
}

looks! { SHELL:
    Anywhere false b"{\n" r"^(?:function\s+)?(?P<name>[\w:-]+)\s*\(\)";
    Anywhere false b"{\n" r"^(?P<kind>function)\s+(?P<name>[\w:-]+)";
}

looks! { SQL:
    Anywhere false b"(;\n" r"(?i)^create\s+(?:or\s+replace\s+)?(?:(?:temp|temporary|unique|virtual|unlogged|materialized|global|local)\s+)*(?P<kind>table|view|index|function|procedure|trigger|type|schema|sequence|domain|extension)\s+(?:concurrently\s+)?(?:if\s+not\s+exists\s+)?(?P<name>[^\s(;]+)";
}

looks! { NONE: }

/// The looks of `language`.
pub(super) fn looks(language: Language) -> &'static [Look] {
    match language {
        Language::Rust => &RUST,
        Language::Python => &PYTHON,
        Language::Script => &SCRIPT,
        Language::Go => &GO,
        Language::C => &C,
        Language::Java => &JAVA,
        Language::Ruby => &RUBY,
        Language::Shell => &SHELL,
        Language::Sql => &SQL,
        Language::Markdown => &NONE,
    }
}

/// Words that look like a name before a parenthesis, and are none where no keyword precedes them.
pub(super) const NO_NAMES: &[&str] = &[
    "if",
    "for",
    "while",
    "switch",
    "return",
    "catch",
    "else",
    "do",
    "case",
    "sizeof",
    "new",
    "throw",
    "delete",
    "await",
    "function",
    "super",
    "this",
    "typeof",
    "import",
    "defined",
    "alignof",
    "static_assert",
    "__attribute__",
    "using",
    "with",
    "try",
    "yield",
    "lock",
    "assert",
    "elif",
    "not",
    "and",
    "or",
];
