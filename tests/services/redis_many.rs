//! Redis on several servers: a cluster, and a master that Sentinels watch. When a master is lost, calls go on, and what it
//! held is held by its successor soon.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use redis::Value;
use tmws::cache::{CacheLimits, Invalidation, Lease, SecondLayer as _, Told, redis::Redis};

use crate::redis_server::{LONG, PATIENCE, Server, WITHIN, client, client_with, key_in, until, works};

/// How soon what a lost master held is served again.
pub(crate) const RECOVERED: Duration = Duration::from_secs(15);
/// No call waits longer, whatever happens to a server: an answer's time, and what a busy machine adds.
const WORST: Duration = Duration::from_millis(300);

/// Three masters, each with a replica.
pub(crate) struct Cluster {
    pub(crate) servers: Vec<Server>,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        let options = [
            "cluster-enabled yes",
            "cluster-port PORT",
            "cluster-node-timeout 2000",
            // Else all keys are refused while those of one master are.
            "cluster-require-full-coverage no",
        ];
        let servers: Vec<Server> = (0..6).map(|_| Server::start(&options)).collect();
        let cluster = Self { servers };
        let (first, rest) = cluster.servers.split_first().unwrap();
        for (index, range) in ["0 5460", "5461 10922", "10923 16383"].into_iter().enumerate() {
            cluster.servers[index].ask::<()>(&format!("CLUSTER ADDSLOTSRANGE {range}"));
        }
        for (index, server) in cluster.servers.iter().enumerate() {
            server.ask::<()>(&format!("CLUSTER SET-CONFIG-EPOCH {}", index + 1));
        }
        for server in rest {
            let bus: BTreeMap<String, String> = server.ask("CONFIG GET cluster-port");
            first.ask::<()>(&format!("CLUSTER MEET 127.0.0.1 {} {}", server.port, bus["cluster-port"]));
        }
        until("all know each other", async || {
            cluster.servers.iter().all(|server| server.ask::<String>("CLUSTER NODES").lines().count() == 6)
        })
        .await;
        for (index, server) in cluster.servers[3..].iter().enumerate() {
            let master: String = cluster.servers[index].ask("CLUSTER MYID");
            until("it follows", async || {
                server.try_ask::<()>(&format!("CLUSTER REPLICATE {master}")).is_ok()
            })
            .await;
        }
        until("the cluster works", async || {
            cluster.servers.iter().all(|server| {
                server.ask::<String>("CLUSTER INFO").contains("cluster_state:ok")
                    && server.ask::<Value>("CLUSTER SLOTS").as_sequence().is_some_and(|ranges| {
                        ranges.len() == 3
                            && ranges
                                .iter()
                                .all(|range| range.as_sequence().is_some_and(|range| range.len() == 4))
                    })
            }) && cluster.servers[3..]
                .iter()
                .all(|server| server.ask::<String>("INFO replication").contains("master_link_status:up"))
        })
        .await;
        cluster
    }

    /// Knows two of them.
    pub(crate) fn url(&self) -> String {
        format!("redis+cluster://{},{}", self.servers[0].place(), self.servers[4].place())
    }

    /// The master whose address lies between those of the other two.
    fn middle(&self) -> usize {
        let mut masters: Vec<usize> = (0..3).collect();
        masters.sort_by_key(|index| self.servers[*index].port);
        masters[1]
    }

    /// A project whose entries the master `index` holds.
    fn project_of(&self, index: usize) -> String {
        (0..10_000).map(|number| format!("p{number}")).find(|name| self.master_of(name) == index).unwrap()
    }

    /// Which master holds the entries of a project at first.
    pub(crate) fn master_of(&self, project: &str) -> usize {
        let slot: u16 = self.servers[0].ask(&format!("CLUSTER KEYSLOT {project}"));
        [5460, 10_922, 16_383].iter().position(|last| slot <= *last).unwrap()
    }
}

/// A master with a replica, which three Sentinels watch; all but the Sentinels want a password.
pub(crate) struct Watched {
    pub(crate) master: Server,
    _replica: Server,
    sentinels: Vec<Server>,
}

impl Watched {
    pub(crate) async fn start() -> Self {
        let master = Server::start(&["requirepass s3cret", "masterauth s3cret"]);
        let following = format!("replicaof 127.0.0.1 {}", master.port);
        let replica = Server::start(&["requirepass s3cret", "masterauth s3cret", &following]);
        let login = |server: &Server| server.url().replace("//", "//:s3cret@");
        let replicates = || {
            let mut connection = redis::Client::open(login(&replica)).unwrap().get_connection().unwrap();
            let told: String = redis::cmd("INFO").arg("replication").query(&mut connection).unwrap();
            told.contains("master_link_status:up")
        };
        until("the replica follows", async || replicates()).await;
        let monitor = format!("sentinel monitor mine 127.0.0.1 {} 2", master.port);
        let options = [
            monitor.as_str(),
            "sentinel auth-pass mine s3cret",
            "sentinel down-after-milliseconds mine 1500",
            "sentinel failover-timeout mine 6000",
        ];
        let sentinels: Vec<Server> = (0..3).map(|_| Server::sentinel(&options)).collect();
        until("the Sentinels know all", async || {
            sentinels.iter().all(|sentinel| {
                let told: BTreeMap<String, String> = sentinel.ask("SENTINEL MASTER mine");
                told["num-slaves"] == "1" && told["num-other-sentinels"] == "2"
            })
        })
        .await;
        Self { master, _replica: replica, sentinels }
    }

    /// The Sentinels, and the name that they watch `master` under.
    pub(crate) fn url_of(&self, master: &str) -> String {
        let places: Vec<String> = self.sentinels.iter().map(Server::place).collect();
        format!("redis+sentinel://:s3cret@{}/{master}", places.join(","))
    }

    pub(crate) fn url(&self) -> String {
        self.url_of("mine")
    }
}

/// A Sentinel that alone watches `master` under the name `mine`.
pub(crate) fn sentinel_of(master: &Server, options: &[&str]) -> Server {
    let monitor = format!("sentinel monitor mine 127.0.0.1 {} 1", master.port);
    Server::sentinel(&[&[monitor.as_str()], options].concat())
}

/// Tasks that ask without end.
struct Load {
    ends: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<(Duration, u64, u64)>>,
}

impl Load {
    /// A task for each of `projects`.
    fn start(redis: &Arc<Redis>, projects: &[String]) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let task = |project: &String| {
            let (redis, ends, project) = (Arc::clone(redis), Arc::clone(&ends), project.clone());
            tokio::spawn(async move {
                let (mut worst, mut calls, mut hits) = (Duration::ZERO, 0, 0);
                while !ends.load(Ordering::Relaxed) {
                    let key = key_in(&project, &format!("load {}", calls % 10));
                    let begun = Instant::now();
                    if redis.get(&key, WITHIN).await.is_some() {
                        hits += 1;
                    } else {
                        redis.put(&key, vec![b'x'; 500], LONG, None, WITHIN).await;
                    }
                    worst = worst.max(begun.elapsed());
                    calls += 1;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                (worst, calls, hits)
            })
        };
        Self { tasks: projects.iter().map(task).collect(), ends }
    }

    /// The worst call, the number of calls and of those answered, of each task.
    async fn end(self) -> Vec<(Duration, u64, u64)> {
        self.ends.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for task in self.tasks {
            all.push(task.await.unwrap());
        }
        all
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_loses_a_master_goes_on() {
    let mut cluster = Cluster::start().await;
    // The other one is told of that master alone which will be killed.
    let killed = cluster.middle();
    let seed = format!("redis+cluster://{}", cluster.servers[killed].place());
    let (redis, other) = (Arc::new(client(&cluster.url())), client(&seed));
    let projects: Vec<String> = (0..3).map(|index| cluster.project_of(index)).collect();
    let mut told = other.invalidations();
    for project in &projects {
        let key = key_in(project, "x");
        assert!(works(&other, &key).await && works(&redis, &key).await, "{:?}", redis.told());
        let Lease::Taken(number) = redis.lease(&key, LONG, WITHIN).await else { panic!("nobody holds it") };
        assert!(redis.put(&key, b"leased".to_vec(), LONG, Some(number), WITHIN).await);
        redis.give_back(&key, number, WITHIN).await;
        // Each master tells.
        let heard = async { while told.recv().await != Ok(Invalidation::Entry(*key.digest())) {} };
        tokio::time::timeout(PATIENCE, heard).await.expect("changes are told");
    }
    assert_eq!((redis.figures().nodes, redis.figures().connected), (3, 3));
    assert_eq!(redis.told(), Told::Well);

    let load = Load::start(&redis, &projects);
    until("answers are found", async || redis.figures().commands > 300).await;
    cluster.servers[killed].kill();
    let begun = Instant::now();
    let lost = key_in(&projects[killed], "x");
    let mut outage = Duration::ZERO;
    let mut refused_of_others = 0;
    while !works(&redis, &lost).await {
        outage = begun.elapsed();
        assert!(outage < RECOVERED, "{:?}", redis.told());
        for index in (0..3).filter(|index| *index != killed) {
            // Those of the other masters are served.
            if !works(&redis, &key_in(&projects[index], "y")).await {
                refused_of_others += 1;
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let well = until("all is well", async || redis.told() == Told::Well && other.told() == Told::Well).await;
    assert!(well < RECOVERED, "{well:?}");
    // The successor tells.
    while told.try_recv().is_ok() {}
    assert!(redis.put(&lost, b"again".to_vec(), LONG, None, WITHIN).await);
    let heard = async { while told.recv().await != Ok(Invalidation::Entry(*lost.digest())) {} };
    tokio::time::timeout(RECOVERED, heard).await.expect("changes are told again");
    let ended = load.end().await;
    println!(
        "cluster: keys of the lost master were out for {outage:?}; others refused {refused_of_others} times; (worst \
         call, calls, hits) by master: {ended:?}"
    );
    assert_eq!(refused_of_others, 0, "what the other masters hold is served all the time");
    for (worst, calls, hits) in ended {
        assert!(worst < WORST && hits > 0 && calls > hits, "{worst:?}, {calls}, {hits}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_move_to_another_master_are_followed() {
    let cluster = Cluster::start().await;
    let project = cluster.project_of(0);
    let (redis, key) = (client(&cluster.url()), key_in(&project, "x"));
    assert!(works(&redis, &key).await, "{:?}", redis.told());
    let (slot, heir): (u16, String) = (
        cluster.servers[0].ask(&format!("CLUSTER KEYSLOT {project}")),
        cluster.servers[1].ask("CLUSTER MYID"),
    );
    cluster.servers[0].ask::<()>("FLUSHALL");
    for server in [1, 0, 2] {
        cluster.servers[server].ask::<()>(&format!("CLUSTER SETSLOT {slot} NODE {heir}"));
    }
    let taken = until("they are followed", async || works(&redis, &key).await).await;
    assert!(taken < RECOVERED, "{taken:?}");
    // The former one is asked for nothing any more.
    assert_eq!(redis.told(), Told::Well);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_hangs_takes_no_other_with_it() {
    let cluster = Cluster::start().await;
    let (redis, breaker) = client_with(&cluster.url(), CacheLimits::default());
    let redis = Arc::new(redis);
    let projects: Vec<String> = (0..3).map(|index| cluster.project_of(index)).collect();
    for project in &projects {
        let key = key_in(project, "x");
        until("all masters are used", async || works(&redis, &key).await).await;
    }
    let refused = breaker.counts().refused;
    cluster.servers[1].pause();
    let mut vain = tokio::task::JoinSet::new();
    for number in 0..12 {
        let (redis, key) = (Arc::clone(&redis), key_in(&projects[1], &format!("vain {number}")));
        vain.spawn(async move { redis.get(&key, WITHIN).await });
    }
    assert!(vain.join_all().await.iter().all(Option::is_none));
    let begun = Instant::now();
    let mut served = 0;
    while begun.elapsed() < Duration::from_millis(1500) {
        assert_eq!(redis.get(&key_in(&projects[1], "x"), WITHIN).await, None);
        for index in [0, 2] {
            let found = redis.get(&key_in(&projects[index], "x"), WITHIN).await;
            assert!(found.is_some(), "the master {index} after {served}: {:?}", redis.told());
            served += 1;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!("a master hangs: {served} answers of the others; {:?}", breaker.counts());
    let counts = breaker.counts();
    assert_eq!((counts.opened, counts.refused), (0, refused), "the others are asked all the time");
    cluster.servers[1].go_on();
    until("it is used again", async || works(&redis, &key_in(&projects[1], "x")).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_address_is_asked_whichever_of_them_lead_to_nobody() {
    let master = Server::start(&[]);
    let sentinel = sentinel_of(&master, &[]);
    let cluster = Server::start(&["cluster-enabled yes", "cluster-port PORT"]);
    cluster.ask::<()>("CLUSTER ADDSLOTSRANGE 0 16383");
    until("the cluster works", async || cluster.ask::<String>("CLUSTER INFO").contains("cluster_state:ok"))
        .await;
    let dead = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().to_string();
    for (scheme, live, end) in
        [("redis+cluster", cluster.place(), ""), ("redis+sentinel", sentinel.place(), "/mine")]
    {
        for order in ["dead,live", "live,dead", "dead,live,dead,live", "dead,dead,dead,live"] {
            let places = order.replace("dead", &dead).replace("live", &live);
            let redis = client(&format!("{scheme}://{places}{end}"));
            assert_eq!(redis.look().await, Told::Well, "{scheme} {order}");
            assert!(works(&redis, &key_in("p", order)).await, "{scheme} {order}: {:?}", redis.told());
        }
        let redis = client(&format!("{scheme}://{dead},{dead}{end}"));
        let Told::Ailing(reason) = redis.look().await else { panic!("{scheme}: {:?}", redis.told()) };
        assert!(reason.contains("nobody listens"), "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sentinel_that_wants_a_login_is_given_that_of_the_address() {
    let master = Server::start(&["requirepass s3cret"]);
    let login = ["sentinel auth-pass mine s3cret", "requirepass s3cret"];
    let user = ["sentinel auth-pass mine s3cret", "user default off", "user ann on >s3cret ~* &* +@all"];
    for (options, name) in [(login.as_slice(), ""), (&user, "ann")] {
        let sentinel = sentinel_of(&master, options);
        if !name.is_empty() {
            // Both are to know the user.
            let mut known = redis::Client::open(master.url().replace("//", "//:s3cret@")).unwrap();
            redis::cmd("ACL")
                .arg("SETUSER")
                .arg(&["ann", "on", ">s3cret", "~*", "&*", "+@all"][..])
                .exec(&mut known)
                .unwrap();
        }
        let url = |login: &str| format!("redis+sentinel://{login}{}/mine", sentinel.place());
        let redis = client(&url(&format!("{name}:s3cret@")));
        assert_eq!(redis.look().await, Told::Well, "{options:?}");
        assert!(works(&redis, &key_in("p", name)).await, "{:?}", redis.told());
        for wrong in [format!("{name}:wr0ng@"), String::new()] {
            let redis = client(&url(&wrong));
            let Told::Ailing(reason) = redis.look().await else { panic!("{wrong}: {:?}", redis.told()) };
            assert!(reason.starts_with("the Sentinels refuse the user or the password"), "{wrong}: {reason}");
            assert!(!reason.contains("wr0ng"), "{reason}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sentinel_that_lets_the_unknown_greet_only_is_given_the_login() {
    let master = Server::start(&["user ann on >s3cret ~* &* +@all"]);
    let known = "user ann on >s3cret -@all +sentinel|get-master-addr-by-name";
    let sentinel = sentinel_of(&master, &["user default on nopass -@all +ping +info", known]);
    let redis = client(&format!("redis+sentinel://ann:s3cret@{}/mine", sentinel.place()));
    assert_eq!(redis.look().await, Told::Well);
    assert!(works(&redis, &key_in("p", "x")).await, "{:?}", redis.told());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sentinel_that_names_who_is_a_replica_now_is_passed_over() {
    let master = Server::start(&[]);
    let replica = Server::start(&[&format!("replicaof 127.0.0.1 {}", master.port)]);
    until("the replica follows", async || {
        replica.ask::<String>("INFO replication").contains("master_link_status:up")
    })
    .await;
    let (behind, sentinel) = (sentinel_of(&replica, &[]), sentinel_of(&master, &[]));
    let redis = client(&format!("redis+sentinel://{},{}/mine", behind.place(), sentinel.place()));
    let taken = until("the master is used", async || works(&redis, &key_in("p", "x")).await).await;
    assert!(taken < RECOVERED, "{taken:?}");
    until("that is told", async || redis.told() == Told::Well).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_of_a_cluster_that_has_fallen_behind_is_passed_over() {
    let options = ["cluster-enabled yes", "cluster-port PORT", "cluster-require-full-coverage no"];
    // All slots are one's; another held them before, as a third, which hears of nobody any more, still says.
    let (holder, former) = (Server::start(&options), Server::start(&options));
    holder.ask::<()>("CLUSTER ADDSLOTSRANGE 0 16383");
    until("the cluster works", async || holder.ask::<String>("CLUSTER INFO").contains("cluster_state:ok"))
        .await;
    let folder = tempfile::tempdir().unwrap();
    let (myself, port) = ("a".repeat(40), former.port);
    let known = format!(
        "{myself} 127.0.0.1:1@1 myself,master - 0 0 1 connected\n{} 127.0.0.1:{port}@1 master - 0 0 2 connected \
         0-16383\nvars currentEpoch 2 lastVoteEpoch 0\n",
        "b".repeat(40)
    );
    let file = folder.path().join("nodes.conf");
    std::fs::write(&file, known).unwrap();
    let file = format!("cluster-config-file {}", file.display());
    let behind = Server::start(&[options.as_slice(), &[file.as_str()]].concat());

    let (key, seeds) = (key_in("p", "x"), [behind.place(), holder.place()]);
    let misled = client(&format!("redis+cluster://{}", seeds[0]));
    assert!(!works(&misled, &key).await);
    let Told::Ailing(reason) = misled.told() else { panic!("{:?}", misled.told()) };
    assert!(reason.contains("the cluster is down"), "{reason}");

    let redis = client(&format!("redis+cluster://{}", seeds.join(",")));
    let taken = until("who holds the keys is asked", async || works(&redis, &key).await).await;
    assert!(taken < RECOVERED, "{taken:?}");
    assert_eq!(redis.told(), Told::Well, "the one that refused is left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_no_server_of_a_cluster_holds_are_told_of() {
    let options = ["cluster-enabled yes", "cluster-port PORT", "cluster-require-full-coverage no"];
    let server = Server::start(&options);
    // Those of `foo` are its own, those of `bar` nobody's.
    server.ask::<()>("CLUSTER ADDSLOTSRANGE 5461 16383");
    until("the cluster works", async || server.ask::<String>("CLUSTER INFO").contains("cluster_state:ok"))
        .await;
    let redis = client(&format!("redis+cluster://{}", server.place()));
    let Told::Ailing(reason) = redis.look().await else { panic!("{:?}", redis.told()) };
    assert!(reason.contains("no master for some keys"), "{reason}");
    let (held, unheld) = (key_in("foo", "x"), key_in("bar", "x"));
    assert!(works(&redis, &held).await && !works(&redis, &unheld).await);
    assert_ne!(redis.told(), Told::Well, "also where the others are served");
    server.ask::<()>("CLUSTER ADDSLOTSRANGE 0 5460");
    until("all are held", async || works(&redis, &unheld).await).await;
    assert_eq!(redis.told(), Told::Well);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_told_from_a_server_alone() {
    let alone = Server::start(&[]);
    let redis = client(&format!("redis+cluster://{}", alone.place()));
    assert_eq!(redis.get(&key_in("p", "x"), WITHIN).await, None);
    let Told::Ailing(reason) = redis.told() else { panic!("{:?}", redis.told()) };
    assert!(reason.contains("it is no cluster"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_sentinels_replace_is_left() {
    let mut watched = Watched::start().await;
    let url = watched.url();
    let (redis, other) = (Arc::new(client(&url)), client(&url));
    let mut told = other.invalidations();
    let key = key_in("p", "x");
    assert!(works(&redis, &key).await, "{:?}", redis.told());
    assert!(works(&other, &key).await, "{:?}", other.told());

    let load = Load::start(&redis, &["p".to_owned()]);
    until("answers are found", async || redis.figures().commands > 100).await;
    watched.master.kill();
    let begun = Instant::now();
    let mut outage = Duration::ZERO;
    while !works(&redis, &key).await {
        outage = begun.elapsed();
        assert!(outage < RECOVERED, "{:?}", redis.told());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    until("all is well", async || redis.told() == Told::Well && other.told() == Told::Well).await;
    while told.try_recv().is_ok() {}
    assert!(redis.put(&key, b"again".to_vec(), LONG, None, WITHIN).await);
    let heard = async { while told.recv().await != Ok(Invalidation::Entry(*key.digest())) {} };
    tokio::time::timeout(RECOVERED, heard).await.expect("changes are told again");
    let ended = load.end().await;
    println!("sentinel: out for {outage:?}; (worst call, calls, hits): {ended:?}");
    for (worst, _, hits) in ended {
        assert!(worst < WORST && hits > 0, "{worst:?}, {hits}");
    }
    let unknown = client(&watched.url_of("other"));
    assert_eq!(unknown.get(&key, WITHIN).await, None);
    let Told::Ailing(reason) = unknown.told() else { panic!("{:?}", unknown.told()) };
    assert!(reason.contains("no master of that name"), "{reason}");
}
