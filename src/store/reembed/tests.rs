//! The driver against a table in memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tokio::time::timeout;

use super::*;

const SOON: Duration = Duration::from_mins(1);

#[derive(Default)]
struct Rows {
    memories: BTreeMap<i64, String>,
    /// By model's hash.
    vectors: BTreeMap<String, BTreeMap<i64, Vec<f32>>>,
    used: BTreeMap<String, Timestamp>,
    /// After which numbers was asked for memories.
    asked: BTreeSet<i64>,
    /// Everything was seen to have its vector.
    is_noted: bool,
}

/// What happens to a page that is put.
type Meanwhile = Box<dyn Fn(&mut Rows, &[i64]) + Send>;

#[derive(Default)]
struct Double {
    rows: Mutex<Rows>,
    /// Each change of the rows.
    changed: Notify,
    /// So many calls fail before one works.
    failing: AtomicUsize,
    calls: AtomicUsize,
    /// Puts never return.
    stuck: AtomicBool,
    putting: Notify,
    meanwhile: Mutex<Option<Meanwhile>>,
}

impl Double {
    fn with(count: i64) -> Arc<Self> {
        let double = Self::default();
        double.rows.lock().unwrap().memories =
            (1..=count).map(|seq| (seq, format!("memory number {seq} about ships"))).collect();
        Arc::new(double)
    }

    fn embedded(&self, model: &str) -> usize {
        self.rows.lock().unwrap().vectors.get(model).map_or(0, BTreeMap::len)
    }

    async fn until(&self, what: impl Fn(&Rows) -> bool) {
        let waiting = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if what(&self.rows.lock().unwrap()) {
                    return;
                }
                changed.await;
            }
        };
        timeout(SOON, waiting).await.expect("it happens");
    }

    fn called(&self) -> Result<(), StoreError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let fails = self.failing.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        fails.map_or(Ok(()), |_| Err(StoreError::Locked))
    }
}

#[async_trait]
impl VectorTable for Double {
    async fn newest(&self) -> Result<i64, StoreError> {
        self.called()?;
        Ok(self.rows.lock().unwrap().memories.keys().next_back().copied().unwrap_or(0))
    }

    async fn unembedded(
        &self,
        model: &Identity,
        after: i64,
        limit: usize,
    ) -> Result<Vec<Unembedded>, StoreError> {
        self.called()?;
        let rows = &mut *self.rows.lock().unwrap();
        rows.asked.insert(after);
        self.changed.notify_waiters();
        let done = rows.vectors.get(&*model.hash);
        Ok(rows
            .memories
            .range(after + 1..)
            .filter(|(seq, _)| done.is_none_or(|done| !done.contains_key(seq)))
            .take(limit)
            .map(|(seq, content)| Unembedded { seq: *seq, content: content.clone() })
            .collect())
    }

    async fn count_unembedded(&self, model: &Identity, after: i64) -> Result<u64, StoreError> {
        self.called()?;
        let rows = &*self.rows.lock().unwrap();
        let done = rows.vectors.get(&*model.hash);
        let without = |seq: &&i64| done.is_none_or(|done| !done.contains_key(seq));
        Ok(rows.memories.range(after + 1..).map(|(seq, _)| seq).filter(without).count() as u64)
    }

    async fn put_vectors(
        &self,
        model: &Identity,
        vectors: Vec<(i64, Vec<f32>)>,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        self.called()?;
        self.putting.notify_one();
        if self.stuck.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let seqs: Vec<i64> = vectors.iter().map(|(seq, _)| *seq).collect();
        let rows = &mut *self.rows.lock().unwrap();
        if let Some(meanwhile) = &*self.meanwhile.lock().unwrap() {
            meanwhile(rows, &seqs);
        }
        rows.used.insert(model.hash.to_string(), now);
        let table = rows.vectors.entry(model.hash.to_string()).or_default();
        let mut new = 0;
        for (seq, vector) in vectors {
            assert_eq!(vector.len(), model.dimension);
            if rows.memories.contains_key(&seq) && table.insert(seq, vector).is_none() {
                new += 1;
            }
        }
        self.changed.notify_waiters();
        Ok(new)
    }

    async fn note_use(&self, model: &Identity, now: Timestamp) -> Result<(), StoreError> {
        self.called()?;
        let rows = &mut *self.rows.lock().unwrap();
        rows.is_noted = true;
        if let Some(used) = rows.used.get_mut(&*model.hash) {
            *used = now;
        }
        self.changed.notify_waiters();
        Ok(())
    }

    async fn prune(
        &self,
        model: &Identity,
        unused_since: Timestamp,
        limit: usize,
    ) -> Result<u64, StoreError> {
        self.called()?;
        let rows = &mut *self.rows.lock().unwrap();
        let (mut gone, mut empty) = (0, Vec::new());
        for (hash, used) in &rows.used {
            if **hash == *model.hash || *used >= unused_since {
                continue;
            }
            let vectors = rows.vectors.entry(hash.clone()).or_default();
            while gone < limit && vectors.pop_first().is_some() {
                gone += 1;
            }
            if vectors.is_empty() {
                empty.push(hash.clone());
            }
        }
        for hash in empty {
            rows.vectors.remove(&hash);
            rows.used.remove(&hash);
        }
        self.changed.notify_waiters();
        Ok(gone as u64)
    }
}

fn quick() -> Pace {
    Pace {
        settle: Duration::from_millis(1),
        gather: Duration::ZERO,
        pause: Duration::ZERO,
        pause_max: Duration::from_millis(1),
        yielding: Duration::from_millis(1),
        look: Duration::from_hours(1),
        retry: Duration::from_millis(1),
        retry_max: Duration::from_millis(4),
        whole: Duration::from_hours(1),
        now: Timestamp::now,
    }
}

fn start(double: &Arc<Double>, embeddings: Arc<Embeddings>, pace: Pace) -> Reembedding {
    let table: Arc<dyn VectorTable> = Arc::<Double>::clone(double);
    Reembedding::paced(Arc::downgrade(&table), embeddings, pace)
}

async fn builtin() -> String {
    Embeddings::builtin().identity().await.unwrap().hash.into_owned()
}

#[tokio::test]
async fn every_memory_gets_the_vector_of_its_own_content() {
    let double = Double::with(150);
    let _embedder = start(&double, Embeddings::builtin(), quick());
    let model = builtin().await;
    double.until(|rows| rows.vectors.get(&model).is_some_and(|vectors| vectors.len() == 150)).await;
    let content = double.rows.lock().unwrap().memories[&77].clone();
    let expected = Embeddings::builtin().embed(vec![content]).await.unwrap().vectors.remove(0);
    assert_eq!(double.rows.lock().unwrap().vectors[&model][&77], expected);
}

#[tokio::test]
async fn it_tells_how_far_it_is() {
    let double = Double::with(150);
    let (model, taken) = (builtin().await, Arc::new(AtomicUsize::new(0)));
    let hash = model.clone();
    // Somebody else is quicker with one memory of the first page.
    *double.meanwhile.lock().unwrap() = Some(Box::new(move |rows, seqs| {
        if taken.fetch_add(1, Ordering::SeqCst) == 0 {
            rows.vectors.entry(hash.clone()).or_default().insert(seqs[0], vec![1.0]);
        }
    }));
    let embedder = start(&double, Embeddings::builtin(), Pace { settle: SOON, ..quick() });
    assert_eq!(embedder.progress(), Some(Progress { embedded: 0, unembedded: None }));
    embedder.wake();
    let mut told = Vec::new();
    timeout(SOON, async {
        loop {
            let progress = embedder.progress().unwrap();
            if told.last() != Some(&progress) {
                told.push(progress);
            }
            if double.rows.lock().unwrap().is_noted && progress.unembedded == Some(0) {
                return;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("it ends");
    let counts: Vec<(u64, u64)> =
        told.iter().filter_map(|progress| Some((progress.embedded, progress.unembedded?))).collect();
    assert_eq!(counts.last(), Some(&(149, 0)), "{counts:?}");
    assert!(counts.len() > 1, "{counts:?}");
    // One of them was somebody else's.
    let is_whole = |(embedded, left): &(u64, u64)| (149..=150).contains(&(embedded + left));
    assert!(counts.iter().all(is_whole), "{counts:?}");
    let off = start(&double, Embeddings::none(), quick());
    assert_eq!(off.progress(), None);
}

#[tokio::test]
async fn only_what_has_no_vector_is_embedded_and_a_later_process_goes_on_from_there() {
    let double = Double::with(200);
    let model = builtin().await;
    {
        // The first is stopped in the middle of a page.
        let embedder = start(&double, Embeddings::builtin(), quick());
        double.until(|rows| rows.vectors.get(&model).is_some_and(|vectors| vectors.len() >= 64)).await;
        double.stuck.store(true, Ordering::SeqCst);
        embedder.end();
    }
    let before = double.rows.lock().unwrap().vectors[&model].clone();
    double.stuck.store(false, Ordering::SeqCst);
    let done = before.clone();
    *double.meanwhile.lock().unwrap() = Some(Box::new(move |_, seqs| {
        assert!(seqs.iter().all(|seq| !done.contains_key(seq)), "{seqs:?} again");
    }));
    let _embedder = start(&double, Embeddings::builtin(), quick());
    double.until(|rows| rows.vectors[&model].len() == 200).await;
    let rows = double.rows.lock().unwrap();
    assert!(before.iter().all(|(seq, vector)| rows.vectors[&model][seq] == *vector));
}

#[tokio::test]
async fn an_empty_store_is_asked_for_nothing_but_its_newest_memory() {
    let double = Double::with(0);
    let _embedder = start(&double, Embeddings::folder("/nonexistent"), quick());
    timeout(SOON, async {
        while double.calls.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    assert!(double.rows.lock().unwrap().asked.is_empty());
}

#[tokio::test]
async fn being_woken_it_embeds_what_was_stored_since_without_looking_at_everything_again() {
    let double = Double::with(3);
    let embedder = start(&double, Embeddings::builtin(), quick());
    let model = builtin().await;
    double.until(|rows| rows.is_noted && rows.vectors[&model].len() == 3).await;
    {
        let mut rows = double.rows.lock().unwrap();
        rows.memories.insert(5_000, "a late one".to_owned());
        rows.asked.clear();
    }
    embedder.wake();
    double.until(|rows| rows.vectors[&model].contains_key(&5_000)).await;
    // Some numbers back, for transactions that began earlier and end later.
    double.rows.lock().unwrap().memories.insert(4_990, "a later one".to_owned());
    embedder.wake();
    double.until(|rows| rows.vectors[&model].contains_key(&4_990)).await;
    double.until(|rows| rows.asked.contains(&(5_000 - 1_024))).await;
}

#[tokio::test]
async fn errors_of_the_store_are_tried_again() {
    let double = Double::with(10);
    double.failing.store(6, Ordering::SeqCst);
    let _embedder = start(&double, Embeddings::builtin(), quick());
    let model = builtin().await;
    double.until(|rows| rows.vectors.get(&model).is_some_and(|vectors| vectors.len() == 10)).await;
}

#[tokio::test]
async fn a_memory_that_is_forgotten_meanwhile_stays_gone() {
    let double = Double::with(10);
    *double.meanwhile.lock().unwrap() = Some(Box::new(|rows, _| {
        rows.memories.remove(&4);
    }));
    let _embedder = start(&double, Embeddings::builtin(), quick());
    let model = builtin().await;
    double.until(|rows| rows.vectors.get(&model).is_some_and(|vectors| vectors.len() == 9)).await;
    assert!(!double.rows.lock().unwrap().vectors[&model].contains_key(&4));
}

#[tokio::test]
async fn vectors_of_models_that_nobody_used_for_a_week_go_when_all_have_the_new_one() {
    let double = Double::with(700);
    let hour = jiff::SignedDuration::from_hours(1);
    {
        let now = Timestamp::now();
        let mut rows = double.rows.lock().unwrap();
        let vectors: BTreeMap<i64, Vec<f32>> = (1..=700).map(|seq| (seq, vec![1.0])).collect();
        for (hash, hours) in [("unused", 7 * 24 + 1), ("another's", 7 * 24 - 1)] {
            rows.vectors.insert(hash.to_owned(), vectors.clone());
            rows.used.insert(hash.to_owned(), now - hour * hours);
        }
    }
    let model = builtin().await;
    let complete = model.clone();
    let _embedder = start(&double, Embeddings::builtin(), quick());
    double
        .until(|rows| {
            let all = rows.vectors.get(&complete).is_some_and(|vectors| vectors.len() == 700);
            assert!(all || rows.vectors["unused"].len() == 700, "pruned before the new ones are complete");
            !rows.vectors.contains_key("unused")
        })
        .await;
    assert_eq!(double.embedded("another's"), 700);
    assert_eq!(double.embedded(&model), 700);
}

#[tokio::test]
async fn it_ends_at_once_with_its_handle_or_its_store_and_keeps_neither_alive() {
    let double = Double::with(10);
    double.stuck.store(true, Ordering::SeqCst);
    let embedder = start(&double, Embeddings::builtin(), quick());
    timeout(SOON, double.putting.notified()).await.unwrap();
    embedder.end();
    timeout(SOON, async {
        while Arc::strong_count(&double) > 1 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("what it held of the store is let go");

    let idle = Double::with(0);
    let mut embedder = start(&idle, Embeddings::builtin(), quick());
    drop(idle);
    embedder.wake();
    timeout(SOON, embedder.task.take().unwrap()).await.expect("it notices").unwrap();
}

#[tokio::test]
async fn without_a_model_there_is_no_task() {
    let double = Double::with(10);
    let embedder = start(&double, Embeddings::none(), quick());
    assert!(embedder.task.is_none());
    embedder.wake();
}
