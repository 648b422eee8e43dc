//! How well search finds in SQLite: the tables of `docs/search.md`.

use crate::store::{contract::sqlite, quality};

/// Least recall at 5 by words and meaning on `test`: what was measured, less two questions.
const LEAST: f64 = 0.80;

#[test]
fn the_labelled_set_is_what_its_description_says() {
    quality::check_set();
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::print_stdout, reason = "what a run with --nocapture is for")]
async fn search_finds_as_the_document_says() {
    let (_folder, store) = sqlite().await;
    let measured = quality::measure(&*store).await;
    println!("{}\n{}", measured.tables(), measured.failures());
    measured.assert_least(LEAST);
    quality::check_document("SQLite, built-in table", &measured.tables());
}
