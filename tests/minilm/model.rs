//! What the model makes of texts.

use std::fs;

use tmws::embedding::{EmbeddingError, Embeddings};

use crate::{cosine, folder, minilm};

/// (text, the first numbers of its vector): computed from the same weights in another way, by `Bert` of
/// `models/minilm-static-256/make.py` and the Python tokenizer.
const REFERENCE: [(&str, [f32; 6]); 4] = [
    ("The quick brown fox jumps over the lazy dog.", [0.04393, 0.05893, 0.04818, 0.07755, 0.02674, -0.03763]),
    ("How do I start the database locally?", [0.11671, -0.0776, -0.10236, -0.00693, -0.02634, 0.02883]),
    ("Ünïcode, emoji 🦀 and 最近の変更", [0.01429, -0.01865, 0.06154, 0.03904, 0.05599, -0.0812]),
    ("a", [-0.03643, 0.0347, -0.04596, 0.03433, -0.08082, 0.03284]),
];
/// The same for a text of which only the first 256 word pieces count.
const LONG: [f32; 6] = [-0.04681, 0.01712, -0.00294, -0.05575, -0.04343, -0.00649];

fn long() -> String {
    vec!["words and more of them follow here"; 81].join(" ")
}

fn near(a: &[f32], b: &[f32]) -> bool {
    a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-3)
}

#[tokio::test]
async fn vectors_are_those_of_the_original_alone_and_in_a_batch() {
    let expected: Vec<(String, [f32; 6])> = REFERENCE
        .iter()
        .map(|(text, vector)| ((*text).to_owned(), *vector))
        .chain([(long(), LONG)])
        .collect();
    let texts: Vec<String> = expected.iter().map(|(text, _)| text.clone()).collect();
    // Lengths of 3 to 256 pieces, so that most are padded.
    let batch = minilm().embed(texts.clone()).await.unwrap();
    assert_eq!((&*batch.identity.name, batch.identity.dimension), ("all-MiniLM-L6-v2", 384));
    for (place, (text, numbers)) in expected.iter().enumerate() {
        let vector = &batch.vectors[place];
        assert!(near(vector, numbers), "{text}: {:?}", &vector[..6]);
        assert!((cosine(vector, vector) - 1.0).abs() < 1e-4, "{text}");
        let alone = minilm().embed(vec![text.clone()]).await.unwrap().vectors.remove(0);
        assert!(alone.iter().zip(vector).all(|(a, b)| (a - b).abs() < 1e-5), "{text}");
    }
}

#[tokio::test]
async fn a_text_without_a_word_has_a_vector_of_zeros() {
    let texts = ["", "   ", "\n\t"].map(str::to_owned).to_vec();
    let vectors = minilm().embed(texts).await.unwrap().vectors;
    assert!(vectors.iter().all(|vector| vector.len() == 384 && vector.iter().all(|number| *number == 0.0)));
}

#[tokio::test]
async fn what_is_related_lies_above_the_floor_and_what_is_not_below() {
    let texts = [
        "how do we deploy?",
        "Pushing a tag triggers the pipeline that ships to production.",
        "The puppy gets dry food twice a day.",
        "what does the dog eat?",
    ];
    let vectors = minilm().embed(texts.map(str::to_owned).to_vec()).await.unwrap().vectors;
    let floor = minilm().floor();
    for (related, unrelated) in [((0, 1), (0, 2)), ((3, 2), (3, 1))] {
        let related = cosine(&vectors[related.0], &vectors[related.1]);
        let unrelated = cosine(&vectors[unrelated.0], &vectors[unrelated.1]);
        assert!(related > floor && floor > unrelated, "{related} {floor} {unrelated}");
    }
}

#[tokio::test]
async fn a_text_is_dear_and_a_write_does_not_wait_for_it() {
    let model = minilm();
    model.identity().await.unwrap();
    assert_eq!(model.is_cheap(), Some(false));
    let texts = vec!["something to note".to_owned()];
    assert!(model.embed_at_once(texts, std::time::Duration::from_secs(1)).await.is_none());
}

#[tokio::test]
async fn weights_that_are_damaged_are_an_error_that_says_which_file() {
    let copy = tempfile::tempdir().unwrap();
    for name in ["config.json", "tokenizer.json"] {
        fs::copy(folder().join(name), copy.path().join(name)).unwrap();
    }
    let mut weights = fs::read(folder().join("model.safetensors")).unwrap();
    weights.truncate(weights.len() / 2);
    fs::write(copy.path().join("model.safetensors"), weights).unwrap();
    let error = Embeddings::folder(copy.path()).identity().await.unwrap_err();
    assert!(
        matches!(&error, EmbeddingError::Unusable { reason, .. } if reason.contains("model.safetensors")),
        "{error}"
    );
}
