//! What a run ran on, and what it was asked for: name and value, without secrets.

use std::fs;

use super::{Options, stage::Stage};

/// The machine, and the versions of what took part.
pub(super) async fn of(stage: &Stage) -> Vec<(String, String)> {
    let mut known = vec![("tmws".to_owned(), env!("CARGO_PKG_VERSION").to_owned())];
    known.extend(stage.versions().await);
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let system = release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map_or_else(|| std::env::consts::OS.to_owned(), |name| name.trim_matches('"').to_owned());
    known.push(("OS".to_owned(), system));
    let kernel = |name| fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap_or_default();
    let kernel = format!("{} {}", kernel("ostype").trim(), kernel("osrelease").trim());
    known.push(("kernel".to_owned(), format!("{} {}", kernel.trim(), std::env::consts::ARCH)));
    let processors = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    known.push(("CPU".to_owned(), format!("{processors} × {}", model().as_deref().unwrap_or("unknown"))));
    if let Some(bytes) = memory() {
        known.push(("memory".to_owned(), format!("{:.1} GB", bytes as f64 / 1e9)));
    }
    if let Ok(load) = fs::read_to_string("/proc/loadavg") {
        let load: Vec<&str> = load.split(' ').take(3).collect();
        known.push(("load at the end (1, 5, 15 min)".to_owned(), load.join(", ")));
    }
    let build = if cfg!(debug_assertions) { "debug: slower than a release" } else { "release" };
    known.push(("build".to_owned(), build.to_owned()));
    known
}

fn model() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.trim().split(' ').next()?.parse::<u64>().ok()? * 1024)
}

/// What was asked for.
pub(super) fn settings(options: &Options) -> Vec<(String, String)> {
    let given = &options.given;
    let server = |url: &Option<String>| {
        url.as_ref().map_or_else(|| "a private one".to_owned(), |url| super::report::without_secrets(url))
    };
    let mut known = vec![("--profile".to_owned(), options.profile.name().to_owned())];
    if !options.only.is_empty() {
        known.push(("--only".to_owned(), options.only.join(",")));
    }
    if !options.without.is_empty() {
        let names: Vec<&str> = options.without.iter().map(|need| need.name()).collect();
        known.push(("--without".to_owned(), names.join(", ")));
    }
    if options.slack > 1 {
        known.push(("--slack".to_owned(), options.slack.to_string()));
    }
    known.push(("--seed".to_owned(), options.seed.to_string()));
    known.push(("--postgres".to_owned(), server(&given.postgres_url)));
    known.push(("--redis".to_owned(), server(&given.redis_url)));
    if let Some((url, _)) = &options.target {
        known.push(("--target".to_owned(), super::report::without_secrets(url)));
    }
    known
}
