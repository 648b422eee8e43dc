//! The second layer of the cache in a Redis that works: what is put is read, whoever makes an answer is one, and every
//! change is told to the others.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, TcpListener},
    time::{Duration, Instant},
};

use tmws::cache::{CacheLimits, Invalidation, Lease, SecondLayer as _, Told};
use tokio::sync::broadcast::{Receiver, error::TryRecvError};

use crate::redis_server::{
    LONG, PATIENCE, Server, WITHIN, client, client_with, key, key_in, shared, until, works,
};

/// The next message.
async fn next(told: &mut Receiver<Invalidation>) -> Invalidation {
    tokio::time::timeout(PATIENCE, told.recv()).await.expect("a message comes").unwrap()
}

/// The next message that is about one entry.
async fn next_entry(told: &mut Receiver<Invalidation>) -> [u8; 32] {
    loop {
        if let Invalidation::Entry(digest) = next(told).await {
            return digest;
        }
    }
}

/// Digests told of so far.
fn entries(told: &mut Receiver<Invalidation>) -> BTreeSet<[u8; 32]> {
    let mut all = BTreeSet::new();
    loop {
        match told.try_recv() {
            Ok(Invalidation::Entry(digest)) => all.extend([digest]),
            Ok(Invalidation::Everything) => {}
            Err(TryRecvError::Empty) => return all,
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn what_is_put_is_read_until_its_life_is_over() {
    let redis = client(&shared());
    let (lasting, passing) = (key("lasting"), key("passing"));
    assert_eq!(redis.get(&lasting, WITHIN).await, None);
    let bytes: Vec<u8> = (0..=255).collect();
    assert!(redis.put(&lasting, bytes.clone(), LONG, None, WITHIN).await);
    assert_eq!(redis.get(&lasting, WITHIN).await, Some(bytes));
    assert!(redis.put(&lasting, b"new".to_vec(), LONG, None, WITHIN).await);
    assert_eq!(client(&shared()).get(&lasting, WITHIN).await.as_deref(), Some(b"new".as_slice()));
    assert!(redis.put(&passing, b"p".to_vec(), Duration::from_millis(200), None, WITHIN).await);
    until("the end of its life", async || redis.get(&passing, WITHIN).await.is_none()).await;
    assert!(!redis.put(&passing, b"p".to_vec(), Duration::ZERO, None, WITHIN).await, "it never lived");
    assert_eq!(redis.told(), Told::Well);
    let figures = redis.figures();
    assert_eq!((figures.failures, figures.skipped, figures.nodes, figures.connected), (0, 0, 1, 1));
    let answered = redis.answered();
    let of = |operation: &str| answered.iter().find(|(name, _)| *name == operation).unwrap().1;
    assert_eq!(of("put").count, 3);
    assert!(of("get").count >= 3, "{answered:?}");
    assert_eq!((of("lease").count, of("give_back").count), (0, 0));
    assert_eq!(answered.iter().map(|(_, of)| of.count).sum::<u64>(), figures.commands);
    let took: Duration = answered.iter().map(|(_, of)| of.waited).sum();
    assert!(Duration::ZERO < took && took <= figures.waited + Duration::from_millis(1), "{answered:?}");
    redis.close().await;
    assert_eq!(redis.get(&lasting, WITHIN).await, None, "it is closed");
}

#[tokio::test]
async fn a_value_over_the_limit_is_neither_put_nor_read() {
    let limits = CacheLimits { value_bytes_max: 1000, ..CacheLimits::default() };
    let (small, _) = client_with(&shared(), limits);
    let large = client(&shared());
    let key = key("large");
    assert!(small.put(&key, vec![7; 1000], LONG, None, WITHIN).await);
    assert_eq!(small.get(&key, WITHIN).await, Some(vec![7; 1000]));
    assert!(!small.put(&key, vec![7; 1001], LONG, None, WITHIN).await);
    assert!(large.put(&key, vec![8; 1001], LONG, None, WITHIN).await);
    assert_eq!(small.get(&key, WITHIN).await, None);
    assert_eq!(large.get(&key, WITHIN).await, Some(vec![8; 1001]));
    assert!(!large.put(&key, Vec::new(), LONG, None, WITHIN).await, "nothing is no answer");
}

#[tokio::test]
async fn nothing_is_opened_before_the_first_use() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let redis = client(&format!("redis://{}", listener.local_addr().unwrap()));
    let _told = redis.invalidations();
    assert_eq!(redis.told(), Told::Unused);
    assert_eq!(redis.figures().nodes, 0);
    tokio::task::yield_now().await;
    assert!(listener.accept().is_err(), "somebody connected");
    assert_eq!(redis.get(&key("first"), WITHIN).await, None);
    assert!(listener.accept().is_ok(), "nobody connected");
}

#[tokio::test]
async fn one_holds_a_lease_and_what_an_earlier_holder_puts_is_refused() {
    let (one, other) = (client(&shared()), client(&shared()));
    let key = key("lease");
    let Lease::Taken(first) = one.lease(&key, LONG, WITHIN).await else { panic!("nobody holds it") };
    assert_eq!(other.lease(&key, LONG, WITHIN).await, Lease::Held);
    assert_eq!(one.lease(&key, LONG, WITHIN).await, Lease::Held, "a lease is not taken twice");
    assert!(one.put(&key, b"first".to_vec(), LONG, Some(first), WITHIN).await);
    one.give_back(&key, first, WITHIN).await;

    // The second one ends by itself.
    let short = Duration::from_millis(50);
    let Lease::Taken(second) = other.lease(&key, short, WITHIN).await else { panic!("it was given back") };
    assert!(second > first, "{second} after {first}");
    assert!(!one.put(&key, b"late".to_vec(), LONG, Some(first), WITHIN).await);
    one.give_back(&key, first, WITHIN).await;
    let mut third = 0;
    until("the end of the lease", async || match one.lease(&key, LONG, WITHIN).await {
        Lease::Taken(number) => {
            third = number;
            true
        }
        Lease::Held => false,
        Lease::Unavailable => panic!("the server is there"),
    })
    .await;
    assert!(third > second, "{third} after {second}");
    assert!(!other.put(&key, b"late".to_vec(), LONG, Some(second), WITHIN).await);
    assert_eq!(one.get(&key, WITHIN).await.as_deref(), Some(b"first".as_slice()));
    assert!(one.put(&key, b"third".to_vec(), LONG, Some(third), WITHIN).await);
    assert_eq!(other.get(&key, WITHIN).await.as_deref(), Some(b"third".as_slice()));
}

#[tokio::test]
async fn a_lease_that_nobody_took_over_still_lets_its_holder_put() {
    let redis = client(&shared());
    let key = key("overtime");
    let short = Duration::from_millis(1);
    let Lease::Taken(number) = redis.lease(&key, short, WITHIN).await else { panic!("nobody holds it") };
    tokio::time::sleep(short * 5).await;
    assert!(redis.put(&key, b"x".to_vec(), LONG, Some(number), WITHIN).await);
    assert!(!redis.put(&key, b"x".to_vec(), LONG, Some(number + 1), WITHIN).await, "nobody took that");
}

#[tokio::test]
async fn among_many_who_want_a_lease_one_gets_it() {
    let clients: Vec<_> = (0..8).map(|_| client(&shared())).collect();
    for round in 0..20 {
        let key = key(&format!("round {round}"));
        let asked = clients.iter().map(|redis| redis.lease(&key, LONG, WITHIN));
        let answers = futures_util::future::join_all(asked).await;
        let taken = answers.iter().filter(|answer| matches!(answer, Lease::Taken(_))).count();
        assert_eq!(taken, 1, "{answers:?}");
    }
}

#[tokio::test]
async fn a_change_is_told_to_the_others_and_not_to_whoever_made_it() {
    let (writer, reader) = (client(&shared()), client(&shared()));
    let (mut own, mut told) = (writer.invalidations(), reader.invalidations());
    let (key, last, leased) = (key("change"), key("last"), key("leased"));
    for redis in [&writer, &reader] {
        assert_eq!(redis.get(&key, WITHIN).await, None);
        assert_eq!(redis.told(), Told::Well);
    }
    assert!(writer.put(&key, b"1".to_vec(), LONG, None, WITHIN).await);
    assert_eq!(next_entry(&mut told).await, *key.digest());
    assert!(reader.put(&key, b"2".to_vec(), LONG, None, WITHIN).await);
    assert_eq!(next_entry(&mut own).await, *key.digest());
    // What a script puts is told to all; a lease is no entry.
    let Lease::Taken(number) = writer.lease(&leased, LONG, WITHIN).await else { panic!("nobody holds it") };
    assert!(writer.put(&leased, b"3".to_vec(), LONG, Some(number), WITHIN).await);
    assert_eq!(next_entry(&mut told).await, *leased.digest());
    assert!(writer.put(&last, b"4".to_vec(), LONG, None, WITHIN).await);
    assert_eq!(next_entry(&mut told).await, *last.digest());
    let heard = entries(&mut own);
    assert!(!heard.contains(last.digest()), "its own put");
}

#[tokio::test]
async fn whatever_is_removed_or_ends_is_told() {
    let server = Server::start(&[]);
    let redis = client(&server.url());
    let mut told = redis.invalidations();
    let (removed, ended) = (key("removed"), key("ended"));
    assert!(redis.put(&removed, b"x".to_vec(), LONG, None, WITHIN).await);
    let name: Vec<String> = server.ask("KEYS tmws:1:*");
    assert_eq!(name.len(), 1);
    assert_eq!(server.ask::<i64>(&format!("DEL {}", name[0])), 1);
    assert_eq!(next_entry(&mut told).await, *removed.digest());
    assert!(redis.put(&ended, b"x".to_vec(), Duration::from_millis(50), None, WITHIN).await);
    assert_eq!(next_entry(&mut told).await, *ended.digest());
    entries(&mut told);
    server.ask::<()>("FLUSHALL");
    assert_eq!(next(&mut told).await, Invalidation::Everything);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_told_within_milliseconds() {
    const ROUNDS: usize = 1000;
    let server = Server::start(&[]);
    let (writer, reader) = (client(&server.url()), client(&server.url()));
    let mut told = reader.invalidations();
    let key = key("timed");
    assert!(works(&reader, &key).await && works(&writer, &key).await);
    assert_eq!(next_entry(&mut told).await, *key.digest());
    entries(&mut told);
    // Other tests use the machine as well: of three times the best is what Redis and this program take.
    let mut best = Duration::MAX;
    for _ in 0..3 {
        let mut times = Vec::with_capacity(ROUNDS);
        for round in 0..ROUNDS {
            let bytes = round.to_le_bytes().to_vec();
            let begun = Instant::now();
            let (kept, digest) =
                tokio::join!(writer.put(&key, bytes, LONG, None, WITHIN), next_entry(&mut told));
            assert!(kept && digest == *key.digest());
            times.push(begun.elapsed());
        }
        times.sort_unstable();
        let at = |share: usize| times[ROUNDS * share / 1000];
        println!(
            "invalidation of another instance, from before the put: P50 {:?}, P95 {:?}, P99 {:?}",
            at(500),
            at(950),
            at(990)
        );
        best = best.min(at(950));
    }
    assert!(best < Duration::from_millis(5), "{best:?}");

    let mut reads = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        assert!(reader.get(&key, WITHIN).await.is_some());
        reads.push(begun.elapsed());
    }
    reads.sort_unstable();
    println!("read: P50 {:?}, P95 {:?}", reads[ROUNDS / 2], reads[ROUNDS * 95 / 100]);
}

#[tokio::test]
async fn projects_and_databases_are_apart() {
    let server = Server::start(&[]);
    let (zero, one) = (client(&server.url()), client(&format!("{}/1", server.url())));
    let (mine, theirs) = (key_in("mine", "x"), key_in("theirs", "x"));
    assert!(zero.put(&mine, b"mine".to_vec(), LONG, None, WITHIN).await);
    assert_eq!(zero.get(&theirs, WITHIN).await, None);
    assert_eq!(one.get(&mine, WITHIN).await, None);
    assert_eq!(zero.get(&mine, WITHIN).await.as_deref(), Some(b"mine".as_slice()));
    let keys: Vec<String> = server.ask("KEYS *");
    assert!(keys.len() == 1 && keys[0].starts_with("tmws:1:{mine}:"), "{keys:?}");
}
