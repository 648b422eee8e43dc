//! Texts with `{{ … }}` and `{% … %}`: the templates of `data.template`, on minijinja.
//!
//! Nothing can be loaded, included or called from outside; a name that is not there is an error. What a template can
//! do is bounded three times: by fuel, which pays for every instruction, every item and every byte that it makes (so that
//! neither `range` nor a filter nor repetition gets far), by a depth, and by the bytes and the time of its output. A text
//! stands as it is; anything else as JSON.

use std::{
    io::{self, Write},
    time::Instant,
};

use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior, value::Serde};
use serde_json::Value;

use super::ExpressionError;

/// Longest template, in bytes.
const TEMPLATE_BYTES_MAX: usize = 256 << 10;
/// Deepest nesting of blocks and calls.
const DEPTH_MAX: usize = 64;
/// Fuel of any template; enough for tens of thousands of instructions.
const FUEL: u64 = 50_000;
/// Bytes that one unit of fuel pays for, as minijinja has it.
const BYTES_PER_FUEL: usize = 64;
/// How often the bytes of a whole output may be made on the way to it.
const TIMES: usize = 4;

/// What is wrong with the text of a template, as a fragment with its line in the template; nothing where it can be
/// rendered.
#[must_use]
pub fn fault(template: &str) -> Option<String> {
    if template.len() > TEMPLATE_BYTES_MAX {
        return Some(format!("a template has at most {} KiB", TEMPLATE_BYTES_MAX >> 10));
    }
    let environment = environment(FUEL);
    environment.template_from_str(template).err().map(|error| told(&error))
}

/// Fills in `template` with the members of `values`.
///
/// # Errors
/// As expressions have them: `Refused` for a template that is none, `Failed` for a name that is not there and for a template that
/// does too much.
pub fn render(
    template: &str,
    values: &Value,
    deadline: Instant,
    bytes_max: usize,
) -> Result<String, ExpressionError> {
    if template.len() > TEMPLATE_BYTES_MAX {
        return Err(ExpressionError::Refused(format!(
            "a template has at most {} KiB",
            TEMPLATE_BYTES_MAX >> 10
        )));
    }
    let fuel = FUEL + u64::try_from(bytes_max / BYTES_PER_FUEL * TIMES).unwrap_or(u64::MAX);
    let environment = environment(fuel);
    let template = environment
        .template_from_str(template)
        .map_err(|error| ExpressionError::Refused(format!("the template is none: {}", told(&error))))?;
    let mut sink = Sink { text: Vec::new(), bytes_max, deadline, full: None };
    let rendered = template.render_captured_to(minijinja::Value::from(Serde(values)), &mut sink).map(drop);
    match (sink.full, rendered) {
        (Some(Full::Bytes), _) => Err(ExpressionError::TooLarge(bytes_max)),
        (Some(Full::Time), _) => Err(ExpressionError::Deadline),
        (None, Ok(())) => String::from_utf8(sink.text)
            .map_err(|_| ExpressionError::Failed("the template gave no text".to_owned())),
        (None, Err(error)) if error.kind() == ErrorKind::OutOfFuel => Err(ExpressionError::Failed(
            "the template does too much: shorten its loops, or shape the data with data.jq first".to_owned(),
        )),
        (None, Err(error)) => Err(ExpressionError::Failed(format!("the template failed: {}", told(&error)))),
    }
}

fn environment(fuel: u64) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_recursion_limit(DEPTH_MAX);
    environment.set_fuel(Some(fuel));
    environment.set_formatter(|output, _, value| {
        if value.is_undefined() {
            return Err(minijinja::Error::from(ErrorKind::UndefinedError));
        }
        match value.as_str() {
            Some(text) => output.write_str(text)?,
            None => output
                .write_str(&serde_json::to_string(value).map_err(|error| {
                    minijinja::Error::new(ErrorKind::BadSerialization, error.to_string())
                })?)?,
        }
        Ok(())
    });
    environment
}

/// The error with its line, without the template's text.
fn told(error: &minijinja::Error) -> String {
    let what = match error.detail() {
        Some(detail) => format!("{}: {}", error.kind(), detail.chars().take(160).collect::<String>()),
        None => error.kind().to_string(),
    };
    match error.line() {
        Some(line) => format!("{what} (line {line} of the template)"),
        None => what,
    }
}

enum Full {
    Bytes,
    Time,
}

/// Takes the output, up to its bounds.
struct Sink {
    text: Vec<u8>,
    bytes_max: usize,
    deadline: Instant,
    full: Option<Full>,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.text.len() + bytes.len() > self.bytes_max {
            self.full = Some(Full::Bytes);
        } else if Instant::now() >= self.deadline {
            self.full = Some(Full::Time);
        }
        if self.full.is_some() {
            return Err(io::Error::other("the output is full"));
        }
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn rendered(template: &str, values: &Value) -> Result<String, ExpressionError> {
        render(template, values, Instant::now() + Duration::from_mins(1), 64 << 10)
    }

    #[test]
    fn names_conditions_loops_and_filters_are_filled_in() {
        let values = json!({"who": "<Ann>", "n": 2, "none": null, "on": true, "list": ["a", "b"], "deep": {"x": {"y": 1}}});
        for (template, expected) in [
            ("no names at all", "no names at all"),
            ("{{ who }} has {{n}}, {{ none }}, {{ on }}", "<Ann> has 2, null, true"),
            ("{{ deep.x.y }} {{ deep.x }} {{ list }}", "1 {\"y\":1} [\"a\",\"b\"]"),
            ("{% for x in list %}{{ loop.index }}={{ x }};{% endfor %}", "1=a;2=b;"),
            ("{% if n > 1 %}many{% else %}few{% endif %}", "many"),
            ("{{ list | join(', ') }} {{ who | upper }}", "a, b <ANN>"),
            ("{{ missing | default('-') }}", "-"),
            ("{% raw %}{{ who }}{% endraw %}{# not told #}", "{{ who }}"),
        ] {
            assert_eq!(rendered(template, &values), Ok(expected.to_owned()), "{template}");
        }
    }

    #[test]
    fn what_is_no_template_or_names_nothing_says_where() {
        for (template, expected) in [
            ("a\n{{ who", "the template is none"),
            ("{% include 'x' %}", "the template is none"),
            ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "the template is none"),
            ("a\n{{ nobody }}", "undefined value (line 2 of the template)"),
            ("{{ who.a.b }}", "undefined value"),
            ("{{ who() }}", "the template failed"),
        ] {
            let error = rendered(template, &json!({"who": "Ann"})).unwrap_err().to_string();
            assert!(error.contains(expected), "{template}: {error}");
        }
        assert_eq!(fault("{{ fine }}"), None);
        assert!(fault("a\n\n{% for %}").is_some_and(|fault| fault.contains("line 3")));
        assert!(fault(&"a".repeat(TEMPLATE_BYTES_MAX + 1)).is_some());
    }

    #[test]
    fn bombs_are_contained() {
        let long = "x".repeat(60 << 10);
        let tree = (0..500).fold(json!([]), |tree, _| json!([tree]));
        let values = json!({"long": long, "tree": tree, "list": vec![0; 5_000]});
        let doubled = "{% set a = a ~ a %}".repeat(64);
        let bombs = [
            "{% for a in range(10**9) %}{% endfor %}",
            "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}",
            "{{ 'x' * 10**9 }}",
            "{{ [1] * 10**9 }}",
            "{{ ('x' * 60000) | replace('x', long) }}",
            "{{ long | replace('', long) }}",
            "{{ range(60000) | join(long) }}",
            "{{ long | indent(10**9) }}",
            "{{ '%1000000000d' | format(1) }}",
            "{% for a in range(60000) %}{{ long }}{% endfor %}",
            "{% set ns = namespace(x='xx') %}{% for i in range(64) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
            "{% set a %}{{ long }}{{ long }}{% endset %}{% for i in range(9999) %}{{ a }}{% endfor %}",
            "{% for x in tree recursive %}{{ loop(x) }}{{ loop(x) }}{% endfor %}",
            "{% for a in list %}{% for b in list %}{% if long == long %}{% endif %}{% endfor %}{% endfor %}",
            "{{ range(100000) | map('string') | list | sort | join(long) }}",
            "{{ 9**9**9**9 }}",
        ]
        .map(str::to_owned);
        let begun = Instant::now();
        for bomb in bombs.into_iter().chain([
            format!("{{% set a = 'xx' %}}{doubled}{{{{ a }}}}"),
            format!("{{{{ {}1{} }}}}", "(".repeat(5_000), ")".repeat(5_000)),
            "{% if 1 %}".repeat(5_000),
            format!("{{{{ long {} }}}}", "| tojson ".repeat(200)),
        ]) {
            let error = rendered(&bomb, &values).map(|text| text.len());
            assert!(error.is_err(), "{bomb:.80}: {error:?}");
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    }

    #[test]
    fn bytes_and_time_end_it_by_their_own_names() {
        let later = Instant::now() + Duration::from_mins(1);
        let error = render("{{ a }}{{ a }}", &json!({"a": "abc"}), later, 5).unwrap_err();
        assert_eq!(error, ExpressionError::TooLarge(5));
        let error = render("{{ a }}", &json!({"a": "abc"}), Instant::now(), 5).unwrap_err();
        assert_eq!(error, ExpressionError::Deadline);
    }
}
