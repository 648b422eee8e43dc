//! What never ends is ended.

use std::{
    fs,
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpStream},
};

use crate::accept::{
    client::{Client, MODERN, Target},
    metrics::Metrics,
    scenario::{Broken, Seen},
    stage::{AGENTS, Stage},
    until::until,
    workload::{self, Caller, Kind},
};

/// What the patterns of the scenario may take.
const LIMIT: Duration = Duration::from_secs(1);
/// An answer may be so much later than the limit: a machine may be busy.
const GRACE: Duration = Duration::from_millis(1_500);
/// What was ended is gone within this.
const GONE_MAX: Duration = Duration::from_secs(3);
/// Calls at once that never end.
const MANY: usize = 6;

/// A pattern whose only step never ends by itself.
fn pattern(name: &str, timeout: &str, permissions: &str, step: &str, hints: &str) -> (String, String) {
    let text = format!(
        "apiVersion: tmws/v1\nkind: Pattern\nname: {name}\nversion: 1.0.0\ntype: infrastructure\n\
         description: Wait for a ship that never comes. Use to see what ends it.\n\
         bind:\n  root: {{from: workspace.root}}\npermissions:\n  {permissions}\n\
         limits: {{timeout: {timeout}}}\nsteps:\n  - {{id: ship, {step}}}\n\
         output:\n  schema: {{type: object, required: [came], properties: {{came: {{type: boolean}}}}}}\n  \
         value: '${{ {{came: (.steps.ship != null)}} }}'\n  budget: {{tokens: 40}}\nannotations: {{{hints}}}\n"
    );
    (format!("{name}.yaml"), text)
}

/// E3: programs and hosts that never end are ended at the pattern's limit, and when the client gives up.
pub(super) async fn ended(stage: &Stage, seen: &mut Seen) -> Result<(), Broken> {
    let listener = TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.map_err(|error| Broken::new("listening", "a port", error))?;
    let port = listener.local_addr().map_err(|error| Broken::new("listening", "a port", error))?.port();
    // Nothing else on the machine sleeps for so long.
    let seconds = u64::from(std::process::id()) * 10_000 + u64::from(port) % 10_000;
    let host = format!("127.0.0.1:{port}");
    let exec = format!("exec: {{wait: [sleep, '{seconds}']}}");
    let exec_step = "uses: exec.run, with: {command: wait, root: '${ .bind.root }'}";
    let http = format!("http: ['{host}']");
    let http_step = format!("uses: http.get, with: {{url: 'http://{host}/never'}}");
    let (writes, reads) = ("readOnlyHint: false", "readOnlyHint: true, openWorldHint: true");
    let mut setup = workload::setup();
    setup.patterns.extend([
        pattern("harbour.stuck", "1s", &exec, exec_step, writes),
        pattern("harbour.long", "1m", &exec, exec_step, writes),
        pattern("harbour.silent", "1s", &http, &http_step, reads),
        pattern("harbour.mute", "1m", &http, &http_step, reads),
    ]);
    setup.settings.retain(|(name, _)| *name != "promote");
    setup.settings.push(("promote", "memory.remember,harbour.stuck,harbour.long".to_owned()));
    setup.settings.push(("http.private_hosts", host));
    let mut instance = stage.start(setup).await?;
    let tokens = instance.home.join("tokens.toml");
    // Who runs programs needs a right that agents of the run do not have otherwise.
    let text = fs::read_to_string(&tokens).and_then(|text| {
        fs::write(&tokens, text.replace("\"pattern:run\"", "\"pattern:run\", \"pattern:execute\""))
    });
    text.map_err(|error| Broken::new("granting the right to execute", "the tokens file is changed", error))?;
    instance.end().await?;
    instance.restart().await?;
    workload::repository(stage, &instance).await?;
    let target = Target::of(&instance, AGENTS[0], "alpha");
    let mut client = Client::socket("ada", &target, MODERN).await?;
    // Everything that is opened once is open, and stays.
    let mut caller = Caller::new(stage.seed, 3);
    for kind in Kind::ALL {
        caller.next(kind).call(&mut client).await?;
    }
    let quiet = instance.descriptors().unwrap_or_default();

    at_its_limit(seen, &target, &mut client, &listener, seconds).await?;
    when_given_up(seen, &mut client, &listener, seconds).await?;
    all_at_once(seen, &mut client, seconds).await?;

    let mut worked = 0;
    for _ in 0..5 {
        for kind in Kind::ALL {
            caller.next(kind).call(&mut client).await?;
            worked += 1;
        }
    }
    seen.note(format!("{worked} calls of all types on the same connection went well afterwards"));
    let (figures, is_free) = Metrics::until(&instance, GONE_MAX, |figures| {
        figures.sum("tmws_calls_in_flight", &[]) == 0.0 && figures.sum("tmws_backend_in_use", &[]) == 0.0
    })
    .await?;
    seen.check(
        "no call and no place is held any more",
        is_free,
        "0 in the metrics",
        format!(
            "{} calls, {} places",
            figures.sum("tmws_calls_in_flight", &[]),
            figures.sum("tmws_backend_in_use", &[])
        ),
    );
    // The store opens connections as it needs them; of what was ended more would be left.
    let open = soon(GONE_MAX, async || instance.descriptors().unwrap_or_default() <= quiet + MANY).await;
    seen.check(
        "what was opened is closed",
        open.is_some(),
        format!("at most {} descriptors", quiet + MANY),
        instance.descriptors().unwrap_or_default().to_string(),
    );
    seen.check("the server runs", instance.is_running(), "it runs", instance.log());
    instance.end().await?;
    Ok(())
}

/// Each is ended at its limit, and its client told.
async fn at_its_limit(
    seen: &mut Seen,
    target: &Target,
    client: &mut Client,
    listener: &TcpListener,
    seconds: u64,
) -> Result<(), Broken> {
    let mut other = Client::socket("ben", target, MODERN).await?;
    let running = other.call("harbour_stuck", json!({}));
    let watching = soon(LIMIT, async || !sleepers(seconds).is_empty());
    let (called, there) = tokio::join!(running, watching);
    let called = called?;
    seen.check("the program ran", there.is_some(), "a process", "none was seen");
    told(seen, "a program that never ends", &called);
    gone(seen, "the program is gone after its limit", seconds).await;

    let running = client.run("harbour.silent", json!({}));
    let (called, host) = tokio::join!(running, silent(listener));
    told(seen, "a host that never answers", &called?);
    closed(seen, "the connection to the host is closed after the limit", host?).await;
    Ok(())
}

/// A client that gives up ends what it asked for, long before the limit.
async fn when_given_up(
    seen: &mut Seen,
    client: &mut Client,
    listener: &TcpListener,
    seconds: u64,
) -> Result<(), Broken> {
    let cancelled = |id: i64| {
        json!({"jsonrpc": "2.0", "method": "notifications/cancelled",
            "params": {"requestId": id, "reason": "the client of the run gave up"}})
    };
    let id = client.post("tools/call", json!({"name": "harbour_long", "arguments": {}})).await?;
    let there = soon(GONE_MAX, async || !sleepers(seconds).is_empty()).await;
    seen.check("a program that the client gives up ran", there.is_some(), "a process", "none was seen");
    client.say(cancelled(id)).await?;
    gone(seen, "the program is gone after the client gave up", seconds).await;
    let late = client.next(Duration::from_millis(200)).await?;
    let late = late.filter(|frame| frame["id"] == id && frame.get("result").is_some());
    seen.check(
        "a call that was given up has no result",
        late.is_none(),
        "none",
        late.map_or_else(String::new, |frame| frame.to_string()),
    );
    let arguments = json!({"pattern": "harbour.mute"});
    let id = client.post("tools/call", json!({"name": "execute_pattern", "arguments": arguments})).await?;
    let host = silent(listener).await?;
    client.say(cancelled(id)).await?;
    closed(seen, "the connection to the host is closed after the client gave up", host).await;
    Ok(())
}

/// Many at once are all ended, while another call is answered.
async fn all_at_once(seen: &mut Seen, client: &mut Client, seconds: u64) -> Result<(), Broken> {
    let begun = Instant::now();
    let mut ids = Vec::new();
    for _ in 0..MANY {
        ids.push(client.post("tools/call", json!({"name": "harbour_stuck", "arguments": {}})).await?);
    }
    let other = client.call("execute_pattern", json!({"query": "tell me the harbour motto"})).await?;
    seen.check(
        "another call on the same connection is answered meanwhile",
        !other.is_error && begun.elapsed() < LIMIT,
        format!("within {LIMIT:?}"),
        format!("{:?}: {}", begun.elapsed(), other.body),
    );
    let mut codes = Vec::new();
    for id in ids {
        let frame = client.answer(&json!(id)).await?;
        codes.push(client.called(&frame, begun.elapsed())?.code().to_owned());
    }
    seen.equal("codes of many at once", &vec!["deadline".to_owned(); MANY], &codes);
    gone(seen, "no process of many is left", seconds).await;
    Ok(())
}

fn told(seen: &mut Seen, what: &str, called: &crate::accept::client::Called) {
    seen.check(
        format!("{what}: the client is told `deadline`"),
        called.is_error && called.code() == "deadline",
        "the error `deadline`",
        called.body.to_string(),
    );
    seen.check(
        format!("{what}: it is ended at its limit"),
        called.elapsed >= LIMIT / 2 && called.elapsed <= LIMIT + GRACE,
        format!("after {LIMIT:?}, at most {GRACE:?} later"),
        format!("{:?}", called.elapsed),
    );
}

async fn gone(seen: &mut Seen, what: &str, seconds: u64) {
    let took = soon(GONE_MAX, async || sleepers(seconds).is_empty()).await;
    seen.check(
        what,
        took.is_some(),
        "no process",
        took.map_or_else(|| format!("still {:?}", sleepers(seconds)), |took| format!("after {took:?}")),
    );
}

/// A connection of the server to the run's own host, which reads what is asked and never answers.
async fn silent(listener: &TcpListener) -> Result<TcpStream, Broken> {
    let accepted = tokio::time::timeout(GONE_MAX, listener.accept()).await;
    let broken = |seen: &str| Broken::new("waiting for a pattern to ask its host", "a connection", seen);
    let (mut stream, _) =
        accepted.map_err(|_| broken("none in time"))?.map_err(|error| broken(&error.to_string()))?;
    let mut asked = [0; 4_096];
    let _ = tokio::time::timeout(GONE_MAX, stream.read(&mut asked)).await;
    Ok(stream)
}

async fn closed(seen: &mut Seen, what: &str, mut host: TcpStream) {
    let mut rest = [0; 64];
    let ended = tokio::time::timeout(GONE_MAX, host.read(&mut rest)).await;
    seen.check(what, matches!(ended, Ok(Ok(0) | Err(_))), "its end", format!("{ended:?}"));
}

/// How long it took until `holds`; `None` where it did not within `most`.
async fn soon(most: Duration, mut holds: impl AsyncFnMut() -> bool) -> Option<Duration> {
    let begun = Instant::now();
    let look = async || Ok(holds().await);
    let looked = until(most, Duration::from_millis(5), look, |held| *held).await;
    looked.is_ok_and(|(_, held)| held).then(|| begun.elapsed())
}

/// Processes that sleep for so long, whoever's children they are by now.
fn sleepers(seconds: u64) -> Vec<u32> {
    let wanted = format!("{seconds}");
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let sleeps = |folder: &std::path::Path| {
        let Ok(line) = fs::read(folder.join("cmdline")) else { return false };
        line.split(|byte| *byte == 0).any(|word| word == wanted.as_bytes())
    };
    processes
        .filter_map(|process| Some((process.file_name().to_str()?.parse().ok()?, process.path())))
        .filter(|(_, folder)| sleeps(folder))
        .map(|(pid, _): (u32, _)| pid)
        .collect()
}
