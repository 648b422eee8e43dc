//! A model in a folder of the user's: read once, on a thread of its own, when it is first needed. One that cannot be read
//! is looked at again when its files changed.

use std::{
    fs::File,
    io::{self, Read as _},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant, SystemTime},
};

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use super::{
    EmbeddingError, IDENTITY, Identity,
    model::builtin_unusable,
    table::{self, Table},
};
use crate::hex::hex;

const WEIGHTS: &str = "model.safetensors";
const TOKENIZER: &str = "tokenizer.json";
const CONFIG: &str = "config.json";
/// Largest sizes of the files, in bytes.
const WEIGHTS_BYTES_MAX: u64 = 1 << 30;
const TOKENIZER_BYTES_MAX: u64 = 64 << 20;
const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// Most numbers of a vector.
const DIMENSION_MAX: usize = 4_096;
/// Between two looks at the files of a model that could not be read.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What makes vectors. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) enum Model {
    /// The table in the binary.
    Builtin(&'static super::Embedder),
    /// Another.
    Read(Arc<Loaded>),
}

/// A model that was read from a folder.
#[derive(Debug)]
pub(super) struct Loaded {
    identity: Identity,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Static(Table),
    #[cfg(feature = "minilm")]
    Transformer(super::bert::Transformer),
}

impl Model {
    pub(super) fn identity(&self) -> &Identity {
        match self {
            Self::Builtin(_) => &IDENTITY,
            Self::Read(loaded) => &loaded.identity,
        }
    }

    /// Whether a text costs microseconds.
    #[cfg_attr(
        not(feature = "minilm"),
        expect(clippy::unused_self, reason = "tables are the only kind of this build")
    )]
    pub(super) fn is_cheap(&self) -> bool {
        #[cfg(feature = "minilm")]
        if let Self::Read(loaded) = self {
            return matches!(loaded.kind, Kind::Static(_));
        }
        true
    }

    /// The cosine below which two texts count as unrelated.
    #[cfg_attr(
        not(feature = "minilm"),
        expect(clippy::unused_self, reason = "tables are the only kind of this build")
    )]
    pub(super) fn floor(&self) -> f32 {
        #[cfg(feature = "minilm")]
        if !self.is_cheap() {
            return super::bert::FLOOR;
        }
        table::FLOOR
    }

    /// One vector a text: of length 1, or all zeros.
    pub(super) fn embed(&self, texts: &[String]) -> Vec<Vec<f32>> {
        match self {
            Self::Builtin(embedder) => texts.iter().map(|text| embedder.embed(text)).collect(),
            Self::Read(loaded) => match &loaded.kind {
                Kind::Static(table) => texts.iter().map(|text| unit(table.embed(text))).collect(),
                #[cfg(feature = "minilm")]
                Kind::Transformer(transformer) => transformer.embed(texts).into_iter().map(unit).collect(),
            },
        }
    }
}

/// The same direction at length 1; zeros where there is none.
fn unit(mut vector: Vec<f32>) -> Vec<f32> {
    let length = vector.iter().map(|number| f64::from(*number) * f64::from(*number)).sum::<f64>().sqrt();
    let factor = if length.is_finite() && length > 1e-12 { (1.0 / length) as f32 } else { 0.0 };
    for number in &mut vector {
        *number = if factor > 0.0 { *number * factor } else { 0.0 };
    }
    vector
}

type Outcome = Result<Model, EmbeddingError>;

/// What the files look like from outside: (length, time of change), where they are there.
type Looks = [Option<(u64, Option<SystemTime>)>; 3];

enum Slot {
    Unread,
    Reading(watch::Receiver<Option<Outcome>>),
    Failed { error: EmbeddingError, looks: Looks, since: Instant },
    Read(Model),
}

/// A folder and what was read from it.
pub(super) struct Folder {
    path: PathBuf,
    slot: Mutex<Slot>,
}

impl std::fmt::Debug for Folder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Folder").field(&self.path).finish()
    }
}

impl Folder {
    pub(super) fn new(path: PathBuf) -> Arc<Self> {
        Arc::new(Self { path, slot: Mutex::new(Slot::Unread) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The model, if it has been read.
    pub(super) fn model_now(&self) -> Option<Model> {
        match &*self.slot() {
            Slot::Read(model) => Some(model.clone()),
            Slot::Unread | Slot::Reading(_) | Slot::Failed { .. } => None,
        }
    }

    /// The model, read where it was not. Whoever comes while it is being read waits for the one reading.
    pub(super) async fn model(self: &Arc<Self>) -> Outcome {
        let mut reading = match self.begin() {
            Ok(outcome) => return outcome,
            Err(reading) => reading,
        };
        let outcome = reading.wait_for(Option::is_some).await;
        match outcome.ok().and_then(|outcome| outcome.clone()) {
            Some(outcome) => outcome,
            None => Err(self.unusable("reading it panicked".to_owned())),
        }
    }

    /// What is known, or the reading that is under way.
    fn begin(self: &Arc<Self>) -> Result<Outcome, watch::Receiver<Option<Outcome>>> {
        let mut slot = self.slot();
        let before = match &*slot {
            Slot::Read(model) => return Ok(Ok(model.clone())),
            Slot::Reading(reading) if reading.has_changed().is_ok() => return Err(reading.clone()),
            Slot::Failed { error, since, .. } if since.elapsed() < LOOK_EVERY => {
                return Ok(Err(error.clone()));
            }
            Slot::Failed { error, looks, .. } => Some((error.clone(), *looks)),
            Slot::Unread | Slot::Reading(_) => None,
        };
        let (done, reading) = watch::channel(None);
        let folder = Arc::clone(self);
        let spawned = thread::Builder::new().name("tmws-embedding".to_owned()).spawn(move || {
            let outcome = folder.look(before);
            done.send_replace(Some(outcome));
        });
        if let Err(error) = spawned {
            return Ok(Err(self.unusable(format!("no thread to read it: {error}"))));
        }
        *slot = Slot::Reading(reading.clone());
        Err(reading)
    }

    /// Reads it, unless it failed before and looks the same.
    fn look(&self, before: Option<(EmbeddingError, Looks)>) -> Outcome {
        let looks = looks(&self.path);
        let outcome = match before {
            Some((error, seen)) if seen == looks => Err(error),
            _ => {
                let outcome = catch_unwind(AssertUnwindSafe(|| read(&self.path)))
                    .unwrap_or_else(|_| Err("reading it panicked".to_owned()))
                    .map_err(|reason| self.unusable(reason));
                match &outcome {
                    Ok(model) => {
                        tracing::info!(model = %model.identity().name, "the embedding model was read");
                    }
                    Err(error) => tracing::warn!(%error, "memories are found by words alone"),
                }
                outcome
            }
        };
        *self.slot() = match &outcome {
            Ok(model) => Slot::Read(model.clone()),
            Err(error) => Slot::Failed { error: error.clone(), looks, since: Instant::now() },
        };
        outcome
    }

    fn unusable(&self, reason: String) -> EmbeddingError {
        EmbeddingError::Unusable { place: self.path.display().to_string(), reason }
    }
}

fn looks(folder: &Path) -> Looks {
    [WEIGHTS, TOKENIZER, CONFIG].map(|name| {
        let metadata = folder.join(name).metadata().ok()?;
        Some((metadata.len(), metadata.modified().ok()))
    })
}

/// One file of the folder, in memory.
fn bytes(folder: &Path, name: &str, at_most: u64) -> Result<Vec<u8>, String> {
    let path = folder.join(name);
    let told = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => {
            format!("it has no {name}; name a folder with {WEIGHTS}, {TOKENIZER} and {CONFIG}")
        }
        _ => format!("{name} cannot be read: {error}"),
    };
    // Looked at before it is opened: opening a pipe would wait for its writer.
    let metadata = path.metadata().map_err(told)?;
    if !metadata.is_file() {
        return Err(format!("{name} is no file"));
    }
    let mut bytes = Vec::new();
    if metadata.len() <= at_most {
        bytes.reserve_exact(metadata.len() as usize);
        File::open(&path).and_then(|file| file.take(at_most + 1).read_to_end(&mut bytes)).map_err(told)?;
    }
    if metadata.len() > at_most || bytes.len() as u64 > at_most {
        return Err(format!("{name} is larger than {} MiB", at_most >> 20));
    }
    Ok(bytes)
}

fn read(folder: &Path) -> Result<Model, String> {
    if !folder.is_dir() {
        return Err("there is no such folder".to_owned());
    }
    let config = bytes(folder, CONFIG, CONFIG_BYTES_MAX)?;
    let settings: Value =
        serde_json::from_slice(&config).map_err(|error| format!("{CONFIG} is no JSON: {error}"))?;
    let kind = settings.get("model_type").and_then(Value::as_str);
    let is_transformer = match kind {
        None | Some("model2vec") => false,
        Some("bert") if cfg!(feature = "minilm") => true,
        Some("bert") => {
            return Err("it is a transformer, and this build reads static tables alone; \
                 build tmws with `--features minilm`"
                .to_owned());
        }
        Some(other) => {
            let other: String = other.chars().take(40).collect();
            return Err(format!(
                "its {CONFIG} says model_type {other:?}; static tables (model2vec) and \"bert\" are known"
            ));
        }
    };
    let tokenizer = bytes(folder, TOKENIZER, TOKENIZER_BYTES_MAX)?;
    let weights = bytes(folder, WEIGHTS, WEIGHTS_BYTES_MAX)?;
    let hash = hex(&Sha256::new().chain_update(&weights).chain_update(&tokenizer).finalize());
    if hash == IDENTITY.hash {
        // The same table is in the binary, where it is read once for all.
        return super::read_now().map(Model::Builtin).ok_or_else(|| builtin_unusable().to_string());
    }
    let kind = if is_transformer {
        #[cfg(feature = "minilm")]
        {
            Kind::Transformer(super::bert::Transformer::read(&config, weights, &tokenizer)?)
        }
        #[cfg(not(feature = "minilm"))]
        unreachable!("refused above")
    } else {
        Kind::Static(Table::read(&tokenizer, &weights, &config)?)
    };
    let (dimension, word) = match &kind {
        Kind::Static(table) => (table.dimension(), "static"),
        #[cfg(feature = "minilm")]
        Kind::Transformer(transformer) => (transformer.dimension(), "bert"),
    };
    if dimension == 0 || dimension > DIMENSION_MAX {
        return Err(format!("its vectors have {dimension} numbers; 1 to {DIMENSION_MAX} are possible"));
    }
    let name = name(&hash).map_or_else(|| format!("{word}-{dimension}-{}", &hash[..8]), str::to_owned);
    let identity = Identity { name: name.into(), dimension, hash: hash.into() };
    let model = Model::Read(Arc::new(Loaded { identity, kind }));
    // What is broken inside shows here rather than in the first search.
    if model.embed(&["a word".to_owned()]).iter().any(|vector| vector.len() != dimension) {
        return Err("it makes no vectors of its own dimension".to_owned());
    }
    Ok(model)
}

/// Models that are known by their bytes, so that their name says what they are.
const NAMES: [(&str, &str); 1] =
    [("99f704468154fc61a4b879c37b806316fc7f644d4b641a39c4fabdd1693f0357", "all-MiniLM-L6-v2")];

fn name(hash: &str) -> Option<&'static str> {
    NAMES.iter().find(|(known, _)| *known == hash).map(|(_, name)| *name)
}
