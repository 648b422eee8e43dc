//! A cluster of six servers that loses a master.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::time::sleep;

use super::{KEPT, LOOK_EVERY, USED_MAX, client_in, file, layer, load::Load, setup, stands, used};
use crate::accept::{
    client::Client,
    scenario::{Broken, Seen},
    stage::{Instance, Person, Redis, Stage},
};

/// Masters; each has a replica.
const MASTERS: usize = 3;
/// Slots in all.
const SLOTS: usize = 16_384;
/// The cluster is made within this.
const MADE_MAX: Duration = Duration::from_secs(30);
/// Beyond it nothing comes back.
const BACK_MAX: Duration = Duration::from_secs(40);
/// The master that is killed.
const KILLED: usize = 1;
/// Callers in each project at each instance.
const CALLERS: usize = 2;

struct Cluster {
    servers: Vec<Redis>,
}

impl Cluster {
    /// Three masters, a replica each.
    async fn start(stage: &Stage) -> Result<Self, Broken> {
        let mut servers = Vec::new();
        let mut buses = Vec::new();
        for _ in 0..MASTERS * 2 {
            let bus = stage.free_port()?;
            let lines = [
                "cluster-enabled yes",
                &format!("cluster-port {bus}"),
                "cluster-node-timeout 1500",
                // Else all keys are refused while those of one master are.
                "cluster-require-full-coverage no",
                "repl-diskless-sync-delay 0",
            ];
            servers.push(stage.own_redis(&lines).await?);
            buses.push(bus);
        }
        let cluster = Self { servers };
        for (number, server) in cluster.servers.iter().enumerate() {
            if number < MASTERS {
                let (from, to) = (number * SLOTS / MASTERS, (number + 1) * SLOTS / MASTERS - 1);
                server
                    .ask::<String>(&["CLUSTER", "ADDSLOTSRANGE", &from.to_string(), &to.to_string()])
                    .await?;
            }
            server.ask::<String>(&["CLUSTER", "SET-CONFIG-EPOCH", &(number + 1).to_string()]).await?;
        }
        for (server, bus) in cluster.servers.iter().zip(&buses).skip(1) {
            let port = server.port().unwrap_or_default().to_string();
            cluster.servers[0]
                .ask::<String>(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus.to_string()])
                .await?;
        }
        cluster
            .until("all know each other", async |server| {
                Ok(server.ask::<String>(&["CLUSTER", "NODES"]).await?.lines().count() == MASTERS * 2)
            })
            .await?;
        for number in 0..MASTERS {
            let master: String = cluster.servers[number].ask(&["CLUSTER", "MYID"]).await?;
            let replica = &cluster.servers[MASTERS + number];
            let begun = Instant::now();
            while let Err(broken) = replica.ask::<String>(&["CLUSTER", "REPLICATE", &master]).await {
                if begun.elapsed() > MADE_MAX {
                    return Err(broken);
                }
                sleep(LOOK_EVERY).await;
            }
        }
        cluster
            .until("the cluster works", async |server| {
                let told: String = server.ask(&["CLUSTER", "INFO"]).await?;
                let nodes: String = server.ask(&["CLUSTER", "NODES"]).await?;
                let replicas = nodes.lines().filter(|line| line.contains("slave")).count();
                let follows: String = server.ask(&["INFO", "replication"]).await?;
                Ok(told.contains("cluster_state:ok")
                    && replicas == MASTERS
                    && !follows.contains("master_link_status:down"))
            })
            .await?;
        Ok(cluster)
    }

    /// Waits until it is so at each of its servers.
    async fn until(
        &self,
        what: &str,
        is_so: impl AsyncFn(&Redis) -> Result<bool, Broken>,
    ) -> Result<(), Broken> {
        let begun = Instant::now();
        for server in &self.servers {
            while !is_so(server).await? {
                if begun.elapsed() > MADE_MAX {
                    let nodes: String = server.ask(&["CLUSTER", "NODES"]).await?;
                    return Err(Broken::new(
                        "making a cluster",
                        format!("{what} within {MADE_MAX:?}"),
                        nodes,
                    ));
                }
                sleep(LOOK_EVERY).await;
            }
        }
        Ok(())
    }

    /// Names two of them; the others are found.
    fn url(&self) -> String {
        let place = |number: usize| format!("127.0.0.1:{}", self.servers[number].port().unwrap_or_default());
        format!("redis+cluster://{},{}", place(0), place(4))
    }

    /// A project for each master, whose entries it holds.
    async fn projects(&self, stage: &Stage) -> Result<[&'static str; MASTERS], Broken> {
        let mut found = [None; MASTERS];
        // Each name lies at each master alike; so many that all miss one of them there are not.
        for name in stage.projects("r8", 64) {
            let slot: usize = self.servers[0].ask(&["CLUSTER", "KEYSLOT", name]).await?;
            let master = (0..MASTERS).find(|number| slot < (number + 1) * SLOTS / MASTERS);
            if let Some(place) = master.and_then(|master| found.get_mut(master)) {
                place.get_or_insert(*name);
            }
            if let [Some(first), Some(second), Some(third)] = found {
                return Ok([first, second, third]);
            }
        }
        Err(Broken::new("looking for projects", "one for each master", format!("{found:?}")))
    }
}

/// R8. Callers at two instances, in a project at each master, go on while the second master is killed; until an answer in
/// its project that one instance made is found by the other.
pub(super) async fn failover(stage: &Stage, seen: &mut Seen) -> Result<(), Broken> {
    let phase = stage.profile.pick(Duration::from_millis(1500), Duration::from_secs(6));
    let begun = Instant::now();
    let mut cluster = Cluster::start(stage).await?;
    let made = begun.elapsed();
    let projects = cluster.projects(stage).await?;
    let ada = Person { name: "ada", projects: projects.to_vec().leak(), is_admin: false };
    let shared = setup(&file(stage, "r8")?, &cluster.url(), ada);
    let (mut a, mut b) = tokio::try_join!(stage.start(shared.clone()), stage.start(shared))?;
    let mut pairs = Vec::new();
    for project in projects {
        let mut pair = (client_in(&a, ada, project).await?, client_in(&b, ada, project).await?);
        used(&mut pair.0, &mut pair.1, "first", USED_MAX).await?;
        used(&mut pair.1, &mut pair.0, "first back", USED_MAX).await?;
        pairs.push(pair);
    }
    let load = Load::start(stage.seed, callers(ada, [&a, &b], &projects).await?);
    sleep(phase).await;
    cluster.servers[KILLED].kill().await?;
    let begun = Instant::now();
    load.timeline.mark("a master is killed");
    let lost = pairs.remove(KILLED);
    let (recovered, others) = tokio::join!(recover(lost), others(pairs));
    let recovered = recovered?;
    load.timeline.mark("what it held is kept again");
    let (asked, unkept) = others?;
    for instance in [&a, &b] {
        stands(instance, "ready", USED_MAX).await?;
    }
    let ready = begun.elapsed();
    load.timeline.mark("/readyz says that it works");
    sleep(phase).await;
    let ended = load.end(seen).await;
    seen.check(
        "what the other masters hold is found meanwhile",
        asked > 0 && unkept == 0,
        "all of it",
        format!("{unkept} of {asked} were not"),
    );
    let roles: String = cluster.servers[MASTERS + KILLED].ask(&["INFO", "replication"]).await?;
    seen.check(
        "its replica took over",
        roles.contains("role:master"),
        "role:master",
        roles.lines().nth(1).unwrap_or_default(),
    );
    seen.check("nothing was started again", a.is_running() && b.is_running(), "both run", "one has ended");
    seen.figure("failed", ended.failed as f64);
    seen.figure("recovered", recovered.as_secs_f64());
    seen.note(format!(
        "Six servers, made in {made:.1?}; {} calls by {} callers, {} failed, P95 {:.1} ms, worst {:.1} ms. What the lost master \
         held was kept again after {recovered:.2?}, /readyz said so after {ready:.2?}.",
        ended.calls,
        CALLERS * 2 * MASTERS,
        ended.failed,
        ended.p95,
        ended.worst
    ));
    Ok(())
}

async fn callers(
    ada: Person,
    instances: [&Instance; 2],
    projects: &[&'static str],
) -> Result<Vec<Client>, Broken> {
    let mut all = Vec::new();
    for instance in instances {
        for project in projects {
            for _ in 0..CALLERS {
                all.push(client_in(instance, ada, project).await?);
            }
        }
    }
    Ok(all)
}

/// Until what one instance keeps in the lost master's project is found at the other, both ways.
async fn recover((mut at_a, mut at_b): (Client, Client)) -> Result<Duration, Broken> {
    let begun = Instant::now();
    used(&mut at_a, &mut at_b, "after", BACK_MAX).await?;
    used(&mut at_b, &mut at_a, "after, back", BACK_MAX).await?;
    Ok(begun.elapsed())
}

/// Asks in the other projects for some seconds: how often, and how often what one instance had just made was not found at
/// the other, nor a moment later.
async fn others(mut pairs: Vec<(Client, Client)>) -> Result<(u32, u32), Broken> {
    const FOR: Duration = Duration::from_secs(2);
    let begun = Instant::now();
    let (mut asked, mut unkept) = (0, 0);
    while begun.elapsed() < FOR {
        for (at_a, at_b) in &mut pairs {
            asked += 1;
            let mut is_kept = false;
            // A busy machine may not answer in the time that a call waits for Redis.
            for tried in 0..5 {
                let input = json!({"mark": format!("meanwhile {asked} {tried}")});
                at_a.run(KEPT, input.clone()).await?;
                is_kept = layer(&at_b.run(KEPT, input).await?) == "shared";
                if is_kept {
                    break;
                }
                sleep(LOOK_EVERY).await;
            }
            unkept += u32::from(!is_kept);
        }
        sleep(LOOK_EVERY).await;
    }
    Ok((asked, unkept))
}
