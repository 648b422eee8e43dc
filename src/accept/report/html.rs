//! `index.html`: one page that needs nothing else, on a phone, on paper, by day and by night.

use std::fmt::Write as _;

use serde_json::Value;

use super::{
    junit::LETTERS,
    latency::{self, Latency},
    metrics::level,
    previous::Previous,
    summary::thresholds,
    text::{BEGUN, attribute, duration, escaped, number, with_unit},
};
use crate::accept::{
    Run,
    decision::Decision,
    scenario::{Frame, Result as Ran, Verdict},
    table,
};

/// Frames of a failure that are shown, the last ones.
const FRAMES_MAX: usize = 40;
/// Notes of a scenario that are shown.
const NOTES_MAX: usize = 60;

/// The decision with what qualifies it.
pub(super) fn standing(run: &Run) -> String {
    let mut said = run.decided.decision.to_string();
    if run.decided.is_partial {
        said.push_str(" (PARTIAL)");
    }
    if run.slack > 1 {
        let _ = write!(said, " (SLACK {})", run.slack);
    }
    if run.is_interrupted {
        said.push_str(" (INTERRUPTED)");
    }
    said
}

/// The page.
pub(super) fn of(run: &Run, previous: Option<&Previous>) -> String {
    let mut page = String::with_capacity(256 << 10);
    let title = format!("{}: tmws accept", standing(run));
    let _ = write!(
        page,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>{}</title>\n<style>\n{}</style></head>\n<body>\n",
        escaped(&title),
        include_str!("page.css")
    );
    head(&mut page, run, previous);
    failures(&mut page, run);
    page.push_str("<main>\n");
    scenarios(&mut page, run, previous);
    details(&mut page, run);
    about(&mut page, run);
    page.push_str("</main>\n</body></html>\n");
    page
}

fn head(page: &mut String, run: &Run, previous: Option<&Previous>) {
    let colour = match run.decided.decision {
        Decision::Go | Decision::Pass if run.decided.warned == 0 => "good",
        Decision::Go | Decision::Pass | Decision::GoWithWarnings => "warning",
        Decision::NoGo | Decision::Fail => "critical",
    };
    let _ = write!(
        page,
        "<header class=\"{colour}\"><p class=\"what\">tmws accept</p><h1>{}</h1>\n<ul class=\"why\">",
        escaped(&standing(run))
    );
    for reason in &run.decided.reasons {
        let _ = write!(page, "<li>{}</li>", escaped(reason));
    }
    let _ = write!(
        page,
        "</ul>\n<p class=\"facts\">{} of {} passed · profile {} · seed {} · {} · {}</p>",
        run.decided.passed,
        run.asked,
        run.profile.name(),
        run.seed,
        run.begun.strftime(BEGUN),
        duration(run.elapsed)
    );
    if matches!(run.decided.decision, Decision::Pass | Decision::Fail) {
        page.push_str(
            "<p class=\"facts\">This run decides nothing: GO and NO-GO are said of the full profile, of all \
             scenarios, and of a deployment of its own.</p>",
        );
    }
    if let Some(previous) = previous {
        let _ = write!(page, "<p class=\"facts\">{}</p>", escaped(&previous.said(run)));
    }
    page.push_str("</header>\n");
}

/// What failed comes first: expected, seen, whom to call, and the frames around it.
fn failures(page: &mut String, run: &Run) {
    let failed: Vec<&Ran> = run.results.iter().filter(|result| result.verdict.is_failure()).collect();
    if failed.is_empty() {
        return;
    }
    page.push_str("<section class=\"failures\"><h2>What failed</h2>\n");
    for result in failed {
        let row = result.row;
        let _ = write!(
            page,
            "<article id=\"failed-{id}\"><h3><span class=\"id\">{id}</span> {}</h3>\
             <p class=\"call\"><b>{}</b> · call first: {}</p>",
            escaped(row.title),
            row.area.name(),
            row.area.call_first(),
            id = row.id,
        );
        broken(page, result);
        page.push_str("</article>\n");
    }
    page.push_str("</section>\n");
}

fn broken(page: &mut String, result: &Ran) {
    let checks: Vec<_> = result.seen.checks.iter().filter(|check| !check.held).collect();
    for (name, value) in &result.seen.figures {
        let Some(figure) = result.row.figure(name) else { continue };
        let level = figure.level(*value);
        if level == crate::accept::scenario::Level::Critical {
            let _ = write!(
                page,
                "<p class=\"critical\"><b>{name}</b> is {}{}</p>",
                with_unit(*value, figure.unit),
                escaped(&thresholds(figure))
            );
        }
    }
    if let Some(why) = super::why(result) {
        let _ = write!(page, "<p class=\"critical\">{}</p>", escaped(why));
    }
    for check in checks {
        let _ = write!(
            page,
            "<dl class=\"check\"><dt>what</dt><dd>{}</dd><dt>expected</dt><dd><pre>{}</pre></dd>\
             <dt>seen</dt><dd><pre>{}</pre></dd></dl>",
            escaped(&check.what),
            escaped(&check.expected),
            escaped(&check.seen)
        );
    }
    frames(page, &result.seen.frames);
}

fn frames(page: &mut String, frames: &[Frame]) {
    if frames.is_empty() {
        return;
    }
    let left_out = frames.len().saturating_sub(FRAMES_MAX);
    let _ = write!(
        page,
        "<details><summary>{} frames around it</summary><ol class=\"frames\">",
        frames.len() - left_out
    );
    for frame in &frames[left_out..] {
        let (class, arrow) = if frame.is_sent { ("sent", "→ sent") } else { ("received", "← received") };
        let _ = write!(
            page,
            "<li class=\"{class}\"><span>{:.3} s {} {arrow}</span><pre>{}</pre></li>",
            frame.at.as_secs_f64(),
            escaped(&frame.client),
            escaped(&frame.text)
        );
    }
    page.push_str("</ol></details>");
}

fn scenarios(page: &mut String, run: &Run, previous: Option<&Previous>) {
    page.push_str(
        "<h2>Scenarios</h2>\n<p class=\"key\"><span class=\"good\">within target</span> \
         <span class=\"near\">near a threshold</span> <span class=\"warning\">past target</span> \
         <span class=\"critical\">past critical, or failed</span></p>\n",
    );
    for (letter, about) in LETTERS {
        let of = run.results.iter().filter(|result| result.row.id.starts_with(letter));
        let of: Vec<&Ran> = of.collect();
        if of.is_empty() {
            continue;
        }
        let _ = writeln!(
            page,
            "<table><caption>{letter}: {about}</caption><thead><tr><th scope=\"col\">scenario</th>\
             <th scope=\"col\">result</th><th scope=\"col\">figures</th><th scope=\"col\">took</th></tr></thead><tbody>"
        );
        for result in of {
            scenario(page, result, previous);
        }
        page.push_str("</tbody></table>\n");
    }
    let waiting: Vec<&str> = table::SCENARIOS
        .iter()
        .map(|row| row.id)
        .filter(|id| !run.results.iter().any(|result| result.row.id == *id))
        .collect();
    if !waiting.is_empty() {
        let _ = writeln!(page, "<p class=\"facts\">Not run: {}.</p>", waiting.join(", "));
    }
}

fn scenario(page: &mut String, result: &Ran, previous: Option<&Previous>) {
    let row = result.row;
    let vital = if row.is_vital { " <abbr title=\"any failure of it is NO-GO\">vital</abbr>" } else { "" };
    let _ = write!(
        page,
        "<tr class=\"{verdict}\"><th scope=\"row\"><a href=\"#{id}\"><span class=\"id\">{id}</span>{}</a>{vital}\
         <span class=\"area\">{}</span></th><td class=\"verdict\">{verdict}",
        escaped(row.title),
        row.area.name(),
        id = row.id,
        verdict = result.verdict.name(),
    );
    if let Some(before) =
        previous.and_then(|one| one.verdict(row.id)).filter(|one| *one != result.verdict.name())
    {
        let _ = write!(page, "<small>was {}</small>", escaped(before));
    }
    page.push_str("</td><td class=\"figures\">");
    if !result.seen.figures.is_empty() {
        page.push_str("<ul>");
    }
    for (name, value) in &result.seen.figures {
        let Some(figure) = row.figure(name) else {
            let _ = write!(page, "<li>{name} <b>{}</b></li>", number(*value));
            continue;
        };
        let _ = write!(
            page,
            "<li class=\"{}\">{} <b>{}</b><small>{}</small>",
            level(figure.level(*value)),
            name.replace('_', " "),
            with_unit(*value, figure.unit),
            escaped(&thresholds(figure))
        );
        if let Some(differs) = previous.and_then(|one| one.difference(row.id, figure, *value)) {
            let _ = write!(page, "<small class=\"{}\"> {}</small>", differs.way, escaped(&differs.text));
        }
        page.push_str("</li>");
    }
    if !result.seen.figures.is_empty() {
        page.push_str("</ul>");
    }
    if result.verdict.is_failure() {
        let _ = write!(
            page,
            "<p class=\"call\"><a href=\"#failed-{}\">what was expected and seen</a> · call first: {}</p>",
            row.id,
            row.area.call_first()
        );
    } else if let (Verdict::Waived, Some(why)) = (result.verdict, &result.why) {
        let _ = write!(page, "<p class=\"call\">{}</p>", escaped(why));
    } else if result.seen.figures.is_empty() {
        let _ = write!(page, "<small>{}</small>", held(result));
    }
    let _ = writeln!(page, "</td><td class=\"took\">{}</td></tr>", duration(result.elapsed));
}

/// With a capital letter.
fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

fn held(result: &Ran) -> String {
    let count = result.seen.checks.iter().filter(|check| check.held).count();
    let all = result.seen.checks.len();
    match (count, all) {
        (1, 1) => "the one check held".to_owned(),
        _ if count == all => format!("all {all} checks held"),
        _ => format!("{count} of {all} checks held"),
    }
}

fn details(page: &mut String, run: &Run) {
    page.push_str("<h2>What was seen</h2>\n");
    for result in &run.results {
        let row = result.row;
        let charts: Vec<String> = latency::charts(result)
            .iter()
            .chain(&latency::series(result))
            .map(super::svg::Chart::draw)
            .collect();
        let _ = write!(
            page,
            "<section class=\"seen\"><h3 id=\"{id}\"><span class=\"id\">{id}</span> {}</h3><p>{}.</p>",
            escaped(row.title),
            escaped(&sentence(row.what)),
            id = row.id
        );
        latencies(page, result);
        if !charts.is_empty() {
            let _ = write!(page, "<div class=\"charts\">{}</div>", charts.concat());
        }
        savings(page, result);
        let (seen, noted) = (&result.seen, result.seen.evidence.len());
        if !seen.evidence.is_empty() {
            page.push_str("<ul class=\"notes\">");
            for note in seen.evidence.iter().take(NOTES_MAX) {
                let _ = write!(page, "<li>{}</li>", escaped(note));
            }
            if noted > NOTES_MAX {
                let _ = write!(page, "<li>and {} more, in metrics.json</li>", noted - NOTES_MAX);
            }
            page.push_str("</ul>");
        }
        if !seen.checks.is_empty() {
            let _ = write!(page, "<details><summary>{}</summary><ul class=\"checks\">", held(result));
            for check in &seen.checks {
                let class = if check.held { "held" } else { "broken" };
                let _ = write!(page, "<li class=\"{class}\">{}</li>", escaped(&check.what));
            }
            page.push_str("</ul></details>");
        }
        page.push_str("</section>\n");
    }
}

fn latencies(page: &mut String, result: &Ran) {
    let timed: Vec<Latency> =
        result.seen.distributions.iter().map(Latency::of).filter(|one| one.count > 0).collect();
    if timed.is_empty() {
        return;
    }
    let _ = write!(
        page,
        "<table class=\"small\"><caption>Latency in ms: {}</caption><thead><tr><th scope=\"col\">kind</th>\
         <th scope=\"col\">calls</th><th scope=\"col\">mean</th><th scope=\"col\">P50</th><th scope=\"col\">P95</th>\
         <th scope=\"col\">P99</th><th scope=\"col\">most</th></tr></thead><tbody>",
        result.row.id
    );
    for one in timed {
        let _ = write!(page, "<tr><th scope=\"row\">{}</th>", escaped(&one.name));
        let _ = write!(page, "<td>{}</td>", number(one.count as f64));
        for value in [one.mean, one.p50, one.p95, one.p99, one.max] {
            let _ = write!(page, "<td>{}</td>", number(value));
        }
        page.push_str("</tr>");
    }
    page.push_str("</tbody></table>");
}

/// What is saved by type, where a scenario tells it: `data` of the name `by_type`, a number in per cent for each, or
/// `savings` of several.
fn savings(page: &mut String, result: &Ran) {
    let Some((_, Value::Object(types))) = result.seen.data.iter().find(|(name, _)| *name == "by_type") else {
        return;
    };
    let _ = write!(
        page,
        "<table class=\"small bars\"><caption>Fewer tokens, by type: {}</caption><thead><tr>\
         <th scope=\"col\">type</th><th scope=\"col\">tasks</th><th scope=\"col\">median %</th>\
         <th scope=\"col\" class=\"bar\">of all</th></tr></thead><tbody>",
        result.row.id
    );
    for (name, value) in types {
        let Some((count, value)) = middle(value) else { continue };
        let width = value.clamp(0.0, 100.0);
        let _ = write!(
            page,
            "<tr><th scope=\"row\">{}</th><td>{count}</td><td>{}</td><td class=\"bar\"><svg viewBox=\"0 0 100 8\" \
             preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{}\"><rect class=\"fill\" width=\"{width:.1}\" \
             height=\"8\"/></svg></td></tr>",
            escaped(name),
            number(value),
            attribute(&with_unit(value, "%"))
        );
    }
    page.push_str("</tbody></table>");
}

/// How many there are, and the one in the middle.
fn middle(value: &Value) -> Option<(usize, f64)> {
    if let Some(one) = value.as_f64() {
        return Some((1, one));
    }
    let mut all: Vec<f64> = value["savings"].as_array()?.iter().filter_map(Value::as_f64).collect();
    all.sort_unstable_by(f64::total_cmp);
    Some((all.len(), *all.get(all.len() / 2)?))
}

fn about(page: &mut String, run: &Run) {
    page.push_str("<h2>On what, and how</h2>\n<div class=\"about\">");
    for (title, pairs) in [("Environment", &run.environment), ("Settings", &run.settings)] {
        let _ = write!(page, "<table class=\"small\"><caption>{title}</caption><tbody>");
        for (name, value) in pairs {
            let _ =
                write!(page, "<tr><th scope=\"row\">{}</th><td>{}</td></tr>", escaped(name), escaped(value));
        }
        page.push_str("</tbody></table>");
    }
    page.push_str("</div>\n");
}
