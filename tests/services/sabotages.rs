//! Every scenario of `tmws accept` can fail: for each there is a sabotage under which it turns red, and by what it should.
//!
//! A run under each sabotage asks for the scenario and its neighbours alone. With `TMWS_SABOTAGE_WHOLE=1` it asks for all
//! scenarios of the quick profile as well, and every other one must stay green: about an hour and a half, of a release build
//! (`TMWS_SABOTAGE_PROGRAM`).

use std::{env, path::PathBuf};

use tmws::accept::{
    self, Options, Profile,
    runner::{Progress, Run},
    scenario::{Level, Result as Ran, Row as Scenario, Verdict},
    stage::{Given, Sabotage},
    table::SCENARIOS,
};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::sabotage::{Row, rows};

/// Tells nobody.
struct Silent;

impl Progress for Silent {
    fn begins(&self, _: usize, _: usize, _: &Scenario, _: std::time::Duration) {}
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

/// What a run makes it names by its process, and at the end it forgets all of that: one at a time.
static RUNNING: Mutex<()> = Mutex::const_new(());

/// What the scenarios `only` say, with what is made wrong.
async fn run(only: &[&str], given: Given, sabotage: Sabotage) -> Run {
    let _alone = RUNNING.lock().await;
    let folder = tempfile::tempdir().unwrap();
    let options = Options {
        profile: Profile::Quick,
        only: only.iter().map(|&id| id.to_owned()).collect(),
        without: Vec::new(),
        seed: 1,
        report: folder.path().to_owned(),
        previous: None,
        target: None,
        given,
        sabotage,
    };
    accept::run(&options, &Silent, CancellationToken::new()).await.unwrap()
}

async fn seen_to_fail(row: Row) {
    let is_whole = env::var_os("TMWS_SABOTAGE_WHOLE").is_some();
    let asked = [&[row.id], row.neighbours].concat();
    let only = SCENARIOS.iter().map(|scenario| (scenario.id, is_whole && !scenario.is_full_only));
    let only: Vec<&str> =
        only.filter(|(id, is_too)| *is_too || asked.contains(id)).map(|(id, _)| id).collect();
    let run = run(&only, given(), row.sabotage.clone()).await;
    let ran: Vec<&str> = run.results.iter().map(|ran| ran.row.id).collect();
    assert_eq!(ran, only);
    for ran in &run.results {
        let reds = reds(ran);
        if asked.contains(&ran.row.id) {
            let told = (&ran.seen.figures, &ran.seen.evidence);
            assert!(ran.verdict.is_failure(), "{} is green under: {}: {told:#?}", ran.row.id, row.how);
            println!("{} under {}: {reds:#?}", ran.row.id, row.id);
        } else {
            assert!(!ran.verdict.is_failure(), "{} is red under: {}: {reds:#?}", ran.row.id, row.how);
        }
        for wanted in row.red.iter().filter(|_| ran.row.id == row.id) {
            assert!(reds.iter().any(|red| red.starts_with(wanted)), "no {wanted:?} of {}: {reds:#?}", row.id);
        }
    }
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
            seen_to_fail(row).await;
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
async fn a_postgresql_that_is_found_and_has_no_pgvector_is_missing() {
    let given = Given { postgres_url: None, ..given() };
    // Extensions are looked for where none is; PostgreSQL 18 can be told.
    let sabotage =
        Sabotage { postgres_settings: &["extension_control_path=/nowhere"], ..Sabotage::default() };
    for ran in run(&["D4", "D7"], given, sabotage).await.results {
        let why = ran.why.unwrap_or_default();
        assert!(
            ran.verdict == Verdict::Missing && why.contains("the extension vector"),
            "{}: {why}",
            ran.row.id
        );
    }
}
