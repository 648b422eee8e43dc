//! Runs the scenarios, one after the other, and says how far it is.

use std::{
    panic::AssertUnwindSafe,
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;
use jiff::Timestamp;

use super::{
    AcceptError, Options, Profile,
    client::Target,
    decision::{Asked, Decided},
    environment,
    scenario::{Broken, Need, Result as Ran, Row, Seen, Verdict},
    scenarios,
    stage::Stage,
    table,
};

/// Longest that one scenario may take, beyond a multiple of what it is expected to.
const GRACE: Duration = Duration::from_mins(1);
const OVERRUN: u32 = 4;

/// A run.
#[derive(Clone, Debug)]
pub struct Run {
    /// How much was done.
    pub profile: Profile,
    /// What was drawn from.
    pub seed: u64,
    /// How many times worse times and rates were allowed to be.
    pub slack: u32,
    /// When it began.
    pub begun: Timestamp,
    /// How long it took.
    pub elapsed: Duration,
    /// In the order in which they ran.
    pub results: Vec<Ran>,
    /// What that means.
    pub decided: Decided,
    /// It was interrupted: what was not run is missing from `results`.
    pub is_interrupted: bool,
    /// Scenarios that were asked for.
    pub asked: usize,
    /// What it ran on: name and value.
    pub environment: Vec<(String, String)>,
    /// What it was asked for: option and value, without secrets.
    pub settings: Vec<(String, String)>,
}

/// Told how far a run is.
pub trait Progress: Send + Sync {
    /// A scenario begins; `left` is about how long all that is left takes.
    fn begins(&self, number: usize, of: usize, row: &Row, left: Duration);
    /// It ended.
    fn ended(&self, result: &Ran);
}

/// Runs what `options` ask for, until the end or until `cancel`led.
///
/// # Errors
/// A wrong option, or no place for what the run keeps.
pub async fn run(
    options: &Options,
    progress: &dyn Progress,
    cancel: tokio_util::sync::CancellationToken,
) -> Result<Run, AcceptError> {
    let rows = table::chosen(&options.only).map_err(AcceptError::Option)?;
    if options.slack > 1 && options.profile == Profile::Full {
        let why =
            "--slack goes with --profile quick: what decides is held against the thresholds as they are";
        return Err(AcceptError::Option(why.to_owned()));
    }
    let rows: Vec<&'static Row> = rows
        .into_iter()
        .filter(|row| !row.is_full_only || options.profile == Profile::Full || !options.only.is_empty())
        .map(|row| row.slackened(options.slack))
        .collect();
    let target = options.target.clone().map(|(url, token)| {
        Target::parse(&url, token).map_err(|why| AcceptError::Option(format!("--target {url}: {why}")))
    });
    let target = target.transpose()?;
    let mut stage = Stage::new(options.given.clone(), options.profile, options.seed, cancel.clone())
        .await
        .map_err(|source| AcceptError::File { what: "making a folder for the run".to_owned(), source })?
        .sabotaged(options.sabotage.clone());
    stage.target = target;
    let (begun, clock) = (Timestamp::now(), Instant::now());
    let expected =
        |row: &Row| Duration::from_secs(u64::from(options.profile.pick(row.seconds.0, row.seconds.1)));
    let whole: Duration = rows.iter().map(|row| expected(row)).sum();
    let mut done = Duration::ZERO;
    let mut results = Vec::with_capacity(rows.len());
    for (number, &row) in rows.iter().enumerate() {
        if cancel.is_cancelled() {
            break;
        }
        let left = whole.saturating_sub(done).mul_f64(pace(clock.elapsed(), done));
        progress.begins(number + 1, rows.len(), row, left);
        done += expected(row);
        // What an interruption broke off says nothing of the scenario.
        let Some(result) = one(row, options, &stage, expected(row) * OVERRUN + GRACE).await else { break };
        progress.ended(&result);
        results.push(result);
    }
    let environment = environment::of(&stage).await;
    stage.close().await;
    let is_interrupted = results.len() < rows.len();
    let is_whole = options.target.is_none() && rows.len() == table::SCENARIOS.len();
    let asked = Asked { profile: options.profile, is_whole, scenarios: rows.len(), is_interrupted };
    let decided = Decided::of(&results, asked);
    Ok(Run {
        profile: options.profile,
        seed: options.seed,
        slack: options.slack,
        begun,
        elapsed: clock.elapsed(),
        decided,
        is_interrupted,
        asked: rows.len(),
        results,
        environment,
        settings: environment::settings(options),
    })
}

/// How much slower than expected it goes; where too little was done to say, as expected.
fn pace(took: Duration, expected: Duration) -> f64 {
    const ENOUGH: Duration = Duration::from_secs(10);
    if expected < ENOUGH { 1.0 } else { (took.as_secs_f64() / expected.as_secs_f64()).clamp(0.25, 4.0) }
}

/// `None` where the run was interrupted meanwhile.
async fn one(row: &'static Row, options: &Options, stage: &Stage, longest: Duration) -> Option<Ran> {
    stage.begins(row.id);
    let begun = Instant::now();
    let told = |verdict, why: String| {
        Some(Ran { row, verdict, seen: Seen::default(), why: Some(why), elapsed: begun.elapsed() })
    };
    if options.target.is_some() && !row.is_of_any_server {
        return told(
            Verdict::Waived,
            "it does not apply to a server that is not started by the run".to_owned(),
        );
    }
    if let Some(waived) = row.needs.iter().find(|need| is_waived(**need, &options.without)) {
        return told(Verdict::Waived, format!("{} was waived on the command line", waived.name()));
    }
    // A server that is not there is told as such, not as a failure of what should have used it.
    for need in row.needs {
        let found = match need {
            Need::Postgres => stage.postgres().await.map(drop),
            Need::Redis => stage.redis().await.map(drop),
            Need::OwnPostgres | Need::OwnRedis => Ok(()),
        };
        if let Err(broken) = found {
            return Some(Ran::broken(row, Seen::default(), broken.missing(), begun.elapsed()));
        }
    }
    let mut seen = Seen::default();
    let running = AssertUnwindSafe(scenarios::run(row, stage, &mut seen)).catch_unwind();
    let ended = tokio::select! {
        ended = tokio::time::timeout(longest, running) => ended,
        () = stage.cancel.cancelled() => return None,
    };
    let broken = match ended {
        Ok(Ok(Ok(()))) => return Some(Ran::of(row, seen, begun.elapsed())),
        Ok(Ok(Err(broken))) => broken,
        Ok(Err(_)) => Broken::new(row.title, "an end", "a bug of the run itself: it panicked; see its log"),
        Err(_) => Broken::new(row.title, format!("an end within {longest:?}"), "it still ran"),
    };
    Some(Ran::broken(row, seen, broken, begun.elapsed()))
}

fn is_waived(need: Need, without: &[Need]) -> bool {
    without.iter().any(|waived| match waived {
        Need::Postgres | Need::OwnPostgres => matches!(need, Need::Postgres | Need::OwnPostgres),
        Need::Redis | Need::OwnRedis => matches!(need, Need::Redis | Need::OwnRedis),
    })
}
