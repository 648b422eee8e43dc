//! How well search finds with the full model: the tables of `docs/search.md`.

use tmws::store::{SqliteOptions, SqliteStore};

use crate::{minilm, quality};

/// Least recall at 5 by words and meaning on `test`: what was measured, less two questions.
const LEAST: f64 = 0.91;

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::print_stdout, reason = "what a run with --nocapture is for")]
async fn search_finds_as_the_document_says() {
    let folder = tempfile::tempdir().unwrap();
    let options = SqliteOptions { embeddings: minilm(), ..SqliteOptions::new(folder.path().join("tmws.db")) };
    let store = SqliteStore::open(options).await.unwrap();
    let measured = quality::measure(&store).await;
    println!("{}\n{}", measured.tables(), measured.failures());
    measured.assert_least(LEAST);
    quality::check_document("SQLite, all-MiniLM-L6-v2", &measured.tables());
}
