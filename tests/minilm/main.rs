//! Tests with the weights of all-MiniLM-L6-v2: `scripts/minilm cargo test --features minilm --test minilm`. Without them
//! these fail, and are never skipped; plain `cargo test` leaves them out.

mod model;
#[path = "../store/quality.rs"]
#[expect(dead_code, reason = "`tests/it` says that the set is as described")]
mod quality;
mod search_quality;
mod store;

use std::{
    path::PathBuf,
    sync::{Arc, LazyLock},
};

use tmws::embedding::Embeddings;

/// The folder of the model.
#[expect(clippy::disallowed_methods, reason = "tests are told where the weights are")]
fn folder() -> PathBuf {
    std::env::var("TMWS_TEST_MINILM")
        .expect("TMWS_TEST_MINILM names the folder of all-MiniLM-L6-v2; scripts/minilm sets it")
        .into()
}

/// The model, read once for all tests.
fn minilm() -> Arc<Embeddings> {
    static MODEL: LazyLock<Arc<Embeddings>> = LazyLock::new(|| Embeddings::folder(folder()));
    Arc::clone(&MODEL)
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
