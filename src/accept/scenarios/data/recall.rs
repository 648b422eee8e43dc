//! How much of what an exact comparison of all vectors finds a search finds, too.
//!
//! A question of which no memory holds a word is answered by vectors alone. Its own vector is in the store as well, because
//! it was remembered in another project: so what is exact is computed from what the store holds, and from nothing else.

use serde_json::json;

use super::{
    probe::{self, question, remember},
    sql::{Lite, Session},
};
use crate::accept::{load::Dice, scenario::Broken, stage::Instance};

/// Hits that are looked at.
const HITS: usize = 10;
/// A memory is in the answer where it is so near, and so near in proportion to the nearest (`docs/search.md`).
const FLOOR: f64 = 0.18;
const NEAR_SHARE: f64 = 0.5;
/// Two vectors that are so nearly as near are as near.
const SAME: f64 = 1e-4;

/// A question, and the id of the memory that has its text.
pub(super) struct Asked {
    text: String,
    id: String,
}

/// Where vectors are read from.
pub(super) enum Vectors {
    File(Vec<(String, Vec<f32>)>),
    Database(Session),
}

impl Vectors {
    /// Of a file.
    pub(super) async fn of_file(path: &std::path::Path) -> Result<Self, Broken> {
        let mut file = Lite::read(path).await?;
        let rows = file
            .blobs("SELECT m.project || ' ' || m.id, v.exact FROM memory m JOIN vector v ON v.seq = m.seq ORDER BY m.seq")
            .await?;
        file.close().await;
        let numbers = |bytes: &[u8]| {
            bytes.as_chunks::<4>().0.iter().map(|number| f32::from_le_bytes(*number)).collect()
        };
        Ok(Self::File(rows.iter().map(|(id, bytes)| (id.clone(), numbers(bytes))).collect()))
    }

    /// Memories of `alpha` with their cosine to the memory `id` of `beta`, nearest first.
    async fn nearest(&mut self, id: &str) -> Result<Vec<(String, f64)>, Broken> {
        let mut all = match self {
            Self::File(vectors) => {
                let asked = vectors.iter().find(|(name, _)| *name == format!("beta {id}"));
                let Some((_, asked)) = asked else { return Ok(Vec::new()) };
                let alpha =
                    vectors.iter().filter_map(|(name, vector)| Some((name.strip_prefix("alpha ")?, vector)));
                alpha.map(|(id, vector)| (id.to_owned(), cosine(asked, vector))).collect()
            }
            Self::Database(session) => {
                let rows = session
                    .rows(&format!(
                        "SELECT m.id, 1 - (v.embedding <=> q.embedding) AS cosine FROM tmws.memory m \
                         JOIN tmws.memory_vector v USING (seq), (SELECT v.embedding, v.model FROM tmws.memory m \
                         JOIN tmws.memory_vector v USING (seq) WHERE m.project = 'beta' AND m.id = '{id}') q \
                         WHERE m.project = 'alpha' AND v.model = q.model"
                    ))
                    .await?;
                let read =
                    |row: &serde_json::Value| Some((row["id"].as_str()?.to_owned(), row["cosine"].as_f64()?));
                rows.iter().filter_map(read).collect::<Vec<_>>()
            }
        };
        all.sort_by(|one, other| other.1.total_cmp(&one.1));
        Ok(all)
    }
}

fn cosine(one: &[f32], other: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    dot(one, other) / (dot(one, one) * dot(other, other)).sqrt().max(f64::MIN_POSITIVE)
}

/// Remembers `count` different questions in project `beta`.
pub(super) async fn questions(instance: &Instance, seed: u64, count: usize) -> Result<Vec<Asked>, Broken> {
    let mut client = probe::client(instance, "asker", "beta").await?;
    let mut dice = Dice::new(seed, 8);
    let mut asked: Vec<Asked> = Vec::with_capacity(count);
    for number in 0..count * 4 {
        let text = question(&mut dice, number);
        if asked.iter().any(|asked| asked.text == text) {
            continue;
        }
        let id = remember(&mut client, json!({"content": text})).await?;
        asked.push(Asked { text, id });
        if asked.len() == count {
            break;
        }
    }
    Ok(asked)
}

/// The mean share of the exact first ten that the server's first ten hold, and a question for which it was the least.
pub(super) async fn recall(
    instance: &Instance,
    vectors: &mut Vectors,
    asked: &[Asked],
) -> Result<(f64, String), Broken> {
    let mut client = probe::client(instance, "searcher", "alpha").await?;
    let (mut sum, mut counted, mut least) = (0.0, 0_u32, (f64::INFINITY, String::new()));
    for Asked { text, id } in asked {
        let exact = vectors.nearest(id).await?;
        let Some((_, nearest)) = exact.first() else {
            return Err(Broken::new("comparing all vectors", "a vector of each question and memory", text));
        };
        let first: Vec<f64> = exact
            .iter()
            .take(HITS)
            .map(|(_, cosine)| *cosine)
            .take_while(|cosine| *cosine >= (nearest * NEAR_SHARE).max(FLOOR))
            .collect();
        // Where fewer are near enough, the answer has what is least far, too.
        if first.len() < HITS {
            continue;
        }
        counted += 1;
        let bound = first.last().copied().unwrap_or(1.0) - SAME;
        let found = probe::well(&mut client, "probe.search", json!({"query": text, "k": HITS})).await?;
        let near = |id: &str| exact.iter().any(|(known, cosine)| known == id && *cosine >= bound);
        let ids = found["ids"].as_array().map(Vec::as_slice).unwrap_or_default();
        let right = ids.iter().take(HITS).filter_map(|id| id.as_str()).filter(|id| near(id)).count();
        let share = (right.min(first.len()) as f64) / first.len().max(1) as f64;
        sum += share;
        if share < least.0 {
            least = (share, format!("{text:?}: {right} of {}, {} answered", first.len(), ids.len()));
        }
    }
    if usize::try_from(counted).unwrap_or(0) * 3 < asked.len() {
        let seen = format!("{counted} of {}", asked.len());
        return Err(Broken::new(
            "comparing all vectors",
            "a third of the questions has ten near memories",
            seen,
        ));
    }
    Ok((sum / f64::from(counted), format!("{} ({counted} questions with {HITS} near memories)", least.1)))
}
