//! The figures as values, for those who show or export them: read from the text that scrapers get, so that nobody is
//! told anything else than they.

use super::line::{self, Line};

/// What a family's figures are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FamilyKind {
    /// They only grow.
    Counter,
    /// They come and go.
    Gauge,
    /// They are durations, counted by length.
    Histogram,
    /// Their labels are what there is to know.
    Info,
}

/// Figures of one name.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    /// The name, a counter's without `_total`.
    pub name: String,
    /// What it says, for people.
    pub help: String,
    /// What its figures are.
    pub kind: FamilyKind,
    /// One for each set of labels.
    pub series: Vec<Series>,
}

/// One figure with its labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Names and values, without a histogram's `le`.
    pub labels: Vec<(String, String)>,
    /// The figure.
    pub reading: Reading,
}

/// A figure.
#[derive(Clone, Debug, PartialEq)]
pub enum Reading {
    /// One number, in base units.
    Number(f64),
    /// How many durations were how long.
    Histogram(Histogram),
}

/// How many durations were how long, in seconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// Upper bounds of the buckets but the last, which has none; each belongs to its bucket.
    pub bounds: Vec<f64>,
    /// How many are in each bucket: one more than there are bounds.
    pub counts: Vec<u64>,
    /// All of them together.
    pub sum: f64,
}

impl Histogram {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// What the share `share` (0 to 1) of all is not longer than: the place within its bucket is taken as if those in
    /// it were spread evenly, as Prometheus' `histogram_quantile` does. In the last bucket, which has no upper bound, it is
    /// the lower one. Nothing where there are none.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let rank = share.clamp(0.0, 1.0) * count as f64;
        let mut below = 0.0;
        for (index, of) in self.counts.iter().enumerate() {
            let of = *of as f64;
            if of > 0.0 && below + of >= rank {
                let lower = if index == 0 { 0.0 } else { self.bounds[index - 1] };
                let Some(upper) = self.bounds.get(index) else { return Some(lower) };
                return Some(lower + (upper - lower) * ((rank - below) / of).clamp(0.0, 1.0));
            }
            below += of;
        }
        self.bounds.last().copied()
    }
}

/// Reads what `prometheus_client` wrote.
pub(super) fn read(open_metrics: &str) -> Vec<Family> {
    let mut families: Vec<Family> = Vec::new();
    let mut helps: Option<(&str, &str)> = None;
    for line in open_metrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            helps = rest.split_once(' ');
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let Some((name, kind)) = rest.split_once(' ') else { continue };
            let kind = match kind {
                "counter" => FamilyKind::Counter,
                "histogram" => FamilyKind::Histogram,
                "info" => FamilyKind::Info,
                _ => FamilyKind::Gauge,
            };
            let help = helps.take().filter(|(of, _)| *of == name).map_or("", |(_, help)| help);
            let help = help.strip_suffix('.').unwrap_or(help).to_owned();
            families.push(Family { name: name.to_owned(), help, kind, series: Vec::new() });
        } else if !line.starts_with('#')
            && let Some(family) = families.last_mut()
            && let Some(figure) = line::read(line)
        {
            put(family, figure);
        }
    }
    families
}

fn put(family: &mut Family, Line { name, mut labels, value }: Line<'_>) {
    if family.kind != FamilyKind::Histogram {
        family.series.push(Series { labels, reading: Reading::Number(value) });
        return;
    }
    let bound = labels.iter().position(|(name, _)| name == "le").map(|at| labels.remove(at).1);
    // A set of labels is whole before the next begins.
    if family.series.last().is_none_or(|last| last.labels != labels) {
        family.series.push(Series { labels, reading: Reading::Histogram(Histogram::default()) });
    }
    let Some(Series { reading: Reading::Histogram(histogram), .. }) = family.series.last_mut() else {
        return;
    };
    match (bound, name.strip_prefix(family.name.as_str())) {
        (Some(bound), _) => {
            // In the text each bucket holds those before it.
            let before: u64 = histogram.counts.iter().sum();
            histogram.counts.push((value as u64).saturating_sub(before));
            if let Ok(bound) = bound.parse::<f64>()
                && bound.is_finite()
            {
                histogram.bounds.push(bound);
            }
        }
        (None, Some("_sum")) => histogram.sum = value,
        (None, _) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::{Layer, Metrics, Sample, Sampled};

    #[test]
    fn what_is_counted_is_read_back() {
        let metrics = Metrics::default();
        metrics.call_error(Layer::Tool, "busy");
        metrics.call_error(Layer::Tool, "busy");
        metrics.sample("odd", "Odd labels", Sampled::Gauge, || {
            vec![Sample::labelled("name", "a\"b\\c\nd,e=\"f", 2.5), Sample::labelled("name", "", 1.0)]
        });
        let calls = metrics.calls_of("tools/call");
        for millis in [1, 3, 3, 40_000] {
            calls.observe(Duration::from_millis(millis));
        }
        metrics.calls_of("prompts/get").observe(Duration::from_millis(1));
        let families = metrics.families();
        let of = |name: &str| families.iter().find(|family| family.name == name).expect("a family");
        let errors = of("tmws_call_errors");
        assert_eq!(
            (errors.kind, errors.help.as_str()),
            (FamilyKind::Counter, "Calls answered with an error, by code")
        );
        assert_eq!(errors.series[0].reading, Reading::Number(2.0));
        assert_eq!(
            errors.series[0].labels,
            [("layer".to_owned(), "tool".to_owned()), ("code".to_owned(), "busy".to_owned())]
        );
        let odd = of("tmws_odd");
        assert_eq!(odd.series[0].labels, [("name".to_owned(), "a\"b\\c\nd,e=\"f".to_owned())]);
        assert_eq!(odd.series[1].labels, [("name".to_owned(), String::new())]);
        let durations = of("tmws_call_duration_seconds");
        assert_eq!(durations.series.len(), 2);
        let call = durations.series.iter().find(|series| series.labels[0].1 == "tools/call").expect("calls");
        let Reading::Histogram(histogram) = &call.reading else { panic!("{call:?}") };
        assert_eq!((histogram.count(), histogram.bounds.len(), histogram.counts.len()), (4, 17, 18));
        assert!((histogram.sum - 40.007).abs() < 1e-9, "{}", histogram.sum);
        assert_eq!(of("tmws_build").kind, FamilyKind::Info);
    }

    #[test]
    fn quantiles_lie_within_their_bucket() {
        let histogram =
            |counts: &[u64]| Histogram { bounds: vec![1.0, 2.0, 4.0], counts: counts.to_vec(), sum: 0.0 };
        let cases: [(&[u64], f64, Option<f64>); 8] = [
            (&[0, 0, 0, 0], 0.5, None),
            (&[4, 0, 0, 0], 0.5, Some(0.5)),
            (&[0, 4, 0, 0], 0.5, Some(1.5)),
            (&[0, 4, 0, 0], 1.0, Some(2.0)),
            (&[2, 0, 2, 0], 0.5, Some(1.0)),
            (&[2, 0, 2, 0], 0.75, Some(3.0)),
            (&[0, 0, 0, 3], 0.5, Some(4.0)),
            (&[98, 0, 2, 0], 0.99, Some(3.0)),
        ];
        for (counts, share, expected) in cases {
            assert_eq!(histogram(counts).quantile(share), expected, "{counts:?} {share}");
        }
    }
}
