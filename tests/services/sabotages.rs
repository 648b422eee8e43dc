//! Every scenario of `tmws accept` can fail: for each there is a sabotage under which it turns red, and by what it should.
//!
//! A run under each sabotage asks for its scenario alone. With `TMWS_SABOTAGE_BESIDE=*` it asks for all scenarios of the
//! quick profile as well, and every other one must stay green: about two hours, of a release build
//! (`TMWS_SABOTAGE_PROGRAM`). `TMWS_SABOTAGE_BESIDE=M7,W*` asks for these beside.

use std::{
    env,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tmws::accept::{
    self, Options, Profile,
    proxy::{Proxy, Way},
    runner::{Progress, Run},
    scenario::{Level, Result as Ran, Row as Scenario, Verdict},
    stage::{Given, Sabotage},
    table::{SCENARIOS, chosen},
};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::sabotage::{Row, rows};

/// Tells nobody.
struct Silent;

impl Progress for Silent {
    fn begins(&self, _: usize, _: usize, _: &Scenario, _: Duration) {}
    fn ended(&self, _: &Ran) {}
}

fn given() -> Given {
    let variable = |name: &str| {
        env::var(name).unwrap_or_else(|_| panic!("{name}: run this by `scripts/redis scripts/postgres`"))
    };
    let program = env::var_os("TMWS_SABOTAGE_PROGRAM");
    Given {
        tmws: program.map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_tmws")), PathBuf::from),
        path: env::var_os("PATH").unwrap_or_default(),
        postgres_url: Some(variable("TMWS_TEST_POSTGRES_URL")),
        postgres_bin: Some(variable("TMWS_TEST_POSTGRES_BIN").into()),
        redis_url: Some(variable("TMWS_TEST_REDIS_URL")),
        redis_bin: Some(variable("TMWS_TEST_REDIS_BIN").into()),
    }
}

/// What of a scenario was red: figures by their names, then what did not hold, then why it broke off.
fn reds(ran: &Ran) -> Vec<String> {
    let figures = ran.seen.figures.iter().filter(|(name, value)| {
        ran.row.figure(name).is_none_or(|figure| figure.level(*value) == Level::Critical)
    });
    let figures = figures.map(|(name, value)| format!("{name} {value}"));
    let checks = ran.seen.checks.iter().filter(|check| !check.held);
    let checks =
        checks.map(|check| format!("{}: expected {}, seen {}", check.what, check.expected, check.seen));
    figures.chain(checks).chain(ran.why.clone()).collect()
}

/// Runs at the same time: they wait more than they compute, and one that has the machine for itself counts for all.
const AT_ONCE: u32 = 3;
static ROOM: Semaphore = Semaphore::const_new(AT_ONCE as usize);

/// What the scenarios `only` say, with what is made wrong.
async fn run(only: &[&str], given: Given, sabotage: Sabotage, is_alone: bool) -> Run {
    let _room = ROOM.acquire_many(if is_alone { AT_ONCE } else { 1 }).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let options = Options {
        profile: Profile::Quick,
        only: only.iter().map(|&id| id.to_owned()).collect(),
        without: Vec::new(),
        seed: 1,
        slack: 1,
        report: folder.path().to_owned(),
        previous: None,
        target: None,
        given,
        sabotage,
    };
    accept::run(&options, &Silent, CancellationToken::new()).await.unwrap()
}

/// Asks for the scenario of `row`, and for those `beside`, under its sabotage: it is red by what it should be, and they are
/// not.
async fn seen_to_fail(row: Row, beside: &[&str]) {
    let asked = SCENARIOS.iter().map(|scenario| scenario.id);
    let asked: Vec<&str> = asked.filter(|id| *id == row.id || beside.contains(id)).collect();
    let run = run(&asked, given(), row.sabotage.clone(), row.is_alone || beside.len() > 1).await;
    let ran: Vec<&str> = run.results.iter().map(|ran| ran.row.id).collect();
    assert_eq!(ran, asked);
    for ran in &run.results {
        let reds = reds(ran);
        if ran.row.id != row.id {
            assert!(!ran.verdict.is_failure(), "{} is red under: {}: {reds:#?}", ran.row.id, row.how);
            continue;
        }
        let told = (&ran.seen.figures, &ran.seen.evidence);
        assert!(ran.verdict.is_failure(), "{} is green under: {}: {told:#?}", row.id, row.how);
        println!("{} in {:.1?}: {reds:#?}", row.id, ran.elapsed);
        for wanted in row.red {
            assert!(reds.iter().any(|red| red.starts_with(wanted)), "no {wanted:?} of {}: {reds:#?}", row.id);
        }
    }
}

/// What is asked for beside, by `TMWS_SABOTAGE_BESIDE`: ids and beginnings of ids, as `tmws accept --only` takes them.
fn beside() -> Vec<&'static str> {
    let Ok(said) = env::var("TMWS_SABOTAGE_BESIDE") else { return Vec::new() };
    let said: Vec<String> = said.split(',').map(str::to_owned).collect();
    let chosen = chosen(&said).unwrap().into_iter().filter(|scenario| !scenario.is_full_only);
    chosen.map(|scenario| scenario.id).collect()
}

/// Runs the sabotage of each scenario as a test of its own.
macro_rules! seen_to_fail {
    ($($id:ident)*) => {
        /// Those that have one.
        const TESTED: &[&str] = &[$(stringify!($id)),*];
        $(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $id() {
            let id = stringify!($id).to_uppercase();
            let row = rows().into_iter().find(|row| row.id == id).expect("a sabotage of each scenario");
            seen_to_fail(row, &beside()).await;
        }
        )*
    };
}

seen_to_fail! {
    m1 m2 m3 m4 m5 m6 m7 m8 m9
    w1 w2 w3 w4 w5 w6 w7 w8 w9 w10
    d1 d2 d3 d4 d5 d6 d7 d8
    r1 r2 r3 r4 r5 r6 r7 r8 r9
    p1 p2 p3 p4 p5 p6
    e1 e2 e3 e4 e5
}

#[test]
fn every_scenario_is_tested() {
    let all: Vec<String> = SCENARIOS.iter().map(|scenario| scenario.id.to_lowercase()).collect();
    assert_eq!(TESTED, all);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sabotage_reaches_its_scenario_alone() {
    // Done to every server, it closes the door of those of W4 as well.
    let row = rows().into_iter().find(|row| row.id == "W10").unwrap();
    seen_to_fail(row, &["W4"]).await;
}

/// The connections of W9's load come after those of its calls under way, of the one that is idle, and of a subscription.
const BEFORE_LOAD: usize = 10;
const LOADING: usize = 4;

/// Connections under load open slowly.
fn slow_openings(proxy: &Arc<Proxy>, _: usize) {
    let opened = AtomicUsize::new(0);
    proxy.hold(Some(Arc::new(move |way, piece: &[u8]| {
        let is_late = way == Way::There
            && piece.starts_with(b"GET ")
            && (BEFORE_LOAD..BEFORE_LOAD + LOADING).contains(&opened.fetch_add(1, Ordering::Relaxed));
        if is_late { Duration::from_millis(300) } else { Duration::ZERO }
    })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_is_told_to_end_once_all_of_its_load_runs() {
    let sabotage = Sabotage { clients: Some(slow_openings), ..Sabotage::default() };
    let run = run(&["W9"], given(), sabotage, false).await;
    let [ran] = &run.results[..] else { panic!("{:?}", run.results) };
    assert!(!ran.verdict.is_failure(), "{:#?}", reds(ran));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgresql_that_is_found_and_has_no_pgvector_is_missing() {
    let given = Given { postgres_url: None, ..given() };
    // Extensions are looked for where none is; PostgreSQL 18 can be told.
    let sabotage =
        Sabotage { postgres_settings: &["extension_control_path=/nowhere"], ..Sabotage::default() };
    for ran in run(&["D4", "D7"], given, sabotage, false).await.results {
        let why = ran.why.unwrap_or_default();
        assert!(
            ran.verdict == Verdict::Missing && why.contains("the extension vector"),
            "{}: {why}",
            ran.row.id
        );
    }
}
