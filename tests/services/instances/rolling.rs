//! A rolling restart under load: every instance in turn is asked to end, and starts again, while clients call through a
//! proxy. No call of a client that connects again fails, and nothing that was acknowledged is lost.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use serde_json::json;
use sqlx::PgConnection;
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{Client, Proxy, Service, Way, instance::END_MAX, within};
use crate::redis_server::Server;

const CLIENTS: usize = 20;
/// Calls between two events of the restart.
const CALLS_BETWEEN: u64 = 10 * CLIENTS as u64;
/// A client leaves its connection after so many calls, and takes the next one's.
const CALLS_PER_CONNECTION: usize = 7;
/// Of so many calls one writes.
const CALLS_PER_WRITE: usize = 4;

/// What a client saw.
#[derive(Default)]
struct Seen {
    calls: usize,
    stored: Vec<String>,
    /// Connections that ended before an answer.
    lost: usize,
    /// Writes that were asked for again, and of these those that the first asking had stored.
    writes_repeated: usize,
    stored_before: usize,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_under_load_fails_no_call_and_loses_no_write() {
    let redis = Server::start(&[]);
    let service = Service::new(Some(&redis.url())).await;
    let mut instances = service.three().await;
    let proxy = Proxy::start(instances.iter().map(|instance| instance.address).collect()).await;
    let (progress, mut made) = watch::channel(0_u64);
    let (progress, done) = (Arc::new(progress), CancellationToken::new());
    let mut clients = JoinSet::new();
    let begun = Instant::now();
    for number in 0..CLIENTS {
        let way = [Way::Modern, Way::Legacy, Way::Modern, Way::Legacy, Way::Socket][number % 5];
        let client = Client::new(proxy.address, way, ["ada", "ben"][number % 2], "alpha");
        clients.spawn(load(number, client, Arc::clone(&progress), done.clone()));
    }

    let mut ends = Vec::new();
    for (number, instance) in instances.iter_mut().enumerate() {
        more(&mut made, &mut clients).await;
        let took = instance.terminate().await;
        assert!(took < END_MAX, "instance {number} took {took:?} to end");
        ends.push(took);
        // While it is away, the others serve.
        more(&mut made, &mut clients).await;
        instance.restart().await;
        proxy.moved(number, instance.address);
    }
    more(&mut made, &mut clients).await;
    done.cancel();
    let mut all = Seen::default();
    while let Some(joined) = within("a client's end", clients.join_next()).await {
        let seen = joined.unwrap();
        all.calls += seen.calls;
        all.stored.extend(seen.stored);
        all.lost += seen.lost;
        all.writes_repeated += seen.writes_repeated;
        all.stored_before += seen.stored_before;
    }
    let took = begun.elapsed();

    // What was acknowledged is there, once, and nothing else is.
    let mut database: PgConnection = service.database.connect().await;
    let there: Vec<String> =
        sqlx::query_scalar("SELECT id FROM tmws.memory").fetch_all(&mut database).await.unwrap();
    let acknowledged: BTreeSet<&String> = all.stored.iter().collect();
    let lost: Vec<&&String> = acknowledged.iter().filter(|id| !there.contains(id)).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    assert_eq!((acknowledged.len(), there.len()), (all.stored.len(), all.stored.len()));
    // Work that was begun was answered: nobody had to ask twice for what was stored.
    assert_eq!(all.stored_before, 0, "of {} writes that were asked for again", all.writes_repeated);
    assert!(all.lost > 0, "the restart was not noticed");
    let slowest = ends.iter().max().unwrap();
    println!(
        "rolling restart: {} calls ({} writes) of {CLIENTS} clients in {took:.1?}, {:.0}/s; 0 failed; connections lost before \
         an answer: {}, {} of them before a write's; slowest end {slowest:.2?}; connections by instance {:?}",
        all.calls,
        all.stored.len(),
        all.calls as f64 / took.as_secs_f64(),
        all.lost,
        all.writes_repeated,
        proxy.taken(),
    );
}

/// Waits for more calls; a client that failed ends the test at once.
async fn more(made: &mut watch::Receiver<u64>, clients: &mut JoinSet<Seen>) {
    let wanted = *made.borrow() + CALLS_BETWEEN;
    tokio::select! {
        made = within("calls", made.wait_for(|made| *made >= wanted)) => drop(made.unwrap()),
        ended = clients.join_next() => {
            ended.expect("clients").unwrap();
            panic!("a client ended early");
        }
    }
}

async fn load(
    number: usize,
    mut client: Client,
    progress: Arc<watch::Sender<u64>>,
    done: CancellationToken,
) -> Seen {
    let mut seen = Seen::default();
    while !done.is_cancelled() {
        let n = seen.calls;
        if n.is_multiple_of(CALLS_PER_CONNECTION) {
            client.leave();
        }
        let answer = match n % CALLS_PER_WRITE {
            0 => {
                let content = format!("Client {number} wrote this as call {n}");
                client.call("remember", &json!({"content": content, "tags": ["load"]})).await
            }
            1 => client.run("memory.by-tag", json!({"tag": "load", "k": 1})).await,
            2 => client.run("code.find", json!({"text": "moor"})).await,
            _ => client.run("test.echo", json!({"mark": format!("m{number}x{n}")})).await,
        };
        let answer = answer.unwrap_or_else(|why| panic!("client {number}, call {n}: {why}"));
        match n % CALLS_PER_WRITE {
            0 => {
                seen.stored.push(answer.body["id"].as_str().unwrap().to_owned());
                seen.writes_repeated += usize::from(answer.repeats > 0);
                seen.stored_before += usize::from(answer.body["duplicate"] == true);
            }
            1 => assert!(answer.body["total"].as_u64() >= Some(seen.stored.len() as u64), "{}", answer.body),
            2 => assert_eq!(answer.body["hits"], 1, "{}", answer.body),
            _ => assert_eq!(answer.body["said"], format!("m{number}x{n}")),
        }
        seen.calls += 1;
        progress.send_modify(|made| *made += 1);
    }
    seen.lost = client.lost;
    seen
}
