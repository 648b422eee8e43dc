//! What a run of `tmws accept` that was killed left on servers which it was given is gone after the next one.

use std::{
    env, fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use sqlx::{Connection as _, PgConnection};

/// A run has come so far within this.
const PATIENCE: Duration = Duration::from_mins(1);

fn accept(only: &str, tmp: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tmws"));
    command
        .args(["accept", "--profile", "quick", "--only", only, "--report"])
        .arg(tmp.join("report"))
        .args(["--postgres", &env::var("TMWS_TEST_POSTGRES_URL").unwrap()])
        .args(["--redis", &env::var("TMWS_TEST_REDIS_URL").unwrap()])
        .env("TMPDIR", tmp)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// Roles that servers of this program made for the databases of the process `pid`: they are of the whole server.
async fn roles(pid: u32) -> Vec<String> {
    let mut database = PgConnection::connect(&env::var("TMWS_TEST_POSTGRES_URL").unwrap()).await.unwrap();
    let roles = "SELECT rolname FROM pg_roles JOIN pg_database d ON rolname = 'tmws_' || d.oid \
                 WHERE starts_with(datname, $1)";
    sqlx::query_scalar(roles).bind(format!("tmws_accept_{pid}_")).fetch_all(&mut database).await.unwrap()
}

/// Which of `roles` are there.
async fn there(roles: &[String]) -> Vec<String> {
    let mut database = PgConnection::connect(&env::var("TMWS_TEST_POSTGRES_URL").unwrap()).await.unwrap();
    let found = sqlx::query_scalar("SELECT rolname FROM pg_roles WHERE rolname = ANY($1)").bind(roles);
    found.fetch_all(&mut database).await.unwrap()
}

/// Databases, and keys in Redis, whose names have what runs of the process `pid` put before all of theirs.
async fn left(pid: u32) -> (Vec<String>, Vec<String>) {
    let mut database = PgConnection::connect(&env::var("TMWS_TEST_POSTGRES_URL").unwrap()).await.unwrap();
    let databases = sqlx::query_scalar("SELECT datname FROM pg_database WHERE starts_with(datname, $1)")
        .bind(format!("tmws_accept_{pid}_"))
        .fetch_all(&mut database)
        .await
        .unwrap();
    let client = redis::Client::open(env::var("TMWS_TEST_REDIS_URL").unwrap()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let pattern = format!("*tmws_accept_{pid}_*");
    let keys = redis::cmd("KEYS").arg(pattern).query_async(&mut connection).await.unwrap();
    (databases, keys)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn databases_and_keys_of_a_killed_run_are_gone_after_the_next() {
    let tmp = tempfile::tempdir().unwrap();
    let mut killed = accept("M1", tmp.path()).spawn().unwrap();
    let pid = killed.id();
    let begun = Instant::now();
    let roles = loop {
        let ((_, keys), roles) = (left(pid).await, roles(pid).await);
        if !roles.is_empty() && !keys.is_empty() {
            break roles;
        }
        assert!(begun.elapsed() < PATIENCE, "{roles:?} {keys:?}");
        assert_eq!(killed.try_wait().unwrap(), None, "it ended before it kept anything in Redis");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    killed.kill().unwrap();
    killed.wait().unwrap();
    let (databases, keys) = left(pid).await;
    assert!(!databases.is_empty() && !keys.is_empty(), "a killed run cannot clear away");
    assert!(accept("W4", tmp.path()).status().unwrap().success());
    assert_eq!(left(pid).await, (Vec::new(), Vec::new()));
    assert_eq!(there(&roles).await, Vec::<String>::new());
    let folders = fs::read_dir(tmp.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(folders.collect::<Vec<_>>(), ["report"]);
}
