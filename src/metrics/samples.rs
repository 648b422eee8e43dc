//! Figures that are read when somebody asks for them: what another part knows anyway costs nothing in between.

use std::{fmt, fs, time::Instant};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _, MetricEncoder},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

/// Whether a figure may fall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sampled {
    /// It only grows.
    Counter,
    /// It comes and goes.
    Gauge,
}

impl From<Sampled> for super::FamilyKind {
    fn from(kind: Sampled) -> Self {
        match kind {
            Sampled::Counter => Self::Counter,
            Sampled::Gauge => Self::Gauge,
        }
    }
}

/// One value with its labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Names and values.
    pub labels: Vec<(&'static str, String)>,
    /// The value, in base units.
    pub value: f64,
}

impl Sample {
    /// A value without labels.
    #[must_use]
    pub const fn plain(value: f64) -> Self {
        Self { labels: Vec::new(), value }
    }

    /// A value with one label.
    #[must_use]
    pub fn labelled(name: &'static str, label: impl Into<String>, value: f64) -> Self {
        Self { labels: vec![(name, label.into())], value }
    }
}

/// One family of figures, read at each scrape. What cannot be read is left out.
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) kind: Sampled,
    pub(super) read: Box<dyn Fn() -> Vec<Sample> + Send + Sync>,
}

impl fmt::Debug for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Collector for Family {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let samples = (self.read)();
        if samples.is_empty() {
            return Ok(());
        }
        let kind = match self.kind {
            Sampled::Counter => MetricType::Counter,
            Sampled::Gauge => MetricType::Gauge,
        };
        let mut family = encoder.encode_descriptor(self.name, self.help, None, kind)?;
        let put = |encoder: MetricEncoder, value: f64| match self.kind {
            Sampled::Counter => ConstCounter::new(value).encode(encoder),
            Sampled::Gauge => ConstGauge::new(value).encode(encoder),
        };
        if let [Sample { labels, value }] = &samples[..]
            && labels.is_empty()
        {
            return put(family, *value);
        }
        for Sample { labels, value } in samples {
            put(family.encode_family(&labels)?, value)?;
        }
        Ok(())
    }
}

/// What the system says of this process, under the names that all of Prometheus' clients use.
pub(super) fn process() -> [Family; 4] {
    let started = Instant::now();
    [
        Family {
            name: "process_resident_memory_bytes",
            help: "Resident memory of the process",
            kind: Sampled::Gauge,
            read: Box::new(|| status("VmRSS:").map(|kib| Sample::plain(kib * 1024.0)).into_iter().collect()),
        },
        Family {
            name: "process_open_fds",
            help: "Open file descriptors of the process",
            kind: Sampled::Gauge,
            read: Box::new(|| open_descriptors().map(Sample::plain).into_iter().collect()),
        },
        Family {
            name: "process_threads",
            help: "Threads of the process",
            kind: Sampled::Gauge,
            read: Box::new(|| status("Threads:").map(Sample::plain).into_iter().collect()),
        },
        Family {
            name: "process_uptime_seconds",
            help: "Time since the server was put together",
            kind: Sampled::Gauge,
            read: Box::new(move || vec![Sample::plain(started.elapsed().as_secs_f64())]),
        },
    ]
}

/// The number behind `name` in `/proc/self/status`, where there is such a file.
fn status(name: &str) -> Option<f64> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

fn open_descriptors() -> Option<f64> {
    // The one that reads the folder is open, too.
    Some(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as f64)
}
