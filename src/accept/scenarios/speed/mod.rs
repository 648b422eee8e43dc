//! P: How fast, and at what cost.

mod latency;
mod rate;
mod resources;
mod tokens;

use crate::accept::{
    client::{Client, MODERN, Target},
    scenario::{Broken, Row, Seen},
    stage::{AGENTS, Database, Instance, Postgres, Setup, Stage, Where},
    workload,
};

/// Runs one of them.
///
/// # Errors
/// What broke it off.
pub(super) async fn run(row: &'static Row, stage: &Stage, seen: &mut Seen) -> Result<(), Broken> {
    match row.id {
        "P1" => latency::by_type(stage, seen).await,
        "P2" => latency::end_to_end(stage, seen).await,
        "P3" => rate::sustained(stage, seen).await,
        "P4" => rate::crowd(stage, seen).await,
        "P5" => tokens::reduction(stage, seen).await,
        "P6" => resources::under_load(stage, seen).await,
        _ => Err(Broken::new(row.title, "a scenario", "this release does not run it")),
    }
}

/// A server on a database of its own and with a Redis, its workspace and memories prepared.
struct Deployment {
    instance: Instance,
    database: Database,
    target: Target,
}

impl Deployment {
    async fn new(stage: &Stage, of: &str) -> Result<Self, Broken> {
        let database = stage.postgres().await?.database(&stage.name(of)).await?;
        let redis = stage.redis().await?;
        let setup = Setup {
            store: Where::Database(database.url.clone()),
            redis: Some(redis.url().to_owned()),
            ..workload::setup()
        };
        let instance = stage.start(setup).await?;
        workload::prepare(stage, &instance, workload::MEMORIES).await?;
        let target = Target::of(&instance, AGENTS[0], "alpha");
        Ok(Self { instance, database, target })
    }

    async fn client(&self, name: &str) -> Result<Client, Broken> {
        Client::socket(name, &self.target, MODERN).await
    }

    /// So many connections.
    async fn clients(&self, many: usize) -> Result<Vec<Client>, Broken> {
        let mut clients = Vec::with_capacity(many);
        for number in 0..many {
            clients.push(self.client(&format!("worker {number}")).await?);
        }
        Ok(clients)
    }

    /// Ends the server, which has to go well, and removes its database.
    async fn end(mut self, stage: &Stage) -> Result<(), Broken> {
        self.instance.end().await?;
        Postgres::drop(stage.postgres().await?, &self.database).await
    }
}
