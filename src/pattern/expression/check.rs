//! What an expression may contain, decided on its syntax tree before anything runs.

use jaq_core::{
    load::{
        lex::{Lexer, StrPart, Tok, Token},
        parse::{BinaryOp, Parser, Pattern, Term},
    },
    ops::Math,
    path::Part,
};

use super::function::{ALLOWED, REFUSED};
use crate::nearest::nearest;

/// Longest source, in bytes.
pub(super) const SOURCE_BYTES_MAX: usize = 8 << 10;
/// Brackets opened in one source.
const BRACKETS_MAX: usize = 256;
/// Brackets within brackets.
const NESTING_MAX: usize = 32;
/// Words and signs that make the parser recurse.
const PREFIXES_MAX: usize = 256;
/// Depth of the syntax tree, where an object or text counts one for each member or part.
const DEPTH_MAX: usize = 96;

/// Functions whose first argument is a regex.
const REGEX_FIRST: [&str; 5] = ["test", "capture", "scan", "sub", "gsub"];

/// What an expression reads of the root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reads {
    /// Static paths from the root, each as far as its members are named: `["steps", "log", "n"]`.
    pub(crate) paths: Vec<Vec<String>>,
    /// The root is also used as a whole, so that the paths do not tell everything.
    pub(crate) whole: bool,
    /// Names of the result's members, where it is always an object with the same ones.
    pub(crate) fields: Option<Vec<String>>,
}

/// Parses and checks `source`.
///
/// # Errors
/// What is wrong, as a fragment.
pub(super) fn check(source: &str) -> Result<Reads, String> {
    if source.len() > SOURCE_BYTES_MAX {
        return Err(format!(
            "an expression may have {SOURCE_BYTES_MAX} bytes, this one has {}",
            source.len()
        ));
    }
    if source.bytes().filter(|byte| b"([{".contains(byte)).count() > BRACKETS_MAX {
        return Err(format!("an expression may open {BRACKETS_MAX} brackets"));
    }
    let tokens = Lexer::new(source).lex().map_err(|errors| {
        errors.first().map_or_else(String::new, |(expected, found)| {
            syntax(source, &format!("a {}", expected.as_str()), found)
        })
    })?;
    let mut prefixes = 0;
    measure(&tokens, 0, &mut prefixes)?;
    if prefixes > PREFIXES_MAX {
        return Err(format!("an expression may have {PREFIXES_MAX} pipes, signs and keywords"));
    }
    if let Some(Token(word @ ("import" | "include" | "module"), Tok::Word)) = tokens.first() {
        return Err(format!("`{word}` is not allowed: expressions stand alone"));
    }
    let term = Parser::new(&tokens).parse(Parser::term).map_err(|errors| {
        errors.first().map_or_else(String::new, |(expected, found)| {
            let expected = match expected.as_str() {
                "" => "the end",
                expected => expected,
            };
            syntax(source, expected, Token::opt_as_str(*found, source))
        })
    })?;
    let mut walk = Walk { variables: Vec::new(), reads: Reads::default() };
    walk.term(&term, Input::Root, 0)?;
    walk.reads.fields = fields(&term);
    walk.reads.paths.sort();
    walk.reads.paths.dedup();
    Ok(walk.reads)
}

/// Names of the members of what `term` gives, where the term itself says them.
fn fields(term: &Term<&str>) -> Option<Vec<String>> {
    match term {
        Term::Obj(members) => members
            .iter()
            .map(|(key, _)| match key {
                Term::Var(name) => Some(name[1..].to_owned()),
                key => literal(key).map(str::to_owned),
            })
            .collect(),
        Term::BinOp(_, BinaryOp::Pipe(_), right) => fields(right),
        Term::BinOp(left, BinaryOp::Math(Math::Add), right) => {
            let mut names = fields(left)?;
            names.extend(fields(right)?);
            Some(names)
        }
        _ => None,
    }
}

fn syntax(source: &str, expected: &str, found: &str) -> String {
    let offset = found.as_ptr() as usize - source.as_ptr() as usize;
    let character = source.get(..offset).map_or(0, |before| before.chars().count()) + 1;
    let mut found: String = found.chars().take(12).collect();
    if found.is_empty() {
        found.push_str("the end");
    } else {
        found = format!("`{}`", found.trim_end());
    }
    format!("not a jq expression: expected {expected}, found {found} at character {character}")
}

/// Bounds what the recursive parser will do.
fn measure(tokens: &[Token<&str>], depth: usize, prefixes: &mut usize) -> Result<(), String> {
    if depth > NESTING_MAX {
        return Err(format!("an expression may nest {NESTING_MAX} brackets"));
    }
    for Token(text, token) in tokens {
        match token {
            Tok::Block(inner) => measure(inner, depth + 1, prefixes)?,
            Tok::Str(parts) => {
                for part in parts {
                    if let StrPart::Term(Token(_, Tok::Block(inner))) = part {
                        measure(inner, depth + 1, prefixes)?;
                    }
                }
            }
            Tok::Word => {
                let keyword =
                    ["if", "elif", "try", "reduce", "foreach", "label", "def", "as", "catch"].contains(text);
                *prefixes += usize::from(keyword);
            }
            Tok::Sym => {
                *prefixes += usize::from(text.starts_with(['-', '|', '=', '+', '*', '/', '%']));
            }
            Tok::Var | Tok::Fmt | Tok::Num => {}
        }
    }
    Ok(())
}

/// What `.` is where a term stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Input {
    Root,
    /// Known to be a string.
    Text,
    Other,
}

/// Functions that give a string, whatever they are given.
const GIVE_TEXT: &[&str] = &[
    "tostring",
    "tojson",
    "ascii_downcase",
    "ascii_upcase",
    "trim",
    "ltrim",
    "rtrim",
    "join",
    "implode",
    "type",
    "sub",
    "gsub",
];

struct Walk<'s> {
    /// With whether each is known to be a string.
    variables: Vec<(&'s str, bool)>,
    reads: Reads,
}

fn literal<'s>(term: &Term<&'s str>) -> Option<&'s str> {
    match term {
        Term::Str(None, parts) => match parts.as_slice() {
            [StrPart::Str(text)] => Some(text),
            _ => None,
        },
        _ => None,
    }
}

/// The text that `term` is, its escapes read; `None` where it is made.
fn text_of(term: &Term<&str>) -> Option<String> {
    let Term::Str(None, parts) = term else { return None };
    parts
        .iter()
        .map(|part| match part {
            StrPart::Str(text) => Some((*text).to_owned()),
            StrPart::Char(char) => Some(char.to_string()),
            StrPart::Term(_) => None,
        })
        .collect()
}

impl<'s> Walk<'s> {
    /// Whether a result of `term` is known to be a string. What is not known is looked at when it runs: there too a string
    /// is not multiplied.
    fn is_text(&self, term: &Term<&'s str>, input: Input) -> bool {
        let after = |left: &Term<&'s str>| if self.is_text(left, input) { Input::Text } else { Input::Other };
        match term {
            Term::Str(..) => true,
            Term::Id => input == Input::Text,
            Term::Var(name) => {
                self.variables.iter().rev().find(|(known, _)| known == name).is_some_and(|(_, text)| *text)
            }
            Term::BinOp(left, BinaryOp::Pipe(None), right) => self.is_text(right, after(left)),
            Term::BinOp(_, BinaryOp::Pipe(Some(_)), right) => self.is_text(right, input),
            Term::BinOp(left, BinaryOp::Math(Math::Add) | BinaryOp::Comma | BinaryOp::Alt, right) => {
                self.is_text(left, input) || self.is_text(right, input)
            }
            Term::IfThenElse(cases, otherwise) => {
                cases.iter().any(|(_, then)| self.is_text(then, input))
                    || otherwise.as_ref().is_some_and(|otherwise| self.is_text(otherwise, input))
            }
            Term::TryCatch(tried, _) => self.is_text(tried, input),
            Term::Fold("reduce", _, _, arguments) => {
                arguments.first().is_some_and(|start| self.is_text(start, input))
            }
            Term::Path(head, path) => {
                self.is_text(head, input) && path.0.iter().all(|(part, _)| matches!(part, Part::Range(..)))
            }
            Term::Call(name, arguments) => match (*name, arguments.as_slice()) {
                ("first" | "last", [of]) | ("limit" | "skip" | "nth", [_, of]) => self.is_text(of, input),
                ("select", [_]) => input == Input::Text,
                (name, _) => GIVE_TEXT.contains(&name),
            },
            _ => false,
        }
    }

    fn whole(&mut self, input: Input) {
        self.reads.whole |= input == Input::Root;
    }

    fn read(&mut self, input: Input, path: Vec<String>) {
        if input == Input::Root {
            self.reads.paths.push(path);
        }
    }

    fn terms<'t>(
        &mut self,
        terms: impl IntoIterator<Item = &'t Term<&'s str>>,
        input: Input,
        depth: usize,
    ) -> Result<(), String>
    where
        's: 't,
    {
        terms.into_iter().try_for_each(|term| self.term(term, input, depth))
    }

    fn term(&mut self, term: &Term<&'s str>, input: Input, depth: usize) -> Result<(), String> {
        if depth > DEPTH_MAX {
            return Err(format!(
                "an expression may be nested {DEPTH_MAX} deep; split it into `data.jq` steps"
            ));
        }
        let inner = depth + 1;
        match term {
            Term::Id => self.whole(input),
            Term::Recurse => {
                return Err("`..` is not allowed: it loops over everything; name the members".to_owned());
            }
            Term::Num(number) => {
                if !number.parse::<f64>().is_ok_and(f64::is_finite) {
                    return Err(format!("the number {number:.20} is too large"));
                }
            }
            Term::Str(format, parts) => {
                if let Some(format) = format.filter(|format| !["@json", "@text"].contains(format)) {
                    return Err(format!("`{format}` is not available: only @json and @text are"));
                }
                for part in parts {
                    if let StrPart::Term(term) = part {
                        self.term(term, input, inner + parts.len())?;
                    }
                }
            }
            Term::Arr(None) => {}
            Term::Arr(Some(term)) | Term::Neg(term) => self.term(term, input, inner)?,
            Term::Obj(members) => {
                for (key, value) in members {
                    match value {
                        Some(value) => self.terms([key, value], input, inner + members.len())?,
                        None => match (literal(key), key) {
                            (Some(name), _) => self.read(input, vec![name.to_owned()]),
                            (None, Term::Var(_)) => self.term(key, input, inner)?,
                            (None, _) => {
                                self.whole(input);
                                self.term(key, input, inner + members.len())?;
                            }
                        },
                    }
                }
            }
            Term::BinOp(left, operator, right) => self.operation(left, operator, right, input, inner)?,
            Term::Label(..) | Term::Break(_) => {
                return Err("`label` and `break` are not allowed: use first(f) or limit(n; f)".to_owned());
            }
            Term::Fold(word, items, pattern, arguments) => {
                let fits =
                    if *word == "reduce" { arguments.len() == 2 } else { [2, 3].contains(&arguments.len()) };
                if !fits {
                    return Err(format!("`{word}` takes (start; update), not {} arguments", arguments.len()));
                }
                self.term(items, input, inner)?;
                self.term(&arguments[0], input, inner)?;
                let starts = self.is_text(&arguments[0], input);
                let carried = if starts { Input::Text } else { Input::Other };
                let items = self.is_text(items, input);
                self.bound(pattern, items, inner, |walk| walk.terms(&arguments[1..], carried, inner))?;
            }
            Term::TryCatch(tried, caught) => {
                self.term(tried, input, inner)?;
                self.terms(caught.as_deref(), Input::Other, inner)?;
            }
            Term::IfThenElse(cases, otherwise) => {
                for (condition, then) in cases {
                    self.terms([condition, then], input, inner + cases.len())?;
                }
                match otherwise {
                    Some(otherwise) => self.term(otherwise, input, inner + cases.len())?,
                    None => self.whole(input),
                }
            }
            Term::Def(..) => return Err("`def` is not allowed: write the expression out".to_owned()),
            Term::Call(name, arguments) => self.call(name, arguments, input, inner)?,
            Term::Var(name) => {
                if *name == "$ENV" {
                    return Err("`$ENV` is not allowed: expressions do not see the environment".to_owned());
                }
                if !self.variables.iter().any(|(known, _)| known == name) {
                    return Err(format!("there is no variable `{name}`: bind one with `… as {name} | …`"));
                }
            }
            Term::Path(head, path) => {
                let mut named = Vec::new();
                let mut leading = matches!(**head, Term::Id);
                for (part, _) in &path.0 {
                    match part {
                        Part::Index(index) => {
                            if let Some(name) = literal(index).filter(|_| leading) {
                                named.push(name.to_owned());
                            } else {
                                leading = false;
                                self.term(index, input, inner)?;
                            }
                        }
                        Part::Range(from, upto) => {
                            leading = false;
                            self.terms(from.iter().chain(upto), input, inner)?;
                        }
                    }
                }
                match **head {
                    Term::Id if named.is_empty() => self.whole(input),
                    Term::Id => self.read(input, named),
                    _ => self.term(head, input, inner)?,
                }
            }
        }
        Ok(())
    }

    fn operation(
        &mut self,
        left: &Term<&'s str>,
        operator: &BinaryOp<&'s str>,
        right: &Term<&'s str>,
        input: Input,
        depth: usize,
    ) -> Result<(), String> {
        match operator {
            BinaryOp::Pipe(None) => {
                if matches!(left, Term::Id) {
                    return self.term(right, input, depth);
                }
                self.term(left, input, depth)?;
                let given = if self.is_text(left, input) { Input::Text } else { Input::Other };
                self.term(right, given, depth)
            }
            BinaryOp::Pipe(Some(pattern)) => {
                self.term(left, input, depth)?;
                let is_text = self.is_text(left, input);
                self.bound(pattern, is_text, depth, |walk| walk.term(right, input, depth))
            }
            BinaryOp::Math(Math::Mul) | BinaryOp::UpdateMath(Math::Mul)
                if self.is_text(left, input) || self.is_text(right, input) =>
            {
                Err("multiplying a string is not allowed".to_owned())
            }
            BinaryOp::Comma
            | BinaryOp::Alt
            | BinaryOp::Or
            | BinaryOp::And
            | BinaryOp::Math(_)
            | BinaryOp::Cmp(_) => self.terms([left, right], input, depth),
            BinaryOp::Assign | BinaryOp::UpdateMath(_) | BinaryOp::UpdateAlt => {
                self.whole(input);
                self.terms([left, right], input, depth)
            }
            BinaryOp::Update => {
                self.whole(input);
                self.term(left, input, depth)?;
                self.term(right, Input::Other, depth)
            }
        }
    }

    fn call(
        &mut self,
        name: &'s str,
        arguments: &[Term<&'s str>],
        input: Input,
        depth: usize,
    ) -> Result<(), String> {
        let known = ALLOWED.iter().any(|(allowed, _)| *allowed == name);
        let refused = REFUSED.iter().find(|(names, _)| names.contains(&name));
        if !ALLOWED.contains(&(name, arguments.len())) {
            return Err(match refused {
                Some((_, reason)) => format!("`{name}` is not allowed: {reason}"),
                None if known => {
                    let takes: Vec<_> = ALLOWED
                        .iter()
                        .filter(|(allowed, _)| *allowed == name)
                        .map(|(_, count)| count.to_string())
                        .collect();
                    format!("`{name}` takes {} arguments, not {}", takes.join(" or "), arguments.len())
                }
                None if name.starts_with('@') => {
                    format!("`{name}` is not available: only @json and @text are, before a string")
                }
                None => {
                    let hint = nearest(name, ALLOWED.iter().map(|(allowed, _)| *allowed))
                        .map_or_else(String::new, |near| format!(" (did you mean `{near}`?)"));
                    format!("there is no function `{name}`{hint}")
                }
            });
        }
        if REGEX_FIRST.contains(&name)
            && let Some(source) = arguments.first().and_then(text_of)
            && let Some(fault) = crate::pattern::arguments::regex_fault(&source)
        {
            return Err(format!("`{name}`: {fault}"));
        }
        match name {
            // Take their generators where they stand, and nothing else of their input.
            "empty" | "true" | "false" | "null" | "limit" | "skip" | "isempty" => {
                self.terms(arguments, input, depth)
            }
            "first" | "last" | "add" | "error" if arguments.len() == 1 => self.terms(arguments, input, depth),
            "nth" if arguments.len() == 2 => self.terms(arguments, input, depth),
            "any" | "all" if arguments.len() == 2 => {
                self.term(&arguments[0], input, depth)?;
                self.term(&arguments[1], Input::Other, depth)
            }
            // Apply their argument to each item.
            "map" | "map_values" | "with_entries" | "sort_by" | "group_by" | "unique_by" | "min_by"
            | "max_by" | "any" | "all" => {
                self.whole(input);
                self.terms(arguments, Input::Other, depth)
            }
            _ => {
                self.whole(input);
                self.terms(arguments, input, depth)
            }
        }
    }

    /// Runs `f` with the variables of `pattern` in scope, which is given a string if `is_text`.
    fn bound(
        &mut self,
        pattern: &Pattern<&'s str>,
        is_text: bool,
        depth: usize,
        f: impl FnOnce(&mut Self) -> Result<(), String>,
    ) -> Result<(), String> {
        let before = self.variables.len();
        self.pattern(pattern, is_text, depth)?;
        let result = f(self);
        self.variables.truncate(before);
        result
    }

    fn pattern(&mut self, pattern: &Pattern<&'s str>, is_text: bool, depth: usize) -> Result<(), String> {
        if depth > DEPTH_MAX {
            return Err(format!("an expression may be nested {DEPTH_MAX} deep"));
        }
        match pattern {
            Pattern::Var(name) => self.variables.push((name, is_text)),
            Pattern::Arr(parts) => parts.iter().try_for_each(|part| self.pattern(part, false, depth + 1))?,
            Pattern::Obj(members) => {
                for (key, part) in members {
                    if literal(key).is_none() {
                        return Err("a destructuring pattern names its members: {name: $variable}".to_owned());
                    }
                    self.pattern(part, false, depth + 1)?;
                }
            }
        }
        Ok(())
    }
}
