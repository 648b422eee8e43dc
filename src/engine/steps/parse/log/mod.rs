//! Logs of any kind: events, their levels, and what repeats.
//!
//! An event is a line with what belongs to it: the lines of a stack trace, and lines that are indented. Events whose
//! text is the same but for numbers, ids, times, paths and quoted values are one cluster.

mod event;
mod line;
mod status;
mod template;

use std::{borrow::Cow, collections::HashMap};

use serde_json::{Map, Value};

use self::{event::Event, line::Read, template::template};
use super::{
    lines::{Lines, after_time, head},
    put,
};

/// Most clusters kept; events of others are counted in their level only.
const CLUSTERS_MAX: usize = 5000;
/// Longest sample, in bytes.
const SAMPLE_BYTES_MAX: usize = 600;

/// How bad an event is; the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Level {
    Fatal,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
    /// It does not say.
    Other,
}

impl Level {
    const ALL: [Self; 7] =
        [Self::Fatal, Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace, Self::Other];

    const fn word(self) -> &'static str {
        match self {
            Self::Fatal => "fatal",
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
            Self::Other => "other",
        }
    }

    /// Of a word in any case.
    fn of(word: &str) -> Option<Self> {
        if word.len() > 9 {
            return None;
        }
        Some(match word.to_ascii_lowercase().as_str() {
            "fatal" | "panic" | "emerg" | "alert" | "crit" | "critical" | "emergency" | "dpanic" => {
                Self::Fatal
            }
            "error" | "err" | "severe" | "eror" => Self::Error,
            "warn" | "warning" | "wrn" => Self::Warn,
            "info" | "notice" | "inf" | "log" | "note" => Self::Info,
            "debug" | "dbg" | "fine" | "debu" => Self::Debug,
            "trace" | "verbose" | "trc" | "finer" | "finest" | "silly" => Self::Trace,
            _ => return None,
        })
    }
}

struct Cluster {
    n: u64,
    level: Level,
    template: String,
    sample: String,
    first: usize,
    last: usize,
    first_time: Option<String>,
    last_time: Option<String>,
    place: Option<String>,
}

/// What a log holds.
#[derive(Default)]
pub(super) struct Report {
    lines: usize,
    events: u64,
    from: Option<String>,
    to: Option<String>,
    levels: [u64; Level::ALL.len()],
    clusters: Vec<Cluster>,
    by_key: HashMap<(Level, String), usize>,
    dropped: bool,
    skipped: bool,
}

/// Reads `text`.
pub(super) fn parse(text: &str) -> Report {
    let lines = Lines::with_times(text);
    let mut report =
        Report { lines: lines.all.len() + lines.skipped, skipped: lines.skipped > 0, ..Report::default() };
    let mut open: Option<Event<'_>> = None;
    let mut time = None;
    for (index, line) in lines.all.iter().enumerate() {
        let number = lines.skipped + index + 1;
        let rest = after_time(line).unwrap_or(line);
        let stamp = &line[..line.len() - rest.len()];
        if let Some(event) = &mut open
            && event.takes(rest)
        {
            event.push(rest);
            continue;
        }
        if rest.trim().is_empty() {
            continue;
        }
        // Java's own logger says the time in a line of its own.
        if let Some(said) = line::java_time(rest) {
            time = Some(said);
            continue;
        }
        if let Some(event) = open.take() {
            report.add(&event);
        }
        let mut read = line::read(rest);
        let stamp = Some(stamp.trim_end()).filter(|stamp| !stamp.is_empty());
        read.time = read.time.or(time.take().or(stamp).map(Cow::Borrowed));
        open = Some(Event::begin(number, rest, read));
    }
    if let Some(event) = open {
        report.add(&event);
    }
    report
}

impl Report {
    fn add(&mut self, event: &Event<'_>) {
        self.events += 1;
        let level = event.level();
        self.levels[level as usize] += 1;
        let time = event.time().map(str::to_owned);
        if let Some(time) = &time {
            if self.from.is_none() {
                self.from = Some(time.clone());
            }
            self.to = Some(time.clone());
        }
        let template = template(&event.subject());
        let key = (level, template);
        if let Some(index) = self.by_key.get(&key) {
            let cluster = &mut self.clusters[*index];
            cluster.n += 1;
            cluster.last = event.number;
            if time.is_some() {
                cluster.last_time = time;
            }
            return;
        }
        if self.clusters.len() == CLUSTERS_MAX {
            self.dropped = true;
            return;
        }
        self.clusters.push(Cluster {
            n: 1,
            level,
            template: key.1.clone(),
            sample: shorten(&event.sample()),
            first: event.number,
            last: event.number,
            first_time: time.clone(),
            last_time: time,
            place: event.place(),
        });
        self.by_key.insert(key, self.clusters.len() - 1);
    }

    /// As the step gives it: the worst level first, then what is most frequent.
    pub(super) fn into_value(mut self, limit: usize) -> Value {
        self.clusters.sort_by(|a, b| (a.level, b.n, a.first).cmp(&(b.level, a.n, b.first)));
        let n = self.clusters.len();
        let mut members = Map::new();
        members.insert("lines".into(), self.lines.into());
        members.insert("events".into(), self.events.into());
        put(&mut members, "from", self.from);
        put(&mut members, "to", self.to);
        let levels: Map<String, Value> = Level::ALL
            .iter()
            .filter(|level| self.levels[**level as usize] > 0)
            .map(|level| (level.word().to_owned(), self.levels[*level as usize].into()))
            .collect();
        members.insert("levels".into(), levels.into());
        let shown: Vec<Value> = self.clusters.into_iter().take(limit).map(Cluster::into_value).collect();
        members.insert("clusters".into(), shown.into());
        members.insert("clusters_n".into(), n.into());
        members.insert("truncated".into(), (n > limit || self.dropped || self.skipped).into());
        Value::Object(members)
    }
}

impl Cluster {
    fn into_value(self) -> Value {
        let mut members = Map::new();
        members.insert("n".into(), self.n.into());
        members.insert("level".into(), self.level.word().into());
        members.insert("template".into(), self.template.into());
        members.insert("sample".into(), self.sample.into());
        members.insert("first".into(), self.first.into());
        members.insert("last".into(), self.last.into());
        put(&mut members, "first_time", self.first_time);
        put(&mut members, "last_time", self.last_time.filter(|_| self.n > 1));
        put(&mut members, "where", self.place);
        Value::Object(members)
    }
}

fn shorten(text: &str) -> String {
    let kept = head(text, SAMPLE_BYTES_MAX);
    if kept.len() == text.len() { text.to_owned() } else { format!("{kept}…") }
}

/// What one line says: kept apart so that a structured line reads like any other.
type Message<'a> = Cow<'a, str>;

#[cfg(test)]
mod tests {
    use super::*;

    fn clusters(text: &str) -> Vec<(u64, &'static str, String)> {
        let mut report = parse(text);
        report.clusters.sort_by_key(|cluster| (cluster.level, cluster.first));
        report
            .clusters
            .iter()
            .map(|cluster| (cluster.n, cluster.level.word(), cluster.template.clone()))
            .collect()
    }

    #[test]
    fn lines_of_many_forms_have_their_level_and_template() {
        for (text, expected) in [
            (
                "2026-01-02T03:04:05.123Z ERROR db: connection 17 to 10.0.0.3:5432 failed after 30ms\n\
                 2026-01-02T03:04:06.001Z ERROR db: connection 18 to 10.0.0.4:5432 failed after 31ms",
                (2, "error", "ERROR db: connection <n> to <ip> failed after <n>ms"),
            ),
            (
                r#"{"level":50,"time":1767322800000,"pid":1,"hostname":"h","msg":"request 7 failed"}"#,
                (1, "error", "request <n> failed"),
            ),
            (
                r#"{"timestamp":"2026-01-02T03:04:05Z","level":"WARN","fields":{"message":"slow query"},"target":"db"}"#,
                (1, "warn", "db: slow query"),
            ),
            ("time=\"2026-01-02\" level=error msg=\"no host \\\"a\\\"\" id=7", (1, "error", "no host <q>")),
            (
                "Jan  2 03:04:05 host sshd[123]: error: kex 9 closed",
                (1, "error", "host sshd[<n>]: error: kex <n> closed"),
            ),
            (
                "[2026-01-02 03:04:05,678] [WARNING] disk /var/lib/x is 91% full",
                (1, "warn", "[WARNING] disk <path> is <n>% full"),
            ),
            ("E0102 03:04:05.000000 1 main.go:12] lost 5", (1, "error", "<n> main.go:<n>] lost <n>")),
            (
                "2026-01-02T03:04:05.1234567Z ##[error]Process completed with exit code 1.",
                (1, "error", "##[error]Process completed with exit code <n>."),
            ),
            (
                "1.2.3.4 - - [02/Jan/2026:03:04:05 +0000] \"GET /a/7 HTTP/1.1\" 503 12",
                (1, "error", "<ip> - - [<time>] <q> 503 <n>"),
            ),
            // A number is a status only where the line says so.
            (
                "ERROR upstream timed out after 350 ms\nERROR upstream timed out after 450 ms\n\
                 ERROR upstream timed out after 550 ms",
                (3, "error", "ERROR upstream timed out after <n> ms"),
            ),
            ("ERROR job 399 failed\nERROR job 400 failed", (2, "error", "ERROR job <n> failed")),
            (
                "ERROR GET /a/7 -> 502 in 450 ms\nERROR GET /a/8 -> 502 in 31 ms",
                (2, "error", "ERROR GET <path> -> 502 in <n> ms"),
            ),
            ("all is well", (1, "other", "all is well")),
            ("0 errors, 3 warnings", (1, "other", "<n> errors, <n> warnings")),
        ] {
            let (n, level, template) = expected;
            assert_eq!(clusters(text), [(n, level, template.to_owned())], "{text}");
        }
    }

    #[test]
    fn a_stack_trace_is_one_event() {
        for (text, n, place) in [
            (
                "ERROR failed\nTraceback (most recent call last):\n  File \"/a/b.py\", line 3, in f\n    g()\nValueError: no\nINFO on",
                2,
                "/a/b.py:3",
            ),
            (
                "Traceback (most recent call last):\n  File \"a.py\", line 1, in <module>\nKeyError: 'x'\n\nDuring handling of the above exception, another exception occurred:\n\nTraceback (most recent call last):\n  File \"a.py\", line 9, in <module>\nValueError: y\nnext",
                2,
                "a.py:9",
            ),
            (
                "2026-01-02 03:04:05 ERROR x\njava.lang.IllegalStateException: no\n\tat a.B.c(B.java:7)\n\tat a.D.e(D.java:9)\nCaused by: java.io.IOException: disk\n\t... 2 more\n2026-01-02 03:04:06 INFO y",
                2,
                "B.java:7",
            ),
            (
                "thread 'main' panicked at src/main.rs:4:5:\nno port\nnote: run with `RUST_BACKTRACE=1` environment variable to display a backtrace\nnext",
                2,
                "src/main.rs:4",
            ),
            (
                "panic: no map\n\ngoroutine 1 [running]:\nmain.f(...)\n\t/app/main.go:9\nmain.main()\n\t/app/main.go:3 +0x1\nexit status 2",
                2,
                "/app/main.go:9",
            ),
            (
                "TypeError: x is undefined\n    at f (/app/a.js:3:5)\n    at node:internal/x:1:1\nok",
                2,
                "/app/a.js:3",
            ),
        ] {
            let report = parse(text);
            assert_eq!(report.events, n, "{text}");
            let found = report.clusters.iter().find_map(|cluster| cluster.place.clone());
            assert_eq!(found.as_deref(), Some(place), "{text}");
        }
    }
}
