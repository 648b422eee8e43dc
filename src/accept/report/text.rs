//! Texts as HTML and XML take them, and figures as people read them.

use std::time::Duration;

/// How a report tells when a run began.
pub(super) const BEGUN: &str = "%Y-%m-%d %H:%M UTC";

/// `text` within an element of XML or HTML. What XML 1.0 cannot hold becomes U+FFFD.
pub(super) fn escaped(text: &str) -> String {
    escape(text, false)
}

/// `text` within quotes; a reader gets its line breaks as they are.
pub(super) fn attribute(text: &str) -> String {
    escape(text, true)
}

fn escape(text: &str, is_attribute: bool) -> String {
    let mut escaped = String::with_capacity(text.len() + text.len() / 8);
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\r' => escaped.push_str("&#13;"),
            '\n' if is_attribute => escaped.push_str("&#10;"),
            '\t' if is_attribute => escaped.push_str("&#9;"),
            c if is_xml(c) => escaped.push(c),
            _ => escaped.push('\u{fffd}'),
        }
    }
    escaped
}

/// Whether XML 1.0 can hold it (`Char` in its grammar).
const fn is_xml(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

/// A figure with as many digits as say something.
pub(super) fn number(value: f64) -> String {
    if value.is_nan() {
        return "not measured".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "∞" } else { "−∞" }.to_owned();
    }
    let size = value.abs();
    let digits = match size {
        _ if size >= 100.0 => 0,
        _ if size >= 10.0 => 1,
        _ if size >= 0.1 => 2,
        _ => 3,
    };
    let mut text = format!("{size:.digits$}");
    if text.contains('.') {
        text.truncate(text.trim_end_matches('0').trim_end_matches('.').len());
    }
    let whole = text.find('.').unwrap_or(text.len());
    let mut place = whole;
    while place > 3 {
        place -= 3;
        text.insert(place, ',');
    }
    if value < 0.0 && text != "0" { format!("−{text}") } else { text }
}

/// A figure and its unit.
#[must_use]
pub fn with_unit(value: f64, unit: &str) -> String {
    match unit {
        "" => number(value),
        _ if value.is_nan() => number(value),
        "x" => format!("{}×", number(value)),
        unit => format!("{} {unit}", number(value)),
    }
}

/// How long something took or will take.
#[must_use]
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..=9 => format!("{:.1} s", time.as_secs_f64()),
        10..=119 => format!("{seconds} s"),
        _ => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn figures_have_the_digits_that_say_something() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "0"),
            (0.0004, "0"),
            (0.012, "0.012"),
            (0.5, "0.5"),
            (9.876, "9.88"),
            (42.04, "42"),
            (99.97, "100"),
            (1_234.5, "1,234"),
            (1_234_567.0, "1,234,567"),
            (-12.34, "−12.3"),
            (f64::NAN, "not measured"),
            (f64::INFINITY, "∞"),
        ] {
            assert_eq!(number(value), text, "{value}");
        }
        assert_eq!(with_unit(3.0, "x"), "3×");
        assert_eq!(with_unit(250.0, "ms"), "250 ms");
        assert_eq!(with_unit(f64::NAN, "ms"), "not measured");
    }

    proptest! {
        #[test]
        fn what_is_escaped_reads_as_it_was(text in "\\PC*|[\\x00-\\x7f\u{fffe}\u{ffff}]{0,40}") {
            let wanted: String = text.chars().map(|c| if is_xml(c) { c } else { '\u{fffd}' }).collect();
            for made in [escaped(&text), attribute(&text)] {
                prop_assert!(!made.contains(['<', '>', '"', '\'', '\r']));
                prop_assert!(made.chars().all(is_xml));
                prop_assert_eq!(super::super::xml::decoded(&made), Ok(wanted.clone()));
            }
            prop_assert!(!attribute(&text).contains(['\n', '\t']));
        }
    }
}
