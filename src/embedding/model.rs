//! The model that makes the vectors of memories: the table in the binary, or one that the user names.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{
    IDENTITY, Identity,
    folder::{Folder, Model},
    loaded, ready, table,
};

/// How long a search waits for the table in the binary.
const READING: Duration = Duration::from_secs(5);
/// Bytes of text that a static table turns into vectors without another thread: less than a millisecond.
const INLINE_BYTES: usize = 64 * 1024;

/// What [`Embeddings::trust`] is. A static table knows no context: its order is worth less than that of words, while that of
/// a transformer is worth as much (`docs/search.md`).
const TABLE_TRUST: f64 = 0.3;
const TRANSFORMER_TRUST: f64 = 1.0;

/// Which model.
#[derive(Debug)]
enum Source {
    Builtin,
    Folder(Arc<Folder>),
    None,
}

/// The model of the vectors of memories, read at its first use and then shared by everything in the process.
#[derive(Debug)]
pub struct Embeddings {
    source: Source,
    name: String,
    /// Whether whoever last waited for vectors got none.
    is_ailing: AtomicBool,
}

/// Vectors of some texts, in their order, and what they may be compared with.
#[derive(Clone, Debug, PartialEq)]
pub struct Vectors {
    /// Of which model.
    pub identity: Identity,
    /// One a text: of length 1, or all zeros where the model knows nothing of it.
    pub vectors: Vec<Vec<f32>>,
}

/// What is told of a search that goes by words alone, though vectors are wanted.
pub const WORDS_ALONE: &str = "embeddings: words alone";
/// What is told of a search while not all memories have a vector of the model.
pub const SOME_WITHOUT: &str = "embeddings: some memories have no vector yet";

/// Why there are no vectors. Search then goes by words alone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EmbeddingError {
    /// None is wanted.
    #[error("no embedding model is used")]
    Off,
    /// The model cannot be read; says why and what to do.
    #[error("the embedding model {place} cannot be used: {reason}")]
    Unusable {
        /// Its folder, or what it is called.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl Embeddings {
    /// The table in the binary.
    #[must_use]
    pub fn builtin() -> Arc<Self> {
        Self::of(Source::Builtin)
    }

    /// The model in `folder`: a static table of model2vec (`model.safetensors`, `tokenizer.json`, `config.json`), or, in a
    /// build with the feature `minilm`, a sentence transformer of the BERT kind. Nothing is read yet.
    #[must_use]
    pub fn folder(folder: impl Into<PathBuf>) -> Arc<Self> {
        Self::of(Source::Folder(Folder::new(folder.into())))
    }

    /// No vectors at all.
    #[must_use]
    pub fn none() -> Arc<Self> {
        Self::of(Source::None)
    }

    /// Tells what was found with one model from what was found with another or with none. Nothing is read for it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    fn of(source: Source) -> Arc<Self> {
        let name = match &source {
            Source::Builtin => "builtin".to_owned(),
            Source::Folder(folder) => format!("folder {}", folder.path().display()),
            Source::None => "none".to_owned(),
        };
        Arc::new(Self { source, name, is_ailing: AtomicBool::new(false) })
    }

    /// Whether vectors are wanted and whoever last waited for some got none.
    #[must_use]
    pub fn is_ailing(&self) -> bool {
        self.is_ailing.load(Ordering::Relaxed)
    }

    /// Whether no vectors are wanted.
    #[must_use]
    pub fn is_off(&self) -> bool {
        matches!(self.source, Source::None)
    }

    /// Whether a text costs microseconds (a static table) or milliseconds (a transformer). `None` before it was read.
    #[must_use]
    pub fn is_cheap(&self) -> Option<bool> {
        match &self.source {
            Source::Builtin => Some(true),
            Source::Folder(folder) => folder.model_now().map(|model| model.is_cheap()),
            Source::None => None,
        }
    }

    /// Whether vectors are made without a model being read first, or none are wanted.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        match &self.source {
            Source::None => true,
            Source::Builtin => loaded().is_some(),
            Source::Folder(folder) => folder.model_now().is_some(),
        }
    }

    /// The cosine below which two texts count as unrelated. As of a static table before the model was read.
    #[must_use]
    pub fn floor(&self) -> f32 {
        match &self.source {
            Source::Folder(folder) => folder.model_now().map_or(table::FLOOR, |model| model.floor()),
            Source::Builtin | Source::None => table::FLOOR,
        }
    }

    /// How much a rank by this model counts in a search beside one by words. As of a static table before the model was
    /// read.
    #[must_use]
    pub fn trust(&self) -> f64 {
        match self.is_cheap() {
            Some(false) => TRANSFORMER_TRUST,
            Some(true) | None => TABLE_TRUST,
        }
    }

    /// Which vectors this makes. Reads the model where that is needed to know it; the table in the binary is not read.
    ///
    /// # Errors
    /// Where there is none, or it cannot be read.
    pub async fn identity(&self) -> Result<Identity, EmbeddingError> {
        match &self.source {
            Source::None => Err(EmbeddingError::Off),
            Source::Builtin => Ok(IDENTITY),
            Source::Folder(folder) => Ok(folder.model().await?.identity().clone()),
        }
    }

    /// The vectors of `texts`, for somebody who waits. What takes long is done on another thread.
    ///
    /// # Errors
    /// As [`Embeddings::identity`].
    pub async fn embed(&self, texts: Vec<String>) -> Result<Vectors, EmbeddingError> {
        let made = self.embed_waiting(texts).await;
        self.is_ailing.store(matches!(made, Err(EmbeddingError::Unusable { .. })), Ordering::Relaxed);
        made
    }

    async fn embed_waiting(&self, texts: Vec<String>) -> Result<Vectors, EmbeddingError> {
        let model = self.model(READING).await?;
        if model.is_cheap() && texts.iter().map(String::len).sum::<usize>() <= INLINE_BYTES {
            return Ok(Vectors { vectors: model.embed(&texts), identity: model.identity().clone() });
        }
        embed_aside(model, texts).await
    }

    /// The vectors of `texts` for a write, which waits for no model: `None` where a text is dear, and where the model is
    /// not there within `at_most`. The caller stores without them then, and wakes who makes them later.
    pub async fn embed_at_once(&self, texts: Vec<String>, at_most: Duration) -> Option<Vectors> {
        if self.is_off() || self.is_cheap() == Some(false) {
            return None;
        }
        let model = tokio::time::timeout(at_most, self.model(at_most)).await.ok()?.ok()?;
        if !model.is_cheap() {
            return None;
        }
        if texts.iter().map(String::len).sum::<usize>() <= INLINE_BYTES {
            return Some(Vectors { vectors: model.embed(&texts), identity: model.identity().clone() });
        }
        embed_aside(model, texts).await.ok()
    }

    /// The vectors of `texts`, for nobody who waits: on a thread of its own, which ends with the process.
    ///
    /// # Errors
    /// As [`Embeddings::identity`].
    pub async fn embed_behind(&self, texts: Vec<String>) -> Result<Vectors, EmbeddingError> {
        embed_aside(self.model(READING).await?, texts).await
    }

    /// The model, read where it was not; the table in the binary is waited for `at_most` so long.
    async fn model(&self, at_most: Duration) -> Result<Model, EmbeddingError> {
        match &self.source {
            Source::None => Err(EmbeddingError::Off),
            Source::Folder(folder) => folder.model().await,
            Source::Builtin => match loaded() {
                Some(embedder) => Ok(Model::Builtin(embedder)),
                None => ready(at_most).await.map(Model::Builtin).ok_or_else(builtin_unusable),
            },
        }
    }
}

pub(super) fn builtin_unusable() -> EmbeddingError {
    EmbeddingError::Unusable {
        place: IDENTITY.name.into_owned(),
        reason: "it is not read yet, or could not be; the log says why".to_owned(),
    }
}

/// On a thread of its own: the runtime's would be waited for at its end.
async fn embed_aside(model: Model, texts: Vec<String>) -> Result<Vectors, EmbeddingError> {
    let (done, vectors) = tokio::sync::oneshot::channel();
    let identity = model.identity().clone();
    let unusable =
        |reason: String| EmbeddingError::Unusable { place: identity.name.clone().into_owned(), reason };
    std::thread::Builder::new()
        .name("tmws-embedding".to_owned())
        .spawn(move || {
            // Nobody may be waiting any more.
            let _ = done.send(model.embed(&texts));
        })
        .map_err(|error| unusable(format!("no thread to work on: {error}")))?;
    let vectors = vectors.await.map_err(|_| unusable("it panicked".to_owned()))?;
    Ok(Vectors { identity, vectors })
}
