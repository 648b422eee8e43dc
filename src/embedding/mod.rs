//! Texts as vectors, so that what means the same lies close: a static table of word pieces, in the binary.
//!
//! A table is less than a transformer (it knows no word order), and ten thousand times quicker. It orders candidates;
//! nothing is ever run or believed because of it. `models/minilm-static-256/NOTICE` says where it comes from.
//!
//! Nothing is read before [`warm`] or [`ready`]: until then the table is untouched pages of the binary. Reading it takes
//! some tens of milliseconds and 16 MB, on a thread of its own.

#[cfg(feature = "minilm")]
mod bert;
#[cfg(feature = "minilm")]
mod encoder;
mod folder;
mod model;
mod table;

use std::{
    borrow::Cow,
    sync::{LazyLock, Once, OnceLock},
    thread,
    time::Duration,
};

use tokio::{sync::watch, time::timeout};

use self::table::Table;
pub use model::{EmbeddingError, Embeddings, SOME_WITHOUT, Vectors, WORDS_ALONE};

static TABLE: &[u8] = include_bytes!("../../models/minilm-static-256/model.safetensors");
static TOKENIZER: &[u8] = include_bytes!("../../models/minilm-static-256/tokenizer.json");
static CONFIG: &[u8] = include_bytes!("../../models/minilm-static-256/config.json");

/// Which vectors these are: vectors of different identities must not be compared.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Name of the model.
    pub name: Cow<'static, str>,
    /// Numbers of a vector.
    pub dimension: usize,
    /// SHA-256 of the weights followed by the tokenizer, hexadecimal.
    pub hash: Cow<'static, str>,
}

/// The table in the binary.
pub const IDENTITY: Identity = Identity {
    name: Cow::Borrowed("minilm-static-256"),
    dimension: 256,
    hash: Cow::Borrowed("ed3fd79822236216ab89136d875c4841367a6d2b08627ff2e3b077579953fc70"),
};

/// Turns texts into vectors.
#[derive(Debug)]
pub struct Embedder {
    table: Table,
}

/// `None` where it could not be read.
static EMBEDDER: OnceLock<Option<Embedder>> = OnceLock::new();
static READ: LazyLock<watch::Sender<bool>> = LazyLock::new(|| watch::Sender::new(false));

impl Embedder {
    fn read() -> Option<Self> {
        let read = Table::read(TOKENIZER, TABLE, CONFIG).and_then(|table| match table.dimension() {
            dimension if dimension == IDENTITY.dimension => Ok(Self { table }),
            dimension => Err(format!("it has {dimension} dimensions")),
        });
        read.inspect_err(|reason| {
            tracing::error!(reason, "the embedding table cannot be read; words alone order candidates");
        })
        .ok()
    }

    /// Which vectors this makes.
    #[must_use]
    pub const fn identity(&self) -> Identity {
        IDENTITY
    }

    /// The vector of `text`: of length 1, or all zeros where the table knows none of its words. Takes some microseconds;
    /// what is beyond the first 512 word pieces does not count.
    #[must_use]
    pub fn embed(&self, text: &str) -> Vec<f32> {
        self.table.embed(text)
    }
}

/// The embedder, if it has been read. Never waits.
#[must_use]
pub fn loaded() -> Option<&'static Embedder> {
    EMBEDDER.get().and_then(Option::as_ref)
}

/// Starts reading the table, unless that was done before. Returns at once. The reading thread is the process's own and
/// ends by itself.
pub fn warm() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        let reading = thread::Builder::new().name("tmws-embedding".to_owned()).spawn(read_now);
        if let Err(error) = reading {
            tracing::error!(%error, "no thread to read the embedding table; words alone order candidates");
            let _ = EMBEDDER.set(None);
            READ.send_replace(true);
        }
    });
}

/// The embedder, read if need be on the caller's thread.
fn read_now() -> Option<&'static Embedder> {
    let embedder = EMBEDDER.get_or_init(Embedder::read).as_ref();
    READ.send_replace(true);
    embedder
}

/// The embedder, read if need be: waits `at_most` for it without holding the caller's thread.
pub async fn ready(at_most: Duration) -> Option<&'static Embedder> {
    warm();
    if EMBEDDER.get().is_none() {
        let mut read = READ.subscribe();
        // The sender is never dropped; after the wait it is there or it is not.
        let _ = timeout(at_most, read.wait_for(|read| *read)).await;
    }
    loaded()
}

/// How alike the texts of two vectors of one identity are: 1 the same, about 0 unrelated.
#[must_use]
pub fn similarity(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod pairs;
#[cfg(test)]
mod tests;
