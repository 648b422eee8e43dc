//! What goes wrong around a Redis: a call never fails for it and hardly waits, and the server is used again when the cause
//! is gone, without being opened anew.

use std::{
    net::{Ipv4Addr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tmws::{
    cache::{CacheLimits, Invalidation, Lease, SecondLayer as _, Told, redis::Redis},
    engine::Outside,
    resilience::{BreakerState, accounted},
    scope::{ProjectId, Scope},
};

use crate::redis_server::{LONG, Server, WITHIN, client, client_with, key, until, works};

/// What the worst call may wait for a Redis that stops answering: an answer's time, and what a busy machine adds.
const WORST: Duration = Duration::from_millis(400);
/// What a call may take once that is known, on a busy machine: less than any wait.
const AFTERWARDS: Duration = Duration::from_millis(90);
/// How soon a Redis that is there again is used.
const AGAIN: Duration = Duration::from_secs(5);

fn reason(redis: &Redis) -> String {
    match redis.told() {
        Told::Ailing(reason) => reason,
        told => panic!("{told:?}"),
    }
}

/// How long each of `count` calls takes, one after the other; none is answered.
async fn vain_calls(redis: &Redis, count: usize) -> Vec<Duration> {
    let key = key("vain");
    let mut times = Vec::with_capacity(count);
    for round in 0..count {
        let begun = Instant::now();
        match round % 3 {
            0 => assert_eq!(redis.get(&key, WITHIN).await, None),
            1 => assert!(!redis.put(&key, b"x".to_vec(), LONG, None, WITHIN).await),
            _ => assert_eq!(redis.lease(&key, LONG, WITHIN).await, Lease::Unavailable),
        }
        times.push(begun.elapsed());
    }
    times
}

/// The first call may wait; of the others nearly none does.
fn assert_cheap(what: &str, times: &[Duration]) {
    let mut later = times[1..].to_vec();
    later.sort_unstable();
    let (middle, worst) = (later[later.len() / 2], later[later.len() - 1]);
    println!("{what}: first call {:?}, later P50 {middle:?}, worst {worst:?}", times[0]);
    assert!(times[0] < WORST, "{what}: {:?}", times[0]);
    assert!(middle < Duration::from_millis(1) && worst < AFTERWARDS, "{what}: {middle:?}, {worst:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_is_not_there_costs_nothing() {
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let (redis, breaker) = client_with(&format!("redis://u:s3cret@{closed}"), CacheLimits::default());
    // Whoever is answered is told what the answer was made without: what is not sent does not fail.
    let (times, notes) = accounted(vain_calls(&redis, 300)).await;
    assert_eq!(notes, ["redis cache: open"]);
    let figures = redis.figures();
    assert_eq!((figures.commands, figures.failures, figures.skipped), (0, 0, 300));
    assert_cheap("nobody listens", &times);
    assert_eq!(breaker.now(Instant::now()), BreakerState::Open);
    let reason = reason(&redis);
    assert!(reason.contains("nobody listens") && !reason.contains("s3cret"), "{reason}");
    assert!(!reason.contains("127.0.0.1"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_accepts_and_never_answers_costs_one_wait() {
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let redis = client(&format!("redis://{}", silent.local_addr().unwrap()));
    let times = vain_calls(&redis, 300).await;
    assert_cheap("silent from the start", &times);
    // While it goes on trying, nobody waits.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        let times = vain_calls(&redis, 3).await;
        assert!(times.iter().all(|time| *time < AFTERWARDS), "{times:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(reason(&redis).contains("does not answer"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_stops_answering_costs_one_wait_and_is_used_when_it_goes_on() {
    let server = Server::start(&[]);
    let redis = client(&server.url());
    let mut told = redis.invalidations();
    let key = key("stopped");
    assert!(works(&redis, &key).await);
    while told.try_recv().is_ok() {}
    server.pause();
    let (times, notes) = accounted(vain_calls(&redis, 300)).await;
    assert_cheap("stopped", &times);
    assert!(notes.contains(&"redis cache: slow".to_owned()), "{notes:?}");
    assert!(redis.figures().timeouts >= 1);
    assert!(reason(&redis).contains("does not answer"));
    let first = tokio::time::timeout(AGAIN, told.recv()).await.expect("it is told").unwrap();
    assert_eq!(first, Invalidation::Everything);
    server.go_on();
    let again = until("it is used again", async || works(&redis, &key).await).await;
    println!("used again after {again:?}");
    assert!(again < AGAIN, "{again:?}");
    assert_eq!(accounted(works(&redis, &key)).await, (true, Vec::new()));
    assert_eq!(redis.told(), Told::Well);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_gives_up_early_is_enough_to_notice() {
    const SHORT: Duration = Duration::from_millis(100);
    let server = Server::start(&[]);
    let redis = client(&server.url());
    let key = key("impatient");
    assert!(works(&redis, &key).await);
    server.pause();
    let begun = Instant::now();
    for _ in 0..200 {
        // Both end at the same time: whichever is first.
        let answer = tokio::time::timeout(SHORT, redis.get(&key, SHORT)).await;
        assert!(matches!(answer, Ok(None) | Err(_)));
    }
    let waited = begun.elapsed();
    println!("200 calls of 100 ms at a server that stopped: {waited:?}");
    assert!(waited < WORST, "{waited:?}");
    // Who hardly waits says nothing about a server that works.
    server.go_on();
    until("it is used again", async || works(&redis, &key).await).await;
    let before = redis.figures().reconnects;
    for _ in 0..200 {
        let _ = tokio::time::timeout(Duration::ZERO, redis.get(&key, WITHIN)).await;
        let _ = redis.get(&key, Duration::ZERO).await;
    }
    assert!(works(&redis, &key).await);
    assert_eq!(redis.figures().reconnects, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_costs_nothing_and_is_said_without_it() {
    let server = Server::start(&["requirepass right"]);
    for login in [":s3cret@", "ann:s3cret@", ""] {
        let redis = client(&server.url().replace("//", &format!("//{login}")));
        let times = vain_calls(&redis, 100).await;
        assert_cheap("refused", &times);
        let reason = reason(&redis);
        assert!(reason.contains("refuses the user or the password"), "{reason}");
        assert!(!reason.contains("s3cret"), "{reason}");
    }
    let redis = client(&server.url().replace("//", "//:right@"));
    assert!(works(&redis, &key("right")).await, "{:?}", redis.told());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_is_killed_and_started_again_under_load_is_used_again() {
    let mut server = Server::start(&[]);
    let redis = Arc::new(client(&server.url()));
    let mut told = redis.invalidations();
    let key = key("killed");
    assert!(works(&redis, &key).await);
    let (ends, hits) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let load: Vec<_> = (0..8)
        .map(|task| {
            let (redis, ends, hits) = (Arc::clone(&redis), Arc::clone(&ends), Arc::clone(&hits));
            tokio::spawn(async move {
                let (mut worst, mut count) = (Duration::ZERO, 0_u64);
                for round in 0.. {
                    if ends.load(Ordering::Relaxed) {
                        break;
                    }
                    let key = crate::redis_server::key_in("load", &format!("{task} {}", round % 20));
                    let begun = Instant::now();
                    // Neither can fail: the answer is what there is.
                    if redis.get(&key, WITHIN).await.is_some() {
                        hits.fetch_add(1, Ordering::Relaxed);
                    } else {
                        redis.put(&key, vec![b'x'; 1000], LONG, None, WITHIN).await;
                    }
                    worst = worst.max(begun.elapsed());
                    count += 1;
                    tokio::time::sleep(Duration::from_micros(500)).await;
                }
                (worst, count)
            })
        })
        .collect();
    let mut outages = Vec::new();
    for _ in 0..3 {
        let before = hits.load(Ordering::Relaxed);
        until("answers are found", async || hits.load(Ordering::Relaxed) > before + 200).await;
        while told.try_recv().is_ok() {}
        server.kill();
        let heard = async { while told.recv().await != Ok(Invalidation::Everything) {} };
        tokio::time::timeout(AGAIN, heard).await.expect("it is told that everything is in doubt");
        server.resume();
        outages.push(until("it is used again", async || works(&redis, &key).await).await);
        // And told again.
        let other = client(&server.url());
        assert!(other.put(&key, b"other".to_vec(), LONG, None, WITHIN).await);
        let heard = async { while told.recv().await != Ok(Invalidation::Entry(*key.digest())) {} };
        tokio::time::timeout(AGAIN, heard).await.expect("changes are told again");
    }
    ends.store(true, Ordering::Relaxed);
    let (mut worst, mut count) = (Duration::ZERO, 0);
    for task in load {
        let (one, calls) = task.await.unwrap();
        (worst, count) = (worst.max(one), count + calls);
    }
    let answered = hits.load(Ordering::Relaxed);
    println!("{count} calls, {answered} hits, worst {worst:?}; used again after {outages:?}");
    assert!(outages.iter().all(|outage| *outage < AGAIN), "{outages:?}");
    assert!(worst < Duration::from_millis(200), "{worst:?}");
    assert!(redis.figures().reconnects >= 3, "{:?}", redis.figures());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_redis_that_removes_nothing_keeps_answering() {
    let server = Server::start(&["maxmemory 3mb", "maxmemory-policy noeviction"]);
    let (redis, breaker) = client_with(&server.url(), CacheLimits::default());
    let key = key("kept");
    assert!(works(&redis, &key).await);
    let mut is_full = false;
    for round in 0..2000 {
        let large = crate::redis_server::key(&format!("large {round}"));
        if !redis.put(&large, vec![7; 20_000], LONG, None, WITHIN).await {
            is_full = true;
            break;
        }
    }
    assert!(is_full, "3 MB hold all");
    assert!(reason(&redis).contains("memory is full"));
    for _ in 0..20 {
        assert!(!redis.put(&key, vec![7; 20_000], LONG, None, WITHIN).await);
        assert_eq!(redis.get(&key, WITHIN).await.as_deref(), Some(b"works".as_slice()));
        assert_eq!(redis.lease(&key, LONG, WITHIN).await, Lease::Unavailable);
    }
    assert_eq!(breaker.now(Instant::now()), BreakerState::Closed);
    let large = redis.put(&key, vec![7; 20_000], LONG, None, WITHIN);
    assert_eq!(accounted(large).await, (false, vec!["redis cache: full".to_owned()]));
    let redis = Arc::new(redis);
    let outside = Outside { redis: Some(Arc::clone(&redis)), ..Outside::default() };
    let scope = Scope::mint(ProjectId::parse("p").unwrap(), "ann", "agent", None);
    let degraded = outside.degraded(&scope);
    assert!(
        degraded.len() == 1 && degraded[0].starts_with("redis cache: its memory is full"),
        "{degraded:?}"
    );
    server.ask::<()>("FLUSHALL");
    until("there is room again", async || works(&redis, &key).await).await;
    assert_eq!(redis.told(), Told::Well);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_redis_that_removes_old_entries_takes_new_ones_and_tells() {
    let server = Server::start(&["maxmemory 3mb", "maxmemory-policy allkeys-lru"]);
    let (redis, other) = (client(&server.url()), client(&server.url()));
    assert!(works(&other, &key("other")).await);
    let mut told = other.invalidations();
    let mut puts = std::collections::BTreeSet::new();
    for round in 0..300 {
        let large = key(&format!("large {round}"));
        assert!(redis.put(&large, vec![7; 20_000], LONG, None, WITHIN).await, "{round}");
        puts.insert(*large.digest());
    }
    let removed = async {
        let mut heard = std::collections::BTreeMap::new();
        loop {
            if let Ok(Invalidation::Entry(digest)) = told.recv().await {
                let count = heard.entry(digest).or_insert(0);
                *count += 1;
                // Once when it was put, and once when it had to go.
                if *count > 1 && puts.contains(&digest) {
                    return;
                }
            }
        }
    };
    tokio::time::timeout(AGAIN, removed).await.expect("what is removed is told");
    assert_eq!(redis.told(), Told::Well);
}

/// The line of docs/cache.md.
fn acl() -> String {
    let page = include_str!("../../docs/cache.md");
    let line =
        page.lines().find(|line| line.starts_with("user tmws on ")).expect("docs/cache.md gives a user");
    line.replace("PASSWORD", "s3cret")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_user_of_the_documentation_may_do_what_is_needed_and_no_more() {
    let server = Server::start(&["user default off nopass nocommands", &acl()]);
    let redis = client(&server.url().replace("//", "//tmws:s3cret@"));
    let mut told = redis.invalidations();
    let key = key("acl");
    assert!(works(&redis, &key).await, "{:?}", redis.told());
    let Lease::Taken(number) = redis.lease(&key, LONG, WITHIN).await else { panic!("nobody holds it") };
    assert!(redis.put(&key, b"x".to_vec(), LONG, Some(number), WITHIN).await);
    redis.give_back(&key, number, WITHIN).await;
    assert!(matches!(redis.lease(&key, LONG, WITHIN).await, Lease::Taken(_)));
    let figures = redis.figures();
    // What the server does not know yet is sent twice: no failure.
    assert_eq!((figures.failures, figures.skipped), (0, 0), "{figures:?}");
    // Connections are watched with rights of their own.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(redis.told(), Told::Well);
    assert_eq!(redis.figures().reconnects, 0);
    while told.try_recv().is_ok() {}
    let other = client(&server.url().replace("//", "//tmws:s3cret@"));
    assert!(other.put(&key, b"y".to_vec(), LONG, None, WITHIN).await);
    let heard = async { while told.recv().await != Ok(Invalidation::Entry(*key.digest())) {} };
    tokio::time::timeout(AGAIN, heard).await.expect("changes are told");
    let mut plain =
        redis::Client::open(server.url().replace("//", "//tmws:s3cret@")).unwrap().get_connection().unwrap();
    for (command, argument) in [("GET", "other"), ("KEYS", "*"), ("FLUSHALL", "ASYNC"), ("DEL", "tmws:1:x")] {
        let refused = redis::cmd(command).arg(argument).query::<redis::Value>(&mut plain);
        assert_eq!(refused.unwrap_err().code(), Some("NOPERM"), "{command}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_that_may_too_little_is_said() {
    let poor = "user tmws on >s3cret ~tmws:* +getrange +hello +client|id";
    let server = Server::start(&["user default off nopass nocommands", poor]);
    let redis = client(&server.url().replace("//", "//tmws:s3cret@"));
    let times = vain_calls(&redis, 100).await;
    assert_cheap("may too little", &times);
    assert!(reason(&redis).contains("may not run every command"), "{}", reason(&redis));
}

/// A server that is asked for more than it does: what is refused, why, and how it is mended.
async fn refuses_writes_until(server: &Server, begin: impl FnOnce(), reason_has: &str, mend: impl FnOnce()) {
    let (redis, breaker) = client_with(&server.url(), CacheLimits::default());
    let (key, other) = (key("kept"), key("other"));
    assert!(works(&redis, &key).await, "{:?}", redis.told());
    begin();
    // The first one learns of it, and the others are not sent.
    assert!(!redis.put(&other, b"x".to_vec(), LONG, None, WITHIN).await);
    let commands = redis.figures().commands;
    for _ in 0..50 {
        assert!(!redis.put(&other, b"x".to_vec(), LONG, None, WITHIN).await);
        assert_eq!(redis.lease(&other, LONG, WITHIN).await, Lease::Unavailable);
        // What is there is read, and says nothing of writes.
        assert_eq!(redis.get(&key, WITHIN).await.as_deref(), Some(b"works".as_slice()));
        assert!(reason(&redis).contains(reason_has), "{}", reason(&redis));
    }
    let figures = redis.figures();
    assert_eq!(
        (figures.commands - commands, figures.refusing, figures.reconnects),
        (50, 1, 0),
        "{figures:?}"
    );
    let put = redis.put(&other, b"x".to_vec(), LONG, None, WITHIN);
    assert_eq!(accounted(put).await, (false, vec!["redis cache: refused".to_owned()]));
    assert_eq!(breaker.now(Instant::now()), BreakerState::Closed);
    // One that comes later knows before anybody asks.
    let late = client(&server.url());
    assert!(matches!(late.look().await, Told::Ailing(reason) if reason.contains(reason_has)));
    mend();
    // Nobody writes, and still it is known.
    let again = until("it is told that writes are taken", async || redis.told() == Told::Well).await;
    assert!(again < AGAIN, "{again:?}");
    assert!(works(&redis, &other).await);
    assert_eq!((redis.figures().refusing, redis.figures().reconnects), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_whose_snapshots_fail_is_read_and_told_of_until_it_takes_writes() {
    let folder = tempfile::tempdir().unwrap();
    let gone = folder.path().join("gone");
    std::fs::create_dir(&gone).unwrap();
    let server = Server::start(&[&format!("dir {}", gone.display()), "save 3600 1000000"]);
    let begin = || {
        std::fs::remove_dir_all(&gone).unwrap();
        server.ask::<String>("BGSAVE");
        while !server.ask::<String>("INFO persistence").contains("rdb_last_bgsave_status:err") {}
    };
    let mend = || server.ask::<()>("CONFIG SET stop-writes-on-bgsave-error no");
    refuses_writes_until(&server, begin, "MISCONF", mend).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_without_the_replicas_it_asks_for_is_read_and_told_of_until_it_takes_writes() {
    let server = Server::start(&[]);
    let begin = || server.ask::<()>("CONFIG SET min-replicas-to-write 1");
    let mend = || server.ask::<()>("CONFIG SET min-replicas-to-write 0");
    refuses_writes_until(&server, begin, "NOREPLICAS", mend).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_is_read_and_steadily_told_of_until_it_is_a_master() {
    let master = Server::start(&[]);
    let server = Server::start(&[]);
    let begin = || {
        let writer = redis::Client::open(master.url()).unwrap();
        // What the replica is to be read for comes from its master.
        let mut from = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
        let mut to = writer.get_connection().unwrap();
        let keys: Vec<Vec<u8>> = redis::cmd("KEYS").arg("*").query(&mut from).unwrap();
        for key in keys {
            let value: Vec<u8> = redis::cmd("GET").arg(&key).query(&mut from).unwrap();
            redis::cmd("SET").arg(&key).arg(value).exec(&mut to).unwrap();
        }
        server.ask::<()>(&format!("REPLICAOF 127.0.0.1 {}", master.port));
        while !server.ask::<String>("INFO replication").contains("master_link_status:up") {}
    };
    let mend = || server.ask::<()>("REPLICAOF NO ONE");
    refuses_writes_until(&server, begin, "redis_url is to name its master", mend).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changes_at_the_master_is_told_by_a_replica() {
    let master = Server::start(&[]);
    let replica = Server::start(&[&format!("replicaof 127.0.0.1 {}", master.port)]);
    until("it follows", async || replica.ask::<String>("INFO replication").contains("master_link_status:up"))
        .await;
    let (writer, reader) = (client(&master.url()), client(&replica.url()));
    let key = key("followed");
    assert_eq!(reader.get(&key, WITHIN).await, None);
    let mut told = reader.invalidations();
    assert!(works(&writer, &key).await);
    let heard = async { while told.recv().await != Ok(Invalidation::Entry(*key.digest())) {} };
    tokio::time::timeout(AGAIN, heard).await.expect("changes are told");
    until("it is read", async || reader.get(&key, WITHIN).await.is_some()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_leads_to_another_master_by_now_is_followed() {
    let (mut old, new) = (Server::start(&[]), Server::start(&[]));
    // What stands before several servers, and hands each connection to the master of now.
    let target = Arc::new(AtomicU16::new(old.port));
    let before = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("redis://{}", before.local_addr().unwrap());
    let leads_to = Arc::clone(&target);
    let handing = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((mut one, _)) = before.accept().await {
            let port = leads_to.load(Ordering::SeqCst);
            connections.spawn(async move {
                let mut other = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
                tokio::io::copy_bidirectional(&mut one, &mut other).await
            });
        }
    });
    let redis = client(&url);
    let key = key("led");
    assert!(works(&redis, &key).await, "{:?}", redis.told());
    old.ask::<()>(&format!("REPLICAOF 127.0.0.1 {}", new.port));
    assert!(!redis.put(&key, b"x".to_vec(), LONG, None, WITHIN).await);
    assert!(reason(&redis).contains("it is a replica"));
    target.store(new.port, Ordering::SeqCst);
    let again = until("the new master is used", async || works(&redis, &key).await).await;
    println!("an address leads to another master: used after {again:?}");
    old.kill();
    assert!(works(&redis, &key).await, "{:?}", redis.told());
    assert_eq!((redis.told(), redis.figures().reconnects), (Told::Well, 1));
    handing.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_with_too_many_connections_says_so() {
    let server = Server::start(&["maxclients 1"]);
    let _one = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
    let redis = client(&server.url());
    assert_eq!(redis.get(&key("crowded"), WITHIN).await, None);
    assert!(reason(&redis).contains("maxclients"), "{}", reason(&redis));
}
