use sha2::{Digest, Sha256};

use super::*;

#[tokio::test]
async fn what_means_the_same_lies_closer_than_what_does_not() {
    let embedder = ready(Duration::from_mins(1)).await.expect("it is in the binary");
    let query = embedder.embed("which commits were made lately?");
    let near = embedder.embed("summarise what changed in this git repository");
    let far = embedder.embed("forget a memory for good");
    assert!(similarity(&query, &near) > similarity(&query, &far));
    let itself = similarity(&query, &query);
    assert!((itself - 1.0).abs() < 1e-3, "{itself}");
}

#[tokio::test]
async fn every_text_has_a_vector() {
    let embedder = ready(Duration::from_mins(1)).await.expect("it is in the binary");
    let long = "words and more ".repeat(10_000);
    for text in ["", "   ", "🦀", "最近の変更", "\u{0}", &long] {
        let vector = embedder.embed(text);
        assert_eq!(vector.len(), embedder.identity().dimension);
        assert!(vector.iter().all(|number| number.is_finite()));
    }
}

#[test]
fn the_identity_is_that_of_the_bytes() {
    let digest = Sha256::new().chain_update(TABLE).chain_update(TOKENIZER).finalize();
    assert_eq!(crate::hex::hex(&digest), IDENTITY.hash);
}
