//! Charts as SVG, without a script: they stand in the page, take its colours, and say in words what they show.
//!
//! A chart is as wide as a phone, so that its letters have the size of the page's; wider windows show several in a row.

use std::fmt::Write as _;

use super::text::{attribute, escaped, number, with_unit};
use crate::accept::workload::Kind;

const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 210.0;
const LEFT: f64 = 46.0;
const RIGHT: f64 = 10.0;
const TOP: f64 = 24.0;
const BOTTOM: f64 = 30.0;
/// Lines have as many looks; more begin again.
const LOOKS: usize = 6;
/// Room that the number of a mark takes.
const MARK_WIDTH: f64 = 16.0;
/// Points of a line that can be told apart.
const POINTS_MAX: usize = 240;

/// A line of a chart.
#[derive(Clone, Debug, Default)]
pub(super) struct Line {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
}

/// A chart.
#[derive(Clone, Debug, Default)]
pub(super) struct Chart {
    /// No other one of the page has it.
    pub(super) id: String,
    pub(super) title: String,
    /// What the horizontal axis is, and in which unit.
    pub(super) across: &'static str,
    /// The unit of the vertical axis.
    pub(super) unit: String,
    /// The horizontal axis is logarithmic.
    pub(super) is_log: bool,
    pub(super) lines: Vec<Line>,
    /// What happened where on the horizontal axis.
    pub(super) marks: Vec<(f64, String)>,
}

impl Chart {
    /// A figure of HTML: the drawing, and what its lines and marks are.
    pub(super) fn draw(&self) -> String {
        let lines: Vec<Line> = self
            .lines
            .iter()
            .map(|line| Line { name: line.name.clone(), points: thinned(&self.drawable(line)) })
            .collect();
        let mut drawn = String::new();
        let _ = write!(
            drawn,
            "<figure><figcaption>{}</figcaption>\
             <svg role=\"img\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" aria-labelledby=\"{id}-t {id}-d\">\
             <title id=\"{id}-t\">{}</title><desc id=\"{id}-d\">{}</desc>",
            escaped(&self.title),
            escaped(&self.title),
            escaped(&self.said()),
            id = attribute(&self.id),
        );
        let points = || lines.iter().flat_map(|line| line.points.iter().copied());
        if points().next().is_none() {
            let _ = write!(
                drawn,
                "<text class=\"axis\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">nothing was measured</text>",
                WIDTH / 2.0,
                HEIGHT / 2.0
            );
        } else {
            let marks = self.marks.iter().map(|(at, _)| *at).filter(|at| self.has_place(*at));
            let across = Axis::across(points().map(|(x, _)| x).chain(marks), self.is_log);
            let up = Axis::up(points().map(|(_, y)| y));
            self.frame(&mut drawn, &across, &up);
            for (place, line) in lines.iter().enumerate() {
                curve(&mut drawn, look(&lines, place), &line.points, &across, &up);
            }
            let placed = self.marks.iter().enumerate().filter(|(_, (at, _))| self.has_place(*at));
            mark(&mut drawn, placed.map(|(number, (at, _))| (number + 1, across.place(*at))));
        }
        drawn.push_str("</svg>");
        self.legend(&mut drawn);
        drawn.push_str("</figure>");
        drawn
    }

    /// In words, for those who do not see it.
    fn said(&self) -> String {
        let mut said: Vec<String> = self
            .lines
            .iter()
            .map(|line| {
                let values: Vec<f64> = self.drawable(line).into_iter().map(|(_, y)| y).collect();
                let Some(last) = values.last() else { return format!("{}: nothing was measured", line.name) };
                let (min, max) = range(values.iter().copied());
                let told = |value| with_unit(value, &self.unit);
                format!("{}: from {} to {}, at the end {}", line.name, told(min), told(max), told(*last))
            })
            .collect();
        said.extend(self.marks.iter().map(|(at, text)| format!("at {}: {text}", with_unit(*at, "s"))));
        said.join("; ")
    }

    fn has_place(&self, x: f64) -> bool {
        x.is_finite() && (!self.is_log || x > 0.0)
    }

    /// Points that have a place; a gap is not drawn over.
    fn drawable(&self, line: &Line) -> Vec<(f64, f64)> {
        line.points.iter().copied().filter(|(x, y)| self.has_place(*x) && y.is_finite()).collect()
    }

    fn frame(&self, drawn: &mut String, across: &Axis, up: &Axis) {
        for tick in &up.ticks {
            let y = up.place(*tick);
            let _ = write!(
                drawn,
                "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{:.1}\"/>\
                 <text class=\"axis\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 5.0,
                y + 4.0,
                short(*tick)
            );
        }
        let baseline = HEIGHT - BOTTOM;
        for tick in &across.ticks {
            let x = across.place(*tick);
            let _ = write!(
                drawn,
                "<path class=\"base\" d=\"M{x:.1} {baseline:.1}v4\"/>\
                 <text class=\"axis\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                baseline + 15.0,
                short(*tick)
            );
        }
        let _ = write!(
            drawn,
            "<path class=\"base\" d=\"M{LEFT} {baseline:.1}H{:.1}\"/>\
             <text class=\"axis\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
             <text class=\"axis\" x=\"2\" y=\"{:.1}\">{}</text>",
            WIDTH - RIGHT,
            WIDTH - RIGHT,
            HEIGHT - 3.0,
            escaped(self.across),
            TOP - 14.0,
            escaped(&self.unit)
        );
    }

    fn legend(&self, drawn: &mut String) {
        if self.lines.len() > 1 {
            drawn.push_str("<ul class=\"lines\">");
            for (place, line) in self.lines.iter().enumerate() {
                let look = look(&self.lines, place);
                let _ = write!(
                    drawn,
                    "<li><svg class=\"key\" viewBox=\"0 0 24 8\" aria-hidden=\"true\"><path class=\"line c{look}\" \
                     d=\"M0 4H24\"/></svg>{}</li>",
                    escaped(&line.name)
                );
            }
            drawn.push_str("</ul>");
        }
        if !self.marks.is_empty() {
            drawn.push_str("<ol class=\"marks\">");
            for (at, text) in &self.marks {
                let _ = write!(drawn, "<li>{}: {}</li>", with_unit(*at, "s"), escaped(text));
            }
            drawn.push_str("</ol>");
        }
    }
}

/// How the line at `place` looks: a kind of call the same in each chart of a page, others by their place.
fn look(lines: &[Line], place: usize) -> usize {
    let kind = |line: &Line| Kind::ALL.iter().position(|kind| kind.name() == line.name);
    let kinds = if lines.iter().any(|line| kind(line).is_some()) { Kind::ALL.len() } else { 0 };
    kind(&lines[place]).unwrap_or_else(|| {
        let others = lines[..place].iter().filter(|line| kind(line).is_none()).count();
        (kinds + others) % LOOKS
    })
}

/// Marks, each at its place. Numbers of those that have no room beside each other stand as one: `4–6`.
fn mark(drawn: &mut String, placed: impl Iterator<Item = (usize, f64)>) {
    let mut groups: Vec<Vec<(usize, f64)>> = Vec::new();
    for (number, x) in placed {
        let _ = write!(drawn, "<path class=\"mark\" d=\"M{x:.1} {TOP}V{:.1}\"/>", HEIGHT - BOTTOM);
        match groups.last_mut() {
            Some(group) if group.last().is_some_and(|(_, last)| (x - last).abs() < MARK_WIDTH) => {
                group.push((number, x));
            }
            _ => groups.push(vec![(number, x)]),
        }
    }
    for group in groups {
        let ((first, from), (last, to)) = (group[0], group[group.len() - 1]);
        let said = if first == last { first.to_string() } else { format!("{first}–{last}") };
        let _ = write!(
            drawn,
            "<text class=\"mark\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{said}</text>",
            f64::midpoint(from, to),
            TOP - 4.0
        );
    }
}

fn curve(drawn: &mut String, look: usize, points: &[(f64, f64)], across: &Axis, up: &Axis) {
    if let [(x, y)] = points {
        let (x, y) = (across.place(*x), up.place(*y));
        let _ = write!(drawn, "<circle class=\"dot c{look}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"/>");
        return;
    }
    let mut path = String::new();
    for (number, (x, y)) in points.iter().enumerate() {
        let pen = if number == 0 { 'M' } else { 'L' };
        let _ = write!(path, "{pen}{:.1} {:.1}", across.place(*x), up.place(*y));
    }
    if !path.is_empty() {
        let _ = write!(drawn, "<path class=\"line c{look}\" d=\"{path}\"/>");
    }
}

/// Values and where they are drawn.
struct Axis {
    from: f64,
    to: f64,
    start: f64,
    end: f64,
    is_log: bool,
    ticks: Vec<f64>,
}

impl Axis {
    fn across(values: impl Iterator<Item = f64>, is_log: bool) -> Self {
        let (mut from, mut to) = range(values);
        let (start, end) = (LEFT, WIDTH - RIGHT);
        if is_log {
            // A point has no width.
            (from, to) = if to / from < 2.0 { (from / 1.5, to * 1.5) } else { (from, to) };
            return Self { from, to, start, end, is_log, ticks: log_ticks(from, to) };
        }
        from = from.min(0.0);
        if to <= from {
            to = from + 1.0;
        }
        Self { from, to, start, end, is_log, ticks: ticks(from, to, 6) }
    }

    fn up(values: impl Iterator<Item = f64>) -> Self {
        let (min, max) = range(values);
        let from = min.min(0.0);
        let to = if max > from { max } else { from + 1.0 };
        let ticks = ticks(from, to, 4);
        // The topmost line of the grid is above the values.
        let step = if let [a, b, ..] = ticks[..] { b - a } else { to - from };
        let top = ticks.last().copied().unwrap_or(to);
        let (to, ticks) = if top < to {
            let mut ticks = ticks;
            ticks.push(top + step);
            (top + step, ticks)
        } else {
            (to, ticks)
        };
        Self { from, to, start: HEIGHT - BOTTOM, end: TOP, is_log: false, ticks }
    }

    fn place(&self, value: f64) -> f64 {
        let share = if self.is_log {
            (value / self.from).ln() / (self.to / self.from).ln()
        } else {
            (value - self.from) / (self.to - self.from)
        };
        (self.end - self.start).mul_add(share.clamp(0.0, 1.0), self.start)
    }
}

/// Smallest and largest.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(min, max), value| (min.min(value), max.max(value)))
}

/// About `wanted` round values from `from` to `to`.
fn ticks(from: f64, to: f64, wanted: u32) -> Vec<f64> {
    let rough = (to - from) / f64::from(wanted);
    if !(rough.is_finite() && rough > 0.0) {
        return vec![from];
    }
    let size = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|by| by * size).into_iter().find(|step| *step >= rough * 0.999);
    let step = step.unwrap_or(size * 10.0);
    let first = (from / step).ceil();
    (0..=2 * wanted)
        .map(|number| (first + f64::from(number)) * step)
        .take_while(|tick| *tick <= step.mul_add(1e-9, to))
        .map(|tick| if tick == 0.0 { 0.0 } else { tick })
        .collect()
}

fn log_ticks(from: f64, to: f64) -> Vec<f64> {
    let (low, high) = (from.log10().floor() as i32, to.log10().ceil() as i32);
    let within = |tick: &f64| *tick >= from * 0.999 && *tick <= to * 1.001;
    let of = |each: &[f64]| -> Vec<f64> {
        let all = (low..=high).flat_map(|power| each.iter().map(move |by| by * 10_f64.powi(power)));
        all.filter(within).collect()
    };
    let tens = of(&[1.0]);
    match tens.len() {
        0..=2 => of(&[1.0, 2.0, 5.0]),
        3..=6 => tens,
        many => tens.into_iter().step_by(many.div_ceil(6)).collect(),
    }
}

/// A value at a tick: short.
fn short(value: f64) -> String {
    let size = value.abs();
    if size >= 1e6 {
        format!("{}M", number(value / 1e6))
    } else if size >= 1e4 {
        format!("{}k", number(value / 1e3))
    } else {
        number(value)
    }
}

/// As many points as can be told apart; of each group that falls together its lowest and its highest.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= POINTS_MAX {
        return points.to_vec();
    }
    let mut kept = Vec::with_capacity(POINTS_MAX);
    for group in points.chunks(points.len().div_ceil(POINTS_MAX / 2)) {
        let by = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        let (Some(low), Some(high)) = (group.iter().min_by(by), group.iter().max_by(by)) else { continue };
        kept.extend(if low.0 <= high.0 { [*low, *high] } else { [*high, *low] });
    }
    kept
}

#[cfg(test)]
#[path = "svg_tests.rs"]
mod tests;
