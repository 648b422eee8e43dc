//! M: Many agents at once.

mod churn;
mod crowd;
mod greedy;
mod ids;
mod opposite;
mod patterns;
mod pool;
mod register;
mod same;

use crate::accept::{
    client::{Client, MODERN, Target},
    scenario::{Broken, Row, Seen},
    stage::{AGENTS, Database, Instance, Person, Setup, Stage, Where},
};

/// Agents beyond those that every server has, all of the project `alpha`.
const MORE: [Person; 6] = [
    Person { name: "cleo", projects: &["alpha"], is_admin: false },
    Person { name: "dora", projects: &["alpha"], is_admin: false },
    Person { name: "emil", projects: &["alpha"], is_admin: false },
    Person { name: "fay", projects: &["alpha"], is_admin: false },
    Person { name: "gus", projects: &["alpha"], is_admin: false },
    Person { name: "hana", projects: &["alpha"], is_admin: false },
];

/// Runs one of them.
///
/// # Errors
/// What broke it off.
pub(super) async fn run(row: &'static Row, stage: &Stage, seen: &mut Seen) -> Result<(), Broken> {
    match row.id {
        "M1" => crowd::fifty(stage, seen).await,
        "M2" => crowd::two_hundred(stage, seen).await,
        "M3" => same::run(stage, seen).await,
        "M4" => register::run(stage, seen).await,
        "M5" => pool::run(stage, seen).await,
        "M6" => opposite::run(stage, seen).await,
        "M7" => ids::run(stage, seen).await,
        "M8" => greedy::run(stage, seen).await,
        "M9" => churn::run(stage, seen).await,
        _ => Err(Broken::new(row.title, "a scenario", "this release does not run it")),
    }
}

/// Everybody who may work in `alpha`.
fn crew() -> Vec<Person> {
    [AGENTS.to_vec(), MORE.to_vec()].concat()
}

/// A server's settings with a crew, and the patterns that these scenarios call.
fn setup() -> Setup {
    let mut setup = Setup::default();
    setup.people.extend(MORE);
    setup.patterns = patterns::files();
    setup.settings.push(("promote", patterns::PROMOTED.to_owned()));
    setup
}

/// The same over a new database.
async fn over_postgres(stage: &Stage, of: &str, mut setup: Setup) -> Result<(Instance, Database), Broken> {
    let database = stage.postgres().await?.database(&stage.name(of)).await?;
    setup.store = Where::Database(database.url.clone());
    Ok((stage.start(setup).await?, database))
}

/// Ends a server, then removes its database: nobody is connected to it any more.
async fn away(stage: &Stage, mut instance: Instance, database: &Database) -> Result<(), Broken> {
    instance.end().await?;
    stage.postgres().await?.as_ref().drop(database).await
}

/// A client over WebSocket for each number below `count`, as one after the other of the crew.
async fn sockets(instance: &Instance, count: usize) -> Result<Vec<Client>, Broken> {
    let crew = crew();
    let mut clients = Vec::with_capacity(count);
    for number in 0..count {
        let person = crew[number % crew.len()];
        let target = Target::of(instance, person, "alpha");
        clients.push(Client::socket(&format!("{} {number}", person.name), &target, MODERN).await?);
    }
    Ok(clients)
}

/// The first that failed, or what all of `expected` gave.
fn all<T>(what: &str, expected: usize, ended: Vec<Result<T, Broken>>) -> Result<Vec<T>, Broken> {
    if ended.len() < expected {
        let seen = format!("{} of {expected} came to their end", ended.len());
        return Err(Broken::new(what, "every client of the run comes to its end", seen));
    }
    ended.into_iter().collect()
}
