//! YAML 1.2 (core schema) as JSON, with the position of every value, key and nothing surprising in between.
//!
//! Refused with their positions: repeated keys, keys that are not strings, anchors, aliases, merge keys, tags, several
//! documents, numbers that JSON cannot hold. Size, depth and number of values are bounded.

use std::collections::HashMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle};
use serde_json::{Map, Number, Value};

/// Longest text, in bytes.
pub const YAML_BYTES_MAX: usize = 256 << 10;
/// Deepest nesting.
const DEPTH_MAX: usize = 48;
/// Values and keys of one document.
const NODES_MAX: usize = 20_000;

/// A place in a text, counted from one, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

impl Position {
    /// Where a text begins.
    pub const START: Self = Self { line: 1, column: 1 };

    fn of(marker: Marker) -> Self {
        Self { line: marker.line().max(1), column: marker.col() + 1 }
    }
}

/// A document and where its parts stand.
#[derive(Clone, Debug)]
pub struct Document {
    /// The document as JSON, members in file order.
    pub value: Value,
    values: HashMap<String, Position>,
    keys: HashMap<String, Position>,
}

/// Why a text is not a document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct YamlError {
    /// Where.
    pub position: Position,
    /// What, as a fragment.
    pub message: String,
}

impl Document {
    /// Where the value at the JSON Pointer `pointer` begins; for what is not there, its nearest ancestor.
    #[must_use]
    pub fn position(&self, pointer: &str) -> Position {
        nearest_ancestor(pointer, &self.values)
    }

    /// Where the key of the member at `pointer` begins, else the value.
    #[must_use]
    pub fn key_position(&self, pointer: &str) -> Position {
        self.keys.get(pointer).copied().unwrap_or_else(|| self.position(pointer))
    }
}

fn nearest_ancestor(pointer: &str, positions: &HashMap<String, Position>) -> Position {
    let mut pointer = pointer;
    loop {
        if let Some(position) = positions.get(pointer) {
            return *position;
        }
        match pointer.rfind('/') {
            Some(end) => pointer = &pointer[..end],
            None => return Position::START,
        }
    }
}

/// One name as a part of a JSON Pointer.
#[must_use]
pub fn pointer_part(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// Reads one document.
///
/// # Errors
/// The first thing wrong, with its position.
pub fn parse(text: &str) -> Result<Document, YamlError> {
    let refuse = |position, message: String| Err(YamlError { position, message });
    if text.len() > YAML_BYTES_MAX {
        return refuse(
            Position::START,
            format!("the file has {} bytes, more than {YAML_BYTES_MAX}", text.len()),
        );
    }
    // Every level of nesting costs the scanner an indent or a bracket; it has no bound of its own.
    if let Some(position) = too_deep(text) {
        return refuse(position, format!("nested deeper than {DEPTH_MAX}"));
    }
    let mut reader =
        Reader { parser: Parser::new_from_str(text), nodes: 0, values: HashMap::new(), keys: HashMap::new() };
    let value = reader.document()?;
    Ok(Document { value, values: reader.values, keys: reader.keys })
}

/// Flow collections nested too deeply, found without the parser, which recurses.
fn too_deep(text: &str) -> Option<Position> {
    for (line, content) in text.lines().enumerate() {
        let opened = content.bytes().filter(|byte| b"[{".contains(byte)).count();
        let dashes = content.split_whitespace().take_while(|word| ["-", "?", ":"].contains(word)).count();
        if opened > 4 * DEPTH_MAX || dashes > DEPTH_MAX {
            return Some(Position { line: line + 1, column: 1 });
        }
    }
    None
}

struct Reader<'t> {
    parser: Parser<'t, saphyr_parser::StrInput<'t>>,
    nodes: usize,
    values: HashMap<String, Position>,
    keys: HashMap<String, Position>,
}

impl<'t> Reader<'t> {
    fn next(&mut self) -> Result<(Event<'t>, Position), YamlError> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => {
                let mut position = Position::of(span.start);
                // A block collection's span may begin at its first entry or before its indentation; both are exact
                // enough, but an empty mark is not.
                position.column = position.column.max(1);
                Ok((event, position))
            }
            Some(Err(error)) => Err(YamlError {
                position: Position::of(*error.marker()),
                message: format!("not YAML: {}", error.info()),
            }),
            None => Err(YamlError { position: Position::START, message: "the file ends early".to_owned() }),
        }
    }

    fn document(&mut self) -> Result<Value, YamlError> {
        let mut value = None;
        loop {
            let (event, position) = self.next()?;
            match event {
                Event::StreamStart | Event::DocumentEnd | Event::Nothing => {}
                Event::DocumentStart(_) => {
                    if value.is_some() {
                        return Err(YamlError {
                            position,
                            message: "a second document: a file holds one".to_owned(),
                        });
                    }
                }
                Event::StreamEnd => {
                    return value.ok_or(YamlError {
                        position: Position::START,
                        message: "the file is empty".to_owned(),
                    });
                }
                event => value = Some(self.node(event, position, "", 0)?),
            }
        }
    }

    fn node(
        &mut self,
        event: Event<'t>,
        position: Position,
        pointer: &str,
        depth: usize,
    ) -> Result<Value, YamlError> {
        let refuse = |message: &str| Err(YamlError { position, message: message.to_owned() });
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return refuse("more values than a pattern could need");
        }
        if depth > DEPTH_MAX {
            return Err(YamlError { position, message: format!("nested deeper than {DEPTH_MAX}") });
        }
        let (anchor, tag) = match &event {
            Event::Scalar(_, _, anchor, tag)
            | Event::SequenceStart(anchor, tag)
            | Event::MappingStart(anchor, tag) => (*anchor, tag.is_some()),
            Event::Alias(_) => return refuse("an alias (`*name`): write the value out"),
            _ => return refuse("not a value"),
        };
        if anchor != 0 {
            return refuse("an anchor (`&name`): write the value out where it is needed");
        }
        if tag {
            return refuse("a tag (`!name`): only plain YAML values are read");
        }
        self.values.insert(pointer.to_owned(), position);
        match event {
            Event::Scalar(text, style, ..) => {
                scalar(&text, style).map_err(|message| YamlError { position, message })
            }
            Event::SequenceStart(..) => {
                let mut items = Vec::new();
                loop {
                    let (event, position) = self.next()?;
                    if event == Event::SequenceEnd {
                        return Ok(Value::Array(items));
                    }
                    let pointer = format!("{pointer}/{}", items.len());
                    items.push(self.node(event, position, &pointer, depth + 1)?);
                }
            }
            _ => self.mapping(pointer, depth),
        }
    }

    fn mapping(&mut self, pointer: &str, depth: usize) -> Result<Value, YamlError> {
        let mut members = Map::new();
        loop {
            let (event, position) = self.next()?;
            let refuse = |message: String| Err(YamlError { position, message });
            let key = match event {
                Event::MappingEnd => return Ok(Value::Object(members)),
                Event::Scalar(_, _, anchor, _) if anchor != 0 => {
                    return refuse("an anchor (`&name`): write the value out where it is needed".to_owned());
                }
                Event::Scalar(_, _, _, Some(_)) => {
                    return refuse("a tag (`!name`): only plain YAML values are read".to_owned());
                }
                Event::Scalar(text, ScalarStyle::Plain, ..) if text == "<<" => {
                    return refuse("a merge key (`<<`): write the members out".to_owned());
                }
                Event::Scalar(text, style, ..) => match scalar(&text, style) {
                    Ok(Value::String(key)) => key,
                    _ => return refuse(format!("the key `{text:.40}` is not a string: quote it")),
                },
                Event::Alias(_) => return refuse("an alias (`*name`): write the value out".to_owned()),
                _ => return refuse("a key that is not a string".to_owned()),
            };
            if members.contains_key(&key) {
                return refuse(format!("the key `{key:.40}` is here twice"));
            }
            let pointer = format!("{pointer}/{}", pointer_part(&key));
            self.keys.insert(pointer.clone(), position);
            let (event, position) = self.next()?;
            let value = self.node(event, position, &pointer, depth + 1)?;
            members.insert(key, value);
        }
    }
}

/// A scalar by the core schema of YAML 1.2 (chapter 10.3.2); quoted and block scalars are strings.
fn scalar(text: &str, style: ScalarStyle) -> Result<Value, String> {
    if style != ScalarStyle::Plain {
        return Ok(Value::String(text.to_owned()));
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    Ok(match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        _ if [".inf", ".Inf", ".INF", ".nan", ".NaN", ".NAN"].contains(&digits) => {
            return Err(format!("the number `{text}` does not exist in JSON: quote it or leave it out"));
        }
        _ => match number(text, digits) {
            Some(Ok(number)) => Value::Number(number),
            Some(Err(())) => return Err(format!("the number `{text:.40}` is too large: quote it")),
            None => Value::String(text.to_owned()),
        },
    })
}

/// `None`: not a number at all.
fn number(text: &str, digits: &str) -> Option<Result<Number, ()>> {
    for (prefix, radix) in [("0x", 16), ("0o", 8)] {
        if let Some(rest) = text.strip_prefix(prefix)
            && !rest.is_empty()
            && rest.chars().all(|char| char.is_digit(radix))
        {
            return Some(u64::from_str_radix(rest, radix).map(Number::from).map_err(drop));
        }
    }
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        let plain = text.strip_prefix('+').unwrap_or(text);
        let number =
            plain.parse::<i64>().map(Number::from).or_else(|_| plain.parse::<u64>().map(Number::from));
        return Some(number.map_err(drop));
    }
    // [-+]? ( \. [0-9]+ | [0-9]+ ( \. [0-9]* )? ) ( [eE] [-+]? [0-9]+ )?
    let (mantissa, exponent) = match digits.find(['e', 'E']) {
        Some(at) => (&digits[..at], Some(&digits[at + 1..])),
        None => (digits, None),
    };
    let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let exponent_fits = exponent.is_none_or(|exponent| {
        let exponent = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
        !exponent.is_empty() && all_digits(exponent)
    });
    if !(all_digits(whole) && all_digits(fraction) && exponent_fits)
        || (whole.is_empty() && fraction.is_empty())
    {
        return None;
    }
    let float = text.parse::<f64>().ok()?;
    Some(Number::from_f64(float).ok_or(()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn plain_scalars_follow_the_core_schema() {
        let table = [
            ("", json!(null)),
            ("~", json!(null)),
            ("null", json!(null)),
            ("true", json!(true)),
            ("False", json!(false)),
            ("yes", json!("yes")),
            ("no", json!("no")),
            ("on", json!("on")),
            ("12", json!(12)),
            ("-12", json!(-12)),
            ("+12", json!(12)),
            ("012", json!(12)),
            ("0x1F", json!(31)),
            ("0o17", json!(15)),
            ("1.5", json!(1.5)),
            ("1.", json!(1.0)),
            (".5", json!(0.5)),
            ("1e3", json!(1000.0)),
            ("1.2.0", json!("1.2.0")),
            ("60s", json!("60s")),
            ("-", json!("-")),
            (".", json!(".")),
            ("e3", json!("e3")),
            ("1_000", json!("1_000")),
            ("2026-03-01T12:00:00Z", json!("2026-03-01T12:00:00Z")),
            ("18446744073709551615", json!(18_446_744_073_709_551_615_u64)),
        ];
        for (text, expected) in table {
            assert_eq!(scalar(text, ScalarStyle::Plain), Ok(expected), "{text}");
            assert_eq!(scalar(text, ScalarStyle::SingleQuoted), Ok(json!(text)), "{text}");
        }
        for text in [".inf", "-.INF", ".nan", "99999999999999999999999", "1e999"] {
            assert!(scalar(text, ScalarStyle::Plain).is_err(), "{text}");
        }
    }

    #[test]
    fn every_value_and_key_has_its_position() {
        let text = "name: a.b\nsteps:\n  - {id: log, with: {k: 3}}\n  - id: two\n    with:\n      x: |\n        y\nlist: [1,\n  2]\n";
        let document = parse(text).unwrap();
        assert_eq!(
            document.value,
            json!({"name": "a.b", "steps": [{"id": "log", "with": {"k": 3}}, {"id": "two", "with": {"x": "y\n"}}], "list": [1, 2]})
        );
        let at = |pointer: &str| {
            let Position { line, column } = document.position(pointer);
            (line, column)
        };
        assert_eq!(at("/name"), (1, 7));
        assert_eq!(at("/steps/0/id"), (3, 10));
        assert_eq!(at("/steps/0/with/k"), (3, 25));
        assert_eq!(at("/steps/1/id"), (4, 9));
        assert_eq!(at("/list/1"), (9, 3));
        assert_eq!(at("/list/7/absent"), (8, 7));
        assert_eq!(document.key_position("/steps/1/with"), Position { line: 5, column: 5 });
        assert_eq!(document.key_position("/name"), Position { line: 1, column: 1 });
    }

    #[test]
    fn what_would_surprise_is_refused_where_it_stands() {
        let table = [
            ("a: 1\na: 2\n", (2, 1), "twice"),
            ("a: {b: 1, b: 2}\n", (1, 11), "twice"),
            ("a: &x 1\nb: 2\n", (1, 4), "anchor"),
            ("a: 1\nb: *x\n", (2, 4), "anchor"),
            ("a: !!str 1\n", (1, 4), "tag"),
            ("a: !secret 1\n", (1, 4), "tag"),
            ("a:\n  <<: {b: 1}\n", (2, 3), "merge key"),
            ("a: 1\n---\nb: 2\n", (2, 1), "second document"),
            ("1: a\n", (1, 1), "not a string"),
            ("true: a\n", (1, 1), "not a string"),
            ("[a]: b\n", (1, 1), "not a string"),
            ("a: .inf\n", (1, 4), "does not exist in JSON"),
            ("a: [1\n", (2, 1), "not YAML"),
            ("a: b: c\n", (1, 5), "not YAML"),
            ("", (1, 1), "empty"),
            ("# only a comment\n", (1, 1), "empty"),
        ];
        let mut wrong = Vec::new();
        for (text, (line, column), message) in table {
            let error = parse(text).map(|document| document.value).expect_err(text);
            assert!(error.message.contains(message), "{text:?}: {error:?}");
            if (error.position.line, error.position.column) != (line, column) {
                wrong.push(format!("{text:?}: {error:?}"));
            }
        }
        assert_eq!(wrong, Vec::<String>::new());
    }

    #[test]
    fn size_depth_and_number_are_bounded() {
        for text in [
            "[".repeat(100_000),
            "{a: ".repeat(10_000),
            "[\n".repeat(50_000),
            "- ".repeat(100_000),
            (0..60).map(|depth| " ".repeat(depth) + "a:\n").collect::<String>(),
            "a: 1 # ".to_owned() + &"x".repeat(YAML_BYTES_MAX),
            "[".to_owned() + &"1,".repeat(30_000) + "1]",
        ] {
            assert!(parse(&text).is_err(), "{text:.20}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(?s).{0,200}") {
            let _ = parse(&text);
        }

        #[test]
        fn no_soup_of_tokens_panics(words in proptest::collection::vec(proptest::sample::select(vec![
            "a", ": ", "- ", "\n", "  ", "[", "]", "{", "}", ",", "|", ">", "&x ", "*x ", "!t ", "!!str ", "\"", "'", "#", "---",
            "...", "? ", "%YAML 1.2", "\t", "<<", "~", "1", "\u{feff}", "\r", "\\", "|2-", "@", "`",
        ]), 0..60)) {
            let _ = parse(&words.concat());
        }

        #[test]
        fn what_json_says_yaml_says(value in json_value()) {
            let text = value.to_string();
            prop_assert_eq!(parse(&text).unwrap().value, value);
        }
    }

    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[ -~]{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::vec(("[a-z ]{1,8}", inner), 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }
}
