//! `tmws accept`: runs the scenarios, writes the report, and says GO or NO-GO.

use std::{
    env,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::AbortHandle,
};
use tokio_util::sync::CancellationToken;

use super::{Failure, Output, arguments, progress::Progress as Line};
use crate::{
    accept::{
        self, AcceptError, Options, Profile, Run,
        report::{self, Previous, Secrets},
        runner::Progress,
        scenario::{Need, Result as Ran, Row},
        stage::{Given, Sabotage},
    },
    exit::Exit,
};

const ACTION: &str = "run the acceptance scenarios";
/// What is drawn where no seed is given: two runs ask the same.
const SEED: u64 = 1;
/// The time left is told anew.
const TICK: Duration = Duration::from_secs(1);
/// Longest that a signal waits for what the run started to be gone.
const CLEAR_MAX: Duration = Duration::from_mins(1);

/// Runs the command.
///
/// # Errors
/// The failure, with exit code; a NO-GO is none.
pub(super) async fn run(arguments: arguments::Accept, output: &mut Output) -> Result<Exit, Failure> {
    let is_strict = arguments.strict;
    let options = options(arguments)?;
    let failure = |error: AcceptError| match error {
        AcceptError::Option(why) => Failure::new(Exit::Usage, ACTION, why),
        AcceptError::File { .. } => Failure::new(Exit::Failed, ACTION, error.to_string()),
        AcceptError::Unfit(_) => Failure::new(Exit::Software, "write the report", error.to_string()),
    };
    // What cannot be compared is told before minutes have passed.
    let previous = options.previous.as_deref().map(Previous::read).transpose().map_err(failure)?;
    let cancel = CancellationToken::new();
    watch_signals(&cancel)?;
    let told = Told::begin(&options);
    let run = accept::run(&options, &*told, cancel).await;
    told.end();
    let run = run.map_err(failure)?;
    let given = &options.given;
    let urls = [&given.postgres_url, &given.redis_url].into_iter().flatten();
    let token = options.target.as_ref().and_then(|(_, token)| token.as_ref());
    let secrets = Secrets::new(urls.chain(token).map(String::as_str));
    let page = report::write(&run, &secrets, previous.as_ref(), &options.report).map_err(failure)?;
    let page = page.display().to_string();
    let exit = if run.decided.exit_code(is_strict) == 0 { Exit::Ok } else { Exit::Failed };
    if output.is_json() {
        output.json(&summary(&run, &secrets, &page, exit))?;
    } else {
        conclude(&run, &secrets, &page, output)?;
    }
    Ok(exit)
}

/// Serves as the fixture server, for the run that started this process.
///
/// # Errors
/// It cannot.
pub(super) fn fixture(place: &str) -> Result<Exit, Failure> {
    let action = "serve as the fixture server";
    let served = match (place, place.parse()) {
        ("stdio", _) => accept::fixture::serve_stdio(),
        (_, Ok(address)) => accept::fixture::serve_network(address),
        (_, Err(_)) => {
            return Err(Failure::new(
                Exit::Usage,
                action,
                format!("{place} is neither `stdio` nor an address"),
            ));
        }
    };
    served.map(|()| Exit::Ok).map_err(|error| Failure::new(Exit::Failed, action, error.to_string()))
}

/// The first signal ends the run, which clears away what it started and writes its report; the second ends the process.
/// What that leaves the next run clears away.
fn watch_signals(cancel: &CancellationToken) -> Result<(), Failure> {
    let watched = [SignalKind::interrupt(), SignalKind::terminate()];
    let (sender, mut signals) = tokio::sync::mpsc::channel::<()>(4);
    for kind in watched {
        let mut caught = signal(kind).map_err(|error| Failure::of_io("watch for signals", &error))?;
        let sender = sender.clone();
        tokio::spawn(async move { while caught.recv().await.is_some() && sender.send(()).await.is_ok() {} });
    }
    let cancel = cancel.clone();
    tokio::spawn(async move {
        if signals.recv().await.is_some() {
            cancel.cancel();
            let _ = tokio::time::timeout(CLEAR_MAX, signals.recv()).await;
            std::process::exit(i32::from(Exit::Failed.code()));
        }
    });
    Ok(())
}

/// For people: the decision, why, what failed, and where the report is.
fn conclude(run: &Run, secrets: &Secrets, page: &str, output: &mut Output) -> Result<(), Failure> {
    for result in run.results.iter().filter(|result| result.verdict.is_failure()) {
        let row = result.row;
        output.line(&format!("{:<4}{} {}", row.id, result.verdict.name(), row.title))?;
        for (name, value) in &result.seen.figures {
            if let Some(figure) = row
                .figure(name)
                .filter(|figure| figure.level(*value) == crate::accept::scenario::Level::Critical)
            {
                output.line(&format!("      {name} {}", report::with_unit(*value, figure.unit)))?;
            }
        }
        for check in result.seen.checks.iter().filter(|check| !check.held) {
            let text = format!("{}: expected {}, seen {}", check.what, check.expected, check.seen);
            output.line(&format!("      {}", short(&secrets.hidden(&text))))?;
        }
        if let Some(why) = result.why.as_ref().filter(|_| result.seen.checks.iter().all(|check| check.held)) {
            output.line(&format!("      {}", short(&secrets.hidden(why))))?;
        }
    }
    output.line(&report::standing(run))?;
    for reason in &run.decided.reasons {
        output.line(&format!("  {}", secrets.hidden(reason)))?;
    }
    output.line(&format!(
        "{} of {} passed in {}, profile {}, seed {}",
        run.decided.passed,
        run.asked,
        report::duration(run.elapsed),
        run.profile.name(),
        run.seed
    ))?;
    output.line(&format!("report: {page}"))
}

/// One line, and not too much of it: the report has the rest.
fn short(text: &str) -> String {
    const MAX: usize = 400;
    let line: String = text.chars().take(MAX).map(|c| if c == '\n' { ' ' } else { c }).collect();
    if line.len() < text.len() { format!("{line}…") } else { line }
}

/// For machines.
fn summary(run: &Run, secrets: &Secrets, page: &str, exit: Exit) -> serde_json::Value {
    let reasons: Vec<String> = run.decided.reasons.iter().map(|reason| secrets.hidden(reason)).collect();
    let scenarios: serde_json::Map<_, _> =
        run.results.iter().map(|result| (result.row.id.to_owned(), json!(result.verdict.name()))).collect();
    json!({
        "decision": run.decided.decision.to_string(),
        "reasons": reasons,
        "is_partial": run.decided.is_partial,
        "is_interrupted": run.is_interrupted,
        "passed": run.decided.passed,
        "asked": run.asked,
        "profile": run.profile.name(),
        "seed": run.seed,
        "elapsed_seconds": run.elapsed.as_secs_f64(),
        "scenarios": scenarios,
        "report": page,
        "exit_code": exit.code(),
    })
}

fn options(arguments: arguments::Accept) -> Result<Options, Failure> {
    let tmws = env::current_exe().map_err(|error| Failure::of_io("find this program", &error))?;
    Ok(Options {
        profile: match arguments.profile {
            arguments::AcceptProfile::Quick => Profile::Quick,
            arguments::AcceptProfile::Full => Profile::Full,
        },
        only: arguments.only,
        without: arguments
            .without
            .iter()
            .map(|waived| match waived {
                arguments::Waived::Postgres => Need::Postgres,
                arguments::Waived::Redis => Need::Redis,
            })
            .collect(),
        seed: arguments.seed.unwrap_or(SEED),
        slack: arguments.slack.unwrap_or(1),
        report: arguments.report,
        previous: arguments.previous,
        target: arguments.target.map(|url| (url, arguments.token)),
        given: Given {
            tmws,
            path: env::var_os("PATH").unwrap_or_default(),
            postgres_url: arguments.postgres,
            postgres_bin: arguments.postgres_bin,
            redis_url: arguments.redis,
            redis_bin: arguments.redis_bin,
        },
        sabotage: Sabotage::default(),
    })
}

/// How far the run is, on stderr: one line that is renewed on a terminal, lines elsewhere.
struct Told {
    state: Mutex<State>,
    ticking: Mutex<Option<AbortHandle>>,
}

struct State {
    line: Line,
    /// What runs: its place, how many there are, its name.
    now: Option<(usize, usize, String)>,
    /// About when the run ends.
    end: Instant,
}

impl Told {
    fn begin(options: &Options) -> Arc<Self> {
        let mut line = Line::new(true);
        line.stay(&format!(
            "accept: profile {}, seed {}, report in {}",
            options.profile.name(),
            options.seed,
            options.report.display()
        ));
        let is_terminal = line.is_terminal();
        let state = Mutex::new(State { line, now: None, end: Instant::now() });
        let told = Arc::new(Self { state, ticking: Mutex::default() });
        if is_terminal {
            let ticker = Arc::downgrade(&told);
            let ticking = tokio::spawn(async move {
                let mut ticks = tokio::time::interval(TICK);
                loop {
                    ticks.tick().await;
                    let Some(told) = ticker.upgrade() else { return };
                    told.state().show();
                }
            });
            *told.ticking.lock().unwrap_or_else(PoisonError::into_inner) = Some(ticking.abort_handle());
        }
        told
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The line goes; the answer takes its place.
    fn end(&self) {
        if let Some(ticking) = self.ticking.lock().unwrap_or_else(PoisonError::into_inner).take() {
            ticking.abort();
        }
        let mut state = self.state();
        state.now = None;
        state.line.clear();
    }
}

impl State {
    fn show(&mut self) {
        const WIDTH: usize = 20;
        let Some((number, of, name)) = &self.now else { return };
        let done = (number - 1) * WIDTH / of.max(&1);
        let left = report::duration(self.end.saturating_duration_since(Instant::now()));
        let (full, empty) = ("#".repeat(done), "-".repeat(WIDTH - done));
        self.line.tell(|| format!("[{full}{empty}] {number}/{of}, about {left} left: {name}"));
    }
}

impl Progress for Told {
    fn begins(&self, number: usize, of: usize, row: &Row, left: Duration) {
        let mut state = self.state();
        let name = format!("{} {}", row.id, row.title);
        state.end = Instant::now() + left;
        if !state.line.is_terminal() {
            state.line.stay(&format!("{number}/{of} {name} (about {} left)", report::duration(left)));
        }
        state.now = Some((number, of, name));
        if state.line.is_terminal() {
            state.show();
        }
    }

    fn ended(&self, result: &Ran) {
        if result.verdict.is_failure() {
            let (row, took) = (result.row, report::duration(result.elapsed));
            self.state().line.stay(&format!("{} {}: {} ({took})", row.id, row.title, result.verdict.name()));
        }
    }
}
