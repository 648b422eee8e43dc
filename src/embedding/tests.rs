use std::{fs, path::Path, sync::Arc};

use sha2::{Digest, Sha256};

use super::{pairs::PAIRS, *};

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

/// The share of `scores` that is at or above the floor.
fn above(scores: &[f32], floor: f32) -> f32 {
    scores.iter().filter(|score| **score >= floor).count() as f32 / scores.len() as f32
}

#[tokio::test]
async fn the_floor_parts_most_of_what_is_related_from_most_of_what_is_not() {
    let model = Embeddings::builtin();
    let texts = |side: fn(&(&str, &str)) -> String| PAIRS.iter().map(side).collect::<Vec<_>>();
    let questions = model.embed(texts(|pair| pair.0.to_owned())).await.unwrap().vectors;
    let memories = model.embed(texts(|pair| pair.1.to_owned())).await.unwrap().vectors;
    let (mut related, mut unrelated) = (Vec::new(), Vec::new());
    for (place, question) in questions.iter().enumerate() {
        for (other, memory) in memories.iter().enumerate() {
            let scores = if place == other { &mut related } else { &mut unrelated };
            scores.push(similarity(question, memory));
        }
    }
    let floor = model.floor();
    assert!(above(&related, floor) > 0.6, "{}", above(&related, floor));
    assert!(above(&unrelated, floor) < 0.08, "{}", above(&unrelated, floor));
}

/// A folder with the files of the table, `change`d.
fn folder(change: impl FnOnce(&Path)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in
        [("model.safetensors", TABLE), ("tokenizer.json", TOKENIZER), ("config.json", CONFIG)]
    {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    change(folder.path());
    folder
}

/// Another table: one byte of the last row is another.
fn alter(folder: &Path) {
    let mut bytes = TABLE.to_vec();
    let place = bytes.len() - 30_522 * 4 - 5;
    bytes[place] ^= 0x40;
    fs::write(folder.join("model.safetensors"), bytes).unwrap();
}

#[tokio::test]
async fn a_table_in_a_folder_makes_vectors_of_its_own_identity() {
    let folder = folder(alter);
    let model = Embeddings::folder(folder.path());
    assert_eq!(model.is_cheap(), None, "nothing is read yet");
    let made = model.embed(vec!["git history".to_owned(), String::new()]).await.unwrap();
    assert_eq!(model.is_cheap(), Some(true));
    assert_ne!(made.identity.hash, IDENTITY.hash);
    assert_eq!(made.identity.dimension, 256);
    assert!(made.identity.name.starts_with("static-256-"), "{}", made.identity.name);
    assert!((similarity(&made.vectors[0], &made.vectors[0]) - 1.0).abs() < 1e-4);
    assert!(made.vectors[1].iter().all(|number| *number == 0.0));
    let again = Embeddings::folder(folder.path()).identity().await.unwrap();
    assert_eq!(again, made.identity);
}

#[tokio::test]
async fn the_table_of_the_binary_in_a_folder_is_the_table_of_the_binary() {
    let folder = folder(|_| ());
    assert_eq!(Embeddings::folder(folder.path()).identity().await.unwrap(), IDENTITY);
}

#[tokio::test]
async fn whoever_comes_while_the_model_is_read_waits_for_the_one_reading() {
    let folder = folder(alter);
    let model = Embeddings::folder(folder.path());
    let calls = (0..8).map(|_| {
        let model = Arc::clone(&model);
        tokio::spawn(async move { model.identity().await })
    });
    let calls: Vec<_> = calls.collect();
    let mut identities = Vec::new();
    for call in calls {
        identities.push(call.await.unwrap().unwrap());
    }
    identities.dedup();
    assert_eq!(identities.len(), 1);
}

#[tokio::test]
async fn a_folder_that_holds_no_usable_model_is_an_error_that_says_why() {
    type Change = fn(&Path);
    let cases: [(&str, Change, &str); 9] = [
        (
            "no weights",
            |folder| fs::remove_file(folder.join("model.safetensors")).unwrap(),
            "has no model.safetensors",
        ),
        (
            "no tokenizer",
            |folder| fs::remove_file(folder.join("tokenizer.json")).unwrap(),
            "has no tokenizer.json",
        ),
        (
            "a folder in place of a file",
            |folder| {
                fs::remove_file(folder.join("config.json")).unwrap();
                fs::create_dir(folder.join("config.json")).unwrap();
            },
            "config.json is no file",
        ),
        (
            "half of the weights",
            |folder| fs::write(folder.join("model.safetensors"), &TABLE[..TABLE.len() / 2]).unwrap(),
            "safetensors",
        ),
        (
            "weights of zeros",
            |folder| fs::write(folder.join("model.safetensors"), vec![0; 4_096]).unwrap(),
            "safetensors",
        ),
        (
            "a tokenizer of something else",
            |folder| fs::write(folder.join("tokenizer.json"), "{}").unwrap(),
            "tokenizer",
        ),
        (
            "a huge config",
            |folder| {
                fs::File::create(folder.join("config.json")).unwrap().set_len(2 << 20).unwrap();
            },
            "larger than 1 MiB",
        ),
        (
            "huge weights",
            |folder| {
                fs::File::create(folder.join("model.safetensors")).unwrap().set_len((1 << 30) + 1).unwrap();
            },
            "larger than 1024 MiB",
        ),
        (
            "another kind",
            |folder| fs::write(folder.join("config.json"), r#"{"model_type": "llama"}"#).unwrap(),
            "\"llama\"",
        ),
    ];
    for (what, change, expected) in cases {
        let folder = folder(change);
        let error = Embeddings::folder(folder.path()).identity().await.unwrap_err();
        let EmbeddingError::Unusable { place, reason } = &error else { panic!("{what}: {error}") };
        assert!(reason.contains(expected), "{what}: {error}");
        assert_eq!(*place, folder.path().display().to_string());
    }
    let error = Embeddings::folder("/nonexistent/model").identity().await.unwrap_err();
    assert!(error.to_string().contains("there is no such folder"), "{error}");
}

#[cfg(not(feature = "minilm"))]
#[tokio::test]
async fn a_transformer_needs_a_build_with_the_feature() {
    let folder = folder(|folder| fs::write(folder.join("config.json"), r#"{"model_type": "bert"}"#).unwrap());
    let error = Embeddings::folder(folder.path()).identity().await.unwrap_err();
    assert!(error.to_string().contains("--features minilm"), "{error}");
}

#[tokio::test]
async fn a_model_that_could_not_be_read_is_read_when_its_folder_changed() {
    let folder = folder(|folder| fs::remove_file(folder.join("tokenizer.json")).unwrap());
    let model = Embeddings::folder(folder.path());
    let error = model.identity().await.unwrap_err();
    assert_eq!(model.identity().await.unwrap_err(), error);
    fs::write(folder.path().join("tokenizer.json"), TOKENIZER).unwrap();
    let reading = async {
        while model.identity().await.is_err() {
            // It is looked at again after a time by the machine's clock: there is no event.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), reading).await.expect("it is looked at again");
}

#[tokio::test]
async fn without_a_model_there_are_no_vectors_and_with_a_table_a_write_gets_them_at_once() {
    let text = || vec!["a note".to_owned()];
    assert_eq!(Embeddings::none().embed(text()).await, Err(EmbeddingError::Off));
    assert!(Embeddings::none().embed_at_once(text(), Duration::from_secs(1)).await.is_none());
    let at_once = Embeddings::builtin().embed_at_once(text(), Duration::from_mins(1)).await.unwrap();
    let behind = Embeddings::builtin().embed_behind(text()).await.unwrap();
    assert_eq!(at_once, behind);
    assert_eq!(Embeddings::builtin().embed(text()).await.unwrap(), behind);
}
