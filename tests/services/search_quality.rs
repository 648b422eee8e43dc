//! How well search finds on PostgreSQL: the tables of `docs/search.md`.

use crate::{store::quality, store_contract::walled};

/// Least recall at 5 by words and meaning on `test`: what was measured, less some questions.
const LEAST: f64 = 0.78;

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::print_stdout, reason = "what a run with --nocapture is for")]
async fn search_finds_as_the_document_says() {
    let (_database, store) = walled().await;
    let measured = quality::measure(&*store).await;
    println!("{}\n{}", measured.tables(), measured.failures());
    measured.assert_least(LEAST);
    quality::check_document("PostgreSQL, built-in table", &measured.tables());
}
