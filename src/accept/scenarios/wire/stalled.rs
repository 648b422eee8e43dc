//! W8: a reader that stops reading.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::time::timeout;

use super::{
    peer::{Harmless, setup},
    raw::{Raw, frame},
};
use crate::accept::{
    client::{Client, MODERN, Target},
    load::{Recorder, percentile},
    scenario::{Broken, Seen, Series},
    stage::{AGENTS, Instance, Stage},
};

const MEGABYTE: f64 = 1_048_576.0;
/// Clients that read, and are measured.
const OTHERS: usize = 4;
/// The server cuts off whoever takes nothing for so long.
const STALL: Duration = Duration::from_secs(3);
/// A write that takes longer is one that the server no longer reads.
const STUCK: Duration = Duration::from_millis(500);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// More than any buffer on the way holds.
const ASKED_BYTES_MAX: usize = 256 << 20;

/// W8: one client asks for much and reads nothing: the server stops reading it, keeps a bounded part of what waits for it,
/// cuts it off, and serves everybody else as before.
pub(super) async fn run(stage: &Stage, seen: &mut Seen) -> Result<(), Broken> {
    let mut setup = setup(None);
    setup.settings.push(("limits.write_stall", format!("{}s", STALL.as_secs())));
    let mut instance = stage.start(setup).await?;
    let target = Target::of(&instance, AGENTS[0], "alpha");
    let others = Target::of(&instance, AGENTS[1], "alpha");
    let alone_for = stage.profile.pick(Duration::from_millis(1_500), Duration::from_secs(5));

    // Once to warm it up, once to be measured.
    measure(&others, Duration::from_millis(300), Arc::default(), seen, "warm").await?;
    let alone = measure(&others, alone_for, Arc::default(), seen, "alone").await?;
    let before = resident(&instance)?;

    let is_over = Arc::new(AtomicBool::new(false));
    let stalling = tokio::spawn({
        let (target, is_over) = (target.clone(), Arc::clone(&is_over));
        async move {
            let stalled = stall(&target).await;
            is_over.store(true, Ordering::Release);
            stalled
        }
    });
    let begun = Instant::now();
    let mut memory = Series { name: "resident memory".to_owned(), unit: "MB", ..Series::default() };
    let mut most = before;
    // What the others see is handed over when they have ended: meanwhile the memory is watched.
    let mut seen_beside = Seen::default();
    let measuring =
        measure(&others, STALL * 4, Arc::clone(&is_over), &mut seen_beside, "beside a stalled reader");
    let beside = {
        let mut measuring = std::pin::pin!(measuring);
        loop {
            tokio::select! {
                beside = &mut measuring => break beside?,
                () = tokio::time::sleep(LOOK_EVERY) => {
                    let now = resident(&instance)?;
                    most = most.max(now);
                    memory.points.push((begun.elapsed(), now as f64 / MEGABYTE));
                }
            }
        }
    };
    seen.checks.append(&mut seen_beside.checks);
    seen.distributions.append(&mut seen_beside.distributions);
    seen.evidence.append(&mut seen_beside.evidence);
    is_over.store(true, Ordering::Release);
    let stalled =
        stalling.await.map_err(|error| Broken::new("the client that stalls", "an end", error))??;
    memory.marks.push((stalled.stuck, "the server stopped reading it".to_owned()));
    memory.marks.push((stalled.ended, "it was cut off".to_owned()));
    seen.series.push(memory);

    seen.check(
        "the server stops reading whoever does not read",
        stalled.asked < ASKED_BYTES_MAX,
        format!("before {ASKED_BYTES_MAX} bytes"),
        format!("{} bytes", stalled.asked),
    );
    let took = stalled.ended.saturating_sub(stalled.stuck);
    seen.check(
        "and cuts it off",
        stalled.is_cut_off && took < STALL * 3,
        format!("after about {STALL:?}"),
        format!("{took:?}, cut off: {}", stalled.is_cut_off),
    );
    seen.figure("growth", most.saturating_sub(before) as f64 / MEGABYTE);
    seen.figure("others", beside / alone);
    seen.note(format!(
        "{} bytes of questions were taken from it; the others' P95 was {alone:.1} ms alone, {beside:.1} ms beside it",
        stalled.asked
    ));
    instance.end().await?;
    Ok(())
}

fn resident(instance: &Instance) -> Result<u64, Broken> {
    instance.resident().ok_or_else(|| Broken::new("reading the server's memory", "a figure", "it has ended"))
}

struct Stalled {
    /// Bytes that the server took.
    asked: usize,
    /// When it took no more, and when the connection was gone; since the begin.
    stuck: Duration,
    ended: Duration,
    is_cut_off: bool,
}

/// Asks for the longest answers there are, and reads none.
async fn stall(target: &Target) -> Result<Stalled, Broken> {
    let begun = Instant::now();
    let mut raw = Raw::open(target).await?;
    let meta = json!({"io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {}});
    let mut asked = 0;
    let mut stuck = None;
    let mut number = 0_u64;
    while asked < ASKED_BYTES_MAX {
        number += 1;
        let message = json!({"jsonrpc": "2.0", "id": number, "method": "resources/read",
            "params": {"uri": "pattern://project.health", "_meta": meta}});
        let bytes = frame(0x81, message.to_string().as_bytes());
        match timeout(STUCK, raw.write(&bytes)).await {
            Ok(Ok(())) => asked += bytes.len(),
            Ok(Err(_)) => break,
            Err(_) => {
                stuck = Some(begun.elapsed());
                break;
            }
        }
    }
    let stuck = stuck.unwrap_or_else(|| begun.elapsed());
    // Another write tells when the other side has gone; reading would unblock it.
    let filler = frame(0x89, b"still there");
    let is_cut_off = timeout(STALL * 3, async {
        loop {
            match timeout(STUCK, raw.write(&filler)).await {
                Ok(Err(_)) => break,
                Ok(Ok(())) => tokio::time::sleep(LOOK_EVERY).await,
                Err(_) => {}
            }
        }
    })
    .await
    .is_ok();
    Ok(Stalled { asked, stuck, ended: begun.elapsed(), is_cut_off })
}

/// The others at work until it is over: their P95 in milliseconds. One that fails is noted as a check.
async fn measure(
    target: &Target,
    longest: Duration,
    is_over: Arc<AtomicBool>,
    seen: &mut Seen,
    what: &str,
) -> Result<f64, Broken> {
    let recorder = Recorder::new();
    let until = Instant::now() + longest;
    let mut clients = Vec::new();
    for number in 0..OTHERS {
        clients.push(Client::socket(&format!("other {number}"), target, "2025-11-25").await?);
    }
    let working = clients.into_iter().enumerate().map(|(number, mut client)| {
        let (recorder, is_over) = (Arc::clone(&recorder), Arc::clone(&is_over));
        async move {
            let mut round = 0;
            while Instant::now() < until && !is_over.load(Ordering::Acquire) {
                round += 1;
                let tool = Harmless::ours(&format!("w8-{number}-{round}x"));
                let begun = Instant::now();
                match client.ask("tools/call", tool.params(None)).await {
                    Ok(answer) => match tool.judge(&answer) {
                        Ok(()) => recorder.well(what, begun),
                        Err(why) => recorder.failed(&why),
                    },
                    Err(broken) => {
                        recorder.failed(&broken);
                        return;
                    }
                }
            }
        }
    });
    futures_util::future::join_all(working).await;
    let p95 = percentile(&recorder.times(None), 95.0);
    seen.equal(format!("{what}: calls of the others that failed"), &0, &recorder.failed_count());
    recorder.tell(seen);
    Ok(p95)
}
