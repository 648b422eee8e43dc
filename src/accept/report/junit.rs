//! `junit.xml`: what systems that show tests read. A suite a letter, a test a scenario; it fits the schema that Ant's
//! JUnit task and Jenkins have in common.

use std::fmt::Write as _;

use super::{
    latency::seconds,
    text::{attribute, escaped, with_unit},
};
use crate::accept::{
    Run,
    scenario::{Result as Ran, Verdict},
};

/// Letters and what their scenarios are about, in the order of the table.
pub(super) const LETTERS: [(char, &str); 6] = [
    ('M', "Many at once"),
    ('W', "The wire"),
    ('D', "What is kept"),
    ('R', "The cache and its Redis"),
    ('P', "How fast"),
    ('E', "What fails"),
];

/// The document.
pub(super) fn of(run: &Run) -> String {
    let mut text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n".to_owned();
    let suites = LETTERS.iter().filter_map(|(letter, about)| {
        let of: Vec<&Ran> = run.results.iter().filter(|result| result.row.id.starts_with(*letter)).collect();
        (!of.is_empty()).then_some((letter, about, of))
    });
    for (number, (letter, about, results)) in suites.enumerate() {
        let count = |is: fn(Verdict) -> bool| results.iter().filter(|result| is(result.verdict)).count();
        let time: f64 = results.iter().map(|result| seconds(result.elapsed)).sum();
        let _ = writeln!(
            text,
            "  <testsuite name=\"{letter}: {}\" package=\"tmws.accept\" id=\"{number}\" hostname=\"localhost\" \
             timestamp=\"{}\" tests=\"{}\" failures=\"{}\" errors=\"{}\" skipped=\"{}\" time=\"{time:.3}\">",
            attribute(about),
            run.begun.strftime("%Y-%m-%dT%H:%M:%S"),
            results.len(),
            count(|verdict| verdict == Verdict::Failed),
            count(|verdict| verdict == Verdict::Missing),
            count(|verdict| verdict == Verdict::Waived),
        );
        text.push_str("    <properties>\n");
        let own = [
            ("decision".to_owned(), run.decided.decision.to_string()),
            ("profile".to_owned(), run.profile.name().to_owned()),
            ("seed".to_owned(), run.seed.to_string()),
        ];
        for (name, value) in own.iter().chain(&run.environment) {
            let _ = writeln!(
                text,
                "      <property name=\"{}\" value=\"{}\"/>",
                attribute(name),
                attribute(value)
            );
        }
        text.push_str("    </properties>\n");
        for result in &results {
            case(&mut text, *letter, result);
        }
        let said: Vec<String> = results.iter().map(|result| said(result)).collect();
        let _ = writeln!(
            text,
            "    <system-out>{}</system-out>\n    <system-err></system-err>\n  </testsuite>",
            escaped(&said.concat())
        );
    }
    text.push_str("</testsuites>\n");
    text
}

fn case(text: &mut String, letter: char, result: &Ran) {
    let row = result.row;
    let _ = write!(
        text,
        "    <testcase name=\"{} {}\" classname=\"tmws.accept.{letter}\" time=\"{:.3}\"",
        row.id,
        attribute(row.title),
        seconds(result.elapsed)
    );
    let why = result.why.clone().unwrap_or_else(|| format!("{} {}", row.id, result.verdict.name()));
    let (element, kind) = match result.verdict {
        Verdict::Passed | Verdict::Warned => {
            text.push_str("/>\n");
            return;
        }
        Verdict::Waived => {
            text.push_str("><skipped/></testcase>\n");
            return;
        }
        Verdict::Failed => ("failure", row.area.name()),
        Verdict::Missing => ("error", "missing prerequisite"),
    };
    let _ = writeln!(
        text,
        "><{element} type=\"{kind}\" message=\"{}\">{}</{element}></testcase>",
        attribute(&why),
        escaped(&format!("{}Call first: {}.\n", said(result), row.area.call_first()))
    );
}

/// Figures and what did not hold, a line each.
fn said(result: &Ran) -> String {
    let row = result.row;
    let mut said = format!("{} {}: {}\n", row.id, row.title, result.verdict.name());
    for (name, value) in &result.seen.figures {
        let unit = row.figure(name).map_or("", |figure| figure.unit);
        let _ = writeln!(said, "  {name} {}", with_unit(*value, unit));
    }
    for check in result.seen.checks.iter().filter(|check| !check.held) {
        let _ =
            writeln!(said, "  not held: {}: expected {}, seen {}", check.what, check.expected, check.seen);
    }
    said
}
