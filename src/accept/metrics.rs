//! What a server says of itself at `/metrics`, and at the other paths that only tell, as anybody with the right token
//! reads it over HTTP.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::{Request, client::conn::http1::handshake};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use super::{
    client::Target,
    scenario::Broken,
    stage::{ADMIN, Instance},
    until::until,
};
use crate::{dial::Dialer, metrics::line};

/// Beyond it an answer does not come.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// Between two looks at figures that are waited for.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// One figure: `tmws_calls_total{method="tools/call"} 3`.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Its name.
    pub name: String,
    /// Its labels, by name.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

/// All figures of a server at one moment.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// In the order in which they came.
    pub samples: Vec<Sample>,
}

impl Metrics {
    /// Those of an instance, now, with the token of [`ADMIN`].
    ///
    /// # Errors
    /// It does not answer, or with something else.
    pub async fn of(instance: &Instance) -> Result<Self, Broken> {
        Self::at(&Target::of(instance, ADMIN, "personal")).await
    }

    /// Those of the server of `target`, with its token.
    ///
    /// # Errors
    /// As [`Metrics::of`].
    pub async fn at(target: &Target) -> Result<Self, Broken> {
        let (status, text) = get(target, "/metrics").await?;
        if status != 200 {
            return Err(Broken::new("asking for /metrics", "200", format!("{status} {text}")));
        }
        Self::parse(&text).map_err(|line| Broken::new("reading /metrics", "a sample", line))
    }

    /// Asks again and again until `holds`, at longest `within`; the last figures either way, and whether they held.
    ///
    /// # Errors
    /// As [`Metrics::of`].
    pub async fn until(
        instance: &Instance,
        within: Duration,
        holds: impl FnMut(&Self) -> bool,
    ) -> Result<(Self, bool), Broken> {
        until(within, LOOK_EVERY, async || Self::of(instance).await, holds).await
    }

    /// From OpenMetrics, or the text format of Prometheus.
    ///
    /// # Errors
    /// The first line that is neither a comment nor a sample.
    pub fn parse(text: &str) -> Result<Self, String> {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let samples =
            lines.map(|line| sample(line).ok_or_else(|| line.to_owned())).collect::<Result<_, _>>()?;
        Ok(Self { samples })
    }

    /// The sum of all samples called `name` that carry all of `labels`; `None` where there is none.
    #[must_use]
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let carries = |sample: &&Sample| {
            sample.name == name
                && labels
                    .iter()
                    .all(|(label, value)| sample.labels.get(*label).is_some_and(|seen| seen == value))
        };
        let mut found = self.samples.iter().filter(carries).peekable();
        found.peek()?;
        Some(found.map(|sample| sample.value).sum())
    }

    /// The same; 0 where there is none: what was not needed yet has no figures.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.value(name, labels).unwrap_or(0.0)
    }

    /// All values of the label `label` of the samples called `name`, and each one's sum.
    #[must_use]
    pub fn by(&self, name: &str, label: &str) -> BTreeMap<String, f64> {
        let mut sums = BTreeMap::new();
        for sample in self.samples.iter().filter(|sample| sample.name == name) {
            if let Some(value) = sample.labels.get(label) {
                *sums.entry(value.clone()).or_insert(0.0) += sample.value;
            }
        }
        sums
    }
}

/// Asks the server of `target` for `path`, on a connection of its own: the status, and the body as text.
///
/// # Errors
/// Nobody answers in time.
pub async fn get(target: &Target, path: &str) -> Result<(u16, String), Broken> {
    let broken = |seen: &dyn std::fmt::Display| Broken::new(format!("asking for {path}"), "an answer", seen);
    let exchange = async {
        let mut request = Request::get(path).header("host", target.authority()).header("connection", "close");
        if let Some(token) = &target.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        for (name, value) in &target.headers {
            request = request.header(name, value);
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|error| broken(&error))?;
        let dialer = Dialer::new(target.is_tls).map_err(|error| broken(&error))?;
        let stream = dialer.dial(&target.host, target.port).await.map_err(|error| broken(&error))?;
        let (mut sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
        let driving = tokio::spawn(connection);
        let answer = sender.send_request(request).await.map_err(|error| broken(&error))?;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.map_err(|error| broken(&error))?.to_bytes();
        // The connection is gone before the next look counts connections.
        drop(sender);
        let _ = driving.await;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    timeout(ANSWER_MAX, exchange).await.unwrap_or_else(|_| Err(broken(&format!("nothing in {ANSWER_MAX:?}"))))
}

fn sample(line: &str) -> Option<Sample> {
    let read = line::read(line)?;
    Some(Sample { name: read.name.to_owned(), labels: read.labels.into_iter().collect(), value: read.value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read_with_their_labels() {
        let text = "# TYPE a counter\na_total{method=\"x\",code=\"a \\\"b\\\"\\n}\"} 3 1.5\na_total{method=\"y\"} 4\n\
                    b 2.5 # {t=\"1\"} 1\nc +Inf\n# EOF\n";
        let metrics = Metrics::parse(text).expect("it is well-formed");
        assert_eq!(metrics.samples.len(), 4);
        assert_eq!(metrics.value("a_total", &[]), Some(7.0));
        assert_eq!(metrics.value("a_total", &[("code", "a \"b\"\n}")]), Some(3.0));
        assert_eq!(metrics.value("a_total", &[("method", "z")]), None);
        assert_eq!(metrics.sum("b", &[]).to_string(), "2.5");
        assert!(metrics.sum("c", &[]).is_infinite());
        assert_eq!(metrics.by("a_total", "method").get("y"), Some(&4.0));
    }

    #[test]
    fn what_is_no_sample_is_told() {
        for line in ["a", "a{b=\"c} 1", "a{b} 1", "a x"] {
            assert_eq!(Metrics::parse(line).err().as_deref(), Some(line));
        }
    }
}
