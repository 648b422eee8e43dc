//! E: of `src/accept/scenarios/failure`.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tmws::accept::{
    proxy::{Proxy, Way},
    stage::{Sabotage, Setup},
};

use super::{Row, spoil};

/// Before what the writers of E1 and E2 are told by.
const MARK: &str = "outage-";
/// PostgreSQL says so to who is connected while it is told to end.
const ENDING: &str = "C57P01";
/// A Redis that says nothing for so long has been stopped.
const SILENT: Duration = Duration::from_millis(800);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// E1: what is acknowledged is in memory alone. What else is written to the database would bring it to the disk.
const LAZY: &str = "\
CREATE OR REPLACE FUNCTION public.accept_lazy() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    RETURN NEW;
END $$;
DROP TRIGGER IF EXISTS accept_lazy ON tmws.memory;
CREATE TRIGGER accept_lazy BEFORE INSERT ON tmws.memory FOR EACH ROW
    WHEN (NEW.tags[1] LIKE 'outage-%') EXECUTE FUNCTION public.accept_lazy();
DROP TRIGGER IF EXISTS accept_lazy_too ON tmws.memory;
CREATE TRIGGER accept_lazy_too BEFORE UPDATE ON tmws.memory FOR EACH ROW
    WHEN (NEW.recalled IS DISTINCT FROM OLD.recalled) EXECUTE FUNCTION public.accept_lazy()";

/// E2: a way to the database that stays closed after its administrator has ended it, while the writers of this scenario
/// write.
fn close_for_good(proxy: &Arc<Proxy>, _: usize) {
    let (way, is_watched) = (Arc::downgrade(proxy), AtomicBool::new(false));
    proxy.edit(Some(Arc::new(move |direction, piece: &mut Vec<u8>| match direction {
        Way::There if spoil::holds(piece, MARK) => is_watched.store(true, Ordering::Relaxed),
        Way::Back if is_watched.load(Ordering::Relaxed) && spoil::holds(piece, ENDING) => {
            if let Some(proxy) = way.upgrade() {
                proxy.close(true);
            }
        }
        _ => {}
    })));
}

/// E3: patterns with a limit of a second have four.
fn lengthen(setup: &mut Setup, _: usize) {
    for (_, text) in &mut setup.patterns {
        *text = text.replace("limits: {timeout: 1s}", "limits: {timeout: 4s}");
    }
}

/// E4: a Redis that hung once hangs for good.
fn silence_for_good(proxy: &Arc<Proxy>, _: usize) {
    let asked = Arc::new(Mutex::new(None::<Instant>));
    let (way, since) = (Arc::downgrade(proxy), Arc::clone(&asked));
    let lock = |asked: &Arc<Mutex<Option<Instant>>>| *asked.lock().unwrap_or_else(PoisonError::into_inner);
    tokio::spawn(async move {
        while let Some(proxy) = way.upgrade() {
            // Nobody waits for an answer of a connection that has ended.
            if proxy.open() == 0 {
                *since.lock().unwrap_or_else(PoisonError::into_inner) = None;
            }
            if lock(&since).is_some_and(|asked| asked.elapsed() > SILENT) {
                return proxy.freeze(true);
            }
            drop(proxy);
            tokio::time::sleep(LOOK_EVERY).await;
        }
    });
    proxy.edit(Some(Arc::new(move |direction, _: &mut Vec<u8>| {
        let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
        *asked = if direction == Way::There { asked.or_else(|| Some(Instant::now())) } else { None };
    })));
}

pub(super) fn rows() -> Vec<Row> {
    vec![
        Row {
            id: "E1",
            how: "the database acknowledges writes of the scenario before they are on the disk (`synchronous_commit` is off \
                  for them, and its log is written every 10 s)",
            red: &["lost_writes"],
            sabotage: Sabotage {
                sql: Some(LAZY),
                postgres_settings: &["wal_writer_delay=10s", "wal_writer_flush_after=1GB"],
                ..Sabotage::default()
            },
            ..Row::default()
        },
        Row {
            id: "E2",
            how: "a proxy before the database refuses for good once that was ended",
            red: &["recovered", "reads and writes go well again"],
            sabotage: Sabotage { database: Some(close_for_good), ..Sabotage::default() },
            ..Row::default()
        },
        Row {
            id: "E3",
            how: "the patterns have a limit of 4 s, where the scenario says 1 s",
            red: &[
                "a program that never ends: it is ended at its limit",
                "a host that never answers: it is ended at its limit",
            ],
            sabotage: Sabotage { setup: Some(lengthen), ..Sabotage::default() },
            ..Row::default()
        },
        Row {
            id: "E4",
            how: "a proxy before Redis stays silent for good once Redis has been so for 800 ms",
            red: &["the metrics say closed once calls were made", "/readyz on the backends after it closed"],
            sabotage: Sabotage { redis: Some(silence_for_good), ..Sabotage::default() },
            ..Row::default()
        },
        Row {
            id: "E5",
            how: "a proxy before the server calls `partial` by another name",
            red: &[
                "the branch that failed is marked, with its code",
                "a hybrid whose repository cannot be read is marked as partial, step by step",
            ],
            sabotage: Sabotage {
                clients: Some(|proxy, _| spoil::replace_in_answers(proxy, "partial\\\":", "omitted\\\":")),
                ..Sabotage::default()
            },
            ..Row::default()
        },
    ]
}
